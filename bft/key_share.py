"""What a signer keeps of its group: its secret share and the group's public part, as one secret statement."""

import msgspec

from bft import statement
from bft.frost import FrostError, KeyShare
from bft.secret import Secret
from bft.statement import StatementError
from bft.threshold import ThresholdPublic

TAG = "bft.key-share"
FORMAT = 1


def encode(share: KeyShare, public: ThresholdPublic) -> Secret:
    """The bytes to keep; whoever has them can sign as this signer."""
    fields = msgspec.structs.astuple(public)
    return Secret(statement.encode(TAG, FORMAT, share.identifier, share.secret.reveal(), *fields))


def decode(kept: Secret) -> tuple[KeyShare, ThresholdPublic]:
    """What `encode` was given. Raises FrostError when the bytes are something else."""
    try:
        identifier, secret, *fields = statement.decode(kept.reveal(), TAG, FORMAT)
        public = msgspec.convert(fields, ThresholdPublic, builtin_types=(bytes,))
        return KeyShare(
            msgspec.convert(identifier, int), Secret(msgspec.convert(secret, bytes, builtin_types=(bytes,)))
        ), public
    except (StatementError, ValueError, msgspec.ValidationError):
        raise FrostError("not a key share of this format") from None

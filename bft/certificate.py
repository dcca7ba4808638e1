"""What the ring signs after a batch: one Ed25519 signature that anyone can check with the ring's key (design.md, 5).

The signed bytes are the statement `bft.certificate` format 1: ring id, epoch, sequence number, agreed time in
microseconds, batch digest, root of the batch's answers (RFC 9162 tree) and root of the state tree after the batch.
"""

from typing import Annotated

import msgspec

from bft import statement
from bft.signatures import Verifier
from bft.statement import Digest, StatementError
from bft.types import WireEpoch, WireSequence, WireTime

TAG = "bft.certificate"
FORMAT = 1


class CertificateError(ValueError):
    """A certificate that does not hold; the message says what is wrong with it."""


class Claim(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a certificate states about one batch."""

    ring_id: Digest
    epoch: WireEpoch
    sequence: WireSequence
    time: WireTime
    batch: Digest
    answers_root: Digest
    state_root: Digest

    def encode(self) -> bytes:
        """The bytes that the ring signs."""
        return statement.encode(TAG, FORMAT, *msgspec.structs.astuple(self))


class Certificate(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A signed claim: the statement's bytes as signed, and the ring's Ed25519 signature (64 bytes) over them."""

    statement: Annotated[bytes, msgspec.Meta(max_length=1024)]
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]

    def claim(self) -> Claim:
        """The claim, not yet verified. Raises CertificateError when the statement is malformed."""
        try:
            return msgspec.convert(statement.decode(self.statement, TAG, FORMAT), Claim, builtin_types=(bytes,))
        except (StatementError, msgspec.ValidationError) as error:
            raise CertificateError(f"malformed certificate: {error}") from None

    def verify(self, verifier: Verifier, ring_key: bytes) -> Claim:
        """The claim, once the signature holds under `ring_key` (32 bytes). Raises CertificateError otherwise."""
        claim = self.claim()
        if not verifier.verify(ring_key, self.statement, self.signature):
            raise CertificateError(f"certificate of batch {claim.sequence} is not signed by the ring's key")
        return claim

"""What an object is in the ring's state: its record, the root of each version, and the outcome of each update.

The state tree holds one `ObjectRecord` per object, so a certificate commits to it. The record names the newest version
by VGUID and all outcomes by their mountain range; a version root names its content, its predecessor, and the outcomes
before the one that made it. So one proved record proves an object's whole history.
"""

from enum import Enum, IntEnum
from typing import Annotated

import msgspec

from bft.merkle import MountainRange
from bft.signatures import PublicKey
from bft.statement import Digest
from bft.types import Natural
from pond.model.block import BlockSize
from pond.model.encryption import OVERHEAD_BYTES, KeyEpoch, Salt
from pond.model.stored import Codec, Stored
from pond.model.tree import EMPTY, TreeRoot, check_root
from tapestry.guid import GUID

MAX_METADATA_BYTES = 64 * 1024
"""Ciphertext of an object's metadata at most."""

VersionNumber = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
"""Versions of an object are counted from 1; no number is ever reused."""


class VersionError(ValueError):
    """Bytes that are not the version root, record or outcome that was expected."""


class Metadata(Stored, frozen=True, kw_only=True, tag="pond.metadata"):
    """What the owner keeps beside the content, encrypted as a block is. Its digest stands for it in predicates."""

    epoch: KeyEpoch
    salt: Salt
    counter: Natural
    ciphertext: Annotated[bytes, msgspec.Meta(min_length=OVERHEAD_BYTES, max_length=MAX_METADATA_BYTES)]


class History(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Outcomes of an object up to some point: how many, and the root of their mountain range."""

    count: Natural
    root: Digest


class VersionRoot(Stored, frozen=True, kw_only=True, tag="pond.version"):
    """One version of an object; its digest is the VGUID."""

    aguid: GUID
    number: VersionNumber
    block_size: BlockSize
    content: TreeRoot
    previous: GUID | None
    """VGUID of version number - 1."""
    update: Digest
    """Digest of the request statement that made this version."""
    time: Natural
    """Agreed time in microseconds; never before the previous version's."""
    acl_version: Natural
    metadata: Metadata | None
    history: History
    """The outcomes before the one that made this version."""
    deleted: bool
    """A tombstone: the object is gone, its history stays, and a later write makes the next number."""

    def __post_init__(self) -> None:
        check_root(self.content)
        if (self.number == 1) != (self.previous is None):
            raise ValueError("every version but the first has a previous one")
        if self.deleted and (self.content != EMPTY or self.metadata is not None):
            raise ValueError("a deleted version has no content or metadata")


class ObjectRecord(Stored, frozen=True, kw_only=True, tag="pond.object"):
    """Value of an object in the state tree, under `state_key(Kind.OBJECT, aguid)`."""

    owner: PublicKey
    number: VersionNumber
    vguid: GUID
    deleted: bool
    block_size: BlockSize
    history: MountainRange
    """All outcomes so far."""

    def __post_init__(self) -> None:
        if not self.history.valid() or self.history.count < self.number:
            raise ValueError("the mountain range of an object's history does not fit")


class Status(IntEnum):
    """What became of an update. Only COMMITTED changed the object."""

    COMMITTED = 0
    ABORTED = 1
    """Judged against the object's state and found not to hold; in the object's history if there is an object."""
    REFUSED = 2
    """Not the writer's to do; in no history, or else anybody could make somebody's history grow."""


class Reason(Enum):
    """Why an update did not commit."""

    NO_CLAUSE_HOLDS = "no-clause-holds"
    OUT_OF_RANGE = "out-of-range"
    """An action names blocks or bytes beyond the content."""
    BLOCK_TOO_LONG = "block-too-long"
    """A block is longer than the object's block size."""
    BLOCK_TOO_SHORT = "block-too-short"
    """A block's ciphertext is shorter than the length in use says."""
    TOO_LARGE = "too-large"
    """The object would have more blocks than an object may have."""
    NOTHING_TO_DELETE = "nothing-to-delete"
    NOT_OWNER = "not-owner"
    NO_SUCH_OBJECT = "no-such-object"
    """There is none, and the update does not found it for its own principal."""


class Outcome(Stored, frozen=True, kw_only=True, tag="pond.outcome"):
    """What became of one update. Committed and aborted ones are the leaves of the object's history.

    `number`, `vguid` and `size_bytes` tell the newest version afterwards, whether this update made it or not; a refusal
    tells nothing of the object, and before the first version they are 0, None and 0.
    """

    aguid: GUID
    index: Natural | None
    """Place in the object's history, or None when it is not logged."""
    update: Digest
    """Digest of the request statement."""
    writer: PublicKey
    status: Status
    clause: Natural | None
    """The clause whose predicates held."""
    reason: Reason | None
    number: Natural
    vguid: GUID | None
    size_bytes: Natural
    time: Natural
    """Agreed time in microseconds."""

    def __post_init__(self) -> None:
        committed = self.status == Status.COMMITTED
        if committed != (self.reason is None) or (self.number == 0) != (self.vguid is None):
            raise ValueError("an outcome that contradicts itself")
        if committed and (self.index is None or self.clause is None or self.vguid is None):
            raise ValueError("a committed outcome without its place, clause or version")
        if self.status == Status.REFUSED and (self.index is not None or self.clause is not None or self.number):
            raise ValueError("a refusal that tells of the object")
        if self.status == Status.ABORTED and (self.index is None) != (self.number == 0):
            raise ValueError("an abort is logged exactly when there is an object")


decode_version_root = Codec(VersionRoot, "a version root", VersionError).decode
decode_record = Codec(ObjectRecord, "the record of an object", VersionError).decode
decode_outcome = Codec(Outcome, "an outcome", VersionError).decode

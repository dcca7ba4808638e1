"""Messages on the client port: what a client may ask a server, and what a server answers. Storage servers answer
what is asked of the overlay alone.

Each is a msgspec array struct (MessagePack) with an integer tag first. `ask` is the client's number for its question
and comes back in the answer. A server trusts nothing here but signatures; a client trusts nothing but the ring's key.
"""

from enum import StrEnum
from typing import Annotated

import msgspec

from bft.answer import BatchPath, SessionPath
from bft.certificate import Certificate
from bft.messages import Request
from bft.state_tree import StateProof
from bft.types import Natural
from tapestry.guid import GUID
from tapestry.messages import MAX_CONTACTS
from tapestry.statement import digest, encode

MAX_MESSAGE_BYTES = 24 * 1024 * 1024
"""Size of the largest message on either port; a frame above it is dropped by the transport."""

MAX_ANSWER_BYTES = 8 * 1024 * 1024
"""About how many bytes of blocks or history one answer carries; the client asks again for the rest."""

MAX_NAMED = 4096
"""How many blocks or outcomes one question may name."""

MAX_KEPT = 1024
"""How many blocks one question may ask to be kept: what that makes a server write is bounded by it."""

Named = Annotated[list[GUID], msgspec.Meta(min_length=1, max_length=MAX_NAMED)]


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    ask: Natural


# --- what a reader selects ---------------------------------------------------------------------------------------


class Latest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=0):
    """The newest version."""


class ByNumber(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """The version with this number, counted from 1."""

    number: Natural


class ByVguid(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=2):
    """The version with this VGUID."""

    vguid: GUID


class AtTime(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=3):
    """The newest version made at or before this agreed time (microseconds)."""

    time: Natural


Selector = Latest | ByNumber | ByVguid | AtTime


# --- questions ---------------------------------------------------------------------------------------------------


class Submit(_Message, frozen=True, tag=1):
    """Order this signed request; answered by Answered once it has run (also when it had run before)."""

    request: Request


class PutBlocks(_Message, frozen=True, tag=2):
    """Hold these blocks of ciphertext for an update that will name them; answered by BlocksHeld."""

    blocks: Annotated[list[bytes], msgspec.Meta(min_length=1, max_length=MAX_NAMED)]


class GetBlocks(_Message, frozen=True, tag=3):
    """Blocks or tree nodes by GUID; answered by Blocks, in order, cut short when they grow too many bytes."""

    guids: Named


class ReadObject(_Message, frozen=True, tag=4):
    """One version of an object, proved. With `linearizable`, answered only from a state that covers all that this
    server has sent COMMIT for (design.md, 8)."""

    aguid: GUID
    selector: Selector
    linearizable: bool


class ReadHistory(_Message, frozen=True, tag=5):
    """Outcomes `first` to `first + count - 1` of an object with the roots of the versions they made."""

    aguid: GUID
    first: Natural
    count: Annotated[int, msgspec.Meta(ge=0, le=MAX_NAMED)]


class GetStatus(_Message, frozen=True, tag=6):
    """How the server is; answered by ServerStatus."""


class KeepBlocks(_Message, frozen=True, tag=7):
    """Which of these blocks are here, and go on being here for a while; answered by BlocksKept."""

    guids: Annotated[list[GUID], msgspec.Meta(min_length=1, max_length=MAX_KEPT)]


class GetOverlay(_Message, frozen=True, tag=8):
    """How the server's node of the overlay is; answered by OverlayStatus."""


class GetNeighbours(_Message, frozen=True, tag=9):
    """Which nodes it knows; answered by OverlayNeighbours."""


class FindRoot(_Message, frozen=True, tag=10):
    """Which node is the root of this key? Answered by RootFound."""

    key: GUID


class PublishTest(_Message, frozen=True, tag=11):
    """Say that this server holds the test object with this label (`guid_of_test`), or that it does so no longer;
    answered by Published."""

    label: GUID
    held: bool


class LocateObject(_Message, frozen=True, tag=12):
    """Find a server that holds this object, other than those in `passed_over`, which did not give it; answered by
    ObjectLocated. The holder itself names itself at once."""

    object: GUID
    passed_over: Annotated[tuple[GUID, ...], msgspec.Meta(max_length=MAX_CONTACTS)] = ()


class FindNextHop(_Message, frozen=True, tag=14):
    """Where would this server's node forward a cargo for this key? Answered by NextHopFound. Who asks each hop for the
    next one routes iteratively."""

    key: GUID


RingQuestion = Submit | PutBlocks | GetBlocks | ReadObject | ReadHistory | GetStatus | KeepBlocks
OverlayQuestion = GetOverlay | GetNeighbours | FindRoot | PublishTest | LocateObject | FindNextHop
Question = RingQuestion | OverlayQuestion


def guid_of_test(label: bytes) -> bytes:
    """The GUID of a test object, from 32 bytes that its name is hashed to: whatever a client asks for, no server says
    that it holds anything else."""
    return digest(encode("pond.test-object", 1, label))


# --- answers -----------------------------------------------------------------------------------------------------


class Answered(_Message, frozen=True, tag=64):
    """What became of a request: `bft.answer` bytes and their proof. Without certificate and place it is one server's
    word, of which f+1 equal ones count."""

    answer: bytes
    certificate: Certificate | None
    place: BatchPath | SessionPath | None


class BlocksHeld(_Message, frozen=True, tag=65):
    """The blocks of a PutBlocks are on this server's disk."""


class Blocks(_Message, frozen=True, tag=66):
    """Blocks or tree nodes in the order asked; None where this server lacks one; may stop early."""

    blocks: list[bytes | None]


class OutcomeEvidence(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An outcome of the object's history (`pond.outcome` bytes) and its path in the record's mountain range."""

    outcome: bytes
    path: Annotated[list[GUID], msgspec.Meta(max_length=128)]


class VersionEvidence(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A version root (`pond.version` bytes), the outcome that made it, and the outcome of the next version, which
    bounds its time (None when the version is the newest)."""

    root: bytes
    made_by: OutcomeEvidence
    followed_by: OutcomeEvidence | None


class ObjectRead(_Message, frozen=True, tag=67):
    """State of an object under a certificate (`proof` holds its record, or proves that there is none), and the version
    selected: None when the selector matches none; for AtTime before the first version, that first version."""

    certificate: Certificate
    proof: StateProof
    version: VersionEvidence | None


class History(_Message, frozen=True, tag=68):
    """Outcomes with the version root each committed one made (None for an abort), and the object's proved record."""

    certificate: Certificate
    proof: StateProof
    outcomes: list[tuple[bytes, bytes | None]]


class Condition(StrEnum):
    """How a server is, in a word or two."""

    SERVING = "serving"
    CHANGING_VIEW = "changing view"
    CATCHING_UP = "catching up"
    TRANSFERRING = "transferring"
    LEARNING = "learning"
    DISK_FULL = "disk full"
    DISK_FAILING = "disk failing"
    DISK_DAMAGED = "disk damaged"
    DIVERGED = "diverged"


class ServerStatus(_Message, frozen=True, tag=69):
    """One server's own view of how it is; unproved."""

    replica: Natural
    view: Natural
    primary: Natural
    sequence: Natural
    certified: Natural
    stable: Natural
    time: Natural
    state_root: GUID
    objects: Natural
    waiting: Natural
    disk_bytes: Natural
    phases: dict[str, float]
    """Mean seconds of the phases of a write, by name, over this server's recent writes."""
    condition: str
    """One of Condition, or what a later release adds to it."""
    detail: str
    """What the condition comes from, and what to do, in a sentence; empty while it serves."""
    free_bytes: Natural
    """How much more its disk takes, within its quota."""
    view_active: bool
    """Whether it takes part in its view: not between views, nor while it stands aside."""
    upload_bytes: Natural | None = None
    """How much one client more could bring now ahead of an update: what travels inside it needs no such room."""


class Overloaded(_Message, frozen=True, tag=70):
    """The server's queue is full: ask again after this many milliseconds."""

    retry_after_ms: Natural


class Refused(_Message, frozen=True, tag=71):
    """The question cannot be answered; asking the same again does not help."""

    reason: str


class BlocksKept(_Message, frozen=True, tag=72):
    """Whether each block of a KeepBlocks is on this server's disk, in the order asked, and stays there for an hour and
    a half or until an update names it."""

    held: Annotated[list[bool], msgspec.Meta(max_length=MAX_KEPT)]


class OverlayStatus(_Message, frozen=True, tag=73):
    """How a node of the overlay is, by its own word."""

    guid: GUID
    joined: bool
    join_ms: float
    """How long it took to join, or how long it has tried."""
    neighbours: Natural
    pointers: Natural
    """Of all objects and servers, that it keeps for those who search."""
    objects: Natural
    """That it has published."""


class Neighbour(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A node that another one knows."""

    guid: GUID
    leaf: bool
    """Whether it is in the leaf set."""
    row: Natural | None
    """The row of the routing table that it is in."""
    rtt_ms: float | None
    """Its smoothed round trip; None while there was none."""
    suspect: bool
    """Whether it left the last question without an answer."""


class OverlayNeighbours(_Message, frozen=True, tag=74):
    """The nodes that a node of the overlay knows."""

    status: OverlayStatus
    neighbours: list[Neighbour]


class RootFound(_Message, frozen=True, tag=75):
    """The root of a key, as one server found it; unproved."""

    root: GUID
    hops: Natural
    ms: float


class Published(_Message, frozen=True, tag=76):
    """The pointers of a test object are on their way."""

    object: GUID


class ObjectLocated(_Message, frozen=True, tag=77):
    """Who says that it holds an object; None when no root of it knows anybody."""

    holder: GUID | None
    hops: Natural
    ms: float


class NextHopFound(_Message, frozen=True, tag=79):
    """The next node on the way to the root of a key; None: this one takes itself for the root."""

    node: GUID | None


RingReply = Answered | BlocksHeld | Blocks | ObjectRead | History | ServerStatus | Overloaded | Refused | BlocksKept
OverlayReply = OverlayStatus | OverlayNeighbours | RootFound | Published | ObjectLocated | NextHopFound
Reply = RingReply | OverlayReply

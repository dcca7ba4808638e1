"""What replicas say to each other (TOCS 2002, sections 4.1 to 4.6), typed and bounded; docs/protocol.md lists them.

MessagePack arrays with an integer tag first. The sender is whoever authenticated the link, never a field. Every
message names the membership's epoch and the view it belongs to where the protocol's rule depends on it.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

from bft import statement
from bft.answer import SessionId
from bft.request_signatures import RequestSignature
from bft.signatures import PublicKey, Signature
from bft.state_tree import Chunk, Prefix
from bft.statement import Digest
from bft.threshold import NonceCommitment
from bft.types import Natural, WireEpoch, WireReplicaId, WireSequence, WireTime, WireView

MAX_REQUEST_BYTES = 16 * 1024 * 1024
"""Size of the largest request, its bodies counted: a proposal of it alone still fits a message of 24 MiB."""

MAX_BATCH = 1024
"""Requests in one batch at most."""

MAX_BODIES = 4096

MAX_WINDOW = 1024
"""Numbers between the watermarks at most, whatever the tuning: bounds what a VIEW-CHANGE may list."""

MAX_ACCEPTED = 8
"""Batches remembered as accepted at one number, in different views (Q entries). TOCS 2002 keeps all of them; here the
one of the lowest view goes first, which at worst costs another view change (docs/divergence.md)."""

MAX_REPLICAS = 128

MAX_PREFIXES = 64
"""Subtrees that one FETCH-STATE may ask for."""

MAX_SPANS = 256
MAX_SPAN = 256
"""Spans that one FETCH-PARTS may ask for, and entries of one span."""

MAX_PART_BYTES = 8 * 1024 * 1024
"""Length of the largest entry of a service's table."""

REQUEST_TAG = "bft.request"
REQUEST_FORMAT = 1


class RequestError(ValueError):
    """A request whose statement is malformed."""


_Number = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]


class RequestStatement(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a client signs: who asks, in which session, as which number of it, until when, and for what."""

    ring_id: Digest
    principal: PublicKey
    session: SessionId
    number: _Number
    not_after: Natural
    operation: bytes

    def encode(self) -> bytes:
        """The bytes that are signed."""
        return statement.encode(REQUEST_TAG, REQUEST_FORMAT, *msgspec.structs.astuple(self))


class Request(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A signed request and, beside it and outside the signature, small bodies that its operation names by digest."""

    statement: Annotated[bytes, msgspec.Meta(max_length=MAX_REQUEST_BYTES)]
    signature: RequestSignature
    bodies: Annotated[list[bytes], msgspec.Meta(max_length=MAX_BODIES)]

    @property
    def size_bytes(self) -> int:
        """Statement and bodies."""
        return len(self.statement) + sum(map(len, self.bodies))

    def parse(self) -> RequestStatement:
        """The statement, not yet verified. Raises RequestError when it is malformed."""
        try:
            fields = _statements.decode(self.statement)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RequestError(f"malformed request: {error}") from None
        if _encode(fields) != self.statement:
            raise RequestError("malformed request: not canonically encoded")
        return RequestStatement(*fields[2:])


_encode = msgspec.msgpack.encode
_statements = msgspec.msgpack.Decoder(
    tuple[Literal["bft.request"], Literal[1], Digest, PublicKey, SessionId, _Number, Natural, bytes]
)
"""Typed, so that hostile bytes never become more than these fields, whatever they contain."""


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    epoch: WireEpoch


class SigningPlan(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Who signs a batch's certificate, each with the nonce commitment it published: (replica, index, commitment)."""

    signers: Annotated[list[tuple[WireReplicaId, "NonceName", NonceCommitment]], msgspec.Meta(max_length=MAX_REPLICAS)]


class NonceName(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One published nonce pair of a replica: which start of its process made it, and its place since that start."""

    start: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    index: Natural


class PrePrepare(_Message, frozen=True, tag=1):
    """The primary's proposal, which is also its vote. The signature covers ring, epoch, view, sequence, batch digest
    and signing plan, so that a proposal convinces third parties; the bodies travel outside it."""

    view: WireView
    sequence: WireSequence
    time: WireTime
    requests: Annotated[list[Request], msgspec.Meta(max_length=MAX_BATCH)]
    plan: SigningPlan | None
    signature: Signature

    @property
    def size_bytes(self) -> int:
        """Its requests."""
        return sum(request.size_bytes for request in self.requests)


class Prepare(_Message, frozen=True, tag=2):
    """A backup accepts the proposal with this digest at this place."""

    view: WireView
    sequence: WireSequence
    digest: Digest


class Commit(_Message, frozen=True, tag=3):
    """The sender holds a prepared certificate for this digest at this place."""

    view: WireView
    sequence: WireSequence
    digest: Digest


class Checkpoint(_Message, frozen=True, tag=4):
    """The sender's state after `sequence` has this digest; signed, as proof for those who come later."""

    sequence: WireSequence
    digest: Digest
    signature: Signature


class Nonces(_Message, frozen=True, tag=5):
    """Commitments to fresh nonces for one view, published ahead so that signing takes no round of its own."""

    view: WireView
    start: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    first: Natural
    commitments: Annotated[list[NonceCommitment], msgspec.Meta(max_length=1024)]


class SignatureShare(_Message, frozen=True, tag=6):
    """One signer's share of the certificate of a batch."""

    view: WireView
    sequence: WireSequence
    share: Digest


class Certified(_Message, frozen=True, tag=7):
    """The certificate of a batch, which proves itself."""

    statement: Annotated[bytes, msgspec.Meta(max_length=1024)]
    signature: Signature


class Status(_Message, frozen=True, tag=8):
    """Where the sender is (TOCS 2002, section 4.6): it lacks what comes after `executed`, and asks for it."""

    view: WireView
    active: bool
    """Whether it takes part in that view, or waits for its NEW-VIEW."""
    executed: WireSequence
    stable: WireSequence
    certified: WireSequence
    nonces: bool
    """Whether the sender is to name signers, and has none of the receiver's nonce commitments left."""
    votes: bool
    """Whether votes in the current view help it; if not, it asks what was decided, whatever the view."""
    contents: bool
    """Whether the receiver is the one asked to send what is large: batches, proposals, NEW-VIEW."""
    learning: WireSequence
    """0, or: it lost its votes, and stays silent until a checkpoint at this number is stable."""


class FetchBodies(_Message, frozen=True, tag=9):
    """Please send these bodies."""

    digests: Annotated[list[Digest], msgspec.Meta(min_length=1, max_length=MAX_BODIES)]


class Bodies(_Message, frozen=True, tag=10):
    """Bodies, each proved by its digest."""

    bodies: Annotated[list[bytes], msgspec.Meta(min_length=1, max_length=MAX_BODIES)]


class Relay(_Message, frozen=True, tag=11):
    """A client's request, passed on to the primary by a backup that waits for it (TOCS 2002, section 4.1)."""

    request: Request


class Decided(_Message, frozen=True, tag=12):
    """The sender has executed this batch at this place. f + 1 equal ones prove it, whatever the view."""

    sequence: WireSequence
    digest: Digest


class FetchBatches(_Message, frozen=True, tag=13):
    """Please send these batches: numbers and digests."""

    batches: Annotated[list[tuple[WireSequence, Digest]], msgspec.Meta(min_length=1, max_length=MAX_WINDOW)]


class Batch(_Message, frozen=True, tag=14):
    """What one batch consists of, proved by its digest; bodies are fetched apart."""

    sequence: WireSequence
    time: WireTime
    requests: Annotated[list[Request], msgspec.Meta(max_length=MAX_BATCH)]


class StableCheckpoint(_Message, frozen=True, tag=15):
    """A checkpoint with the signatures of 2f + 1 replicas, each over its own CHECKPOINT."""

    sequence: WireSequence
    digest: Digest
    proof: Annotated[list[tuple[WireReplicaId, Signature]], msgspec.Meta(max_length=MAX_REPLICAS)]


class Accepted(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An element of P or Q: this batch prepared, or pre-prepared, at the sender in this view and in no later one."""

    sequence: WireSequence
    digest: Digest
    view: WireView


class ViewChange(_Message, frozen=True, tag=16):
    """The sender leaves all views before `view`, and says what it knows from them (TOCS 2002, section 4.4).

    `stable` is its last stable checkpoint with the proof of it, `checkpoints` all it holds from there on (C), and P and
    Q what prepared and what pre-prepared there above it. Signed, as NEW-VIEW shows it to others.
    """

    view: WireView
    replica: WireReplicaId
    stable: StableCheckpoint
    checkpoints: Annotated[list[tuple[WireSequence, Digest]], msgspec.Meta(min_length=1, max_length=MAX_WINDOW)]
    prepared: Annotated[list[Accepted], msgspec.Meta(max_length=MAX_WINDOW)]
    pre_prepared: Annotated[list[Accepted], msgspec.Meta(max_length=MAX_WINDOW * MAX_ACCEPTED)]
    signature: Signature


class NewView(_Message, frozen=True, tag=23):
    """The primary of a view begins it: the VIEW-CHANGEs it goes by and what follows from them, which everyone computes
    again: a checkpoint, and the batches of the numbers after it, one after another (TOCS 2002, section 4.4)."""

    view: WireView
    view_changes: Annotated[list[ViewChange], msgspec.Meta(min_length=1, max_length=MAX_REPLICAS)]
    stable: WireSequence
    digest: Digest
    batches: Annotated[list[Digest], msgspec.Meta(max_length=MAX_WINDOW)]
    signature: Signature


# State transfer (section 6.2; the parts are ours)


class FetchState(_Message, frozen=True, tag=17):
    """Please send these subtrees of the state after `sequence`, a checkpoint."""

    sequence: WireSequence
    prefixes: Annotated[list[Prefix], msgspec.Meta(min_length=1, max_length=MAX_PREFIXES)]


class StateChunk(_Message, frozen=True, tag=18):
    """Subtrees of that state; `time` and `root` make its checkpoint's digest, and `root` commits to the chunks."""

    sequence: WireSequence
    time: WireTime
    root: Digest
    chunks: Annotated[list[tuple[Prefix, Chunk]], msgspec.Meta(max_length=MAX_PREFIXES)]


class StateGone(_Message, frozen=True, tag=19):
    """The sender does not hold that state."""

    sequence: WireSequence


class Span(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Consecutive entries of one table: from `key` on, each key one more than the last as a number."""

    table: Annotated[str, msgspec.Meta(max_length=16)]
    key: Annotated[bytes, msgspec.Meta(min_length=1, max_length=64)]
    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_SPAN)] = 1

    def entries(self) -> Iterator[bytes]:
        """The keys of its entries; those beyond the last key of this length do not exist."""
        first = int.from_bytes(self.key, "big")
        last = min(first + self.count, 1 << 8 * len(self.key))
        return (number.to_bytes(len(self.key), "big") for number in range(first, last))


class FetchParts(_Message, frozen=True, tag=20):
    """Please send these entries of the service's tables."""

    spans: Annotated[list[Span], msgspec.Meta(min_length=1, max_length=MAX_SPANS)]


class Parts(_Message, frozen=True, tag=21):
    """Spans that the sender holds whole, each with its entries' values."""

    found: Annotated[
        list[
            tuple[
                Span,
                Annotated[
                    list[Annotated[bytes, msgspec.Meta(max_length=MAX_PART_BYTES)]], msgspec.Meta(max_length=MAX_SPAN)
                ],
            ]
        ],
        msgspec.Meta(max_length=MAX_SPANS),
    ]


Message = (
    PrePrepare
    | Prepare
    | Commit
    | Checkpoint
    | Nonces
    | SignatureShare
    | Certified
    | Status
    | FetchBodies
    | Bodies
    | Relay
    | Decided
    | FetchBatches
    | Batch
    | StableCheckpoint
    | ViewChange
    | NewView
    | FetchState
    | StateChunk
    | StateGone
    | FetchParts
    | Parts
)

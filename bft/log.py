"""The replica's log on its disk: batches, what was accepted (Q) and prepared (P), what ran, own checkpoints, the view.

Keys are sequence number (8 bytes, big-endian) and kind (1 byte), so that a scan yields the log in order. Batches lie in
numbered places beside what names them, since several may have been accepted at one number in different views. Bodies
are not in the log: they lie once, under their digest, in the service's table.
"""

from typing import Annotated

import msgspec

from bft.certificate import Certificate
from bft.effects import Reader, Write
from bft.messages import (
    MAX_ACCEPTED,
    Accepted,
    Checkpoint,
    NewView,
    Request,
    SigningPlan,
    StableCheckpoint,
    ViewChange,
)
from bft.signatures import Signature
from bft.statement import Digest
from bft.types import AgreedTime, Sequence, View

LOG = "log"
META = "meta"
STATE = "state"

FORMAT = 2

PLACES = MAX_ACCEPTED + 1
"""Places for batches at one number: one for each that was accepted, and one for a batch that ran without."""

_Q = bytes([0x10])
_P = bytes([0x11])
_RAN = bytes([0x12])
_CHECKPOINT = bytes([0x13])
_UNDO = bytes([0x14])


class Contents(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a batch consists of, its requests without the bodies that they name."""

    time: AgreedTime
    requests: list[Request]


class Vote(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A Q entry: this replica accepted the batch in this view (TOCS 2002, section 4.4), and where the batch lies.

    A batch that the primary proposed afresh has its signature and signing plan; one that NEW-VIEW named has neither.
    """

    digest: Digest
    view: View
    place: int
    plan: SigningPlan | None
    signature: Signature | None


class Ran(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Which batch was executed, and where it lies."""

    digest: Digest
    place: int


class Undo(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What leads from the state after a batch back to the one before it: agreed time, and the entries it changed."""

    time: AgreedTime
    changed: list[tuple[bytes, bytes | None]]


class Progress(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How far this replica has executed; written with every batch, in one piece with the state it left."""

    format: int
    executed: Sequence
    time: AgreedTime
    state_root: Digest


class Standing(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The view, and how this replica came to it: on disk before its VIEW-CHANGE leaves, and before it votes there."""

    view: View
    view_change: ViewChange | None
    """Our own, while the view has not begun."""
    new_view: NewView | None
    """What the view began with; None in view 0."""


class Entry(msgspec.Struct):
    """What the log holds about one sequence number."""

    votes: list[Vote] = []
    prepared: Accepted | None = None
    ran: Ran | None = None
    checkpoint: Checkpoint | None = None

    def place_of(self, digest: Digest) -> int | None:
        """Where the batch with this digest lies, if it does."""
        if self.ran is not None and self.ran.digest == digest:
            return self.ran.place
        return next((vote.place for vote in self.votes if vote.digest == digest), None)


_encode = msgspec.msgpack.encode
_contents = msgspec.msgpack.Decoder(Contents)
_votes = msgspec.msgpack.Decoder(list[Vote])
_prepared = msgspec.msgpack.Decoder(Accepted)
_ran = msgspec.msgpack.Decoder(Ran)
_undo = msgspec.msgpack.Decoder(Undo)
_checkpoints = msgspec.msgpack.Decoder(Checkpoint)
_progress = msgspec.msgpack.Decoder(Progress)
_standing = msgspec.msgpack.Decoder(Standing)
_stable = msgspec.msgpack.Decoder(StableCheckpoint)
_certificate = msgspec.msgpack.Decoder(Certificate)
_learning = msgspec.msgpack.Decoder(Annotated[int, msgspec.Meta(ge=0)])


def _key(sequence: Sequence, kind: bytes) -> bytes:
    return sequence.to_bytes(8, "big") + kind


def contents(sequence: Sequence, place: int, batch: Contents) -> Write:
    """A batch, at one of its number's places."""
    return Write(LOG, _key(sequence, bytes([place])), _encode(batch))


def votes(sequence: Sequence, accepted: list[Vote]) -> Write:
    """The Q entries of a number, on disk before PREPARE (by the primary: before its proposal)."""
    return Write(LOG, _key(sequence, _Q), _encode(accepted))


def prepared(entry: Accepted) -> Write:
    """The P entry, on disk before COMMIT."""
    return Write(LOG, _key(entry.sequence, _P), _encode(entry))


def ran(sequence: Sequence, digest: Digest, place: int) -> Write:
    """The batch that was executed."""
    return Write(LOG, _key(sequence, _RAN), _encode(Ran(digest, place)))


def undo(sequence: Sequence, back: Undo) -> Write:
    """How to undo a batch that was executed: the disk has only the newest state, and a peer may need a checkpoint's."""
    return Write(LOG, _key(sequence, _UNDO), _encode(back))


def no_undo(first: Sequence, last: Sequence) -> tuple[Write, ...]:
    """Nobody needs a state before `last` any longer."""
    return tuple(Write(LOG, _key(Sequence(sequence), _UNDO), None) for sequence in range(first, last + 1))


def checkpoint(message: Checkpoint) -> Write:
    """This replica's own checkpoint message, to be sent again to those who come later."""
    return Write(LOG, _key(message.sequence, _CHECKPOINT), _encode(message))


def progress(executed: Sequence, time: AgreedTime, state_root: Digest) -> Write:
    """Where execution stands."""
    return Write(META, b"progress", _encode(Progress(FORMAT, executed, time, state_root)))


def stable(proven: StableCheckpoint) -> Write:
    """The last stable checkpoint."""
    return Write(META, b"stable", _encode(proven))


def standing(where: Standing) -> Write:
    """The view."""
    return Write(META, b"view", _encode(where))


def certificate(newest: Certificate) -> Write:
    """What the ring signed last: its own members may not be back when somebody wants to read after a restart."""
    return Write(META, b"certificate", _encode(newest))


def learning(until: Sequence) -> Write:
    """This replica lost its votes and stays silent until a checkpoint at `until` is stable; 0: it votes."""
    return Write(META, b"learning", _encode(until))


def read_progress(disk: Reader) -> Progress | None:
    """What `progress` wrote last, or None on an empty disk."""
    data = disk.get(META, b"progress")
    return _progress.decode(data) if data is not None else None


def read_stable(disk: Reader) -> StableCheckpoint | None:
    """What `stable` wrote last, or None before the first."""
    data = disk.get(META, b"stable")
    return _stable.decode(data) if data is not None else None


def read_certificate(disk: Reader) -> Certificate | None:
    """What `certificate` wrote last, or None before the first."""
    data = disk.get(META, b"certificate")
    return _certificate.decode(data) if data is not None else None


def read_standing(disk: Reader) -> Standing:
    """What `standing` wrote last, or view 0."""
    data = disk.get(META, b"view")
    return _standing.decode(data) if data is not None else Standing(View(0), None, None)


def read_learning(disk: Reader) -> Sequence:
    """What `learning` wrote last, or 0."""
    data = disk.get(META, b"learning")
    return Sequence(_learning.decode(data)) if data is not None else Sequence(0)


def read_contents(disk: Reader, sequence: Sequence, place: int) -> Contents:
    """The batch at a place that a vote or a `Ran` of this log names."""
    data = disk.get(LOG, _key(sequence, bytes([place])))
    assert data is not None, f"our fault: the log lacks a batch that it names at {sequence}"
    return _contents.decode(data)


def read_undo(disk: Reader, sequence: Sequence) -> Undo | None:
    """What `undo` wrote about a number, or None."""
    data = disk.get(LOG, _key(sequence, _UNDO))
    return _undo.decode(data) if data is not None else None


def read_entry(disk: Reader, sequence: Sequence) -> Entry:
    """What is known about one number."""
    return read(disk, sequence, sequence).get(sequence) or Entry()


def read(disk: Reader, first: Sequence, last: Sequence) -> dict[Sequence, Entry]:
    """Entries first to last, those that exist, in order. Batches stay on the disk."""
    entries: dict[Sequence, Entry] = {}
    for sequence in map(Sequence, range(first, last + 1)):
        start, stop = _key(sequence, _Q), _key(sequence, _CHECKPOINT + b"\x00")
        for key, data in disk.scan(LOG, start, stop):
            entry = entries.setdefault(sequence, Entry())
            match key[8:]:
                case b"\x10":
                    entry.votes = _votes.decode(data)
                case b"\x11":
                    entry.prepared = _prepared.decode(data)
                case b"\x12":
                    entry.ran = _ran.decode(data)
                case b"\x13":
                    entry.checkpoint = _checkpoints.decode(data)
                case kind:
                    raise AssertionError(f"log entry of unknown kind {kind!r}")
    return entries


def truncate(first: Sequence, last: Sequence) -> tuple[Write, ...]:
    """Forget entries first to last."""
    kinds = (*(bytes([place]) for place in range(PLACES)), _Q, _P, _RAN, _CHECKPOINT, _UNDO)
    return tuple(
        Write(LOG, _key(Sequence(sequence), kind), None) for sequence in range(first, last + 1) for kind in kinds
    )

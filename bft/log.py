"""The replica's log on its disk: proposals (Q entries), prepared entries (P), own checkpoints, and where it stands.

Keys are sequence number (8 bytes, big-endian) and kind (1 byte), so that a scan yields the log in order. Bodies are
not in the log: they lie once, under their digest, in the service's table.
"""

import msgspec

from bft.effects import Reader, Write
from bft.messages import Checkpoint, PrePrepare, Request
from bft.statement import Digest
from bft.types import AgreedTime, Sequence, View

LOG = "log"
META = "meta"
STATE = "state"

FORMAT = 1

_PROPOSAL = b"\x00"
_PREPARED = b"\x01"
_CHECKPOINT = b"\x02"


class PreparedEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A P entry: this batch prepared here in this view (TOCS 2002, section 4.4)."""

    view: View
    digest: Digest


class Progress(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How far this replica has executed; written with every batch, in one piece with the state it left."""

    format: int
    executed: Sequence
    time: AgreedTime
    state_root: Digest


class Entry(msgspec.Struct):
    """What the log holds about one sequence number."""

    proposal: PrePrepare | None = None
    prepared: PreparedEntry | None = None
    checkpoint: Checkpoint | None = None


_encode = msgspec.msgpack.encode
_proposals = msgspec.msgpack.Decoder(PrePrepare)
_prepared = msgspec.msgpack.Decoder(PreparedEntry)
_checkpoints = msgspec.msgpack.Decoder(Checkpoint)
_progress = msgspec.msgpack.Decoder(Progress)
_sequences = msgspec.msgpack.Decoder(Sequence)


def _key(sequence: Sequence, kind: bytes) -> bytes:
    return sequence.to_bytes(8, "big") + kind


def without_bodies(proposal: PrePrepare) -> PrePrepare:
    """The proposal as it is kept and sent again: whoever lacks a body fetches it by its digest."""
    if not any(request.bodies for request in proposal.requests):
        return proposal
    bare = [Request(request.statement, request.signature, []) for request in proposal.requests]
    return msgspec.structs.replace(proposal, requests=bare)


def proposal(message: PrePrepare) -> Write:
    """The Q entry: what this replica voted for at this place in this view."""
    return Write(LOG, _key(message.sequence, _PROPOSAL), _encode(without_bodies(message)))


def prepared(sequence: Sequence, view: View, digest: Digest) -> Write:
    """The P entry, on disk before COMMIT."""
    return Write(LOG, _key(sequence, _PREPARED), _encode(PreparedEntry(view, digest)))


def checkpoint(message: Checkpoint) -> Write:
    """This replica's own checkpoint message, to be sent again to those who come later."""
    return Write(LOG, _key(message.sequence, _CHECKPOINT), _encode(message))


def progress(executed: Sequence, time: AgreedTime, state_root: Digest) -> Write:
    """Where execution stands."""
    return Write(META, b"progress", _encode(Progress(FORMAT, executed, time, state_root)))


def stable(sequence: Sequence) -> Write:
    """The last stable checkpoint."""
    return Write(META, b"stable", _encode(sequence))


def read_progress(disk: Reader) -> Progress | None:
    """What `progress` wrote last, or None on an empty disk."""
    data = disk.get(META, b"progress")
    return _progress.decode(data) if data is not None else None


def read_stable(disk: Reader) -> Sequence:
    """What `stable` wrote last, or 0."""
    data = disk.get(META, b"stable")
    return _sequences.decode(data) if data is not None else Sequence(0)


def read(disk: Reader, first: Sequence, last: Sequence) -> dict[Sequence, Entry]:
    """Entries first to last, those that exist, in order."""
    entries: dict[Sequence, Entry] = {}
    for key, data in disk.scan(LOG, _key(first, b""), _key(Sequence(last + 1), b"")):
        entry = entries.setdefault(Sequence(int.from_bytes(key[:8], "big")), Entry())
        match key[8:]:
            case b"\x00":
                entry.proposal = _proposals.decode(data)
            case b"\x01":
                entry.prepared = _prepared.decode(data)
            case b"\x02":
                entry.checkpoint = _checkpoints.decode(data)
            case kind:
                raise AssertionError(f"log entry of unknown kind {kind!r}")
    return entries


def truncate(first: Sequence, last: Sequence) -> tuple[Write, ...]:
    """Forget entries first to last."""
    kinds = (_PROPOSAL, _PREPARED, _CHECKPOINT)
    return tuple(
        Write(LOG, _key(Sequence(sequence), kind), None) for sequence in range(first, last + 1) for kind in kinds
    )

"""The serving side of state transfer: states of recent checkpoints, and what each peer may cost (TOCS 2002, 6.2).

Trees never change and share what they agree on, so a state is kept by keeping its root. A peer that fetches one pins
it, or a busy ring would leave every state behind before anybody had read it.
"""

from typing import NamedTuple

from bft.effects import Effect, Overlay, Send
from bft.membership import Membership
from bft.messages import FetchParts, FetchState, Parts, Span, StateChunk, StateGone
from bft.service import StateMachine
from bft.state_tree import Branch, Chunk, StateTree
from bft.types import AgreedTime, ReplicaId, Sequence

KEPT = 8
"""States of the newest checkpoints that are kept: the last stable one, up to four that may follow it within the window,
and some before it, so that a peer has time to ask."""

UNPIN_TICKS = 600
LONGEST_PIN_TICKS = 36_000
"""A state is let go when the peer that pinned it has not asked for a minute, or after an hour: an old state costs as
much memory as has changed since."""

ANSWER_BYTES = 1024 * 1024
"""An answer's size, unless its first part is larger: votes wait behind it on the same link, here for some 10 ms."""

ALLOWANCE_BYTES = 2 * 1024 * 1024
"""What a peer may fetch in a tick of 0.1 s: 20 MiB/s. What it may have at once is four times that."""

LOOKUP_BYTES = 256
"""What looking for an entry counts for, found or not."""


class _Snapshot(NamedTuple):
    time: AgreedTime
    tree: StateTree


class _Pin:
    def __init__(self, sequence: Sequence, snapshot: _Snapshot, now: int) -> None:
        self.sequence = sequence
        self.snapshot = snapshot
        self.since = now
        self.used = now


class Serving:
    """Answers peers that fetch a state or parts: at once within their allowance, else their last question later."""

    def __init__(self, membership: Membership, service: StateMachine, disk: Overlay) -> None:
        self._membership = membership
        self._service = service
        self._disk = disk
        self._now = 0
        self._recent: dict[Sequence, _Snapshot] = {}
        self._pins: dict[ReplicaId, _Pin] = {}
        self._spent: dict[ReplicaId, int] = {}
        self._postponed: dict[ReplicaId, FetchState | FetchParts] = {}

    @property
    def held(self) -> set[Sequence]:
        """Checkpoints whose states are kept."""
        return {*self._recent, *(pin.sequence for pin in self._pins.values())}

    def keep(self, sequence: Sequence, time: AgreedTime, tree: StateTree) -> None:
        """The state after a batch at whose number there is a checkpoint."""
        self._recent[sequence] = _Snapshot(time, tree)
        for old in sorted(self._recent)[:-KEPT]:
            del self._recent[old]

    def heard(self, peer: ReplicaId, executed: Sequence) -> None:
        """The peer has executed so much: a state that it fetched to come there is not needed any longer."""
        pin = self._pins.get(peer)
        if pin is not None and pin.sequence <= executed:
            del self._pins[peer]

    def on_fetch(self, sender: ReplicaId, message: FetchState | FetchParts) -> list[Effect]:
        """A question; of several that come too fast, the last one is answered."""
        if self._spent.get(sender, 0) >= 4 * ALLOWANCE_BYTES:
            self._postponed[sender] = message
            return []
        match message:
            case FetchState(_, sequence, prefixes):
                return [Send(sender, self._chunks(sender, sequence, prefixes))]
            case FetchParts(_, spans):
                return [Send(sender, self._parts(sender, spans))]

    def tick(self) -> list[Effect]:
        """0.1 s have passed."""
        self._now += 1
        for peer, pin in list(self._pins.items()):
            if self._now - pin.used >= UNPIN_TICKS or self._now - pin.since >= LONGEST_PIN_TICKS:
                del self._pins[peer]
        self._spent = {peer: left for peer, spent in self._spent.items() if (left := spent - ALLOWANCE_BYTES) > 0}
        postponed, self._postponed = self._postponed, {}
        return [effect for peer, message in postponed.items() for effect in self.on_fetch(peer, message)]

    def _chunks(self, peer: ReplicaId, sequence: Sequence, prefixes: list[bytes]) -> StateChunk | StateGone:
        epoch = self._membership.epoch
        snapshot = self._pinned(peer, sequence)
        if snapshot is None:
            self._spend(peer, LOOKUP_BYTES)
            return StateGone(epoch, sequence)
        chunks: list[tuple[bytes, Chunk]] = []
        room = ANSWER_BYTES
        for prefix in prefixes:
            chunk = snapshot.tree.chunk(prefix)
            room -= LOOKUP_BYTES + _size_bytes(chunk)
            chunks.append((prefix, chunk))
            if room <= 0:
                break
        self._spend(peer, ANSWER_BYTES - room)
        return StateChunk(epoch, sequence, snapshot.time, snapshot.tree.root, chunks)

    def _pinned(self, peer: ReplicaId, sequence: Sequence) -> _Snapshot | None:
        pin = self._pins.get(peer)
        if pin is None or pin.sequence != sequence:
            snapshot = self._recent.get(sequence)
            if snapshot is None:
                snapshot = next((pin.snapshot for pin in self._pins.values() if pin.sequence == sequence), None)
            if snapshot is None:
                return None
            pin = self._pins[peer] = _Pin(sequence, snapshot, self._now)
        pin.used = self._now
        return pin.snapshot

    def _parts(self, peer: ReplicaId, spans: list[Span]) -> Parts:
        found: list[tuple[Span, list[bytes]]] = []
        room = ANSWER_BYTES
        for span in spans:
            values = self._service.read(span, self._disk)
            size = LOOKUP_BYTES * span.count + sum(map(len, values or []))
            if values is not None and (not found or size <= room):
                found.append((span, values))
            room -= size
            if room <= 0:
                break
        self._spend(peer, ANSWER_BYTES - room)
        return Parts(self._membership.epoch, found)

    def _spend(self, peer: ReplicaId, cost_bytes: int) -> None:
        self._spent[peer] = self._spent.get(peer, 0) + cost_bytes


def _size_bytes(chunk: Chunk) -> int:
    if isinstance(chunk, Branch):
        return len(chunk.digests)
    return sum(len(key) + len(value) for key, value in chunk.items)

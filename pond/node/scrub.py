"""Self-repair: a slow walk over all that the state commits to, which fetches from peers what is rotten or missing.

It goes entry by entry of the state: each must be on the disk as it is in memory, and what it commits to is checked from
there down, each part against what names it, as in a transfer (`pond.node.parts`). So the walk sees what a checksum
cannot: entries that were never written, or were replaced by others that are sound. What no record leads to is not
looked at, since nobody will ask for it. A pure machine: time and state come in with each tick, of 0.1 s.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from bft.effects import Effect, Reader, Rejected, Send, Store, Write
from bft.log import STATE
from bft.membership import Membership
from bft.messages import FetchParts, Parts
from bft.peers import Peers
from bft.service import Accepted, Part, PartError
from bft.state_tree import Kind, StateTree, state_key
from bft.types import AgreedTime, ReplicaId
from pond.errors import StorageRotten
from pond.model.tables import BLOCKS, NODES, VERSIONS
from pond.node.parts import object_parts, part_named, read

TICK_BYTES = 512 * 1024
"""Read in a tick at most, on average: 5 MiB/s, which is little beside clients' work and a terabyte in two days and a
half."""

ENTRY_BYTES = 4096
"""What looking for an entry counts for beside its own bytes: a page of the disk."""

KNOWN_BYTES = 64
"""What a part counts for that was found sound before."""

REST_TICKS = 600
"""A pass begins this long after the one before it began, at the earliest: a small store is looked through each minute,
and a server with nothing else to do rests."""

REMEMBERED = 16_384
"""Nodes known to be sound in this pass: the next version of an object shares most of its nodes with the one before."""

MOST_BROKEN = 64
"""Parts that wait to be fetched at most; the walk waits for them."""

TRIES = 3
"""A part that all peers were asked for so often is left for the next pass."""

REQUEST_SPANS = 16


class Mended(NamedTuple):
    """An entry that was put right, and when (microseconds)."""

    table: str
    key: bytes
    time: AgreedTime


class _Broken:
    """A part to be fetched."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.asked = False
        self.tries = 0


class Scrub:
    """Walks while `tick` is called, which the caller leaves out while a state is being fetched."""

    def __init__(self, identity: ReplicaId, membership: Membership, disk: Reader, rest_ticks: int = REST_TICKS) -> None:
        self.passes = 0
        """Walks over the whole state that are complete."""
        self.checked_bytes = 0
        self.mended = 0
        """Parts and derived entries that were put right since the start."""
        self.last_mended: Mended | None = None
        self.lost = 0
        """Parts that no peer could give when they were last looked for."""
        self._epoch = membership.epoch
        self._most_tries = TRIES * (membership.size - 1)
        self._peers = Peers(identity, membership.size)
        self._disk = disk
        self._rest_ticks = rest_ticks
        self._rest = 0
        self._now = AgreedTime(0)
        self._at: bytes | None = None
        """Key of the state that the walk has come to; None before the first."""
        self._roots: Iterator[Part] = iter(())
        self._todo: list[Part] = []
        self._budget = 0
        self._sound: OrderedDict[bytes, None] = OrderedDict()
        self._broken: dict[tuple[str, bytes], _Broken] = {}
        self._asked: dict[ReplicaId, list[_Broken]] = {}

    @property
    def broken(self) -> int:
        """Parts found rotten or missing that are being fetched."""
        return len(self._broken)

    def tick(self, tree: StateTree, now: AgreedTime) -> list[Effect]:
        """0.1 s have passed; `tree` is the state whose parts this server is to hold."""
        self._now = now
        for peer in self._peers.tick():
            self._give_up(peer)
        self._rest = max(0, self._rest - 1)
        self._budget = min(TICK_BYTES, self._budget + TICK_BYTES)
        writes: list[Write] = []
        while self._budget > 0 and len(self._broken) < MOST_BROKEN:
            part = self._todo.pop() if self._todo else next(self._roots, None)
            if part is not None:
                writes += self._check(part)
            elif (entry := self._next(tree)) is not None:
                writes += self._check_entry(*entry)
            else:
                break
        return [*_stored(writes), *self._ask()]

    def suspect(self, table: str, key: bytes, tree: StateTree) -> list[Effect]:
        """Somebody met a rotten entry, which is not to wait for the walk."""
        part = part_named(table, key)
        if part is not None:
            self._miss(part)
        else:
            record = state_key(Kind.OBJECT, key[:32])
            value = tree.get(record)
            if value is not None and len(self._todo) < MOST_BROKEN:
                self._todo += object_parts(record, None, value)
        return self._ask()

    def on_parts(self, sender: ReplicaId, message: Parts) -> list[Effect]:
        """Parts from a peer, each checked before it is written."""
        useful = False
        effects: list[Effect] = []
        writes: list[Write] = []
        for span, values in message.found:
            broken = self._broken.get((span.table, span.key))
            if broken is None or broken.part.span != span:
                continue
            try:
                if len(values) != span.count:
                    raise PartError("more or fewer entries than asked for")
                accepted = broken.part.accept(values)
            except PartError as error:
                effects.append(Rejected(sender, f"part: {error}"))
                self._peers.lied(sender)
                break
            useful = True
            del self._broken[span.table, span.key]
            writes += accepted.writes
            self._todo += reversed(accepted.below)
            self._mend(span.table, span.key)
        if useful and not effects:
            self._peers.answered(sender)
        elif sender in self._asked and not effects:
            self._peers.failed(sender)
        self._give_up(sender)
        return [*_stored(writes), *effects, *self._ask()]

    # --- the walk --------------------------------------------------------------------------------------------------

    def _next(self, tree: StateTree) -> tuple[bytes, bytes] | None:
        """The next entry of the state; None at the end of a pass, and while it is too early for the next one."""
        if self._at is None:
            if self._rest > 0:
                return None
            self._rest = self._rest_ticks
            self._sound.clear()
        entry = tree.after(self._at)
        if entry is not None:
            self._at = entry[0]
        elif not self._broken:  # what is below a broken part has yet to be walked
            self.passes += self._at is not None
            self._at = None
        return entry

    def _check_entry(self, key: bytes, value: bytes) -> list[Write]:
        """An entry of the state itself is put right from memory, where its root vouches for it."""
        self._roots = iter(object_parts(key, None, value))
        self._spend(1, len(value))
        if self._get(STATE, key) == value:
            return []
        self._mend(STATE, key)
        return [Write(STATE, key, value)]

    def _check(self, part: Part) -> list[Write]:
        """Go below a part that is sound, fetch one that is not. What follows from it and differs is written anew."""
        span = part.span
        if span.table == NODES and span.key in self._sound:
            self._sound.move_to_end(span.key)
            self._budget -= KNOWN_BYTES
            return []
        values = read(span, self._disk)
        self._spend(span.count, sum(map(len, values or [])))
        accepted: Accepted | None = None
        if values is not None:
            try:
                accepted = part.accept(values)
            except PartError:
                accepted = None
        if accepted is None:
            self._miss(part)
            return []
        self._todo += reversed(accepted.below)
        if span.table == NODES:
            self._sound[span.key] = None
            if len(self._sound) > REMEMBERED:
                self._sound.popitem(last=False)
        if span.table in (BLOCKS, NODES, VERSIONS):
            return []
        own = set(span.entries())
        derived = [write for write in accepted.writes if write.table != span.table or write.key not in own]
        wrong = [write for write in derived if self._get(write.table, write.key) != write.value]
        self._spend(len(derived), 0)
        for write in wrong:
            self._mend(write.table, write.key)
        return wrong

    def _get(self, table: str, key: bytes) -> bytes | None:
        try:
            return self._disk.get(table, key)
        except StorageRotten:
            return None

    def _spend(self, entries: int, size_bytes: int) -> None:
        self.checked_bytes += size_bytes
        self._budget -= entries * ENTRY_BYTES + size_bytes

    # --- what is broken --------------------------------------------------------------------------------------------

    def _miss(self, part: Part) -> None:
        name = (part.span.table, part.span.key)
        if name not in self._broken and len(self._broken) < MOST_BROKEN:
            self._broken[name] = _Broken(part)

    def _mend(self, table: str, key: bytes) -> None:
        self.mended += 1
        self.last_mended = Mended(table, key, self._now)

    def _ask(self) -> list[Effect]:
        effects: list[Effect] = []
        for peer in self._peers.free():
            wanted = [broken for broken in self._broken.values() if not broken.asked][:REQUEST_SPANS]
            if not wanted:
                break
            for broken in wanted:
                broken.asked = True
                broken.tries += 1
            self._asked[peer] = wanted
            self._peers.asked(peer)
            effects.append(Send(peer, FetchParts(self._epoch, [broken.part.span for broken in wanted])))
        return effects

    def _give_up(self, peer: ReplicaId) -> None:
        """What this peer did not send is to be asked of others, or left when they were asked often enough."""
        for broken in self._asked.pop(peer, []):
            broken.asked = False
            name = (broken.part.span.table, broken.part.span.key)
            if broken.tries >= self._most_tries and self._broken.get(name) is broken:
                del self._broken[name]
                self.lost += 1


def _stored(writes: list[Write]) -> list[Effect]:
    return [Store(tuple(writes))] if writes else []

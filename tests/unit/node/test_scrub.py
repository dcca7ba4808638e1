"""Self-repair: whatever is done to the tables of a server, they end as they were, and status says so."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

import msgspec
import pytest

from bft.effects import Effect, Overlay, Rejected, Send, Store
from bft.log import STATE
from bft.messages import FetchParts, Message, Parts
from bft.serving import Serving
from bft.state_tree import StateTree
from bft.types import AgreedTime, ReplicaId
from pond.model import tables
from pond.node.scrub import ENTRY_BYTES, MOST_BROKEN, REMEMBERED, REST_TICKS, TICK_BYTES, TRIES, Scrub
from pond.node.service import Service
from tests.unit.bft.ring import MemoryDisk
from tests.unit.bft.transfers import ME, membership, tree_of
from tests.unit.node.histories import History, RottenDisk, long_history

TABLES = (tables.BLOCKS, tables.NODES, tables.VERSIONS, tables.OUTCOMES, tables.RANGES, tables.NUMBERS)
NOW = AgreedTime(1_700_000_000_000_000)


class Ring:
    """A server that walks, and three others that hold what it should."""

    def __init__(self, values: dict[bytes, bytes], there: MemoryDisk, rest_ticks: int = 0) -> None:
        self.tree = tree_of(values)
        self.there = there
        there.tables[STATE] = dict(values)
        self.here = RottenDisk({table: dict(entries) for table, entries in there.tables.items()}, set())
        self.serving = {ReplicaId(i): Serving(membership(), Service(), Overlay(there)) for i in range(1, 4)}
        self.scrub = Scrub(ME, membership(), self.here, rest_ticks)
        self.lie: Callable[[ReplicaId, Parts], Parts | None] = lambda peer, answer: answer
        self.questions: deque[tuple[ReplicaId, FetchParts]] = deque()
        self.sent: list[FetchParts] = []
        self.written: list[tuple[str, bytes]] = []
        self.rejected: list[Rejected] = []
        self.now = NOW

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(to, FetchParts() as message):
                    self.questions.append((to, message))
                    self.sent.append(message)
                case Store(writes):
                    self.here.write(writes)
                    self.here.rotten -= {(write.table, write.key) for write in writes}
                    self.written += [(write.table, write.key) for write in writes]
                case Rejected():
                    self.rejected.append(effect)
                case other:
                    raise AssertionError(other)

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            self.now = AgreedTime(self.now + 100_000)
            self.perform(self.scrub.tick(self.tree, self.now))
            for serving in self.serving.values():
                serving.tick()
            while self.questions:
                peer, question = self.questions.popleft()
                for effect in self.serving[peer].on_fetch(ME, question):
                    assert isinstance(effect, Send)
                    assert isinstance(effect.message, Parts)
                    answer = self.lie(peer, effect.message)
                    if answer is not None:
                        self.perform(self.scrub.on_parts(peer, answer))

    def walk(self, passes: int = 1, ticks: int = 3000) -> None:
        """Until so many passes are over and nothing is broken any longer."""
        until = self.scrub.passes + passes
        for _ in range(ticks):
            self.tick()
            if self.scrub.passes >= until and not self.scrub.broken:
                return
        raise AssertionError(f"{self.scrub.passes} passes, {self.scrub.broken} broken")

    def entries(self) -> list[tuple[str, bytes]]:
        return [(table, key) for table in TABLES for key in sorted(self.there.tables.get(table, {}))]

    def damage(self, rng: random.Random, table: str, key: bytes) -> None:
        """An entry that is gone, was exchanged, is cut short, or cannot be read."""
        values = self.here.tables[table]
        match rng.randrange(5):
            case 0:
                del values[key]
            case 1:
                values[key] = values[key][:-1] + bytes([values[key][-1] ^ 1])
            case 2:
                values[key] = rng.choice([*sorted(values.values()), b"other"])
            case 3:
                values[key] = b""
            case 4:
                self.here.rotten.add((table, key))

    def check_mended(self) -> None:
        for table in (*TABLES, STATE):
            assert self.here.tables.get(table, {}) == self.there.tables.get(table, {}), table
        assert not self.here.rotten


def ring_of(seed: int, steps: int = 8) -> Ring:
    history = History(seed)
    for _ in range(steps):
        history.step()
    while not history.store.values:
        history.step()
    return Ring(history.store.values, history.disk())


def test_a_sound_disk_is_left_alone():
    ring = ring_of(1)
    ring.walk(passes=3)
    assert not ring.written
    assert not ring.sent
    assert ring.scrub.mended == 0
    assert ring.scrub.last_mended is None
    assert ring.scrub.checked_bytes > 0


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_is_mended(seed: int):
    ring = ring_of(seed)
    rng = random.Random(seed)
    entries = ring.entries()
    for table, key in rng.sample(entries, min(len(entries), rng.choice([1, 1, 3, 20]))):
        ring.damage(rng, table, key)
    ring.walk(passes=2)
    ring.check_mended()
    if ring.written:
        assert ring.scrub.mended >= 1
        assert ring.scrub.last_mended is not None
        assert NOW < ring.scrub.last_mended.time <= ring.now


def test_every_single_entry_is_mended():
    ring = ring_of(4, steps=5)
    rng = random.Random(4)
    for table, key in ring.entries():
        before = ring.scrub.mended
        ring.here.tables[table].pop(key) if rng.random() < 0.5 else ring.here.rotten.add((table, key))
        ring.walk()
        ring.walk()
        ring.check_mended()
        assert ring.scrub.mended > before, (table, key.hex())


def test_all_tables_lost():
    ring = ring_of(5)
    for table in TABLES:
        ring.here.tables[table] = {}
    ring.walk(passes=2)
    ring.check_mended()


def test_a_damaged_entry_of_the_state_is_written_anew_from_memory():
    ring = ring_of(6)
    keys = sorted(ring.here.tables[STATE])
    ring.here.tables[STATE][keys[0]] = b"other"
    ring.here.rotten.add((STATE, keys[-1]))
    ring.walk()
    ring.check_mended()
    assert not ring.sent


def test_peers_that_are_rotten_too_or_lie_or_are_silent():
    for seed in range(15):
        ring = ring_of(seed)
        rng = random.Random(seed)
        for table, key in rng.sample(ring.entries(), 10):
            ring.damage(rng, table, key)

        def lie(peer: ReplicaId, answer: Parts, rng: random.Random = rng) -> Parts | None:
            if peer == 1:
                return None
            if peer == 2:
                wrong = [(span, [value + b"!" for value in values]) for span, values in answer.found]
                return msgspec.structs.replace(answer, found=wrong)
            return answer

        ring.lie = lie
        ring.walk(passes=2)
        ring.check_mended()
        assert {rejected.sender for rejected in ring.rejected} <= {2}


def test_what_nobody_has_is_given_up_and_looked_for_again_in_the_next_pass():
    ring = ring_of(7)
    key = sorted(ring.there.tables[tables.BLOCKS])[0]
    value = ring.there.tables[tables.BLOCKS].pop(key)
    del ring.here.tables[tables.BLOCKS][key]
    ring.walk(passes=2)
    assert ring.scrub.lost >= 1
    assert len(ring.sent) <= ring.scrub.lost * TRIES * 3
    ring.there.tables[tables.BLOCKS][key] = value
    ring.walk(passes=2)
    ring.check_mended()


def test_a_rotten_entry_that_a_reader_met_is_mended_at_once():
    ring = ring_of(8)
    ring.tick(3)
    for table in TABLES:
        key = sorted(ring.here.tables[table])[0]
        ring.here.rotten.add((table, key))
        ring.scrub._rest = 10**9
        ring.perform(ring.scrub.suspect(table, key, ring.tree))
        ring.tick(50)
        ring.check_mended()


def test_suspicions_without_ground_are_harmless():
    ring = ring_of(8)
    for table in (*TABLES, "log"):
        ring.perform(ring.scrub.suspect(table, b"nobody knows this", ring.tree))
    ring.walk(passes=2, ticks=5000)
    ring.check_mended()


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_the_walk_is_slow_and_goes_on_where_it_was():
    entries, there = long_history(3000, 10)
    ring = Ring(entries, there)
    total = sum(len(value) for table in TABLES for value in there.tables[table].values())
    count = sum(len(there.tables[table]) for table in TABLES)
    ticks = 0
    while ring.scrub.passes == 0:
        ring.tick()
        ticks += 1
    # Derived entries are compared, and not counted by their bytes.
    assert ticks >= (count * ENTRY_BYTES) // TICK_BYTES // 2
    assert ticks <= 2 * (count * ENTRY_BYTES + total) // TICK_BYTES + 10


def test_what_versions_share_is_looked_at_once():
    """Or a walk over many versions of a large object would never end."""
    entries, there = long_history(600, 1)
    ring = Ring(entries, there)
    ring.walk()
    nodes = there.tables[tables.NODES].values()
    largest = 600 * 120
    assert sum(map(len, nodes)) > 10 * largest
    everything = sum(len(value) for table in TABLES for value in there.tables[table].values())
    assert ring.scrub.checked_bytes < 8 * everything


def test_memory_is_bounded():
    entries, there = long_history(70_000, 100)
    ring = Ring(entries, there)
    ring.here.tables[tables.BLOCKS] = {}
    most = 0
    for _ in range(400):
        ring.tick()
        most = max(most, len(ring.scrub._todo))
        assert ring.scrub.broken <= MOST_BROKEN
        assert len(ring.scrub._sound) <= REMEMBERED
    assert most < 1500
    assert ring.scrub.mended > 100


def test_a_pass_is_followed_by_rest():
    entries, there = long_history(3, 1)
    ring = Ring(entries, there, rest_ticks=REST_TICKS)
    ring.tick(REST_TICKS * 3 + 5)
    assert ring.scrub.passes == 4


def test_a_state_without_anything():
    ring = Ring({}, MemoryDisk())
    ring.tick(10)
    assert ring.scrub.passes == 0
    assert StateTree.empty().after(None) is None


def test_messages_of_anybody_at_any_time():
    ring = ring_of(2)
    message: Message = Parts(membership().epoch, [])
    assert isinstance(message, Parts)
    assert ring.scrub.on_parts(ReplicaId(1), message) == []
    span_of_others = ring.serving[ReplicaId(1)].on_fetch(ME, FetchParts(membership().epoch, []))
    assert len(span_of_others) == 1
    assert not ring.written

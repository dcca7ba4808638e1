"""A server that fetched its state holds exactly what one holds that executed everything."""

from __future__ import annotations

import random

import pytest

from bft.effects import Overlay, Write
from bft.messages import FetchParts, Span
from bft.service import PartError
from bft.serving import Serving
from bft.state_tree import Kind, state_key
from bft.types import ReplicaId
from pond.model import tables
from pond.node.parts import SHARED_TABLES, WINDOW, object_parts, read
from pond.node.service import TABLES, Service
from pond.node.uploads import UPLOADS
from tests.unit.bft.ring import MemoryDisk
from tests.unit.bft.transfers import World, tree_of
from tests.unit.node.histories import History, RottenDisk, long_history, used_blocks


def assert_same_tables(here: MemoryDisk, there: MemoryDisk) -> None:
    for table in TABLES:
        if table != UPLOADS:
            assert here.tables.get(table, {}) == there.tables.get(table, {}), table
    assert not here.tables.get(UPLOADS)


@pytest.mark.parametrize("block", range(20))
def test_an_empty_disk_ends_like_one_that_executed_everything(block: int):
    for seed in range(block * 50, block * 50 + 50):
        history = History(seed)
        for _ in range(history.rng.randrange(1, 12)):
            history.step()
        world = World(Service(), history.disk())
        world.fetch(64, tree_of(history.store.values))
        assert_same_tables(world.here, world.there)
        assert not world.rejected


@pytest.mark.parametrize("seed", range(60))
def test_one_that_was_away_for_a_while(seed: int):
    history = History(seed)
    for _ in range(history.rng.randrange(10)):
        history.step()
    values = dict(history.store.values)
    old = history.disk()
    for _ in range(history.rng.randrange(20)):
        history.step()
    world = World(Service(), history.disk())
    world.here.tables = {table: dict(entries) for table, entries in old.tables.items()}
    world.have(values)
    world.fetch(64, tree_of(history.store.values))
    assert_same_tables(world.here, world.there)


@pytest.mark.parametrize("seed", range(40))
def test_crashes_on_the_way_and_a_state_that_moves_on(seed: int):
    history = History(seed)
    rng = random.Random(seed)
    world = World(Service(), history.disk())
    for number in range(64, 64 * 6, 64):
        for _ in range(rng.randrange(8)):
            history.step()
        world.there.tables = history.disk().tables
        world.begin(number, world.hold(number, tree_of(history.store.values)))
        for _ in range(rng.randrange(10)):
            world.deliver() if world.links else world.tick()
            if rng.random() < 0.5:
                world.here.sync()
        world.crash()
        assert not world.here.tables.get("state")
        assert used_blocks(world.here) <= world.here.tables.get(tables.BLOCKS, {}).keys()
    world.fetch(64 * 6, tree_of(history.store.values))
    assert_same_tables(world.here, world.there)


@pytest.mark.parametrize("seed", range(20))
def test_a_server_whose_history_went_another_way(seed: int):
    """It gives the empty tree, since it cannot rely on what it holds; what is right of it is still of use."""
    history = History(seed, objects=1)
    for _ in range(4):
        history.step()
    world = World(Service())
    wrong = History(seed, objects=1)
    wrong.rng.random()
    for _ in range(6):
        wrong.step()
    world.here.tables = wrong.disk().tables
    world.there.tables = history.disk().tables
    world.fetch(64, tree_of(history.store.values))
    for table in SHARED_TABLES:
        for key, value in world.there.tables.get(table, {}).items():
            assert world.here.tables[table][key] == value


# --- long histories --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 255, 256, 257, 511, 512, 1000, 3 * WINDOW + 7])
@pytest.mark.parametrize("held", [0, 1, 3, 255, 256, 300, 512])
def test_windows_of_any_place(count: int, held: int):
    held = min(held, count)
    entries, there = long_history(count, 50)
    world = World(Service(), there)
    if held:
        before, disk = long_history(held, 50)
        world.here.tables = disk.tables
        world.have(before)
    world.fetch(64, tree_of(entries))
    assert_same_tables(world.here, there)


def test_a_long_history_takes_bounded_memory():
    """Past 2**16 outcomes, where windows have three levels."""
    entries, there = long_history(70_000, 40)
    world = World(Service(), there)
    world.fetch(64, tree_of(entries))
    assert_same_tables(world.here, there)
    assert world.most_open < 3 * WINDOW + 4 * 64 * 70
    before, disk = long_history(66_000, 40)
    world = World(Service(), there)
    world.here.tables = disk.tables
    world.have(before)
    world.fetch(64, tree_of(entries))
    assert_same_tables(world.here, there)
    asked = sum(
        span.count
        for message in world.sent
        if isinstance(message, FetchParts)
        for span in message.spans
        if span.table == tables.OUTCOMES
    )
    assert asked == 70_000 - 66_000


# --- what proves itself ----------------------------------------------------------------------------------------------


def test_every_byte_of_every_part_is_checked():
    entries, there = long_history(2 * WINDOW + 9, 100)
    rng = random.Random(1)
    (item,) = entries.items()
    checked = set()
    stack = list(object_parts(item[0], None, item[1]))
    while stack:
        part = stack.pop()
        values = read(part.span, there)
        assert values is not None
        checked.add((part.span.table, len(values) > 1))
        for _ in range(20):
            place = rng.randrange(len(values))
            for wrong in wrong_values(rng, values[place]):
                with pytest.raises(PartError):
                    part.accept([*values[:place], wrong, *values[place + 1 :]])
        for fewer in (values[1:], values[:-1], [*values, values[-1]]):
            if len(values) > 1:
                with pytest.raises(PartError):
                    part.accept(fewer)
        stack += part.accept(values).below
    assert checked == {("ranges", True), ("outcomes", True), ("versions", False), ("nodes", False), ("blocks", False)}


def wrong_values(rng: random.Random, value: bytes) -> list[bytes]:
    flipped = bytearray(value)
    flipped[rng.randrange(len(value))] ^= 1 << rng.randrange(8)
    return [bytes(flipped), value[:-1], value + b"\0", b"", rng.randbytes(len(value))]


def test_entries_that_stand_for_themselves_have_no_parts():
    assert list(object_parts(state_key(Kind.SESSION, b"s" * 32), None, b"anything")) == []
    entries, _ = long_history(3, 1)
    ((key, value),) = entries.items()
    assert list(object_parts(key, value, value)) == []
    assert list(object_parts(key, value, None)) == []


def test_a_block_that_waits_as_an_upload_waits_no_longer():
    """Or else it would be let go when its time is over, though a version has it."""
    history = History(3)
    for _ in range(6):
        history.step()
    world = World(Service(), history.disk())
    blocks = sorted(world.there.tables[tables.BLOCKS].items())
    for key, value in blocks[::2]:
        world.here.write([Write(tables.BLOCKS, key, value), Write(UPLOADS, key, bytes(8))])
    world.fetch(64, tree_of(history.store.values))
    assert_same_tables(world.here, world.there)


def test_what_is_rotten_is_not_handed_out():
    disk = RottenDisk({tables.BLOCKS: {b"a": b"1", b"b": b"2"}}, {(tables.BLOCKS, b"b")})
    assert read(Span(tables.BLOCKS, b"a"), disk) == [b"1"]
    assert read(Span(tables.BLOCKS, b"b"), disk) is None
    assert read(Span(tables.BLOCKS, b"a", 2), disk) is None
    assert read(Span(tables.BLOCKS, b"c"), disk) is None


@pytest.mark.parametrize("table", ["log", "meta", "state", "uploads", "numbers", "no such table"])
def test_other_tables_are_a_servers_own(table: str):
    disk = MemoryDisk()
    disk.tables[table] = {b"k": b"v"}
    assert read(Span(table, b"k"), disk) is None


def test_a_server_with_rotten_entries_serves_the_others():
    history = History(9)
    for _ in range(10):
        history.step()
    there = history.disk()
    rng = random.Random(9)
    world = World(Service(), there)
    every = [(table, key) for table in SHARED_TABLES for key in there.tables.get(table, {})]
    for peer in (ReplicaId(1), ReplicaId(2)):
        rotten = RottenDisk(there.tables, set(rng.sample(sorted(every), len(every) // 3)))
        world.serving[peer] = Serving(world.membership, world.service, Overlay(rotten))
    world.fetch(64, tree_of(history.store.values))
    assert_same_tables(world.here, there)

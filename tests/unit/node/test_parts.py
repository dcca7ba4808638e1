"""A server that fetched its state holds exactly what one holds that executed everything."""

from __future__ import annotations

import random

import pytest

from bft.effects import Overlay, Write
from bft.merkle import MountainRange, leaf_hash
from bft.messages import FetchParts, Span
from bft.service import PartError
from bft.serving import Serving
from bft.state_tree import Kind, state_key
from bft.types import ReplicaId
from pond.errors import StorageRotten
from pond.model import names, tables, tree
from pond.model import update as u
from pond.model.block import BlockRef, to_runs
from pond.model.update import Clause, Founding
from pond.model.version import History as HistoryRoot
from pond.model.version import ObjectRecord, Outcome, Reason, Status, VersionRoot, decode_version_root
from pond.node.parts import SHARED_TABLES, WINDOW, object_parts, read
from pond.node.service import TABLES, UPLOADS, Service
from tests.unit.bft.ring import MemoryDisk
from tests.unit.bft.transfers import World, tree_of
from tests.unit.model.store import BLOCK_SIZE, OWNER, STRANGER, Store, update


class History:
    """Random updates of a few objects, run one after another."""

    def __init__(self, seed: int, objects: int = 3) -> None:
        self.rng = random.Random(seed)
        self.store = Store()
        self.tags = [bytes([i]) * 32 for i in range(objects)]
        self._blocks = 0

    def refs(self, count: int) -> list[BlockRef]:
        """Blocks of which some have been used before."""
        made = []
        for _ in range(count):
            number = self.rng.randrange(self._blocks + 1) if self.rng.random() < 0.2 else self._blocks
            self._blocks = max(self._blocks, number + 1)
            made.append(self.store.block(number, 10 + number % 50))
        return made

    def step(self) -> None:
        """An update: most commit, some abort, a few are refused."""
        rng = self.rng
        tag = rng.choice(self.tags)
        aguid = names.aguid(OWNER, tag)
        many = rng.choice([1, 1, 2, 5, 70, 300])
        runs = to_runs(self.refs(many))
        actions: list[u.Action] = [
            u.Write(runs),
            u.Append(runs),
            u.Append(runs),
            u.Append(runs),
            u.InsertBlocks(rng.randrange(3), runs),
            u.ReplaceBlocks(rng.randrange(5), 1, runs),
            u.DeleteBlocks(rng.randrange(5), rng.randrange(1, 40)),
            u.Truncate(rng.randrange(2000)),
            u.Delete(),
            u.SetMetadata(None),
        ]
        when: list[u.Predicate] = [u.VersionIs(10**6)] if rng.random() < 0.1 else []
        asked = update(Clause(when, [rng.choice(actions)]), founding=Founding(tag, BLOCK_SIZE), aguid=aguid)
        self.store.run(asked, STRANGER if rng.random() < 0.05 else OWNER)

    def disk(self) -> MemoryDisk:
        """All of it as a server's disk, without blocks that no version uses."""
        disk = MemoryDisk()
        disk.write(Write(table, key, value) for (table, key), value in self.store.tables.items())
        used = used_blocks(disk)
        for key in [key for key in disk.tables.get(tables.BLOCKS, {}) if key not in used]:
            disk.write([Write(tables.BLOCKS, key, None)])
        return disk


def used_blocks(disk: MemoryDisk) -> set[bytes]:
    nodes = disk.tables.get(tables.NODES, {})
    found: set[bytes] = set()
    seen: set[bytes] = set()
    for value in disk.tables.get(tables.VERSIONS, {}).values():
        content = decode_version_root(value).content
        if content.guid not in seen:
            found |= {ref.bguid for _, ref in tree.refs(content, lambda guid: nodes[guid])}
            seen.add(content.guid or b"")
    return found


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


def long_history(count: int, every: int) -> tuple[dict[bytes, bytes], MemoryDisk]:
    """An object of `count` outcomes of which every so many-th commits a version with one block more."""
    aguid = b"a" * 32
    disk = MemoryDisk()
    store = Store()
    history = MountainRange.empty()
    content, number = tree.EMPTY, 0
    previous: bytes | None = None
    for index in range(count):
        commits = index % every == 0
        if commits:
            ref = store.block(index, 100)
            content, nodes = tree.splice(content, content.blocks, 0, [ref], lambda guid: disk.tables["nodes"][guid])
            number += 1
            disk.write(Write(tables.NODES, guid, node) for guid, node in nodes.items())
            disk.write([Write(tables.BLOCKS, ref.bguid, store.tables[tables.BLOCKS, ref.bguid])])
            root = VersionRoot(
                aguid=aguid,
                number=number,
                block_size=BLOCK_SIZE,
                content=content,
                previous=previous,
                update=b"u" * 32,
                time=index,
                acl_version=0,
                metadata=None,
                history=HistoryRoot(history.count, history.root),
                deleted=False,
            )
            previous = root.digest()
            where = tables.number_key(aguid, number)
            disk.write([Write(tables.VERSIONS, previous, root.encode())])
            disk.write([Write(tables.NUMBERS, where, tables.number_value(index, previous))])
        outcome = Outcome(
            aguid=aguid,
            index=index,
            update=b"u" * 32,
            writer=OWNER,
            status=Status.COMMITTED if commits else Status.ABORTED,
            clause=0 if commits else None,
            reason=None if commits else Reason.NO_CLAUSE_HOLDS,
            number=number,
            vguid=previous,
            size_bytes=content.size_bytes,
            time=index,
        ).encode()
        history, nodes_of_range = history.append(leaf_hash(outcome))
        disk.write([Write(tables.OUTCOMES, tables.outcome_key(aguid, index), outcome)])
        disk.write(
            Write(tables.RANGES, tables.range_key(aguid, level, place), node) for level, place, node in nodes_of_range
        )
    disk.sync()
    assert previous is not None
    record = ObjectRecord(
        owner=OWNER, number=number, vguid=previous, deleted=False, block_size=BLOCK_SIZE, history=history
    )
    return {state_key(Kind.OBJECT, aguid): record.encode()}, disk


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
    entries, there = long_history(100_000, 40)
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
    assert asked == 100_000 - 66_000


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


class RottenDisk(MemoryDisk):
    """Some values are not what was written."""

    def __init__(self, tables: dict[str, dict[bytes, bytes]], rotten: set[tuple[str, bytes]]) -> None:
        super().__init__()
        self.tables = tables
        self.rotten = rotten

    def get(self, table: str, key: bytes) -> bytes | None:
        if (table, key) in self.rotten:
            raise StorageRotten(table, key)
        return super().get(table, key)


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

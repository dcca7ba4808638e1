"""Histories of objects as a server's tables, for tests: random ones, long ones, and disks that are rotten."""

from __future__ import annotations

import random

from bft.effects import Write
from bft.merkle import MountainRange, leaf_hash
from bft.state_tree import Kind, state_key
from pond.errors import StorageRotten
from pond.model import names, tables, tree
from pond.model import update as u
from pond.model.block import BlockRef, to_runs
from pond.model.update import Clause, Founding
from pond.model.version import History as HistoryRoot
from pond.model.version import ObjectRecord, Outcome, Reason, Status, VersionRoot, decode_version_root
from tests.unit.bft.ring import MemoryDisk
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

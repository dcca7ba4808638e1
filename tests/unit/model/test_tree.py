"""The tree of block references against a plain list, and nodes as a hostile server may send them."""

from __future__ import annotations

import random
from hashlib import sha256
from itertools import accumulate

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bft import statement
from pond.model import tree
from pond.model.block import BlockRef
from pond.model.tree import EMPTY, TreeError, TreeRoot

FAN_OUT = 64
MIN_CHILDREN = 32


def ref(number: int, length: int = 1) -> BlockRef:
    return BlockRef(sha256(b"%d" % number).digest(), length, 0, bytes(32), number)


def make_refs(first: int, count: int) -> list[BlockRef]:
    return [ref(number, 1 + number % 7) for number in range(first, first + count)]


class Pair:
    """A tree and the list it stands for, edited together."""

    def __init__(self) -> None:
        self.nodes: dict[bytes, bytes] = {}
        self.root = EMPTY
        self.model: list[BlockRef] = []
        self.loads = 0
        self.fresh = 0

    def load(self, guid: bytes) -> bytes:
        self.loads += 1
        return self.nodes[guid]

    def _take(self, result: tuple[TreeRoot, dict[bytes, bytes]]) -> None:
        self.root, new = result
        self.nodes |= new
        self.fresh = len(new)

    def splice(self, index: int, delete: int, refs: list[BlockRef]) -> None:
        self._take(tree.splice(self.root, index, delete, refs, self.load))
        self.model[index : index + delete] = refs

    def truncate(self, size: int) -> None:
        self._take(tree.truncate(self.root, size, self.load))
        kept: list[BlockRef] = []
        for each in self.model:
            if size <= 0:
                break
            kept.append(BlockRef(each.bguid, min(each.length, size), each.epoch, each.salt, each.counter))
            size -= each.length
        self.model = kept

    def check_all(self) -> None:
        found = list(tree.refs(self.root, self.load))
        assert [each for _, each in found] == self.model
        lengths = [each.length for each in self.model]
        assert [offset for offset, _ in found] == list(accumulate(lengths, initial=0))[:-1]
        assert self.root.blocks == len(self.model)
        assert self.root.size_bytes == sum(each.length for each in self.model)
        self.check_shape()

    def check_shape(self) -> None:
        """Nodes are at least half full but for the last of each level, and the root is no needless level."""
        if self.root.guid is None:
            assert self.root == EMPTY
            return
        levels: dict[int, list[int]] = {}
        for node, data in tree.walk(self.root, self.load):
            levels.setdefault(node.height, []).append(len(msgpack.unpackb(data)[3]))
        assert sorted(levels) == list(range(1, self.root.height + 1))
        for counts in levels.values():
            assert max(counts) <= FAN_OUT
            assert min(counts[:-1], default=FAN_OUT) >= MIN_CHILDREN
        if self.root.height > 1:
            assert levels[self.root.height][0] >= 2
            assert self.root.blocks > MIN_CHILDREN ** (self.root.height - 1)


COUNTS = [0, 1, 2, 31, 32, 33, 63, 64, 65, 95, 96, 97, 127, 128, 129, 191, 192, 193]


@pytest.mark.parametrize("count", [*COUNTS, 64 * 31, 64 * 32, 64 * 64 - 1, 64 * 64, 64 * 64 + 1, 64 * 64 * 2 + 65])
def test_bulk(count: int) -> None:
    pair = Pair()
    pair.splice(0, 0, make_refs(0, count))
    pair.check_all()
    assert pair.root.height == (0 if count == 0 else 1 if count <= 64 else 2 if count <= 4096 else 3)


@pytest.mark.parametrize("count", COUNTS)
def test_bulk_and_one_by_one_give_the_same_tree(count: int) -> None:
    pair, other = Pair(), Pair()
    pair.splice(0, 0, make_refs(0, count))
    for number in range(count):
        other.splice(number, 0, make_refs(number, 1))
    assert pair.root == other.root


def test_appends_leave_full_nodes_alone() -> None:
    pair = Pair()
    for number in range(64 * 65 + 3):
        pair.splice(number, 0, make_refs(number, 1))
        assert pair.fresh <= pair.root.height
    sizes = [node.blocks for node, _ in tree.walk(pair.root, pair.load) if node.height == 1]
    assert sizes == [64] * 65 + [3]
    pair.check_all()


@pytest.mark.parametrize("before", COUNTS)
@pytest.mark.parametrize("insert", [0, 1, 32, 64, 65, 200])
def test_every_edge(before: int, insert: int) -> None:
    for index in {0, 1, 31, 32, 33, 63, 64, 65, before // 2, before - 1, before}:
        for delete in {0, 1, 32, 63, 64, 65, before - index}:
            if index < 0 or delete < 0 or index + delete > before:
                continue
            pair = Pair()
            pair.splice(0, 0, make_refs(0, before))
            pair.splice(index, delete, make_refs(10_000, insert))
            pair.check_all()


@settings(max_examples=80)
@given(
    st.integers(0, 20_000),
    st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1), st.one_of(st.integers(0, 5), st.integers(0, 300)), st.booleans()),
        max_size=12,
    ),
)
def test_random_edits(start: int, edits: list[tuple[float, float, int, bool]]) -> None:
    pair = Pair()
    start = start % 6000
    pair.splice(0, 0, make_refs(0, start))
    number = 100_000
    for where, share, insert, truncates in edits:
        if truncates and share > 0.5:
            pair.truncate(int(where * pair.root.size_bytes))
            continue
        index = int(where * len(pair.model))
        delete = int(share**4 * (len(pair.model) - index))
        pair.splice(index, delete, make_refs(number, insert))
        number += insert
    pair.check_all()


@pytest.mark.parametrize("seed", range(6))
def test_many_small_edits_keep_the_depth(seed: int) -> None:
    rng = random.Random(seed)
    pair = Pair()
    pair.splice(0, 0, make_refs(0, 9000))
    for step in range(250):
        index = rng.randrange(len(pair.model) + 1)
        delete = min(rng.choice([0, 1, 1, 2, 40]), len(pair.model) - index)
        pair.loads = 0
        insert = make_refs(10_000 + step, rng.choice([0, 1, 1, 2, 40]))
        pair.splice(index, delete, insert)
        assert pair.fresh <= 7 * max(pair.root.height, 1)
        assert pair.loads <= 9 * 3
        if step % 50 == 0:
            pair.check_all()
    pair.check_all()
    assert pair.root.height <= 3


@pytest.mark.parametrize("from_front", [True, False])
def test_shrinking_collapses_the_root(from_front: bool) -> None:
    pair = Pair()
    pair.splice(0, 0, make_refs(0, 64 * 64 + 200))
    while pair.model:
        pair.splice(0 if from_front else max(len(pair.model) - 37, 0), min(37, len(pair.model)), [])
        pair.check_shape()
        assert len(pair.model) == pair.root.blocks
    assert pair.root == EMPTY


@given(st.integers(1, 500), st.integers(0, 4000), st.integers(0, 4000))
def test_ranges(count: int, start: int, stop: int) -> None:
    pair = Pair()
    pair.splice(0, 0, make_refs(0, count))
    expected, offset = [], 0
    for each in pair.model:
        if offset < stop and offset + each.length > start and start < stop:
            expected.append((offset, each))
        offset += each.length
    pair.loads = 0
    assert list(tree.refs(pair.root, pair.load, start, stop)) == expected
    assert pair.loads <= 1 + (len(expected) + 63) // 64 + 1


def test_refs_are_lazy() -> None:
    pair = Pair()
    pair.splice(0, 0, make_refs(0, 64 * 64))
    pair.loads = 0
    next(tree.refs(pair.root, pair.load))
    assert pair.loads == 2


@pytest.mark.parametrize("count", COUNTS)
def test_block_at(count: int) -> None:
    pair = Pair()
    pair.splice(0, 0, make_refs(0, count))
    assert [tree.block_at(pair.root, i, pair.load) for i in range(count)] == pair.model
    assert tree.block_at(pair.root, count, pair.load) is None
    assert tree.block_at(pair.root, -1, pair.load) is None


@pytest.mark.parametrize("count", [1, 3, 64, 65, 300])
def test_truncate_at_every_byte(count: int) -> None:
    whole = Pair()
    whole.splice(0, 0, make_refs(0, count))
    for size in range(whole.root.size_bytes + 1):
        pair = Pair()
        pair.nodes, pair.root, pair.model = dict(whole.nodes), whole.root, list(whole.model)
        pair.truncate(size)
        assert pair.root.size_bytes == size
        if count < 100 or size % 40 == 0:
            pair.check_all()


def test_impossible_edits() -> None:
    pair = Pair()
    pair.splice(0, 0, make_refs(0, 10))
    for index, delete in [(-1, 0), (11, 0), (0, 11), (10, 1), (5, -1), (2**70, 2**70)]:
        with pytest.raises(IndexError):
            tree.splice(pair.root, index, delete, [ref(1)], pair.load)
    for size in (-1, pair.root.size_bytes + 1, 2**80):
        with pytest.raises(IndexError):
            tree.truncate(pair.root, size, pair.load)
    huge = TreeRoot(bytes(32), 2**41, tree.MAX_BLOCKS, 8)
    with pytest.raises(OverflowError):
        tree.splice(huge, 0, 0, [ref(1)], pair.load)


def test_nothing_to_do_loads_nothing() -> None:
    root = TreeRoot(bytes(32), 10, 10, 1)
    assert tree.splice(root, 3, 0, [], _never) == (root, {})
    assert tree.truncate(root, 10, _never) == (root, {})


def _never(guid: bytes) -> bytes:
    raise AssertionError(guid)


# --- hostile nodes -----------------------------------------------------------------------------------------------


def readers(root: TreeRoot, load: tree.Load) -> list[type[Exception] | None]:
    """What each way to read the tree makes of it."""
    results: list[type[Exception] | None] = []
    for read in (
        lambda: list(tree.refs(root, load)),
        lambda: list(tree.walk(root, load)),
        lambda: tree.block_at(root, 0, load),
        lambda: tree.splice(root, 0, 0, [ref(1)], load),
        lambda: tree.truncate(root, 1, load),
    ):
        try:
            read()
            results.append(None)
        except TreeError as error:
            results.append(type(error))
    return results


@pytest.mark.parametrize("count", [3, 70])
def test_a_changed_node_is_refused(count: int) -> None:
    pair = Pair()
    pair.splice(0, 0, make_refs(0, count))
    assert pair.root.guid is not None
    data = pair.nodes[pair.root.guid]
    for i in range(len(data)):
        changed = data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :]
        with pytest.raises(TreeError):
            list(tree.refs(pair.root, lambda _, changed=changed: changed))  # type: ignore[misc]


def lie(*node: object) -> tuple[bytes, dict[bytes, bytes]]:
    data = statement.encode("pond.node", 1, *node)
    return statement.digest(data), {statement.digest(data): data}


REF = [bytes(32), 5, 0, bytes(32), 0]


@pytest.mark.parametrize(
    "node",
    [
        (1, []),
        (1, [REF] * 65),
        (1, [[bytes(31), 5, 0, bytes(32), 0]]),
        (1, [[bytes(32), 0, 0, bytes(32), 0]]),
        (1, [[bytes(32), -5, 0, bytes(32), 0]]),
        (1, [[bytes(32), 2**22 + 1, 0, bytes(32), 0]]),
        (1, [[bytes(32), 5, 0, bytes(32), 2**63]]),
        (1, [[bytes(32), 5, 0, bytes(32), 0, 0]]),
        (1, [[bytes(32), 5, 0, bytes(32)]]),
        (1, [[bytes(32), 5.0, 0, bytes(32), 0]]),
        (1, [[bytes(32), True, 0, bytes(32), 0]]),
        (1, [REF], 0),
        (1, [REF, REF]),
        (2, [REF]),
        (2, [[bytes(32), 5, 1]]),
        (0, [REF]),
        (True, [REF]),
        (1,),
        (),
    ],
)
def test_malformed_leaves_with_a_right_name(node: tuple[object, ...]) -> None:
    guid, nodes = lie(*node)
    assert readers(TreeRoot(guid, 5, 1, 1), nodes.__getitem__) == [TreeError] * 5


@pytest.mark.parametrize(
    "children",
    [
        [[bytes(32), 5, 1]],
        [[bytes(32), 2, 3], [bytes(32), 8, 2]],
        [[bytes(32), 10, 5], [bytes(32), 0, 0]],
        [[bytes(32), 11, 5], [bytes(32), -1, 0]],
        [[bytes(32), 10, 4]],
        [[bytes(32), 9, 5]],
        [],
        [[bytes(32), 1, 1]] * 65,
    ],
)
def test_malformed_inner_nodes_with_a_right_name(children: list[object]) -> None:
    guid, nodes = lie(2, children)
    assert readers(TreeRoot(guid, 10, 5, 2), nodes.__getitem__) == [TreeError] * 5


def test_a_node_that_is_its_own_child_cannot_be_deep() -> None:
    for height in (0, 9, 64, 2**62):
        assert readers(TreeRoot(bytes(32), 10, 5, height), _never) == [TreeError] * 5
    leaf, nodes = lie(1, [REF])
    inner, more = lie(3, [[leaf, 5, 1]])
    nodes |= more
    assert readers(TreeRoot(inner, 5, 1, 3), nodes.__getitem__)[0] is TreeError


@pytest.mark.parametrize("height", [3, 4, 8])
def test_an_inner_node_of_another_height(height: int) -> None:
    guid, nodes = lie(height, [[bytes(32), 5, 1]])
    with pytest.raises(TreeError, match="another height"):
        tree.open_inner(TreeRoot(guid, 5, 1, 2), nodes[guid])


@pytest.mark.parametrize(
    "root",
    [
        TreeRoot(None, 1, 0, 0),
        TreeRoot(None, 0, 1, 0),
        TreeRoot(None, 0, 0, 1),
        TreeRoot(bytes(32), 0, 0, 0),
        TreeRoot(bytes(32), 0, 1, 1),
        TreeRoot(bytes(32), 1, 0, 1),
        TreeRoot(bytes(32), 2**62, 2**41, 8),
    ],
)
def test_impossible_roots(root: TreeRoot) -> None:
    with pytest.raises(TreeError):
        tree.check_root(root)


def test_not_canonical() -> None:
    data = msgpack.packb(["pond.node", 1, 1, [REF]])
    wide = data.replace(b"\x05", b"\xcc\x05", 1)
    assert msgpack.unpackb(wide) == msgpack.unpackb(data)
    guid = statement.digest(wide)
    with pytest.raises(TreeError, match="canonical"):
        tree.open_leaf(TreeRoot(guid, 5, 1, 1), wide)


@given(st.binary(max_size=200))
def test_arbitrary_bytes(data: bytes) -> None:
    guid = statement.digest(data)
    for height, read in ((1, tree.open_leaf), (2, tree.open_inner)):
        with pytest.raises(TreeError):
            read(TreeRoot(guid, 5, 1, height), data)

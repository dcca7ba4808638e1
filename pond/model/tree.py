"""Content as a counted B+-tree of block references, copied on write (design.md, 4).

A leaf node (height 1) holds references, an inner node its children's GUIDs with the bytes and blocks below each, so a
splice anywhere rewrites O(log n) nodes and no block. Nodes are public, canonical statements that servers build alike
at execution; a node's GUID is its SHA-256, so the root's GUID commits to the whole content.

Every node but the last of its level has 32 to 64 children, which keeps the depth logarithmic under any edits. The last
one may have fewer: content that only grows fills each node to 64 and then never touches it again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Literal, TypeAlias

import msgspec

from bft.statement import digest
from bft.types import Natural
from pond.model.block import BlockRef
from pond.model.stored import Codec, Stored
from tapestry.guid import GUID

FAN_OUT = 64
MIN_CHILDREN = FAN_OUT // 2

MAX_BLOCKS = 2**40
"""Blocks of one object at most."""

MAX_HEIGHT = 8
"""No tree is higher: one of height h has nodes half full on its left edge, so more than 32**(h - 1) blocks."""

Load: TypeAlias = Callable[[GUID], bytes]
"""Bytes of the node with this GUID, from whoever has them; what it raises passes through."""


class TreeError(ValueError):
    """A node that is not what its parent says it is."""


class TreeRoot(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A subtree: the GUID of its node, bytes and blocks of content below, and height. Empty content has no node."""

    guid: GUID | None
    size_bytes: Natural
    blocks: Natural
    height: Natural


EMPTY = TreeRoot(None, 0, 0, 0)


class Child(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A node as its parent states it."""

    guid: GUID
    size_bytes: Natural
    blocks: Natural


class LeafNode(Stored, frozen=True, kw_only=True, tag="pond.node"):
    """References of consecutive blocks."""

    height: Literal[1] = 1
    children: Annotated[list[BlockRef], msgspec.Meta(min_length=1, max_length=FAN_OUT)]


class InnerNode(Stored, frozen=True, kw_only=True, tag="pond.node"):
    """Consecutive nodes of the height below."""

    height: Annotated[int, msgspec.Meta(ge=2, le=MAX_HEIGHT)]
    children: Annotated[list[Child], msgspec.Meta(min_length=1, max_length=FAN_OUT)]


_leaves = Codec(LeafNode, "a leaf node of a tree", TreeError)
_inners = Codec(InnerNode, "an inner node of a tree", TreeError)


def check_root(root: TreeRoot) -> None:
    """Raises TreeError for a root that no tree has, whatever its nodes may be."""
    if root.guid is None:
        if root != EMPTY:
            raise TreeError("a tree without a node that is not empty")
    elif not (1 <= root.height <= MAX_HEIGHT and 1 <= root.blocks <= min(root.size_bytes, MAX_BLOCKS)):
        raise TreeError(f"no tree has height {root.height}, {root.blocks} blocks and {root.size_bytes} bytes")


def open_leaf(root: TreeRoot, data: bytes) -> list[BlockRef]:
    """The references in the leaf node `root`, as sent by anybody. Raises TreeError unless all is as `root` says."""
    _check_name(root, data)
    children = _leaves.decode(data).children
    _check_sums(root, 1, sum(ref.length for ref in children), len(children))
    return children


def open_inner(root: TreeRoot, data: bytes) -> list[TreeRoot]:
    """The children of the inner node `root`, as sent by anybody. Raises TreeError unless all is as `root` says."""
    _check_name(root, data)
    node = _inners.decode(data)
    children = [TreeRoot(child.guid, child.size_bytes, child.blocks, root.height - 1) for child in node.children]
    _check_sums(root, node.height, sum(c.size_bytes for c in children), sum(c.blocks for c in children))
    for child in children:
        check_root(child)
    return children


def _check_name(root: TreeRoot, data: bytes) -> None:
    if digest(data) != root.guid:
        raise TreeError(f"what was sent as node {_name(root).hex()} is something else")


def _check_sums(root: TreeRoot, height: int, size_bytes: int, blocks: int) -> None:
    if (height, size_bytes, blocks) != (root.height, root.size_bytes, root.blocks):
        raise TreeError(f"node {_name(root).hex()} has another height, size or number of blocks than its parent says")


# --- reading -----------------------------------------------------------------------------------------------------


def refs(root: TreeRoot, load: Load, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, BlockRef]]:
    """(offset in bytes, reference) of each block that has bytes in start <= offset < stop; loads nodes as it goes.

    Raises TreeError for nodes that are not those of the tree.
    """
    check_root(root)
    stop = root.size_bytes if stop is None else min(stop, root.size_bytes)
    if root.guid is None or start >= stop:
        return
    stack = [(0, root)]
    while stack:
        offset, node = stack.pop()
        if offset + node.size_bytes <= start or offset >= stop:
            continue
        data = load(_name(node))
        if node.height > 1:
            below = []
            for child in open_inner(node, data):
                below.append((offset, child))
                offset += child.size_bytes
            stack.extend(reversed(below))
            continue
        for ref in open_leaf(node, data):
            if offset >= stop:
                return
            if offset + ref.length > start:
                yield offset, ref
            offset += ref.length


def block_at(root: TreeRoot, index: int, load: Load) -> BlockRef | None:
    """Reference of block `index`, counted from 0, or None beyond the last. Raises TreeError."""
    check_root(root)
    if not 0 <= index < root.blocks:
        return None
    node = root
    while node.height > 1:
        for child in open_inner(node, load(_name(node))):
            if index < child.blocks:
                node = child
                break
            index -= child.blocks
    return open_leaf(node, load(_name(node)))[index]


def walk(root: TreeRoot, load: Load) -> Iterator[tuple[TreeRoot, bytes]]:
    """(subtree, bytes of its node) for every node, each before its children, from left to right. Raises TreeError."""
    check_root(root)
    stack = [root] if root.guid is not None else []
    while stack:
        node = stack.pop()
        data = load(_name(node))
        if node.height > 1:
            stack.extend(reversed(open_inner(node, data)))
        else:
            open_leaf(node, data)
        yield node, data


def _name(node: TreeRoot) -> GUID:
    assert node.guid is not None, "the empty tree has no node"
    return node.guid


# --- changing ----------------------------------------------------------------------------------------------------


class _Fresh:
    """A node that does not exist yet: it gets its GUID when the whole splice is done, if it is still there then."""

    __slots__ = ("blocks", "children", "height", "size_bytes")

    def __init__(self, height: int, children: "Sequence[_Item]") -> None:
        self.height = height
        self.children = children
        self.size_bytes = sum(_size_bytes(child) for child in children)
        self.blocks = sum(_blocks(child) for child in children)


_Node: TypeAlias = TreeRoot | _Fresh
_Item: TypeAlias = TreeRoot | _Fresh | BlockRef


def splice(
    root: TreeRoot, index: int, delete: int, insert: Sequence[BlockRef], load: Load
) -> tuple[TreeRoot, dict[GUID, bytes]]:
    """The tree with `delete` blocks from block `index` on replaced by `insert`, and the nodes that are new in it.

    Raises IndexError when these blocks are not all there, TreeError for nodes that are not those of the tree, and
    OverflowError when the tree would have more than MAX_BLOCKS.
    """
    check_root(root)
    if index < 0 or delete < 0 or index + delete > root.blocks:
        raise IndexError(f"no blocks {index} to {index + delete} among {root.blocks}")
    if root.blocks - delete + len(insert) > MAX_BLOCKS:
        raise OverflowError(f"an object has at most {MAX_BLOCKS} blocks")
    if not delete and not insert:
        return root, {}
    old: set[GUID] = set()

    def remember(guid: GUID) -> bytes:
        old.add(guid)
        return load(guid)

    top = _splice(root, index, delete, insert, remember)
    if top is None:
        return EMPTY, {}
    new: dict[GUID, bytes] = {}
    result = _save(top, new)
    check_root(result)
    return result, {guid: data for guid, data in new.items() if guid not in old}


def _splice(root: TreeRoot, index: int, delete: int, insert: Sequence[BlockRef], load: Load) -> "_Node | None":
    if delete == root.blocks:
        level: list[_Item] = list(_pack(1, insert, last=True))
    else:
        level = list(_edit(root, index, index + delete, insert, True, load))
    height = 1 if delete == root.blocks else root.height
    while len(level) > 1:
        height += 1
        level = list(_make(height, level, True, load))
    if not level:
        return None
    top = level[0]
    assert not isinstance(top, BlockRef)
    while top.height > 1 and len(children := _children(top, load)) == 1:
        only = children[0]
        assert not isinstance(only, BlockRef)
        top = only
    return top


def truncate(root: TreeRoot, size_bytes: int, load: Load) -> tuple[TreeRoot, dict[GUID, bytes]]:
    """The first `size_bytes` of the content, and the nodes that are new in it.

    A block that is cut keeps its ciphertext and gets a shorter length. Raises IndexError beyond the content's size,
    TreeError for nodes that are not those of the tree.
    """
    check_root(root)
    if not 0 <= size_bytes <= root.size_bytes:
        raise IndexError(f"cannot truncate {root.size_bytes} bytes to {size_bytes}")
    if size_bytes == root.size_bytes:
        return root, {}
    index, offset, ref = _locate(root, size_bytes, load)
    keep = size_bytes - offset
    rest = [msgspec.structs.replace(ref, length=keep)] if keep else []
    return splice(root, index, root.blocks - index, rest, load)


def in_use(root: TreeRoot, nodes: Mapping[GUID, bytes]) -> dict[GUID, bytes]:
    """Those of `nodes` that are still part of the tree after several splices, of which each added some."""
    used: dict[GUID, bytes] = {}
    stack = [root]
    while stack:
        node = stack.pop()
        if node.guid is None or node.guid in used or node.guid not in nodes:
            continue
        used[node.guid] = nodes[node.guid]
        if node.height > 1:
            stack.extend(open_inner(node, nodes[node.guid]))
    return used


def _locate(root: TreeRoot, position: int, load: Load) -> tuple[int, int, BlockRef]:
    """Index, offset in bytes and reference of the block that has the byte at `position`, which is in the content."""
    index = offset = 0
    node = root
    while node.height > 1:
        for child in open_inner(node, load(_name(node))):
            if position < offset + child.size_bytes:
                node = child
                break
            offset += child.size_bytes
            index += child.blocks
    for ref in open_leaf(node, load(_name(node))):
        if position < offset + ref.length:
            return index, offset, ref
        offset += ref.length
        index += 1
    raise AssertionError(f"our fault: no byte {position} in {root}")


def _edit(node: _Node, start: int, stop: int, insert: Sequence[BlockRef], last: bool, load: Load) -> list[_Fresh]:
    """Nodes of the same height for `node` with its blocks start to stop replaced: none when nothing is left.

    Each has enough children unless it is the only one, or stands at the right edge of the tree (`last`).
    """
    if start == 0 and stop == node.blocks and not insert:
        return []
    children = _children(node, load)
    if node.height == 1:
        return _pack(1, [*children[:start], *insert, *children[stop:]], last)
    # The first child that holds block `start`, or ends there: what is appended fills it first.
    ends: list[int] = []
    for child in children:
        ends.append((ends[-1] if ends else 0) + _blocks(child))
    first = next(i for i, end in enumerate(ends) if start <= end)
    final = next(i for i, end in enumerate(ends) if stop <= end)
    begin = ends[first - 1] if first else 0
    right: list[_Item] = list(children[final + 1 :])
    if final != first:
        remainder = children[final]
        assert not isinstance(remainder, BlockRef)
        right = [*_edit(remainder, 0, stop - ends[final - 1], (), last and not right, load), *right]
    changed = children[first]
    assert not isinstance(changed, BlockRef)
    left = _edit(changed, start - begin, min(stop, ends[first]) - begin, insert, last and not right, load)
    return _make(node.height, [*children[:first], *left, *right], last, load)


def _make(height: int, children: list[_Item], last: bool, load: Load) -> list[_Fresh]:
    """Nodes over `children`, of which undersized ones are first merged with a neighbour."""
    i = 0
    while i < len(children) and len(children) > 1:
        child = children[i]
        at_edge = last and i == len(children) - 1
        if not isinstance(child, _Fresh) or len(child.children) >= MIN_CHILDREN or at_edge:
            i += 1
            continue
        i = min(i, len(children) - 2)
        both: list[_Item] = []
        for neighbour in children[i : i + 2]:
            assert not isinstance(neighbour, BlockRef)
            both += _children(neighbour, load)
        children[i : i + 2] = _make(height - 1, both, last and i + 2 == len(children), load)
    return _pack(height, children, last)


def _pack(height: int, children: Sequence[_Item], last: bool) -> list[_Fresh]:
    """Nodes of up to 64 children: at the right edge all but the last are full, elsewhere the last two share evenly."""
    count = len(children)
    cuts = list(range(0, count, FAN_OUT))
    if not last and len(cuts) > 1:
        cuts[-1] = (cuts[-2] + count + 1) // 2
    return [_Fresh(height, children[start:stop]) for start, stop in pairwise([*cuts, count])]


def _children(node: _Node, load: Load) -> Sequence[_Item]:
    if isinstance(node, _Fresh):
        return node.children
    data = load(_name(node))
    return open_leaf(node, data) if node.height == 1 else open_inner(node, data)


def _save(node: _Node, new: dict[GUID, bytes]) -> TreeRoot:
    if not isinstance(node, _Fresh):
        return node
    encoded: Stored
    if node.height == 1:
        encoded = LeafNode(children=[child for child in node.children if isinstance(child, BlockRef)])
    else:
        below = [_save(child, new) for child in node.children if not isinstance(child, BlockRef)]
        encoded = InnerNode(
            height=node.height, children=[Child(_name(child), child.size_bytes, child.blocks) for child in below]
        )
    data = encoded.encode()
    root = TreeRoot(digest(data), node.size_bytes, node.blocks, node.height)
    new[_name(root)] = data
    return root


def _size_bytes(item: _Item) -> int:
    return item.length if isinstance(item, BlockRef) else item.size_bytes


def _blocks(item: _Item) -> int:
    return 1 if isinstance(item, BlockRef) else item.blocks

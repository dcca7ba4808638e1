"""The replicated state as a Merkle radix-16 tree over typed keys: checkpoint digest, and proofs of what is and is not.

Stands where Castro and Liskov, TOCS 2002, section 6.2 have a hierarchy of state partitions. The path of a key is the
nibbles of a hash of it, so nobody shapes the tree without grinding hashes. A leaf sits at the shallowest depth where it
is alone and an inner node has at least two keys below it: the shape follows from the contents, not from their history.

Digests, each over its own tag:

    path   = H(key tag, key)                            64 nibbles, from the high one of the first byte
    leaf   = H(leaf tag, path, H(value tag, value))
    inner  = binary tree over 16 slots, slot 0 leftmost: a node is EMPTY when both children are, else
             H(node tag, left, right)
    root   = EMPTY, or the only leaf, or the inner node at depth 0

A proof of presence carries a value and the siblings up to the root, four to a level. Absence is proved by the empty
slot, or by the other leaf, where the key's leaf would be.

State transfer (section 6.2 there) compares by subtrees. A subtree is what lies under a prefix of paths, one byte for
each nibble; its digest is EMPTY, that of its only leaf wherever that stands, or that of the inner node there.
"""

from binascii import hexlify
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from functools import lru_cache
from hashlib import sha256
from itertools import pairwise
from typing import Annotated, TypeAlias

import msgspec

from bft.statement import Digest

_KEY_TAG = b"bft.state.key\x00"
_VALUE_TAG = b"bft.state.value\x00"
_LEAF_TAG = b"bft.state.leaf\x00"
_NODE_TAG = b"bft.state.node\x00"

EMPTY: Digest = sha256(b"bft.state.empty\x00").digest()
"""Digest of a slot, or of a whole tree, with no key in it."""

MAX_DEPTH = 64
"""Nibbles of a path: no leaf lies deeper."""

_EMPTY_PAIR = EMPTY + EMPTY
_EMPTY_HEAP = EMPTY * 32
_HEX_TO_NIBBLE = bytes.maketrans(b"0123456789abcdef", bytes(range(16)))

_KEPT_HEAP = 6
"""Children from which an inner node keeps its binary tree's hashes. Below it, hashing anew is as fast as copying 1 KiB,
and most inner nodes are below it."""


class Kind(IntEnum):
    """What a key of the state names: its first byte. Numbers are part of the stored format."""

    OBJECT = 1
    SESSION = 2
    ANSWERS = 3
    MEMBERSHIP = 4
    ARCHIVE = 5
    CONFIGURATION = 6


def state_key(kind: Kind, identifier: bytes) -> bytes:
    """The key of one thing of a kind: a byte for the kind, then the identifier."""
    return kind.to_bytes() + identifier


class ProofError(ValueError):
    """A proof that does not prove what it was asked for."""


CHUNK_ITEMS = 64
CHUNK_BYTES = 64 * 1024
"""A subtree of so many items at most is sent whole. Above it, its node is sent: 512 bytes at most, and subtrees that
agree are not sent at all."""

MAX_KEY_BYTES = 512
MAX_VALUE_BYTES = 4 * 1024 * 1024
"""Bounds of what a peer may send as an item."""

Prefix: TypeAlias = Annotated[bytes, msgspec.Meta(max_length=MAX_DEPTH)]
"""The subtree that is meant: the nibbles on the way to it, one in each byte."""


class ChunkError(ValueError):
    """A chunk that is not the subtree it was asked for."""


class Branch(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=0):
    """An inner node: a bit for each slot that is not empty, and these slots' digests in order, 32 bytes each."""

    bitmap: Annotated[int, msgspec.Meta(ge=1, le=0xFFFF)]
    digests: Annotated[bytes, msgspec.Meta(max_length=16 * 32)]


class Items(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """Everything in a small subtree: (key, value), in the order of their paths."""

    items: Annotated[
        list[
            tuple[
                Annotated[bytes, msgspec.Meta(max_length=MAX_KEY_BYTES)],
                Annotated[bytes, msgspec.Meta(max_length=MAX_VALUE_BYTES)],
            ]
        ],
        msgspec.Meta(max_length=CHUNK_ITEMS),
    ]


Chunk: TypeAlias = Branch | Items


class OtherLeaf(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The leaf of another key that stands where the absent key's would: its path, and the hash of its value."""

    path: Digest
    value_hash: Digest


class StateProof(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one key holds in a tree of known root. One statement has exactly one proof.

    `present` has a byte for each inner node on the way, from the deepest up to the root's; bit i (0 to 3) says that the
    sibling at height i of its binary tree is not EMPTY. `siblings` are those digests, 32 bytes each, in that order.
    `end` is the value, or None for an empty slot, or the other leaf that is there instead.
    """

    present: Annotated[bytes, msgspec.Meta(max_length=MAX_DEPTH)]
    siblings: Annotated[bytes, msgspec.Meta(max_length=MAX_DEPTH * 4 * 32)]
    end: bytes | OtherLeaf | None


# Nodes never change and never form cycles, so they stay out of sight of the garbage collector, which saves 16 bytes
# each and, at a hundred thousand keys, its long pauses.


class _Leaf(msgspec.Struct, frozen=True, eq=False, gc=False):
    digest: Digest
    key: bytes
    value: bytes


class _Inner(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A node with at least two keys below it.

    `bitmap` has a bit for each slot that is not empty, `children` those slots' nodes in order. `heap` is the binary
    tree as an array: digest i at byte 32 * i, children of i at 2i and 2i + 1, slots at 16 to 31, top at 1; or None
    when it is made anew for each use.
    """

    digest: Digest
    bitmap: int
    children: "tuple[_Node, ...]"
    heap: bytes | None


_Node: TypeAlias = _Leaf | _Inner
_Change: TypeAlias = tuple[bytes, bytes, bytes | None]
"""(nibbles of the path, key, new value or None)."""


def _path(key: bytes) -> bytes:
    return sha256(_KEY_TAG + key).digest()


def _nibbles(path: bytes) -> bytes:
    """The path as 64 bytes of a nibble each."""
    return hexlify(path).translate(_HEX_TO_NIBBLE)


def _value_hash(value: bytes) -> bytes:
    return sha256(_VALUE_TAG + value).digest()


def _leaf_digest(path: bytes, value_hash: bytes) -> Digest:
    return sha256(_LEAF_TAG + path + value_hash).digest()


def _new_leaf(key: bytes, value: bytes) -> _Leaf:
    return _Leaf(_leaf_digest(_path(key), _value_hash(value)), key, value)


# Hashing


_DIGEST = [slice(32 * position, 32 * position + 32) for position in range(32)]
"""Where a heap holds the digest at a position; slots are positions 16 to 31."""

_STEP = [(_DIGEST[position], slice(64 * position, 64 * position + 64)) for position in range(16)]
"""Where a heap holds the digest of a node of the binary tree, and where those of its two children."""


@lru_cache(maxsize=4096)
def _above(slots: int) -> tuple[tuple[slice, slice], ...]:
    """What to hash after a change of the slots in this bitmap: each node above one of them once, from below."""
    positions = {(16 + slot) >> 1 for slot in _members(slots)}
    above = set(positions)
    while positions:
        positions = {position >> 1 for position in positions if position > 1}
        above |= positions
    return tuple(_STEP[position] for position in sorted(above, reverse=True))


@lru_cache(maxsize=4096)
def _members(bitmap: int) -> tuple[int, ...]:
    return tuple(slot for slot in range(16) if bitmap >> slot & 1)


def _rehash(heap: bytearray, slots: int) -> None:
    """Bring the digests above the slots in this bitmap up to date."""
    for digest, children in _above(slots):
        pair = heap[children]
        heap[digest] = EMPTY if pair == _EMPTY_PAIR else sha256(_NODE_TAG + pair).digest()


def _full_heap(bitmap: int, children: Sequence[_Node]) -> bytearray:
    heap = bytearray(_EMPTY_HEAP)
    for slot, child in zip(_members(bitmap), children, strict=True):
        heap[_DIGEST[16 + slot]] = child.digest
    _rehash(heap, bitmap)
    return heap


def _new_inner(bitmap: int, children: Sequence[_Node], old: _Inner | None, changed: int) -> _Inner:
    """A node; `changed` are its slots that differ from those of `old`, whose heap saves hashing the others."""
    if old is None or old.heap is None:
        heap = _full_heap(bitmap, children)
    else:
        heap = bytearray(old.heap)
        for slot in _members(changed):
            bit = 1 << slot
            heap[_DIGEST[16 + slot]] = children[_place(bitmap, bit)].digest if bitmap & bit else EMPTY
        _rehash(heap, changed)
    kept = bytes(heap) if len(children) >= _KEPT_HEAP else None
    return _Inner(bytes(heap[_DIGEST[1]]), bitmap, tuple(children), kept)


def _place(bitmap: int, bit: int) -> int:
    """Place among the children of the slot with this bit."""
    return (bitmap & (bit - 1)).bit_count()


# Changing


def _build(leaves: list[tuple[bytes, _Leaf]], depth: int) -> _Node | None:
    """The subtree at `depth` of leaves that are sorted by their nibbles and agree in the first `depth` of them."""
    if not leaves:
        return None
    if len(leaves) == 1:
        return leaves[0][1]
    assert depth < MAX_DEPTH, "two keys of the state have one SHA-256 hash"
    groups: dict[int, list[tuple[bytes, _Leaf]]] = {}
    for entry in leaves:
        groups.setdefault(entry[0][depth], []).append(entry)
    bitmap = 0
    children: list[_Node] = []
    for slot, group in groups.items():  # in ascending order, since the leaves are sorted
        child = _build(group, depth + 1)
        assert child is not None
        bitmap |= 1 << slot
        children.append(child)
    return _new_inner(bitmap, children, None, 0)


def _apply(node: _Node | None, changes: list[_Change], depth: int) -> tuple[_Node | None, int]:
    """The subtree after changes that belong below it, sorted by nibbles, and how many keys it gained.

    The same object when nothing differs.
    """
    if type(node) is _Inner:
        return _apply_to_inner(node, changes, depth)
    leaf = node if type(node) is _Leaf else None
    leaves: list[tuple[bytes, _Leaf]] = []
    replaced = leaf is None
    for nibbles, key, value in changes:
        if leaf is not None and key == leaf.key:
            replaced = True
            if value == leaf.value:
                leaves.append((nibbles, leaf))
                continue
        if value is not None:
            leaves.append((nibbles, _new_leaf(key, value)))
    if leaf is not None and not replaced:
        if not leaves:
            return leaf, 0
        leaves.append((_nibbles(_path(leaf.key)), leaf))
        leaves.sort(key=_first)
    return _build(leaves, depth), len(leaves) - (leaf is not None)


def _first(entry: tuple[bytes, _Leaf]) -> bytes:
    return entry[0]


def _apply_to_inner(node: _Inner, changes: list[_Change], depth: int) -> tuple[_Node | None, int]:
    if len(changes) == 1:
        groups = {changes[0][0][depth]: changes}
    else:
        groups = {}
        for change in changes:
            groups.setdefault(change[0][depth], []).append(change)
    bitmap = node.bitmap
    children = list(node.children)
    changed = growth = 0
    for slot, group in groups.items():
        bit = 1 << slot
        place = _place(bitmap, bit)
        before = children[place] if bitmap & bit else None
        after, gained = _apply(before, group, depth + 1)
        growth += gained
        if after is before:
            continue
        changed |= bit
        if before is None:
            assert after is not None
            bitmap |= bit
            children.insert(place, after)
        elif after is None:
            bitmap ^= bit
            del children[place]
        else:
            children[place] = after
    if not changed:
        return node, 0
    if not children:
        return None, growth
    if len(children) == 1 and type(children[0]) is _Leaf:
        return children[0], growth  # alone now, so it rises; the caller asks the same of its own children
    return _new_inner(bitmap, children, node, changed), growth


# Comparing


def _items(node: _Node | None) -> Iterator[tuple[bytes, bytes]]:
    stack: list[_Node] = [node] if node is not None else []
    while stack:
        node = stack.pop()
        if type(node) is _Inner:
            stack.extend(reversed(node.children))
        else:
            assert type(node) is _Leaf
            yield node.key, node.value


def _slots(node: _Node | None, depth: int) -> dict[int, _Node]:
    """The subtrees one level down, by slot; a leaf that stands here is alone in its slot."""
    if type(node) is _Inner:
        return dict(zip(_members(node.bitmap), node.children, strict=True))
    return {_nibbles(_path(node.key))[depth]: node} if type(node) is _Leaf else {}


def _differences(
    here: _Node | None, there: _Node | None, depth: int
) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    if here is there or (here is not None and there is not None and here.digest == there.digest):
        return
    if type(here) is not _Inner and type(there) is not _Inner:
        assert type(here) is not _Inner
        old = dict(_items(here))
        new = dict(_items(there))
        for key in [*old, *(key for key in new if key not in old)]:
            yield key, old.get(key), new.get(key)
        return
    before, after = _slots(here, depth), _slots(there, depth)
    for slot in sorted(before.keys() | after.keys()):
        yield from _differences(before.get(slot), after.get(slot), depth + 1)


class StateTree:
    """An immutable map from keys to values, both bytes, with a root that commits to all of it.

    `update` returns another tree that shares what did not change; the old one stays whole and can still prove.
    """

    __slots__ = ("_count", "_node", "root")

    def __init__(self, _node: _Node | None = None, _count: int = 0) -> None:
        self.root: Digest = EMPTY if _node is None else _node.digest
        """The digest of all keys and values: 32 bytes. Equal contents have equal roots."""
        self._node = _node
        self._count = _count

    @classmethod
    def empty(cls) -> "StateTree":
        """The tree without keys."""
        return cls()

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"StateTree({self._count} keys, root={self.root.hex()})"

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        leaf = self._descend(_nibbles(_path(key)))[1]
        return leaf.value if leaf is not None and leaf.key == key else None

    def update(self, changes: Mapping[bytes, bytes | None]) -> "StateTree":
        """The tree with each key set to its value, or without it where the value is None.

        All changes are applied at once, each node on their way hashed once; their order does not matter. Raises
        TypeError for keys or values that are not bytes.
        """
        ordered: list[_Change] = []
        for key, value in changes.items():
            if type(key) is not bytes or (value is not None and type(value) is not bytes):
                raise TypeError("keys and values of the state are bytes")
            ordered.append((_nibbles(_path(key)), key, value))
        if not ordered:
            return self
        ordered.sort(key=lambda change: change[0])
        node, growth = _apply(self._node, ordered, 0)
        return self if node is self._node else StateTree(node, self._count + growth)

    def items(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """(key, value) of every key in a subtree, in the order of their paths; of the whole tree by default."""
        return _items(self._at(prefix))

    def after(self, key: bytes | None) -> tuple[bytes, bytes] | None:
        """(key, value) of the first key whose path lies above that of `key`, of the first of all for None."""
        if key is None:
            return next(self.items(), None)
        nibbles = _nibbles(_path(key))
        way, leaf = self._descend(nibbles)
        if leaf is not None and _nibbles(_path(leaf.key)) > nibbles:
            return leaf.key, leaf.value
        for node, slot in reversed(way):
            later = node.children[(node.bitmap & ((2 << slot) - 1)).bit_count() :]
            if later:
                return next(_items(later[0]))
        return None

    def digest_at(self, prefix: bytes) -> Digest:
        """Digest of a subtree: equal for equal contents, whatever lies beside it."""
        node = self._at(prefix)
        return EMPTY if node is None else node.digest

    def chunk(self, prefix: bytes) -> Chunk:
        """A subtree as a peer may ask for it: all its items when they are few, else its node."""
        node = self._at(prefix)
        items: list[tuple[bytes, bytes]] = []
        size = 0
        for key, value in _items(node):
            items.append((key, value))
            size += len(key) + len(value)
            if type(node) is _Inner and (len(items) > CHUNK_ITEMS or size > CHUNK_BYTES):
                return Branch(node.bitmap, b"".join(child.digest for child in node.children))
        return Items(items)

    def differences(self, other: "StateTree") -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
        """(key, value here or None, value there or None) of every key that the trees do not agree on.

        Passes over subtrees that agree, so it takes time for what differs and no memory for it.
        """
        return _differences(self._node, other._node, 0)

    def _at(self, prefix: bytes) -> _Node | None:
        node = self._node
        for depth, slot in enumerate(prefix):
            if type(node) is not _Inner:
                assert node is None or type(node) is _Leaf
                return (
                    node if node is not None and _nibbles(_path(node.key))[depth:].startswith(prefix[depth:]) else None
                )
            bit = 1 << slot
            node = node.children[_place(node.bitmap, bit)] if node.bitmap & bit else None
        return node

    def prove(self, key: bytes) -> StateProof:
        """The proof of what `key` holds in this tree, or that it holds nothing: see `verify_proof`."""
        way, leaf = self._descend(_nibbles(_path(key)))
        present = bytearray()
        siblings: list[bytes] = []
        for node, slot in reversed(way):
            heap = node.heap or bytes(_full_heap(node.bitmap, node.children))
            flags = 0
            for height in range(4):
                sibling = heap[_DIGEST[((16 + slot) >> height) ^ 1]]
                if sibling != EMPTY:
                    flags |= 1 << height
                    siblings.append(sibling)
            present.append(flags)
        end: bytes | OtherLeaf | None = None
        if leaf is not None:
            end = leaf.value if leaf.key == key else OtherLeaf(_path(leaf.key), _value_hash(leaf.value))
        return StateProof(bytes(present), b"".join(siblings), end)

    def _descend(self, nibbles: bytes) -> tuple[list[tuple[_Inner, int]], _Leaf | None]:
        """The inner nodes on the way along a path, from the root, each with the slot taken, and the leaf at its end."""
        way: list[tuple[_Inner, int]] = []
        node = self._node
        while type(node) is _Inner:
            slot = nibbles[len(way)]
            way.append((node, slot))
            bit = 1 << slot
            node = node.children[_place(node.bitmap, bit)] if node.bitmap & bit else None
        return way, node if type(node) is _Leaf else None


def open_branch(expected: Digest, branch: Branch) -> list[Digest]:
    """The digests of a branch's 16 slots, EMPTY where there is nothing. Raises ChunkError unless they hash to
    `expected`, which then no other branch does."""
    if len(branch.digests) != 32 * branch.bitmap.bit_count():
        raise ChunkError("a branch has as many digests as bits")
    heap = bytearray(_EMPTY_HEAP)
    for place, slot in enumerate(_members(branch.bitmap)):
        digest = branch.digests[_DIGEST[place]]
        if digest == EMPTY:
            raise ChunkError("a branch with a slot that is flagged though empty")
        heap[_DIGEST[16 + slot]] = digest
    _rehash(heap, branch.bitmap)
    if heap[_DIGEST[1]] != expected:
        raise ChunkError("a branch that hashes to something else")
    return [bytes(heap[_DIGEST[16 + slot]]) for slot in range(16)]


def open_items(expected: Digest, prefix: bytes, items: Items) -> dict[bytes, bytes]:
    """The items of a subtree. Raises ChunkError unless they are in order and hash to `expected`."""
    leaves = [(_nibbles(_path(key)), _new_leaf(key, value)) for key, value in items.items]
    if any(first[0] >= second[0] for first, second in pairwise(leaves)):
        raise ChunkError("items out of order, or one of them twice")
    if not all(nibbles.startswith(prefix) for nibbles, _ in leaves):
        raise ChunkError("an item of another subtree")
    node = _build(leaves, len(prefix))
    if (EMPTY if node is None else node.digest) != expected:
        raise ChunkError("items that hash to something else")
    return dict(items.items)


def verify_proof(root: Digest, key: bytes, proof: StateProof) -> bytes | None:
    """The value that `key` holds in the tree of this root, or None when it is proved to hold none.

    Hashes the value and at most 256 nodes. Raises ProofError for everything that does not prove, also for a proof of a
    true statement that is not the one that `StateTree.prove` makes: siblings sent though EMPTY, unused bits.
    """
    depth = len(proof.present)
    if depth > MAX_DEPTH or max(proof.present, default=0) > 15:
        raise ProofError("malformed proof: levels")
    if len(proof.siblings) != 32 * sum(map(int.bit_count, proof.present)):
        raise ProofError("malformed proof: as many siblings as are flagged")
    if depth and proof.present[0] == 0:
        raise ProofError("malformed proof: an inner node with one key below it")
    path = _path(key)
    nibbles = _nibbles(path)
    value: bytes | None = None
    match proof.end:
        case None:
            digest = EMPTY
        case OtherLeaf(other_path, other_value_hash):
            if len(other_path) != 32 or len(other_value_hash) != 32:
                raise ProofError("malformed proof: sizes")
            if other_path == path or _nibbles(other_path)[:depth] != nibbles[:depth]:
                raise ProofError("the other leaf is not where the key's would be")
            digest = _leaf_digest(other_path, other_value_hash)
        case bytes(value):
            digest = _leaf_digest(path, _value_hash(value))
    if _fold(digest, nibbles[:depth], proof) != root:
        raise ProofError("the proof leads to another root")
    return value


def _fold(digest: bytes, nibbles: bytes, proof: StateProof) -> bytes:
    """The digest at the root, from the one at the end of the way and the siblings of a well-formed proof."""
    siblings = proof.siblings
    start = 0
    for flags, slot in zip(proof.present, reversed(nibbles), strict=True):
        for height in range(4):
            if flags >> height & 1:
                sibling = siblings[start : start + 32]
                start += 32
                if sibling == EMPTY:
                    raise ProofError("malformed proof: a sibling that is empty")
            elif digest == EMPTY:
                continue
            else:
                sibling = EMPTY
            left, right = (sibling, digest) if slot >> height & 1 else (digest, sibling)
            digest = sha256(_NODE_TAG + left + right).digest()
    return digest

"""Merkle trees over lists, as certificate transparency has them, and a mountain range that grows one leaf at a time.

RFC 9162, sections 2.1.1 to 2.1.3: a leaf hashes behind the byte 0, a node behind the byte 1, a list of n splits at the
largest power of two below n, and the empty list has SHA-256 of nothing. Not here: consistency proofs (2.1.4).

A path proves that a leaf is in a list. That it is there at `index` of `count` it proves only when the count is known
to be right, since the root alone does not tell the count: whoever needs the place signs the count beside the root.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Annotated

import msgspec

from bft.statement import Digest
from bft.types import Natural

MAX_COUNT = 2**63 - 1
"""Leaves of the largest list; a path is never longer than its 63 bits."""

EMPTY_ROOT: Digest = sha256(b"").digest()


def leaf_hash(data: bytes) -> Digest:
    """Hash of one leaf."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> Digest:
    """Hash of an inner node over the hashes of its two children."""
    return sha256(b"\x01" + left + right).digest()


def root(leaves: Sequence[bytes]) -> Digest:
    """Root of the tree over `leaves`, which are the data itself, not hashes. RFC 9162, section 2.1.1."""
    level = [leaf_hash(leaf) for leaf in leaves]
    while len(level) > 1:
        level = _level_above(level)
    return level[0] if level else EMPTY_ROOT


def path(leaves: Sequence[bytes], index: int) -> list[Digest]:
    """The siblings from leaf `index` up to the root. RFC 9162, section 2.1.3.1. Raises IndexError outside the list."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"no leaf {index} among {len(leaves)}")
    return _siblings(_levels(leaves), index)


def paths(leaves: Sequence[bytes]) -> list[list[Digest]]:
    """The path of every leaf, in order, hashing each node once."""
    levels = _levels(leaves)
    return [_siblings(levels, index) for index in range(len(leaves))]


def _siblings(levels: list[list[Digest]], index: int) -> list[Digest]:
    siblings: list[Digest] = []
    for level in levels:
        if index ^ 1 < len(level):
            siblings.append(level[index ^ 1])
        index >>= 1
    return siblings


def _levels(leaves: Sequence[bytes]) -> list[list[Digest]]:
    """All levels of the tree, from the leaves' up to the one below the root."""
    levels = [[leaf_hash(leaf) for leaf in leaves]]
    while len(levels[-1]) > 1:
        levels.append(_level_above(levels[-1]))
    return levels


def _level_above(level: list[Digest]) -> list[Digest]:
    # A last node without a sibling rises as it is: the split at the largest power of two, seen from below.
    above = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    if len(level) % 2:
        above.append(level[-1])
    return above


def verify(root: bytes, leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> bool:
    """Whether `path` leads from the data `leaf`, as number `index` of `count`, to `root`. RFC 9162, section 2.1.3.2.

    Hashes the leaf and at most 63 nodes whatever arrives, and never raises for typed input of any content.
    """
    return verify_hash(root, leaf_hash(leaf), index, count, path)


def verify_hash(root: bytes, leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> bool:
    """As `verify`, of a leaf that is already hashed."""
    return root_above(leaf, index, count, path) == root


def root_above(leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> Digest | None:
    """The root that `path` leads to from the hash of a leaf; None when it has not the form of a path from there."""
    if not 0 <= index < count <= MAX_COUNT or len(path) > MAX_COUNT.bit_length():
        return None
    last = count - 1
    digest = leaf
    for sibling in path:
        if last == 0 or len(sibling) != 32:
            return None
        if index & 1 or index == last:
            digest = node_hash(sibling, digest)
            while not index & 1 and index:
                index >>= 1
                last >>= 1
        else:
            digest = node_hash(digest, sibling)
        index >>= 1
        last >>= 1
    return digest if last == 0 else None


class MountainRange(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A list known by the roots of its perfect subtrees, largest and leftmost first: one peak per set bit of `count`.

    Bagged from the right, the peaks give the root of RFC 9162 over the same leaves. One that arrived from elsewhere is
    to be asked whether it is `valid` before anything else.
    """

    count: Natural
    peaks: Annotated[list[Digest], msgspec.Meta(max_length=63)]

    @classmethod
    def empty(cls) -> "MountainRange":
        """The range without leaves."""
        return cls(0, [])

    def valid(self) -> bool:
        """Whether the number and sizes of peaks fit the count. Never raises for a decoded struct."""
        return (
            0 <= self.count <= MAX_COUNT
            and len(self.peaks) == self.count.bit_count()
            and all(len(peak) == 32 for peak in self.peaks)
        )

    @property
    def root(self) -> Digest:
        """Root of the tree over all leaves: equal to `merkle.root` of them."""
        return _bag(self.peaks) if self.peaks else EMPTY_ROOT

    def append(self, leaf: Digest) -> tuple["MountainRange", list[tuple[int, int, Digest]]]:
        """The range with one more leaf, given by its `leaf_hash`, and the nodes that came to be.

        Nodes are (level, index, digest), the leaf itself first: node (level, index) is the root of the perfect tree
        over leaves index * 2**level up to (index + 1) * 2**level. The caller stores them for `inclusion_path`.
        """
        assert self.valid(), f"our fault: {len(self.peaks)} peaks for {self.count} leaves"
        assert self.count < MAX_COUNT, "our fault: a mountain range is full"
        assert len(leaf) == 32, f"our fault: a leaf hash of {len(leaf)} bytes"
        peaks = list(self.peaks)
        level, index, digest = 0, self.count, leaf
        nodes = [(level, index, digest)]
        while index & 1:
            digest = node_hash(peaks.pop(), digest)
            level, index = level + 1, index >> 1
            nodes.append((level, index, digest))
        peaks.append(digest)
        return MountainRange(self.count + 1, peaks), nodes


def _bag(peaks: Sequence[Digest]) -> Digest:
    digest = peaks[-1]
    for peak in reversed(peaks[:-1]):
        digest = node_hash(peak, digest)
    return digest


def inclusion_path(range_: MountainRange, index: int, node: Callable[[int, int], Digest]) -> list[Digest]:
    """The path that `verify` takes for leaf `index` under the range's root.

    `node(level, index)` returns a stored node as `MountainRange.append` named it; it is asked for fewer than 63, each
    below a peak, and what it raises passes through. Raises IndexError for a leaf outside the range.
    """
    assert range_.valid(), f"our fault: {len(range_.peaks)} peaks for {range_.count} leaves"
    if not 0 <= index < range_.count:
        raise IndexError(f"no leaf {index} among {range_.count}")
    # Leaf and count agree in the bits above the mountain that holds the leaf, and there only the count has a one.
    level = (index ^ range_.count).bit_length() - 1
    position = (range_.count >> (level + 1)).bit_count()
    siblings = [node(height, (index >> height) ^ 1) for height in range(level)]
    right = range_.peaks[position + 1 :]
    if right:
        siblings.append(_bag(right))
    siblings.extend(reversed(range_.peaks[:position]))
    return siblings

"""What the state commits to beyond itself: outcomes, versions, nodes and blocks, each checked against what names it.

An object's record holds the mountain range of its outcomes. The range is walked down in windows of 256: digests of
perfect trees of 2**16 outcomes, below each of them 256 digests of 2**8, below each of these 256 outcomes. So a history
of any length is checked piece by piece, and any piece may come from anybody. A committed outcome names a version root,
that its tree, whose leaves name blocks. NUMBERS and RANGES follow from the outcomes and are computed here.

All of it is immutable and written from below: an entry that is on the disk has everything below it on the disk.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from bft.effects import Reader, Write
from bft.merkle import MountainRange, leaf_hash
from bft.messages import Span
from bft.service import Accepted, Part, PartError
from bft.state_tree import Kind
from bft.statement import Digest, digest
from pond.errors import StorageRotten
from pond.model import tables, tree
from pond.model.block import BlockRef, bguid
from pond.model.encryption import OVERHEAD_BYTES
from pond.model.tables import BLOCKS, NODES, NUMBERS, OUTCOMES, RANGES, VERSIONS
from pond.model.tree import TreeRoot
from pond.model.version import (
    ObjectRecord,
    Outcome,
    Status,
    VersionError,
    decode_outcome,
    decode_record,
    decode_version_root,
)
from pond.node.uploads import UPLOADS, unmarked
from tapestry.guid import GUID

LEVELS = 8
WINDOW = 1 << LEVELS
"""Outcomes, or digests of smaller windows, that are fetched and checked together: about 64 KiB of outcomes."""

SHARED_TABLES = frozenset({BLOCKS, NODES, VERSIONS, OUTCOMES, RANGES})
"""Tables that peers may be asked for; what they hold is public to whoever knows its name."""

OUTCOME_BYTES = 256
ROOT_BYTES = 512
NODE_BYTES = 6 * 1024
"""About how long these are."""


def read(span: Span, disk: Reader) -> list[bytes] | None:
    """The values of a span of a shared table, or None when one of them is missing or rotten."""
    if span.table not in SHARED_TABLES:
        return None
    values: list[bytes] = []
    try:
        for key in span.entries():
            value = disk.get(span.table, key)
            if value is None:
                return None
            values.append(value)
    except StorageRotten:
        return None
    return values


def object_parts(key: bytes, old: bytes | None, new: bytes | None) -> Iterator[Part]:
    """What an entry of the state commits to that it did not with value `old`: the windows of an object's history that
    the record's own peaks prove, oldest first."""
    if key[:1] != bytes([Kind.OBJECT]) or new is None:
        return
    history = _Histories(key[1:], decode_record(old) if old is not None else None, decode_record(new))
    for level in reversed(range(0, history.new.count.bit_length(), LEVELS)):
        window = history.window(level, (history.new.count >> level) // WINDOW)
        if window is not None:
            yield window


class _Histories:
    """The outcomes of one object as they were and as they are: what is held, and what is to be had."""

    def __init__(self, aguid: GUID, old: ObjectRecord | None, new: ObjectRecord) -> None:
        self.aguid: Final = aguid
        self.old: Final = old.history if old is not None else MountainRange.empty()
        self.new: Final = new.history

    def window(self, level: int, place: int, whole: Digest | None = None) -> "_Window | None":
        """What is missing of the window at `place` among those of a level; None when nothing is.

        `whole` is the digest of a full window; one that is not full is proved by peaks of the record.
        """
        start = place * WINDOW
        stop = min(self.new.count >> level, start + WINDOW)
        held = self.old.count >> level
        first = max(start, min(held, stop))
        if first == stop:
            return None
        before = _peaks(self.old, level) if first > start else []
        expected = [whole] if whole is not None else _peaks(self.new, level)
        return _Window(self, level, first, stop - first, MountainRange(first - start, before), expected)


def _peaks(history: MountainRange, level: int) -> list[Digest]:
    """The peaks over perfect trees of 2**level up to, not including, 2**(level + LEVELS) outcomes."""
    higher = (history.count >> (level + LEVELS)).bit_count()
    return history.peaks[higher : (history.count >> level).bit_count()]


class _Window:
    """Consecutive outcomes of one object (level 0), or digests of perfect trees over 2**level of them."""

    def __init__(
        self,
        histories: _Histories,
        level: int,
        first: int,
        count: int,
        before: MountainRange,
        expected: list[Digest],
    ) -> None:
        self._histories = histories
        self._level = level
        self._first = first
        self._before = before
        """What of the window is held already."""
        self._expected = expected
        aguid = histories.aguid
        if level == 0:
            self.span = Span(OUTCOMES, tables.outcome_key(aguid, first), count)
        else:
            self.span = Span(RANGES, tables.range_key(aguid, level, first), count)
        self.size_bytes = count * (OUTCOME_BYTES if level == 0 else 32)

    def held(self, disk: Reader) -> tuple[Write, ...] | None:
        """Checked, not only looked for: another history may have been here before."""
        values = read(self.span, disk)
        if values is None:
            return None
        try:
            return tuple(write for write in self._derived(values) if disk.get(write.table, write.key) != write.value)
        except (PartError, StorageRotten):
            return None

    def accept(self, values: Sequence[bytes]) -> Accepted:
        derived = self._derived(values)
        if self._level > 0:
            return Accepted(self._lower(values), derived)
        aguid = self._histories.aguid
        below: list[Part] = []
        writes: list[Write] = []
        for index, value in enumerate(values, self._first):
            outcome = _outcome(value)
            writes.append(Write(OUTCOMES, tables.outcome_key(aguid, index), value))
            if outcome.status is Status.COMMITTED and outcome.vguid is not None:
                below.append(_Version(outcome.vguid))
        return Accepted(below, (*writes, *derived))

    def _lower(self, values: Sequence[bytes]) -> list[Part]:
        below: list[Part] = []
        for place, value in enumerate(values, self._first):
            window = self._histories.window(self._level - LEVELS, place, value)
            if window is not None:
                below.append(window)
        return below

    def _derived(self, values: Sequence[bytes]) -> tuple[Write, ...]:
        """What follows from checked values: nodes of the mountain range, and where versions are. Raises PartError."""
        aguid, level = self._histories.aguid, self._level
        writes: list[Write] = []
        range_ = self._before
        start = self._first - range_.count
        for value in values:
            if level > 0 and len(value) != 32:
                raise PartError("a digest of another length")
            range_, nodes = range_.append(leaf_hash(value) if level == 0 else value)
            for height, index, node in nodes:
                if height > 0 or level == 0:
                    where = tables.range_key(aguid, level + height, (start >> height) + index)
                    writes.append(Write(RANGES, where, node))
        if range_.peaks != self._expected:
            raise PartError("outcomes that are not the object's")
        if level == 0:
            for index, outcome in enumerate(map(_outcome, values), self._first):
                if outcome.status is Status.COMMITTED and outcome.vguid is not None:
                    where = tables.number_key(aguid, outcome.number)
                    writes.append(Write(NUMBERS, where, tables.number_value(index, outcome.vguid)))
        return tuple(writes)


def _outcome(value: bytes) -> Outcome:
    try:
        return decode_outcome(value)
    except VersionError as error:
        raise PartError(str(error)) from None


class _Version:
    """A version root."""

    size_bytes = ROOT_BYTES

    def __init__(self, vguid: GUID) -> None:
        self.span = Span(VERSIONS, vguid)

    def held(self, disk: Reader) -> tuple[Write, ...] | None:
        return () if disk.size(VERSIONS, self.span.key) is not None else None

    def accept(self, values: Sequence[bytes]) -> Accepted:
        (value,) = values
        if digest(value) != self.span.key:
            raise PartError("another version root")
        try:
            content = decode_version_root(value).content
        except VersionError as error:
            raise PartError(str(error)) from None
        below = [_Node(content, content.guid)] if content.guid is not None else []
        return Accepted(below, (Write(VERSIONS, self.span.key, value),))


class _Node:
    """A node of a content tree."""

    size_bytes = NODE_BYTES

    def __init__(self, root: TreeRoot, guid: GUID) -> None:
        self._root = root
        self.span = Span(NODES, guid)

    def held(self, disk: Reader) -> tuple[Write, ...] | None:
        return () if disk.size(NODES, self.span.key) is not None else None

    def accept(self, values: Sequence[bytes]) -> Accepted:
        (value,) = values
        below: list[Part]
        try:
            if self._root.height > 1:
                children = tree.open_inner(self._root, value)
                below = [_Node(child, child.guid) for child in children if child.guid is not None]
            else:
                below = [_Block(ref) for ref in tree.open_leaf(self._root, value)]
        except tree.TreeError as error:
            raise PartError(str(error)) from None
        return Accepted(below, (Write(NODES, self.span.key, value),))


class _Block:
    """A block of ciphertext. One that waits here as somebody's upload waits no longer: a version has it."""

    def __init__(self, ref: BlockRef) -> None:
        self.span = Span(BLOCKS, ref.bguid)
        self.size_bytes = ref.length + OVERHEAD_BYTES

    def held(self, disk: Reader) -> tuple[Write, ...] | None:
        guid = self.span.key
        if disk.size(BLOCKS, guid) is None:
            return None
        mark = disk.get(UPLOADS, guid)
        return unmarked(guid, mark) if mark is not None else ()

    def accept(self, values: Sequence[bytes]) -> Accepted:
        (value,) = values
        if bguid(value) != self.span.key:
            raise PartError("another block")
        return Accepted((), (Write(BLOCKS, self.span.key, value),))


def part_named(table: str, key: bytes) -> Part | None:
    """The part under a name that proves it by itself; None for tables whose names do not."""
    return _Named(table, key) if table in (BLOCKS, NODES, VERSIONS) else None


class _Named:
    """An entry that is looked for without what names it; what is below it is not asked about."""

    def __init__(self, table: str, key: bytes) -> None:
        self.span = Span(table, key)
        self.size_bytes = NODE_BYTES

    def held(self, disk: Reader) -> tuple[Write, ...] | None:
        return None if read(self.span, disk) is None else ()

    def accept(self, values: Sequence[bytes]) -> Accepted:
        (value,) = values
        if (bguid(value) if self.span.table == BLOCKS else digest(value)) != self.span.key:
            raise PartError("an entry of another name")
        return Accepted((), (Write(self.span.table, self.span.key, value),))

"""Content of one version as a reader wants it: byte ranges out of a tree of encrypted blocks.

Tree nodes are fetched as they are needed, checked against the version root, and kept, since versions share
most of them.
"""

from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import NamedTuple, TypeVar

from bft.secret import Secret
from pond.client.asking import Deadline
from pond.client.blocks import NODE, Fetcher, Progress, Wanted
from pond.client.sealing import Source
from pond.errors import UsageError, VerificationFailed
from pond.model import tree
from pond.model.block import BlockRef, is_content, unseal
from pond.model.encryption import OVERHEAD_BYTES, DecryptionError, Decryptor
from pond.model.tree import Load, TreeError, TreeRoot
from pond.model.version import VersionRoot
from tapestry.guid import GUID

KEPT_NODE_BYTES = 16 * 1024 * 1024
"""Tree nodes kept in memory: the inner nodes of very large objects, or all nodes of many small ones."""

T = TypeVar("T")


class _Absent(Exception):
    def __init__(self, guid: GUID) -> None:
        self.guid = guid


class Place(NamedTuple):
    """A block in its tree: its number from 0, its offset in bytes, and the reference."""

    number: int
    offset: int
    ref: BlockRef


class ChangedRange(NamedTuple):
    """Bytes `old_start` to `old_stop` of one version became bytes `new_start` to `new_stop` of another."""

    old_start: int
    old_stop: int
    new_start: int
    new_stop: int


class Nodes:
    """Tree nodes by GUID: fetched once, kept as long as there is room."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._kept: OrderedDict[GUID, bytes] = OrderedDict()
        self._kept_bytes = 0

    async def get(self, guids: list[GUID], deadline: Deadline) -> dict[GUID, bytes]:
        """These nodes. Raises Unavailable."""
        found = {guid: self._kept[guid] for guid in guids if guid in self._kept}
        for guid in found:
            self._kept.move_to_end(guid)
        missing = [guid for guid in guids if guid not in found]
        if missing:
            fetched = await self._fetcher.get(missing, NODE, deadline)
            self.keep(fetched)
            found |= fetched
        return found

    def keep(self, nodes: Mapping[GUID, bytes]) -> None:
        """Remember nodes that are right."""
        for guid, data in nodes.items():
            if guid not in self._kept:
                self._kept_bytes += len(data)
                self._kept[guid] = data
        while self._kept_bytes > KEPT_NODE_BYTES:
            _, data = self._kept.popitem(last=False)
            self._kept_bytes -= len(data)

    async def run(self, action: Callable[[Load], T], own: Mapping[GUID, bytes], deadline: Deadline) -> T:
        """What a function of the model gives with nodes from `own` and from servers; it may be called several times."""
        at_hand: dict[GUID, bytes] = {}

        def load(guid: GUID) -> bytes:
            data = own.get(guid) or at_hand.get(guid)
            if data is None:
                raise _Absent(guid)
            return data

        while True:
            try:
                return action(load)
            except _Absent as absent:
                at_hand |= await self.get([absent.guid], deadline)
            except TreeError as error:
                raise VerificationFailed(f"a version's content is not a tree: {error}") from None

    async def children(self, nodes: list[TreeRoot], deadline: Deadline) -> list[list[TreeRoot] | list[BlockRef]]:
        """What each of these nodes has below it."""
        found = await self.get([_name(node) for node in nodes], deadline)
        try:
            return [
                tree.open_leaf(node, found[_name(node)])
                if node.height == 1
                else tree.open_inner(node, found[_name(node)])
                for node in nodes
            ]
        except TreeError as error:
            raise VerificationFailed(f"a version's content is not a tree: {error}") from None

    async def places(
        self, root: TreeRoot, deadline: Deadline, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[Place, None]:
        """Each block that has bytes in start <= offset < stop, from left to right."""
        stop = root.size_bytes if stop is None else min(stop, root.size_bytes)
        if root.guid is None or start >= stop:
            return
        stack = [(0, 0, root)]
        while stack:
            index, offset, node = stack.pop()
            below = (await self.children([node], deadline))[0]
            inner: list[tuple[int, int, TreeRoot]] = []
            for child in below:
                size = child.length if isinstance(child, BlockRef) else child.size_bytes
                if offset + size > start and offset < stop:
                    if isinstance(child, BlockRef):
                        yield Place(index, offset, child)
                    else:
                        inner.append((index, offset, child))
                index += 1 if isinstance(child, BlockRef) else child.blocks
                offset += size
            if inner:
                # All siblings in one question: a tree of 64 leaves costs two round trips, not 65.
                await self.get([_name(child) for _, _, child in inner], deadline)
                stack.extend(reversed(inner))

    async def changed(self, old: TreeRoot, new: TreeRoot, deadline: Deadline) -> list[ChangedRange]:
        """Where two contents differ, block by block, without fetching a block; what they share is not walked."""
        sides: list[list[TreeRoot | BlockRef]] = [[root] if root.guid is not None else [] for root in (old, new)]
        for height in range(max(old.height, new.height), 0, -1):
            shared = {_key(item) for item in sides[0]} & {_key(item) for item in sides[1]}
            sides = [await self._open_unshared(side, height, shared, deadline) for side in sides]
        return _differences(sides[0], sides[1])

    async def _open_unshared(
        self, side: list[TreeRoot | BlockRef], height: int, shared: set[tuple[GUID, int]], deadline: Deadline
    ) -> list[TreeRoot | BlockRef]:
        opened = [i for i in side if isinstance(i, TreeRoot) and i.height == height and _key(i) not in shared]
        below: dict[GUID, list[TreeRoot] | list[BlockRef]] = {}
        for start in range(0, len(opened), 64):
            some = opened[start : start + 64]
            below |= zip(map(_name, some), await self.children(some, deadline), strict=True)
        result: list[TreeRoot | BlockRef] = []
        for item in side:
            if isinstance(item, TreeRoot) and item.height == height and _key(item) not in shared:
                result.extend(below[_name(item)])
            else:
                result.append(item)
        return result


class Snapshot:
    """One version's content, decrypted on the way."""

    def __init__(self, root: VersionRoot, read_keys: Mapping[int, Secret], nodes: Nodes, fetcher: Fetcher) -> None:
        self.root = root
        self._nodes = nodes
        self._fetcher = fetcher
        self._decryptor = Decryptor(root.aguid, read_keys)

    @property
    def size(self) -> int:
        """Bytes of content."""
        return self.root.content.size_bytes

    async def read(self, start: int, stop: int | None, deadline: Deadline, progress: Progress | None = None) -> bytes:
        """Bytes start to stop, in one piece."""
        return b"".join([piece async for piece in self.stream(start, stop, deadline, progress)])

    async def stream(
        self, start: int, stop: int | None, deadline: Deadline, progress: Progress | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Bytes start to stop in pieces of a block at most, fetched ahead in bounded memory."""
        if start < 0 or (stop is not None and stop < start):
            raise UsageError(f"no bytes {start} to {stop}: both count from the start, and the first comes first")
        stop = self.size if stop is None else min(stop, self.size)
        total = max(stop - start, 0)
        done = 0
        coming: deque[Place] = deque()

        async def wanted() -> AsyncGenerator[Wanted, None]:
            async with aclosing(self._nodes.places(self.root.content, deadline, start, stop)) as places:
                async for place in places:
                    coming.append(place)
                    yield Wanted(place.ref.bguid, place.ref.length + OVERHEAD_BYTES)

        async with aclosing(self._fetcher.stream(wanted(), deadline)) as blocks:
            async for ciphertext in blocks:
                place = coming.popleft()
                content = unseal_block(self._decryptor, place.ref, ciphertext)
                first = max(start - place.offset, 0)
                last = min(stop - place.offset, len(content))
                piece = content if (first, last) == (0, len(content)) else content[first:last]
                done += len(piece)
                deadline.extend()
                if progress is not None:
                    progress(done, total)
                yield piece
                deadline.extend()  # whoever takes the pieces may take its time

    async def equal_prefix(self, source: Source, deadline: Deadline, progress: Progress | None) -> int:
        """How many bytes of the source, from its start and in whole blocks, are the content's."""
        done = 0
        async with aclosing(self._nodes.places(self.root.content, deadline)) as places:
            async for place in places:
                plaintext = await source.take(place.ref.length)
                try:
                    if not is_content(self._decryptor, place.ref, plaintext):
                        break
                except DecryptionError as error:
                    raise VerificationFailed(str(error)) from None
                done += len(plaintext)
                deadline.extend()
                if progress is not None:
                    progress(done, self.size)
        return done

    def metadata(self) -> bytes | None:
        """What the owner keeps beside the content."""
        kept = self.root.metadata
        if kept is None:
            return None
        try:
            return self._decryptor.decrypt(kept.epoch, kept.salt, kept.counter, kept.ciphertext)
        except DecryptionError as error:
            raise VerificationFailed(str(error)) from None


def unseal_block(decryptor: Decryptor, ref: BlockRef, ciphertext: bytes) -> bytes:
    """Decrypt a block that was fetched, and so is checked against its name. Raises VerificationFailed."""
    try:
        return unseal(decryptor, ref, ciphertext)
    except DecryptionError as error:
        raise VerificationFailed(f"{error}: the object was written with another read key, or is damaged") from None


def _name(node: TreeRoot) -> GUID:
    assert node.guid is not None, "the empty tree has no node"
    return node.guid


def _key(item: TreeRoot | BlockRef) -> tuple[GUID, int]:
    return (item.bguid, item.length) if isinstance(item, BlockRef) else (_name(item), item.size_bytes)


def _differences(old: list[TreeRoot | BlockRef], new: list[TreeRoot | BlockRef]) -> list[ChangedRange]:
    """Runs of items that are not common to both, in bytes. Items are matched in order; a copy is matched once."""
    keys = [[_key(item) for item in side] for side in (old, new)]
    where: dict[tuple[GUID, int], deque[int]] = {}
    for position, key in enumerate(keys[1]):
        where.setdefault(key, deque()).append(position)
    matches = [(0, 0, 0, 0)]
    changed: list[ChangedRange] = []
    pairs = _increasing([(i, where[key].popleft()) for i, key in enumerate(keys[0]) if where.get(key)])
    starts = [_starts(side) for side in keys]
    for i, j in [*pairs, (len(old), len(new))]:
        _, old_stop, _, new_stop = matches[-1]
        if starts[0][i] > old_stop or starts[1][j] > new_stop:
            changed.append(ChangedRange(old_stop, starts[0][i], new_stop, starts[1][j]))
        if i < len(old):
            matches.append((starts[0][i], starts[0][i + 1], starts[1][j], starts[1][j + 1]))
    return changed


def _starts(keys: list[tuple[GUID, int]]) -> list[int]:
    starts = [0]
    for _, size in keys:
        starts.append(starts[-1] + size)
    return starts


def _increasing(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest part of `pairs`, which ascend in their first number, that ascends in the second too."""
    tails: list[int] = []
    at: list[int] = []
    before: list[int] = []
    for place, (_, j) in enumerate(pairs):
        low, high = 0, len(tails)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if tails[middle] < j else (low, middle)
        if low == len(tails):
            tails.append(j)
            at.append(place)
        else:
            tails[low], at[low] = j, place
        before.append(at[low - 1] if low else -1)
    result: list[tuple[int, int]] = []
    place = at[-1] if at else -1
    while place >= 0:
        result.append(pairs[place])
        place = before[place]
    return result[::-1]

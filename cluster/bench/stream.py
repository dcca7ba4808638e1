"""Writers that overwrite objects of their own, most updates small and some large: how fast, and what must be there.

Each object has one writer at a time, so its newest version is the last that was acknowledged; afterwards each is read
back. One connection serves all writers, each of which waits for its update before it begins the next.
"""

import asyncio
import hashlib
import os
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from itertools import count, pairwise
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import pond
from pond.errors import TimedOut

SMALL_BYTES = 100
TIMEOUT_SECONDS = 60.0
READ_AT_ONCE = 4
LARGE_OF = 16
"""One object in so many is a large one."""

T = TypeVar("T")


class Done(NamedTuple):
    """An update that was acknowledged."""

    began: float
    ended: float
    size_bytes: int


class Mix(NamedTuple):
    """One update in `every` has `large_bytes`, all others SMALL_BYTES; none is large when `every` is 0."""

    every: int
    large_bytes: int

    def sizes(self) -> Iterator[int]:
        """Without end."""
        for number in count(1):
            yield self.large_bytes if self.every and number % self.every == 0 else SMALL_BYTES


class Rate(NamedTuple):
    """What writers saw in some time."""

    updates: int
    seconds: float
    p50_ms: float
    p99_ms: float
    """Of small updates."""
    longest_gap_ms: float
    """The longest time without an acknowledgement."""


class _Slot:
    """An object that nobody writes to now."""

    def __init__(self, target: pond.aio.Object) -> None:
        self.target = target
        self.digest: bytes | None = None
        """Of what was acknowledged last; None while that is unknown."""


class Stream:
    """Objects and those who write to them, on a thread with an event loop of its own, from `with` to its end."""

    def __init__(self, directory: Path, objects: int) -> None:
        self.done: list[Done] = []
        self.unknown = 0
        """Updates that were given up: they may be there or not."""
        self._directory = directory
        self._objects = objects
        self._free: dict[bool, asyncio.Queue[_Slot]] = {False: asyncio.Queue(), True: asyncio.Queue()}
        """By whether they are large; a writer that finds none waits for another one's end."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stream", daemon=True)
        self._salt = os.urandom(1 << 16)

    def __enter__(self) -> "Stream":
        """Returns when all objects have a version. Raises PondError."""
        self._thread.start()
        try:
            self._run(self._prepare())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def writers(self, writers: int, mix: Mix) -> "Writers":
        """So many of them, from `with` to its end."""
        return Writers(self, writers, mix)

    def rate(self, since: float, until: float) -> Rate:
        """What was acknowledged between two moments (time.monotonic)."""
        found = [done for done in list(self.done) if since <= done.ended < until]
        times = sorted(done.ended - done.began for done in found if done.size_bytes == SMALL_BYTES) or [0.0]
        moments = [since, *(done.ended for done in found), until]
        gap = max(later - earlier for earlier, later in pairwise(moments))
        p50, p99 = times[len(times) // 2], times[len(times) * 99 // 100]
        return Rate(len(found), until - since, p50 * 1000, p99 * 1000, gap * 1000)

    def lost(self) -> int:
        """Objects whose newest version is not the one that was acknowledged last, when nobody writes. Raises
        PondError."""
        return self._run(self._lost())

    # --- on the thread ---------------------------------------------------------------------------------------------

    def start(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Let the stream's thread do this."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.start(work).result()

    def _end(self) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _prepare(self) -> None:
        self._store = await pond.aio.connect(self._directory, timeout=TIMEOUT_SECONDS).open()
        for number in range(self._objects):
            large = number % LARGE_OF == 0
            slot = _Slot(await self._store.create(f"{'large' if large else 'small'} {number}"))
            self._free[large].put_nowait(slot)

    async def _close(self) -> None:
        if hasattr(self, "_store"):
            self._store.close()

    async def write(self, size_bytes: int) -> None:
        """One update of an object of its size. Raises PondError, but not TimedOut."""
        free = self._free[size_bytes > SMALL_BYTES]
        slot = await free.get()
        began = monotonic()
        content = self._content(size_bytes)
        slot.digest = None
        try:
            await slot.target.write(content)
        except TimedOut:
            self.unknown += 1  # and so is what its object has
            return
        slot.digest = hashlib.sha256(content).digest()
        free.put_nowait(slot)
        self.done.append(Done(began, monotonic(), size_bytes))

    def _content(self, size_bytes: int) -> bytes:
        """Bytes that no other update has."""
        head = os.urandom(16)
        return (head + self._salt * (size_bytes // len(self._salt) + 1))[:size_bytes]

    async def _lost(self) -> int:
        free = [queue.get_nowait() for queue in self._free.values() for _ in range(queue.qsize())]
        slots = [slot for slot in free if slot.digest is not None]
        lost = 0
        for first in range(0, len(slots), READ_AT_ONCE):
            some = slots[first : first + READ_AT_ONCE]
            contents = await asyncio.gather(*(slot.target.read() for slot in some))
            lost += sum(
                hashlib.sha256(content).digest() != slot.digest for slot, content in zip(some, contents, strict=True)
            )
        return lost


class Writers:
    """Writers of a stream at work."""

    def __init__(self, stream: Stream, writers: int, mix: Mix) -> None:
        self._stream = stream
        self._writers = writers
        self._sizes = mix.sizes()
        self._stopping = threading.Event()
        self._result: Future[None] | None = None

    def __enter__(self) -> "Writers":
        self._result = self._stream.start(self._work())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Each ends with the update that it is at. Raises what a writer has met that no writer should."""
        self._stopping.set()
        if self._result is not None:
            self._result.result()

    def check(self) -> None:
        """Raises what a writer has met that no writer should."""
        if self._result is not None and self._result.done():
            self._result.result()

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._writers):
                tasks.create_task(self._write())

    async def _write(self) -> None:
        while not self._stopping.is_set():
            await self._stream.write(next(self._sizes))

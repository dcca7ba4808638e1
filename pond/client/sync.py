"""The face for programs that do not await: `with pond.connect() as store`. Every name and rule is that of `pond.aio`.

The asynchronous core runs on an event loop of its own in one daemon thread. Ctrl-C in a caller cancels what it waits
for. What is written from a file is read by the calling thread; progress callbacks run in the loop's, and must not call
the store.
"""

import asyncio
import contextlib
import io
import os
import queue
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeVar

from bft.secret import Secret
from pond.client import aio, changes, objects
from pond.client.asking import Traffic
from pond.client.blocks import Progress
from pond.client.content import ChangedRange
from pond.client.feeds import Data, Request, fed, source_of
from pond.client.objects import TIMEOUT_SECONDS, ExportReport, LogEntry, ObjectStat
from pond.client.ring import Consistency
from pond.client.target import Version
from pond.errors import UsageError
from pond.model.update import Predicate
from pond.protocol import ServerStatus

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CLOSE_SECONDS = 2.0
"""How long closing may take before the thread is left to end with the process."""

T = TypeVar("T")


class _Closable(Protocol):
    def close(self) -> None: ...


class Runner:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._process = os.getpid()
        self._thread = threading.Thread(target=_run_loop, args=(self.loop,), name="pond", daemon=True)
        self._thread.start()
        self._open: list[_Closable] = []
        self._closer = weakref.finalize(self, _shut_down, self.loop, self._thread, self._open, self._process)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine. What interrupts the wait, as Ctrl-C does, cancels it."""
        future = self.start(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def start(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Begin a coroutine. Raises UsageError where that cannot work."""
        wrong = self._wrong()
        if wrong is not None:
            work.close()
            raise UsageError(wrong)
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def close_with(self, closable: _Closable) -> None:
        """Close this, in the loop's thread, before the loop ends."""
        self._open.append(closable)

    def close(self) -> None:
        """Cancel what is under way and end the thread. Again: nothing."""
        self._closer()

    def _wrong(self) -> str | None:
        if not self._closer.alive:
            return "the store is closed: connect again"
        if os.getpid() != self._process:
            return "the store was connected by the parent process: connect anew after a fork"
        if threading.current_thread() is self._thread:
            return "a progress callback cannot call the store: do it after the transfer"
        return None


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.close()


def _shut_down(
    loop: asyncio.AbstractEventLoop, thread: threading.Thread, closables: list[_Closable], process: int
) -> None:
    """Runs when a store is closed, collected, or left open at the end of the program."""
    if os.getpid() != process or not thread.is_alive():
        return

    async def end() -> None:
        ours = asyncio.current_task()
        while others := [task for task in asyncio.all_tasks() if task is not ours]:  # who is cancelled may begin others
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        for closable in closables:
            closable.close()
        loop.stop()

    if threading.current_thread() is thread:
        loop.create_task(end())
        return
    asyncio.run_coroutine_threadsafe(end(), loop)
    thread.join(CLOSE_SECONDS)


# --- the face ----------------------------------------------------------------------------------------------------


class Update:
    """An atomic change to be put together and then committed, once: see `pond.aio.Update`."""

    def __init__(self, runner: Runner, core: changes.Update) -> None:
        self._runner = runner
        self._core = core
        self._requests: queue.SimpleQueue[Request] = queue.SimpleQueue()

    def when(self, *predicates: Predicate) -> "Update":
        """Only if these hold."""
        self._core.when(*predicates)
        return self

    def otherwise(self) -> "Update":
        """What follows is tried when the predicates before did not hold."""
        self._core.otherwise()
        return self

    def write(self, data: Data) -> "Update":
        """This becomes the whole content."""
        self._core.write(source_of(data, self._requests))
        return self

    def append(self, data: Data) -> "Update":
        """This follows the content."""
        self._core.append(source_of(data, self._requests))
        return self

    def truncate(self, size_bytes: int) -> "Update":
        """Only the first bytes stay."""
        self._core.truncate(size_bytes)
        return self

    def replace(self, offset: int, data: bytes) -> "Update":
        """Write over the bytes from `offset` on; beyond the end the content grows."""
        self._core.replace(offset, data)
        return self

    def insert(self, offset: int, data: bytes) -> "Update":
        """Put this before the byte at `offset`."""
        self._core.insert(offset, data)
        return self

    def delete_range(self, offset: int, length: int) -> "Update":
        """Take `length` bytes from `offset` on out."""
        self._core.delete_range(offset, length)
        return self

    def set_metadata(self, metadata: bytes | None) -> "Update":
        """Keep this, encrypted, beside the content; None for nothing."""
        self._core.set_metadata(metadata)
        return self

    def delete(self) -> "Update":
        """The object is gone; its history stays."""
        self._core.delete()
        return self

    def commit(self, *, timeout: float | None = None, progress: Progress | None = None) -> Version:
        """Do it; returns the version made. Raises Aborted, PermissionRefused, NotFound, TimedOut, Unavailable."""
        return fed(self._runner, self._core.commit(timeout=timeout, progress=progress), self._requests)

    @property
    def resumed_bytes(self) -> int:
        """How much was not sent, so far, since servers hold it from an attempt that was broken off."""
        return self._core.resumed_bytes


class Object:
    """A named object: see `pond.aio.Object`."""

    def __init__(self, runner: Runner, core: objects.Object) -> None:
        self.name = core.name
        self._runner = runner
        self._core = core

    def __repr__(self) -> str:
        return repr(self._core)

    @property
    def aguid(self) -> bytes:
        """The object's permanent GUID."""
        return self._core.aguid

    def update(self) -> Update:
        """An atomic change to be put together and then committed."""
        return Update(self._runner, self._core.update())

    def write(self, data: Data, *, timeout: float | None = None, progress: Progress | None = None) -> Version:
        """This becomes the whole content. `data` is bytes or a binary file, read from where it stands."""
        return self.update().write(data).commit(timeout=timeout, progress=progress)

    def append(self, data: Data, *, timeout: float | None = None, progress: Progress | None = None) -> Version:
        """This follows the content, whatever it is by then."""
        return self.update().append(data).commit(timeout=timeout, progress=progress)

    def restore(
        self,
        version: int | None = None,
        *,
        at: datetime | None = None,
        vguid: bytes | str | None = None,
        timeout: float | None = None,
    ) -> Version:
        """Make an earlier version the newest again, as a new version that shares its blocks."""
        return self._runner.run(self._core.restore(version, at=at, vguid=vguid, timeout=timeout))

    def delete(self, *, timeout: float | None = None) -> Version:
        """Delete the object: a tombstone is its next version, the history stays. Raises NotFound."""
        return self._runner.run(self._core.delete(timeout=timeout))

    def read(
        self,
        version: int | None = None,
        *,
        at: datetime | None = None,
        vguid: bytes | str | None = None,
        start: int = 0,
        stop: int | None = None,
        consistency: Consistency = "latest",
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> bytes:
        """Bytes `start` to `stop` of the newest version, or of the one named. Raises NotFound."""
        return self._runner.run(
            self._core.read(
                version,
                at=at,
                vguid=vguid,
                start=start,
                stop=stop,
                consistency=consistency,
                timeout=timeout,
                progress=progress,
            )
        )

    def read_stream(
        self,
        version: int | None = None,
        *,
        at: datetime | None = None,
        vguid: bytes | str | None = None,
        start: int = 0,
        stop: int | None = None,
        consistency: Consistency = "latest",
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> Iterator[bytes]:
        """The same in pieces, in bounded memory."""
        pieces = self._core.read_stream(
            version,
            at=at,
            vguid=vguid,
            start=start,
            stop=stop,
            consistency=consistency,
            timeout=timeout,
            progress=progress,
        )

        async def following() -> bytes | None:
            return await anext(pieces, None)

        try:
            while (piece := self._runner.run(following())) is not None:
                yield piece
        finally:
            with contextlib.suppress(RuntimeError):  # interrupted: its task is being cancelled, and closes it
                self._runner.run(pieces.aclose())

    def equal_prefix(
        self,
        data: Data,
        version: int | None = None,
        *,
        at: datetime | None = None,
        vguid: bytes | str | None = None,
        consistency: Consistency = "latest",
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> int:
        """How many bytes of `data`, from its start and in whole blocks, a version has too: no block is fetched for it.

        So what is left of a read that was broken off need not be read again, and is checked as what is read is.
        """
        requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
        work = self._core.equal_prefix(
            source_of(data, requests),
            version,
            at=at,
            vguid=vguid,
            consistency=consistency,
            timeout=timeout,
            progress=progress,
        )
        return fed(self._runner, work, requests)

    def open(
        self,
        mode: str = "rb",
        *,
        version: int | None = None,
        at: datetime | None = None,
        vguid: bytes | str | None = None,
        consistency: Consistency = "latest",
        timeout: float | None = None,
    ) -> "ObjectFile":
        """One version as a file to be read here and there; it stays that version whatever is written meanwhile."""
        core = self._runner.run(
            self._core.open(mode, version=version, at=at, vguid=vguid, consistency=consistency, timeout=timeout)
        )
        return ObjectFile(self._runner, core)

    def latest(self, *, consistency: Consistency = "latest", timeout: float | None = None) -> Version:
        """The newest version. Raises NotFound."""
        return self._runner.run(self._core.latest(consistency=consistency, timeout=timeout))

    def version(
        self,
        version: int | None = None,
        *,
        at: datetime | None = None,
        vguid: bytes | str | None = None,
        consistency: Consistency = "latest",
        timeout: float | None = None,
    ) -> Version:
        """The version named. Raises NotFound."""
        return self._runner.run(
            self._core.version(version, at=at, vguid=vguid, consistency=consistency, timeout=timeout)
        )

    def metadata(
        self,
        version: int | None = None,
        *,
        at: datetime | None = None,
        vguid: bytes | str | None = None,
        consistency: Consistency = "latest",
        timeout: float | None = None,
    ) -> bytes | None:
        """What set_metadata put beside the content of a version."""
        return self._runner.run(
            self._core.metadata(version, at=at, vguid=vguid, consistency=consistency, timeout=timeout)
        )

    def stat(self, *, consistency: Consistency = "latest", timeout: float | None = None) -> ObjectStat:
        """What the ring says of the object, also of a deleted one. Raises NotFound before the first version."""
        return self._runner.run(self._core.stat(consistency=consistency, timeout=timeout))

    def history(self, *, timeout: float | None = None) -> list[LogEntry]:
        """Every update of the object, oldest first, proved to be all of them. Raises NotFound."""
        return self._runner.run(self._core.history(timeout=timeout))

    def changed_ranges(self, old: int, new: int | None = None, *, timeout: float | None = None) -> list[ChangedRange]:
        """Where version `new` (None: the newest) differs from `old`, to the block, without fetching blocks."""
        return self._runner.run(self._core.changed_ranges(old, new, timeout=timeout))

    def export(
        self,
        out: BinaryIO,
        *,
        with_data: bool = False,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> ExportReport:
        """Write the object's history with its proofs, and with its blocks (encrypted) if wanted, as one bundle."""
        return self._runner.run(self._core.export(out, with_data=with_data, timeout=timeout, progress=progress))

    def verify(self, *, timeout: float | None = None, progress: Progress | None = None) -> ExportReport:
        """Fetch all of the object's history and blocks and check them. Raises VerificationFailed."""
        return self._runner.run(self._core.verify(timeout=timeout, progress=progress))


class _RawFile(io.RawIOBase):
    def __init__(self, runner: Runner, core: objects.ObjectFile) -> None:
        self._runner = runner
        self._core = core

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        data = self._runner.run(self._core.read(len(view)))
        view[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._core.seek(offset, whence)

    def tell(self) -> int:
        return self._core.tell()


class ObjectFile(io.BufferedReader):
    """One version of an object as an ordinary binary file: fetches what is read, a block at least."""

    def __init__(self, runner: Runner, core: objects.ObjectFile) -> None:
        super().__init__(_RawFile(runner, core), buffer_size=core.block_size)
        self.version = core.version


class Store:
    """An owner's objects in one ring: see `pond.aio.Store`. Close it, or use it in a `with`."""

    def __init__(self, runner: Runner, core: objects.Store) -> None:
        self._runner = runner
        self._core = core
        runner.close_with(core)

    @property
    def ring_key(self) -> bytes:
        """The ring's public key, all that this store trusts."""
        return self._core.ring_key

    @property
    def principal(self) -> bytes:
        """The owner's public key."""
        return self._core.principal

    @property
    def dropped(self) -> dict[str, int]:
        """How many answers of servers were not believed, by reason."""
        return self._core.dropped

    @property
    def traffic(self) -> list[Traffic]:
        """How many bytes went to each server and came from it."""
        return self._core.traffic

    def create(self, name: str, *, block_size: int | None = None, timeout: float | None = None) -> Object:
        """The object of this name, with a new entry in the owner's directory unless it has one.

        It has no version before the first write, which fixes its block size (bytes): as given here, else by its length.
        What is written to an object that has another one than given here raises UsageError.
        """
        return Object(self._runner, self._runner.run(self._core.create(name, block_size=block_size, timeout=timeout)))

    def open(self, name: str, *, consistency: Consistency = "latest", timeout: float | None = None) -> Object:
        """The object of this name. Raises NotFound when the directory, read with this consistency, has none."""
        return Object(self._runner, self._runner.run(self._core.open(name, consistency=consistency, timeout=timeout)))

    def names(self, *, timeout: float | None = None) -> list[str]:
        """Names of all objects, deleted ones and those never written too, sorted."""
        return self._runner.run(self._core.names(timeout=timeout))

    def stats(self, *, deleted: bool = False, timeout: float | None = None) -> list[ObjectStat]:
        """What the ring says of each object that has a version, by name; of deleted ones only when wanted."""
        return self._runner.run(self._core.stats(deleted=deleted, timeout=timeout))

    def status(self, *, timeout: float | None = 2.0) -> list[ServerStatus | None]:
        """What each server says of itself; None for one that does not answer."""
        return self._runner.run(self._core.status(timeout=timeout))

    def close(self) -> None:
        """Cancel what is under way, free the links and end the thread."""
        self._runner.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_store(make: Callable[[], Coroutine[Any, Any, objects.Store]]) -> Store:
    """A store around one that `make` opens in the loop's thread."""
    runner = Runner()
    try:
        return Store(runner, runner.run(make()))
    except BaseException:
        runner.close()
        raise


def connect(
    cluster: "str | os.PathLike[str] | None" = None,
    *,
    key: "str | os.PathLike[str] | Secret | None" = None,
    timeout: float = TIMEOUT_SECONDS,
) -> Store:
    """Connect to a cluster as the owner of a key.

    `cluster` is its directory or public file, else POND_CLUSTER, else the user's own; `key` the owner key or its file,
    else owner.key beside the cluster's file. `timeout` is how many seconds an operation may take, retries included; a
    transfer that moves on may take longer. Raises NotFound, UsageError, ClusterDamaged.
    """
    return open_store(aio.connect(cluster, key=key, timeout=timeout).open)

"""Files that the calling thread reads while the core, on a thread of its own, asks for pieces of them."""

import asyncio
import queue
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, BinaryIO, Protocol, TypeAlias, TypeVar

from pond.client.sealing import rest_of
from pond.errors import UsageError

READ_BYTES = 1024 * 1024
"""How much of a file is read at a time."""

Data: TypeAlias = "bytes | bytearray | memoryview | BinaryIO"

Request: TypeAlias = "tuple[_Feed, asyncio.Future[bytes]] | None"
"""Whom to read for, and where the bytes go; None when nothing more will be asked for."""

T = TypeVar("T")


class Runner(Protocol):
    """Where the core runs."""

    loop: asyncio.AbstractEventLoop

    def start(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Begin a coroutine there."""
        ...


class _Feed:
    """A file as the core sees it: pieces, read by the thread that called, whenever the core asks for one."""

    def __init__(self, file: BinaryIO, requests: "queue.SimpleQueue[Request]") -> None:
        self.size_bytes = rest_of(file)
        self._file = file
        self._requests = requests
        self._start = file.tell() if self.size_bytes is not None else 0
        self._again = False

    def __aiter__(self) -> "_Feed":
        return self

    async def __anext__(self) -> bytes:
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._requests.put((self, answer))
        data = await answer
        if not data:
            raise StopAsyncIteration
        return data

    def rewind(self) -> None:
        """What is asked for next is the beginning once more."""
        self._again = True

    def read(self) -> bytes:
        """In the calling thread."""
        if self._again:
            self._again = False
            self._file.seek(self._start)
        data = self._file.read(READ_BYTES)
        if data is not None and not isinstance(data, bytes | bytearray | memoryview):
            raise UsageError("the file is open in text mode: open it with mode 'rb'")
        return bytes(data or b"")


def _serve_feeds(loop: asyncio.AbstractEventLoop, requests: "queue.SimpleQueue[Request]") -> None:
    """Read what the core asks for until it asks for nothing more."""
    while (request := requests.get()) is not None:
        feed, answer = request
        try:
            data = feed.read()
        except Exception as error:
            loop.call_soon_threadsafe(_refuse, answer, error)
        else:
            loop.call_soon_threadsafe(_give, answer, data)


def source_of(data: Data, requests: "queue.SimpleQueue[Request]") -> "bytes | bytearray | memoryview | _Feed":
    """Content as the core takes it. Raises UsageError."""
    if isinstance(data, bytes | bytearray | memoryview):
        return data
    if not hasattr(data, "read"):
        raise UsageError(f"content is bytes or a file opened in binary mode, not {type(data).__name__}")
    return _Feed(data, requests)


def fed(runner: Runner, work: Coroutine[Any, Any, T], requests: "queue.SimpleQueue[Request]") -> T:
    """The result of work that asks for pieces of files meanwhile."""
    future = runner.start(work)
    future.add_done_callback(lambda _: requests.put(None))
    try:
        _serve_feeds(runner.loop, requests)
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _give(answer: "asyncio.Future[bytes]", data: bytes) -> None:
    if not answer.done():
        answer.set_result(data)


def _refuse(answer: "asyncio.Future[bytes]", error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)

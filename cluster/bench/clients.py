"""Clients in a closed loop, spread over a few processes: each waits for its answer and asks again at once.

What a client does is a `Task`, opened once per client in the process that it runs in. A client that fails stops until
the next run, and is counted. The processes start by `spawn`: what is measured shares nothing with who measures.
"""

import asyncio
import gc
import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from time import monotonic
from types import TracebackType
from typing import NamedTuple, Protocol, TypeAlias

from cluster.bench.usage import cpu_seconds
from cluster.processes import end_with_parent
from pond.errors import PondError, Unavailable

OPENED_AT_ONCE = 8
ANSWER_SECONDS = 120.0
"""A process that says nothing for so long hangs: an operation takes its timeout at most."""

Operation: TypeAlias = Callable[[], Awaitable[object]]


class Task(Protocol):
    """What clients do. Goes to another process, so it is plain data."""

    async def open(self, stack: AsyncExitStack) -> Operation:
        """One more client; the stack closes it. Raises PondError."""
        ...


class Done(NamedTuple):
    """An operation that succeeded: when it ended (time.monotonic, which is one for all processes), how long it took."""

    ended: float
    seconds: float


class Ran(NamedTuple):
    """What clients did in one run."""

    done: list[Done]
    errors: list[str]
    """One per client that failed, in words."""


class _Open(NamedTuple):
    clients: int


class _Run(NamedTuple):
    clients: int


class _Shared(NamedTuple):
    """What a process and its parent both see."""

    stop: "Synchronized[int]"
    """Nothing more is begun once this is not 0."""
    done: "Synchronized[int]"
    """Operations that succeeded since the process began."""


class Clients:
    """Client processes, from `with` to its end."""

    def __init__(self, task: Task, most: int) -> None:
        """For at most `most` clients at a time."""
        self._task = task
        self._count = min(most, max(1, len(os.sched_getaffinity(0))))
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._pipes: list[Connection] = []
        self._shared: list[_Shared] = []

    def __enter__(self) -> "Clients":
        context = multiprocessing.get_context("spawn")
        for _ in range(self._count):
            ours, theirs = context.Pipe()
            shared = _Shared(context.Value("q", 0), context.Value("q", 0))
            process = context.Process(target=_serve, args=(theirs, self._task, shared), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)
            self._shared.append(shared)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes if error is not None else ():
            process.kill()  # it may be in the middle of its work, which nobody waits for any longer
        for pipe in self._pipes:
            pipe.close()  # the end of its input is the end of the process
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()

    @property
    def processes(self) -> int:
        """How many there are."""
        return self._count

    def open(self, clients: int) -> None:
        """Return when so many clients are connected. Raises PondError."""
        for pipe, share in zip(self._pipes, self._shares(clients), strict=True):
            pipe.send(_Open(share))
        for pipe in self._pipes:
            _answer(pipe, ANSWER_SECONDS)

    def start(self, clients: int) -> None:
        """Let so many clients begin."""
        for pipe, shared, share in zip(self._pipes, self._shared, self._shares(clients), strict=True):
            shared.stop.value = 0
            pipe.send(_Run(share))

    @property
    def done(self) -> int:
        """Operations that succeeded so far, in all runs."""
        return sum(shared.done.value for shared in self._shared)

    def finish(self) -> Ran:
        """Let nothing more begin; what they did, when the last operation has ended. Raises PondError."""
        for shared in self._shared:
            shared.stop.value = 1
        answers = [_answer(pipe, ANSWER_SECONDS) for pipe in self._pipes]
        return Ran([done for ran in answers for done in ran.done], [error for ran in answers for error in ran.errors])

    def cpu_seconds(self) -> dict[int, float]:
        """CPU of each process so far, by its number."""
        return {process.pid: cpu_seconds(process.pid) for process in self._processes if process.pid is not None}

    def _shares(self, clients: int) -> list[int]:
        return [clients // self._count + (number < clients % self._count) for number in range(self._count)]


def _answer(pipe: Connection, seconds: float) -> Ran:
    try:
        answer = pipe.recv() if pipe.poll(seconds) else Unavailable("a client process does not answer")
    except EOFError:
        answer = Unavailable("a client process has ended")
    if isinstance(answer, Exception):
        raise answer
    assert isinstance(answer, Ran), "a client process answers with what it did, or why it could not"
    return answer


# --- in the client's process -------------------------------------------------------------------------------------


def _serve(pipe: Connection, task: Task, shared: _Shared) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to answer
    threading.Thread(target=end_with_parent, daemon=True).start()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a client has some thirty descriptors
    asyncio.run(_work(pipe, task, shared))


async def _work(pipe: Connection, task: Task, shared: _Shared) -> None:
    operations: list[Operation] = []
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        while True:
            try:
                order = await loop.run_in_executor(None, pipe.recv)
            except EOFError:
                return
            try:
                match order:
                    case _Open(clients):
                        while len(operations) < clients:
                            some = min(OPENED_AT_ONCE, clients - len(operations))
                            operations += await asyncio.gather(*(task.open(stack) for _ in range(some)))
                        gc.freeze()  # connections stay: no need to look through them again and again
                        pipe.send(Ran([], []))
                    case _Run(clients):
                        ran = Ran([], [])
                        await asyncio.gather(*(_loop(operation, shared, ran) for operation in operations[:clients]))
                        pipe.send(ran)
            except PondError as error:
                pipe.send(Unavailable(f"a client could not begin: {error}"))


async def _loop(operation: Operation, shared: _Shared, ran: Ran) -> None:
    stop, count = shared.stop.get_obj(), shared.done.get_obj()  # one reader or writer each: no lock is wanted
    while not stop.value:
        began = monotonic()
        try:
            await operation()
        except PondError as error:
            ran.errors.append(str(error))
            return
        ended = monotonic()
        ran.done.append(Done(ended, ended - began))
        count.value += 1

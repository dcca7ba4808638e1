"""Start, stop and hurt the servers of a local cluster; each function is one thing a person may ask for.

Those that change anything hold a lock on the cluster's directory meanwhile, so that two commands never race.
"""

import fcntl
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from types import FrameType
from typing import NamedTuple

from cluster import probe, processes
from cluster.layout import Layout, ServerPlace, check, create, open_layout
from cluster.processes import STOPPED, Process, State
from pond.errors import NotFound, Unavailable, UsageError
from pond.protocol import ServerStatus

DEFAULT_RING = 4

START_SECONDS = 60.0
STATUS_SECONDS = 1.0
"""How long a server has to say how it is, before it is called unreachable."""
GRACE_SECONDS = 10.0
"""Between SIGTERM and SIGKILL."""
END_SECONDS = 10.0
"""Between SIGKILL and giving up: the kernel may have much to free."""
LOCK_SECONDS = 30.0
POLL_SECONDS = 0.05

TAIL_LINES = 10
TAIL_BYTES = 16 * 1024


class StartFailed(Unavailable):
    """A server ended, or did not answer, while the cluster was starting; `tail` is the end of its log."""

    def __init__(self, message: str, tail: list[str]) -> None:
        super().__init__(message)
        self.tail = tail


class Report(NamedTuple):
    """How one server is: its process, and what it says of itself when it answers."""

    server: ServerPlace
    process: Process
    status: ServerStatus | None

    @property
    def state(self) -> str:
        """In one word: running, paused, stopped, or unreachable for one that runs and does not answer."""
        unreachable = self.process.state is State.RUNNING and self.status is None
        return "unreachable" if unreachable else self.process.state


def up(directory: Path, ring: int | None = None) -> tuple[Layout, list[ServerPlace]]:
    """Start a cluster, a new one where there is none: all servers that are down. Returns those, once they answer.

    When it fails or is interrupted, what was started is stopped; a directory that was made for it goes only when it was
    interrupted, since after a failure the logs are there. Raises PondError.
    """
    is_new = not directory.exists() or (directory.is_dir() and not any(directory.iterdir()))
    layout = create(directory, ring or DEFAULT_RING) if is_new else open_layout(directory)
    if ring is not None and ring != len(layout.servers):
        raise UsageError(f"{directory} has a ring of {len(layout.servers)}: leave out --ring, or name a new directory")
    with locked(directory):
        try:
            check(layout)
            down = [server for server in layout.servers if processes.look(server) == STOPPED]
            if not down:
                raise UsageError(f"the cluster at {directory} is running: see `pond cluster status`")
            _start(down, probe.has_certificate)
        except (KeyboardInterrupt, SystemExit):
            if is_new:
                shutil.rmtree(directory)
            raise
    return layout, down


def down(directory: Path, *, delete: bool = False) -> list[ServerPlace]:
    """Stop every server and return those that ran; with `delete`, remove the directory too. Raises PondError."""
    layout = open_layout(directory)
    with locked(directory):
        running = [server for server in layout.servers if processes.look(server) != STOPPED]
        _stop(layout.servers)
        if delete:
            shutil.rmtree(directory)
    return running


def kill(directory: Path, names: tuple[str, ...]) -> None:
    """SIGKILL: servers that crash. Raises PondError."""
    with _running(directory, names) as servers:
        _kill(servers)


def pause(directory: Path, names: tuple[str, ...]) -> None:
    """SIGSTOP: servers that hang, with their connections open. Raises PondError."""
    with _running(directory, names) as servers:
        _send_all(servers, signal.SIGSTOP)
        _wait_for_state(servers, State.PAUSED)


def resume(directory: Path, names: tuple[str, ...]) -> None:
    """SIGCONT: paused servers go on. Raises PondError."""
    with _running(directory, names) as servers:
        _send_all(servers, signal.SIGCONT)
        _wait_for_state(servers, State.RUNNING)


def restart(directory: Path, names: tuple[str, ...]) -> None:
    """Stop these servers if they run, and start them again; returns when they answer. Raises PondError."""
    layout = open_layout(directory)
    servers = layout.named(names)
    with locked(directory):
        check(layout)
        _stop(servers)
        _start(servers, probe.any_answer)


def report(layout: Layout, seconds: float = STATUS_SECONDS) -> list[Report]:
    """How each server is; those that do not answer in this time are unreachable."""
    found = {server.member.id: processes.look(server) for server in layout.servers}
    running = [server.member for server in layout.servers if found[server.member.id].state is State.RUNNING]
    answers = probe.statuses(running, seconds)
    return [Report(server, found[server.member.id], answers.get(server.member.id)) for server in layout.servers]


# --- the lock ----------------------------------------------------------------------------------------------------


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Nobody else changes the cluster meanwhile. Raises Unavailable when another command does not end."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        until = monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if monotonic() >= until:
                    raise Unavailable(
                        f"another command has been at work on {directory} for {LOCK_SECONDS:.0f} s: wait for it to end"
                    ) from None
                sleep(POLL_SECONDS)
        if not _is_at(descriptor, directory):
            raise NotFound(f"{directory} was removed by another command: start anew with `pond cluster up`")
        yield
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, directory: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), directory.stat())
    except FileNotFoundError:
        return False


# --- starting ----------------------------------------------------------------------------------------------------


def _start(servers: Sequence[ServerPlace], enough: probe.Enough) -> None:
    """Start them and wait until each says `enough`; else stop them all."""
    started: list[ServerPlace] = []
    try:
        for server in servers:
            with signals_wait():
                processes.start(server)
                started.append(server)
        answers = probe.statuses(
            [server.member for server in servers], START_SECONDS, enough, lambda: _check_alive(servers)
        )
        for server in servers:
            status = answers.get(server.member.id)
            if status is None or not enough(status):
                what = "answers, but its ring signs nothing" if status is not None else "does not answer"
                raise StartFailed(
                    f"{server.name} {what} after {START_SECONDS:.0f} s: see what it says in {server.log}",
                    tail(server.log),
                )
    except BaseException:
        with signals_wait():
            _kill(started)
        raise


def _check_alive(servers: Sequence[ServerPlace]) -> None:
    for server in servers:
        if processes.look(server) == STOPPED:
            raise StartFailed(
                f"{server.name} ended while it was starting: what it says is in {server.log}", tail(server.log)
            )


def tail(log: Path, lines: int = TAIL_LINES) -> list[str]:
    """The last lines of a log, or none when it cannot be read."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []


@contextmanager
def signals_wait() -> Iterator[None]:
    """SIGINT and SIGTERM take effect at the end, so that no server is started that nobody knows of."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = [(number, signal.signal(number, note)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield
    finally:
        for signal_number, handler in before:
            signal.signal(signal_number, handler)
        for number in came:
            signal.raise_signal(number)


# --- signals -----------------------------------------------------------------------------------------------------


@contextmanager
def _running(directory: Path, names: tuple[str, ...]) -> Iterator[list[ServerPlace]]:
    """These servers, under the lock. Raises UsageError when one does not run, before anything happens to any."""
    servers = open_layout(directory).named(names)
    with locked(directory):
        for server in servers:
            if processes.look(server) == STOPPED:
                raise UsageError(f"{server.name} is not running: `pond cluster restart {server.name}` starts it")
        yield servers


def _send_all(servers: Sequence[ServerPlace], number: signal.Signals) -> None:
    for server in servers:
        processes.send(server, number)


def _stop(servers: Sequence[ServerPlace]) -> None:
    """SIGTERM, a while to write what there is to write, then SIGKILL; paused servers have to go on to hear of it."""
    _send_all(servers, signal.SIGTERM)
    _send_all(servers, signal.SIGCONT)
    until = monotonic() + GRACE_SECONDS
    left = [server for server in servers if not processes.wait_for_end(server, max(0.0, until - monotonic()))]
    _kill(left)


def _kill(servers: Sequence[ServerPlace]) -> None:
    _send_all(servers, signal.SIGKILL)
    for server in servers:
        if not processes.wait_for_end(server, END_SECONDS):
            raise Unavailable(f"{server.name} does not end, {END_SECONDS:.0f} s after SIGKILL: its disk may hang")


def _wait_for_state(servers: Sequence[ServerPlace], state: State) -> None:
    """The kernel stops and continues a process a moment after the signal was sent."""
    until = monotonic() + END_SECONDS
    for server in servers:
        while processes.look(server).state is not state:
            if monotonic() >= until:
                raise Unavailable(f"{server.name} is not {state} after {END_SECONDS:.0f} s: see `pond cluster status`")
            sleep(POLL_SECONDS)

"""Start, stop and hurt the servers of a local cluster; each function is one thing a person may ask for.

Those that change anything hold a lock on the cluster's directory meanwhile, so that two commands never race.
"""

import fcntl
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from types import FrameType
from typing import NamedTuple, TypeVar

from cluster import probe, processes
from cluster.layout import (
    AnyPlace,
    Layout,
    Place,
    ServerPlace,
    StoragePlace,
    check,
    check_server,
    create,
    discard,
    open_layout,
    places,
)
from cluster.processes import STOPPED, Process, State
from pond.errors import ClusterDamaged, NotFound, PondError, Unavailable, UsageError
from pond.protocol import Condition, OverlayStatus, ServerStatus

AnyServer = TypeVar("AnyServer", ServerPlace, StoragePlace)

DEFAULT_RING = 4

START_SECONDS = 60.0
STATUS_SECONDS = 1.0
"""How long a server has to say how it is, before it is called unreachable."""
GRACE_SECONDS = 10.0
"""Between SIGTERM and SIGKILL."""
END_SECONDS = 10.0
"""Between SIGKILL and giving up: the kernel may have much to free."""
LOST_SECONDS = 5.0
"""How long more servers than may fail are without votes, before a start waits no longer for them."""
LOCK_SECONDS = 30.0
POLL_SECONDS = 0.05

TAIL_LINES = 10
TAIL_BYTES = 16 * 1024


class StartFailed(Unavailable):
    """A server ended, or did not answer, while the cluster was starting; `tail` is the end of its log."""

    def __init__(self, message: str, tail: list[str]) -> None:
        super().__init__(message)
        self.tail = tail


class VotesLost(StartFailed):
    """A server has lost its disk, and its votes with it: it votes again when enough others go on without it."""


class Failed(NamedTuple):
    """A server that was to start and does not serve: why, and what to do."""

    server: AnyPlace
    error: PondError


class Started(NamedTuple):
    """What `up` did: the servers that it started and that serve, and those that do not."""

    servers: list[AnyPlace]
    failed: list[Failed]


class Stopped(NamedTuple):
    """What `down` did: the servers that ran, and what is wrong with the cluster's directory, if anything is."""

    servers: list[Place]
    damage: PondError | None


class Report(NamedTuple):
    """How one server is: its process, and what it says of itself when it answers."""

    server: ServerPlace
    process: Process
    status: ServerStatus | None
    unfit: str = ""
    """Why it cannot start."""

    @property
    def state(self) -> str:
        """In one word: running, paused, stopped, or unreachable for one that runs and does not answer."""
        unreachable = self.process.state is State.RUNNING and self.status is None
        return "unreachable" if unreachable else self.process.state


class InOverlay(NamedTuple):
    """How a server's node of the overlay is: its process, and what it says of itself when it answers."""

    server: AnyPlace
    process: Process
    status: OverlayStatus | None

    @property
    def state(self) -> str:
        """In one word, as that of a Report."""
        unreachable = self.process.state is State.RUNNING and self.status is None
        return "unreachable" if unreachable else self.process.state


def up(directory: Path, ring: int | None = None, storage: int | None = None) -> tuple[Layout, Started]:
    """Start a cluster, a new one where there is none: all servers that are down, or as many as can start.

    Returns once they serve and have joined the overlay. When less than a quorum would serve, or at an interrupt, what
    was started is stopped; a directory that was made for it goes only at an interrupt, since after a failure the logs
    are there. Raises PondError.
    """
    is_new = not directory.exists() or (directory.is_dir() and not any(directory.iterdir()))
    layout: Layout | None = None
    with _first_signal_only():
        try:
            with signals_wait():
                layout = create(directory, ring or DEFAULT_RING, storage or 0) if is_new else open_layout(directory)
            if ring is not None and ring != len(layout.servers):
                size = len(layout.servers)
                raise UsageError(f"{directory} has a ring of {size}: leave out --ring, or name a new directory")
            if storage is not None and storage != len(layout.storage):
                size = len(layout.storage)
                raise UsageError(
                    f"{directory} has {size} storage servers: leave out --storage, or name a new directory"
                )
            with locked(directory):
                return layout, _start_those_down(layout)
        except (KeyboardInterrupt, SystemExit):
            if is_new and layout is not None:
                with locked(directory):
                    discard(directory)
            raise


def down(directory: Path, *, delete: bool = False) -> Stopped:
    """Stop every server that runs, however damaged the directory is; with `delete`, remove that too.

    Raises PondError.
    """
    damage: PondError | None = None
    found = processes.strays(directory)
    try:
        open_layout(directory)
    except ClusterDamaged as error:
        damage = error
    except PondError as error:
        if not found:
            raise
        damage = error
    if not directory.is_dir():
        _stop(found)
        return Stopped(list(found), damage)
    with locked(directory):
        found = processes.strays(directory)
        running = [place for place in places(directory) if processes.look(place) != STOPPED] + found
        _stop([*places(directory), *found])
        if delete:
            discard(directory)
    return Stopped(running, damage)


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
        for server in servers:
            if processes.look(server).state is not State.PAUSED:
                raise UsageError(f"{server.name} is not paused: `pond cluster status` shows how it is")
        _send_all(servers, signal.SIGCONT)
        _wait_for_state(servers, State.RUNNING)


def restart(directory: Path, names: tuple[str, ...]) -> None:
    """Stop these servers if they run, and start them again; returns when they answer. Raises PondError."""
    layout = open_layout(directory)
    servers = layout.named(names)
    with locked(directory):
        check(layout)
        for server in servers:
            check_server(layout, server)
        _stop(servers)
        ring = [server for server in servers if isinstance(server, ServerPlace)]
        storage = [server for server in servers if isinstance(server, StoragePlace)]
        failed, _ = _start(ring, storage, [], probe.any_answer, len(ring))
        failed += _join(storage)
    if failed:
        raise failed[0].error


def report(layout: Layout, seconds: float = STATUS_SECONDS) -> list[Report]:
    """How each server is; those that do not answer in this time are unreachable."""
    found = {server.member.id: processes.look(server) for server in layout.servers}
    running = [server.member for server in layout.servers if found[server.member.id].state is State.RUNNING]
    answers = probe.statuses(running, seconds)
    return [
        Report(
            server,
            found[server.member.id],
            answers.get(server.member.id),
            _unfit(layout, server) if found[server.member.id] == STOPPED else "",
        )
        for server in layout.servers
    ]


def reports(layout: Layout) -> tuple[list[Report], list[InOverlay]]:
    """Both at the same time: servers that do not answer are waited for once."""
    with ThreadPoolExecutor(1) as pool:
        overlays = pool.submit(overlay_report, layout)
        return report(layout), overlays.result()


def overlay_report(layout: Layout, seconds: float = STATUS_SECONDS, joined: bool = False) -> list[InOverlay]:
    """How each server's node of the overlay is, of servers that have one; with `joined`, once all those have joined or
    the time is over."""
    nodes = _overlay_nodes(layout)
    found = {server.name: processes.look(server) for server in nodes}
    running = {server.name: server.member for server in nodes if found[server.name].state is State.RUNNING}
    answers = probe.overlays(running, seconds, lambda status: status.joined or not joined)
    return [InOverlay(server, found[server.name], answers.get(server.name)) for server in nodes]


def _overlay_nodes(layout: Layout) -> list[AnyPlace]:
    nodes: list[AnyPlace] = [server for server in layout.servers if server.member.overlay_address is not None]
    nodes += layout.storage
    return nodes


def _unfit(layout: Layout, server: ServerPlace) -> str:
    try:
        check_server(layout, server)
    except PondError as error:
        return str(error)
    return ""


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


def _start_those_down(layout: Layout) -> Started:
    """All servers that are down, or as many as can be started: raises PondError unless a quorum serves then."""
    check(layout)
    running = [server for server in layout.servers if processes.look(server) != STOPPED]
    paused = [server.name for server in running if processes.look(server).state is State.PAUSED]
    if len(paused) > (len(layout.servers) - 1) // 3:
        raise UsageError(f"{', '.join(paused)} are paused: `pond cluster resume {' '.join(paused)}` lets them go on")
    storage_down = [server for server in layout.storage if processes.look(server) == STOPPED]
    if len(running) == len(layout.servers) and not storage_down:
        raise UsageError(f"the cluster at {layout.directory} is running: see `pond cluster status`")
    fit, failed = _fit(layout, [server for server in layout.servers if server not in running])
    fit_storage, failed_storage = _fit(layout, storage_down)
    needed = len(layout.servers) - (len(layout.servers) - 1) // 3
    if len(running) + len(fit) < needed:
        raise _too_few(len(running), needed, failed)
    ended, serving = _start(fit, fit_storage, running, probe.has_certificate, needed)
    failed += ended
    if serving < needed:
        with signals_wait():
            _kill([*fit, *fit_storage])
        raise _too_few(len(running), needed, failed)
    try:
        running_nodes = [node for node in _overlay_nodes(layout) if processes.look(node).state is State.RUNNING]
        ended_nodes = [server for server in fit_storage if server not in running_nodes]
        out = _join([*running_nodes, *(server for server in ended_nodes if server not in [f.server for f in failed])])
    except BaseException:
        with signals_wait():
            _kill([*fit, *fit_storage])
        raise
    failed += [*failed_storage, *(each for each in out if isinstance(each.server, StoragePlace))]
    bad = [each.server for each in failed]
    started: list[AnyPlace] = [server for server in fit if server not in bad]
    started += [server for server in fit_storage if server not in bad]
    return Started(started, failed)


def _fit(layout: Layout, servers: Sequence[AnyServer]) -> tuple[list[AnyServer], list[Failed]]:
    """Which of these have all that they need to start."""
    fit: list[AnyServer] = []
    failed: list[Failed] = []
    for server in servers:
        try:
            check_server(layout, server)
            fit.append(server)
        except PondError as error:
            failed.append(Failed(server, error))
    return fit, failed


def _too_few(running: int, needed: int, failed: Sequence[Failed]) -> PondError:
    """Why the cluster was not started: in the words, and with the exit code, of the first server that failed."""
    lost = [each.server.name for each in failed if isinstance(each.error, VotesLost)]
    if len(lost) > (needed - 1) // 2:
        return Unavailable(
            f"{', '.join(lost)} lost their votes with their disks, too many for this ring ever to write again:"
            " `pond cluster restart` starts servers for reading what they can still prove, and"
            " `pond cluster status` says how to save it"
        )
    if not failed:
        return Unavailable(f"fewer than the {needed} servers that are needed answer: see `pond cluster status`")
    others = f" ({', '.join(each.server.name for each in failed[1:])} cannot serve either)" if failed[1:] else ""
    left = "only those that ran before run on" if running else "the cluster stays down"
    error = failed[0].error
    message = f"{error}{others}; {needed} servers are needed, so {left}"
    return StartFailed(message, error.tail) if isinstance(error, StartFailed) else type(error)(message)


def _start(
    servers: Sequence[ServerPlace],
    storage: Sequence[StoragePlace],
    others: Sequence[ServerPlace],
    enough: probe.Enough,
    needed: int,
) -> tuple[list[Failed], int]:
    """Start servers and wait until each of the ring, and of the others, says `enough`, or until `needed` of all do and
    the rest has had its time. Returns those that failed, and how many of all say `enough`; an interrupt stops them.
    Storage servers are started with them, and not waited for."""
    started: list[ServerPlace] = []
    started_storage: list[StoragePlace] = []
    failed: dict[int, Failed] = {}
    failed_storage: list[Failed] = []
    lost: dict[int, float] = {}

    def is_enough(status: ServerStatus) -> bool:
        if status.condition == Condition.LEARNING and not enough(status):
            lost.setdefault(status.replica, monotonic())
        else:
            lost.pop(status.replica, None)
        return enough(status)

    def ended() -> set[int]:
        for server in started:
            if server.member.id not in failed and processes.look(server) == STOPPED:
                message = f"{server.name} ended while it was starting: what it says is in {server.log}"
                failed[server.member.id] = Failed(server, StartFailed(message, tail(server.log)))
        if len(lost) > (needed - 1) // 2 and monotonic() - max(lost.values()) > LOST_SECONDS:
            return {server.member.id for server in [*servers, *others]}
        return set(failed)

    began = monotonic()
    try:
        for server in servers:
            try:
                with signals_wait():
                    processes.start(server)
                    started.append(server)
            except OSError as error:
                failed[server.member.id] = _cannot_start(server, error)
        for place in storage:
            try:
                with signals_wait():
                    processes.start(place)
                    started_storage.append(place)
            except OSError as error:
                failed_storage.append(_cannot_start(place, error))
        members = [server.member for server in [*started, *others]]
        answers = probe.statuses(members, START_SECONDS, is_enough, needed, ended)
    except BaseException:
        with signals_wait():
            _kill([*started, *started_storage])
        raise
    if len(servers) + len(others) - len(failed) < needed:
        return [
            *failed.values(),
            *failed_storage,
        ], 0  # those that run had no chance to serve: nothing is wrong with them
    for server in started:
        status = answers.get(server.member.id)
        if server.member.id not in failed and (status is None or not enough(status)):
            what = "answers, but its ring signs nothing" if status is not None else "does not answer"
            message = f"{server.name} {what} after {monotonic() - began:.0f} s: what it says is in {server.log}"
            kind = VotesLost if status is not None and status.condition == Condition.LEARNING else StartFailed
            failed[server.member.id] = Failed(server, kind(message, tail(server.log)))
    serving = sum(enough(status) for identity, status in answers.items() if identity not in failed)
    return [*failed.values(), *failed_storage], serving


def _cannot_start(server: AnyPlace, error: OSError) -> Failed:
    message = f"{server.name} cannot be started ({error.strerror}): check who owns {server.directory}"
    return Failed(server, StartFailed(message, []))


def _join(servers: Sequence[AnyPlace]) -> list[Failed]:
    """Wait until the nodes of these servers have joined the overlay; those that did not in time, or ended."""
    began = monotonic()
    members = {server.name: server.member for server in servers}

    def ended() -> set[str]:
        return {server.name for server in servers if processes.look(server) == STOPPED}

    answers = probe.overlays(members, START_SECONDS, lambda status: status.joined, ended)
    failed = []
    for server in servers:
        status = answers.get(server.name)
        if status is None or not status.joined:
            gone = processes.look(server) == STOPPED
            what = "has not joined the overlay" if status is not None else "does not answer"
            how = "ended while it was starting" if gone else f"{what} after {monotonic() - began:.0f} s"
            error = StartFailed(f"{server.name} {how}: what it says is in {server.log}", tail(server.log))
            failed.append(Failed(server, error))
    return failed


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


@contextmanager
def _first_signal_only() -> Iterator[None]:
    """The first SIGINT or SIGTERM ends what is done here; those that follow disturb neither the cleaning up nor what
    the process says at its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [(number, signal.getsignal(number)) for number in numbers]
    ended = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ended
        ended = True
        for ignored in numbers:
            signal.signal(ignored, signal.SIG_IGN)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    finally:
        if not ended:
            for number, handler in before:
                signal.signal(number, handler)


# --- signals -----------------------------------------------------------------------------------------------------


@contextmanager
def _running(directory: Path, names: tuple[str, ...]) -> Iterator[list[AnyPlace]]:
    """These servers, under the lock. Raises UsageError when one does not run, before anything happens to any."""
    servers = open_layout(directory).named(names)
    with locked(directory):
        for server in servers:
            if processes.look(server) == STOPPED:
                raise UsageError(f"{server.name} is not running: `pond cluster restart {server.name}` starts it")
        yield servers


def _send_all(servers: Sequence[Place], number: signal.Signals) -> None:
    for server in servers:
        processes.send(server, number)


def _stop(servers: Sequence[Place]) -> None:
    """SIGTERM, a while to write what there is to write, then SIGKILL; paused servers have to go on to hear of it."""
    _send_all(servers, signal.SIGTERM)
    _send_all(servers, signal.SIGCONT)
    until = monotonic() + GRACE_SECONDS
    left = [server for server in servers if not processes.wait_for_end(server, max(0.0, until - monotonic()))]
    _kill(left)


def _kill(servers: Sequence[Place]) -> None:
    _send_all(servers, signal.SIGKILL)
    for server in servers:
        if not processes.wait_for_end(server, END_SECONDS):
            raise Unavailable(f"{server.name} does not end, {END_SECONDS:.0f} s after SIGKILL: its disk may hang")


def _wait_for_state(servers: Sequence[Place], state: State) -> None:
    """The kernel stops and continues a process a moment after the signal was sent."""
    until = monotonic() + END_SECONDS
    for server in servers:
        while processes.look(server).state is not state:
            if monotonic() >= until:
                raise Unavailable(f"{server.name} is not {state} after {END_SECONDS:.0f} s: see `pond cluster status`")
            sleep(POLL_SECONDS)

"""Server processes that outlive the command that started them: who they are, how they are, signals to them.

A file in the server's directory names the process by its number, the tick it started at and the boot of the machine, so
that a number that was given to another process since is never signalled. Signals go through a pidfd, which stands for
one process whatever becomes of its number (Linux 5.3, pidfd_open(2)).
"""

import multiprocessing
import multiprocessing.connection
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import msgspec

from cluster.layout import SERVERS, Place, places
from pond.errors import Unavailable
from pond.keys import write_durably

MAX_FILE_BYTES = 4096

RUN = ("-m", "pond", "node", "run")
"""What the command of a server's process ends with, before the server's directory."""


class State(StrEnum):
    """How a server's process is, as the kernel sees it."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


class Identity(msgspec.Struct, frozen=True):
    """One process of this machine, told apart from all others that had or will have its number."""

    pid: int
    start_ticks: int
    boot: str


@dataclass(frozen=True)
class Stray(Place):
    """A server whose file no longer names the process that it has."""

    identity: Identity


class Process(NamedTuple):
    """A server's process: its state, and its number unless it is stopped."""

    state: State
    pid: int | None


STOPPED = Process(State.STOPPED, None)

# Children of this very process, kept so that each is reaped at its end.
_children: list[subprocess.Popen[bytes]] = []


def look(server: Place) -> Process:
    """How the server's process is now."""
    identity = _read(server)
    found = None if identity is None else _stat(identity.pid)
    if identity is None or found is None or _identity(identity.pid, found) != identity:
        return STOPPED
    return Process(State.PAUSED if found.state in "Tt" else State.RUNNING, identity.pid)


def start_ticks(server: Place) -> int:
    """When the server's process was started, in ticks of the kernel since the machine was (proc(5)). Raises Unavailable
    when it has none."""
    identity = _read(server)
    if identity is None:
        raise Unavailable(f"{server.name} does not run: see `pond cluster status`")
    return identity.start_ticks


def start(server: Place) -> int:
    """Start the server in a session of its own, so that no terminal's Ctrl-C or end reaches it; returns its pid."""
    command = [sys.executable, "-P", *RUN, str(server.directory)]
    with server.log.open("ab") as log:
        os.chmod(server.log, 0o600)
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=server.directory,
            start_new_session=True,
        )
    _children.append(child)
    found = _stat(child.pid)
    assert found is not None, "our fault: a child that is not reaped has no entry in /proc"
    write_durably(server.process, msgspec.json.encode(_identity(child.pid, found)) + b"\n", replace=True)
    return child.pid


def strays(directory: Path) -> list[Stray]:
    """Processes of servers of the cluster in this directory that no file names, found by the command they run."""
    named = {look(place).pid for place in places(directory)}
    servers = os.path.realpath(directory / SERVERS)
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in named:
            continue
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")[:-1]
            server = Path(os.fsdecode(words[-1])) if words else Path()
            if tuple(map(os.fsdecode, words[-5:-1])) == RUN and os.path.realpath(server.parent) == servers:
                stat = _stat(int(entry.name))
                if stat is not None:
                    found.append(Stray(server.name, server, _identity(int(entry.name), stat)))
    return found


def send(server: Place, number: signal.Signals) -> bool:
    """Send a signal to the server's process; False when there is none."""
    descriptor = _open(server)
    if descriptor is None:
        return False
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def wait_for_end(server: Place, seconds: float) -> bool:
    """Wait at most this long until the server's process has ended; then no file names it. False if it goes on."""
    descriptor = _open(server)
    if descriptor is not None:
        try:
            ready, _, _ = select.select([descriptor], [], [], seconds)
        finally:
            os.close(descriptor)
        if not ready:
            return False
    _reap()
    with suppress(FileNotFoundError, NotADirectoryError):  # the directory may be gone, or damaged
        server.process.unlink()
    return True


def end_with_parent() -> None:
    """In a process that helps a command: return never, and end with whoever started it."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "our fault: nobody started this process to help"
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(0)


def _open(server: Place) -> int | None:
    """A pidfd of the server's process, or None when it has ended."""
    identity = _read(server)
    if identity is None:
        return None
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        raise Unavailable(f"cannot signal processes here ({error.strerror}): Pond needs Linux 5.3 or newer") from None
    # Looked at after the descriptor was opened: what it says is of the process that the descriptor stands for.
    if look(server) == STOPPED:
        os.close(descriptor)
        return None
    return descriptor


def _read(server: Place) -> Identity | None:
    if isinstance(server, Stray):
        return server.identity
    try:
        with server.process.open("rb") as file:
            return msgspec.json.decode(file.read(MAX_FILE_BYTES), type=Identity)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None


class _Stat(NamedTuple):
    state: str
    start_ticks: int


def _stat(pid: int) -> _Stat | None:
    """State letter and start time of a process (proc(5)), or None when it has ended, also when nobody has reaped it."""
    _reap()
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before it, in parentheses, may contain anything
    return None if fields[0] in "ZXx" else _Stat(fields[0], int(fields[19]))


def _identity(pid: int, found: _Stat) -> Identity:
    return Identity(pid, found.start_ticks, _boot())


def _boot() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _reap() -> None:
    _children[:] = [child for child in _children if child.poll() is None]

"""Files that users name: inputs that have to be there, and outputs that appear as a whole or not at all."""

import fcntl
import io
import os
import secrets
import select
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import click

from pond.cli.options import shown
from pond.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


KEPT_BYTES = 16 * 1024 * 1024
"""What is left of an output that was broken off, at least: less is quickly read again, and no file is left for it."""


@contextmanager
def open_input(path: str | None) -> Iterator[BinaryIO]:
    """A file to be read, or standard input for None or `-`. Raises UsageError."""
    if path is None or path == "-":
        if sys.stdin is None:
            raise UsageError("standard input is closed: name a file")
        if sys.stdin.isatty():
            click.echo("pond: reading what you type; end it with Ctrl-D", err=True)
        with _interruptible(sys.stdin.buffer) as file:
            yield file
        return
    try:
        file = _open(path, os.O_RDONLY)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {shown(path, 200)} ({_reason(error)}): name a file that you can read") from None
    with file, _interruptible(file) as opened:
        yield opened


@contextmanager
def _interruptible(file: BinaryIO) -> Iterator[BinaryIO]:
    """The file, or where reading it may wait for somebody, a reader of it that Ctrl-C always ends.

    A signal that comes just before the system call that waits is seen only after it; what the signal then writes into a
    pipe of ours, which is waited for as well, is not missed.
    """
    try:
        descriptor = file.fileno()
        waits = not stat.S_ISREG(os.fstat(descriptor).st_mode)
    except (OSError, ValueError):
        waits = False
    if not waits or threading.current_thread() is not threading.main_thread():
        yield file
        return
    woken, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    try:
        yield cast(BinaryIO, _Pipe(descriptor, woken))
    finally:
        signal.set_wakeup_fd(before)
        os.close(woken)
        os.close(wakes)


class _Pipe(io.RawIOBase):
    """Reads a descriptor, and returns to the interpreter when a signal came."""

    def __init__(self, descriptor: int, woken: int) -> None:
        self._descriptor = descriptor
        self._woken = woken
        self._poll = select.poll()
        for watched in (descriptor, woken):
            self._poll.register(watched, select.POLLIN)

    def readable(self) -> bool:
        """It is for nothing else."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """As io.RawIOBase has it: waits until there is something, or the end."""
        while True:
            ready = {descriptor for descriptor, _ in self._poll.poll()}
            if self._woken in ready:
                os.read(self._woken, 4096)
            elif ready:
                data = os.read(self._descriptor, memoryview(buffer).nbytes)
                memoryview(buffer).cast("B")[: len(data)] = data
                return len(data)


@contextmanager
def output(path: str | None) -> Iterator[BinaryIO]:
    """A new file, or standard output for None or `-`. Raises UsageError."""
    if path is not None and path != "-":
        with new_file(path) as file:
            yield file
        return
    if sys.stdout is None:
        raise UsageError("standard output is closed: name a file with -o")
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()


@contextmanager
def new_file(path: str) -> Iterator[BinaryIO]:
    """A file to be written: it takes its place when all is in it and on disk; nothing is left of it otherwise.

    What is no regular file, such as a pipe or a device, is written directly. Raises UsageError.
    """
    place = Path(os.path.realpath(path))
    temporary: Path | None = None
    try:
        try:
            if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
                file = _open(path, os.O_WRONLY)  # not `place`: a pipe has no name that its link in /dev leads to
            else:
                temporary = place.with_name(f".{place.name[:200]}.{secrets.token_hex(4)}")
                file = _open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                _keep_mode(place, file)
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot write {shown(path, 200)} ({_reason(error)}): name another file") from None
        with file:
            yield file
            if temporary is not None:
                file.flush()
                os.fsync(file.fileno())
        if temporary is not None:
            temporary.rename(place)
            temporary = None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def resumed_output(path: str | None) -> Iterator[tuple[BinaryIO, bool]]:
    """As output, and whether an earlier attempt has left something in the file, to be checked and gone on with.

    After a failure what is in it is left again, if that is much, and unless another command writes the same file.
    """
    place = Path(os.path.realpath(path or "-"))
    partial = place.with_name(f".{place.name[:200]}.part")
    regular = path is not None and path != "-" and (place.is_file() or not place.exists())
    try:
        file = _partial(partial, os.O_CREAT) if regular else None
        if file is None:
            with output(path) as file:
                yield file, False
            return
        with file:
            _keep_mode(place, file)
            yield file, os.fstat(file.fileno()).st_size > 0
            file.flush()
            os.fsync(file.fileno())
            partial.rename(place)
    except BaseException:
        left = _partial(partial) if regular else None
        if left is not None:
            with left:
                if os.fstat(left.fileno()).st_size < KEPT_BYTES:
                    partial.unlink(missing_ok=True)
        raise


def _partial(path: Path, flags: int = 0) -> BinaryIO | None:
    """Ours alone, and nobody else's idea of a file, however many may write to the directory."""
    try:
        descriptor = os.open(path, flags | os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except (OSError, ValueError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(descriptor)
        same = os.path.samestat(found, path.stat(follow_symlinks=False))  # not renamed before we had the lock
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1 and same:
            return open(descriptor, "r+b")
    except OSError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _open(path: str | Path, flags: int) -> BinaryIO:
    """The file; who may do what with a new one is the umask's to say."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
    try:
        return open(descriptor, "rb" if flags == os.O_RDONLY else "wb")
    except BaseException:
        os.close(descriptor)
        raise


def _keep_mode(place: Path, file: BinaryIO) -> None:
    """Who may do what with a file that is there already may do the same with what takes its place."""
    with suppress(FileNotFoundError):
        os.fchmod(file.fileno(), stat.S_IMODE(place.stat().st_mode))


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)

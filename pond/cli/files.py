"""Files that users name: inputs that have to be there, and outputs that appear as a whole or not at all."""

import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from pond.cli.options import shown
from pond.errors import UsageError


@contextmanager
def open_input(path: str | None) -> Iterator[BinaryIO]:
    """A file to be read, or standard input for None or `-`. Raises UsageError."""
    if path is None or path == "-":
        if sys.stdin is None:
            raise UsageError("standard input is closed: name a file")
        if sys.stdin.isatty():
            click.echo("pond: reading what you type; end it with Ctrl-D", err=True)
        yield sys.stdin.buffer
        return
    try:
        file = _open(path, os.O_RDONLY)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {shown(path, 200)} ({_reason(error)}): name a file that you can read") from None
    with file:
        yield file


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
        if place.exists() and not stat.S_ISREG(place.stat().st_mode):
            file = _open(place, os.O_WRONLY)
        else:
            temporary = place.with_name(f".{place.name[:200]}.{secrets.token_hex(4)}")
            file = _open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write {shown(path, 200)} ({_reason(error)}): name another file") from None
    try:
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


def _open(path: str | Path, flags: int) -> BinaryIO:
    """The file; who may do what with a new one is the umask's to say."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
    try:
        return open(descriptor, "rb" if flags == os.O_RDONLY else "wb")
    except BaseException:
        os.close(descriptor)
        raise


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)

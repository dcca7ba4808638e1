"""Structured logs: one line of JSON per event, and a bound on how many lines anybody can cause.

A line has `time`, `level`, `server`, `event` and the event's own fields. Events are named by constants in the code; no
field holds a secret, a plaintext or an object's name (design.md, rule 8). Of one event at most MAX_PER_SECOND lines are
written each second; the next line that is written says how many were left out before it.
"""

import logging
import logging.handlers
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

MAX_PER_SECOND = 5
"""Enough to see what goes on, and too few for a hostile peer to fill a disk with."""

FILE_BYTES = 16 * 1024 * 1024
OLD_FILES = 3
"""A server's logs take at most FILE_BYTES * (OLD_FILES + 1)."""

_encode = msgspec.json.Encoder(enc_hook=str).encode


class Log:
    """The log of one server, to a file that is rotated by its size, or to standard error."""

    def __init__(self, server: str, path: Path | None = None, clock: Callable[[], float] = monotonic) -> None:
        self._server = server
        self._clock = clock
        self._windows: dict[str, _Window] = {}
        self._handler: logging.Handler
        if path is None:
            self._handler = logging.StreamHandler(sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handler = logging.handlers.RotatingFileHandler(path, maxBytes=FILE_BYTES, backupCount=OLD_FILES)
        self._handler.setFormatter(_JsonLines())

    def info(self, event: str, **fields: Any) -> None:
        """Something that an operator may want to know."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Somebody else misbehaves, or a resource runs short."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, error: BaseException | None = None, **fields: Any) -> None:
        """We misbehave: with the exception's traceback where there is one."""
        self._write(logging.ERROR, event, fields, error)

    def close(self) -> None:
        """Flush and let go of the file."""
        self._handler.close()

    def _write(self, level: int, event: str, fields: dict[str, Any], error: BaseException | None = None) -> None:
        window = self._windows.setdefault(event, _Window())
        if not window.admits(self._clock()):
            return
        if left_out := window.take_left_out():
            fields = {**fields, "left_out": left_out}
        record = logging.LogRecord(self._server, level, "", 0, event, None, None)
        record.fields = fields
        if error is not None:
            record.exc_info = (type(error), error, error.__traceback__)
        self._handler.handle(record)


class _Window:
    """How many lines of one event were written in the current second, and how many were not."""

    def __init__(self) -> None:
        self._began = float("-inf")
        self._written = 0
        self._left_out = 0

    def admits(self, now: float) -> bool:
        if now - self._began >= 1:
            self._began = now
            self._written = 0
        if self._written == MAX_PER_SECOND:
            self._left_out += 1
            return False
        self._written += 1
        return True

    def take_left_out(self) -> int:
        count, self._left_out = self._left_out, 0
        return count


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "server": record.name,
            "event": record.msg,
        }
        for name, value in record.__dict__["fields"].items():
            line.setdefault(name, value.hex() if isinstance(value, bytes) else value)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _encode(line).decode()

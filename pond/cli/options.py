"""What commands have in common: options, types of arguments, the cluster's directory, progress on a terminal."""

import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import click

CLUSTER_META = "pond.cluster"
"""Where the click context keeps the directory that was named by option or environment."""
KEY_META = "pond.key"
"""The same, for the owner key's file."""

F = TypeVar("F", bound=Callable[..., Any])

LARGEST_NUMBER = 2**63 - 1
"""Of a version: what a server can count to."""


def one_line(text: str) -> str:
    """The text with everything escaped that a terminal would not print as a character of one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


# --- options -----------------------------------------------------------------------------------------------------


def cluster_option(command: F) -> F:
    """`--cluster DIR` after the sub-command too; there it wins over the one before it."""

    def remember(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.meta[CLUSTER_META] = value

    return click.option(
        "--cluster",
        metavar="DIR",
        type=click.Path(),
        expose_value=False,
        callback=remember,
        help="Directory of the cluster.",
    )(command)


def json_option(command: F) -> F:
    """`--json`, as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")(command)


def key_option(command: F) -> F:
    """`--key FILE`: whose objects are meant."""

    def remember(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.meta[KEY_META] = value

    return click.option(
        "--key",
        metavar="FILE",
        envvar="POND_KEY",
        type=click.Path(),
        expose_value=False,
        callback=remember,
        help="Owner key; else POND_KEY, else owner.key in the cluster's directory.",
    )(command)


def timeout_option(command: F) -> F:
    """`--timeout SECONDS`, as `timeout`."""
    return click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True, max=1e6),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to try; a transfer may take longer while it moves on.",
    )(command)


def named_key() -> Path | None:
    """The owner key's file that was named by option or environment; None means the one of the cluster's directory."""
    named = click.get_current_context().meta.get(KEY_META)
    return Path(named) if named else None


def named_cluster() -> Path | None:
    """The directory that was named by option or environment; None means the default one."""
    named = click.get_current_context().meta.get(CLUSTER_META)
    return Path(named).absolute() if named else None


# --- arguments ---------------------------------------------------------------------------------------------------


def object_name(value: str) -> str:
    """An object's name, checked by the rules of the store before anything else happens, however long or odd it is."""
    from pond.model.names import NameRefused, check_name

    try:
        check_name(value)
    except NameRefused as error:
        raise click.BadParameter(str(error)) from None
    return value


def vguid(value: str) -> bytes:
    """A version's GUID."""
    from tapestry import guid

    try:
        return guid.parse(value)
    except ValueError:
        message = f"a VGUID has 64 base-16 digits, as `pond log NAME` shows them; not {shown(value)}"
        raise click.BadParameter(message) from None


def moment(value: str) -> datetime:
    """A time with a zone: ISO 8601, local unless it names a zone, or seconds since 1970 (nine digits or more)."""
    try:
        if re.fullmatch(r"\d{9,}(\.\d+)?", value):
            return datetime.fromtimestamp(float(value), UTC)
        return datetime.fromisoformat(value).astimezone()
    except (ValueError, OverflowError, OSError):
        example = datetime.now().isoformat(timespec="seconds")
        message = f"{shown(value)} is no time: write it like {example}, or as seconds since 1970"
        raise click.BadParameter(message) from None


def ring_key(value: str) -> bytes:
    """The public key of a ring."""
    from tapestry import guid

    try:
        return guid.parse(value)
    except ValueError:
        message = f"a ring's key has 64 base-16 digits, as `pond cluster status` shows it; not {shown(value)}"
        raise click.BadParameter(message) from None


_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


def block_size(value: str) -> int:
    """Bytes, also written like 64K or 1M."""
    found = re.fullmatch(r"(\d{1,12})([kKmM]?)", value)
    if found is None:
        raise click.BadParameter(f"{shown(value)} is no size: write it like 65536, 64K or 1M")
    return int(found[1]) * _UNITS[found[2].lower()]


def byte_range(value: str) -> tuple[int, int | None]:
    """Where bytes start and stop, from text like 1M..2M; either may be left out."""
    found = re.fullmatch(r"(\d{0,18})([kKmMgG]?)\.\.(\d{0,18})([kKmMgG]?)", value)
    if found is None or (found[2] and not found[1]) or (found[4] and not found[3]):
        raise click.BadParameter(
            f"{shown(value)} is no range: write it like 0..4096, 1M..2M or, to the end, 100.. (bytes)"
        )
    start = int(found[1] or 0) * _UNITS[found[2].lower()]
    stop = int(found[3]) * _UNITS[found[4].lower()] if found[3] else None
    if stop is not None and stop < start:
        raise click.BadParameter(f"{shown(value)} stops before it starts")
    return start, stop


VERSION = click.IntRange(1, LARGEST_NUMBER)
FILE = click.Path(path_type=Path)


def shown(text: str, limit: int = 40) -> str:
    """The text in quotes and not too long, for an error message."""
    return repr(text if len(text) <= limit else text[:limit] + "...")


# --- progress ----------------------------------------------------------------------------------------------------


class Progress:
    """A bar on standard error, when that is a terminal and the work takes above a second.

    Called with the bytes done and the bytes there are, 0 when nobody knows; a context that takes the bar away at its
    end.
    """

    AFTER_SECONDS = 1.0
    EVERY_SECONDS = 0.1
    WIDTH = 30

    def __init__(self, label: str) -> None:
        self._label = label
        self._on_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._began = monotonic()
        self._drawn: float | None = None
        self._length = 0
        self.resumed_bytes: Callable[[], int] = int
        """How much of what is done was done before, by an attempt that was broken off."""

    def __call__(self, done: int, total: int) -> None:
        """Draw it, unless that was done just now."""
        now = monotonic()
        last = self._began + self.AFTER_SECONDS - self.EVERY_SECONDS if self._drawn is None else self._drawn
        if not self._on_terminal or now - last < self.EVERY_SECONDS:
            return
        self._drawn = now
        resumed = self.resumed_bytes()
        rate = max(0, done - resumed) / (now - self._began) / 1e6
        if total:
            share = min(done / total, 1.0)
            state = f"[{('#' * round(share * self.WIDTH)).ljust(self.WIDTH)}] {share:4.0%}"
        else:
            state = f"{done / 1e6:10.1f} MB"
        line = f"{self._label} {state} {rate:6.1f} MB/s"
        if resumed:
            line += f", {resumed / 1e6:.0f} MB were there"
        self._length = max(self._length, len(line))
        click.echo("\r" + line.ljust(self._length), nl=False, err=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._drawn is not None:
            click.echo("\r" + " " * self._length + "\r", nl=False, err=True)

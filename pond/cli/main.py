"""The root of the `pond` command: finds its sub-commands, and turns whatever ends one into a line and an exit code."""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from types import FrameType
from typing import Any, NoReturn

import click

from pond.cli.options import CLUSTER_META, one_line
from pond.errors import PondError

COMMANDS = "pond.commands"
"""The entry-point group: each entry is a sequence of click commands."""

USAGE = 2
UNAVAILABLE = 5
BUG = 1
DEBUG = "POND_DEBUG"

EXIT_CODES = (
    ("0", "done"),
    ("1", "a bug in Pond"),
    ("2", "usage: it makes no sense, or a file that was named cannot be used"),
    ("3", "aborted by a predicate, or not permitted: nothing has changed"),
    ("4", "there is no such cluster, object or version"),
    ("5", "unavailable or timed out"),
    ("6", "failed verification: bytes do not hold against the ring's key"),
    ("128 + n", "ended by signal n, as shells have it: 130 for Ctrl-C"),
)
"""What each means; `pond sim` has more, for what it finds."""


def _exit_codes() -> str:
    """The table for a help page, which click is to leave as it is."""
    return "\b\nExit codes:\n" + "\n".join(f"  {code.ljust(9)}{meaning}" for code, meaning in EXIT_CODES)


class _Ended(BaseException):
    """Carries what ended a command past click, which has answers of its own to an interrupt and a broken pipe."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__()
        self.cause = cause


@contextmanager
def _click_keeps_out() -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, OSError, EOFError) as error:
        raise _Ended(error) from error


class Root(click.Group):
    """The group of all commands that installed packages bring."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in alphabetical order."""
        self._load()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        self._load()
        return super().get_command(ctx, cmd_name)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the command line."""
        with _click_keeps_out():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _click_keeps_out():
            return super().invoke(ctx)

    def _load(self) -> None:
        if not self.commands:
            for entry in entry_points(group=COMMANDS):
                for command in entry.load():
                    self.add_command(command)

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run the command line and exit; with `standalone_mode=False`, return as click has it."""

        run: Any = super().main
        if not standalone_mode:
            return run(*args, standalone_mode=False, **extra)
        if not __debug__:
            _say("asserts are part of the safety rules, so Pond refuses python -O: run it without -O or PYTHONOPTIMIZE")
            sys.exit(USAGE)
        signal.signal(signal.SIGTERM, _terminated)
        try:
            result = run(*args, standalone_mode=False, **extra)
            if sys.stdout is not None:
                sys.stdout.flush()
        except _Ended as ended:
            sys.exit(_ended_by(ended.cause))
        except BaseException as error:
            sys.exit(_ended_by(error))
        sys.exit(result if isinstance(result, int) else 0)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    """On SIGTERM, unwind, so that temporary files and servers that were started do not stay behind."""
    raise SystemExit(128 + number)


def _heard(number: int, frame: FrameType | None) -> None:
    """A SIGINT beside the one that the command is telling of."""


def _ended_by(error: BaseException) -> int:
    """Say in one line why the command ends, and return its exit code."""
    match error:
        case SystemExit():
            return error.code if isinstance(error.code, int) else 0
        case PondError():
            _say(str(error))
            _show_traceback()
            return error.exit_code
        case click.exceptions.NoArgsIsHelpError():
            click.echo(error.format_message(), err=True)
            return USAGE
        case click.ClickException():
            context = getattr(error, "ctx", None)
            where = f": see `{context.command_path} --help`" if context is not None else ""
            _say(error.format_message().rstrip(".") + where)
            return USAGE
        case KeyboardInterrupt() | click.Abort():
            signal.signal(signal.SIGINT, _heard)
            _say("interrupted")
            return 128 + signal.SIGINT
        case BrokenPipeError():
            _drop_output()
            return 128 + signal.SIGPIPE
        case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EIO):
            _say(f"cannot write the output ({error.strerror}): make room or choose another place")
            _drop_output()
            return UNAVAILABLE
        case _:
            _say(f"{type(error).__name__}{_place(error)}: this is a bug in Pond; {DEBUG}=1 shows where it comes from")
            _show_traceback()
            return BUG


def _say(message: str) -> None:
    click.echo(f"pond: {one_line(message)}", err=True)


def _show_traceback() -> None:
    if os.environ.get(DEBUG):
        click.echo(traceback.format_exc(), err=True)


def _place(error: BaseException) -> str:
    """The innermost line of the traceback. The exception's own text stays out: nobody knows what is in it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if os.path.exists(frame.filename)]
    return f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""


def _drop_output() -> None:
    """Nobody takes our output: keep the interpreter from trying, and complaining, once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(
    cls=Root, epilog=_exit_codes(), context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--cluster",
    envvar="POND_CLUSTER",
    metavar="DIR",
    type=click.Path(),
    help="Directory of the cluster; else POND_CLUSTER, else pond in the user's data directory.",
)
@click.version_option(package_name="pond", message="pond %(version)s")
@click.pass_context
def main(ctx: click.Context, cluster: str | None) -> None:
    """A store for data that must outlive the people and machines that keep it.

    To see it at work, run `pond cluster demo`. To use it here:

    \b
      pond cluster up               start a ring of four servers on this machine
      pond put notes file.txt       store a version
      pond log notes                every version there ever was
      pond get notes --version 1    any of them
    """
    if cluster is not None:
        ctx.meta[CLUSTER_META] = cluster
    if os.environ.get("NO_COLOR"):
        ctx.color = False

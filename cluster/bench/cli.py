"""Commands that measure: `pond bench`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pond.cli.answers import show
from pond.cli.options import json_option
from pond.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

SCENARIO_NAMES = ("primary", "primary-1", "paused", "all", "storm", "quiet")


def plot_option(command: F) -> F:
    """`--plot FILE`, as `plot`; whether it can be drawn is known before anything is measured."""

    def check(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
        if value is not None:
            from cluster.bench import plots

            plots.check(value)
        return value

    return click.option(
        "--plot",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        callback=check,
        help="Draw the results into this .png, .svg or .pdf file (needs pond[plot]).",
    )(command)


def loop_options(what: str, sizes: str, clients: str) -> Callable[[F], F]:
    """`--size`, `--clients` and `--seconds`, as `sizes`, `clients` and `seconds`; of what, and by default which."""

    def add(command: F) -> F:
        command = click.option(
            "--seconds",
            type=click.FloatRange(0.5, 3600),
            default=5.0,
            show_default=True,
            help="How long each row is measured.",
        )(command)
        command = click.option(
            "--clients",
            multiple=True,
            type=click.IntRange(1, 1000),
            metavar="N",
            help=f"Clients at a time; may be given several times.  [default: {clients}]",
        )(command)
        return click.option(
            "--size",
            "sizes",
            multiple=True,
            type=click.IntRange(1, 100_000_000),
            metavar="BYTES",
            help=f"Of one {what}; may be given several times.  [default: {sizes}]",
        )(command)

    return add


def _tell(line: str) -> None:
    """Progress, which is no part of the answer."""
    click.echo(line, err=True)


@click.group()
def bench() -> None:
    """Measure on this machine, always beside its own floor in the same run."""


@bench.command("write-latency")
@plot_option
@json_option
def write_latency(plot: Path | None, as_json: bool) -> None:
    """How long one client waits for one write of 4 KiB and of 2 MB; takes about half a minute.

    Starts a ring of four in the temporary directory and stops it again. The floor is what the syncs, round trips,
    signature checks and hash that no design avoids cost on this machine at the same time.
    """
    from cluster.bench.writes import in_words
    from cluster.bench.writes import write_latency as measure

    measured = measure()
    if plot is not None:
        from cluster.bench import plots

        plots.write_latency(measured, plot)
    show(measured, in_words(measured), as_json)


@bench.command("throughput")
@loop_options("update", "100, 4096, 65536, 2000000", "1, 4, 16, 64, 256")
@click.option("--together", is_flag=True, help="Clients of one process are one user, whose updates share signatures.")
@click.option("--etcd", "with_etcd", is_flag=True, help="Measure etcd beside it, which must be on the PATH.")
@plot_option
@json_option
def throughput(
    sizes: tuple[int, ...],
    clients: tuple[int, ...],
    seconds: float,
    together: bool,
    with_etcd: bool,
    plot: Path | None,
    as_json: bool,
) -> None:
    """How many updates a second a ring takes, by size and number of clients; takes about four minutes.

    Starts a ring of four in the temporary directory for each size, and stops it again. Each client is a user with a
    key, links and an object of its own, who sends the next update when the one before is acknowledged; all clients
    share a few processes; with --together, those of one process are one user, who signs what it sends in one go with
    one signature. A row goes on until there are as many updates as clients, but no longer than 30 seconds.
    The floor is what the signatures, hashes and disk writes that no design avoids would allow. With --etcd three
    members of etcd take puts of the same sizes by as many clients after each ring, which doubles the time.
    """
    from cluster.bench import etcd
    from cluster.bench.throughput import CLIENTS, SIZES, in_words
    from cluster.bench.throughput import throughput as measure

    if with_etcd:
        etcd.check()
    measured = measure(sizes or SIZES, clients or CLIENTS, seconds, with_etcd, together, say=_tell)
    if plot is not None:
        from cluster.bench import plots

        plots.throughput(measured, plot)
    show(measured, in_words(measured), as_json)


@bench.command("read")
@loop_options("object", "4096, 2000000", "1, 64")
@plot_option
@json_option
def read(sizes: tuple[int, ...], clients: tuple[int, ...], seconds: float, plot: Path | None, as_json: bool) -> None:
    """How long a proved read takes, from one server and linearizable; takes about a minute and a half.

    Starts a ring of four in the temporary directory, and stops it again. Each client is a user with a key, links and an
    object of its own, which it reads again and again; all clients share a few processes.
    """
    from cluster.bench.reads import CLIENTS, SIZES, in_words
    from cluster.bench.reads import reads as measure

    measured = measure(sizes or SIZES, clients or CLIENTS, seconds, say=_tell)
    if plot is not None:
        from cluster.bench import plots

        plots.reads(measured, plot)
    show(measured, in_words(measured), as_json)


@bench.command("signature")
@json_option
def signature(as_json: bool) -> None:
    """What each part of the ring's threshold signature takes, in one process; takes a second."""
    from cluster.bench.signature import in_words
    from cluster.bench.signature import signature as measure

    measured = measure()
    show(measured, in_words(measured), as_json)


@bench.command("large")
@click.option(
    "--size",
    type=click.IntRange(64, 100_000),
    default=1024,
    show_default=True,
    metavar="MIB",
    help="Length of the file.",
)
@json_option
def large(size: int, as_json: bool) -> None:
    """How fast a large file goes in and comes out, also when that is killed twice each way; takes about two minutes.

    Starts a ring of four in the temporary directory, which takes twelve times as much room as the file, and stops it
    again.
    """
    from cluster.bench.large import in_words
    from cluster.bench.large import large as measure

    measured = measure(size * 1024 * 1024, say=lambda line: click.echo(line, err=True))
    show(measured, in_words(measured), as_json)


@bench.command("recovery")
@click.option(
    "--seconds",
    type=click.FloatRange(1, 120),
    default=120.0,
    show_default=True,
    help="How long whoever leads is killed again and again; pauses and the run without faults are as short.",
)
@click.option("--only", type=click.Choice(SCENARIO_NAMES), help="One scenario alone.")
@json_option
def recovery(seconds: float, only: str | None, as_json: bool) -> None:
    """How long a ring takes to go on after kills and pauses, under writers; takes about seven minutes.

    Starts a ring of four in the temporary directory for each scenario, and stops it again. Afterwards everything that
    was acknowledged is read back: none of it may be lost.
    """
    from cluster.bench.recovery import in_words
    from cluster.bench.recovery import recovery as measure

    measured = measure(seconds, only)
    show(measured, in_words(measured), as_json)


@bench.command("catch-up")
@click.option(
    "--updates",
    type=click.IntRange(1000, 1_000_000),
    default=100_000,
    show_default=True,
    help="How many a server is to miss.",
)
@click.option(
    "--megabytes",
    type=click.IntRange(0, 100_000),
    default=1000,
    show_default=True,
    help="How much these write in all.",
)
@json_option
def catch_up(updates: int, megabytes: int, as_json: bool) -> None:
    """How a server that missed very much catches up with a ring under load; takes about a quarter of an hour.

    Starts a ring of four in the temporary directory, which takes five times as much room as what is written, and stops
    it again. What writers see and what memory servers take is told beside what both are when nothing is wrong.
    """
    from cluster.bench.catch_up import Size, in_words
    from cluster.bench.catch_up import catch_up as measure

    measured = measure(Size(updates, megabytes * 1_000_000), say=_tell)
    show(measured, in_words(measured), as_json)


@bench.command("mixed")
@click.option(
    "--seconds", type=click.FloatRange(1, 86_400), default=600.0, show_default=True, help="How long they work."
)
@click.option(
    "--clients", type=click.IntRange(4, 512), default=64, show_default=True, help="How many there are, of all kinds."
)
@json_option
def mixed(seconds: float, clients: int, as_json: bool) -> None:
    """Users who write, read, write large objects and send updates that abort, all at once; takes ten minutes.

    Starts a ring of four in the temporary directory, and stops it again. Whatever is read is checked. Nobody may meet
    an error but the aborts that were asked for.
    """
    from cluster.bench.mixed import in_words
    from cluster.bench.mixed import mixed as measure

    measured = measure(seconds, clients, say=_tell)
    show(measured, in_words(measured), as_json)


@bench.command("endurance")
@click.option(
    "--updates", type=click.IntRange(100, 100_000_000), default=100_000, show_default=True, help="How many in all."
)
@json_option
def endurance(updates: int, as_json: bool) -> None:
    """What servers keep in memory and in their logs while 64 clients write 4 KiB again and again; some minutes.

    Starts a ring of four in the temporary directory, which takes four times as much room as what is written, and stops
    it again.
    """
    from cluster.bench.endurance import endurance as measure
    from cluster.bench.endurance import in_words

    measured = measure(updates, say=_tell)
    show(measured, in_words(measured), as_json)


@bench.command("overlay")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("bench-overlay"),
    show_default=True,
    help="Where each run's result is kept, and pictures are drawn.",
)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Runs at a time, each in a process.")
@json_option
def overlay(directory: Path, jobs: int, as_json: bool) -> None:
    """Simulated overlays under churn, beside targets, Bamboo and Chord; takes about an hour on two cores.

    A thousand nodes at sessions of 1.4 to 47 minutes, with periodic and with reactive recovery, and as many of Chord; a
    fifth of them killed at once; ten thousand nodes. A result is kept as soon as its run is over: what was interrupted
    goes on where it was when this is called again. Results of other code are not used. Three pictures are drawn, if
    pond[plot] is there.
    """
    from cluster.bench import plots
    from cluster.bench.overlay import in_words
    from cluster.bench.overlay import overlay as measure

    try:
        plots.check(directory.absolute().parent / "overlay.png")
        drawn = True
    except UsageError as error:
        _tell(f"no pictures: {error}")
        drawn = False
    measured = measure(directory, jobs, say=_tell)
    if drawn:
        from cluster.bench import overlay_plots

        overlay_plots.draw(measured, directory)
    show(measured, in_words(measured), as_json)


@bench.command("locate")
@click.option(
    "--storage",
    type=click.IntRange(4, 64),
    default=46,
    show_default=True,
    metavar="N",
    help="Servers beside the ring of four.",
)
@json_option
def locate(storage: int, as_json: bool) -> None:
    """How soon the overlay finds what real servers hold, while a third of them is killed and cut off; four minutes.

    Starts a ring of four and the storage servers in the temporary directory, all of which are nodes of the overlay.
    30 % are killed at once and started again. Then all are started anew with relays between two halves, which are cut
    off from each other for a minute. Each locate ends when the holder itself has answered.
    """
    from cluster.bench.locate import Size, in_words
    from cluster.bench.locate import locate as measure

    measured = measure(Size(storage), say=_tell)
    show(measured, in_words(measured), as_json)

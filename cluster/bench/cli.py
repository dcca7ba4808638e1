"""Commands that measure: `pond bench`."""

import click

from pond.cli.answers import show
from pond.cli.options import json_option

SCENARIO_NAMES = ("primary", "primary-1", "paused", "all", "storm", "quiet")


@click.group()
def bench() -> None:
    """Measure on this machine, always beside its own floor in the same run."""


@bench.command("write-latency")
@json_option
def write_latency(as_json: bool) -> None:
    """How long one client waits for one write of 4 KiB and of 2 MB; takes about half a minute.

    Starts a ring of four in the temporary directory and stops it again. The floor is what the syncs, round trips,
    signature checks and hash that no design avoids cost on this machine at the same time.
    """
    from cluster.bench.writes import in_words
    from cluster.bench.writes import write_latency as measure

    measured = measure()
    show(measured, in_words(measured), as_json)


@bench.command("throughput")
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=click.IntRange(1, 100_000_000),
    metavar="BYTES",
    help="Of one update; may be given several times.  [default: 100, 4096, 65536, 2000000]",
)
@click.option(
    "--clients",
    multiple=True,
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Clients at a time; may be given several times.  [default: 1, 4, 16, 64, 256]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.5, 3600),
    default=5.0,
    show_default=True,
    help="How long each row is measured.",
)
@json_option
def throughput(sizes: tuple[int, ...], clients: tuple[int, ...], seconds: float, as_json: bool) -> None:
    """How many updates a second a ring takes, by size and number of clients; takes about four minutes.

    Starts a ring of four in the temporary directory for each size, and stops it again. Each client is a user with a
    key, links and an object of its own, who sends the next update when the one before is acknowledged; all clients
    share a few processes. A row goes on until there are as many updates as clients, but no longer than 30 seconds.
    The floor is what the signatures, hashes and disk writes that no design avoids would allow.
    """
    from cluster.bench.throughput import CLIENTS, SIZES, in_words
    from cluster.bench.throughput import throughput as measure

    measured = measure(sizes or SIZES, clients or CLIENTS, seconds, say=lambda line: click.echo(line, err=True))
    show(measured, in_words(measured), as_json)


@bench.command("read")
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=click.IntRange(1, 100_000_000),
    metavar="BYTES",
    help="Of one object; may be given several times.  [default: 4096, 2000000]",
)
@click.option(
    "--clients",
    multiple=True,
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Clients at a time; may be given several times.  [default: 1, 64]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.5, 3600),
    default=5.0,
    show_default=True,
    help="How long each row is measured.",
)
@json_option
def read(sizes: tuple[int, ...], clients: tuple[int, ...], seconds: float, as_json: bool) -> None:
    """How long a proved read takes, from one server and linearizable; takes about a minute and a half.

    Starts a ring of four in the temporary directory, and stops it again. Each client is a user with a key, links and an
    object of its own, which it reads again and again; all clients share a few processes.
    """
    from cluster.bench.reads import CLIENTS, SIZES, in_words
    from cluster.bench.reads import reads as measure

    measured = measure(sizes or SIZES, clients or CLIENTS, seconds, say=lambda line: click.echo(line, err=True))
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

    measured = measure(Size(updates, megabytes * 1_000_000), say=lambda line: click.echo(line, err=True))
    show(measured, in_words(measured), as_json)

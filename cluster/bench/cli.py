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

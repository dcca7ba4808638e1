"""`pond sim churn`: overlays of many nodes, on one core and virtual time."""

import secrets
import sys
from math import ceil
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from cluster.bench.cli import plot_option
from cluster.sim.churn.words import NEVER, seconds_of
from pond.cli.answers import show
from pond.cli.options import json_option

if TYPE_CHECKING:
    from cluster.sim.churn.overlay import Name, Recovery
    from cluster.sim.churn.run import Progress

DISAGREE = 11
"""As for `sim ring` when liveness is broken."""

EVERY_SECONDS = 0.2

QUIET_AFTER_PARTITION = 60.0
LEFT_AFTER_PARTITION = 20.0
"""Of the time measured, to see halves find together."""

OBJECTS_AMONG_LIARS = 200


class Duration(click.ParamType[Any]):
    """Seconds, written like 90s, 1.4m or 2h; where nothing may be meant, `never` is None."""

    name = "duration"

    def __init__(self, never: bool = False) -> None:
        self._never = never

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str) or (self._never and value == NEVER):
            return value
        try:
            return seconds_of(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.option("--nodes", type=click.IntRange(2, 100_000), default=1000, show_default=True, help="That live at a time.")
@click.option(
    "--median-session",
    type=Duration(never=True),
    default="6m",
    show_default=True,
    metavar="DURATION",
    help="Half of all nodes die before they are so old, and a new one takes the place of each; never: none dies.",
)
@click.option("--minutes", type=click.FloatRange(0.1, 1440), default=6.0, show_default=True, help="That are measured.")
@click.option(
    "--settle",
    type=Duration(),
    default="1m",
    show_default=True,
    metavar="DURATION",
    help="From the start of the last node until measuring begins, at least 1m.",
)
@click.option("--overlay", type=click.Choice(["tapestry", "chord"]), default="tapestry", show_default=True)
@click.option(
    "--recovery",
    type=click.Choice(["periodic", "reactive"]),
    default="periodic",
    show_default=True,
    help="When nodes compare their leaf sets: time after time, or whenever one has changed; of tapestry.",
)
@click.option(
    "--partition",
    type=Duration(),
    metavar="DURATION",
    help="Cut the nodes into halves for so long, a quarter into the time measured.",
)
@click.option(
    "--kill",
    type=click.FloatRange(0, 0.95, min_open=True),
    metavar="SHARE",
    help="Let this share of the nodes die in one instant, a quarter into the time measured.",
)
@click.option(
    "--quiet",
    type=Duration(),
    metavar="DURATION",
    help="At the end stop churn for so long, then ask every node for the same keys.  [default: 1m with --partition,"
    " else not at all]",
)
@click.option("--loss", type=click.FloatRange(0, 0.5), default=0.0, help="Share of packets that get lost.")
@click.option(
    "--objects",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="Let nodes publish so many objects and read them, four holders for each.  [default: 200 with --liars or"
    " --eclipse, else none]",
)
@click.option(
    "--liars",
    type=click.FloatRange(0, 0.5, min_open=True),
    metavar="SHARE",
    help="Let this share of the nodes lie, in league and as badly as they can.",
)
@click.option(
    "--eclipse",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Let so many more that lie join nearer to the first root of one object than any honest node; each second read"
    " is of that object.",
)
@click.option("--seed", type=click.IntRange(0), metavar="N", help="Decides everything.  [default: a random one]")
@plot_option
@json_option
def churn(
    nodes: int,
    median_session: float | str,
    minutes: float,
    settle: float,
    overlay: "Name",
    recovery: "Recovery",
    partition: float | None,
    kill: float | None,
    quiet: float | None,
    loss: float,
    objects: int | None,
    liars: float | None,
    eclipse: int | None,
    seed: int | None,
    plot: Path | None,
    as_json: bool,
) -> int:
    """Run an overlay whose nodes come and go, and measure what its lookups do meanwhile.

    The workload is that of Bamboo (USENIX 2004, section 4): links of 1 Mb/s, and each key is looked up by ten nodes at
    once, each node asking every ten seconds on average. Nodes start within two minutes; after another one (--settle),
    in which they already die and ask, measuring begins. With --objects nodes also read objects, as often as they look
    up keys: they locate a holder, ask it for the object, and pass it over when it does not give it. Durations are
    written like 90s, 1.4m or 2h. All times are virtual.

    \b
    Exit codes: 0 the run came to its end
               11 nodes that were asked in the quiet at the end did not agree on the right root for each key
    """
    if overlay == "chord" and recovery == "reactive":
        raise click.UsageError("--recovery is of tapestry: chord recovers as its paper says")
    if overlay == "chord" and (objects or liars or eclipse):
        raise click.UsageError("--objects, --liars and --eclipse are of tapestry: chord here has no objects")
    if objects is None and (liars or eclipse):
        objects = OBJECTS_AMONG_LIARS
    from cluster.sim.churn import report
    from cluster.sim.churn.run import EVENT_SHARE, SETTLE_SECONDS, Plan, simulate

    if settle < SETTLE_SECONDS:
        raise click.BadParameter("nodes need a minute at least, in which objects are published", param_hint="--settle")

    measured = round(minutes * 60, 6)
    if partition is not None:
        quiet = QUIET_AFTER_PARTITION if quiet is None else quiet
        least = (partition + LEFT_AFTER_PARTITION) / (1 - EVENT_SHARE)
        if measured < least:
            needed = f"{ceil(least / 6) / 10:g}"
            raise click.UsageError(f"to see {partition:g} s of --partition heal, --minutes has to be {needed} or more")
    plan = Plan(
        overlay=overlay,
        nodes=nodes,
        median_session_seconds=None if isinstance(median_session, str) else median_session,
        seconds=measured,
        settle_seconds=settle,
        seed=secrets.randbelow(2**32) if seed is None else seed,
        recovery=recovery,
        kill=kill,
        partition_seconds=partition,
        quiet_seconds=quiet,
        loss=loss,
        objects=objects,
        liars=liars or 0.0,
        eclipse=eclipse or 0,
    )
    click.echo(f"Replay: {plan.replay()}", err=True)
    began = monotonic()
    run = simulate(plan, _progress())
    if sys.stderr is not None and sys.stderr.isatty():
        click.echo("\r" + " " * 70 + "\r", nl=False, err=True)
    answer = report.answer(run, monotonic() - began)
    show(answer, report.in_words(answer), as_json)
    if plot is not None:
        from cluster.sim.churn import plots

        plots.draw(answer, plot)
    agree = answer.everyone
    return DISAGREE if agree is not None and agree.right < agree.keys else 0


def _progress() -> "Progress":
    """Says on a terminal how far the run is."""
    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    drawn = monotonic()

    def tell(now: float, most: float, live: int) -> None:
        nonlocal drawn
        if on_terminal and monotonic() - drawn >= EVERY_SECONDS:
            drawn = monotonic()
            line = f"{now:.0f} of at most {most:.0f} virtual seconds, {live} nodes live"
            click.echo(f"\r{line:<70}", nl=False, err=True)

    return tell

"""Commands that simulate: the same seed, the same run, on any machine."""

import secrets
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import click

from cluster.sim.churn.cli import churn
from pond.cli.answers import show
from pond.cli.options import json_option, one_line

if TYPE_CHECKING:
    from cluster.sim.jobs import Plan
    from cluster.sim.ring import Run
    from cluster.sim.shrink import Shrunk
    from cluster.sim.trace import Event

SAFETY, LIVENESS, CRASH = 10, 11, 12
EXIT_CODES = {"safety": SAFETY, "crash": CRASH, "liveness": LIVENESS}
"""By verdict, the worst first."""

OPERATIONS = 200
MESSAGES_DRAWN = 250
"""As cluster.sim.spacetime has it, which is loaded when something is drawn."""
EVERY_SECONDS = 0.2


def _seed_range(ctx: click.Context, parameter: click.Parameter, value: str | None) -> range | None:
    if value is None:
        return None
    first, dots, last = value.partition("..")
    if not dots or not first.isdecimal() or not last.isdecimal() or int(first) > int(last):
        raise click.BadParameter(f"{value!r} is no range of seeds: write it like 1..100")
    return range(int(first), int(last) + 1)


def _plan(path: str | None, operations: int | None) -> "Plan":
    from cluster.faults import liars, manifest
    from cluster.sim.jobs import Plan

    if path is None:
        return Plan(operations or OPERATIONS)
    try:
        read = manifest.load(Path(path))
        liars.check(read)
    except manifest.ManifestError as error:
        raise click.UsageError(f"{path}: {error}") from None
    return Plan(read.sizes.operations, read, path)


@click.group()
def sim() -> None:
    """Simulate: real cores on virtual time, with faults that one seed decides."""


sim.add_command(churn)


@sim.command()
@click.option("--seed", type=click.IntRange(0), metavar="N", help="One run.  [default: a random one]")
@click.option("--seeds", metavar="A..B", callback=_seed_range, help="One run for each seed from A to B.")
@click.option(
    "--manifest", metavar="FILE", help="Exactly these faults and sizes (TOML).  [default: what each seed draws]"
)
@click.option("--operations", type=click.IntRange(1), help=f"Of all clients of a run.  [default: {OPERATIONS}]")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Runs at a time, each in a process.")
@click.option("--trace", is_flag=True, help="Print every event of the one run.")
@click.option(
    "--svg",
    metavar="FILE",
    help="Draw the one run: who sent what to whom, when. Without --from and --to, about the last"
    f" {MESSAGES_DRAWN} messages of it.",
)
@click.option("--from", "start", type=click.FloatRange(0), metavar="SECONDS", help="Draw from this virtual time on.")
@click.option("--to", "stop", type=click.FloatRange(0), metavar="SECONDS", help="Draw up to this virtual time.")
@click.option("--shrink", is_flag=True, help="Look for a smaller manifest that fails like the one run.")
@json_option
def ring(
    seed: int | None,
    seeds: range | None,
    manifest: str | None,
    operations: int | None,
    jobs: int,
    trace: bool,
    svg: str | None,
    start: float | None,
    stop: float | None,
    shrink: bool,
    as_json: bool,
) -> int:
    """Run rings whose network, disks, clocks and servers fail, and check every safety rule after every step.

    In each run, clients write and read while everything that the manifest names goes wrong. Then 2f + 1 servers are
    healed, the rest stays broken, and every operation must complete; at last all is healed and must converge.

    \b
    Exit codes: 0 all runs were as promised
               10 a safety rule was broken, or a history was not linearizable
               11 liveness: a healed quorum did not complete what it was asked
               12 a server or client crashed by a bug
    """
    if seed is not None and seeds is not None:
        raise click.UsageError("--seed and --seeds exclude each other")
    if manifest is not None and operations is not None:
        raise click.UsageError("--manifest says how many operations there are, so --operations goes without it")
    if seeds is not None and (trace or shrink or svg is not None):
        raise click.UsageError("--trace, --svg and --shrink are for one seed: give it with --seed")
    if trace and as_json:
        raise click.UsageError("--trace is in words, so it goes without --json")
    if svg is None and (start is not None or stop is not None):
        raise click.UsageError("--from and --to are for --svg")
    if start is not None and stop is not None and start >= stop:
        raise click.UsageError(f"--from {start:g} is not before --to {stop:g}")
    if seeds is None:
        seed = secrets.randbelow(2**32) if seed is None else seed
        seeds = range(seed, seed + 1)

    from cluster.sim import report
    from cluster.sim.jobs import runs

    plan = _plan(manifest, operations)
    click.echo(f"Replay: {plan.replay(seeds)}", err=as_json)
    began = monotonic()
    sums = report.Sums(plan, seeds)
    if trace or svg is not None:
        run, drawn = _watched(plan, seeds[0], trace, svg, start, stop)
        sums.add(run)
        if drawn:
            click.echo(drawn, err=as_json)
    else:
        for run in _progress(runs(plan, seeds, jobs), len(seeds)):
            sums.add(run)
    smallest = _shrunk(run) if shrink and run.what else None
    answer = sums.answer(monotonic() - began, smallest)
    show(answer, report.in_words(answer), as_json)
    return next((code for verdict, code in EXIT_CODES.items() if verdict in sums.verdicts), 0)


def _watched(
    plan: "Plan", seed: int, trace: bool, svg: str | None, start: float | None, stop: float | None
) -> "tuple[Run, str]":
    """One run, each event of which is shown or drawn, and what was drawn."""
    from cluster.faults.manifest import dump
    from cluster.sim import spacetime, words

    manifest = plan.manifest_of(seed)
    if trace:
        click.echo(f"Manifest:\n\n{dump(manifest)}\n{words.HEADER}")
    events: list[Event] = []

    def observe(event: "Event") -> None:
        if trace:
            click.echo(words.line(event))
        if svg is not None:
            events.append(event)

    run = plan.run(seed, observe)
    if svg is not None:
        title = plan.replay(range(seed, seed + 1)) + (f": {run.verdict.value}" if run.what else "")
        try:
            drawn = spacetime.picture(events, manifest.sizes.servers, start, stop, title)
            Path(svg).write_text(drawn.svg, encoding="utf-8")
        except spacetime.NothingToDraw as error:
            raise click.UsageError(f"--from {start:g}: {error}, so there is nothing to draw") from None
        except OSError as error:
            raise click.UsageError(f"{svg}: cannot be written: {error.strerror}") from None
        which = "the last " if start is None and stop is None and drawn.messages < drawn.of else ""
        others = "; --from and --to choose others" if which else ""
        return run, (
            f"Drawn in {one_line(svg)}: {which}{drawn.messages} of {drawn.of} messages, from {drawn.first:.3f} to"
            f" {drawn.last:.3f} virtual seconds{others}."
        )
    return run, ""


def _shrunk(run: "Run") -> "Shrunk":
    from cluster.sim.shrink import shrink

    def progress(tried: int, smaller: "Run") -> None:
        if sys.stderr is not None and sys.stderr.isatty():
            sizes = smaller.manifest.sizes
            line = f"{tried} tried: seed {smaller.seed}, {sizes.operations} operations of {sizes.clients} clients"
            click.echo(f"\r{line:<70}", nl=False, err=True)

    found = shrink(run, progress)
    if sys.stderr is not None and sys.stderr.isatty():
        click.echo("\r" + " " * 70 + "\r", nl=False, err=True)
    return found


def _progress(runs: "Iterable[Run]", total: int) -> "Iterator[Run]":
    """Passes the runs on, and says on a terminal how many there were."""
    on_terminal = sys.stderr is not None and sys.stderr.isatty() and total > 1
    began = drawn = monotonic()
    failed = 0
    for count, run in enumerate(runs, 1):
        failed += run.what != ""
        now = monotonic()
        if on_terminal and now - drawn >= EVERY_SECONDS:
            drawn = now
            line = f"{count} of {total} seeds, {count / (now - began):.1f} a second, {failed} failed"
            click.echo(f"\r{line:<70}", nl=False, err=True)
        yield run
    if drawn != began:
        click.echo("\r" + " " * 70 + "\r", nl=False, err=True)

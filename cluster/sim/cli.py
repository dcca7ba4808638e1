"""Commands that simulate: the same seed, the same run, on any machine."""

import secrets
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import click

from pond.cli.answers import show
from pond.cli.options import json_option

if TYPE_CHECKING:
    from cluster.sim.jobs import Plan
    from cluster.sim.ring import Run

SAFETY, LIVENESS, CRASH = 10, 11, 12
EXIT_CODES = {"safety": SAFETY, "crash": CRASH, "liveness": LIVENESS}
"""By verdict, the worst first."""

OPERATIONS = 200
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


@sim.command()
@click.option("--seed", type=click.IntRange(0), metavar="N", help="One run.  [default: a random one]")
@click.option("--seeds", metavar="A..B", callback=_seed_range, help="One run for each seed from A to B.")
@click.option(
    "--manifest", metavar="FILE", help="Exactly these faults and sizes (TOML).  [default: what each seed draws]"
)
@click.option("--operations", type=click.IntRange(1), help=f"Of all clients of a run.  [default: {OPERATIONS}]")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Runs at a time, each in a process.")
@click.option("--trace", is_flag=True, help="Print every event of the one run.")
@json_option
def ring(
    seed: int | None,
    seeds: range | None,
    manifest: str | None,
    operations: int | None,
    jobs: int,
    trace: bool,
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
    if trace and (seeds is not None or as_json):
        raise click.UsageError("--trace is for one seed, in words")
    if seeds is None:
        seed = secrets.randbelow(2**32) if seed is None else seed
        seeds = range(seed, seed + 1)

    from cluster.faults.manifest import ManifestError, dump
    from cluster.sim import report
    from cluster.sim.jobs import runs

    plan = _plan(manifest, operations)
    click.echo(f"Replay: {plan.replay(seeds)}", err=as_json)
    began = monotonic()
    try:
        if trace:
            click.echo(f"Manifest:\n\n{dump(plan.manifest_of(seeds[0]))}")
            done = [plan.run(seeds[0], click.echo)]
        else:
            done = sorted(_progress(runs(plan, seeds, jobs), len(seeds)), key=lambda run: run.seed)
    except ManifestError as error:
        raise click.UsageError(str(error)) from None
    answer = report.answer(plan, seeds, done, monotonic() - began)
    show(answer, report.in_words(answer), as_json)
    verdicts = {failure.verdict for failure in answer.failures}
    return next((code for verdict, code in EXIT_CODES.items() if verdict in verdicts), 0)


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

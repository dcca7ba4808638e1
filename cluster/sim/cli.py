"""Commands that simulate: the same seed, the same run, on any machine."""

import hashlib
import multiprocessing
import os
import secrets
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from time import monotonic
from typing import TYPE_CHECKING

import click

from cluster.sim.answers import FailedSeed, SimulatedRing
from pond.cli.answers import show
from pond.cli.options import json_option

if TYPE_CHECKING:
    from cluster.sim.ring import Run

SAFETY, LIVENESS, CRASH = 10, 11, 12
EXIT_CODES = {"safety": SAFETY, "crash": CRASH, "liveness": LIVENESS}
"""By verdict, the worst first."""

CHUNK = 8
"""Seeds handed to a worker at a time."""

STORY_LINES = 60
EVERY_SECONDS = 0.2


def _seed_range(ctx: click.Context, parameter: click.Parameter, value: str | None) -> range | None:
    if value is None:
        return None
    first, dots, last = value.partition("..")
    if not dots or not first.isdecimal() or not last.isdecimal() or int(first) > int(last):
        raise click.BadParameter(f"{value!r} is no range of seeds: write it like 1..100")
    return range(int(first), int(last) + 1)


@click.group()
def sim() -> None:
    """Simulate: real cores on virtual time, with faults that one seed decides."""


@sim.command()
@click.option("--seed", type=click.IntRange(0), metavar="N", help="One run.  [default: a random one]")
@click.option("--seeds", metavar="A..B", callback=_seed_range, help="One run for each seed from A to B.")
@click.option("--operations", type=click.IntRange(1), default=200, show_default=True, help="Of all clients of a run.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Runs at a time, each in a process.")
@click.option("--trace", is_flag=True, help="Print every event of the one run.")
@json_option
def ring(seed: int | None, seeds: range | None, operations: int, jobs: int, trace: bool, as_json: bool) -> int:
    """Run rings whose network, disks and servers fail, and check every safety rule after every step.

    In each run, clients write and read while messages are lost, late, repeated and out of order and up to f backups at
    a time crash; then all is healed, and every operation must complete.

    \b
    Exit codes: 0 all runs were as promised
               10 a safety rule was broken, or a history was not linearizable
               11 liveness: a healed ring did not complete what it was asked
               12 a server or client crashed by a bug
    """
    if seed is not None and seeds is not None:
        raise click.UsageError("--seed and --seeds exclude each other")
    if trace and (seeds is not None or as_json):
        raise click.UsageError("--trace is for one seed, in words")
    if seeds is None:
        seed = secrets.randbelow(2**32) if seed is None else seed
        seeds = range(seed, seed + 1)
    replay = _replay(seeds, operations)
    click.echo(f"Replay: {replay}", err=as_json)
    began = monotonic()
    runs = sorted(_progress(_runs(seeds, operations, jobs, trace), len(seeds)), key=lambda run: run.seed)
    answer = _answer(replay, runs, operations, monotonic() - began)
    show(answer, _in_words(answer), as_json)
    verdicts = {failure.verdict for failure in answer.failures}
    return next((code for verdict, code in EXIT_CODES.items() if verdict in verdicts), 0)


def _replay(seeds: range, operations: int) -> str:
    which = f"--seed {seeds[0]}" if len(seeds) == 1 else f"--seeds {seeds[0]}..{seeds[-1]}"
    return f"pond sim ring {which} --operations {operations}"


def _runs(seeds: range, operations: int, jobs: int, trace: bool) -> "Iterator[Run]":
    from cluster.sim.ring import simulate

    if jobs == 1 or len(seeds) == 1:
        for seed in seeds:
            yield simulate(seed, operations, click.echo if trace else None)
        return
    with ProcessPoolExecutor(min(jobs, os.cpu_count() or 1)) as pool:
        chunks = [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]
        try:
            for done in as_completed([pool.submit(_simulate_some, chunk, operations) for chunk in chunks]):
                yield from done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _simulate_some(seeds: range, operations: int) -> "list[Run]":
    from cluster.sim.ring import simulate

    return [simulate(seed, operations) for seed in seeds]


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


def _answer(replay: str, runs: "list[Run]", operations: int, seconds: float) -> SimulatedRing:
    digest = hashlib.sha256("".join(run.trace for run in runs).encode()).hexdigest()
    return SimulatedRing(
        replay=replay,
        runs=len(runs),
        operations=sum(run.operations for run in runs),
        checked=sum(run.checked for run in runs),
        steps=sum(run.steps for run in runs),
        batches=sum(run.batches for run in runs),
        crashes=sum(run.crashes for run in runs),
        messages=sum(run.messages for run in runs),
        lost=sum(run.lost for run in runs),
        duplicated=sum(run.duplicated for run in runs),
        virtual_seconds=round(sum(run.virtual_seconds for run in runs), 6),
        seconds=round(seconds, 3),
        seeds_per_second=round(len(runs) / max(seconds, 1e-9), 2),
        trace=runs[0].trace if len(runs) == 1 else digest,
        failures=[
            FailedSeed(
                seed=run.seed,
                verdict=run.verdict.value,
                what=run.what,
                replay=_replay(range(run.seed, run.seed + 1), operations),
                story=run.story,
            )
            for run in runs
            if run.what
        ],
    )


def _in_words(answer: SimulatedRing) -> str:
    lines: list[str] = []
    for place, failure in enumerate(answer.failures):
        lines += ["", f"Seed {failure.seed}: {failure.verdict}: {failure.what.rstrip()}", f"  {failure.replay} --trace"]
        if place == 0:
            lines += ["  The last that happened:", *(f"  {line}" for line in failure.story[-STORY_LINES:])]
    good = answer.runs - len(answer.failures)
    lines += [
        f"{good} of {answer.runs} runs as promised: {answer.operations} operations in {answer.batches} batches,"
        f" {answer.checked} of them judged for linearizability.",
        f"{answer.steps} events, {answer.messages} messages ({answer.lost} lost, {answer.duplicated} repeated),"
        f" {answer.crashes} crashes, {answer.virtual_seconds:.0f} virtual seconds.",
        f"{answer.seconds:.1f} s, {answer.seeds_per_second:.1f} seeds a second. Trace {answer.trace[:16]}",
    ]
    return "\n".join(lines)

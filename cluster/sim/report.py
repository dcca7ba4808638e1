"""What came of many runs, put together as an answer and in words."""

import hashlib
from collections.abc import Iterable, Sequence

from cluster.answers import Coverage, FailedSeed, SimulatedRing, Smallest, Splits
from cluster.faults.manifest import dump
from cluster.sim import coverage
from cluster.sim.jobs import Plan
from cluster.sim.ring import Run
from cluster.sim.shrink import Shrunk
from cluster.sim.split import Split

STORY_LINES = 60


def answer(plan: Plan, seeds: range, runs: Sequence[Run], seconds: float, smallest: Shrunk | None) -> SimulatedRing:
    """All runs together, in order of their seeds."""
    digest = hashlib.sha256("".join(run.trace for run in runs).encode()).hexdigest()
    return SimulatedRing(
        replay=plan.replay(seeds),
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
        coverage=[
            Coverage(kind=row.kind, name=row.name, times=row.times, runs=row.runs) for row in coverage.table(runs)
        ],
        smallest=None
        if smallest is None
        else Smallest(
            seed=smallest.run.seed,
            what=smallest.run.what,
            manifest=dump(smallest.run.manifest),
            tried=smallest.tried,
        ),
        rounds=sum(run.rounds.total() for run in runs),
        resumed_seconds=round(max((run.resumed_seconds for run in runs), default=0.0), 3),
        splits=_splits([run.split for run in runs if run.split is not None]),
        failures=[_failure(plan, run) for run in runs if run.what],
    )


def _splits(splits: Sequence[Split]) -> Splits | None:
    if not splits:
        return None
    progress = [split.progress_seconds for split in splits if split.progress_seconds is not None]
    in_step = [split.in_step_seconds for split in splits if split.in_step_seconds is not None]
    return Splits(
        runs=len(splits),
        commits=max(split.commits for split in splits),
        longest_gap_seconds=round(max(split.longest_gap_seconds for split in splits), 3),
        progress_seconds=round(max(progress), 3) if progress else None,
        in_step_seconds=round(max(in_step), 3) if in_step else None,
    )


def _failure(plan: Plan, run: Run) -> FailedSeed:
    return FailedSeed(
        seed=run.seed,
        verdict=run.verdict.value,
        what=run.what,
        replay=plan.replay(range(run.seed, run.seed + 1)),
        manifest=dump(run.manifest),
        story=run.story,
    )


def in_words(answer: SimulatedRing) -> str:
    """The answer for people: what failed, the first of it in full, and the sums."""
    lines: list[str] = []
    for place, failure in enumerate(answer.failures):
        lines += ["", f"Seed {failure.seed}: {failure.verdict}: {failure.what.rstrip()}", f"  {failure.replay} --trace"]
        if place == 0:
            lines += ["  Its manifest:", *_indented(failure.manifest.splitlines())]
            lines += ["  The last that happened:", *_indented(failure.story[-STORY_LINES:])]
    if answer.smallest is not None:
        lines += _smallest_in_words(answer.smallest)
    if answer.runs > 1:
        lines += coverage.in_words(coverage.Reached(row.kind, row.name, row.times, row.runs) for row in answer.coverage)
        lines.append("")
    if answer.rounds:
        lines += [
            f"Power failed {answer.rounds} times, and was back for {answer.resumed_seconds:.3f} s at most when the next"
            " update ran.",
            "",
        ]
    if answer.splits is not None:
        lines += [_splits_in_words(answer.splits), ""]
    good = answer.runs - len(answer.failures)
    lines += [
        f"{good} of {answer.runs} runs as promised: {answer.operations} operations in {answer.batches} batches,"
        f" {answer.checked} of them judged for linearizability.",
        f"{answer.steps} events, {answer.messages} messages ({answer.lost} lost, {answer.duplicated} repeated),"
        f" {answer.crashes} crashes, {answer.virtual_seconds:.0f} virtual seconds.",
        f"{answer.seconds:.1f} s, {answer.seeds_per_second:.1f} seeds a second. Trace {answer.trace[:16]}",
    ]
    return "\n".join(lines)


def _splits_in_words(splits: Splits) -> str:
    progress = "never" if splits.progress_seconds is None else f"within {splits.progress_seconds:.3f} s"
    in_step = "never" if splits.in_step_seconds is None else f"within {splits.in_step_seconds:.3f} s"
    return (
        f"Split in two in {splits.runs} runs: at most {splits.commits} batches meanwhile that were not under way at the"
        f" cut,\n{splits.longest_gap_seconds:.3f} s at most without an update; after healing, updates again"
        f" {progress}, all servers in step {in_step}."
    )


def _smallest_in_words(smallest: Smallest) -> list[str]:
    return [
        "",
        f"The smallest of {smallest.tried} runs tried that fails alike: {smallest.what.strip().splitlines()[-1]}",
        f"  Put this into a file: pond sim ring --seed {smallest.seed} --manifest FILE",
        "",
        smallest.manifest,
    ]


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}".rstrip() for line in lines]

"""What came of many runs, put together as an answer and in words."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

from cluster.answers import Coverage, FailedSeed, SimulatedRing, Smallest, Splits
from cluster.faults.manifest import dump
from cluster.sim import coverage
from cluster.sim.jobs import Plan
from cluster.sim.ring import Run
from cluster.sim.shrink import Shrunk
from cluster.sim.split import Split

STORY_LINES = 60

FAILURES = 100
"""So many failed seeds are told of; the others are only counted."""

SUMMED = ("operations", "checked", "steps", "batches", "crashes", "messages", "lost", "duplicated")
"""Fields of a run of which the answer has the sum."""


class Sums:
    """Takes in runs one after another, in the order of their seeds, and keeps only what is told of them."""

    def __init__(self, plan: Plan, seeds: range) -> None:
        self._plan = plan
        self._seeds = seeds
        self._sums: Counter[str] = Counter()
        self._virtual_seconds = self._cpu_seconds = 0.0
        self._tally = coverage.Tally()
        self._traces = hashlib.sha256()
        self._only_trace = ""
        self._failures: list[FailedSeed] = []
        self._resumed_seconds = 0.0
        self._splits: list[Split] = []
        self.verdicts: Counter[str] = Counter()
        """How many runs failed in which way."""

    def add(self, run: Run) -> None:
        """One more run."""
        self._sums.update({name: getattr(run, name) for name in SUMMED})
        self._sums["runs"] += 1
        self._sums["view_changes"] += run.view > 0
        self._virtual_seconds += run.virtual_seconds
        self._cpu_seconds += run.cpu_seconds
        self._tally.add(run.reached)
        self._sums["rounds"] += run.rounds.total()
        self._resumed_seconds = max(self._resumed_seconds, run.resumed_seconds)
        self._splits += [run.split] if run.split is not None else []
        self._traces.update(run.trace.encode())
        self._only_trace = run.trace
        if run.what:
            self.verdicts[run.verdict.value] += 1
            if len(self._failures) < FAILURES:
                self._failures.append(_failure(self._plan, run))

    def answer(self, seconds: float, smallest: Shrunk | None) -> SimulatedRing:
        """All of them together, after so many seconds."""
        runs = self._sums["runs"]
        return SimulatedRing(
            replay=self._plan.replay(self._seeds),
            **{name: self._sums[name] for name in ("runs", "view_changes", "rounds", *SUMMED)},
            virtual_seconds=round(self._virtual_seconds, 6),
            seconds=round(seconds, 3),
            seeds_per_second=round(runs / max(seconds, 1e-9), 2),
            seeds_per_cpu_second=round(runs / max(self._cpu_seconds, 1e-9), 2),
            trace=self._only_trace if runs == 1 else self._traces.hexdigest(),
            coverage=[
                Coverage(kind=row.kind, name=row.name, times=row.times, runs=row.runs) for row in self._tally.table()
            ],
            smallest=None
            if smallest is None
            else Smallest(
                seed=smallest.run.seed,
                what=smallest.run.what,
                manifest=dump(smallest.run.manifest),
                tried=smallest.tried,
            ),
            resumed_seconds=round(self._resumed_seconds, 3),
            splits=_splits(self._splits),
            failures=self._failures,
            failed=self.verdicts.total(),
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
    good = answer.runs - answer.failed
    lines += [
        f"{good} of {answer.runs} runs as promised: {answer.operations} operations in {answer.batches} batches,"
        f" {answer.checked} of them judged for linearizability.",
        f"{answer.steps} events, {answer.messages} messages ({answer.lost} lost, {answer.duplicated} repeated),"
        f" {answer.crashes} crashes, {answer.virtual_seconds:.0f} virtual seconds.",
        f"{answer.view_changes} of {answer.runs} runs changed their view.",
        f"{answer.seconds:.1f} s, {answer.seeds_per_second:.1f} seeds a second"
        f" ({answer.seeds_per_cpu_second:.1f} a second of processor time). Trace {answer.trace[:16]}",
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

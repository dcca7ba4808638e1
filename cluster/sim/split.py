"""What a ring that is split in two does meanwhile, and after it has healed, in figures.

Only 2f + 1 servers that hear each other can order anything: fewer must stand still, and all go on soon after.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from cluster.sim.watch import FirstRun

UNDER_WAY_SECONDS = 0.1
"""What was sent before the cut still arrives, and what arrived may wait for a sync: a batch that runs so soon after the
cut was under way at it. Where messages are lost and said again, one that was may run later."""


class Split(NamedTuple):
    """One run's split. A commit is a batch that runs at some server before it runs at any other."""

    under_way: int
    """Commits within `UNDER_WAY_SECONDS` of the cut."""
    commits: int
    """Those later, until it healed; empty batches too."""
    longest_gap_seconds: float
    """The longest time without a commit that has updates, from the last before the cut to the first after the end."""
    progress_seconds: float | None
    """From the end to the first commit that has updates; None when there was none."""
    in_step_seconds: float | None
    """From the end until every server had run what any had run at that moment; None when the run was over before."""


def figures(commits: Sequence[FirstRun], cut: float, healed: float, in_step: float | None) -> Split:
    """Of a run with these commits that was cut and healed at these times."""
    during = [commit.when for commit in commits if cut < commit.when <= healed]
    useful = [commit.when for commit in commits if commit.updates]
    after = next((when for when in useful if when > healed), None)
    return Split(
        under_way=sum(when <= cut + UNDER_WAY_SECONDS for when in during),
        commits=sum(when > cut + UNDER_WAY_SECONDS for when in during),
        longest_gap_seconds=_longest_gap(useful, cut, healed),
        progress_seconds=None if after is None else after - healed,
        in_step_seconds=None if in_step is None else max(0.0, in_step - healed),
    )


def _longest_gap(useful: Iterable[float], cut: float, healed: float) -> float:
    """Between neighbours of which the span meets the split; what is open at either end counts from there."""
    times = sorted(useful)
    before = [when for when in times if when <= cut][-1:] or [cut]
    after = [when for when in times if when > healed][:1] or [healed]
    inside = [when for when in times if cut < when <= healed]
    return max(later - earlier for earlier, later in pairwise([*before, *inside, *after]))

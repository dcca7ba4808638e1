"""Arithmetic of benchmarks: from samples to the figures that are shown. Pure functions."""

from collections.abc import Sequence
from math import ceil

HUNDREDTHS = (*(number / 100 for number in range(100)), 0.999)
"""The shares whose quantiles make up a distribution that can be drawn."""

CPU_COLUMNS = "PRIMARY,BACKUP,RING,CLIENT,CORES,OTHERS"
CPU_COLUMNS_ARE = (
    "PRIMARY, BACKUP (mean), RING (all servers) and CLIENT: ms of CPU of one operation; CORES: how many all these kept"
    " busy; OTHERS: how many everything else on the machine did"
)
"""Columns that all tables have, and what they are."""


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest sample that at least this share of them does not exceed; they are in order, and there is one."""
    rank = ceil(round(len(ordered) * share, 6))  # 0.07 * 100 is a little more than 7
    return ordered[min(max(rank, 1), len(ordered)) - 1]


def size_in_words(size_bytes: int) -> str:
    """A size as people name it: 100 B, 4 KiB, 2 MB."""
    for unit, name in ((1_000_000, "MB"), (1024, "KiB"), (1000, "kB")):
        if size_bytes >= unit and size_bytes % unit == 0:
            return f"{size_bytes // unit} {name}"
    return f"{size_bytes} B"


def three_digits(value: float | None) -> str:
    """As many digits as count; `-` for none."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"

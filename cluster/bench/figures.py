"""Arithmetic of benchmarks: from samples to the figures that are shown. Pure functions."""

from collections.abc import Sequence

HUNDREDTHS = (*(number / 100 for number in range(100)), 0.999)
"""The shares whose quantiles make up a distribution that can be drawn."""


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest sample that at least this share of them does not exceed; they are in order, and there is one."""
    rank = -int(-len(ordered) * share // 1)
    return ordered[min(max(rank, 1), len(ordered)) - 1]


def size_in_words(size_bytes: int) -> str:
    """A size as people name it: 100 B, 4 KiB, 2 MB."""
    for unit, name in ((1_000_000, "MB"), (1024, "KiB"), (1000, "kB")):
        if size_bytes >= unit and size_bytes % unit == 0:
            return f"{size_bytes // unit} {name}"
    return f"{size_bytes} B"

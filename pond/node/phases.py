"""Where the time of a write goes: how long the recent batches of this server took from each point to the next."""

from collections import deque
from time import perf_counter
from typing import NamedTuple

RECENT = 256
"""Batches over which a phase is averaged."""

OPEN = 1024
"""Batches whose points are remembered; a batch that never finishes is forgotten."""

POINTS = ("admitted", "proposed", "prepared", "executed", "certified")


class Phase(NamedTuple):
    """What a batch went through between two points."""

    name: str
    seconds: float


class Phases:
    """Durations between the points that the core marks, in seconds."""

    def __init__(self) -> None:
        self._points: dict[int, dict[str, float]] = {}
        self._recent: dict[str, deque[float]] = {}
        self._admitted_at: float | None = None

    def admitted(self) -> None:
        """An update waits to be proposed; the oldest since the last proposal counts for the next one."""
        if self._admitted_at is None:
            self._admitted_at = perf_counter()

    def mark(self, sequence: int, point: str) -> Phase | None:
        """A batch has reached a point, and everything up to it is on disk and sent: the phase that ended so."""
        points = self._points.setdefault(sequence, {})
        if point == "proposed" and self._admitted_at is not None:
            points["admitted"] = self._admitted_at
        if point == "proposed" or "proposed" not in points:  # a backup proposes nothing
            self._admitted_at = None
        points[point] = perf_counter()
        phase = None
        before = [known for known in POINTS[: POINTS.index(point)] if known in points]
        if before:
            phase = Phase(f"{before[-1]} to {point}", points[point] - points[before[-1]])
            self._recent.setdefault(phase.name, deque(maxlen=RECENT)).append(phase.seconds)
        if point == POINTS[-1]:
            del self._points[sequence]
        while len(self._points) > OPEN:
            del self._points[next(iter(self._points))]
        return phase

    def means(self) -> dict[str, float]:
        """Mean seconds of each phase over the recent batches."""
        return {name: sum(times) / len(times) for name, times in self._recent.items()}

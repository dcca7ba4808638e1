"""Virtual time for millions of small events: a heap and nothing else, since no node of an overlay ever awaits."""

import heapq
from collections.abc import Callable
from typing import Any, TypeVarTuple

Ts = TypeVarTuple("Ts")


class Loop:
    """Runs events in the order of their times, and those of one time in the order they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        """Virtual seconds since the run began."""
        self.steps = 0
        self._events: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._order = 0

    def after(self, seconds: float, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call once `seconds` have passed. Cannot be cancelled: what may grow stale says what it was set for."""
        self._order = order = self._order + 1
        heapq.heappush(self._events, (self.now + seconds, order, callback, args))

    def run(self, until: float) -> None:
        """Everything up to this virtual time, at which the clock then stands."""
        events, pop, steps = self._events, heapq.heappop, 0
        while events and events[0][0] <= until:
            self.now, _, callback, args = pop(events)
            steps += 1
            callback(*args)
        self.steps += steps
        self.now = until

"""Seconds since 1970 that never go back, for timeouts and for what nodes tell each other of time."""

from collections.abc import Callable
from time import monotonic, time

SLOWEST = 0.5
"""Of its usual pace: so slowly it goes while the wall clock is behind it."""


class Clock:
    """The wall clock as long as that goes forward. When somebody sets it back, this one goes on, slowly, until the two
    meet again."""

    def __init__(self, wall: Callable[[], float] = time, steady: Callable[[], float] = monotonic) -> None:
        self._wall = wall
        self._steady = steady
        self._time = wall()
        self._read = steady()

    def __call__(self) -> float:
        """Now."""
        read = self._steady()
        self._time = max(self._wall(), self._time + SLOWEST * (read - self._read))
        self._read = read
        return self._time

"""Each node's link: 1 Mb/s out and in, first come first served, as in Bamboo's experiments (USENIX 2004, section 4).

A packet waits until those before it have left, travels, and waits again until those that came before it are taken in.
It is dropped where more than half a second of others waits already, at random when asked for, and at the cut of a
partition. Nobody is told.
"""

import random
from collections import Counter
from collections.abc import Callable
from typing import Generic, TypeVar

from cluster.sim.churn.loop import Loop
from cluster.sim.churn.topology import Place, latency

BITS_PER_SECOND = 1_000_000
SECONDS_PER_BYTE = 8 / BITS_PER_SECOND

HEADER_BYTES = 28
"""Of UDP and IP."""

BACKLOG_SECONDS = 0.5
"""As much as waits at either end of a link: 62,500 bytes."""

_TINY = 1e-9
"""Below the rounding of a sum of times, and far below the time of a byte."""

T = TypeVar("T")


class Port:
    """Where a node is tied to its link."""

    __slots__ = ("in_free", "out_free", "place", "side")

    def __init__(self, place: Place, side: int = 0) -> None:
        self.place = place
        self.side = side
        """Which side of a partition it is on, when there is one."""
        self.out_free = 0.0
        """When all that it has sent so far has left."""
        self.in_free = 0.0
        """When all that it was sent, and has arrived, is taken in."""


P = TypeVar("P", bound=Port)


class Links(Generic[P, T]):
    """All links. `deliver` is called with sender, receiver and what was sent, once that has come in."""

    def __init__(
        self, loop: Loop, choices: random.Random, deliver: Callable[[P, P, T], object], loss: float = 0.0
    ) -> None:
        self.split = False
        """Whether nothing passes from one side to the other. What is on its way when that begins arrives."""
        self.bytes_sent = 0
        """With headers."""
        self.dropped: Counter[str] = Counter()
        """Packets by what happened to them: `queue out`, `queue in`, `partition`, `loss`."""
        self._loop = loop
        self._random = choices.random
        self._deliver = deliver
        self._loss = loss

    def send(self, sender: P, to: P, item: T, size_bytes: int) -> None:
        """Send one packet of so many bytes, header included."""
        now = self._loop.now
        seconds = size_bytes * SECONDS_PER_BYTE
        begin = sender.out_free
        if begin <= now:
            begin = now
        elif begin - now > BACKLOG_SECONDS:
            self.dropped["queue out"] += 1
            return
        sender.out_free = begin + seconds
        self.bytes_sent += size_bytes
        if self.split and sender.side != to.side:
            self.dropped["partition"] += 1
        elif self._loss and self._random() < self._loss:
            self.dropped["loss"] += 1
        else:
            there = begin - now + seconds + latency(sender.place, to.place)
            self._loop.after(there + seconds, self._arrive, sender, to, item, seconds)

    def _arrive(self, sender: P, to: P, item: T, seconds: float) -> None:
        """When it would be taken in if nothing else waited: then it is, and one event was enough."""
        now = self._loop.now
        waits = to.in_free - (now - seconds)
        if waits <= _TINY:
            to.in_free = now
            self._deliver(sender, to, item)
        elif waits > BACKLOG_SECONDS:
            self.dropped["queue in"] += 1
        else:
            to.in_free += seconds
            self._loop.after(waits, self._deliver, sender, to, item)

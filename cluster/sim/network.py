"""A network that loses, delays, reorders, repeats and holds back messages, link by link, as the seed decides.

Messages are bytes, encoded by their senders as in production. Each direction of each link has its own delay; each
direction between servers, and each client, has its own stream of choices, so what happens to one shifts nothing for
others. Servers have addresses from 0 up, clients below 0.
"""

import random
from collections.abc import Callable, Set
from dataclasses import dataclass
from math import exp, log

from cluster.faults import manifest as faults
from cluster.sim.kernel import Kernel
from cluster.sim.trace import Trace

Receive = Callable[[int, bytes], object]
"""Takes (address of the sender, message)."""

TAIL = 1.5
"""Exponent of the heavy-tailed distribution: its mean is finite, its variance is not."""

MOST = 1000.0
"""Where that tail ends, in means: a healed network is to deliver within its time."""


@dataclass
class Counters:
    """What became of messages."""

    sent: int = 0
    delivered: int = 0
    lost: int = 0
    duplicated: int = 0
    replayed: int = 0
    overflowed: int = 0


class _Link:
    __slots__ = ("calm", "choose", "clogged_until", "cuts", "last", "least", "sender", "to", "under_way")

    def __init__(self, choices: random.Random, sender: int, to: int, least: float, calm: bool) -> None:
        self.choose = choices.random
        self.sender = sender
        self.to = to
        self.least = least
        self.calm = calm
        """Whether it was healed."""
        self.cuts = 0
        """How many partitions go through it."""
        self.last = 0.0
        self.clogged_until = 0.0
        self.under_way = 0


class Network:
    """Carries bytes between addresses. `cut` takes links away and `mend` gives them back."""

    def __init__(self, kernel: Kernel, conditions: faults.Network, trace: Trace) -> None:
        self.counters = Counters()
        self._kernel = kernel
        self._conditions = conditions
        self._trace = trace
        self._receivers: dict[int, Receive] = {}
        self._streams: dict[str, random.Random] = {}
        self._links: dict[tuple[int, int], _Link] = {}
        self._calm: Set[int] = frozenset()
        self._jitter_seconds = conditions.jitter_seconds
        self._spread = SPREADS[conditions.distribution]
        self._loss = conditions.loss
        self._queue = conditions.queue
        self._stalls = conditions.stalls
        self._in_order = conditions.in_order
        self._repeats = bool(conditions.duplication) or conditions.replays is not None

    def attach(self, address: int, receive: Receive) -> None:
        """From now on messages to `address` go to `receive`."""
        self._receivers[address] = receive

    def detach(self, address: int) -> None:
        """Nobody is there: what arrives is lost."""
        del self._receivers[address]

    def __contains__(self, address: int) -> bool:
        """Whether somebody is there."""
        return address in self._receivers

    def cut(self, sender: int, to: int) -> None:
        """Nothing passes from one address to another until it is mended as often as it was cut."""
        self._link(sender, to).cuts += 1

    def mend(self, sender: int, to: int) -> None:
        """Undo one `cut`."""
        link = self._link(sender, to)
        link.cuts = max(0, link.cuts - 1)

    def clog(self, sender: int, to: int, seconds: float) -> None:
        """What is sent in the next seconds arrives after them."""
        self._link(sender, to).clogged_until = self._kernel.now + seconds

    def heal(self, servers: Set[int]) -> None:
        """From now on everything among these servers and all clients arrives, once and within its time."""
        self._calm = servers
        for (sender, to), link in self._links.items():
            if not link.calm and self._is_calm(sender, to):
                link.calm, link.cuts, link.clogged_until = True, 0, 0.0

    def _is_calm(self, sender: int, to: int) -> bool:
        return bool(self._calm) and (sender < 0 or sender in self._calm) and (to < 0 or to in self._calm)

    def send(self, sender: int, to: int, data: bytes) -> None:
        """Put a message on its way, or lose it."""
        link = self._links.get((sender, to)) or self._link(sender, to)
        self.counters.sent += 1
        if link.calm:
            self._put(link, data, link.least + self._spread(1.0 - link.choose()) * self._jitter_seconds)
        elif link.cuts or (self._loss and link.choose() < self._loss) or self._overflows(link):
            self.counters.lost += 1
            self._trace.note("lost", sender, to, data)
        else:
            self._put(link, data, self._rough_delay(link))
            if self._repeats:
                self._repeat(link, data)

    def _overflows(self, link: _Link) -> bool:
        if self._queue is None or link.under_way < self._queue:
            return False
        self.counters.overflowed += 1
        return True

    def _repeat(self, link: _Link, data: bytes) -> None:
        conditions, choose = self._conditions, link.choose
        if conditions.duplication and choose() < conditions.duplication:
            self.counters.duplicated += 1
            self._put(link, data, self._rough_delay(link))
        replays = conditions.replays
        if replays is not None and choose() < replays.share:
            self.counters.replayed += 1
            seconds = self._rough_delay(link) - log(1.0 - choose()) * replays.seconds
            link.under_way += 1
            self._kernel.after(seconds, self._deliver, link, data, self._kernel.now)

    def _link(self, sender: int, to: int) -> _Link:
        link = self._links.get((sender, to))
        if link is None:
            choices = self._stream(sender, to)
            least = self._distance(sender, to) * choices.uniform(0.5, 1.5)
            link = self._links[sender, to] = _Link(choices, sender, to, least, self._is_calm(sender, to))
        return link

    def _stream(self, sender: int, to: int) -> random.Random:
        name = f"link {sender} {to}" if min(sender, to) >= 0 else f"links {min(sender, to)}"
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = self._kernel.random(name)
        return stream

    def _distance(self, sender: int, to: int) -> float:
        table = self._conditions.table_seconds
        if table is None:
            return self._conditions.delay_seconds
        return table[max(sender, 0) % len(table)][max(to, 0) % len(table)]

    def _rough_delay(self, link: _Link) -> float:
        choose = link.choose
        seconds = link.least + self._spread(1.0 - choose()) * self._jitter_seconds
        stalls = self._stalls
        if stalls is not None and choose() < stalls.share:
            seconds -= log(1.0 - choose()) * stalls.seconds
        if link.clogged_until:
            seconds += max(0.0, link.clogged_until - self._kernel.now)
        return seconds

    def _put(self, link: _Link, data: bytes, seconds: float) -> None:
        now = self._kernel.now
        when = now + seconds
        if self._in_order:
            when = link.last = max(when, link.last)
        link.under_way += 1
        self._kernel.at(when, self._deliver, link, data, now)

    def _deliver(self, link: _Link, data: bytes, sent: float) -> None:
        link.under_way -= 1
        to = link.to
        receive = self._receivers.get(to)
        if receive is None:
            self._trace.note("down", link.sender, to, data, sent)
            return
        self.counters.delivered += 1
        self._trace.note("message", link.sender, to, data, sent)
        receive(link.sender, data)


def _exponential(chance: float) -> float:
    return -log(chance)


def _uniform(chance: float) -> float:
    return 2 * chance


def _heavy_tailed(chance: float) -> float:
    return min(exp(-log(chance) / TAIL) - 1, MOST) * (TAIL - 1)


SPREADS = {"exponential": _exponential, "uniform": _uniform, "heavy-tailed": _heavy_tailed}
"""Distributions of mean 1, each from a number above 0 and up to 1."""

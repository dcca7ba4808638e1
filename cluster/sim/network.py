"""A network that loses, delays, reorders and repeats messages, link by link, as the seed decides.

Messages are bytes, encoded by their senders and decoded by their receivers as in production. Each direction of each
link has its own delay and its own stream of choices, so what happens on one shifts nothing on another.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from math import log

from cluster.sim.kernel import Kernel
from cluster.sim.trace import Trace

Receive = Callable[[int, bytes], object]
"""Takes (address of the sender, message)."""


@dataclass(frozen=True)
class Conditions:
    """What a network does to messages; rates are shares of 1."""

    delay_seconds: float
    """Mean of the least delay of a link: each has its own between half and one and a half of it."""
    jitter_seconds: float
    """Mean of what is added for each message, exponentially distributed: above the gaps between them, it reorders."""
    loss: float = 0.0
    duplication: float = 0.0
    stall: float = 0.0
    """How often a message is held back for `stall_seconds` on average, as behind a full queue."""
    stall_seconds: float = 0.0
    in_order: bool = False
    """Whether a link keeps the order of its messages, as a stream does."""

    @classmethod
    def drawn(cls, choices: random.Random) -> "Conditions":
        """Some faults on, others off, each weak or strong: a run with all of them at once would hide what one does."""
        wide_area = choices.random() < 0.06
        delay = choices.uniform(0.003, 0.02) if wide_area else choices.uniform(0.00005, 0.001)
        in_order = choices.random() < 0.4
        return cls(
            delay_seconds=delay,
            jitter_seconds=delay * (0.05 if in_order else choices.choice((0.05, 0.5, 2.0))),
            loss=choices.choice((0.0, 0.0, 0.0, 0.01, 0.05, 0.2)),
            duplication=choices.choice((0.0, 0.0, 0.02, 0.1, 0.3)),
            stall=choices.choice((0.0, 0.0, 0.002, 0.02)),
            stall_seconds=choices.choice((0.05, 0.3, 1.0)),
            in_order=in_order,
        )

    def healed(self) -> "Conditions":
        """The same distances, and nothing that goes wrong."""
        return Conditions(self.delay_seconds, self.jitter_seconds, in_order=self.in_order)


@dataclass
class Counters:
    """What became of messages."""

    sent: int = 0
    delivered: int = 0
    lost: int = 0
    duplicated: int = 0
    bytes: int = field(default=0, repr=False)


class _Link:
    __slots__ = ("choices", "last", "least", "receive")

    def __init__(self, choices: random.Random, least: float, receive: Receive) -> None:
        self.choices = choices
        self.least = least
        self.last = 0.0
        self.receive = receive


class Network:
    """Carries bytes between addresses. `cut` takes links away and gives them back."""

    def __init__(self, kernel: Kernel, conditions: Conditions, trace: Trace) -> None:
        self.counters = Counters()
        self._kernel = kernel
        self._conditions = conditions
        self._trace = trace
        self._receivers: dict[int, Receive] = {}
        self._links: dict[tuple[int, int], _Link] = {}
        self._cut: set[tuple[int, int]] = set()

    def attach(self, address: int, receive: Receive) -> None:
        """Messages to `address` go to `receive`."""
        self._receivers[address] = receive

    def cut(self, sender: int, to: int) -> None:
        """Nothing passes from one address to another until `mend`."""
        self._cut.add((sender, to))

    def mend(self, sender: int, to: int) -> None:
        """Undo `cut`."""
        self._cut.discard((sender, to))

    def heal(self) -> None:
        """From now on everything arrives, once."""
        self._conditions = self._conditions.healed()
        self._cut.clear()

    def send(self, sender: int, to: int, data: bytes) -> None:
        """Put a message on its way, or lose it."""
        link = self._links.get((sender, to)) or self._link(sender, to)
        conditions, counters = self._conditions, self.counters
        counters.sent += 1
        counters.bytes += len(data)
        choose = link.choices.random
        if (sender, to) in self._cut or (conditions.loss and choose() < conditions.loss):
            counters.lost += 1
            self._trace.note("lost", sender, to, data)
            return
        self._put(link, sender, data)
        if conditions.duplication and choose() < conditions.duplication:
            counters.duplicated += 1
            self._put(link, sender, data)

    def _link(self, sender: int, to: int) -> _Link:
        choices = self._kernel.random(f"link {sender} {to}")
        least = self._conditions.delay_seconds * choices.uniform(0.5, 1.5)
        link = self._links[sender, to] = _Link(choices, least, self._receivers[to])
        return link

    def _put(self, link: _Link, sender: int, data: bytes) -> None:
        conditions, choose = self._conditions, link.choices.random
        when = self._kernel.now + link.least - log(1.0 - choose()) * conditions.jitter_seconds
        if conditions.stall and choose() < conditions.stall:
            when -= log(1.0 - choose()) * conditions.stall_seconds
        if conditions.in_order:
            when = link.last = max(when, link.last)
        self._kernel.at(when, self._deliver, link, sender, data)

    def _deliver(self, link: _Link, sender: int, data: bytes) -> None:
        self.counters.delivered += 1
        link.receive(sender, data)

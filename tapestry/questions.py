"""What was asked of other nodes and is not answered yet. Each question is numbered, so an answer tells a round trip."""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from tapestry.effects import Effect, Send, SetTimer, Timer
from tapestry.messages import Contact, Forward, Message
from tapestry.neighbours import Neighbours

WAITING = 2048
"""Questions of upkeep that wait for an answer at most; none is asked above it until some of them are over."""

CARGO = 2048
"""Hops of cargo that wait to be acknowledged at most. Upkeep does not take their room: others can make a node ask."""

LATE = 256
"""Questions given up that a late answer still tells a round trip of."""


Kind: TypeAlias = type[Message] | tuple[type[Message], ...]
"""Of a question, as isinstance takes it."""


class Question(NamedTuple):
    """A message that an answer is expected to."""

    to: Contact
    sent: float
    message: Message
    tried: tuple[bytes, ...]
    """Of a cargo: nodes that it was sent to before, in vain."""


class Questions:
    """Numbers questions and waits for each as long as its node usually takes."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._neighbours = neighbours
        self._waiting: dict[int, Question] = {}
        self._open: Counter[bytes] = Counter()
        """How many of them each node was asked."""
        self._late: dict[int, Question] = {}
        """The last that were given up. A late answer is none, but it tells how long the node takes now."""
        self._cargo = 0
        """How many of those that wait are hops of cargo."""
        self.last = 0
        """Number of the last question."""

    def ask(
        self, to: Contact, make: Callable[[int], Message], now: float, tried: tuple[bytes, ...] = ()
    ) -> list[Effect]:
        """Send the message that `make` returns for a number, unless too many wait already."""
        message = make(self.last + 1)
        carries = isinstance(message, Forward)
        if self.full_of_cargo if carries else len(self._waiting) - self._cargo >= WAITING:
            return []
        self.last += 1
        self._cargo += carries
        self._waiting[self.last] = Question(to, now, message, tried)
        self._open[to.guid] += 1
        return [Send(to, message), SetTimer(Timer("asked", self.last), self._neighbours.timeout_seconds(to.guid, now))]

    @property
    def full_of_cargo(self) -> bool:
        """Whether no hop can be asked for until some of them are over."""
        return self._cargo >= CARGO

    def asks(self, guid: bytes) -> bool:
        """Whether an answer of this node is being waited for."""
        return guid in self._open

    def answered(self, number: int, kind: Kind, sender: Contact, now: float) -> Question | None:
        """The question, unless nobody asked one of this kind of the sender or it is over; how long it took is taken
        down. After a restart numbers begin again, and answers to questions asked before it may still come."""
        question = self._waiting.get(number) or self._late.get(number)
        if question is None or question.to.guid != sender.guid or not isinstance(question.message, kind):
            return None
        self._neighbours.measured(sender, now - question.sent, now)
        self._late.pop(number, None)
        return self._close(number)

    def given_up(self, number: int) -> Question | None:
        """The time for this question is over: the question, unless it was answered."""
        question = self._close(number)
        if question is not None:
            self._late[number] = question
            if len(self._late) > LATE:
                del self._late[next(iter(self._late))]
        return question

    def _close(self, number: int) -> Question | None:
        question = self._waiting.pop(number, None)
        if question is not None:
            self._cargo -= isinstance(question.message, Forward)
            self._open[question.to.guid] -= 1
            if not self._open[question.to.guid]:
                del self._open[question.to.guid]
        return question

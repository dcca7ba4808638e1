"""What was asked of other nodes and is not answered yet. Each question is numbered, so an answer tells a round trip."""

from collections.abc import Callable
from typing import NamedTuple

from tapestry.effects import Effect, Send, SetTimer, Timer
from tapestry.messages import Contact, Message
from tapestry.neighbours import Neighbours

WAITING = 4096
"""Questions that wait for an answer at most; nothing is asked above it until some of them are over."""


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
        self._last = 0

    def ask(
        self, to: Contact, make: Callable[[int], Message], now: float, tried: tuple[bytes, ...] = ()
    ) -> list[Effect]:
        """Send the message that `make` returns for a number."""
        if len(self._waiting) >= WAITING:
            return []
        self._last += 1
        message = make(self._last)
        self._waiting[self._last] = Question(to, now, message, tried)
        return [Send(to, message), SetTimer(Timer("asked", self._last), self._neighbours.timeout_seconds(to.guid))]

    def asks(self, guid: bytes) -> bool:
        """Whether an answer of this node is being waited for."""
        return any(question.to.guid == guid for question in self._waiting.values())

    def answered(self, number: int, sender: Contact, now: float) -> Question | None:
        """The question, unless nobody asked it of the sender or it is over; how long it took is taken down."""
        question = self._waiting.get(number)
        if question is None or question.to.guid != sender.guid:
            return None
        del self._waiting[number]
        self._neighbours.measured(sender, now - question.sent, now)
        return question

    def given_up(self, number: int) -> Question | None:
        """The time for this question is over: the question, unless it was answered."""
        return self._waiting.pop(number, None)

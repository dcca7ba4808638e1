"""Becoming a member (Tapestry, JSAC 2004, IV-A; Bamboo, USENIX 2004, 3.1).

The new node sends a cargo to its own GUID through any member. The root there answers with its leaf set, which is nearly
the new node's own; each of these nodes is shown the new one's, so they learn of it, and what it lacks comes back. From
then on it is a member. Rows of the nodes that the cargo passed fill its table.
"""

from random import Random

from tapestry.effects import Effect, Joined, SetTimer, Timer
from tapestry.guid import shared_digits
from tapestry.messages import Contact, Forward, Join, Welcome
from tapestry.neighbours import Neighbours
from tapestry.questions import Questions
from tapestry.upkeep import Upkeep

RETRY_SECONDS = 2.0
"""A join that is not answered for so long is begun again, through another member where several are known."""


class Joining:
    """The way in, once in a node's life."""

    def __init__(self, neighbours: Neighbours, questions: Questions, upkeep: Upkeep, choices: Random) -> None:
        self.member = False
        """Whether this node is one."""
        self._own = neighbours.own
        self._neighbours = neighbours
        self._questions = questions
        self._upkeep = upkeep
        self._choices = choices
        self._through: tuple[Contact, ...] = ()
        self._tries = 0
        self._greeted: set[bytes] = set()
        """Leaves that were shown our leaf set and have not answered yet."""
        self._passed: tuple[Contact, ...] = ()

    def start(self, members: tuple[Contact, ...], now: float) -> list[Effect]:
        """Join through one of these; who knows nobody is the first."""
        self._through = tuple(contact for contact in members if contact.guid != self._own.guid)
        return self._ask(now) if self._through else self._done(now)

    def _ask(self, now: float) -> list[Effect]:
        self._tries += 1
        retry = SetTimer(Timer("join", self._tries), RETRY_SECONDS)
        return [*self.ask_through(self._choices.choice(self._through), now), retry]

    def ask_through(self, contact: Contact, now: float) -> list[Effect]:
        """Ask the root of our own GUID, as this node sees it, for its leaf set."""
        own = self._own
        return self._questions.ask(contact, lambda hop: Forward(hop, own.guid, own, self._tries, 1, Join(())), now)

    def on_timer(self, timer: Timer, now: float) -> list[Effect]:
        """Nobody has let us in yet."""
        if self.member or timer.number != self._tries:
            return []
        return self._done(now) if self._greeted and len(self._neighbours.leaves) else self._ask(now)

    def on_welcome(self, sender: Contact, message: Welcome, now: float) -> list[Effect]:
        """The root of our GUID and its leaf set."""
        if self.member:
            return self._upkeep.consider((sender, *message.leaves), now)
        self._passed = message.passed
        effects: list[Effect] = []
        for contact in (sender, *message.leaves):
            if contact.guid != self._own.guid and contact.guid not in self._greeted:
                self._greeted.add(contact.guid)
                effects += self._upkeep.compare(contact, now)
        return effects

    def settled(self, contact: Contact, now: float) -> list[Effect]:
        """A question to this node has come to its end. Once all leaves know of us, we are one of them."""
        if self.member or contact.guid not in self._greeted:
            return []
        self._greeted.discard(contact.guid)
        if self._greeted or not len(self._neighbours.leaves):
            return []
        return self._done(now)

    def _done(self, now: float) -> list[Effect]:
        self.member = True
        effects: list[Effect] = [Joined(), *self._upkeep.start()]
        for contact in self._passed:
            if contact.guid != self._own.guid:
                effects += self._upkeep.get_row(contact, shared_digits(self._own.guid, contact.guid), now)
        self._passed = ()
        return effects

    def lost_is_back(self, contact: Contact, now: float) -> list[Effect]:
        """A node that was given up is there after all: perhaps the network was in two, and our leaves are not all."""
        return self.ask_through(contact, now) if self.member else []

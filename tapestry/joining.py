"""Becoming a member (Tapestry, JSAC 2004, IV-A; Bamboo, USENIX 2004, 3.1).

The new node sends a cargo to its own GUID through a few members. The root there answers with its leaf set, nearly the
new node's own; each of these nodes is shown the new one's, so they learn of it, and what it lacks comes back. From then
on it is a member. Rows of the nodes that the cargo passed fill its table.

A node on the way that lies may answer in place of the root, with others that lie. So several ways are taken, all but
one by constrained entries of tables, and taken again from time to time, through nodes of which others than nodes have
told us if there are any: of all nodes heard of the nearest stay, and only the true neighbours are nearest.
"""

from random import Random

from tapestry.effects import Effect, Joined, SetTimer, Timer
from tapestry.guid import shared_digits
from tapestry.messages import MAX_CONTACTS, Contact, Forward, Join, Welcome
from tapestry.neighbours import Neighbours
from tapestry.questions import Questions
from tapestry.upkeep import Upkeep

WAYS = 3
"""Members that a new node goes through at a time, if it knows so many."""

RETRY_SECONDS = 2.0
"""A join that is not answered for so long is begun again, through others where more are known."""

OWN_ROOT_SECONDS = 30.0
"""So often a member asks, through somebody drawn at random, who is the root of its own GUID."""


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
        self._timed = False
        """Whether the timer is set at whose end what has been reached is looked at: other ways in do not put it off."""
        self._greeted: set[bytes] = set()
        """Leaves that were shown our leaf set and have not answered yet."""
        self._passed: tuple[Contact, ...] = ()

    def start(self, members: tuple[Contact, ...], now: float) -> list[Effect]:
        """Join through one of these; who knows nobody is the first."""
        self._through = tuple(contact for contact in members if contact.guid != self._own.guid)
        return self._ask(now) if self._through else self._done(now)

    def _ask(self, now: float) -> list[Effect]:
        self._tries += 1
        some = self._choices.sample(self._through, min(WAYS, len(self._through)))
        asked = [self.ask_through(contact, now, place > 0) for place, contact in enumerate(some)]
        effects = [effect for effects in asked for effect in effects]
        if not self._timed:
            self._timed = True
            effects.append(SetTimer(Timer("join"), RETRY_SECONDS))
        return effects

    def ask_through(self, contact: Contact, now: float, constrained: bool) -> list[Effect]:
        """Ask the root of our own GUID, as this node sees it, for its leaf set."""
        own, number = self._own, self._tries
        return self._questions.ask(
            contact, lambda hop: Forward(hop, own.guid, own, number, 1, Join(()), constrained), now
        )

    def meet(self, contacts: tuple[Contact, ...], now: float) -> list[Effect]:
        """Nodes of which others than nodes have told us. A member looks for its own root through them, as all that it
        knows may lie."""
        self._neighbours.meet(contacts)
        if not self.member:
            return self.start(contacts, now)
        return self._upkeep.consider(contacts, now)

    def on_timer(self, timer: Timer, now: float) -> list[Effect]:
        """Nobody has let us in yet; or, for a member, it is time to look for its own root."""
        if timer.kind == "own root":
            some = self._neighbours.ways_apart(self._choices, 1)
            asked = self.ask_through(some[0], now, bool(self._neighbours.met)) if some else []
            return [*asked, SetTimer(timer, OWN_ROOT_SECONDS * self._choices.uniform(0.75, 1.25))]
        self._timed = False
        if self.member:
            return []
        return self._done(now) if self._greeted and len(self._neighbours.leaves) else self._ask(now)

    def on_welcome(self, sender: Contact, message: Welcome, now: float) -> list[Effect]:
        """The root of our GUID and its leaf set."""
        if self.member:
            return self._upkeep.consider((sender, *message.leaves), now, sender)
        self._passed = tuple(dict.fromkeys((*self._passed, *message.passed)))[:MAX_CONTACTS]
        effects: list[Effect] = []
        for contact in (sender, *message.leaves):
            if contact.guid != self._own.guid and contact.guid not in self._greeted:
                greeting = self._upkeep.compare(contact, now)
                if greeting:
                    self._greeted.add(contact.guid)
                effects += greeting
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
        own_root = SetTimer(Timer("own root"), OWN_ROOT_SECONDS * self._choices.random())
        effects: list[Effect] = [Joined(), *self._upkeep.start(), own_root]
        for contact in self._passed:
            if contact.guid != self._own.guid:
                effects += self._upkeep.get_row(contact, shared_digits(self._own.guid, contact.guid), now)
        self._passed = ()
        return effects

    def lost_is_back(self, contact: Contact, now: float) -> list[Effect]:
        """A node that was given up is there after all: perhaps the network was in two, and our leaves are not all."""
        return self.ask_through(contact, now, False) if self.member else []

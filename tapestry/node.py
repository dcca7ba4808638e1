"""One node of the overlay: the way into its core. Hands events to the machines, and their results from one to another.

Each machine has a file: neighbours (with leaf_set and routing_table), questions, routing, upkeep, joining, finding,
location (with pointers).
"""

from random import Random

import msgspec

from tapestry.effects import (
    Effect,
    Event,
    Leave,
    Locate,
    Meet,
    Publish,
    Received,
    Rejected,
    Route,
    Send,
    Started,
    TimerFired,
    Unpublish,
)
from tapestry.finding import Finding
from tapestry.joining import Joining
from tapestry.location import Location
from tapestry.messages import (
    MAX_CONTACTS,
    Acknowledge,
    Alive,
    AskNextHop,
    Contact,
    Copies,
    Find,
    Forward,
    Found,
    GetConstrained,
    GetRow,
    Join,
    LeafNews,
    Leaves,
    Leaving,
    Located,
    Message,
    NextHop,
    NotLocated,
    Probe,
    Row,
    Welcome,
)
from tapestry.neighbours import Neighbours
from tapestry.pointers import Keys
from tapestry.questions import Kind, Question, Questions
from tapestry.routing import Routing
from tapestry.upkeep import Recovery, Upkeep

JOINING_TIMERS = frozenset({"join", "own root"})
LOCATION_TIMERS = frozenset({"publish", "republish", "pointers", "locate"})


class Node:
    """The overlay's core at one server. `step` takes one event and returns what is to be done about it, in order."""

    def __init__(
        self, contact: Contact, choices: Random, recovery: Recovery = "periodic", keys: Keys | None = None
    ) -> None:
        """All that happens by chance is drawn from `choices`. Without `keys` it publishes nothing, and keeps no
        pointers of others."""
        self.contact = contact
        self.neighbours = Neighbours(contact)
        self._questions = Questions(self.neighbours)
        self.routing = Routing(self.neighbours, self._questions)
        self._upkeep = Upkeep(self.neighbours, self._questions, choices, recovery)
        self._joining = Joining(self.neighbours, self._questions, self._upkeep, choices)
        self.location = Location(self.neighbours, self.routing, keys, choices)
        self._finding = Finding(self.neighbours, self.routing, choices)

    @property
    def member(self) -> bool:
        """Whether this node has joined."""
        return self._joining.member

    def step(self, event: Event) -> list[Effect]:
        """What to do about one event."""
        changes = self.neighbours.leaves.changes
        match event:
            case Received(sender, message, now):
                effects = self._on_received(sender, message, now)
            case TimerFired(timer, now):
                if timer.kind == "asked":
                    effects = self._on_no_answer(timer.number, now)
                elif timer.kind in JOINING_TIMERS:
                    effects = self._joining.on_timer(timer, now)
                elif timer.kind == "found":
                    effects = self._finding.on_timer(timer.number)
                elif timer.kind in LOCATION_TIMERS:
                    effects = self.location.on_timer(timer, now)
                else:
                    effects = self._upkeep.on_timer(timer, now)
            case Route(key, number, now):
                effects = self._finding.route(key, number, now) if self.member else []
            case Publish(objects, now):
                effects = self.location.publish(objects, now)
            case Unpublish(objects, now):
                effects = self.location.withdraw(objects, now)
            case Locate(obj, number, passed_over, now):
                effects = self.location.locate(obj, number, passed_over, now)
            case Started(members, now):
                effects = [*self._joining.start(members, now), *self.location.start()]
            case Meet(contacts, now):
                effects = self._joining.meet(contacts, now)
            case Leave():
                leaving = Leaving(tuple(self.neighbours.leaves)[:MAX_CONTACTS])
                return [Send(known.contact, leaving) for known in self.neighbours.all]
        if self.neighbours.leaves.changes != changes and self.member:
            effects += self._upkeep.leaves_changed(event.now)
        return effects

    # --- what comes in ---------------------------------------------------------------------------------------------

    def _on_received(self, sender: Contact, message: Message, now: float) -> list[Effect]:
        if sender.guid == self.contact.guid:
            return [Rejected(sender, "a message in our own name")]
        effects: list[Effect] = []
        lost = not _is_from_outside(sender, message) and self.neighbours.heard(sender, now)
        match message:
            case Forward():
                effects += self._on_forward(sender, message, now)
            case Acknowledge(hop):
                self._answered(hop, Forward, sender, now)
            case Found(number, hops):
                effects += self._finding.on_found(sender, number, hops, now)
            case Welcome():
                effects += self._joining.on_welcome(sender, message, now)
            case Probe():
                effects += self._upkeep.on_probe(sender, message)
            case Alive(number):
                self._answered(number, Probe, sender, now)
            case Leaves():
                effects += self._upkeep.on_leaves(sender, message)
            case LeafNews(number):
                if number == 0 or self._answered(number, Leaves, sender, now):
                    effects += self._upkeep.on_leaf_news(sender, message, now)
                    effects += self._joining.settled(sender, now)
            case GetRow():
                effects += self._upkeep.on_get_row(sender, message)
            case GetConstrained():
                effects += self._upkeep.on_get_constrained(sender, message)
            case Row(number):
                if self._answered(number, (GetRow, GetConstrained), sender, now):
                    effects += self._upkeep.on_row(sender, message, now)
            case Leaving():
                effects += self._upkeep.on_leaving(sender, message, now)
            case Located():
                effects += self.location.on_located(sender, message, now)
            case NotLocated(number):
                effects += self.location.on_not_located(sender, number, now)
            case Copies():
                effects += self.location.on_copies(sender, message, now)
            case AskNextHop(number, key) if self.member:
                effects.append(Send(sender, NextHop(number, self.routing.next_hop(key))))
            case NextHop(number):
                self._answered(number, AskNextHop, sender, now)
        if lost and sender.guid not in self.neighbours.lost:
            effects += self._joining.lost_is_back(sender, now)
        elif lost and not self._questions.asks(sender.guid):
            effects += self._upkeep.probe(sender, now)
        return effects

    def _answered(self, number: int, kind: Kind, sender: Contact, now: float) -> bool:
        if self._questions.answered(number, kind, sender, now) is None:
            return False
        self._upkeep.answered(True)
        return True

    def _on_no_answer(self, number: int, now: float) -> list[Effect]:
        question = self._questions.given_up(number)
        if question is None:
            return []
        self._upkeep.answered(False)
        self.neighbours.missed(question.to.guid, question.sent, now)
        effects = [*self._upkeep.suspected(question, now), *self._joining.settled(question.to, now)]
        if isinstance(question.message, Forward) and self.member:
            effects += self._send_again(question, question.message, now)
        return effects

    def _send_again(self, question: Question, message: Forward, now: float) -> list[Effect]:
        if not isinstance(message.cargo, Find | Join):
            return self.location.send_again(question, message, now)
        onward = self.routing.send_again(question, message, now)
        return self._deliver(msgspec.structs.replace(message, hops=message.hops - 1), now) if onward is None else onward

    # --- cargo -----------------------------------------------------------------------------------------------------

    def _on_forward(self, sender: Contact, message: Forward, now: float) -> list[Effect]:
        if not self.member:
            return []  # who is not sure of its leaves yet would take itself for a root; the sender finds another way
        if self._questions.full_of_cargo and self.routing.next_hop(message.key) is not None:
            return []  # what is acknowledged is carried on
        acknowledge = Send(sender, Acknowledge(message.hop))
        if not isinstance(message.cargo, Find | Join):
            return [acknowledge, *self.location.carry(message, now, (), sender)]
        if isinstance(message.cargo, Join):
            passed = (*message.cargo.passed, self.contact)[:MAX_CONTACTS]
            message = msgspec.structs.replace(message, cargo=Join(passed))
        onward = self.routing.send(message, now, (message.origin.guid,) if isinstance(message.cargo, Join) else ())
        return [acknowledge, *(self._deliver(message, now) if onward is None else onward)]

    def _deliver(self, message: Forward, now: float) -> list[Effect]:
        """This node is the root."""
        assert isinstance(message.cargo, Find | Join)
        match message.cargo:
            case Find():
                if message.origin.guid == self.contact.guid:
                    return self._finding.on_found(self.contact, message.number, message.hops, now)
                return [Send(message.origin, Found(message.number, message.hops))]
            case Join(passed):
                if message.origin.guid == self.contact.guid:
                    return []  # we asked through a node that had been lost, and are our own root there too
                leaves = tuple(leaf for leaf in self.neighbours.leaves if not self.neighbours.suspect(leaf.guid))
                return [Send(message.origin, Welcome(message.number, leaves, passed))]


def _is_from_outside(sender: Contact, message: Message) -> bool:
    """Whether this may come from somebody who is no member: who joins, and who measures."""
    joins = isinstance(message, Forward) and isinstance(message.cargo, Join) and message.origin.guid == sender.guid
    return joins or isinstance(message, AskNextHop)

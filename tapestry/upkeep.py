"""Keeping the tables right while nodes come and go: periodically, slower when messages are lost, and never in answer to
a failure (Bamboo, USENIX 2004, sections 3.2 and 4.1).

Recovery that reacts to each change sends most when the network can take least. It is here too, to compare with: leaf
sets go to all leaves when a node has come or gone, by the same two messages, and at no other time.
"""

from random import Random
from typing import Literal, TypeAlias

from tapestry.allowance import Allowance
from tapestry.effects import Effect, Send, SetTimer, Timer
from tapestry.messages import (
    MAX_CONTACTS,
    Alive,
    Contact,
    GetConstrained,
    GetRow,
    LeafNews,
    Leaves,
    Leaving,
    Probe,
    Row,
)
from tapestry.neighbours import Neighbours
from tapestry.questions import Question, Questions
from tapestry.routing_table import nearer

Recovery: TypeAlias = Literal["periodic", "reactive"]

LEAVES_SECONDS = 2.0
"""Leaf sets are compared with one random leaf so often: each is met every 16 s, whoever begins."""

TABLE_SECONDS = 10.0
"""So often another node's row is looked through for nodes that are nearer than ours."""

CONSTRAINED_SECONDS = 20.0
"""So often a leaf is asked for nodes that are nearer to the points of one row: its own points are close by."""

FIRST_SECONDS = 1.0
GROWTH = 1.25
"""A new member begins both of these so soon, and waits for a quarter longer each time: its table holds whoever came
first, perhaps all of them named by one node."""

ROWS = 4
"""Nodes of a row of which the nearest is asked: whoever is near to it is near to us. Always the same one would always
say the same."""

SAMPLED = 5
"""Nodes of another's row that are asked how near they are: those in place of whom ours are furthest away."""

PROBE_SECONDS = 0.4
"""So often the neighbour that was silent for longest is asked if it is there, if that was for more than"""
SILENT_SECONDS = 8.0

LOST_AGAIN_SECONDS = 5.0
"""So often one of the nodes that were given up is asked once more: it is how the halves of a partition meet again."""

MOST_SLOWNESS = 2.0

NEWS = MAX_CONTACTS
NEWS_PER_SECOND = 8.0
"""Nodes that are asked if they are there on the word of one other, at once and in the long run."""


class Upkeep:
    """Compares leaf sets, looks for nearer nodes, and asks the silent ones if they are there."""

    def __init__(self, neighbours: Neighbours, questions: Questions, choices: Random, recovery: Recovery) -> None:
        self._own = neighbours.own
        self._neighbours = neighbours
        self._questions = questions
        self._choices = choices
        self._reactive = recovery == "reactive"
        self._pauses = {"table": FIRST_SECONDS, "constrained": FIRST_SECONDS}
        self._news = Allowance(NEWS, NEWS_PER_SECOND)
        self._loss = 0.0
        """Share of recent questions that went without an answer."""

    def start(self) -> list[Effect]:
        """Set all timers, each at some moment of its period: nodes that begin together do not go on together."""
        periods = (
            *([] if self._reactive else [(Timer("leaves"), LEAVES_SECONDS)]),
            (Timer("table"), FIRST_SECONDS),
            (Timer("constrained"), FIRST_SECONDS),
            (Timer("silent"), PROBE_SECONDS),
            (Timer("lost"), LOST_AGAIN_SECONDS),
        )
        return [SetTimer(timer, seconds * self._choices.random()) for timer, seconds in periods]

    def _again(self, timer: Timer, seconds: float) -> SetTimer:
        slowness = min(1.0 + 2.0 * self._loss, MOST_SLOWNESS)
        return SetTimer(timer, seconds * slowness * self._choices.uniform(0.75, 1.25))

    def _again_later(self, timer: Timer, most_seconds: float) -> SetTimer:
        self._pauses[timer.kind] = pause = min(self._pauses[timer.kind] * GROWTH, most_seconds)
        return self._again(timer, pause)

    def on_timer(self, timer: Timer, now: float) -> list[Effect]:
        """One of them has fired."""
        match timer.kind:
            case "leaves":
                return [*self._compare_leaves(now), self._again(timer, LEAVES_SECONDS)]
            case "table":
                return [*self._look_through_row(now), self._again_later(timer, TABLE_SECONDS)]
            case "constrained":
                return [*self._ask_for_constrained(now), self._again_later(timer, CONSTRAINED_SECONDS)]
            case "silent":
                return [*self._probe_silent(now), self._again(timer, PROBE_SECONDS)]
            case "lost":
                return [*self._ask_lost(now), self._again(timer, LOST_AGAIN_SECONDS)]
        raise AssertionError(f"a timer that nobody sets: {timer}")

    def answered(self, in_time: bool) -> None:
        """A question has come to its end."""
        self._loss += (float(not in_time) - self._loss) / 32

    # --- leaf sets -------------------------------------------------------------------------------------------------

    def _compare_leaves(self, now: float) -> list[Effect]:
        leaves = list(self._neighbours.leaves)
        return self.compare(self._choices.choice(leaves), now) if leaves else []

    def compare(self, to: Contact, now: float) -> list[Effect]:
        """Send our leaf set to a node; its news come back."""
        names = self._neighbours.leaves.names()
        return self._questions.ask(to, lambda number: Leaves(number, names), now)

    def on_leaves(self, sender: Contact, message: Leaves) -> list[Effect]:
        """Another's leaf set: it gets what is missing in it, and ours."""
        names = self._neighbours.leaves.names()
        return [Send(sender, LeafNews(message.id, self._news_for(sender, message.names), names))]

    def _news_for(self, other: Contact, names: bytes) -> tuple[Contact, ...]:
        lacking = self._neighbours.leaves.lacking(other.guid, names, self._neighbours.suspects)
        return tuple(lacking[:MAX_CONTACTS])

    def on_leaf_news(self, sender: Contact, message: LeafNews, now: float) -> list[Effect]:
        """Nodes that may belong into our leaf set, and what the sender has in its own."""
        effects = self.consider(message.contacts, now, sender)
        if message.names:
            news = self._news_for(sender, message.names)
            if news:
                effects.append(Send(sender, LeafNews(0, news, b"")))
        return effects

    def leaves_changed(self, now: float) -> list[Effect]:
        """A leaf came or went. Reactive recovery shows all of them the set; periodic recovery waits for its time."""
        if not self._reactive:
            return []
        return [effect for leaf in self._neighbours.leaves for effect in self.compare(leaf, now)]

    def on_leaving(self, sender: Contact, message: Leaving, now: float) -> list[Effect]:
        """A node goes, and says so: those that it knew may take its place."""
        self._neighbours.forget(sender.guid, now)
        return self.consider(message.leaves, now, sender)

    # --- the table -------------------------------------------------------------------------------------------------

    def _look_through_row(self, now: float) -> list[Effect]:
        """Row r of a node in our row r holds nodes that fit into ours (Tapestry, JSAC 2004, III-C)."""
        table = self._neighbours.table
        rows = [(row, table.row(row)) for row in table.rows()]
        if not rows:
            return []
        [(row, contacts)] = self._choices.choices(rows, [len(contacts) for _, contacts in rows])
        some = self._choices.sample(contacts, min(ROWS, len(contacts)))
        return self.get_row(min(some, key=lambda contact: table.seconds_to(contact.guid)), row, now)

    def get_row(self, contact: Contact, row: int, now: float) -> list[Effect]:
        """Ask a node for a row of its table."""
        return self._questions.ask(contact, lambda number: GetRow(number, row), now)

    def on_get_row(self, sender: Contact, message: GetRow) -> list[Effect]:
        """Another wants to see a row of ours."""
        return [Send(sender, Row(message.id, tuple(self._neighbours.table.row(message.row))))]

    def _ask_for_constrained(self, now: float) -> list[Effect]:
        rows, leaves = self._neighbours.table.rows(), list(self._neighbours.leaves)
        if not rows or not leaves:
            return []
        row = self._choices.choice(rows)
        names = self._neighbours.table.constrained_names(row)
        return self._questions.ask(self._choices.choice(leaves), lambda number: GetConstrained(number, row, names), now)

    def on_get_constrained(self, sender: Contact, message: GetConstrained) -> list[Effect]:
        """Another looks for nodes near its points: of all that we know, those that are nearer."""
        known = (known.contact for known in self._neighbours.all if not known.misses)
        return [Send(sender, Row(message.id, tuple(nearer(sender.guid, message.row, message.names, known))))]

    def on_row(self, sender: Contact, message: Row, now: float) -> list[Effect]:
        """A row of another's table: those that have no place yet with us, and a few that may be nearer than who has."""
        effects = self.consider(message.contacts, now, sender)
        others = [contact for contact in message.contacts if self._is_stranger(contact, now)]
        others.sort(key=lambda contact: -self._neighbours.table.seconds_to(contact.guid))
        for contact in others[:SAMPLED]:
            effects += self.probe(contact, now)
        return effects

    def _is_stranger(self, contact: Contact, now: float) -> bool:
        known = contact.guid in self._neighbours or contact.guid in self._neighbours.lost
        return not known and contact.guid != self._own.guid and not self._neighbours.wanted(contact, now)

    # --- who is there ----------------------------------------------------------------------------------------------

    def consider(self, contacts: tuple[Contact, ...], now: float, said_by: Contact | None = None) -> list[Effect]:
        """Ask those that have a place here if they are there: on the word of another no more than it may cause."""
        return [
            effect
            for contact in contacts
            if self._neighbours.wanted(contact, now) and not self._questions.asks(contact.guid)
            if said_by is None or contact == said_by or self._news.take(said_by.guid, now)
            for effect in self.probe(contact, now)
        ]

    def probe(self, contact: Contact, now: float) -> list[Effect]:
        """Ask a node if it is there."""
        return self._questions.ask(contact, Probe, now)

    def on_probe(self, sender: Contact, message: Probe) -> list[Effect]:
        """We are."""
        return [Send(sender, Alive(message.id))]

    def _probe_silent(self, now: float) -> list[Effect]:
        leaves, primaries = self._neighbours.leaves.guids, self._neighbours.table.primaries
        for known in self._neighbours.all:
            if now - known.heard < SILENT_SECONDS:
                break
            guid = known.contact.guid
            if (guid in primaries or guid in leaves) and not known.probed:  # who stands behind others may be silent
                return self.probe(known.contact, now)
        return []

    def suspected(self, question: Question, now: float) -> list[Effect]:
        """A neighbour left a question without an answer: ask it again, one question at a time, until it is given up."""
        known = self._neighbours.get(question.to.guid)
        number = question.message.id if isinstance(question.message, Probe) else 0
        if known is None or (known.probed and known.probed != number):
            return []
        effects = self.probe(question.to, now)
        known.probed = self._questions.last if effects else 0
        return effects

    def _ask_lost(self, now: float) -> list[Effect]:
        lost = [contact for contact, _ in self._neighbours.lost.values()]
        return self.probe(self._choices.choice(lost), now) if lost else []

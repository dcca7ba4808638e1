"""What nodes of the overlay say to each other, as text: names for GUIDs, one line a message, as it is sent.

    alice: seeks        the root of 5b
    alice > carol       FORWARD hop 1: alice seeks the root of 5b
    carol > alice       FOUND after 1 hop
    alice: answer       the root is carol, 1 hop

Lines with a colon are about one node: whom it takes up and gives up, and which of its questions had no answer in time.
A way takes the same time with each message, and once the reader looks nobody does anything at a time of its own but
what a scene says, so that what is told follows from the rules alone.
"""

from random import Random
from typing import Literal

from tapestry import effects
from tapestry.effects import Effect, Event, Joined, LocatedAt, NotFound, Resolved, Timer, TimerFired
from tapestry.messages import (
    NAME_BYTES,
    Acknowledge,
    Alive,
    AskNextHop,
    Contact,
    Copies,
    Find,
    Forward,
    Found,
    GetRow,
    Join,
    LeafNews,
    Leaves,
    Leaving,
    Locate,
    Located,
    Message,
    NextHop,
    NotLocated,
    Probe,
    Publish,
    Row,
    Welcome,
)
from tapestry.node import Node
from tests.unit.tapestry.model import digits
from tests.unit.tapestry.stage import Stage
from tests.unit.tapestry.test_pointers import Keys

PERIODIC = ("leaves", "table", "constrained", "silent", "lost", "own root", "pointers", "republish")


class Told(Stage):
    """A stage of few nodes that writes down what they say, but for messages of the kinds in `unsaid`."""

    def __init__(self, seed: object, unsaid: tuple[type[Message], ...] = ()) -> None:
        super().__init__(seed)
        self.lines: list[str] = []
        self.unsaid = unsaid
        """Kinds that are not written down, but where `watched` says or hears them."""
        self.watched = ""
        """A node of which everything is written down."""
        self.keys: dict[str, Keys] = {}
        self.quiet = True
        """Nothing is written down."""

    def scene(self, words: str) -> None:
        """What the reader is to know of what follows."""
        self.quiet = False
        self.lines += ["", f"# {words}"] if self.lines else [f"# {words}"]

    def enter(self, name: str, guid: str, *through: str) -> None:
        """A node with a GUID that begins so joins, through these."""
        self.add(Contact(digits(guid), name), [self.contacts[other] for other in through])

    def prepare(self, **guids: str) -> None:
        """Nodes that have joined before the reader looks, in the order of their names here."""
        for name, guid in guids.items():
            self.enter(name, guid, *list(self.nodes)[:1])
            self.run(2.5)
        self.run_until(self.settled, 60)
        assert self.settled()

    def prepare_with_keys(self, *names: str) -> None:
        """Nodes that can sign, whose GUIDs are the hashes of their keys, have joined before the reader looks."""
        for name in names:
            keys = self.keys[name] = Keys(name)
            self.add(keys.contact, [self.contacts[other] for other in list(self.nodes)[:1]])
            self.run(2.5)
        self.run_until(self.settled, 60)

    def make(self, contact: Contact, choices: Random) -> Node:
        """With keys, where it has some."""
        return Node(contact, choices, keys=self.keys.get(contact.address))

    def publish(self, name: str, obj: bytes) -> None:
        """A node says that it holds an object."""
        self._say(f"{name}: publishes", "the object")
        self.step(name, effects.Publish((obj,), self.now))

    def locate(self, name: str, obj: bytes, *passed_over: str) -> None:
        """A node looks for a holder of an object, but for these."""
        self._say(f"{name}: seeks", "the object" + (f", not of {' '.join(passed_over)}" if passed_over else ""))
        guids = tuple(self.contacts[other].guid for other in passed_over)
        self.step(name, effects.Locate(obj, next(self._numbers), guids, self.now))

    def seek(self, name: str, key: str) -> None:
        """A node looks for the root of a key that begins so."""
        number = next(self._numbers)
        self._say(f"{name}: seeks", f"the root of {key}")
        self.step(name, effects.Route(digits(key), number, self.now))

    def fire(self, name: str, kind: Literal["leaves", "table", "silent", "lost", "own root"]) -> None:
        """A node does what it does from time to time."""
        super().step(name, TimerFired(Timer(kind), self.now))

    def _delay(self, sender: Contact, to: Contact) -> float:
        return 0.01 + 0.0001 * abs(sender.guid[0] - to.guid[0])

    def step(self, name: str, event: Event) -> list[Effect]:
        if isinstance(event, TimerFired) and event.timer.kind in PERIODIC and not self.quiet:
            return []
        if isinstance(event, TimerFired) and event.timer.kind == "asked":
            question = self.nodes[name]._questions._waiting.get(event.timer.number)
            if question is not None and self._is_told(name, question.to.address, question.message):
                self._say(f"{name}: no answer", f"from {question.to.address} to {_kind(question.message)}")
        before, place = self._standing(name), len(self.lines)
        done = super().step(name, event)
        said, self.lines[place:] = self.lines[place:], []
        if self._is_told(name, name, None):
            for other in sorted(self._standing(name) ^ before):
                self._say(f"{name}: {'gives up' if other in before else 'takes up'}", other)
        self.lines += said
        for effect in done:
            match effect:
                case Joined():
                    self._say(f"{name}: member", "")
                case Resolved(_, root, hops):
                    self._say(f"{name}: answer", f"the root is {root.address}, {_hops(hops)}")
                case LocatedAt(_, pointer, hops):
                    self._say(f"{name}: answer", f"{pointer.holder.address} holds it, {_hops(hops)}")
                case NotFound():
                    self._say(f"{name}: answer", "nobody holds it")
        return done

    def _is_told(self, sender: str, to: str, message: Message | None) -> bool:
        return self.watched in ("", sender, to) or (message is not None and not isinstance(message, self.unsaid))

    def _standing(self, name: str) -> set[str]:
        return {known.contact.address for known in self.nodes[name].neighbours.all}

    def _post(self, sender: Contact, to: Contact, message: Message) -> None:
        if not isinstance(message, self.unsaid) or self.watched in (sender.address, to.address):
            lost = " (is lost)" if to.address not in self.nodes or self.drops(sender, to, message) else ""
            self._say(f"{sender.address} > {to.address}", self._told(message) + lost)
        super()._post(sender, to, message)

    def _say(self, who: str, what: str) -> None:
        if not self.quiet:
            self.lines.append(f"{who:<20}{what}".rstrip())

    # --- words -----------------------------------------------------------------------------------------------------

    def _told(self, message: Message) -> str:
        match message:
            case Forward(_, key, origin, _, hops, Find()):
                return f"FORWARD hop {hops}: {origin.address} seeks the root of {_short(key)}"
            case Forward(_, key, origin, _, hops, Join(passed)):
                return f"FORWARD hop {hops}: {origin.address} joins at {_short(key)}; passed {_names(passed)}"
            case Forward(hops=hops, cargo=Publish(pointer, salt), constrained=constrained):
                way = ", constrained" if constrained else ""
                return f"FORWARD hop {hops}{way}: {pointer.holder.address} publishes at root {salt}"
            case Forward(origin=origin, hops=hops, cargo=Locate(_, salt, holder, _), constrained=constrained):
                way = ", constrained" if constrained else ""
                at = f"; {self._name(holder)} has said that it holds it" if holder else ""
                return f"FORWARD hop {hops}{way}: {origin.address} seeks the object at root {salt}{at}"
            case Copies(pointers):
                return "COPIES " + ", ".join(f"{kept.holder.address} at root {salt}" for salt, kept in pointers)
            case Located(_, _, hops):
                return f"LOCATED after {_hops(hops)}"
            case NotLocated(_, hops):
                return f"NOT-LOCATED after {_hops(hops)}"
            case Welcome(_, leaves, passed):
                return f"WELCOME leaves {_names(leaves)}; passed {_names(passed)}"
            case Found(_, hops):
                return f"FOUND after {_hops(hops)}"
            case Leaves(_, names):
                return f"LEAVES mine are {self._named(names)}"
            case LeafNews(number, contacts, names):
                mine = f"; mine are {self._named(names)}" if number else ""
                return f"LEAF-NEWS you lack {_names(contacts)}{mine}"
            case GetRow(_, row):
                return f"GET-ROW {row}"
            case Row(_, contacts):
                return f"ROW {_names(contacts)}"
            case Leaving(leaves):
                return f"LEAVING my leaves were {_names(leaves)}"
            case AskNextHop(_, key):
                return f"ASK-NEXT-HOP of {_short(key)}"
            case NextHop(_, contact):
                return f"NEXT-HOP {contact.address if contact else 'none, it is me'}"
            case _:
                return _kind(message)

    def _name(self, guid: bytes) -> str:
        return next(name for name, contact in self.contacts.items() if contact.guid == guid)

    def _named(self, names: bytes) -> str:
        beginnings = {contact.guid[:NAME_BYTES]: name for name, contact in self.contacts.items()}
        places = range(0, len(names), NAME_BYTES)
        return " ".join(beginnings[names[place : place + NAME_BYTES]] for place in places) or "none"


def _names(contacts: tuple[Contact, ...]) -> str:
    return " ".join(contact.address for contact in contacts) or "none"


def _short(guid: bytes) -> str:
    return guid.hex().rstrip("0") or "0"


def _hops(count: int) -> str:
    return f"{count} {'hop' if count == 1 else 'hops'}"


def _kind(message: Message) -> str:
    match message:
        case Acknowledge():
            return "ACKNOWLEDGE"
        case Probe():
            return "PROBE"
        case Alive():
            return "ALIVE"
        case Forward():
            return "FORWARD"
        case _:
            return type(message).__name__.upper()

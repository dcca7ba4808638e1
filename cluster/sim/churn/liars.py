"""Nodes of the overlay that lie, each as badly as we know how to, and all of them in league.

A liar is the honest core with this around it. Its core keeps it in everybody's tables: it answers probes, joins and
keeps up as others do. What others want of it is another matter. Each liar does all of these:

    cargo          acknowledges it and forwards nothing. A search it swallows, denies or claims for itself or, when it
                   has been passed over, for another liar; a search for a root it swallows, or lets the liar nearest to
                   the key answer as the root. Which of these its seed draws for each liar: always the same, or each
                   time anew
    joining        welcomes who joins with nobody but liars
    its tables     are liars, those next on the ring first, and some dead or nonexistent nodes, whoever asks for leaf
                   sets or rows. It also tells without being asked
    pointers       of others it drops. It claims every object that it has heard of from any liar, at each of its roots
                   and the nodes around them, under its own signature

Liars sign with their own keys alone. They have short access lines and never die.
"""

from random import Random
from typing import Any, Literal, NamedTuple

import msgspec

from cluster.sim.churn.keys import Keys
from tapestry.effects import Effect, Event, Received, Send, TimerFired
from tapestry.guid import distance, shared_digits
from tapestry.messages import (
    MAX_CONTACTS,
    NAME_BYTES,
    SALTS,
    Acknowledge,
    Contact,
    Copies,
    Find,
    Forward,
    Found,
    Join,
    LeafNews,
    Locate,
    Located,
    Message,
    NotLocated,
    Pointer,
    Publish,
    Row,
    Welcome,
)
from tapestry.node import Node
from tapestry.pointers import LIFETIME_SECONDS, make, root_key

AROUND = 16
"""Liars nearest to whom it tells that it names first: as many as a leaf set has."""

GONE = 8
"""Dead and nonexistent nodes among those that it names."""

ROOT_AND_NEAR = 5
"""Nodes nearest to a key that it tells its claims: the root and those that keep copies for it."""

ROOTS_SECONDS = 30.0
"""For so long it takes the same nodes for those around a key."""

OfSearches = Literal["swallow", "deny", "claim", "anything"]
OfFinds = Literal["swallow", "claim", "anything"]


class Manners(NamedTuple):
    """What one liar does with the cargo that it is to forward."""

    searches: OfSearches
    finds: OfFinds


def manners(choices: Random) -> Manners:
    """Those of one more liar."""
    return Manners(choices.choice(OfSearches.__args__), choices.choice(OfFinds.__args__))  # type: ignore[attr-defined]


class League:
    """What all liars know together, at once and without a message."""

    def __init__(self) -> None:
        self.liars: dict[bytes, Contact] = {}
        self.others: dict[bytes, Contact] = {}
        """Honest nodes that any of them has heard, dead or alive."""
        self.gone: list[Contact] = []
        """Nodes that are dead, or never were."""
        self.objects: list[bytes] = []
        """That any of them has heard of."""
        self._objects: set[bytes] = set()
        self._around: dict[bytes, list[Contact]] = {}
        self._roots: dict[bytes, tuple[float, list[Contact]]] = {}

    def admit(self, contact: Contact) -> None:
        """One more liar."""
        self.liars[contact.guid] = contact
        self._around.clear()

    def heard_of(self, obj: bytes) -> None:
        """An object that somebody publishes or looks for."""
        if obj not in self._objects:
            self._objects.add(obj)
            self.objects.append(obj)

    def around(self, guid: bytes) -> list[Contact]:
        """Liars next to a GUID, nearest first."""
        found = self._around.get(guid)
        if found is None:
            found = self._around[guid] = _nearest(guid, self.liars.values(), AROUND)
        return found

    def nearest_liar(self, key: bytes) -> Contact:
        """The liar nearest to a key."""
        return min(self.liars.values(), key=lambda liar: distance(key, liar.guid))

    def roots(self, key: bytes, now: float) -> list[Contact]:
        """The honest nodes around a key, as they were a while ago."""
        when, found = self._roots.get(key, (-ROOTS_SECONDS, []))
        if now - when >= ROOTS_SECONDS:
            found = _nearest(key, self.others.values(), ROOT_AND_NEAR)
            self._roots[key] = now, found
        return found


class Liar:
    """One of them."""

    def __init__(self, node: Node, keys: Keys, league: League, manners: Manners, choices: Random) -> None:
        self._node = node
        self._keys = keys
        self._league = league
        self._manners = manners
        self._choices = choices
        self._own = node.contact
        league.admit(node.contact)

    def step(self, event: Event) -> list[Effect]:
        """What comes of an event: the core's effects, turned to ends of its own."""
        if isinstance(event, Received) and self._node.member:
            if event.sender.guid in self._league.liars:
                instead = self._for_another(event.message, event.now)
            else:
                self._league.others[event.sender.guid] = event.sender
                instead = self._instead(event.sender, event.message, event.now)
            if instead is not None:
                return instead
        effects = [self._turned(effect) for effect in self._node.step(event)]
        if isinstance(event, TimerFired) and event.timer.kind == "leaves" and self._node.member:
            effects += self._push(event.now)
        return effects

    # --- cargo -------------------------------------------------------------------------------------------------------

    def _instead(self, sender: Contact, message: Message, now: float) -> list[Effect] | None:
        match message:
            case Forward(cargo=Publish(pointer=pointer)):
                self._league.heard_of(pointer.object)
                lies: list[Effect] = []
            case Forward(cargo=Locate() as cargo):
                self._league.heard_of(cargo.object)
                lies = self._on_search(message, cargo, now)
            case Forward(cargo=Find()):
                lies = self._on_find(message, now)
            case Forward(cargo=Join(passed=passed)) if message.origin.guid not in self._league.liars:
                around = tuple(self._league.around(message.origin.guid))
                lies = [Send(message.origin, Welcome(message.number, around, (*around, *passed)[:MAX_CONTACTS]))]
            case Copies(pointers=pointers):
                for _, pointer in pointers:
                    self._league.heard_of(pointer.object)
                return []
            case _:
                return None
        return [Send(sender, Acknowledge(message.hop)), *lies]

    def _for_another(self, message: Message, now: float) -> list[Effect] | None:
        """What another liar wants to be said in our name, since it would be believed more."""
        match message:
            case Forward(cargo=Locate(object=obj)):
                return [Send(message.origin, Located(message.number, self._claim(obj, now), message.hops))]
            case Forward(cargo=Find()):
                return [Send(message.origin, Found(message.number, message.hops))]
        return None

    def _on_search(self, message: Forward, cargo: Locate, now: float) -> list[Effect]:
        match self._any(self._manners.searches, OfSearches):
            case "deny":
                return [Send(message.origin, NotLocated(message.number, message.hops))]
            case "claim":
                if self._own.guid not in cargo.passed_over:
                    return self._for_another(message, now) or []
                fresh = [liar for guid, liar in self._league.liars.items() if guid not in cargo.passed_over]
                return [Send(self._choices.choice(fresh), message)] if fresh else []
        return []

    def _on_find(self, message: Forward, now: float) -> list[Effect]:
        if self._any(self._manners.finds, OfFinds) == "swallow":
            return []
        nearest = self._league.nearest_liar(message.key)
        return (self._for_another(message, now) or []) if nearest == self._own else [Send(nearest, message)]

    def _any(self, manner: str, of: Any) -> str:
        return manner if manner != "anything" else self._choices.choice(of.__args__[:-1])

    def _claim(self, obj: bytes, now: float) -> Pointer:
        return next(make(self._keys, self._own, [obj], int(now), int(now) + LIFETIME_SECONDS))

    # --- tables ------------------------------------------------------------------------------------------------------

    def _turned(self, effect: Effect) -> Effect:
        if not isinstance(effect, Send) or effect.to.guid in self._league.liars:
            return effect
        match effect.message:
            case Row():
                return Send(effect.to, msgspec.structs.replace(effect.message, contacts=self._crowd(effect.to)))
            case LeafNews():
                return Send(effect.to, self._news(effect.message.id, effect.to))
        return effect

    def _crowd(self, victim: Contact) -> tuple[Contact, ...]:
        """Whom it names: the liars around the victim, such as may fit into deep rows of its table, others of them, and
        some that will never answer."""
        choices, league = self._choices, self._league
        around = league.around(victim.guid)
        gone = choices.sample(league.gone, min(GONE, len(league.gone)))
        room = MAX_CONTACTS - len(around) - len(gone)
        some = choices.sample([*league.liars.values()], min(2 * room, len(league.liars)))
        some.sort(key=lambda liar: -shared_digits(liar.guid, victim.guid))
        return (*around, *some[:room], *gone)

    def _news(self, number: int, victim: Contact) -> LeafNews:
        names = b"".join(liar.guid[:NAME_BYTES] for liar in self._league.around(victim.guid))
        return LeafNews(number, self._crowd(victim), names)

    # --- what nobody asked for ---------------------------------------------------------------------------------------

    def _push(self, now: float) -> list[Effect]:
        """Tell somebody of liars, and the roots of an object that it is ours."""
        league, choices = self._league, self._choices
        effects: list[Effect] = []
        if league.others:
            victim = choices.choice([*league.others.values()])
            effects.append(Send(victim, self._news(0, victim)))
        if league.objects:
            pointer = self._claim(choices.choice(league.objects), now)
            for salt in range(SALTS):
                roots = league.roots(root_key(pointer.object, salt), now)
                effects += [Send(root, Copies(((salt, pointer),))) for root in roots]
        return effects


def _nearest(place: bytes, contacts: Any, count: int) -> list[Contact]:
    return sorted(contacts, key=lambda contact: distance(place, contact.guid))[:count]

"""Where objects are: publishing what this node holds, and finding who holds an object (Tapestry, JSAC 2004, III-C).

A holder's pointers go to the root of each salted name of the object, and every node on the way keeps them. A search
goes the same way until it meets one, and from there to the nearest holder known: who is near an object finds it nearby.
All of it is soft state: published again and again, gone by itself when its holder is, copied to the nodes around the
root, which take its place when it fails or lies, and handed over when another node has become the root.

Nodes on the way may lie: swallow a search, deny that anybody holds the object, or claim to. So a search has several
ways, to roots far from each other, then by constrained entries of routing tables (`routing_table`); a liar must be on
each of them. Each way has a number of its own, and who asks on after a false answer hears next of a holder found by
another way.
"""

from collections import Counter, deque
from collections.abc import Iterable
from random import Random
from typing import NamedTuple

import msgspec

from tapestry.allowance import Allowance
from tapestry.effects import Effect, LocatedAt, NotFound, Rejected, Send, SetTimer, Timer
from tapestry.finding import implausible
from tapestry.guid import GUID, distance
from tapestry.messages import (
    MAX_CONTACTS,
    SALTS,
    Contact,
    Copies,
    Forward,
    Locate,
    Located,
    NotLocated,
    Pointer,
    Publish,
)
from tapestry.neighbours import Neighbours
from tapestry.pointers import GREED, LIFETIME_SECONDS, Kept, Keys, Pointers, make, refuse, root_key
from tapestry.questions import Question
from tapestry.routing import Routing

REPUBLISH_SECONDS = 200.0
"""Well within the life of a pointer: two rounds may be lost."""

LIST = 256
"""Objects under one signature: eight hashes prove one of them."""

BURST = 8
BURST_SECONDS = 0.1
"""So many pointers leave at a time, and then so long none: publishing much must not keep links from all else."""

PUBLISH_WAYS = 3
"""By which a pointer goes to each root: by the nearest nodes, by constrained entries, and so through a node that no
neighbour has chosen."""

NEAR = 4
"""Nodes nearest to the key that get a pointer, whoever of them is the root: one that lies is not enough."""

WAYS = (1, SALTS - 1, SALTS, 2 * SALTS, 2 * SALTS, 2 * SALTS)
"""How many ways a search takes at a time, one group after another: first to one root, then to the others, then to all
of them by constrained entries, and so again and again, each through a node that no neighbour has chosen."""

FIRST_CONSTRAINED = 2
FIRST_APART = 3
"""The first of these groups that go so."""

WAY_BITS = 48
"""Of the number of a way: who is not on it does not guess it, so what comes by one way speaks for that way alone."""

HOLDERS_AT_ONCE = 4
"""Holders that a search which goes by constrained entries is sent to by the node that knows them: some may be none."""

LOCATE_SECONDS = 2.0
HOPS_IN_VAIN = 8
"""A group of ways that brought no answer for so long is given up for the next, all but the last sooner where so many
hops, one after another, could have waited in vain. A late answer counts all the same."""

SEARCHES = 1024
"""Under way at once; the oldest is given up above it."""

SPARES = 128
"""Objects of which answers are kept that nobody has needed yet, up to HOLDERS_AT_ONCE by each way."""

HAND_OVER_SECONDS = 5.0

CHECKS = 4096
CHECKS_PER_SECOND = 500.0
"""Pointers of one neighbour that are checked, at once and in the long run: a check of a signature takes some 50 us. Six
holders publish no faster together, as each lets BURST leave in BURST_SECONDS."""

SECRET_BYTES = 16


class _Way(NamedTuple):
    search: int
    group: int
    """Of WAYS."""
    key: GUID
    """To whose root it goes."""


class _Answer(NamedTuple):
    way: int
    pointer: Pointer
    hops: int


class _Search:
    def __init__(self, obj: GUID, salts: list[int], passed_over: tuple[GUID, ...], group: int) -> None:
        self.object = obj
        self.salts = salts
        self.passed_over = passed_over
        self.group = group
        """Of WAYS, under way now."""
        self.ways: dict[int, int] = {}
        """Numbers of all ways begun, which nobody guesses, and how many holders have answered by each."""
        self.denied: set[int] = set()
        """Ways by which somebody said that nobody holds the object."""
        self.answered = False


class _Spare:
    """Answers to searches for one object beyond the first, in case that one does not give it."""

    def __init__(self) -> None:
        self.answers: dict[GUID, _Answer] = {}
        """By holder."""
        self.used: Counter[int] = Counter()
        """How often each way has brought an answer that was given to who asked."""

    def take(self, passed_over: tuple[GUID, ...]) -> _Answer | None:
        """The next: by turns from each way, as what comes by one of them may all come from one liar."""
        for holder in passed_over:
            self.answers.pop(holder, None)
        best = min(self.answers.values(), key=lambda answer: self.used[answer.way], default=None)
        if best is not None:
            self.used[best.way] += 1
            del self.answers[best.pointer.holder.guid]
        return best


class Location:
    """What this node publishes, keeps for others, and looks for."""

    def __init__(self, neighbours: Neighbours, routing: Routing, keys: Keys | None, choices: Random) -> None:
        """Without `keys` it publishes nothing and believes no pointer."""
        self.pointers = Pointers(choices.randbytes(SECRET_BYTES))
        self.held: dict[GUID, None] = {}
        """Objects that this node has published."""
        self._own = neighbours.own
        self._neighbours = neighbours
        self._routing = routing
        self._keys = keys
        self._choices = choices
        self._outgoing: deque[tuple[Pointer, int, int]] = deque()
        self._searches: dict[int, _Search] = {}
        self._ways: dict[int, _Way] = {}
        """Of all searches, by number."""
        self._spare: dict[GUID, _Spare] = {}
        """By object."""
        self._leaves_then: frozenset[GUID] = frozenset()
        self._checks = Allowance(CHECKS, CHECKS_PER_SECOND)

    def start(self) -> list[Effect]:
        """Begin upkeep."""
        if self._keys is None:
            return []
        return [
            SetTimer(Timer("republish"), REPUBLISH_SECONDS * self._choices.uniform(0.5, 1.0)),
            SetTimer(Timer("pointers"), HAND_OVER_SECONDS),
        ]

    # --- publishing ------------------------------------------------------------------------------------------------

    def publish(self, objects: Iterable[GUID], now: float) -> list[Effect]:
        """Say that this node holds these, from now on and until they are withdrawn."""
        fresh = list(dict.fromkeys(objects))
        for obj in fresh:
            self.held[obj] = None
        return self._queue(fresh, int(now), LIFETIME_SECONDS)

    def withdraw(self, objects: Iterable[GUID], now: float) -> list[Effect]:
        """This node does not hold them any longer."""
        gone = [obj for obj in dict.fromkeys(objects) if obj in self.held]
        for obj in gone:
            del self.held[obj]
        return self._queue(gone, int(now) + 1, 0)  # newer than what was published within this second

    def _queue(self, objects: list[GUID], issued: int, lifetime_seconds: int) -> list[Effect]:
        if self._keys is None or not objects:
            return []
        idle = not self._outgoing
        for start in range(0, len(objects), LIST):
            some = objects[start : start + LIST]
            for pointer in make(self._keys, self._own, some, issued, issued + lifetime_seconds):
                self._outgoing += [(pointer, salt, way) for salt in range(SALTS) for way in range(PUBLISH_WAYS)]
        return [SetTimer(Timer("publish"), 0.0)] if idle else []

    def on_timer(self, timer: Timer, now: float) -> list[Effect]:
        """Publish some more, publish all again, see whose pointers these are now, or give up on a root."""
        match timer.kind:
            case "publish":
                return self._publish_some(now)
            case "republish":
                again = SetTimer(timer, REPUBLISH_SECONDS)
                return [*self._queue([*self.held], int(now), LIFETIME_SECONDS), again]
            case "pointers":
                self.pointers.expire(now)
                again = SetTimer(timer, HAND_OVER_SECONDS * self._choices.uniform(0.75, 1.25))
                return [*self._hand_over(), again]
            case "locate":
                number, group = divmod(timer.number, len(WAYS))
                return self._next_ways(number, group, now, group + 1)
        raise AssertionError(f"a timer that nobody sets: {timer}")

    def _publish_some(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for _ in range(min(BURST, len(self._outgoing))):
            pointer, salt, way = self._outgoing.popleft()
            key = root_key(pointer.object, salt)
            if way and self._neighbours.leaves.covers(key):
                continue  # every way would be the same
            message = Forward(0, key, self._own, 0, 0, Publish(pointer, salt), way > 0)
            first = self._neighbours.ways_apart(self._choices, 1) if way > 1 else []
            onward = self._routing.send(message, now, (), first[0]) if first else None
            effects += self.carry(message, now) if onward is None else onward
        return [*effects, SetTimer(Timer("publish"), BURST_SECONDS)] if self._outgoing else effects

    # --- pointers of others ----------------------------------------------------------------------------------------

    def carry(
        self, message: Forward, now: float, tried: tuple[bytes, ...] = (), sender: Contact | None = None
    ) -> list[Effect]:
        """What this node does with a `Publish` or `Locate` that has come to it; from itself, or once more, where no
        sender is named."""
        cargo = message.cargo
        if isinstance(cargo, Publish):
            return self._carry_pointer(message, cargo, now, tried, sender)
        assert isinstance(cargo, Locate)
        return self._carry_search(message, cargo, now, tried)

    def _carry_pointer(
        self, message: Forward, cargo: Publish, now: float, tried: tuple[bytes, ...], sender: Contact | None
    ) -> list[Effect]:
        reason = self._refuse(cargo.pointer, cargo.salt, now, sender)
        if reason is None and message.key != root_key(cargo.pointer.object, cargo.salt):
            reason = "a pointer on its way to another root"
        if reason is not None:
            return [Rejected(sender or message.origin, reason)]
        known = self.pointers.get(cargo.pointer.object, cargo.pointer.holder.guid, cargo.salt) == cargo.pointer
        onward = self._routing.send(message, now, tried)
        self.pointers.put(cargo.pointer, cargo.salt, onward is None)
        return [*([] if known else self._spread(cargo, message.key)), *(onward or [])]

    def _spread(self, cargo: Publish, key: bytes) -> list[Effect]:
        """Around the root the pointer goes to all that are near it, from whoever sees it first."""
        if not self._neighbours.leaves.covers(key):
            return []
        leaves = [leaf for leaf in self._neighbours.leaves if not self._neighbours.suspect(leaf.guid)]
        leaves.sort(key=lambda leaf: (distance(key, leaf.guid), leaf.guid))
        return [Send(leaf, Copies(((cargo.salt, cargo.pointer),))) for leaf in leaves[:NEAR]]

    def _refuse(self, pointer: Pointer, salt: int, now: float, sender: Contact | None) -> str | None:
        kept = self.pointers.get(pointer.object, pointer.holder.guid, salt)
        if kept == pointer:
            return None
        if kept is not None and kept.issued > pointer.issued:
            return "an older pointer than the one that is here"
        if self._keys is None:
            return "no pointers are kept here"
        if sender is not None and not self._checks.take(sender.guid, now):
            return "more pointers than are checked for one neighbour"
        return refuse(pointer, self._keys, now)

    def on_copies(self, sender: Contact, message: Copies, now: float) -> list[Effect]:
        """Pointers that another node has as their root."""
        effects: list[Effect] = []
        for salt, pointer in message.pointers:
            reason = self._refuse(pointer, salt, now, sender)
            if reason is not None:
                effects.append(Rejected(sender, reason))
                continue
            self.pointers.put(pointer, salt, self._routing.next_hop(root_key(pointer.object, salt)) is None)
        return effects

    def _hand_over(self) -> list[Effect]:
        leaves = frozenset(leaf.guid for leaf in self._neighbours.leaves)
        if leaves == self._leaves_then:
            return []
        self._leaves_then = leaves
        by_root: dict[Contact, list[Kept]] = {}
        for kept in self.pointers.to_hand_over(lambda key: self._routing.next_hop(key) is None):
            root = self._routing.next_hop(root_key(kept.pointer.object, kept.salt))
            if root is not None:
                by_root.setdefault(root, []).append(kept)
        return [
            Send(root, Copies(tuple((kept.salt, kept.pointer) for kept in moved[start : start + MAX_CONTACTS])))
            for root, moved in by_root.items()
            for start in range(0, len(moved), MAX_CONTACTS)
        ]

    # --- searching -------------------------------------------------------------------------------------------------

    def locate(self, obj: GUID, number: int, passed_over: tuple[GUID, ...], now: float) -> list[Effect]:
        """Look for a holder of an object."""
        if passed_over and obj in self._spare:
            answer = self._spare[obj].take(passed_over)
            if answer is not None:
                return [LocatedAt(number, answer.pointer, answer.hops)]
        if not passed_over:
            self._spare.pop(obj, None)
        group = min(len(passed_over) + 1, FIRST_APART) if passed_over else 0
        salts = self._choices.sample(range(SALTS), SALTS)
        self._searches[number] = _Search(obj, salts, passed_over[-MAX_CONTACTS:], group)
        if len(self._searches) > SEARCHES:
            self._end(next(iter(self._searches)))
        return self._search(number, now)

    def _end(self, number: int) -> None:
        for way in self._searches.pop(number).ways:
            del self._ways[way]

    def _search(self, number: int, now: float) -> list[Effect]:
        search = self._searches[number]
        group = search.group
        usual = self._neighbours.timeout_seconds(self._own.guid, now)
        wait = LOCATE_SECONDS if group + 1 == len(WAYS) else min(HOPS_IN_VAIN * usual, LOCATE_SECONDS)
        effects: list[Effect] = [SetTimer(Timer("locate", number * len(WAYS) + group), wait)]
        begun = sum(WAYS[:group])
        for place in range(begun, begun + WAYS[group]):
            if search.answered or search.group != group or number not in self._searches:
                break  # this node holds the object itself, or is the root by which all of them end
            salt = search.salts[place % SALTS]
            key, way = root_key(search.object, salt), self._choices.getrandbits(WAY_BITS)
            search.ways[way] = 0
            self._ways[way] = _Way(number, group, key)
            cargo = Locate(search.object, salt, None, search.passed_over)
            message = Forward(0, key, self._own, way, 0, cargo, group >= FIRST_CONSTRAINED)
            first = self._neighbours.ways_apart(self._choices, 1) if group >= FIRST_APART else []
            onward = self._routing.send(message, now, (), first[0]) if first else None
            effects += self.carry(message, now) if onward is None else onward
        return effects

    def _next_ways(self, number: int, group: int, now: float, later: int) -> list[Effect]:
        search = self._searches.get(number)
        if search is None or search.group != group:
            return []
        if search.answered or later == len(WAYS):
            self._end(number)
            return [] if search.answered else [NotFound(number)]
        search.group = later
        return self._search(number, now)

    def _carry_search(self, message: Forward, cargo: Locate, now: float, tried: tuple[bytes, ...]) -> list[Effect]:
        meant = cargo.holder == self._own.guid or self._own.guid not in cargo.passed_over
        if cargo.object in self.held and meant:
            return self._answer(message, cargo, now)
        others = [one for one in self.pointers.holders(cargo.object, now) if one.guid not in cargo.passed_over]
        some = self._believed(others) if len(cargo.passed_over) < MAX_CONTACTS else []
        if message.constrained and cargo.holder is None and some:
            some = self._choices.sample(some, min(HOLDERS_AT_ONCE, len(some)))
            return [
                effect
                for one in some
                for effect in self._routing.send(_sought(message, cargo, one), now, tried, one) or ()
            ]
        nearest = self._nearest(some)
        if nearest is not None:
            message = _sought(message, cargo, nearest)
        onward = self._routing.send(message, now, tried, nearest)
        if onward is not None:
            return onward
        if message.origin.guid == self._own.guid:
            return self.on_not_located(self._own, message.number, now)
        return [Send(message.origin, NotLocated(message.number, message.hops))]

    def _believed(self, holders: list[Contact]) -> list[Contact]:
        """Those that are asked before others."""
        some = [one for one in holders if one.guid != self._own.guid and not self._neighbours.suspect(one.guid)]
        counts = [self.pointers.count_of(one.guid) for one in some]
        most = GREED * min(counts, default=0)
        return [one for one, count in zip(some, counts, strict=True) if count <= most]

    def _nearest(self, holders: list[Contact]) -> Contact | None:
        """Of holders those whose round trip is known come first, the shortest of them before all."""
        known = [(each.rtt_seconds, one.guid, one) for one in holders if (each := self._neighbours.get(one.guid))]
        near = [entry for entry in known if entry[0]]
        return min(near)[2] if near else self._choices.choice(holders) if holders else None

    def _answer(self, message: Forward, cargo: Locate, now: float) -> list[Effect]:
        if self._keys is None:
            return []
        issued = int(now)
        pointer = next(make(self._keys, self._own, [cargo.object], issued, issued + LIFETIME_SECONDS))
        if message.origin.guid == self._own.guid:
            return self.on_located(self._own, Located(message.number, pointer, message.hops), now)
        return [Send(message.origin, Located(message.number, pointer, message.hops))]

    def send_again(self, question: Question, message: Forward, now: float) -> list[Effect]:
        """A hop was not acknowledged. If it went to a holder, that one is passed over."""
        back = msgspec.structs.replace(message, hops=message.hops - 1)
        cargo = message.cargo
        if isinstance(cargo, Locate) and cargo.holder == question.to.guid:
            self.pointers.drop_holder(cargo.object, question.to.guid)
        return self.carry(back, now, (*question.tried, question.to.guid))

    def on_located(self, sender: Contact, message: Located, now: float) -> list[Effect]:
        """Somebody says that it holds the object. Only the object itself proves that."""
        way = self._ways.get(message.number)
        if way is None or self._keys is None:
            return []
        search, pointer = self._searches[way.search], message.pointer
        unasked = pointer.object != search.object or pointer.holder.guid in search.passed_over
        if unasked or pointer.holder.guid != sender.guid:
            reason: str | None = "an answer to another search"
        elif search.ways[message.number] == HOLDERS_AT_ONCE:
            reason = "more answers than holders were asked"
        elif sender.guid != self._own.guid and not self._checks.take(sender.guid, now):
            reason = "more pointers than are checked for one neighbour"
        else:
            reason = refuse(pointer, self._keys, now)
        if reason is not None:
            return [Rejected(sender, reason)]
        search.ways[message.number] += 1
        spare = self._spare.setdefault(search.object, _Spare())
        if len(self._spare) > SPARES:
            del self._spare[next(iter(self._spare))]
        if search.answered:
            spare.answers[sender.guid] = _Answer(message.number, pointer, message.hops)
            return []
        spare.used[message.number] += 1
        search.answered = True
        return [LocatedAt(way.search, pointer, message.hops)]

    def on_not_located(self, sender: Contact, number: int, now: float) -> list[Effect]:
        """A root knows no holder. When all ways under way say so, others are tried; those by constrained entries at
        once when who says so cannot be a root."""
        way = self._ways.get(number)
        if way is None or self._searches[way.search].answered:
            return []
        search = self._searches[way.search]
        search.denied.add(number)
        if search.group < FIRST_CONSTRAINED and implausible(self._neighbours.leaves, way.key, sender.guid):
            return self._next_ways(way.search, search.group, now, FIRST_CONSTRAINED)
        denied = sum(self._ways[each].group == search.group for each in search.denied)
        done = denied == WAYS[search.group]
        return self._next_ways(way.search, search.group, now, search.group + 1) if done else []


def _sought(message: Forward, cargo: Locate, holder: Contact) -> Forward:
    over = (*cargo.passed_over, holder.guid)
    return msgspec.structs.replace(message, cargo=Locate(cargo.object, cargo.salt, holder.guid, over))

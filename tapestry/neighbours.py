"""Which nodes this one knows itself, how long they take to answer, and which of them have stopped to.

A node is taken up when it has been heard from directly, never on another's word: the dead would come back for ever
(Bamboo, USENIX 2004, 3.2). Timeouts follow each neighbour's round trips as TCP's do (4.3 there; RFC 6298).
"""

from collections import deque
from collections.abc import Iterable
from random import Random

from tapestry.leaf_set import LeafSet
from tapestry.messages import Contact
from tapestry.routing_table import RoutingTable

MISSES = 3
"""A neighbour is given up after so many questions without an answer. After the first, ways around it are taken."""

GRACE_SECONDS = 0.05
"""Above what round trips have shown so far: a queue on the way may fill any moment."""

FIRST_TIMEOUT_SECONDS = 1.0
"""Where no round trip is known: RFC 6298, section 2.1."""

MOST_TIMEOUT_SECONDS = 4.0

STALE_SECONDS = 10.0
"""Round trips measured so long ago tell little of now: many begin together, when each takes a second, and many
neighbours are asked once in a minute. (TCP measures all the time.)"""

LOST = 64
"""Neighbours given up that are remembered, to ask them again: a network in two halves may become one again."""

MET = 16
"""Nodes met that are remembered."""

LOST_SECONDS = 60.0
"""For so long nobody's word for it that such a node is alive makes this one ask."""


class Neighbour:
    """One of the nodes that this one knows."""

    __slots__ = ("contact", "heard", "measured_at", "missed", "misses", "probed", "rtt_seconds", "spread_seconds")

    def __init__(self, contact: Contact, now: float) -> None:
        self.contact = contact
        self.heard = now
        """When it was heard from last."""
        self.misses = 0
        """Questions, one after another, that it left without an answer."""
        self.missed = now
        """When the last of them was given up."""
        self.probed = 0
        """The question by which it is being asked if it is there, since it has missed one; 0: it is not."""
        self.rtt_seconds = 0.0
        """Smoothed; 0 when it is not known."""
        self.spread_seconds = 0.0
        self.measured_at = now

    def stale(self, now: float) -> bool:
        """Whether round trips are not known, or as they were long ago."""
        return not self.rtt_seconds or now - self.measured_at >= STALE_SECONDS

    def measured(self, seconds: float, now: float) -> None:
        """A round trip took so long. Where the last one is long past it counts as the first, but for a spread that was
        small then."""
        begins, self.measured_at = self.stale(now), now
        if begins:
            spread = min(self.spread_seconds, seconds / 2) if self.rtt_seconds else seconds / 2
            self.rtt_seconds, self.spread_seconds = seconds, spread
            return
        self.spread_seconds += (abs(seconds - self.rtt_seconds) - self.spread_seconds) / 4
        self.rtt_seconds += (seconds - self.rtt_seconds) / 8


class Neighbours:
    """Leaf set and routing table, and how each node in them is doing."""

    def __init__(self, own: Contact) -> None:
        self.own = own
        self.leaves = LeafSet(own.guid)
        self.table = RoutingTable(own.guid)
        self.lost: dict[bytes, tuple[Contact, float]] = {}
        """Nodes given up, and since when nothing is known of them."""
        self.met: deque[Contact] = deque(maxlen=MET)
        """Nodes of which others than nodes have told, the last ones: of those that nodes name, all may lie."""
        self._known: dict[bytes, Neighbour] = {}
        """Who was heard from last comes last."""
        self.suspects: set[bytes] = set()
        """Those that left the last question without an answer."""
        self._typical = Neighbour(own, 0.0)
        """Round trips of all: what to expect of a node that was never asked."""

    def __contains__(self, guid: bytes) -> bool:
        return guid in self._known

    def __len__(self) -> int:
        return len(self._known)

    def get(self, guid: bytes) -> Neighbour | None:
        """What is known of a node."""
        return self._known.get(guid)

    @property
    def all(self) -> Iterable[Neighbour]:
        """Every node that is known; first who has been silent for longest."""
        return self._known.values()

    def suspect(self, guid: bytes) -> bool:
        """Whether it left the last question without an answer."""
        return guid in self.suspects

    def meet(self, contacts: Iterable[Contact]) -> None:
        """Others than nodes have told of these."""
        self.met.extend(contact for contact in contacts if contact.guid != self.own.guid)

    def ways_apart(self, choices: Random, count: int) -> list[Contact]:
        """So many nodes to go by that no neighbour has chosen for us, or fewer where there are: of those met, or else
        constrained entries."""
        some = [one for one in dict.fromkeys(self.met) if one.guid not in self.suspects | self.lost.keys()]
        some = some or [one for one in self.table.constrained() if one.guid not in self.suspects]
        return choices.sample(some, min(count, len(some)))

    def wanted(self, contact: Contact, now: float) -> bool:
        """Whether to ask a node that others speak of if it is there: it has a place here, and was not given up."""
        guid = contact.guid
        if guid == self.own.guid:
            return False
        if guid in self._known:
            return self.leaves.wants(guid)
        lost = self.lost.get(guid)
        if lost is not None and now - lost[1] < LOST_SECONDS:
            return False
        return self.leaves.wants(guid) or self.table.wants(guid)

    def heard(self, contact: Contact, now: float) -> bool:
        """A member speaks: it is alive, and is taken up where it belongs. Whether it has been given up: such a one is
        taken up again once it answers a question, as perhaps only its words come through, and ours do not."""
        known = self._known.get(contact.guid)
        if known is not None and known.contact != contact:  # it was started again, at another address
            self._drop(known)
        elif known is not None:
            known.heard, known.misses, known.probed = now, 0, 0
            self.suspects.discard(contact.guid)
            self._known[contact.guid] = self._known.pop(contact.guid)
            if self.leaves.wants(contact.guid):  # since a leaf before it has gone
                self._tidy(self.leaves.add(known.contact))
            return False
        if contact.guid in self.lost:
            return True
        if self.leaves.wants(contact.guid) or self.table.wants(contact.guid):
            self._take_up(contact, now)
        return False

    def measured(self, contact: Contact, seconds: float, now: float) -> None:
        """It answered after so long: a nearer node takes the place of one further away."""
        self._typical.measured(seconds, now)
        lost = self.lost.get(contact.guid)
        if lost is not None:
            if seconds > now - lost[1]:
                return  # what it answered before it went was longer on its way
            del self.lost[contact.guid]
            self.heard(contact, now)
        known = self._known.get(contact.guid)
        if known is None:
            if contact.guid == self.own.guid:
                return
            known = self._known[contact.guid] = Neighbour(contact, now)
        known.measured(seconds, now)
        self._tidy(self.table.put(known.contact, known.rtt_seconds))
        self._tidy(contact)

    def _take_up(self, contact: Contact, now: float) -> None:
        self._known[contact.guid] = Neighbour(contact, now)
        if self.leaves.wants(contact.guid):
            self._tidy(self.leaves.add(contact))
        if self.table.has_room(contact.guid):
            self.table.put(contact, self.timeout_seconds(contact.guid, now))
        self._tidy(self.table.constrain(contact))

    def _tidy(self, pushed_out: Contact | None) -> None:
        if pushed_out is not None and pushed_out.guid not in self.leaves and pushed_out.guid not in self.table:
            self._known.pop(pushed_out.guid, None)
            self.suspects.discard(pushed_out.guid)

    def missed(self, guid: bytes, sent: float, now: float) -> bool:
        """It left a question without an answer. Whether it has been given up for that.

        Questions that were under way at the same time count as one: whatever took one of them took the others.
        """
        known = self._known.get(guid)
        if known is None or (known.misses and sent < known.missed):
            return False
        known.misses += 1
        known.missed = now
        self.suspects.add(guid)
        if known.misses < MISSES:
            return False
        self.forget(guid, sent)
        return True

    def forget(self, guid: bytes, since: float) -> None:
        """The node is gone: what was asked since then, and nothing before, could show that it is back."""
        known = self._known.get(guid)
        if known is None:
            return
        self._drop(known)
        self.lost[guid] = known.contact, since
        if len(self.lost) > LOST:
            del self.lost[next(iter(self.lost))]

    def _drop(self, known: Neighbour) -> None:
        del self._known[known.contact.guid]
        self.suspects.discard(known.contact.guid)
        self.leaves.remove(known.contact.guid)
        self.table.remove(known.contact.guid)

    def timeout_seconds(self, guid: bytes, now: float) -> float:
        """How long to wait for a node's answer; longer after the second that did not come."""
        known = self._known.get(guid)
        measures = [known, self._typical] if known is not None and known.stale(now) else [known or self._typical]
        usual = [one.rtt_seconds + 4 * one.spread_seconds for one in measures if one.rtt_seconds]
        if not usual:
            return FIRST_TIMEOUT_SECONDS
        seconds = min(usual) + GRACE_SECONDS
        return min(seconds * (1 << max(0, known.misses - 1 if known is not None else 0)), MOST_TIMEOUT_SECONDS)

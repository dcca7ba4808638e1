"""The way of a cargo to the root of its key, hop by hop (Tapestry, JSAC 2004, III-B; Bamboo, USENIX 2004, 3 and 4).

Each hop shares one digit more with the key, until the key lies within the leaf set; the node there that is nearest to
it on the ring is its root. Tapestry's surrogate is another node, chosen digit by digit; ours needs only leaf sets to be
right (docs/divergence.md). Every hop is acknowledged. A node that does not do so in time is suspected and passed over
at once: the cargo goes on by the next best way.
"""

import msgspec

from tapestry.effects import Effect
from tapestry.guid import distance, shared_digits
from tapestry.leaf_set import nearest
from tapestry.messages import MAX_HOPS, Contact, Forward, Join
from tapestry.neighbours import Neighbours
from tapestry.questions import Question, Questions

TRIES = 6
"""Nodes that one hop is tried with, one after another."""

CERTAIN_MISSES = 2
"""A leaf that left so many questions without an answer is no root any longer, nor one that did not take this cargo so
often, whatever else it says: it may be joining itself. One answer may have been lost, and whoever takes another node
for the root at once takes the wrong one."""


class Routing:
    """Chooses next hops, and sees each of them through."""

    def __init__(self, neighbours: Neighbours, questions: Questions) -> None:
        self._own = neighbours.own
        self._neighbours = neighbours
        self._questions = questions

    def next_hop(
        self, key: bytes, tried: tuple[bytes, ...] = (), barred: bytes | None = None, constrained: bool = False
    ) -> Contact | None:
        """The neighbour that is nearer to the root of a key, or None when this node is the root. The one that is barred
        is no root, however often it should be tried."""
        leaves, table = self._neighbours.leaves, self._neighbours.table
        if leaves.covers(key):
            return self._nearest_leaf(key, tried, barred)
        for contact in table.toward(key, constrained):
            if contact.guid not in tried and not self._neighbours.suspect(contact.guid):
                return contact
        return self._rare_case(key, tried)

    def _nearest_leaf(self, key: bytes, tried: tuple[bytes, ...], barred: bytes | None) -> Contact | None:
        leaves = self._neighbours.leaves
        near = leaves if leaves.whole else [known.contact for known in self._neighbours.all]
        some = [contact for contact in near if contact.guid != barred and self._may_be_root(contact, tried)]
        best = nearest(key, [self._own, *some])
        return None if best is self._own else best

    def _may_be_root(self, leaf: Contact, tried: tuple[bytes, ...]) -> bool:
        known, times = self._neighbours.get(leaf.guid), tried.count(leaf.guid)
        if known is None or known.misses >= CERTAIN_MISSES or times >= CERTAIN_MISSES:
            return False
        return not times or known.misses > 0

    def _rare_case(self, key: bytes, tried: tuple[bytes, ...]) -> Contact | None:
        """No entry where one should be: of all nodes known, one nearer to the key that shares no fewer digits, or else
        simply the nearest."""
        own = distance(key, self._own.guid)
        nearer = [
            known.contact
            for known in self._neighbours.all
            if not known.misses and known.contact.guid not in tried and distance(key, known.contact.guid) < own
        ]
        row = shared_digits(self._own.guid, key)
        return nearest(key, [contact for contact in nearer if shared_digits(contact.guid, key) >= row] or nearer)

    def send(
        self, cargo: Forward, now: float, tried: tuple[bytes, ...] = (), first: Contact | None = None
    ) -> list[Effect] | None:
        """Send a cargo on its next hop, or through `first`. None when this node is its root; it is dropped where no way
        is left, as when all neighbours are silent for a moment: the root lies beyond them."""
        joins = cargo.origin.guid if isinstance(cargo.cargo, Join) else None  # perhaps known, from before it stopped
        to = first or self.next_hop(cargo.key, tried, joins, cargo.constrained)
        if to is None and self._neighbours.leaves.covers(cargo.key):
            return None
        if to is None or cargo.hops >= MAX_HOPS or len(tried) >= TRIES:
            return []
        onward = msgspec.structs.replace(cargo, hops=cargo.hops + 1)
        return self._questions.ask(to, lambda hop: msgspec.structs.replace(onward, hop=hop), now, tried)

    def send_again(self, question: Question, cargo: Forward, now: float) -> list[Effect] | None:
        """A hop was not acknowledged: another one, or None when no other node is nearer to the root than this one."""
        back = msgspec.structs.replace(cargo, hops=cargo.hops - 1)
        return self.send(back, now, (*question.tried, question.to.guid))

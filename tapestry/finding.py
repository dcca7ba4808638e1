"""Who is the root of a key, for whoever runs this node, and whether to believe it (Castro et al., OSDI 2002, 5).

A node on the way that lies may answer in place of the root. It is the root of fewer keys than it is asked for: the
nearest of a few liars is mostly further from a key than the nearest of all nodes. How far that is follows from how
closely nodes lie around this one. An answer from too far away is not believed alone: the key is looked for again by
constrained entries, and the nearest that answers is the root.
"""

from random import Random
from typing import NamedTuple

from tapestry.effects import Effect, Resolved, SetTimer, Timer
from tapestry.guid import GUID, distance
from tapestry.leaf_set import SIDE, LeafSet
from tapestry.messages import Contact, Find, Forward
from tapestry.neighbours import Neighbours
from tapestry.routing import Routing

UNANSWERED = 1024
"""Keys whose roots are being looked for at most; the oldest is forgotten above it."""

FAR = 6
"""Half a gap between nodes is how far the nearest one is from a key on average; this many times as far is too far."""

AGAIN = 3
"""Ways by which a key is looked for again: one from here, the others through nodes that no neighbour has chosen."""

AGAIN_SECONDS = 1.5
"""For so long a plausible answer is waited for. Answers are not counted: a liar on the way may give as many."""


def implausible(leaves: LeafSet, key: GUID, root: GUID) -> bool:
    """Whether a node is too far from a key to be its root, as far as one can tell from a whole leaf set.

    Gaps between GUIDs are exponentially distributed, and so is the distance of a key to the nearest. With the mean gap
    from the 2 SIDE gaps of a leaf set, a true root is taken for false with probability (1 + FAR / 2 SIDE) ** -2 SIDE,
    which is 0.6 %; of the nearest of a share f of all nodes that is the probability, with f FAR for FAR, of being found
    out: 31 % with a fifth.
    """
    return leaves.whole and 2 * SIDE * 2 * distance(key, root) > FAR * leaves.span


class _Sought(NamedTuple):
    key: GUID
    best: tuple[Contact, int] | None
    """Of answers that were too far away the nearest, and its hops."""


class Finding:
    """Looks for roots."""

    def __init__(self, neighbours: Neighbours, routing: Routing, choices: Random) -> None:
        self._own = neighbours.own
        self._neighbours = neighbours
        self._routing = routing
        self._choices = choices
        self._sought: dict[int, _Sought] = {}

    def route(self, key: GUID, number: int, now: float) -> list[Effect]:
        """Find the root of a key."""
        self._sought[number] = _Sought(key, None)
        if len(self._sought) > UNANSWERED:
            del self._sought[next(iter(self._sought))]
        onward = self._routing.send(Forward(0, key, self._own, number, 0, Find()), now)
        return self.on_found(self._own, number, 0, now) if onward is None else onward

    def on_found(self, root: Contact, number: int, hops: int, now: float) -> list[Effect]:
        """A node says that it is the root."""
        sought = self._sought.get(number)
        if sought is None:
            return []
        key, best = sought
        if best is None or distance(key, root.guid) < distance(key, best[0].guid):
            best = root, hops
        if not implausible(self._neighbours.leaves, key, best[0].guid):
            del self._sought[number]
            return [Resolved(number, *best)]
        self._sought[number] = _Sought(key, best)
        return self._again(key, number, now) if sought.best is None else []

    def _again(self, key: GUID, number: int, now: float) -> list[Effect]:
        cargo = Forward(0, key, self._own, number, 0, Find(), True)
        ways = [
            self._routing.send(cargo, now, (), first) or []
            for first in (None, *self._neighbours.ways_apart(self._choices, AGAIN - 1))
        ]
        return [SetTimer(Timer("found", number), AGAIN_SECONDS), *(effect for way in ways for effect in way)]

    def on_timer(self, number: int) -> list[Effect]:
        """No answer from near enough came."""
        sought = self._sought.pop(number, None)
        return [] if sought is None or sought.best is None else [Resolved(number, *sought.best)]

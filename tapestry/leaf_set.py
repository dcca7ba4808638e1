"""The leaf set: the nodes nearest to this one on the ring, on both sides (Bamboo, USENIX 2004, section 3.1).

Where leaf sets are right, every key has one root, whatever the routing tables hold: they only make the way short.
"""

from bisect import bisect_left
from collections.abc import Container, Iterable, Iterator

from tapestry.guid import clockwise, distance
from tapestry.messages import NAME_BYTES, Contact

SIDE = 8
"""Nodes on each side. All of one side must go within seconds, unseen, to cut the ring in two there."""

_HALF = 1 << 255
_NAME_BITS = 8 * NAME_BYTES


class LeafSet:
    """Up to SIDE nodes of each half of the ring as seen from `own`, nearest first."""

    def __init__(self, own: bytes) -> None:
        self._own = own
        self._sides: tuple[list[tuple[int, Contact]], list[tuple[int, Contact]]] = ([], [])
        """Clockwise and against it: (places away, node), in order."""
        self.changes = 0
        """How often a node has come or gone."""

    def __len__(self) -> int:
        return len(self._sides[0]) + len(self._sides[1])

    def __contains__(self, guid: bytes) -> bool:
        side, away = self._place(guid)
        at = bisect_left(side, away, key=_away)
        return at < len(side) and side[at][1].guid == guid

    def __iter__(self) -> Iterator[Contact]:
        for side in self._sides:
            for _, contact in side:
                yield contact

    def _place(self, guid: bytes) -> tuple[list[tuple[int, Contact]], int]:
        way = clockwise(self._own, guid)
        return (self._sides[0], way) if way <= _HALF else (self._sides[1], (1 << 256) - way)

    def wants(self, guid: bytes) -> bool:
        """Whether the node belongs here and is not here."""
        side, away = self._place(guid)
        if away == 0 or guid in self:
            return False
        return len(side) < SIDE or away < side[-1][0]

    def add(self, contact: Contact) -> Contact | None:
        """Take in a node that `wants` has approved of. Returns the one that it pushes out."""
        self.changes += 1
        side, away = self._place(contact.guid)
        side.insert(bisect_left(side, away, key=_away), (away, contact))
        return side.pop()[1] if len(side) > SIDE else None

    def remove(self, guid: bytes) -> None:
        """The node is gone."""
        side, away = self._place(guid)
        at = bisect_left(side, away, key=_away)
        if at < len(side) and side[at][1].guid == guid:
            del side[at]
            self.changes += 1

    def covers(self, key: bytes) -> bool:
        """Whether the key lies between nodes of this set, so that its root is one of them or this node; beyond the last
        of a side that is not full, nobody is known."""
        side, away = self._place(key)
        return len(side) < SIDE or away <= side[-1][0]

    @property
    def whole(self) -> bool:
        """Whether both sides are full. Where one is not, there are few nodes, or some are missing."""
        return all(len(side) == SIDE for side in self._sides)

    def names(self) -> bytes:
        """The beginnings of all GUIDs here."""
        return b"".join(contact.guid[:NAME_BYTES] for contact in self)

    def lacking(self, other: bytes, names: bytes, passed_over: Container[bytes]) -> list[Contact]:
        """Nodes of this set that belong into the leaf set of `other`, which holds `names`."""
        held = {names[start : start + NAME_BYTES] for start in range(0, len(names), NAME_BYTES)}
        own = int.from_bytes(other[:NAME_BYTES], "big")
        ways = [(int.from_bytes(name, "big") - own) % (1 << _NAME_BITS) for name in held]
        half = 1 << _NAME_BITS - 1
        up = sorted(way for way in ways if way <= half)[:SIDE]
        down = sorted((1 << _NAME_BITS) - way for way in ways if way > half)[:SIDE]
        found = []
        for contact in self:
            name = contact.guid[:NAME_BYTES]
            if name in held or contact.guid == other or contact.guid in passed_over:
                continue
            way = (int.from_bytes(name, "big") - own) % (1 << _NAME_BITS)
            side, away = (up, way) if way <= half else (down, (1 << _NAME_BITS) - way)
            if len(side) < SIDE or away < side[-1]:
                found.append(contact)
        return found


def nearest(key: bytes, contacts: Iterable[Contact]) -> Contact | None:
    """Of these nodes the one that the key belongs to; of two that are equally far, the lower GUID."""
    return min(contacts, key=lambda contact: (distance(key, contact.guid), contact.guid), default=None)


def _away(entry: tuple[int, Contact]) -> int:
    return entry[0]

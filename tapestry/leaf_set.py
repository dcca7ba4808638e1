"""The leaf set: the nodes nearest to this one on the ring, on both sides (Bamboo, USENIX 2004, section 3.1).

Where leaf sets are right, every key has one root, whatever the routing tables hold: they only make the way short.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Iterator

from tapestry.guid import distance
from tapestry.messages import NAME_BYTES, Contact

SIDE = 8
"""Nodes on each side. All of one side must go within seconds, unseen, to cut the ring in two there."""

_HALF = 1 << 255
_LAST = (1 << 256) - 1
_HALF_NAME = 1 << 8 * NAME_BYTES - 1
_LAST_NAME = 2 * _HALF_NAME - 1


class LeafSet:
    """Up to SIDE nodes of each half of the ring as seen from `own`, nearest first."""

    def __init__(self, own: bytes) -> None:
        self._own = int.from_bytes(own, "big")
        self._sides: tuple[list[tuple[int, Contact]], list[tuple[int, Contact]]] = ([], [])
        """Clockwise and against it: (places away, node), in order."""
        self.changes = 0
        """How often a node has come or gone."""
        self._all: list[Contact] = []
        """Both sides. This and the next two are asked for with each message, and change with few."""
        self.guids: frozenset[bytes] = frozenset()
        self.whole = False
        """Whether both sides are full. Where one is not, there are few nodes, or some are missing."""

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, guid: bytes) -> bool:
        return guid in self.guids

    def __iter__(self) -> Iterator[Contact]:
        return iter(self._all)

    def _changed(self) -> None:
        self.changes += 1
        self._all = [contact for side in self._sides for _, contact in side]
        self.guids = frozenset(contact.guid for contact in self._all)
        self.whole = len(self._all) == 2 * SIDE

    def _place(self, guid: bytes) -> tuple[list[tuple[int, Contact]], int]:
        way = (int.from_bytes(guid, "big") - self._own) & _LAST
        return (self._sides[0], way) if way <= _HALF else (self._sides[1], (1 << 256) - way)

    def wants(self, guid: bytes) -> bool:
        """Whether the node belongs here and is not here."""
        if guid in self.guids:
            return False
        side, away = self._place(guid)
        return away != 0 and (len(side) < SIDE or away < side[-1][0])

    def add(self, contact: Contact) -> Contact | None:
        """Take in a node that `wants` has approved of. Returns the one that it pushes out."""
        side, away = self._place(contact.guid)
        side.insert(bisect_left(side, away, key=_away), (away, contact))
        pushed_out = side.pop()[1] if len(side) > SIDE else None
        self._changed()
        return pushed_out

    def remove(self, guid: bytes) -> None:
        """The node is gone."""
        if guid in self.guids:
            side, away = self._place(guid)
            del side[bisect_left(side, away, key=_away)]
            self._changed()

    def covers(self, key: bytes) -> bool:
        """Whether the key lies between nodes of this set, so that its root is one of them or this node; beyond the last
        of a side that is not full, nobody is known."""
        side, away = self._place(key)
        return len(side) < SIDE or away <= side[-1][0]

    @property
    def span(self) -> int:
        """Places from the last node on one side to the last on the other."""
        return sum(side[-1][0] for side in self._sides if side)

    def names(self) -> bytes:
        """The beginnings of all GUIDs here."""
        return b"".join(contact.guid[:NAME_BYTES] for contact in self)

    def lacking(self, other: bytes, names: bytes, passed_over: Container[bytes]) -> list[Contact]:
        """Nodes of this set that belong into the leaf set of `other`, which holds `names`."""
        held = {names[start : start + NAME_BYTES] for start in range(0, len(names), NAME_BYTES)}
        own = int.from_bytes(other[:NAME_BYTES], "big")
        ways = sorted([(int.from_bytes(name, "big") - own) & _LAST_NAME for name in held])
        middle = bisect_right(ways, _HALF_NAME)
        up = ways[SIDE - 1] if middle >= SIDE else _LAST_NAME
        down = ways[-SIDE] if len(ways) - middle >= SIDE else 0
        found = []
        for contact in self._all:
            name = contact.guid[:NAME_BYTES]
            if name in held or contact.guid == other or contact.guid in passed_over:
                continue
            way = (int.from_bytes(name, "big") - own) & _LAST_NAME
            if way < up if way <= _HALF_NAME else way > down:
                found.append(contact)
        return found


def nearest(key: bytes, contacts: Iterable[Contact]) -> Contact | None:
    """Of these nodes the one that the key belongs to; of two that are equally far, the lower GUID."""
    return min(contacts, key=lambda contact: (distance(key, contact.guid), contact.guid), default=None)


def _away(entry: tuple[int, Contact]) -> int:
    return entry[0]

"""The routing table: for each length of prefix and each next digit, nodes that have both (Tapestry, JSAC 2004, III-B).

Row r holds nodes that share the first r digits with this one; the slot of digit d those whose next digit is d. Each
slot keeps the nearest node by round trip and a few behind it, which stand in for it (backups there).

Who is near can be arranged, and who names only friends fills slots with them. So each slot also has a constrained entry
(Castro et al., OSDI 2002, section 4): the node nearest on the ring to one fixed point, this node's GUID with the digit
of the slot in its place. Nobody comes nearer to it by what is said of him.
"""

from collections.abc import Iterable, Iterator

from tapestry.guid import BASE, BYTES, digit, distance, shared_digits
from tapestry.messages import NAME_BYTES, Contact

SLOT = 3
"""Nodes of a slot: the primary and two backups, as in Tapestry."""

_REST_OF_NAME = 1 << 8 * (BYTES - NAME_BYTES)
"""So many places may lie between a GUID and its name."""


class RoutingTable:
    """Nodes by row and digit, each slot in the order of round trips."""

    def __init__(self, own: bytes) -> None:
        self._own = own
        self._slots: dict[tuple[int, int], list[tuple[float, Contact]]] = {}
        self._constrained: dict[tuple[int, int], tuple[int, Contact]] = {}
        """Places from the slot's point, and the node."""
        self.primaries: set[bytes] = set()
        """The first node of each slot."""

    def _place(self, guid: bytes) -> tuple[int, int]:
        row = shared_digits(self._own, guid)
        return row, digit(guid, row)

    def __contains__(self, guid: bytes) -> bool:
        if guid == self._own:
            return False
        place = self._place(guid)
        entry = self._constrained.get(place)
        return (entry is not None and entry[1].guid == guid) or any(
            contact.guid == guid for _, contact in self._slots.get(place, ())
        )

    def __iter__(self) -> Iterator[Contact]:
        for slot in self._slots.values():
            for _, contact in slot:
                yield contact
        for place, (_, contact) in self._constrained.items():
            if not any(other.guid == contact.guid for _, other in self._slots.get(place, ())):
                yield contact

    def rows(self) -> list[int]:
        """Rows that hold something, in order."""
        return sorted({row for row, _ in self._slots})

    def row(self, row: int) -> list[Contact]:
        """The first node of each slot of a row."""
        return [self._slots[row, column][0][1] for column in range(16) if (row, column) in self._slots]

    def toward(self, key: bytes, constrained: bool = False) -> list[Contact]:
        """Nodes that share one digit more with the key than this one does, nearest first; or the constrained entry
        before all."""
        place = self._place(key)
        some = [contact for _, contact in self._slots.get(place, ())]
        entry = self._constrained.get(place)
        if entry is None or (not constrained and entry[1] in some):
            return some
        return [entry[1], *(one for one in some if one is not entry[1])] if constrained else [*some, entry[1]]

    def constrained(self) -> list[Contact]:
        """All constrained entries."""
        return [contact for _, contact in self._constrained.values()]

    def constrained_names(self, row: int) -> bytes:
        """The beginnings of the GUIDs of those of a row."""
        entries = (self._constrained.get((row, column)) for column in range(BASE))
        return b"".join(entry[1].guid[:NAME_BYTES] for entry in entries if entry is not None)

    def has_room(self, guid: bytes) -> bool:
        """Whether the slot of a node that is not in it is not full."""
        return len(self._slots.get(self._place(guid), ())) < SLOT

    def seconds_to(self, guid: bytes) -> float:
        """Round trip of the first node of the slot that this one belongs into; 0 when the slot is empty."""
        slot = self._slots.get(self._place(guid))
        return slot[0][0] if slot else 0.0

    def wants(self, guid: bytes) -> bool:
        """Whether the node belongs here and is not here: there is room, or it is nearer to the point of its slot."""
        if guid in self:
            return False
        place = self._place(guid)
        entry = self._constrained.get(place)
        return entry is None or len(self._slots.get(place, ())) < SLOT or self._from_point(guid, place) < entry[0]

    def _from_point(self, guid: bytes, place: tuple[int, int]) -> int:
        return distance(guid, point(self._own, *place))

    def constrain(self, contact: Contact) -> Contact | None:
        """Let a node be the constrained entry of its slot if it is the nearest to the point. Returns the one that it
        pushes out."""
        place = self._place(contact.guid)
        away = self._from_point(contact.guid, place)
        entry = self._constrained.get(place)
        if entry is not None and entry[0] <= away:
            return None
        self._constrained[place] = away, contact
        return None if entry is None else entry[1]

    def put(self, contact: Contact, rtt_seconds: float) -> Contact | None:
        """Take in a node, or sort it in anew by this round trip. Returns the one that it pushes out: maybe itself."""
        place = self._place(contact.guid)
        before = self._slots.get(place, [])
        slot = [entry for entry in before if entry[1].guid != contact.guid]
        slot.append((rtt_seconds, contact))
        slot.sort(key=_rtt_seconds)
        self._put_slot(place, before, slot[:SLOT])
        return slot[SLOT][1] if len(slot) > SLOT else None

    def remove(self, guid: bytes) -> None:
        """The node is gone."""
        place = self._place(guid)
        before = self._slots.get(place, [])
        slot = [entry for entry in before if entry[1].guid != guid]
        self._put_slot(place, before, slot)
        constrained = self._constrained.get(place)
        if constrained is not None and constrained[1].guid == guid:
            del self._constrained[place]
            for _, contact in slot:
                self.constrain(contact)

    def _put_slot(
        self, place: tuple[int, int], before: list[tuple[float, Contact]], slot: list[tuple[float, Contact]]
    ) -> None:
        if before:
            self.primaries.discard(before[0][1].guid)
        if slot:
            self.primaries.add(slot[0][1].guid)
            self._slots[place] = slot
        else:
            self._slots.pop(place, None)


def point(own: bytes, row: int, column: int) -> bytes:
    """To which the constrained entry of a slot is to be near: the GUID with this digit in this place."""
    byte = own[row >> 1]
    changed = (byte & 0xF0) | column if row & 1 else (byte & 0x0F) | column << 4
    return own[: row >> 1] + bytes((changed,)) + own[(row >> 1) + 1 :]


def nearer(other: bytes, row: int, names: bytes, contacts: Iterable[Contact]) -> list[Contact]:
    """Of these nodes, by slot of a row of `other`'s table, the one nearest to the point, where it is nearer than the
    one of `names` that `other` has there."""
    best: dict[int, int] = {}
    for start in range(0, len(names), NAME_BYTES):
        name = names[start : start + NAME_BYTES].ljust(BYTES, b"\x00")
        if shared_digits(name, other) == row:
            column = digit(name, row)
            away = distance(name, point(other, row, column)) - _REST_OF_NAME
            best[column] = min(best.get(column, away), away)
    found: dict[int, Contact] = {}
    for contact in contacts:
        if shared_digits(contact.guid, other) == row:
            column = digit(contact.guid, row)
            away = distance(contact.guid, point(other, row, column))
            if column not in best or away < best[column]:
                best[column], found[column] = away, contact
    return list(found.values())


def _rtt_seconds(entry: tuple[float, Contact]) -> float:
    return entry[0]

"""The routing table: for each length of prefix and each next digit, nodes that have both (Tapestry, JSAC 2004, III-B).

Row r holds nodes that share the first r digits with this one; the slot of digit d those whose next digit is d. Each
slot keeps the nearest node by round trip and a few behind it, which stand in for it (backups there).
"""

from collections.abc import Iterator

from tapestry.guid import digit, shared_digits
from tapestry.messages import Contact

SLOT = 3
"""Nodes of a slot: the primary and two backups, as in Tapestry."""


class RoutingTable:
    """Nodes by row and digit, each slot in the order of round trips."""

    def __init__(self, own: bytes) -> None:
        self._own = own
        self._slots: dict[tuple[int, int], list[tuple[float, Contact]]] = {}
        self.primaries: set[bytes] = set()
        """The first node of each slot."""

    def _place(self, guid: bytes) -> tuple[int, int]:
        row = shared_digits(self._own, guid)
        return row, digit(guid, row)

    def __contains__(self, guid: bytes) -> bool:
        return guid != self._own and any(contact.guid == guid for _, contact in self._slots.get(self._place(guid), ()))

    def __iter__(self) -> Iterator[Contact]:
        for slot in self._slots.values():
            for _, contact in slot:
                yield contact

    def rows(self) -> list[int]:
        """Rows that hold something, in order."""
        return sorted({row for row, _ in self._slots})

    def row(self, row: int) -> list[Contact]:
        """The first node of each slot of a row."""
        return [self._slots[row, column][0][1] for column in range(16) if (row, column) in self._slots]

    def toward(self, key: bytes) -> list[Contact]:
        """Nodes that share one digit more with the key than this one does, nearest first."""
        return [contact for _, contact in self._slots.get(self._place(key), ())]

    def seconds_to(self, guid: bytes) -> float:
        """Round trip of the first node of the slot that this one belongs into; 0 when the slot is empty."""
        slot = self._slots.get(self._place(guid))
        return slot[0][0] if slot else 0.0

    def wants(self, guid: bytes) -> bool:
        """Whether there is room for the node, which is not here."""
        return len(self._slots.get(self._place(guid), ())) < SLOT and guid not in self

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
        self._put_slot(place, before, [entry for entry in before if entry[1].guid != guid])

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


def _rtt_seconds(entry: tuple[float, Contact]) -> float:
    return entry[0]

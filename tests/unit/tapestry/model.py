"""What the overlay is to agree on, by plain integers and whole lists: distances, roots and leaf sets of known nodes."""

from collections.abc import Iterable

from tapestry.leaf_set import SIDE
from tapestry.messages import Contact

SPACE = 2**256


def number(guid: bytes) -> int:
    """A GUID as its place on the ring."""
    return int.from_bytes(guid, "big")


def guid(place: int) -> bytes:
    """The GUID at a place of the ring."""
    return (place % SPACE).to_bytes(32, "big")


def contact(place: int) -> Contact:
    """A node at a place of the ring."""
    return Contact(guid(place), f"at {place % SPACE:064x}"[:24])


def digits(text: str) -> bytes:
    """The GUID that begins with these digits, and goes on with zeros."""
    return bytes.fromhex(text.ljust(64, "0"))


def at(text: str) -> Contact:
    """A node whose GUID begins with these digits."""
    return Contact(digits(text), text)


def places_between(one: bytes, other: bytes) -> int:
    """The short way round."""
    return min((number(one) - number(other)) % SPACE, (number(other) - number(one)) % SPACE)


def root(key: bytes, guids: Iterable[bytes]) -> bytes:
    """The one node that a key belongs to."""
    return min(guids, key=lambda each: (places_between(key, each), each))


def leaves(own: bytes, guids: Iterable[bytes]) -> set[bytes]:
    """The leaf set of a node that knows all of these: the first SIDE of each half of the ring."""
    others = set(guids) - {own}
    ways = sorted(((number(each) - number(own)) % SPACE, each) for each in others)
    up = [each for way, each in ways if way <= SPACE // 2]
    down = [each for way, each in ways if way > SPACE // 2]
    return {*up[:SIDE], *down[::-1][:SIDE]}

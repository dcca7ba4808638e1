"""The one kind of identifier: 32 bytes, written as 64 base-16 digits (design.md, 3; Tapestry, JSAC 2004, III).

Nodes, objects, versions and blocks are named by GUIDs of one space, so that prefix routing finds each of them alike.
The space is also a ring of 2**256 places, on which each GUID belongs to the node nearest to it (Bamboo, USENIX 2004,
section 3.1).
"""

from typing import Annotated

import msgspec

BYTES = 32
DIGITS = 2 * BYTES
BASE = 16

GUID = Annotated[bytes, msgspec.Meta(min_length=BYTES, max_length=BYTES)]

_SPACE = 1 << 8 * BYTES
_HALF = _SPACE >> 1


def parse(text: str) -> bytes:
    """The GUID written as 64 base-16 digits. Raises ValueError otherwise."""
    if len(text) != DIGITS or not set(text) <= set("0123456789abcdefABCDEF"):
        raise ValueError(f"not a GUID: expected {DIGITS} base-16 digits")
    return bytes.fromhex(text)


def digit(guid: bytes, place: int) -> int:
    """The digit at a place, counted from 0 at the left: 0 to 15."""
    pair = guid[place >> 1]
    return pair & 15 if place & 1 else pair >> 4


def shared_digits(one: bytes, other: bytes) -> int:
    """How many digits the two have in common before the first that differs: 0 to 64."""
    for place, (left, right) in enumerate(zip(one, other, strict=True)):
        if left != right:
            return 2 * place + (left >> 4 == right >> 4)
    return DIGITS


def clockwise(start: bytes, end: bytes) -> int:
    """Places from one GUID to another, going upwards around the ring: 0 to 2**256 - 1."""
    return (int.from_bytes(end, "big") - int.from_bytes(start, "big")) % _SPACE


def distance(one: bytes, other: bytes) -> int:
    """Places between two GUIDs, the short way round: 0 to 2**255."""
    way = clockwise(one, other)
    return way if way <= _HALF else _SPACE - way

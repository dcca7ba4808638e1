"""The one kind of identifier: 32 bytes, written as 64 base-16 digits (design.md, 3; Tapestry, JSAC 2004, section III).

Nodes, objects, versions and blocks are named by GUIDs of one space, so that prefix routing finds each of them alike.
"""

from typing import Annotated

import msgspec

BYTES = 32
DIGITS = 2 * BYTES

GUID = Annotated[bytes, msgspec.Meta(min_length=BYTES, max_length=BYTES)]


def parse(text: str) -> bytes:
    """The GUID written as 64 base-16 digits. Raises ValueError otherwise."""
    if len(text) != DIGITS or not set(text) <= set("0123456789abcdefABCDEF"):
        raise ValueError(f"not a GUID: expected {DIGITS} base-16 digits")
    return bytes.fromhex(text)

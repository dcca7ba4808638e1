"""Names and keys of the tables that hold what objects are made of, beside the state tree. Part of the stored format.

The last one is each server's own; all others are the same on every server that executed the same.

    blocks     bguid                              ciphertext
    nodes      guid                               node of a content tree
    versions   vguid                              version root
    numbers    aguid, version number              index of the outcome that made it (8 bytes), then its vguid
    outcomes   aguid, index                       outcome
    ranges     aguid, level (1 byte), index       node of the mountain range of the object's outcomes
    uploads    bguid                              since when a block waits for a version to use it (microseconds)

Numbers are 8 bytes, most significant first, so that an object's entries are in their order.
"""

from tapestry.guid import GUID

BLOCKS = "blocks"
NODES = "nodes"
VERSIONS = "versions"
NUMBERS = "numbers"
OUTCOMES = "outcomes"
RANGES = "ranges"


def number_key(aguid: GUID, number: int) -> bytes:
    """Key in NUMBERS."""
    return aguid + number.to_bytes(8, "big")


def number_value(index: int, vguid: GUID) -> bytes:
    """Value in NUMBERS."""
    return index.to_bytes(8, "big") + vguid


def parse_number_value(value: bytes) -> tuple[int, GUID]:
    """(index of the outcome, vguid) of a value in NUMBERS."""
    return int.from_bytes(value[:8], "big"), value[8:]


def outcome_key(aguid: GUID, index: int) -> bytes:
    """Key in OUTCOMES."""
    return aguid + index.to_bytes(8, "big")


def range_key(aguid: GUID, level: int, index: int) -> bytes:
    """Key in RANGES."""
    return aguid + level.to_bytes(1, "big") + index.to_bytes(8, "big")

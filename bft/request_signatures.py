"""How a client signs its requests: each by itself, or many at once by one signature over the root of their Merkle tree.

A replica checks such a signature once, and for each further request some hashes: a check of Ed25519 takes as long as
thirty of them. What a client sends in one go it signs so, and nobody needs to know which requests belong together.

A request's signature is 64 bytes over its statement; or 64 bytes over the statement `bft.requests` of root and count
(RFC 9162 tree over the requests' statements), count and place in two bytes each, and the path of 32 bytes a step.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated

import msgspec

from bft import merkle, statement
from bft.signatures import SIGNATURE_BYTES, Signer, Verifier

TAG = "bft.requests"
FORMAT = 1

MAX_TOGETHER = 256
"""Requests under one signature at most: a path of eight steps."""

_PLACE_BYTES = 4
_STEP_BYTES = 32
MAX_SIGNATURE_BYTES = SIGNATURE_BYTES + _PLACE_BYTES + _STEP_BYTES * (MAX_TOGETHER - 1).bit_length()

REMEMBERED = 1024
"""Signatures over several requests that were checked and are remembered."""

RequestSignature = Annotated[bytes, msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=MAX_SIGNATURE_BYTES)]


def sign(signer: Signer, statements: Sequence[bytes]) -> list[bytes]:
    """The signatures of these requests of one client, at most MAX_TOGETHER, in their order."""
    if len(statements) == 1:
        return [signer.sign(statements[0])]
    count = len(statements)
    assert count <= MAX_TOGETHER, f"our fault: {count} requests under one signature"
    signature = signer.sign(_signed(merkle.root(statements), count))
    return [
        b"".join((signature, count.to_bytes(2, "big"), place.to_bytes(2, "big"), *path))
        for place, path in enumerate(merkle.paths(statements))
    ]


def _signed(root: bytes, count: int) -> bytes:
    return statement.encode(TAG, FORMAT, root, count)


class RequestVerifier:
    """Checks requests' signatures, and one that covers many of them once."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self._checked: OrderedDict[tuple[bytes, bytes, bytes], None] = OrderedDict()

    def verify(self, principal: bytes, stated: bytes, signature: bytes) -> bool:
        """Whether `principal` signed the statement `stated`. False for anything malformed; never raises."""
        if len(signature) == SIGNATURE_BYTES:
            return self._verifier.verify(principal, stated, signature)
        own, rest = signature[:SIGNATURE_BYTES], signature[SIGNATURE_BYTES:]
        count, place, path = int.from_bytes(rest[:2], "big"), int.from_bytes(rest[2:4], "big"), rest[4:]
        steps = [path[start : start + _STEP_BYTES] for start in range(0, len(path), _STEP_BYTES)]
        if len(rest) < _PLACE_BYTES or not 1 < count <= MAX_TOGETHER:
            return False
        root = merkle.root_above(merkle.leaf_hash(stated), place, count, steps)
        if root is None:
            return False
        key = (principal, own, _signed(root, count))
        if key in self._checked:
            self._checked.move_to_end(key)
            return True
        if not self._verifier.verify(principal, key[2], own):
            return False
        self._checked[key] = None
        if len(self._checked) > REMEMBERED:
            self._checked.popitem(last=False)
        return True

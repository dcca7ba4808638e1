"""Canonical bytes of everything signed or hashed: MessagePack arrays that start with a tag and a format number.

A verifier hashes the bytes that arrived and refuses bytes that do not re-encode equal, so one statement has one
encoding and one digest. `bft.statement` holds the same few lines; `tests/vectors/` keeps the two equal.
"""

import hashlib
from itertools import repeat
from typing import Annotated, Any

import msgpack
import msgspec

Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
"""A SHA-256 digest: 32 bytes."""


_encode = msgspec.msgpack.Encoder().encode
_PLAIN = frozenset({int, bytes, str, bool, type(None)})

MAX_DEPTH = 64
"""Lists in each other at most, the statement's own among them: far more than any has, and what is a statement must not
depend on the stack of whoever decodes it."""


class StatementError(ValueError):
    """Bytes that are not the canonical encoding of the statement that was expected."""


def encode(tag: str, format_number: int, *fields: Any) -> bytes:
    """Canonical bytes of one statement; fields are integers, bytes, text, None, booleans and lists of these."""
    return _encode([tag, format_number, *fields])


def decode(data: bytes, tag: str, format_number: int) -> list[Any]:
    """The fields of a statement after its tag and format number.

    Raises StatementError when the bytes are not canonical or state something else.
    """
    try:
        fields = msgpack.unpackb(data, raw=False, use_list=True, strict_map_key=True)
        if not isinstance(fields, list) or len(fields) < 2:
            raise StatementError("not a statement: no array with a tag and a format number")
        if fields[0] != tag or type(fields[1]) is not int or fields[1] != format_number:
            raise StatementError(f"expected a statement {tag!r} of format {format_number}")
        if not _plain(fields):
            what = f"a map, a float, an extension or more than {MAX_DEPTH} lists in each other"
            raise StatementError(f"statement {tag!r} holds what no statement holds: {what}")
        if encode(*fields) != data:
            raise StatementError(f"statement {tag!r} is not canonically encoded")
    except StatementError:
        raise
    except (ValueError, TypeError, OverflowError, msgpack.exceptions.UnpackException) as error:
        raise StatementError(f"not a statement: {error}") from None
    return fields[2:]


def _plain(value: Any, depth: int = MAX_DEPTH) -> bool:
    if type(value) is list:
        return depth > 0 and all(map(_plain, value, repeat(depth - 1)))
    return type(value) in _PLAIN


def digest(data: bytes) -> Digest:
    """SHA-256 of a statement; its tag, which is the first thing hashed, separates it from every other use."""
    return hashlib.sha256(data).digest()

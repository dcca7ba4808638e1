"""One base of everything that the model signs, hashes or stores, so that each value has exactly one encoding.

Such a value is a statement: a MessagePack array of a tag, a format number and typed fields, the bytes that
`bft.statement.encode` gives for the same fields (`tests/vectors/model.json` holds the two equal). The typed codec is
several times faster than statement and conversion, and never makes more of hostile bytes than the type has room for.
"""

from typing import Generic, Literal, TypeVar

import msgspec

from bft.statement import Digest
from bft.statement import digest as digest_of

_encoder = msgspec.msgpack.Encoder()

T = TypeVar("T", bound="Stored")


class Stored(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """A value of format 1. Subclasses are `kw_only` too, and give the tag of the statement as their struct tag."""

    format: Literal[1] = 1

    def encode(self) -> bytes:
        """The canonical bytes."""
        return _encoder.encode(self)

    def digest(self) -> Digest:
        """SHA-256 of the canonical bytes."""
        return digest_of(self.encode())


class Codec(Generic[T]):
    """Strict decoder of one type: what is malformed, out of bounds or not canonical raises `error`."""

    def __init__(self, type_: type[T], what: str, error: type[ValueError]) -> None:
        self._decoder = msgspec.msgpack.Decoder(type_)
        self._what = what
        self._error = error

    def decode(self, data: bytes) -> T:
        """The value whose encoding is `data`."""
        try:
            value = self._decoder.decode(data)
            canonical = _encoder.encode(value) == data
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._error(f"not {self._what}: {error}") from None
        if not canonical:
            raise self._error(f"not {self._what}: not canonically encoded")
        return value

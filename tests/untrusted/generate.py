"""Hostile values: of any type by its annotations, and changed copies of what was seen.

What is plausible comes up often: numbers near those in use, digests and signatures that were seen. A value that is
taken at random from all that a type allows is refused at the first look, and finds nothing.
"""

import functools
import random
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

INTEGERS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 63, 64, 65, 128, 255, 256, 257, 2**16, 2**31, 2**62, 2**63 - 1)


@functools.cache
def _info(kind: Any) -> Any:
    return msgspec.inspect.type_info(kind)


class Generator:
    """Makes well-typed values. `numbers` and `blobs` are what is plausible at present."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.numbers: list[int] = [0, 1]
        self.blobs: dict[int, list[bytes]] = {}
        self.longest = 4

    def see(self, value: Any) -> None:
        """Remember the byte strings within a value, by their length: digests, keys, signatures."""
        if isinstance(value, bytes):
            known = self.blobs.setdefault(len(value), [])
            if value not in known:
                known.append(value)
                del known[:-40]
        elif isinstance(value, list | tuple):
            for item in value:
                self.see(item)

    def make(self, kind: Any) -> Any:
        """A value of this type."""
        return self._make(_info(kind), 0)

    def _make(self, info: Any, depth: int) -> Any:
        draw, inspect = self.draw, msgspec.inspect
        match info:
            case inspect.Metadata(type=inner):
                return self._make(inner, depth)
            case inspect.IntType(ge=low, le=high, lt=above):
                low = low if low is not None else -(2**63)
                high = high if high is not None else above - 1 if above is not None else 2**63 - 1
                near = draw.choice(self.numbers) + draw.randint(-2, 3)
                number = near if draw.random() < 0.8 else draw.choice(INTEGERS)
                return min(max(number, low), high)
            case inspect.BytesType(min_length=least, max_length=most):
                return self._bytes(least or 0, most if most is not None else 40)
            case inspect.StrType(min_length=least, max_length=most):
                return draw.choice(("", "log", "blocks", "\u00e9" * 4))[: most if most is not None else 9] or "a" * (
                    least or 0
                )
            case inspect.BoolType():
                return draw.random() < 0.5
            case inspect.NoneType():
                return None
            case inspect.ListType(item_type=item, min_length=least, max_length=most):
                count = draw.randint(least or 0, max(least or 0, min(most or self.longest, self.longest)))
                made = [self._make(item, depth + 1) for _ in range(count)]
                return sorted(made, key=repr) if draw.random() < 0.3 else made
            case inspect.VarTupleType(item_type=item, max_length=most):
                return tuple(self._make(item, depth + 1) for _ in range(draw.randint(0, most or self.longest)))
            case inspect.TupleType(item_types=items):
                return tuple(self._make(item, depth + 1) for item in items)
            case inspect.UnionType(types=types):
                return self._make(draw.choice(types), depth)
            case inspect.StructType(cls=cls, fields=fields):
                return cls(**{field.name: self._field(field, depth) for field in fields})
            case inspect.FloatType():
                return draw.choice((0.0, -1.0, 1e300, 0.5))
            case inspect.EnumType(cls=cls):
                return draw.choice(list(cls))
            case inspect.DictType(key_type=key, value_type=item):
                return {self._make(key, depth + 1): self._make(item, depth + 1) for _ in range(draw.randint(0, 2))}
            case _:
                raise TypeError(f"no values of {info}")

    def _field(self, field: Any, depth: int) -> Any:
        if field.name == "epoch" and self.draw.random() < 0.97:
            return 1
        return self._make(field.type, depth + 1)

    def _bytes(self, least: int, most: int) -> bytes:
        draw = self.draw
        fitting = [size for size in self.blobs if least <= size <= most]
        if fitting and draw.random() < 0.8:
            return draw.choice(self.blobs[draw.choice(fitting)])
        return draw.randbytes(draw.choice((least, min(most, least + 1), min(most, 64))))


def changed(draw: random.Random, value: Any) -> Any:
    """A copy of plain MessagePack data with something in it that differs: by place, by type, by size."""
    places = list(_places(value, ()))
    path = draw.choice(places)
    return _replaced(value, path, lambda old: _other(draw, old))


def _places(value: Any, path: tuple[int, ...]) -> Iterable[tuple[int, ...]]:
    yield path
    if isinstance(value, list):
        for place, item in enumerate(value):
            yield from _places(item, (*path, place))


def _replaced(value: Any, path: tuple[int, ...], change: Callable[[Any], Any]) -> Any:
    if not path:
        return change(value)
    copy = list(value)
    copy[path[0]] = _replaced(copy[path[0]], path[1:], change)
    return copy


def _other(draw: random.Random, old: Any) -> Any:
    anything: tuple[Any, ...] = (
        None,
        True,
        -1,
        2**64 - 1,
        1.5,
        b"",
        "text",
        [],
        {},
        {"a": 1},
        msgspec.msgpack.Ext(5, b"x"),
        [[[]]],
    )
    if draw.random() < 0.25:
        return draw.choice(anything)
    match old:
        case bool() | None:
            return not old
        case int():
            number = draw.choice((old + 1, old - 1, 0, 2**31, 2**63 - 1, 2**63, -old))
            return min(max(number, -(2**63)), 2**64 - 1)
        case bytes():
            flipped = bytearray(old or b"\x00")
            flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
            return draw.choice((bytes(flipped), old[:-1], old + b"\x00", b"", old * 2))
        case str():
            return draw.choice((old + "x", "", old[:-1], old.upper()))
        case list():
            at = draw.randrange(len(old)) if old else 0
            return draw.choice((old[:at] + old[at + 1 :], old[: at + 1] + old[at:], old[::-1], [*old, None], [old], []))
        case _:
            return draw.choice(anything)


def damaged(draw: random.Random, data: bytes) -> bytes:
    """Bytes that differ from these: flipped, cut, longer, with a piece twice, with a length that lies."""
    if not data:
        return b"\x00"
    at, to = sorted((draw.randrange(len(data)), draw.randrange(len(data))))
    flipped = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        flipped[draw.randrange(len(data))] = draw.randrange(256)
    lying = (
        data[:at] + draw.choice((b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff")) + data[at:]
    )
    nested = data[:at] + b"\x91" * draw.choice((10, 600, 5000)) + data[at:]
    return draw.choice(
        (bytes(flipped), data[:at], data + data[at:to], data[:at] + data[to:], data[:to] + data[at:], lying, nested)
    )

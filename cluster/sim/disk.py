"""A server's disk: it remembers what was synced, and of the rest, after a crash, some of what was written first.

Writes that were handed over together survive together or not at all, as in a transaction, and always a prefix of them:
the order of effects is the durability contract (bft.effects), and this disk keeps to no more than it promises.
"""

import random
from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import Literal

from bft.effects import Write

_Undo = list[tuple[str, bytes, bytes | None]]


class Disk:
    """Tables of keys and values; a `bft.effects.Reader` that also writes. Reads see what was written, synced or not."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[bytes, bytes]] = {}
        self._keys: dict[str, list[bytes]] = {}
        """Sorted keys of the tables that were scanned, kept up to date."""
        self._unsynced: list[_Undo] = []

    @property
    def unsynced(self) -> int:
        """How many writes a crash may undo."""
        return len(self._unsynced)

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value under a key, or None."""
        entries = self._tables.get(table)
        return None if entries is None else entries.get(key)

    def size(self, table: str, key: bytes) -> int | None:
        """Length of the value in bytes, or None."""
        entries = self._tables.get(table)
        value = None if entries is None else entries.get(key)
        return None if value is None else len(value)

    def scan(self, table: str, start: bytes, stop: bytes) -> list[tuple[bytes, bytes]]:
        """Entries with start <= key < stop, in order of their keys."""
        entries = self._tables.get(table)
        if entries is None:
            return []
        keys = self._keys.get(table)
        if keys is None:
            keys = self._keys[table] = sorted(entries)
        return [(key, entries[key]) for key in keys[bisect_left(keys, start) : bisect_left(keys, stop)]]

    def write(self, writes: Iterable[Write]) -> None:
        """Visible at once; durable, all together, after the next `sync`."""
        undo: _Undo = []
        tables, keys = self._tables, self._keys
        for table, key, value in writes:
            entries = tables.get(table)
            before = entries.get(key) if entries is not None else None
            undo.append((table, key, before))
            if entries is None or value is None or (before is None and table in keys):
                self._set(table, key, value)
            else:
                entries[key] = value
        self._unsynced.append(undo)

    def sync(self) -> None:
        """All that was written is durable."""
        self._unsynced.clear()

    def crash(self, choices: random.Random, survives: Literal["some", "none", "all"] = "some") -> int:
        """The power goes: all of what was not synced survives, or none, or some prefix. Returns how much is lost."""
        every = len(self._unsynced)
        match survives:
            case "all":
                return self.lose(every)
            case "none":
                return self.lose(0)
            case "some":
                return self.lose(choices.choice((0, every, choices.randint(0, every))))

    def lose(self, kept: int) -> int:
        """As `crash`, of which the first `kept` writes survive."""
        lost = self._unsynced[kept:]
        self._unsynced = []
        for undo in reversed(lost):
            for table, key, value in reversed(undo):
                self._set(table, key, value)
        return len(lost)

    def wipe(self) -> None:
        """Everything is gone."""
        self._tables.clear()
        self._keys.clear()
        self._unsynced.clear()

    def flip(self, choices: random.Random) -> str | None:
        """One bit turns over somewhere. Returns the table it was in, or None where there is nothing yet."""
        tables = [table for table, entries in sorted(self._tables.items()) if any(entries.values())]
        if not tables:
            return None
        table = choices.choice(tables)
        entries = self._tables[table]
        key = choices.choice([key for key in sorted(entries) if entries[key]])
        value = bytearray(entries[key])
        bit = choices.randrange(8 * len(value))
        value[bit // 8] ^= 1 << bit % 8
        entries[key] = bytes(value)
        return table

    def _set(self, table: str, key: bytes, value: bytes | None) -> bytes | None:
        entries = self._tables.setdefault(table, {})
        before = entries.get(key)
        if value is None:
            if before is not None:
                del entries[key]
                self._forget_key(table, key)
        else:
            entries[key] = value
            if before is None and (keys := self._keys.get(table)) is not None:
                insort(keys, key)
        return before

    def _forget_key(self, table: str, key: bytes) -> None:
        keys = self._keys.get(table)
        if keys is not None:
            del keys[bisect_left(keys, key)]

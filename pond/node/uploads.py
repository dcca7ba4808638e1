"""Blocks that came ahead of the updates that name them: who brought them, how much they take, and when they go.

Such a block has a mark, which says since when it waits and on whose account. It goes with the mark once an update that
names the block has committed. Marks of the same time stand together in a second table, so that what has waited too long
is found without looking at the rest.

    uploads           bguid                        since when (microseconds, 8 bytes), account (2 bytes); and since when
                                                   its bytes are here (8 bytes), where that is longer ago
    uploads-by-time   since when, account, bguid   nothing

An upload that was broken off goes on by name: whoever names a block makes it wait anew, so that none is gone before the
update that needs it. Not for ever, and not again and again: names cost their sender little, and are written down here.
"""

import hashlib
from collections import Counter
from collections.abc import Callable

from bft.effects import Reader, Write
from bft.statement import Digest
from bft.types import AgreedTime
from pond.model.tables import BLOCKS

UPLOADS = "uploads"
UPLOADS_BY_TIME = "uploads-by-time"

UPLOAD_BYTES = 64 * 1024**3
"""Blocks held for updates that have not run yet, at most, where the disk has room; above it the answer is overload."""

UPLOAD_COST_BYTES = 256
"""What a block takes on the disk beside its own bytes, about: many small ones count for what they cost."""

UPLOAD_SECONDS = 7200
"""How long a block waits for an update to commit with it. Longer than the log keeps an idle ring's batches, so that a
server that catches up from the log still finds the blocks of updates that came to nothing."""

RENEW_SECONDS = UPLOAD_SECONDS / 4
"""A block that has waited for less is not made to wait anew when it is named: so it stays for three times as long at
least, and naming it again and again makes a server write nothing."""

NAMED_SECONDS = 86400
"""How long a block can be made to wait by its name alone; then its bytes must come again. Else a few names an hour
would hold the room for uploads for ever."""

SWEEP_SECONDS = 60.0
SWEEP_SOON_SECONDS = 1.0
"""How often old blocks are let go of: those that came within SWEEP_SECONDS, so that a sweep takes as long as taking
them did, also after a long absence; then the next follows soon."""

FEW = 1000
"""A sweep that finds less makes the next one take twice the time together."""

MARK_BYTES = 10

NOBODY = b"\x00\x00"
"""The account of blocks that came with an update, through the ring."""


def account_of(key: str) -> bytes:
    """The account of whoever holds a CURVE key. There are few, so that their number needs no limit, and two clients may
    come to share one."""
    return hashlib.sha256(key.encode()).digest()[: len(NOBODY)]


def marked(name: Digest, time: AgreedTime, account: bytes = NOBODY) -> tuple[Write, ...]:
    """A block waits from now on."""
    since = time.to_bytes(8, "big") + account
    return (Write(UPLOADS, name, since), Write(UPLOADS_BY_TIME, since + name, b""))


def unmarked(name: Digest, mark: bytes) -> tuple[Write, ...]:
    """A block with this mark waits no longer."""
    return (Write(UPLOADS, name, None), Write(UPLOADS_BY_TIME, mark[:MARK_BYTES] + name, None))


def marked_anew(name: Digest, mark: bytes, time: AgreedTime) -> tuple[Write, ...]:
    """A block with this mark waits from now on, on the same account."""
    return (*unmarked(name, mark), *marked(name, time, mark[8:MARK_BYTES]))


def _renewed(name: Digest, mark: bytes, time: AgreedTime) -> tuple[Write, ...]:
    """The same, remembering since when its bytes are here."""
    since = time.to_bytes(8, "big") + mark[8:MARK_BYTES]
    arrived = mark[MARK_BYTES:] or mark[:8]
    return (
        *unmarked(name, mark),
        Write(UPLOADS, name, since + arrived),
        Write(UPLOADS_BY_TIME, since + name, b""),
    )


class Uploads:
    """The account of one server's uploads."""

    def __init__(self, disk: Reader, limit_bytes: int) -> None:
        """`limit_bytes`: what all blocks that wait may take."""
        self._disk = disk
        self._limit_bytes = min(UPLOAD_BYTES, limit_bytes)
        self._spare_bytes = UPLOAD_BYTES
        self.held_bytes = 0
        """What all blocks that wait take."""
        self._held: Counter[bytes] = Counter()
        self._swept_until = 0
        self._window = int(SWEEP_SECONDS * 1e6)
        self.sweep_after_seconds = SWEEP_SECONDS
        """When to sweep next."""

    def restore(self, now: AgreedTime) -> None:
        """Count what the disk holds."""
        marks = self._disk.scan(UPLOADS_BY_TIME, b"", b"\xff" * 9)
        self._swept_until = int.from_bytes(marks[0][0][:8], "big") if marks else now
        self.held_bytes = 0
        self._held.clear()
        for key, _ in marks:
            self._add(key, 1)

    def has_room(self, spare_bytes: int) -> None:
        """The disk takes so much more for uploads, as of now; negative: it has too little even without them."""
        self._spare_bytes = spare_bytes

    def refuses(self, account: bytes, size_bytes: int) -> bool:
        """Whether an account may not bring so many more bytes now.

        It may hold as much as it leaves free for others: one alone half of the limit, two a third each. So there is
        always room for one more. Whoever comes under many keys is bounded by the limit alone.
        """
        free = self._limit_bytes - self.held_bytes - size_bytes
        return size_bytes > self._spare_bytes or self._held[account] + size_bytes > free

    @property
    def room_bytes(self) -> int:
        """How much an account that holds nothing may bring now."""
        return max(0, min(self._spare_bytes, (self._limit_bytes - self.held_bytes) // 2))

    def put(self, fresh: dict[Digest, bytes], known: list[Digest], now: AgreedTime, account: bytes) -> list[Write]:
        """Writes that take blocks: those that are new here, and names of some that are not, which wait anew if they
        wait at all."""
        writes: list[Write] = []
        for name, block in fresh.items():
            writes += [Write(BLOCKS, name, block), *marked(name, now, account)]
        for name in known:
            mark = self._disk.get(UPLOADS, name)
            if mark is not None:
                writes += marked_anew(name, mark, now)
        self._spare_bytes -= sum(len(block) for block in fresh.values())
        return writes

    def keep(self, names: list[Digest], now: AgreedTime) -> tuple[set[Digest], tuple[Write, ...]]:
        """Which of these blocks are here and will be for most of UPLOAD_SECONDS, and the writes that make it so."""
        held: set[Digest] = set()
        writes: list[Write] = []
        for name in dict.fromkeys(names):
            if self._disk.size(BLOCKS, name) is None:
                continue
            mark = self._disk.get(UPLOADS, name)
            if mark is not None and now - int.from_bytes(mark[:8], "big") > RENEW_SECONDS * 1e6:
                arrived = int.from_bytes(mark[MARK_BYTES:] or mark[:8], "big")
                if now - arrived > NAMED_SECONDS * 1e6:
                    continue
                writes += _renewed(name, mark, now)
            held.add(name)
        return held, tuple(writes)

    def count(self, writes: tuple[Write, ...]) -> None:
        """Marks come and go with these writes; the blocks are still, or already, there to be measured."""
        for table, key, value in writes:
            if table == UPLOADS_BY_TIME:
                self._add(key, -1 if value is None else 1)

    def sweep(self, now: AgreedTime, named: Callable[[], set[Digest]]) -> tuple[Write, ...]:
        """Let go of blocks that no update has used in time, but for those that one on its way names."""
        limit = max(0, now - int(UPLOAD_SECONDS * 1e6))
        self._swept_until = min(limit, self._swept_until + self._window)
        marks = [key for key, _ in self._disk.scan(UPLOADS_BY_TIME, b"", self._swept_until.to_bytes(8, "big"))]
        behind = self._swept_until < limit
        self._window = 2 * self._window if behind and len(marks) < FEW else int(SWEEP_SECONDS * 1e6)
        self.sweep_after_seconds = SWEEP_SOON_SECONDS if behind else SWEEP_SECONDS
        kept = named() if marks else set()
        writes: list[Write] = []
        for key in marks:
            mark, name = key[:MARK_BYTES], key[MARK_BYTES:]
            if (self._disk.get(UPLOADS, name) or b"")[:MARK_BYTES] != mark:
                writes.append(Write(UPLOADS_BY_TIME, key, None))  # it waits no longer, or since another time
            elif name not in kept:
                writes += [Write(BLOCKS, name, None), *unmarked(name, mark)]
        self.count(tuple(writes))
        return tuple(writes)

    def _add(self, key: bytes, times: int) -> None:
        cost = times * ((self._disk.size(BLOCKS, key[MARK_BYTES:]) or 0) + UPLOAD_COST_BYTES)
        self.held_bytes += cost
        self._held[key[8:MARK_BYTES]] += cost

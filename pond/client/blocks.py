"""Blocks of ciphertext and tree nodes, fetched by GUID from several servers at once.

Every block is checked against its name; one that is wrong or missing is asked from another server. Memory is bounded
however long the content is: what is fetched moves in windows.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import NamedTuple, TypeAlias

from bft.statement import digest
from pond.client.asking import LEAST_PATIENCE_SECONDS, Asker, Deadline, RoundTrips, Turns
from pond.errors import TimedOut, Unavailable
from pond.model.block import bguid
from pond.protocol import (
    MAX_NAMED,
    Blocks,
    GetBlocks,
    Overloaded,
    Refused,
)

IN_FLIGHT = 4
"""Chunks on their way at a time, also to one server: enough to keep network and disks busy at once."""

USUAL_BYTES = 64 * 1024
"""How long a tree node or a block of a small object is, at most."""

Progress: TypeAlias = Callable[[int, int], object]
"""Called with (bytes done, bytes in all); 0 in all when nobody knows."""

Names: TypeAlias = tuple[Callable[[bytes], bytes], ...]
"""How a piece may be named."""

BLOCK: Names = (bguid,)
NODE: Names = (digest,)
EITHER: Names = (bguid, digest)


class Wanted(NamedTuple):
    """A block to be fetched: its BGUID and about how many bytes it has."""

    guid: bytes
    size_bytes: int


class Fetcher:
    """Fetches blocks and tree nodes by GUID, from several servers at once."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._trips = RoundTrips()
        self._turn = 0

    async def get(
        self, guids: Sequence[bytes], names: Names, deadline: Deadline, piece_bytes: int = USUAL_BYTES
    ) -> dict[bytes, bytes]:
        """All of these pieces by their GUIDs, each checked; to be held in memory, so not too many at once.

        `piece_bytes` is about how long each is. Raises Unavailable when no server has one, TimedOut.
        """
        wanted = list(dict.fromkeys(guids))
        parts = [wanted[start : start + MAX_NAMED] for start in range(0, len(wanted), MAX_NAMED)]
        found: dict[bytes, bytes] = {}
        for part in parts:
            found.update(await self._get_part(part, names, deadline, piece_bytes))
        return found

    async def stream(self, wanted: AsyncGenerator[Wanted, None], deadline: Deadline) -> AsyncGenerator[bytes, None]:
        """The blocks in the order asked, fetched ahead in a window of bounded size; closes `wanted`."""
        window: deque[tuple[list[bytes], asyncio.Task[dict[bytes, bytes]]]] = deque()
        try:
            part: list[bytes] = []
            size = 0
            async for guid, size_bytes in wanted:
                if part and (size + size_bytes > self._asker.downlink.chunk_bytes or len(part) == MAX_NAMED):
                    window.append(self._start(part, size, deadline))
                    part, size = [], 0
                    if len(window) >= IN_FLIGHT:
                        guids, task = window.popleft()
                        found = await task
                        for name in guids:
                            yield found[name]
                part.append(guid)
                size += size_bytes
            if part:
                window.append(self._start(part, size, deadline))
            while window:
                guids, task = window.popleft()
                found = await task
                for name in guids:
                    yield found[name]
        finally:
            for _, task in window:
                task.cancel()
            await wanted.aclose()
            await asyncio.gather(*(task for _, task in window), return_exceptions=True)

    def _start(
        self, part: list[bytes], size_bytes: int, deadline: Deadline
    ) -> tuple[list[bytes], asyncio.Task[dict[bytes, bytes]]]:
        getting = self.get(part, BLOCK, deadline, size_bytes // len(part))
        return part, self._asker.loop.create_task(getting)

    async def _get_part(
        self, wanted: list[bytes], names: Names, deadline: Deadline, piece_bytes: int
    ) -> dict[bytes, bytes]:
        """Servers in turn, the next whenever one is overdue or lacks something; each is asked for what is missing. When
        all lack it they are asked again as long as there is time: after a restart a server has all that it voted for,
        but tree nodes only when it has run the updates again that made them."""
        found: dict[bytes, bytes] = {}
        lacks: set[int] = set()
        patience = self._trips.patience + self._asker.downlink.patience(len(wanted) * piece_bytes)
        with self._asker.open() as talk:

            def ask(server: int) -> None:
                talk.send(server, talk.encode(GetBlocks(talk.ask, [guid for guid in wanted if guid not in found])))

            turns = Turns(self._asker, talk, self._in_turn(), ask, patience)
            while True:
                answer = await turns.answer(deadline.at)
                if answer is None and len(lacks) == self._asker.servers:
                    raise Unavailable(
                        f"no server has block {_missing(wanted, found).hex()}: it was pruned, or too many servers"
                        " lost it; see `pond cluster status`"
                    )
                if answer is None:
                    raise TimedOut(
                        f"{len(wanted) - len(found)} blocks did not arrive within {deadline.seconds:g} s:"
                        " see `pond cluster status`"
                    )
                server, reply = answer
                before = len(found)
                if isinstance(reply, Blocks):
                    self._take(reply.blocks, wanted, found, names)
                elif isinstance(reply, Overloaded):
                    continue  # says nothing of what it has: it is overdue soon, and then the next is asked
                elif isinstance(reply, Refused):
                    self._asker.distrust("a server did not give blocks")
                else:
                    self._asker.distrust("answer to another question")
                if len(found) == len(wanted):
                    seconds = talk.round_trip(server)
                    if seconds is not None:
                        self._trips.add(seconds)
                        self._asker.downlink.took(sum(map(len, found.values())), seconds)
                    return found
                if len(found) > before:
                    deadline.extend()
                    if server == turns.asked:
                        turns.more()
                    continue
                lacks.add(server)
                turns.skip(server)

    def _take(self, blocks: list[bytes | None], wanted: list[bytes], found: dict[bytes, bytes], names: Names) -> None:
        missing = {guid for guid in wanted if guid not in found}
        for block in blocks[:MAX_NAMED]:
            if block is None:
                continue
            called = [name(block) for name in names]
            for guid in called:
                if guid in missing:
                    found[guid] = block
            if not any(guid in found for guid in called):
                self._asker.distrust("wrong block")

    def _in_turn(self) -> list[int]:
        """Servers about as quick as the quickest take turns to be first, so that they share the work; then others."""
        order = self._asker.quickest()
        seconds, suspects = self._asker.answer_seconds, self._asker.suspects
        limit = max(LEAST_PATIENCE_SECONDS, 4 * seconds(order[0]))
        quick = [server for server in order if seconds(server) <= limit and not suspects(server)] or order[:1]
        self._turn += 1
        start = self._turn % len(quick)
        return quick[start:] + quick[:start] + [server for server in order if server not in quick]


def _missing(wanted: list[bytes], found: dict[bytes, bytes]) -> bytes:
    return next(guid for guid in wanted if guid not in found)

"""Blocks of ciphertext and tree nodes on their way: sent ahead of the update that names them, and fetched by GUID.

Every block that is fetched is checked against its name; one that is wrong or missing is asked from another server.
Memory is bounded however long the content is: what is sent and what is fetched moves in windows.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import NamedTuple, TypeAlias

from bft.statement import digest
from pond.client.asking import Asker, Conversation, Deadline, RoundTrips, Turns, reached
from pond.errors import TimedOut, Unavailable
from pond.model.block import bguid
from pond.protocol import MAX_NAMED, Blocks, BlocksHeld, GetBlocks, Overloaded, PutBlocks, Refused

CHUNK_BYTES = 4 * 1024 * 1024
"""Blocks that travel in one message, about: at least one block, and little enough that chunks overlap."""

IN_FLIGHT = 4
"""Chunks on their way at a time, also to one server: enough to keep network and disks busy at once."""

INLINE_BYTES = 64 * 1024
INLINE_BLOCKS = 1024
"""Blocks of one update that travel inside its request, in all: a round trip saved for small writes."""

GRACE_SECONDS = 0.25
"""How much longer than the quorum a server may take before we no longer wait for it, at least."""

LONGEST_GRACE_SECONDS = 2.0

USUAL_BYTES = 64 * 1024
"""How long a tree node or a block of a small object is, at most."""

SLOW_BYTES_PER_SECOND = 10e6
"""Bytes travel faster than that, or another server is asked for the same as well."""

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


class Upload:
    """Blocks of one update on their way to all servers.

    `add` each block, then `finish`: from then on 2f+1 servers hold them all. A server that falls behind is not waited
    for; what it lacks is remembered, so that `supply` can bring it.
    """

    def __init__(
        self, asker: Asker, quorum: int, deadline: Deadline, progress: Progress | None = None, total_bytes: int = 0
    ) -> None:
        self._asker = asker
        self._quorum = quorum
        self._deadline = deadline
        self._progress = progress
        self._total_bytes = total_bytes
        self._held_back: list[bytes] = []
        self._held_back_bytes = 0
        self._tasks: deque[asyncio.Task[None]] = deque()
        self._done_bytes = 0
        self._keeps_up = [True] * asker.servers
        self._under_way = [0] * asker.servers
        self._lacking: list[list[bytes]] = [[] for _ in range(asker.servers)]
        self._names: list[bytes] = []
        self.sent_ahead = False
        """Whether blocks went ahead of the update; else they are to travel inside it."""

    async def add(self, block: bytes, guid: bytes) -> None:
        """Send this block, named `guid`, too; waits while enough is on its way."""
        self._held_back.append(block)
        self._names.append(guid)
        self._held_back_bytes += len(block)
        if self._held_back_bytes >= CHUNK_BYTES or len(self._held_back) == MAX_NAMED:
            await self._send_chunk()

    async def finish(self) -> list[bytes]:
        """Wait for what is on its way; returns the blocks that are to travel inside the request, if these are few."""
        if not self.sent_ahead and self._held_back_bytes <= INLINE_BYTES and len(self._held_back) <= INLINE_BLOCKS:
            return self._held_back
        if self._held_back:
            await self._send_chunk()
        await self.settle()
        return []

    async def settle(self) -> None:
        """Wait for what is on its way."""
        while self._tasks:
            await self._tasks.popleft()

    def find(self, guid: bytes) -> bytes | None:
        """A block that has not gone anywhere yet."""
        return next((block for block in self._held_back if bguid(block) == guid), None)

    async def abandon(self) -> None:
        """Stop what is on its way; to be called in any case."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def supply(self, server: int, fetch: "Fetcher") -> None:
        """Bring one server what it lacks, from those that hold it. Gives up silently: other servers are enough."""
        lacking, self._lacking[server] = self._lacking[server], []
        lacking = lacking or self._names  # it had them all, but lost some
        for start in range(0, len(lacking), IN_FLIGHT):
            some = lacking[start : start + IN_FLIGHT]
            try:
                found = await fetch.get(some, BLOCK, self._deadline)
                arrived = await self._put_to_one(server, [found[guid] for guid in some])
            except Unavailable:
                arrived = False
            if not arrived:
                self._lacking[server] += lacking[start:]
                return

    async def _send_chunk(self) -> None:
        chunk, self._held_back, self._held_back_bytes = self._held_back, [], 0
        self.sent_ahead = True
        while len(self._tasks) >= IN_FLIGHT:
            await self._tasks.popleft()
        self._tasks.append(self._asker.loop.create_task(self._put(chunk)))

    async def _put(self, chunk: list[bytes]) -> None:
        """Until 2f+1 of the servers that hold all earlier chunks hold this one too, and a short grace has passed."""
        size = sum(map(len, chunk))
        held = [False] * self._asker.servers
        asked = [False] * self._asker.servers
        with self._asker.open() as talk:
            data = talk.encode(PutBlocks(talk.ask, chunk))
            for server in range(self._asker.servers):
                asked[server] = self._under_way[server] < IN_FLIGHT
                if asked[server]:
                    self._under_way[server] += 1
                    talk.send(server, data)
                else:
                    self._keeps_up[server] = False
            try:
                await self._wait(talk, data, held, asked)
            finally:
                self._settle(chunk, held, asked)
        self._done_bytes += size
        self._deadline.extend()
        if self._progress is not None:
            self._progress(self._done_bytes, max(self._total_bytes, self._done_bytes) if self._total_bytes else 0)

    async def _wait(self, talk: Conversation, data: bytes, held: list[bool], asked: list[bool]) -> None:
        loop = self._asker.loop
        started = loop.time()
        again_at = started + 2.0
        pause = 2.0
        enough_at: float | None = None
        full: set[int] = set()
        while True:
            count = sum(held[server] and self._keeps_up[server] for server in range(self._asker.servers))
            if enough_at is None and count >= self._quorum:
                enough_at = loop.time()
            awaited = [s for s in range(self._asker.servers) if self._keeps_up[s] and not held[s]]
            if enough_at is not None:
                taken = enough_at - started
                until = enough_at + min(max(GRACE_SECONDS, taken), LONGEST_GRACE_SECONDS)
                if not awaited or reached(until):
                    return
            elif self._deadline.passed:
                full = {server for server in full if not held[server]}
                no_room = f", {len(full)} had no room for them or were busy" if full else ""
                raise TimedOut(
                    f"{sum(held)} of {self._asker.servers} servers took the blocks of this update in time{no_room}, and"
                    f" {self._quorum} have to: see `pond cluster status`"
                )
            else:
                until = min(again_at, self._deadline.at)
            answer = await talk.next(until)
            if answer is None:
                if enough_at is None and reached(again_at):
                    pause = min(2 * pause, 8.0)
                    again_at = loop.time() + self._asker.jitter(pause)
                    for server in [s for s in range(self._asker.servers) if asked[s] and not held[s]]:
                        talk.send(server, data)
                continue
            server, reply = answer
            match reply:
                case BlocksHeld():
                    held[server] = True
                    talk.round_trip(server)
                case Overloaded(_, retry_after_ms):
                    full.add(server)
                    again_at = min(again_at, loop.time() + self._asker.jitter(min(retry_after_ms, 5000) / 1000))
                case Refused(_, reason):
                    self._asker.distrust(f"a server refused blocks: {reason[:100]}")
                case _:
                    self._asker.distrust("answer to another question")

    def _settle(self, chunk: list[bytes], held: list[bool], asked: list[bool]) -> None:
        names: list[bytes] | None = None
        for server in range(self._asker.servers):
            if held[server]:
                self._under_way[server] -= 1
                continue
            self._keeps_up[server] = False
            names = [bguid(block) for block in chunk] if names is None else names
            self._lacking[server] += names

    async def _put_to_one(self, server: int, blocks: Sequence[bytes]) -> bool:
        with self._asker.open() as talk:
            talk.send(server, talk.encode(PutBlocks(talk.ask, list(blocks))))
            answer = await talk.next(min(self._deadline.at, self._asker.loop.time() + LONGEST_GRACE_SECONDS))
            return answer is not None and isinstance(answer[1], BlocksHeld)


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

    async def stream(self, wanted: AsyncIterator[Wanted], deadline: Deadline) -> AsyncGenerator[bytes, None]:
        """The blocks in the order asked, fetched ahead in a window of bounded size."""
        window: deque[tuple[list[bytes], asyncio.Task[dict[bytes, bytes]]]] = deque()
        try:
            part: list[bytes] = []
            size = 0
            async for guid, size_bytes in wanted:
                if part and (size + size_bytes > CHUNK_BYTES or len(part) == MAX_NAMED):
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
            await asyncio.gather(*(task for _, task in window), return_exceptions=True)

    def _start(
        self, part: list[bytes], size_bytes: int, deadline: Deadline
    ) -> tuple[list[bytes], asyncio.Task[dict[bytes, bytes]]]:
        getting = self.get(part, BLOCK, deadline, size_bytes // len(part))
        return part, self._asker.loop.create_task(getting)

    async def _get_part(
        self, wanted: list[bytes], names: Names, deadline: Deadline, piece_bytes: int
    ) -> dict[bytes, bytes]:
        """Servers in turn, the next whenever one is overdue or lacks something; each is asked for what is missing."""
        found: dict[bytes, bytes] = {}
        lacks: set[int] = set()
        patience = self._trips.patience + len(wanted) * piece_bytes / SLOW_BYTES_PER_SECOND
        with self._asker.open() as talk:

            def ask(server: int) -> None:
                talk.send(server, talk.encode(GetBlocks(talk.ask, [guid for guid in wanted if guid not in found])))

            turns = Turns(self._asker, talk, self._in_turn(), ask, patience)
            while True:
                answer = await turns.answer(deadline.at)
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
                    return found
                if len(found) > before:
                    deadline.extend()
                    if server == turns.asked:
                        turns.more()
                    continue
                lacks.add(server)
                if len(lacks) == self._asker.servers:
                    raise Unavailable(
                        f"no server has block {_missing(wanted, found).hex()}: it was pruned, or too many servers"
                        " lost it; see `pond cluster status`"
                    )
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
        limit = max(0.1, 4 * self._asker.answer_seconds[order[0]])
        seconds, suspects = self._asker.answer_seconds, self._asker.suspects
        quick = [server for server in order if seconds[server] <= limit and not suspects(server)] or order[:1]
        self._turn += 1
        start = self._turn % len(quick)
        return quick[start:] + quick[:start] + [server for server in order if server not in quick]


def _missing(wanted: list[bytes], found: dict[bytes, bytes]) -> bytes:
    return next(guid for guid in wanted if guid not in found)

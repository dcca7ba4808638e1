"""Blocks of one update on their way: sent ahead of the update that names them, in bounded memory however many they are.

What a block's name says is never taken on trust by who fetches it, so here only counts that 2f+1 servers say that they
hold it: f+1 of them are right.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import NamedTuple

from pond.client.asking import Asker, Conversation, Deadline, reached
from pond.client.blocks import BLOCK, IN_FLIGHT, Fetcher, Progress
from pond.client.pace import CHUNK_BYTES
from pond.errors import TimedOut, Unavailable
from pond.protocol import MAX_KEPT, BlocksHeld, BlocksKept, KeepBlocks, Overloaded, PutBlocks, Refused

INLINE_BYTES = 64 * 1024
INLINE_BLOCKS = 1024
"""Blocks of one update that travel inside its request, in all: a round trip saved for small writes."""

GRACE_SECONDS = 0.25
"""How much longer than the quorum a server may take before we no longer wait for it, at least."""

LONGEST_GRACE_SECONDS = 2.0

HOPES = 2 * IN_FLIGHT
"""After so many chunks of which no server held anything, no more are asked for: those are what was on its way when an
upload was broken off, and nothing comes after them."""

KEEP_SECONDS = 1800.0
"""How often servers are told that what they hold is still needed: long before they would let go of it."""


class _Chunk(NamedTuple):
    """Blocks by their names, which are asked for together."""

    blocks: dict[bytes, bytes]
    perhaps_there: bool
    """Whether servers may hold some of them already, from an upload that was broken off."""


class Upload:
    """Blocks of one update on their way to all servers.

    `add` each block, then `finish`: from then on 2f+1 servers hold them all. Each block goes on when 2f+1 servers hold
    it. A server that falls behind is not waited for; what it lacks is remembered, and it is asked again and again
    whether it is back, so that any server may be away for a while and each in its turn. What 2f+1 servers hold from an
    earlier attempt is not sent again, and waits anew there.
    """

    def __init__(
        self,
        asker: Asker,
        fetcher: Fetcher,
        quorum: int,
        leader: Callable[[], int],
        deadline: Deadline,
        progress: Progress | None = None,
        total_bytes: int = 0,
    ) -> None:
        self._asker = asker
        self._fetcher = fetcher
        self._quorum = quorum
        self._leader = leader
        self._deadline = deadline
        self._progress = progress
        self._total_bytes = total_bytes
        self._held_back: dict[bytes, bytes] = {}
        self._held_back_bytes = 0
        self._perhaps_there = False
        self._hopes = HOPES
        self._tasks: deque[asyncio.Task[None]] = deque()
        self._done_bytes = 0
        self._longest_bytes = 0
        self._follows = [True] * asker.servers
        self._under_way = [0] * asker.servers
        self._lacking: list[list[bytes]] = [[] for _ in range(asker.servers)]
        self._reaching: dict[int, asyncio.Task[None]] = {}
        self._names: list[bytes] = []
        self._began = self._kept_at = asker.loop.time()
        self.sent_ahead = False
        """Whether blocks went ahead of the update; else they are to travel inside it."""
        self.resumed_bytes = 0
        """How much was not sent, since enough servers held it already."""

    async def add(self, block: bytes, guid: bytes, *, perhaps_there: bool = False) -> None:
        """Send this block, named `guid`, too, unless it may be there and is; waits while enough is on its way."""
        if self._held_back and perhaps_there != self._perhaps_there:
            await self._send_chunk()
        self._perhaps_there = perhaps_there
        self._held_back[guid] = block
        self._names.append(guid)
        self._held_back_bytes += len(block)
        self._longest_bytes = max(self._longest_bytes, len(block))
        if self._held_back_bytes >= CHUNK_BYTES or len(self._held_back) == MAX_KEPT:
            await self._send_chunk()

    async def finish(self) -> list[bytes]:
        """Wait for what is on its way; returns the blocks that are to travel inside the request, if these are few."""
        if not self.sent_ahead and self._held_back_bytes <= INLINE_BYTES and len(self._held_back) <= INLINE_BLOCKS:
            return list(self._held_back.values())
        if self._held_back:
            await self._send_chunk()
        await self.settle()
        await self._complete()
        await self._complete_leader()
        return []

    async def settle(self) -> None:
        """Wait for what is on its way."""
        while self._tasks:
            await self._tasks.popleft()

    def find(self, guid: bytes) -> bytes | None:
        """A block that has not gone anywhere yet."""
        return self._held_back.get(guid)

    async def abandon(self) -> None:
        """Stop what is on its way; to be called in any case."""
        while tasks := [*self._tasks, *self._reaching.values()]:  # what is broken off begins to reach servers again
            self._tasks.clear()
            self._reaching.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def supply(self, server: int) -> None:
        """Bring one server what it lacks, from those that hold it. Gives up silently: other servers are enough."""
        if not self._lacking[server]:
            self._lacking[server] = list(self._names)  # it had them all, but lost some
        while self._lacking[server] and await self._bring(server):
            pass

    # --- chunks ----------------------------------------------------------------------------------------------------

    async def _send_chunk(self) -> None:
        if self._asker.loop.time() - self._kept_at > KEEP_SECONDS:
            await self._keep_all()
        chunk = _Chunk(self._held_back, self._perhaps_there)
        self._held_back, self._held_back_bytes = {}, 0
        self.sent_ahead = True
        while len(self._tasks) >= IN_FLIGHT:
            await self._tasks.popleft()
        self._tasks.append(self._asker.loop.create_task(self._put(chunk)))

    async def _put(self, chunk: _Chunk) -> None:
        """Until 2f+1 servers hold each block of it, and a short grace has passed: message by message, as chunks go on
        side by side."""
        held: list[Collection[bytes]] = [()] * self._asker.servers
        if chunk.perhaps_there and self._hopes:
            held = await self._held(list(chunk.blocks))
            self._hopes = HOPES if any(held) else self._hopes - 1
        holders = Counter(name for names in held for name in names)
        wanted = {name: block for name, block in chunk.blocks.items() if holders[name] < self._quorum}
        for server, names in enumerate(held):
            self._lacking[server] += [name for name in chunk.blocks if name not in wanted and name not in names]
        there_bytes = sum(len(block) for name, block in chunk.blocks.items() if name not in wanted)
        if there_bytes:
            self.resumed_bytes += there_bytes
            self._moved_on(there_bytes)
        while wanted:
            message = self._next_message(wanted)
            await self._send(message, held)
            self._moved_on(sum(map(len, message.values())))

    def _next_message(self, wanted: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """As many of these blocks as the line takes at a time, and at least one; they are wanted no longer."""
        message: dict[bytes, bytes] = {}
        room = self._asker.uplink.chunk_bytes
        for name, block in wanted.items():
            room -= len(block)
            if message and room < 0:
                break
            message[name] = block
        for name in message:
            del wanted[name]
        return message

    def _moved_on(self, size_bytes: int) -> None:
        self._done_bytes += size_bytes
        self._deadline.extend()
        if self._progress is not None:
            self._progress(self._done_bytes, max(self._total_bytes, self._done_bytes) if self._total_bytes else 0)

    async def _send(self, wanted: dict[bytes, bytes], held: list[Collection[bytes]]) -> None:
        """Each server what it lacks of these, until 2f+1 hold them all."""
        needs = [[name for name in wanted if name not in names] for names in held]
        with self._asker.open() as talk:
            sending = _Sending(talk, wanted, needs)
            for server in range(self._asker.servers):
                if self._follows[server] and self._under_way[server] >= IN_FLIGHT:
                    self._fell_behind(server)
                if self._follows[server] and sending.ask(server):
                    self._under_way[server] += 1
            try:
                seconds = await self._wait(sending)
                self._asker.uplink.took(sum(map(len, wanted.values())), seconds)
            finally:
                for server, names in enumerate(needs):
                    if not sending.holds[server]:
                        self._lacking[server] += names
                        self._fell_behind(server)

    async def _wait(self, sending: "_Sending") -> float:
        """How many seconds it took until 2f+1 servers held it."""
        loop = self._asker.loop
        started = loop.time()
        again_at = started + 2.0
        pause = 2.0
        enough_at: float | None = None
        full: set[int] = set()
        while True:
            if enough_at is None and sum(sending.holds) >= self._quorum:
                enough_at = loop.time()
            awaited = [s for s in range(self._asker.servers) if self._follows[s] and not sending.holds[s]]
            if enough_at is not None:
                taken = enough_at - started
                until = enough_at + min(max(GRACE_SECONDS, taken), LONGEST_GRACE_SECONDS)
                if not awaited or reached(until):
                    return taken
            elif self._deadline.passed:
                full = {server for server in full if not sending.holds[server]}
                no_room = f", {len(full)} had no room for them or were busy" if full else ""
                raise TimedOut(
                    f"{sum(sending.holds)} of {self._asker.servers} servers took the blocks of this update in"
                    f" time{no_room}, and {self._quorum} have to: see `pond cluster status`"
                )
            else:
                until = min(again_at, self._deadline.at)
            answer = await sending.talk.next(until)
            if answer is None:
                if enough_at is None and reached(again_at):
                    pause = min(2 * pause, 8.0)
                    again_at = loop.time() + self._asker.jitter(pause)
                    for server in range(self._asker.servers):  # also those that have been away: there are too few
                        sending.inquire(server)
                continue
            server, reply = answer
            match reply:
                case BlocksKept(_, kept) if sending.inquired(server):
                    if not sending.are_all(server, kept):
                        sending.ask(server)
                    elif not sending.holds[server]:
                        self._took(server, sending)
                case BlocksHeld():
                    self._took(server, sending)
                    sending.talk.round_trip(server)
                case Overloaded(_, retry_after_ms):
                    full.add(server)
                    again_at = min(again_at, loop.time() + self._asker.jitter(min(retry_after_ms, 5000) / 1000))
                case Refused(_, reason):
                    self._asker.distrust(f"a server refused blocks: {reason[:100]}")
                case _:
                    self._asker.distrust("answer to another question")

    def _took(self, server: int, sending: "_Sending") -> None:
        sending.holds[server] = True
        self._under_way[server] = max(0, self._under_way[server] - 1)
        self._follows[server] = True

    # --- servers that hold less than others --------------------------------------------------------------------------

    def _fell_behind(self, server: int) -> None:
        self._follows[server] = False
        running = self._reaching.get(server)
        if running is None or running.done():
            self._reaching[server] = self._asker.loop.create_task(self._reach(server))

    async def _reach(self, server: int) -> None:
        """Until a server that fell behind answers: by then it has taken all that had been sent to it, or never will."""
        pause = GRACE_SECONDS
        while not await self._look_at(server):
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_GRACE_SECONDS)
        self._under_way[server] = 0
        self._follows[server] = True

    async def _look_at(self, server: int) -> bool:
        """Forget of the first that a server lacks what it holds after all; whether it answered."""
        names = self._lacking[server][:MAX_KEPT] or self._names[-1:]
        until = self._asker.loop.time() + LONGEST_GRACE_SECONDS
        kept = await self._ask(names, [server], lambda answered: until)
        if server not in kept:
            return False
        self._lacking[server] = [name for name in self._lacking[server] if name not in kept[server]]
        return True

    async def _bring(self, server: int) -> bool:
        """The first of what a server lacks, from those that hold it; whether it came."""
        if not await self._look_at(server):
            return False
        for start in range(0, len(names := self._lacking[server][:MAX_KEPT]), IN_FLIGHT):
            some = names[start : start + IN_FLIGHT]
            try:
                found = await self._fetcher.get(some, BLOCK, self._deadline, self._longest_bytes)
            except Unavailable:
                return False
            if not await self._put_to_one(server, [found[guid] for guid in some]):
                return False
            brought = set(some)
            self._lacking[server] = [name for name in self._lacking[server] if name not in brought]
            self._deadline.extend()
        return True

    async def _complete(self) -> None:
        """Until 2f+1 servers hold everything: what fewer lack, others bring them once the update names it."""
        if self._asker.loop.time() - self._kept_at > KEEP_SECONDS:
            await self._keep_all()
        while (missing := self._quorum - sum(not names for names in self._lacking)) > 0:
            behind = [s for s in range(self._asker.servers) if self._lacking[s] and self._follows[s]]
            behind.sort(key=lambda server: len(self._lacking[server]))
            brought = await asyncio.gather(*(self._bring(server) for server in behind[:missing]))
            for server, came in zip(behind, brought, strict=False):
                if not came:
                    self._fell_behind(server)
            if not any(brought):
                if self._deadline.passed:
                    raise TimedOut(
                        f"{self._quorum - missing} of {self._asker.servers} servers have all blocks of this update, but"
                        f" {self._quorum} are needed: see `pond cluster status`"
                    )
                await asyncio.sleep(GRACE_SECONDS)

    async def _complete_leader(self) -> None:
        """Until who leads holds everything too. It would have to fetch the rest from others, and these do not wait for
        its proposal for long before they replace it. One that does not answer, or takes longer than all of the upload
        so far, is left alone."""
        leader, now = self._leader(), self._asker.loop.time()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(now + max(LONGEST_GRACE_SECONDS, now - self._began)):
                while self._lacking[leader] and await self._bring(leader):
                    pass

    async def _keep_all(self) -> None:
        """Have all that was sent wait anew."""
        await self.settle()
        self._kept_at = self._asker.loop.time()
        names = [name for name in self._names if name not in self._held_back]
        for start in range(0, len(names), MAX_KEPT):
            some = names[start : start + MAX_KEPT]
            for server, kept in enumerate(await self._held(some)):
                lacks = set(some).difference(kept, self._lacking[server])
                self._lacking[server] += [name for name in some if name in lacks]

    async def _held(self, names: list[bytes]) -> list[Collection[bytes]]:
        """Which of these each server holds, and keeps; nothing of one that does not say so soon."""
        started = self._asker.loop.time()
        enough_at: list[float] = []

        def until(answered: int) -> float:
            if answered < self._quorum:
                return min(started + LONGEST_GRACE_SECONDS, self._deadline.at)
            enough_at[:] = enough_at or [self._asker.loop.time()]
            return enough_at[0] + GRACE_SECONDS

        following = [server for server in range(self._asker.servers) if self._follows[server]]
        kept = await self._ask(names, following, until)
        return [kept.get(server, frozenset()) for server in range(self._asker.servers)]

    async def _ask(
        self, names: list[bytes], servers: list[int], until: Callable[[int], float]
    ) -> dict[int, frozenset[bytes]]:
        """What servers say they keep of these blocks; how long they are waited for follows from how many have said."""
        said: dict[int, frozenset[bytes]] = {}
        with self._asker.open() as talk:
            data = talk.encode(KeepBlocks(talk.ask, names))
            for server in servers:
                talk.send(server, data)
            while len(said) < len(servers) and (answer := await talk.next(until(len(said)))) is not None:
                server, reply = answer
                if isinstance(reply, BlocksKept) and len(reply.held) == len(names):
                    said[server] = frozenset(name for name, held in zip(names, reply.held, strict=True) if held)
                elif not isinstance(reply, Overloaded):
                    self._asker.distrust("a server did not say which blocks it keeps")
        return said

    async def _put_to_one(self, server: int, blocks: Sequence[bytes]) -> bool:
        with self._asker.open() as talk:
            talk.send(server, talk.encode(PutBlocks(talk.ask, list(blocks))))
            answer = await talk.next(min(self._deadline.at, self._asker.loop.time() + LONGEST_GRACE_SECONDS))
            return answer is not None and isinstance(answer[1], BlocksHeld)


class _Sending:
    """Blocks on their way: to each server what it lacks of them."""

    def __init__(self, talk: Conversation, blocks: dict[bytes, bytes], needs: list[list[bytes]]) -> None:
        self.talk = talk
        self.holds = [not names for names in needs]
        """Which servers hold all of it."""
        self._needs = needs
        self._blocks = blocks
        self._encoded: dict[tuple[bytes, ...], bytes] = {}
        self._inquired: set[int] = set()

    def ask(self, server: int) -> bool:
        """Send a server what it lacks; whether there was anything to send."""
        if self.holds[server]:
            return False
        names = tuple(self._needs[server])
        if names not in self._encoded:
            self._encoded[names] = self.talk.encode(PutBlocks(self.talk.ask, [self._blocks[name] for name in names]))
        self.talk.send(server, self._encoded[names])
        return True

    def inquire(self, server: int) -> None:
        """Ask a server that has not said so whether it holds it by now, and if not it is sent again. The question comes
        after what was sent before, so nothing is sent a second time that is only slow to arrive."""
        if not self.holds[server]:
            self._inquired.add(server)
            self.talk.send(server, self.talk.encode(KeepBlocks(self.talk.ask, self._needs[server])))

    def inquired(self, server: int) -> bool:
        """Whether a server that answers was asked what it holds, once for each time."""
        asked = server in self._inquired
        self._inquired.discard(server)
        return asked

    def are_all(self, server: int, kept: list[bool]) -> bool:
        """Whether a server that keeps these needs nothing more."""
        return len(kept) == len(self._needs[server]) and all(kept)

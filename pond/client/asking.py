"""Questions to servers and their answers: numbers them, matches answers, measures round trips, drops what is junk.

Nothing here is believed: whoever asks checks what it gets. No clock but the event loop's, which may be a virtual one.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from math import inf
from typing import NamedTuple, Protocol, TypeAlias

import msgspec

from pond.client.pace import Pace
from pond.errors import TimedOut
from pond.protocol import Overloaded, Question, Refused, Reply

LEAST_PATIENCE_SECONDS = 0.05
"""How long one server is given before another is asked as well, at least: so that a healthy ring does its work once."""

FIRST_PATIENCE_SECONDS = 0.15
"""The same while nobody has answered yet: to connect takes a few round trips more."""

LONGEST_PATIENCE_SECONDS = 3.0

SUSPECT_SECONDS = 30.0
"""How long a server that was overdue, or gave what cannot be believed, is asked after all others."""

LATE = 64
"""Settled questions whose late answers still tell that a server is there, and how quick."""

HALF_LIFE_SECONDS = 10.0
"""After so long what a server took counts half: one that was slow once is asked again, a far one seldom."""

LONGEST_PAUSE_SECONDS = 5.0
"""Between two times of sending the same, at most."""

KEPT_PER_SERVER = 4
"""Answers of one server to one question that wait to be looked at; a server that floods crowds out only itself."""

TICK_SECONDS = 1e-6
"""A time is reached this much early: event loops wake a hair before it, and would else be asked again and again."""

Burst: TypeAlias = list[tuple[int, bytes]]
"""(server, message) of what arrived together."""


class Links(Protocol):
    """Ways to servers 0 to n-1: they may lose, repeat and reorder, but never block."""

    def send(self, server: int, data: bytes, /) -> object:
        """Send, or drop."""
        ...

    def close(self) -> None:
        """Free what the links hold."""
        ...


MakeLinks: TypeAlias = Callable[[Callable[[Burst], None]], Links]
"""Makes links that hand each burst to the function given."""

Ask: TypeAlias = Callable[[int], object]
"""Sends a question to a server."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Reply)


def reached(at: float) -> bool:
    """Whether it is that late (time of the event loop)."""
    return asyncio.get_running_loop().time() >= at - TICK_SECONDS


class Deadline:
    """Until when an operation may take, retries included. A long transfer begins anew whenever it has moved on."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.at = asyncio.get_running_loop().time() + seconds

    def extend(self) -> None:
        """There was progress."""
        self.at = asyncio.get_running_loop().time() + self.seconds

    @property
    def passed(self) -> bool:
        """Whether it is too late."""
        return reached(self.at)

    def check(self, what: str) -> None:
        """Raises TimedOut when it is too late: `what` was under way."""
        if self.passed:
            raise TimedOut(f"{what} took more than {self.seconds:g} s: see `pond cluster status`")


class RoundTrips:
    """How long answers take: smoothed mean and deviation as TCP has them (RFC 6298, section 2)."""

    def __init__(self, least_seconds: float = LEAST_PATIENCE_SECONDS) -> None:
        self._least = least_seconds
        self._mean: float | None = None
        self._deviation = 0.0

    @property
    def known(self) -> bool:
        """Whether there was any answer."""
        return self._mean is not None

    def add(self, seconds: float) -> None:
        """An answer took this long; one to a question that was sent twice tells nothing and is not to be added."""
        if self._mean is None:
            self._mean, self._deviation = seconds, seconds / 2
        else:
            self._deviation += (abs(seconds - self._mean) - self._deviation) / 4
            self._mean += (seconds - self._mean) / 8

    @property
    def patience(self) -> float:
        """Seconds after which an answer is overdue: a few round trips, or far outside of what is usual."""
        if self._mean is None:
            return FIRST_PATIENCE_SECONDS
        usual = max(4 * self._mean, self._mean + 4 * self._deviation)
        return min(max(self._least, usual), LONGEST_PATIENCE_SECONDS)


class Traffic(NamedTuple):
    """Bytes of messages between a client and one server, before encryption of the link."""

    sent: int
    received: int


class Asker:
    """Every question of one client, to all servers."""

    def __init__(self, make_links: MakeLinks, servers: int, random_bytes: Callable[[int], bytes]) -> None:
        self.servers = servers
        self.counters: Counter[str] = Counter()
        """What was dropped or not believed, by reason."""
        self.traffic = [Traffic(0, 0)] * servers
        """What went to each server and came from it."""
        self.uplink, self.downlink = Pace(), Pace()
        self.loop = asyncio.get_running_loop()
        self._took: list[float] = [inf] * servers
        self._took_at: list[float] = [0.0] * servers
        self._suspected_until: list[float] = [0.0] * servers
        self._overdue: set[int] = set()
        self._late: OrderedDict[int, dict[int, float | None]] = OrderedDict()
        self._random_bytes = random_bytes
        self._conversations: dict[int, Conversation] = {}
        self._next = 1
        self._links = make_links(self.received)
        self._closed = False

    def close(self) -> None:
        """Free the links. Whoever still waits gets nothing."""
        if not self._closed:
            self._closed = True
            self._links.close()

    def open(self) -> "Conversation":
        """A new question, to be used in a `with`."""
        number, self._next = self._next, self._next + 1
        conversation = Conversation(self, number)
        self._conversations[number] = conversation
        return conversation

    def quickest(self) -> list[int]:
        """All servers: those first that answered quickest lately, then those that never did, then those suspected."""

        def rank(server: int) -> tuple[float, float, int]:
            suspected_until = self._suspected_until[server] if self.suspects(server) else 0.0
            return suspected_until, self.answer_seconds(server), server

        return sorted(range(self.servers), key=rank)

    def answer_seconds(self, server: int) -> float:
        """How long a server took lately, smoothed, and less the longer ago that was; infinity when unknown."""
        took = self._took[server]
        return took if took == inf else took * 0.5 ** ((self.loop.time() - self._took_at[server]) / HALF_LIFE_SECONDS)

    def suspect(self, server: int) -> None:
        """A server did not answer with what can be believed: others are asked first for a while."""
        self._suspected_until[server] = self.loop.time() + SUSPECT_SECONDS
        self._overdue.discard(server)

    def overdue(self, server: int) -> None:
        """A server did not answer in time: others are asked first for a while, or until it does."""
        if not self.suspects(server) or server in self._overdue:
            self.suspect(server)
            self._overdue.add(server)

    def suspects(self, server: int) -> bool:
        """Whether a server is asked after all others for now."""
        return self._suspected_until[server] > self.loop.time()

    def took(self, server: int, seconds: float) -> None:
        """A server answered."""
        known = self._took[server]
        self._took[server] = seconds if known == inf else known + (seconds - known) / 4
        self._took_at[server] = self.loop.time()

    def trusts(self, server: int) -> None:
        """What a server answered was of use, or came late."""
        self._suspected_until[server] = 0.0

    def jitter(self, seconds: float) -> float:
        """75 to 125 % of it, so that clients that were refused together do not come back together."""
        return seconds * (0.75 + self._random_bytes(1)[0] / 510)

    def received(self, burst: Burst) -> None:
        """What servers sent."""
        for server, data in burst:
            if 0 <= server < self.servers:
                traffic = self.traffic[server]
                self.traffic[server] = traffic._replace(received=traffic.received + len(data))
            try:
                reply = _decoder.decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self.counters["malformed answer"] += 1
                continue
            conversation = self._conversations.get(reply.ask)
            if not 0 <= server < self.servers:
                continue
            if conversation is not None:
                conversation.put(server, reply)
            elif (sent := self._late.get(reply.ask, {}).pop(server, None)) is not None:
                self.took(server, self.loop.time() - sent)
                if server in self._overdue and not isinstance(reply, Overloaded | Refused):
                    self.trusts(server)

    def distrust(self, reason: str) -> None:
        """An answer was not believed."""
        self.counters[reason] += 1

    def forget(self, number: int) -> None:
        """The question is settled: of what still comes only counts that it comes, and when."""
        conversation = self._conversations.pop(number, None)
        if conversation is not None:
            self._late[number] = conversation.sent_at
            if len(self._late) > LATE:
                self._late.popitem(last=False)

    def send(self, server: int, data: bytes) -> None:
        """Send to one server, or lose it."""
        if not self._closed:
            traffic = self.traffic[server]
            self.traffic[server] = traffic._replace(sent=traffic.sent + len(data))
            self._links.send(server, data)


class Conversation:
    """One question, to one server or several, and the answers to it."""

    def __init__(self, asker: Asker, ask: int) -> None:
        self.ask = ask
        self._asker = asker
        self._answers: deque[tuple[int, Reply]] = deque()
        self._waiting_per_server = [0] * asker.servers
        self._waiter: asyncio.Future[None] | None = None
        self._asked: set[int] = set()
        self._asked_again: set[int] = set()
        self.sent_at: dict[int, float | None] = {}
        """When each server was asked first; None when that time has told all it can."""

    def __enter__(self) -> "Conversation":
        return self

    def __exit__(self, *_: object) -> None:
        self._asker.forget(self.ask)

    def encode(self, question: Question) -> bytes:
        """The bytes of a question, to be sent as often as wanted."""
        return _encoder.encode(question)

    def send(self, server: int, data: bytes) -> None:
        """Ask one server; sending the same again is harmless."""
        self._asked.add(server)
        if server in self.sent_at:
            self._asked_again.add(server)
        else:
            self.sent_at[server] = self._asker.loop.time()
        self._asker.send(server, data)

    def send_all(self, data: bytes) -> None:
        """Ask every server."""
        for server in range(self._asker.servers):
            self.send(server, data)

    def send_beside(self, data: bytes) -> None:
        """Ask every server something else, whose answers say nothing of how long the question itself takes."""
        for server in range(self._asker.servers):
            self._asked.add(server)
            self._asker.send(server, data)

    def put(self, server: int, reply: Reply) -> None:
        """An answer came."""
        if server not in self._asked or self._waiting_per_server[server] >= KEPT_PER_SERVER:
            self._asker.counters["answer that nobody asked for"] += 1
            return
        self._waiting_per_server[server] += 1
        self._answers.append((server, reply))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self, until: float) -> tuple[int, Reply] | None:
        """The next answer and who gave it, or None when there is none by `until` (time of the event loop)."""
        if not self._answers and not reached(until):
            self._waiter = self._asker.loop.create_future()
            alarm = self._asker.loop.call_at(until, _wake, self._waiter)
            try:
                await self._waiter
            finally:
                alarm.cancel()
                self._waiter = None
        if not self._answers:
            return None
        server, reply = self._answers.popleft()
        self._waiting_per_server[server] -= 1
        return server, reply

    def round_trip(self, server: int) -> float | None:
        """Seconds since the question went to a server, if it went once; remembered as how quick it is, at worst."""
        self._asker.trusts(server)
        sent = self.sent_at.get(server)
        if sent is None:
            return None
        self.sent_at[server] = None
        seconds = self._asker.loop.time() - sent
        self._asker.took(server, seconds)
        return None if server in self._asked_again else seconds


class Turns:
    """One question to servers in turn: the next is asked as well when an answer is overdue, each later than the last.

    So a server that is down costs a few round trips, and a ring that is slow is not asked for everything n times.
    """

    def __init__(self, asker: Asker, talk: Conversation, order: Sequence[int], ask: Ask, patience: float) -> None:
        """`ask` sends the question to a server; `patience` in seconds is for the first of `order`."""
        self._asker = asker
        self._talk = talk
        self._order = order
        self._ask = ask
        self._pause = patience
        self._count = 0
        self._overdue_at = 0.0
        self._next(patience)

    @property
    def asked(self) -> int:
        """The server that was asked last."""
        return self._order[(self._count - 1) % len(self._order)]

    async def answer(self, until: float) -> tuple[int, Reply] | None:
        """The next answer and who gave it, or None when there is none by `until` (time of the event loop)."""
        while (answer := await self._talk.next(min(self._overdue_at, until))) is None and not reached(until):
            self._asker.overdue(self.asked)
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            self._next(self._asker.jitter(self._pause))
        return answer

    def more(self) -> None:
        """Ask the same server again, for what its answer did not have."""
        self._ask(self.asked)
        self._overdue_at = self._asker.loop.time() + self._pause

    def skip(self, server: int) -> None:
        """The answer of a server was of no use: the next one is asked at once, unless all have been asked."""
        self._asker.suspect(server)
        if self._count < len(self._order):
            self._next(self._pause)

    def _next(self, pause: float) -> None:
        self._count += 1
        self._ask(self.asked)
        self._overdue_at = self._asker.loop.time() + pause


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)

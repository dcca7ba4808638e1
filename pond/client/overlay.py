"""Questions to the overlay, through any server of the cluster file. Nothing that comes back is proved.

Who answers that it has not joined yet, or nothing at all, is left for another server, as long as there is time. A
holder that was found is asked itself, and another one looked for when it does not answer for the object.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from contextlib import nullcontext
from hashlib import sha256
from random import SystemRandom
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from pond.client.asking import Asker, Burst, Deadline
from pond.errors import TimedOut, Unavailable
from pond.protocol import (
    MAX_MESSAGE_BYTES,
    FindNextHop,
    FindRoot,
    GetNeighbours,
    GetOverlay,
    LocateObject,
    NextHopFound,
    ObjectLocated,
    OverlayNeighbours,
    OverlayQuestion,
    OverlayStatus,
    Published,
    PublishTest,
    Refused,
    RootFound,
    guid_of_test,
)
from pond.servers import Listed
from pond.transport import Remote, ServerLinks
from tapestry.guid import GUID
from tapestry.messages import MAX_CONTACTS

AT_ONCE = 4
"""Servers that a question is tried at, one after another, before others are linked to."""

NEXT_SECONDS = 2.0
"""A server that does not answer for so long is not waited for alone."""

LAST_SECONDS = 4.0
SEARCH_SECONDS = 13.0
"""The last of these has so long: for a search as long as it takes to try all roots of an object."""

HOLDER_SECONDS = 1.0
"""A holder that does not answer for its object by then is passed over."""

NEXT_HOLDER_SECONDS = 0.25
"""Once one has been, others are asked so soon one after another, and whoever answers first is heard: where many claim
an object that do not have it, nobody waits for each of them. A holder that no file lists takes as long."""

AGAIN_SECONDS = 0.5
"""After so long those that have not joined are asked again."""

Answer = TypeVar("Answer", RootFound, ObjectLocated, OverlayNeighbours, Published, OverlayStatus, NextHopFound)
Done = TypeVar("Done")


def label_of(name: str) -> bytes:
    """What servers are told of a test object's name."""
    return sha256(name.encode()).digest()


def object_of(name: str) -> GUID:
    """The GUID of the test object with this name."""
    return guid_of_test(label_of(name))


class Linked:
    """Links to servers of the overlay that are kept for many questions, from `with` to its end."""

    def __init__(self, servers: Sequence[Listed]) -> None:
        """Begin to connect to all, inside a running event loop."""
        remotes = {place: Remote(server.public_key, server.client_address) for place, server in enumerate(servers)}

        def links(received: Callable[[Burst], None]) -> ServerLinks:
            return ServerLinks(remotes, received, MAX_MESSAGE_BYTES)

        self._servers = list(servers)
        self._places = {server.guid: place for place, server in enumerate(servers)}
        self._asker = Asker(links, len(servers), os.urandom)

    def __enter__(self) -> "Linked":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._asker.close()

    async def ask(
        self,
        servers: Sequence[Listed],
        make: Callable[[int], OverlayQuestion],
        kind: type[Answer],
        deadline: Deadline,
        last_seconds: float,
    ) -> tuple[Listed, Answer] | str | None:
        """Ask some of them, one after another: an answer and whose it is, a refusal, or None."""
        asker = self._asker
        refusals: dict[int, str] = {}
        open_answers = 0
        with asker.open() as conversation:
            question = conversation.encode(make(conversation.ask))
            for turn, server in enumerate(servers, start=1):
                conversation.send(self._places[server.guid], question)
                open_answers += 1
                patience = last_seconds if turn == len(servers) else NEXT_SECONDS
                until = min(asker.loop.time() + patience, deadline.at)
                while open_answers and (answer := await conversation.next(until)) is not None:
                    by, reply = answer
                    if isinstance(reply, kind):
                        return self._servers[by], reply
                    open_answers -= 1
                    if isinstance(reply, Refused):
                        refusals[by] = f"{self._servers[by].name} refuses: {reply.reason}"
        return next(iter(refusals.values())) if len(refusals) == len(servers) else None


async def route(
    servers: Sequence[Listed], key: GUID, seconds: float, linked: Linked | None = None
) -> tuple[Listed, RootFound]:
    """The root of a key, as one of these servers finds it. Raises Unavailable, TimedOut."""
    return await _ask(_shuffled(servers), lambda ask: FindRoot(ask, key), RootFound, Deadline(seconds), linked=linked)


class Hop(NamedTuple):
    """A node on the way to the root of a key."""

    guid: GUID
    seconds: float | None
    """Until it had said who is next; None when it did not."""


async def walk(servers: Sequence[Listed], start: Listed, key: GUID, seconds: float) -> list[Hop]:
    """The way from a server to the root of a key, each of its nodes asked for the next one (iterative routing). It ends
    before the root where a node does not answer, or names one that was asked before."""
    deadline = Deadline(seconds)
    by_guid = {server.guid: server for server in servers}
    hops: list[Hop] = []
    following: GUID | None = start.guid
    while following is not None and following not in {hop.guid for hop in hops}:
        server = by_guid.get(following)
        answer = None if server is None else await _next_hop(server, key, deadline)
        hops.append(Hop(following, None if answer is None else answer[1]))
        following = None if answer is None else answer[0]
    return hops


async def _next_hop(server: Listed, key: GUID, deadline: Deadline) -> tuple[GUID | None, float] | None:
    loop = asyncio.get_running_loop()
    patience = Deadline(min(NEXT_SECONDS, deadline.at - loop.time()))
    with Linked([server]) as linked:
        try:
            await _ask([server], GetOverlay, OverlayStatus, patience, linked=linked)  # it takes a while to connect
            began = loop.time()
            _, found = await _ask([server], lambda ask: FindNextHop(ask, key), NextHopFound, patience, linked=linked)
        except (TimedOut, Unavailable):
            return None
        return found.node, loop.time() - began


async def locate(
    servers: Sequence[Listed], via: Sequence[Listed], obj: GUID, seconds: float, linked: Linked | None = None
) -> tuple[Listed, ObjectLocated]:
    """Who holds an object, as one of those in `via` finds it: one of all `servers` that answers for it itself. Those
    that do not are passed over, and who names them again is not asked any more. Raises Unavailable, TimedOut."""
    loop = asyncio.get_running_loop()
    deadline = Deadline(seconds)
    left = _shuffled(via)
    passed_over: tuple[GUID, ...] = ()
    asked: dict[asyncio.Task[bool], tuple[Listed, ObjectLocated]] = {}
    tasks: list[asyncio.Task[Any]] = []

    def begun(work: Coroutine[Any, Any, Done]) -> asyncio.Task[Done]:
        tasks.append(loop.create_task(work))
        return tasks[-1]

    def search(ask: int) -> LocateObject:
        return LocateObject(ask, obj, passed_over)

    try:
        while True:
            searching = begun(_ask(_shuffled(left), search, ObjectLocated, deadline, SEARCH_SECONDS, linked))
            if (answered := await _first(asked, searching)) is not None:
                return answered
            by, found = searching.result()
            again = found.holder in passed_over
            if again:
                left.remove(by)
            if found.holder is None or not left:
                last = await _first(asked, begun(asyncio.wait(asked))) if asked else None
                return last or (by, ObjectLocated(found.ask, None, found.hops, found.ms))
            if again:
                continue
            holder = next((server for server in servers if server.guid == found.holder), None)
            if holder is None:
                over: asyncio.Task[Any] = begun(asyncio.sleep(NEXT_HOLDER_SECONDS))
            else:
                answers = begun(_answers_for(holder, obj, deadline, linked))
                asked[answers] = by, found
                patience = NEXT_HOLDER_SECONDS if passed_over else HOLDER_SECONDS
                over = begun(asyncio.wait({answers}, timeout=patience))
            if (answered := await _first(asked, over)) is not None:
                return answered
            passed_over = (*passed_over, found.holder)[-MAX_CONTACTS:]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _first(
    asked: dict[asyncio.Task[bool], tuple[Listed, ObjectLocated]], over: asyncio.Task[Any]
) -> tuple[Listed, ObjectLocated] | None:
    """Of those that are asked the first that answers for the object; None when `over` comes to its end before."""
    while True:
        await asyncio.wait({over, *asked}, return_when=asyncio.FIRST_COMPLETED)
        for task in [task for task in asked if task.done()]:
            found = asked.pop(task)
            if task.result():
                return found
        if over.done():
            return None


async def _answers_for(holder: Listed, obj: GUID, deadline: Deadline, linked: Linked | None) -> bool:
    """Whether a holder says itself that it is one."""
    left = deadline.at - asyncio.get_running_loop().time()
    patience = Deadline(min(HOLDER_SECONDS, left))
    try:
        _, own = await _ask([holder], lambda ask: LocateObject(ask, obj), ObjectLocated, patience, linked=linked)
    except (TimedOut, Unavailable):
        return False
    return own.holder == holder.guid


async def neighbours(server: Listed, seconds: float) -> OverlayNeighbours:
    """Which nodes a server knows. Raises Unavailable, TimedOut."""
    return (await _ask([server], GetNeighbours, OverlayNeighbours, Deadline(seconds)))[1]


async def publish(server: Listed, name: str, held: bool, seconds: float, linked: Linked | None = None) -> Published:
    """Let a server say that it holds a test object, or that it does so no longer. Raises Unavailable, TimedOut."""
    label, deadline = label_of(name), Deadline(seconds)
    return (await _ask([server], lambda ask: PublishTest(ask, label, held), Published, deadline, linked=linked))[1]


def _shuffled(servers: Sequence[Listed]) -> list[Listed]:
    return SystemRandom().sample(list(servers), len(servers))


async def _ask(
    servers: Sequence[Listed],
    make: Callable[[int], OverlayQuestion],
    kind: type[Answer],
    deadline: Deadline,
    last_seconds: float = LAST_SECONDS,
    linked: Linked | None = None,
) -> tuple[Listed, Answer]:
    refusal: str | None = None
    while not deadline.passed:
        for start in range(0, len(servers), AT_ONCE):
            some = servers[start : start + AT_ONCE]
            with Linked(some) if linked is None else nullcontext(linked) as links:
                found = await links.ask(some, make, kind, deadline, last_seconds)
            if isinstance(found, tuple):
                return found
            refusal = found or refusal
            if deadline.passed:
                break
        if refusal is not None:
            raise Unavailable(f"{refusal}: see `pond cluster status`")
        await asyncio.sleep(min(AGAIN_SECONDS, deadline.seconds))
    names = ", ".join(server.name for server in servers[:3]) + (" ..." if len(servers) > 3 else "")
    raise TimedOut(f"no answer of the overlay through {names} within {deadline.seconds:g} s: see `pond cluster status`")

"""Questions to the overlay, through any server of the cluster file. Nothing that comes back is proved.

Who answers that it has not joined yet, or nothing at all, is left for another server, as long as there is time.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from hashlib import sha256
from random import SystemRandom
from typing import TypeVar

from pond.client.asking import Asker, Burst, Deadline
from pond.errors import TimedOut, Unavailable
from pond.protocol import (
    MAX_MESSAGE_BYTES,
    FindRoot,
    GetNeighbours,
    LocateObject,
    ObjectLocated,
    OverlayNeighbours,
    OverlayQuestion,
    Published,
    PublishTest,
    Refused,
    RootFound,
    guid_of_test,
)
from pond.servers import Listed
from pond.transport import Remote, ServerLinks
from tapestry.guid import GUID

AT_ONCE = 4
"""Servers that a question is tried at, one after another, before others are linked to."""

NEXT_SECONDS = 2.0
"""A server that does not answer for so long is not waited for alone."""

LAST_SECONDS = 4.0
SEARCH_SECONDS = 13.0
"""The last of these has so long: for a search as long as it takes to try all roots of an object."""

AGAIN_SECONDS = 0.5
"""After so long those that have not joined are asked again."""

Answer = TypeVar("Answer", RootFound, ObjectLocated, OverlayNeighbours, Published)


def label_of(name: str) -> bytes:
    """What servers are told of a test object's name."""
    return sha256(name.encode()).digest()


def object_of(name: str) -> GUID:
    """The GUID of the test object with this name."""
    return guid_of_test(label_of(name))


async def route(servers: Sequence[Listed], key: GUID, seconds: float) -> tuple[Listed, RootFound]:
    """The root of a key, as one of these servers finds it. Raises Unavailable, TimedOut."""
    return await _ask(_shuffled(servers), lambda ask: FindRoot(ask, key), RootFound, seconds)


async def locate(servers: Sequence[Listed], obj: GUID, seconds: float) -> tuple[Listed, ObjectLocated]:
    """Who holds an object, as one of these servers finds it. Raises Unavailable, TimedOut."""
    return await _ask(_shuffled(servers), lambda ask: LocateObject(ask, obj), ObjectLocated, seconds, SEARCH_SECONDS)


async def neighbours(server: Listed, seconds: float) -> OverlayNeighbours:
    """Which nodes a server knows. Raises Unavailable, TimedOut."""
    return (await _ask([server], GetNeighbours, OverlayNeighbours, seconds))[1]


async def publish(server: Listed, name: str, held: bool, seconds: float) -> Published:
    """Let a server say that it holds a test object, or that it does so no longer. Raises Unavailable, TimedOut."""
    return (await _ask([server], lambda ask: PublishTest(ask, label_of(name), held), Published, seconds))[1]


def _shuffled(servers: Sequence[Listed]) -> list[Listed]:
    return SystemRandom().sample(list(servers), len(servers))


async def _ask(
    servers: Sequence[Listed],
    make: Callable[[int], OverlayQuestion],
    kind: type[Answer],
    seconds: float,
    last_seconds: float = LAST_SECONDS,
) -> tuple[Listed, Answer]:
    deadline = Deadline(seconds)
    refusal: str | None = None
    while not deadline.passed:
        for start in range(0, len(servers), AT_ONCE):
            found = await _ask_some(servers[start : start + AT_ONCE], make, kind, deadline, last_seconds)
            if isinstance(found, tuple):
                return found
            refusal = found or refusal
            if deadline.passed:
                break
        if refusal is not None:
            raise Unavailable(f"{refusal}: see `pond cluster status`")
        await asyncio.sleep(min(AGAIN_SECONDS, seconds))
    names = ", ".join(server.name for server in servers[:3]) + (" ..." if len(servers) > 3 else "")
    raise TimedOut(f"no answer of the overlay through {names} within {seconds:g} s: see `pond cluster status`")


async def _ask_some(
    servers: Sequence[Listed],
    make: Callable[[int], OverlayQuestion],
    kind: type[Answer],
    deadline: Deadline,
    last_seconds: float,
) -> tuple[Listed, Answer] | str | None:
    """An answer and whose it is, a refusal, or None."""
    remotes = {place: Remote(server.public_key, server.client_address) for place, server in enumerate(servers)}

    def links(received: Callable[[Burst], None]) -> ServerLinks:
        return ServerLinks(remotes, received, MAX_MESSAGE_BYTES)

    asker = Asker(links, len(servers), os.urandom)
    refusals: dict[int, str] = {}
    open_answers = 0
    try:
        with asker.open() as conversation:
            question = conversation.encode(make(conversation.ask))
            for place in range(len(servers)):
                conversation.send(place, question)
                open_answers += 1
                patience = last_seconds if place == len(servers) - 1 else NEXT_SECONDS
                until = min(asker.loop.time() + patience, deadline.at)
                while open_answers and (answer := await conversation.next(until)) is not None:
                    by, reply = answer
                    if isinstance(reply, kind):
                        return servers[by], reply
                    open_answers -= 1
                    if isinstance(reply, Refused):
                        refusals[by] = f"{servers[by].name} refuses: {reply.reason}"
    finally:
        asker.close()
    return next(iter(refusals.values())) if len(refusals) == len(servers) else None

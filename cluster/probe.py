"""Ask servers how they are, without believing or needing any of them."""

import asyncio
import os
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from typing import TypeAlias

from pond.client.asking import Asker, Burst
from pond.config import Member
from pond.protocol import MAX_MESSAGE_BYTES, GetStatus, ServerStatus
from pond.transport import Remote, ServerLinks

Enough: TypeAlias = Callable[[ServerStatus], bool]

Ended: TypeAlias = Callable[[], AbstractSet[int]]
"""Ids of servers that will not answer any more."""

AGAIN_SECONDS = 0.1
"""A question is repeated after this long: a server that is starting had no ears for the first."""

GRACE_SECONDS = 5.0
"""How much longer others may take when enough servers are ready, at least."""


def any_answer(status: ServerStatus) -> bool:
    """The server answers."""
    return True


def has_certificate(status: ServerStatus) -> bool:
    """The server answers, and has something that its ring signed: enough others were there."""
    return status.certified > 0


def statuses(
    members: Iterable[Member],
    seconds: float,
    enough: Enough = any_answer,
    needed: int | None = None,
    ended: Ended = lambda: frozenset(),
) -> dict[int, ServerStatus]:
    """What each server said last of itself, by its id, until all said `enough` or the time is over.

    When `needed` of them have, the others get as long again, and a while at least; nobody waits for those that `ended`
    names, nor for anybody once fewer than `needed` are left.
    """
    asked = {member.id: member for member in members}
    return asyncio.run(_ask(asked, seconds, enough, len(asked) if needed is None else needed, ended)) if asked else {}


async def _ask(
    members: dict[int, Member], seconds: float, enough: Enough, needed: int, ended: Ended
) -> dict[int, ServerStatus]:
    places = list(members)
    remotes = {
        place: Remote(bytes(members[identity].public_key), members[identity].client_address)
        for place, identity in enumerate(places)
    }

    def links(received: Callable[[Burst], None]) -> ServerLinks:
        return ServerLinks(remotes, received, MAX_MESSAGE_BYTES)

    loop = asyncio.get_running_loop()
    began = loop.time()
    until = began + seconds
    answers: dict[int, ServerStatus] = {}
    satisfied: set[int] = set()
    asker = Asker(links, len(members), os.urandom)
    try:
        while loop.time() < until:
            wanted = members.keys() - satisfied - ended()
            if not wanted or len(satisfied) + len(wanted) < needed:
                break
            with asker.open() as conversation:
                question = conversation.encode(GetStatus(conversation.ask))
                for place, identity in enumerate(places):
                    if identity in wanted:
                        conversation.send(place, question)
                again = min(loop.time() + AGAIN_SECONDS, until)
                while wanted and (answer := await conversation.next(again)) is not None:
                    place, reply = answer
                    if isinstance(reply, ServerStatus):
                        answers[places[place]] = reply
                        if enough(reply):
                            wanted.discard(places[place])
                            satisfied.add(places[place])
                            if len(satisfied) == needed:
                                now = loop.time()
                                until = min(until, now + max(GRACE_SECONDS, now - began))
    finally:
        asker.close()
    return answers

"""Ask servers how they are, without believing or needing any of them."""

import asyncio
import os
from collections.abc import Callable, Iterable
from typing import TypeAlias

from pond.client.asking import Asker, Burst
from pond.config import Member
from pond.protocol import MAX_MESSAGE_BYTES, GetStatus, ServerStatus
from pond.transport import Remote, ServerLinks

Enough: TypeAlias = Callable[[ServerStatus], bool]

AGAIN_SECONDS = 0.1
"""A question is repeated after this long: a server that is starting had no ears for the first."""


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
    check: Callable[[], None] = lambda: None,
) -> dict[int, ServerStatus]:
    """What each server said last of itself, by its id, until all said `enough` or the time is over.

    `check` is called all the while and may raise to end it early.
    """
    asked = list(members)
    return asyncio.run(_ask(asked, seconds, enough, check)) if asked else {}


async def _ask(
    members: list[Member], seconds: float, enough: Enough, check: Callable[[], None]
) -> dict[int, ServerStatus]:
    remotes = {place: Remote(bytes(member.public_key), member.client_address) for place, member in enumerate(members)}

    def links(received: Callable[[Burst], None]) -> ServerLinks:
        return ServerLinks(remotes, received, MAX_MESSAGE_BYTES)

    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    answers: dict[int, ServerStatus] = {}
    wanted = set(range(len(members)))
    asker = Asker(links, len(members), os.urandom)
    try:
        while wanted and loop.time() < until:
            check()
            with asker.open() as conversation:
                question = conversation.encode(GetStatus(conversation.ask))
                for place in wanted:
                    conversation.send(place, question)
                again = min(loop.time() + AGAIN_SECONDS, until)
                while wanted and (answer := await conversation.next(again)) is not None:
                    place, reply = answer
                    if isinstance(reply, ServerStatus):
                        answers[members[place].id] = reply
                        if enough(reply):
                            wanted.discard(place)
    finally:
        asker.close()
    return answers

"""Ask servers how they are, without believing or needing any of them."""

import asyncio
import os
from collections.abc import Callable, Iterable
from time import monotonic

from pond.client.asking import Asker, Burst
from pond.config import Member
from pond.protocol import MAX_MESSAGE_BYTES, GetStatus, ServerStatus
from pond.transport import Remote, ServerLinks

AGAIN_SECONDS = 0.25
"""A question is repeated after this long: a server that is starting had no ears for the first."""


def statuses(members: Iterable[Member], seconds: float) -> dict[int, ServerStatus]:
    """What each server that answers within this time says of itself, by its id."""
    asked = list(members)
    return asyncio.run(_ask(asked, seconds)) if asked else {}


async def _ask(members: list[Member], seconds: float) -> dict[int, ServerStatus]:
    remotes = {
        place: Remote(bytes(member.public_key), member.client_address) for place, member in enumerate(members)
    }

    def links(received: Callable[[Burst], None]) -> ServerLinks:
        return ServerLinks(remotes, received, MAX_MESSAGE_BYTES)

    asker = Asker(links, len(members), os.urandom)
    answers: dict[int, ServerStatus] = {}
    until = monotonic() + seconds
    try:
        with asker.open() as conversation:
            question = conversation.encode(GetStatus(conversation.ask))
            while len(answers) < len(members) and monotonic() < until:
                for place, member in enumerate(members):
                    if member.id not in answers:
                        conversation.send(place, question)
                again = asyncio.get_running_loop().time() + min(AGAIN_SECONDS, until - monotonic())
                while len(answers) < len(members) and (answer := await conversation.next(again)) is not None:
                    place, reply = answer
                    if isinstance(reply, ServerStatus):
                        answers[members[place].id] = reply
    finally:
        asker.close()
    return answers

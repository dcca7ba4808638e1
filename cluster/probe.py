"""Ask servers how they are, without believing or needing any of them."""

import asyncio
import os
from collections.abc import Callable, Hashable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from pond.client.asking import Asker, Burst
from pond.config import Member, StorageMember
from pond.protocol import MAX_MESSAGE_BYTES, GetOverlay, GetStatus, OverlayStatus, Question, ServerStatus
from pond.transport import Remote, ServerLinks

Name = TypeVar("Name", bound=Hashable)
Status = TypeVar("Status", ServerStatus, OverlayStatus)

Enough: TypeAlias = Callable[[ServerStatus], bool]

Ended: TypeAlias = Callable[[], AbstractSet[int]]
"""Ids of servers that will not answer any more."""

AGAIN_SECONDS = 0.1
"""A question is repeated after this long: a server that is starting had no ears for the first."""

OVERLAY_AGAIN_SECONDS = 0.5
"""The same for nodes of the overlay, of which many may start at once."""

GRACE_SECONDS = 5.0
"""How much longer others may take when enough servers are ready, at least."""


def any_answer(status: ServerStatus) -> bool:
    """The server answers."""
    return True


def has_certificate(status: ServerStatus) -> bool:
    """The server answers, and has something that its ring signed: enough others were there."""
    return status.certified > 0


class _Wanted(NamedTuple, Generic[Name, Status]):
    """What is asked, and of whom until when."""

    remotes: Mapping[Name, Remote]
    question: Callable[[int], Question]
    kind: type[Status]
    again_seconds: float
    seconds: float
    enough: Callable[[Status], bool]
    needed: int
    ended: Callable[[], AbstractSet[Name]]


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
    remotes = {member.id: _remote(member) for member in members}
    most = len(remotes) if needed is None else needed
    wanted = _Wanted(remotes, GetStatus, ServerStatus, AGAIN_SECONDS, seconds, enough, most, ended)
    return asyncio.run(_ask(wanted)) if remotes else {}


def overlays(
    members: Mapping[str, Member | StorageMember],
    seconds: float,
    enough: Callable[[OverlayStatus], bool] = lambda status: True,
    ended: Callable[[], AbstractSet[str]] = lambda: frozenset(),
) -> dict[str, OverlayStatus]:
    """The same of nodes of the overlay, by the servers' names; nobody waits for those that `ended` names."""
    remotes = {name: _remote(member) for name, member in members.items()}
    wanted = _Wanted(remotes, GetOverlay, OverlayStatus, OVERLAY_AGAIN_SECONDS, seconds, enough, 0, ended)
    return asyncio.run(_ask(wanted)) if remotes else {}


def _remote(member: Member | StorageMember) -> Remote:
    return Remote(bytes(member.public_key), member.client_address)


async def _ask(asked: _Wanted[Name, Status]) -> dict[Name, Status]:
    names = list(asked.remotes)
    remotes = dict(enumerate(asked.remotes.values()))

    def links(received: Callable[[Burst], None]) -> ServerLinks:
        return ServerLinks(remotes, received, MAX_MESSAGE_BYTES)

    loop = asyncio.get_running_loop()
    began = loop.time()
    until = began + asked.seconds
    answers: dict[Name, Status] = {}
    satisfied: set[Name] = set()
    asker = Asker(links, len(names), os.urandom)
    try:
        while loop.time() < until:
            wanted = asked.remotes.keys() - satisfied - asked.ended()
            if not wanted or len(satisfied) + len(wanted) < asked.needed:
                break
            with asker.open() as conversation:
                question = conversation.encode(asked.question(conversation.ask))
                for place, name in enumerate(names):
                    if name in wanted:
                        conversation.send(place, question)
                again = min(loop.time() + asked.again_seconds, until)
                while wanted and (answer := await conversation.next(again)) is not None:
                    place, reply = answer
                    if isinstance(reply, asked.kind):
                        answers[names[place]] = reply
                        if asked.enough(reply):
                            wanted.discard(names[place])
                            satisfied.add(names[place])
                            if len(satisfied) == asked.needed:
                                now = loop.time()
                                until = min(until, now + max(GRACE_SECONDS, now - began))
    finally:
        asker.close()
    return answers

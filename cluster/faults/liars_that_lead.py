"""Liars whose lies are those of a primary: what it proposes, to whom, when and as what time."""

from collections import deque
from collections.abc import Sequence as SequenceOf
from typing import Annotated, Any

import msgspec

from bft.batches import digest_of
from bft.effects import Broadcast, Received, Send
from bft.messages import Batch, Bodies, Commit, Message, PrePrepare, Relay, Request, RequestError
from bft.ordering import proposal_statement
from bft.statement import Digest
from bft.types import AgreedTime, ReplicaId, Sequence, View
from cluster.faults.lying import (
    Effects,
    Forger,
    Liar,
    Means,
    NowAndThen,
    Parameters,
    Pest,
    SomeOfIt,
    kind,
)
from pond.node.ring import ToClient
from pond.protocol import Question, Submit

REMEMBERED = 64
"""Proposals or requests that a liar remembers."""


def resigned(means: Means, proposal: PrePrepare, **changes: Any) -> PrePrepare:
    """The proposal with these changes, properly signed."""
    changed = msgspec.structs.replace(proposal, **changes)
    digest = digest_of(changed.time, changed.requests)
    signed = proposal_statement(means.membership, changed.view, changed.sequence, digest, changed.plan)
    return msgspec.structs.replace(changed, signature=means.signer.sign(signed))


@kind("silent-primary")
class SilentPrimary(Liar[Parameters]):
    """Says nothing while it leads, but for what makes it lead. Attacks the timers that give a primary up."""

    def says(self, effects: Effects, now: AgreedTime) -> Effects:
        """Only NEW-VIEW and VIEW-CHANGE pass."""
        if not self.leads:
            return effects
        said: Effects = []
        for effect in effects:
            match effect:
                case Send(_, message) | Broadcast(message) if type(message).__name__ in ("NewView", "ViewChange"):
                    said.append(effect)
                case Send() | Broadcast() | ToClient():
                    self.lied()
                case _:
                    said.append(effect)
        return said


class Reproposer(Forger[SomeOfIt]):
    """Tells some backups another proposal than it made, signed as well, and stands by it: it commits to that one."""

    def __init__(self, means: Means, parameters: SomeOfIt, place: int = 0) -> None:
        super().__init__(means, parameters, place)
        self._told: dict[tuple[View, Sequence], tuple[frozenset[ReplicaId], PrePrepare | None, Digest]] = {}

    def victims(self) -> SequenceOf[ReplicaId]:
        """Who is told the other one."""
        return self.means.peers

    def other(self, proposal: PrePrepare) -> PrePrepare | None:
        """The other one; None: the same for all."""
        raise NotImplementedError

    def _about(self, proposal: PrePrepare) -> tuple[frozenset[ReplicaId], PrePrepare | None, Digest]:
        place = (proposal.view, proposal.sequence)
        if place not in self._told:
            lies = self.choices.random() < self.parameters.share
            other = self.other(proposal) if lies else None
            digest = digest_of(other.time, other.requests) if other is not None else b""
            self._told[place] = (frozenset(self.victims()), other, digest)
            if len(self._told) > REMEMBERED:
                del self._told[next(iter(self._told))]
        return self._told[place]

    def _lies_now(self) -> bool:
        return True  # it is decided for each proposal, once

    def instead(self, to: ReplicaId, message: Message) -> SequenceOf[Message] | None:
        """The other proposal, and COMMIT for it."""
        match message:
            case PrePrepare() if self.means.membership.primary(message.view) == self.means.identity:
                victims, other, _ = self._about(message)
                return [other] if other is not None and to in victims else None
            case Commit():
                known = self._told.get((message.view, message.sequence))
                if known is not None and known[1] is not None and to in known[0]:
                    return [msgspec.structs.replace(message, digest=known[2])]
        return None


class Twins(SomeOfIt, frozen=True):
    """To whom the twin goes."""

    to_one: bool = False
    """Only to one backup, else to half of them."""


@kind("equivocating-primary", Twins)
class Equivocates(Reproposer):
    """Proposes one batch to some backups and another to the rest. Attacks quorum intersection, and the rule that the
    second of two proposals is refused; who got the wrong one can only catch up or change the view."""

    parameters: Twins

    def victims(self) -> SequenceOf[ReplicaId]:
        peers = self.means.peers
        return self.choices.sample(peers, 1 if self.parameters.to_one else len(peers) // 2)

    def other(self, proposal: PrePrepare) -> PrePrepare | None:
        twins: list[dict[str, Any]] = [{"time": proposal.time + 1}, {"requests": []}]
        if len(proposal.requests) > 1:
            twins += [{"requests": proposal.requests[::-1]}, {"requests": proposal.requests[1:]}]
        if not proposal.requests:
            del twins[1]
        return resigned(self.means, proposal, **self.choices.choice(twins))


@kind("repeats-in-batch", SomeOfIt)
class RepeatsInBatch(Reproposer):
    """Proposes each request several times in one batch. Attacks exactly once, where the session only shows what earlier
    batches left."""

    def other(self, proposal: PrePrepare) -> PrePrepare | None:
        if not 0 < len(proposal.requests) <= 300:
            return None
        requests = [request for request in proposal.requests for _ in range(2)] + proposal.requests[:1]
        return resigned(self.means, proposal, requests=requests)


@kind("unsigned-requests", SomeOfIt)
class UnsignedRequests(Reproposer):
    """Proposes requests that nobody signed. Attacks the check that stands between a primary and everybody's objects."""

    def other(self, proposal: PrePrepare) -> PrePrepare | None:
        if not proposal.requests:
            return None
        first, *rest = proposal.requests
        altered = bytearray(first.statement)
        altered[self.choices.randrange(len(altered))] ^= 1
        forged = msgspec.structs.replace(first, statement=bytes(altered))
        unsigned = msgspec.structs.replace(first, signature=self.choices.randbytes(64))
        requests = [self.choices.choice((forged, unsigned)), *rest]
        return resigned(self.means, proposal, requests=requests)


class Withheld(SomeOfIt, frozen=True):
    """From whom."""

    from_all: bool = False
    """From everybody, else from f + 1: one correct backup then has to share with others."""


@kind("withholds-bodies", Withheld)
class WithholdsBodies(Forger[Withheld]):
    """Orders digests and keeps the contents from f + 1 backups, or from all. Attacks the rule that nobody votes for
    what it does not hold, and fetching from others than the primary."""

    def __init__(self, means: Means, parameters: Withheld, place: int = 0) -> None:
        super().__init__(means, parameters, place)
        count = len(means.peers) if parameters.from_all else means.membership.weak
        self._victims = frozenset(means.choices.sample(means.peers, count))

    def instead(self, to: ReplicaId, message: Message) -> SequenceOf[Message] | None:
        """Proposals without bodies, and no answer to those who fetch them."""
        match message:
            case PrePrepare() if to in self._victims and any(request.bodies for request in message.requests):
                bare = [msgspec.structs.replace(request, bodies=[]) for request in message.requests]
                return [msgspec.structs.replace(message, requests=bare)]
            case Bodies() if to in self._victims:
                return []
        return None


@kind("proposes-to-quorum", SomeOfIt)
class ProposesToQuorum(Forger[SomeOfIt]):
    """Leaves f backups out: no proposals, no batches, no votes. Attacks those left out, who must follow by what the
    others say, and must not make them change the view."""

    def __init__(self, means: Means, parameters: SomeOfIt, place: int = 0) -> None:
        super().__init__(means, parameters, place)
        self._victims = frozenset(means.choices.sample(means.peers, means.membership.faults))

    def instead(self, to: ReplicaId, message: Message) -> SequenceOf[Message] | None:
        """Nothing for some."""
        return [] if self.leads and to in self._victims and isinstance(message, PrePrepare | Batch | Commit) else None


@kind("starves-client")
class StarvesClient(Liar[Parameters]):
    """Leaves one client's requests out while it serves all others. Attacks the view timer, which must not only run
    while nothing at all is executed."""

    def __init__(self, means: Means, parameters: Parameters, place: int = 0) -> None:
        super().__init__(means, parameters, place)
        self._victim: bytes | None = None

    def hears(self, sender: object, message: Message | Question, now: AgreedTime) -> bool:
        """Not this client's requests, whoever brings them."""
        if not self.leads or not isinstance(message, Submit | Relay):
            return True
        try:
            session = message.request.parse().session
        except RequestError:
            return True
        if self._victim is None:
            self._victim = session
        if session != self._victim:
            return True
        self.lied()
        return False


@kind("proposes-outside", SomeOfIt)
class ProposesOutside(Liar[SomeOfIt]):
    """Beside each proposal, proposes the same above the high watermark and at the last number there is. Attacks memory
    and the space of numbers."""

    def says(self, effects: Effects, now: AgreedTime) -> Effects:
        """More proposals."""
        said = list(effects)
        for effect in effects:
            match effect:
                case Broadcast(PrePrepare() as proposal) if self.choices.random() < self.parameters.share:
                    for number in (self.replica.ordering.high + 1, 2**63 - 1):
                        said += self.to_all([resigned(self.means, proposal, sequence=number)])
        return said


@kind("skips-numbers", SomeOfIt)
class SkipsNumbers(Liar[SomeOfIt]):
    """Beside its proposals, proposes at some higher number within the watermarks, and later something else there.
    Attacks the assumption that numbers come up one after another; its own core knows nothing of it."""

    def says(self, effects: Effects, now: AgreedTime) -> Effects:
        """More proposals."""
        said = list(effects)
        ordering = self.replica.ordering
        for effect in effects:
            match effect:
                case Broadcast(PrePrepare() as proposal) if (
                    ordering.next <= ordering.high and self.choices.random() < self.parameters.share
                ):
                    number = self.choices.choice((ordering.high, self.choices.randint(ordering.next, ordering.high)))
                    said += self.to_all([resigned(self.means, proposal, sequence=number, plan=None)])
        return said


class WrongTime(Parameters, frozen=True):
    """What its clock shows."""

    ahead_seconds: Annotated[float, msgspec.Meta(ge=-1e8, le=1e8)] = 3600.0
    """Negative: behind."""
    frozen: bool = False
    """Whether it stands still, from when the process started."""


@kind("wrong-clock", WrongTime)
class WrongClock(Liar[WrongTime]):
    """Proposes as another time than it is: an hour ahead, behind, always the same, or just within what backups let
    pass. Attacks expiry and the order of agreed time."""

    def __init__(self, means: Means, parameters: WrongTime, place: int = 0) -> None:
        super().__init__(means, parameters, place)
        self._began: AgreedTime | None = None

    def clock(self, now: AgreedTime) -> AgreedTime:
        """The core believes it too."""
        if self.leads:
            self.lied()
        if self._began is None:
            self._began = now
        shown = self._began if self.parameters.frozen else now
        return AgreedTime(int(shown + self.parameters.ahead_seconds * 1e6))


@kind("careless-primary", NowAndThen)
class CarelessPrimary(Pest[NowAndThen]):
    """Orders requests again that have run. Attacks exactly once: it is the backups' sessions that must stop it."""

    def __init__(self, means: Means, parameters: NowAndThen, place: int = 0) -> None:
        super().__init__(means, parameters, place)
        self._heard: deque[Request] = deque(maxlen=REMEMBERED)
        means.replica.replies.ran = lambda stated: False  # type: ignore[method-assign]
        means.replica.replies.answer_known = lambda *about: None  # type: ignore[method-assign]

    def hears(self, sender: object, message: Message | Question, now: AgreedTime) -> bool:
        """Requests are worth remembering."""
        match message:
            case Submit(request=request) | Relay(request=request):
                self._heard.append(request)
            case PrePrepare(requests=requests):
                self._heard.extend(requests)
        return True

    def pester(self, now: AgreedTime) -> Effects:
        """As if a backup had passed it on."""
        if not self.replica.is_primary or not self._heard:
            return []
        self.lied()
        relay = Relay(self.means.membership.epoch, self.choices.choice(self._heard))
        return [*self.replica.step(Received(self.choices.choice(self.means.peers), relay, now))]

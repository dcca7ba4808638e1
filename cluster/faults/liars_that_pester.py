"""Liars that make work: floods of well-typed messages, of fetches, and of requests that are none."""

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from bft import log
from bft.effects import Broadcast, Send
from bft.messages import (
    MAX_PREFIXES,
    MAX_SPANS,
    Accepted,
    Batch,
    Bodies,
    Certified,
    Checkpoint,
    Commit,
    Decided,
    FetchBatches,
    FetchBodies,
    FetchParts,
    FetchState,
    Message,
    NewView,
    NonceName,
    Nonces,
    Parts,
    Prepare,
    PrePrepare,
    Relay,
    Request,
    SignatureShare,
    SigningPlan,
    Span,
    StableCheckpoint,
    StateChunk,
    StateGone,
    Status,
    ViewChange,
)
from bft.state_tree import Branch, Items
from bft.statement import Digest
from bft.threshold import NonceCommitment
from bft.types import AgreedTime, Epoch, ReplicaId, Sequence, View
from cluster.faults.lying import Effects, Liar, Means, NowAndThen, Pest, kind
from pond.model.tables import BLOCKS, NODES
from pond.protocol import Question, Submit

REMEMBERED = 64

# --- messages of any content -------------------------------------------------------------------------------------


class Anything:
    """Messages that are well-typed and mean nothing, near what is going on or far from it."""

    def __init__(self, liar: Liar[Any]) -> None:
        self._choices: random.Random = liar.choices
        self._liar = liar
        self._epoch = Epoch(liar.means.membership.epoch)
        self._kinds: list[Callable[[], Message]] = [
            lambda: Prepare(self._epoch, self._view(), self._number(), self._some()),
            lambda: Commit(self._epoch, self._view(), self._number(), self._some()),
            lambda: PrePrepare(
                self._epoch, self._view(), self._number(), self._time(), self._requests(), self._plan(), self._some(64)
            ),
            lambda: Checkpoint(self._epoch, self._number(), self._some(), self._some(64)),
            lambda: Nonces(self._epoch, self._view(), self._some(16), self._number(), [self._pair()]),
            lambda: SignatureShare(self._epoch, self._view(), self._number(), self._some()),
            lambda: Certified(self._epoch, self._some(100), self._some(64)),
            self._status,
            lambda: FetchBodies(self._epoch, [self._some()]),
            lambda: Bodies(self._epoch, [self._some(100)]),
            lambda: Relay(self._epoch, self._request()),
            lambda: Decided(self._epoch, self._number(), self._some()),
            lambda: FetchBatches(self._epoch, [(self._number(), self._some())]),
            lambda: Batch(self._epoch, self._number(), self._time(), self._requests()),
            self._stable,
            lambda: self._view_change(self._view()),
            lambda: NewView(
                self._epoch,
                view := self._view(),
                [self._view_change(view)],
                self._number(),
                self._some(),
                [self._some()],
                self._some(64),
            ),
            lambda: FetchState(self._epoch, self._number(), [b""]),
            lambda: StateChunk(
                self._epoch, self._number(), self._time(), self._some(), [(b"", Branch(3, self._some(64)))]
            ),
            lambda: StateChunk(
                self._epoch, self._number(), self._time(), self._some(), [(b"\x01", Items([(b"a", b"b")]))]
            ),
            lambda: StateGone(self._epoch, self._number()),
            lambda: FetchParts(self._epoch, [self._span()]),
            lambda: Parts(self._epoch, [(self._span(), [self._some()])]),
        ]

    def message(self) -> Message:
        """Any one."""
        return self._choices.choice(self._kinds)()

    def _some(self, size: int = 32) -> bytes:
        return self._choices.randbytes(size)

    def _near(self, number: int) -> int:
        around = (0, number - 1, number, number, number + 1, number + 2, number + 50, 2**62, 2**63 - 1)
        return max(0, self._choices.choice(around))

    def _number(self) -> Sequence:
        return Sequence(self._near(self._liar.replica.execution.executed + 1))

    def _view(self) -> View:
        return View(self._near(self._liar.replica.views.view))

    def _time(self) -> AgreedTime:
        return AgreedTime(self._near(self._liar.replica.execution.time))

    def _pair(self) -> NonceCommitment:
        return NonceCommitment(self._some(), self._some())

    def _plan(self) -> SigningPlan | None:
        signer = (ReplicaId(self._choices.randrange(8)), NonceName(self._some(16), 0), self._pair())
        return self._choices.choice((None, SigningPlan([signer, signer])))

    def _request(self) -> Request:
        return Request(self._some(80), self._some(64), [])

    def _requests(self) -> list[Request]:
        return self._choices.choice(([], [self._request()]))

    def _status(self) -> Status:
        yes = self._choices.random() < 0.5
        numbers = (self._number(), self._number(), self._number())
        return Status(
            self._epoch, self._view(), yes, *numbers, self._choices.random() < 0.5, not yes, yes, self._number()
        )

    def _stable(self) -> StableCheckpoint:
        return StableCheckpoint(self._epoch, self._number(), self._some(), [(ReplicaId(1), self._some(64))])

    def _span(self) -> Span:
        return Span(self._choices.choice((BLOCKS, NODES, log.LOG)), self._some(), self._choices.choice((1, 256)))

    def _view_change(self, view: View) -> ViewChange:
        entries = [Accepted(self._number(), self._some(), self._view())]
        held = [(self._number(), self._some())]
        me = self._liar.means.identity
        return ViewChange(self._epoch, view, me, self._stable(), held, entries, entries, self._some(64))


@kind("floods", NowAndThen)
class Floods(Pest[NowAndThen]):
    """Sends many well-typed messages that mean nothing, to one or to all. Attacks memory, time and every refusal."""

    def __init__(self, means: Means, parameters: NowAndThen, place: int = 0) -> None:
        super().__init__(means, parameters, place)
        self._anything = Anything(self)

    def pester(self, now: AgreedTime) -> Effects:
        """A dozen to somebody, or one to all."""
        self.lied()
        if self.choices.random() < 0.2:
            return [Broadcast(self._anything.message())]
        to = self.choices.choice(self.means.peers)
        return [Send(to, self._anything.message()) for _ in range(12)]


@kind("fetch-bomb", NowAndThen)
class FetchBomb(Pest[NowAndThen]):
    """Asks for as much as one message can ask for: batches, bodies, subtrees, parts, of what there is and of what there
    is not. Attacks whoever answers each question in full."""

    def __init__(self, means: Means, parameters: NowAndThen, place: int = 0) -> None:
        super().__init__(means, parameters, place)
        self._known: deque[tuple[Sequence, Digest]] = deque(maxlen=256)

    def hears(self, sender: object, message: Message | Question, now: AgreedTime) -> bool:
        """It asks best for what exists."""
        if isinstance(message, Commit):
            self._known.append((message.sequence, message.digest))
        return True

    def pester(self, now: AgreedTime) -> Effects:
        """One of each to somebody."""
        self.lied()
        epoch = self.means.membership.epoch
        known = [*self._known] * 4
        stable = self.replica.checkpoints.stable
        prefixes = [bytes(self.choices.randrange(16) for _ in range(depth % 4)) for depth in range(MAX_PREFIXES)]
        spans = [Span(BLOCKS, key, 256) for key in self._digests(MAX_SPANS)]
        bombs: list[Message] = [
            FetchBodies(epoch, self._digests(1024)),
            FetchState(epoch, stable, prefixes),
            FetchState(epoch, Sequence(stable + self.means.tuning.interval), [b""] * MAX_PREFIXES),
            FetchParts(epoch, spans),
        ]
        if known:
            bombs.append(FetchBatches(epoch, known))
        to = self.choices.choice(self.means.peers)
        return [Send(to, bomb) for bomb in bombs]

    def _digests(self, count: int) -> list[Digest]:
        """Of nothing that there is."""
        data = self.choices.randbytes(32 * count)
        return [data[start : start + 32] for start in range(0, len(data), 32)]


@kind("relays-junk", NowAndThen)
class RelaysJunk(Pest[NowAndThen]):
    """Passes on requests that ran long ago, that nobody signed, or that are none. Attacks the primary, which must
    neither order them nor stop."""

    def __init__(self, means: Means, parameters: NowAndThen, place: int = 0) -> None:
        super().__init__(means, parameters, place)
        self._heard: deque[Request] = deque(maxlen=REMEMBERED)

    def hears(self, sender: object, message: Message | Question, now: AgreedTime) -> bool:
        """Requests are worth keeping."""
        match message:
            case Submit(request=request):
                self._heard.append(request)
            case PrePrepare(requests=requests):
                self._heard.extend(requests)
        return True

    def pester(self, now: AgreedTime) -> Effects:
        """To everybody, since anybody may be primary."""
        epoch, some = self.means.membership.epoch, self.choices.randbytes
        junk = [Request(some(200), some(64), [])]
        if self._heard:
            old = self.choices.choice(self._heard)
            bare = msgspec.structs.replace(old, bodies=[])
            junk += [old, bare, msgspec.structs.replace(old, signature=some(64))]
            junk.append(msgspec.structs.replace(old, bodies=[b"?"]))
        return self.to_all([Relay(epoch, self.choices.choice(junk))])

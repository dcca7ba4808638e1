"""What turns an honest server into one that lies; `cluster.faults.liars` has the kinds.

A liar is a real core with a `Liar` around it. It sees what comes in before the core does and may keep it from the core;
it sees the core's effects, in their order, before any is performed, and may change, drop, add or hold back any of them.
So one liar runs in the simulator and in a real server: `LyingServer` is a `RingServer`. Up to f of a ring may lie; what
they say of themselves is never checked, only what the correct ones make of it.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import msgspec

from bft.effects import Broadcast, Effect, Send, SetTimer, Timer
from bft.membership import Membership
from bft.messages import Message
from bft.replica import Replica
from bft.signatures import Signer
from bft.tuning import Tuning
from bft.types import AgreedTime, ReplicaId, View
from cluster.faults.manifest import Lasting, Lie, Manifest, ManifestError, Share
from pond.node.ring import RingServer, ToClient
from pond.protocol import Question, Reply, RingQuestion

Effects = list[Effect | ToClient]

WAKE = "liar"
"""Kind of the timers that a liar sets for itself with `wake`."""


class Means(NamedTuple):
    """What a liar has at hand: its own keys and state, and choices that the seed decides."""

    replica: Replica
    membership: Membership
    signer: Signer
    tuning: Tuning
    choices: random.Random
    lies: "Counter[str]"
    """How often each kind has lied so far, through all restarts: a liar that never does tests nothing."""

    @property
    def identity(self) -> ReplicaId:
        """Which server it is."""
        return self.replica.identity

    @property
    def peers(self) -> list[ReplicaId]:
        """All others."""
        return [ReplicaId(peer) for peer in range(self.membership.size) if peer != self.identity]


class Parameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a manifest may set of a kind; a kind that has something to set has a subclass with defaults."""


P = TypeVar("P", bound=Parameters)


class Liar(Generic[P]):
    """One behaviour: an honest server's unless a subclass says otherwise."""

    name = ""
    """What manifests call it."""

    def __init__(self, means: Means, parameters: P, place: int = 0) -> None:
        """`place` tells the lies of one server apart."""
        self.means = means
        self.parameters = parameters
        self._place = place

    # --- what a kind changes ---------------------------------------------------------------------------------------

    def begins(self) -> Effects:
        """What it does when its process starts."""
        return []

    def clock(self, now: AgreedTime) -> AgreedTime:
        """What the core is told about the time."""
        return now

    def hears(self, sender: object, message: Message | Question, now: AgreedTime) -> bool:
        """Whether the core gets what a peer (its ReplicaId) or a client (the shell's handle) sent."""
        return True

    def says(self, effects: Effects, now: AgreedTime) -> Effects:
        """What is done instead of the core's effects; the order of effects is what it is for honest servers."""
        return effects

    def woken(self, number: int, now: AgreedTime) -> Effects:
        """A timer that `wake` made has fired."""
        return []

    # --- what kinds have in common ---------------------------------------------------------------------------------

    @property
    def replica(self) -> Replica:
        """Its own agreement core."""
        return self.means.replica

    @property
    def choices(self) -> random.Random:
        """What the seed decides for it."""
        return self.means.choices

    @property
    def leads(self) -> bool:
        """Whether it is the primary, of a view that has begun or that it is to begin."""
        return self.means.membership.primary(self.replica.views.view) == self.means.identity

    def wake(self, number: int, seconds: float) -> SetTimer:
        """What calls `woken` with this number, after so long."""
        return SetTimer(Timer(WAKE, View(self._place), number), seconds)

    def lied(self, times: int = 1) -> None:
        """It just lied."""
        self.means.lies[self.name] += times

    def to_all(self, messages: Iterable[Message]) -> Effects:
        """Lies for everybody."""
        said = [Broadcast(message) for message in messages]
        self.lied(len(said))
        return [*said]


class SomeOfIt(Parameters, frozen=True):
    """How often it lies."""

    share: Share = 1.0
    """Of the messages that it could lie in."""


S = TypeVar("S", bound=SomeOfIt)


class Forger(Liar[S]):
    """Tells peers, or clients, something else than the core said: message by message, each of them by itself."""

    def instead(self, to: ReplicaId, message: Message) -> Sequence[Message] | None:
        """What a peer is told in place of this; None: just this."""
        return None

    def answer_instead(self, client: object, reply: Reply) -> Sequence[Reply] | None:
        """What a client is told in place of this; None: just this."""
        return None

    def says(self, effects: Effects, now: AgreedTime) -> Effects:
        """Everything else is as it was."""
        said: Effects = []
        for effect in one_by_one(effects, self.means.peers):
            match effect:
                case Send(to, message) if self._lies_now() and (told := self.instead(to, message)) is not None:
                    said += [Send(to, lie) for lie in told]
                    self.lied()
                case ToClient(client, reply) if self._lies_now() and (
                    (answered := self.answer_instead(client, reply)) is not None
                ):
                    said += [ToClient(client, lie) for lie in answered]
                    self.lied()
                case _:
                    said.append(effect)
        return said

    def _lies_now(self) -> bool:
        share = self.parameters.share
        return share == 1.0 or self.choices.random() < share


class NowAndThen(Parameters, frozen=True):
    """How often it comes up with something of its own."""

    every_seconds: Lasting = 0.05
    at_once: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    """How many times each time."""


N = TypeVar("N", bound=NowAndThen)


class Pest(Liar[N]):
    """Tells others, unasked and again and again, what its core knows nothing of."""

    def pester(self, now: AgreedTime) -> Effects:
        """What it has to say now."""
        return []

    def begins(self) -> Effects:
        """It takes its time, not that of the others' timers."""
        return [self.wake(0, self.choices.random() * self.parameters.every_seconds)]

    def woken(self, number: int, now: AgreedTime) -> Effects:
        """Time to say it again."""
        seconds = self.parameters.every_seconds * (0.5 + self.choices.random())
        said = [effect for _ in range(self.parameters.at_once) for effect in self.pester(now)]
        return [*said, self.wake(0, seconds)]


class Kind(NamedTuple):
    """What a manifest's name stands for."""

    parameters: type[Parameters]
    make: Callable[[Means, Any, int], Liar[Any]]


KINDS: dict[str, Kind] = {}

L = TypeVar("L", bound=type[Liar[Any]])


def kind(name: str, parameters: type[Parameters] = Parameters) -> Callable[[L], L]:
    """Registers a class under the name that manifests use."""

    def register(liar: L) -> L:
        assert name not in KINDS, f"two kinds of liar are called {name}"
        liar.name = name
        KINDS[name] = Kind(parameters, liar)
        return liar

    return register


def check(manifest: Manifest) -> None:
    """Raises ManifestError for a kind or parameter that there is not."""
    manifest.check()
    for lie in manifest.liars:
        parameters_of(lie)


def parameters_of(lie: Lie) -> Parameters:
    """Raises ManifestError."""
    known = KINDS.get(lie.kind)
    if known is None:
        raise ManifestError(f"liars: there is no kind {lie.kind!r}, only {', '.join(sorted(KINDS))}")
    try:
        return msgspec.convert(lie.parameters, known.parameters)
    except msgspec.ValidationError as error:
        raise ManifestError(f"liars: {lie.kind}: {error}") from None


def one_by_one(effects: Effects, peers: list[ReplicaId]) -> Iterator[Effect | ToClient]:
    """The same effects, each broadcast as one `Send` per peer, so that each can be told something else."""
    for effect in effects:
        if isinstance(effect, Broadcast):
            yield from (Send(peer, effect.message) for peer in peers)
        else:
            yield effect


class LyingServer(RingServer):
    """A member of the ring that lies, in one way or in several at once."""

    def __init__(self, lies: Sequence[Lie], means: Means) -> None:
        super().__init__(means.replica)
        self._liars = [KINDS[lie.kind].make(means, parameters_of(lie), place) for place, lie in enumerate(lies)]
        self._clock = AgreedTime(0)

    def started(self, now: AgreedTime, start: bytes) -> Effects:
        """The process starts."""
        effects = self._said(super().started(self._told(now), start))
        return effects + [effect for liar in self._liars for effect in liar.begins()]

    def on_peer(self, sender: ReplicaId, message: Message, now: AgreedTime) -> Effects:
        """A message from another replica."""
        now = self._told(now)
        heard = [liar.hears(sender, message, now) for liar in self._liars]
        return self._said(super().on_peer(sender, message, now) if all(heard) else [])

    def on_client(self, client: object, question: RingQuestion, now: AgreedTime, key: str = "") -> Effects:
        """A question from a client."""
        now = self._told(now)
        heard = [liar.hears(client, question, now) for liar in self._liars]
        return self._said(super().on_client(client, question, now, key) if all(heard) else [])

    def on_timer(self, timer: Timer, now: AgreedTime) -> Effects:
        """A timer has fired: a liar's own, or the core's."""
        now = self._told(now)
        if timer.kind == WAKE:
            awake = self._liars[timer.view]
            return self._said(awake.woken(timer.number, now), awake)
        return self._said(super().on_timer(timer, now))

    def on_random(self, data: bytes) -> Effects:
        """Random bytes that were asked for."""
        return self._said(super().on_random(data))

    def burst_ended(self, now: AgreedTime) -> Effects:
        """Nothing more to read for now."""
        return self._said(super().burst_ended(self._told(now)))

    def _told(self, now: AgreedTime) -> AgreedTime:
        for liar in self._liars:
            now = liar.clock(now)
        self._clock = now
        return now

    def _said(self, effects: Effects, besides: Liar[Any] | None = None) -> Effects:
        for liar in self._liars:
            if liar is not besides:
                effects = liar.says(effects, self._clock)
        return effects

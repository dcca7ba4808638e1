"""Servers that lie: the kinds by name, and the hook that turns an honest core into a lying one.

A liar is a real core with a `Liar` around it. It sees what comes in before the core does and may keep it from the core;
it sees the core's effects, in their order, before any is performed, and may change, drop, add or hold back any of them.
So one liar runs in the simulator and in a real server: `LyingServer` is a `RingServer`. Up to f of a ring may lie; what
they say of themselves is never checked, only what the correct ones make of it.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from bft.effects import Broadcast, Effect, Send, SetTimer, Timer
from bft.membership import Membership
from bft.messages import Checkpoint, Commit, Message, Prepare
from bft.replica import Replica
from bft.signatures import Signer
from bft.types import AgreedTime, ReplicaId, View
from cluster.faults.manifest import Lie, Manifest, ManifestError, Share
from pond.node.ring import RingServer, ToClient
from pond.protocol import Question

Effects = list[Effect | ToClient]

WAKE = "liar"
"""Kind of the timers that a liar sets for itself with `wake`."""


class Means(NamedTuple):
    """What a liar has at hand: its own keys and state, and choices that the seed decides."""

    replica: Replica
    membership: Membership
    signer: Signer
    choices: random.Random

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

    def __init__(self, means: Means, parameters: P) -> None:
        self.means = means
        self.parameters = parameters

    def hears(self, sender: object, message: Message | Question, now: AgreedTime) -> bool:
        """Whether the core gets what a peer (its ReplicaId) or a client (the shell's handle) sent."""
        return True

    def says(self, effects: Effects, now: AgreedTime) -> Effects:
        """What is done instead of the core's effects; the order of effects is what it is for honest servers."""
        return effects

    def woken(self, number: int, now: AgreedTime) -> Effects:
        """A timer of kind WAKE has fired."""
        return []


class _Kind(NamedTuple):
    parameters: type[Parameters]
    make: Callable[[Means, Any], Liar[Any]]


KINDS: dict[str, _Kind] = {}

L = TypeVar("L", bound=type[Liar[Any]])


def kind(name: str, parameters: type[Parameters] = Parameters) -> Callable[[L], L]:
    """Registers a class under the name that manifests use."""

    def register(liar: L) -> L:
        assert name not in KINDS, f"two kinds of liar are called {name}"
        KINDS[name] = _Kind(parameters, liar)
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
    """A member of the ring that lies."""

    def __init__(self, lie: Lie, means: Means) -> None:
        super().__init__(means.replica)
        self._liar = KINDS[lie.kind].make(means, parameters_of(lie))
        self._clock = AgreedTime(0)

    def started(self, now: AgreedTime, start: bytes) -> Effects:
        """The process starts."""
        self._clock = now
        return self._liar.says(super().started(now, start), now)

    def on_peer(self, sender: ReplicaId, message: Message, now: AgreedTime) -> Effects:
        """A message from another replica."""
        self._clock = now
        if not self._liar.hears(sender, message, now):
            return []
        return self._liar.says(super().on_peer(sender, message, now), now)

    def on_client(self, client: object, question: Question, now: AgreedTime, key: str = "") -> Effects:
        """A question from a client."""
        self._clock = now
        if not self._liar.hears(client, question, now):
            return []
        return self._liar.says(super().on_client(client, question, now, key), now)

    def on_timer(self, timer: Timer, now: AgreedTime) -> Effects:
        """A timer has fired: the liar's own, or the core's."""
        self._clock = now
        if timer.kind == WAKE:
            return self._liar.woken(timer.number, now)
        return self._liar.says(super().on_timer(timer, now), now)

    def on_random(self, data: bytes) -> Effects:
        """Random bytes that were asked for."""
        return self._liar.says(super().on_random(data), self._clock)

    def burst_ended(self, now: AgreedTime) -> Effects:
        """Nothing more to read for now."""
        self._clock = now
        return self._liar.says(super().burst_ended(now), now)


def wake(number: int, seconds: float) -> SetTimer:
    """What calls `Liar.woken` with this number, after so long."""
    return SetTimer(Timer(WAKE, View(0), number), seconds)


# --- kinds -------------------------------------------------------------------------------------------------------


class SomeOfIt(Parameters, frozen=True):
    """How often it lies."""

    share: Share = 1.0
    """Of the messages that it could lie in."""


@kind("silent", SomeOfIt)
class Silent(Liar[SomeOfIt]):
    """Takes part in everything and says nothing, or only some of it."""

    def says(self, effects: Effects, now: AgreedTime) -> Effects:
        """All but its messages."""
        share, choose = self.parameters.share, self.means.choices.random
        return [
            effect
            for effect in one_by_one(effects, self.means.peers)
            if not isinstance(effect, Send | ToClient) or choose() >= share
        ]


@kind("wrong-votes", SomeOfIt)
class WrongVotes(Liar[SomeOfIt]):
    """Tells some of its peers that it votes for batches that nobody proposed, and for states that nobody has."""

    def says(self, effects: Effects, now: AgreedTime) -> Effects:
        """Another digest in PREPARE, COMMIT and CHECKPOINT."""
        return [self._spoilt(effect) for effect in one_by_one(effects, self.means.peers)]

    def _spoilt(self, effect: Effect | ToClient) -> Effect | ToClient:
        match effect:
            case Send(to, (Prepare() | Commit() | Checkpoint()) as vote):
                if self.means.choices.random() < self.parameters.share:
                    return Send(to, msgspec.structs.replace(vote, digest=bytes(32)))
        return effect

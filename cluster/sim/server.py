"""One ring server on virtual time: the real core, a disk that forgets, a process that can die between two effects.

It does what `pond.node.server` does: decodes what arrived together, steps the core, writes at once, syncs once for all
of it, and sends only then what follows a `Persist`. The same encoders and decoders stand at its edge.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import msgspec

from bft.effects import (
    Broadcast,
    Effect,
    Mark,
    NeedRandom,
    NewCertificate,
    Persist,
    Rejected,
    Send,
    SetTimer,
    Store,
    Timer,
)
from bft.messages import Message
from bft.types import AgreedTime, ReplicaId, Sequence
from cluster.faults import manifest as faults
from cluster.sim.disk import Disk
from cluster.sim.kernel import Kernel
from cluster.sim.network import Network
from cluster.sim.trace import Trace
from pond.node.ring import RingServer, ToClient
from pond.protocol import Question

LINKS_SECONDS = 0.1
"""How often a process looks which of its links are there."""

LAZY_SYNC_SECONDS = 1.0
"""How long what was stored without being persisted waits for a sync of its own."""

INBOX = 4096
"""What may wait for a process that is paused or slow; above it, messages are lost as in a full socket."""

DECODED = 256
"""Messages whose decoding is shared: those of one broadcast are the same bytes, and are received soon after another."""

decode_message: Callable[[bytes], Message] = msgspec.msgpack.Decoder(Message).decode
decode_question: Callable[[bytes], Question] = msgspec.msgpack.Decoder(Question).decode
_encode = msgspec.msgpack.Encoder().encode

_PEER, _CLIENT, _TIMER, _RANDOM, _LINKS = range(5)
_SENDING = frozenset((Send, Broadcast, ToClient))

Effects = list[Effect | ToClient]

Outgoing = Send | Broadcast | ToClient


class Watcher(Protocol):
    """Sees everything that a server does, and raises when it must not."""

    def started(self, server: "Server") -> None:
        """A process has restored what its disk holds."""
        ...

    def asked(self, server: "Server", client: int, question: Question) -> None:
        """A client's question is about to be taken."""
        ...

    def certified(self, server: "Server", effect: NewCertificate) -> None:
        """A step took a certificate."""
        ...

    def durable(self, server: "Server", executed: Sequence) -> None:
        """The batches that it ran, up to this one, no longer wait for a sync."""
        ...

    def leaving(self, server: "Server", effect: Outgoing) -> None:
        """A message leaves, so all that came before it is said to be durable."""
        ...

    def rested(self, server: "Server") -> None:
        """A burst is over."""
        ...


class Surroundings(NamedTuple):
    """What the servers of one run have in common."""

    kernel: Kernel
    network: Network
    trace: Trace
    watcher: Watcher
    servers: int
    epoch_seconds: int
    """What the right clock shows when the run begins."""
    disk: faults.Disk
    pickup_seconds: float
    reached: Counter[tuple[str, str]]
    """(kind, name) of what came up: messages, refusals, points in the life of a batch."""
    decode_message: Callable[[bytes], Message]
    decode_question: Callable[[bytes], Question]
    silent: set[ReplicaId]
    """Those that went down with their machines: nobody has closed their links."""


def _nothing_happens(server: "Server", held: list[Outgoing], after: bool) -> None:
    pass


class Server:
    """A process that may be up or down, and the disk under it, which outlives it."""

    def __init__(
        self,
        identity: ReplicaId,
        around: Surroundings,
        make_core: Callable[["Server"], RingServer],
        clock_offset_seconds: float,
    ) -> None:
        self.identity = identity
        self.disk = Disk()
        self.clock_offset_seconds = clock_offset_seconds
        """How far this server's clock is from the right time."""
        self.slowness = 1.0
        """Factor on the time from a message's arrival until this process looks."""
        self.disk_slowness = 1.0
        self.rotten = False
        """Whether its disk changes what it holds: what such a server runs into is no bug of ours."""
        self.starts = 0
        self.at_sync: Callable[[Server, list[Outgoing], bool], object] = _nothing_happens
        """Called before and after each sync with what it holds back; may kill this server."""
        self._core: RingServer | None = None
        self._around = around
        self._kernel = around.kernel
        self._make_core = make_core
        self._choices = around.kernel.random(f"server {identity}")
        self._peers = [ReplicaId(peer) for peer in range(around.servers) if peer != identity]
        self._inbox: list[tuple[int, int, Any]] = []
        """(what it is, its sender, if it has one, and what it brings)."""
        self._outbox: list[Outgoing] = []
        self._free = 0
        """How much of the outbox came before the first `Persist`."""
        self._must_sync = False
        self._busy = False
        self._lazy = False
        self._dies_after: int | None = None
        self._paused = False
        self._missed: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        """What a paused process will do as soon as it goes on."""
        self._failing = ""
        """How the disk fails: at the next use the process steps aside."""
        self._frozen_at: float | None = None
        self._reached: frozenset[ReplicaId] = frozenset()

    # --- life and death --------------------------------------------------------------------------------------------

    @property
    def up(self) -> bool:
        """Whether the process runs."""
        return self._core is not None

    @property
    def core(self) -> RingServer:
        """What the process has in memory."""
        assert self._core is not None, f"server {self.identity} is down"
        return self._core

    @property
    def dying(self) -> bool:
        """Whether it is about to die."""
        return self._dies_after is not None or self._failing != ""

    def now(self) -> AgreedTime:
        """This server's wall clock, in microseconds."""
        since = self._kernel.now if self._frozen_at is None else self._frozen_at
        return AgreedTime(int((self._around.epoch_seconds + since + self.clock_offset_seconds) * 1_000_000))

    def start(self) -> None:
        """Start the process on what the disk holds."""
        assert self._core is None, f"server {self.identity} is started while it runs"
        self.starts += 1
        self._around.trace.note("start", self.identity)
        self._inbox, self._outbox = [], []
        self._must_sync = self._busy = self._lazy = self._paused = False
        self._missed.clear()
        self._failing = ""
        self._free = 0
        self._core = self._make_core(self)
        try:
            effects = self._core.started(self.now(), self._choices.randbytes(16))
        except Exception as error:
            self._give_up(error)
            return
        self._around.network.attach(self.identity, self._receive)
        self._around.silent.discard(self.identity)
        self._reached = frozenset()
        self._look_at_links(self.starts)
        self._around.watcher.started(self)
        self._busy = True
        self._gather(effects)
        self._finish()

    def spare(self) -> None:
        """Undo what was to make it die, if it is not too late."""
        self._dies_after = None
        self._failing = ""

    def die_within(self, effects: int) -> None:
        """The process dies once it has sent so many more messages, before the next."""
        self._dies_after = effects

    def die(self) -> None:
        """The power goes now."""
        assert self._core is not None, f"server {self.identity} dies while it is down"
        self._core = None
        self._dies_after = None
        self._around.network.detach(self.identity)
        if self._choices.random() < 0.5:
            self._around.silent.add(self.identity)
        lost = self.disk.crash(self._choices, self._around.disk.unsynced)
        self._around.trace.note("crash", self.identity, lost)

    def pause(self) -> None:
        """The process stands still; what it would do waits, and so does what is sent to it."""
        self._paused = True
        self._around.trace.note("pause", self.identity)

    def resume(self) -> None:
        """It goes on where it was, if it stood still."""
        if not self._paused:
            return
        self._paused = False
        self._around.trace.note("resume", self.identity)
        missed, self._missed = self._missed, []
        for callback, arguments in missed:
            self._kernel.after(0.0, callback, *arguments)

    def fail_disk(self, how: str) -> None:
        """The next read or write fails: the server steps aside, as a real one stops, and waits to be started again."""
        self._failing = how

    def freeze_clock(self) -> None:
        """The wall clock stands still; timers do not."""
        if self._frozen_at is None:
            self._frozen_at = self._kernel.now

    def thaw_clock(self) -> None:
        """It shows again what it would have shown."""
        self._frozen_at = None

    def _step_aside(self) -> None:
        self._around.trace.note("disk", self.identity, self._failing)
        self.die()

    def _give_up(self, error: Exception) -> None:
        """Only a server whose disk lies to it may fail in any other way than by a crash."""
        if not self.rotten:
            raise error
        self._around.trace.note("failed", self.identity, type(error).__name__)
        if self.identity in self._around.network:
            self.die()
        else:
            self._core = None

    # --- what comes in ---------------------------------------------------------------------------------------------

    def _receive(self, sender: int, data: bytes) -> None:
        try:
            if sender < 0:
                question = self._around.decode_question(data)
                self._around.reached["client message", type(question).__name__] += 1
                self._take(_CLIENT, sender, question)
            else:
                message = self._around.decode_message(data)
                self._around.reached["message", type(message).__name__] += 1
                self._take(_PEER, sender, message)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._around.trace.note("undecodable", sender, self.identity, str(error))

    def _on_timer(self, start: int, timer: Timer) -> None:
        if start == self.starts and self._core is not None:
            self._take(_TIMER, 0, timer)

    def _look_at_links(self, start: int) -> None:
        if start != self.starts or self._core is None:
            return
        network, silent = self._around.network, self._around.silent
        linked = frozenset(peer for peer in self._peers if peer in network or peer in silent)
        self._reached |= linked
        lost = self._reached - linked
        if lost != self._core.unreachable:
            self._around.trace.note("links lost", self.identity, str(sorted(lost)))
            self._take(_LINKS, 0, lost)
        self._kernel.after(LINKS_SECONDS, self._look_at_links, start)

    def _take(self, what: int, sender: int, content: Any) -> None:
        if len(self._inbox) >= INBOX:
            self._around.trace.note("overflow", self.identity)
            return
        self._inbox.append((what, sender, content))
        if not self._busy:
            self._busy = True
            self._look_soon()

    def _look_soon(self) -> None:
        self._kernel.after(self._around.pickup_seconds * self.slowness, self._burst, self.starts)

    def _burst(self, start: int) -> None:
        core = self._core
        if core is None or start != self.starts:
            return
        if self._paused:
            self._missed.append((self._burst, (start,)))
            return
        if self._failing and self._choices.random() < 0.5:
            self._step_aside()  # a read failed in the middle of a step, of which nothing was performed
            return
        inbox, self._inbox = self._inbox, []
        now = self.now()
        try:
            for what, sender, content in inbox:
                if what == _PEER:
                    effects = core.on_peer(ReplicaId(sender), content, now)
                elif what == _CLIENT:
                    self._around.watcher.asked(self, sender, content)
                    effects = core.on_client(sender, content, now)
                elif what == _TIMER:
                    effects = core.on_timer(content, now)
                elif what == _LINKS:
                    effects = core.links_lost(content, now)
                else:
                    effects = core.on_random(content)
                if effects:
                    self._gather(effects)
            effects = core.burst_ended(now)
        except Exception as error:
            self._give_up(error)
            return
        if effects:
            self._gather(effects)
        self._finish()

    # --- what goes out ---------------------------------------------------------------------------------------------

    def _gather(self, effects: Effects) -> None:
        """Do at once what the next step builds on; keep what is to be sent."""
        for effect in effects:
            kind = type(effect)
            if kind in _SENDING:
                self._outbox.append(effect)  # type: ignore[arg-type]
                continue
            match effect:
                case Persist(writes):
                    self.disk.write(writes)
                    if not self._must_sync:
                        self._must_sync = True
                        self._free = len(self._outbox)
                case Store(writes):
                    self.disk.write(writes)
                case SetTimer(timer, seconds):
                    self._kernel.after(seconds, self._on_timer, self.starts, timer)
                case NeedRandom(size):
                    self._inbox.append((_RANDOM, 0, self._choices.randbytes(size)))
                case NewCertificate():
                    self._around.watcher.certified(self, effect)
                case Mark(sequence, point):
                    self._around.reached["point", point] += 1
                    if point == "executed":
                        self._around.trace.note("executed", self.identity, sequence)
                        if not self._must_sync:
                            self._around.watcher.durable(self, sequence)
                case Rejected(sender, reason):
                    self._around.reached["refusal", reason] += 1
                    self._around.trace.note("refused", self.identity, str(sender), reason)

    def _finish(self) -> None:
        """The end of a burst: what came before any `Persist` may leave, all else waits for the sync."""
        outbox, self._outbox = self._outbox, []
        if not self._must_sync:
            self._sync_later()
            self._release(outbox)
            self._rest()
            return
        free, held = outbox[: self._free], outbox[self._free :]
        self._must_sync = False
        self._release(free)
        seconds = self._around.disk.sync_seconds * self.disk_slowness * (0.5 + self._choices.random())
        self._kernel.after(seconds, self._synced, self.starts, held)

    def _synced(self, start: int, held: list[Outgoing]) -> None:
        if self._core is None or start != self.starts:
            return
        if self._paused:
            self._missed.append((self._synced, (start, held)))
            return
        if self._failing:
            self._step_aside()
            return
        if not self._sync(held):
            return
        self._around.trace.note("synced", self.identity)
        self._around.watcher.durable(self, self.core.replica.execution.executed)
        self._release(held)
        self._rest()

    def _sync_later(self) -> None:
        if self.disk.unsynced and not self._lazy:
            self._lazy = True
            self._kernel.after(LAZY_SYNC_SECONDS, self._lazy_sync, self.starts)

    def _lazy_sync(self, start: int) -> None:
        if self._core is not None and start == self.starts:
            self._lazy = False
            if not self._busy:
                self._sync([])

    def _sync(self, held: list[Outgoing]) -> bool:
        """Whether the process outlives it."""
        self.at_sync(self, held, False)
        if self._core is None:
            return False
        self.disk.sync()
        self.at_sync(self, held, True)
        return self._core is not None

    def _release(self, effects: list[Outgoing]) -> None:
        watcher, network, identity = self._around.watcher, self._around.network, self.identity
        for effect in effects:
            if self._dies_after is not None:
                if self._dies_after == 0:
                    self.die()
                    return
                self._dies_after -= 1
            watcher.leaving(self, effect)
            match effect:
                case Send(to, message):
                    network.send(identity, to, _encode(message))
                case Broadcast(message):
                    data = _encode(message)
                    for to in self._peers:
                        network.send(identity, to, data)
                case ToClient(client, reply):
                    assert isinstance(client, int)
                    self._around.reached["client message", type(reply).__name__] += 1
                    network.send(identity, client, _encode(reply))

    def _rest(self) -> None:
        if self._core is None:
            return
        self._busy = bool(self._inbox)
        self._around.watcher.rested(self)
        if self._inbox:
            self._look_soon()

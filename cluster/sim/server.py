"""One ring server on virtual time: the real core, a disk that forgets, a process that can die between two effects.

It does what `pond.node.server` does: decodes what arrived together, steps the core, writes at once, syncs once for all
of it, and sends only then what follows a `Persist`. The same encoders and decoders stand at its edge.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec

from bft.effects import Broadcast, Effect, NeedRandom, Persist, Rejected, Send, SetTimer, Store, Timer
from bft.messages import Message
from bft.types import AgreedTime, ReplicaId
from cluster.sim.disk import Disk
from cluster.sim.kernel import Kernel
from cluster.sim.network import Network
from cluster.sim.trace import Trace
from pond.node.ring import RingServer, ToClient
from pond.protocol import Question

LAZY_SYNC_SECONDS = 1.0
"""How long what was stored without being persisted waits for a sync of its own."""

_messages = msgspec.msgpack.Decoder(Message)
_questions = msgspec.msgpack.Decoder(Question)
_encode = msgspec.msgpack.Encoder().encode

Effects = list[Effect | ToClient]


class Watcher(Protocol):
    """Sees everything that a server does, and raises when it must not."""

    def started(self, server: "Server") -> None:
        """A process has restored what its disk holds."""
        ...

    def asked(self, server: "Server", client: int, question: Question) -> None:
        """A client's question is about to be taken."""
        ...

    def stepped(self, server: "Server", effects: Effects) -> None:
        """One step was taken; nothing of it has been performed."""
        ...

    def leaving(self, server: "Server", effect: Send | Broadcast | ToClient) -> None:
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


class Server:
    """A process that may be up or down, and the disk under it, which outlives it."""

    def __init__(
        self,
        identity: ReplicaId,
        around: Surroundings,
        make_core: Callable[["Server"], RingServer],
        pickup_seconds: float,
        sync_seconds: float,
        clock_offset_seconds: float,
    ) -> None:
        self.identity = identity
        self.disk = Disk()
        self.clock_offset_seconds = clock_offset_seconds
        """How far this server's clock is from the right time."""
        self.starts = 0
        self._core: RingServer | None = None
        self._around = around
        self._kernel = around.kernel
        self._make_core = make_core
        self._pickup_seconds = pickup_seconds
        self._sync_seconds = sync_seconds
        self._choices = around.kernel.random(f"server {identity}")
        self._peers = [ReplicaId(peer) for peer in range(around.servers) if peer != identity]
        self._inbox: list[Callable[[RingServer], Effects]] = []
        self._outbox: list[Send | Broadcast | ToClient] = []
        self._free = 0
        """How much of the outbox came before the first `Persist`."""
        self._must_sync = False
        self._busy = False
        self._lazy = False
        self._dies_after: int | None = None
        around.network.attach(identity, self._receive)

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

    def now(self) -> AgreedTime:
        """This server's wall clock, in microseconds."""
        seconds = self._around.epoch_seconds + self._kernel.now + self.clock_offset_seconds
        return AgreedTime(int(seconds * 1_000_000))

    def start(self) -> None:
        """Start the process on what the disk holds."""
        assert self._core is None, f"server {self.identity} is started while it runs"
        self.starts += 1
        self._around.trace.note("start", self.identity)
        self._inbox, self._outbox = [], []
        self._must_sync = self._busy = self._lazy = False
        self._free = 0
        self._core = self._make_core(self)
        effects = self._core.started(self.now(), self._choices.randbytes(16))
        self._around.watcher.started(self)
        self._busy = True
        self._gather(effects)
        self._finish()

    @property
    def dying(self) -> bool:
        """Whether `die_within` is at work."""
        return self._dies_after is not None

    def spare(self) -> None:
        """Undo `die_within`, if it is not too late."""
        self._dies_after = None

    def die_within(self, effects: int) -> None:
        """The process dies once it has sent so many more messages, before the next."""
        self._dies_after = effects

    def die(self) -> None:
        """The power goes now."""
        assert self._core is not None, f"server {self.identity} dies while it is down"
        self._core = None
        self._dies_after = None
        lost = self.disk.crash(self._choices)
        self._around.trace.note("crash", self.identity, lost)

    # --- what comes in ---------------------------------------------------------------------------------------------

    def _receive(self, sender: int, data: bytes) -> None:
        trace = self._around.trace
        if self._core is None:
            trace.note("down", sender, self.identity, data)
            return
        trace.note("message", sender, self.identity, data)
        try:
            if sender < 0:
                self._take(self._question_step(sender, _questions.decode(data)))
            else:
                message = _messages.decode(data)
                self._take(lambda core: core.on_peer(ReplicaId(sender), message, self.now()))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            trace.note("undecodable", sender, self.identity, str(error))

    def _question_step(self, client: int, question: Question) -> Callable[[RingServer], Effects]:
        def step(core: RingServer) -> Effects:
            self._around.watcher.asked(self, client, question)
            return core.on_client(client, question, self.now())

        return step

    def _on_timer(self, start: int, timer: Timer) -> None:
        if start == self.starts and self._core is not None:
            self._take(lambda core: core.on_timer(timer, self.now()))

    def _take(self, step: Callable[[RingServer], Effects]) -> None:
        self._inbox.append(step)
        if not self._busy:
            self._busy = True
            self._kernel.after(self._pickup_seconds, self._burst, self.starts)

    def _burst(self, start: int) -> None:
        core = self._core
        if core is None or start != self.starts:
            return
        inbox, self._inbox = self._inbox, []
        for step in inbox:
            effects = step(core)
            if effects:
                self._gather(effects)
        effects = core.burst_ended(self.now())
        if effects:
            self._gather(effects)
        self._finish()

    # --- what goes out ---------------------------------------------------------------------------------------------

    def _gather(self, effects: Effects) -> None:
        """Do at once what the next step builds on; keep what is to be sent."""
        self._around.watcher.stepped(self, effects)
        for effect in effects:
            match effect:
                case Send() | Broadcast() | ToClient():
                    self._outbox.append(effect)
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
                    data = self._choices.randbytes(size)
                    self._inbox.append(lambda core, data=data: core.on_random(data))  # type: ignore[misc]
                case Rejected(sender, reason):
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
        seconds = self._sync_seconds * (0.5 + self._choices.random())
        self._kernel.after(seconds, self._synced, self.starts, held)

    def _synced(self, start: int, held: list[Send | Broadcast | ToClient]) -> None:
        if self._core is None or start != self.starts:
            return
        self.disk.sync()
        self._around.trace.note("synced", self.identity)
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
                self.disk.sync()

    def _release(self, effects: list[Send | Broadcast | ToClient]) -> None:
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
                    network.send(identity, client, _encode(reply))

    def _rest(self) -> None:
        if self._core is None:
            return
        self._busy = bool(self._inbox)
        self._around.watcher.rested(self)
        if self._inbox:
            self._kernel.after(self._pickup_seconds, self._burst, self.starts)

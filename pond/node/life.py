"""One life of a server: its core with all that this has in memory, its storage, and what waits to be written and sent.

A burst of messages is stepped through the core, and what the core wants written is written. Then one sync serves the
whole burst, and only after it everything that waited for it is sent: the group commit of design.md, 5.

A life ends when anything in it fails. Its memory is ahead of its disk then, so nothing of it is used any more; the next
one begins from what was synced last, as after a crash of the process.
"""

import asyncio
import os
from collections.abc import Callable
from time import perf_counter, time_ns
from typing import NamedTuple, ParamSpec, TypeAlias

import msgspec

from bft.effects import (
    Broadcast,
    Effect,
    Executed,
    Mark,
    NeedRandom,
    Persist,
    Rejected,
    Send,
    SetTimer,
    Store,
    Timer,
    ViewChanged,
)
from bft.messages import Bodies, PrePrepare
from bft.types import AgreedTime
from pond.node.disk import Disk
from pond.node.metrics import Metrics
from pond.node.phases import Phases
from pond.node.ring import RingServer, ToClient
from pond.protocol import Blocks, History, Reply, ServerStatus
from pond.storage import Storage

OUTBOX_BYTES = 16 * 1024 * 1024
"""Blocks and history that wait to be sent at the end of a burst, at most: above it the burst ends early."""

LAZY_SYNC_SECONDS = 1.0
"""How long what can be computed again from the log may stay unsynced when no vote forces a sync."""

ROOM_SECONDS = 1.0
"""How often the disk is asked how much room it has: what agreement alone writes meanwhile is far below the reserve."""

Outgoing: TypeAlias = Send | Broadcast | ToClient | ViewChanged
"""What leaves this life, for others or for the log, once what came before it is on the disk."""
P = ParamSpec("P")


def wall_clock() -> AgreedTime:
    """Microseconds since 1970-01-01 UTC."""
    return AgreedTime(time_ns() // 1000)


class Room(NamedTuple):
    """What the storage takes on the disk, and how much more it may."""

    disk_bytes: int
    free_bytes: int


class Life:
    """A core at work on its storage. Construct it inside a running event loop."""

    def __init__(
        self,
        core: RingServer,
        storage: Storage,
        disk: Disk,
        reserve_bytes: int,
        metrics: Metrics,
        send: Callable[[Outgoing], None],
        refused: Callable[[object, str], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """`disk` is what the core reads of `storage`; uploads leave `reserve_bytes` of it free.

        `failed` is called once, when the life has ended by itself.
        """
        self.core = core
        self.disk = disk
        self._storage = storage
        self._reserve_bytes = reserve_bytes
        self._metrics = metrics
        self._send = send
        self._refused = refused
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._phases = Phases()
        self._step_seconds = 0.0
        self._ran_batch = False
        self._room = Room(0, 0)
        self._ended = False
        self._outbox: list[Outgoing | Mark] = []
        self._outbox_bytes = 0
        self._must_sync = False
        self._finishing = False
        self._timers: set[asyncio.TimerHandle] = set()
        self._lazy_sync: asyncio.TimerHandle | None = None

    def status(self) -> ServerStatus:
        """How the server is, as far as it knows by itself: also after its end, as its memory has it."""
        return msgspec.structs.replace(self.core.status(0), **self._measures())

    def begin(self) -> None:
        """The core takes up what its disk holds."""
        self._guarded(self._look_for_room)
        self.take(self.core.started, wall_clock(), os.urandom(16))

    def take(self, step: Callable[P, list[Effect | ToClient]], *args: P.args, **kwargs: P.kwargs) -> None:
        """One step of the core, and its effects; the burst's end follows once all that is ready has been read."""
        if self._ended:
            return
        began = perf_counter()
        self._ran_batch = False
        try:
            self._perform(step(*args, **kwargs))
        except Exception as error:
            self._fail(error)
            return
        self._step_seconds = perf_counter() - began
        if self._ran_batch:
            self._metrics.step("apply", self._step_seconds)
        if self._outbox_bytes > OUTBOX_BYTES:
            self._finish()
        elif not self._finishing:
            self._finishing = True
            self._loop.call_soon(self._finish)

    def update_arrived(self) -> None:
        """The step just taken was the arrival of a client's update."""
        self._metrics.step("validate", self._step_seconds)
        if self.core.replica.queued:
            self._phases.admitted()

    def stop(self) -> None:
        """The end that was asked for: what is under way is written, synced and sent. Raises StorageError."""
        self._finish()
        if self._ended:
            return
        try:
            self._storage.commit()
        finally:
            self.end()

    def end(self) -> None:
        """Let go of the storage; nothing more is written or sent."""
        self._ended = True
        self._outbox.clear()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._storage.close()

    def _fail(self, error: Exception) -> None:
        self.end()
        self._failed(error)

    # --- what the core wants done ----------------------------------------------------------------------------------

    def _perform(self, effects: list[Effect | ToClient]) -> None:
        for effect in effects:
            match effect:
                case Send() | Broadcast() | ToClient() | Mark() | ViewChanged():
                    self._outbox.append(effect)
                    self._outbox_bytes += _size_bytes(effect)
                case Persist(writes):
                    self.disk.write(writes)
                    self._must_sync = True
                case Store(writes):
                    self.disk.write(writes)
                    self._sync_later()
                case SetTimer(timer, seconds):
                    self._later(seconds, self._on_timer, timer)
                case NeedRandom(size):
                    self._loop.call_soon(self.take, self.core.on_random, os.urandom(size))
                case Rejected(sender, reason):
                    self._refused(sender, reason)
                case Executed(_, _, answers):
                    self._ran_batch = True
                    self._metrics.batches.inc()
                    self._metrics.requests.inc(len(answers))

    def _later(self, seconds: float, work: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> asyncio.TimerHandle:
        """As call_later, while this life lasts."""

        def fire() -> None:
            self._timers.discard(handle)
            work(*args, **kwargs)

        handle = self._loop.call_later(seconds, fire)
        self._timers.add(handle)
        return handle

    def _on_timer(self, timer: Timer) -> None:
        self.take(self.core.on_timer, timer, wall_clock())

    def _finish(self) -> None:
        """The end of a burst: propose, sync once, then send all that waited for the sync."""
        self._finishing = False
        if self._ended:
            return
        try:
            self._perform(self.core.burst_ended(wall_clock()))
            if self._must_sync:
                self._sync()
            self._send_all()
        except Exception as error:
            self._fail(error)

    def _sync(self) -> None:
        self._storage.sync()
        self._must_sync = False
        if self._lazy_sync is not None:
            self._lazy_sync.cancel()
            self._timers.discard(self._lazy_sync)
            self._lazy_sync = None

    def _sync_later(self) -> None:
        if self._lazy_sync is None:
            self._lazy_sync = self._later(LAZY_SYNC_SECONDS, self._guarded, self._sync)

    def _look_for_room(self) -> None:
        self._room = Room(self._storage.disk_bytes(), self._storage.free_bytes())
        self._metrics.free_bytes.set(self._room.free_bytes)
        self.core.uploads.has_room(self._room.free_bytes - self._reserve_bytes)
        self._later(ROOM_SECONDS, self._guarded, self._look_for_room)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._fail(error)

    def _send_all(self) -> None:
        for effect in self._outbox:
            match effect:
                case Mark(sequence, point):
                    phase = self._phases.mark(sequence, point)
                    if phase is not None:
                        self._metrics.phase_seconds.labels(phase.name).observe(phase.seconds)
                case ToClient(client, reply):
                    self._send(ToClient(client, self._measured(reply)))
                case _:
                    self._send(effect)
        self._outbox.clear()
        self._outbox_bytes = 0

    def _measured(self, reply: Reply) -> Reply:
        return msgspec.structs.replace(reply, **self._measures()) if isinstance(reply, ServerStatus) else reply

    def _measures(self) -> dict[str, object]:
        """What a status tells and only the process knows: disk use and times."""
        return {**self._room._asdict(), "phases": self._phases.means()}


def _size_bytes(effect: Outgoing | Mark) -> int:
    """About how much an effect will send, of those that may be large."""
    match effect:
        case ToClient(_, Blocks(_, blocks)):
            return sum(len(block) for block in blocks if block is not None)
        case ToClient(_, History(_, _, _, outcomes)):
            return sum(len(outcome) + len(root or b"") for outcome, root in outcomes)
        case Send(_, Bodies(_, bodies)):
            return sum(map(len, bodies))
        case Send(_, PrePrepare(_, _, _, _, requests)):
            return sum(len(request.statement) for request in requests)
    return 0

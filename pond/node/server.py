"""The process around a ring server's core: sockets, disk, clock, random bytes. It performs effects and decides nothing.

One burst of messages is taken from the sockets, each is decoded once and stepped through the core, and what the core
wants written is written. Then one sync serves the whole burst, and only after it everything that waited for it is sent:
the group commit of design.md, 5.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from time import time_ns
from typing import ParamSpec

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
from bft.key_share import decode as decode_share
from bft.log import LOG, META, STATE
from bft.membership import Membership
from bft.messages import Bodies, Message, PrePrepare
from bft.replica import Replica
from bft.signatures import Ed25519Signer, Ed25519Verifier
from bft.threshold import Frost
from bft.types import AgreedTime, Epoch, ReplicaId
from pond import config, keys
from pond.errors import ClusterDamaged, StorageDamaged, Unavailable
from pond.logs import Log
from pond.node.metrics import Metrics, MetricsPort
from pond.node.phases import Phases
from pond.node.ring import RingServer, ToClient
from pond.node.service import TABLES as SERVICE_TABLES
from pond.node.service import Service
from pond.protocol import MAX_MESSAGE_BYTES, Blocks, History, Question, Reply, ServerStatus
from pond.storage import Storage
from pond.transport import ClientPort, PeerPort, Remote

TABLES = (LOG, META, STATE, *SERVICE_TABLES)

OUTBOX_BYTES = 16 * 1024 * 1024
"""Blocks and history that wait to be sent at the end of a burst, at most: above it the burst ends early."""

STORE = "store"
STARTED = "started"
"""Names in a server's directory: its storage, and a file that says that the storage has been opened once."""

LAZY_SYNC_SECONDS = 1.0
"""How long what can be computed again from the log may stay unsynced when no vote forces a sync."""

P = ParamSpec("P")

_messages = msgspec.msgpack.Decoder(Message)
_questions = msgspec.msgpack.Decoder(Question)
_encode = msgspec.msgpack.Encoder().encode


def wall_clock() -> AgreedTime:
    """Microseconds since 1970-01-01 UTC."""
    return AgreedTime(time_ns() // 1000)


def _open_storage(directory: Path) -> Storage:
    """The server's storage. One that was there at an earlier start must be there again: a server that begins anew has
    forgotten its votes, and could vote differently (design.md, rule 1)."""
    marker = directory / STARTED
    if marker.exists() and not (directory / STORE / "data.mdb").exists():
        raise StorageDamaged(
            f"{directory / STORE} is empty, and this server has run before: it lost its votes; restore the directory"
            " from a copy made while it was stopped"
        )
    storage = Storage(directory / STORE, TABLES)
    if not marker.exists():
        keys.write_durably(marker, b"", replace=True)
    return storage


class Server:
    """One ring server, as found in its directory. Raises NotFound, UsageError, ClusterDamaged or StorageError."""

    def __init__(self, directory: Path, log: Log) -> None:
        settings = config.read(directory / "node.json", config.NodeConfig)
        cluster = config.read((directory / settings.cluster).resolve(), config.ClusterFile)
        seed = keys.read_key(directory / "node.key", keys.Kind.NODE)
        share, public = decode_share(keys.read_key(directory / "share.key", keys.Kind.SHARE))
        signer = Ed25519Signer(seed)
        membership = Membership(
            bytes(cluster.ring_id),
            Epoch(cluster.epoch),
            bytes(cluster.ring_key),
            tuple(bytes(member.public_key) for member in cluster.members),
        )
        if settings.id >= membership.size or membership.replicas[settings.id] != signer.public_key:
            raise ClusterDamaged(f"the key in {directory} is not that of server {settings.id}: restore the directory")
        if public.group_public_key != membership.ring_key or share.identifier != settings.id + 1:
            raise ClusterDamaged(f"the key share in {directory} is not of this ring: restore the directory")
        self._log = log
        self._seed = seed
        self._member = cluster.members[settings.id]
        self._members = {member.id: Remote(bytes(member.public_key), member.peer_address) for member in cluster.members}
        self._storage = _open_storage(directory)
        scheme = Frost(share, public)
        replica = Replica(
            ReplicaId(settings.id), membership, signer, Ed25519Verifier(), scheme, Service(), self._storage
        )
        self._core = RingServer(replica, shutil.disk_usage(directory).free // 2)
        self._metrics = Metrics()
        self._metrics.follow(replica)
        self._phases = Phases()
        self._outbox: list[Send | Broadcast | ToClient | Mark] = []
        self._outbox_bytes = 0
        self._must_sync = False
        self._lazy_sync: asyncio.TimerHandle | None = None
        self._finishing = False

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; what was acknowledged is on disk when this returns.

        Raises StorageError when the disk refuses, Unavailable when a port is taken.
        """
        self._loop = asyncio.get_running_loop()
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop)
        with contextlib.ExitStack() as open_ports:
            open_ports.callback(self._storage.close)
            try:
                self._peers = PeerPort(self._seed, self._member.peer_address, self._on_peers, MAX_MESSAGE_BYTES)
                open_ports.callback(self._peers.close)
                self._clients = ClientPort(self._seed, self._member.client_address, self._on_clients, MAX_MESSAGE_BYTES)
                open_ports.callback(self._clients.close)
                host, port = self._member.metrics_address.rsplit(":", 1)
                open_ports.callback(MetricsPort(self._metrics.registry, host, int(port)).close)
            except OSError as error:
                raise Unavailable(
                    f"{error}: another program has the port; stop it, or start this server later"
                ) from None
            self._peers.set_members(self._members)
            self._take(self._core.started, wall_clock(), os.urandom(16))
            self._log.info("started", executed=self._core.replica.execution.executed, pid=os.getpid())
            await self._stopped
            self._finish()
            self._storage.sync()
            self._log.info("stopped", executed=self._core.replica.execution.executed)

    def _stop(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)

    def _fail(self, error: Exception) -> None:
        """What must not be survived: a disk that refuses, or an assertion of our own. Nothing more is sent."""
        self._outbox.clear()
        if not self._stopped.done():
            self._stopped.set_exception(error)

    # --- what comes in ---------------------------------------------------------------------------------------------

    def _on_peers(self, burst: list[tuple[int, bytes]]) -> None:
        now = wall_clock()
        for sender, data in burst:
            try:
                message = _messages.decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                self._refused(sender, f"undecodable message: {error}")
                continue
            self._metrics.messages.labels(type(message).__name__, "in").inc()
            self._take(self._core.on_peer, ReplicaId(sender), message, now)

    def _on_clients(self, burst: list[tuple[bytes, str, bytes]]) -> None:
        now = wall_clock()
        for client, key, data in burst:
            try:
                question = _questions.decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                self._refused(key, f"undecodable question: {error}")
                continue
            self._metrics.messages.labels(type(question).__name__, "in").inc()
            self._take(self._core.on_client, client, question, now)

    def _on_timer(self, timer: Timer) -> None:
        self._take(self._core.on_timer, timer, wall_clock())

    def _take(self, step: Callable[P, list[Effect | ToClient]], *args: P.args, **kwargs: P.kwargs) -> None:
        """One step of the core, and its effects; the burst's end follows once all that is ready has been read."""
        if self._stopped.done():
            return
        try:
            self._perform(step(*args, **kwargs))
        except Exception as error:
            self._fail(error)
            return
        if self._outbox_bytes > OUTBOX_BYTES:
            self._finish()
        elif not self._finishing:
            self._finishing = True
            self._loop.call_soon(self._finish)

    def _refused(self, sender: object, reason: str) -> None:
        self._metrics.rejected.labels(re.sub(r"\d+", "N", reason.partition(":")[0])).inc()
        self._log.warning("refused", sender=str(sender), reason=reason)

    # --- what goes out ---------------------------------------------------------------------------------------------

    def _perform(self, effects: list[Effect | ToClient]) -> None:
        for effect in effects:
            match effect:
                case Send() | Broadcast() | ToClient() | Mark():
                    self._outbox.append(effect)
                    self._outbox_bytes += _size_bytes(effect)
                case Persist(writes):
                    self._storage.write(writes)
                    self._must_sync = True
                case Store(writes):
                    self._storage.write(writes)
                    self._sync_later()
                case SetTimer(timer, seconds):
                    self._loop.call_later(seconds, self._on_timer, timer)
                case NeedRandom(size):
                    self._loop.call_soon(self._take, self._core.on_random, os.urandom(size))
                case Rejected(sender, reason):
                    self._refused(sender, reason)
                case Executed(_, _, answers):
                    self._metrics.batches.inc()
                    self._metrics.requests.inc(len(answers))
                case ViewChanged(view, primary, active, why):
                    if active:
                        self._metrics.views.inc()
                    self._log.info("view", view=view, primary=primary, active=active, why=why)

    def _finish(self) -> None:
        """The end of a burst: propose, sync once, then send all that waited for the sync."""
        self._finishing = False
        if self._stopped.done() and self._stopped.exception() is not None:
            return
        try:
            self._perform(self._core.burst_ended(wall_clock()))
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
            self._lazy_sync = None

    def _sync_later(self) -> None:
        if self._lazy_sync is None:
            self._lazy_sync = self._loop.call_later(LAZY_SYNC_SECONDS, self._guarded_sync)

    def _guarded_sync(self) -> None:
        try:
            self._sync()
        except Exception as error:
            self._fail(error)

    def _send_all(self) -> None:
        for effect in self._outbox:
            match effect:
                case Send(to, message):
                    self._sent(message)
                    self._peers.send(to, _encode(message))
                case Broadcast(message):
                    self._sent(message)
                    data = _encode(message)
                    for member in self._members:
                        if member != self._member.id:
                            self._peers.send(member, data)
                case ToClient(client, reply):
                    self._sent(reply)
                    assert isinstance(client, bytes)
                    self._clients.send(client, _encode(self._measured(reply)))
                case Mark(sequence, point):
                    phase = self._phases.mark(sequence, point)
                    if phase is not None:
                        self._metrics.phase_seconds.labels(phase.name).observe(phase.seconds)
        self._outbox.clear()
        self._outbox_bytes = 0

    def _sent(self, message: object) -> None:
        self._metrics.messages.labels(type(message).__name__, "out").inc()

    def _measured(self, reply: Reply) -> Reply:
        """A status, with what only the process knows: disk use and times."""
        if not isinstance(reply, ServerStatus):
            return reply
        return msgspec.structs.replace(reply, disk_bytes=self._storage.disk_bytes(), phases=self._phases.means())


def _size_bytes(effect: Send | Broadcast | ToClient | Mark) -> int:
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

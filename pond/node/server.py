"""The process of a ring server: its ports, its log and its metrics, which outlast what the disk does to it.

What the server thinks and remembers is a `Life`. When the disk is full, fails or lies, the life ends and the server
steps aside: it keeps its ports open, tells how it is, sends clients elsewhere and does not hear its peers. It looks
again and again whether the disk is well, and then a new life begins from what was synced, which to all others is a
server that crashed and came back.
"""

import asyncio
import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import NamedTuple

import msgspec

from bft.effects import Broadcast, Send, ViewChanged
from bft.execution import StateDamaged
from bft.key_share import decode as decode_share
from bft.log import LOG, META, STATE
from bft.membership import Membership
from bft.messages import Message
from bft.recovery import lost_votes
from bft.replica import Replica
from bft.signatures import Ed25519Signer, Ed25519Verifier
from bft.threshold import Frost
from bft.types import Epoch, ReplicaId
from pond import config, keys
from pond.errors import (
    ClusterDamaged,
    PondError,
    StorageBusy,
    StorageDamaged,
    StorageError,
    StorageFull,
    StorageRotten,
    StorageUnusable,
    Unavailable,
)
from pond.logs import Log
from pond.node.disk import Disk
from pond.node.life import Life, Outgoing, wall_clock
from pond.node.metrics import Metrics, MetricsPort, kind_of_refusal
from pond.node.overlay import Overlay, running
from pond.node.ring import RingServer, ToClient
from pond.node.service import TABLES as SERVICE_TABLES
from pond.node.service import Service
from pond.protocol import (
    MAX_MESSAGE_BYTES,
    Condition,
    GetStatus,
    OverlayQuestion,
    Overloaded,
    Question,
    Refused,
    Reply,
    RingQuestion,
    ServerStatus,
    Submit,
)
from pond.servers import listed
from pond.storage import DATA_FILE, Storage
from pond.transport import ClientPort, PeerPort, Remote
from tapestry.guid import GUID

TABLES = (LOG, META, STATE, *SERVICE_TABLES)

STORE = "store"
STARTED = "started"
LOST = "lost-votes"
DAMAGED = "store.damaged"
"""Names in a server's directory: its storage; a file that says that the storage has been opened once; one that says
that it is gone and its successor has not been told yet; and the last one that was found damaged."""

LOOK_SECONDS = 2.0
LONGEST_LOOK_SECONDS = 60.0
"""How long a server that stepped aside waits before it looks at its disk: short beside the time that people take to
make room. Twice as long each time when it did not stay well for LONGEST_LOOK_SECONDS, since a new life reads all of
the state."""

VERIFY_SECONDS = 20.0
"""How long a start may take to look at the structure of the whole storage: about a million pages of keys."""

RESERVE_BYTES = 64 * 1024 * 1024
RESERVE_SHARE = 10
"""Room that is kept for ordering, or this part of the quota where that is less: uploads must leave it free. A server
whose disk was full comes back when half of it is free, so that it does not step aside again at once."""

LINKS_SECONDS = 0.1
"""How often a server looks whether its links to peers are there: as often as it looks whether it is stuck."""

ELSEWHERE_MS = 5000
"""When a client that was sent elsewhere may come again."""

_messages = msgspec.msgpack.Decoder(Message)
_questions = msgspec.msgpack.Decoder(Question)
_encode = msgspec.msgpack.Encoder().encode


class _Aside(NamedTuple):
    """Why the server is not at work, and how it was when it still was."""

    condition: Condition
    since: float
    """Time of the event loop."""
    status: ServerStatus


def _reserve_bytes(quota_bytes: int | None) -> int:
    return RESERVE_BYTES if quota_bytes is None else min(RESERVE_BYTES, quota_bytes // RESERVE_SHARE)


def _open_storage(directory: Path, quota_bytes: int | None, verify_seconds: float) -> Storage:
    """The server's storage. When one that was there at an earlier start is not there again, this server has forgotten
    its votes and could vote differently (design.md, rule 1), so that it has to follow in silence for a while."""
    marker, lost = directory / STARTED, directory / LOST
    if marker.exists() and not (directory / STORE / DATA_FILE).exists():
        keys.write_durably(lost, b"", replace=True)
    storage = Storage(directory / STORE, TABLES, quota_bytes, verify_seconds)
    if lost.exists():
        storage.write(lost_votes())
        storage.sync()
        lost.unlink()
    if not marker.exists():
        keys.write_durably(marker, b"", replace=True)
    return storage


def _set_aside(directory: Path) -> Path:
    """Take a storage that cannot be trusted out of the way, for whoever wants to look into it, and say so durably: what
    comes in its place begins without votes."""
    keys.write_durably(directory / LOST, b"", replace=True)
    kept = directory / DAMAGED
    shutil.rmtree(kept, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        (directory / STORE).rename(kept)
    return kept


def _check_well(storage: Storage, free: int, needed: int) -> None:
    """A disk that refused before must take a write and have room. Raises StorageError."""
    if free < needed:
        raise StorageFull(
            f"{free} bytes are free for this server's data, and it goes on when {needed} are: make room on its disk, or"
            " raise quota_bytes in its node.json"
        )
    storage.try_disk()


class Server:
    """One ring server, as found in its directory. Raises NotFound, UsageError or ClusterDamaged."""

    def __init__(self, directory: Path, log: Log) -> None:
        settings = config.read(directory / "node.json", config.NodeConfig)
        cluster = config.read((directory / settings.cluster).resolve(), config.ClusterFile)
        self._seed = keys.read_key(directory / "node.key", keys.Kind.NODE)
        self._share, self._public = decode_share(keys.read_key(directory / "share.key", keys.Kind.SHARE))
        self._signer = Ed25519Signer(self._seed)
        self._membership = Membership(
            bytes(cluster.ring_id),
            Epoch(cluster.epoch),
            bytes(cluster.ring_key),
            tuple(bytes(member.public_key) for member in cluster.members),
        )
        if settings.role != "ring":
            raise ClusterDamaged(f"{directory} is not of a ring server: restore the directory")
        if settings.id >= self._membership.size or self._membership.replicas[settings.id] != self._signer.public_key:
            raise ClusterDamaged(f"the key in {directory} is not that of server {settings.id}: restore the directory")
        if self._public.group_public_key != self._membership.ring_key or self._share.identifier != settings.id + 1:
            raise ClusterDamaged(f"the key share in {directory} is not of this ring: restore the directory")
        self._directory = directory
        self._log = log
        self._identity = ReplicaId(settings.id)
        self._member = cluster.members[settings.id]
        self._members = {member.id: Remote(bytes(member.public_key), member.peer_address) for member in cluster.members}
        self._listed = listed(cluster)
        self._metrics = Metrics()
        self._overlay: Overlay | None = None
        self._life: Life | None = None
        self._aside: _Aside | None = None
        self._verify_seconds = VERIFY_SECONDS
        self._has_served = False
        self._alive_since = 0.0
        self._look_seconds = LOOK_SECONDS
        self._reached: frozenset[int] = frozenset()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; what was acknowledged is on disk when this returns.

        Raises StorageError when the storage cannot be used at all, Unavailable when a port is taken.
        """
        self._loop = asyncio.get_running_loop()
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop)
        with contextlib.ExitStack() as opened:
            opened.callback(self._end_life)
            self._live()
            if not self._stopped.done():
                self._open_ports(opened)
            await self._stopped
            if self._life is not None:
                self._life.stop()
                self._log.info("stopped", executed=self._life.core.replica.execution.executed)

    def _open_ports(self, opened: contextlib.ExitStack) -> None:
        try:
            self._peers = PeerPort(self._seed, self._member.peer_address, self._on_peers, MAX_MESSAGE_BYTES)
            opened.callback(self._peers.close)
            self._clients = ClientPort(self._seed, self._member.client_address, self._on_clients, MAX_MESSAGE_BYTES)
            opened.callback(self._clients.close)
            host, port = self._member.metrics_address.rsplit(":", 1)
            opened.callback(MetricsPort(self._metrics.registry, host, int(port)).close)
            own = self._listed[self._identity]
            overlay = running(own, self._listed, self._seed, self._metrics.registry, self._log)
            self._overlay = opened.enter_context(overlay)
        except OSError as error:
            raise Unavailable(f"{error}: another program has the port; stop it, or start this server later") from None
        self._peers.set_members(self._members)
        self._look_at_links()

    def _stop(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)

    # --- lives, and standing aside ---------------------------------------------------------------------------------

    def _live(self) -> None:
        """Begin a life from what the disk holds, or step aside."""
        try:
            life = self._life = self._conceived()
        except Exception as error:
            self._failed(error)
            return
        if self._aside is not None:
            self._look_seconds = min(2 * self._look_seconds, LONGEST_LOOK_SECONDS)
        life.begin()
        if self._life is not life:
            return
        executed = life.core.replica.execution.executed
        self._has_served = True
        self._alive_since = self._loop.time()
        if self._aside is None:
            self._log.info("started", executed=executed, pid=os.getpid())
        else:
            seconds = round(self._alive_since - self._aside.since, 1)
            self._log.info("back", after=self._aside.condition, seconds=seconds, executed=executed)
        self._aside = None
        self._metrics.follow(life.core.replica)

    def _conceived(self) -> Life:
        """A life that is yet to begin. Raises StorageError, also when the disk is there and not well."""
        quota_bytes = config.read(self._directory / "node.json", config.NodeConfig).quota_bytes
        reserve_bytes = _reserve_bytes(quota_bytes)
        gone = not (self._directory / STORE / DATA_FILE).exists() and not (self._directory / LOST).exists()
        if self._has_served and gone:
            raise StorageError(f"{self._directory / STORE} is gone: mount its disk again")
        storage = _open_storage(self._directory, quota_bytes, self._verify_seconds)
        if self._verify_seconds and not storage.verified:
            self._log.warning("storage not verified", seconds=self._verify_seconds)
        self._verify_seconds = 0  # a start is when much may have happened to the disk, and when there is time
        try:
            free = storage.free_bytes()
            if self._aside is not None:
                self._metrics.free_bytes.set(free)
                status = msgspec.structs.replace(self._aside.status, free_bytes=free)
                self._aside = self._aside._replace(status=status)
                _check_well(storage, free, reserve_bytes // 2)
            for table in (LOG, META, STATE):
                storage.check_whole(table)
            disk = Disk(storage)
            replica = Replica(
                self._identity,
                self._membership,
                self._signer,
                Ed25519Verifier(),
                Frost(self._share, self._public),
                Service(),
                disk,
            )
            core = RingServer(replica, free // 2)
            return Life(core, storage, disk, reserve_bytes, self._metrics, self._send, self._refused, self._failed)
        except BaseException:
            storage.close()
            raise

    def _end_life(self) -> None:
        if self._life is not None:
            self._life.end()

    def _failed(self, error: Exception) -> None:
        """A life has ended by itself, or could not begin."""
        condition = self._condition_after(error)
        if condition is None:
            if not self._stopped.done():
                self._stopped.set_exception(error)
            return
        self._step_aside(condition, str(error))
        if condition is Condition.DISK_DAMAGED:
            self._damaged(error)
        else:
            self._loop.call_later(self._look_seconds, self._live)

    def _condition_after(self, error: Exception) -> Condition | None:
        """What the server says of itself after an error that it survives; None when it has to end."""
        match error:
            case StorageFull():
                return Condition.DISK_FULL
            case StorageDamaged() | StorageRotten() | StateDamaged():
                return Condition.DISK_DAMAGED
            case StorageBusy() | StorageUnusable() if self._aside is None:
                return None
            case StorageError():
                return Condition.DISK_FAILING
            case PondError() | OSError() if self._aside is not None:
                return self._aside.condition
        return None

    def _damaged(self, error: Exception) -> None:
        """What our votes rest on is lost or changed. What that disk says is not used again, since we could vote
        differently (design.md, rule 1): the server begins anew, with what the others have, and silent for a while. A
        disk that takes not even a note of that, as a full one, is asked again; nothing is begun on it before."""
        try:
            kept = _set_aside(self._directory)
        except OSError as refused:
            self._log.error("damaged storage is still in place", reason=str(error), refused=str(refused))
            self._look_seconds = min(2 * self._look_seconds, LONGEST_LOOK_SECONDS)
            self._loop.call_later(self._look_seconds, self._damaged, error)
            return
        self._log.error("disk damaged", reason=str(error), kept=str(kept.name))
        self._loop.call_later(self._look_seconds, self._live)

    def _step_aside(self, condition: Condition, detail: str) -> None:
        now = self._loop.time()
        life, self._life = self._life, None
        self._metrics.follow(None)
        if self._aside is not None:
            status = self._aside.status
        elif life is not None:
            status = life.status()
        else:
            status = self._status_at_first()
        if self._aside is None and now - self._alive_since > LONGEST_LOOK_SECONDS:
            self._look_seconds = LOOK_SECONDS
        if self._aside is None or self._aside.condition is not condition:
            self._metrics.stepped_aside.labels(condition).inc()
            self._log.warning("stepped aside", condition=condition, reason=detail)
        status = msgspec.structs.replace(status, condition=condition, detail=detail, view_active=False, upload_bytes=0)
        self._aside = _Aside(condition, now if self._aside is None else self._aside.since, status)

    def _status_at_first(self) -> ServerStatus:
        """Of a server that has not been at work since its start."""
        return ServerStatus(
            0, self._identity, 0, 0, 0, 0, 0, 0, GUID(bytes(32)), 0, 0, 0, {}, Condition.SERVING, "", 0, False
        )

    # --- what comes in ---------------------------------------------------------------------------------------------

    def _on_peers(self, burst: list[tuple[int, bytes]]) -> None:
        now = wall_clock()
        for sender, data in burst:
            if self._life is None:
                return
            try:
                message = _messages.decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                self._refused(sender, f"undecodable message: {error}")
                continue
            self._metrics.message(type(message), "in")
            self._life.take(self._life.core.on_peer, ReplicaId(sender), message, now)

    def _on_clients(self, burst: list[tuple[bytes, str, bytes]]) -> None:
        now = wall_clock()
        self._metrics.client_bytes.labels("in").inc(sum(len(data) for _, _, data in burst))
        for client, key, data in burst:
            try:
                question = _questions.decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                self._refused(key, f"undecodable question: {error}")
                continue
            self._metrics.message(type(question), "in")
            life = self._life
            if isinstance(question, OverlayQuestion):
                self._ask_overlay(client, question)
            elif life is not None:
                life.take(life.core.on_client, client, question, now, key)
                if isinstance(question, Submit):
                    life.update_arrived()
            elif self._aside is not None:
                self._send(ToClient(client, self._answer_aside(question, self._aside.status)))

    def _ask_overlay(self, client: bytes, question: OverlayQuestion) -> None:
        if self._overlay is None:
            self._send(ToClient(client, Refused(question.ask, "the cluster file gives this server no overlay address")))
        else:
            self._overlay.ask(question, lambda reply: self._send(ToClient(client, reply)))

    def _answer_aside(self, question: RingQuestion, status: ServerStatus) -> Reply:
        """How it is; to all else, that another server be asked: a refusal would count as a word about the question."""
        if isinstance(question, GetStatus):
            return msgspec.structs.replace(status, ask=question.ask)
        return Overloaded(question.ask, ELSEWHERE_MS)

    def _refused(self, sender: object, reason: str) -> None:
        self._metrics.rejected.labels(kind_of_refusal(reason)).inc()
        self._log.warning("refused", sender=str(sender), reason=reason)

    def _look_at_links(self) -> None:
        """A peer that was reached and is not any longer may have died: the core hears of it."""
        reached = self._peers.connected
        self._reached |= reached
        lost = frozenset(map(ReplicaId, self._reached - reached))
        if self._life is not None and lost != self._life.core.unreachable:
            self._life.take(self._life.core.links_lost, lost, wall_clock())
        self._loop.call_later(LINKS_SECONDS, self._look_at_links)

    # --- what goes out ---------------------------------------------------------------------------------------------

    def _send(self, effect: Outgoing) -> None:
        match effect:
            case Send(to, message):
                self._sent(message)
                self._peers.send(to, _encode(message))
            case Broadcast(message):
                self._sent(message)
                data = _encode(message)
                for member in self._members:
                    if member != self._identity:
                        self._peers.send(member, data)
            case ViewChanged(view, primary, active, why):
                if active:
                    self._metrics.views.inc()
                self._log.info("view", view=view, primary=primary, active=active, why=why)
            case ToClient(client, reply):
                self._sent(reply)
                assert isinstance(client, bytes)
                data = _encode(reply)
                self._metrics.client_bytes.labels("out").inc(len(data))
                self._clients.send(client, data)

    def _sent(self, message: object) -> None:
        self._metrics.message(type(message), "out")

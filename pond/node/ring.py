"""A ring server's core: agreement, the store it orders for, and what clients ask, as one state machine without I/O.

The server (`pond.node.server`) and the simulator drive the same object: typed messages from authenticated senders come
in, effects go out, to be performed in order (bft.effects). Answers to clients leave as `ToClient`.
"""

from typing import NamedTuple

from bft.effects import (
    AnswerClient,
    BurstEnded,
    Effect,
    LinksLost,
    NewCertificate,
    Persist,
    RandomBytes,
    Received,
    Rejected,
    Requested,
    SetTimer,
    Started,
    Store,
    Timer,
    TimerFired,
)
from bft.messages import Message, Parts
from bft.replica import OVERLOADED, Replica
from bft.types import AgreedTime, ReplicaId, Sequence, View
from pond.errors import StorageRotten
from pond.model.block import MAX_CIPHERTEXT_BYTES, bguid
from pond.model.tables import BLOCKS, NODES
from pond.node.condition import DIVERGED, condition
from pond.node.reads import Reads
from pond.node.scrub import Scrub
from pond.node.uploads import UPLOAD_BYTES, UPLOAD_COST_BYTES, Uploads, account_of
from pond.protocol import (
    MAX_ANSWER_BYTES,
    Answered,
    Blocks,
    BlocksHeld,
    BlocksKept,
    GetBlocks,
    GetStatus,
    KeepBlocks,
    Overloaded,
    PutBlocks,
    ReadHistory,
    ReadObject,
    Refused,
    Reply,
    RingQuestion,
    ServerStatus,
    Submit,
)

RETRY_AFTER_MS = 50
"""When a client that was told of overload should come again: a few batches later."""

RETRY_UPLOAD_MS = 2000
"""The same where room has to be made for uploads first."""

WAITING_READS = 4096
"""Reads that wait for a certificate; above it the answer is overload."""

ROTTEN = "what this server holds of the object is damaged: ask another server"

SWEEP = Timer("uploads", View(0))

SCRUB = Timer("scrub", View(0))
SCRUB_SECONDS = 0.1


class ToClient(NamedTuple):
    """Send this answer to a client; `client` is the shell's handle."""

    client: object
    reply: Reply


class _Asker(NamedTuple):
    """Where the answer to a request goes: a client's connection and its number for the question."""

    client: object
    ask: int


_TRANSLATED = frozenset((AnswerClient, Rejected, NewCertificate, Store))
"""Effects that clients have to do with; most have not."""


class _WaitingRead(NamedTuple):
    needed: Sequence
    client: object
    question: ReadObject | ReadHistory


class RingServer:
    """One member of the ring as its peers and clients see it."""

    def __init__(self, replica: Replica, upload_limit_bytes: int = UPLOAD_BYTES) -> None:
        """`upload_limit_bytes`: what clients may make this server hold before an update names it."""
        self.replica = replica
        self._disk = replica.disk
        self._reads = Reads(replica.disk)
        self._waiting: list[_WaitingRead] = []
        self.uploads = Uploads(replica.disk, upload_limit_bytes)
        self.scrub = Scrub(replica.identity, replica.membership, replica.disk)
        self._suspects: set[tuple[str, bytes]] = set()

    # --- events ----------------------------------------------------------------------------------------------------

    def started(self, now: AgreedTime, start: bytes) -> list[Effect | ToClient]:
        """The process starts: `now` is its wall clock, `start` 16 random bytes that name this start."""
        self.uploads.restore(now)
        sweep = SetTimer(SWEEP, self.uploads.sweep_after_seconds)
        walk = SetTimer(SCRUB, SCRUB_SECONDS)
        return [*self._translate(self.replica.step(Started(now, start))), sweep, walk]

    def on_peer(self, sender: ReplicaId, message: Message, now: AgreedTime) -> list[Effect | ToClient]:
        """A message from another replica, whose link says who it is."""
        if isinstance(message, Parts) and not self.replica.recovery.transfer.busy:
            return [*self.scrub.on_parts(sender, message)]
        return self._translate(self.replica.step(Received(sender, message, now)))

    def on_client(
        self, client: object, question: RingQuestion, now: AgreedTime, key: str = ""
    ) -> list[Effect | ToClient]:
        """A question from a client, which may be anybody; uploads go on the account of its link's CURVE key."""
        match question:
            case Submit(ask, request):
                return self._translate(self.replica.step(Requested(_Asker(client, ask), request, now)))
            case PutBlocks(ask, blocks):
                return self._on_put_blocks(client, ask, blocks, now, account_of(key))
            case KeepBlocks(ask, guids):
                return self._on_keep_blocks(client, ask, guids, now)
            case GetBlocks(ask, guids):
                return [ToClient(client, Blocks(ask, self._blocks(guids)))]
            case ReadObject():
                needed = self.replica.ordering.committing if question.linearizable else Sequence(0)
                return self._read(_WaitingRead(needed, client, question))
            case ReadHistory():
                return self._read(_WaitingRead(Sequence(0), client, question))
            case GetStatus(ask):
                return [ToClient(client, self.status(ask))]

    def on_timer(self, timer: Timer, now: AgreedTime) -> list[Effect | ToClient]:
        """A timer that was set has fired."""
        if timer == SWEEP:
            return self._sweep_uploads(now)
        if timer == SCRUB:
            return [*self._scrub(now), SetTimer(SCRUB, SCRUB_SECONDS)]
        return self._translate(self.replica.step(TimerFired(timer, now)))

    def on_random(self, data: bytes) -> list[Effect | ToClient]:
        """Random bytes that were asked for."""
        return self._translate(self.replica.step(RandomBytes(data)))

    @property
    def unreachable(self) -> frozenset[ReplicaId]:
        """The replicas that this server's messages do not reach any longer, as far as it was told."""
        return self.replica.suspicion.unreachable

    def links_lost(self, replicas: frozenset[ReplicaId], now: AgreedTime) -> list[Effect | ToClient]:
        """Whom the links that were once there do not reach now."""
        return self._translate(self.replica.step(LinksLost(replicas, now)))

    def burst_ended(self, now: AgreedTime) -> list[Effect | ToClient]:
        """Nothing more to read for now."""
        return self._translate(self.replica.step(BurstEnded(now)))

    # --- effects ---------------------------------------------------------------------------------------------------

    def _translate(self, effects: list[Effect]) -> list[Effect | ToClient]:
        """Agreement's answers in the client protocol's words; all else as it is, in the same order."""
        translated: list[Effect | ToClient] = []
        for effect in effects:
            if type(effect) not in _TRANSLATED:
                translated.append(effect)
                continue
            match effect:
                case AnswerClient(_Asker(client, ask), answer, certificate, place):
                    translated.append(ToClient(client, Answered(ask, answer, certificate, place)))
                case Rejected(_Asker(client, ask), reason):
                    overloaded = reason == OVERLOADED
                    reply = Overloaded(ask, RETRY_AFTER_MS) if overloaded else Refused(ask, reason)
                    translated += [effect, ToClient(client, reply)]
                case NewCertificate():
                    translated += [effect, *self._flush_reads()]
                case Store(writes):
                    self.uploads.count(writes)
                    translated.append(effect)
                case _:
                    translated.append(effect)
        return translated

    # --- reads -----------------------------------------------------------------------------------------------------

    def _read(self, read: _WaitingRead) -> list[Effect | ToClient]:
        if self.replica.checkpoints.diverged_at is not None:
            return [ToClient(read.client, Refused(read.question.ask, DIVERGED))]
        provable = self.replica.execution.provable
        if provable is not None and provable.sequence >= read.needed:
            try:
                return [ToClient(read.client, self._reads.answer(read.question, provable))]
            except StorageRotten as rotten:
                self._suspects.add((rotten.table, rotten.key))
                return [ToClient(read.client, Refused(read.question.ask, ROTTEN))]
        if len(self._waiting) >= WAITING_READS:
            return [ToClient(read.client, Overloaded(read.question.ask, RETRY_AFTER_MS))]
        self._waiting.append(read)
        return []

    def _flush_reads(self) -> list[Effect | ToClient]:
        waiting, self._waiting = self._waiting, []
        return [effect for read in waiting for effect in self._read(read)]

    def _blocks(self, guids: list[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = []
        room = MAX_ANSWER_BYTES
        for guid in guids:
            block = self._block(guid)
            room -= len(block) if block is not None else 0
            if found and room < 0:
                break
            found.append(block)
        return found

    def _block(self, guid: bytes) -> bytes | None:
        """A block or a tree node; None when it is not here, or has rotted: the client asks another server then."""
        try:
            block = self._disk.get(BLOCKS, guid)  # which may be empty
            return self._disk.get(NODES, guid) if block is None else block
        except StorageRotten as rotten:
            self._suspects.add((rotten.table, rotten.key))
            return None

    # --- self-repair -----------------------------------------------------------------------------------------------

    def _scrub(self, now: AgreedTime) -> list[Effect]:
        """A little of the walk; what readers met with is looked at first. A state that is being fetched is no state."""
        suspects, self._suspects = self._suspects, set()
        if self.replica.recovery.transfer.busy:
            return []
        tree = self.replica.execution.tree
        effects = [effect for table, key in sorted(suspects) for effect in self.scrub.suspect(table, key, tree)]
        return [*effects, *self.scrub.tick(tree, now)]

    # --- blocks that travel ahead ------------------------------------------------------------------------------------

    def _on_put_blocks(
        self, client: object, ask: int, blocks: list[bytes], now: AgreedTime, account: bytes
    ) -> list[Effect | ToClient]:
        if any(len(block) > MAX_CIPHERTEXT_BYTES for block in blocks):
            return [ToClient(client, Refused(ask, f"a block is larger than {MAX_CIPHERTEXT_BYTES} bytes"))]
        named = {bguid(block): block for block in blocks}
        fresh = {guid: block for guid, block in named.items() if self._disk.size(BLOCKS, guid) is None}
        size = sum(len(block) + UPLOAD_COST_BYTES for block in fresh.values())
        if fresh and self.uploads.refuses(account, size):
            return [ToClient(client, Overloaded(ask, RETRY_UPLOAD_MS))]
        writes = tuple(self.uploads.put(fresh, [guid for guid in named if guid not in fresh], now, account))
        arrived = self.replica.bodies_arrived(writes, now)
        self.uploads.count(writes)
        return [Persist(writes), ToClient(client, BlocksHeld(ask)), *self._translate(arrived)]

    def _on_keep_blocks(self, client: object, ask: int, guids: list[bytes], now: AgreedTime) -> list[Effect | ToClient]:
        held, writes = self.uploads.keep(guids, now)
        answer = ToClient(client, BlocksKept(ask, [guid in held for guid in guids]))
        arrived = self.replica.bodies_arrived(writes, now)
        self.uploads.count(writes)
        return [Persist(writes), answer, *self._translate(arrived)]  # what came with an update may not be synced yet

    def _sweep_uploads(self, now: AgreedTime) -> list[Effect | ToClient]:
        writes = self.uploads.sweep(now, self.replica.named_bodies)
        return [Store(writes), SetTimer(SWEEP, self.uploads.sweep_after_seconds)]

    # --- how it is -------------------------------------------------------------------------------------------------

    def status(self, ask: int) -> ServerStatus:
        """All but what only the process knows: its disk, and the time that things take."""
        replica = self.replica
        certified = replica.execution.certified
        how, detail = condition(replica, self.scrub)
        return ServerStatus(
            ask,
            replica.identity,
            replica.views.view,
            replica.membership.primary(replica.views.view),
            replica.execution.executed,
            certified.sequence if certified is not None else 0,
            replica.ordering.stable,
            replica.execution.time,
            replica.execution.tree.root,
            len(replica.execution.tree),
            replica.queued,
            0,
            {},
            how,
            detail,
            0,
            replica.views.active,
            self.uploads.room_bytes,
        )

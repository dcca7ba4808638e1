"""A ring server's core: agreement, the store it orders for, and what clients ask, as one state machine without I/O.

The server (`pond.node.server`) and the simulator drive the same object: typed messages from authenticated senders come
in, effects go out, to be performed in order (bft.effects). Answers to clients leave as `ToClient`.
"""

from typing import NamedTuple

from bft.effects import (
    AnswerClient,
    BurstEnded,
    Effect,
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
    Write,
)
from bft.messages import Message
from bft.replica import OVERLOADED, Replica
from bft.types import AgreedTime, ReplicaId, Sequence, View
from pond.errors import StorageRotten
from pond.model.block import MAX_CIPHERTEXT_BYTES, bguid
from pond.model.tables import BLOCKS, NODES
from pond.node.condition import DIVERGED, condition
from pond.node.reads import Reads
from pond.node.service import UPLOADS
from pond.protocol import (
    MAX_ANSWER_BYTES,
    Answered,
    Blocks,
    BlocksHeld,
    GetBlocks,
    GetStatus,
    Overloaded,
    PutBlocks,
    Question,
    ReadHistory,
    ReadObject,
    Refused,
    Reply,
    ServerStatus,
    Submit,
)

RETRY_AFTER_MS = 50
"""When a client that was told of overload should come again: a few batches later."""

RETRY_UPLOAD_MS = 2000
"""The same where room has to be made on a disk first."""

WAITING_READS = 4096
"""Reads that wait for a certificate; above it the answer is overload."""

UPLOAD_BYTES = 64 * 1024**3
"""Blocks held for updates that have not run yet, at most, where the disk has room; above it the answer is overload."""

UPLOAD_COST_BYTES = 256
"""What a block takes on the disk beside its own bytes, about: many small ones count for what they cost."""

UPLOAD_SECONDS = 7200
"""How long a block waits for an update to commit with it. Longer than the log keeps an idle ring's batches, so that a
server that catches up from the log still finds the blocks of updates that came to nothing."""

ROTTEN = "what this server holds of the object is damaged: ask another server"

SWEEP_SECONDS = 60.0
SWEEP = Timer("uploads", View(0))


class ToClient(NamedTuple):
    """Send this answer to a client; `client` is the shell's handle."""

    client: object
    reply: Reply


class _Asker(NamedTuple):
    """Where the answer to a request goes: a client's connection and its number for the question."""

    client: object
    ask: int


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
        self._uploaded_bytes = 0
        self._upload_limit_bytes = min(UPLOAD_BYTES, upload_limit_bytes)
        self._spare_bytes = UPLOAD_BYTES

    # --- events ----------------------------------------------------------------------------------------------------

    def started(self, now: AgreedTime, start: bytes, lost_votes: bool = False) -> list[Effect | ToClient]:
        """The process starts: `now` is its wall clock, `start` 16 random bytes that name this start; `lost_votes` says
        that its storage is not the one that it voted with."""
        self._uploaded_bytes = sum(self._cost_bytes(guid) for guid, _ in self._uploads())
        return [*self._translate(self.replica.step(Started(now, start, lost_votes))), SetTimer(SWEEP, SWEEP_SECONDS)]

    def on_peer(self, sender: ReplicaId, message: Message, now: AgreedTime) -> list[Effect | ToClient]:
        """A message from another replica, whose link says who it is."""
        return self._translate(self.replica.step(Received(sender, message, now)))

    def on_client(self, client: object, question: Question, now: AgreedTime) -> list[Effect | ToClient]:
        """A question from a client, which may be anybody."""
        match question:
            case Submit(ask, request):
                return self._translate(self.replica.step(Requested(_Asker(client, ask), request, now)))
            case PutBlocks(ask, blocks):
                return self._on_put_blocks(client, ask, blocks, now)
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
        return self._translate(self.replica.step(TimerFired(timer, now)))

    def on_random(self, data: bytes) -> list[Effect | ToClient]:
        """Random bytes that were asked for."""
        return self._translate(self.replica.step(RandomBytes(data)))

    def burst_ended(self, now: AgreedTime) -> list[Effect | ToClient]:
        """Nothing more to read for now."""
        return self._translate(self.replica.step(BurstEnded(now)))

    def has_room(self, spare_bytes: int) -> None:
        """The disk takes so much more before ordering has to fear for its own room; negative: it has too little."""
        self._spare_bytes = spare_bytes

    # --- effects ---------------------------------------------------------------------------------------------------

    def _translate(self, effects: list[Effect]) -> list[Effect | ToClient]:
        """Agreement's answers in the client protocol's words; all else as it is, in the same order."""
        translated: list[Effect | ToClient] = []
        for effect in effects:
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
                    self._count(writes)
                    translated.append(effect)
                case _:
                    translated.append(effect)
        return translated

    # --- reads -----------------------------------------------------------------------------------------------------

    def _read(self, read: _WaitingRead) -> list[Effect | ToClient]:
        if self.replica.checkpoints.diverged_at is not None:
            return [ToClient(read.client, Refused(read.question.ask, DIVERGED))]
        certified = self.replica.execution.certified
        if certified is not None and certified.sequence >= read.needed:
            try:
                return [ToClient(read.client, self._reads.answer(read.question, certified))]
            except StorageRotten:
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
            return self._disk.get(BLOCKS, guid) or self._disk.get(NODES, guid)
        except StorageRotten:
            return None

    # --- blocks that travel ahead ------------------------------------------------------------------------------------

    def _on_put_blocks(self, client: object, ask: int, blocks: list[bytes], now: AgreedTime) -> list[Effect | ToClient]:
        if any(len(block) > MAX_CIPHERTEXT_BYTES for block in blocks):
            return [ToClient(client, Refused(ask, f"a block is larger than {MAX_CIPHERTEXT_BYTES} bytes"))]
        named = {bguid(block): block for block in blocks}
        fresh = {guid: block for guid, block in named.items() if self._disk.size(BLOCKS, guid) is None}
        size = sum(len(block) + UPLOAD_COST_BYTES for block in fresh.values())
        if self._uploaded_bytes + size > self._upload_limit_bytes:
            return [ToClient(client, Overloaded(ask, RETRY_AFTER_MS))]
        if size > self._spare_bytes:
            return [ToClient(client, Overloaded(ask, RETRY_UPLOAD_MS))]
        self._uploaded_bytes += size
        self._spare_bytes -= size
        writes = [Write(BLOCKS, guid, block) for guid, block in fresh.items()]
        unused = [guid for guid in named if guid in fresh or self._disk.size(UPLOADS, guid) is not None]
        marks = [Write(UPLOADS, guid, now.to_bytes(8, "big")) for guid in unused]
        kept = (*writes, *marks)
        held = ToClient(client, BlocksHeld(ask))
        return [Persist(kept), held, *self._translate(self.replica.bodies_arrived(kept, now))]

    def _uploads(self) -> list[tuple[bytes, bytes]]:
        return self._disk.scan(UPLOADS, b"", b"\xff" * 33)

    def _sweep_uploads(self, now: AgreedTime) -> list[Effect | ToClient]:
        """Let go of blocks that no update has used in time, but for those that one on its way names."""
        oldest = max(0, now - UPLOAD_SECONDS * 1_000_000).to_bytes(8, "big")
        old = {guid for guid, since in self._uploads() if since < oldest}
        old -= self.replica.named_bodies() if old else set()
        self._uploaded_bytes -= sum(self._cost_bytes(guid) for guid in old)
        writes = [Write(table, guid, None) for guid in sorted(old) for table in (BLOCKS, UPLOADS)]
        return [Store(tuple(writes)), SetTimer(SWEEP, SWEEP_SECONDS)]

    def _count(self, writes: tuple[Write, ...]) -> None:
        """Keep account of blocks that wait for an update: those that come, and those that an update now owns."""
        for write in writes:
            if write.table == BLOCKS and write.value is not None:
                self._uploaded_bytes += len(write.value) + UPLOAD_COST_BYTES
            elif write.table == UPLOADS and write.value is None:
                self._uploaded_bytes -= self._cost_bytes(write.key)

    def _cost_bytes(self, guid: bytes) -> int:
        return (self._disk.size(BLOCKS, guid) or 0) + UPLOAD_COST_BYTES

    # --- how it is -------------------------------------------------------------------------------------------------

    def status(self, ask: int) -> ServerStatus:
        """All but what only the process knows: its disk, and the time that things take."""
        replica = self.replica
        certified = replica.execution.certified
        how, detail = condition(replica)
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
        )

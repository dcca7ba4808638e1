"""Requests that were asked for and have not run: the primary's queue, and what a backup waits for (TOCS 2002, 4.1).

Every replica keeps what clients ask of it. The primary proposes in the order of arrival. A backup passes a request on
to the primary when it has not come up for a while, and a primary that leaves it waiting for too long is given up.
"""

from collections.abc import Callable

from bft.admission import Admitted
from bft.effects import Effect, Overlay, Send, Store
from bft.membership import Membership
from bft.messages import MAX_BATCH, MAX_BODIES, Bodies, FetchBodies, Relay, RequestStatement
from bft.service import StateMachine
from bft.statement import Digest
from bft.types import AgreedTime, ReplicaId

BATCH_BYTES = 8 * 1024 * 1024
"""Size of a batch's requests at which it is full; a single larger request makes a batch of its own."""

QUEUE = 4096
QUEUE_BYTES = 64 * 1024 * 1024
"""Requests that wait, and their bytes; above either the answer is overload."""

RELAYED = 64
"""Requests passed on at one tick at most."""

FORGOTTEN_TICKS = 1200
"""How long a request is kept that nobody asked for again: two minutes, far longer than clients wait before they do."""

INCOMPLETE = 64
"""Relayed requests at the primary whose bodies are still being fetched, at most."""

INCOMPLETE_BYTES = 32 * 1024 * 1024
"""Size of these together at most; a single one may be larger."""


class _Waiting:
    __slots__ = ("admitted", "relay_at", "ticks")

    def __init__(self, admitted: Admitted) -> None:
        self.admitted = admitted
        self.ticks = 0
        """How long it has waited in this view."""
        self.relay_at = 1


class Requests:
    """One replica's waiting requests, oldest first."""

    def __init__(self, membership: Membership, service: StateMachine, disk: Overlay) -> None:
        self._membership = membership
        self._service = service
        self._disk = disk
        self._waiting: dict[Digest, _Waiting] = {}
        self._queue: dict[Digest, None] = {}
        """Those that this replica has not proposed, in their order."""
        self._bytes = 0
        self.usual_ticks = 0.0
        """How long requests that ran had waited here, on average over the last ones."""
        self._incomplete: dict[Digest, tuple[Admitted, set[Digest]]] = {}

    def __len__(self) -> int:
        """How many wait to be proposed."""
        return len(self._queue)

    def __contains__(self, request: Digest) -> bool:
        return request in self._waiting

    @property
    def full(self) -> bool:
        """Whether no more may come."""
        return len(self._waiting) >= QUEUE or self._bytes >= QUEUE_BYTES

    @property
    def oldest_ticks(self) -> int:
        """How long the oldest has waited in this view."""
        first = next(iter(self._waiting.values()), None)
        return first.ticks if first is not None else 0

    def named_bodies(self) -> set[Digest]:
        """Bodies that waiting requests name."""
        return {name for waiting in self._waiting.values() for name in waiting.admitted.named}

    def add(self, admitted: Admitted) -> None:
        """A request that a client asked for; all of its bodies are here, on the disk or beside it."""
        if admitted.digest in self._waiting:
            return
        self._waiting[admitted.digest] = _Waiting(admitted)
        self._queue[admitted.digest] = None
        self._bytes += admitted.request.size_bytes

    def ran(self, request: Digest) -> None:
        """A request has run."""
        waiting = self._waiting.get(request)
        if waiting is not None:
            self.usual_ticks += (waiting.ticks - self.usual_ticks) / 16
            self._remove(request, waiting)

    def _remove(self, request: Digest, waiting: _Waiting) -> None:
        del self._waiting[request]
        self._queue.pop(request, None)
        self._bytes -= waiting.admitted.request.size_bytes

    def prune(self, ran: Callable[[RequestStatement], bool]) -> None:
        """The state has jumped ahead: forget what has run in between."""
        for request, waiting in list(self._waiting.items()):
            if ran(waiting.admitted.statement):
                self._remove(request, waiting)

    def expire(self, time: AgreedTime) -> None:
        """Forget what can no longer run, or what nobody seems to want any more."""
        for request, waiting in list(self._waiting.items()):
            if waiting.admitted.statement.not_after < time or waiting.ticks > FORGOTTEN_TICKS:
                self._remove(request, waiting)

    # --- the primary -----------------------------------------------------------------------------------------------

    def take_batch(self) -> list[Admitted]:
        """The next requests to propose, as many as fit one batch. They wait on until they have run."""
        batch: list[Admitted] = []
        size = 0
        for request in self._queue:
            waiting = self._waiting[request]
            size += waiting.admitted.request.size_bytes
            if len(batch) == MAX_BATCH or (batch and size > BATCH_BYTES):
                break
            batch.append(waiting.admitted)
        for admitted in batch:
            del self._queue[admitted.digest]
        return batch

    def view_began(self, under_way: set[Digest]) -> None:
        """Another primary's turn, perhaps ours: all that its batches do not have is to be proposed, and passed on."""
        self._queue = {request: None for request in self._waiting if request not in under_way}
        for waiting in self._waiting.values():
            waiting.ticks = 0
            waiting.relay_at = 1

    def on_relay(self, sender: ReplicaId, admitted: Admitted, bodies: dict[Digest, bytes]) -> list[Effect]:
        """A backup passes a request on. Bodies that are not here are fetched from it: it holds them all."""
        missing = self._missing(admitted) - bodies.keys()
        if not missing:
            self.add(admitted)
            return []
        self._incomplete[admitted.digest] = (admitted, missing)
        while len(self._incomplete) > INCOMPLETE or (
            len(self._incomplete) > 1
            and sum(item.request.size_bytes for item, _ in self._incomplete.values()) > INCOMPLETE_BYTES
        ):
            del self._incomplete[next(iter(self._incomplete))]
        return [Send(sender, FetchBodies(self._membership.epoch, sorted(missing)[:MAX_BODIES]))]

    def on_bodies(self, message: Bodies, time: AgreedTime) -> list[Effect]:
        """Bodies that were fetched, perhaps for a relayed request; when it is complete it may be proposed."""
        if not self._incomplete:
            return []
        arrived = {self._service.body_digest(body): body for body in message.bodies}
        effects: list[Effect] = []
        for request, (admitted, missing) in list(self._incomplete.items()):
            found = sorted(missing & arrived.keys())
            writes = tuple(write for name in found for write in self._service.hold(name, arrived[name], time))
            missing -= set(found)
            if writes:
                self._disk.record(writes)
                effects.append(Store(writes))
            if not missing:
                del self._incomplete[request]
                beside = {self._service.body_digest(body) for body in admitted.request.bodies}
                if not self._missing(admitted) - beside:  # what was here when it was relayed may be gone by now
                    self.add(admitted)
        return effects

    def _missing(self, admitted: Admitted) -> set[Digest]:
        table = self._service.body_table()
        return {name for name in admitted.named if self._disk.size(table, name) is None}

    # --- backups ---------------------------------------------------------------------------------------------------

    def tick(self, primary: ReplicaId, under_way: set[Digest], ran: Callable[[RequestStatement], bool]) -> list[Effect]:
        """Time passes. As backup of `primary`, pass on what is in no batch yet: not sooner, since most clients that ask
        all ask the primary too; not later, since others take this replica for the primary until they are told. Do so
        again each time that the wait has doubled: the primary may have been full, or the message lost. What cannot run
        any more, since another request has `ran` under its number, is dropped: no primary is to blame for it."""
        effects: list[Effect] = []
        for request, waiting in list(self._waiting.items()):
            waiting.ticks += 1
            if waiting.ticks < waiting.relay_at or request in under_way or len(effects) >= RELAYED:
                continue
            waiting.relay_at = 2 * waiting.ticks
            if ran(waiting.admitted.statement):
                self._remove(request, waiting)
            else:
                effects.append(Send(primary, Relay(self._membership.epoch, waiting.admitted.request)))
        return effects

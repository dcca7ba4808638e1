"""What batches consist of, by number and digest: at hand, in the log, or to be fetched from others (TOCS 2002, 4.6.1).

Agreement is about digests. A batch comes with its proposal, or, when NEW-VIEW or f + 1 others name it, by its digest
from whoever has it; the bodies that its requests name come beside it. Complete is a batch that has all of them: no
replica votes for another, and none runs another.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from bft import log, statement
from bft.admission import Admission, Admitted
from bft.effects import Effect, Overlay, Rejected, Send, Store
from bft.membership import Membership
from bft.messages import MAX_BODIES, Batch, Bodies, FetchBatches, FetchBodies, Request, RequestError
from bft.service import StateMachine
from bft.statement import Digest
from bft.types import AgreedTime, ReplicaId, Sequence

MAX_ANSWER_BYTES = 8 * 1024 * 1024
"""Batches or bodies sent in one answer; who needs more asks again."""

ALLOWANCE_BYTES = 4 * 1024 * 1024
"""What one replica may fetch in a tick of 0.1 s: 40 MiB/s, and four times that at once. Questions above it are dropped:
who lacks something asks again."""

LOOKUP_BYTES = 2048
"""What looking for something counts for, found or not: a few microseconds of a disk in memory."""

MOST_BYTES = 128 * 1024 * 1024
"""Proposals held that have not run: twice what an honest primary has under way. Without this a lying one fills memory
with a window of the largest."""


class Complete(NamedTuple):
    """A batch with nothing missing."""

    time: AgreedTime
    requests: tuple[Admitted, ...]

    def contents(self) -> log.Contents:
        """The batch as the log keeps it."""
        return log.Contents(self.time, [item.request for item in self.requests])


class _Known:
    """One batch: its requests, once they came, and the bodies that have not."""

    __slots__ = ("complete", "missing", "size_bytes")

    def __init__(self) -> None:
        self.complete: Complete | None = None
        self.missing: set[Digest] = set()
        self.size_bytes = 0


def batch_digest(time: AgreedTime, requests: list[tuple[Digest, bytes]]) -> Digest:
    """Digest of a batch: its time, and each request's digest with the signature that makes it valid for all alike."""
    return statement.digest(statement.encode("bft.batch", 1, time, [list(item) for item in requests]))


def digest_of(time: AgreedTime, requests: list[Request]) -> Digest:
    """Digest of a batch as it comes in messages."""
    return batch_digest(time, [(statement.digest(request.statement), request.signature) for request in requests])


NULL = batch_digest(AgreedTime(0), [])
"""The null batch, which a new view puts where nothing can have committed: it changes nothing (TOCS 2002, 4.4)."""


class Batches:
    """The batches that this replica has to do with and has not run."""

    def __init__(
        self,
        identity: ReplicaId,
        membership: Membership,
        admission: Admission,
        service: StateMachine,
        disk: Overlay,
    ) -> None:
        self._membership = membership
        self._others = [other for other in map(ReplicaId, range(membership.size)) if other != identity]
        self._admission = admission
        self._service = service
        self._disk = disk
        self._known: dict[tuple[Sequence, Digest], _Known] = {}
        self._spent: dict[ReplicaId, int] = {}
        """What each replica was sent lately."""

    def get(self, sequence: Sequence, digest: Digest) -> Complete | None:
        """The batch, if it is complete."""
        known = self._known.get((sequence, digest))
        return known.complete if known is not None and not known.missing else None

    def knows(self, sequence: Sequence, digest: Digest) -> bool:
        """Whether the batch is here, or is being fetched."""
        return (sequence, digest) in self._known

    @property
    def lacking(self) -> bool:
        """Whether some batch waits for something."""
        return any(known.complete is None or known.missing for known in self._known.values())

    @property
    def full(self) -> bool:
        """Whether more waits to run than an honest primary proposes at once."""
        return sum(known.size_bytes for known in self._known.values()) > MOST_BYTES

    def want(self, sequence: Sequence, digest: Digest) -> bool:
        """This batch will be needed: look for it in the log. Whether it is new, and has to be fetched."""
        key = (sequence, digest)
        if key in self._known:
            return False
        known = self._known[key] = _Known()
        if digest == NULL:
            known.complete = Complete(AgreedTime(0), ())
        elif (contents := self._logged(sequence, digest)) is not None:
            self._fill(known, contents.time, tuple(self._admission.admit(request) for request in contents.requests))
        return known.complete is None or bool(known.missing)

    def own(self, sequence: Sequence, digest: Digest, time: AgreedTime, requests: list[Admitted]) -> list[Effect]:
        """A batch that this replica proposes: all that it names is here."""
        return self._take(sequence, digest, time, tuple(requests))

    def offer(self, sequence: Sequence, digest: Digest, time: AgreedTime, requests: list[Request]) -> list[Effect]:
        """A batch from somebody else, with what came beside it. Raises RequestError when a request is not valid."""
        return self._take(sequence, digest, time, tuple(self._admission.admit(request) for request in requests))

    def forget(self, sequence: Sequence) -> None:
        """The number has run, or lies below a stable checkpoint."""
        for key in [key for key in self._known if key[0] <= sequence]:
            del self._known[key]

    def keep_only(self, named: Mapping[Sequence, Digest]) -> None:
        """A view has ended, or begun with these batches: forget all others."""
        for sequence, digest in [key for key in self._known if named.get(key[0]) != key[1]]:
            del self._known[sequence, digest]

    def named_bodies(self, logged: Iterable[tuple[Sequence, Digest]]) -> set[Digest]:
        """Bodies that batches which have not run name, those at hand and these in the log: they must not be let go."""
        named = {
            name
            for known in self._known.values()
            if known.complete is not None
            for item in known.complete.requests
            for name in item.named
        }
        for sequence, digest in logged:
            contents = self._logged(sequence, digest) if (sequence, digest) not in self._known else None
            if contents is not None:
                named.update(name for request in contents.requests for name in self._admission.admit(request).named)
        return named

    def requests(self) -> set[Digest]:
        """Digests of the requests in these batches."""
        return {
            item.digest
            for known in self._known.values()
            if known.complete is not None
            for item in known.complete.requests
        }

    # --- what arrives ----------------------------------------------------------------------------------------------

    def on_batch(self, sender: ReplicaId, message: Batch) -> list[Effect]:
        """A batch that was fetched; one that nobody wants is dropped."""
        if not any(number == message.sequence and known.complete is None for (number, _), known in self._known.items()):
            return []
        digest = digest_of(message.time, message.requests)
        known = self._known.get((message.sequence, digest))
        if known is None or known.complete is not None:
            return []
        try:
            held = self.offer(message.sequence, digest, message.time, message.requests)
        except RequestError as error:
            return [Rejected(sender, f"batch: {error}")]
        return held + self.fetch_from(sender, message.sequence, digest)

    def on_bodies(self, message: Bodies) -> list[Effect]:
        """Bodies that were fetched; those that nothing waits for are dropped."""
        if not any(known.missing for known in self._known.values()):
            return []
        arrived = {self._service.body_digest(body): body for body in message.bodies}
        effects: list[Effect] = []
        for known in self._known.values():
            if known.missing and known.complete is not None:
                wanted = {name: arrived[name] for name in sorted(known.missing & arrived.keys())}
                known.missing -= wanted.keys()
                effects += self._hold(wanted, known.complete.time)
        return effects

    def look_again(self) -> None:
        """Bodies may have come to the disk by another way, from a client."""
        for known in self._known.values():
            known.missing = {name for name in known.missing if not self._held(name)}

    def _take(
        self, sequence: Sequence, digest: Digest, time: AgreedTime, requests: tuple[Admitted, ...]
    ) -> list[Effect]:
        bodies: dict[Digest, bytes] = {}
        for item in requests:
            bodies |= self._admission.bodies(item)
        known = self._known.setdefault((sequence, digest), _Known())
        effects = self._hold(bodies, time)
        if known.complete is None:
            self._fill(known, time, requests)
        else:
            known.missing -= bodies.keys()
        return effects

    def _fill(self, known: _Known, time: AgreedTime, requests: tuple[Admitted, ...]) -> None:
        known.complete = Complete(time, tuple(item.bare() for item in requests))
        known.size_bytes = sum(len(item.request.statement) for item in requests)
        known.missing = {name for item in requests for name in item.named if not self._held(name)}

    def _held(self, name: Digest) -> bool:
        return self._disk.size(self._service.body_table(), name) is not None

    def _hold(self, bodies: dict[Digest, bytes], time: AgreedTime) -> list[Effect]:
        writes = tuple(
            write
            for name, body in bodies.items()
            if not self._held(name)
            for write in self._service.hold(name, body, time)
        )
        self._disk.record(writes)
        return [Store(writes)] if writes else []

    def _logged(self, sequence: Sequence, digest: Digest) -> log.Contents | None:
        place = log.read_entry(self._disk, sequence).place_of(digest)
        return log.read_contents(self._disk, sequence, place) if place is not None else None

    # --- fetching --------------------------------------------------------------------------------------------------

    def fetch_from(self, to: ReplicaId, sequence: Sequence, digest: Digest) -> list[Effect]:
        """Ask the one who just named a batch for what is missing of it."""
        known = self._known.get((sequence, digest))
        if known is None or not (known.complete is None or known.missing):
            return []
        epoch = self._membership.epoch
        if known.complete is None:
            return [Send(to, FetchBatches(epoch, [(sequence, digest)]))]
        return [Send(to, FetchBodies(epoch, sorted(known.missing)[:MAX_BODIES]))]

    def fetch(self, turn: int) -> list[Effect]:
        """Ask another replica for what is still missing, one each turn: answers are large."""
        to = self._others[turn % len(self._others)]
        epoch = self._membership.epoch
        absent = sorted(key for key, known in self._known.items() if known.complete is None)
        effects: list[Effect] = []
        if absent:
            effects.append(Send(to, FetchBatches(epoch, absent)))
        missing = next((known.missing for _, known in sorted(self._known.items(), key=_place) if known.missing), None)
        if missing:
            effects.append(Send(to, FetchBodies(epoch, sorted(missing)[:MAX_BODIES])))
        return effects

    def on_fetch_batches(self, sender: ReplicaId, message: FetchBatches) -> list[Effect]:
        """Send the batches that are in the log, as many as fit one answer."""
        room = self.room(sender)
        if not room:
            return []
        effects: list[Effect] = []
        for sequence, digest in dict.fromkeys(message.batches):
            room -= LOOKUP_BYTES
            contents = self._logged(sequence, digest)
            if contents is None:
                continue
            room -= sum(request.size_bytes for request in contents.requests)
            if effects and room < 0:
                break
            effects.append(Send(sender, Batch(self._membership.epoch, sequence, contents.time, contents.requests)))
        self.spend(sender, MAX_ANSWER_BYTES - room)
        return effects

    def on_fetch_bodies(self, sender: ReplicaId, message: FetchBodies) -> list[Effect]:
        """Send the bodies that are here, as many as fit one message."""
        room = self.room(sender)
        if not room:
            return []
        found: list[bytes] = []
        table = self._service.body_table()
        for name in dict.fromkeys(message.digests):
            room -= LOOKUP_BYTES
            size = self._disk.size(table, name)
            if size is None or (found and size > room):
                continue
            body = self._disk.get(table, name)
            if body is not None:
                found.append(body)
                room -= size
            if room <= 0:
                break
        self.spend(sender, MAX_ANSWER_BYTES - room)
        return [Send(sender, Bodies(self._membership.epoch, found))] if found else []

    def room(self, to: ReplicaId) -> int:
        """How many bytes of batches or bodies a replica may be sent now in one answer."""
        return MAX_ANSWER_BYTES if self._spent.get(to, 0) < 4 * ALLOWANCE_BYTES else 0

    def spend(self, to: ReplicaId, size_bytes: int) -> None:
        """A replica was sent so much."""
        self._spent[to] = self._spent.get(to, 0) + size_bytes

    def tick(self) -> None:
        """0.1 s have passed: all may fetch more."""
        self._spent = {peer: left for peer, spent in self._spent.items() if (left := spent - ALLOWANCE_BYTES) > 0}


def _place(item: tuple[tuple[Sequence, Digest], _Known]) -> tuple[Sequence, Digest]:
    return item[0]

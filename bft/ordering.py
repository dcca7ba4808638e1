"""Three-phase ordering within one view, as a pure state machine (Castro & Liskov, TOCS 2002, section 4.2).

Here: pre-prepare, prepare, commit between the watermarks; votes that overtake their proposal; bodies that travel
beside; sending again from memory and log. Not here: view change (section 4.4). The primary signs its proposals, which
are its vote; PREPARE and COMMIT rely on authenticated links.
"""

from collections.abc import Sequence as SequenceOf
from typing import NamedTuple

import msgspec

from bft import log, statement
from bft.admission import Admission, Admitted
from bft.effects import Broadcast, Effect, Mark, Overlay, Persist, Rejected, Send, Store
from bft.membership import Membership
from bft.messages import (
    MAX_BODIES,
    Bodies,
    Commit,
    FetchBodies,
    Message,
    Prepare,
    PrePrepare,
    RequestError,
    SigningPlan,
)
from bft.service import StateMachine
from bft.signatures import Signer, Verifier
from bft.statement import Digest
from bft.types import AgreedTime, ReplicaId, Sequence, View

WINDOW = 256
"""L: how far above the last stable checkpoint sequence numbers may run (four checkpoint intervals)."""

DRIFT_SECONDS = 5
"""How far ahead of a backup's own clock a proposal's time may lie: clocks kept by NTP differ far less."""

MAX_FETCH_BYTES = 8 * 1024 * 1024
"""Bodies sent in answer to one FETCH-BODIES; who needs more asks again."""


class Batch(NamedTuple):
    """A committed batch, ready to run."""

    sequence: Sequence
    view: View
    time: AgreedTime
    digest: Digest
    requests: tuple[Admitted, ...]
    plan: SigningPlan | None


class Slot:
    """What is known about one sequence number in the current view. Votes are kept by voter, as evidence."""

    __slots__ = ("commits", "committing", "digest", "missing", "prepares", "proposal", "requests", "signature", "voted")

    def __init__(self) -> None:
        self.proposal: PrePrepare | None = None
        self.digest: Digest = b""
        self.requests: tuple[Admitted, ...] = ()
        self.signature = b""
        """The proposal's, by which one that comes again is known when the proposal itself is only in the log."""
        self.missing: set[Digest] = set()
        self.prepares: dict[ReplicaId, Digest] = {}
        self.commits: dict[ReplicaId, Digest] = {}
        self.voted = False
        self.committing = False

    def story(self) -> str:
        """Everything about the slot, for a failed assertion."""
        return (
            f"digest {self.digest.hex()[:8]} voted {self.voted} committing {self.committing} "
            f"missing {len(self.missing)} prepares {sorted(self.prepares)} commits {sorted(self.commits)}"
        )


def batch_digest(time: AgreedTime, requests: SequenceOf[tuple[Digest, bytes]]) -> Digest:
    """Digest of a batch: its time, and each request's digest with the signature that makes it valid for all alike."""
    return statement.digest(statement.encode("bft.batch", 1, time, [list(item) for item in requests]))


def proposal_statement(
    membership: Membership, view: View, sequence: Sequence, digest: Digest, plan: SigningPlan | None
) -> bytes:
    """What the primary signs of its proposal."""
    named = msgspec.to_builtins(plan, builtin_types=(bytes,)) if plan is not None else None
    return statement.encode("bft.pre-prepare", 1, membership.ring_id, membership.epoch, view, sequence, digest, named)


class Ordering:
    """Agreement on one batch per sequence number. `replica` routes messages here and takes committed batches out."""

    def __init__(
        self,
        identity: ReplicaId,
        membership: Membership,
        signer: Signer,
        verifier: Verifier,
        admission: Admission,
        service: StateMachine,
        disk: Overlay,
    ) -> None:
        self.identity = identity
        self.membership = membership
        self.view = View(0)
        self.stable = Sequence(0)
        self.next = Sequence(1)
        self.committing = Sequence(0)
        """Highest sequence number for which this replica has sent COMMIT."""
        self.slots: dict[Sequence, Slot] = {}
        self._signer = signer
        self._verifier = verifier
        self._admission = admission
        self._service = service
        self._disk = disk

    @property
    def primary(self) -> ReplicaId:
        """Primary of the current view."""
        return self.membership.primary(self.view)

    @property
    def high(self) -> Sequence:
        """The high watermark: no number above it counts."""
        return Sequence(self.stable + WINDOW)

    def reject_reason(self, sender: ReplicaId, message: PrePrepare | Prepare | Commit, now: AgreedTime) -> str | None:
        """Why a message of the three phases is refused, or None. All that a liar can do here ends in this function, but
        for what is wrong inside a proposal's requests (`_read_requests`)."""
        if message.view != self.view:
            return "another view"
        if not self.stable < message.sequence <= self.high:
            return "outside the watermarks"
        slot = self.slots.get(message.sequence)
        match message:
            case PrePrepare():
                if message.time > now + DRIFT_SECONDS * 1_000_000:
                    return "proposed time is ahead of our clock"
            case Prepare():
                if sender == self.primary:
                    return "the primary does not prepare"
                if slot is not None and slot.prepares.get(sender, message.digest) != message.digest:
                    return "prepared two batches at one number"
            case Commit():
                if slot is not None and slot.commits.get(sender, message.digest) != message.digest:
                    return "committed two batches at one number"
        return None

    # --- the primary -----------------------------------------------------------------------------------------------

    def propose(self, requests: list[Admitted], plan: SigningPlan | None, now: AgreedTime) -> list[Effect]:
        """Assign the next sequence number to a batch. The proposal is on disk before it is sent."""
        sequence = self.next
        assert self.identity == self.primary, f"replica {self.identity} proposes in view {self.view}"
        assert sequence <= self.high, f"proposal {sequence} above the high watermark {self.high}"
        assert sequence not in self.slots or self.slots[sequence].proposal is None, f"number {sequence} proposed twice"
        self.next = Sequence(sequence + 1)
        digest = batch_digest(now, [(request.digest, request.request.signature) for request in requests])
        signature = self._signer.sign(proposal_statement(self.membership, self.view, sequence, digest, plan))
        message = PrePrepare(
            self.membership.epoch, self.view, sequence, now, [item.request for item in requests], plan, signature
        )
        slot = self.slots.setdefault(sequence, Slot())
        slot.proposal, slot.digest, slot.voted = log.without_bodies(message), digest, True
        slot.signature = signature
        slot.requests = tuple(request.bare() for request in requests)
        effects: list[Effect] = []
        for request in requests:
            effects += self._hold(self._admission.bodies(request), now)
        effects.append(self._keep(slot))
        return [*effects, Mark(sequence, "proposed"), Broadcast(message), *self._advance(sequence, slot)]

    # --- the backups -----------------------------------------------------------------------------------------------

    def on_pre_prepare(self, sender: ReplicaId, message: PrePrepare) -> list[Effect]:
        """Accept a proposal, from the primary or passed on by another replica: its signature says whose it is."""
        slot = self.slots.get(message.sequence)
        if slot is not None and slot.voted:
            known = slot.signature == message.signature
            return [] if known else [Rejected(sender, "a second proposal for one number")]
        if self.identity == self.primary:
            return [Rejected(sender, "a proposal of our own that is not in our log")]
        digest = _digest_of(message)
        signed = proposal_statement(self.membership, message.view, message.sequence, digest, message.plan)
        if not self._verifier.verify(self.membership.replicas[self.primary], signed, message.signature):
            return [Rejected(sender, "proposal is not signed by the primary")]
        try:
            requests, bodies = self._read_requests(message)
        except RequestError as error:
            return [Rejected(sender, f"proposal: {error}")]
        slot = self.slots.setdefault(message.sequence, Slot())
        if slot.proposal is None:
            slot.proposal = log.without_bodies(message)
            slot.digest, slot.signature = digest, message.signature
            slot.requests = tuple(item.bare() for item in requests)
            wanted = {name for item in requests for name in item.named}
            slot.missing = {name for name in wanted if not self._held(name)}
        elif slot.digest != digest:
            return [Rejected(sender, "a second proposal for one number")]
        effects = self._take_bodies(message.sequence, slot, bodies)
        if slot.missing:
            effects.append(Send(sender, self._fetch(slot)))
        return effects

    def _read_requests(self, message: PrePrepare) -> tuple[tuple[Admitted, ...], dict[Digest, bytes]]:
        bodies: dict[Digest, bytes] = {}
        requests = tuple(self._admission.admit(request) for request in message.requests)
        for item in requests:
            bodies |= self._admission.bodies(item)
        return requests, bodies

    def on_bodies(self, message: Bodies) -> list[Effect]:
        """Bodies that were fetched; those that nothing waits for are dropped."""
        arrived = {self._service.body_digest(body): body for body in message.bodies}
        effects: list[Effect] = []
        for sequence, slot in self.slots.items():
            if slot.missing:
                effects += self._take_bodies(sequence, slot, arrived)
        return effects

    def bodies_held(self) -> list[Effect]:
        """Bodies may have come to the disk by another way (from a client): look again."""
        effects: list[Effect] = []
        for sequence, slot in self.slots.items():
            if slot.missing:
                slot.missing = {name for name in slot.missing if not self._held(name)}
                if not slot.missing:
                    effects += self._vote(sequence, slot)
        return effects

    def _held(self, name: Digest) -> bool:
        return self._disk.size(self._service.body_table(), name) is not None

    def _take_bodies(self, sequence: Sequence, slot: Slot, arrived: dict[Digest, bytes]) -> list[Effect]:
        """Bodies go to the disk as they come, and the vote once none is missing."""
        if slot.voted:
            return []
        assert slot.proposal is not None, slot.story()
        wanted = {name: arrived[name] for name in sorted(slot.missing & arrived.keys())}
        slot.missing -= wanted.keys()
        effects = self._hold(wanted, slot.proposal.time)
        return [*effects, *self._vote(sequence, slot)] if not slot.missing else effects

    def _hold(self, bodies: dict[Digest, bytes], time: AgreedTime) -> list[Effect]:
        writes = [
            write
            for name, body in bodies.items()
            if not self._held(name)
            for write in self._service.hold(name, body, time)
        ]
        self._disk.record(tuple(writes))
        return [Store(tuple(writes))] if writes else []

    def _vote(self, sequence: Sequence, slot: Slot) -> list[Effect]:
        """Proposal and, before it, bodies go to the disk before PREPARE."""
        assert slot.proposal is not None, slot.story()
        assert not slot.missing, slot.story()
        assert not slot.voted, slot.story()
        slot.voted = True
        kept = self._keep(slot)
        slot.prepares[self.identity] = slot.digest
        vote = Prepare(self.membership.epoch, self.view, sequence, slot.digest)
        return [kept, Broadcast(vote), *self._advance(sequence, slot)]

    def _keep(self, slot: Slot) -> Persist:
        assert slot.proposal is not None, slot.story()
        writes = (log.proposal(slot.proposal),)
        self._disk.record(writes)
        return Persist(writes)

    def on_prepare(self, sender: ReplicaId, message: Prepare) -> list[Effect]:
        """Count a PREPARE, also one that overtook its proposal."""
        slot = self.slots.setdefault(message.sequence, Slot())
        slot.prepares[sender] = message.digest
        return self._advance(message.sequence, slot)

    def on_commit(self, sender: ReplicaId, message: Commit) -> list[Effect]:
        """Count a COMMIT, also an early one."""
        slot = self.slots.setdefault(message.sequence, Slot())
        slot.commits[sender] = message.digest
        return self._advance(message.sequence, slot)

    def _advance(self, sequence: Sequence, slot: Slot) -> list[Effect]:
        """Once prepared (proposal and 2f PREPAREs that match it), the P entry goes to the disk before COMMIT."""
        if not slot.voted or slot.committing or _count(slot.prepares, slot.digest) < 2 * self.membership.faults:
            return []
        slot.committing = True
        slot.commits[self.identity] = slot.digest
        self.committing = max(self.committing, sequence)
        entry = (log.prepared(sequence, self.view, slot.digest),)
        self._disk.record(entry)
        vote = Commit(self.membership.epoch, self.view, sequence, slot.digest)
        return [Persist(entry), Mark(sequence, "prepared"), Broadcast(vote)]

    # --- what comes out --------------------------------------------------------------------------------------------

    def committed(self, sequence: Sequence) -> Batch | None:
        """The batch at a number, once it is committed here: prepared, and 2f + 1 COMMITs that match it."""
        slot = self.slots.get(sequence)
        if slot is None or not slot.committing or _count(slot.commits, slot.digest) < self.membership.quorum:
            return None
        assert slot.proposal is not None, f"batch {sequence} has run: {slot.story()}"
        return Batch(sequence, self.view, slot.proposal.time, slot.digest, slot.requests, slot.proposal.plan)

    def executed(self, sequence: Sequence) -> None:
        """The batch has run: what it takes to say it again is in the log."""
        slot = self.slots[sequence]
        slot.requests, slot.proposal = (), None

    def named_bodies(self) -> set[Digest]:
        """Bodies that batches which have not run yet name: they must not be let go."""
        return {name for slot in self.slots.values() for item in slot.requests for name in item.named}

    def waiting(self, executed: Sequence) -> bool:
        """Whether any number above `executed` has been heard of."""
        return any(sequence > executed for sequence in self.slots)

    def forget(self, stable: Sequence) -> None:
        """A checkpoint became stable: move the watermarks and drop what lies below."""
        self.stable = stable
        for sequence in [sequence for sequence in self.slots if sequence <= stable]:
            del self.slots[sequence]

    # --- sending again ---------------------------------------------------------------------------------------------

    def fetch_missing(self, turn: int) -> list[Effect]:
        """Ask another replica for bodies that are still missing, one each turn: answers are large."""
        others = [replica for replica in map(ReplicaId, range(self.membership.size)) if replica != self.identity]
        waiting = [slot for slot in self.slots.values() if slot.missing]
        return [Send(others[turn % len(others)], self._fetch(slot)) for slot in waiting[:1]]

    def _fetch(self, slot: Slot) -> FetchBodies:
        return FetchBodies(self.membership.epoch, sorted(slot.missing)[:MAX_BODIES])

    def on_fetch_bodies(self, sender: ReplicaId, message: FetchBodies) -> list[Effect]:
        """Send the bodies that are here, as many as fit one message."""
        found: list[bytes] = []
        room = MAX_FETCH_BYTES
        for name in message.digests:
            size = self._disk.size(self._service.body_table(), name)
            if size is None or (found and size > room):
                continue
            body = self._disk.get(self._service.body_table(), name)
            if body is not None:
                found.append(body)
                room -= size
            if room <= 0:
                break
        return [Send(sender, Bodies(self.membership.epoch, found))] if found else []

    def send_again(self, to: ReplicaId, first: Sequence, last: Sequence) -> list[Effect]:
        """Everything this replica has said about numbers first to last, from memory or from its log."""
        logged = log.read(self._disk, first, last)
        messages: list[Message] = []
        for sequence in map(Sequence, range(first, last + 1)):
            slot = self.slots.get(sequence)
            if slot is not None and slot.voted and slot.proposal is not None:
                messages += self._said(slot.proposal, slot.digest, slot.committing)
            elif (entry := logged.get(sequence)) is not None and entry.proposal is not None:
                messages += self._said(entry.proposal, _digest_of(entry.proposal), entry.prepared is not None)
        return [Send(to, message) for message in messages]

    def _said(self, proposal: PrePrepare, digest: Digest, committing: bool) -> list[Message]:
        epoch, view, sequence = self.membership.epoch, proposal.view, proposal.sequence
        messages: list[Message] = [proposal]
        if self.identity != self.membership.primary(view):
            messages.append(Prepare(epoch, view, sequence, digest))
        if committing:
            messages.append(Commit(epoch, view, sequence, digest))
        return messages

    def restore(self, entries: dict[Sequence, log.Entry], stable: Sequence) -> None:
        """Take up again what the log says this replica voted for; nothing is sent but on request. The log was written
        by this replica itself, after it had checked everything in it."""
        self.stable = stable
        for sequence, entry in entries.items():
            if entry.proposal is None:
                continue
            slot = self.slots.setdefault(sequence, Slot())
            slot.proposal = entry.proposal
            slot.requests = tuple(self._admission.admit(request) for request in entry.proposal.requests)
            slot.digest, slot.signature = _digest_of(entry.proposal), entry.proposal.signature
            slot.voted = True
            if self.identity != self.primary:
                slot.prepares[self.identity] = slot.digest
            if entry.prepared is not None:
                slot.committing = True
                slot.commits[self.identity] = slot.digest
                self.committing = max(self.committing, sequence)
        self.next = Sequence(max(entries, default=stable) + 1)


def _count(votes: dict[ReplicaId, Digest], digest: Digest) -> int:
    return sum(1 for voted in votes.values() if voted == digest)


def _digest_of(proposal: PrePrepare) -> Digest:
    items = [(statement.digest(request.statement), request.signature) for request in proposal.requests]
    return batch_digest(proposal.time, items)

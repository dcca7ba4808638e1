"""Three-phase ordering within one view, as a pure state machine (Castro & Liskov, TOCS 2002, section 4.2).

Here: pre-prepare, prepare, commit between the watermarks; votes that overtake their proposal; what this replica
accepted and prepared (Q and P, for view changes); sending again from memory and log. The primary signs its proposals,
which are its vote; PREPARE and COMMIT rely on authenticated links. Not here: what batches consist of (`batches`), and
how a view begins (`view_change`); the numbers that NEW-VIEW names go through the same phases, with it for a proposal.
"""

from collections.abc import Sequence as SequenceOf
from typing import NamedTuple

import msgspec

from bft import log, statement
from bft.admission import Admitted
from bft.batches import LOOKUP_BYTES, Batches, batch_digest, digest_of
from bft.effects import Broadcast, Effect, Mark, Overlay, Persist, Rejected, Send
from bft.membership import Membership
from bft.messages import (
    MAX_ACCEPTED,
    Accepted,
    Commit,
    Message,
    Prepare,
    PrePrepare,
    RequestError,
    SigningPlan,
)
from bft.signatures import Signer, Verifier
from bft.statement import Digest
from bft.tuning import Tuning
from bft.types import AgreedTime, ReplicaId, Sequence, View

DRIFT_SECONDS = 5
"""How far a fresh proposal's time may lie from a backup's own clock: clocks kept by NTP differ far less. What NEW-VIEW
names keeps its time, however old."""


class Committed(NamedTuple):
    """A number is decided here: which batch, and who signs what it leaves."""

    digest: Digest
    view: View
    plan: SigningPlan | None


class Slot:
    """What is known about one sequence number in the current view. Votes are kept by voter, as evidence."""

    __slots__ = ("commits", "committing", "digest", "plan", "prepares", "signature", "voted")

    def __init__(self) -> None:
        self.digest: Digest = b""
        """The batch proposed, by its primary or by NEW-VIEW; empty while there are only votes."""
        self.plan: SigningPlan | None = None
        self.signature: bytes | None = None
        """The proposal's; None for a number that NEW-VIEW named."""
        self.prepares: dict[ReplicaId, Digest] = {}
        self.commits: dict[ReplicaId, Digest] = {}
        self.voted = False
        self.committing = False

    def voters(self, without: ReplicaId) -> int:
        """How many other replicas have voted for something here."""
        return len((self.prepares.keys() | self.commits.keys()) - {without})

    def story(self) -> str:
        """Everything about the slot, for a failed assertion."""
        return (
            f"digest {self.digest.hex()[:8]} voted {self.voted} committing {self.committing} "
            f"prepares {sorted(self.prepares)} commits {sorted(self.commits)}"
        )


def proposal_statement(
    membership: Membership, view: View, sequence: Sequence, digest: Digest, plan: SigningPlan | None
) -> bytes:
    """What the primary signs of its proposal."""
    named = msgspec.to_builtins(plan, builtin_types=(bytes,)) if plan is not None else None
    return statement.encode("bft.pre-prepare", 1, membership.ring_id, membership.epoch, view, sequence, digest, named)


class Ordering:
    """Agreement on one batch per sequence number. `replica` routes messages here and takes decisions out."""

    def __init__(
        self,
        identity: ReplicaId,
        membership: Membership,
        signer: Signer,
        verifier: Verifier,
        batches: Batches,
        disk: Overlay,
        tuning: Tuning,
    ) -> None:
        self.identity = identity
        self.membership = membership
        self.view = View(0)
        self.stable = Sequence(0)
        self.next = Sequence(1)
        self.committing = Sequence(0)
        """Highest sequence number for which this replica has sent COMMIT."""
        self.silent = False
        """Whether it takes part without a vote, since it lost those it had given (`learning`)."""
        self.slots: dict[Sequence, Slot] = {}
        self.prepared: dict[Sequence, Accepted] = {}
        """P: the batch that prepared at each number, in the latest view in which one did."""
        self.accepted: dict[Sequence, list[log.Vote]] = {}
        """Q: the batches accepted at each number, each with the latest view in which it was."""
        self._named: dict[Sequence, Digest] = {}
        """Batches that the current view's NEW-VIEW named."""
        self._executed = Sequence(0)
        self._signer = signer
        self._verifier = verifier
        self._batches = batches
        self._disk = disk
        self._window = tuning.window

    @property
    def primary(self) -> ReplicaId:
        """Primary of the current view."""
        return self.membership.primary(self.view)

    @property
    def high(self) -> Sequence:
        """The high watermark: no number above it counts."""
        return Sequence(self.stable + self._window)

    def reject_reason(self, sender: ReplicaId, message: PrePrepare | Prepare | Commit, now: AgreedTime) -> str | None:
        """Why a message of the three phases is refused, or None. All that a liar can do here ends in this function, but
        for what is wrong inside a proposal's requests."""
        if not self.stable < message.sequence <= self.high:
            return "outside the watermarks"
        slot = self.slots.get(message.sequence)
        match message:
            case PrePrepare():
                if slot is not None and slot.signature == message.signature:
                    return None
                if message.sequence in self._named:
                    return "a proposal for a number that NEW-VIEW decided"
                if self._batches.full:
                    return "more is proposed at once than we hold"
                if message.time > now + DRIFT_SECONDS * 1_000_000:
                    return "proposed time is ahead of our clock"
                if message.time < now - DRIFT_SECONDS * 1_000_000:
                    return "proposed time is behind our clock"
            case Prepare():
                if sender == self.primary:
                    return "the primary does not prepare"
                if slot is not None and slot.prepares.get(sender, message.digest) != message.digest:
                    return "prepared two batches at one number"
            case Commit():
                if slot is not None and slot.commits.get(sender, message.digest) != message.digest:
                    return "committed two batches at one number"
        return None

    def voted(self) -> list[tuple[Sequence, Digest]]:
        """What this replica voted for that has not run: any later view may decide it."""
        return [
            (sequence, vote.digest)
            for sequence, votes in self.accepted.items()
            if sequence > self._executed
            for vote in votes
        ]

    def proposed(self, message: PrePrepare) -> bool:
        """Whether this very proposal was accepted as the one for its number."""
        slot = self.slots.get(message.sequence)
        return slot is not None and slot.signature == message.signature

    # --- views -----------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """The view is left: nothing more is voted for in it."""
        self.slots.clear()
        self._named.clear()
        self._batches.keep_only({})

    def enter(self, view: View, low: Sequence, named: SequenceOf[Digest]) -> list[Effect]:
        """A view begins, with these batches at the numbers after `low`; voting for them begins."""
        self.view = view
        self.slots.clear()
        self._named = {Sequence(low + 1 + place): digest for place, digest in enumerate(named)}
        self._batches.keep_only(self._named)
        self.next = Sequence(max(low + len(named), self.stable, self._executed) + 1)
        return self._open_named()

    def _open_named(self) -> list[Effect]:
        effects: list[Effect] = []
        for sequence, digest in self._named.items():
            if not self.stable < sequence <= self.high:
                continue
            slot = self.slots.setdefault(sequence, Slot())
            if not slot.digest:
                slot.digest = digest
                if sequence > self._executed:
                    self._batches.want(sequence, digest)
                effects += self._vote(sequence, slot)
        return effects

    def sets(self) -> tuple[list[Accepted], list[Accepted]]:
        """P and Q for a VIEW-CHANGE: what prepared, and what was accepted, above the last stable checkpoint."""
        prepared = [entry for _, entry in sorted(self.prepared.items())]
        accepted = [
            Accepted(sequence, vote.digest, vote.view)
            for sequence, votes in sorted(self.accepted.items())
            for vote in sorted(votes, key=lambda vote: vote.digest)
        ]
        return prepared, accepted

    # --- the primary -----------------------------------------------------------------------------------------------

    def propose(self, requests: list[Admitted], plan: SigningPlan | None, now: AgreedTime) -> list[Effect]:
        """Assign the next sequence number to a batch. The proposal is on disk before it is sent."""
        sequence = self.next
        assert self.identity == self.primary, f"replica {self.identity} proposes in view {self.view}"
        assert sequence <= self.high, f"proposal {sequence} above the high watermark {self.high}"
        assert sequence not in self.slots or not self.slots[sequence].digest, f"number {sequence} proposed twice"
        self.next = Sequence(sequence + 1)
        digest = batch_digest(now, [(request.digest, request.request.signature) for request in requests])
        signature = self._signer.sign(proposal_statement(self.membership, self.view, sequence, digest, plan))
        message = PrePrepare(
            self.membership.epoch, self.view, sequence, now, [item.request for item in requests], plan, signature
        )
        slot = self.slots.setdefault(sequence, Slot())
        slot.digest, slot.plan, slot.signature = digest, plan, signature
        held = self._batches.own(sequence, digest, now, requests)
        kept = self._accept(sequence, slot)
        return [*held, kept, Mark(sequence, "proposed"), Broadcast(message), *self._advance(sequence, slot)]

    # --- the backups -----------------------------------------------------------------------------------------------

    def on_pre_prepare(self, sender: ReplicaId, message: PrePrepare) -> list[Effect]:
        """Accept a proposal, from the primary or passed on by another replica: its signature says whose it is."""
        sequence = message.sequence
        slot = self.slots.get(sequence)
        if slot is not None and slot.digest:
            if slot.signature != message.signature:
                return [Rejected(sender, "a second proposal for one number")]
            if slot.voted:
                return []
        if self.identity == self.primary:
            return [Rejected(sender, "a proposal of our own that is not in our log")]
        digest = digest_of(message.time, message.requests)
        signed = proposal_statement(self.membership, message.view, sequence, digest, message.plan)
        if not self._verifier.verify(self.membership.replicas[self.primary], signed, message.signature):
            return [Rejected(sender, "proposal is not signed by the primary")]
        held: list[Effect] = []
        if sequence > self._executed:
            try:
                held = self._batches.offer(sequence, digest, message.time, message.requests)
            except RequestError as error:
                return [Rejected(sender, f"proposal: {error}")]
        slot = self.slots.setdefault(sequence, Slot())
        slot.digest, slot.plan, slot.signature = digest, message.plan, message.signature
        return [*held, *self._vote(sequence, slot), *self._batches.fetch_from(sender, sequence, digest)]

    def batches_arrived(self) -> list[Effect]:
        """Something of a batch has come: vote for what is complete now."""
        waiting = [(sequence, slot) for sequence, slot in self.slots.items() if slot.digest and not slot.voted]
        return [effect for sequence, slot in waiting for effect in self._vote(sequence, slot)]

    def _vote(self, sequence: Sequence, slot: Slot) -> list[Effect]:
        """The batch and, before it, its bodies go to the disk before PREPARE. By the primary, NEW-VIEW was its vote."""
        assert not slot.voted, slot.story()
        if self.silent or not self._at_hand(sequence, slot.digest):
            return []
        kept = self._accept(sequence, slot)
        if self.identity == self.primary:
            return [kept, *self._advance(sequence, slot)]
        slot.prepares[self.identity] = slot.digest
        vote = Prepare(self.membership.epoch, self.view, sequence, slot.digest)
        return [kept, Broadcast(vote), *self._advance(sequence, slot)]

    def _accept(self, sequence: Sequence, slot: Slot) -> Persist:
        """The Q entry, and the batch if it is not in the log."""
        slot.voted = True
        votes = self.accepted.get(sequence, [])
        others = [vote for vote in votes if vote.digest != slot.digest]
        if len(others) == MAX_ACCEPTED:
            others.remove(min(others, key=lambda vote: vote.view))
        writes = []
        place = self._place(sequence, slot.digest) if votes or sequence <= self._executed else None
        if place is None:
            place = min(set(range(MAX_ACCEPTED)) - {vote.place for vote in others})
            batch = self._batches.get(sequence, slot.digest)
            assert batch is not None, slot.story()
            writes.append(log.contents(sequence, place, batch.contents()))
        self.accepted[sequence] = [*others, log.Vote(slot.digest, self.view, place, slot.plan, slot.signature)]
        writes.append(log.votes(sequence, self.accepted[sequence]))
        self._disk.record(tuple(writes))
        return Persist(tuple(writes))

    def _at_hand(self, sequence: Sequence, digest: Digest) -> bool:
        """Whether this replica holds all that a vote for the batch vouches for. A number that has run, in whatever way,
        is voted for only with the batch that ran or was voted for before."""
        if sequence <= self._executed:
            return self._place(sequence, digest) is not None
        return self._batches.get(sequence, digest) is not None

    def _place(self, sequence: Sequence, digest: Digest) -> int | None:
        return log.read_entry(self._disk, sequence).place_of(digest)

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
        self.prepared[sequence] = Accepted(sequence, slot.digest, self.view)
        entry = (log.prepared(self.prepared[sequence]),)
        self._disk.record(entry)
        vote = Commit(self.membership.epoch, self.view, sequence, slot.digest)
        return [Persist(entry), Mark(sequence, "prepared"), Broadcast(vote)]

    # --- what comes out --------------------------------------------------------------------------------------------

    def committed(self, sequence: Sequence) -> Committed | None:
        """The batch at a number, once it is committed here: prepared, and 2f + 1 COMMITs that match it."""
        slot = self.slots.get(sequence)
        if slot is None or not slot.committing or _count(slot.commits, slot.digest) < self.membership.quorum:
            return None
        return Committed(slot.digest, self.view, slot.plan)

    @property
    def committers(self) -> set[ReplicaId]:
        """Who has sent COMMIT for what ran last, in this view: they are up, and in step."""
        slot = self.slots.get(self._executed)
        return set(slot.commits) if slot is not None else set()

    def executed(self, sequence: Sequence) -> None:
        """The state includes the batch at this number: what it takes to say it again is in the log."""
        self._executed = sequence

    def heard(self) -> bool:
        """Whether any number that has not run has been heard of, be it from a liar alone: reason enough to ask."""
        return any(sequence > self._executed for sequence in self.slots)

    def waiting(self) -> bool:
        """Whether a number that has not run was proposed, so that f liars cannot pretend it: by the primary itself, or
        as f + 1 others vote for it."""
        return any(
            sequence > self._executed and (slot.digest or slot.voters(self.identity) >= self.membership.weak)
            for sequence, slot in self.slots.items()
        )

    def forget(self, stable: Sequence) -> list[Effect]:
        """A checkpoint became stable: move the watermarks and drop what lies below."""
        self.stable = stable
        for book in (self.slots, self.prepared, self.accepted, self._named):
            for sequence in [sequence for sequence in book if sequence <= stable]:
                del book[sequence]
        self.next = Sequence(max(self.next, stable + 1))
        return self._open_named()

    # --- sending again ---------------------------------------------------------------------------------------------

    def send_again(self, to: ReplicaId, first: Sequence, last: Sequence, contents: bool) -> list[Effect]:
        """What this replica has said about numbers first to last in this view. Proposals, which are large, come from
        the primary, or from whom they were asked of, and as many as fit one answer: who lacks more asks again."""
        messages: list[Message] = []
        epoch, view = self.membership.epoch, self.view
        leading = self.identity == self.primary
        room = self._batches.room(to) if contents or leading else 0
        for sequence in map(Sequence, range(first, last + 1)):
            slot = self.slots.get(sequence)
            if slot is None or not slot.voted:
                continue
            if slot.signature is not None and room > 0:
                proposal = self._proposal(sequence, slot, slot.signature)
                messages.append(proposal)
                room -= LOOKUP_BYTES + proposal.size_bytes
                self._batches.spend(to, LOOKUP_BYTES + proposal.size_bytes)
            if not leading:
                messages.append(Prepare(epoch, view, sequence, slot.digest))
            if slot.committing:
                messages.append(Commit(epoch, view, sequence, slot.digest))
        return [Send(to, message) for message in messages]

    def _proposal(self, sequence: Sequence, slot: Slot, signature: bytes) -> PrePrepare:
        place = self._place(sequence, slot.digest)
        assert place is not None, slot.story()
        batch = log.read_contents(self._disk, sequence, place)
        return PrePrepare(self.membership.epoch, self.view, sequence, batch.time, batch.requests, slot.plan, signature)

    # --- starting again --------------------------------------------------------------------------------------------

    def restore(self, entries: dict[Sequence, log.Entry], stable: Sequence, executed: Sequence, view: View) -> None:
        """Take up again what the log says this replica voted for, in all views; nothing is sent but on request."""
        self.stable, self.view, self._executed = stable, view, executed
        for sequence, entry in entries.items():
            if sequence <= stable:
                continue
            if entry.votes:
                self.accepted[sequence] = entry.votes
            if entry.prepared is not None:
                self.prepared[sequence] = entry.prepared
        self.committing = max(self.prepared, default=stable)

    def resume(self, low: Sequence, named: SequenceOf[Digest]) -> list[Effect]:
        """Go on in the view that had begun before: with the votes given in it, and those that are still to be given."""
        self._named = {Sequence(low + 1 + place): digest for place, digest in enumerate(named)}
        for sequence, votes in self.accepted.items():
            for vote in votes:
                if vote.view == self.view:
                    self._revive(sequence, vote)
        self.next = Sequence(max(low + len(named), self._executed, *self.slots, self.stable) + 1)
        return self._open_named()

    def _revive(self, sequence: Sequence, vote: log.Vote) -> None:
        slot = self.slots.setdefault(sequence, Slot())
        slot.digest, slot.plan, slot.signature, slot.voted = vote.digest, vote.plan, vote.signature, True
        if sequence > self._executed:
            self._batches.want(sequence, vote.digest)
        if self.identity != self.primary:
            slot.prepares[self.identity] = vote.digest
        prepared = self.prepared.get(sequence)
        if prepared is not None and prepared.view == self.view:
            slot.committing = True
            slot.commits[self.identity] = prepared.digest


def _count(votes: dict[ReplicaId, Digest], digest: Digest) -> int:
    return list(votes.values()).count(digest)

"""The safety rules (design.md, 10), looked at after every step of every server by one who sees them all.

Rules 1, 2, 3, 5, 6, 9 and the durability contract as far as a run without liars can break them. What only shows in what
clients saw is checked at the end (`cluster.check`).
"""

from collections.abc import Callable
from typing import NamedTuple

from bft.answer import Status as AnswerStatus
from bft.answer import decode as decode_answer
from bft.batches import batch_digest
from bft.certificate import CertificateError, Claim
from bft.effects import Broadcast, Effect, NewCertificate, Send
from bft.execution import Batch, Execution
from bft.membership import Membership
from bft.messages import Checkpoint, Commit, Message, Prepare, PrePrepare
from bft.service import Result, ServiceView, StateMachine
from bft.signatures import Verifier
from bft.statement import Digest, digest
from bft.types import AgreedTime, Sequence, View
from cluster.sim.limits import Limits
from cluster.sim.server import Effects, Server
from pond.model.tables import BLOCKS
from pond.model.version import Outcome, Status, decode_outcome
from pond.node.ring import ToClient
from pond.protocol import Answered, BlocksHeld, PutBlocks, Question


class Violation(Exception):
    """A safety rule is broken."""


class Ordered(NamedTuple):
    """An update that ran: in which batch, what was asked, and what became of it."""

    sequence: Sequence
    operation: bytes
    outcome: Outcome


class _Votes:
    """What servers said about one sequence number."""

    __slots__ = ("commits", "prepares", "proposal")

    def __init__(self) -> None:
        self.proposal: dict[int, Digest] = {}
        self.prepares: dict[int, Digest] = {}
        self.commits: dict[int, Digest] = {}


class _Memory:
    """What one server has promised, which its crashes must not undo."""

    def __init__(self) -> None:
        self.voted: dict[tuple[View, Sequence], Digest] = {}
        self.committed: dict[tuple[View, Sequence], Digest] = {}
        self.checkpoints: dict[Sequence, Digest] = {}
        self.held: set[bytes] = set()
        self.asked_to_hold: dict[tuple[int, int], list[bytes]] = {}
        self.certified = Sequence(0)


class Watch:
    """The watcher of one run."""

    def __init__(
        self, membership: Membership, verifier: Verifier, limits: Limits, right_time: Callable[[], int]
    ) -> None:
        self.claims: dict[Sequence, Claim] = {}
        """What each batch left, as the first server that ran it has it."""
        self.ordered: dict[Digest, Ordered] = {}
        """Updates that ran, by the digest of their requests."""
        self.versions: dict[tuple[bytes, int], bytes] = {}
        """VGUID of each version of each object."""
        self._membership = membership
        self._verifier = verifier
        self._limits = limits
        self._quorum = 2 * ((membership.size - 1) // 3) + 1  # not as the membership has it
        self._right_time = right_time
        self._votes: dict[tuple[View, Sequence], _Votes] = {}
        self._memory = {identity: _Memory() for identity in range(membership.size)}
        self._answers: dict[Digest, bytes] = {}
        self._running: list[tuple[Digest, bytes]] = []
        self._certificates: set[bytes] = set()

    # --- attached to a core ----------------------------------------------------------------------------------------

    def service(self, inner: StateMachine) -> StateMachine:
        """The service, watched: which requests it is made to run."""
        return _WatchedService(inner, self._running)

    def attach(self, server: Server, execution: Execution) -> None:
        """Look at each batch that runs, before anything else is done about it."""
        run = execution.run

        def watched(batch: Batch) -> list[Effect]:
            self._running.clear()
            before = execution.executed
            effects = run(batch)
            self._executed(server, batch, before, execution)
            return effects

        execution.run = watched  # type: ignore[method-assign]

    def _executed(self, server: Server, batch: Batch, before: Sequence, execution: Execution) -> None:
        sequence = batch.sequence
        who = f"server {server.identity}"
        if sequence != before + 1 or execution.executed != sequence:
            raise Violation(f"{who} ran batch {sequence} after {before}")
        state = execution.states[sequence]
        claim = state.claim
        known = self.claims.setdefault(sequence, claim)
        if known != claim:
            raise Violation(f"rule 1: {who} left another state after batch {sequence}: {_difference(claim, known)}")
        self._check_quorum(server, batch)
        if known is not claim:
            return
        self._check_time(sequence, claim)
        answers = dict(zip([request.digest for request in batch.requests], state.answers, strict=True))
        for name, operation in self._running:
            self._ran(sequence, name, operation, answers[name])

    def _check_quorum(self, server: Server, batch: Batch) -> None:
        """Committed means: 2f+1 replicas held the batch as prepared, in one view."""
        most: set[int] = set()
        for (_, sequence), votes in self._votes.items():
            if sequence == batch.sequence:
                voters = {voter for voter, voted in votes.commits.items() if voted == batch.digest}
                most = max(most, voters | {server.identity}, key=len)
        others = most
        if len(most) < self._quorum:
            raise Violation(
                f"rule 1: server {server.identity} ran batch {batch.sequence}, which only {sorted(others)} and itself "
                "have committed"
            )

    def _check_time(self, sequence: Sequence, claim: Claim) -> None:
        before = self.claims.get(Sequence(sequence - 1))
        if before is not None and claim.time < before.time:
            raise Violation(f"agreed time goes back at batch {sequence}, from {before.time} to {claim.time}")
        ahead = (claim.time - self._right_time()) / 1e6
        if ahead > self._limits.clock_error_seconds:
            raise Violation(f"agreed time at batch {sequence} is {ahead:.3f} s ahead of every correct clock")

    def _ran(self, sequence: Sequence, name: Digest, operation: bytes, answer: bytes) -> None:
        before = self.ordered.get(name)
        if before is not None:
            raise Violation(f"rule 3: request {name.hex()[:8]} ran in batch {before.sequence} and again in {sequence}")
        outcome = decode_outcome(decode_answer(answer).result)
        self.ordered[name] = Ordered(sequence, operation, outcome)
        self._answers[name] = answer
        if outcome.status is Status.COMMITTED and outcome.vguid is not None:
            place = (outcome.aguid, outcome.number)
            if self.versions.setdefault(place, outcome.vguid) != outcome.vguid:
                raise Violation(f"rule 5: version {outcome.number} of object {outcome.aguid.hex()[:8]} was made twice")
            if outcome.number > 1 and (outcome.aguid, outcome.number - 1) not in self.versions:
                raise Violation(f"rule 5: version {outcome.number} of object {outcome.aguid.hex()[:8]} follows none")

    # --- a server's life -------------------------------------------------------------------------------------------

    def started(self, server: Server) -> None:
        """Everything that this server ever said must still be known to it, unless a checkpoint made it useless."""
        memory = self._memory[server.identity]
        replica = server.core.replica
        stable = replica.ordering.stable
        memory.certified = Sequence(0)
        memory.asked_to_hold.clear()
        for book in (memory.voted, memory.committed):
            for place in [place for place in book if place[1] <= stable]:
                del book[place]
        for (view, sequence), voted in memory.voted.items():
            kept = [vote for vote in replica.ordering.accepted.get(sequence, []) if vote.digest == voted]
            if not kept or kept[0].view < view:
                raise Violation(f"rule 2: server {server.identity} restarted and forgot its vote for batch {sequence}")
        for (view, sequence), committed in memory.committed.items():
            entry = replica.ordering.prepared.get(sequence)
            if entry is None or entry.view < view or (entry.view == view and entry.digest != committed):
                raise Violation(f"rule 2: server {server.identity} restarted and forgot its COMMIT of batch {sequence}")
        for guid in memory.held:
            if server.disk.size(BLOCKS, guid) is None:
                raise Violation(f"rule 2: server {server.identity} lost block {guid.hex()[:8]}, which it said it holds")
        self.attach(server, replica.execution)

    def asked(self, server: Server, client: int, question: Question) -> None:
        """Remember which blocks a client's question brings."""
        if isinstance(question, PutBlocks):
            service = server.core.replica._service
            guids = [service.body_digest(block) for block in question.blocks]
            self._memory[server.identity].asked_to_hold[client, question.ask] = guids

    def stepped(self, server: Server, effects: Effects) -> None:
        """Certificates are valid, and never older than the one before."""
        for effect in effects:
            if isinstance(effect, NewCertificate):
                self._check_certificate(server, effect)

    def _check_certificate(self, server: Server, effect: NewCertificate) -> None:
        memory = self._memory[server.identity]
        sequence, certificate = effect
        if sequence <= memory.certified:
            raise Violation(
                f"server {server.identity} went back from certificate {memory.certified} to certificate {sequence}"
            )
        memory.certified = sequence
        if certificate.signature in self._certificates:
            return
        try:
            claim = certificate.verify(self._verifier, self._membership.ring_key)
        except CertificateError as error:
            raise Violation(
                f"rule 4: server {server.identity} took a certificate that does not hold: {error}"
            ) from None
        if claim != self.claims.get(sequence):
            raise Violation(f"rule 4: the ring signed another state than batch {sequence} left")
        self._certificates.add(certificate.signature)

    # --- what leaves -----------------------------------------------------------------------------------------------

    def leaving(self, server: Server, effect: Send | Broadcast | ToClient) -> None:
        """A vote is for one batch only, and has its reasons; an answer is always the same."""
        match effect:
            case ToClient(client, reply):
                match reply:
                    case Answered(answer=answer):
                        self._check_answer(server, answer)
                    case BlocksHeld(ask):
                        memory = self._memory[server.identity]
                        assert isinstance(client, int)
                        memory.held.update(memory.asked_to_hold.pop((client, ask), ()))
            case Send(_, message) | Broadcast(message):
                self._check_message(server, message)

    def _check_answer(self, server: Server, data: bytes) -> None:
        answer = decode_answer(data)
        if answer.status is AnswerStatus.EXECUTED and self._answers.get(answer.request) != data:
            what = "which never ran" if answer.request not in self._answers else "which was answered otherwise before"
            raise Violation(f"rule 3: server {server.identity} answers request {answer.request.hex()[:8]}, {what}")

    def _check_message(self, server: Server, message: Message) -> None:
        identity = server.identity
        memory = self._memory[identity]
        match message:
            case Commit(view=view, sequence=sequence, digest=voted):
                votes = self._votes_on(view, sequence)
                self._once(votes.commits, server, sequence, voted, "committed")
                memory.committed.setdefault((view, sequence), voted)
                memory.voted.setdefault((view, sequence), voted)
                backers = {voter for voter, other in votes.prepares.items() if other == voted}
                backers |= {voter for voter, other in votes.proposal.items() if other == voted}
                backers.add(self._membership.primary(view))
                if len(backers | {identity}) < self._quorum:
                    raise Violation(
                        f"rule 1: server {identity} commits batch {sequence}, which only {sorted(backers)} prepared"
                    )
            case Prepare(view=view, sequence=sequence, digest=voted):
                self._once(self._votes_on(view, sequence).prepares, server, sequence, voted, "prepared")
                memory.voted[view, sequence] = voted
            case PrePrepare(view=view, sequence=sequence) if identity == self._membership.primary(view):
                votes = self._votes_on(view, sequence)
                voted = _digest_of(message)
                self._once(votes.proposal, server, sequence, voted, "proposed")
                memory.voted[view, sequence] = voted
            case Checkpoint(sequence=sequence, digest=voted):
                if memory.checkpoints.setdefault(sequence, voted) != voted:
                    raise Violation(f"server {identity} signed two checkpoints at {sequence}")

    def _once(self, book: dict[int, Digest], server: Server, sequence: Sequence, voted: Digest, verb: str) -> None:
        if book.setdefault(server.identity, voted) != voted:
            raise Violation(f"rule 1: server {server.identity} {verb} two batches at {sequence}")

    def _votes_on(self, view: View, sequence: Sequence) -> _Votes:
        votes = self._votes.get((view, sequence))
        if votes is None:
            votes = self._votes[view, sequence] = _Votes()
        return votes

    # --- bounds ----------------------------------------------------------------------------------------------------

    def rested(self, server: Server) -> None:
        """Memory stays bounded, whatever came in."""
        replica = server.core.replica
        limits = self._limits
        ordering = replica.ordering
        slots = ordering.slots
        if len(slots) > limits.tuning.window or (slots and max(slots) > ordering.stable + limits.tuning.window):
            raise Violation(
                f"rule 9: server {server.identity} keeps {len(slots)} numbers up to {max(slots)}, though the last"
                f" checkpoint is {ordering.stable} and the window {limits.tuning.window}"
            )
        if replica.queued > limits.queue:
            raise Violation(f"rule 9: {replica.queued} requests wait at server {server.identity}")
        if len(replica.execution.states) > limits.states:
            raise Violation(f"rule 9: server {server.identity} keeps {len(replica.execution.states)} states")


class _WatchedService:
    def __init__(self, inner: StateMachine, running: list[tuple[Digest, bytes]]) -> None:
        self._inner = inner
        self._running = running
        self.refuses = inner.refuses
        self.bodies = inner.bodies
        self.body_digest = inner.body_digest
        self.body_table = inner.body_table
        self.hold = inner.hold
        self.parts = inner.parts
        self.read = inner.read

    def execute(
        self, operation: bytes, principal: bytes, request: Digest, time: AgreedTime, view: ServiceView
    ) -> Result:
        self._running.append((request, operation))
        return self._inner.execute(operation, principal, request, time, view)


def _digest_of(proposal: PrePrepare) -> Digest:
    items = [(digest(request.statement), request.signature) for request in proposal.requests]
    return batch_digest(proposal.time, items)


def _difference(claim: Claim, known: Claim) -> str:
    fields = [name for name in Claim.__struct_fields__ if getattr(claim, name) != getattr(known, name)]
    return ", ".join(fields) + " differ"

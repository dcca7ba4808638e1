"""The safety rules (design.md, 10), looked at after every step of every server by one who sees them all.

Rules 1, 2, 3, 5, 6, 9 and the durability contract, of correct servers: what faulty ones do and say of themselves is
theirs, and they count as having told everybody whatever serves them. What only shows in what clients saw is checked at
the end (`cluster.check`).

Votes belong to a view: a later one may have another batch at the same number. A server may execute what it did not see
committed itself: what f + 1 others say was decided, or by taking over the state of a checkpoint.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from bft.answer import Status as AnswerStatus
from bft.answer import decode as decode_answer
from bft.batches import batch_digest
from bft.certificate import CertificateError, Claim
from bft.effects import Broadcast, Effect, NewCertificate, Send
from bft.execution import Batch, Execution
from bft.membership import Membership
from bft.messages import MAX_ACCEPTED, Checkpoint, Commit, Decided, Message, NewView, Prepare, PrePrepare, ViewChange
from bft.service import Result, ServiceView, StateMachine
from bft.signatures import Verifier
from bft.statement import Digest, digest
from bft.types import AgreedTime, Sequence, View
from cluster.sim.limits import Bounds
from cluster.sim.server import Server
from pond.model.tables import BLOCKS
from pond.model.version import Outcome, Status, decode_outcome
from pond.node.ring import ToClient
from pond.protocol import Answered, BlocksHeld, BlocksKept, KeepBlocks, PutBlocks, Question


class Violation(Exception):
    """A safety rule is broken."""


class FirstRun(NamedTuple):
    """A batch that ran somewhere first: since when that is durable there, in seconds of the right clock, and how many
    updates it had."""

    when: float
    sequence: Sequence
    updates: int


class Ordered(NamedTuple):
    """An update that ran: in which batch, what was asked, and what became of it."""

    sequence: Sequence
    operation: bytes
    outcome: Outcome


class Running(NamedTuple):
    """A request that a server runs."""

    name: Digest
    principal: bytes
    operation: bytes


class Ran(NamedTuple):
    """A batch that a server ran, and what came of it: it counts once the server may tell others."""

    sequence: Sequence
    claim: Claim
    updates: list[tuple[Running, bytes]]
    """Each request that ran, and its answer."""
    when: float
    """In seconds of the right clock."""


Place = tuple[View, Sequence]


class _Votes:
    """What correct servers said about one sequence number in one view."""

    __slots__ = ("commits", "prepares", "proposal")

    def __init__(self) -> None:
        self.proposal: dict[int, Digest] = {}
        self.prepares: dict[int, Digest] = {}
        self.commits: dict[int, Digest] = {}


class _Memory:
    """What one server has promised, which its crashes must not undo."""

    def __init__(self) -> None:
        self.voted: dict[Place, Digest] = {}
        self.committed: dict[Place, Digest] = {}
        self.checkpoints: dict[Sequence, Digest] = {}
        self.held: set[bytes] = set()
        self.asked_to_hold: dict[tuple[int, int], list[bytes]] = {}
        self.certified = Sequence(0)
        self.executed = Sequence(0)
        """How far it has come before our eyes."""
        self.untold: list[Ran] = []
        """Ran in a step that waits for its sync: until then its own COMMIT may be one that a crash takes back."""
        self.view = View(0)
        self.left_for = View(0)
        """The highest view that it has sent VIEW-CHANGE for: it has told all that it had voted for in lower ones."""


class Watch:
    """The watcher of one run."""

    def __init__(
        self,
        membership: Membership,
        verifier: Verifier,
        bounds: Bounds,
        right_time: Callable[[], int],
        reached: Counter[tuple[str, str]],
        faulty: frozenset[int] = frozenset(),
    ) -> None:
        self.claims: dict[Sequence, Claim] = {}
        """What each batch left, as the first server that ran it has it."""
        self.ordered: dict[Digest, Ordered] = {}
        """Updates that ran, by the digest of their requests."""
        self.versions: dict[tuple[bytes, int], bytes] = {}
        """VGUID of each version of each object."""
        self.commits: list[FirstRun] = []
        """All batches that ran, in the order in which each ran first."""
        self._membership = membership
        self._verifier = verifier
        self._bounds = bounds
        self._quorum = 2 * ((membership.size - 1) // 3) + 1  # not as the membership has it
        self._right_time = right_time
        self._reached = reached
        self._faulty = faulty
        self._votes: dict[Place, _Votes] = {}
        self._views_of: dict[Sequence, list[View]] = {}
        self._decided: dict[Sequence, dict[int, Digest]] = {}
        """What correct servers told others was decided."""
        self._memory = {identity: _Memory() for identity in range(membership.size)}
        self._answers: dict[Digest, bytes] = {}
        self._right_answers: set[bytes] = set()
        """Answers that were found to be right."""
        self._signed: set[tuple[bytes, bytes]] = set()
        """Whose key, and which operation."""
        self._running: list[Running] = []
        self._certificates: set[bytes] = set()

    def signed(self, principal: bytes, operation: bytes) -> None:
        """A client signs a request with the key of this principal: nothing else is to run."""
        self._signed.add((principal, operation))

    # --- attached to a core ----------------------------------------------------------------------------------------

    def service(self, server: Server, inner: StateMachine) -> StateMachine:
        """The service, watched: which requests it is made to run."""
        return inner if server.identity in self._faulty else _WatchedService(inner, self._running)

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
        if sequence != before + 1 or execution.executed != sequence:
            raise Violation(f"server {server.identity} ran batch {sequence} after {before}")
        self._check_quorum(server, batch)
        memory = self._memory[server.identity]
        memory.executed = sequence
        state = execution.states[sequence]
        answers = dict(zip([request.digest for request in batch.requests], state.answers, strict=True))
        updates = [(running, answers[running.name]) for running in self._running]
        memory.untold.append(Ran(sequence, state.claim, updates, self._right_time() / 1e6))

    def durable(self, server: Server, executed: Sequence) -> None:
        """What this server ran so far is there after a crash, or need not be: it may tell of it."""
        untold = self._memory[server.identity].untold
        while untold and untold[0].sequence <= executed:
            self._compare(server, untold.pop(0))

    def _compare(self, server: Server, ran: Ran) -> None:
        sequence, claim = ran.sequence, ran.claim
        known = self.claims.setdefault(sequence, claim)
        if known != claim:
            raise Violation(
                f"rule 1: server {server.identity} left another state after batch {sequence}:"
                f" {_difference(claim, known)}"
            )
        if known is not claim:
            return
        self._check_time(ran)
        self.commits.append(FirstRun(self._right_time() / 1e6, sequence, len(ran.updates)))
        for running, answer in ran.updates:
            self._ran(sequence, running, answer)

    def _check_quorum(self, server: Server, batch: Batch) -> None:
        """Committed means: 2f+1 replicas hold the batch as prepared in one view, this one among them; learned, that f+1
        others told that it was decided."""
        committed: set[int] = set()
        for view in self._views_of.get(batch.sequence, ()):
            backers = self._backers(self._votes[view, batch.sequence].commits, batch.digest) - {server.identity}
            committed = max(committed, backers, key=len)
        if len(committed) + 1 >= self._quorum:
            return
        told = self._backers(self._decided.get(batch.sequence, {}), batch.digest) - {server.identity}
        if len(told) < self._membership.weak:
            raise Violation(
                f"rule 1: server {server.identity} ran batch {batch.sequence}, which only {sorted(committed)} and"
                " itself have committed"
            )

    def _backers(self, votes: Mapping[int, Digest], wanted: Digest) -> set[int]:
        """Who may have told a server this: those who did, and every liar."""
        return {voter for voter, voted in votes.items() if voted == wanted} | self._faulty

    def _check_time(self, ran: Ran) -> None:
        before = self.claims.get(Sequence(ran.sequence - 1))
        if before is not None and ran.claim.time < before.time:
            raise Violation(f"agreed time goes back at batch {ran.sequence}, from {before.time} to {ran.claim.time}")
        ahead = ran.claim.time / 1e6 - ran.when
        if ahead > self._bounds.clock_error_seconds:
            raise Violation(f"agreed time at batch {ran.sequence} is {ahead:.3f} s ahead of every correct clock")

    def _ran(self, sequence: Sequence, running: Running, answer: bytes) -> None:
        name, principal, operation = running
        if (principal, operation) not in self._signed:
            raise Violation(f"rule 4: batch {sequence} has request {name.hex()[:8]}, which nobody signed")
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
        """Everything that this server ever said must still be known to it, unless a checkpoint or a later view made it
        useless."""
        if server.identity in self._faulty:
            return
        memory = self._memory[server.identity]
        replica = server.core.replica
        ordering, execution = replica.ordering, replica.execution
        memory.certified = Sequence(0)
        memory.asked_to_hold.clear()
        for book in (memory.voted, memory.committed):
            for place in [place for place in book if place[1] <= ordering.stable]:
                del book[place]
        for sequence in [sequence for sequence in memory.checkpoints if sequence <= ordering.stable]:
            del memory.checkpoints[sequence]
        if replica.views.view < memory.view:
            raise Violation(f"rule 2: server {server.identity} restarted and forgot view {memory.view}")
        if replica.views.view < memory.left_for:
            raise Violation(
                f"rule 2: server {server.identity} restarted and forgot that it left for view {memory.left_for}"
            )
        for (view, sequence), voted in memory.voted.items():
            kept = [vote for vote in ordering.accepted.get(sequence, []) if vote.digest == voted]
            if not kept or kept[0].view < view:
                raise Violation(f"rule 2: server {server.identity} restarted and forgot its vote for batch {sequence}")
        for (view, sequence), committed in memory.committed.items():
            entry = ordering.prepared.get(sequence)
            if entry is None or entry.view < view or (entry.view == view and entry.digest != committed):
                raise Violation(f"rule 2: server {server.identity} restarted and forgot its COMMIT of batch {sequence}")
        memory.executed = execution.executed
        self.durable(server, execution.executed)  # what was written and never synced may have survived all the same
        memory.untold.clear()
        self._check_state(server, execution)
        for guid in memory.held:
            if server.disk.size(BLOCKS, guid) is None:
                raise Violation(f"rule 2: server {server.identity} lost block {guid.hex()[:8]}, which it said it holds")
        self.attach(server, execution)

    def asked(self, server: Server, client: int, question: Question) -> None:
        """Remember which blocks a client's question brings."""
        if server.identity in self._faulty:
            return
        asked_to_hold = self._memory[server.identity].asked_to_hold
        match question:
            case PutBlocks(ask, blocks):
                service = server.core.replica._service
                asked_to_hold[client, ask] = [service.body_digest(block) for block in blocks]
            case KeepBlocks(ask, guids):
                asked_to_hold[client, ask] = list(guids)

    def certified(self, server: Server, effect: NewCertificate) -> None:
        """Certificates are valid, and never older than the one before."""
        if server.identity in self._faulty:
            return
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
        if claim not in (self.claims.get(sequence), *[ran.claim for ran in memory.untold if ran.sequence == sequence]):
            raise Violation(f"rule 4: the ring signed another state than batch {sequence} left")
        self._certificates.add(certificate.signature)

    # --- what leaves -----------------------------------------------------------------------------------------------

    def leaving(self, server: Server, effect: Send | Broadcast | ToClient) -> None:
        """A vote is for one batch only, and has its reasons; an answer is always the same."""
        if server.identity in self._faulty:
            return
        match effect:
            case ToClient(client, reply):
                match reply:
                    case Answered(answer=answer):
                        self._check_answer(server, answer)
                    case BlocksHeld(ask):
                        memory = self._memory[server.identity]
                        assert isinstance(client, int)
                        memory.held.update(memory.asked_to_hold.pop((client, ask), ()))
                    case BlocksKept(ask, kept):
                        memory = self._memory[server.identity]
                        assert isinstance(client, int)
                        asked = memory.asked_to_hold.pop((client, ask), ())
                        memory.held.update(guid for guid, held in zip(asked, kept, strict=False) if held)
            case Send(_, message) | Broadcast(message):
                self._check_message(server, message)

    def _check_answer(self, server: Server, data: bytes) -> None:
        if data in self._right_answers:
            return
        answer = decode_answer(data)
        if answer.status is AnswerStatus.EXECUTED and self._answers.get(answer.request) != data:
            what = "which never ran" if answer.request not in self._answers else "which was answered otherwise before"
            raise Violation(f"rule 3: server {server.identity} answers request {answer.request.hex()[:8]}, {what}")
        if answer.status is AnswerStatus.EXECUTED:
            self._right_answers.add(data)

    def _check_message(self, server: Server, message: Message) -> None:
        identity = server.identity
        memory = self._memory[identity]
        if memory.left_for:
            self._check_left(identity, message, memory.left_for)
        match message:
            case ViewChange(view=view, replica=replica) if replica == identity:
                memory.left_for = max(memory.left_for, view)
                self._check_told(identity, message, memory)
            case Commit(view=view, sequence=sequence, digest=voted):
                votes = self._votes_on(view, sequence)
                self._once(votes.commits, server, sequence, voted, "committed")
                memory.committed[view, sequence] = voted
                memory.voted.setdefault((view, sequence), voted)
                backers = self._backers(votes.prepares, voted) | self._backers(votes.proposal, voted)
                if len(backers | {identity}) < self._quorum:
                    raise Violation(
                        f"rule 1: server {identity} commits batch {sequence}, which only {sorted(backers)} prepared"
                    )
            case Prepare(view=view, sequence=sequence, digest=voted):
                self._once(self._votes_on(view, sequence).prepares, server, sequence, voted, "prepared")
                memory.voted[view, sequence] = voted
            case PrePrepare(view=view, sequence=sequence) if identity == self._membership.primary(view):
                voted = _digest_of(message)
                self._once(self._votes_on(view, sequence).proposal, server, sequence, voted, "proposed")
                memory.voted[view, sequence] = voted
            case Checkpoint(sequence=sequence, digest=voted):
                if memory.checkpoints.setdefault(sequence, voted) != voted:
                    raise Violation(f"server {identity} signed two checkpoints at {sequence}")
            case NewView(view=view, stable=stable, batches=batches) if identity == self._membership.primary(view):
                for place, voted in enumerate(batches):  # it stands for PRE-PREPAREs of what it names
                    sequence = Sequence(stable + 1 + place)
                    self._once(self._votes_on(view, sequence).proposal, server, sequence, voted, "proposed")
            case Decided(sequence=sequence, digest=decided):
                known = self.claims.get(sequence)
                if known is None or known.batch != decided:
                    raise Violation(f"rule 1: server {identity} says that another batch was decided at {sequence}")
                self._decided.setdefault(sequence, {})[identity] = decided

    def _check_left(self, identity: int, message: Message, left_for: View) -> None:
        match message:
            case PrePrepare(view=view) if identity != self._membership.primary(view):
                return  # passed on
            case PrePrepare(view=view) | Prepare(view=view) | Commit(view=view) if view < left_for:
                raise Violation(f"rule 1: server {identity} votes in view {view} after it left for view {left_for}")

    def _check_told(self, identity: int, message: ViewChange, memory: _Memory) -> None:
        """VIEW-CHANGE tells of every vote in lower views that no checkpoint has settled."""
        low = message.stable.sequence
        prepared = {entry.sequence: entry for entry in message.prepared}
        accepted = {(entry.sequence, entry.digest): entry.view for entry in message.pre_prepared}
        often = Counter(entry.sequence for entry in message.pre_prepared)
        for (view, sequence), voted in memory.voted.items():
            settled = sequence <= low or view >= message.view or often[sequence] == MAX_ACCEPTED
            if not settled and accepted.get((sequence, voted), -1) < view:
                raise Violation(f"rule 1: server {identity} leaves and conceals its vote for batch {sequence}")
        for (view, sequence), committed in memory.committed.items():
            if low < sequence and view < message.view:
                entry = prepared.get(sequence)
                if entry is None or entry.view < view or (entry.view == view and entry.digest != committed):
                    raise Violation(f"rule 1: server {identity} leaves and conceals its COMMIT of batch {sequence}")

    def _once(self, book: dict[int, Digest], server: Server, sequence: Sequence, voted: Digest, verb: str) -> None:
        if book.setdefault(server.identity, voted) != voted:
            raise Violation(f"rule 1: server {server.identity} {verb} two batches at {sequence} in one view")

    def _votes_on(self, view: View, sequence: Sequence) -> _Votes:
        votes = self._votes.get((view, sequence))
        if votes is None:
            votes = self._votes[view, sequence] = _Votes()
            self._views_of.setdefault(sequence, []).append(view)
        return votes

    # --- bounds ----------------------------------------------------------------------------------------------------

    def rested(self, server: Server) -> None:
        """Memory stays bounded, whatever came in; and a state that was not computed here is one that was."""
        if server.identity in self._faulty:
            return
        replica = server.core.replica
        memory = self._memory[server.identity]
        if replica.execution.executed != memory.executed:
            self._reached["event", "jumped"] += 1
            memory.executed = replica.execution.executed
            self._check_state(server, replica.execution)
        memory.view = replica.ordering.view
        bounds = self._bounds
        ordering = replica.ordering
        slots = ordering.slots
        if len(slots) > bounds.window or (slots and max(slots) > ordering.stable + bounds.window):
            raise Violation(
                f"rule 9: server {server.identity} keeps {len(slots)} numbers up to {max(slots)}, though the last"
                f" checkpoint is {ordering.stable} and the window {bounds.window}"
            )
        if replica.queued > bounds.queue:
            raise Violation(f"rule 9: {replica.queued} requests wait at server {server.identity}")
        if len(replica.execution.states) > bounds.states:
            raise Violation(f"rule 9: server {server.identity} keeps {len(replica.execution.states)} states")

    def _check_state(self, server: Server, execution: Execution) -> None:
        """A server that starts, or takes over a checkpoint, has the state that others computed."""
        if execution.executed == 0:
            return
        known = self.claims.get(execution.executed)
        if known is None or (known.state_root, known.time) != (execution.tree.root, execution.time):
            what = "nobody had" if known is None else "is not the one that others had"
            raise Violation(
                f"rule 1: server {server.identity} has a state after batch {execution.executed} that {what}"
            )


class _WatchedService:
    def __init__(self, inner: StateMachine, running: list[Running]) -> None:
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
        self._running.append(Running(request, principal, operation))
        return self._inner.execute(operation, principal, request, time, view)


def _digest_of(proposal: PrePrepare) -> Digest:
    items = [(digest(request.statement), request.signature) for request in proposal.requests]
    return batch_digest(proposal.time, items)


def _difference(claim: Claim, known: Claim) -> str:
    fields = [name for name in Claim.__struct_fields__ if getattr(claim, name) != getattr(known, name)]
    return ", ".join(fields) + " differ"

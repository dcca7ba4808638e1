"""Running committed batches in order, and what is certified about each (TOCS 2002, section 4.2; design.md, 5).

No tentative execution: what runs here is committed. State and progress are written in one piece and can be computed
again from the log. Trees of earlier batches stay at hand until a later certificate makes them useless.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from bft import log, merkle
from bft.admission import Admitted
from bft.answer import Answer, Status
from bft.certificate import Certificate, Claim
from bft.effects import Effect, Executed, Mark, NewCertificate, Overlay, Store, Write
from bft.membership import Membership
from bft.service import StateMachine
from bft.sessions import Sessions, StateView, refusal
from bft.state_tree import StateTree
from bft.statement import Digest
from bft.types import AgreedTime, Sequence

KEPT_STATES = 256
"""Uncertified states kept for a certificate that is still to come; older ones will be covered by a later one."""


class Batch(NamedTuple):
    """A batch that is decided, ready to run."""

    sequence: Sequence
    time: AgreedTime
    digest: Digest
    requests: tuple[Admitted, ...]


class State(NamedTuple):
    """What one batch left: the claim to be certified, the state tree, and the batch's answers in order."""

    claim: Claim
    tree: StateTree
    answers: tuple[bytes, ...]


class Certified(NamedTuple):
    """The newest state that the ring has signed, and its certificate."""

    certificate: Certificate
    state: State

    @property
    def sequence(self) -> Sequence:
        """Number of the batch that left this state."""
        return self.state.claim.sequence


class _BatchView(StateView):
    """What an operation sees: state and tables as the batch so far left them."""

    def __init__(self, tree: StateTree, disk: Overlay) -> None:
        super().__init__(tree.get)
        self._disk = disk

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._disk.get(table, key)

    def size(self, table: str, key: bytes) -> int | None:
        return self._disk.size(table, key)


class Execution:
    """The replicated state and the way it advances."""

    def __init__(self, membership: Membership, service: StateMachine, disk: Overlay) -> None:
        self.executed = Sequence(0)
        self.time = AgreedTime(0)
        self.tree = StateTree.empty()
        self.certified: Certified | None = None
        """What the ring has signed since this replica started."""
        self._kept: Certified | None = None
        self.states: dict[Sequence, State] = {}
        """States after recent batches that no certificate covers yet."""
        self._membership = membership
        self._service = service
        self._disk = disk
        self._sessions = Sessions()

    def restore(self, scan: Callable[[], list[tuple[bytes, bytes]]]) -> None:
        """Take up the state that the disk holds, built from its entries.

        Raises StateDamaged when it does not hash to what was written beside it: the disk is damaged.
        """
        progress = log.read_progress(self._disk)
        if progress is None:
            return
        items = scan()
        self.tree = StateTree.empty().update(dict(items))
        if self.tree.root != progress.state_root:
            raise StateDamaged(f"the state on disk is not the one that batch {progress.executed} left")
        self.executed, self.time = progress.executed, progress.time
        self._sessions.restore(items)

    def earlier(self, stable: Sequence) -> Iterator[tuple[Sequence, AgreedTime, StateTree]]:
        """This state and those before it down to the one after batch `stable`, each with its agreed time: without them
        nobody could fetch a checkpoint's state from a ring whose servers have all started again."""
        sequence, time, tree = self.executed, self.time, self.tree
        yield sequence, time, tree
        while sequence > stable:
            back = log.read_undo(self._disk, sequence)
            if back is None:
                return
            sequence, time, tree = Sequence(sequence - 1), back.time, tree.update(dict(back.changed))
            yield sequence, time, tree

    def keep_proof(self, sequence: Sequence, tree: StateTree) -> None:
        """If the certificate on the disk is of this state, `earlier` or not, reads are proved by it until the ring
        signs anew: it may never, and then this is the way to what it holds."""
        certificate = log.read_certificate(self._disk)
        if certificate is None:
            return
        claim = certificate.claim()
        if claim.sequence == sequence and claim.state_root == tree.root:
            self._kept = Certified(certificate, State(claim, tree, ()))

    @property
    def provable(self) -> Certified | None:
        """The newest state that reads can be proved by: the ring may have signed it before this replica started."""
        return self.certified or self._kept

    def install(self, sequence: Sequence, time: AgreedTime, tree: StateTree) -> None:
        """Go on from a state that was fetched. Certificates of what it skips say nothing new."""
        assert sequence > self.executed, f"state {sequence} after {self.executed}"
        self.executed, self.time, self.tree = sequence, time, tree
        self.states.clear()
        self._sessions.restore(tree.items())

    def run(self, batch: Batch) -> list[Effect]:
        """Execute the next batch."""
        assert batch.sequence == self.executed + 1, f"batch {batch.sequence} after {self.executed}"
        time = AgreedTime(max(batch.time, self.time))
        view = _BatchView(self.tree, self._disk)
        self._sessions.sweep(view, time, len(batch.requests))
        writes: list[Write] = []
        answers: list[bytes] = []
        for request in batch.requests:
            verdict = self._sessions.judge(view, request.statement, request.digest, time)
            if isinstance(verdict, bytes):
                answers.append(verdict)
            elif verdict is not Status.EXECUTED:
                if verdict is Status.NUMBER_TAKEN:
                    self._sessions.outlast(view, request.statement)
                answers.append(refusal(request.digest, verdict))
            else:
                result = self._service.execute(
                    request.statement.operation, request.statement.principal, request.digest, time, view
                )
                view.changes.update(result.state)
                self._disk.record(result.writes)
                writes += result.writes
                answer = Answer(request.digest, Status.EXECUTED, result.result).encode()
                self._sessions.keep(view, request.statement, answer)
                answers.append(answer)
        back = log.Undo(self.time, [(key, view.before(key)) for key in view.changes])
        self.tree = self.tree.update(view.changes)
        self.executed, self.time = batch.sequence, time
        claim = Claim(
            self._membership.ring_id,
            self._membership.epoch,
            batch.sequence,
            time,
            batch.digest,
            merkle.root(answers),
            self.tree.root,
        )
        self.states[batch.sequence] = State(claim, self.tree, tuple(answers))
        self.states.pop(Sequence(batch.sequence - KEPT_STATES), None)
        progress = (
            *(Write(log.STATE, key, value) for key, value in view.changes.items()),
            log.undo(batch.sequence, back),
            log.progress(batch.sequence, time, self.tree.root),
        )
        self._disk.record(progress)
        by_request = {request.digest: answer for request, answer in zip(batch.requests, answers, strict=True)}
        return [
            Store((*writes, *progress)),
            Mark(batch.sequence, "executed"),
            Executed(batch.sequence, time, by_request),
        ]

    def on_certificate(self, claim: Claim, certificate: Certificate) -> list[Effect]:
        """A verified certificate of a batch that ran here: reads are proved by it from now on."""
        state = self.states[claim.sequence]
        assert state.claim == claim, f"certificate of batch {claim.sequence} differs from our own state"
        self.certified = Certified(certificate, state)
        self._kept = None
        write = log.certificate(certificate)
        self._disk.record((write,))
        for sequence in [sequence for sequence in self.states if sequence <= claim.sequence]:
            del self.states[sequence]
        return [Store((write,)), Mark(claim.sequence, "certified"), NewCertificate(claim.sequence, certificate)]


class StateDamaged(Exception):
    """State on disk does not match its own digest: the server must not serve from it."""

"""One replica of the ring: the way into agreement. Routes events to the machines and their results between them.

Each machine has its own file, state and refusals: admission, ordering, execution, checkpoints, signing, replies. What
stands here is only who hears of what, the primary's queue, and when something is sent again (TOCS 2002, section 4.1 to
4.3; view changes are not here yet: docs/divergence.md).
"""

from collections import deque

from bft import log
from bft.admission import Admission, Admitted
from bft.certificate import Certificate, CertificateError, Claim
from bft.checkpoints import Checkpoints
from bft.effects import (
    BurstEnded,
    Effect,
    Event,
    Executed,
    Overlay,
    RandomBytes,
    Reader,
    Received,
    Rejected,
    Requested,
    Send,
    SetTimer,
    Started,
    Timer,
    TimerFired,
    Write,
)
from bft.execution import Execution
from bft.membership import Membership
from bft.messages import (
    MAX_BATCH,
    Bodies,
    Certified,
    Checkpoint,
    Commit,
    FetchBodies,
    FetchParts,
    FetchState,
    Nonces,
    Parts,
    Prepare,
    PrePrepare,
    RequestError,
    SignatureShare,
    StateChunk,
    StateGone,
    Status,
)
from bft.ordering import WINDOW, Ordering
from bft.replies import MAX_WAITING, Replies
from bft.service import StateMachine
from bft.sessions import LONGEST_LIFE_SECONDS
from bft.signatures import Signer, Verifier
from bft.signing import Signing
from bft.statement import Digest
from bft.threshold import ThresholdScheme
from bft.types import AgreedTime, ReplicaId, Sequence

PIPELINE = 4
"""Batches under way at once: more hide a round trip but make batches smaller; other requests wait for one."""

BATCH_BYTES = 8 * 1024 * 1024
"""Size of a batch's requests at which it is full; a single larger request makes a batch of its own."""

QUEUE = 4096
QUEUE_BYTES = 64 * 1024 * 1024
"""Requests that wait at the primary, and their bytes; above either the answer is overload."""

IDLE_SECONDS = 1.0
"""An idle ring orders an empty batch this often: the one source of freshness for all objects (design.md, 5)."""

FIRST_SECONDS = 0.2
"""The same while no certificate is known yet, as after a start: nothing can be read before there is one."""

TICK_SECONDS = 0.1
"""How often a replica looks whether it is stuck: a few round trips and fsyncs, so that loss costs little."""

STATUS_TICKS = 10
"""A replica that is not stuck says where it is this often, in ticks."""

STATUS_GAP_SECONDS = 0.005
"""A replica's STATUS is answered this often at most: answers are large and read from the log."""

RESEND = 32
"""Numbers sent again in answer to one STATUS; who lacks more asks again when it has them."""


OVERLOADED = "overloaded"
"""Reason of a Rejected that asks the client to come again later."""


class Replica:
    """The agreement core of one server. `step` takes one event and returns what is to be done about it, in order."""

    def __init__(
        self,
        identity: ReplicaId,
        membership: Membership,
        signer: Signer,
        verifier: Verifier,
        scheme: ThresholdScheme,
        service: StateMachine,
        disk: Reader,
    ) -> None:
        self.identity = identity
        self.membership = membership
        self._service = service
        self._disk = Overlay(disk)
        self.disk: Reader = self._disk
        """The disk as the step under way leaves it: what reads must see that a certificate releases within a step."""
        self._admission = Admission(membership, verifier, service)
        self.ordering = Ordering(identity, membership, signer, verifier, self._admission, service, self._disk)
        self.execution = Execution(membership, service, self._disk)
        self.checkpoints = Checkpoints(identity, membership, signer, verifier, self._disk)
        self.signing = Signing(identity, membership, scheme, verifier)
        self.replies = Replies(self.execution)
        self._queue: deque[Admitted] = deque()
        self._queued: set[Digest] = set()
        self._queued_bytes = 0
        self._ticks = 0
        self._executed_at_tick = Sequence(0)
        self._asked_from = Sequence(0)
        self._heard: dict[ReplicaId, Sequence] = {}
        self._answered: dict[ReplicaId, AgreedTime] = {}

    @property
    def is_primary(self) -> bool:
        """Whether this replica leads its view."""
        return self.identity == self.ordering.primary

    @property
    def behind(self) -> int:
        """How many batches others are known to have executed that this replica has not: what f + 1 others reached."""
        reached = sorted(self._heard.values(), reverse=True)[self.membership.faults :]
        return max(0, max(reached, default=0) - self.execution.executed)

    @property
    def queued(self) -> int:
        """Requests that wait to be proposed."""
        return len(self._queue)

    def named_bodies(self) -> set[Digest]:
        """Bodies that requests on their way name: they must stay until these have run."""
        return self.ordering.named_bodies().union(*(request.named for request in self._queue))

    def step(self, event: Event) -> list[Effect]:
        """What to do about one event. The caller performs all of it before the next step."""
        self._disk.step_done()
        match event:
            case Received():
                effects = self._on_received(event)
            case Requested():
                effects = self._on_requested(event)
            case BurstEnded(now):
                effects = self._propose(now)
            case TimerFired(timer, now):
                effects = self._on_timer(timer, now)
            case RandomBytes(data):
                effects = self.signing.on_random(data)
            case Started(now, start):
                effects = self._on_started(start)
        effects += self._run_committed()
        self._check_invariants()
        return effects

    def bodies_arrived(self, writes: tuple[Write, ...]) -> list[Effect]:
        """Clients brought bodies, which are about to be written: proposals that waited for them may go on."""
        self._disk.step_done()
        self._disk.record(writes)
        return self.ordering.bodies_held() + self._run_committed()

    # --- starting --------------------------------------------------------------------------------------------------

    def _on_started(self, start: bytes) -> list[Effect]:
        self.execution.restore(lambda: self._disk.scan(log.STATE, b"", b"\xff" * 64))
        stable = log.read_stable(self._disk)
        entries = log.read(self._disk, Sequence(stable + 1), Sequence(2**62))
        self.checkpoints.restore(entries)
        self.ordering.restore(entries, stable)
        self._executed_at_tick = self.execution.executed
        timers: list[Effect] = [SetTimer(Timer("tick", self.ordering.view), TICK_SECONDS)]
        if self.is_primary:
            timers.append(self._set_idle_timer())
        return [*self.signing.started(start), *timers]

    # --- messages --------------------------------------------------------------------------------------------------

    def _on_received(self, event: Received) -> list[Effect]:
        sender, message, now = event
        if sender == self.identity or not 0 <= sender < self.membership.size:
            return [Rejected(sender, "a message in our own name")]
        if message.epoch != self.membership.epoch:
            return [Rejected(sender, "another epoch")]
        if self.checkpoints.diverged_at is not None:
            return []
        match message:
            case PrePrepare() | Prepare() | Commit():
                return self._on_ordering(sender, message, now)
            case Checkpoint():
                return self._settled(self.checkpoints.on_checkpoint(sender, message))
            case Nonces():
                return self.signing.on_nonces(sender, message)
            case SignatureShare():
                if not self.ordering.stable - WINDOW < message.sequence <= self.ordering.high:
                    return [Rejected(sender, "share far from the watermarks")]
                return self.signing.on_share(sender, message) + self._take_made()
            case Certified():
                return self._on_certified(sender, message)
            case Status():
                return self._on_status(sender, message, now)
            case FetchBodies():
                return self.ordering.on_fetch_bodies(sender, message)
            case Bodies():
                return self.ordering.on_bodies(message)
            case FetchState() | StateChunk() | StateGone() | FetchParts() | Parts():
                return [Rejected(sender, "state transfer is not in use")]

    def _on_ordering(self, sender: ReplicaId, message: PrePrepare | Prepare | Commit, now: AgreedTime) -> list[Effect]:
        if message.sequence <= self.execution.executed and message.sequence <= self.ordering.stable:
            return []  # old news, as what is sent again often is
        reason = self.ordering.reject_reason(sender, message, now)
        if reason is not None:
            return [Rejected(sender, reason)]
        match message:
            case PrePrepare():
                return self.ordering.on_pre_prepare(sender, message)
            case Prepare():
                return self.ordering.on_prepare(sender, message)
            case Commit():
                return self.ordering.on_commit(sender, message)

    def _on_certified(self, sender: ReplicaId, message: Certified) -> list[Effect]:
        certified = self.execution.certified
        try:
            claim = self.signing.unverified(message)
            if certified is not None and claim.sequence <= certified.sequence:
                return []
            if claim.sequence > self.ordering.high:
                return [Rejected(sender, "certificate above the high watermark")]
            claim, certificate = self.signing.verified(message)
        except CertificateError as error:
            return [Rejected(sender, str(error))]
        if claim.sequence > self.execution.executed:
            self.signing.keep_early(claim, certificate)
            return []
        return self._apply_certificate(claim.sequence, (claim, certificate))

    # --- requests --------------------------------------------------------------------------------------------------

    def _on_requested(self, event: Requested) -> list[Effect]:
        client, request, now = event
        if self.checkpoints.diverged_at is not None:
            return [Rejected(client, "this server's state differs from the ring's")]
        try:
            admitted = self._admission.admit(request)
            bodies = self._admission.bodies(admitted)
        except RequestError as error:
            return [Rejected(client, str(error))]
        known = self.replies.answer_known(client, admitted.digest, admitted.statement, self.ordering.view)
        if known is not None:
            return known
        full = len(self._queue) >= QUEUE or self._queued_bytes >= QUEUE_BYTES
        if full or len(self.replies) >= MAX_WAITING:
            return [Rejected(client, OVERLOADED)]
        table = self._service.body_table()
        if any(name not in bodies and self._disk.size(table, name) is None for name in admitted.named):
            return [Rejected(client, "the request names blocks that this server does not hold: send them first")]
        under_way = self.replies.knows(admitted.digest)
        if admitted.statement.not_after > now + 2 * LONGEST_LIFE_SECONDS * 1_000_000:
            return [Rejected(client, "the request's not-after lies too far ahead: check this machine's clock")]
        self.replies.wait(client, admitted.digest, admitted.statement, now)
        if self.is_primary and not under_way and admitted.digest not in self._queued:
            self._queue.append(admitted)
            self._queued.add(admitted.digest)
            self._queued_bytes += admitted.request.size_bytes
        return []

    def _propose(self, now: AgreedTime) -> list[Effect]:
        """As primary: propose at once when the pipeline has room; what comes meanwhile fills the next batch."""
        effects: list[Effect] = []
        while self._queue and self._may_propose():
            batch: list[Admitted] = []
            size = 0
            while self._queue and len(batch) < MAX_BATCH:
                head = self._queue[0]
                size += head.request.size_bytes
                if batch and size > BATCH_BYTES:
                    break
                batch.append(self._queue.popleft())
                self._queued.discard(head.digest)
                self._queued_bytes -= head.request.size_bytes
            effects += self.ordering.propose(batch, self.signing.plan(self.ordering.next), now)
        return effects

    def _may_propose(self) -> bool:
        return (
            self.is_primary
            and self.checkpoints.diverged_at is None
            and self.ordering.next <= self.ordering.high
            and self.ordering.next - self.execution.executed <= PIPELINE
        )

    # --- execution -------------------------------------------------------------------------------------------------

    def _run_committed(self) -> list[Effect]:
        effects: list[Effect] = []
        while (batch := self.ordering.committed(Sequence(self.execution.executed + 1))) is not None:
            ran = self.execution.run(batch)
            self.ordering.executed(batch.sequence)
            effects += ran
            sequence, view = batch.sequence, batch.view
            claim = self.execution.states[sequence].claim
            effects += self._settled(self.checkpoints.executed(sequence, claim.time, claim.state_root))
            for effect in ran:
                if isinstance(effect, Executed):
                    effects += self.replies.executed(sequence, dict(effect.answers), view)
            early = self.signing.take_early(sequence)
            if early is not None:
                effects += self._apply_certificate(sequence, early)
            else:
                effects += self.signing.executed(claim, view, batch.plan, self.membership.primary(view))
                effects += self._take_made()
            effects += self.signing.refill()
        if self.execution.executed >= self._asked_from + RESEND and self.behind:
            effects += self._ask()
        return effects

    def _take_made(self) -> list[Effect]:
        effects: list[Effect] = []
        for claim, certificate in self.signing.made:
            effects += self._apply_certificate(claim.sequence, (claim, certificate))
        self.signing.made.clear()
        return effects

    def _apply_certificate(self, sequence: Sequence, signed: tuple[Claim, Certificate]) -> list[Effect]:
        claim, certificate = signed
        state = self.execution.states.get(sequence)
        if state is None:
            return []
        if state.claim != claim:
            self.checkpoints.diverged_at = sequence
            return [Rejected(self.identity, f"our state after batch {sequence} is not the one the ring signed")]
        effects = self.execution.on_certificate(claim, certificate)
        assert self.execution.certified is not None
        return effects + self.replies.certified(self.execution.certified)

    def _settled(self, effects: list[Effect]) -> list[Effect]:
        if self.checkpoints.stable > self.ordering.stable:
            self.ordering.forget(self.checkpoints.stable)
        return effects

    # --- time ------------------------------------------------------------------------------------------------------

    def _on_timer(self, timer: Timer, now: AgreedTime) -> list[Effect]:
        if timer.view != self.ordering.view:
            return []
        match timer.kind:
            case "tick":
                return [*self._on_tick(now), SetTimer(timer, TICK_SECONDS)]
            case "idle":
                return self._on_idle(timer, now)
            case "shares":
                return self.signing.on_share_timeout(Sequence(timer.number))
            case "uncertified":
                return self.replies.on_timer(timer.number, self.ordering.view)
        raise AssertionError(f"a timer that nobody sets: {timer}")

    def _set_idle_timer(self) -> SetTimer:
        seconds = IDLE_SECONDS if self.execution.certified is not None else FIRST_SECONDS
        return SetTimer(Timer("idle", self.ordering.view, self.ordering.next), seconds)

    def _on_idle(self, timer: Timer, now: AgreedTime) -> list[Effect]:
        effects: list[Effect] = []
        if timer.number == self.ordering.next and self._may_propose():
            effects += self.ordering.propose([], self.signing.plan(self.ordering.next), now)
        return [*effects, self._set_idle_timer()]

    def _on_tick(self, now: AgreedTime) -> list[Effect]:
        """Stuck means: numbers are under way, and none was executed since the last tick."""
        self._ticks += 1
        stuck = self.execution.executed == self._executed_at_tick and (
            self.ordering.waiting(self.execution.executed) or self.behind > 0
        )
        self._executed_at_tick = self.execution.executed
        effects = self.replies.expire(self.execution.time, now) + self.signing.refill()
        if stuck:
            effects += self.ordering.bodies_held() + self.ordering.fetch_missing(self._ticks)
        if stuck or self._ticks % STATUS_TICKS == 0:
            effects += self._ask()
        return effects

    def _ask(self) -> list[Effect]:
        """Say where we are, which asks for what comes after it."""
        self._asked_from = self.execution.executed
        return [
            Send(replica, self._status(replica))
            for replica in map(ReplicaId, range(self.membership.size))
            if replica != self.identity
        ]

    def _status(self, to: ReplicaId) -> Status:
        certified = self.execution.certified
        return Status(
            self.membership.epoch,
            self.ordering.view,
            self.execution.executed,
            self.ordering.stable,
            certified.sequence if certified is not None else Sequence(0),
            self.signing.commitments_of(to),
        )

    def _on_status(self, sender: ReplicaId, message: Status, now: AgreedTime) -> list[Effect]:
        """Send again what the sender lacks: our part in the numbers after those it executed, and our nonces."""
        self._heard[sender] = message.executed
        if abs(now - self._answered.get(sender, 0)) < STATUS_GAP_SECONDS * 1_000_000:
            return []
        self._answered[sender] = now
        effects: list[Effect] = []
        newest = max(self.ordering.slots, default=self.ordering.stable)
        last = Sequence(min(newest, message.executed + RESEND, message.stable + WINDOW))
        first = Sequence(message.executed + 1)
        if first <= last:
            effects += self.ordering.send_again(sender, first, last)
        effects += self.checkpoints.send_again(sender, message.stable, message.executed)
        certified = self.execution.certified
        if certified is not None and message.executed >= certified.sequence > message.certified:
            signed = certified.certificate
            effects.append(Send(sender, Certified(self.membership.epoch, signed.statement, signed.signature)))
        if message.nonces == 0:
            effects += self.signing.publish_again(sender)
        return effects

    def _check_invariants(self) -> None:
        assert self.execution.executed >= self.checkpoints.stable, "a stable checkpoint that was not executed here"
        assert self.ordering.stable == self.checkpoints.stable, "two opinions about the last stable checkpoint"

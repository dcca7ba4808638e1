"""One replica of the ring: the way into agreement. Routes events to the machines and their results between them.

Each machine has its own file, state and refusals: admission, requests, batches, ordering, view_change, suspicion,
catch_up, retransmission, execution, checkpoints, signing, replies. What stands here is only who hears of what, and when
a view is left and entered (TOCS 2002, sections 4.1 to 4.6).
"""

from bft import log
from bft.admission import Admission, Admitted
from bft.batches import Batches
from bft.catch_up import CatchUp
from bft.certificate import Certificate, CertificateError, Claim
from bft.checkpoints import Checkpoints
from bft.early import Early
from bft.effects import (
    BurstEnded,
    Effect,
    Event,
    Executed,
    LinksLost,
    Overlay,
    Persist,
    RandomBytes,
    Reader,
    Received,
    Rejected,
    Requested,
    SetTimer,
    Started,
    Timer,
    TimerFired,
    ViewChanged,
    Write,
)
from bft.execution import Batch as DecidedBatch
from bft.execution import Execution
from bft.membership import Membership
from bft.messages import (
    Batch,
    Bodies,
    Certified,
    Checkpoint,
    Commit,
    Decided,
    FetchBatches,
    FetchBodies,
    FetchParts,
    FetchState,
    NewView,
    Nonces,
    Parts,
    Prepare,
    PrePrepare,
    Relay,
    RequestError,
    SignatureShare,
    StableCheckpoint,
    StateChunk,
    StateGone,
    Status,
    ViewChange,
)
from bft.ordering import Ordering
from bft.pacing import Pacing
from bft.recovery import Recovery
from bft.replies import MAX_WAITING, Replies
from bft.requests import Requests
from bft.retransmission import Retransmission
from bft.service import StateMachine
from bft.sessions import LONGEST_LIFE_SECONDS
from bft.signatures import Signer, Verifier
from bft.signing import Signing
from bft.statement import Digest
from bft.suspicion import TICK_SECONDS, UNCERTIFIED_IDLE_TICKS, Suspicion
from bft.threshold import ThresholdScheme
from bft.tuning import DEFAULT, Tuning
from bft.types import AgreedTime, ReplicaId, Sequence, View
from bft.view_change import ViewChanges

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
        tuning: Tuning = DEFAULT,
    ) -> None:
        self.identity = identity
        self.membership = membership
        self._tuning = tuning
        self._service = service
        self._disk = Overlay(disk)
        self.disk: Reader = self._disk
        """The disk as the step under way leaves it: what reads must see that a certificate releases within a step."""
        self._admission = Admission(membership, verifier, service)
        self.requests = Requests(membership, service, self._disk)
        self.batches = Batches(identity, membership, self._admission, service, self._disk)
        self.ordering = Ordering(identity, membership, signer, verifier, self.batches, self._disk, tuning)
        self.catch_up = CatchUp(membership, self._disk)
        self.execution = Execution(membership, service, self._disk)
        self.checkpoints = Checkpoints(identity, membership, signer, verifier, self._disk, tuning)
        self.views = ViewChanges(identity, membership, signer, verifier, self.checkpoints, self._disk, tuning)
        self.suspicion = Suspicion()
        self.signing = Signing(identity, membership, scheme, verifier, tuning)
        self.recovery = Recovery(identity, membership, service, self._disk, self.execution, self.checkpoints, tuning)
        self.replies = Replies(self.execution)
        self.retransmission = Retransmission(
            identity,
            membership,
            self.ordering,
            self.views,
            self.catch_up,
            self.execution,
            self.checkpoints,
            self.signing,
            self.recovery,
        )
        self._early = Early()
        self._ticks = 0
        self._pacing = Pacing()

    @property
    def is_primary(self) -> bool:
        """Whether this replica leads a view that has begun."""
        return self.views.active and self.identity == self.ordering.primary

    @property
    def queued(self) -> int:
        """Requests that wait to be proposed."""
        return len(self.requests)

    def named_bodies(self) -> set[Digest]:
        """Bodies that requests on their way name: they must stay until these have run."""
        return self.batches.named_bodies(self.ordering.voted()) | self.requests.named_bodies()

    def step(self, event: Event) -> list[Effect]:
        """What to do about one event. The caller performs all of it before the next step."""
        self._disk.step_done()
        match event:
            case Received(now=now):
                effects = self._on_received(event)
            case Requested(now=now):
                effects = self._on_requested(event)
            case BurstEnded(now):
                effects = self._propose(now)
                if not effects:
                    return effects  # nothing has changed since the step before
            case TimerFired(timer, now):
                effects = self._on_timer(timer, now)
            case LinksLost(replicas, now):
                self.suspicion.unreachable, effects = replicas, []
            case RandomBytes(data):
                effects, now = self.signing.on_random(data), AgreedTime(0)
            case Started(now, start):
                effects = self._on_started(start)
        effects += self._run_decided(now)
        self._check_invariants()
        return effects

    def bodies_arrived(self, writes: tuple[Write, ...], now: AgreedTime) -> list[Effect]:
        """Clients brought bodies, which are about to be written: proposals that waited for them may go on."""
        self._disk.step_done()
        self._disk.record(writes)
        self.batches.look_again()
        return self._batches_arrived(now) + self._run_decided(now)

    # --- starting --------------------------------------------------------------------------------------------------

    def _on_started(self, start: bytes) -> list[Effect]:
        self.execution.restore(lambda: self._disk.scan(log.STATE, b"", b"\xff" * 64))
        stable = proven.sequence if (proven := log.read_stable(self._disk)) is not None else Sequence(0)
        entries = log.read(self._disk, Sequence(stable + 1), Sequence(stable + 2 * self._tuning.window))
        self.checkpoints.restore(entries)
        self.recovery.restore()
        self.views.restore()
        self.ordering.restore(entries, stable, self.execution.executed, self.views.view)
        for sequence, time, tree in self.execution.earlier(stable):
            self.execution.keep_proof(sequence, tree)
            if sequence % self._tuning.interval == 0:
                self.recovery.checkpoint(sequence, time, tree)
        effects: list[Effect] = [
            *self.signing.started(start, self.views.view),
            *self.checkpoints.executed(self.execution.executed, self.execution.time, self.execution.tree.root),
            SetTimer(Timer("tick", View(0)), TICK_SECONDS),
        ]
        self.ordering.silent = self.recovery.silent_until > 0
        leads = self.views.active and self.ordering.primary == self.identity and not self.ordering.silent
        if leads and self._has_led():
            return effects + self._leave(View(self.views.view + 1), "it led before it was restarted")
        if self.views.active:
            effects += self.ordering.resume(*self._start_of_view())
            if self.is_primary:
                effects.append(self._set_idle_timer())
        return effects

    def _has_led(self) -> bool:
        """Whether this replica may have proposed in its view before it was restarted: then it never does so again, as
        it cannot know what it said (design.md, 5)."""
        return self.views.view > 0 or bool(log.read_progress(self._disk)) or bool(self.ordering.accepted)

    def _start_of_view(self) -> tuple[Sequence, list[Digest]]:
        new_view = self.views.new_view
        return (new_view.stable, new_view.batches) if new_view is not None else (Sequence(0), [])

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
            case ViewChange():
                return self.views.on_view_change(sender, message) + self._change_view(now)
            case NewView():
                return self._on_new_view(sender, message, now)
            case Checkpoint():
                return self._settled(self.checkpoints.on_checkpoint(sender, message))
            case StableCheckpoint():
                return self._settled(self.checkpoints.on_stable(sender, message))
            case Nonces():
                return self.signing.on_nonces(sender, message)
            case SignatureShare():
                return self._on_share(sender, message)
            case Certified():
                return self._on_certified(sender, message)
            case Status():
                return self.retransmission.on_status(sender, message, now)
            case Decided():
                return self._on_decided(sender, message)
            case Relay():
                return self._on_relay(sender, message)
            case FetchBatches():
                return self.batches.on_fetch_batches(sender, message)
            case Batch():
                return self.batches.on_batch(sender, message) + self._batches_arrived(now)
            case FetchBodies():
                return self.batches.on_fetch_bodies(sender, message)
            case Bodies():
                arrived = self.batches.on_bodies(message) + self.requests.on_bodies(message, now)
                return arrived + self._batches_arrived(now)
            case FetchState() | StateChunk() | StateGone() | FetchParts() | Parts():
                return self.recovery.on_message(sender, message) + self._install()

    def _on_decided(self, sender: ReplicaId, message: Decided) -> list[Effect]:
        """What f + 1 say is fetched at once, number by number as it is proved: who is far behind would never arrive if
        it asked only now and then."""
        proved = self.catch_up.on_decided(sender, message, self.execution.executed)
        if not proved or self.batches.knows(message.sequence, message.digest):
            return []
        self.batches.want(message.sequence, message.digest)
        return self.batches.fetch_from(sender, message.sequence, message.digest)

    def _on_ordering(self, sender: ReplicaId, message: PrePrepare | Prepare | Commit, now: AgreedTime) -> list[Effect]:
        if message.view > self.views.view or (message.view == self.views.view and not self.views.active):
            return self._early.keep(sender, message)
        if message.view < self.views.view or message.sequence <= min(self.execution.executed, self.ordering.stable):
            return []  # old news, as what is sent again often is
        reason = self.ordering.reject_reason(sender, message, now)
        if reason is not None:
            return [Rejected(sender, reason)]
        match message:
            case PrePrepare():
                effects = self.ordering.on_pre_prepare(sender, message)
                if message.sequence > self.execution.executed and self.ordering.proposed(message):
                    self._pacing.proposed(message.sequence, len(message.requests), now)
                return effects
            case Prepare():
                return self.ordering.on_prepare(sender, message)
            case Commit():
                return self.ordering.on_commit(sender, message)

    def _on_share(self, sender: ReplicaId, message: SignatureShare) -> list[Effect]:
        if message.view != self.views.view:
            return []
        if not self.ordering.stable - self._tuning.window < message.sequence <= self.ordering.high:
            return [Rejected(sender, "share far from the watermarks")]
        return self.signing.on_share(sender, message) + self._take_made()

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

    # --- views -----------------------------------------------------------------------------------------------------

    def _leave(self, view: View, why: str) -> list[Effect]:
        """Give up the view for a higher one."""
        prepared, accepted = self.ordering.sets()
        self.ordering.leave()
        self.suspicion.view_left()
        changed = ViewChanged(view, self.membership.primary(view), False, why)
        return [changed, *self.views.leave(view, prepared, accepted), *self.signing.enter(view)]

    def _change_view(self, now: AgreedTime) -> list[Effect]:
        """What VIEW-CHANGEs of others lead to: to join them, and as the new primary to begin the view."""
        effects: list[Effect] = []
        if self.ordering.silent:
            return effects
        view = self.views.to_join()
        if view is not None:
            effects += self._leave(view, "others leave")
        decision = self.views.decision()
        if decision is None:
            return effects
        numbers = map(Sequence, range(decision.stable + 1, decision.stable + 1 + len(decision.batches)))
        if decision.stable + len(decision.batches) > self.ordering.high:
            return effects  # NEW-VIEW is also our vote for what it names, which we cannot give before we have caught up
        settled = max(self.execution.executed, self.ordering.stable)
        open_ones = [named for named in zip(numbers, decision.batches, strict=True) if named[0] > settled]
        wanted = [named for named in open_ones if self.batches.want(*named)]
        if any(self.batches.get(sequence, digest) is None for sequence, digest in open_ones):
            return [*effects, *(self.batches.fetch(self._ticks) if wanted else [])]
        return effects + self.views.begin(decision) + self._enter(now)

    def _on_new_view(self, sender: ReplicaId, message: NewView, now: AgreedTime) -> list[Effect]:
        before = self.views.view, self.views.active
        effects = self.views.on_new_view(sender, message)
        if (self.views.view, self.views.active) == before:
            return effects
        return effects + self._enter(now)

    def _enter(self, now: AgreedTime) -> list[Effect]:
        """The view has begun here."""
        view = self.views.view
        self.suspicion.view_began()
        self._pacing.view_began()
        effects = self.signing.enter(view)
        effects += self.ordering.enter(view, *self._start_of_view())
        if self.is_primary:
            effects += self.views.announce()  # which is our vote for all that it names: after our Q entries
        effects += self.batches.fetch(self._ticks)
        self.requests.view_began(self.batches.requests())
        for sender, message in self._early.take(view):
            effects += self._on_ordering(sender, message, now)
        if self.is_primary:
            effects += [*self._propose(now), self._set_idle_timer()]
        effects += self.retransmission.ask()
        return [ViewChanged(view, self.ordering.primary, True, ""), *effects]

    def _batches_arrived(self, now: AgreedTime) -> list[Effect]:
        if self.views.active:
            return self.ordering.batches_arrived()
        return self._change_view(now)

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
        known = self.replies.answer_known(client, admitted.digest, admitted.statement)
        if known is not None:
            return known
        if admitted.digest not in self.requests and (self.requests.full or len(self.replies) >= MAX_WAITING):
            return [Rejected(client, OVERLOADED)]
        table = self._service.body_table()
        if any(name not in bodies and self._disk.size(table, name) is None for name in admitted.named):
            return [Rejected(client, "the request names blocks that this server does not hold: send them first")]
        if admitted.statement.not_after > now + 2 * LONGEST_LIFE_SECONDS * 1_000_000:
            return [Rejected(client, "the request's not-after lies too far ahead: check this machine's clock")]
        self.replies.wait(client, admitted.digest, admitted.statement, now)
        self.requests.add(admitted)
        return []

    def _on_relay(self, sender: ReplicaId, message: Relay) -> list[Effect]:
        """A backup waits for this request, and we are to propose it."""
        if not self.is_primary:
            return []
        try:
            admitted = self._admission.admit(message.request)
            bodies = self._admission.bodies(admitted)
        except RequestError as error:
            return [Rejected(sender, f"relayed {error}")]
        if self.replies.ran(admitted.statement) or admitted.digest in self.requests or self.requests.full:
            return []
        return self.requests.on_relay(sender, admitted, bodies)

    def _propose(self, now: AgreedTime) -> list[Effect]:
        """As primary: propose at once when the pipeline has room; what comes meanwhile fills the next batch."""
        effects: list[Effect] = []
        while self.queued and self._may_propose() and self._pacing.worth_a_batch(self.queued):
            effects += self._propose_one(self.requests.take_batch(), now)
        return effects

    def _propose_one(self, batch: list[Admitted], now: AgreedTime) -> list[Effect]:
        self._pacing.proposed(self.ordering.next, len(batch), now)
        plan = self.signing.plan(self.ordering.next, self.ordering.committers)
        return self.ordering.propose(batch, plan, now)

    def _may_propose(self) -> bool:
        return (
            self.is_primary
            and not self.ordering.silent
            and self.checkpoints.diverged_at is None
            and self.ordering.next <= self.ordering.high
            and self.ordering.next - self.execution.executed <= self._tuning.pipeline
        )

    # --- execution -------------------------------------------------------------------------------------------------

    def _run_decided(self, now: AgreedTime) -> list[Effect]:
        """Run what is committed in this view, or what f + 1 others have run."""
        effects: list[Effect] = []
        while True:
            sequence = Sequence(self.execution.executed + 1)
            committed = self.ordering.committed(sequence)
            digest = committed.digest if committed is not None else self.catch_up.decided(sequence)
            if digest is None:
                break
            self.batches.want(sequence, digest)
            batch = self.batches.get(sequence, digest)
            if batch is None:
                break
            effects += self.catch_up.ran(sequence, digest, batch)
            ran = self.execution.run(DecidedBatch(sequence, batch.time, digest, batch.requests))
            effects += ran
            for machine in (self.ordering, self.catch_up):
                machine.executed(sequence)
            self.batches.forget(sequence)
            self._progressed(sequence, now)
            claim = self.execution.states[sequence].claim
            if sequence % self._tuning.interval == 0:
                self.recovery.checkpoint(sequence, claim.time, self.execution.tree)
            effects += self._settled(self.checkpoints.executed(sequence, claim.time, claim.state_root))
            for effect in ran:
                if isinstance(effect, Executed):
                    for request in effect.answers:
                        self.requests.ran(request)
                    effects += self.replies.executed(sequence, dict(effect.answers))
            early = self.signing.take_early(sequence)
            if early is not None:
                effects += self._apply_certificate(sequence, early)
            elif committed is not None:
                effects += self.signing.executed(claim, committed.view, committed.plan, self.ordering.primary)
                effects += self._take_made()
            effects += self.signing.refill()
        return effects + self.retransmission.executed() if effects else effects

    def _install(self) -> list[Effect]:
        """Go on from a state that was fetched: all before it is as if it had run here."""
        taken = self.recovery.take()
        if taken is None:
            return []
        installed, proven = taken
        sequence = installed.sequence
        writes = installed.writes(self.execution.tree)
        self._disk.record(writes)
        self.execution.install(sequence, installed.time, installed.tree)
        for machine in (self.ordering, self.catch_up, self._pacing):
            machine.executed(sequence)
        self.batches.forget(sequence)
        self.requests.prune(self.replies.ran)
        self.recovery.checkpoint(sequence, installed.time, installed.tree)
        settled = self._settled(self.checkpoints.installed(sequence, installed.time, installed.tree.root, proven))
        return [Persist(writes), *settled, *self.retransmission.ask()]

    def _progressed(self, sequence: Sequence, now: AgreedTime) -> None:
        took = self._pacing.ran(sequence, now)
        if took is not None:
            self.suspicion.took(took)
        low, named = self._start_of_view()
        self.suspicion.executed(fresh=self.views.active and sequence > low + len(named))

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
        self.suspicion.certified()
        effects = self.execution.on_certificate(claim, certificate)
        assert self.execution.certified is not None
        return effects + self.replies.certified(self.execution.certified)

    def _settled(self, effects: list[Effect]) -> list[Effect]:
        if self.checkpoints.stable > self.ordering.stable:
            self.batches.forget(self.checkpoints.stable)
            effects = effects + self.ordering.forget(self.checkpoints.stable)
        return effects

    # --- time ------------------------------------------------------------------------------------------------------

    def _on_timer(self, timer: Timer, now: AgreedTime) -> list[Effect]:
        match timer.kind:
            case "tick":
                return [*self._on_tick(now), SetTimer(timer, TICK_SECONDS)]
            case "idle":
                return self._on_idle(timer, now) if timer.view == self.ordering.view else []
            case "shares":
                return self.signing.on_share_timeout(Sequence(timer.number)) if timer.view == self.views.view else []
            case "uncertified":
                return self.replies.on_timer(timer.number)
        raise AssertionError(f"a timer that nobody sets: {timer}")

    def _set_idle_timer(self, since_last: AgreedTime | None = None) -> SetTimer:
        """To order an empty batch when nothing is proposed for a while from now on, or, given the time, since the last
        proposal."""
        seconds = self._pacing.idle_seconds(self.recovery.learners_wait)
        if since_last is not None:
            seconds = self._pacing.left_seconds(seconds, since_last)
        return SetTimer(Timer("idle", self.ordering.view, self.ordering.next), seconds)

    @property
    def _uncertified(self) -> bool:
        certified = self.execution.certified
        return certified is None or certified.sequence < self.execution.executed

    def _on_idle(self, timer: Timer, now: AgreedTime) -> list[Effect]:
        if not self.is_primary:
            return []
        if timer.number != self.ordering.next:
            return [self._set_idle_timer(since_last=now)]
        return [*self._propose_empty(now), self._set_idle_timer()]

    def _propose_empty(self, now: AgreedTime) -> list[Effect]:
        return self._propose_one([], now) if self._may_propose() else []

    def _on_tick(self, now: AgreedTime) -> list[Effect]:
        self._ticks += 1
        self.requests.expire(self.execution.time)
        self.batches.tick()
        effects = self.replies.expire(self.execution.time, now) + self.signing.refill()
        effects += self._suspect(now)
        under_way = self.ordering.heard() or self.batches.lacking or len(self.requests) > 0
        waiting = not self.views.active or under_way or self._uncertified or self.suspicion.overdue
        effects += self.retransmission.tick(waiting)
        effects += self.recovery.tick(self.retransmission.stuck_ticks, self.views.new_view) + self._install()
        self.ordering.silent = self.recovery.silent_until > 0
        if self.retransmission.stuck_ticks:
            self.batches.look_again()
            effects += self._batches_arrived(now) + self.batches.fetch(self._ticks)
        idle = self.is_primary and self._uncertified and self.ordering.next == self.execution.executed + 1
        if idle and self.retransmission.stuck_ticks >= UNCERTIFIED_IDLE_TICKS:
            effects += self._propose_empty(now)  # its certificate covers what ran without one
        return effects

    def _suspect(self, now: AgreedTime) -> list[Effect]:
        """Whether to give the primary up. Who fetches a state has only itself to wait for."""
        if self.ordering.silent or self.recovery.transfer.busy or self.is_primary:
            return []
        effects: list[Effect] = []
        if self.views.active:
            effects = self.requests.tick(self.ordering.primary, self.batches.requests(), self.replies.ran)
            waiting = self.ordering.waiting() or len(self.requests) > 0
            level = self.retransmission.level(self.suspicion.waited)
            alone = level < self.membership.weak or self.retransmission.behind > 0
            usual, oldest = self.requests.usual_ticks, self.requests.oldest_ticks
            lost = self.suspicion.lost(self.ordering.primary)
            reason = self.suspicion.tick(waiting, alone, oldest, usual, self._uncertified, lost)
        else:
            reason = self.suspicion.tick_between(self.views.joined >= self.membership.quorum)
        if reason is None:
            return effects
        return [*self._leave(View(self.views.view + 1), reason.value), *self._change_view(now)]

    def _check_invariants(self) -> None:
        assert self.execution.executed >= self.checkpoints.stable, "a stable checkpoint that was not executed here"
        assert self.ordering.stable == self.checkpoints.stable, "two opinions about the last stable checkpoint"
        assert self.ordering.view == self.views.view or not self.views.active, "two opinions about the view"

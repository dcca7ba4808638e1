"""Saying again what was lost: STATUS says where a replica is, and its answers bring what it lacks (TOCS 2002, 4.6).

Messages may be dropped anywhere, and sockets may close: everything that a replica has said it can say again, from
memory or from its log. Nothing is repeated unasked.
"""

from bft.catch_up import RESEND, CatchUp
from bft.checkpoints import Checkpoints
from bft.effects import Effect, Send
from bft.execution import Execution
from bft.membership import Membership
from bft.messages import Certified, Status
from bft.ordering import Ordering
from bft.recovery import Recovery
from bft.signing import Signing
from bft.types import AgreedTime, ReplicaId, Sequence
from bft.view_change import ViewChanges

STATUS_TICKS = 10
"""A replica that is neither stuck nor behind says where it is this often, in ticks."""

GAP_SECONDS = 0.005
"""A replica's STATUS is answered this often at most: answers are large and read from the log."""

DECIDED_EVERY = 4
"""One in so many times a replica that is stuck asks what was decided, rather than for votes: it may have voted for what
a lying primary sent to it alone, and then no votes help it."""


class Retransmission:
    """Asks for what this replica lacks, and answers others."""

    def __init__(
        self,
        identity: ReplicaId,
        membership: Membership,
        ordering: Ordering,
        views: ViewChanges,
        catch_up: CatchUp,
        execution: Execution,
        checkpoints: Checkpoints,
        signing: Signing,
        recovery: Recovery,
    ) -> None:
        self.stuck_ticks = 0
        """For how long nothing was executed here although there is something to execute."""
        self._membership = membership
        self._ordering = ordering
        self._views = views
        self._catch_up = catch_up
        self._execution = execution
        self._checkpoints = checkpoints
        self._signing = signing
        self._recovery = recovery
        self._others = [other for other in map(ReplicaId, range(membership.size)) if other != identity]
        self._turn = 0
        self._executed_at_tick = Sequence(0)
        self._asked_from = Sequence(0)
        self._heard: dict[ReplicaId, tuple[Sequence, int]] = {}
        """How far each other replica is, and at which tick it said so."""
        self._answered: dict[ReplicaId, AgreedTime] = {}

    @property
    def behind(self) -> int:
        """How many batches others are known to have executed that this replica has not: what f + 1 others reached."""
        reached = sorted([executed for executed, _ in self._heard.values()], reverse=True)[self._membership.faults :]
        return max(0, reached[0] - self._execution.executed) if reached else 0

    def level(self, ticks: int) -> int:
        """How many others have said within so many ticks that they are no further than this replica."""
        executed, since = self._execution.executed, self._turn - ticks
        return sum(1 for theirs, when in self._heard.values() if theirs <= executed and when > since)

    def tick(self, waiting: bool) -> list[Effect]:
        """Time passes; `waiting` says that something is under way."""
        self._turn += 1
        executed = self._execution.executed
        stuck = (waiting or self.behind > 0) and executed == self._executed_at_tick
        self.stuck_ticks = self.stuck_ticks + 1 if stuck else 0
        self._executed_at_tick = executed
        return self.ask() if stuck or self.behind or self._turn % STATUS_TICKS == 0 else []

    def executed(self) -> list[Effect]:
        """Batches ran: who has all that was sent to it, and is still behind, asks on."""
        return self.ask() if self._execution.executed >= self._asked_from + RESEND and self.behind else []

    def ask(self) -> list[Effect]:
        """Say where we are, which asks for what comes after it. One replica each time is asked for what is large."""
        self._asked_from = self._execution.executed
        chosen = self._others[self._turn % len(self._others)]
        return [Send(other, self._status(other, contents=other == chosen)) for other in self._others]

    def _status(self, to: ReplicaId, contents: bool) -> Status:
        certified = self._execution.certified
        silent = self._ordering.silent or self.stuck_ticks % DECIDED_EVERY == DECIDED_EVERY - 1
        return Status(
            self._membership.epoch,
            self._views.view,
            self._views.active,
            self._execution.executed,
            self._ordering.stable,
            certified.sequence if certified is not None else Sequence(0),
            self._signing.lacks_nonces_of(to),
            self._views.active and not silent,
            contents,
            self._recovery.silent_until,
        )

    def on_status(self, sender: ReplicaId, message: Status, now: AgreedTime) -> list[Effect]:
        """Send again what the sender lacks: what was decided, or our part in what is under way; and our nonces."""
        self._heard[sender] = message.executed, self._turn
        self._recovery.on_status(sender, message)
        if abs(now - self._answered.get(sender, 0)) < GAP_SECONDS * 1_000_000:
            return []
        self._answered[sender] = now
        effects = self._views.send_again(sender, message.view, message.active, message.contents)
        behind = message.executed < self._execution.executed
        if behind or (message.view > self._views.view and not self._views.heard_from(sender, message.view)):
            effects.append(Send(sender, self._status(sender, contents=True)))
        effects += self._numbers(sender, message)
        effects += self._checkpoints.send_again(sender, message.stable, message.executed)
        certified = self._execution.certified
        if certified is not None and message.executed >= certified.sequence > message.certified:
            signed = certified.certificate
            effects.append(Send(sender, Certified(self._membership.epoch, signed.statement, signed.signature)))
        if message.nonces:
            effects += self._signing.publish_again(sender)
        return effects

    def _numbers(self, sender: ReplicaId, message: Status) -> list[Effect]:
        """Numbers after those that the sender has executed. What is settled, or of other views, is told as decided;
        about the rest our votes are said again, since nobody else may know that it is decided."""
        first, last = Sequence(message.executed + 1), Sequence(message.executed + RESEND)
        same = message.votes and message.view == self._views.view and self._views.active
        told = Sequence(min(last, self._ordering.stable if same else self._execution.executed))
        effects = self._catch_up.tell(sender, first, told)
        if same:
            first = Sequence(max(first, told + 1))
            effects += self._ordering.send_again(sender, first, last, message.contents)
        return effects

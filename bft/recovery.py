"""Coming back: when a replica fetches a state instead of running batches, and how one that lost its votes goes on.

A replica too far behind for the others' logs transfers a stable checkpoint (TOCS 2002, section 6.2), or the one that
its view begins with (section 4.4): f + 1 hold that, so it is right, but only one of them may be ready to help.

One that finds its disk empty has forgotten what it voted for, and could vote for something else: it follows in silence
until a checkpoint is stable above every number that it may have voted at, as after a proactive recovery (section 5.3).
It learns that number from 2f + 1 others: what any of them has found stable now is at most a window below what this
replica had then, and it voted at most a window above that. It waits for one more, since a VIEW-CHANGE that it sent
then may yet be shown, and counts up to two windows above its checkpoint (`new_view`): for nothing that is voted for
after the silence.
"""

from bft import log
from bft.checkpoints import Checkpoints
from bft.effects import Effect, Overlay, Persist, Write
from bft.execution import Execution
from bft.membership import Membership
from bft.messages import FetchParts, FetchState, NewView, Parts, StableCheckpoint, StateChunk, StateGone, Status
from bft.service import StateMachine
from bft.serving import Serving
from bft.state_tree import StateTree
from bft.statement import Digest
from bft.transfer import Installed, Transfer
from bft.tuning import Tuning
from bft.types import AgreedTime, ReplicaId, Sequence

STUCK_TICKS = 5
"""How long a replica gets no further before it fetches a checkpoint that it knows of: others' logs do not help it."""

HURRIED_TICKS = 36_000
"""For how long a ring that hurried for a replica which lost its votes does not do so again for the same one: an hour. A
liar that loses them all the time gains a window of empty batches."""

SILENT_WINDOWS = 3
"""How far above what others have found stable the silence ends."""

UNKNOWN = Sequence(2**62)
"""Stands for the number up to which a replica stays silent, until it has learned it."""


def lost_votes() -> tuple[Write, ...]:
    """What a disk begins with that is not the one that the replica voted with: durable before anything else is."""
    return (log.learning(UNKNOWN),)


MessageOfTransfer = FetchState | StateChunk | StateGone | FetchParts | Parts


class Recovery:
    """One replica's own transfers, its help to others', and its silence."""

    def __init__(
        self,
        identity: ReplicaId,
        membership: Membership,
        service: StateMachine,
        disk: Overlay,
        execution: Execution,
        checkpoints: Checkpoints,
        tuning: Tuning,
    ) -> None:
        self.transfer = Transfer(identity, membership, service, disk)
        self.serving = Serving(membership, service, disk)
        self.silent_until = Sequence(0)
        """0, or this replica votes for nothing until a checkpoint at this number is stable here."""
        self._membership = membership
        self._disk = disk
        self._execution = execution
        self._checkpoints = checkpoints
        self._window = tuning.window
        self._targets: dict[Sequence, StableCheckpoint | None] = {}
        """Checkpoints that transfers were begun for; None for one that is not known to be stable."""
        self._claimed: dict[ReplicaId, Sequence] = {}
        self._learners: dict[ReplicaId, Sequence] = {}
        """What others say of their own silence."""
        self._hurried: dict[ReplicaId, tuple[Sequence, int]] = {}
        """Up to which number the ring hurries for them, and since when."""
        self._now = 0

    def restore(self) -> None:
        """Take up what the disk says."""
        self.silent_until = log.read_learning(self._disk)

    @property
    def learners_wait(self) -> bool:
        """Whether another replica waits in silence for a checkpoint that is not far off: an idle ring may hurry."""
        executed = self._execution.executed
        return any(executed < min(until, self._learners[replica]) for replica, (until, _) in self._hurried.items())

    def checkpoint(self, sequence: Sequence, time: AgreedTime, tree: StateTree) -> None:
        """The state at a checkpoint of ours, which others may come to fetch."""
        self.serving.keep(sequence, time, tree)

    def on_status(self, sender: ReplicaId, message: Status) -> None:
        """What another replica says of itself."""
        self._claimed[sender] = message.stable
        self._learners[sender] = message.learning
        executed = self._execution.executed
        _, since = self._hurried.get(sender, (0, -HURRIED_TICKS))
        if (
            executed < message.learning <= executed + (SILENT_WINDOWS + 1) * self._window
            and self._now - since >= HURRIED_TICKS
        ):
            self._hurried[sender] = (message.learning, self._now)
        self.serving.heard(sender, message.executed)

    def on_message(self, sender: ReplicaId, message: MessageOfTransfer) -> list[Effect]:
        """Questions and answers of state transfers."""
        match message:
            case FetchState() | FetchParts():
                return self.serving.on_fetch(sender, message)
            case StateChunk():
                return self.transfer.on_state_chunk(sender, message)
            case StateGone():
                return self.transfer.on_state_gone(sender, message)
            case Parts():
                return self.transfer.on_parts(sender, message)

    def tick(self, stuck_ticks: int, begun: NewView | None) -> list[Effect]:
        """0.1 s have passed; for `stuck_ticks` nothing was executed although others have more. `begun` is what the view
        began with that this replica is in."""
        self._now += 1
        effects = self.serving.tick() + self.transfer.tick() + self._learn()
        ahead, executed = self._checkpoints.ahead, self._execution.executed
        stuck = self.transfer.busy or stuck_ticks >= STUCK_TICKS
        if ahead is not None and ahead.sequence > executed:
            if stuck or ahead.sequence > executed + 2 * self._window:
                effects += self._fetch(ahead.sequence, ahead.digest, ahead)
        elif stuck and begun is not None and begun.stable > executed:
            effects += self._fetch(begun.stable, begun.digest, None)
        return effects

    def _fetch(self, sequence: Sequence, digest: Digest, stable: StableCheckpoint | None) -> list[Effect]:
        effects = self.transfer.begin(sequence, digest, self._execution.tree)
        known = {**self._targets, sequence: stable}
        self._targets = {number: known[number] for number in self.transfer.targets}
        return effects

    def take(self) -> tuple[Installed, StableCheckpoint | None] | None:
        """A state that was fetched and is newer than ours, once, with the proof of its checkpoint if it is stable."""
        progress, done = self.transfer.progress, self.transfer.done
        overtaken = progress is not None and progress.sequence <= self._execution.executed
        if not overtaken and done is None:
            return None
        self.transfer.stop()
        targets, self._targets = self._targets, {}
        return None if done is None or overtaken else (done, targets[done.sequence])

    def _learn(self) -> list[Effect]:
        """Whether the silence has an end that is known, or is over."""
        if not self.silent_until:
            return []
        stable = self._checkpoints.stable
        if self.silent_until == UNKNOWN:
            reached = [replica for replica, claimed in self._claimed.items() if claimed <= stable]
            if len(reached) < self._membership.quorum:
                return []
            return self._keep(Sequence(stable + SILENT_WINDOWS * self._window))
        return self._keep(Sequence(0)) if stable >= self.silent_until else []

    def _keep(self, until: Sequence) -> list[Effect]:
        self.silent_until = until
        writes = (log.learning(until),)
        self._disk.record(writes)
        return [Persist(writes)]

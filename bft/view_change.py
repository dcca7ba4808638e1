"""Leaving a view and beginning the next one (TOCS 2002, section 4.4), as a state machine of its own.

A replica that leaves says so in a signed VIEW-CHANGE, with what prepared (P) and what was accepted (Q) at it; the new
primary gathers 2f + 1 or more of them, decides by them (`new_view`), and shows both in NEW-VIEW. Nothing is taken on
trust: backups check every signature and compute the decision again. When to leave is not decided here (`suspicion`),
but for one rule: who sees f + 1 others in higher views follows to the smallest of these.
"""

from collections import Counter
from collections.abc import Sequence as SequenceOf

import msgspec

from bft import log, statement
from bft.checkpoints import Checkpoints
from bft.effects import Broadcast, Effect, Overlay, Persist, Rejected, Send
from bft.membership import Membership
from bft.messages import MAX_ACCEPTED, Accepted, NewView, ViewChange
from bft.new_view import Decision, decide
from bft.signatures import Signer, Verifier
from bft.tuning import Tuning
from bft.types import ReplicaId, View

REMEMBERED = 256
"""VIEW-CHANGEs found valid that are remembered: each comes from its sender and again within NEW-VIEW."""


def view_change_statement(membership: Membership, change: ViewChange) -> bytes:
    """What the sender of a VIEW-CHANGE signs."""
    return statement.encode(
        "bft.view-change",
        1,
        membership.ring_id,
        membership.epoch,
        change.view,
        change.replica,
        [change.stable.sequence, change.stable.digest],
        [list(held) for held in change.checkpoints],
        [list(msgspec.structs.astuple(entry)) for entry in change.prepared],
        [list(msgspec.structs.astuple(entry)) for entry in change.pre_prepared],
    )


def new_view_statement(membership: Membership, view: View, changes: SequenceOf[ViewChange], to: Decision) -> bytes:
    """What the primary of a view signs of its NEW-VIEW: each VIEW-CHANGE by its sender's signature."""
    return statement.encode(
        "bft.new-view",
        1,
        membership.ring_id,
        membership.epoch,
        view,
        [[change.replica, change.signature] for change in changes],
        to.stable,
        to.digest,
        list(to.batches),
    )


class ViewChanges:
    """The view this replica is in, or on its way to, and what it takes to begin it."""

    def __init__(
        self,
        identity: ReplicaId,
        membership: Membership,
        signer: Signer,
        verifier: Verifier,
        checkpoints: Checkpoints,
        disk: Overlay,
        tuning: Tuning,
    ) -> None:
        self.view = View(0)
        self.active = True
        """Whether the view has begun here."""
        self.own: ViewChange | None = None
        self.new_view: NewView | None = None
        """What the current view began with."""
        self._identity = identity
        self._membership = membership
        self._signer = signer
        self._verifier = verifier
        self._checkpoints = checkpoints
        self._disk = disk
        self._window = tuning.window
        self._received: dict[ReplicaId, ViewChange] = {}
        """The latest of each replica, our own too."""
        self._valid: dict[tuple[ReplicaId, bytes], bytes] = {}

    def restore(self) -> None:
        """Take up the view that the disk says this replica was in."""
        standing = log.read_standing(self._disk)
        self.view, self.own, self.new_view = standing.view, standing.view_change, standing.new_view
        self.active = standing.view_change is None
        if self.own is not None:
            self._received[self._identity] = self.own

    # --- leaving a view --------------------------------------------------------------------------------------------

    def leave(self, view: View, prepared: list[Accepted], pre_prepared: list[Accepted]) -> list[Effect]:
        """Go to `view`: from now on nothing is voted for in lower ones. On disk before anybody hears of it."""
        assert view > self.view, f"from view {self.view} back to {view}"
        unsigned = ViewChange(
            self._membership.epoch,
            view,
            self._identity,
            self._checkpoints.proven,
            self._checkpoints.held(),
            prepared,
            pre_prepared,
            bytes(64),
        )
        signature = self._signer.sign(view_change_statement(self._membership, unsigned))
        self.own = msgspec.structs.replace(unsigned, signature=signature)
        self.view, self.active, self.new_view = view, False, None
        self._received[self._identity] = self.own
        return [self._keep(), Broadcast(self.own)]

    def _keep(self) -> Persist:
        writes = (log.standing(log.Standing(self.view, None if self.active else self.own, self.new_view)),)
        self._disk.record(writes)
        return Persist(writes)

    def on_view_change(self, sender: ReplicaId, message: ViewChange) -> list[Effect]:
        """Another replica leaves its view."""
        if sender != message.replica:
            return [Rejected(sender, "a VIEW-CHANGE in another's name")]
        known = self._received.get(sender)
        if message.view < self.view or (known is not None and known.view >= message.view):
            return []
        reason = self._reject_reason(message)
        if reason is not None:
            return [Rejected(sender, reason)]
        self._received[sender] = message
        return []

    def to_join(self) -> View | None:
        """The smallest view above ours that f + 1 others, or the primary that we have, have left for. A primary that
        gives up is believed at once: nobody could make it lead."""
        higher = {replica: change.view for replica, change in self._received.items() if change.view > self.view}
        if len(higher) >= self._membership.weak:
            return min(higher.values())
        primary = self._membership.primary(self.view)
        return View(self.view + 1) if self.active and higher.get(primary) == self.view + 1 else None

    def heard_from(self, replica: ReplicaId, view: View) -> bool:
        """Whether we have this replica's VIEW-CHANGE for this view or a later one."""
        known = self._received.get(replica)
        return known is not None and known.view >= view

    @property
    def joined(self) -> int:
        """How many replicas, this one included, are known to wait for the view that we wait for, or for a later one."""
        return sum(1 for change in self._received.values() if change.view >= self.view)

    # --- the new primary -------------------------------------------------------------------------------------------

    def decision(self) -> Decision | None:
        """As primary of a view that has not begun: what it must begin with, once enough VIEW-CHANGEs say so."""
        if self.active or self._membership.primary(self.view) != self._identity:
            return None
        changes = self._gathered()
        if len(changes) < self._membership.quorum:
            return None
        return decide(self._membership, changes, self._window)

    def begin(self, decision: Decision) -> list[Effect]:
        """Begin the view with what was decided. All of its batches are here (rule A3). `announce` tells others."""
        changes = self._gathered()
        signature = self._signer.sign(new_view_statement(self._membership, self.view, changes, decision))
        message = NewView(
            self._membership.epoch,
            self.view,
            changes,
            decision.stable,
            decision.digest,
            list(decision.batches),
            signature,
        )
        return [self._enter(message)]

    def announce(self) -> list[Effect]:
        """As primary: what the view begins with."""
        assert self.new_view is not None, "our fault: announces a view that has not begun"
        return [Broadcast(self.new_view)]

    def _gathered(self) -> list[ViewChange]:
        return [change for _, change in sorted(self._received.items()) if change.view == self.view]

    # --- the backups -----------------------------------------------------------------------------------------------

    def on_new_view(self, sender: ReplicaId, message: NewView) -> list[Effect]:
        """A view begins, if all that its primary claims follows from what it shows. Passed on by anyone."""
        if message.view < self.view or (message.view == self.view and self.active):
            return []
        reason = self._new_view_reject_reason(message)
        if reason is not None:
            return [Rejected(sender, reason)]
        for change in message.view_changes:
            known = self._received.get(change.replica)
            if change.replica != self._identity and (known is None or known.view < change.view):
                self._received[change.replica] = change
        return [self._enter(message)]

    def _new_view_reject_reason(self, message: NewView) -> str | None:
        membership = self._membership
        primary = membership.primary(message.view)
        if primary == self._identity:
            return "a NEW-VIEW of our own that we did not send"
        changes = message.view_changes
        senders = [change.replica for change in changes]
        if senders != sorted(set(senders)):
            return "NEW-VIEW with two VIEW-CHANGEs of one replica, or out of order"
        if len(senders) < membership.quorum:
            return "NEW-VIEW with fewer than 2f+1 VIEW-CHANGEs"
        if any(change.view != message.view for change in changes):
            return "NEW-VIEW with a VIEW-CHANGE for another view"
        claimed = Decision(message.stable, message.digest, tuple(message.batches))
        signed = new_view_statement(membership, message.view, changes, claimed)
        if not self._verifier.verify(membership.replicas[primary], signed, message.signature):
            return "NEW-VIEW is not signed by the primary"
        for change in changes:
            reason = self._reject_reason(change)
            if reason is not None:
                return f"NEW-VIEW: {reason}"
        if decide(membership, changes, self._window) != claimed:
            return "NEW-VIEW that does not follow from its VIEW-CHANGEs"
        return None

    def _enter(self, message: NewView) -> Persist:
        self.view, self.active, self.new_view, self.own = message.view, True, message, None
        return self._keep()

    # --- what a VIEW-CHANGE must be like ---------------------------------------------------------------------------

    def _reject_reason(self, change: ViewChange) -> str | None:
        """Why a VIEW-CHANGE counts for nothing; the same at all replicas, whatever they know."""
        if change.replica >= self._membership.size:
            return "VIEW-CHANGE of nobody"
        if change.epoch != self._membership.epoch:
            return "VIEW-CHANGE of another epoch"
        encoded = msgspec.msgpack.encode(change)
        key = (change.replica, change.signature)
        if self._valid.get(key) == encoded:
            return None
        signed = view_change_statement(self._membership, change)
        if not self._verifier.verify(self._membership.replicas[change.replica], signed, change.signature):
            return "VIEW-CHANGE is not signed by its sender"
        if not self._well_formed(change):
            return "malformed VIEW-CHANGE"
        if not self._checkpoints.proves(change.stable):
            return "VIEW-CHANGE without proof of its checkpoint"
        self._valid[key] = encoded
        while len(self._valid) > REMEMBERED:
            del self._valid[next(iter(self._valid))]
        return None

    def _well_formed(self, change: ViewChange) -> bool:
        """Each number once in P, a few times in Q, within the watermarks, from lower views; checkpoints in order."""
        low = change.stable.sequence
        numbers = [sequence for sequence, _ in change.checkpoints]
        prepared = [entry.sequence for entry in change.prepared]
        accepted = [(entry.sequence, entry.digest) for entry in change.pre_prepared]
        often = max(Counter(number for number, _ in accepted).values(), default=0)
        entries = [*change.prepared, *change.pre_prepared]
        return (
            change.checkpoints[0] == (low, change.stable.digest)
            and numbers == sorted(set(numbers))
            and numbers[-1] <= low + self._window
            and prepared == sorted(set(prepared))
            and accepted == sorted(set(accepted))
            and often <= MAX_ACCEPTED
            and all(low < entry.sequence <= low + self._window and entry.view < change.view for entry in entries)
        )

    # --- for those who come later ----------------------------------------------------------------------------------

    def send_again(self, to: ReplicaId, view: View, active: bool, contents: bool) -> list[Effect]:
        """What someone in `view` lacks of ours: NEW-VIEW if the view has begun here, else our VIEW-CHANGE. NEW-VIEW is
        large, so it comes from its primary, or from whom it was asked of."""
        if view > self.view or (view == self.view and active):
            return []
        if not self.active:
            return [Send(to, self.own)] if self.own is not None else []
        if self.new_view is None or not (contents or self._membership.primary(self.view) == self._identity):
            return []
        return [Send(to, self.new_view)]

"""What a new view must begin with: rules A1 to A3 and B (TOCS 2002, section 4.4, figure 4).

A pure function of a set of valid VIEW-CHANGEs, computed by the new primary, and again by each backup, which refuses a
NEW-VIEW that differs in one entry. Where the paper leaves the primary a choice it is settled here: of several batches
that may be selected for a number, none of which can have committed then, the one of the highest view, then the least
digest. Not here: A3, that the primary has the batch; it waits until it has.
"""

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from typing import NamedTuple

from bft.batches import NULL
from bft.membership import Membership
from bft.messages import Accepted, ViewChange
from bft.statement import Digest
from bft.types import Sequence


class Decision(NamedTuple):
    """The checkpoint that the view starts from, and the batches of the numbers after it, without gaps."""

    stable: Sequence
    digest: Digest
    batches: tuple[Digest, ...]


class _Told:
    """One VIEW-CHANGE by number: these are looked up for every number, and a liar's may be long."""

    def __init__(self, change: ViewChange) -> None:
        self.stable = change.stable.sequence
        self.prepared = {entry.sequence: entry for entry in change.prepared}
        self.accepted = {(entry.sequence, entry.digest): entry.view for entry in change.pre_prepared}

    def unprepared(self, sequence: Sequence) -> bool:
        """Whether the sender can tell about the number, and nothing prepared there."""
        return self.stable < sequence and sequence not in self.prepared

    def gives_way(self, candidate: Accepted) -> bool:
        """Whether nothing else prepared at the sender in the candidate's view or a later one."""
        entry = self.prepared.get(candidate.sequence)
        if entry is None:
            return self.unprepared(candidate.sequence)
        return entry.view < candidate.view or (entry.view == candidate.view and entry.digest == candidate.digest)

    def vouches(self, candidate: Accepted) -> bool:
        """Whether the sender accepted this batch in the candidate's view or a later one, so that it is genuine."""
        view = self.accepted.get((candidate.sequence, candidate.digest))
        return view is not None and view >= candidate.view


def decide(membership: Membership, view_changes: SequenceOf[ViewChange], window: int) -> Decision | None:
    """The decision that these VIEW-CHANGEs, of different replicas, lead to; None when they do not suffice yet."""
    start = _checkpoint(membership, view_changes, window)
    if start is None:
        return None
    low, digest = start
    changes = [_Told(change) for change in view_changes if low - window <= change.stable.sequence]
    selected: dict[Sequence, Digest] = {}
    for sequence in sorted({sequence for change in changes for sequence in change.prepared}):
        if not low < sequence <= low + window:
            continue
        batch = _select(membership, changes, sequence)
        if batch is not None:
            selected[sequence] = batch
        elif sum(1 for change in changes if change.unprepared(sequence)) < membership.quorum:  # B
            return None
    # Nothing stands above the last batch that rule A selects, be it a null batch: that may have run somewhere.
    numbers = map(Sequence, range(low + 1, max(selected, default=low) + 1))
    return Decision(low, digest, tuple(selected.get(sequence, NULL) for sequence in numbers))


def _checkpoint(membership: Membership, changes: Iterable[ViewChange], window: int) -> tuple[Sequence, Digest] | None:
    """The highest checkpoint that f + 1 hold and above which 2f + 1 can tell what happened. Who was more than a window
    below it cannot: its sender may have lost its disk since, and voted above it with a new one (`bft.recovery`)."""
    holders: dict[tuple[Sequence, Digest], int] = {}
    for change in changes:
        for held in change.checkpoints:
            holders[held] = holders.get(held, 0) + 1
    for sequence, digest in sorted(holders, key=lambda held: (-held[0], held[1])):
        below = sum(1 for change in changes if sequence - window <= change.stable.sequence <= sequence)
        if below >= membership.quorum and holders[sequence, digest] >= membership.weak:
            return sequence, digest
    return None


def _select(membership: Membership, changes: SequenceOf[_Told], sequence: Sequence) -> Digest | None:
    """The batch for one number by rule A, if there is one."""
    candidates = {entry for change in changes if (entry := change.prepared.get(sequence)) is not None}
    for candidate in sorted(candidates, key=lambda entry: (-entry.view, entry.digest)):
        agreeing = sum(1 for change in changes if change.gives_way(candidate))  # A1
        vouching = sum(1 for change in changes if change.vouches(candidate))  # A2
        if agreeing >= membership.quorum and vouching >= membership.weak:
            return candidate.digest
    return None

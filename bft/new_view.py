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


def decide(membership: Membership, view_changes: SequenceOf[ViewChange], window: int) -> Decision | None:
    """The decision that these VIEW-CHANGEs, of different replicas, lead to; None when they do not suffice yet."""
    start = _checkpoint(membership, view_changes)
    if start is None:
        return None
    low, digest = start
    selected: dict[Sequence, Digest] = {}
    named = {entry.sequence for change in view_changes for entry in change.prepared}
    for sequence in sorted(named):
        if not low < sequence <= low + window:
            continue
        batch = _select(membership, view_changes, sequence)
        if batch is None:
            return None
        selected[sequence] = batch
    top = max((sequence for sequence, batch in selected.items() if batch != NULL), default=low)
    numbers = map(Sequence, range(low + 1, top + 1))
    return Decision(low, digest, tuple(selected.get(sequence, NULL) for sequence in numbers))


def _checkpoint(membership: Membership, changes: Iterable[ViewChange]) -> tuple[Sequence, Digest] | None:
    """The highest checkpoint that f + 1 hold and above which 2f + 1 can tell what happened."""
    holders: dict[tuple[Sequence, Digest], int] = {}
    for change in changes:
        for held in change.checkpoints:
            holders[held] = holders.get(held, 0) + 1
    for sequence, digest in sorted(holders, key=lambda held: (-held[0], held[1])):
        below = sum(1 for change in changes if change.stable.sequence <= sequence)
        if below >= membership.quorum and holders[sequence, digest] >= membership.weak:
            return sequence, digest
    return None


def _select(membership: Membership, changes: SequenceOf[ViewChange], sequence: Sequence) -> Digest | None:
    """The batch for one number: by rule A, else the null batch by rule B, else None."""
    telling = [change for change in changes if change.stable.sequence < sequence]
    prepared = [_entry(change.prepared, sequence) for change in telling]
    candidates = {entry for change in changes if (entry := _entry(change.prepared, sequence)) is not None}
    for candidate in sorted(candidates, key=lambda entry: (-entry.view, entry.digest)):
        agreeing = sum(1 for entry in prepared if entry is None or _gives_way(entry, candidate))  # A1
        vouching = sum(1 for change in changes if _vouches(change, candidate))  # A2
        if agreeing >= membership.quorum and vouching >= membership.weak:
            return candidate.digest
    unprepared = sum(1 for entry in prepared if entry is None)  # B
    return NULL if unprepared >= membership.quorum else None


def _entry(entries: Iterable[Accepted], sequence: Sequence) -> Accepted | None:
    return next((entry for entry in entries if entry.sequence == sequence), None)


def _gives_way(entry: Accepted, candidate: Accepted) -> bool:
    return entry.view < candidate.view or (entry.view == candidate.view and entry.digest == candidate.digest)


def _vouches(change: ViewChange, candidate: Accepted) -> bool:
    """Whether the sender accepted this batch in the candidate's view or a later one, so that it is genuine."""
    return any(
        entry.sequence == candidate.sequence and entry.digest == candidate.digest and entry.view >= candidate.view
        for entry in change.pre_prepared
    )

"""Mutants of what a crash must not undo: the order of effects, the log, views, silence after a loss."""

import os
from contextlib import suppress
from types import SimpleNamespace

from bft import log
from bft.effects import Persist, Store
from bft.ordering import Ordering
from bft.recovery import Recovery
from bft.replica import Replica
from bft.types import Sequence
from bft.view_change import ViewChanges
from cluster.sim.disk import Disk
from pond import journal
from pond.journal import Journal
from tests.mutants.mutant import BySeeds, ByTests, mutant

CRASHES = """
[process.crashes]
every_seconds = 0.05
seconds = 0.01
most = 1000
[disk]
unsynced = "none"
sync_seconds = 0.03
"""
"""Often, so that some come between a message and the sync that it should have waited for."""


@mutant("rule 2, fsync", BySeeds("rule 2: .* forgot its|rule 2: .* lost block", 20), quick=True)
def sync_does_nothing(patch):
    """What was said to be durable is not."""
    patch.setattr(Disk, "sync", lambda self: None)


def _message_first(effects):
    """Each broadcast is moved before the `Persist` that it rests on."""
    return sorted(effects, key=lambda effect: isinstance(effect, Persist))


@mutant("rule 2, Q before PREPARE", BySeeds("forgot its vote", 300))
def vote_before_it_is_durable(patch):
    """PREPARE leaves before the Q entry is on the disk."""
    vote = Ordering._vote

    def swapped(self, sequence, slot):
        effects = vote(self, sequence, slot)
        return [*effects[1:2], *effects[:1], *effects[2:]]

    patch.setattr(Ordering, "_vote", swapped)


@mutant("rule 2, Q before PRE-PREPARE", BySeeds("forgot its vote", 300))
def proposal_before_it_is_durable(patch):
    """PRE-PREPARE leaves before it is on its primary's disk."""
    propose = Ordering.propose

    def hasty(self, requests, plan, now):
        return _message_first(propose(self, requests, plan, now))

    patch.setattr(Ordering, "propose", hasty)


@mutant("rule 2, P before COMMIT", BySeeds("forgot its COMMIT", 300))
def commit_before_it_is_durable(patch):
    """COMMIT leaves before the P entry is on the disk."""
    advance = Ordering._advance
    patch.setattr(Ordering, "_advance", lambda self, *about: _message_first(advance(self, *about)))


@mutant("rule 2, view before VIEW-CHANGE", BySeeds("forgot (that it left|view)", 300, CRASHES))
def view_change_before_it_is_durable(patch):
    """VIEW-CHANGE leaves before the view is on the disk."""
    leave = ViewChanges.leave
    patch.setattr(ViewChanges, "leave", lambda self, *about: _message_first(leave(self, *about)))


@mutant("rule 2, Q before PREPARE", BySeeds("forgot its", 60))
def votes_are_not_synced(patch):
    """Votes are written, and nobody waits until they are on the disk."""
    accept = Ordering._accept
    patch.setattr(Ordering, "_accept", lambda self, *about: Store(accept(self, *about).writes))


@mutant(
    "4.3",
    BySeeds("forgot its|assert place is not None", 300, "[limits]\nretained = 4", ("safety", "crash")),
)
def log_cut_too_high(patch):
    """The log is cut some numbers above the stable checkpoint, votes and all."""
    truncate = log.truncate
    patch.setattr(log, "truncate", lambda first, last: truncate(first, Sequence(last + 8)))


@mutant("4.4, P and Q", BySeeds("conceals its", 300))
def votes_forgotten_at_each_checkpoint(patch):
    """When a checkpoint is stable, P and Q are dropped above it too, so VIEW-CHANGE does not tell of them."""
    forget = Ordering.forget

    def forgetful(self, stable):
        self.prepared.clear()
        self.accepted.clear()
        return forget(self, stable)

    patch.setattr(Ordering, "forget", forgetful)


@mutant(
    "design 5, restart",
    ByTests(
        "assert", ("tests/unit/bft/test_replica.py::test_a_restarted_primary_gives_up_its_view_and_another_leads",)
    ),
)
def restarted_primary_leads_on(patch):
    """A primary that was restarted proposes again in its old view."""
    patch.setattr(Replica, "_has_led", lambda self: False)


@mutant("5.3", ByTests("assert", ("tests/unit/bft/test_recovery.py",)))
def learner_votes_at_once(patch):
    """A replica whose disk was lost votes as if it had never voted."""
    patch.setattr(Recovery, "restore", lambda self: None)


@mutant("4.4", BySeeds("after it left", 300))
def votes_in_a_view_that_it_left(patch):
    """A replica that has sent VIEW-CHANGE goes on to vote in its old view, of which it has told."""
    on_ordering = Replica._on_ordering
    leave = Ordering.leave

    def keeps_on(self, sender, message, now):
        views = self.views
        if views.active or message.view != self.ordering.view:
            return on_ordering(self, sender, message, now)
        view, views.view, views.active = views.view, message.view, True
        try:
            return on_ordering(self, sender, message, now)
        finally:
            views.view, views.active = view, False

    patch.setattr(Replica, "_on_ordering", keeps_on)
    patch.setattr(Ordering, "leave", lambda self: None if self.slots else leave(self))


JOURNAL = ("tests/unit/pond/test_journal.py",)


@mutant("decision 7", ByTests("assert", JOURNAL))
def journal_is_not_synced(patch):
    """A record is written, and nobody waits until it is on the disk."""
    patch.setattr(journal, "os", SimpleNamespace(**vars(os) | {"fdatasync": lambda file: None}))


@mutant("decision 7", ByTests("DID NOT RAISE", JOURNAL))
def record_lost_is_the_end(patch):
    """A record that the disk has changed is taken for the end of the journal, though others come behind it."""
    replay = Journal.replay

    def lenient(self):
        with suppress(journal.RecordLost):
            yield from replay(self)

    patch.setattr(Journal, "replay", lenient)


@mutant("decision 7", ByTests("assert", JOURNAL))
def journal_numbers_begin_anew(patch):
    """After a commit records have numbers that others had before, so a start leaves them out, or adds old ones."""
    restart = Journal.restart

    def from_one(self):
        restart(self)
        self.number = 1

    patch.setattr(Journal, "restart", from_one)

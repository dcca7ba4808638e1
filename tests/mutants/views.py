"""Mutants of view changes: what a new view begins with, and what is believed about it."""

from bft import new_view, view_change
from bft.batches import NULL
from bft.checkpoints import Checkpoints
from bft.messages import NewView
from bft.new_view import Decision, _Told, decide
from bft.suspicion import Suspicion
from bft.view_change import ViewChanges
from tests.mutants.mutant import BySeeds, ByTests, mutant, one_less

RULES = ("tests/paper/test_new_view.py",)
LIES = ("tests/paper/test_view_change.py",)

LEADERS_FALL = """
network.loss = 0.2
process.crashes = { every_seconds = 0.3, seconds = 0.6, most = 10, whom = "leader" }
"""
"""Views change while some have run what others have not."""

INVENTED = f"""{LEADERS_FALL}
[[liars]]
kind = "invents-in-view-change"
server = 1
[[liars]]
kind = "no-new-view"
server = 1
"""
"""A view that never begins is higher than those in which anything prepared."""


@mutant("4.4, A2", ByTests("assert", RULES), BySeeds("rule 1: .* another state", 300, INVENTED))
def highest_claim_wins(patch):
    """What somebody claims to have prepared in the highest view is taken, though nobody vouches for it (no A2)."""
    patch.setattr(_Told, "vouches", lambda self, candidate: True)


class _Fewer:
    """A membership as two functions of `new_view` see it, whose f + 1 are f."""

    def __init__(self, membership):
        self.quorum, self.weak = membership.quorum, membership.faults


def _with_f(patch, name):
    function = getattr(new_view, name)
    patch.setattr(new_view, name, lambda membership, *about: function(_Fewer(membership), *about))


@mutant("4.4, A2", ByTests("assert", RULES), BySeeds("rule 1: .* another state", 300, INVENTED))
def one_vouches_for_itself(patch):
    """f that vouch for a batch are enough, so that a liar vouches for its own."""
    _with_f(patch, "_select")


@mutant("4.4, A1", ByTests("assert", RULES))
def lower_views_give_no_way(patch):
    """A batch is selected although others prepared another one in a higher view (no A1)."""
    patch.setattr(_Told, "gives_way", lambda self, candidate: True)


@mutant("4.4, A1 and B: h < n", ByTests("assert", RULES))
def those_who_cut_their_log_tell_nothing_happened(patch):
    """Replicas that have passed a number, and forgotten what happened there, count as saying that nothing did."""
    patch.setattr(_Told, "unprepared", lambda self, sequence: sequence not in self.prepared)


@mutant("4.4, B", ByTests("assert", RULES))
def null_batch_at_the_end_is_left_out(patch):
    """A null batch that rule A selected above all others is not named, and its number given to another batch."""

    def shorter(*about):
        decision = decide(*about)
        batches = list(decision.batches) if decision is not None else []
        while batches and batches[-1] == NULL:
            batches.pop()
        return decision and Decision(decision.stable, decision.digest, tuple(batches))

    patch.setattr(new_view, "decide", shorter)


@mutant("4.4", ByTests("assert", RULES))
def checkpoint_of_one(patch):
    """A new view starts from a checkpoint that only f replicas claim to hold."""
    _with_f(patch, "_checkpoint")


@mutant(
    "4.4",
    ByTests("assert|does not follow", LIES),
    BySeeds("rule 1: .* another state", 100, f'{LEADERS_FALL}[[liars]]\nkind = "forgets-batches"\nserver = 1'),
)
def new_view_is_not_computed_again(patch):
    """Backups take what the new primary decided for what follows from its VIEW-CHANGEs."""
    on_new_view = ViewChanges.on_new_view

    def trusting(self, sender, message: NewView):
        claimed = Decision(message.stable, message.digest, tuple(message.batches))
        with patch.context() as inner:
            inner.setattr(view_change, "decide", lambda *about: claimed)
            return on_new_view(self, sender, message)

    patch.setattr(ViewChanges, "on_new_view", trusting)


@mutant("4.4", ByTests("assert|two VIEW-CHANGEs of one replica", LIES))
def new_view_of_one_sender_thrice(patch):
    """One replica's VIEW-CHANGE counts as often as NEW-VIEW shows it."""
    patch.setattr(view_change, "set", lambda senders: senders, raising=False)


@mutant("4.4", ByTests("assert", LIES))
def new_view_of_2f(patch):
    """A view begins with 2f VIEW-CHANGEs."""
    one_less(patch, ViewChanges, "on_new_view", "quorum")


class _Lax:
    """A verifier that takes any signature over a statement of one kind."""

    def __init__(self, inner, tag):
        self._inner = inner
        self._tag = tag

    def verify(self, key, message, signature):
        return self._tag in message[: len(self._tag) + 2] or self._inner.verify(key, message, signature)


def _unsigned(patch, tag):
    start = ViewChanges.__init__

    def lax(self, identity, membership, signer, verifier, *about):
        start(self, identity, membership, signer, _Lax(verifier, tag), *about)

    patch.setattr(ViewChanges, "__init__", lax)


@mutant("4.4", ByTests("assert", LIES))
def new_view_of_anybody(patch):
    """NEW-VIEW need not be signed by the primary of its view."""
    _unsigned(patch, b"bft.new-view")


@mutant("4.4", ByTests("assert", LIES))
def view_change_in_anothers_name(patch):
    """VIEW-CHANGEs are not checked for their sender's signature."""
    _unsigned(patch, b"bft.view-change")


@mutant("4.4", ByTests("assert", LIES))
def checkpoints_without_proof(patch):
    """A VIEW-CHANGE's stable checkpoint is believed without the signatures of 2f + 1."""
    patch.setattr(Checkpoints, "proves", lambda self, message: True)


@mutant(
    "4.5.2",
    ByTests("assert", LIES),
    BySeeds("not done|Expected `int`", 60, '[[liars]]\nkind = "leaps-ahead"', ("liveness", "crash")),
)
def joins_on_f(patch):
    """f replicas can make all others leave their view."""
    one_less(patch, ViewChanges, "to_join", "weak")


@mutant(
    "4.5",
    ByTests(
        "assert",
        ("tests/paper/test_liveness.py::test_a_link_that_is_broken_for_one_alone_costs_nobody_the_view",),
    ),
)
def broken_link_counts_while_nothing_waits(patch):
    """Who has lost its link to the primary alone leaves an idle ring's view alone, and votes no longer."""
    tick = Suspicion.tick

    def lonely(self, waiting, alone, oldest_ticks, usual_ticks, uncertified, unreachable=False):
        return tick(self, waiting or unreachable, alone, oldest_ticks, usual_ticks, uncertified, unreachable)

    patch.setattr(Suspicion, "tick", lonely)

"""Mutants of agreement: quorums, votes, watermarks, batches."""

from bft import batches, execution, ordering, request_signatures
from bft.admission import Admission
from bft.batches import Batches
from bft.catch_up import CatchUp
from bft.checkpoints import Checkpoints
from bft.membership import Membership
from bft.ordering import Ordering
from bft.replica import Replica
from bft.signatures import Ed25519Verifier
from bft.types import AgreedTime
from cluster.sim.cheap import CheapVerifier
from tests.mutants.mutant import BySeeds, ByTests, mutant, one_less

EQUIVOCATES = """
[[liars]]
kind = "equivocating-primary"
server = 0
[[liars]]
kind = "votes-blindly"
server = 0
"""
"""A primary that proposes two batches, and votes for both."""

UNSIGNED = """
liars = [{ kind = "unsigned-requests", server = 0 }]
"""
"""A primary that alters what clients have signed."""

# --- how many ------------------------------------------------------------------------------------------------------


@mutant("rule 1", BySeeds("rule 1: .* which only", 20), quick=True)
def quorum_of_2f(patch):
    """Two quorums need not meet in a correct replica."""
    patch.setattr(Membership, "quorum", property(lambda self: 2 * self.faults))


@mutant("4.2, prepared", BySeeds("rule 1: .* commits batch .* which only", 60))
def prepared_by_2f(patch):
    """A batch counts as prepared with one PREPARE too few."""
    advance = Ordering._advance

    def hasty(self, sequence, slot):
        with patch.context() as inner:
            inner.setattr(ordering, "_count", lambda votes, digest: 1 + list(votes.values()).count(digest))
            return advance(self, sequence, slot)

    patch.setattr(Ordering, "_advance", hasty)


@mutant("4.2, committed-local", BySeeds("rule 1: .* ran batch .* which only", 60))
def committed_by_2f(patch):
    """A batch runs with one COMMIT too few."""
    one_less(patch, Ordering, "committed", "quorum")


@mutant(
    "rule 1",
    ByTests("assert (0 == 1|1 == 0)", ("tests/unit/bft/test_catch_up.py",)),
    BySeeds("rule 1", 300, '[[liars]]\nkind = "invents-decided"'),
)
def decided_by_one(patch):
    """What a single replica says was decided is run: f of them may lie."""
    one_less(patch, CatchUp, "decided", "weak")


@mutant("4.3", ByTests("assert", ("tests/paper/test_normal_case.py",)))
def checkpoint_of_2f(patch):
    """A checkpoint is stable, and the log is cut, when only 2f replicas hold that state."""
    one_less(patch, Checkpoints, "_settle", "quorum")


# --- votes ---------------------------------------------------------------------------------------------------------


@mutant("4.2, prepared", BySeeds("rule 1", 300, '[[liars]]\nkind = "equivocating-primary"'))
def votes_for_anything_count(patch):
    """Votes are counted whatever batch they are for."""
    patch.setattr(ordering, "_count", lambda votes, digest: len(votes))


@mutant(
    "4.2",
    ByTests("a second proposal for one number", ("tests/paper/test_normal_case.py",)),
    BySeeds("rule 1: .* two batches", 300, '[[liars]]\nkind = "equivocating-primary"'),
)
def second_proposal_replaces_the_first(patch):
    """Of a primary that proposes two batches at one number, the second is taken as well."""
    propose = Ordering.on_pre_prepare

    def fickle(self, sender, message):
        slot = self.slots.get(message.sequence)
        if slot is not None and slot.signature != message.signature:
            del self.slots[message.sequence]
        return propose(self, sender, message)

    patch.setattr(Ordering, "on_pre_prepare", fickle)


@mutant("4.2", ByTests("'a message in our own name'", ("tests/paper/test_normal_case.py",)))
def votes_in_our_own_name_count(patch):
    """A peer may vote for us."""
    received = Replica._on_received

    def trusting(self, event):
        if event.sender == self.identity:
            return self._on_ordering(event.sender, event.message, event.now)
        return received(self, event)

    patch.setattr(Replica, "_on_received", trusting)


@mutant(
    "4.2",
    ByTests("the primary does not prepare", ("tests/paper/test_normal_case.py",)),
    BySeeds("rule 1: .* which only", 20, EQUIVOCATES),
)
def primary_prepares_too(patch):
    """The primary's PREPARE counts beside its proposal, so that it votes twice."""
    _let_pass(patch, "the primary does not prepare")


@mutant(
    "4.2",
    ByTests("not signed by its principal", ("tests/paper/test_normal_case.py",)),
    BySeeds("rule 4: .* which nobody signed", 60, UNSIGNED),
)
def requests_are_not_checked(patch):
    """Anybody's request runs in anybody's name."""
    admit = Admission.admit

    def trusting(self, request):
        with patch.context() as inner:
            for verifier in (Ed25519Verifier, CheapVerifier):
                inner.setattr(verifier, "verify", lambda *about: True)
            return admit(self, request)

    patch.setattr(Admission, "admit", trusting)


def _let_pass(patch, refusal):
    """What would be refused with these words is not."""
    reject = Ordering.reject_reason

    def lax(self, *about):
        reason = reject(self, *about)
        return None if reason is not None and reason.startswith(refusal) else reason

    patch.setattr(Ordering, "reject_reason", lax)


# --- watermarks ----------------------------------------------------------------------------------------------------


@mutant("rule 9", BySeeds("rule 9", 100), BySeeds("rule 9", 100, '[[liars]]\nkind = "proposes-outside"'))
def watermark_ignored(patch):
    """Numbers far above the last stable checkpoint count, and are kept."""
    patch.setattr(Ordering, "high", property(lambda self: self.stable + 10**6))


# --- batches -------------------------------------------------------------------------------------------------------


@mutant(
    "rule 2, bodies",
    BySeeds("lacks block|AssertionError", 300, "[habits]\nlarge = 0.3\nreads = 0.2", ("crash",)),
)
def votes_without_bodies(patch):
    """A batch is voted for, and runs, though bodies that its requests name are missing."""

    def get(self, sequence, digest):
        known = self._known.get((sequence, digest))
        return known.complete if known is not None else None

    patch.setattr(Batches, "get", get)


@mutant("rule 1, time", BySeeds("rule 1: .* time", 300), quick=True)
def time_renewed_when_proposed_again(patch):
    """A batch that is taken from the log again, as after a view change, gets another time there."""
    want = Batches.want

    def renewed(self, sequence, digest):
        known_before = self.knows(sequence, digest)
        want(self, sequence, digest)
        known = self._known[sequence, digest]
        if not known_before and known.complete is not None and digest != batches.NULL:
            known.complete = known.complete._replace(time=AgreedTime(known.complete.time + 1000))

    patch.setattr(Batches, "want", renewed)


@mutant("agreed time", BySeeds("goes back", 40))
def time_as_the_primary_says(patch):
    """Agreed time is what the primary's clock shows, also when that goes back."""
    patch.setattr(execution, "max", lambda proposed, before: proposed, raising=False)


@mutant(
    "agreed time",
    ByTests("ahead of our clock", ("tests/paper/test_normal_case.py",)),
    BySeeds("ahead of every correct clock", 300, '[[liars]]\nkind = "wrong-clock"'),
)
def any_time_will_do(patch):
    """Backups vote for proposals of any time."""
    _let_pass(patch, "proposed time is")


@mutant(
    "4.1, authentication",
    ByTests("assert", ("tests/unit/bft/test_request_signatures.py",)),
    BySeeds("rule 4: .* which nobody signed", 60, UNSIGNED + "habits.together = 0.5\n"),
)
def path_to_a_signature_is_not_checked(patch):
    """Whoever shows a signature over some requests has signed this one too."""
    patch.setattr(request_signatures, "_signed", lambda root, count: b"the same for all")

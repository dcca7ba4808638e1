"""Each kind of liar: a ring keeps its promises beside it, and it does lie, which is noticed where it can be."""

import pytest

from cluster.faults.liars import KINDS
from cluster.faults.manifest import Manifest, ManifestError, parse
from cluster.sim.ring import Verdict, simulate

SMALL = """
sizes = { operations = 60, clients = 5, phase_seconds = 3.0 }
limits = { interval = 2, window = 4, pipeline = 2, pool = 4 }
"""

VIEWS = """
sizes = { operations = 60, clients = 5, phase_seconds = 4.0 }
habits = { head_start_seconds = 0.0, pause_seconds = 0.1 }
limits = { interval = 2, window = 6, pool = 4 }
process.crashes = { every_seconds = 0.4, seconds = 0.8 }
"""
"""Servers are away for long enough to be given up."""

STATES = """
sizes = { operations = 80, clients = 8, phase_seconds = 5.0 }
habits = { head_start_seconds = 0.0, pause_seconds = 0.05, reads = 0.3 }
limits = { interval = 2, window = 4, retained = 2, pool = 4 }
process.crashes = { every_seconds = 0.3, seconds = 0.6 }
"""
"""Servers are away for long enough to need a state."""

CONTENT = """
sizes = { operations = 400, clients = 5, phase_seconds = 3.0 }
habits = { reads = 0.7 }
"""
"""Clients fetch blocks at times."""

LOSSY = SMALL + "network.loss = 0.2\n"
"""Much has to be said again."""


NOTICED = {
    "bad-new-view": (VIEWS, "NEW-VIEW"),
    "bad-shares": (SMALL, "bad signature share"),
    "burns-nonces": (SMALL, "no signature share in time"),
    "equivocating-primary": (LOSSY, "a second proposal for one number"),
    "floods": (SMALL, "proposal is not signed by the primary"),
    "forges-certificates": (SMALL, "certificate"),
    "forgets-batches": (VIEWS, "NEW-VIEW that does not follow"),
    "forges-checkpoints": (SMALL, "stable checkpoint without proof"),
    "malformed-view-change": (VIEWS, "malformed VIEW-CHANGE"),
    "proposes-outside": (SMALL, "outside the watermarks"),
    "relays-junk": (SMALL, "relayed "),
    "unsigned-requests": (SMALL, "proposal: "),
    "votes-twice": (SMALL, "two batches at one number"),
    "withholds-shares": (SMALL, "no signature share in time"),
    "wrong-chunks": (STATES, "state: "),
    "wrong-clock": (SMALL, "proposed time is ahead of our clock"),
    "wrong-contents": (LOSSY, "batch: "),
    "wrong-parts": (STATES, "part: "),
    "wrong-votes": (SMALL, "checkpoint is not signed by its sender"),
}
"""What correct servers must have refused, in one of the seeds."""

MANIFESTS = {
    "claims-gone": STATES,
    "corrupt-blocks": CONTENT,
    "holds-nothing": CONTENT,
    "huge-view-change": VIEWS,
    "invents-in-view-change": VIEWS,
    "new-view-to-some": VIEWS,
    "no-new-view": VIEWS,
    "omits-in-view-change": VIEWS,
    "other-states": STATES,
    "stale-view-change": VIEWS,
    "two-new-views": VIEWS,
}
"""Where it takes more than ordering to bring the lie out."""

MOST_SEEDS = 80
"""Among so many, each kind must have lied in a few."""

FEW = 3


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_ring_keeps_its_promises_beside_a_liar_that_does_lie(kind):
    manifest, reason = NOTICED.get(kind, (MANIFESTS.get(kind, SMALL), ""))
    lied, refused = 0, set()
    for seed in range(1, MOST_SEEDS + 1):
        run = simulate(seed, parse(f"{manifest}\n[[liars]]\nkind = '{kind}'\nserver = {seed % 2}"))
        assert run.verdict is Verdict.OK, f"seed {seed}: {run.what}"
        lied += run.reached["lie", kind] > 0
        refused |= {name for what, name in run.reached if what == "refusal"}
        if lied >= FEW and (not reason or any(reason in known for known in refused)):
            return
    pytest.fail(f"it lied in {lied} runs, and refused was {sorted(refused)}")


def test_a_new_view_without_its_signature_leaves_and_is_refused():
    """It differs from the truth in nothing else, and was taken for no lie once."""
    lie = f"{VIEWS}\n[[liars]]\nkind = 'bad-new-view'\nserver = 1"
    runs = (simulate(seed, parse(lie)) for seed in range(1, MOST_SEEDS + 1))
    assert any(("refusal", "NEW-VIEW is not signed by the primary") in run.reached for run in runs)


def test_every_kind_says_what_it_attacks():
    for name, (_, make) in KINDS.items():
        assert "ttacks" in (make.__doc__ or ""), name


def test_one_server_may_lie_in_two_ways_and_counts_once():
    two = (
        "[[liars]]\nkind = 'resigns'\nserver = 0\nparameters.batches = 3\n"
        "[[liars]]\nkind = 'omits-in-view-change'\nserver = 0\n"
    )
    run = simulate(1, parse("sizes = { operations = 60, clients = 5 }\n" + two))
    assert run.verdict is Verdict.OK, run.what
    assert {name for what, name in run.reached if what == "lie"} == {"resigns", "omits-in-view-change"}
    with pytest.raises(ManifestError, match="4 servers stand 1"):
        parse(two + "[[liars]]\nkind = 'silent'\nserver = 1\n").check()
    assert len(Manifest().liars) == 0


def test_a_liar_may_find_its_own_lie_in_what_it_is_to_say():
    """Seed 66572: plans without signers, to be made worse."""
    twice = 2 * "[[liars]]\nkind = 'bad-plans'\nserver = 0\n"
    run = simulate(1, parse("sizes = { operations = 60, clients = 5 }\n" + twice))
    assert run.verdict is Verdict.OK, run.what
    assert run.reached["lie", "bad-plans"] > 0

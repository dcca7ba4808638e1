"""A thousand rounds of power failures, in which everything that was not synced is gone: nothing acknowledged is lost.

A round strikes at one point: before or after a sync that some message waits for, by primary or backup, or at any
instant; one server or all at once. Then servers start again, and an update that comes later must run, without help and
before the next round. In the end all histories are read back. The same as a command:
`pond sim ring --seeds 1..20 --manifest docs/manifests/power.toml`.
"""

from collections import Counter
from pathlib import Path

import msgspec
import pytest

from cluster.faults.manifest import load
from cluster.sim import rounds
from cluster.sim.ring import Run, Verdict, simulate
from cluster.sim.rounds import POINTS, Point, Rounds
from cluster.sim.workload import Client
from tests.mutants import durability

POWER = load(Path(__file__).parents[2] / "docs" / "manifests" / "power.toml")

RESUMED_SECONDS = 3.0
"""Within so long after power is back an update runs: a view change or two, and clients that come again."""


def check_run(seed: int) -> Run:
    run = simulate(seed, POWER)
    assert run.verdict is Verdict.OK, f"seed {seed}: {run.what}"
    assert POWER.rounds is not None
    assert run.rounds.total() == POWER.rounds.count
    assert run.resumed_seconds <= RESUMED_SECONDS
    return run


def test_fifty_rounds():
    run = check_run(1)
    assert run.crashes > 75, "all at once in some of them"


@pytest.mark.slow
def test_a_thousand_rounds_at_every_sync_point_and_at_any_instant():
    runs = [check_run(seed) for seed in range(1, 21)]
    struck = sum((run.rounds for run in runs), Counter[Point]())
    assert struck.total() == 1000
    assert set(struck) == set(POINTS)
    assert min(struck.values()) >= 10, "each point"
    assert sum(run.operations for run in runs) > 2000
    slowest = max(run.resumed_seconds for run in runs)
    print(f"{struck.total()} rounds at {len(struck)} points, an update within {slowest:.3f} s after each")


def test_points_are_of_every_kind():
    assert {(point.everyone, point.after) for point in POINTS} == {(a, b) for a in (False, True) for b in (False, True)}
    assert {point.sync for point in POINTS} == {sync for _, sync in rounds.SYNCS} | {"instant"}
    assert {point.role for point in POINTS if point.sync == "instant"} == {"primary", "backup"}


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (durability.sync_does_nothing, "rule 2: .* (forgot|lost block)"),
        (durability.vote_before_it_is_durable, "forgot its vote"),
        (durability.proposal_before_it_is_durable, "forgot its vote"),
        (durability.commit_before_it_is_durable, "forgot its COMMIT"),
        (durability.votes_are_not_synced, "forgot its"),
    ],
)
def test_what_is_not_durable_in_time_is_found_out(monkeypatch, plant, words):
    """agreement.md, durable votes: the test fails when fsync is made a no-op."""
    plant(monkeypatch)
    runs = (simulate(seed, POWER) for seed in range(1, 6))
    found = next(run for run in runs if run.what)
    assert found.verdict is Verdict.SAFETY
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(found.what)


def test_an_acknowledged_update_that_is_not_there_is_found_out(monkeypatch):
    check = Client._check_outcome

    def believes_too_much(self, asked, ran):
        self.acknowledged.append(msgspec.structs.replace(ran.outcome, time=ran.outcome.time + 1))
        check(self, asked, ran)

    monkeypatch.setattr(Client, "_check_outcome", believes_too_much)
    run = simulate(1, POWER)
    assert run.verdict is Verdict.SAFETY
    assert "rule 2: an acknowledged update is there 0 times" in run.what


def test_a_ring_that_does_not_come_back_is_found_out(monkeypatch):
    monkeypatch.setattr(rounds, "POINTS", [Point("backup", "instant", False, True)])
    monkeypatch.setattr(Rounds, "_start_all", lambda self: None)
    run = simulate(1, POWER)
    assert run.verdict is Verdict.LIVENESS
    assert "no update ran in 60 s after a power failure: all, at any instant" in run.what

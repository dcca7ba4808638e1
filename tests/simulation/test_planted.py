"""The simulator finds what it is there for: bugs planted into the protocol, each within a bounded number of seeds."""

import msgspec
import pytest
from click.testing import CliRunner

from bft import execution, membership, ordering, sessions, signing
from bft.answer import Status
from bft.state_tree import Kind, state_key
from cluster.faults.manifest import Lie, dump, parse
from cluster.sim import shrink as shrinking
from cluster.sim.cli import CRASH, LIVENESS, SAFETY, sim
from cluster.sim.disk import Disk
from cluster.sim.drawing import drawn
from cluster.sim.kernel import OutOfTime
from cluster.sim.ring import Scenario, Verdict, simulate
from cluster.sim.shrink import failure, shrink
from cluster.sim.watch import Violation


def quorum_of_2f(monkeypatch):
    monkeypatch.setattr(membership.Membership, "quorum", property(lambda self: 2 * self.faults))


def watermark_ignored(monkeypatch):
    monkeypatch.setattr(ordering.Ordering, "high", property(lambda self: self.stable + 10**6))


def sync_does_nothing(monkeypatch):
    monkeypatch.setattr(Disk, "sync", lambda self: None)


def vote_before_it_is_durable(monkeypatch):
    vote = ordering.Ordering._vote

    def swapped(self, sequence, slot):
        effects = vote(self, sequence, slot)
        return [*effects[1:2], *effects[:1], *effects[2:]]

    monkeypatch.setattr(ordering.Ordering, "_vote", swapped)


def runs_more_than_once(monkeypatch):
    judge = sessions.Sessions.judge

    def forgetful(self, *about):
        verdict = judge(self, *about)
        return Status.EXECUTED if isinstance(verdict, bytes) else verdict

    monkeypatch.setattr(sessions.Sessions, "judge", forgetful)


def answers_reads_too_early(monkeypatch):
    """A server answers a latest read without waiting for what it has sent COMMIT for: with a stale certificate."""
    nothing = property(lambda self: 0, lambda self, sequence: None)
    monkeypatch.setattr(ordering.Ordering, "committing", nothing, raising=False)


def nonces_that_are_not_random(monkeypatch):
    on_random = signing.Signing.on_random

    def repeated(self, data):
        return on_random(self, data[:1] * len(data))

    monkeypatch.setattr(signing.Signing, "on_random", repeated)


def time_as_the_primary_says(monkeypatch):
    monkeypatch.setattr(execution, "max", lambda proposed, before: proposed, raising=False)


def state_that_depends_on_the_server(monkeypatch):
    keep = sessions.Sessions.keep

    def sloppy(self, view, stated, answer):
        keep(self, view, stated, answer)
        view.changes[state_key(Kind.CONFIGURATION, b"%d" % id(self))] = b"x"

    monkeypatch.setattr(sessions.Sessions, "keep", sloppy)


PROVOKED = {runs_more_than_once: "careless-primary"}
"""The liar beside which a bug comes out."""


@pytest.mark.parametrize(
    ("plant", "symptom", "seeds"),
    [
        (quorum_of_2f, "which only", 20),
        (watermark_ignored, "rule 9", 60),
        (sync_does_nothing, "forgot its", 20),
        (vote_before_it_is_durable, "forgot its vote", 150),
        (runs_more_than_once, "rule 3", 60),
        (answers_reads_too_early, "not linearizable", 150),
        (nonces_that_are_not_random, "nonce", 10),
        (time_as_the_primary_says, "goes back", 40),
        (state_that_depends_on_the_server, "rule 1", 40),
    ],
)
def test_a_planted_bug_is_found(monkeypatch, plant, symptom, seeds):
    plant(monkeypatch)
    for seed in range(1, seeds + 1):
        manifest = drawn(seed, 100)
        if plant in PROVOKED:
            manifest = msgspec.structs.replace(manifest, liars=[Lie(kind=PROVOKED[plant], server=0)])
        run = simulate(seed, manifest)
        if run.verdict is not Verdict.OK:
            assert run.verdict is Verdict.SAFETY, run.what
            assert symptom in run.what
            assert run.story
            return
    pytest.fail(f"not found in {seeds} seeds")


def test_a_failure_shrinks_to_a_smaller_run_that_fails_alike(monkeypatch):
    quorum_of_2f(monkeypatch)
    honest = ((seed, msgspec.structs.replace(drawn(seed, 100), liars=[])) for seed in range(1, 20))
    found = next(run for run in (simulate(seed, manifest) for seed, manifest in honest) if run.what)
    steps: list[int] = []
    shrunk = shrink(found, lambda tried, smaller: steps.append(tried), budget_seconds=20)
    smallest = shrunk.run
    assert failure(smallest) == failure(found)
    assert smallest.manifest.sizes.operations < 20
    assert len(dump(smallest.manifest)) < len(dump(found.manifest)) / 2
    assert steps
    again = simulate(smallest.seed, parse(dump(smallest.manifest)))
    assert (again.what, again.trace) == (smallest.what, smallest.trace)


def test_what_is_shrunk_is_printed_as_a_manifest(monkeypatch):
    quorum_of_2f(monkeypatch)
    monkeypatch.setattr(shrinking, "BUDGET_SECONDS", 2.0)
    arguments = ["ring", "--seed", "4", "--operations", "50", "--shrink", "--json"]
    told = CliRunner().invoke(sim, arguments, standalone_mode=False)
    assert told.return_value == SAFETY, told.output
    smallest = msgspec.json.decode(told.stdout)["smallest"]
    assert simulate(smallest["seed"], parse(smallest["manifest"])).what == smallest["what"]


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (lambda self: (_ for _ in ()).throw(Violation("rule 1: planted")), SAFETY),
        (lambda self: (_ for _ in ()).throw(OutOfTime("planted")), LIVENESS),
        (lambda self: 1 // 0, CRASH),
    ],
)
def test_each_way_to_fail_has_its_exit_code(monkeypatch, broken, code):
    monkeypatch.setattr(Scenario, "check", broken)
    result = CliRunner().invoke(sim, ["ring", "--seed", "1", "--operations", "1"], standalone_mode=False)
    assert result.return_value == code, result.output
    assert "Its manifest:" in result.output


def test_a_failure_comes_with_its_story_and_exit_code(monkeypatch):
    quorum_of_2f(monkeypatch)
    arguments = ["ring", "--seeds", "1..2"]
    result = CliRunner().invoke(sim, arguments, standalone_mode=False)
    assert result.return_value == SAFETY
    assert "safety: rule 1" in result.output
    assert "pond sim ring --seed 2 --operations 200 --trace" in result.output
    assert "[sizes]" in result.output
    told = CliRunner().invoke(sim, [*arguments, "--json"], standalone_mode=False)
    failures = msgspec.json.decode(told.stdout)["failures"]
    assert failures[0]["verdict"] == "safety"
    assert failures[0]["story"]

"""The simulator finds what it is there for: bugs planted into the protocol, each within a bounded number of seeds."""

import msgspec
import pytest
from click.testing import CliRunner

from bft import execution, membership, ordering, sessions, signing
from bft.answer import Status
from bft.state_tree import Kind, state_key
from cluster.sim.cli import SAFETY, sim
from cluster.sim.disk import Disk
from cluster.sim.drawing import drawn
from cluster.sim.ring import Verdict, simulate


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


@pytest.mark.parametrize(
    ("plant", "symptom", "seeds"),
    [
        (quorum_of_2f, "which only", 20),
        (watermark_ignored, "rule 9", 20),
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
        run = simulate(seed, drawn(seed, 100))
        if run.verdict is not Verdict.OK:
            assert run.verdict is Verdict.SAFETY, run.what
            assert symptom in run.what
            assert run.story
            return
    pytest.fail(f"not found in {seeds} seeds")


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

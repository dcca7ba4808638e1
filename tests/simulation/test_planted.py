"""What a failure is told as: shrunk, with its story, its manifest and its exit code. `tests/mutants` plants more."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import msgspec
import pytest
from click.testing import CliRunner

from cluster.faults.manifest import dump, parse
from cluster.sim import jobs
from cluster.sim import shrink as shrinking
from cluster.sim.cli import CRASH, LIVENESS, SAFETY, sim
from cluster.sim.drawing import drawn
from cluster.sim.kernel import OutOfTime
from cluster.sim.ring import Scenario, simulate
from cluster.sim.shrink import failure, shrink
from cluster.sim.watch import Violation
from tests.mutants.agreement import quorum_of_2f


def test_a_failure_shrinks_to_a_smaller_run_that_fails_alike(monkeypatch):
    quorum_of_2f(monkeypatch)
    quick = (seed for seed in range(1, 200) if not drawn(seed).liars and drawn(seed).sizes.servers == 4)
    found = next(run for run in (simulate(seed, drawn(seed, 100)) for seed in quick) if run.what)
    steps: list[int] = []
    shrunk = shrink(found, lambda tried, smaller: steps.append(tried), budget_seconds=30)
    smallest = shrunk.run
    assert failure(smallest) == failure(found)
    assert smallest.manifest.sizes.operations < found.manifest.sizes.operations
    assert len(dump(smallest.manifest)) < len(dump(found.manifest))
    assert steps
    again = simulate(smallest.seed, parse(dump(smallest.manifest)))
    assert (again.what, again.trace) == (smallest.what, smallest.trace)


def test_what_is_shrunk_is_printed_as_a_manifest(monkeypatch):
    quorum_of_2f(monkeypatch)
    monkeypatch.setattr(shrinking, "BUDGET_SECONDS", 2.0)
    fails = next(seed for seed in range(1, 60) if simulate(seed, drawn(seed, 50)).what)
    arguments = ["ring", "--seed", str(fails), "--operations", "50", "--shrink", "--json"]
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
    forked = partial(ProcessPoolExecutor, mp_context=multiprocessing.get_context("fork"))
    monkeypatch.setattr(jobs, "ProcessPoolExecutor", forked)  # so that workers have what is planted here
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

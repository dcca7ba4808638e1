"""Simulated rings: they keep their promises, and one seed is one run, on any machine."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster.sim.cli import sim
from cluster.sim.drawing import drawn
from cluster.sim.ring import REAL_KEYS_EVERY, Verdict, simulate

ROOT = Path(__file__).parents[2]

REPLAY = """
from cluster.sim.drawing import drawn
from cluster.sim.ring import simulate
print([(run.trace, run.steps) for run in (simulate(seed, drawn(seed, 40)) for seed in range(98, 102))])
"""


def told(run):
    return f"seed {run.seed}: {run.verdict.value}: {run.what}"


@pytest.mark.parametrize("seed", [*range(1, 25), REAL_KEYS_EVERY])
def test_rings_keep_their_promises(seed):
    run = simulate(seed, drawn(seed, 100))
    assert run.verdict is Verdict.OK, told(run)
    assert run.operations == 100
    assert run.batches


@pytest.mark.slow
def test_150_rings_with_200_operations_each_keep_their_promises():
    runs = [simulate(seed, drawn(seed, 200)) for seed in range(1001, 1151)]
    assert [told(run) for run in runs if run.verdict is not Verdict.OK] == []
    assert sum(run.operations for run in runs) == 150 * 200
    # A fault that is never on would make all of this easy.
    assert sum(run.crashes for run in runs) > 300
    assert sum(run.lost for run in runs) > 5000
    assert sum(run.duplicated for run in runs) > 5000
    assert sum(run.checked for run in runs) > 150 * 100


def test_one_seed_is_one_run_whatever_the_process_is_like():
    settings = [
        {"PYTHONHASHSEED": "1", "TZ": "UTC", "LC_ALL": "C"},
        {"PYTHONHASHSEED": "2", "TZ": "Asia/Kathmandu", "LC_ALL": "C.UTF-8", "PYTHONASYNCIODEBUG": "1"},
    ]
    traces = [
        ast.literal_eval(
            subprocess.run(
                [sys.executable, "-c", REPLAY],
                env=os.environ | setting,
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for setting in settings
    ]
    assert traces[0] == traces[1]
    assert len({trace for trace, _ in traces[0]}) == 4


def test_showing_a_run_does_not_change_it_and_shows_no_nonce():
    lines: list[str] = []
    shown = simulate(5, drawn(5, 40), lines.append)
    assert shown.trace == simulate(5, drawn(5, 40)).trace
    nonces = [line for line in lines if "Nonces" in line]
    assert nonces
    assert max(map(len, nonces)) < 80


def invoke(*arguments):
    return CliRunner().invoke(sim, ["ring", *arguments], standalone_mode=False)


def test_the_command_says_first_how_to_replay_it():
    result = invoke("--seeds", "1..3", "--operations", "20", "--jobs", "2")
    assert result.return_value == 0, result.output
    assert result.output.splitlines()[0] == "Replay: pond sim ring --seeds 1..3 --operations 20"
    assert "3 of 3 runs as promised: 60 operations" in result.output


def test_jobs_change_nothing():
    one, two = (invoke("--seeds", "1..10", "--operations", "10", "--jobs", jobs).output for jobs in "12")
    assert one.split("Trace")[1] == two.split("Trace")[1]


def test_what_makes_no_sense_is_refused():
    for arguments in (["--seeds", "3..1"], ["--seeds", "x"], ["--seed", "1", "--seeds", "1..2"], ["--trace", "--json"]):
        assert invoke(*arguments).exception is not None, arguments

"""Simulated churn from end to end: small runs, what events do, the same seed twice, and the command."""

import json
import os
import subprocess
import sys

import click.testing
import pytest

from cluster.sim.churn.overlay import named
from cluster.sim.churn.run import Plan, simulate
from cluster.sim.churn.world import World
from cluster.sim.cli import sim
from pond.errors import UsageError
from tapestry.effects import Send
from tapestry.messages import Alive, Contact

SMALL = Plan("chord", 40, 360.0, 30.0, 1)
KEYS = {
    "joined",
    "completed",
    "consistent",
    "mean_s",
    "p95_s",
    "bytes_per_node_s",
    "messages",
    "mean_hops",
    "per_second",
}


def command(*arguments):
    return click.testing.CliRunner().invoke(sim, ["churn", *arguments])


@pytest.mark.parametrize("overlay", ["tapestry", "chord"])
def test_a_small_calm_run_answers_everything_alike(overlay):
    run = simulate(SMALL._replace(overlay=overlay, nodes=30, median_session_seconds=None, quiet_seconds=10.0))
    assert run.figures.completed == run.figures.consistent == 1.0
    assert run.agreement is not None
    assert run.agreement.complete
    assert run.agreement.asked == 30 * run.agreement.keys
    assert run.started == 0
    assert 0.05 < (run.figures.mean_seconds or 0.0) < 1.0
    assert sum(size for _, size in run.sent.values()) == pytest.approx(30 * 30 * run.bytes_per_node_second)


@pytest.mark.parametrize("overlay", ["tapestry", "chord"])
def test_nodes_that_come_and_go_are_replaced_and_join(overlay):
    run = simulate(SMALL._replace(overlay=overlay, median_session_seconds=84.0, seconds=60.0))
    assert 5 <= run.started <= 25
    assert run.joined is not None
    assert run.joined > 0.8
    assert run.figures.completed is not None
    assert run.figures.completed > 0.95
    assert run.node_seconds == pytest.approx(40 * 60)


def test_the_same_seed_is_the_same_run_and_another_is_another():
    again = simulate(SMALL)
    assert again.trace == simulate(SMALL).trace
    assert again.trace != simulate(SMALL._replace(seed=2)).trace


@pytest.mark.parametrize("overlay", ["tapestry", "chord"])
def test_neither_hash_seed_nor_surroundings_change_a_run(overlay):
    program = (
        "from cluster.sim.churn.run import Plan, simulate\n"
        f"print(simulate(Plan({overlay!r}, 20, 84.0, 10.0, 3, kill=0.2)).trace)"
    )
    surroundings = (
        {"PYTHONHASHSEED": "1", "TZ": "UTC", "LC_ALL": "C"},
        {"PYTHONHASHSEED": "2", "TZ": "Asia/Kathmandu", "LC_ALL": "C.UTF-8"},
    )
    traces = {
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, **each}, capture_output=True, text=True, check=True
        ).stdout
        for each in surroundings
    }
    assert len(traces) == 1
    assert len(traces.pop().strip()) == 64


def test_a_share_that_dies_at_once_is_gone_and_success_comes_back():
    run = simulate(SMALL._replace(median_session_seconds=None, seconds=40.0, kill=0.25))
    assert run.killed is not None
    assert (run.killed.second, run.killed.nodes, run.killed.before) == (10.0, 10, 1.0)
    assert run.killed.worst_second is not None
    assert run.killed.after is not None
    assert run.killed.worst_second <= run.killed.after
    assert run.node_seconds == pytest.approx(40 * 10 + 30 * 30)


def test_halves_that_are_parted_are_asked_from_the_moment_they_may_meet_again():
    plan = Plan("tapestry", 20, None, 60.0, 1, partition_seconds=10.0, quiet_seconds=5.0)
    run = simulate(plan)
    assert run.parted is not None
    assert run.dropped["partition"] > 0
    assert run.parted.samples[0][0] == 0.0
    assert [agreement.one_root for _, agreement in run.parted.samples].count(10) >= 3
    assert run.parted.one_root_seconds is not None
    assert run.parted.one_root_seconds < 30
    assert run.agreement is not None
    assert run.agreement.complete


def test_loss_is_borne():
    run = simulate(SMALL._replace(median_session_seconds=None, loss=0.02))
    assert run.dropped["loss"] > 0
    assert run.figures.completed is not None
    assert run.figures.completed > 0.9


def test_what_no_node_may_ask_for_stops_the_run():
    class Odd:
        def step(self, event):
            return [None]

    world = World(named("chord")._replace(make=lambda contact, choices: Odd()), 1)
    with pytest.raises(AssertionError, match="node 0 asked for None"):
        world.start()


def test_a_message_that_does_not_come_back_from_its_bytes_stops_the_run():
    class Talker:
        def __init__(self, contact, choices):
            self.contact = contact

        def step(self, event):
            return [Send(Contact(self.contact.guid, "x"), Alive(1))] * 64

    overlay = named("chord")._replace(make=Talker, encode=lambda message: b"odd", decode=lambda data: Alive(2))
    with pytest.raises(AssertionError, match="comes out as"):
        World(overlay, 1).start()


# --- the command -------------------------------------------------------------------------------------------------


def test_the_command_says_how_to_replay_it_and_answers_in_json():
    done = command("--nodes", "40", "--minutes", "0.5", "--overlay", "chord", "--seed", "1", "--json")
    assert done.exit_code == 0
    assert done.stderr.startswith("Replay: pond sim churn --nodes 40 --median-session 6m --minutes 0.5 --overlay chord")
    answer = json.loads(done.stdout)
    assert answer.keys() >= KEYS
    assert answer["trace"] == simulate(SMALL).trace
    assert answer["completed"] > 0.99


def test_the_command_answers_in_words_and_draws(tmp_path):
    file = tmp_path / "killed.svg"
    done = command(
        *"--nodes 20 --minutes 0.4 --overlay chord --seed 1 --kill 0.2 --median-session never --quiet 20s".split(),
        "--plot",
        str(file),
    )
    assert done.exit_code == 0
    assert "4 nodes died at once" in done.stdout
    assert "20 have one root, 20 the right one" in done.stdout
    assert "<svg" in file.read_text()


def test_latency_is_drawn_where_nothing_happened(tmp_path):
    file = tmp_path / "latency.svg"
    done = command(*"--nodes 10 --minutes 0.5 --overlay chord --seed 1".split(), "--plot", str(file))
    assert done.exit_code == 0
    assert "<svg" in file.read_text()


def test_nodes_that_do_not_agree_are_an_exit_code():
    arguments = "--nodes 30 --minutes 2 --overlay chord --seed 1 --partition 30s --median-session never".split()
    done = click.testing.CliRunner().invoke(sim, ["churn", *arguments], standalone_mode=False)
    assert "Two halves for 30s, 30 s into it: one root for each key never again." in done.stdout
    assert done.return_value == 11


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--median-session", "3x"], "write it like 90s, 1.4m or 2h"),
        (["--partition", "never"], "'never' is no duration"),
        (["--partition", "0s"], "out of range"),
        (["--partition", "60s", "--minutes", "1"], "--minutes has to be 1.8 or more"),
        (["--settle", "59s"], "--settle: nodes need a minute at least"),
        (["--kill", "1.5"], "--kill"),
        (["--overlay", "chord", "--recovery", "reactive"], "--recovery is of tapestry"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_runs(arguments, what):
    done = command(*arguments)
    assert done.exit_code == 2
    assert what in done.stderr
    assert "Replay" not in done.stderr


def test_a_plot_that_cannot_be_drawn_is_refused_before_anything_runs():
    done = command("--plot", "churn.txt")
    assert isinstance(done.exception, UsageError)

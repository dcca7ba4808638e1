"""`pond bench overlay` on a handful of nodes: what is kept, what is used again, what is shown and drawn."""

import json
import signal
import subprocess
import sys

import click.testing
import msgspec
import pytest

from cluster.answers import OverlayMeasured
from cluster.bench import overlay, overlay_runs
from cluster.bench.cli import bench
from cluster.bench.overlay_floor import perfect_stretch
from cluster.sim.churn.report import percent
from cluster.sim.churn.run import Plan

CHORD = Plan("chord", 10, 84.0, 10.0)
PLANS = (CHORD, CHORD._replace(nodes=12), CHORD._replace(median_session_seconds=None, kill=0.2))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A directory with the results of PLANS, what was measured, and what was said meanwhile."""
    said: list[str] = []
    directory = tmp_path_factory.mktemp("overlay")
    return directory, overlay.overlay(directory, 2, PLANS, said.append), said


def test_each_run_is_the_one_that_the_simulation_alone_gives(kept):
    directory, measured, said = kept
    assert [result.replay for result in measured.results] == [plan.replay() for plan in PLANS]
    assert len({result.trace for result in measured.results}) == 3
    assert said[0].startswith("3 of 3 runs are left: ")
    assert said[-1].startswith("3 of 3 runs are over after ")
    files = {f"{overlay_runs.name(plan)}.json" for plan in PLANS}
    assert {file.name for file in directory.iterdir() if file.suffix == ".json"} == files
    sent = measured.results[2].per_second
    assert sum(row.bytes for row in sent) == pytest.approx(sum(row.bytes for row in measured.results[2].messages), 0.01)


def test_what_is_there_is_not_run_again(kept):
    directory, measured, _ = kept
    said: list[str] = []
    again = overlay.overlay(directory, 2, PLANS, said.append)
    assert again.results == measured.results
    assert said == [f"{overlay_runs.name(plan)}.json is there already" for plan in PLANS]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda found: found | {"code": "0" * 16}, "is of other code"),
        (lambda found: found | {"answer": found["answer"] | {"replay": "pond sim churn"}}, "is of another plan"),
        (lambda found: found | {"answer": {}}, "is not read by this version"),
    ],
)
def test_what_is_of_other_code_or_of_another_plan_is_run_again(kept, change, why, tmp_path):
    directory, measured, _ = kept
    name = f"{overlay_runs.name(CHORD)}.json"
    (tmp_path / name).write_bytes(msgspec.json.encode(change(json.loads((directory / name).read_bytes()))))
    said: list[str] = []
    [result] = overlay.overlay(tmp_path, 1, PLANS[:1], said.append).results
    assert result.trace == measured.results[0].trace
    assert said[0] == f"{name} {why}: it is run again"
    assert said[1].startswith("1 of 1 runs are left: ")


def test_what_was_killed_half_way_goes_on_where_it_was(tmp_path):
    program = (
        "import sys\nfrom pathlib import Path\nfrom cluster.bench import overlay\n"
        "from cluster.sim.churn.run import Plan\n"
        f"plans = {CHORD!r}, {CHORD._replace(nodes=300, seconds=3600.0)!r}\n"
        f"overlay.overlay(Path({str(tmp_path)!r}), 2, plans, lambda line: print(line, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert next(line for line in process.stdout if line.startswith("1 of 2 runs are over"))
        process.send_signal(signal.SIGKILL)
    said: list[str] = []
    shorter = CHORD._replace(nodes=11)
    measured = overlay.overlay(tmp_path, 2, (CHORD, shorter), said.append)
    assert [result.nodes for result in measured.results] == [10, 11]
    assert said[0] == f"{overlay_runs.name(CHORD)}.json is there already"
    assert said[1].startswith("1 of 2 runs are left: ")


def test_tables_show_targets_and_what_was_published_beside_what_was_measured(kept):
    _, measured, _ = kept
    [small, large, killed] = measured.results
    thousand = [msgspec.structs.replace(small, nodes=1000), msgspec.structs.replace(large, nodes=10_000), killed]
    text = overlay.in_words(msgspec.structs.replace(measured, results=thousand))
    rows = [line.split() for line in text.splitlines()]
    assert [row[3] for row in rows if row[:2] == ["1000", "1.4m"]] == ["Chord", "target", "Bamboo"]
    assert f"{large.bytes_per_node_s / small.bytes_per_node_s:.2f} times the bytes of 1000 (target 1.35)" in text
    assert f"the nearest of 12 nodes: {measured.floor['12']:.2f}" in text
    assert killed.killed is not None
    after = next(row for row in rows if row[:2] == ["Chord", f"{killed.killed.nodes}"])
    assert after[2:5] == ["-", *percent(killed.killed.worst_second).split()]
    assert next(row for row in rows if row[:1] == ["target"])[3:] == ["95.00", "%", "99.90", "%"]


def test_the_command_answers_in_json_and_draws_what_there_is(kept, tmp_path, monkeypatch):
    _, measured, _ = kept
    tapestry = [
        msgspec.structs.replace(measured.results[0], overlay="tapestry", recovery=recovery)
        for recovery in ("periodic", "reactive")
    ]
    found = msgspec.structs.replace(measured, results=[*measured.results, *tapestry])
    monkeypatch.setattr(overlay, "overlay", lambda where, jobs, say: found if (where, jobs) == (tmp_path, 3) else None)
    done = click.testing.CliRunner().invoke(bench, ["overlay", "--directory", str(tmp_path), "--jobs", "3", "--json"])
    assert done.exit_code == 0
    assert [row["of"] for row in json.loads(done.stdout)["beside"]].count("target") == 3
    names = {f"overlay-{each}.png" for each in ("sessions", "recovery", "killed")}
    assert {file.name for file in tmp_path.iterdir()} == names
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in tmp_path.iterdir())


def test_the_command_draws_nothing_without_matplotlib_and_says_so_before_it_runs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    nothing = OverlayMeasured(code="", seconds=0.0, floor={}, results=[], beside=[])
    monkeypatch.setattr(overlay, "overlay", lambda where, jobs, say: say("running") or nothing)
    done = click.testing.CliRunner().invoke(bench, ["overlay", "--directory", str(tmp_path)])
    assert done.exit_code == 0
    assert done.stderr.startswith("no pictures: ")
    assert done.stderr.endswith("running\n")
    assert list(tmp_path.iterdir()) == []


def test_a_bench_of_all_plans_has_each_once_and_the_same_sessions_for_all_that_are_compared():
    names = [overlay_runs.name(plan) for plan in overlay.PLANS]
    assert len(set(names)) == len(names)
    compared = [plan for plan in overlay.PLANS if (plan.nodes, plan.seed, plan.kill) == (1000, 1, None)]
    of = {kind: [plan for plan in compared if overlay_runs.kind(plan) == kind] for kind in overlay_runs.EVENTS}
    alike = {tuple((plan.median_session_seconds, plan.seconds) for plan in plans) for plans in of.values()}
    assert len(alike) == 1
    assert [session for session, _ in alike.pop()] == list(overlay.SESSIONS)


def test_the_floor_of_stretch_is_one_packet_where_all_are_leaves_and_grows_with_hops():
    assert 1.0 < perfect_stretch(10) < 1.06
    assert 1.2 < perfect_stretch(100) < perfect_stretch(1000) < 1.8

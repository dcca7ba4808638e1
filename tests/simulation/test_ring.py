"""Simulated rings: they keep their promises, and one seed is one run, on any machine."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from cluster.sim import cli, coverage, report, spacetime, words
from cluster.sim.cli import sim
from cluster.sim.drawing import drawn
from cluster.sim.jobs import Plan, runs
from cluster.sim.ring import REAL_KEYS_EVERY, Verdict, simulate
from tests.mutants.agreement import quorum_of_2f

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
def test_rings_with_200_operations_each_keep_their_promises(full):
    """A hundred of them with `--full`."""
    rings = 100 if full else 30
    runs = [simulate(seed, drawn(seed, 200)) for seed in range(1001, 1001 + rings)]
    assert [told(run) for run in runs if run.verdict is not Verdict.OK] == []
    assert sum(run.operations for run in runs) == rings * 200
    # A fault that is never on would make all of this easy.
    assert sum(run.crashes for run in runs) > 2 * rings
    assert sum(run.lost for run in runs) > 35 * rings
    assert sum(run.duplicated for run in runs) > 35 * rings
    assert sum(run.checked for run in runs) > rings * 100


def seeds_of_this_commit(count):
    """Seeds that nobody has tried before, by the commit's own hash."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    first = int(commit[:8] or "0", 16) * 100
    return range(first, first + count)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_seeds_that_each_commit_draws_for_itself_keep_their_promises(part, full):
    """A hundred with `--full`."""
    seeds = seeds_of_this_commit(100 if full else 40)[part::4]
    failed = [told(run) for run in runs(Plan(200), seeds, 1) if run.verdict is not Verdict.OK]
    assert failed == []


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
    shown = simulate(5, drawn(5, 40), words.shown(lines.append))
    assert shown.trace == simulate(5, drawn(5, 40)).trace
    nonces = [line for line in lines if "Nonces" in line]
    assert nonces
    assert max(map(len, nonces)) < 90


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


def test_failures_beyond_those_that_are_told_are_counted(monkeypatch):
    quorum_of_2f(monkeypatch)
    monkeypatch.setattr(report, "FAILURES", 1)
    sums = report.Sums(Plan(60), range(1, 21))
    failed = []
    for seed in range(1, 21):
        run = simulate(seed, drawn(seed, 60))
        failed += [seed] * bool(run.what)
        sums.add(run)
    answer = sums.answer(1.0, None)
    assert len(failed) > 1
    assert (answer.failed, [failure.seed for failure in answer.failures]) == (len(failed), failed[:1])
    assert f"{20 - len(failed)} of 20 runs as promised" in report.in_words(answer)


def test_what_makes_no_sense_is_refused():
    for arguments in (
        ["--seeds", "3..1"],
        ["--seeds", "x"],
        ["--seed", "1", "--seeds", "1..2"],
        ["--trace", "--json"],
        ["--seeds", "1..2", "--shrink"],
        ["--seeds", "1..2", "--svg", "x.svg"],
        ["--from", "1"],
        ["--svg", "x.svg", "--from", "5", "--to", "2"],
        ["--svg", "x.svg", "--from", "1", "--to", "1"],
        ["--operations", "1", "--manifest", "x.toml"],
        ["--svg", "no/such/directory/x.svg", "--seed", "1", "--operations", "1"],
    ):
        assert invoke(*arguments).exception is not None, arguments


def test_a_trace_is_in_columns():
    lines = invoke("--seed", "5", "--operations", "40", "--trace").output.splitlines()
    place = lines.index(words.HEADER)
    told = lines[place + 1 : -4]
    assert all(line[11:13] == "  " and line[:11].strip().replace(".", "").isdecimal() for line in told)
    prepare = next(line for line in told if " Prepare " in line)
    where = words.HEADER.index("view number")
    assert prepare[where:].split()[:2] == ["v0", "n1"]
    assert prepare[words.HEADER.index("what") :].startswith("Prepare")


def test_the_picture_is_well_formed_and_has_what_happened(tmp_path):
    file = tmp_path / "run.svg"
    storm = str(ROOT / "docs" / "manifests" / "storm.toml")
    done = invoke("--seed", "3", "--manifest", storm, "--svg", str(file))
    assert done.return_value == 0
    said = re.search(
        r"^Drawn in (.*): the last (\d+) of (\d+) messages, from .*; --from and", done.output, re.MULTILINE
    )
    assert said
    assert said[1] == str(file)
    assert spacetime.MOST_MESSAGES <= int(said[2]) < spacetime.MOST_MESSAGES + 10, "with those of the same moment"
    assert spacetime.MOST_MESSAGES == cli.MESSAGES_DRAWN < int(said[3])
    whole = ElementTree.parse(file).getroot()
    titles = [title.text or "" for title in whole.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) > 200
    assert any("Commit v" in title for title in titles)
    invoke("--seed", "3", "--manifest", storm, "--svg", str(file), "--from", "1.2", "--to", "2.2")
    texts = [text.text or "" for text in ElementTree.parse(file).getroot().iter("{http://www.w3.org/2000/svg}text")]
    assert {"s0", "s3", "clients", "✖"} <= set(texts)
    shown = [float(text[:-2]) for text in texts if text.endswith(" s") and text[0].isdecimal()]
    assert shown
    assert 1.2 <= min(shown) < max(shown) <= 2.2
    before = file.read_bytes()
    after_its_end = invoke("--seed", "3", "--manifest", storm, "--svg", str(file), "--from", "5000")
    assert "so there is nothing to draw" in str(after_its_end.exception)
    assert file.read_bytes() == before


def test_a_manifest_that_is_not_there_is_refused_in_words(tmp_path):
    (tmp_path / "no.text").write_bytes(b"\xff")
    for path, said in (("gone.toml", "there is no such file"), (".", "Is a directory"), ("no.text", "it is no text")):
        refused = str(invoke("--seed", "1", "--manifest", str(tmp_path / path)).exception)
        assert said in refused, refused
        assert "Errno" not in refused


def test_coverage_counts_what_was_reached_and_names_the_holes():
    runs = [simulate(seed, drawn(seed, 60)) for seed in range(1, 5)]
    tally = coverage.Tally()
    for run in runs:
        tally.add(run.reached)
    rows = {(row.kind, row.name): row for row in tally.table()}
    assert rows["message", "Prepare"].runs == 4
    assert rows["message", "Prepare"].times > 4
    assert rows["point", "executed"].times >= sum(run.batches for run in runs)
    assert rows["event", "start"].times >= 16
    assert rows["refusal", "a message in our own name"].times == 0
    assert rows["refusal", "prepared two batches at one number"].times == 0
    assert {kind for kind, _ in rows} == {"message", "client message", "refusal", "point", "event", "lie"}
    table = "\n".join(coverage.in_words(rows.values()))
    assert re.search(r"never: .*a message in our own name", " ".join(table.split()))
    assert re.search(r"Prepare +\d+ +4\n", table)


def test_refusals_are_counted_under_the_text_that_the_code_has():
    assert coverage._refusal("proposal: request for another ring") == "proposal: …"
    assert coverage._refusal("our state after batch 17 is not the one the ring signed").startswith("our state after")
    assert coverage._refusal("something else at 123: and more") == "something else at 123"
    assert coverage._refusals_in("NEW-VIEW: VIEW-CHANGE of nobody") == ("NEW-VIEW: …", "VIEW-CHANGE of nobody")

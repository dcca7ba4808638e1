"""A ring that is split in two for 30 virtual seconds while clients write, and what it does once it has healed.

`pond sim ring --seeds 1..20 --manifest docs/manifests/split.toml` prints the same figures, and so does `cut-off.toml`.
A batch counts as under way at the cut when it runs within 0.1 s of it: what was sent before still arrives.
"""

from pathlib import Path

import msgspec
import pytest

from bft.types import Sequence
from cluster.faults.manifest import load
from cluster.sim.ring import Verdict, simulate
from cluster.sim.split import Split, figures
from cluster.sim.watch import FirstRun

MANIFESTS = Path(__file__).parents[2] / "docs" / "manifests"
HALVES = load(MANIFESTS / "split.toml")
ALONE = load(MANIFESTS / "cut-off.toml")

PROGRESS_SECONDS = 2.0
"""Within so long after healing the first update commits."""

FAILOVER_SECONDS = 1.5
"""How long clients may go without a commit when the primary is cut off."""

IN_STEP_SECONDS = 5.0
"""Within so long after healing, all servers have run what any had run."""

WAYS = [(0, 1), (0, 2), (0, 3)]
"""The half with the primary of view 0, in each way to make halves of four."""


def split(manifest, seed, servers, clients=None):
    """What the split of one run came to. The run's own verdict: every update once, no safety rule broken, histories
    linearizable, every operation done, all servers in one state at the end."""
    parted = msgspec.structs.replace(manifest.network.split, servers=servers, clients=clients)
    network = msgspec.structs.replace(manifest.network, split=parted)
    run = simulate(seed, msgspec.structs.replace(manifest, network=network))
    assert run.verdict is Verdict.OK, f"seed {seed}: {run.what}"
    assert run.operations == manifest.sizes.operations
    assert run.split is not None
    print(f"seed {seed}, {servers} cut off, clients reach {clients or 'all'}: {run.split}")
    return run.split


def check_halves(seed, servers, clients):
    came = split(HALVES, seed, servers, clients)
    assert came.commits == 0
    assert came.longest_gap_seconds > 29.8
    assert came.progress_seconds is not None
    assert came.progress_seconds <= PROGRESS_SECONDS
    assert came.in_step_seconds is not None
    assert came.in_step_seconds <= IN_STEP_SECONDS


def check_one_cut_off(seed, alone, clients):
    came = split(ALONE, seed, (alone,), clients)
    assert came.commits > 150
    assert came.longest_gap_seconds <= FAILOVER_SECONDS
    assert came.progress_seconds is not None, "clients wrote all the time"
    assert came.in_step_seconds is not None
    assert came.in_step_seconds <= IN_STEP_SECONDS


def sides(servers):
    """Clients reach all servers, the half with the primary, or the other one."""
    return [None, servers, tuple(sorted({0, 1, 2, 3} - set(servers)))]


@pytest.mark.parametrize("servers", WAYS)
@pytest.mark.parametrize("reach", range(3))
def test_halves_commit_nothing_and_go_on_within_two_seconds(servers, reach):
    check_halves(1 + reach, servers, sides(servers)[reach])


@pytest.mark.slow
@pytest.mark.parametrize("reach", range(3))
def test_halves_at_several_moments(reach, full):
    """At ten with `--full`; at one for each way to make halves otherwise."""
    for seed in range(11, 21 if full else 14):
        servers = WAYS[seed % 3]
        check_halves(seed, servers, sides(servers)[reach])


@pytest.mark.parametrize("alone", [0, 2])
def test_three_go_on_without_the_one_that_is_cut_off(alone):
    check_one_cut_off(1, alone, None)


@pytest.mark.slow
@pytest.mark.parametrize("alone", [0, 1, 2, 3])
def test_three_go_on_whoever_is_cut_off_and_whomever_clients_reach(alone, full):
    for seed in range(11, 14 if full else 13):
        check_one_cut_off(seed, alone, sides((alone,))[0 if seed % 2 else 2])


def test_clients_that_reach_only_the_one_that_is_cut_off_wait_until_it_heals():
    came = split(ALONE, 5, (3,), (3,))
    assert came.longest_gap_seconds > 29.8
    assert came.commits >= 25, "the others order empty batches"
    assert came.progress_seconds is not None
    assert came.progress_seconds <= PROGRESS_SECONDS


def test_the_figures_of_a_split():
    batches = [(0.5, 1), (1.05, 2), (1.5, 0), (2.0, 1), (4.0, 0), (4.5, 3)]
    commits = [FirstRun(when, Sequence(number), updates) for number, (when, updates) in enumerate(batches, 1)]
    assert figures(commits, 1.0, 3.0, 3.25) == Split(1, 2, 2.5, 1.5, 0.25)
    assert figures(commits[:1], 1.0, 3.0, None) == Split(0, 0, 2.5, None, None)
    assert figures([], 1.0, 3.0, None) == Split(0, 0, 2.0, None, None)

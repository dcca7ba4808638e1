"""Real servers killed and paused under eight writers: nothing that was acknowledged is lost, and service resumes.

SIGKILL leaves the kernel's page cache: what a loss of power does to a disk is tested in the simulator.
"""

import random
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest

from bft.suspicion import Reason
from cluster import launch
from cluster.check import standing
from cluster.check.workload import Judged, Workload
from cluster.layout import Layout

pytestmark = pytest.mark.process

WRITERS = 8
NAMES = ("ring-0", "ring-1", "ring-2", "ring-3")

RESUMES_SECONDS = 20.0
"""A deadline for whatever must happen by itself, on machines with much else to do; figures are the benchmark's."""


@pytest.fixture
def layout(tmp_path):
    """A running cluster of four, of this test alone."""
    layout, _ = launch.up(tmp_path / "cluster")
    yield layout
    launch.down(layout.directory, delete=True)


def under_load(layout: Layout, name: str, hurt: Callable[[Workload], None]) -> Judged:
    """Hurt the cluster under writers; afterwards all servers are in step. Returns what became of all updates."""
    with Workload(layout.directory, name, WRITERS) as load:
        hurt(load)
        load.wait_for_commits(WRITERS, RESUMES_SECONDS)
        standing.wait_until_in_step(layout, NAMES, RESUMES_SECONDS)
        load.stop()
    judged = load.judge()
    assert judged.unknown == 0, judged
    return judged


def kill(directory: Path, names: tuple[str, ...]) -> float:
    """Returns the moment before."""
    moment = monotonic()
    launch.kill(directory, names)
    return moment


def test_rounds_of_kills_lose_nothing(layout, full):
    """Fifty of them with `--full`. However few, one server is killed in some, two in others, and all."""
    rounds, draw = (50, random.Random(50)) if full else (6, random.Random(12))

    def hurt(load: Workload) -> None:
        for _ in range(rounds):
            victims = tuple(draw.sample(NAMES, draw.choice((1, 1, 1, 1, 2, 2, 4))))
            kill(layout.directory, victims)
            load.go_on(draw.random() / 2)
            launch.restart(layout.directory, victims)
            load.wait_for_commits(WRITERS, RESUMES_SECONDS)

    judged = under_load(layout, "rounds of kills", hurt)
    assert judged.faultless, judged


def test_a_killed_primary_is_replaced_while_it_is_down(layout, full):
    def hurt(load: Workload) -> None:
        for _ in range(3 if full else 2):
            leads = standing.leader(layout)
            killed = kill(layout.directory, (leads.name,))
            assert load.wait_for_commit_after(killed, 10.0) - killed < 10.0
            assert standing.leader(layout) != leads
            launch.restart(layout.directory, (leads.name,))
            standing.wait_until_in_step(layout, NAMES, RESUMES_SECONDS)

    judged = under_load(layout, "replaced", hurt)
    assert judged.faultless, judged
    logs = "".join(server.log.read_text() for server in layout.servers)
    assert Reason.UNREACHABLE.value in logs, "no server missed its link to the primary before it missed batches"


def test_whoever_leads_is_killed_every_three_seconds(layout, full):
    def hurt(load: Workload) -> None:
        began = monotonic()
        while monotonic() < began + (12 if full else 6):
            round_began = monotonic()
            leads = standing.leader(layout)
            kill(layout.directory, (leads.name,))
            launch.restart(layout.directory, (leads.name,))
            load.go_on(max(0.0, round_began + 3 - monotonic()))
        gap_began, gap_ended = load.longest_gap(began, monotonic())
        assert gap_ended - gap_began < 6.0

    judged = under_load(layout, "every three seconds", hurt)
    assert judged.faultless, judged


def test_a_paused_backup_disturbs_nobody_and_is_in_step_soon_after(layout, full):
    def hurt(load: Workload) -> None:
        leads, before = standing.leader(layout), standing.view(layout)
        backup = next(name for name in NAMES if name != leads.name)
        launch.pause(layout.directory, (backup,))
        began = monotonic()
        load.go_on(5 if full else 3)
        gap_began, gap_ended = load.longest_gap(began, monotonic())
        assert gap_ended - gap_began < 2.0
        launch.resume(layout.directory, (backup,))
        standing.wait_until_in_step(layout, (backup,), RESUMES_SECONDS)
        assert standing.view(layout) == before

    judged = under_load(layout, "paused", hurt)
    assert judged.faultless, judged


def test_a_paused_primary_is_replaced_and_in_step_soon_after(layout):
    def hurt(load: Workload) -> None:
        leads = standing.leader(layout)
        launch.pause(layout.directory, (leads.name,))
        load.wait_for_commit_after(monotonic(), 10.0)
        load.go_on(3)
        launch.resume(layout.directory, (leads.name,))
        standing.wait_until_in_step(layout, (leads.name,), RESUMES_SECONDS)
        assert standing.leader(layout) != leads

    judged = under_load(layout, "paused primary", hurt)
    assert judged.faultless, judged


def test_all_killed_at_once_serve_again(layout, full):
    def hurt(load: Workload) -> None:
        for _ in range(3 if full else 2):
            launch.kill(layout.directory, NAMES)
            restarted = monotonic()
            launch.restart(layout.directory, NAMES)
            load.wait_for_commit_after(restarted, RESUMES_SECONDS)

    judged = under_load(layout, "all at once", hurt)
    assert judged.faultless, judged


@pytest.mark.parametrize("payload_bytes", [0, 2_000_000])
def test_load_alone_changes_no_view(layout, payload_bytes, full):
    with Workload(layout.directory, "pure load", WRITERS, payload_bytes) as load:
        load.go_on(5 if full else 2)
        load.stop()
    assert standing.view(layout) == 0
    judged = load.judge()
    assert judged.faultless, judged

"""`pond bench recovery`: how long real servers take to go on after kills and pauses, under writers that never stop.

Each scenario has a ring of four and all defaults, of its own. A time from a fault to the next commit ends with the
first update acknowledged that had begun after the fault: what was under way may still be finished by those who had it.
Afterwards everything is read back and judged (cluster.check.workload).
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from cluster import launch
from cluster.answers import Floor, Recovered, Recovery
from cluster.bench import floor
from cluster.check import standing
from cluster.check.history import Ok
from cluster.check.workload import TOKEN_BYTES, Workload
from cluster.layout import Layout
from pond.cli.answers import table

STORM_SECONDS = 120.0
PAUSE_SECONDS = 30.0
QUIET_SECONDS = 60.0
KILL_EVERY_SECONDS = 3.0

DEADLINE_SECONDS = 60.0
"""For what should take a second or two; whoever does not make it has failed."""

SETTLE_SECONDS = 1.0
"""Between two faults, with all servers in step."""

Hurt = Callable[[Layout, Workload, float], list[float]]
"""Hurts a ring under load, for as long as it is told at most where that is a choice; returns the seconds measured."""


class Scenario(NamedTuple):
    """One row: what it measures, beside its targets in seconds."""

    name: str
    title: str
    writers: int
    hurt: Hurt
    target: float | None = None
    stretch: float | None = None


def _kill_primary(layout: Layout, load: Workload, seconds: float) -> list[float]:
    """From the kill to the next commit, while the primary stays down."""
    taken = []
    for _ in range(10):
        leads = standing.leader(layout).name
        killed = monotonic()
        launch.kill(layout.directory, (leads,))
        taken.append(load.wait_for_commit_after(killed, DEADLINE_SECONDS) - killed)
        launch.restart(layout.directory, (leads,))
        standing.wait_until_in_step(layout, _names(layout), DEADLINE_SECONDS)
        load.go_on(SETTLE_SECONDS)
    return taken


def _kill_all(layout: Layout, load: Workload, seconds: float) -> list[float]:
    """From the start of the first server to the next commit."""
    taken = []
    for _ in range(5):
        launch.kill(layout.directory, _names(layout))
        started = monotonic()
        launch.restart(layout.directory, _names(layout))
        taken.append(load.wait_for_commit_after(started, DEADLINE_SECONDS) - started)
        standing.wait_until_in_step(layout, _names(layout), DEADLINE_SECONDS)
        load.go_on(SETTLE_SECONDS)
    return taken


def _pause_backup(layout: Layout, load: Workload, seconds: float) -> list[float]:
    """From its resumption until it is in step."""
    taken = []
    for turn in range(3):
        leads = standing.leader(layout).name
        backup = [name for name in _names(layout) if name != leads][turn]
        launch.pause(layout.directory, (backup,))
        load.go_on(min(seconds, PAUSE_SECONDS))
        launch.resume(layout.directory, (backup,))
        taken.append(standing.wait_until_in_step(layout, (backup,), DEADLINE_SECONDS))
        load.go_on(SETTLE_SECONDS)
    return taken


def _kill_again_and_again(layout: Layout, load: Workload, seconds: float) -> list[float]:
    """From each kill to the next commit; who was killed starts at once."""
    taken = []
    began = monotonic()
    while monotonic() < began + min(seconds, STORM_SECONDS):
        leads = standing.leader(layout).name
        killed = monotonic()
        launch.kill(layout.directory, (leads,))
        launch.restart(layout.directory, (leads,))
        taken.append(load.wait_for_commit_after(killed, DEADLINE_SECONDS) - killed)
        load.go_on(max(0.0, killed + KILL_EVERY_SECONDS - monotonic()))
    return taken


def _leave_alone(layout: Layout, load: Workload, seconds: float) -> list[float]:
    load.go_on(min(seconds, QUIET_SECONDS))
    return []


SCENARIOS = (
    Scenario("primary", "primary killed, 8 writers: next commit", 8, _kill_primary, 1.5, 0.6),
    Scenario("primary-1", "primary killed, 1 writer: next commit", 1, _kill_primary, 1.5, 0.6),
    Scenario("paused", "backup paused 30 s, 8 writers: in step", 8, _pause_backup, 10.0, 5.0),
    Scenario("all", "all killed and restarted, 8 writers: next commit", 8, _kill_all, 3.0),
    Scenario("storm", "leader killed every 3 s, 8 writers: next commit", 8, _kill_again_and_again),
    Scenario("quiet", "no fault, 8 writers", 8, _leave_alone),
)


def recovery(seconds: float = STORM_SECONDS, only: str | None = None, parent: Path | None = None) -> Recovery:
    """Run all scenarios, or one. Raises PondError."""
    chosen = [scenario for scenario in SCENARIOS if only in (None, scenario.name)]
    floors: dict[str, Floor] = {}
    results = []
    for scenario in chosen:
        with tempfile.TemporaryDirectory(prefix="pond-bench-", dir=parent) as scratch:
            layout, _ = launch.up(Path(scratch) / "cluster")
            try:
                floors[scenario.name] = floor.measure(TOKEN_BYTES, layout.directory)
                results.append(_measure(layout, scenario, seconds))
            finally:
                launch.down(layout.directory)
    return Recovery(floor=floors, results=results)


def _measure(layout: Layout, scenario: Scenario, seconds: float) -> Recovered:
    with Workload(layout.directory, scenario.name, scenario.writers) as load:
        began, view, before = monotonic(), standing.view(layout), len(load.commits)
        taken = sorted(scenario.hurt(layout, load, seconds))
        ended, commits = monotonic(), len(load.commits) - before
        standing.wait_until_in_step(layout, _names(layout), DEADLINE_SECONDS)
        views = standing.view(layout) - view
        load.stop()
    gap_began, gap_ended = load.longest_gap(began, ended)
    judged = load.judge()
    return Recovered(
        name=scenario.name,
        n=len(taken),
        p50_ms=taken[len(taken) // 2] * 1000 if taken else None,
        max_ms=taken[-1] * 1000 if taken else None,
        target_ms=None if scenario.target is None else scenario.target * 1000,
        stretch_ms=None if scenario.stretch is None else scenario.stretch * 1000,
        seconds=ended - began,
        commits_per_second=commits / (ended - began),
        longest_gap_ms=(gap_ended - gap_began) * 1000,
        views=views,
        acknowledged=judged.acknowledged,
        unknown=judged.unknown,
        lost=len(judged.lost) + len(judged.twice),
        linearizable=isinstance(judged.history, Ok),
    )


def _names(layout: Layout) -> tuple[str, ...]:
    return tuple(server.name for server in layout.servers)


def in_words(measured: Recovery) -> str:
    """The answer as text."""
    titles = {scenario.name: scenario.title for scenario in SCENARIOS}
    rows: list[list[object]] = [
        ["", "N", "P50 S", "MAX S", "TARGET", "STRETCH", "GAP S", "PER S", "VIEWS", "COMMITS", "LOST"]
    ]
    for result in measured.results:
        times = [result.p50_ms, result.max_ms, result.target_ms, result.stretch_ms, result.longest_gap_ms]
        p50, most, target, stretch, gap = ["-" if ms is None else f"{ms / 1000:.2f}" for ms in times]
        lost = str(result.lost) if result.linearizable else f"{result.lost}, not linearizable"
        counts = [f"{result.commits_per_second:.0f}", result.views, result.acknowledged, lost]
        rows.append([titles[result.name], result.n or "-", p50, most, target, stretch, gap, *counts])
    machine = measured.floor[measured.results[0].name]
    note = (
        f"floor of one write: {machine.write_ms:.2f} ms ({floor.SYNCS} syncs of {machine.sync_ms:.3f},"
        f" {floor.ROUND_TRIPS} loopback round trips of {machine.loopback_round_trip_ms:.3f}, {floor.CHECKS} signature"
        f" checks of {machine.signature_check_ms:.3f})"
    )
    return "\n".join([table(rows, right=range(1, len(rows[0]))), "", note])

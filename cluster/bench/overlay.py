"""`pond bench overlay`: simulated overlays under churn, beside targets and what others published.

Published figures are those of Rhea et al., "Handling Churn in a DHT", USENIX 2004, sections 3 and 4: Bamboo, and Chord
as its authors' implementation did in the same experiment. Their network was another than the one here.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from time import monotonic

from cluster.answers import ChurnBeside, OverlayMeasured
from cluster.bench import overlay_runs
from cluster.bench.figures import three_digits
from cluster.bench.overlay_floor import perfect_stretch
from cluster.sim.churn.answers import SimulatedChurn
from cluster.sim.churn.report import percent
from cluster.sim.churn.run import Plan
from cluster.sim.churn.words import duration
from pond.cli.answers import table

SESSIONS = (84.0, 360.0, 2820.0)
"""Median sessions of the comparison, in seconds: 1.4, 6 and 47 min, those of the targets."""

MEASURED_SECONDS = {360.0: 360.0}
OTHERWISE_MEASURED_SECONDS = 180.0
"""By median session, the same for all overlays."""

_KINDS = (Plan("tapestry"), Plan("tapestry", recovery="reactive"), Plan("chord"))
PLANS: tuple[Plan, ...] = (
    *(
        plan._replace(median_session_seconds=session, seconds=MEASURED_SECONDS.get(session, OTHERWISE_MEASURED_SECONDS))
        for plan in _KINDS
        for session in SESSIONS
    ),
    *(Plan(median_session_seconds=360.0, seconds=360.0, seed=seed) for seed in (2, 3)),
    *(plan._replace(median_session_seconds=None, seconds=120.0, kill=0.2) for plan in _KINDS[:2]),
    *(Plan(nodes=10_000, median_session_seconds=session, seconds=120.0) for session in (360.0, 2820.0)),
)


def _beside(
    of: str,
    median_session_seconds: float,
    joined: float,
    completed: float,
    consistent: float,
    mean_seconds: float,
    p95_seconds: float | None,
    bytes_per_node_second: float,
) -> ChurnBeside:
    """What is wanted, or was published, of a thousand nodes."""
    return ChurnBeside(
        of=of,
        nodes=1000,
        median_session_s=median_session_seconds,
        joined=joined,
        completed=completed,
        consistent=consistent,
        mean_s=mean_seconds,
        p95_s=p95_seconds,
        bytes_per_node_s=bytes_per_node_second,
    )


PUBLISHED = (
    _beside("target", 2820.0, 1.0, 0.9999, 0.9999, 0.25, 0.45, 500),
    _beside("target", 360.0, 0.995, 0.999, 0.999, 0.35, 0.9, 700),
    _beside("target", 84.0, 0.98, 0.995, 0.99, 0.6, 2.0, 900),
    _beside("Bamboo 2004", 2820.0, 1.0, 1.0, 0.999, 0.3, None, 750),
    _beside("Bamboo 2004", 360.0, 0.99, 0.999, 0.998, 0.55, 2.5, 750),
    _beside("Bamboo 2004", 84.0, 0.947, 0.978, 0.98, 1.6, 8.5, 1200),
    _beside("Chord 2004", 360.0, 0.97, 0.98, 0.985, 4.8, 22.0, 2400),
)

WANTED_AFTER_KILLING = (0.95, 0.999)
"""Success when a fifth dies at once: in the worst second, and from ten seconds after it."""

WANTED_GROWTH = 1.35
"""Bytes of ten thousand nodes, by those of a thousand."""

HEAD = "NODES,SESSION,MEASURED,OF,SEED,JOINED,COMPLETED,CONSISTENT,MEAN S,P95 S,B/S/NODE,HOPS,STRETCH"


def overlay(
    directory: Path, jobs: int, plans: Sequence[Plan] = PLANS, say: overlay_runs.Say = lambda line: None
) -> OverlayMeasured:
    """All runs, so many at a time, their results kept in the directory."""
    began = monotonic()
    results = overlay_runs.results(plans, directory, jobs, say)
    return OverlayMeasured(
        code=overlay_runs.code(),
        seconds=round(monotonic() - began, 3),
        floor={str(nodes): round(perfect_stretch(nodes), 3) for nodes in sorted({plan.nodes for plan in plans})},
        results=results,
        beside=list(PUBLISHED),
    )


def of(answer: SimulatedChurn) -> str:
    """What a run is of, as tables and pictures name it."""
    return "Chord" if answer.overlay == "chord" else f"Tapestry, {answer.recovery}"


def in_words(measured: OverlayMeasured) -> str:
    """Tables: each session with all that is known of it; what a massive failure does; how figures grow with size."""
    churned = [answer for answer in measured.results if answer.median_session_s is not None]
    head = HEAD.split(",")
    lines = []
    for nodes in sorted({answer.nodes for answer in churned}):
        lines += [table([head, *_rows(nodes, churned, measured.beside)], right=range(5, len(head))), ""]
    killed = [(answer, answer.killed) for answer in measured.results if answer.killed is not None]
    if killed:
        rows = [
            (of(answer), died.nodes, percent(died.before), percent(died.worst_second), percent(died.after_10_s))
            for answer, died in killed
        ]
        columns = ("OF", "KILLED", "BEFORE", "WORST SECOND", "FROM 10 S ON")
        wanted = ("target", "-", "-", *map(percent, WANTED_AFTER_KILLING))
        lines += [table([columns, *rows, wanted], right=range(1, 5)), ""]
    lines += [*_growth(churned), *_floor(measured.floor), f"Code {measured.code}; {measured.seconds:.0f} s."]
    return "\n".join(lines)


def _rows(nodes: int, churned: Iterable[SimulatedChurn], beside: Iterable[ChurnBeside]) -> Iterable[Sequence[object]]:
    churned = [answer for answer in churned if answer.nodes == nodes]
    for session in sorted({answer.median_session_s or 0.0 for answer in churned}, reverse=True):
        for answer in churned:
            if answer.median_session_s == session:
                yield (
                    nodes,
                    duration(session),
                    duration(answer.measured_s),
                    of(answer),
                    answer.seed,
                    *_figures(answer),
                    three_digits(answer.mean_hops),
                    three_digits(answer.stretch),
                )
        for each in beside:
            if (each.nodes, each.median_session_s) == (nodes, session):
                yield nodes, duration(session), "-", each.of, "-", *_figures(each), "-", "-"


def _figures(row: SimulatedChurn | ChurnBeside) -> tuple[str, ...]:
    return (
        percent(row.joined),
        percent(row.completed),
        percent(row.consistent),
        three_digits(row.mean_s),
        three_digits(row.p95_s),
        f"{row.bytes_per_node_s:.0f}",
    )


def _growth(churned: Iterable[SimulatedChurn]) -> Iterable[str]:
    """Bytes of the larger overlays by those of the smaller, same session, seed and recovery."""
    by_nodes: dict[int, dict[tuple[str, str, float | None, int], SimulatedChurn]] = {}
    for answer in churned:
        key = (answer.overlay, answer.recovery, answer.median_session_s, answer.seed)
        by_nodes.setdefault(answer.nodes, {})[key] = answer
    least = min(by_nodes, default=0)
    for nodes, answers in sorted(by_nodes.items()):
        for key, answer in answers.items():
            small = by_nodes[least].get(key)
            if nodes != least and small is not None:
                times = answer.bytes_per_node_s / small.bytes_per_node_s
                which = f"{of(answer)}, {duration(answer.median_session_s)}"
                yield f"{which}: {nodes} nodes send {times:.2f} times the bytes of {least} (target {WANTED_GROWTH})."


def _floor(floor: dict[str, float]) -> Iterable[str]:
    for nodes, stretch in floor.items():
        yield f"Floor of stretch, over tables that hold the nearest of {nodes} nodes: {stretch:.2f}."

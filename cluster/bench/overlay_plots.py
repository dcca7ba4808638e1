"""Pictures of `pond bench overlay`: overlays against sessions, what reactive recovery sends, a massive failure."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.answers import OverlayMeasured
from cluster.bench import plots
from cluster.bench.overlay import of
from cluster.sim.churn.answers import SimulatedChurn
from cluster.sim.churn.words import duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"Tapestry, periodic": 0, "Tapestry, reactive": 1, "Chord": 2}
LEAF_SETS = ("Leaves", "LeafNews")
"""Messages by which leaf sets are compared."""

LEAST_PERCENT = 0.001
"""That is drawn: below one lookup of all, on an axis that has no zero."""

SHOWN_BEFORE, SHOWN_AFTER = 15, 45
"""Seconds around a massive failure."""


def draw(measured: OverlayMeasured, directory: Path) -> None:
    """All for which there are results."""
    sessions = [answer for answer in measured.results if answer.median_session_s is not None]
    least = min((answer.nodes for answer in sessions), default=0)
    compared = [answer for answer in sessions if (answer.nodes, answer.seed) == (least, 1)]
    recovering = [answer for answer in compared if answer.overlay == "tapestry"]
    if compared:
        _against_sessions(measured, compared, directory / "overlay-sessions.png")
    if recovering:
        _recoveries(recovering, directory / "overlay-recovery.png")
    killed = [answer for answer in measured.results if answer.killed is not None]
    if killed:
        _killed(killed, directory / "overlay-killed.png")


def _against_sessions(measured: OverlayMeasured, answers: Sequence[SimulatedChurn], file: Path) -> None:
    figure = plots.new_figure(13.0, 4.6, f"{answers[0].nodes} nodes that come and go")
    failed, latency, sent = figure.subplots(1, 3)
    plots.labels(failed, "Lookups without the right root (none: at the bottom)", "median session (minutes)", "%")
    plots.labels(latency, "Latency: mean, and 95 % (dashed)", "median session (minutes)", "ms")
    plots.labels(sent, "Sent by a node", "median session (minutes)", "bytes a second")
    panels: tuple[tuple[Axes, str, Callable[[SimulatedChurn], float]], ...] = (
        (failed, "-", lambda each: max(100 * (1 - (each.completed or 0.0) * (each.consistent or 0.0)), LEAST_PERCENT)),
        (latency, "-", lambda each: 1000 * (each.mean_s or 0.0)),
        (latency, "--", lambda each: 1000 * (each.p95_s or 0.0)),
        (sent, "-", lambda each: each.bytes_per_node_s),
    )
    for name, rows in _by_name(answers):
        minutes = [(row.median_session_s or 0.0) / 60 for row in rows]
        for axes, dashes, value in panels:
            label = name if dashes == "-" else None
            style: dict[str, Any] = {
                "color": plots.COLOURS[COLOURS[name]],
                "marker": plots.MARKERS[COLOURS[name]],
                "markersize": 5,
            }
            axes.plot(minutes, [value(row) for row in rows], dashes, label=label, **style)
    marks = {"target": ("*", "black"), "Bamboo 2004": ("x", plots.GREY), "Chord 2004": ("+", plots.GREY)}
    for name, (marker, colour) in marks.items():
        published = [each for each in measured.beside if each.of == name]
        minutes = [each.median_session_s / 60 for each in published]
        style = {"color": colour, "marker": marker, "linestyle": "", "markersize": 9}
        wrong = [max(100 * (1 - each.completed * each.consistent), LEAST_PERCENT) for each in published]
        failed.plot(minutes, wrong, label=name, **style)
        latency.plot(minutes, [1000 * each.mean_s for each in published], **style)
        sent.plot(minutes, [each.bytes_per_node_s for each in published], **style)
    minutes = sorted({(answer.median_session_s or 0.0) / 60 for answer in answers})
    for axes in (failed, latency, sent):
        plots.logarithmic(axes, "x", (1.0,))
        axes.set_xticks(minutes, [f"{each:g}" for each in minutes])
        plots.logarithmic(axes, "y", (1.0,) if axes is failed else (1.0, 2.0, 5.0))
    figure.legend(*failed.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=9)
    figure.savefig(file, dpi=plots.DOTS_PER_INCH)


def _recoveries(answers: Sequence[SimulatedChurn], file: Path) -> None:
    """What Bamboo's authors argued: what reactive recovery sends grows with churn, what periodic sends does not."""
    figure = plots.new_figure(8.6, 4.8, f"Recovery, periodic and reactive: {answers[0].nodes} nodes of Tapestry")
    axes = figure.subplots()
    plots.labels(axes, "Sent by a node", "median session", "bytes a second")
    sessions = sorted({answer.median_session_s or 0.0 for answer in answers}, reverse=True)
    width = 0.38
    for offset, (name, rows) in zip((-width / 2, width / 2), _by_name(answers), strict=False):
        at = [sessions.index(row.median_session_s or 0.0) + offset for row in rows]
        leaves = [sum(sent.bytes_per_node_s for sent in row.messages if sent.kind in LEAF_SETS) for row in rows]
        others = [row.bytes_per_node_s - part for row, part in zip(rows, leaves, strict=True)]
        colour = plots.COLOURS[COLOURS[name]]
        axes.bar(at, leaves, width, color=colour, label=f"{name}: leaf sets")
        bars = axes.bar(at, others, width, leaves, color=colour, alpha=0.35, label=f"{name}: all else")
        axes.bar_label(bars, [f"{row.bytes_per_node_s:.0f}" for row in rows], padding=2, fontsize=8)
    axes.set_xticks(range(len(sessions)), [duration(session) for session in sessions])
    axes.set_axisbelow(True)
    axes.legend(fontsize=8, loc="upper left", frameon=False)
    figure.savefig(file, dpi=plots.DOTS_PER_INCH)


def _killed(answers: Sequence[SimulatedChurn], file: Path) -> None:
    killed = answers[0].killed
    assert killed is not None
    title = f"{killed.nodes} of {answers[0].nodes} nodes die at once"
    figure = plots.new_figure(9.0, 8.0, title)
    success, latency, sent = figure.subplots(3, 1, sharex=True)
    plots.labels(success, "Lookups that got the root that most were told", "", "%")
    plots.labels(latency, "Latency, 95 %", "", "ms")
    plots.labels(sent, "Sent by all nodes", "seconds since they died", "kB a second")
    worst = 100.0
    for answer in answers:
        rows = [row for row in answer.per_second if -SHOWN_BEFORE <= row.second - killed.second <= SHOWN_AFTER]
        asked = [row for row in rows if row.succeeded is not None and row.p95_s is not None]
        seconds = [row.second - killed.second for row in asked]
        shares = [100 * (row.succeeded or 0.0) for row in asked]
        worst = min([worst, *shares])
        style: dict[str, Any] = {"color": plots.COLOURS[COLOURS[of(answer)]], "label": of(answer), "linewidth": 1.6}
        success.plot(seconds, shares, **style)
        latency.plot(seconds, [1000 * (row.p95_s or 0.0) for row in asked], **style)
        sent.plot([row.second - killed.second for row in rows], [row.bytes / 1000 for row in rows], **style)
    success.axhline(95, color="black", linestyle=":", label="target of the worst second")
    success.set_ylim(min(94.0, worst - 1), 100.5)
    for axes in (success, latency, sent):
        axes.axvline(0, color=plots.GREY, linestyle="--")
        axes.legend(fontsize=8, loc="center right" if axes is success else "upper right", frameon=False)
    for axes in (latency, sent):
        axes.set_ylim(bottom=0)
    figure.savefig(file, dpi=plots.DOTS_PER_INCH)


def _by_name(answers: Iterable[SimulatedChurn]) -> Iterable[tuple[str, list[SimulatedChurn]]]:
    """Each overlay's runs, the longest sessions first."""
    ordered = sorted(answers, key=lambda answer: -(answer.median_session_s or 0.0))
    for name in COLOURS:
        rows = [answer for answer in ordered if of(answer) == name]
        if rows:
            yield name, rows

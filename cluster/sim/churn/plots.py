"""Pictures of a run: how long lookups took, or how they fared from second to second around an event."""

from pathlib import Path
from typing import TYPE_CHECKING

from cluster.bench import plots
from cluster.sim.churn.answers import LookupSecond, SimulatedChurn
from cluster.sim.churn.report import percent
from cluster.sim.churn.words import duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_MS = 10.0
"""Of what is drawn: a node that is the root itself has its answer at once, and the axis is logarithmic."""


def draw(answer: SimulatedChurn, file: Path) -> None:
    """Success and latency against time where nodes were killed or parted; else the distribution of latency."""
    title = f"{answer.overlay}, {answer.nodes} nodes, median session {duration(answer.median_session_s)}"
    if answer.killed is not None or answer.parted is not None:
        _against_time(answer, title, file)
    else:
        figure = plots.new_figure(7.0, 4.6, title)
        completed = f"{percent(answer.completed)} of lookups completed"
        times = [max(each * 1000, LEAST_MS) for each in answer.quantiles_s]
        plots.distributions(figure.subplots(), "Latency", [plots.Curve(completed, times, 0)])
        figure.axes[0].legend(fontsize=8, loc="lower right", frameon=False)
        figure.savefig(file, dpi=plots.DOTS_PER_INCH)


def _against_time(answer: SimulatedChurn, title: str, file: Path) -> None:
    figure = plots.new_figure(9.0, 6.4, title)
    success, latency = figure.subplots(2, 1, sharex=True)
    plots.labels(success, "Lookups that got the root that most were told", "", "%")
    plots.labels(latency, "Latency", "s", "ms")
    rows = [row for row in answer.per_second if row.lookups]
    _line(success, rows, [None if row.succeeded is None else row.succeeded * 100 for row in rows], 0, "each second")
    success.set_ylim(min(90.0, *(100 * (row.succeeded or 0.0) for row in rows), 90.0) - 1, 101)
    _line(latency, rows, [None if row.mean_s is None else row.mean_s * 1000 for row in rows], 0, "mean")
    _line(latency, rows, [None if row.p95_s is None else row.p95_s * 1000 for row in rows], 1, "95 %")
    latency.set_ylim(bottom=0)
    for axes in (success, latency):
        if answer.killed is not None:
            axes.axvline(answer.killed.second, color=plots.GREY, linestyle="--", label=f"{answer.killed.nodes} die")
        if answer.parted is not None:
            parted = answer.parted
            axes.axvspan(parted.second, parted.second + parted.seconds, color=plots.GREY, alpha=0.25, label="halves")
        axes.legend(fontsize=8, loc="best", frameon=False)
    figure.savefig(file, dpi=plots.DOTS_PER_INCH)


def _line(axes: "Axes", rows: list[LookupSecond], values: list[float | None], colour: int, label: str) -> None:
    shown = [(row.second + 0.5, value) for row, value in zip(rows, values, strict=True) if value is not None]
    across, up = [second for second, _ in shown], [value for _, value in shown]
    axes.plot(across, up, color=plots.COLOURS[colour], linewidth=1.2, label=label)

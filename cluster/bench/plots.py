"""Pictures of what was measured, by matplotlib, which is imported only here and only when a picture is wanted.

Times and rates are on logarithmic axes: what differs by a factor is that far apart everywhere. A distribution is drawn
from its hundredths and its 99.9 %, on an axis that gives the last hundredth as much room as the ninety before it.
"""

from collections.abc import Sequence
from itertools import product
from math import log10
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from cluster.answers import ClosedLoop, ReadsMeasured, ThroughputMeasured, WriteLatency
from cluster.bench.figures import HUNDREDTHS, size_in_words, three_digits
from pond.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

FORMATS = (".png", ".svg", ".pdf")

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Told apart by colour-blind readers too (Okabe and Ito)."""
MARKERS = "osD^vP"
GREY = "#8c8c8c"
DASHES = {"pond": "-", "etcd": "--"}
DOTS_PER_INCH = 110


class Curve(NamedTuple):
    """One distribution; `colour` is which of COLOURS."""

    name: str
    quantiles_ms: Sequence[float]
    colour: int
    dashes: str = "-"


def check(file: Path) -> None:
    """That a picture can be made and put there, before minutes are spent on measuring. Raises UsageError."""
    if file.suffix.lower() not in FORMATS:
        raise UsageError(
            f"a plot is a file that ends with {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, not {file.name!r}"
        )
    if not file.absolute().parent.is_dir():
        raise UsageError(f"there is no directory {file.absolute().parent} for the plot: make it first")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError(
            "plots are drawn by matplotlib, which is not installed: pip install 'pond[plot]', or leave --plot out"
        ) from None


def throughput(measured: ThroughputMeasured, file: Path) -> None:
    """Updates a second and CPU of the ring against clients, and how long updates took."""
    sizes = list(dict.fromkeys(row.size_bytes for row in measured.results))
    systems = list(dict.fromkeys(row.system for row in measured.results))
    figure = new_figure(max(10.0, 3.4 * len(sizes)), 8.0, "Updates of a ring of four, clients in a closed loop")
    levels = sorted({row.clients for row in measured.results})
    above, below = figure.subfigures(2, 1, squeeze=False)[:, 0]
    rate, cost = above.subplots(1, 2)
    for axes, title, unit in (
        (rate, "Throughput", "updates a second"),
        (cost, "CPU of all servers together", "ms per update"),
    ):
        labels(axes, title, "clients", unit)
        logarithmic(axes, "x", (1.0,))
        logarithmic(axes, "y", (1.0, 2.0, 5.0))
        axes.set_xticks(levels, [str(count) for count in levels], minor=False)
        axes.set_xticks([], minor=True)
    for system, (number, size) in product(systems, enumerate(sizes)):
        rows = [row for row in measured.results if (row.system, row.size_bytes) == (system, size) and row.n]
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        label = size_in_words(size) + _beside(system)
        counts = [row.clients for row in rows]
        rate.plot(counts, [row.per_second for row in rows], DASHES[system], label=label, **style)
        cost.plot(counts, [row.ring_cpu_ms or 0.0 for row in rows], DASHES[system], label=label, **style)
    _shared_legend(above, len(sizes))
    for axes, size in zip(below.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        curves = [
            Curve(_clients(row) + _beside(row.system), row.quantiles_ms, levels.index(row.clients), DASHES[row.system])
            for row in measured.results
            if row.size_bytes == size
        ]
        distributions(axes, f"Latency, {size_in_words(size)}", curves)
    _shared_legend(below, len(levels))
    figure.savefig(file, dpi=DOTS_PER_INCH)


def reads(measured: ReadsMeasured, file: Path) -> None:
    """How long reads took, a panel for each size."""
    sizes = list(dict.fromkeys(row.size_bytes for row in measured.results))
    figure = new_figure(5.2 * len(sizes), 4.6, "Proved reads from a ring of four, clients in a closed loop")
    for axes, size in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        rows = [row for row in measured.results if row.size_bytes == size]
        curves = [
            Curve(f"{row.consistency}, {_clients(row)}", row.quantiles_ms, number) for number, row in enumerate(rows)
        ]
        distributions(axes, f"Latency, {size_in_words(size)}", curves)
        _legend_below(axes)
    figure.savefig(file, dpi=DOTS_PER_INCH)


def write_latency(measured: WriteLatency, file: Path) -> None:
    """Phases beside Pond's, a panel for each size, and how long writes took."""
    names = [row.name for row in measured.results]
    figure = new_figure(4.6 * (len(names) + 1), 4.6, "One write by one client of a ring of four, by phase")
    *panels, last = figure.subplots(1, len(names) + 1)
    for axes, name in zip(panels, names, strict=True):
        _bars(axes, name, measured)
    distributions(
        last, "Latency", [Curve(row.name, row.quantiles_ms, number) for number, row in enumerate(measured.results)]
    )
    _legend_below(last)
    figure.savefig(file, dpi=DOTS_PER_INCH)


def _bars(axes: "Axes", name: str, measured: WriteLatency) -> None:
    found = measured.phases[name]
    height = 0.38
    for offset, colour, label, times in (
        (-height / 2, GREY, "Pond, 2003 (1 GHz)", [phase.pond_ms for phase in found]),
        (height / 2, COLOURS[0], "here", [phase.ms for phase in found]),
    ):
        shown = [(place + offset, ms) for place, ms in enumerate(times) if ms]
        bars = axes.barh([place for place, _ in shown], [ms for _, ms in shown], height, color=colour, label=label)
        axes.bar_label(bars, [three_digits(ms) for _, ms in shown], padding=2, fontsize=7)
    logarithmic(axes, "x", (1.0,))
    axes.set_xlim(0.05, 5000)
    axes.set_yticks(range(len(found)), [phase.phase for phase in found])
    axes.invert_yaxis()
    axes.set_title(f"{name[0].upper()}{name[1:]}", fontsize=10)
    axes.set_xlabel("ms (mean)")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    _legend_below(axes)


def distributions(axes: "Axes", title: str, curves: Sequence[Curve]) -> None:
    drawn = [curve for curve in curves if curve.quantiles_ms]
    labels(axes, title, "ms", "share that took no longer")
    logarithmic(axes, "x", (1.0,) if _decades(drawn) > 1.5 else (1.0, 2.0, 5.0))
    shares = [_stretched(share) for share in HUNDREDTHS]
    for curve in drawn:
        colour = COLOURS[curve.colour % len(COLOURS)]
        axes.plot(curve.quantiles_ms, shares, curve.dashes, label=curve.name, color=colour, linewidth=1.6)
    marks = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999)
    axes.set_yticks([_stretched(mark) for mark in marks], [f"{mark * 100:g} %" for mark in marks])


def _stretched(share: float) -> float:
    """Where a share stands on its axis: even up to 90 %, then each further digit of nines takes as much again."""
    if share <= 0.9:
        return share / 0.9
    return 1.0 + (0.25 * (share - 0.9) / 0.09 if share <= 0.99 else 0.25 + 0.25 * (share - 0.99) / 0.009)


def new_figure(width: float, height: float, title: str) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=12)
    return figure


def labels(axes: "Axes", title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.3)


def logarithmic(axes: "Axes", which: Literal["x", "y"], marked: Sequence[float]) -> None:
    """A logarithmic axis with plain numbers at these multiples of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=tuple(marked)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _decades(curves: Sequence[Curve]) -> float:
    """How many powers of ten lie between the least and the most of all curves."""
    values = [value for curve in curves for value in (curve.quantiles_ms[0], curve.quantiles_ms[-1])]
    return log10(max(values) / min(values)) if values else 0.0


def _shared_legend(figure: "SubFigure", columns: int) -> None:
    """One legend for all its panels; what stands beside the same of another system stands below it."""
    lines = {str(line.get_label()): line for axes in figure.axes for line in axes.get_lines()}
    names = [name for first in range(columns) for name in list(lines)[first::columns]]
    figure.legend([lines[name] for name in names], names, loc="outside lower center", ncols=columns, fontsize=8)


def _legend_below(axes: "Axes") -> None:
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)


def _beside(system: str) -> str:
    return "" if system == "pond" else f", {system}"


def _clients(row: ClosedLoop) -> str:
    return f"{row.clients} client{'s' if row.clients > 1 else ''}"

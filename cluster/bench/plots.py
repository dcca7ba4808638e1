"""Pictures of what was measured, by matplotlib, which is imported only here and only when a picture is wanted.

Times and rates are on logarithmic axes: what differs by a factor is that far apart everywhere. A distribution is drawn
from its hundredths and its 99.9 %, on an axis that gives the last hundredth as much room as the ninety before it.
"""

from collections.abc import Sequence
from math import log10
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cluster.answers import ClosedLoop, Read, ReadsMeasured, Throughput, ThroughputMeasured, WriteLatency
from cluster.bench.figures import HUNDREDTHS, size_in_words, three_digits
from pond.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Told apart by colour-blind readers too (Okabe and Ito)."""
MARKERS = "osD^vP"
GREY = "#8c8c8c"
DOTS_PER_INCH = 110


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
    figure = _figure(max(10.0, 3.4 * len(sizes)), 8.0, "Updates of a ring of four, clients in a closed loop")
    above, below = figure.subfigures(2, 1, squeeze=False)[:, 0]
    rate, cost = above.subplots(1, 2)
    for axes, title, unit in (
        (rate, "Throughput", "updates a second"),
        (cost, "CPU of all four servers", "ms per update"),
    ):
        _labels(axes, title, "clients", unit)
        _logarithmic(axes, "x", (1.0,))
        _logarithmic(axes, "y", (1.0, 2.0, 5.0))
        clients = sorted({row.clients for row in measured.results})
        axes.set_xticks(clients, [str(count) for count in clients], minor=False)
        axes.set_xticks([], minor=True)
    for number, size in enumerate(sizes):
        rows = [row for row in measured.results if row.size_bytes == size and row.n]
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        counts = [row.clients for row in rows]
        rate.plot(counts, [row.per_second for row in rows], label=size_in_words(size), **style)
        cost.plot(counts, [row.ring_cpu_ms or 0.0 for row in rows], label=size_in_words(size), **style)
    for axes in (rate, cost):
        axes.legend(title="update of", fontsize=8, title_fontsize=8)
    for axes, size in zip(below.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        rows = [row for row in measured.results if row.size_bytes == size]
        _distributions(axes, f"Latency, {size_in_words(size)}", [(_clients(row), row.quantiles_ms) for row in rows])
    lines = {str(line.get_label()): line for axes in below.axes for line in axes.get_lines()}
    below.legend(list(lines.values()), list(lines), loc="outside lower center", ncols=len(lines), fontsize=8)
    figure.savefig(file, dpi=DOTS_PER_INCH)


def reads(measured: ReadsMeasured, file: Path) -> None:
    """How long reads took, a panel for each size."""
    sizes = list(dict.fromkeys(row.size_bytes for row in measured.results))
    figure = _figure(5.2 * len(sizes), 4.6, "Proved reads from a ring of four, clients in a closed loop")
    for axes, size in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        rows = [row for row in measured.results if row.size_bytes == size]
        curves = [(f"{row.consistency}, {_clients(row)}", row.quantiles_ms) for row in rows]
        _distributions(axes, f"Latency, {size_in_words(size)}", curves)
        _legend_below(axes)
    figure.savefig(file, dpi=DOTS_PER_INCH)


def write_latency(measured: WriteLatency, file: Path) -> None:
    """Phases beside Pond's, a panel for each size, and how long writes took."""
    names = [row.name for row in measured.results]
    figure = _figure(4.6 * (len(names) + 1), 4.6, "One write by one client of a ring of four, by phase")
    *panels, last = figure.subplots(1, len(names) + 1)
    for axes, name in zip(panels, names, strict=True):
        _bars(axes, name, measured)
    _distributions(last, "Latency", [(row.name, row.quantiles_ms) for row in measured.results])
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
    _logarithmic(axes, "x", (1.0,))
    axes.set_xlim(0.05, 5000)
    axes.set_yticks(range(len(found)), [phase.phase for phase in found])
    axes.invert_yaxis()
    axes.set_title(f"{name[0].upper()}{name[1:]}", fontsize=10)
    axes.set_xlabel("ms (mean)")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    _legend_below(axes)


def _distributions(axes: "Axes", title: str, curves: Sequence[tuple[str, Sequence[float]]]) -> None:
    drawn = [(name, quantiles) for name, quantiles in curves if quantiles]
    _labels(axes, title, "ms", "share that took no longer")
    _logarithmic(axes, "x", (1.0,) if _decades(drawn) > 1.5 else (1.0, 2.0, 5.0))
    for number, (name, quantiles) in enumerate(drawn):
        shares = [_stretched(share) for share in HUNDREDTHS]
        axes.plot(quantiles, shares, label=name, color=COLOURS[number % len(COLOURS)], linewidth=1.6)
    marks = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999)
    axes.set_yticks([_stretched(mark) for mark in marks], [f"{mark * 100:g} %" for mark in marks])


def _stretched(share: float) -> float:
    """Where a share stands on its axis: even up to 90 %, then each further digit of nines takes as much again."""
    if share <= 0.9:
        return share / 0.9
    return 1.0 + (0.25 * (share - 0.9) / 0.09 if share <= 0.99 else 0.25 + 0.25 * (share - 0.99) / 0.009)


def _figure(width: float, height: float, title: str) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=12)
    return figure


def _labels(axes: "Axes", title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.3)


def _logarithmic(axes: "Axes", which: Literal["x", "y"], marked: Sequence[float]) -> None:
    """A logarithmic axis with plain numbers at these multiples of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=tuple(marked)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _decades(curves: Sequence[tuple[str, Sequence[float]]]) -> float:
    """How many powers of ten lie between the least and the most of all curves."""
    values = [value for _, quantiles in curves for value in (quantiles[0], quantiles[-1])]
    return log10(max(values) / min(values)) if values else 0.0


def _legend_below(axes: "Axes") -> None:
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)


def _clients(row: ClosedLoop | Throughput | Read) -> str:
    return f"{row.clients} client{'s' if row.clients > 1 else ''}"

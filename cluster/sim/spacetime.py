"""A run as a picture (Lamport, CACM 1978): a line for each server and one for all clients, time runs downwards, and an
arrow for each message, from where and when it was sent to where and when it arrived.

Stretches in which nothing happens are cut short, so distances tell the order of events, and the scale at the left when
they were.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, NamedTuple

from cluster.sim import words
from cluster.sim.trace import Event

MOST_MESSAGES = 250
"""More than that and nobody sees an arrow: without a range of time, so many of the last are shown."""

LABELLED = 120
"""Up to so many messages, each arrow says what it is; above, only when it is pointed at."""

COLUMN, MARGIN, TOP = 190, 120, 110
LEAST_STEP, MOST_STEP = 4.0, 34.0
PIXELS_PER_SECOND = 30_000.0

COLOURS = {
    "PrePrepare": "#1f77b4",
    "Prepare": "#2ca02c",
    "Commit": "#ff7f0e",
    "Checkpoint": "#8c564b",
    "ViewChange": "#d62728",
    "NewView": "#9467bd",
    "Nonces": "#bcbd22",
    "SignatureShare": "#e377c2",
    "Certified": "#17becf",
    "Status": "#aaaaaa",
    "Submit": "#0b3d91",
    "Answered": "#0b3d91",
}
OTHER = "#777777"

MARKS = {
    "crash": ("✖", "#d62728"),
    "start": ("▲", "#2ca02c"),
    "pause": ("❚❚", "#7f7f7f"),
    "resume": ("▶", "#7f7f7f"),
    "synced": ("▬", "#555555"),
    "executed": ("●", "#111111"),
    "disk": ("disk fails", "#d62728"),
    "failed": ("fails", "#d62728"),
    "amnesia": ("disk lost", "#d62728"),
    "flip": ("bit flips", "#d62728"),
    "refused": ("refuses", "#b8860b"),
    "fate": ("left alone", "#d62728"),
    "clock": ("clock set", "#7f7f7f"),
    "frozen": ("clock stands", "#7f7f7f"),
}
EVERYONE = ("power fails", "healed")


class _Arrow(NamedTuple):
    sent: float
    arrived: float | None
    """None when it was lost."""
    sender: int
    to: int
    kind: str
    label: str
    nobody: bool


class Drawn(NamedTuple):
    """A picture, and how much of the run it shows: messages of all messages, and between which virtual seconds."""

    svg: str
    messages: int
    of: int
    first: float
    last: float


class NothingToDraw(ValueError):
    """The run had ended before the time that the picture is to begin at."""


def picture(events: Sequence[Event], servers: int, start: float | None, stop: float | None, title: str) -> Drawn:
    """What happened from `start` to `stop` (virtual seconds), or the last that happened. Raises NothingToDraw."""
    arrows = [arrow for event in events if (arrow := _arrow(event)) is not None]
    if start is None and stop is None and len(arrows) > MOST_MESSAGES:
        start = sorted(arrow.sent for arrow in arrows)[-MOST_MESSAGES]
    end = max((event.when for event in events), default=0.0)
    first = start if start is not None else 0.0
    last = min(stop, end) if stop is not None else end
    if first > end:
        raise NothingToDraw(f"the run ended after {end:.3f} virtual seconds")
    drawn = _Picture(events, arrows, servers, first, last, title)
    return Drawn(drawn.svg(), drawn.messages, len(arrows), first, last)


def _arrow(event: Event) -> _Arrow | None:
    match event:
        case (when, ("message" | "down") as what, (int(sender), int(to), bytes(data), float(sent))):
            return _Arrow(sent, when, sender, to, *_label(sender, to, data), what == "down")
        case (when, "lost", (int(sender), int(to), bytes(data))):
            return _Arrow(when, None, sender, to, *_label(sender, to, data), False)
    return None


def _label(sender: int, to: int, data: bytes) -> tuple[str, str]:
    said = words.decode(sender, to, data)
    kind = type(said).__name__ if said is not None else "undecodable"
    return kind, f"{kind} {words.place(said)}".strip()


class _Picture:
    def __init__(
        self,
        events: Sequence[Event],
        arrows: Sequence[_Arrow],
        servers: int,
        first: float,
        last: float,
        title: str,
    ) -> None:
        self._events = [event for event in events if event.when <= last]
        self._arrows = [arrow for arrow in arrows if first <= arrow.sent <= last]
        self._servers = servers
        self._first, self._last = first, last
        self._title = title
        marked = [event.when for event in self._events if event.when >= first and event.what != "message"]
        arrived = [arrow.arrived for arrow in self._arrows if arrow.arrived is not None and arrow.arrived <= last]
        moments = {first, last, *marked, *arrived, *(arrow.sent for arrow in self._arrows)}
        self._times = sorted(moments)
        self._heights = [float(TOP)]
        for before, after in zip(self._times, self._times[1:], strict=False):
            step = min(max((after - before) * PIXELS_PER_SECOND, LEAST_STEP), MOST_STEP)
            self._heights.append(self._heights[-1] + step)
        self._bottom = self._heights[-1]

    @property
    def messages(self) -> int:
        """How many are drawn."""
        return len(self._arrows)

    def svg(self) -> str:
        width = MARGIN + COLUMN * (self._servers + 1)
        height = self._bottom + 40
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height:.0f}"'
            f' viewBox="0 0 {width} {height:.0f}" font-family="sans-serif" font-size="11">',
            f'<rect width="{width}" height="{height:.0f}" fill="#ffffff"/>',
            _text(12, 20, self._title, size=14),
            *self._legend(),
            *self._scale(width),
            *self._lives(),
            *self._partitions(),
            *(line for arrow in self._arrows for line in self._draw(arrow)),
            *self._marks(width),
            "</svg>",
        ]
        return "\n".join(parts) + "\n"

    # --- where things are ------------------------------------------------------------------------------------------

    def _x(self, address: int) -> float:
        column = address if address >= 0 else self._servers
        return MARGIN + COLUMN * (column + 0.3)

    def _y(self, when: float) -> float:
        times, heights = self._times, self._heights
        if when <= times[0]:
            return heights[0]
        if when >= times[-1]:
            return heights[-1]
        after = bisect_left(times, when)
        share = (when - times[after - 1]) / (times[after] - times[after - 1])
        return heights[after - 1] + share * (heights[after] - heights[after - 1])

    # --- what is drawn ---------------------------------------------------------------------------------------------

    def _legend(self) -> Iterable[str]:
        shown = list(dict.fromkeys(arrow.kind for arrow in self._arrows))
        named = [kind for kind in COLOURS if kind in shown] + ["other"] * any(kind not in COLOURS for kind in shown)
        for place, kind in enumerate(named):
            x, y = 12 + 118 * (place % 9), 40 + 16 * (place // 9)
            colour = COLOURS.get(kind, OTHER)
            yield f'<line x1="{x}" y1="{y - 4}" x2="{x + 20}" y2="{y - 4}" stroke="{colour}" stroke-width="2.5"/>'
            yield _text(x + 25, y, kind)
        y = 40 + 16 * ((len(named) + 8) // 9)
        yield _text(
            12, y, "● runs a batch   ▬ synced   ✖ crash   ▲ start   ✕ lost   red band: links cut   grey: paused"
        )

    def _scale(self, width: int) -> Iterable[str]:
        drawn = -100.0
        for when, y in zip(self._times, self._heights, strict=True):
            if y - drawn >= 28:
                drawn = y
                yield f'<line x1="{MARGIN - 38}" y1="{y:.1f}" x2="{width}" y2="{y:.1f}" stroke="#f0f0f0"/>'
                yield _text(12, y + 4, f"{when:.6f} s", colour="#666666")

    def _lives(self) -> Iterable[str]:
        for server in range(self._servers):
            x = self._x(server)
            yield _text(x, TOP - 14, words.name(server), size=13, anchor="middle")
            for up, begin, end in self._spells(server, "start", "crash"):
                dashes = "" if up else ' stroke-dasharray="2 5"'
                yield _line(x, begin, end, "#333333" if up else "#bbbbbb", 1.5, dashes)
            for paused, begin, end in self._spells(server, "pause", "resume"):
                if paused:
                    yield _line(x, begin, end, "#999999", 9, ' opacity="0.5"')
        x = self._x(-1)
        yield _text(x, TOP - 14, "clients", size=13, anchor="middle")
        yield _line(x, TOP, self._bottom, "#333333", 1.5)

    def _spells(self, server: int, on: str, off: str) -> Iterable[tuple[bool, float, float]]:
        """(whether it is on, from, to) down the server's line, from what had happened before the picture too."""
        state, since = False, float(TOP)
        for when, what, details in self._events:
            ended = what == off or (on == "pause" and what == "crash")
            if (what == on or ended) and details[0] == server:
                y = self._y(when)
                if y > since:
                    yield state, since, y
                state, since = what == on, y
        yield state, since, self._bottom

    def _partitions(self) -> Iterable[str]:
        """A band beside the line of a server while a link from it is cut: the number says to whom."""
        cuts: dict[tuple[int, int], list[float]] = {}
        for when, what, details in self._events:
            if what == "cut":
                cuts.setdefault((details[0], details[1]), []).append(when)
            elif what == "mend" and cuts.get((details[0], details[1])):
                began = cuts[details[0], details[1]].pop()
                yield from self._band(details[0], details[1], began, when)
            elif what == "healed":
                for (sender, to), open_cuts in cuts.items():
                    if {end for end in (sender, to) if end >= 0} <= set(details):
                        for began in open_cuts:
                            yield from self._band(sender, to, began, when)
                        open_cuts.clear()
        for (sender, to), began_at in cuts.items():
            for began in began_at:
                yield from self._band(sender, to, began, self._last)

    def _band(self, sender: int, to: int, began: float, ended: float) -> Iterable[str]:
        top, bottom = self._y(began), self._y(ended)
        if ended < self._first or bottom - top < 1:
            return
        x = self._x(sender) - 12 - 11 * (max(to, -1) + 1)
        label = f"{words.name(sender)} reaches not {words.name(to)}, {began:.6f} to {ended:.6f} s"
        yield (
            f'<rect x="{x - 4:.1f}" y="{top:.1f}" width="8" height="{bottom - top:.1f}" fill="#d62728" opacity="0.22">'
            f"<title>{escape(label)}</title></rect>"
        )
        yield _text(x, top + 10, words.name(to), size=8, anchor="middle", colour="#a01010")

    def _draw(self, arrow: _Arrow) -> Iterable[str]:
        colour = COLOURS.get(arrow.kind, OTHER)
        x1, y1, x2 = self._x(arrow.sender), self._y(arrow.sent), self._x(arrow.to)
        sign = 1 if x2 > x1 else -1
        lost = arrow.arrived is None
        y2 = y1 + 12 if arrow.arrived is None else self._y(arrow.arrived)
        if lost:
            x2 = x1 + sign * COLUMN * 0.22
        label = f"{words.name(arrow.sender)} to {words.name(arrow.to)}: {arrow.label}" + " lost" * lost
        dashes = ' stroke-dasharray="4 3"' if lost or arrow.nobody else ""
        yield (
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="1.2"'
            f' opacity="{0.85 if arrow.kind in COLOURS else 0.4}"{dashes}><title>{escape(label)}</title></line>'
        )
        if lost or arrow.nobody:
            yield _text(x2, y2 + 4, "✕", size=13, anchor="middle", colour="#d62728")
        else:
            yield _head(x1, y1, x2, y2, colour)
        if len(self._arrows) <= LABELLED:
            yield _text(x1 + sign * 8, y1 + 3, arrow.label, 8, "start" if sign > 0 else "end", colour)

    def _marks(self, width: int) -> Iterable[str]:
        for when, what, details in self._events:
            if when < self._first:
                continue
            y = self._y(when)
            if what in EVERYONE:
                yield f'<line x1="{MARGIN}" y1="{y:.1f}" x2="{width}" y2="{y:.1f}" stroke="#d62728" stroke-width="1"/>'
                yield _text(width - 8, y - 3, _mark_label(what, what, details), anchor="end", colour="#d62728")
            elif what in MARKS:
                sign, colour = MARKS[what]
                x, on_line = self._x(details[0]), len(sign) == 1
                yield _text(x if on_line else x - 8, y + 4, sign, 12, "middle" if on_line else "end", colour)
                if what in ("executed", "refused", "fate"):
                    yield _text(x + 8, y + 4, _mark_label(what, "", details[1:]), 9, "start", colour)


def _mark_label(what: str, prefix: str, details: tuple[Any, ...]) -> str:
    more = " ".join(str(detail) for detail in (details[-1:] if what == "refused" else details))
    return f"{prefix} {more}".strip()


def _text(x: float, y: float, text: str, size: int = 11, anchor: str = "start", colour: str = "#222222") -> str:
    placed = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {placed}>{escape(text)}</text>"


def _line(x: float, top: float, bottom: float, colour: str, width: float, more: str = "") -> str:
    place = f'x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{bottom:.1f}"'
    return f'<line {place} stroke="{colour}" stroke-width="{width}"{more}/>'


def _head(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    """The tip of an arrow, which not every viewer draws from a marker."""
    length = max(((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5, 1e-9)
    dx, dy = (x2 - x1) / length, (y2 - y1) / length
    left = (x2 - 7 * dx - 3 * dy, y2 - 7 * dy + 3 * dx)
    right = (x2 - 7 * dx + 3 * dy, y2 - 7 * dy - 3 * dx)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in ((x2, y2), left, right))
    return f'<polygon points="{points}" fill="{colour}"/>'

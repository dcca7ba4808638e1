"""What runs have reached, of all that they could: kinds of messages, reasons of refusals, lies, points in a run.

The vocabulary comes from the code: messages from their unions, lies from their kinds, refusals and points of a batch's
life from the literals in `bft`. What is in it and was never reached is a hole, to be filled by another fault or a test
of its own.
"""

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from itertools import groupby
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple, get_args

import bft
from bft.messages import Message
from cluster.faults.liars import KINDS
from pond.protocol import RingQuestion, RingReply

EVENTS = (
    "start|crash|disk|failed|pause|resume|lost|down|cut|mend|clog|overflow|undecodable|clock|frozen|amnesia|flip|late|"
    "links lost|executed|jumped|healed|fate|power fails|slow disk|ran|seen"
).split("|")
"""What faults, recoveries and clients leave in a trace. Jumped: a state was taken over, not computed on the spot."""

REFUSING = re.compile("reject|refus|malformed|unfit")
"""Names of functions that return why something is refused."""

ANYTHING = "…"
"""Stands for what differs from one refusal to the next."""


class Reached(NamedTuple):
    """How often something came up: in how many runs, and how many times."""

    kind: str
    name: str
    times: int
    runs: int


class Tally:
    """Counts what each of many runs has reached."""

    def __init__(self) -> None:
        self._times: Counter[tuple[str, str]] = Counter()
        self._runs: Counter[tuple[str, str]] = Counter()

    def add(self, reached: Mapping[tuple[str, str], int]) -> None:
        """One more run."""
        found: Counter[tuple[str, str]] = Counter()
        for (kind, name), count in reached.items():
            for place in _refusals_in(name) if kind == "refusal" else (name,):
                found[kind, place] += count
        self._times.update(found)
        self._runs.update(found.keys())

    def table(self) -> list[Reached]:
        """Everything in the vocabulary, and whatever else came up, by kind and name."""
        places = sorted({*vocabulary(), *self._times})
        return [Reached(kind, name, self._times[kind, name], self._runs[kind, name]) for kind, name in places]


@cache
def vocabulary() -> frozenset[tuple[str, str]]:
    """(kind, name) of everything that could come up."""
    messages = [("message", each.__name__) for each in get_args(Message)]
    clients = [("client message", each.__name__) for each in (*get_args(RingQuestion), *get_args(RingReply))]
    events = [("event", name) for name in EVENTS]
    refusals = [("refusal", name) for name in _literals(_refusals)]
    lies = [("lie", name) for name in KINDS]
    points = [("point", name) for name in _literals(_points)]
    return frozenset(place for place in [*messages, *clients, *events, *refusals, *lies, *points] if place[1])


def _literals(find: Callable[[ast.AST], Iterator[str]]) -> Iterator[str]:
    for file in sorted(Path(bft.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            yield from find(node)


def _refusals(node: ast.AST) -> Iterator[str]:
    """Reasons in `Rejected(sender, reason)`, and those that functions return which say why something is refused."""
    match node:
        case ast.Call(func=ast.Name(id="Rejected"), args=[_, reason]):
            yield from _texts(reason)
        case ast.FunctionDef(name=name) if REFUSING.search(name):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return) and inner.value is not None:
                    yield from _texts(inner.value)


def _points(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Call(func=ast.Name(id="Mark"), args=[_, point]):
            yield from _texts(point)


def _texts(node: ast.expr) -> Iterator[str]:
    """The text of a literal, with ANYTHING for what is put into it."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else ANYTHING for part in parts)
        case ast.IfExp(body=body, orelse=other):
            yield from _texts(body)
            yield from _texts(other)


@cache
def _refusals_in(reason: str) -> tuple[str, ...]:
    """The reason, and the one inside that it gives: a NEW-VIEW is refused for a VIEW-CHANGE that it shows."""
    inner = _refusal(reason.partition(": ")[2])
    return (_refusal(reason), inner) if ("refusal", inner) in vocabulary() else (_refusal(reason),)


def _refusal(reason: str) -> str:
    """The reason as the code has it; one that the code does not spell out, without what follows its colon."""
    known = (name for kind, name in vocabulary() if kind == "refusal")
    # An exact text is longer than the pattern that also fits it.
    for name in sorted(known, key=lambda name: (ANYTHING in name, -len(name), name)):
        if re.fullmatch(".*".join(map(re.escape, name.split(ANYTHING))), reason, re.DOTALL):
            return name
    return reason.partition(":")[0]


def in_words(reached: Iterable[Reached]) -> list[str]:
    """The table as lines, the holes of each kind together in one."""
    lines: list[str] = []
    for kind, group in groupby(reached, key=lambda row: row.kind):
        rows = list(group)
        holes = [row.name for row in rows if not row.times]
        lines += ["", f"{kind + 's':<64} {'times':>9} {'runs':>7}"]
        lines += [f"  {row.name[:60]:<62} {row.times:>9} {row.runs:>7}" for row in rows if row.times]
        if holes:
            lines += wrap(f"never: {'; '.join(holes)}", 100, initial_indent="  ", subsequent_indent="    ")
    return lines

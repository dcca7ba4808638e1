"""Arithmetic of a run: from what nodes asked, and when they came and went, to its figures. Pure functions."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cluster.bench.figures import HUNDREDTHS, percentile
from cluster.sim.churn.objects import Read
from cluster.sim.churn.world import Host, Lookup

PATIENCE_SECONDS = 60.0
"""A lookup that is answered later is not completed."""

YOUNG_SECONDS = 30.0
"""Nodes that start so late before the end are not asked whether they joined."""


class Figures(NamedTuple):
    """Of all lookups that count: those whose asker lived until the answer, or for as long as it may take."""

    lookups: int
    completed: float | None
    """Share that was answered in time; this and all below are None where there is nothing to go by."""
    consistent: float | None
    """Share of those completed whose root is the one that more than half of them named for this key."""
    mean_seconds: float | None
    p50_seconds: float | None
    p95_seconds: float | None
    quantiles_seconds: list[float]
    """At 0, 0.01 ... 0.99, then 0.999; empty when none completed."""
    mean_hops: float | None
    stretch: float | None
    """Time on the way to roots by what packets take that go there straight."""


class Second(NamedTuple):
    """Lookups that were asked in one second of the time measured."""

    second: int
    lookups: int
    succeeded: float | None
    """Share that was completed, with the answer of the majority."""
    completed: float | None
    mean_seconds: float | None
    p95_seconds: float | None


class ReadFigures(NamedTuple):
    """Of all reads that count: as for lookups. None where there is nothing to go by."""

    reads: int
    succeeded: float | None
    """Share that brought the object in time."""
    mean_seconds: float | None
    """From asking to the object's coming; this and all below of those that brought it."""
    p50_seconds: float | None
    p95_seconds: float | None
    p99_seconds: float | None
    mean_attempts: float | None
    """Nodes that were said to hold the object and asked for it."""
    stretch: float | None
    """Time until the question was at a holder, by what a packet takes to the nearest that lived when it was asked."""


class OfObjects(NamedTuple):
    """What a run with objects shows besides."""

    all: ReadFigures
    eclipsed: ReadFigures
    """Of the one object whose first root is surrounded."""
    insert_bytes: list[int]
    """In order: for each node that joined, all that was sent by it, to it and for it until a moment after."""


def counts(lookup: Lookup) -> bool:
    """Whether it says something of the overlay: who asked lived to see the answer, or that there is none."""
    return not lookup.asker_died


def completed(lookup: Lookup) -> bool:
    """Whether the answer came in time."""
    return lookup.answered is not None and lookup.answered - lookup.asked <= PATIENCE_SECONDS


def majorities(lookups: Iterable[Lookup]) -> dict[bytes, bytes]:
    """By key, the root that more than half of its completed lookups named; a key without one is left out."""
    named: defaultdict[bytes, Counter[bytes]] = defaultdict(Counter)
    for lookup in lookups:
        if completed(lookup):
            named[lookup.key][lookup.root] += 1
    best = {key: roots.most_common(1)[0] for key, roots in named.items()}
    return {key: root for key, (root, votes) in best.items() if 2 * votes > named[key].total()}


def figures(lookups: Sequence[Lookup]) -> Figures:
    """Those of a run."""
    majority = majorities(lookups)
    counted = [lookup for lookup in lookups if counts(lookup)]
    done = [lookup for lookup in counted if completed(lookup)]
    times = sorted(_seconds(lookup) for lookup in done)
    away = [lookup for lookup in done if lookup.direct]
    straight = sum(lookup.direct for lookup in away)
    return Figures(
        lookups=len(counted),
        completed=share(len(done), len(counted)),
        consistent=share(sum(majority.get(lookup.key) == lookup.root for lookup in done), len(done)),
        mean_seconds=share(sum(times), len(times)),
        p50_seconds=percentile(times, 0.5) if times else None,
        p95_seconds=percentile(times, 0.95) if times else None,
        quantiles_seconds=[percentile(times, each) for each in HUNDREDTHS] if times else [],
        mean_hops=share(sum(lookup.hops for lookup in done), len(done)),
        stretch=share(sum(_seconds(lookup) - lookup.direct for lookup in away), straight),
    )


def of_reads(reads: Iterable[Read]) -> ReadFigures:
    """Those of a run, or of some of its reads."""
    counted = [read for read in reads if not read.asker_died]
    done = [read for read in counted if read.answered is not None and read.answered - read.asked <= PATIENCE_SECONDS]
    times = sorted(read.answered - read.asked for read in done if read.answered is not None)
    return ReadFigures(
        reads=len(counted),
        succeeded=share(len(done), len(counted)),
        mean_seconds=share(sum(times), len(times)),
        p50_seconds=percentile(times, 0.5) if times else None,
        p95_seconds=percentile(times, 0.95) if times else None,
        p99_seconds=percentile(times, 0.99) if times else None,
        mean_attempts=share(sum(read.attempts for read in done), len(done)),
        stretch=share(sum(read.way_seconds for read in done), sum(read.straight_seconds for read in done)),
    )


def success(lookups: Iterable[Lookup], majority: dict[bytes, bytes]) -> float | None:
    """Share that was completed with the answer of the majority."""
    counted = [lookup for lookup in lookups if counts(lookup)]
    return share(sum(completed(lookup) and majority.get(lookup.key) == lookup.root for lookup in counted), len(counted))


def seconds(lookups: Iterable[Lookup], begin: float, end: float) -> list[Second]:
    """Each second from begin to end; those in which nothing was asked have no shares."""
    lookups = list(lookups)
    majority = majorities(lookups)
    rows: list[list[Lookup]] = [[] for _ in range(round(end - begin))]
    for lookup in lookups:
        if begin <= lookup.asked < begin + len(rows) and counts(lookup):
            rows[int(lookup.asked - begin)].append(lookup)
    return [_second(number, row, majority) for number, row in enumerate(rows)]


def joined(hosts: Iterable[Host], begin: float, end: float) -> tuple[int, float | None]:
    """How many nodes started in this time, the last moments of it left out, and the share of them that joined in it."""
    started = [host for host in hosts if host.honest and begin <= host.started < end - YOUNG_SECONDS]
    came = sum(1 for host in started if host.joined is not None and host.joined <= end)
    return len(started), share(came, len(started))


def join_times(hosts: Iterable[Host], begin: float, end: float) -> list[float]:
    """Seconds from start to membership, in order, of the nodes that started in this time and joined."""
    return sorted(
        host.joined - host.started
        for host in hosts
        if host.honest and begin <= host.started < end and host.joined is not None
    )


def share(part: float, whole: float) -> float | None:
    """One by the other; None of nothing."""
    return part / whole if whole else None


def _second(number: int, row: list[Lookup], majority: dict[bytes, bytes]) -> Second:
    done = [lookup for lookup in row if completed(lookup)]
    times = sorted(_seconds(lookup) for lookup in done)
    return Second(
        number,
        len(row),
        success(row, majority),
        share(len(done), len(row)),
        share(sum(times), len(times)),
        percentile(times, 0.95) if times else None,
    )


def _seconds(lookup: Lookup) -> float:
    assert lookup.answered is not None, "a lookup without an answer took no time"
    return lookup.answered - lookup.asked

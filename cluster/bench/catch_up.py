"""`pond bench catch-up`: a server that missed very much comes back to a ring that is under load.

A backup is killed, many updates run without it, some of them large, and it is started again while writers go on. Until
it says that it serves, and is where the others are, the most memory that each server takes is noted, and what writers
see. Afterwards another backup is killed, so that no read is proved without the one that came back, and every object is
read back.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

from cluster import launch, processes
from cluster.answers import CatchUp, Floor, ServerMemory, WritersSaw
from cluster.bench import floor
from cluster.bench.memory import Peaks
from cluster.bench.stream import SMALL_BYTES, Mix, Rate, Stream, Writers
from cluster.check import standing
from cluster.layout import Layout
from pond.cli.answers import table
from pond.errors import TimedOut
from pond.protocol import Condition

MOST_LARGE_BYTES = 2_000_000
"""Large updates have this many bytes, or fewer where all of them together are to be less."""

LEAST_LARGE = 20
"""How many large updates there are at least."""

BULK_WRITERS = 64
WRITERS = 8
WITHOUT = "what it misses is written"

LOOK_SECONDS = 0.25
SAY_SECONDS = 10.0

Say = Callable[[str], object]


class Size(NamedTuple):
    """How much a server is to miss."""

    updates: int
    size_bytes: int
    """Of what is written, in all."""
    objects: int = 256
    watch_seconds: float = 15.0
    """For how long writers are watched before and after."""

    def mix(self) -> Mix:
        """Small updates, and as many large ones as it takes."""
        large = min(MOST_LARGE_BYTES, self.size_bytes // LEAST_LARGE)
        if large <= SMALL_BYTES:
            return Mix(0, 0)
        return Mix(max(1, self.updates * large // self.size_bytes), large)


FULL = Size(100_000, 1_000_000_000)


class _Return(NamedTuple):
    began: float
    ended: float
    fetching_seconds: float
    """How long it said that it fetches a state."""
    missed_batches: int
    peaks: Peaks


def catch_up(size: Size = FULL, seconds: float = 1800.0, parent: Path | None = None, say: Say = len) -> CatchUp:
    """Run it; the server that comes back has so many seconds. Raises PondError."""
    with tempfile.TemporaryDirectory(prefix="pond-bench-", dir=parent) as scratch:
        layout, _ = launch.up(Path(scratch) / "cluster")
        try:
            machine = floor.measure(SMALL_BYTES, layout.directory)
            with Stream(layout.directory, size.objects) as stream:
                return _measure(layout, stream, size, machine, seconds, say)
        finally:
            launch.down(layout.directory)


def _measure(layout: Layout, stream: Stream, size: Size, machine: Floor, seconds: float, say: Say) -> CatchUp:
    mix = size.mix()
    rates: dict[str, Rate] = {}
    views = standing.view(layout)
    leads = standing.leader(layout).name
    away, other = [server.name for server in layout.servers if server.name != leads][:2]
    with stream.writers(WRITERS, mix) as writers:
        rates["all four serve"] = _rate(stream, writers, size.watch_seconds)
    launch.kill(layout.directory, (away,))
    reached = standing.furthest(layout)
    began, first = monotonic(), len(stream.done)
    with stream.writers(BULK_WRITERS, mix) as writers:
        _write(stream, writers, size, first, away, say)
    rates[WITHOUT] = stream.rate(began, monotonic())
    with stream.writers(WRITERS, mix) as writers:
        rates["one is away"] = _rate(stream, writers, size.watch_seconds)
        missed = stream.done[first:]
        back = _come_back(layout, away, writers, reached, seconds, say)
        rates["it catches up"] = stream.rate(back.began, back.ended)
        rates["afterwards"] = _rate(stream, writers, size.watch_seconds)
    views = standing.view(layout) - views
    launch.kill(layout.directory, (other,))
    say(f"reading all back without {other}")
    lost = stream.lost()
    took, missed_bytes = back.ended - back.began, sum(done.size_bytes for done in missed)
    return CatchUp(
        floor=machine,
        missed_updates=len(missed),
        missed_batches=back.missed_batches,
        missed_bytes=missed_bytes,
        seconds=took,
        fetching_seconds=back.fetching_seconds,
        bytes_per_second=missed_bytes / took,
        memory=[
            ServerMemory(name=name, returned=name == away, resident_bytes=most.resident, anonymous_bytes=most.anonymous)
            for name, most in back.peaks.most.items()
        ],
        writers=[
            WritersSaw(
                name=name,
                writers=BULK_WRITERS if name == WITHOUT else WRITERS,
                seconds=rate.seconds,
                updates=rate.updates,
                per_second=rate.updates / rate.seconds,
                p50_ms=rate.p50_ms,
                p99_ms=rate.p99_ms,
                longest_gap_ms=rate.longest_gap_ms,
            )
            for name, rate in rates.items()
        ],
        views=views,
        unknown=stream.unknown,
        lost=lost,
    )


def _rate(stream: Stream, writers: Writers, seconds: float) -> Rate:
    began = monotonic()
    sleep(seconds)
    writers.check()
    return stream.rate(began, monotonic())


def _write(stream: Stream, writers: Writers, size: Size, first: int, away: str, say: Say) -> None:
    """Return when enough has been written."""
    said = monotonic()
    while len(stream.done) - first < size.updates:
        sleep(LOOK_SECONDS)
        writers.check()
        if monotonic() >= said + SAY_SECONDS:
            said = monotonic()
            say(f"{away} is away: {len(stream.done) - first} of {size.updates} updates written")


def _come_back(layout: Layout, away: str, writers: Writers, reached: int, seconds: float, say: Say) -> _Return:
    """Start the server, and watch until it is in step. Raises TimedOut."""
    missed = standing.furthest(layout) - reached
    began = said = monotonic()
    launch.restart(layout.directory, (away,))
    pids = {server.name: processes.look(server).pid or 0 for server in layout.servers}
    looked, fetching = monotonic(), 0.0
    with Peaks(pids) as peaks:
        while True:
            found = standing.statuses(layout)
            writers.check()
            now = monotonic()
            status = found.get(away)
            if status is not None and status.condition == Condition.TRANSFERRING:
                fetching += now - looked
            looked = now
            if status is not None and status.condition == Condition.SERVING and standing.in_step(found, (away,)):
                return _Return(began, now, fetching, missed, peaks)
            told = "no answer" if status is None else f"{status.condition}, batch {status.sequence}, {status.detail}"
            if now - began > seconds:
                raise TimedOut(f"{away} is not in step after {seconds:g} s: {told}")
            if now >= said + SAY_SECONDS:
                said = now
                say(f"{away} after {now - began:.0f} s: {told}")
            sleep(LOOK_SECONDS)


def in_words(measured: CatchUp) -> str:
    """The answer as text."""
    rows: list[list[object]] = [["", "WRITERS", "SECONDS", "UPDATES", "PER S", "P50 MS", "P99 MS", "GAP S"]]
    for saw in measured.writers:
        times = [f"{saw.p50_ms:.1f}", f"{saw.p99_ms:.1f}", f"{saw.longest_gap_ms / 1000:.2f}"]
        rows.append([saw.name, saw.writers, f"{saw.seconds:.0f}", saw.updates, f"{saw.per_second:.0f}", *times])
    memory: list[list[object]] = [["MOST MEMORY MEANWHILE", "ANONYMOUS MB", "RESIDENT MB"]]
    for server in measured.memory:
        name = f"{server.name}, which came back" if server.returned else server.name
        memory.append([name, f"{server.anonymous_bytes / 1e6:.0f}", f"{server.resident_bytes / 1e6:.0f}"])
    machine = measured.floor
    return "\n".join(
        [
            f"missed: {measured.missed_updates} updates in {measured.missed_batches} batches,"
            f" {measured.missed_bytes / 1e6:.0f} MB of content",
            f"in step after {measured.seconds:.1f} s, {measured.fetching_seconds:.1f} s of it fetching a state:"
            f" {measured.bytes_per_second / 1e6:.1f} MB/s, {measured.missed_updates / measured.seconds:.0f} updates/s",
            f"views: {measured.views}, given up: {measured.unknown}, lost: {measured.lost}",
            "",
            table(rows, right=range(1, len(rows[0]))),
            "",
            table(memory, right=(1, 2)),
            "",
            f"floor of one small write: {machine.write_ms:.2f} ms ({floor.SYNCS} syncs of {machine.sync_ms:.3f},"
            f" {floor.ROUND_TRIPS} loopback round trips of {machine.loopback_round_trip_ms:.3f}, {floor.CHECKS}"
            f" signature checks of {machine.signature_check_ms:.3f})",
        ]
    )

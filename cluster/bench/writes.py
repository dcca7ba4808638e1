"""`pond bench write-latency`: how long one client waits for one durable, agreed, certified write, and for which phase.

A ring of four on real processes with all defaults, one client in a closed loop: each write is a new version of one
object, acknowledged when its certificate has been checked. The floor is measured in the same run, between the writes
that warm up and those that count. Phases are those of OceanStore's prototype (FAST 2003), timed by the primary.
"""

import asyncio
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter, process_time
from typing import NamedTuple

import pond
from cluster import launch
from cluster.answers import Floor, Measured, PhaseBesidePond, WriteLatency
from cluster.bench import floor, usage
from cluster.bench.figures import CPU_COLUMNS, CPU_COLUMNS_ARE, HUNDREDTHS, percentile, three_digits
from cluster.check import standing
from cluster.layout import Layout, ServerPlace
from pond.cli.answers import table

WARM_UP = 20


class Size(NamedTuple):
    """One row to measure: its name, bytes per write, and how many writes."""

    name: str
    payload_bytes: int
    writes: int


SIZES = (Size("write 4 KiB", 4096, 500), Size("write 2 MB", 2_000_000, 50))

SERIALIZE = ("admitted to proposed", "proposed to prepared", "prepared to executed")
"""What makes up `serialize`, but for the time to apply, which ends with `executed` too."""

PHASES = ("validate", "serialize", "apply", "archive", "sign", "rest", "total")

POND_MS: Mapping[int, Mapping[str, float]] = {
    4096: {"validate": 0.3, "serialize": 6.1, "apply": 1.5, "archive": 4.5, "sign": 77.8, "total": 95},
    2_000_000: {"validate": 0.4, "serialize": 26.6, "apply": 113.0, "archive": 566.9, "sign": 75.8, "total": 572},
}
"""By size, from the paper's table of phases; `total` is the median with the archive off."""

TARGET, STRETCH = 10, 30
"""How many times as fast as Pond a phase is to be."""


def write_latency(sizes: tuple[Size, ...] = SIZES, parent: Path | None = None) -> WriteLatency:
    """Start a ring in a temporary directory (in `parent`), measure, and stop it. Raises PondError."""
    with tempfile.TemporaryDirectory(prefix="pond-bench-", dir=parent) as scratch:
        directory = Path(scratch) / "cluster"
        layout, _ = launch.up(directory)
        try:
            return asyncio.run(_measure(layout, standing.leader(layout), sizes))
        finally:
            launch.down(directory)


async def _measure(layout: Layout, leader: ServerPlace, sizes: tuple[Size, ...]) -> WriteLatency:
    measured = WriteLatency(floor={}, results=[], phases={}, phases_ms={})
    async with pond.aio.connect(layout.directory) as store:
        for size in sizes:
            target = await store.create(size.name)
            payloads = [os.urandom(size.payload_bytes) for _ in range(8)]
            for number in range(WARM_UP):
                await target.write(payloads[number % len(payloads)])
            machine = measured.floor[size.name] = floor.measure(size.payload_bytes, layout.directory)
            counted, servers, own = usage.counted(leader), usage.of_servers(layout), process_time()
            machine_cpu = usage.machine_seconds()
            times: list[float] = []
            for number in range(size.writes):
                began = perf_counter()
                await target.write(payloads[number % len(payloads)])
                times.append(perf_counter() - began)
            spent = usage.spent(leader.name, servers, usage.of_servers(layout), {0: (own, process_time())})
            machine_cpu = usage.machine_seconds() - machine_cpu
            counts = usage.counted(leader).since(counted)
            result = _result(size, times, spent, machine_cpu, machine)
            measured.results.append(result)
            measured.phases_ms[size.name] = {name: counts.mean_ms(name) for name in counts.phases}
            mean = sum(times) * 1000 / len(times)
            measured.phases[size.name] = phases(
                measured.phases_ms[size.name], mean, POND_MS.get(size.payload_bytes, {})
            )
    return measured


def _result(size: Size, times: list[float], spent: usage.Spent, machine_cpu: float, machine: Floor) -> Measured:
    ordered = sorted(seconds * 1000 for seconds in times)
    count = len(times)
    own = spent.ring + sum(spent.clients)
    return Measured(
        name=size.name,
        n=count,
        p50_ms=percentile(ordered, 0.5),
        p95_ms=percentile(ordered, 0.95),
        p99_ms=percentile(ordered, 0.99),
        per_second=count / sum(times),
        cpu_ms_per_op=own * 1000 / count,
        primary_cpu_ms=spent.primary * 1000 / count,
        backup_cpu_ms=sum(spent.backups) / max(1, len(spent.backups)) * 1000 / count,
        ring_cpu_ms=spent.ring * 1000 / count,
        client_cpu_ms=sum(spent.clients) * 1000 / count,
        cores=own / sum(times),
        cores_of_others=max(0.0, machine_cpu - own) / sum(times),
        quantiles_ms=[percentile(ordered, share) for share in HUNDREDTHS],
        ratio_to_floor=percentile(ordered, 0.5) / machine.write_ms,
    )


def phases(timed_ms: Mapping[str, float], total_ms: float, pond_ms: Mapping[str, float]) -> list[PhaseBesidePond]:
    """Pond's phases, from the means that the primary timed and the mean that the client waited."""
    found: dict[str, float | None] = {
        "validate": timed_ms.get("validate", 0.0),
        "serialize": max(0.0, sum(timed_ms.get(part, 0.0) for part in SERIALIZE) - timed_ms.get("apply", 0.0)),
        "apply": timed_ms.get("apply", 0.0),
        "archive": None,
        "sign": timed_ms.get("executed to certified", 0.0),
    }
    found["rest"] = max(0.0, total_ms - sum(ms for ms in found.values() if ms is not None))
    found["total"] = total_ms
    return [_beside(phase, found[phase], pond_ms.get(phase)) for phase in PHASES]


def _beside(phase: str, ms: float | None, pond_ms: float | None) -> PhaseBesidePond:
    times_faster = pond_ms / ms if pond_ms and ms else None
    return PhaseBesidePond(phase=phase, ms=ms, pond_ms=pond_ms, times_faster=times_faster)


def in_words(measured: WriteLatency) -> str:
    """The answer as text."""
    head = ",N,P50 MS,P95 MS,P99 MS,PER S,"
    rows: list[list[object]] = [[*(head + CPU_COLUMNS).split(","), "FLOOR MS", "X FLOOR"]]
    notes: list[str] = []
    for row in measured.results:
        machine = measured.floor[row.name]
        times = (row.p50_ms, row.p95_ms, row.p99_ms, row.per_second)
        costs = (row.primary_cpu_ms, row.backup_cpu_ms, row.ring_cpu_ms, row.client_cpu_ms)
        cores = [f"{row.cores:.2f}", f"{row.cores_of_others:.2f}"]
        floors = (machine.write_ms, row.ratio_to_floor)
        rows.append([row.name, row.n, *map(three_digits, (*times, *costs)), *cores, *map(three_digits, floors)])
        notes.append(
            f"floor of {row.name}: {floor.SYNCS} syncs of {machine.sync_ms:.3f} ms, {floor.ROUND_TRIPS} loopback"
            f" round trips of {machine.loopback_round_trip_ms:.3f}, {floor.CHECKS} signature checks of"
            f" {machine.signature_check_ms:.3f}, one hash of {machine.hash_ms:.3f}"
        )
    return "\n".join(
        [table(rows, right=range(1, len(rows[0]))), "", CPU_COLUMNS_ARE, *notes, "", _phases_in_words(measured)]
    )


def _phases_in_words(measured: WriteLatency) -> str:
    names = [row.name for row in measured.results]
    head = ["MEAN MS", *(word for name in names for word in (name.removeprefix("write "), "POND", "X FASTER"))]
    rows: list[list[object]] = [[*head]]
    for number, phase in enumerate(PHASES):
        found = [measured.phases[name][number] for name in names]
        cells = [figure for one in found for figure in (one.ms, one.pond_ms, one.times_faster)]
        rows.append([phase, *map(three_digits, cells)])
    return table(rows, right=range(1, len(rows[0])))

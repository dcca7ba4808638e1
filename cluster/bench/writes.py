"""`pond bench write-latency`: how long one client waits for one durable, agreed, certified write.

A ring of four on real processes with all defaults, one client in a closed loop: each write is a new version of one
object, acknowledged when its certificate has been checked. The floor is measured in the same run, before and after.
"""

import asyncio
import os
import tempfile
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import pond
from cluster import launch, processes
from cluster.answers import Floor, Measured, WriteLatency
from cluster.bench import floor
from cluster.layout import Layout
from pond.cli.answers import table

CLOCK_TICK = os.sysconf("SC_CLK_TCK")

WARM_UP = 20


class Size(NamedTuple):
    """One row to measure: its name, bytes per write, and how many writes."""

    name: str
    payload_bytes: int
    writes: int


SIZES = (Size("write 4 KiB", 4096, 500), Size("write 2 MB", 2_000_000, 50))


def write_latency(sizes: tuple[Size, ...] = SIZES, parent: Path | None = None) -> WriteLatency:
    """Start a ring in a temporary directory (in `parent`), measure, and stop it. Raises PondError."""
    with tempfile.TemporaryDirectory(prefix="pond-bench-", dir=parent) as scratch:
        directory = Path(scratch) / "cluster"
        layout, _ = launch.up(directory)
        try:
            return asyncio.run(_measure(layout, sizes))
        finally:
            launch.down(directory)


async def _measure(layout: Layout, sizes: tuple[Size, ...]) -> WriteLatency:
    floors: dict[str, Floor] = {}
    results: list[Measured] = []
    phases: dict[str, dict[str, float]] = {}
    async with pond.aio.connect(layout.directory) as store:
        for size in sizes:
            target = await store.create(size.name)
            payloads = [os.urandom(size.payload_bytes) for _ in range(8)]
            for payload in payloads[: min(len(payloads), WARM_UP)]:
                await target.write(payload)
            floors[size.name] = floor.measure(size.payload_bytes, layout.directory)
            cpu_before = _cpu_seconds(layout)
            times: list[float] = []
            for i in range(size.writes):
                began = perf_counter()
                await target.write(payloads[i % len(payloads)])
                times.append(perf_counter() - began)
            cpu = _cpu_seconds(layout) - cpu_before
            results.append(_result(size, times, cpu, floors[size.name]))
            statuses = await store.status()
            phases[size.name] = {
                name: seconds * 1000
                for status in statuses
                if status is not None and status.replica == status.primary
                for name, seconds in status.phases.items()
            }
    return WriteLatency(floor=floors, results=results, phases_ms=phases)


def _result(size: Size, times: list[float], cpu_seconds: float, machine: Floor) -> Measured:
    ordered = sorted(times)

    def percentile(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000

    p50 = percentile(0.5)
    return Measured(
        name=size.name,
        n=len(times),
        p50_ms=p50,
        p95_ms=percentile(0.95),
        p99_ms=percentile(0.99),
        per_second=len(times) / sum(times),
        cpu_ms_per_op=cpu_seconds * 1000 / len(times),
        ratio_to_floor=p50 / machine.write_ms,
    )


def _cpu_seconds(layout: Layout) -> float:
    """CPU that the servers and this process have used so far."""
    total = sum(os.times()[:2])
    for server in layout.servers:
        pid = processes.look(server).pid
        if pid is not None:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / CLOCK_TICK
    return total


def in_words(measured: WriteLatency) -> str:
    """The answer as text."""
    rows: list[list[object]] = [["", "N", "P50 MS", "P95 MS", "P99 MS", "PER S", "CPU MS", "FLOOR MS", "X FLOOR"]]
    notes: list[str] = []
    for result in measured.results:
        machine = measured.floor[result.name]
        times = [f"{ms:.2f}" for ms in (result.p50_ms, result.p95_ms, result.p99_ms)]
        costs = [f"{result.per_second:.0f}", f"{result.cpu_ms_per_op:.2f}"]
        rows.append([result.name, result.n, *times, *costs, f"{machine.write_ms:.2f}", f"{result.ratio_to_floor:.1f}"])
        notes += [
            f"floor of {result.name}: {floor.SYNCS} syncs of {machine.sync_ms:.3f} ms, {floor.ROUND_TRIPS} loopback"
            f" round trips of {machine.loopback_round_trip_ms:.3f}, {floor.CHECKS} signature checks of"
            f" {machine.signature_check_ms:.3f}, one hash of {machine.hash_ms:.3f}",
            f"at the primary: {_phases(measured.phases_ms[result.name])}",
        ]
    return "\n".join([table(rows, right=range(1, len(rows[0]))), "", *notes])


def _phases(phases_ms: dict[str, float]) -> str:
    return ", ".join(f"{name} {ms:.2f} ms" for name, ms in phases_ms.items())

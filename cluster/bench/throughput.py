"""`pond bench throughput`: how many updates a second a ring of four takes, by size and by number of clients.

Each client is a user of its own: an owner key, links to all four servers, and an object that it overwrites in a closed
loop, all defaults on. Clients share a few processes, whose CPU is counted apart. Each size has a ring of its own.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

import pond
from bft.secret import Secret
from cluster import launch
from cluster.answers import Ceiling, Throughput, ThroughputMeasured
from cluster.bench import floor, usage
from cluster.bench.clients import Clients, Done, Operation
from cluster.bench.figures import HUNDREDTHS, percentile, size_in_words
from cluster.check import standing
from cluster.layout import Layout
from pond.cli.answers import table
from pond.model.names import OWNER_KEY_BYTES

SIZES = (100, 4096, 65536, 2_000_000)
CLIENTS = (1, 4, 16, 64, 256)
SECONDS = 5.0

WARM_UP_SECONDS = 1.5

LONGEST_SECONDS = 30.0
"""Warm-up and measurement each go on until there are as many updates as clients, but no longer than that."""

LOOK_SECONDS = 0.02

Say = Callable[[str], object]


class Write(NamedTuple):
    """Each client overwrites an object of its own."""

    directory: Path
    size_bytes: int

    async def open(self, stack: AsyncExitStack) -> Operation:
        """One more user, with an object that has no version yet. Raises PondError."""
        owner = Secret(os.urandom(OWNER_KEY_BYTES))
        store = await stack.enter_async_context(pond.aio.connect(self.directory, key=owner))
        target = await store.create("bench")
        payload = os.urandom(self.size_bytes)
        return lambda: target.write(payload)


class Window(NamedTuple):
    """What was looked at, at the two ends of the time measured, and what clients did in it."""

    seconds: float
    done: list[Done]
    errors: int
    spent: usage.Spent
    counted: usage.Counted


def throughput(
    sizes: Sequence[int] = SIZES,
    clients: Sequence[int] = CLIENTS,
    seconds: float = SECONDS,
    parent: Path | None = None,
    say: Say = len,
) -> ThroughputMeasured:
    """Start a ring per size in a temporary directory (in `parent`), measure, and stop it. Raises PondError."""
    floors: dict[str, Ceiling] = {}
    results: list[Throughput] = []
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="pond-bench-", dir=parent) as scratch:
            layout, _ = launch.up(Path(scratch) / "cluster")
            try:
                machine = floors[str(size)] = floor.ceiling(size, len(layout.servers), layout.directory)
                with Clients(Write(layout.directory, size), max(clients)) as load:
                    for count in sorted(clients):
                        say(f"{size_in_words(size)}, {count} clients ...")
                        window = measure(layout, load, count, seconds)
                        results.append(_result(size, count, window, machine, load.processes))
            finally:
                launch.down(layout.directory)
    return ThroughputMeasured(floor=floors, results=results)


def measure(layout: Layout, load: Clients, clients: int, seconds: float) -> Window:
    """Let clients work for so long, after a warm-up. Raises PondError."""
    load.open(clients)
    leader = standing.leader(layout)
    load.start(clients)
    _wait(load, clients, WARM_UP_SECONDS)
    before, servers, processes = usage.counted(leader), usage.of_servers(layout), load.cpu_seconds()
    began = monotonic()
    _wait(load, clients, seconds)
    ended = monotonic()
    servers_after, processes_after, after = usage.of_servers(layout), load.cpu_seconds(), usage.counted(leader)
    ran = load.finish()
    used = usage.spent(
        leader.name, servers, servers_after, {pid: (cpu, processes_after[pid]) for pid, cpu in processes.items()}
    )
    done = [one for one in ran.done if began <= one.ended < ended]
    return Window(ended - began, done, len(ran.errors), used, after.since(before))


def _wait(load: Clients, clients: int, seconds: float) -> None:
    """For so long, and longer while there are less updates than clients."""
    began, before = monotonic(), load.done
    sleep(seconds)
    while load.done - before < clients and monotonic() - began < LONGEST_SECONDS:
        sleep(LOOK_SECONDS)


def _result(size_bytes: int, clients: int, window: Window, machine: Ceiling, processes: int) -> Throughput:
    times = sorted(done.seconds * 1000 for done in window.done)
    count = len(times)
    rate = count / window.seconds
    used, batches = window.spent, window.counted.batches

    def at(share: float) -> float | None:
        return percentile(times, share) if times else None

    def each(seconds: float) -> float | None:
        return seconds * 1000 / count if count else None

    return Throughput(
        name=f"{size_in_words(size_bytes)} x {clients}",
        size_bytes=size_bytes,
        clients=clients,
        n=count,
        seconds=window.seconds,
        per_second=rate,
        bytes_per_second=rate * size_bytes,
        p50_ms=at(0.5),
        p95_ms=at(0.95),
        p99_ms=at(0.99),
        p999_ms=at(0.999),
        quantiles_ms=[percentile(times, share) for share in HUNDREDTHS] if times else [],
        batch_size=window.counted.requests / batches if batches else None,
        cpu_ms_per_op=each(used.ring + sum(used.clients)),
        primary_cpu_ms=each(used.primary),
        backup_cpu_ms=each(sum(used.backups) / max(1, len(used.backups))),
        ring_cpu_ms=each(used.ring),
        client_cpu_ms=each(sum(used.clients)),
        client_processes=processes,
        busiest_client=max(used.clients, default=0.0) / window.seconds,
        errors=window.errors,
        views=int(window.counted.views),
        ratio_to_floor=machine.per_second / rate if rate else None,
    )


def in_words(measured: ThroughputMeasured) -> str:
    """The answer as text."""
    head = "SIZE,CLIENTS,PER S,MB/S,P50 MS,P95 MS,P99 MS,P99.9 MS,BATCH,PRIMARY,BACKUP,RING,CLIENT,ERRORS,X FLOOR"
    rows: list[list[object]] = [[*head.split(",")]]
    for row in measured.results:
        times = [_short(ms) for ms in (row.p50_ms, row.p95_ms, row.p99_ms, row.p999_ms)]
        costs = [_short(ms) for ms in (row.primary_cpu_ms, row.backup_cpu_ms, row.ring_cpu_ms, row.client_cpu_ms)]
        rate = [_short(row.per_second), _short(row.bytes_per_second / 1e6)]
        size = size_in_words(row.size_bytes)
        rest = [row.errors, _short(row.ratio_to_floor)]
        rows.append([size, row.clients, *rate, *times, _short(row.batch_size), *costs, *rest])
    notes = [
        f"floor of {size_in_words(int(size))}: {machine.per_second:.0f} a second, from {machine.cpu_ms:.3f} ms of CPU"
        f" on {machine.cores} cores (one signature of {machine.signature_ms:.3f}, a check by each server of"
        f" {machine.signature_check_ms:.3f}, five hashes of {machine.hash_ms:.3f}) and a disk that takes"
        f" {machine.disk_bytes_per_second / 1e6:.0f} MB/s"
        for size, machine in measured.floor.items()
    ]
    cpu = "PRIMARY, BACKUP (mean), RING (all servers) and CLIENT are ms of CPU per update"
    return "\n".join([table(rows, right=range(1, len(rows[0]))), "", cpu, *notes])


def _short(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"

"""`pond bench throughput`: how many updates a second a ring of four takes, by size and by number of clients.

Each client is a user of its own: an owner key, links to all four servers, and an object that it overwrites in a closed
loop, all defaults on. Clients share a few processes, whose CPU is counted apart; when asked for, those of one process
are one user, as in a program that has much to write. Each size has a ring of its own.
"""

import asyncio
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import pond
from bft.secret import Secret
from cluster import launch
from cluster.answers import Ceiling, Throughput, ThroughputMeasured
from cluster.bench import etcd, floor
from cluster.bench.clients import Clients, Operation, Task
from cluster.bench.closed_loop import Ring, Servers, Window, figures, measure
from cluster.bench.etcd import Etcd, Put
from cluster.bench.figures import CPU_COLUMNS, CPU_COLUMNS_ARE, percentile, size_in_words, three_digits
from pond.cli.answers import table
from pond.model.names import OWNER_KEY_BYTES

SIZES = (100, 4096, 65536, 2_000_000)
CLIENTS = (1, 4, 16, 64, 256)
SECONDS = 5.0

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


class WriteTogether:
    """All clients of one process are one user, who signs with one signature what is sent in one go."""

    def __init__(self, directory: Path, size_bytes: int) -> None:
        self._directory = directory
        self._payload_bytes = size_bytes
        self._user: asyncio.Future[pond.aio.Store] | None = None
        self._objects = 0

    async def open(self, stack: AsyncExitStack) -> Operation:
        """One more object of this process' user. Raises PondError."""
        if self._user is None:
            owner = Secret(os.urandom(OWNER_KEY_BYTES))
            self._user = asyncio.ensure_future(stack.enter_async_context(pond.aio.connect(self._directory, key=owner)))
        self._objects += 1
        target = await (await self._user).create(f"bench {self._objects}")
        payload = os.urandom(self._payload_bytes)
        return lambda: target.write(payload)


def throughput(
    sizes: Sequence[int] = SIZES,
    clients: Sequence[int] = CLIENTS,
    seconds: float = SECONDS,
    with_etcd: bool = False,
    together: bool = False,
    parent: Path | None = None,
    say: Say = len,
) -> ThroughputMeasured:
    """Start a ring per size in a temporary directory (in `parent`), measure, and stop it, and then etcd likewise.

    Raises PondError.
    """
    floors: dict[str, Ceiling] = {}
    results: list[Throughput] = []
    version, gateway = None, []

    def run(system: str, servers: Servers, task: Task, size: int) -> None:
        with Clients(task, max(clients)) as load:
            for count in sorted(clients):
                say(f"{system}, {size_in_words(size)}, clients: {count}")
                results.append(_result(system, count, measure(servers, load, count, seconds), size, floors[str(size)]))

    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="pond-bench-", dir=parent) as scratch:
            layout, _ = launch.up(Path(scratch) / "cluster")
            try:
                floors[str(size)] = floor.ceiling(size, len(layout.servers), layout.directory)
                task = WriteTogether if together else Write
                run("pond", Ring(layout), task(layout.directory, size), size)
            finally:
                launch.down(layout.directory)
        if with_etcd:
            with (
                tempfile.TemporaryDirectory(prefix="pond-bench-", dir=parent) as scratch,
                Etcd(Path(scratch)) as members,
            ):
                version = members.version()
                gateway.append(members.gateway_ms())
                run("etcd", members, Put(members.address, size), size)
    gateway_ms = percentile(sorted(gateway), 0.5) if gateway else None
    return ThroughputMeasured(floor=floors, results=results, etcd=version, etcd_gateway_ms=gateway_ms)


def _result(system: str, clients: int, window: Window, size_bytes: int, machine: Ceiling) -> Throughput:
    rate, counted = len(window.done) / window.seconds, window.counted
    return Throughput(
        name=f"{size_in_words(size_bytes)} x {clients}",
        system=system,
        clients=clients,
        batch_size=counted.requests / counted.batches if counted.batches else None,
        views=int(counted.views),
        ratio_to_floor=machine.per_second / rate if rate else None,
        **figures(window, size_bytes),
    )


def in_words(measured: ThroughputMeasured) -> str:
    """The answer as text."""
    head = "SIZE,CLIENTS,PER S,MB/S,P50 MS,P95 MS,P99 MS,P99.9 MS,BATCH,"
    rows: list[list[object]] = [[*(head + CPU_COLUMNS).split(","), "ERRORS", "X FLOOR"]]
    for row in measured.results:
        times = [three_digits(ms) for ms in (row.p50_ms, row.p95_ms, row.p99_ms, row.p999_ms)]
        costs = [three_digits(ms) for ms in (row.primary_cpu_ms, row.backup_cpu_ms, row.ring_cpu_ms, row.client_cpu_ms)]
        rate = [three_digits(row.per_second), three_digits(row.bytes_per_second / 1e6)]
        size = size_in_words(row.size_bytes) + (", etcd" if row.system == "etcd" else "")
        rest = [f"{row.cores:.2f}", f"{row.cores_of_others:.2f}", row.errors, three_digits(row.ratio_to_floor)]
        rows.append([size, row.clients, *rate, *times, three_digits(row.batch_size), *costs, *rest])
    notes = [
        f"floor of {size_in_words(int(size))}: {machine.per_second:.0f} a second, from {machine.cpu_ms:.3f} ms of CPU"
        f" on {machine.cores} cores (one signature of {machine.signature_ms:.3f}, a check by each server of"
        f" {machine.signature_check_ms:.3f}, five hashes of {machine.hash_ms:.3f}) and a disk that takes"
        f" {machine.disk_bytes_per_second / 1e6:.0f} MB/s"
        for size, machine in measured.floor.items()
    ]
    if measured.etcd is not None:
        notes.append(
            f"etcd {measured.etcd}: {etcd.MEMBERS} members, synced, nothing signed or encrypted; by its JSON gateway,"
            f" which takes {measured.etcd_gateway_ms:.2f} ms of each time (what a question without agreement takes)"
        )
    notes += [f"{row.system}, {row.name}: {row.error}" for row in measured.results if row.error is not None]
    return "\n".join([table(rows, right=range(1, len(rows[0]))), "", CPU_COLUMNS_ARE, *notes])

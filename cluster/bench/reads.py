"""`pond bench read`: how long a proved read takes, by size, consistency and number of clients.

Each client is a user of its own with an owner key, links to all four servers and one object, which it reads from start
to end in a closed loop. Every read asks the ring anew which version is the newest, checks the certificate that says so
and the hash of every block, and decrypts them. Nothing is written meanwhile, but the ring's empty batch each second.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import pond
from bft.secret import Secret
from cluster import launch
from cluster.answers import Read, ReadFloor, ReadsMeasured
from cluster.bench import floor
from cluster.bench.clients import Clients, Operation
from cluster.bench.closed_loop import Ring, Window, figures, measure
from cluster.bench.figures import CPU_COLUMNS, CPU_COLUMNS_ARE, size_in_words, three_digits
from pond.cli.answers import table
from pond.client.ring import Consistency
from pond.model.names import OWNER_KEY_BYTES

SIZES = (4096, 2_000_000)
CLIENTS = (1, 64)
CONSISTENCIES: tuple[Consistency, ...] = ("any", "latest")
SECONDS = 5.0


class ReadBack(NamedTuple):
    """Each client reads an object of its own."""

    directory: Path
    size_bytes: int
    consistency: Consistency

    async def open(self, stack: AsyncExitStack) -> Operation:
        """One more user, who has written the object. Raises PondError."""
        owner = Secret(os.urandom(OWNER_KEY_BYTES))
        store = await stack.enter_async_context(pond.aio.connect(self.directory, key=owner))
        target = await store.create("bench")
        await target.write(os.urandom(self.size_bytes))
        return lambda: target.read(consistency=self.consistency)


def reads(
    sizes: Sequence[int] = SIZES,
    clients: Sequence[int] = CLIENTS,
    seconds: float = SECONDS,
    parent: Path | None = None,
    say: Callable[[str], object] = len,
) -> ReadsMeasured:
    """Start a ring in a temporary directory (in `parent`), measure, and stop it. Raises PondError."""
    floors: dict[str, ReadFloor] = {}
    results: list[Read] = []
    with tempfile.TemporaryDirectory(prefix="pond-bench-", dir=parent) as scratch:
        layout, _ = launch.up(Path(scratch) / "cluster")
        try:
            for size in sizes:
                machine = floors[str(size)] = floor.reading(size)
                for consistency in CONSISTENCIES:
                    with Clients(ReadBack(layout.directory, size, consistency), max(clients)) as load:
                        for count in sorted(clients):
                            say(f"{size_in_words(size)}, {consistency}, clients: {count}")
                            window = measure(Ring(layout), load, count, seconds)
                            results.append(_result(count, window, size, consistency, machine))
        finally:
            launch.down(layout.directory)
    return ReadsMeasured(floor=floors, results=results)


def _result(clients: int, window: Window, size_bytes: int, consistency: Consistency, machine: ReadFloor) -> Read:
    found = figures(window, size_bytes)
    rate, p50 = found["per_second"], found["p50_ms"]
    ratio = None if p50 is None else p50 / machine.read_ms if clients == 1 else machine.per_second / rate
    return Read(
        name=f"{size_in_words(size_bytes)} {consistency} x {clients}",
        clients=clients,
        consistency=consistency,
        ratio_to_floor=ratio,
        **found,
    )


def in_words(measured: ReadsMeasured) -> str:
    """The answer as text."""
    head = "SIZE,CONSISTENCY,CLIENTS,PER S,MB/S,P50 MS,P95 MS,P99 MS,P99.9 MS,"
    rows: list[list[object]] = [[*(head + CPU_COLUMNS).split(","), "ERRORS", "X FLOOR"]]
    for row in measured.results:
        times = (row.p50_ms, row.p95_ms, row.p99_ms, row.p999_ms)
        costs = (row.primary_cpu_ms, row.backup_cpu_ms, row.ring_cpu_ms, row.client_cpu_ms)
        rates = (row.per_second, row.bytes_per_second / 1e6)
        rest = [f"{row.cores:.2f}", f"{row.cores_of_others:.2f}", row.errors, three_digits(row.ratio_to_floor)]
        words = [size_in_words(row.size_bytes), row.consistency, row.clients]
        rows.append([*words, *map(three_digits, (*rates, *times, *costs)), *rest])
    notes = [
        f"floor of {size_in_words(int(size))}: {machine.read_ms:.2f} ms, from {floor.READ_ROUND_TRIPS} loopback round"
        f" trips of {machine.loopback_round_trip_ms:.3f}, one signature check of {machine.signature_check_ms:.3f} and a"
        f" hash of {machine.hash_ms:.3f}; {machine.per_second:.0f} a second on {machine.cores} cores"
        for size, machine in measured.floor.items()
    ]
    notes += [f"{row.name}: {row.error}" for row in measured.results if row.error is not None]
    return "\n".join([table(rows, right=range(2, len(rows[0]))), "", CPU_COLUMNS_ARE, *notes])

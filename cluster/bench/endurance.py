"""`pond bench endurance`: what a server keeps, in memory and in its log, while a ring takes very many updates.

Versions stay readable for ever, so the store grows with what is written. Memory and the log must not: the log ends a
fixed number of batches below the last stable checkpoint (TOCS 2002, section 4.3).
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

from bft import log
from bft.tuning import DEFAULT
from cluster import launch, processes
from cluster.answers import Endurance, Endured
from cluster.bench.clients import Clients
from cluster.bench.closed_loop import LOOK_SECONDS, Ring
from cluster.bench.memory import look
from cluster.bench.throughput import Write
from cluster.layout import Layout, ServerPlace
from pond.cli.answers import table
from pond.errors import Unavailable
from pond.node.server import STORE, TABLES
from pond.storage import Storage

UPDATES = 100_000
SIZE_BYTES = 4096
CLIENTS = 64
LOOKS = 10
PATIENCE_SECONDS = 120.0

Say = Callable[[str], object]


def endurance(updates: int = UPDATES, parent: Path | None = None, say: Say = len) -> Endurance:
    """Start a ring in a temporary directory (in `parent`), write, stop it, and look at its logs. Raises PondError."""
    with tempfile.TemporaryDirectory(prefix="pond-bench-", dir=parent) as scratch:
        layout, _ = launch.up(Path(scratch) / "cluster")
        try:
            looks = _write(layout, updates, say)
            batches = int(Ring(layout).counted(Ring(layout).leader()).batches)
        finally:
            launch.down(layout.directory)
        kept = [_log_length(server) for server in layout.servers]
    return Endurance(updates=updates, batches=batches, looks=looks, log_batches=kept, log_limit=_limit())


def _limit() -> int:
    """Batches that a log may hold: those kept for servers that were away, and the window above a checkpoint."""
    return DEFAULT.retained + DEFAULT.window + DEFAULT.interval


def _write(layout: Layout, updates: int, say: Say) -> list[Endured]:
    pids = [pid for server in layout.servers if (pid := processes.look(server).pid) is not None]
    looks: list[Endured] = []
    with Clients(Write(layout.directory, SIZE_BYTES), CLIENTS) as load:
        load.open(CLIENTS)
        began = moved = monotonic()
        before = 0
        load.start(CLIENTS)
        for number in range(LOOKS + 1):
            while load.done < updates * number // LOOKS:
                sleep(LOOK_SECONDS)
                if load.done > before:
                    before, moved = load.done, monotonic()
                elif monotonic() - moved > PATIENCE_SECONDS:
                    raise Unavailable(f"no update has been acknowledged for {PATIENCE_SECONDS:.0f} s")
            found = [look(pid) for pid in pids]
            looks.append(
                Endured(
                    updates=load.done,
                    seconds=monotonic() - began,
                    anonymous_bytes=max(memory.anonymous for memory in found),
                    resident_bytes=max(memory.resident for memory in found),
                    disk_bytes=max(_disk_bytes(server) for server in layout.servers),
                )
            )
            say(f"{looks[-1].updates} updates after {looks[-1].seconds:.0f} s")
        ran = load.finish()
        if ran.errors:
            raise Unavailable(ran.errors[0])
    return looks


def _disk_bytes(server: ServerPlace) -> int:
    return sum(path.stat().st_blocks * 512 for path in (server.directory / STORE).iterdir())


def _log_length(server: ServerPlace) -> int:
    """Batches that the log of a stopped server has."""
    storage = Storage(server.directory / STORE, TABLES)
    try:
        numbers: set[bytes] = set()
        start = b""
        while found := storage.keys(log.LOG, start, 10_000):
            numbers.update(key[:8] for key in found)
            start = found[-1] + b"\x00"
        return len(numbers)
    finally:
        storage.close()


def in_words(measured: Endurance) -> str:
    """The answer as text."""
    rows: list[list[object]] = [["UPDATES", "SECONDS", "OWN MB", "RESIDENT MB", "DISK MB"]]
    for one in measured.looks:
        sizes = (one.anonymous_bytes, one.resident_bytes, one.disk_bytes)
        rows.append([one.updates, f"{one.seconds:.0f}", *(f"{size / 1e6:.0f}" for size in sizes)])
    return "\n".join(
        [
            table(rows, right=range(len(rows[0]))),
            "",
            "of the server that has most; OWN: what it allocated; RESIDENT: with pages of its file as well",
            f"{measured.batches} batches; the logs hold {min(measured.log_batches)} to {max(measured.log_batches)},"
            f" and at most {measured.log_limit}",
        ]
    )

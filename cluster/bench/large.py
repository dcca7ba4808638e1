"""`pond bench large`: a large file goes in and comes out, to the end at once, and killed twice on the way.

The commands are real processes, `pond put` and `pond get`, killed with SIGKILL when a third and two thirds of the file
have passed. What they sent and received the servers count, since who was killed cannot tell.
"""

import filecmp
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

import pond
from cluster import launch, processes
from cluster.answers import Large, ProcessMemory, Transfer
from cluster.bench import floor
from cluster.bench.memory import Memory, Peaks
from cluster.check import standing
from cluster.layout import Layout, ServerPlace
from pond.cli.answers import table
from pond.errors import TimedOut

MEBIBYTE = 1024 * 1024
SYNCED_BYTES = 4 * MEBIBYTE
"""About what a server syncs at a time, at most."""

RANGE_BYTES = 1_000_000

LOOK_SECONDS = 0.05
SECONDS = 1800.0
"""How long a command may take."""

CLOCK_TICK = os.sysconf("SC_CLK_TCK")

Say = Callable[[str], object]


class _Passed(NamedTuple):
    """Bytes between one server and all clients."""

    to_server: int
    from_server: int


class _Bench:
    def __init__(self, layout: Layout, size_bytes: int, say: Say) -> None:
        self.layout = layout
        self.transfers: list[Transfer] = []
        self.most: dict[str, Memory] = {}
        self._size_bytes = size_bytes
        self._say = say

    def run(self, name: str, *words: str, kill_at: float | None = None) -> None:
        """One command, killed when that part of the file has passed. Raises TimedOut, ChildProcessError."""
        self._say(name)
        servers = self.layout.servers
        leader = standing.leader(self.layout)
        before = [_passed(server) for server in servers]
        used_before = [_cpu_seconds(server) for server in servers]
        began = monotonic()
        command = [sys.executable, "-P", "-m", "pond", *words, "--cluster", str(self.layout.directory)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            pids = {server.name: processes.look(server).pid or 0 for server in servers} | {words[0]: process.pid}
            with Peaks(pids) as peaks:
                while kill_at is not None and process.poll() is None:
                    if max(map(sum, self._since(before))) >= self._part(words[0]) * kill_at:
                        process.kill()
                        break
                    sleep(LOOK_SECONDS)
                client = _wait(process, began + SECONDS)
        seconds = monotonic() - began
        for process_name, memory in peaks.most.items():
            self.most[process_name] = Memory(*map(max, memory, self.most.get(process_name, memory)))
        killed = process.returncode < 0
        if process.returncode > 0:
            raise ChildProcessError(f"{name} failed: exit code {process.returncode}")
        passed = self._since(before)
        shares = [sum(each) / max(1, sum(map(sum, passed))) for each in passed]
        used = [_cpu_seconds(server) - was for server, was in zip(servers, used_before, strict=True)]
        primary = servers.index(leader)
        backups = [each for number, each in enumerate(used) if number != primary]
        by_role = {"client": client, "primary": used[primary], "backup": sum(backups) / len(backups)}
        self.transfers.append(
            Transfer(
                name=name,
                killed=killed,
                seconds=seconds,
                bytes_per_second=0.0 if killed else self._size_bytes / seconds,
                sent_bytes=sum(each.to_server for each in passed),
                received_bytes=sum(each.from_server for each in passed),
                least_share=min(shares),
                most_share=max(shares),
                cpu_seconds_per_100_mb={}
                if killed
                else {role: value * 1e8 / self._size_bytes for role, value in by_role.items()},
            )
        )

    def _since(self, before: list[_Passed]) -> list[_Passed]:
        now = [_passed(server) for server in self.layout.servers]
        return [_Passed(new[0] - old[0], new[1] - old[1]) for new, old in zip(now, before, strict=True)]

    def _part(self, word: str) -> float:
        """How much of the file passes through one server."""
        return self._size_bytes / (1 if word == "put" else len(self.layout.servers))


def large(size_bytes: int, parent: Path | None = None, say: Say = len) -> Large:
    """Start a ring in a temporary directory (in `parent`), measure, and stop it. Raises PondError."""
    with tempfile.TemporaryDirectory(prefix="pond-bench-", dir=parent) as scratch:
        place = Path(scratch)
        with (place / "in").open("wb") as file:
            for _ in range(size_bytes // MEBIBYTE):
                file.write(os.urandom(MEBIBYTE))
        layout, _ = launch.up(place / "cluster")
        try:
            return _measure(_Bench(layout, size_bytes, say), place, size_bytes)
        finally:
            launch.down(layout.directory)


def _measure(bench: _Bench, place: Path, size_bytes: int) -> Large:
    machine = floor.measure(SYNCED_BYTES, place)
    given, taken = str(place / "in"), str(place / "out")
    bench.run("put at once", "put", "whole", given)
    bench.run("get at once", "get", "whole", "-o", taken)
    identical = filecmp.cmp(given, taken, shallow=False)
    os.unlink(taken)
    bench.run("put, killed", "put", "broken", given, kill_at=1 / 3)
    bench.run("put again, killed", "put", "broken", given, kill_at=1 / 3)
    bench.run("put again", "put", "broken", given)
    bench.run("get, killed", "get", "broken", "-o", taken, kill_at=1 / 3)
    bench.run("get again, killed", "get", "broken", "-o", taken, kill_at=1 / 3)
    bench.run("get again", "get", "broken", "-o", taken)
    identical &= filecmp.cmp(given, taken, shallow=False)
    start = size_bytes // 2 + 12345
    with pond.connect(bench.layout.directory) as store, open(given, "rb") as file:
        target = store.open("broken")
        before, began = store.traffic, monotonic()
        found = target.read(start=start, stop=start + RANGE_BYTES)
        seconds = monotonic() - began
        received = sum(now.received - was.received for now, was in zip(store.traffic, before, strict=True))
        file.seek(start)
        identical &= file.read(RANGE_BYTES) == found
    return Large(
        floor=machine,
        size_bytes=size_bytes,
        transfers=bench.transfers,
        identical=identical,
        range_bytes=RANGE_BYTES,
        range_received_bytes=received,
        range_seconds=seconds,
        memory=[
            ProcessMemory(name=name, resident_bytes=most.resident, anonymous_bytes=most.anonymous)
            for name, most in sorted(bench.most.items())
        ],
    )


def _wait(process: "subprocess.Popen[bytes]", until: float) -> float:
    """Seconds of processor time that a process took in all, once it has ended. Raises TimedOut."""
    while True:
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return used.ru_utime + used.ru_stime
        if monotonic() > until:
            process.kill()
            raise TimedOut(f"a command took more than {SECONDS:g} s: see `pond cluster status`")
        sleep(LOOK_SECONDS)


def _passed(server: ServerPlace) -> _Passed:
    """What a server has counted since its start."""
    with urllib.request.urlopen(f"http://{server.member.metrics_address}/metrics", timeout=30) as page:
        text = page.read().decode()
    counts = {"in": 0, "out": 0}
    for line in text.splitlines():
        for direction in counts:
            if line.startswith(f'pond_client_bytes_total{{direction="{direction}"}}'):
                counts[direction] = int(float(line.split()[-1]))
    return _Passed(counts["in"], counts["out"])


def _cpu_seconds(server: ServerPlace) -> float:
    pid = processes.look(server).pid
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICK


def in_words(measured: Large) -> str:
    """The answer as text."""
    head = ["", "SECONDS", "MB/S", "SENT MB", "RECEIVED MB", "SHARES %", "CLIENT S", "PRIMARY S", "BACKUP S"]
    rows: list[list[object]] = [list(head)]
    for each in measured.transfers:
        speed = "-" if each.killed else f"{each.bytes_per_second / 1e6:.1f}"
        cpu = [f"{each.cpu_seconds_per_100_mb[role]:.2f}" if not each.killed else "-" for role in _ROLES]
        sizes = [f"{size / 1e6:.1f}" for size in (each.sent_bytes, each.received_bytes)]
        shares = f"{each.least_share * 100:.0f} to {each.most_share * 100:.0f}"
        rows.append([each.name, f"{each.seconds:.1f}", speed, *sizes, shares, *cpu])
    memory: list[list[object]] = [["MOST MEMORY", "ANONYMOUS MB", "RESIDENT MB"]]
    for process in measured.memory:
        memory.append([process.name, f"{process.anonymous_bytes / 1e6:.0f}", f"{process.resident_bytes / 1e6:.0f}"])
    machine = measured.floor
    return "\n".join(
        [
            f"a file of {measured.size_bytes / 1e6:.0f} MB,"
            f" {'identical each time' if measured.identical else 'NOT IDENTICAL'}",
            "",
            table(rows, right=range(1, len(rows[0]))),
            "",
            "CLIENT S, PRIMARY S, BACKUP S: processor time for 100 MB of the file",
            f"a range of {measured.range_bytes / 1e6:g} MB: {measured.range_received_bytes / 1e6:.2f} MB received,"
            f" {measured.range_seconds * 1000:.0f} ms",
            "",
            table(memory, right=(1, 2)),
            "",
            f"floor of 4 MiB: a sync of {machine.sync_ms:.2f} ms, a hash of {machine.hash_ms:.2f} ms",
        ]
    )


_ROLES = ("client", "primary", "backup")

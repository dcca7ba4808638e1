"""What a run cost: CPU of each process from the kernel, and what the servers counted, before and after."""

import os
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from cluster import processes
from cluster.layout import Layout, ServerPlace
from pond.errors import Unavailable

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
"""The kernel tells CPU times in so many parts of a second."""

SCRAPE_SECONDS = 30.0
"""A server at its limit answers late."""


class Counted(NamedTuple):
    """What a server has counted since its start, or in some time."""

    batches: float
    requests: float
    views: float
    phases: dict[str, tuple[float, float]]
    """Of each phase of a batch, and each step timed: seconds in all, and how often."""

    def mean_ms(self, phase: str) -> float:
        """Mean milliseconds of a phase or step; 0 when there was none."""
        seconds, count = self.phases.get(phase, (0.0, 0.0))
        return seconds * 1000 / count if count else 0.0

    def since(self, before: "Counted") -> "Counted":
        """What was counted after `before`."""
        phases = {
            name: (seconds - before.phases.get(name, (0.0, 0.0))[0], count - before.phases.get(name, (0.0, 0.0))[1])
            for name, (seconds, count) in self.phases.items()
        }
        return Counted(
            self.batches - before.batches, self.requests - before.requests, self.views - before.views, phases
        )


class Spent(NamedTuple):
    """CPU seconds of a run by who spent them."""

    primary: float
    backups: tuple[float, ...]
    clients: tuple[float, ...]
    """Of each client process."""

    @property
    def ring(self) -> float:
        """All servers together."""
        return self.primary + sum(self.backups)


def cpu_seconds(pid: int) -> float:
    """CPU that all threads of a process have used so far, in user and kernel mode; 0 when it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS
    return 0.0


def machine_seconds() -> float:
    """CPU that everything on this machine has used so far, with what its host took from it."""
    return machine(Path("/proc/stat").read_text())


def machine(stat: str) -> float:
    """The same from the kernel's text (proc(5)): all of the first line but idle, iowait and guests, which user has."""
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, stat.splitlines()[0].split()[1:])
    return (user + nice + system + irq + softirq + steal) / CLOCK_TICKS


def of_servers(layout: Layout) -> dict[str, float]:
    """CPU seconds of each server that runs, by name."""
    pids = {server.name: processes.look(server).pid for server in layout.servers}
    return {name: cpu_seconds(pid) for name, pid in pids.items() if pid is not None}


def spent(
    primary: str, before: Mapping[str, float], after: Mapping[str, float], clients: Mapping[int, tuple[float, float]]
) -> Spent:
    """What servers, by name, and client processes used between two looks; one that ended meanwhile counts as idle."""
    used = {name: max(0.0, after.get(name, 0.0) - before[name]) for name in before}
    return Spent(
        used.get(primary, 0.0),
        tuple(seconds for name, seconds in used.items() if name != primary),
        tuple(max(0.0, later - earlier) for earlier, later in clients.values()),
    )


def counted(server: ServerPlace) -> Counted:
    """What this server tells at its port for metrics. Raises Unavailable."""
    url = f"http://{server.member.metrics_address}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=SCRAPE_SECONDS) as answer:
            return read(answer.read().decode())
    except OSError as error:
        raise Unavailable(f"{server.name} does not tell its metrics: {error}") from None


def read(text: str) -> Counted:
    """The same from the Prometheus text."""
    found: dict[str, float] = {}
    phases: dict[str, list[float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name, _, part = sample.name.rpartition("_")
            if name in ("pond_phase_seconds", "pond_step_seconds") and part in ("sum", "count"):
                [label] = sample.labels.values()
                phases.setdefault(label, [0.0, 0.0])[part == "count"] = sample.value
            elif not sample.labels:
                found[sample.name] = sample.value
    return Counted(
        found.get("pond_batches_total", 0.0),
        found.get("pond_requests_total", 0.0),
        found.get("pond_views_total", 0.0),
        {name: (seconds, count) for name, (seconds, count) in phases.items()},
    )

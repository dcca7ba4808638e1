"""Clients at work on servers for a while: what they saw, what it cost whom, and what the servers counted meanwhile."""

from time import monotonic, sleep
from typing import Any, NamedTuple, Protocol

from cluster.bench import usage
from cluster.bench.clients import Clients, Done
from cluster.bench.figures import HUNDREDTHS, percentile
from cluster.check import standing
from cluster.layout import Layout

WARM_UP_SECONDS = 1.5

LONGEST_SECONDS = 30.0
"""Warm-up and measurement each go on until there are as many operations as clients, but no longer than that."""

LOOK_SECONDS = 0.02


class Window(NamedTuple):
    """What was looked at, at the two ends of the time measured, and what clients did in it."""

    seconds: float
    done: list[Done]
    errors: list[str]
    """What each client was told that gave up."""
    processes: int
    """That the clients share."""
    spent: usage.Spent
    machine: float
    """CPU seconds that everything on the machine used."""
    counted: usage.Counted


class Servers(Protocol):
    """Those that the clients work on."""

    def leader(self) -> str:
        """The name of the one that leads. Raises PondError."""
        ...

    def cpu_seconds(self) -> dict[str, float]:
        """CPU of each so far, by name."""
        ...

    def counted(self, leader: str) -> usage.Counted:
        """What the one that leads has counted so far. Raises PondError."""
        ...


class Ring(NamedTuple):
    """A local cluster."""

    layout: Layout

    def leader(self) -> str:
        """By the word of the servers themselves. Raises PondError."""
        return standing.leader(self.layout).name

    def cpu_seconds(self) -> dict[str, float]:
        """By name."""
        return usage.of_servers(self.layout)

    def counted(self, leader: str) -> usage.Counted:
        """From its port for metrics. Raises Unavailable."""
        [server] = [server for server in self.layout.servers if server.name == leader]
        return usage.counted(server)


def measure(servers: Servers, load: Clients, clients: int, seconds: float) -> Window:
    """Let clients work for so long, after a warm-up. Raises PondError."""
    load.open(clients)
    leader = servers.leader()
    load.start(clients)
    _wait(load, clients, WARM_UP_SECONDS)
    counted, cpu, processes = servers.counted(leader), servers.cpu_seconds(), load.cpu_seconds()
    began, machine = monotonic(), usage.machine_seconds()
    _wait(load, clients, seconds)
    ended, machine_after = monotonic(), usage.machine_seconds()
    cpu_after, processes_after, counted_after = servers.cpu_seconds(), load.cpu_seconds(), servers.counted(leader)
    ran = load.finish()
    clients_cpu = {pid: (seconds, processes_after[pid]) for pid, seconds in processes.items()}
    used = usage.spent(leader, cpu, cpu_after, clients_cpu)
    done = [one for one in ran.done if began <= one.ended < ended]
    return Window(
        ended - began, done, ran.errors, load.processes, used, machine_after - machine, counted_after.since(counted)
    )


def _wait(load: Clients, clients: int, seconds: float) -> None:
    """For so long, and longer while there are fewer operations than clients."""
    began, before = monotonic(), load.done
    sleep(seconds)
    while load.done - before < clients and monotonic() - began < LONGEST_SECONDS:
        sleep(LOOK_SECONDS)


def figures(window: Window, size_bytes: int) -> dict[str, Any]:
    """The fields of a ClosedLoop that follow from a window alone."""
    times = sorted(done.seconds * 1000 for done in window.done)
    count = len(times)
    rate = count / window.seconds
    used = window.spent
    own = used.ring + sum(used.clients)

    def at(share: float) -> float | None:
        return percentile(times, share) if times else None

    def each(seconds: float) -> float | None:
        return seconds * 1000 / count if count else None

    return {
        "size_bytes": size_bytes,
        "n": count,
        "seconds": window.seconds,
        "per_second": rate,
        "bytes_per_second": rate * size_bytes,
        "p50_ms": at(0.5),
        "p95_ms": at(0.95),
        "p99_ms": at(0.99),
        "p999_ms": at(0.999),
        "quantiles_ms": [percentile(times, share) for share in HUNDREDTHS] if times else [],
        "cpu_ms_per_op": each(own),
        "primary_cpu_ms": each(used.primary),
        "backup_cpu_ms": each(sum(used.backups) / max(1, len(used.backups))),
        "ring_cpu_ms": each(used.ring),
        "client_cpu_ms": each(sum(used.clients)),
        "client_processes": window.processes,
        "cores": own / window.seconds,
        "cores_of_others": max(0.0, window.machine - own) / window.seconds,
        "busiest_client": max(used.clients, default=0.0) / window.seconds,
        "errors": len(window.errors),
        "error": window.errors[0] if window.errors else None,
    }

"""What a server counts and times, as Prometheus text on a local port."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, start_http_server
from prometheus_client.core import CounterMetricFamily, SummaryMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from bft.replica import Replica

PHASE_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds: around the targets of a write, up to where a view change begins."""


class _Messages(Collector):
    """Counted in one dictionary: a counter of the library's costs twenty times as much, and there are many messages."""

    def __init__(self, name: str = "pond_messages", what: str = "Messages") -> None:
        self._name = name
        self._what = what
        self._counts: dict[tuple[type, str], int] = {}

    def count(self, kind: type, direction: str) -> None:
        """A message of this type came "in" or went "out"."""
        self._counts[kind, direction] = self._counts.get((kind, direction), 0) + 1

    def collect(self) -> Iterator[Metric]:
        """What the metrics port asks for, from a thread of its own."""
        family = CounterMetricFamily(
            self._name, f"{self._what} by type and direction (in, out)", labels=["type", "direction"]
        )
        for (kind, direction), count in self._counts.copy().items():
            family.add_metric([kind.__name__, direction], count)
        yield family


class _Steps(Collector):
    """The same for times that many messages take."""

    def __init__(self) -> None:
        self._times: dict[str, tuple[float, int]] = {}

    def add(self, step: str, seconds: float) -> None:
        """A step took so long."""
        total, count = self._times.get(step, (0.0, 0))
        self._times[step] = total + seconds, count + 1

    def collect(self) -> Iterator[Metric]:
        """What the metrics port asks for."""
        family = SummaryMetricFamily(
            "pond_step_seconds",
            "Seconds in the core and its writes: to take in a client's update (validate), to run a batch (apply)",
            labels=["step"],
        )
        for step, (total, count) in self._times.copy().items():
            family.add_metric([step], count_value=count, sum_value=total)
        yield family


class ClientMetrics:
    """What any server counts of those who talk to it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        messages = _Messages()
        registry.register(messages)
        self.message = messages.count
        self.client_bytes = Counter(
            "pond_client_bytes", "Bytes of messages with clients (in, out)", ["direction"], registry=registry
        )
        self.rejected = Counter(
            "pond_rejected", "Messages and requests that were dropped, by reason", ["reason"], registry=registry
        )


class Metrics(ClientMetrics):
    """The metrics of one ring server; each has a registry of its own, so several can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        super().__init__(self.registry)
        self.batches = Counter("pond_batches", "Batches executed", registry=self.registry)
        self.requests = Counter("pond_requests", "Requests executed", registry=self.registry)
        self.views = Counter("pond_views", "Views that began since the start", registry=self.registry)
        self.view = Gauge("pond_view", "Current view", registry=self.registry)
        self.executed = Gauge("pond_executed", "Last sequence number executed", registry=self.registry)
        self.certified = Gauge("pond_certified", "Last sequence number under a certificate", registry=self.registry)
        self.stable = Gauge("pond_stable", "Last stable checkpoint", registry=self.registry)
        self.queued = Gauge("pond_queued", "Requests that wait to be proposed", registry=self.registry)
        self.free_bytes = Gauge(
            "pond_free_bytes", "Bytes that the disk still takes, within the quota", registry=self.registry
        )
        self.stepped_aside = Counter(
            "pond_stepped_aside",
            "Times that the server stepped aside, by condition",
            ["condition"],
            registry=self.registry,
        )
        self.serving = Gauge("pond_serving", "1 while it serves, 0 while it stands aside", registry=self.registry)
        self.phase_seconds = Histogram(
            "pond_phase_seconds",
            "Seconds that a batch spent in each phase of a write",
            ["phase"],
            buckets=PHASE_BUCKETS,
            registry=self.registry,
        )
        steps = _Steps()
        self.registry.register(steps)
        self.step = steps.add

        self._replica: Replica | None = None
        for gauge, read in (
            (self.view, lambda replica: replica.ordering.view),
            (self.executed, lambda replica: replica.execution.executed),
            (self.certified, lambda replica: certified.sequence if (certified := replica.execution.certified) else 0),
            (self.stable, lambda replica: replica.ordering.stable),
            (self.queued, lambda replica: replica.queued),
        ):
            gauge.set_function(partial(self._read, read))

    def follow(self, replica: "Replica | None") -> None:
        """Read the gauges from this replica whenever somebody asks for them; without one they show 0."""
        self._replica = replica
        self.serving.set(replica is not None)

    def _read(self, read: "Callable[[Replica], float]") -> float:
        return 0 if self._replica is None else read(self._replica)


class OverlayNode(Protocol):
    """What the gauges of a node of the overlay are read from."""

    @property
    def neighbours(self) -> int: ...
    @property
    def pointers(self) -> int: ...
    @property
    def joined(self) -> bool: ...
    @property
    def join_seconds(self) -> float: ...


class OverlayMetrics:
    """The metrics of a node of the overlay, in its server's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        messages = _Messages("pond_overlay_messages", "Messages between nodes of the overlay")
        registry.register(messages)
        self.message = messages.count
        self._rejected = Counter(
            "pond_overlay_rejected",
            "Messages of the overlay, or parts of them, that were dropped, by reason",
            ["reason"],
            registry=registry,
        )
        self._node: OverlayNode | None = None
        gauges: tuple[tuple[str, str, Callable[[OverlayNode], float]], ...] = (
            ("neighbours", "Nodes of the overlay that this one knows", lambda node: node.neighbours),
            ("pointers", "Pointers to objects that it keeps", lambda node: node.pointers),
            ("joined", "1 once it is a member of the overlay", lambda node: node.joined),
            ("join_seconds", "How long it took to join, or how long it has tried", lambda node: node.join_seconds),
        )
        for name, what, read in gauges:
            Gauge(f"pond_overlay_{name}", what, registry=registry).set_function(partial(self._read, read))

    def follow(self, node: OverlayNode) -> None:
        """Read the gauges from this node whenever somebody asks for them."""
        self._node = node

    def refused(self, reason: str) -> None:
        """Something that came was dropped."""
        self._rejected.labels(kind_of_refusal(reason)).inc()

    def _read(self, read: Callable[[OverlayNode], float]) -> float:
        return 0 if self._node is None else read(self._node)


def kind_of_refusal(reason: str) -> str:
    """A reason without what differs from case to case, so that nobody can make labels without end."""
    return re.sub(r"\d+", "N", reason.partition(":")[0])


class MetricsPort:
    """Serves one registry at http://host:port/metrics, from a thread of its own."""

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        """Raises OSError when the port is taken; port 0 takes a free one."""
        self._server, self._thread = start_http_server(port, host, registry)
        self.port: int = self._server.server_address[1]

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

"""What a server counts and times, as Prometheus text on a local port."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from bft.replica import Replica

PHASE_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds: around the targets of a write, up to where a view change begins."""


class Metrics:
    """The metrics of one server; each has a registry of its own, so several can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.messages = Counter(
            "pond_messages", "Messages by type and direction (in, out)", ["type", "direction"], registry=self.registry
        )
        self.rejected = Counter(
            "pond_rejected", "Messages and requests that were dropped, by reason", ["reason"], registry=self.registry
        )
        self.batches = Counter("pond_batches", "Batches executed", registry=self.registry)
        self.requests = Counter("pond_requests", "Requests executed", registry=self.registry)
        self.views = Counter("pond_views", "Views that began since the start", registry=self.registry)
        self.view = Gauge("pond_view", "Current view", registry=self.registry)
        self.executed = Gauge("pond_executed", "Last sequence number executed", registry=self.registry)
        self.certified = Gauge("pond_certified", "Last sequence number under a certificate", registry=self.registry)
        self.stable = Gauge("pond_stable", "Last stable checkpoint", registry=self.registry)
        self.queued = Gauge("pond_queued", "Requests that wait to be proposed", registry=self.registry)
        self.phase_seconds = Histogram(
            "pond_phase_seconds",
            "Seconds that a batch spent in each phase of a write",
            ["phase"],
            buckets=PHASE_BUCKETS,
            registry=self.registry,
        )

    def follow(self, replica: Replica) -> None:
        """Read the gauges from this replica whenever somebody asks for them."""
        self.view.set_function(lambda: replica.ordering.view)
        self.executed.set_function(lambda: replica.execution.executed)
        self.certified.set_function(lambda: certified.sequence if (certified := replica.execution.certified) else 0)
        self.stable.set_function(lambda: replica.ordering.stable)
        self.queued.set_function(lambda: replica.queued)


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

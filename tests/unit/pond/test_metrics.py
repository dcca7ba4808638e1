"""Metrics as Prometheus text on a local port."""

import urllib.request

from pond.node.metrics import Metrics, MetricsPort


def test_what_is_counted_is_served_and_the_port_is_freed() -> None:
    metrics = Metrics()
    metrics.rejected.labels("a reason").inc(3)
    for _ in range(2):
        metrics.message(Metrics, "in")
    metrics.message(Metrics, "out")
    port = MetricsPort(metrics.registry, "127.0.0.1", 0)
    with urllib.request.urlopen(f"http://127.0.0.1:{port.port}/metrics", timeout=10) as page:
        text = page.read().decode()
    assert 'pond_rejected_total{reason="a reason"} 3.0' in text
    assert 'pond_messages_total{direction="in",type="Metrics"} 2.0' in text
    assert 'pond_messages_total{direction="out",type="Metrics"} 1.0' in text
    port.close()
    again = MetricsPort(metrics.registry, "127.0.0.1", port.port)
    again.close()


def test_two_servers_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.batches.inc()
    assert one.registry.get_sample_value("pond_batches_total") == 1
    assert other.registry.get_sample_value("pond_batches_total") == 0

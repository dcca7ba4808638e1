"""What a run cost, from what the kernel and the servers say."""

import os
from time import process_time

import pytest
from prometheus_client import generate_latest

from cluster.bench import usage
from pond.node.metrics import Metrics


def test_a_run_is_charged_to_who_spent_it() -> None:
    before = {"ring-0": 1.0, "ring-1": 2.0, "ring-2": 3.0, "ring-3": 4.0}
    after = {"ring-0": 1.5, "ring-1": 4.0, "ring-2": 3.25, "ring-3": 4.25}
    spent = usage.spent("ring-1", before, after, {17: (1.0, 1.75), 18: (0.0, 0.25)})
    assert spent.primary == 2.0
    assert spent.backups == (0.5, 0.25, 0.25)
    assert spent.clients == (0.75, 0.25)
    assert spent.ring == 3.0


def test_who_ended_meanwhile_counts_as_idle() -> None:
    spent = usage.spent("ring-0", {"ring-0": 5.0, "ring-1": 2.0}, {"ring-1": 3.0}, {17: (2.0, 0.0)})
    assert (spent.primary, spent.backups, spent.clients) == (0.0, (1.0,), (0.0,))


def test_cpu_of_a_process_is_what_the_kernel_says() -> None:
    spend_until = process_time() + 0.1
    while process_time() < spend_until:
        pass
    assert usage.cpu_seconds(os.getpid()) == pytest.approx(process_time(), abs=0.05)


def test_a_process_that_is_gone_has_used_nothing() -> None:
    assert usage.cpu_seconds(2**22 + 1) == 0.0


def test_cpu_of_the_machine_is_all_but_idle_waiting_and_guests() -> None:
    stat = "cpu  100 20 30 4000 500 6 7 8 90 10\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
    assert usage.machine(stat) == pytest.approx((100 + 20 + 30 + 6 + 7 + 8) / usage.CLOCK_TICKS)
    assert usage.machine_seconds() > 0


def test_what_a_server_counts_is_read_back_from_its_metrics() -> None:
    metrics = Metrics()
    before = usage.read(generate_latest(metrics.registry).decode())
    metrics.batches.inc(3)
    metrics.requests.inc(12)
    metrics.views.inc()
    metrics.phase_seconds.labels("proposed to prepared").observe(0.25)
    metrics.phase_seconds.labels("proposed to prepared").observe(0.5)
    metrics.step("apply", 0.125)
    counted = usage.read(generate_latest(metrics.registry).decode()).since(before)
    steps = {"proposed to prepared": (0.75, 2.0), "apply": (0.125, 1.0)}
    assert counted == usage.Counted(3.0, 12.0, 1.0, steps)
    assert [counted.mean_ms(name) for name in ("proposed to prepared", "validate", "other")] == [375.0, 0.0, 0.0]
    assert usage.read(generate_latest(metrics.registry).decode()).since(counted).phases["proposed to prepared"][1] == 0

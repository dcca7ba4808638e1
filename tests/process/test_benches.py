"""Each benchmark of writes and reads at its smallest: what its JSON says of a real ring, and that it leaves nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster.bench import locate as overlay
from cluster.bench.writes import PHASES, Size, write_latency
from tests.process.commands import run

pytestmark = pytest.mark.process


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a benchmark in a temporary directory of its own; returns its JSON."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def bench(*words: str) -> Any:
        done = run(None, "bench", *words, "--json")
        assert done.returncode == 0, done.stderr.decode()
        assert list(tmp_path.glob("pond-bench-*")) == []
        return json.loads(done.stdout)

    return bench


def check_row(row: dict[str, Any]) -> None:
    """One row of clients in a closed loop, none of whom failed."""
    assert row["n"] >= row["clients"]
    assert row["errors"] == 0
    assert row["per_second"] == pytest.approx(row["n"] / row["seconds"])
    assert row["bytes_per_second"] == pytest.approx(row["per_second"] * row["size_bytes"])
    assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] <= row["p999_ms"]
    assert len(row["quantiles_ms"]) == 101
    assert row["quantiles_ms"] == sorted(row["quantiles_ms"])
    assert row["cpu_ms_per_op"] == pytest.approx(row["ring_cpu_ms"] + row["client_cpu_ms"])
    assert row["ring_cpu_ms"] == pytest.approx(row["primary_cpu_ms"] + 3 * row["backup_cpu_ms"])
    assert row["client_cpu_ms"] > 0
    assert row["cores"] == pytest.approx(row["cpu_ms_per_op"] * row["per_second"] / 1000)
    assert row["cores_of_others"] >= 0
    assert 0 < row["busiest_client"] <= 2
    assert row["ratio_to_floor"] > 1


def test_throughput_tells_rate_latency_batches_and_who_spent_what(measured: Any) -> None:
    found = measured("throughput", "--size", "100", "--size", "70000", "--clients", "3", "--seconds", "0.5")
    assert [(row["name"], row["size_bytes"]) for row in found["results"]] == [("100 B x 3", 100), ("70 kB x 3", 70_000)]
    assert list(found["floor"]) == ["100", "70000"]
    for row in found["results"]:
        check_row(row)
        assert 1 <= row["batch_size"] <= 3
        assert row["views"] == 0
    assert found["etcd"] is None


def test_clients_of_one_user_are_measured_together(measured: Any) -> None:
    [row] = measured("throughput", "--size", "100", "--clients", "8", "--seconds", "0.5", "--together")["results"]
    check_row(row)


def test_each_part_of_a_signature_has_its_price(measured: Any) -> None:
    found = measured("signature")
    assert (found["members"], found["threshold"]) == (4, 2)
    assert len(found["steps"]) == 5
    for step in found["steps"]:
        assert 0 < step["p50_us"] <= step["p95_us"]
        assert step["ratio_to_floor"] == pytest.approx(
            step["p50_us"] / (found["signature_us"] + found["signature_check_us"])
        )


@pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed")
def test_etcd_is_measured_beside(measured: Any) -> None:
    found = measured("throughput", "--etcd", "--size", "4096", "--clients", "2", "--seconds", "0.5")
    assert [row["system"] for row in found["results"]] == ["pond", "etcd"]
    assert found["etcd"][0] == "3"
    assert found["etcd_gateway_ms"] > 0
    row = found["results"][1]
    assert row["errors"] == 0, row["error"]
    assert row["n"] >= 2
    assert row["ring_cpu_ms"] == pytest.approx(row["primary_cpu_ms"] + 2 * row["backup_cpu_ms"])


def test_reads_are_measured_from_one_server_and_linearizable(measured: Any) -> None:
    found = measured("read", "--size", "4096", "--clients", "2", "--seconds", "0.5")
    assert [row["consistency"] for row in found["results"]] == ["any", "latest"]
    for row in found["results"]:
        check_row(row)


def test_the_phases_of_a_write_make_up_its_time(tmp_path: Path) -> None:
    found = write_latency((Size("write 4 KiB", 4096, 20),), tmp_path)
    [row] = found.results
    assert row.n == 20
    assert 0 < row.p50_ms <= row.p95_ms <= row.p99_ms
    assert row.cpu_ms_per_op == pytest.approx(row.ring_cpu_ms + row.client_cpu_ms)
    phases = {phase.phase: phase for phase in found.phases["write 4 KiB"]}
    assert tuple(phases) == PHASES
    times = {name: phase.ms for name, phase in phases.items() if phase.ms is not None}
    assert "archive" not in times
    assert all(ms > 0 for name, ms in times.items() if name != "rest"), times
    # Means of few batches, an empty one among them perhaps: on a busy machine they may come to more than the total.
    assert sum(ms for name, ms in times.items() if name != "total") >= times["total"] * 0.999
    assert phases["sign"].times_faster == pytest.approx(77.8 / times["sign"])


def test_users_of_all_kinds_work_at_once_and_nobody_fails(measured: Any) -> None:
    found = measured("mixed", "--seconds", "1", "--clients", "4")
    assert [kind["name"] for kind in found["kinds"]] == [
        "4 KiB written", "4 KiB read", "2 MB written and read", "4 KiB aborted"
    ]  # fmt: skip
    for kind in found["kinds"]:
        assert kind["errors"] == 0, kind["error"]
        assert kind["n"] >= kind["clients"]
        assert 0 < kind["p50_ms"] <= kind["p99_ms"] <= kind["p999_ms"] <= kind["max_ms"]
    assert 0 < found["anonymous_bytes"] < found["resident_bytes"]


def test_endurance_tells_memory_and_what_the_logs_hold(measured: Any) -> None:
    found = measured("endurance", "--updates", "200")
    looks = found["looks"]
    assert [look["updates"] >= 20 * number for number, look in enumerate(looks)] == [True] * 11
    assert all(look["anonymous_bytes"] > 10_000_000 for look in looks)
    assert looks[-1]["disk_bytes"] > 200 * 4096
    assert all(0 < batches <= found["log_limit"] for batches in found["log_batches"])


def test_the_overlay_is_measured_while_servers_are_killed_and_cut_off(tmp_path: Path) -> None:
    size = overlay.Size(storage=4, objects=12, per_second=25, quiet_seconds=1, killed_seconds=3, cut_seconds=4)
    found = overlay.locate(size, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert (found.servers, len(found.killed)) == (8, 2)
    for joined, servers in zip(found.joins, (8, 2), strict=True):
        assert joined.n == servers
        assert 0 < joined.p50_ms <= joined.p95_ms <= joined.max_ms
        assert joined.node_p95_ms < joined.p95_ms
    quiet, killed, cut, healed = found.results
    for row, locates in ((quiet, 25), (killed, 75), (cut, 100), (healed, 25)):
        assert row.n == locates
        assert 0 < row.p50_ms <= row.p95_ms <= row.p99_ms <= row.max_ms
        assert row.ratio_to_floor > 1
    assert quiet.failed == killed.failed == healed.failed == 0
    assert found.success_by_second == [1.0] * 3
    assert found.two_roots > 0, "the halves do not see each other"
    assert found.one_root_seconds < 30

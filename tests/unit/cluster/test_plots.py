"""Pictures of benchmarks: drawn from answers, refused before anything is measured."""

import subprocess
import sys
from pathlib import Path

import click.testing
import pytest

from cluster.answers import Ceiling, Floor, Measured, Read, ReadFloor, ReadsMeasured, Throughput, ThroughputMeasured
from cluster.answers import WriteLatency as Writes
from cluster.bench import plots
from cluster.bench.cli import bench
from cluster.bench.clients import Done
from cluster.bench.closed_loop import Window, figures
from cluster.bench.figures import HUNDREDTHS
from cluster.bench.usage import Counted, Spent
from cluster.bench.writes import phases
from pond.errors import UsageError

WINDOW = Window(
    2.0,
    [Done(number / 10, (number + 1) / 1000) for number in range(20)],
    [],
    2,
    Spent(0.5, (0.25, 0.25, 0.5), (0.4, 0.6)),
    3.0,
    Counted(5.0, 20.0, 0.0, {}),
)
NOTHING = WINDOW._replace(done=[])


def throughput_of(windows: dict[int, Window]) -> ThroughputMeasured:
    rows = [
        Throughput(
            name="", system=system, clients=clients, batch_size=4, views=0, ratio_to_floor=1.0, **figures(window, size)
        )
        for system in ("pond", "etcd")
        for size in (100, 4096)
        for clients, window in windows.items()
    ]
    machine = Ceiling(
        signature_ms=1,
        signature_check_ms=1,
        hash_ms=1,
        cpu_ms=1,
        cores=2,
        disk_bytes_per_second=1,
        per_second=1,
    )
    return ThroughputMeasured(floor={"100": machine, "4096": machine}, results=rows)


def check_picture(file: Path) -> None:
    assert file.read_bytes().startswith(b"\x89PNG")
    assert file.stat().st_size > 10_000


def test_throughput_is_drawn_also_where_a_row_has_nothing(tmp_path: Path) -> None:
    plots.throughput(throughput_of({1: WINDOW, 64: NOTHING}), tmp_path / "some.png")
    check_picture(tmp_path / "some.png")
    plots.throughput(throughput_of({1: NOTHING}), tmp_path / "none.png")
    check_picture(tmp_path / "none.png")


def test_reads_are_drawn(tmp_path: Path) -> None:
    rows = [
        Read(name="", clients=1, consistency=consistency, ratio_to_floor=1.0, **figures(WINDOW, 4096))
        for consistency in ("any", "latest")
    ]
    machine = ReadFloor(loopback_round_trip_ms=1, signature_check_ms=1, hash_ms=1, read_ms=1, cores=2, per_second=1)
    plots.reads(ReadsMeasured(floor={"4096": machine}, results=rows), tmp_path / "reads.png")
    check_picture(tmp_path / "reads.png")


def test_phases_are_drawn(tmp_path: Path) -> None:
    machine = Floor(loopback_round_trip_ms=1, sync_ms=1, signature_check_ms=1, hash_ms=1, write_ms=1)
    row = Measured(
        name="write 4 KiB",
        n=1,
        p50_ms=1,
        p95_ms=1,
        p99_ms=1,
        per_second=1,
        cpu_ms_per_op=1,
        primary_cpu_ms=1,
        backup_cpu_ms=1,
        ring_cpu_ms=1,
        client_cpu_ms=1,
        cores=1,
        cores_of_others=0,
        quantiles_ms=[1 + share for share in HUNDREDTHS],
        ratio_to_floor=1,
    )
    found = {row.name: phases({"validate": 0.2, "apply": 0.1}, 5.0, {"validate": 0.3})}
    plots.write_latency(
        Writes(floor={row.name: machine}, results=[row], phases=found, phases_ms={}), tmp_path / "write.svg"
    )
    drawn = (tmp_path / "write.svg").read_text()
    assert "<svg" in drawn
    assert len(drawn) > 10_000


@pytest.mark.parametrize("command", ["write-latency", "throughput", "read"])
def test_without_matplotlib_the_command_says_what_to_install_before_it_measures(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = click.testing.CliRunner().invoke(bench, [command, "--plot", str(tmp_path / "a.png")])
    assert isinstance(done.exception, UsageError)
    assert "pip install 'pond[plot]'" in str(done.exception)


@pytest.mark.parametrize(
    ("name", "word"), [("picture.bmp", ".png"), ("picture", ".png"), ("no/where.png", "directory")]
)
def test_a_file_that_cannot_be_drawn_is_refused(name: str, word: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=word):
        plots.check(tmp_path / name)


def test_matplotlib_is_not_imported_unless_something_is_drawn() -> None:
    script = (
        "import sys, cluster.bench.cli, cluster.bench.plots, cluster.bench.throughput, cluster.bench.writes\n"
        "print('matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"

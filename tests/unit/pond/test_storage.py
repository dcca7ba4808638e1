"""One server's disk: a model of tables, what a crash leaves, and files that must be refused."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bft.effects import Write
from pond.errors import StorageBusy, StorageError, StorageUnusable
from pond.storage import DATA_FILE, FORMAT, MAX_KEY_BYTES, Storage

TABLES = ("one", "two")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "store"


def reopened(storage: Storage, directory: Path) -> Storage:
    storage.close()
    return Storage(directory, TABLES)


def test_what_is_written_is_read_at_once_and_after_a_sync_for_ever(directory: Path) -> None:
    storage = Storage(directory, TABLES)
    storage.write([Write("one", b"k", b"v"), Write("two", b"k", b"other")])
    assert storage.get("one", b"k") == b"v"
    assert storage.get("two", b"k") == b"other"
    assert storage.size("one", b"k") == 1
    assert storage.get("one", b"absent") is None
    assert storage.size("one", b"absent") is None
    storage.sync()
    storage = reopened(storage, directory)
    assert storage.get("one", b"k") == b"v"
    storage.close()


def test_what_is_not_synced_is_forgotten_as_a_whole(directory: Path) -> None:
    storage = Storage(directory, TABLES)
    storage.write([Write("one", b"kept", b"1")])
    storage.sync()
    storage.write([Write("one", b"kept", None), Write("one", b"lost", b"2")])
    storage = reopened(storage, directory)
    assert storage.scan("one", b"", b"\xff") == [(b"kept", b"1")]
    storage.close()


def test_scan_gives_a_range_in_order(directory: Path) -> None:
    storage = Storage(directory, TABLES)
    storage.write([Write("one", bytes([i]), b"v") for i in (3, 1, 2, 200)])
    assert [key for key, _ in storage.scan("one", b"\x01", b"\x03")] == [b"\x01", b"\x02"]
    assert [key for key, _ in storage.scan("one", b"", b"\xff")] == [b"\x01", b"\x02", b"\x03", b"\xc8"]
    assert storage.scan("two", b"", b"\xff") == []
    storage.close()


def test_large_values_come_back(directory: Path) -> None:
    storage = Storage(directory, TABLES)
    value = os.urandom(5_000_000)
    storage.write([Write("one", b"large", value)])
    storage.sync()
    assert storage.get("one", b"large") == value
    assert storage.disk_bytes() >= len(value)
    storage.close()


@pytest.mark.parametrize("key", [b"", b"k" * (MAX_KEY_BYTES + 1)])
def test_a_key_that_the_engine_cannot_hold_is_our_own_fault(directory: Path, key: bytes) -> None:
    storage = Storage(directory, TABLES)
    with pytest.raises(ValueError, match="a key has 1 to 511 bytes"):
        storage.write([Write("one", key, b"v")])
    storage.close()


def test_one_process_at_a_time(directory: Path) -> None:
    storage = Storage(directory, TABLES)
    with pytest.raises(StorageBusy, match="in use by another process"):
        Storage(directory, TABLES)
    storage.close()
    Storage(directory, TABLES).close()


def test_a_closed_storage_says_so(directory: Path) -> None:
    storage = Storage(directory, TABLES)
    storage.close()
    with pytest.raises(StorageError, match="closed"):
        storage.get("one", b"k")
    storage.close()


def test_another_format_is_refused_with_both_numbers(directory: Path) -> None:
    Storage(directory, TABLES).close()
    import lmdb

    with lmdb.open(str(directory), max_dbs=3) as environment:
        own = environment.open_db(b"pond.storage")
        with environment.begin(write=True) as transaction:
            assert transaction.get(b"format", db=own) == FORMAT
            transaction.put(b"format", b"99", db=own)
    with pytest.raises(StorageUnusable, match="99"):
        Storage(directory, TABLES)


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "zeros"])
def test_a_damaged_file_is_refused_not_begun_anew(directory: Path, damage: str) -> None:
    storage = Storage(directory, TABLES)
    storage.write([Write("one", b"%d" % i, os.urandom(3000)) for i in range(200)])
    storage.sync()
    storage.close()
    path = directory / "data.mdb"
    data = path.read_bytes()
    changed = {
        "empty": b"",
        "cut": data[: len(data) // 3],
        "noise": os.urandom(len(data)),
        "zeros": bytes(len(data)),
    }[damage]
    path.write_bytes(changed)
    with pytest.raises(StorageError, match=r"data\.mdb|store"):
        Storage(directory, TABLES)


CRASHING = """
import os, signal, sys
from pathlib import Path
from bft.effects import Write
from pond.storage import Storage
storage = Storage(Path(sys.argv[1]), ("one", "two"))
for i in range(int(sys.argv[2])):
    storage.write([Write("one", i.to_bytes(4, "big"), bytes(2000)), Write("two", b"last", i.to_bytes(4, "big"))])
    storage.sync()
storage.write([Write("one", b"unsynced", b"x"), Write("two", b"last", b"lost")])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("synced", [0, 1, 37])
def test_a_killed_process_leaves_what_it_synced_and_nothing_else(directory: Path, synced: int) -> None:
    """The page cache outlives a killed process, so this shows that nothing is half done; what a power cut leaves rests
    on LMDB's order of writes and syncs."""
    done = subprocess.run([sys.executable, "-c", CRASHING, str(directory), str(synced)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    storage = Storage(directory, TABLES)
    assert [key for key, _ in storage.scan("one", b"", b"\xff")] == [i.to_bytes(4, "big") for i in range(synced)]
    assert storage.get("two", b"last") == ((synced - 1).to_bytes(4, "big") if synced else None)
    storage.close()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from(TABLES), st.binary(min_size=1, max_size=3), st.binary(max_size=9)),
        st.tuples(st.just("delete"), st.sampled_from(TABLES), st.binary(min_size=1, max_size=3), st.none()),
        st.tuples(st.just("sync"), st.none(), st.none(), st.none()),
        st.tuples(st.just("crash"), st.none(), st.none(), st.none()),
    ),
    max_size=30,
)


@settings(max_examples=40)
@given(steps=STEPS)
def test_it_behaves_as_plain_tables_that_forget_what_was_not_synced(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, bytes, bytes | None]]
) -> None:
    directory = tmp_path_factory.mktemp("model") / "store"
    storage = Storage(directory, TABLES)
    now: dict[str, dict[bytes, bytes]] = {table: {} for table in TABLES}
    durable = {table: dict(entries) for table, entries in now.items()}
    for kind, table, key, value in steps:
        match kind:
            case "write" | "delete":
                storage.write([Write(table, key, value)])
                now[table].pop(key, None)
                if value is not None:
                    now[table][key] = value
            case "sync":
                storage.sync()
                durable = {name: dict(entries) for name, entries in now.items()}
            case "crash":
                storage = reopened(storage, directory)
                now = {name: dict(entries) for name, entries in durable.items()}
        for name in TABLES:
            assert storage.scan(name, b"", b"\xff" * 4) == sorted(now[name].items())
    storage.close()


@pytest.mark.parametrize("quota_bytes", [None, 1 << 30])
def test_what_is_read_does_not_stay_mapped(
    directory: Path, monkeypatch: pytest.MonkeyPatch, quota_bytes: int | None
) -> None:
    """With a quota the file is mapped anew when it is open, elsewhere."""
    monkeypatch.setattr("pond.storage.MAPPED_BYTES", 0)
    monkeypatch.setattr("pond.storage.TOUCHED_BYTES", 16 << 20)
    value = os.urandom(1 << 20)
    storage = Storage(directory, TABLES, quota_bytes)
    for number in range(60):
        storage.write([Write("one", b"%d" % number, value)])
        storage.sync()
    most = 0
    for number in range(60):
        assert storage.get("one", b"%d" % number) == value
        most = max(most, mapped_bytes(directory / DATA_FILE))
    assert 0 < most < 50 << 20, "of 60 MiB"
    storage.close()


def mapped_bytes(path: Path) -> int:
    """How much of a file is mapped into this process and in memory."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        inside = line.endswith(str(path)) if "-" in line.split()[0] else inside
        if inside and line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("it is not mapped")

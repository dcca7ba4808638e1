"""A disk that is full, files that are not ours or not whole, and kills at any moment."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import lmdb
import pytest

from bft.effects import Write
from pond import storage
from pond.errors import StorageDamaged, StorageError, StorageFull
from pond.storage import JOURNAL_FILE, Storage

TABLES = ("log", "blocks")
ROOT = Path(__file__).parents[3]


def opened(directory: Path) -> "closing[Storage]":
    return closing(Storage(directory, TABLES))


PRELUDE = """
import resource, sys
from pathlib import Path
from bft.effects import Write
from pond.errors import StorageFull
from pond.storage import Storage
store = Storage(Path(sys.argv[1]), ("log", "blocks"))
store.write([Write("log", b"kept", b"1")])
store.sync()
"""


def test_a_full_map_is_a_clear_error_and_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage, "MAP_BYTES", 1 << 20)
    with opened(tmp_path) as store:
        store.write([Write("log", b"kept", b"1")])
        store.sync()
        with pytest.raises(StorageFull, match="address space"):
            store.write([Write("blocks", b"%d" % number, bytes(100_000)) for number in range(20)])
        with pytest.raises(StorageFull):
            store.get("log", b"kept")  # the open transaction is lost, and nothing may build on it
        with pytest.raises(StorageFull):
            store.sync()
    monkeypatch.undo()
    with opened(tmp_path) as store:
        assert store.get("log", b"kept") == b"1"
        assert store.scan("blocks", b"0", b"z") == []


def test_a_full_disk_is_a_clear_error_and_costs_nothing_that_was_synced(tmp_path: Path):
    mount = f"mount -t tmpfs -o size=3m none {tmp_path}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode != 0:
        pytest.skip("may not mount a small disk here")
    program = f"""{PRELUDE}
try:
    store.write([Write("blocks", b"%d" % number, bytes(100_000)) for number in range(60)])
    store.sync()
except StorageFull as error:
    print(error)
store.close()
store = Storage(Path(sys.argv[1]), ("log", "blocks"))
print(store.scan("log", b"0", b"z"), store.scan("blocks", b"0", b"z"))
"""
    inside = ["sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, "-c", program, str(tmp_path / "data")]
    done = subprocess.run(["unshare", "-rm", *inside], cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    assert "is full: make room there" in done.stdout
    assert "[(b'kept', b'1')] []" in done.stdout


def test_where_address_space_is_limited_a_smaller_map_is_taken(tmp_path: Path):
    program = "import resource; resource.setrlimit(resource.RLIMIT_AS, (20 << 30, 20 << 30))\n" + PRELUDE
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, check=True)
    with opened(tmp_path) as store:
        assert store.get("log", b"kept") == b"1"


@pytest.mark.parametrize("kill_after", [1, 7, 20])
def test_killed_at_any_moment_every_group_is_whole_or_absent(tmp_path: Path, kill_after: int):
    program = f"""{PRELUDE}
for number in range(1_000_000):
    store.write([Write("blocks", b"%d" % part, b"%d" % number + bytes(3000)) for part in range(50)])
    store.sync()
    print(number, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        for _ in range(kill_after):
            last = int(child.stdout.readline())
        child.kill()
    with opened(tmp_path) as store:
        groups = {int(value[: value.index(0)]) for _, value in store.scan("blocks", b"0", b"a")}
    assert len(groups) == 1
    assert groups.pop() >= last


def filled(directory: Path) -> Path:
    with opened(directory) as store:
        store.write([Write("blocks", b"%03d" % number, os.urandom(5000)) for number in range(200)])
        store.commit()
    return directory / "data.mdb"


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"hello",
        lambda data: data[:5000],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: bytes(8192) + data[8192:],
    ],
    ids=["text", "head only", "half", "one byte short", "no root"],
)
def test_a_damaged_file_is_a_clear_error_and_no_crash(tmp_path: Path, damage: Callable[[bytes], bytes]):
    path = filled(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StorageDamaged, match="damaged or was not written by this program"):
        Storage(tmp_path, TABLES)
    path.unlink()
    (tmp_path / JOURNAL_FILE).unlink()
    with opened(tmp_path) as store:  # the attempt left nothing locked
        assert store.scan("blocks", b"0", b"9") == []


def test_a_sound_file_that_ends_before_its_last_page_is_opened(tmp_path: Path):
    """LMDB leaves such files behind when a transaction gives out pages at the end and takes them back."""
    path = tmp_path / "data.mdb"
    for number in range(3000):
        with opened(tmp_path) as store:
            value = bytes([number % 251]) * [10, 1000, 5000, 100_000][number * 31 % 4]
            store.write([Write("blocks", b"%d" % (number * 7919 % 300), value)])
            store.write([Write("blocks", b"brief", bytes(300_000)), Write("blocks", b"brief", None)])
            store.commit()
            expected = store.scan("blocks", b"0", b"z")
            pages = store._environment.info()["last_pgno"] + 1
            short = path.stat().st_size < pages * store._environment.stat()["psize"]
        if short:
            break
    assert short, "no such file came about"
    with opened(tmp_path) as store:
        assert store.scan("blocks", b"0", b"z") == expected


def test_a_database_of_somebody_else_is_refused(tmp_path: Path):
    with lmdb.open(str(tmp_path), max_dbs=5) as environment:
        environment.open_db(b"theirs")
    with pytest.raises(StorageDamaged, match="no format number"):
        Storage(tmp_path, TABLES)


def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be used"):
        Storage(tmp_path / "file" / "data", TABLES)


def test_the_directory_is_for_its_owner_alone(tmp_path: Path):
    directory = tmp_path / "server" / "data"
    with opened(directory):
        assert {path.stat().st_mode & 0o077 for path in (directory, *directory.iterdir())} == {0}


def test_opening_and_closing_leaves_no_descriptor_behind(tmp_path: Path):
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with opened(tmp_path) as store:
            store.write([Write("log", b"a", b"1")])
    assert len(os.listdir("/proc/self/fd")) == len(before)

"""Values that rotted on the disk, and how much room there is."""

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from zlib import crc32

import lmdb
import pytest

from bft.effects import Write
from pond.errors import StorageError, StorageFull, StorageRotten
from pond.storage import Storage

TABLES = ("log", "blocks")
MIB = 1024 * 1024


def opened(directory: Path, quota_bytes: int | None = None) -> "closing[Storage]":
    return closing(Storage(directory, TABLES, quota_bytes))


def stored(directory: Path, table: str, key: bytes) -> bytes:
    """What lies in the file, the checksum included."""
    with lmdb.open(str(directory), max_dbs=20) as environment, environment.begin() as transaction:
        value = transaction.get(key, db=environment.open_db(table.encode(), transaction))
        assert value is not None
        return value


def overwrite(directory: Path, table: str, key: bytes, value: bytes) -> None:
    with lmdb.open(str(directory), max_dbs=20) as environment:
        handle = environment.open_db(table.encode())
        with environment.begin(write=True) as transaction:
            transaction.put(key, value, db=handle)


def test_a_value_is_followed_by_the_checksum_of_table_key_and_value(tmp_path: Path):
    with opened(tmp_path) as store:
        store.write([Write("log", b"key", b"value")])
        store.commit()
    assert stored(tmp_path, "log", b"key") == b"value" + crc32(b"log" + b"key" + b"value").to_bytes(4, "big")


def flipped(value: bytes, bit: int) -> bytes:
    return (int.from_bytes(value, "big") ^ 1 << bit).to_bytes(len(value), "big")


def test_no_flipped_bit_is_served(tmp_path: Path):
    with opened(tmp_path) as store:
        store.write([Write("log", b"key", b"ab"), Write("log", b"other", b"sound")])
        store.commit()
    sound = stored(tmp_path, "log", b"key")
    for bit in range(8 * len(sound)):
        overwrite(tmp_path, "log", b"key", flipped(sound, bit))
        with opened(tmp_path) as store:
            with pytest.raises(StorageRotten, match="does not match its checksum") as caught:
                store.get("log", b"key")
            assert (caught.value.table, caught.value.key) == ("log", b"key")
            with pytest.raises(StorageRotten):
                store.scan("log", b"", b"\xff")
            assert store.get("log", b"other") == b"sound"


@pytest.mark.parametrize(
    "misplaced",
    [
        lambda directory: stored(directory, "log", b"other"),
        lambda directory: stored(directory, "blocks", b"key"),
        lambda directory: b"",
        lambda directory: b"abc",
    ],
    ids=["another key's", "another table's", "empty", "shorter than a checksum"],
)
def test_a_value_from_another_place_is_rotten(tmp_path: Path, misplaced: Callable[[Path], bytes]):
    with opened(tmp_path) as store:
        store.write([Write("log", b"key", b"1"), Write("log", b"other", b"2"), Write("blocks", b"key", b"3")])
        store.commit()
    overwrite(tmp_path, "log", b"key", misplaced(tmp_path))
    with opened(tmp_path) as store, pytest.raises(StorageRotten):
        store.get("log", b"key")


def test_what_is_rotten_harms_nothing_else_and_is_mended_by_writing_it_again(tmp_path: Path):
    with opened(tmp_path) as store:
        store.write([Write("blocks", b"%d" % number, bytes(100)) for number in range(3)])
        store.commit()
    overwrite(tmp_path, "blocks", b"1", bytes(104))
    with opened(tmp_path) as store:
        store.write([Write("log", b"before", b"kept")])
        assert [store.check("blocks", b"%d" % number) for number in range(4)] == [True, False, True, None]
        store.write([Write("blocks", b"1", b"mended"), Write("log", b"after", b"kept")])
        store.commit()
    with opened(tmp_path) as store:
        assert store.get("blocks", b"1") == b"mended"
        assert store.scan("log", b"", b"z") == [(b"after", b"kept"), (b"before", b"kept")]


def test_a_table_is_walked_in_slices(tmp_path: Path):
    names = sorted(os.urandom(32) for _ in range(100))
    with opened(tmp_path) as store:
        store.write([Write("blocks", name, b"x") for name in names])
        found: list[bytes] = []
        while some := store.keys("blocks", found[-1] + b"\x00" if found else b"", 7):
            assert len(some) <= 7
            found += some
        assert found == names
        assert store.keys("log", b"", 7) == []


def test_used_bytes_go_down_when_something_is_removed_and_the_file_stays(tmp_path: Path):
    with opened(tmp_path) as store:
        empty = store.used_bytes()
        store.write([Write("blocks", b"%d" % number, bytes(100_000)) for number in range(50)])
        full = store.used_bytes()
        assert full - empty >= 50 * 100_000
        store.sync()
        before = store.disk_bytes()
        store.write([Write("blocks", b"%d" % number, None) for number in range(50)])
        store.sync()
        assert store.used_bytes() < empty + 100_000
        assert store.disk_bytes() >= before


def test_a_quota_is_an_end_that_is_known_ahead(tmp_path: Path):
    quota = 4 * MIB + 5
    with opened(tmp_path, quota) as store:
        assert store.free_bytes() == 4 * MIB - store.used_bytes()
        before = store.free_bytes()
        store.write([Write("blocks", b"%d" % number, bytes(100_000)) for number in range(20)])
        assert 20 * 100_000 <= before - store.free_bytes() < 21 * 100_000
        store.sync()
        with pytest.raises(StorageFull, match=rf"quota of {quota} bytes .*: raise quota_bytes in .*node\.json"):
            store.write([Write("blocks", b"%d" % number, bytes(100_000)) for number in range(20, 60)])
        with pytest.raises(StorageFull):
            store.free_bytes()
    with opened(tmp_path, 2 * quota) as store:
        store.write([Write("blocks", b"%d" % number, bytes(100_000)) for number in range(20, 60)])
        store.sync()
        assert len(store.keys("blocks", b"", 100)) == 60


def test_a_quota_below_what_is_there_leaves_everything_readable(tmp_path: Path):
    with opened(tmp_path) as store:
        store.write([Write("blocks", b"%d" % number, bytes(100_000)) for number in range(20)])
        store.sync()
    with opened(tmp_path, MIB) as store:
        assert store.get("blocks", b"19") == bytes(100_000)
        assert store.free_bytes() == 0
        with pytest.raises(StorageFull):
            store.write([Write("blocks", b"%d" % number, bytes(100_000)) for number in range(20, 40)])


def test_a_directory_that_is_gone_is_a_failure_of_the_disk(tmp_path: Path):
    """A server survives those; what is there again is opened anew."""
    with opened(tmp_path / "store") as store:
        (tmp_path / "store").rename(tmp_path / "elsewhere")
        for look in (store.disk_bytes, store.free_bytes):
            with pytest.raises(StorageError, match="cannot be looked at"):
                look()


def test_without_a_quota_the_file_system_has_the_say(tmp_path: Path):
    with opened(tmp_path) as store:
        room = os.statvfs(tmp_path)
        assert abs(store.free_bytes() - room.f_bavail * room.f_frsize) < 512 * MIB  # others write here too


def test_a_trial_leaves_nothing_behind_but_a_sound_disk(tmp_path: Path):
    with opened(tmp_path) as store:
        for _ in range(100):
            store.try_disk()
        used = store.used_bytes()
        store.try_disk()
        assert store.used_bytes() == used
        assert store.keys("log", b"", 1) == store.keys("blocks", b"", 1) == []

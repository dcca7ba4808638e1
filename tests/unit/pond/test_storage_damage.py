"""Bytes flipped anywhere in a server's file: found at opening or when read, never served, and never the end of the
process."""

import os
import random
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from bft.effects import Write
from pond import storage
from pond.errors import StorageDamaged, StorageRotten
from pond.storage import Storage

TABLES = ("log", "blocks")
PAGE = 4096
ROOT = Path(__file__).parents[3]
VERIFY_SECONDS = 60.0


def opened(directory: Path, verify_seconds: float = VERIFY_SECONDS) -> "closing[Storage]":
    return closing(Storage(directory, TABLES, None, verify_seconds))


@pytest.fixture(params=["here", "child"])
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """The data file of a sound storage, to be verified in this process or in another."""
    if request.param == "child":
        monkeypatch.setattr(storage, "VERIFIED_HERE_BYTES", 0)
    with opened(tmp_path) as store:
        for number in range(20):
            store.write([Write("log", b"%04d" % (20 * number + i), os.urandom(200)) for i in range(20)])
            store.write([Write("blocks", b"%04d" % number, os.urandom(10_000))])
            store.commit()
    return tmp_path / "data.mdb"


def test_a_sound_file_is_verified(filled: Path) -> None:
    with opened(filled.parent) as store:
        assert store.verified
        store.check_whole("log")
        store.check_whole("blocks")
    with opened(filled.parent, 0) as store:
        assert not store.verified


def test_an_older_commit_is_not_taken_for_the_newest(filled: Path) -> None:
    """Of the two meta pages, the number of the newest commit loses a bit."""
    data = bytearray(filled.read_bytes())
    numbers = [int.from_bytes(data[start + 144 : start + 152], sys.byteorder) for start in (0, PAGE)]
    newest = numbers.index(max(numbers))
    assert numbers[newest] >= 8
    data[newest * PAGE + 144] ^= 1 << max(numbers).bit_length() - 1
    filled.write_bytes(data)
    with pytest.raises(StorageDamaged, match="do not follow each other"):
        Storage(filled.parent, TABLES, None, VERIFY_SECONDS)


@pytest.mark.parametrize("damage", ["zeros", "another page", "noise"])
def test_no_page_of_keys_can_be_lost(filled: Path, damage: str) -> None:
    """Whichever page is overwritten: it is free, or it is noticed."""
    sound = filled.read_bytes()
    found = 0
    for page in range(2, len(sound) // PAGE, 5):
        other = {"zeros": bytes(PAGE), "another page": sound[2 * PAGE : 3 * PAGE], "noise": os.urandom(PAGE)}[damage]
        filled.write_bytes(sound[: page * PAGE] + other + sound[(page + 1) * PAGE :])
        try:
            with opened(filled.parent) as store:
                store.check_whole("log")
                for key in store.keys("blocks", b"", 1000):
                    store.get("blocks", key)
                assert len(store.keys("blocks", b"", 1000)) == 20
        except (StorageDamaged, StorageRotten):
            found += 1
    assert found > 0


def test_what_takes_too_long_to_verify_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "VERIFIED_HERE_BYTES", 0)
    with opened(tmp_path) as store:
        store.write([Write("log", b"key", b"value")])
        store.sync()
    with opened(tmp_path, 0.001) as store:
        assert not store.verified
        assert store.get("log", b"key") == b"value"


FLIPPING = """
import random, sys
from pathlib import Path
from bft.effects import Write
from pond.errors import StorageDamaged, StorageError, StorageRotten
from pond.storage import Storage

TABLES = ("log", "meta", "blocks")
directory = Path(sys.argv[1])
path = directory / "data.mdb"
choices = random.Random(7)
expected = {table: {} for table in TABLES}
store = Storage(directory, TABLES)
for _ in range(12):
    writes = [
        Write(table, choices.randbytes(9), choices.randbytes(choices.choice([8, 300, 3000, 20000])))
        for table in TABLES for _ in range(12)
    ]
    for table, key, value in writes:
        expected[table][key] = value
    store.write(writes)
    store.commit()
store.close()
sound = path.read_bytes()
journal = (directory / "journal").read_bytes()
outcomes = {"damaged": 0, "rotten": 0, "unharmed": 0}
for seed in range(int(sys.argv[2])):
    print(seed, file=sys.stderr)  # the last one, should the process end
    choices = random.Random(seed)
    data = bytearray(sound)
    page = choices.randrange(len(data) // 4096)
    size = choices.choice([64, 4096])  # where a page says what it is, or anywhere
    for _ in range(choices.choice([1, 3, 20])):
        data[page * 4096 + choices.randrange(size)] ^= 1 << choices.randrange(8)
    path.write_bytes(data)
    (directory / "journal").write_bytes(journal)
    try:
        store = Storage(directory, TABLES, None, 60)
    except StorageDamaged:
        outcomes["damaged"] += 1
        continue
    rotten = 0
    for table in ("log", "meta"):
        try:
            store.check_whole(table)
            assert dict(store.scan(table, b"", b"\\xff" * 10)) == expected[table], (seed, table)
            assert all(store.get(table, key) == value for key, value in expected[table].items()), (seed, table)
        except (StorageDamaged, StorageRotten):
            rotten += 1
    for key, value in expected["blocks"].items():
        try:
            assert store.get("blocks", key) in (value, None), seed
        except StorageRotten:
            rotten += 1
    store.write([Write(table, choices.randbytes(9), bytes(5000)) for table in TABLES for _ in range(20)])
    store.sync()
    store.close()
    outcomes["rotten" if rotten else "unharmed"] += 1
print(outcomes)
assert all(outcomes.values()), outcomes
"""


def test_bits_flipped_anywhere_are_never_served_and_end_no_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FLIPPING, str(tmp_path / "store"), "300"], cwd=ROOT, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode()[-500:]


@pytest.mark.parametrize("seed", range(12))
def test_a_sound_file_is_never_called_damaged(tmp_path: Path, seed: int) -> None:
    """However often values grow, shrink and go between two commits, on pages of their own or among others."""
    choices = random.Random(seed)
    sizes = [0, 10, 900, 1010, 1019, 1020, 1021, 1030, 1990, 2010, 2034, 4070, 4076, 4077, 4092, 8180, 9000, 30_000]
    expected: dict[bytes, bytes] = {}
    for _ in range(6):
        with opened(tmp_path) as store:
            assert store.verified
            assert dict(store.scan("log", b"", b"z")) == expected
            for _ in range(choices.randrange(200)):
                key = b"%d" % choices.randrange(12)
                if choices.random() < 0.2:
                    expected.pop(key, None)
                    store.write([Write("log", key, None)])
                else:
                    expected[key] = choices.randbytes(choices.choice(sizes) + choices.randrange(3))
                    store.write([Write("log", key, expected[key])])
                if choices.random() < 0.1:
                    store.sync()
            store.commit()
            assert dict(store.scan("log", b"", b"z")) == expected

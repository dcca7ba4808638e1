"""Records between two commits: torn at any byte, written over, lost, and applied again after a kill."""

import os
import random
import shutil
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from zlib import crc32

import lmdb
import msgspec
import pytest

from bft.effects import Write
from pond import storage
from pond.errors import StorageDamaged, StorageError, StorageFull
from pond.journal import JOURNAL_BYTES, SECTOR_BYTES, Journal, RecordLost
from pond.storage import DATA_FILE, FORMAT, JOURNAL_FILE, WITHOUT_JOURNAL, WITHOUT_SEED, Storage

TABLES = ("log", "blocks")
HEADER_BYTES = 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def fill(path: Path, payloads: list[bytes], number: int = 1, seed: int = 0) -> None:
    with closing(Journal(path, number, seed=seed)) as journal:
        assert list(journal.replay()) == []
        for payload in payloads:
            journal.append(payload)


def replayed(path: Path, number: int = 1) -> list[bytes]:
    with closing(Journal(path, number)) as journal:
        return list(journal.replay())


def opened(directory: Path) -> "closing[Storage]":
    return closing(Storage(directory, TABLES))


# --- the file ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 491, 492, 493, 512, 5000, 300_000])
def test_records_come_back_in_order(path: Path, size: int):
    payloads = [os.urandom(size), b"second", os.urandom(size)]
    fill(path, payloads)
    assert replayed(path) == payloads


def test_each_record_is_synced_when_it_is_written(path: Path, monkeypatch: pytest.MonkeyPatch):
    """The page cache hides what a missing sync costs, until the power goes."""
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fdatasync", lambda file: synced.append(os.pread(file, 1 << 20, 0)))
    with closing(Journal(path, 1)) as journal:
        for number in range(5):
            payload = b"payload %d" % number + bytes(100_000)
            journal.append(payload)
            assert len(synced) == number + 1
            assert payload in synced[-1]
            assert len(synced[-1]) == path.stat().st_size


def test_new_records_go_behind_those_that_were_replayed(path: Path):
    fill(path, [b"1", b"2"])
    with closing(Journal(path, 1)) as journal:
        assert list(journal.replay()) == [b"1", b"2"]
        journal.append(b"3")
        assert journal.number == 4
    assert replayed(path) == [b"1", b"2", b"3"]


def test_what_is_in_a_commit_is_not_replayed_and_is_written_over(path: Path):
    with closing(Journal(path, 1)) as journal:
        for payload in (b"1", b"2", b"3"):
            journal.append(payload)
        journal.restart()
        assert replayed(path, 4) == []
        journal.append(b"4")
    assert replayed(path, 4) == [b"4"]
    assert path.stat().st_size < JOURNAL_BYTES


def test_there_is_room_for_so_much(path: Path):
    with closing(Journal(path, 1)) as journal:
        assert journal.has_room(JOURNAL_BYTES - SECTOR_BYTES)
        assert not journal.has_room(JOURNAL_BYTES)
        journal.append(bytes(JOURNAL_BYTES - SECTOR_BYTES))
        assert not journal.has_room(1)
        journal.restart()
        assert journal.has_room(1)


@pytest.mark.parametrize("before", [0, 2])
def test_a_record_cut_short_at_any_byte_is_none(path: Path, before: int):
    """The power went while it was written, over an older one: nobody was told that it was durable."""
    with closing(Journal(path, 1)) as journal:
        for number in range(before):
            journal.append(b"whole %d" % number)
        journal.restart()
        for number in range(before):
            journal.append(b"newer %d" % number)
        old = path.read_bytes().ljust(4 * SECTOR_BYTES, b"\0")
        journal.append(os.urandom(699) + b"\xff")
    new = path.read_bytes()[: len(old)]
    start = before * SECTOR_BYTES
    for cut in range(start, start + HEADER_BYTES + 700):
        path.write_bytes(new[:cut] + old[cut:])
        assert len(replayed(path, 1 + before)) == before


def test_any_bit_flipped_in_any_record_but_the_last_is_noticed(path: Path):
    payloads = [os.urandom(40) for _ in range(4)]
    fill(path, payloads)
    sound = path.read_bytes()
    for record in range(3):
        for place in range(HEADER_BYTES + 40):
            data = bytearray(sound)
            data[record * SECTOR_BYTES + place] ^= 1 << place % 8
            path.write_bytes(data)
            with pytest.raises(RecordLost, match=f"record {record + 1} is gone"):
                replayed(path)


def test_a_flipped_bit_in_the_last_record_is_never_served(path: Path):
    fill(path, [b"first", b"last"])
    sound = path.read_bytes()
    for place in range(HEADER_BYTES + 4):
        data = bytearray(sound)
        data[SECTOR_BYTES + place] ^= 16
        path.write_bytes(data)
        assert replayed(path) == [b"first"]


@pytest.mark.parametrize("length", [0, 1, 19, 20, SECTOR_BYTES, 5000])
def test_noise_holds_no_records(path: Path, length: int):
    for _ in range(100):
        path.write_bytes(os.urandom(length))
        assert replayed(path) == []


def test_a_length_beyond_the_file_is_no_record(path: Path):
    fill(path, [bytes(1000)])
    path.write_bytes(path.read_bytes()[:600])
    assert replayed(path) == []


# --- under a storage ---------------------------------------------------------------------------------------------


class Crash:
    """A storage's directory as it may be after the power went: what was synced, and of one sync any sectors."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory, self.copy = directory, directory.with_name("copy")
        self._choices = random.Random(seed)
        self._before = b""

    def note(self) -> None:
        """What is in the journal before a sync."""
        self._before = (self.directory / JOURNAL_FILE).read_bytes()

    def tear(self) -> None:
        """Of what was written since then, some sectors reached the disk."""
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.directory, self.copy)
        after = (self.directory / JOURNAL_FILE).read_bytes()
        before = self._before.ljust(len(after), b"\0")
        torn = bytearray(after)
        for start in range(0, len(after), SECTOR_BYTES):
            if self._choices.random() < 0.5:
                torn[start : start + SECTOR_BYTES] = before[start : start + SECTOR_BYTES]
        (self.copy / JOURNAL_FILE).write_bytes(torn)


@pytest.fixture(params=range(8))
def crash(request: pytest.FixtureRequest, tmp_path: Path) -> Crash:
    return Crash(tmp_path / "store", request.param)


def test_a_crash_in_a_sync_leaves_it_whole_or_not_at_all(crash: Crash, monkeypatch: pytest.MonkeyPatch):
    """Through several rounds of the file, and with the storage opened anew now and then."""
    monkeypatch.setattr(storage, "JOURNAL_BYTES", 40_000)
    choices = random.Random(1)
    expected: dict[bytes, bytes] = {}
    store = Storage(crash.directory, TABLES)
    for number in range(60):
        changes = {b"%d" % choices.randrange(50): b"%d " % number + os.urandom(choices.randrange(3000)) for _ in "abc"}
        crash.note()
        store.write([Write("log", key, value) for key, value in changes.items()])
        store.sync()
        crash.tear()
        with opened(crash.copy) as copy:
            assert dict(copy.scan("log", b"", b"z")) in (expected, expected | changes)
        expected |= changes
        if number % 7 == 6:
            store.close()
            store = Storage(crash.directory, TABLES)
        assert dict(store.scan("log", b"", b"z")) == expected
    store.close()


def test_removals_are_applied_again_too(tmp_path: Path):
    with opened(tmp_path) as store:
        store.write([Write("log", b"a", b"1"), Write("log", b"b", b"1")])
        store.sync()
        store.write([Write("log", b"a", None), Write("log", b"b", b"2")])
        store.sync()
        store.write([Write("log", b"b", b"not synced")])
    with opened(tmp_path) as store:
        assert store.scan("log", b"", b"z") == [(b"b", b"2")]


def test_what_is_too_large_for_the_journal_is_committed(tmp_path: Path):
    with opened(tmp_path) as store:
        store.write([Write("blocks", b"large", bytes(JOURNAL_BYTES))])
        store.sync()
        assert (tmp_path / JOURNAL_FILE).stat().st_size == 0
    with opened(tmp_path) as store:
        assert store.size("blocks", b"large") == JOURNAL_BYTES


def test_a_journal_that_is_gone_is_damage(tmp_path: Path):
    with opened(tmp_path) as store:
        store.write([Write("log", b"vote", b"1")])
        store.sync()
    (tmp_path / JOURNAL_FILE).unlink()
    with pytest.raises(StorageDamaged, match="journal, which goes with it, is gone"):
        Storage(tmp_path, TABLES)


def test_a_journal_that_is_empty_and_was_not_is_damage(tmp_path: Path):
    """Once something was in it, it never gets shorter."""
    with opened(tmp_path) as store:
        store.write([Write("log", b"old", b"1")])
        store.sync()
        store.commit()
        store.write([Write("log", b"vote", b"1")])
        store.sync()
    os.truncate(tmp_path / JOURNAL_FILE, 0)
    with pytest.raises(StorageDamaged, match="journal, which goes with it, is empty"):
        Storage(tmp_path, TABLES)


def test_a_file_that_is_gone_beside_its_journal_is_damage(tmp_path: Path):
    with opened(tmp_path) as store:
        store.write([Write("log", b"vote", b"1")])
        store.commit()
    (tmp_path / DATA_FILE).unlink()
    with pytest.raises(StorageDamaged, match="its journal is there"):
        Storage(tmp_path, TABLES)


def test_a_commit_that_is_older_than_the_journal_is_damage(tmp_path: Path):
    """As when somebody puts back an old copy of one of the files."""
    with opened(tmp_path) as store:
        store.write([Write("log", b"1", b"")])
        store.commit()
        old = (tmp_path / DATA_FILE).read_bytes()
        store.write([Write("log", b"2", b"")])
        store.sync()
        store.write([Write("log", b"3", b"")])
        store.commit()
        store.write([Write("log", b"4", b"")])
        store.sync()
    (tmp_path / DATA_FILE).write_bytes(old)
    with pytest.raises(StorageDamaged, match="record 1 is gone, and there is a record 2"):
        Storage(tmp_path, TABLES)


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", b"\x91\x93\xa3log\xc4\x01k\x01", b"\x91\x93\xa4what\xc4\x01k\xc4\x00"]
)
def test_a_record_that_says_something_else_is_damage(tmp_path: Path, payload: bytes):
    with opened(tmp_path) as store:
        seed = store._journal.seed
    fill(tmp_path / JOURNAL_FILE, [payload], seed=seed)
    with pytest.raises(StorageDamaged, match="journal"):
        Storage(tmp_path, TABLES)
    with pytest.raises(StorageDamaged):  # and nothing is left locked or open
        Storage(tmp_path, TABLES)


def put_records(store: Storage, directory: Path, number: int, payload: bytes) -> None:
    """A block as a client may choose it, whose bytes read like a record wherever a sector begins, and a commit."""
    fields = struct.pack(">QII", number, len(payload), crc32(payload))
    record = fields + crc32(fields).to_bytes(4, "big") + payload
    block = record.ljust(SECTOR_BYTES, b"\0") * 100
    for _ in range(2):
        store.write([Write("blocks", b"block", block)])
        store.sync()
        place = (directory / JOURNAL_FILE).read_bytes().index(record) % SECTOR_BYTES
        store.commit()
        block = block[place:] + block[:place]


def test_what_clients_chose_is_not_taken_for_a_record_that_was_lost(tmp_path: Path):
    """Blocks of an earlier round stay in the file: one of them, and no server would start again."""
    with opened(tmp_path) as store:
        put_records(store, tmp_path, 2**62, b"")
        store.write([Write("log", b"vote", b"1")])
        store.sync()
    with opened(tmp_path) as store:
        assert store.get("log", b"vote") == b"1"


def test_what_clients_chose_is_not_taken_for_the_next_record(tmp_path: Path):
    """It could write anything anywhere, such as votes, on a server that is started again."""
    with opened(tmp_path) as store:
        put_records(store, tmp_path, 4, msgspec.msgpack.encode([Write("log", b"vote", b"forged")]))
        store.write([Write("log", b"vote", b"1")])
        store.sync()
    with opened(tmp_path) as store:
        assert store.get("log", b"vote") == b"1"


@pytest.mark.parametrize("synced", [False, True])
def test_a_journal_without_a_seed_gets_one(tmp_path: Path, synced: bool):
    with opened(tmp_path) as store:
        store.write([Write("log", b"old", b"1")])
        store.commit()
    fields = (1).to_bytes(8, "big")
    with lmdb.open(str(tmp_path), max_dbs=5) as environment:
        own = environment.open_db(b"pond.storage")
        with environment.begin(write=True) as transaction:
            transaction.put(b"format", WITHOUT_SEED, db=own)
            transaction.put(b"journal", fields + crc32(fields).to_bytes(4, "big"), db=own)
    if synced:
        fill(tmp_path / JOURNAL_FILE, [msgspec.msgpack.encode([Write("log", b"synced", b"1")])])
    expected = [b"old", *([b"synced"] if synced else [])]
    for _ in range(2):
        with opened(tmp_path) as store:
            assert store._journal.seed
            assert [key for key, _ in store.scan("log", b"", b"z")] == expected


def test_a_storage_without_a_journal_gets_one(tmp_path: Path):
    with opened(tmp_path) as store:
        store.write([Write("log", b"old", b"1")])
        store.commit()
    (tmp_path / JOURNAL_FILE).unlink()
    with lmdb.open(str(tmp_path), max_dbs=5) as environment:
        own = environment.open_db(b"pond.storage")
        with environment.begin(write=True) as transaction:
            transaction.put(b"format", WITHOUT_JOURNAL, db=own)
            transaction.delete(b"journal", db=own)
    with opened(tmp_path) as store:
        store.write([Write("log", b"new", b"1")])
        store.sync()
    with opened(tmp_path) as store:
        assert [key for key, _ in store.scan("log", b"", b"z")] == [b"new", b"old"]
    with lmdb.open(str(tmp_path), max_dbs=5) as environment, environment.begin() as transaction:
        assert transaction.get(b"format", db=environment.open_db(b"pond.storage", transaction)) == FORMAT


@pytest.fixture(
    params=[OSError(28, "No space left on device"), OSError(5, "Input/output error")], ids=["full", "failed"]
)
def refusing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[OSError]:
    def refuse(*_: object) -> None:
        raise request.param

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", refuse)
        yield request.param


def test_a_sync_that_fails_is_final_and_what_was_synced_before_is_there(tmp_path: Path, refusing: OSError):
    with opened(tmp_path) as store:
        store.write([Write("log", b"1", b"")])
        store.commit()
        store.write([Write("log", b"2", b"")])
        kind = StorageFull if refusing.errno == 28 else StorageError
        with pytest.raises(kind, match="make room there" if refusing.errno == 28 else "check the disk"):
            store.sync()
        with pytest.raises(kind):
            store.get("log", b"1")
    with opened(tmp_path) as store:
        assert store.get("log", b"1") == b""

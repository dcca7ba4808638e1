"""One server's disk: tables of keys and values in one LMDB file, written in groups that are durable as a whole.

All reads and writes go through one open write transaction, so a core sees what its earlier steps wrote. `sync` appends
what was written since the last one to a journal (`pond.journal`), and commits the transaction when that is full. LMDB
copies on write and flips one of two root pages at the end of a commit; a start applies the journal to it again. So a
crash at any moment leaves the state of the last completed `sync`. This is the one file that imports the engine.

Any failure of the engine is final for this object: the open transaction is lost, and after a failed fsync nobody knows
what the disk holds until it is read again. Every later call then raises; a Storage opened anew, in this process or the
next, goes on from the last completed `sync`.

LMDB believes what it reads, so each value carries a checksum of its table, its key and itself: what rots on the disk,
or is answered from the wrong place, is recognised when it is read (StorageRotten), and harms nothing but itself.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import secrets
import struct
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from zlib import crc32

import lmdb
import lmdb.verify
import msgspec

from bft.effects import Write
from pond.errors import StorageBusy, StorageDamaged, StorageError, StorageFull, StorageRotten, StorageUnusable
from pond.journal import JOURNAL_BYTES, Journal, RecordLost

FORMAT = b"4"
"""Number of the layout, kept in the file and checked at opening. In 1, never released, values had no checksum; 2 had no
journal; 3 had one without a seed.

A value is followed by the CRC-32 of table name, key and value, in 4 bytes, most significant first.
"""

WITHOUT_JOURNAL = b"2"
WITHOUT_SEED = b"3"
"""The layouts that are brought up to date when they are opened."""

MAP_BYTES = 1 << 40
"""How large the file may grow. LMDB needs the number ahead; it costs address space only."""

LEAST_MAP_BYTES = 1 << 30
"""Where the address space is limited too, less is tried, down to this."""

FULL_BYTES = 1 << 20
"""Where less is free and a write fails, it failed for want of room."""

VERIFIED_HERE_BYTES = 64 * 1024 * 1024
"""A file up to this size is looked at in this process, which takes 0.4 s at most; a larger one by a child that can be
stopped."""

MAPPED_BYTES = 64 * 1024 * 1024
"""How much of the file this process keeps mapped, about. What it lets go of stays in the kernel's cache while that has
room; to look at a page again then takes a microsecond."""

TOUCHED_BYTES = 64 * 1024 * 1024
LEAST_TOUCHED_BYTES = 2 * 1024 * 1024
"""How much is looked at, at most, before it is asked again how much is mapped: the kernel maps a page with what lies
around it, up to a huge page."""

COMMITS_IN_QUOTA = 64
"""A commit comes at the latest after this part of the quota: until then the pages that were copied take room twice."""

MAX_KEY_BYTES = 511

DATA_FILE = "data.mdb"
JOURNAL_FILE = "journal"
"""Names of the files in the directory."""

_CHECKSUM_BYTES = 4
_LARGE_BYTES = 1024
"""Longer values may have pages of their own: LMDB decides by key and value together, at half a page."""
_PAGE_HEAD_BYTES = 16
_META_PAGES = 2
_COMMIT = struct.Struct("=144xQ")
"""The number of the commit in a meta page."""
_VERIFY = """
import sys, lmdb.verify
for problem in lmdb.verify.verify(sys.argv[1])[:1]:
    print(problem)
"""
_OWN_TABLE = b"pond.storage"
_FORMAT_KEY = b"format"
_JOURNAL_KEY = b"journal"
"""Number of the journal's first record since this commit, in 8 bytes, its seed in 4, and the CRC-32 of both."""
_TRIAL_KEY = b"trial"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LOCK_FILE = "in-use"

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(list[Write]).decode


class Storage:
    """Tables of one server directory: a `bft.effects.Reader` that also writes.

    Values may be of any length up to 4 GiB; keys have 1 to 511 bytes. For use by one thread.
    """

    def __init__(
        self, directory: Path, tables: Sequence[str], quota_bytes: int | None = None, verify_seconds: float = 0
    ) -> None:
        """Open the directory, or make it. Its data take at most `quota_bytes`, or what the disk has.

        LMDB follows a damaged page wherever it leads, and may end the process. So for up to `verify_seconds` the file's
        whole structure is looked at first; `verified` says whether that came to its end.

        Raises StorageBusy, StorageUnusable, StorageDamaged, StorageFull or StorageError.
        """
        self._directory = directory
        self._quota_bytes = quota_bytes
        self._failure: StorageError | None = None
        self._transaction: lmdb.Transaction[memoryview] | None = None
        self._touched_bytes = 0
        self._unsynced: list[Write] = []
        self._unsynced_bytes = 0
        self._large: dict[tuple[str, bytes], int] = {}
        """Pages of the values that have some of their own and were written since the last commit."""
        self._seeds = {name: crc32(name.encode()) for name in tables}
        with ExitStack() as opened:
            lock = _lock(directory)
            opened.callback(os.close, lock)
            try:
                self._refuse_lost_file()
                self.verified = verify_seconds > 0 and self._verify(verify_seconds)
                self._environment, self._map_bytes = _open(directory, len(tables) + 1)
                opened.callback(self._environment.close)
                self._mapping = _Mapping(directory / DATA_FILE)
                opened.callback(self._mapping.close)
                self._check_length()
                self._own = self._environment.open_db(_OWN_TABLE)
                number, seed = self._check_format()
                self._tables = {name: self._environment.open_db(name.encode()) for name in tables}
                limit_bytes = min(JOURNAL_BYTES, (quota_bytes or MAP_BYTES) // COMMITS_IN_QUOTA)
                self._journal = Journal(directory / JOURNAL_FILE, number, limit_bytes, seed)
                opened.callback(self._journal.close)
                self._apply_journal()
                if quota_bytes is not None:  # what was synced is within it, but for pages that only its commit takes
                    self._map_bytes = min(self._map_bytes, quota_bytes // mmap.PAGESIZE * mmap.PAGESIZE)
                    self._environment.set_mapsize(self._map_bytes)
            except (lmdb.Error, OSError) as error:
                raise self._explain(error) from error
            self._opened = opened.pop_all()

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value under a key, or None. Raises StorageRotten."""
        stored = self._stored(table, key)
        return None if stored is None else self._sound(table, key, stored)

    def size(self, table: str, key: bytes) -> int | None:
        """Length of the value in bytes without reading it, or None."""
        stored = self._stored(table, key)
        return None if stored is None else max(0, len(stored) - _CHECKSUM_BYTES)

    def scan(self, table: str, start: bytes, stop: bytes) -> list[tuple[bytes, bytes]]:
        """Entries with start <= key < stop, in order of their keys. Raises StorageRotten."""
        transaction = self._begun()
        found = []
        try:
            with transaction.cursor(db=self._tables[table]) as cursor:
                more = cursor.set_range(start)
                while more and (key := bytes(cursor.key())) < stop:
                    found.append((key, self._sound(table, key, cursor.value())))
                    more = cursor.next()
        except lmdb.Error as error:
            raise self._failed(error) from error
        return found

    def keys(self, table: str, start: bytes, count: int) -> list[bytes]:
        """The first `count` keys from `start` on, in order; to go on, ask from the last one and a zero byte."""
        transaction = self._begun()
        found: list[bytes] = []
        try:
            with transaction.cursor(db=self._tables[table]) as cursor:
                more = cursor.set_range(start)
                while more and len(found) < count:
                    found.append(bytes(cursor.key()))
                    more = cursor.next()
        except lmdb.Error as error:
            raise self._failed(error) from error
        return found

    def check(self, table: str, key: bytes) -> bool | None:
        """Whether the value under a key is what was written there; None when there is none."""
        try:
            return None if self.get(table, key) is None else True
        except StorageRotten:
            return False

    def check_whole(self, table: str) -> None:
        """Read all of a table. Raises StorageRotten for a value, StorageDamaged when an entry is not to be found."""
        transaction = self._begun()
        database = self._tables[table]
        count = 0
        try:
            with transaction.cursor(db=database) as cursor:
                for key, stored in cursor:
                    self._sound(table, bytes(key), stored)
                    count += transaction.get(key, db=database) is not None
            expected = transaction.stat(database)["entries"]
        except lmdb.Error as error:
            raise self._failed(error) from error
        if count != expected:
            raise self._damaged(f"of {expected} entries of table {table}, {count} are found")

    def write(self, writes: Iterable[Write]) -> None:
        """Visible to reads at once, durable after the next `sync`, and then all together or not at all."""
        writes = tuple(writes)
        self._put(writes)
        self._unsynced += writes

    def _put(self, writes: Iterable[Write]) -> None:
        transaction = self._begun()
        tables, seeds = self._tables, self._seeds
        try:
            for table, key, value in writes:
                if value is None:
                    transaction.delete(key, db=tables[table])
                    self._large.pop((table, key), None)
                else:
                    checksum = crc32(value, crc32(key, seeds[table])).to_bytes(_CHECKSUM_BYTES, "big")
                    stored = value + checksum
                    if len(stored) > _LARGE_BYTES or (table, key) in self._large:
                        self._make_room(transaction, table, key, len(stored))
                    transaction.put(key, stored, db=tables[table])
                    self._unsynced_bytes += len(value)
        except lmdb.Error as error:
            raise self._failed(error) from error

    def _make_room(self, transaction: "lmdb.Transaction[memoryview]", table: str, key: bytes, size: int) -> None:
        """A value on pages of its own that is written again within one transaction keeps all these pages, however few
        it needs by then. LMDB lives with that; `lmdb.verify` calls the file damaged."""
        pages = _pages(size)
        if self._large.get((table, key), pages) > pages:
            transaction.delete(key, db=self._tables[table])
            del self._large[table, key]
        if size > _LARGE_BYTES:
            self._large[table, key] = pages

    def sync(self) -> None:
        """Everything written so far is on disk when this returns."""
        self._begun()
        if not self._unsynced:
            return
        if not self._journal.has_room(self._unsynced_bytes):
            self.commit()
            return
        payload = _encode(self._unsynced)
        self._nothing_unsynced()
        try:
            self._journal.append(payload)
        except OSError as error:
            raise self._failed(error) from error

    def try_disk(self) -> None:
        """Write and commit a few bytes of our own: raises what the disk has against it."""
        try:
            self._begun().put(_TRIAL_KEY, os.urandom(8), db=self._own)
        except lmdb.Error as error:
            raise self._failed(error) from error
        self.commit()

    def commit(self) -> None:
        """All that was written into the engine's file: the journal is not needed any longer."""
        transaction = self._begun()
        try:
            transaction.put(_JOURNAL_KEY, _numbered(self._journal.number, self._journal.seed), db=self._own)
            self._transaction = None
            transaction.commit()
        except lmdb.Error as error:
            raise self._failed(error) from error
        self._nothing_unsynced()
        self._large.clear()
        self._journal.restart()

    def _nothing_unsynced(self) -> None:
        self._unsynced.clear()
        self._unsynced_bytes = 0

    def disk_bytes(self) -> int:
        """Bytes that the directory takes on disk. Raises StorageError."""
        try:
            return sum(entry.stat().st_blocks * 512 for entry in os.scandir(self._directory))
        except OSError as error:
            raise self._cannot_look(error) from error

    def _cannot_look(self, error: OSError) -> StorageError:
        return StorageError(f"{self._directory} cannot be looked at ({error.strerror}): check the disk")

    def used_bytes(self) -> int:
        """Bytes of the pages that hold something. The file may be larger: pages that were freed are used again."""
        transaction = self._begun()
        pages = _META_PAGES
        try:
            for table in (None, self._own, *self._tables.values()):
                stat = transaction.stat(table) if table is not None else transaction.stat()
                pages += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        except lmdb.Error as error:
            raise self._failed(error) from error
        return pages * mmap.PAGESIZE

    def free_bytes(self) -> int:
        """About how much more can be written: what the quota leaves, or less where the file system has less.

        The last few pages cannot be counted on: freed pages lie apart, and each commit needs some to copy to.
        """
        used = self.used_bytes()
        try:
            room = os.statvfs(self._directory)
            file_bytes = (self._directory / DATA_FILE).stat().st_blocks * 512
        except OSError as error:
            raise self._cannot_look(error) from error
        on_disk = room.f_bavail * room.f_frsize + max(0, file_bytes - used)
        return max(0, min(self._map_bytes - used, on_disk))

    def close(self) -> None:
        """Let go of the directory; what was not synced is forgotten."""
        self._abandon(StorageError(f"the storage in {self._directory} is closed: open it again"))
        self._opened.close()

    def _stored(self, table: str, key: bytes) -> memoryview | None:
        """Value and checksum; good until the next write."""
        transaction = self._begun()
        try:
            stored = transaction.get(key, db=self._tables[table])
        except lmdb.Error as error:
            raise self._failed(error) from error
        self._touched(0)
        return stored

    def _touched(self, size_bytes: int) -> None:
        self._touched_bytes += size_bytes + LEAST_TOUCHED_BYTES
        if self._touched_bytes > TOUCHED_BYTES:
            self._touched_bytes = 0
            self._mapping.bound()

    def _sound(self, table: str, key: bytes, stored: memoryview) -> bytes:
        self._touched(len(stored))
        value = bytes(stored[:-_CHECKSUM_BYTES])
        checksum = crc32(value, crc32(key, self._seeds[table])).to_bytes(_CHECKSUM_BYTES, "big")
        if checksum != stored[-_CHECKSUM_BYTES:]:
            raise StorageRotten(table, key)
        return value

    def _begun(self) -> "lmdb.Transaction[memoryview]":
        if self._transaction is None:
            if self._failure is not None:
                raise type(self._failure)(*self._failure.args)
            try:
                self._transaction = self._environment.begin(write=True, buffers=True)
            except lmdb.Error as error:
                raise self._failed(error) from error
        return self._transaction

    def _failed(self, error: lmdb.Error | OSError) -> StorageError | ValueError:
        if isinstance(error, lmdb.BadValsizeError):
            return ValueError(f"a key has 1 to {MAX_KEY_BYTES} bytes")  # our own mistake, and harmless to the engine
        failure = self._explain(error)
        self._abandon(failure)
        return failure

    def _abandon(self, failure: StorageError) -> None:
        self._failure = failure
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            transaction.abort()

    def _explain(self, error: lmdb.Error | OSError) -> StorageError:
        match error:
            case lmdb.MapFullError() if self._quota_bytes is not None and self._map_bytes <= self._quota_bytes:
                return StorageFull(
                    f"the quota of {self._quota_bytes} bytes for {self._directory} is used up: raise quota_bytes in the"
                    " server's node.json"
                )
            case lmdb.MapFullError():
                return StorageFull(
                    f"{self._directory} has grown to the address space it was given: start the server where"
                    f" `ulimit -v` allows {MAP_BYTES >> 30} GiB"
                )
            case lmdb.CorruptedError() | lmdb.InvalidError() | lmdb.PageNotFoundError() | lmdb.VersionMismatchError():
                return self._damaged(str(error))
        room = os.statvfs(self._directory)  # for a write cut short LMDB says "input/output error"
        number = error.errno if isinstance(error, OSError) else error.code
        if number in _NO_ROOM or room.f_bavail * room.f_frsize < FULL_BYTES:
            return StorageFull(f"the disk under {self._directory} is full: make room there")
        reason = error.strerror if isinstance(error, OSError) else error
        return StorageError(f"storage in {self._directory} failed ({reason}): check the disk")

    def _damaged(self, what: str) -> StorageDamaged:
        return StorageDamaged(
            f"{self._directory / DATA_FILE} is damaged or was not written by this program ({what}): look to the health"
            " of its disk"
        )

    def _refuse_lost_file(self) -> None:
        path = self._directory / DATA_FILE  # the engine would begin anew, and votes would be forgotten
        if path.exists() and path.stat().st_size == 0:
            raise self._damaged("it is empty")
        if (self._directory / JOURNAL_FILE).exists() and not path.exists():
            raise self._damaged("it is gone, and its journal is there")

    def _verify(self, seconds: float) -> bool:
        path = self._directory / DATA_FILE
        if not path.exists():
            return True
        try:
            if path.stat().st_size <= VERIFIED_HERE_BYTES:
                problems: list[str] = lmdb.verify.verify(str(path))  # type: ignore[no-untyped-call]
            else:
                command = [sys.executable, "-P", "-c", _VERIFY, str(path)]
                done = subprocess.run(command, capture_output=True, timeout=seconds, text=True)
                problems = (done.stdout or done.stderr).splitlines()[-1:]
        except lmdb.verify.VerifyError as error:
            problems = [str(error)]
        except subprocess.TimeoutExpired:
            return False
        problems += _missing_commit(path)
        if problems:
            raise self._damaged(problems[0])
        return True

    def _check_length(self) -> None:
        """Refuse a file cut short: touching a page that is missing would kill the process.

        LMDB counts pages that it gave out and took back within one transaction, so a sound file too may end before its
        last page. Only then all of it is looked at, which takes a while.
        """
        path = self._directory / DATA_FILE
        expected = (self._environment.info()["last_pgno"] + 1) * self._environment.stat()["psize"]
        if path.stat().st_size < expected:
            problems: list[str] = lmdb.verify.verify(str(path))  # type: ignore[no-untyped-call]
            if problems:
                raise self._damaged(problems[0])

    def _check_format(self) -> tuple[int, int]:
        """The number of the journal's first record, and its seed. A directory that has no journal yet gets one."""
        journal = self._directory / JOURNAL_FILE
        with self._environment.begin() as transaction:
            found = transaction.get(_FORMAT_KEY, db=self._own)
            number = transaction.get(_JOURNAL_KEY, b"", db=self._own)
            if found is None and transaction.stat()["entries"] > 1:  # tables, yet no number: LMDB's, but none of ours
                raise self._damaged("it has no format number")
        if found in (FORMAT, WITHOUT_SEED):
            if not journal.exists():
                raise self._damaged(f"{JOURNAL_FILE}, which goes with it, is gone")
            fields, checksum = number[:-_CHECKSUM_BYTES], number[-_CHECKSUM_BYTES:]
            if crc32(fields).to_bytes(_CHECKSUM_BYTES, "big") != checksum:
                raise self._damaged("it does not say where its journal begins")
            if int.from_bytes(fields[:8], "big") > 1 and journal.stat().st_size == 0:
                raise self._damaged(f"{JOURNAL_FILE}, which goes with it, is empty")
            return int.from_bytes(fields[:8], "big"), int.from_bytes(fields[8:], "big")
        if found not in (None, WITHOUT_JOURNAL):
            raise StorageUnusable(
                f"{self._directory} has format {found.decode(errors='replace')}, and this program knows format"
                f" {FORMAT.decode()}: start the server with the version of Pond that wrote it"
            )
        seed = _new_seed()
        journal.touch(mode=0o600)
        _sync_directory(self._directory)
        _sync_directory(self._directory.parent)
        with self._environment.begin(write=True) as transaction:
            transaction.put(_FORMAT_KEY, FORMAT, db=self._own)
            transaction.put(_JOURNAL_KEY, _numbered(1, seed), db=self._own)
        return 1, seed

    def _apply_journal(self) -> None:
        """Take up what was synced after the last commit. It is committed at once: after a failed sync a file may read
        as if it were on the disk."""
        try:
            for payload in self._journal.replay():
                writes = _decode(payload)
                self._put(writes)
                self._unsynced += writes
        except (RecordLost, msgspec.MsgspecError, KeyError) as error:
            raise self._damaged(f"{JOURNAL_FILE}: {error}") from None
        if not self._journal.seed:
            self._journal.seed = _new_seed()
            self._begun().put(_FORMAT_KEY, FORMAT, db=self._own)
            self.commit()
        elif self._unsynced:
            self.commit()


def _pages(size_bytes: int) -> int:
    """Pages that a value takes which has some of its own."""
    return (_PAGE_HEAD_BYTES - 1 + size_bytes) // mmap.PAGESIZE + 1


def _new_seed() -> int:
    return 1 + secrets.randbelow(2**32 - 1)


def _numbered(number: int, seed: int) -> bytes:
    data = number.to_bytes(8, "big") + seed.to_bytes(4, "big")
    return data + crc32(data).to_bytes(_CHECKSUM_BYTES, "big")


class _Mapping:
    """The file as this process has it mapped. LMDB only ever adds to what is: every page that was looked at once."""

    _DROP = 4  # MADV_DONTNEED: pages of a file that is mapped for reading come back when they are looked at

    def __init__(self, path: Path) -> None:
        self._path = path
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._sizes = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)

    def bound(self) -> None:
        """Let go of all of it when it has become much."""
        shared_pages = int(os.pread(self._sizes, 128, 0).split()[2])
        if shared_pages * mmap.PAGESIZE > MAPPED_BYTES:
            start, length = _mapped_at(self._path)  # looked up anew: where it was, something else may be by now
            if length:
                self._libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), self._DROP)

    def close(self) -> None:
        os.close(self._sizes)


def _mapped_at(path: Path) -> tuple[int, int]:
    """Where a file is mapped, and for how many bytes; nothing where that is not known."""
    inode = path.stat().st_ino
    with open("/proc/self/maps") as file:
        for line in file:
            fields = line.split(maxsplit=5)
            if int(fields[4]) == inode and fields[5].rstrip().endswith(DATA_FILE):
                start, stop = (int(end, 16) for end in fields[0].split("-"))
                return start, stop - start
    return 0, 0


def _missing_commit(path: Path) -> list[str]:
    """The two meta pages tell of the last two commits. If not, one has been changed, and LMDB would take the other for
    the newest: votes would be forgotten."""
    with path.open("rb") as file:
        head = file.read(2 * mmap.PAGESIZE)
    commits = [_COMMIT.unpack_from(head, start)[0] for start in (0, mmap.PAGESIZE)]
    return (
        [] if abs(commits[0] - commits[1]) <= 1 else [f"commits {commits[0]} and {commits[1]} do not follow each other"]
    )


def _open(directory: Path, tables: int) -> tuple[lmdb.Environment, int]:
    """The environment, and how large it may grow."""
    size = MAP_BYTES
    while True:
        try:
            return lmdb.open(str(directory), map_size=size, max_dbs=tables, mode=0o600), size
        except lmdb.Error as error:
            refused = isinstance(error, lmdb.MemoryError) or error.code == errno.ENOMEM
            if not refused or size <= LEAST_MAP_BYTES:
                raise
            size //= 4


def _lock(directory: Path) -> int:
    """A file descriptor that holds the directory's lock until it is closed, also by a crash."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageFull(f"the disk under {directory} is full: make room there") from error
        if error.errno == errno.EIO:
            raise StorageError(f"{directory} failed ({error.strerror}): check the disk") from error
        raise StorageUnusable(
            f"{directory} cannot be used ({error.strerror}): check that you may write there"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StorageBusy(f"{directory} is in use by another process: stop that server first") from error
    return descriptor


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

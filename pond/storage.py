"""One server's disk: tables of keys and values in one LMDB file, written in groups that are durable as a whole.

All reads and writes go through one open write transaction, so a core sees what its earlier steps wrote; `sync` commits
it. LMDB copies on write and flips one of two root pages at the end of a commit, so a crash at any moment leaves the
state of the last completed `sync`: no log to replay, nothing half done. This is the one file that imports the engine.

Any failure of the engine is final for this process: the open transaction is lost, and after a failed fsync nobody knows
what the disk holds until it is read again. Every later call then raises, the server stops, and its next start goes on
from the last completed `sync`.
"""

import errno
import fcntl
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import lmdb
import lmdb.verify

from bft.effects import Write
from pond.errors import StorageBusy, StorageDamaged, StorageError, StorageFull

FORMAT = b"1"
"""Number of the layout, kept in the file and checked at opening."""

MAP_BYTES = 1 << 40
"""How large the file may grow. LMDB needs the number ahead; it costs address space only."""

LEAST_MAP_BYTES = 1 << 30
"""Where the address space is limited too, less is tried, down to this."""

FULL_BYTES = 1 << 20
"""Where less is free and a write fails, it failed for want of room."""

MAX_KEY_BYTES = 511

_OWN_TABLE = b"pond.storage"
_FORMAT_KEY = b"format"
_DATA_FILE = "data.mdb"
_LOCK_FILE = "in-use"


class Storage:
    """Tables of one server directory: a `bft.effects.Reader` that also writes.

    Values may be of any length up to 4 GiB; keys have 1 to 511 bytes. For use by one thread.
    """

    def __init__(self, directory: Path, tables: Sequence[str]) -> None:
        """Open the directory, or make it. Raises StorageBusy, StorageDamaged, StorageFull or StorageError."""
        self._directory = directory
        self._failure: StorageError | None = None
        self._transaction: lmdb.Transaction[memoryview] | None = None
        self._changed = False
        self._lock = _lock(directory)
        try:
            self._refuse_empty_file()
            self._environment = _open(directory, len(tables) + 1)
            try:
                self._check_length()
                self._check_format()
                self._tables = {name: self._environment.open_db(name.encode()) for name in tables}
            except BaseException:
                self._environment.close()
                raise
        except lmdb.Error as error:
            os.close(self._lock)
            raise self._explain(error) from error
        except BaseException:
            os.close(self._lock)
            raise

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value under a key, or None."""
        transaction = self._begun()
        try:
            value = transaction.get(key, db=self._tables[table])
        except lmdb.Error as error:
            raise self._failed(error) from error
        return None if value is None else bytes(value)

    def size(self, table: str, key: bytes) -> int | None:
        """Length of the value in bytes without reading it, or None."""
        transaction = self._begun()
        try:
            value = transaction.get(key, db=self._tables[table])
        except lmdb.Error as error:
            raise self._failed(error) from error
        return None if value is None else len(value)

    def scan(self, table: str, start: bytes, stop: bytes) -> list[tuple[bytes, bytes]]:
        """Entries with start <= key < stop, in order of their keys."""
        transaction = self._begun()
        found = []
        try:
            with transaction.cursor(db=self._tables[table]) as cursor:
                more = cursor.set_range(start)
                while more and (key := bytes(cursor.key())) < stop:
                    found.append((key, bytes(cursor.value())))
                    more = cursor.next()
        except lmdb.Error as error:
            raise self._failed(error) from error
        return found

    def write(self, writes: Iterable[Write]) -> None:
        """Visible to reads at once, durable after the next `sync`, and then all together or not at all."""
        transaction = self._begun()
        self._changed = True
        tables = self._tables
        try:
            for table, key, value in writes:
                if value is None:
                    transaction.delete(key, db=tables[table])
                else:
                    transaction.put(key, value, db=tables[table])
        except lmdb.Error as error:
            raise self._failed(error) from error

    def sync(self) -> None:
        """Everything written so far is on disk when this returns."""
        if not self._changed:
            return
        transaction = self._begun()
        self._transaction = None
        self._changed = False
        try:
            transaction.commit()
        except lmdb.Error as error:
            raise self._failed(error) from error

    def disk_bytes(self) -> int:
        """Bytes that the directory takes on disk."""
        return sum(entry.stat().st_blocks * 512 for entry in os.scandir(self._directory))

    def close(self) -> None:
        """Let go of the directory; what was not synced is forgotten."""
        if self._lock < 0:
            return
        self._abandon(StorageError(f"the storage in {self._directory} is closed: open it again"))
        self._environment.close()
        os.close(self._lock)
        self._lock = -1

    def _begun(self) -> "lmdb.Transaction[memoryview]":
        if self._transaction is None:
            if self._failure is not None:
                raise type(self._failure)(*self._failure.args)
            try:
                self._transaction = self._environment.begin(write=True, buffers=True)
            except lmdb.Error as error:
                raise self._failed(error) from error
        return self._transaction

    def _failed(self, error: lmdb.Error) -> StorageError | ValueError:
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

    def _explain(self, error: lmdb.Error) -> StorageError:
        match error:
            case lmdb.MapFullError():
                return StorageFull(
                    f"{self._directory} has grown to the address space it was given: start the server where"
                    f" `ulimit -v` allows {MAP_BYTES >> 30} GiB"
                )
            case lmdb.CorruptedError() | lmdb.InvalidError() | lmdb.PageNotFoundError() | lmdb.VersionMismatchError():
                return self._damaged(str(error))
        room = os.statvfs(self._directory)  # for a write cut short LMDB says "input/output error"
        if error.code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or room.f_bavail * room.f_frsize < FULL_BYTES:
            return StorageFull(f"the disk under {self._directory} is full: make room and start the server again")
        return StorageError(f"storage in {self._directory} failed ({error}): check the disk and start the server again")

    def _damaged(self, what: str) -> StorageDamaged:
        return StorageDamaged(
            f"{self._directory / _DATA_FILE} is damaged or was not written by this program ({what}): a server that lost"
            " its disk forgot its votes, so let it join anew, with a directory and a key of its own"
        )

    def _refuse_empty_file(self) -> None:
        path = self._directory / _DATA_FILE
        if path.exists() and path.stat().st_size == 0:  # the engine would begin anew, and votes would be forgotten
            raise self._damaged("it is empty")

    def _check_length(self) -> None:
        """Refuse a file cut short: touching a page that is missing would kill the process.

        LMDB counts pages that it gave out and took back within one transaction, so a sound file too may end before its
        last page. Only then all of it is looked at, which takes a while.
        """
        path = self._directory / _DATA_FILE
        expected = (self._environment.info()["last_pgno"] + 1) * self._environment.stat()["psize"]
        if path.stat().st_size < expected:
            problems: list[str] = lmdb.verify.verify(str(path))  # type: ignore[no-untyped-call]
            if problems:
                raise self._damaged(problems[0])

    def _check_format(self) -> None:
        own = self._environment.open_db(_OWN_TABLE)
        with self._environment.begin(write=True) as transaction:
            found = transaction.get(_FORMAT_KEY, db=own)
            if found is None:
                if transaction.stat()["entries"] > 1:  # tables, yet no number: LMDB's, but none of ours
                    raise self._damaged("it has no format number")
                transaction.put(_FORMAT_KEY, FORMAT, db=own)
            elif found != FORMAT:
                raise StorageDamaged(
                    f"{self._directory} has format {found.decode(errors='replace')}, and this program knows format"
                    f" {FORMAT.decode()}: start the server with the version of Pond that wrote it"
                )
        if found is None:
            _sync_directory(self._directory)
            _sync_directory(self._directory.parent)


def _open(directory: Path, tables: int) -> lmdb.Environment:
    size = MAP_BYTES
    while True:
        try:
            return lmdb.open(str(directory), map_size=size, max_dbs=tables, mode=0o600)
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
        raise StorageError(f"{directory} cannot be used ({error.strerror}): check that you may write there") from error
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

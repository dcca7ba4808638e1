"""What a server's core reads of its storage: a block that has rotted is one that this server cannot give."""

from bft.effects import Write
from pond.errors import StorageRotten
from pond.model.tables import BLOCKS
from pond.storage import Storage

MAX_ROTTEN = 4096
"""Rotten values that are remembered; others are found again when they are read again."""


class Disk:
    """A `bft.effects.Reader` that also writes, and remembers what it finds rotten.

    Blocks are ciphertext, which no server computes with: a rotten one reads as absent, and whoever wanted it asks
    another server. It still has a size, since the place that it was given is its own: a block that is brought anew as
    an upload could be let go of again. All else that is rotten raises StorageRotten.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.rotten: dict[tuple[str, bytes], None] = {}
        """(table, key) of values to be mended, those first that were found first; one that is written anew is."""

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value under a key, or None. Raises StorageRotten."""
        try:
            return self._storage.get(table, key)
        except StorageRotten as error:
            self._remember(error)
            if table != BLOCKS:
                raise
            return None

    def size(self, table: str, key: bytes) -> int | None:
        """Length of the value in bytes without reading it, or None."""
        return self._storage.size(table, key)

    def scan(self, table: str, start: bytes, stop: bytes) -> list[tuple[bytes, bytes]]:
        """Entries with start <= key < stop, in order of their keys. Raises StorageRotten."""
        try:
            return self._storage.scan(table, start, stop)
        except StorageRotten as error:
            self._remember(error)
            raise

    def write(self, writes: tuple[Write, ...]) -> None:
        """Visible to reads at once, durable after the storage's next `sync`."""
        self._storage.write(writes)
        if self.rotten:
            for table, key, _ in writes:
                self.rotten.pop((table, key), None)

    def _remember(self, error: StorageRotten) -> None:
        if len(self.rotten) < MAX_ROTTEN:
            self.rotten[error.table, error.key] = None

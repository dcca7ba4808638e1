"""Everything that can go wrong for a user, as one tree: each message says what happened, to what, and what to do next.

`exit_code` is what a command ends with (design.md, 9): 2 usage, 3 aborted by a predicate, 4 no such object or version,
5 unavailable or timed out, 6 failed verification.
"""


class PondError(Exception):
    """Root of the tree."""

    exit_code = 5


class UsageError(PondError, ValueError):
    """What was asked for makes no sense, or a file that was named cannot be used."""

    exit_code = 2


class ClusterDamaged(UsageError):
    """A file that describes a cluster, or a key of it, is unreadable, malformed or of another format."""


class Aborted(PondError):
    """The update was ordered and changed nothing, because none of its clauses held.

    `reason` is the one in the object's log; `version` is the object's version number at that moment, 0 for none.
    """

    exit_code = 3

    def __init__(self, message: str, *, reason: str, version: int) -> None:
        super().__init__(message)
        self.reason = reason
        self.version = version


class PermissionRefused(PondError, PermissionError):
    """The update was ordered and changed nothing, because the object's ACL does not let its signer do this."""

    exit_code = 3


class NotFound(PondError, FileNotFoundError):
    """There is no such object, version or block."""

    exit_code = 4


class Unavailable(PondError):
    """Too few servers answer, or the one asked cannot serve."""

    exit_code = 5


class TimedOut(Unavailable, TimeoutError):
    """The deadline passed; an update may still be ordered, and asking again with the same bytes is safe."""


class VerificationFailed(PondError):
    """Bytes that do not hold against the ring's key: damaged, forged, or of another ring."""

    exit_code = 6


class StorageError(Unavailable):
    """A server's directory cannot be used, or its disk fails. What was synced before is as it was."""


class StorageFull(StorageError):
    """The disk, or the room set aside for the directory, is used up."""


class StorageDamaged(StorageError):
    """The directory's contents are not what this program wrote, or of a format that it does not know."""


class StorageRotten(StorageError):
    """One value is not what was written there; all others are as they were."""

    def __init__(self, table: str, key: bytes) -> None:
        super().__init__(
            f"the value under {key.hex()} in table {table} does not match its checksum: the disk damages what it holds,"
            " look to its health"
        )
        self.table = table
        self.key = key


class StorageUnusable(StorageError):
    """The directory is no place for data as it is: something else stands there, or rights are missing."""


class StorageBusy(StorageError):
    """Another process has the directory open."""

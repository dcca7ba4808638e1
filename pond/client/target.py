"""One object as the client's own parts see it: where it is, which keys read it, what the ring says of it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from bft.certificate import Certificate
from bft.secret import Secret
from pond.client.asking import Asker, Deadline
from pond.client.blocks import Fetcher
from pond.client.content import Nodes, Snapshot, unseal_block
from pond.client.predicates import to_microseconds
from pond.client.ring import Consistency, RingClient, Seen
from pond.errors import NotFound, UsageError
from pond.model.block import MAX_BLOCK_SIZE, MIN_BLOCK_SIZE, BlockRef, default_block_size
from pond.model.encryption import Decryptor
from pond.model.proof import Missing
from pond.model.update import Founding
from pond.model.version import VersionRoot
from pond.protocol import AtTime, ByNumber, ByVguid, Latest, Selector
from tapestry.guid import GUID, parse


class Version(NamedTuple):
    """One version of an object, proved by `certificate` (None when f+1 servers vouched for it instead)."""

    number: int
    vguid: bytes
    size: int
    """Bytes of content."""
    time: datetime
    """Agreed time, UTC."""
    certificate: Certificate | None

    def __repr__(self) -> str:
        return (
            f"Version(number={self.number}, vguid={self.vguid.hex()}, size={self.size}, time={self.time.isoformat()},"
            f" certificate={'None' if self.certificate is None else '...'})"
        )


class Context(NamedTuple):
    """What all objects of a connection share."""

    ring: RingClient
    asker: Asker
    fetcher: Fetcher
    nodes: Nodes
    random_bytes: Callable[[int], bytes]
    timeout_seconds: float

    def deadline(self, timeout_seconds: float | None) -> Deadline:
        """From now, by the caller's wish or the connection's. Raises UsageError."""
        seconds = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        if not 0 < seconds < 10**9:
            raise UsageError(f"a timeout is a positive number of seconds, not {seconds!r}")
        return Deadline(seconds)


class Target:
    """An object that this connection's owner can name and read."""

    def __init__(
        self,
        context: Context,
        aguid: GUID,
        shown: str,
        read_keys: dict[int, Secret],
        name_tag: bytes | None,
        block_size: int | None = None,
    ) -> None:
        if block_size is not None and not MIN_BLOCK_SIZE <= block_size <= MAX_BLOCK_SIZE:
            raise UsageError(f"a block size is {MIN_BLOCK_SIZE} to {MAX_BLOCK_SIZE} bytes, not {block_size}")
        self.context = context
        self.aguid = aguid
        self.shown = shown
        """How messages call it."""
        self.read_keys = read_keys
        self._name_tag = name_tag
        self._wished_block_size = block_size
        self._block_size: int | None = None
        """The object's own, once it is known to exist."""

    @property
    def epoch(self) -> int:
        """The epoch of the newest read key, which what is written is encrypted with."""
        return max(self.read_keys)

    async def see(self, selector: Selector, consistency: Consistency, deadline: Deadline) -> Seen:
        """Ask the ring."""
        seen = await self.context.ring.read(self.aguid, selector, consistency, deadline)
        self.note(seen)
        return seen

    def note(self, seen: Seen) -> None:
        """Remember what never changes of the object."""
        if seen.record is not None:
            self._block_size = seen.record.block_size

    def founded(self, block_size: int) -> None:
        """We made its first version."""
        self._block_size = block_size

    async def block_size(self, size_hint: int, deadline: Deadline) -> int:
        """Bytes of a block: the object's if it exists, else as wished, else as fits content of about this size.

        Raises UsageError when the object has others than wished.
        """
        if self._block_size is None:
            await self.see(Latest(), "any", deadline)
        if self._block_size is not None and self._wished_block_size is not None:
            check_block_size(self.shown, self._block_size, self._wished_block_size)
        return self._block_size or self._wished_block_size or default_block_size(size_hint)

    def founding(self, block_size: int) -> Founding | None:
        """What makes the object if it is not there."""
        return None if self._name_tag is None else Founding(self._name_tag, block_size)

    def snapshot(self, root: VersionRoot) -> Snapshot:
        """The content of a version."""
        return Snapshot(root, self.read_keys, self.context.nodes, self.context.fetcher)

    def unseal(self, ref: BlockRef, ciphertext: bytes) -> bytes:
        """The content of a block. Raises VerificationFailed."""
        return unseal_block(Decryptor(self.aguid, self.read_keys), ref, ciphertext)

    async def version(
        self, selector: Selector, consistency: Consistency, deadline: Deadline, *, deleted: bool = False
    ) -> tuple[Seen, VersionRoot]:
        """The version selected; a tombstone only when `deleted` ones are wanted too. Raises NotFound."""
        seen = await self.see(selector, consistency, deadline)
        root = seen.version
        if seen.record is None:
            raise NotFound(f"{self.shown} has no version yet: write it first, with write() or `pond put`")
        if isinstance(root, Missing):
            raise NotFound(self._missing(seen, selector, seen.record.number))
        if root.deleted and not deleted:
            which = f"version {root.number} of {self.shown}" if not isinstance(selector, Latest) else self.shown
            raise NotFound(f"{which} is deleted: its history stays, see `pond log`, and can be restored")
        return seen, root

    def _missing(self, seen: Seen, selector: Selector, newest: int) -> str:
        match selector:
            case AtTime(time):
                if seen.first is None:
                    return f"{self.shown} had no version at {to_time(time).isoformat()}"
                return (
                    f"{self.shown} did not exist at {to_time(time).isoformat()}: its first version was made at "
                    f"{to_time(seen.first.time).isoformat()}"
                )
            case ByNumber(number):
                return f"{self.shown} has no version {number}: its versions are 1 to {newest}"
            case ByVguid(vguid):
                return f"{self.shown} has no version with VGUID {vguid.hex()}: see `pond log`"
            case _:
                return f"{self.shown} has no version"


def check_block_size(shown: str, found: int, wished: int) -> None:
    """Raises UsageError unless they are equal: an object's block size never changes."""
    if found != wished:
        raise UsageError(
            f"{shown} has blocks of {found} bytes for ever, not of {wished}: that is fixed when an object is made, so"
            " leave the block size out, or choose another name"
        )


def to_version(root: VersionRoot, vguid: GUID, certificate: Certificate | None) -> Version:
    """What users see of a version root."""
    return Version(root.number, vguid, root.content.size_bytes, to_time(root.time), certificate)


def to_time(microseconds: int) -> datetime:
    """Agreed time as UTC."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=min(microseconds, 253_402_300_799_000_000))


def select(version: int | None, at: datetime | None, vguid: bytes | str | None) -> Selector:
    """What a reader names, if anything. Raises UsageError for more than one, or none that can be."""

    if sum(choice is not None for choice in (version, at, vguid)) > 1:
        raise UsageError("name a version by number, or by time, or by VGUID, not by several of these")
    if version is not None:
        if isinstance(version, bool) or not isinstance(version, int):
            raise UsageError(f"a version is named by its number, not by {version!r}")
        if not 1 <= version < 2**63:
            raise NotFound(f"there is no version {version}: versions count from 1")
        return ByNumber(version)
    if at is not None:
        return AtTime(to_microseconds(at))
    if vguid is not None:
        try:
            name = parse(vguid) if isinstance(vguid, str) else bytes(vguid)
        except ValueError as error:
            raise UsageError(f"{error}, as `pond log` shows it") from None
        if len(name) != 32:
            raise UsageError("a VGUID has 32 bytes")
        return ByVguid(name)
    return Latest()

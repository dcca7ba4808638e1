"""Objects and the store that holds them, as a program sees them: the asynchronous core of the library (design.md, 9).

`pond.aio` gives it out as it is, `pond.client.sync` with the same names for programs that do not await. Network, clock
and random bytes come in with `Parts`, so a simulation runs the same code on virtual time.
"""

import io
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import datetime
from typing import BinaryIO, NamedTuple

from bft.membership import Membership
from bft.merkle import leaf_hash
from bft.secret import Secret
from bft.signatures import Ed25519Signer, Ed25519Verifier, Signer, Verifier
from pond.client.asking import Asker, Deadline, MakeLinks, Traffic
from pond.client.blocks import EITHER, Fetcher, Progress
from pond.client.changes import Update
from pond.client.content import ChangedRange, Nodes, Snapshot
from pond.client.directory import Directory, check
from pond.client.ring import Consistency, Event, RingClient, Seen
from pond.client.sealing import Data, Source
from pond.client.target import Context, Target, Version, select, to_time, to_version
from pond.errors import NotFound, UsageError, VerificationFailed
from pond.model.bundle import BundleWriter
from pond.model.names import OwnerSecrets
from pond.model.proof import ProofFailed
from pond.model.tree import TreeError
from pond.model.version import Status
from pond.protocol import Latest, ServerStatus

TIMEOUT_SECONDS = 30.0
"""How long an operation may take by default, retries included; a transfer as a whole may take longer while it moves."""

EXPORT_BYTES = 16 * 1024 * 1024
"""Blocks fetched ahead for an export."""


class LogEntry(NamedTuple):
    """One update of an object: what it came to, and the newest version then."""

    version: int
    vguid: bytes
    size: int
    time: datetime
    writer: bytes
    """Public key of who signed it."""
    status: str
    """'committed', 'deleted' (committed a tombstone) or 'aborted'."""
    reason: str | None
    """Why it was aborted."""


class ObjectStat(NamedTuple):
    """What the ring says of an object."""

    name: str
    aguid: bytes
    owner: bytes
    deleted: bool
    latest: Version
    block_size: int
    blocks: int
    updates: int
    """Updates in the history, aborted ones too."""
    metadata_digest: bytes | None


class ExportReport(NamedTuple):
    """What was exported, or fetched and found right."""

    versions: int
    aborted: int
    size_bytes: int
    """Of the bundle."""
    time: datetime
    """The history is complete up to then (agreed time)."""


class Object:
    """A named object. Whether it has a version yet, the ring knows."""

    def __init__(self, target: Target, name: str) -> None:
        self.name = name
        self._target = target
        self._context = target.context

    def __repr__(self) -> str:
        return f"<pond object {self.name!r}>"

    @property
    def aguid(self) -> bytes:
        """The object's permanent GUID."""
        return self._target.aguid

    # --- writing ---------------------------------------------------------------------------------------------------

    def update(self) -> Update:
        """An atomic change to be put together and then committed."""
        return Update(self._target)

    async def write(self, data: Data, *, timeout: float | None = None, progress: Progress | None = None) -> Version:
        """This becomes the whole content. `data` is bytes or a binary file, read from where it stands."""
        return await self.update().write(data).commit(timeout=timeout, progress=progress)

    async def append(self, data: Data, *, timeout: float | None = None, progress: Progress | None = None) -> Version:
        """This follows the content, whatever it is by then."""
        return await self.update().append(data).commit(timeout=timeout, progress=progress)

    async def restore(
        self,
        version: int | None = None,
        *,
        at: datetime | None = None,
        vguid: bytes | str | None = None,
        timeout: float | None = None,
    ) -> Version:
        """Make an earlier version the newest again, as a new version that shares its blocks."""
        deadline = self._context.deadline(timeout)
        selector = select(version, at, vguid)
        if isinstance(selector, Latest):
            raise UsageError("say which version to restore: by number, time or VGUID")
        _, root = await self._target.version(selector, "latest", deadline)
        refs = [place.ref async for place in self._context.nodes.places(root.content, deadline)]
        return await self.update().share(refs, root.metadata).commit(timeout=deadline.seconds)

    async def delete(self, *, timeout: float | None = None) -> Version:
        """Delete the object: a tombstone is its next version, the history stays. Raises NotFound."""
        return await self.update().delete().commit(timeout=timeout)

    # --- reading ---------------------------------------------------------------------------------------------------

    async def read(
        self,
        version: int | None = None,
        *,
        at: datetime | None = None,
        vguid: bytes | str | None = None,
        start: int = 0,
        stop: int | None = None,
        consistency: Consistency = "latest",
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> bytes:
        """Bytes `start` to `stop` of the newest version, or of the one named. Raises NotFound."""
        deadline = self._context.deadline(timeout)
        snapshot, _ = await self._snapshot(version, at, vguid, consistency, deadline)
        return await snapshot.read(start, stop, deadline, progress)

    async def read_stream(
        self,
        version: int | None = None,
        *,
        at: datetime | None = None,
        vguid: bytes | str | None = None,
        start: int = 0,
        stop: int | None = None,
        consistency: Consistency = "latest",
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """The same in pieces, in bounded memory."""
        deadline = self._context.deadline(timeout)
        snapshot, _ = await self._snapshot(version, at, vguid, consistency, deadline)
        async with aclosing(snapshot.stream(start, stop, deadline, progress)) as pieces:
            async for piece in pieces:
                yield piece

    async def equal_prefix(
        self,
        data: Data,
        version: int | None = None,
        *,
        at: datetime | None = None,
        vguid: bytes | str | None = None,
        consistency: Consistency = "latest",
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> int:
        """How many bytes of `data`, from its start and in whole blocks, a version has too: no block is fetched for it.

        So what is left of a read that was broken off need not be read again, and is checked as what is read is.
        """
        deadline = self._context.deadline(timeout)
        snapshot, _ = await self._snapshot(version, at, vguid, consistency, deadline)
        return await snapshot.equal_prefix(Source(data), deadline, progress)

    async def open(
        self,
        mode: str = "rb",
        *,
        version: int | None = None,
        at: datetime | None = None,
        vguid: bytes | str | None = None,
        consistency: Consistency = "latest",
        timeout: float | None = None,
    ) -> "ObjectFile":
        """One version as a file to be read here and there; it stays that version whatever is written meanwhile."""
        if mode not in ("rb", "br", "r"):
            raise UsageError(f"objects are opened with mode 'rb', not {mode!r}; to write, call write()")
        deadline = self._context.deadline(timeout)
        snapshot, found = await self._snapshot(version, at, vguid, consistency, deadline)
        return ObjectFile(snapshot, found, lambda: self._context.deadline(timeout))

    async def latest(self, *, consistency: Consistency = "latest", timeout: float | None = None) -> Version:
        """The newest version. Raises NotFound."""
        return await self.version(consistency=consistency, timeout=timeout)

    async def version(
        self,
        version: int | None = None,
        *,
        at: datetime | None = None,
        vguid: bytes | str | None = None,
        consistency: Consistency = "latest",
        timeout: float | None = None,
    ) -> Version:
        """The version named. Raises NotFound."""
        deadline = self._context.deadline(timeout)
        return (await self._snapshot(version, at, vguid, consistency, deadline))[1]

    async def metadata(
        self,
        version: int | None = None,
        *,
        at: datetime | None = None,
        vguid: bytes | str | None = None,
        consistency: Consistency = "latest",
        timeout: float | None = None,
    ) -> bytes | None:
        """What set_metadata put beside the content of a version."""
        deadline = self._context.deadline(timeout)
        snapshot, _ = await self._snapshot(version, at, vguid, consistency, deadline)
        return snapshot.metadata()

    async def stat(self, *, consistency: Consistency = "latest", timeout: float | None = None) -> ObjectStat:
        """What the ring says of the object, also of a deleted one. Raises NotFound before the first version."""
        deadline = self._context.deadline(timeout)
        seen, root = await self._target.version(Latest(), consistency, deadline, deleted=True)
        assert seen.record is not None, "a version without a record"
        return ObjectStat(
            self.name,
            self.aguid,
            seen.record.owner,
            root.deleted,
            to_version(root, seen.record.vguid, seen.certificate),
            root.block_size,
            root.content.blocks,
            seen.record.history.count,
            root.metadata.digest() if root.metadata is not None else None,
        )

    async def history(self, *, timeout: float | None = None) -> list[LogEntry]:
        """Every update of the object, oldest first, proved to be all of them. Raises NotFound."""
        _, events = await self._history(self._context.deadline(timeout))
        return [_entry(event) for event in events]

    async def changed_ranges(
        self, old: int, new: int | None = None, *, timeout: float | None = None
    ) -> list[ChangedRange]:
        """Where version `new` (None: the newest) differs from `old`, to the block, without fetching blocks."""
        deadline = self._context.deadline(timeout)
        _, before = await self._target.version(select(old, None, None), "latest", deadline, deleted=True)
        _, after = await self._target.version(select(new, None, None), "latest", deadline, deleted=True)
        return await self._context.nodes.changed(before.content, after.content, deadline)

    # --- proofs ----------------------------------------------------------------------------------------------------

    async def export(
        self,
        out: BinaryIO,
        *,
        with_data: bool = False,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> ExportReport:
        """Write the object's history with its proofs, and with its blocks (encrypted) if wanted, as one bundle."""
        return await self._bundle(out.write, with_data, self._context.deadline(timeout), progress)

    async def verify(self, *, timeout: float | None = None, progress: Progress | None = None) -> ExportReport:
        """Fetch all of the object's history and blocks and check them. Raises VerificationFailed."""
        return await self._bundle(len, True, self._context.deadline(timeout), progress)

    async def _bundle(
        self, write: Callable[[bytes], object], with_data: bool, deadline: Deadline, progress: Progress | None
    ) -> ExportReport:
        seen, events = await self._history(deadline)
        outcomes = [event.outcome.encode() for event in events]
        bundle = BundleWriter(self.aguid, with_data=with_data)
        size = 0
        try:
            parts = [bundle.begin(seen.certificate, seen.claim, seen.proof, [leaf_hash(data) for data in outcomes])]
            at_hand: dict[bytes, bytes] = {}
            for event, data in zip(events, outcomes, strict=True):
                root = event.version
                parts.append(bundle.outcome(data, None if root is None else root.encode()))
                while wanted := bundle.wanted(1):
                    if wanted[0] not in at_hand:
                        assert root is not None, "an abort has no content"
                        ahead = bundle.wanted(max(1, min(256, EXPORT_BYTES // root.block_size)))
                        missing = [guid for guid in ahead if guid not in at_hand]
                        at_hand |= await self._context.fetcher.get(missing, EITHER, deadline, root.block_size)
                        deadline.extend()
                    parts.append(bundle.add(at_hand.pop(wanted[0])))
                    size += _flush(parts, write)
                    if progress is not None:
                        progress(size, 0)
                size += _flush(parts, write)
            bundle.finish()
        except (ProofFailed, TreeError) as error:
            raise VerificationFailed(f"{self.name!r} does not hold: {error}") from None
        versions = sum(event.version is not None for event in events)
        return ExportReport(versions, len(events) - versions, size, to_time(seen.claim.time))

    # --- parts -----------------------------------------------------------------------------------------------------

    async def _snapshot(
        self,
        version: int | None,
        at: datetime | None,
        vguid: bytes | str | None,
        consistency: Consistency,
        deadline: Deadline,
    ) -> tuple[Snapshot, Version]:
        if consistency not in ("latest", "any"):
            raise UsageError(f"consistency is 'latest' or 'any', not {consistency!r}")
        seen, root = await self._target.version(select(version, at, vguid), consistency, deadline)
        return self._target.snapshot(root), to_version(root, root.digest(), seen.certificate)

    async def _history(self, deadline: Deadline) -> tuple[Seen, list[Event]]:
        seen, _ = await self._target.version(Latest(), "latest", deadline, deleted=True)
        assert seen.record is not None, "a version without a record"
        return seen, await self._context.ring.history(self.aguid, seen.record, deadline)


class ObjectFile:
    """One version, read from wherever one stands in it."""

    def __init__(self, snapshot: Snapshot, version: Version, deadline: Callable[[], Deadline]) -> None:
        self.version = version
        self._snapshot = snapshot
        self._deadline = deadline
        self._at = 0

    @property
    def block_size(self) -> int:
        """Bytes that are fetched at least."""
        return self._snapshot.root.block_size

    async def __aenter__(self) -> "ObjectFile":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def read(self, size: int = -1) -> bytes:
        """The next bytes, at most `size` of them; none at the end."""
        stop = self.version.size if size < 0 else self._at + size
        data = await self._snapshot.read(self._at, stop, self._deadline()) if stop > self._at else b""
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Where to read next. Raises UsageError before the start."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.version.size}.get(whence)
        if start is None or start + offset < 0:
            raise UsageError(f"cannot seek to {offset} from {whence}")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        """Where the next read starts."""
        return self._at


class Store:
    """An owner's objects in one ring."""

    def __init__(self, context: Context, secrets: OwnerSecrets) -> None:
        self._context = context
        self._directory = Directory(context, secrets)

    @property
    def ring_key(self) -> bytes:
        """The ring's public key, all that this store trusts."""
        return self._context.ring.membership.ring_key

    @property
    def principal(self) -> bytes:
        """The owner's public key."""
        return self._context.ring.principal

    async def create(self, name: str, *, block_size: int | None = None, timeout: float | None = None) -> Object:
        """The object of this name, with a new entry in the owner's directory unless it has one.

        It has no version before the first write, which fixes its block size (bytes): as given here, else by its length.
        What is written to an object that has another one than given here raises UsageError.
        """
        check(name)
        deadline = self._context.deadline(timeout)
        # What is wrong with a block size is said before anything is written.
        Target(self._context, bytes(32), repr(name), {}, None, block_size)
        entry = await self._directory.ensure(name, deadline)
        tag = self._directory.tag(name)
        return Object(Target(self._context, entry.aguid, repr(name), entry.read_keys, tag, block_size), name)

    async def open(self, name: str, *, consistency: Consistency = "latest", timeout: float | None = None) -> Object:
        """The object of this name. Raises NotFound when the directory, read with this consistency, has none."""
        check(name)
        entry = await self._directory.lookup(name, self._context.deadline(timeout), consistency)
        tag = self._directory.tag(name)
        return Object(Target(self._context, entry.aguid, repr(name), entry.read_keys, tag), name)

    async def names(self, *, timeout: float | None = None) -> list[str]:
        """Names of all objects, deleted ones and those never written too, sorted."""
        return await self._directory.names(self._context.deadline(timeout))

    async def stats(self, *, deleted: bool = False, timeout: float | None = None) -> list[ObjectStat]:
        """What the ring says of each object that has a version, by name; of deleted ones only when wanted."""
        found = []
        for name in await self.names(timeout=timeout):
            try:
                stat = await (await self.open(name, timeout=timeout)).stat(timeout=timeout)
            except NotFound:
                continue
            if deleted or not stat.deleted:
                found.append(stat)
        return found

    async def status(self, *, timeout: float | None = 2.0) -> list[ServerStatus | None]:
        """What each server says of itself; None for one that does not answer."""
        return await self._context.ring.status(self._context.deadline(timeout))

    @property
    def dropped(self) -> dict[str, int]:
        """How many answers of servers were not believed, by reason."""
        return dict(self._context.asker.counters)

    @property
    def traffic(self) -> list[Traffic]:
        """How many bytes went to each server and came from it."""
        return list(self._context.asker.traffic)

    def close(self) -> None:
        """Free the links."""
        self._context.asker.close()

    async def __aenter__(self) -> "Store":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class Parts(NamedTuple):
    """What a store runs on: real things for programs, virtual ones for the simulator."""

    make_links: MakeLinks
    wall_clock: Callable[[], int]
    """Microseconds since 1970-01-01 UTC."""
    random_bytes: Callable[[int], bytes] = os.urandom
    verifier: Verifier = Ed25519Verifier()
    make_signer: Callable[[Secret], Signer] = Ed25519Signer


def open_store(parts: Parts, membership: Membership, owner_key: Secret, timeout: float = TIMEOUT_SECONDS) -> Store:
    """A store of the owner of a 32-byte key. To be called in a running event loop. Raises UsageError."""
    try:
        secrets = OwnerSecrets.derive(owner_key)
    except ValueError as error:
        raise UsageError(str(error)) from None
    asker = Asker(parts.make_links, membership.size, parts.random_bytes)
    ring = RingClient(
        asker,
        membership,
        parts.make_signer(secrets.signing_seed),
        parts.verifier,
        parts.wall_clock,
        parts.random_bytes,
    )
    fetcher = Fetcher(asker)
    context = Context(ring, asker, fetcher, Nodes(fetcher), parts.random_bytes, timeout)
    return Store(context, secrets)


def _entry(event: Event) -> LogEntry:
    outcome = event.outcome
    deleted = event.version is not None and event.version.deleted
    committed = "deleted" if deleted else "committed"
    return LogEntry(
        outcome.number,
        outcome.vguid or bytes(32),
        outcome.size_bytes,
        to_time(outcome.time),
        outcome.writer,
        committed if outcome.status is Status.COMMITTED else "aborted",
        outcome.reason.value if outcome.reason is not None else None,
    )


def _flush(parts: list[bytes], write: Callable[[bytes], object]) -> int:
    data = b"".join(parts)
    parts.clear()
    write(data)
    return len(data)

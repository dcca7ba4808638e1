"""The owner's directory: an encrypted object that maps names to AGUIDs and read keys (design.md, 3).

It only grows: an entry is appended before its object is created, and of entries with one name the first counts, so two
programs that make the same name at once agree. When it has many small blocks it is written anew, compactly.
"""

import asyncio

from bft.secret import Secret
from pond.client.asking import Deadline
from pond.client.blocks import BLOCK
from pond.client.changes import Update
from pond.client.predicates import version_is
from pond.client.ring import Consistency
from pond.client.target import Context, Target
from pond.errors import Aborted, NotFound, UsageError, VerificationFailed
from pond.model.block import BlockRef
from pond.model.encryption import KEY_BYTES
from pond.model.names import (
    DirectoryError,
    Entry,
    NameRefused,
    OwnerSecrets,
    aguid,
    check_name,
    decode_entries,
    directory_tag,
    encode_entry,
    name_tag,
)
from pond.model.proof import Missing
from pond.model.version import VersionRoot
from pond.protocol import Latest

BLOCK_SIZE = 64 * 1024
MOST_BLOCKS = 256
"""More blocks than that are written anew as few."""


class Directory:
    """Names of one owner. What was read is kept; later versions are read from where they differ."""

    def __init__(self, context: Context, secrets: OwnerSecrets) -> None:
        self._context = context
        self._secrets = secrets
        self._owner = context.ring.principal
        tag = directory_tag(secrets.name_key)
        self._target = Target(
            context, aguid(self._owner, tag), "the directory", {0: secrets.directory_read_key}, tag, BLOCK_SIZE
        )
        self._version = 0
        self._refs: list[BlockRef] = []
        self._entries: dict[str, Entry] = {}
        self._writing = asyncio.Lock()

    async def names(self, deadline: Deadline) -> list[str]:
        """All names ever made, in order."""
        await self._refresh("latest", deadline)
        return sorted(self._entries)

    async def lookup(self, name: str, deadline: Deadline, consistency: Consistency = "latest") -> Entry:
        """Where an object is. Raises NotFound, UsageError. An entry never changes, so one that is known is not read
        again, and with `any` one server's proof of it will do."""
        tag = self.tag(name)
        if name not in self._entries:
            await self._refresh(consistency, deadline)
        entry = self._entries.get(name)
        if entry is None:
            raise NotFound(f"there is no object {name!r}: see `pond ls`, or make it with create() or `pond put`")
        if entry.aguid != aguid(self._owner, tag):
            raise VerificationFailed(f"the directory has an entry for {name!r} that its owner cannot have made")
        return entry

    async def ensure(self, name: str, deadline: Deadline) -> Entry:
        """Where an object is; one that is not there yet gets an entry with a fresh read key."""
        try:
            return await self.lookup(name, deadline)
        except NotFound:
            pass
        async with self._writing:
            if name not in self._entries:
                key = Secret(self._context.random_bytes(KEY_BYTES))
                entry = Entry(aguid(self._owner, self.tag(name)), {0: key})
                await Update(self._target).append(encode_entry(name, entry)).commit(timeout=deadline.seconds)
                # Somebody else may have been first: then theirs counts, also for us.
                await self._refresh("latest", deadline)
                if len(self._refs) > MOST_BLOCKS:
                    await self._compact(deadline)
        return await self.lookup(name, deadline)

    def tag(self, name: str) -> bytes:
        """What stands for a name in its object's AGUID. Raises UsageError for a name that no object can have."""
        try:
            return name_tag(self._secrets.name_key, name)
        except NameRefused as error:
            raise UsageError(str(error)) from None

    async def _refresh(self, consistency: Consistency, deadline: Deadline) -> None:
        seen = await self._target.see(Latest(), consistency, deadline)
        root = seen.version
        if isinstance(root, Missing) or root.number <= self._version:
            return
        await self._read(root, deadline)

    async def _read(self, root: VersionRoot, deadline: Deadline) -> None:
        """Read what this version has and the one before had not."""
        refs = [place.ref async for place in self._context.nodes.places(root.content, deadline)]
        known = len(self._refs)
        grown = refs[:known] == self._refs
        fresh = refs[known:] if grown else refs
        blocks = await self._context.fetcher.get([ref.bguid for ref in fresh], BLOCK, deadline)
        content = b"".join(self._target.unseal(ref, blocks[ref.bguid]) for ref in fresh)
        try:
            entries = decode_entries(content)
        except DirectoryError as error:
            raise VerificationFailed(f"{error}: restore an earlier version of it") from None
        if root.number <= self._version:
            return  # somebody else of this connection was quicker
        self._entries = {**entries, **self._entries} if grown else entries
        self._refs, self._version = refs, root.number

    async def _compact(self, deadline: Deadline) -> None:
        """Write the same entries as few blocks, unless somebody else changed the directory meanwhile."""
        content = b"".join(encode_entry(name, entry) for name, entry in self._entries.items())
        try:
            await Update(self._target).when(version_is(self._version)).write(content).commit(timeout=deadline.seconds)
        except Aborted:
            return
        await self._refresh("latest", deadline)


def check(name: str) -> None:
    """Raises UsageError for a name that no object can have."""
    try:
        check_name(name)
    except NameRefused as error:
        raise UsageError(str(error)) from None

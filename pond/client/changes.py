"""Building one update: what is to change and on which condition, made into actions on blocks.

Changes at an offset are relative to a version: the blocks they touch are read, changed and encrypted anew, all others
keep their references, and the update asks that the version still is the newest. When it is not, it is built anew.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from bft.secret import Secret
from pond.client.asking import Deadline
from pond.client.blocks import BLOCK, Progress
from pond.client.content import Place
from pond.client.ring import Ran
from pond.client.sealing import Data, Sealer, Source
from pond.client.target import Target, Version, to_time
from pond.client.upload import Upload
from pond.errors import Aborted, NotFound, PermissionRefused, PondError, UsageError, VerificationFailed
from pond.model import tree, update
from pond.model.block import BlockRef, to_runs
from pond.model.proof import Missing
from pond.model.tree import TreeRoot
from pond.model.update import MAX_BLOCK_REFS, Action, Clause, Predicate, UpdateError, VersionIs
from pond.model.version import MAX_METADATA_BYTES, Metadata, Reason, Status
from pond.protocol import Latest
from tapestry.guid import GUID

MAX_METADATA = MAX_METADATA_BYTES - 16
"""Bytes of metadata before encryption, at most."""


class _Put(NamedTuple):
    """Write or append what a source has."""

    source: Source
    append: bool


class _Share(NamedTuple):
    """Blocks of an earlier version become the content."""

    refs: list[BlockRef]
    metadata: Metadata | None


class _Splice(NamedTuple):
    """`data` takes the place of `length` bytes at `offset`; `overwrite`: of as many as there are, up to that."""

    offset: int
    length: int
    data: bytes
    overwrite: bool


class _Truncate(NamedTuple):
    size_bytes: int


class _Describe(NamedTuple):
    metadata: bytes | None


class _Delete(NamedTuple):
    pass


_Step = _Put | _Share | _Splice | _Truncate | _Describe | _Delete


class _Clause:
    def __init__(self) -> None:
        self.predicates: list[Predicate] = []
        self.steps: list[_Step] = []

    @property
    def relative(self) -> bool:
        """Whether it depends on what the content is."""
        return any(isinstance(step, _Splice) for step in self.steps)


class Update:
    """One atomic change of an object, to be put together and then committed, once.

    Predicates of `when` must all hold, or nothing changes and Aborted is raised; after `otherwise` comes another
    clause, tried when the ones before do not hold.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._clauses = [_Clause()]
        self._commit: _Commit | None = None

    # --- what is to change -----------------------------------------------------------------------------------------

    def when(self, *predicates: Predicate) -> "Update":
        """Only if these hold."""
        self._clauses[-1].predicates.extend(predicates)
        return self

    def otherwise(self) -> "Update":
        """What follows is tried when the predicates before did not hold."""
        if not self._clauses[-1].steps:
            raise UsageError("say what is to change before otherwise()")
        self._clauses.append(_Clause())
        return self

    def write(self, data: Data) -> "Update":
        """This becomes the whole content."""
        return self._add(_Put(Source(data), append=False))

    def append(self, data: Data) -> "Update":
        """This follows the content."""
        return self._add(_Put(Source(data), append=True))

    def truncate(self, size_bytes: int) -> "Update":
        """Only the first bytes stay."""
        return self._add(_Truncate(_offset(size_bytes)))

    def replace(self, offset: int, data: bytes) -> "Update":
        """Write over the bytes from `offset` on; beyond the end the content grows."""
        return self._add(_Splice(_offset(offset), len(data), bytes(data), overwrite=True))

    def insert(self, offset: int, data: bytes) -> "Update":
        """Put this before the byte at `offset`."""
        return self._add(_Splice(_offset(offset), 0, bytes(data), overwrite=False))

    def delete_range(self, offset: int, length: int) -> "Update":
        """Take `length` bytes from `offset` on out."""
        return self._add(_Splice(_offset(offset), _offset(length), b"", overwrite=False))

    def set_metadata(self, metadata: bytes | None) -> "Update":
        """Keep this, encrypted, beside the content; None for nothing."""
        if metadata is not None and len(metadata) > MAX_METADATA:
            raise UsageError(f"metadata has at most {MAX_METADATA} bytes, not {len(metadata)}")
        return self._add(_Describe(metadata))

    def delete(self) -> "Update":
        """The object is gone; its history stays."""
        return self._add(_Delete())

    def share(self, refs: list[BlockRef], metadata: Metadata | None) -> "Update":
        """Blocks that the servers have, of this object, become the content."""
        return self._add(_Share(refs, metadata))

    def _add(self, step: _Step) -> "Update":
        steps = self._clauses[-1].steps
        if (steps and isinstance(step, _Delete)) or any(isinstance(other, _Delete) for other in steps):
            raise UsageError("a delete stands alone in its clause")
        steps.append(step)
        return self

    # --- doing it --------------------------------------------------------------------------------------------------

    async def commit(self, *, timeout: float | None = None, progress: Progress | None = None) -> Version:
        """Do it; returns the version made. Raises Aborted, PermissionRefused, NotFound, TimedOut, Unavailable."""
        if self._commit is not None:
            raise UsageError("this update has been committed: build another")
        if not all(clause.steps for clause in self._clauses):
            raise UsageError("this update changes nothing: say what it writes, e.g. update().append(data)")
        commit = self._commit = _Commit(self._target, self._clauses, self._target.context.deadline(timeout), progress)
        try:
            return await commit.run()
        finally:
            await commit.end()

    @property
    def resumed_bytes(self) -> int:
        """How much was not sent, so far, since servers hold it from an attempt that was broken off."""
        return self._commit.resumed_bytes if self._commit is not None else 0


class _Commit:
    """One update on its way."""

    def __init__(
        self, target: Target, clauses: Sequence[_Clause], deadline: Deadline, progress: Progress | None
    ) -> None:
        self._target = target
        self._context = target.context
        self._clauses = clauses
        self._deadline = deadline
        self._progress = progress
        self._uploads: list[Upload] = []
        self._supplying: dict[int, asyncio.Task[None]] = {}

    @property
    def resumed_bytes(self) -> int:
        """How much servers held already, of the ciphertext."""
        return sum(upload.resumed_bytes for upload in self._uploads)

    async def run(self) -> Version:
        sources = [step.source for clause in self._clauses for step in clause.steps if isinstance(step, _Put)]
        hint = max([await source.size_hint() for source in sources], default=0)
        block_size = await self._target.block_size(hint, self._deadline)
        total = sum(source.size_bytes or 0 for source in sources)
        sealer = self._sealer(block_size, total)
        upon = await self._newest() if any(source.resumable for source in sources) else bytes(32)
        refs = {id(source): await sealer.repeatable(source, upon, self._deadline, self._progress) for source in sources}
        own_bodies = await self._uploads[0].finish()
        while True:
            # What depends on the content is built anew, under a new salt, for each version that it is tried upon.
            bodies = list(own_bodies)
            base: _Base | None = None
            if any(clause.relative for clause in self._clauses):
                base = await self._base()
                del self._uploads[1:]
                sealer = self._sealer(block_size, 0)
            clauses = [
                await self._relative(clause, base, refs, sealer)
                if base is not None and clause.relative
                else Clause(clause.predicates, self._blind(clause, refs, sealer))
                for clause in self._clauses
            ]
            if base is not None:
                bodies += await self._uploads[1].finish()
            change = update.Update(
                aguid=self._target.aguid, founding=self._target.founding(block_size), clauses=clauses
            )
            try:
                update.check(change)
            except UpdateError as error:
                raise UsageError(f"this update cannot be: {error}") from None
            ran = await self._context.ring.submit(
                self._target.aguid, change.encode(), bodies, self._deadline, self._supply
            )
            if base is None or not self._lost_a_race(ran, base):
                version = self._version(ran)
                if version.number == 1:
                    self._target.founded(block_size)
                return version
            self._deadline.check(f"changing {self._target.shown}, which others change all the time,")

    async def end(self) -> None:
        tasks = list(self._supplying.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for upload in self._uploads:
            await upload.abandon()

    def _sealer(self, block_size: int, total_bytes: int) -> Sealer:
        context = self._context
        progress = self._progress if not self._uploads else None
        upload = Upload(
            context.asker,
            context.fetcher,
            context.ring.membership.quorum,
            lambda: context.ring.leader,
            self._deadline,
            progress,
            total_bytes,
        )
        self._uploads.append(upload)
        key: Secret = self._target.read_keys[self._target.epoch]
        return Sealer(self._target.aguid, key, self._target.epoch, block_size, upload, context.random_bytes)

    async def _newest(self) -> GUID:
        """The VGUID of the newest version."""
        seen = await self._target.see(Latest(), "latest", self._deadline)
        return seen.record.vguid if seen.record is not None else bytes(32)

    def _supply(self, server: int) -> None:
        """Bring a server what it says it lacks."""
        running = self._supplying.get(server)
        if running is None or running.done():
            self._supplying[server] = self._context.asker.loop.create_task(self._supply_all(server))

    async def _supply_all(self, server: int) -> None:
        for upload in self._uploads:
            if upload.sent_ahead:
                await upload.supply(server)

    # --- building --------------------------------------------------------------------------------------------------

    def _blind(self, clause: _Clause, refs: dict[int, list[BlockRef]], sealer: Sealer) -> list[Action]:
        """Actions that need not know the content."""
        actions: list[Action] = []
        for step in clause.steps:
            match step:
                case _Put(source, append):
                    runs = to_runs(refs[id(source)])
                    if not append:
                        actions.append(update.Write(runs))
                    elif runs:
                        actions.append(update.Append(runs))
                case _Share(shared, metadata):
                    if len(shared) > MAX_BLOCK_REFS:
                        raise UsageError(
                            f"a version of more than {MAX_BLOCK_REFS} blocks is restored by writing it anew"
                        )
                    actions += [update.Write(to_runs(shared)), update.SetMetadata(metadata)]
                case _Truncate(size_bytes):
                    actions.append(update.Truncate(size_bytes))
                case _Describe(text):
                    actions.append(update.SetMetadata(None if text is None else sealer.metadata(text)))
                case _Delete():
                    actions.append(update.Delete())
                case _Splice():
                    raise AssertionError("our fault: a change at an offset needs a base")
        if not actions:
            raise UsageError("this update changes nothing: there is nothing to append")
        return actions

    async def _relative(
        self, clause: _Clause, base: "_Base", refs: dict[int, list[BlockRef]], sealer: Sealer
    ) -> Clause:
        """Actions upon the version that is the newest now, and the predicate that it still is."""
        if not base.exists and isinstance(clause.steps[0], _Splice):
            raise NotFound(f"{self._target.shown} has no content to change: write it first")
        draft = _Draft(self._target, base, self._uploads, sealer, self._deadline)
        for step in clause.steps:
            match step:
                case _Splice():
                    await draft.splice(step)
                case _Put(source, append):
                    await draft.put(refs[id(source)], append)
                case _Truncate(size_bytes):
                    await draft.truncate(size_bytes)
                case _Describe(text):
                    draft.actions.append(update.SetMetadata(None if text is None else sealer.metadata(text)))
                case _:
                    raise UsageError("this cannot be in one clause with changes at an offset")
        if not draft.actions:
            raise UsageError("this update changes nothing")
        return Clause([VersionIs(base.number), *clause.predicates], draft.actions)

    async def _base(self) -> "_Base":
        root = (await self._target.see(Latest(), "latest", self._deadline)).version
        if isinstance(root, Missing):
            return _Base(0, tree.EMPTY, exists=False)
        return _Base(root.number, root.content, exists=not root.deleted)

    # --- what came of it -------------------------------------------------------------------------------------------

    def _lost_a_race(self, ran: Ran, base: "_Base") -> bool:
        """Whether it failed only because the object has changed since it was read."""
        outcome = ran.outcome
        chosen = any(isinstance(predicate, VersionIs) for clause in self._clauses for predicate in clause.predicates)
        return (
            outcome.status is Status.ABORTED
            and outcome.reason is Reason.NO_CLAUSE_HOLDS
            and outcome.number != base.number
            and not chosen
        )

    def _version(self, ran: Ran) -> Version:
        outcome, shown = ran.outcome, self._target.shown
        if outcome.aguid != self._target.aguid or outcome.writer != self._context.ring.principal:
            raise VerificationFailed("the ring answered with the outcome of another update")
        if outcome.status is Status.COMMITTED and outcome.vguid is not None:
            return Version(outcome.number, outcome.vguid, outcome.size_bytes, to_time(outcome.time), ran.certificate)
        match outcome.reason:
            case Reason.NOT_OWNER:
                raise PermissionRefused(f"only its owner may write {shown}: nothing has changed")
            case Reason.NO_SUCH_OBJECT:
                raise NotFound(f"{shown} does not exist, and only its owner can make it")
            case Reason.NOTHING_TO_DELETE:
                raise NotFound(f"{shown} does not exist or is deleted already")
        raise _aborted(shown, outcome.reason, outcome.number)


def _aborted(shown: str, reason: Reason | None, number: int) -> PondError:
    at = f"{shown} is at version {number}" if number else f"{shown} has no version yet"
    what = (
        {
            Reason.NO_CLAUSE_HOLDS: f"the predicates do not hold; {at}",
            Reason.OUT_OF_RANGE: f"it reaches beyond the content; {at}",
            Reason.BLOCK_TOO_LONG: f"{shown} was created with smaller blocks meanwhile; write again",
            Reason.TOO_LARGE: f"{shown} would have too many blocks; split it over several objects",
        }.get(reason)
        if reason is not None
        else None
    )
    said = reason.value if reason is not None else "unknown"
    return Aborted(f"nothing was changed: {what or said}", reason=said, version=number)


class _Base(NamedTuple):
    """The version that changes at an offset start from."""

    number: int
    content: TreeRoot
    exists: bool


class _Draft:
    """Content while the steps of a clause are applied, as the servers will apply the actions."""

    def __init__(
        self, target: Target, base: _Base, uploads: Sequence[Upload], sealer: Sealer, deadline: Deadline
    ) -> None:
        self.actions: list[Action] = []
        self._target = target
        self._nodes = target.context.nodes
        self._content = base.content
        self._own: dict[bytes, bytes] = {}
        self._uploads = uploads
        self._sealer = sealer
        self._deadline = deadline

    async def put(self, refs: list[BlockRef], append: bool) -> None:
        blocks = self._content.blocks
        if append:
            if refs:
                self.actions.append(update.Append(to_runs(refs)))
                await self._apply(blocks, 0, refs)
        else:
            self.actions.append(update.Write(to_runs(refs)))
            await self._apply(0, blocks, refs)

    async def truncate(self, size_bytes: int) -> None:
        content = self._content
        if size_bytes > content.size_bytes:
            raise self._beyond(size_bytes)
        self.actions.append(update.Truncate(size_bytes))
        self._content, new = await self._nodes.run(
            lambda load: tree.truncate(content, size_bytes, load), self._own, self._deadline
        )
        self._own |= new

    async def splice(self, step: _Splice) -> None:
        """Replace bytes by others: encrypts what is new and the rest of the first and last block touched."""
        size = self._content.size_bytes
        start = step.offset
        stop = min(start + step.length, size) if step.overwrite else start + step.length
        if start > size or stop > size:
            raise self._beyond(max(start, stop))
        if not step.data and start == stop:
            return
        if start == size:
            await self.put(await self._seal(step.data), append=True)
            return
        first = await self._place(start)
        if start == stop and first.offset == start:
            refs = await self._seal(step.data)
            self.actions.append(update.InsertBlocks(first.number, to_runs(refs)))
            await self._apply(first.number, 0, refs)
            return
        last = first if stop <= first.offset + first.ref.length else await self._place(stop - 1)
        head, tail = start - first.offset, stop - last.offset
        before = (await self._plaintext(first.ref))[:head] if head else b""
        after = (await self._plaintext(last.ref))[tail:] if tail < last.ref.length else b""
        content = before + step.data + after
        count = last.number - first.number + 1
        refs = await self._seal(content) if content else []
        if refs:
            self.actions.append(update.ReplaceBlocks(first.number, count, to_runs(refs)))
        else:
            self.actions.append(update.DeleteBlocks(first.number, count))
        await self._apply(first.number, count, refs)

    async def _seal(self, data: bytes) -> list[BlockRef]:
        return await self._sealer.content(Source(data), self._deadline)

    async def _apply(self, index: int, delete: int, refs: list[BlockRef]) -> None:
        content = self._content
        self._content, new = await self._nodes.run(
            lambda load: tree.splice(content, index, delete, refs, load), self._own, self._deadline
        )
        self._own |= new

    async def _place(self, offset: int) -> Place:
        """The block that has the byte at `offset`."""
        node, number, begin = self._content, 0, 0
        while True:
            known = {node.guid: self._own[node.guid]} if node.guid in self._own else {}
            self._nodes.keep({guid: data for guid, data in known.items() if guid is not None})
            for child in (await self._nodes.children([node], self._deadline))[0]:
                size = child.length if isinstance(child, BlockRef) else child.size_bytes
                if offset < begin + size:
                    if isinstance(child, BlockRef):
                        return Place(number, begin, child)
                    node = child
                    break
                begin += size
                number += 1 if isinstance(child, BlockRef) else child.blocks
            else:
                raise AssertionError("our fault: an offset beyond the content")

    async def _plaintext(self, ref: BlockRef) -> bytes:
        for upload in self._uploads:
            block = upload.find(ref.bguid)
            if block is not None:
                return self._target.unseal(ref, block)
            await upload.settle()
        found = await self._target.context.fetcher.get([ref.bguid], BLOCK, self._deadline)
        return self._target.unseal(ref, found[ref.bguid])

    def _beyond(self, offset: int) -> UsageError:
        return UsageError(
            f"byte {offset} is beyond the content of {self._target.shown}, which has {self._content.size_bytes} bytes"
        )


def _offset(number: int) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**63:
        raise UsageError(f"offsets and sizes are numbers of bytes from 0 on, not {number!r}")
    return number

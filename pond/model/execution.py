"""Running one update against the ordered state: the same on every correct server, byte for byte.

Reads through a view and gives back what changes; the caller lets the next update of a batch see it. Predicates and the
right to write are judged here and nowhere earlier, since only here all servers see the same state (design.md, 4).
Only the owner may write.
"""

from collections.abc import Mapping
from typing import NamedTuple

from bft.effects import Write
from bft.merkle import MountainRange, leaf_hash
from bft.service import ServiceView
from bft.state_tree import Kind, state_key
from bft.statement import Digest
from pond.model import names, tables, tree
from pond.model import update as updates
from pond.model.block import BlockRef, from_runs
from pond.model.encryption import OVERHEAD_BYTES
from pond.model.tree import TreeRoot
from pond.model.update import Action, Predicate, Update
from pond.model.version import (
    History,
    Metadata,
    ObjectRecord,
    Outcome,
    Reason,
    Status,
    VersionRoot,
    decode_record,
    decode_version_root,
)
from tapestry.guid import GUID


class Execution(NamedTuple):
    """What one update came to: its outcome, changes of the state tree, and writes to the tables of `tables`."""

    outcome: Outcome
    state: Mapping[bytes, bytes]
    writes: tuple[Write, ...]


class _Impossible(Exception):
    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class _Object(NamedTuple):
    """An object as an update finds it: `record` and `version` are None when it has yet to be founded."""

    aguid: GUID
    owner: bytes
    block_size: int
    record: ObjectRecord | None
    version: VersionRoot | None

    @property
    def exists(self) -> bool:
        return self.version is not None and not self.version.deleted

    @property
    def content(self) -> TreeRoot:
        return self.version.content if self.version else tree.EMPTY

    @property
    def metadata(self) -> Metadata | None:
        return self.version.metadata if self.version else None

    @property
    def history(self) -> MountainRange:
        return self.record.history if self.record else MountainRange.empty()


class _Draft:
    """Content and metadata while the actions of a clause are applied one after another."""

    def __init__(self, found: _Object, view: ServiceView) -> None:
        self.content = found.content
        self.metadata = found.metadata
        self.deleted = False
        self._exists = found.exists
        self._block_size = found.block_size
        self._view = view
        self._nodes: dict[GUID, bytes] = {}

    def apply(self, action: Action) -> None:
        """Raises _Impossible."""
        refs = from_runs(updates.runs_of(action))
        self._check_lengths(refs)
        blocks = self.content.blocks
        match action:
            case updates.Write():
                self._splice(0, blocks, refs)
            case updates.Append():
                self._splice(blocks, 0, refs)
            case updates.ReplaceBlocks(index, count):
                self._splice(index, count, refs)
            case updates.InsertBlocks(index):
                self._splice(index, 0, refs)
            case updates.DeleteBlocks(index, count):
                self._splice(index, count, refs)
            case updates.Truncate(size_bytes):
                if size_bytes > self.content.size_bytes:
                    raise _Impossible(Reason.OUT_OF_RANGE)
                self._take(tree.truncate(self.content, size_bytes, self._load))
            case updates.SetMetadata(metadata):
                self.metadata = metadata
            case updates.Delete():
                if not self._exists:
                    raise _Impossible(Reason.NOTHING_TO_DELETE)
                self.content, self.metadata, self.deleted = tree.EMPTY, None, True

    def nodes(self) -> Mapping[GUID, bytes]:
        """The new nodes of the content as it is now."""
        return tree.in_use(self.content, self._nodes)

    def _splice(self, index: int, delete: int, refs: list[BlockRef]) -> None:
        if index + delete > self.content.blocks:
            raise _Impossible(Reason.OUT_OF_RANGE)
        if self.content.blocks - delete + len(refs) > tree.MAX_BLOCKS:
            raise _Impossible(Reason.TOO_LARGE)
        self._take(tree.splice(self.content, index, delete, refs, self._load))

    def _take(self, result: tuple[TreeRoot, dict[GUID, bytes]]) -> None:
        self.content, new = result
        self._nodes |= new

    def _load(self, guid: GUID) -> bytes:
        return self._nodes[guid] if guid in self._nodes else _stored(self._view, tables.NODES, guid)

    def _check_lengths(self, refs: list[BlockRef]) -> None:
        """No reader is handed a block that cannot have the length that its reference says."""
        for ref in refs:
            size = self._view.size(tables.BLOCKS, ref.bguid)
            assert size is not None, f"our fault: an update runs without its block {ref.bguid.hex()}"
            if ref.length > self._block_size or size > self._block_size + OVERHEAD_BYTES:
                raise _Impossible(Reason.BLOCK_TOO_LONG)
            if size < ref.length + OVERHEAD_BYTES:
                raise _Impossible(Reason.BLOCK_TOO_SHORT)


def execute(update: Update, principal: bytes, request: Digest, time: int, view: ServiceView) -> Execution:
    """What `update` comes to when `principal` asks for it at agreed time `time` (microseconds).

    `request` is the digest of the signed statement. The form of the update has been checked, and the view holds all
    blocks it names: servers vote for nothing else.
    """
    found = _find(update, principal, view)
    if isinstance(found, Reason):
        return Execution(_refusal(update.aguid, principal, request, time, found), {}, ())
    if found.version is not None:
        time = max(time, found.version.time)
    for number, clause in enumerate(update.clauses):
        if all(_holds(predicate, found, time, view) for predicate in clause.predicates):
            draft = _Draft(found, view)
            try:
                for action in clause.actions:
                    draft.apply(action)
            except _Impossible as impossible:
                return _abort(found, principal, request, time, number, impossible.reason)
            return _commit(found, principal, request, time, number, draft)
    return _abort(found, principal, request, time, None, Reason.NO_CLAUSE_HOLDS)


def _find(update: Update, principal: bytes, view: ServiceView) -> _Object | Reason:
    """The object that the update is about, or why `principal` may not write it."""
    value = view.state(state_key(Kind.OBJECT, update.aguid))
    if value is None:
        founding = update.founding
        if founding is None or names.aguid(principal, founding.name_tag) != update.aguid:
            return Reason.NO_SUCH_OBJECT
        return _Object(update.aguid, principal, founding.block_size, None, None)
    record = decode_record(value)
    if record.owner != principal:
        return Reason.NOT_OWNER
    version = decode_version_root(_stored(view, tables.VERSIONS, record.vguid))
    return _Object(update.aguid, record.owner, record.block_size, record, version)


def _holds(predicate: Predicate, found: _Object, time: int, view: ServiceView) -> bool:
    """Whether a predicate holds of an object at an agreed time."""
    match predicate:
        case updates.VersionIs(number):
            return number == (found.version.number if found.version else 0)
        case updates.SizeIs(size_bytes):
            return size_bytes == found.content.size_bytes
        case updates.BlockIs(index, bguid):
            ref = tree.block_at(found.content, index, lambda guid: _stored(view, tables.NODES, guid))
            return ref is not None and ref.bguid == bguid
        case updates.Exists():
            return found.exists
        case updates.Absent():
            return not found.exists
        case updates.Before(limit):
            return time < limit
        case updates.After(limit):
            return time > limit
        case updates.MetadataIs(digest):
            return digest == (found.metadata.digest() if found.metadata else None)
        case updates.And(terms):
            return all(_holds(term, found, time, view) for term in terms)
        case updates.Or(terms):
            return any(_holds(term, found, time, view) for term in terms)
        case updates.Not(term):
            return not _holds(term, found, time, view)


def _commit(found: _Object, writer: bytes, request: Digest, time: int, clause: int, draft: _Draft) -> Execution:
    history = found.history
    version = VersionRoot(
        aguid=found.aguid,
        number=found.version.number + 1 if found.version else 1,
        block_size=found.block_size,
        content=draft.content,
        previous=found.record.vguid if found.record else None,
        update=request,
        time=time,
        acl_version=0,
        metadata=draft.metadata,
        history=History(history.count, history.root),
        deleted=draft.deleted,
    )
    encoded = version.encode()
    vguid = version.digest()
    outcome = Outcome(
        aguid=found.aguid,
        index=history.count,
        update=request,
        writer=writer,
        status=Status.COMMITTED,
        clause=clause,
        reason=None,
        number=version.number,
        vguid=vguid,
        size_bytes=version.content.size_bytes,
        time=time,
    )
    history, logged = _log(outcome, history)
    record = ObjectRecord(
        owner=found.owner,
        number=version.number,
        vguid=vguid,
        deleted=version.deleted,
        block_size=found.block_size,
        history=history,
    )
    writes = [Write(tables.NODES, guid, node) for guid, node in draft.nodes().items()]
    writes.append(Write(tables.VERSIONS, vguid, encoded))
    number_value = tables.number_value(outcome.index or 0, vguid)
    writes.append(Write(tables.NUMBERS, tables.number_key(found.aguid, version.number), number_value))
    return Execution(outcome, {state_key(Kind.OBJECT, found.aguid): record.encode()}, (*writes, *logged))


def _abort(found: _Object, writer: bytes, request: Digest, time: int, clause: int | None, reason: Reason) -> Execution:
    record, version = found.record, found.version
    outcome = Outcome(
        aguid=found.aguid,
        index=record.history.count if record else None,
        update=request,
        writer=writer,
        status=Status.ABORTED,
        clause=clause,
        reason=reason,
        number=version.number if version else 0,
        vguid=record.vguid if record else None,
        size_bytes=found.content.size_bytes,
        time=time,
    )
    if record is None:
        return Execution(outcome, {}, ())
    history, logged = _log(outcome, record.history)
    record = ObjectRecord(
        owner=record.owner,
        number=record.number,
        vguid=record.vguid,
        deleted=record.deleted,
        block_size=record.block_size,
        history=history,
    )
    return Execution(outcome, {state_key(Kind.OBJECT, found.aguid): record.encode()}, logged)


def _refusal(aguid: GUID, writer: bytes, request: Digest, time: int, reason: Reason) -> Outcome:
    return Outcome(
        aguid=aguid,
        index=None,
        update=request,
        writer=writer,
        status=Status.REFUSED,
        clause=None,
        reason=reason,
        number=0,
        vguid=None,
        size_bytes=0,
        time=time,
    )


def _log(outcome: Outcome, history: MountainRange) -> tuple[MountainRange, tuple[Write, ...]]:
    """The history with one more outcome, and what is stored of it."""
    encoded = outcome.encode()
    longer, nodes = history.append(leaf_hash(encoded))
    stored = Write(tables.OUTCOMES, tables.outcome_key(outcome.aguid, history.count), encoded)
    return longer, (
        stored,
        *(Write(tables.RANGES, tables.range_key(outcome.aguid, *place), digest) for *place, digest in nodes),
    )


def _stored(view: ServiceView, table: str, key: bytes) -> bytes:
    value = view.get(table, key)
    assert value is not None, f"our fault: {table} has no {key.hex()}"
    return value

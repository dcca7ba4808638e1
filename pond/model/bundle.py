"""An object's history in one file that anyone can check offline with the ring's public key.

The file is a sequence of MessagePack byte strings, each of one part:

    header         statement `pond.bundle` 1: ring id, aguid, count of outcomes, with data or not, SHA-256 of these four
    certificate    [statement, signature]
    proof          the object's record in the state that the certificate covers
    leaves         hashes of the outcomes, 4096 to a part, which the record's mountain range proves
    then for each outcome, oldest first: the outcome, and the version root if it made one, and with data each node of
    the version's tree and each block that was not there before, parents before children, from left to right

Each part is proved by those before it before the next is read, so a checker needs little memory (a GUID for each
node and block, a hash for each outcome) and can name the first part that does not hold. Every byte of the file counts.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import msgpack
import msgspec

from bft import statement
from bft.certificate import Certificate, Claim
from bft.merkle import MountainRange, leaf_hash
from bft.signatures import Verifier
from bft.state_tree import StateProof
from bft.statement import Digest, digest
from bft.types import Natural
from pond.model import tree
from pond.model.block import MAX_CIPHERTEXT_BYTES, BlockRef, bguid
from pond.model.encryption import OVERHEAD_BYTES
from pond.model.proof import HistoryCheck, ProofFailed, check_certificate, check_record
from pond.model.tree import TreeError, TreeRoot
from pond.model.version import ObjectRecord, Status, VersionError, decode_outcome
from tapestry.guid import GUID

TAG = "pond.bundle"
FORMAT = 1

LEAVES_IN_PART = 4096

_READ_BYTES = 1024 * 1024
_DIGEST_BYTES = 32

T = TypeVar("T")


class BundleDamaged(ValueError):
    """Bytes start <= offset < end of the file are the first that do not hold."""

    def __init__(self, start: int, end: int, what: str) -> None:
        super().__init__(f"bytes {start} to {end} of the bundle do not hold: {what}")
        self.start = start
        self.end = end
        self.what = what


class NotSigned(BundleDamaged):
    """The certificate does not hold under the key given, which is likely another ring's: what is before it holds."""


class BundleReport(NamedTuple):
    """What a bundle that holds says."""

    ring_id: Digest
    aguid: GUID
    record: ObjectRecord
    with_data: bool
    versions: int
    aborted: int
    size_bytes: int
    """Size of the file."""
    time: int
    """Agreed time of the certificate in microseconds: the history is complete up to then."""


class _Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    ring_id: Digest
    aguid: GUID
    outcomes: Natural
    with_data: bool
    check: Digest
    """Digest of the statement without this field: a flipped bit is found here and not blamed on what follows."""

    @classmethod
    def make(cls, ring_id: Digest, aguid: GUID, outcomes: int, with_data: bool) -> "_Header":
        check = digest(statement.encode(TAG, FORMAT, ring_id, aguid, outcomes, with_data))
        return cls(ring_id, aguid, outcomes, with_data, check)

    def encode(self) -> bytes:
        return statement.encode(TAG, FORMAT, *msgspec.structs.astuple(self))


class _Contents:
    """Nodes and blocks of one version after another that were not there before, parents first, left to right."""

    def __init__(self) -> None:
        self._seen: set[GUID] = set()
        self._pending: list[TreeRoot | BlockRef] = []

    def begin(self, content: TreeRoot) -> None:
        """The next version's content."""
        assert not self._pending, "our fault: the version before is not complete"
        tree.check_root(content)
        self._pending = [content] if content.guid is not None else []
        self._skip_seen()

    def wanted(self, count: int) -> list[GUID]:
        """GUIDs of parts to come, the first being the next; parts that are not known yet may come between others."""
        names: dict[GUID, None] = {}
        for item in reversed(self._pending):
            if len(names) == count:
                break
            if (name := _name(item)) not in self._seen:
                names[name] = None
        return list(names)

    def add(self, data: bytes) -> None:
        """The next part. Raises TreeError when `data` is something else."""
        assert self._pending, "our fault: the version is complete"
        item = self._pending[-1]
        if isinstance(item, BlockRef):
            if bguid(data) != item.bguid or len(data) < item.length + OVERHEAD_BYTES:
                raise TreeError(f"what was sent as block {item.bguid.hex()} is something else")
            below: list[TreeRoot | BlockRef] = []
        elif item.height == 1:
            below = [*tree.open_leaf(item, data)]
        else:
            below = [*tree.open_inner(item, data)]
        self._pending.pop()
        self._seen.add(_name(item))
        self._pending.extend(reversed(below))
        self._skip_seen()

    def _skip_seen(self) -> None:
        while self._pending and _name(self._pending[-1]) in self._seen:
            self._pending.pop()


def _name(item: TreeRoot | BlockRef) -> GUID:
    name = item.bguid if isinstance(item, BlockRef) else item.guid
    assert name is not None, "the empty tree has no parts"
    return name


# --- writing -----------------------------------------------------------------------------------------------------


class BundleWriter:
    """Makes a bundle piece by piece: each method returns bytes to be appended to the file.

    Call `begin`, then `outcome` for each outcome and, with data, `add` what `wanted` names until it names nothing.
    Checks what it is given as a reader of the bundle would. Raises ProofFailed or TreeError.
    """

    def __init__(self, aguid: GUID, *, with_data: bool) -> None:
        self._aguid = aguid
        self._with_data = with_data
        self._history = HistoryCheck(aguid)
        self._contents = _Contents()
        self._record: ObjectRecord | None = None

    def begin(self, certificate: Certificate, claim: Claim, proof: StateProof, leaves: list[Digest]) -> bytes:
        """The start of the file. `claim` is the certificate's, `leaves` the `merkle.leaf_hash` of each outcome."""
        self._record = check_record(claim, proof, self._aguid)
        if self._record is None or _range_of(leaves) != self._record.history:
            raise ProofFailed("the outcomes are not those of the object's record")
        header = _Header.make(claim.ring_id, self._aguid, len(leaves), self._with_data)
        parts = [header.encode(), msgspec.msgpack.encode(certificate), msgspec.msgpack.encode(proof)]
        parts += [b"".join(leaves[i : i + LEAVES_IN_PART]) for i in range(0, len(leaves), LEAVES_IN_PART)]
        return b"".join(map(_pack, parts))

    def outcome(self, outcome: bytes, root: bytes | None) -> bytes:
        """The next outcome, and the root of the version it made, if it made one."""
        assert not self.wanted(1), "our fault: the version before is not complete"
        _, version = self._history.add(outcome, root)
        if version is not None and self._with_data:
            self._contents.begin(version.content)
        return _pack(outcome) + (_pack(root) if root is not None else b"")

    def wanted(self, count: int) -> list[GUID]:
        """Up to `count` nodes and blocks that are still to be added: `add` takes the first, others are to come."""
        return self._contents.wanted(count)

    def add(self, data: bytes) -> bytes:
        """The next node or block."""
        self._contents.add(data)
        return _pack(data)

    def finish(self) -> None:
        """Raises ProofFailed unless the bundle is complete."""
        assert self._record is not None, "our fault: finished before begun"
        if self.wanted(1):
            raise ProofFailed("the last version is not complete")
        self._history.finish(self._record)


def _pack(part: bytes) -> bytes:
    packed: bytes = msgpack.packb(part, use_bin_type=True)
    return packed


def _range_of(leaves: list[Digest]) -> MountainRange:
    history = MountainRange.empty()
    for leaf in leaves:
        history, _ = history.append(leaf)
    return history


# --- checking ----------------------------------------------------------------------------------------------------


class _Parts:
    """The parts of a file, and where in it the newest one is."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._unpacker = msgpack.Unpacker(
            self,
            read_size=_READ_BYTES,
            raw=False,
            use_list=True,
            strict_map_key=True,
            max_buffer_size=4 * MAX_CIPHERTEXT_BYTES,
            max_bin_len=MAX_CIPHERTEXT_BYTES,
            max_str_len=0,
            max_array_len=0,
            max_map_len=0,
            max_ext_len=0,
        )
        self._had = 0
        self.start = self.end = 0

    def read(self, size: int) -> bytes:
        """For the unpacker."""
        data = self._read(size)
        self._had += len(data)
        return data

    def next(self, what: str) -> bytes:
        """The next part. Raises BundleDamaged when the file ends or goes on otherwise."""
        self.start = self.end
        try:
            part = self._unpacker.unpack()
        except msgpack.OutOfData:
            self.end = self._had
            raise self.damaged(f"the file ends within {what}") from None
        except (ValueError, msgpack.exceptions.UnpackException):
            self.end = min(self.start + 5, self._had)  # the type and length of what should be a byte string
            raise self.damaged(f"not {what}") from None
        self.end = self._unpacker.tell()
        # One length has one encoding in a byte string, so this leaves no bit of it free.
        if type(part) is not bytes or self.end - self.start != len(part) + _head_bytes(len(part)):
            raise self.damaged(f"not {what}, or not canonically encoded")
        return part

    def check_end(self) -> None:
        """Raises BundleDamaged when there is anything after the last part."""
        if self._had > self.end or self.read(1):
            self.start, self.end = self.end, self._had
            raise self.damaged("the bundle goes on after its end")

    def damaged(self, what: str, start: int | None = None) -> BundleDamaged:
        """The newest part, or all from `start` up to its end, does not hold."""
        return BundleDamaged(self.start if start is None else start, self.end, what)


def _head_bytes(length: int) -> int:
    return 2 if length < 2**8 else 3 if length < 2**16 else 5


def verify(read: Callable[[int], bytes], ring_key: bytes, verifier: Verifier) -> BundleReport:
    """Check a bundle to its last byte against the ring's public key, and return what it says.

    `read(n)` returns at most n bytes of the file, and none at its end only. Memory does not grow with the data, but by
    a GUID for each node and block, and a hash for each outcome. Raises BundleDamaged.
    """
    parts = _Parts(read)
    header = _read_header(parts)
    certificate = _read_typed(parts, Certificate, "the certificate")
    try:
        claim = check_certificate(certificate, ring_key, header.ring_id, verifier)
    except ProofFailed as error:
        raise NotSigned(parts.start, parts.end, str(error)) from None
    proof = _read_typed(parts, StateProof, "the proof of the object's record")
    with _blaming(parts):
        record = check_record(claim, proof, header.aguid)
    if record is None:
        raise parts.damaged("the proof says that there is no such object")
    if record.history.count != header.outcomes:
        raise parts.damaged(f"the object has {record.history.count} outcomes, the header says {header.outcomes}", 0)
    leaves = _read_leaves(parts, record)

    history, contents = HistoryCheck(header.aguid), _Contents()
    versions = 0
    for number, leaf in enumerate(leaves):
        version = _read_outcome(parts, history, leaf, number)
        if version is None:
            continue
        versions += 1
        if header.with_data:
            with _blaming(parts):
                contents.begin(version)
            _read_data(parts, contents, versions)
    with _blaming(parts):
        history.finish(record)
    parts.check_end()
    return BundleReport(
        ring_id=header.ring_id,
        aguid=header.aguid,
        record=record,
        with_data=header.with_data,
        versions=versions,
        aborted=header.outcomes - versions,
        size_bytes=parts.end,
        time=claim.time,
    )


@contextmanager
def _blaming(parts: _Parts, start: int | None = None) -> Iterator[None]:
    """What does not hold inside is the fault of the newest part, or of all from `start` up to its end."""
    try:
        yield
    except (ProofFailed, TreeError) as error:
        raise parts.damaged(str(error), start) from None


def _read_header(parts: _Parts) -> _Header:
    data = parts.next("the header of a bundle")
    try:
        header = msgspec.convert(statement.decode(data, TAG, FORMAT), _Header)
    except ValueError as error:
        raise parts.damaged(f"not the header of a bundle: {error}") from None
    if header != _Header.make(header.ring_id, header.aguid, header.outcomes, header.with_data):
        raise parts.damaged("the header does not have the digest that it states")
    return header


def _read_typed(parts: _Parts, type_: type[T], what: str) -> T:
    data = parts.next(what)
    try:
        value = msgspec.msgpack.decode(data, type=type_)
    except msgspec.DecodeError as error:
        raise parts.damaged(f"not {what}: {error}") from None
    if msgspec.msgpack.encode(value) != data:
        raise parts.damaged(f"{what} is not canonically encoded")
    return value


def _read_leaves(parts: _Parts, record: ObjectRecord) -> list[Digest]:
    start = parts.end
    leaves: list[Digest] = []
    while len(leaves) < record.history.count:
        data = parts.next("the hashes of the outcomes")
        count = min(record.history.count - len(leaves), LEAVES_IN_PART)
        if len(data) != count * _DIGEST_BYTES:
            raise parts.damaged(f"not the hashes of {count} outcomes")
        leaves += [data[i : i + _DIGEST_BYTES] for i in range(0, len(data), _DIGEST_BYTES)]
    if _range_of(leaves) != record.history:
        raise parts.damaged("the hashes of the outcomes are not those that the object's record proves", start)
    return leaves


def _read_outcome(parts: _Parts, history: HistoryCheck, leaf: Digest, number: int) -> TreeRoot | None:
    """The content of the version that the next outcome made, or None when it made none."""
    outcome = parts.next(f"outcome {number}")
    if leaf_hash(outcome) != leaf:
        raise parts.damaged(f"outcome {number} is not the one that the object's history proves")
    start = parts.start
    try:
        made = decode_outcome(outcome)
    except VersionError as error:
        raise parts.damaged(str(error)) from None
    root = None
    if made.status == Status.COMMITTED:
        root = parts.next(f"the root of version {made.number}")
        if digest(root) != made.vguid:
            raise parts.damaged(f"the root of version {made.number} is not the one that its outcome names")
    with _blaming(parts, start):
        _, version = history.add(outcome, root)
    return version.content if version is not None else None


def _read_data(parts: _Parts, contents: _Contents, version: int) -> None:
    while wanted := contents.wanted(1):
        data = parts.next(f"the node or block {wanted[0].hex()} of version {version}")
        with _blaming(parts):
            contents.add(data)

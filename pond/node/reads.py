"""What a server answers to readers, with the proofs that let them trust only the ring's key (design.md, 5 and 8).

Everything is answered from the newest certified state: the object's record by a proof in the state tree, and each older
outcome or version by its path in the record's mountain range.
"""

from bft.effects import Reader
from bft.execution import Certified
from bft.merkle import inclusion_path
from bft.state_tree import Kind, state_key
from bft.statement import Digest
from pond.errors import StorageRotten
from pond.model.tables import (
    NUMBERS,
    OUTCOMES,
    RANGES,
    VERSIONS,
    number_key,
    outcome_key,
    parse_number_value,
    range_key,
)
from pond.model.version import ObjectRecord, Status, decode_outcome, decode_record, decode_version_root
from pond.protocol import (
    MAX_ANSWER_BYTES,
    AtTime,
    ByNumber,
    ByVguid,
    History,
    Latest,
    ObjectRead,
    OutcomeEvidence,
    ReadHistory,
    ReadObject,
    Selector,
    VersionEvidence,
)
from tapestry.guid import GUID


class Reads:
    """Answers from the tables of one server."""

    def __init__(self, disk: Reader) -> None:
        self._disk = disk

    def answer(self, question: ReadObject | ReadHistory, certified: Certified) -> ObjectRead | History:
        """The answer from one certified state. Raises StorageRotten where the disk has not kept what it needs."""
        key = state_key(Kind.OBJECT, question.aguid)
        tree = certified.state.tree
        value = tree.get(key)
        record = decode_record(value) if value is not None else None
        proof = tree.prove(key)
        if isinstance(question, ReadObject):
            version = self._version(question.aguid, record, question.selector) if record is not None else None
            return ObjectRead(question.ask, certified.certificate, proof, version)
        outcomes = self._outcomes(question, record) if record is not None else []
        return History(question.ask, certified.certificate, proof, outcomes)

    def _version(self, aguid: GUID, record: ObjectRecord, selector: Selector) -> VersionEvidence | None:
        number = self._number(aguid, record, selector)
        if number is None or not 1 <= number <= record.number:
            return None
        index, vguid = self._made(aguid, number)
        followed_by = None
        if number < record.number:
            followed_by = self._evidence(aguid, record, self._made(aguid, number + 1)[0])
        return VersionEvidence(self._stored(VERSIONS, vguid), self._evidence(aguid, record, index), followed_by)

    def _number(self, aguid: GUID, record: ObjectRecord, selector: Selector) -> int | None:
        match selector:
            case Latest():
                return record.number
            case ByNumber(number):
                return number
            case ByVguid(vguid):
                root = self._disk.get(VERSIONS, vguid)
                version = decode_version_root(root) if root is not None else None
                return version.number if version is not None and version.aguid == aguid else None
            case AtTime(time):
                return self._number_at(aguid, record, time)

    def _number_at(self, aguid: GUID, record: ObjectRecord, time: int) -> int:
        """The newest version made at or before a time; the first version when all are younger."""
        low, high = 1, record.number
        while low < high:
            middle = (low + high + 1) // 2
            index, _ = self._made(aguid, middle)
            if decode_outcome(self._stored(OUTCOMES, outcome_key(aguid, index))).time <= time:
                low = middle
            else:
                high = middle - 1
        return low

    def _outcomes(self, question: ReadHistory, record: ObjectRecord) -> list[tuple[bytes, bytes | None]]:
        found: list[tuple[bytes, bytes | None]] = []
        size = 0
        for index in range(question.first, min(question.first + question.count, record.history.count)):
            encoded = self._stored(OUTCOMES, outcome_key(question.aguid, index))
            outcome = decode_outcome(encoded)
            root = None
            if outcome.status is Status.COMMITTED and outcome.vguid is not None:
                root = self._stored(VERSIONS, outcome.vguid)
            size += len(encoded) + len(root or b"")
            if found and size > MAX_ANSWER_BYTES:
                break
            found.append((encoded, root))
        return found

    def _evidence(self, aguid: GUID, record: ObjectRecord, index: int) -> OutcomeEvidence:
        def node(level: int, place: int) -> Digest:
            return self._stored(RANGES, range_key(aguid, level, place))

        path = inclusion_path(record.history, index, node)
        return OutcomeEvidence(self._stored(OUTCOMES, outcome_key(aguid, index)), path)

    def _made(self, aguid: GUID, number: int) -> tuple[int, GUID]:
        return parse_number_value(self._stored(NUMBERS, number_key(aguid, number)))

    def _stored(self, table: str, key: bytes) -> bytes:
        value = self._disk.get(table, key)
        if value is None:  # the state commits to it, so the disk has lost it
            raise StorageRotten(table, key)
        return value

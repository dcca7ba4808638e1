"""A store of dicts for tests of the model: one owner's updates run one after another, and proofs of the state."""

from __future__ import annotations

from dataclasses import dataclass, field

from bft.certificate import Certificate, Claim
from bft.merkle import MountainRange, inclusion_path
from bft.secret import Secret
from bft.signatures import Ed25519Signer
from bft.state_tree import Kind, StateProof, StateTree, state_key
from bft.statement import digest
from bft.types import AgreedTime, Epoch, Sequence
from pond.model import names, tables
from pond.model.block import BlockRef, bguid
from pond.model.execution import Execution, execute
from pond.model.update import Action, Clause, Founding, Predicate, Update, check
from pond.model.version import ObjectRecord, decode_outcome, decode_record
from pond.protocol import OutcomeEvidence, VersionEvidence

OWNER = Ed25519Signer(Secret(b"o" * 32)).public_key
STRANGER = Ed25519Signer(Secret(b"s" * 32)).public_key
TAG = names.name_tag(Secret(b"n" * 32), "notes")
AGUID = names.aguid(OWNER, TAG)
BLOCK_SIZE = 4096
FOUNDING = Founding(TAG, BLOCK_SIZE)
RING = Ed25519Signer(Secret(b"r" * 32))
RING_ID = digest(b"ring")
SALT = bytes(range(32))


def clause(*actions: Action, when: list[Predicate] | None = None) -> Clause:
    return Clause(when or [], list(actions))


def update(*clauses: Clause, founding: Founding | None = FOUNDING, aguid: bytes = AGUID) -> Update:
    made = Update(aguid=aguid, founding=founding, clauses=list(clauses))
    check(made)
    return made


@dataclass
class Store:
    """What a server has."""

    tables: dict[tuple[str, bytes], bytes] = field(default_factory=dict)
    values: dict[bytes, bytes] = field(default_factory=dict)
    requests: int = 0
    now: int = 1000

    def state(self, key: bytes) -> bytes | None:
        return self.values.get(key)

    def get(self, table: str, key: bytes) -> bytes | None:
        return self.tables.get((table, key))

    def size(self, table: str, key: bytes) -> int | None:
        value = self.tables.get((table, key))
        return None if value is None else len(value)

    def block(self, number: int, length: int) -> BlockRef:
        """A block of stand-in ciphertext, held from now on."""
        ciphertext = b"%07d" % number + bytes(length + 9)
        name = bguid(ciphertext)
        self.tables[tables.BLOCKS, name] = ciphertext
        return BlockRef(name, length, 0, SALT, number)

    def run(self, asked: Update, principal: bytes = OWNER, time: int | None = None) -> Execution:
        """Execute and store."""
        self.requests += 1
        self.now += 10
        request = digest(b"request %d" % self.requests)
        result = execute(asked, principal, request, self.now if time is None else time, self)
        self.values |= result.state
        for table, key, value in result.writes:
            assert value is not None
            self.tables[table, key] = value
        return result

    def record(self, aguid: bytes = AGUID) -> ObjectRecord:
        return decode_record(self.values[state_key(Kind.OBJECT, aguid)])

    def outcomes(self, aguid: bytes = AGUID) -> list[tuple[bytes, bytes | None]]:
        """The history as `pond.protocol.History` has it."""
        found: list[tuple[bytes, bytes | None]] = []
        for index in range(self.record(aguid).history.count):
            data = self.tables[tables.OUTCOMES, tables.outcome_key(aguid, index)]
            outcome = decode_outcome(data)
            root = self.tables[tables.VERSIONS, outcome.vguid or b""] if outcome.reason is None else None
            found.append((data, root))
        return found

    def prove(self, aguid: bytes = AGUID) -> tuple[Certificate, StateProof]:
        """A certificate over the state, and the proof of what is under this object's key."""
        key = state_key(Kind.OBJECT, aguid)
        tree = StateTree.empty().update({**self.values, **{bytes([9, i]): b"other" for i in range(20)}})
        claim = Claim(
            RING_ID, Epoch(0), Sequence(7), AgreedTime(self.now + 5), digest(b"batch"), digest(b"answers"), tree.root
        )
        return Certificate(claim.encode(), RING.sign(claim.encode())), tree.prove(key)

    def outcome_evidence(self, index: int, aguid: bytes = AGUID) -> OutcomeEvidence:
        history: MountainRange = self.record(aguid).history

        def node(level: int, place: int) -> bytes:
            return self.tables[tables.RANGES, tables.range_key(aguid, level, place)]

        data = self.tables[tables.OUTCOMES, tables.outcome_key(aguid, index)]
        return OutcomeEvidence(data, inclusion_path(history, index, node))

    def version_evidence(self, number: int, aguid: bytes = AGUID) -> VersionEvidence:
        def find(number: int) -> tuple[int, bytes]:
            return tables.parse_number_value(self.tables[tables.NUMBERS, tables.number_key(aguid, number)])

        index, vguid = find(number)
        followed_by = None
        if number < self.record(aguid).number:
            followed_by = self.outcome_evidence(find(number + 1)[0], aguid)
        root = self.tables[tables.VERSIONS, vguid]
        return VersionEvidence(root, self.outcome_evidence(index, aguid), followed_by)

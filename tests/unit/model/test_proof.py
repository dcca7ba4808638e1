"""A client's checks: what is proved is believed, and nothing that was changed anywhere on the way."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from bft.answer import Answer
from bft.answer import Status as AnswerStatus
from bft.certificate import Certificate
from bft.merkle import MountainRange, leaf_hash
from bft.signatures import Ed25519Verifier
from bft.state_tree import StateProof
from bft.statement import digest
from pond.model import names, proof
from pond.model import update as u
from pond.model.block import to_runs
from pond.model.proof import HistoryCheck, Missing, ProofFailed
from pond.model.tree import EMPTY, TreeRoot
from pond.model.update import Founding
from pond.model.version import (
    History,
    ObjectRecord,
    Outcome,
    Reason,
    Status,
    VersionRoot,
    decode_outcome,
    decode_version_root,
)
from pond.protocol import AtTime, ByNumber, ByVguid, Latest, OutcomeEvidence, Selector, VersionEvidence
from tests.unit.model.store import AGUID, BLOCK_SIZE, OWNER, RING, RING_ID, STRANGER, Store, clause, update

OTHER_TAG = bytes(32)
OTHER = names.aguid(OWNER, OTHER_TAG)


@pytest.fixture(scope="module")
def store() -> Store:
    """Six versions, the fourth a tombstone, with aborts between them; and another object."""
    store = Store()
    for number in range(6):
        store.now += 1000
        if number == 3:
            asked = clause(u.Delete())
        else:
            asked = clause(u.Append(to_runs([store.block(number, 5)])))
        store.run(update(asked))
        if number % 2:
            store.run(update(clause(u.Truncate(2**40))))
        store.run(update(clause(u.Write([])), aguid=OTHER, founding=Founding(OTHER_TAG, BLOCK_SIZE)))
    return store


def check_object(
    certificate: Certificate, evidence: StateProof, aguid: bytes = AGUID, ring_id: bytes = RING_ID
) -> ObjectRecord | None:
    return proof.check_object(certificate, evidence, aguid, RING.public_key, ring_id, Ed25519Verifier())[1]


# --- the record --------------------------------------------------------------------------------------------------


def test_a_proved_record(store: Store) -> None:
    certificate, evidence = store.prove()
    claim, record = proof.check_object(certificate, evidence, AGUID, RING.public_key, RING_ID, Ed25519Verifier())
    assert record == store.record()
    assert claim == certificate.claim()


def test_a_proved_absence(store: Store) -> None:
    assert check_object(*store.prove(bytes(32)), aguid=bytes(32)) is None


def test_what_does_not_prove_a_record(store: Store) -> None:
    certificate, evidence = store.prove()
    _, other = store.prove(OTHER)
    older, _ = Store().prove()
    for attempt in (
        lambda: check_object(certificate, other),
        lambda: check_object(certificate, evidence, aguid=OTHER),
        lambda: check_object(certificate, evidence, aguid=bytes(32)),
        lambda: check_object(older, evidence),
        lambda: check_object(certificate, evidence, ring_id=bytes(32)),
        lambda: check_object(Certificate(certificate.statement, bytes(64)), evidence),
        lambda: check_object(Certificate(b"", certificate.signature), evidence),
        lambda: proof.check_object(certificate, evidence, AGUID, STRANGER, RING_ID, Ed25519Verifier()),
    ):
        with pytest.raises(ProofFailed):
            attempt()


def test_no_bit_of_certificate_or_proof_is_free(store: Store) -> None:
    certificate, evidence = store.prove()
    for type_, value, check in (
        (Certificate, certificate, lambda changed: check_object(changed, evidence)),
        (StateProof, evidence, lambda changed: check_object(certificate, changed)),
    ):
        data = msgspec.msgpack.encode(value)
        for changed in mutations(data):
            try:
                decoded = msgspec.msgpack.decode(changed, type=type_)
            except msgspec.DecodeError:
                continue
            if msgspec.msgpack.encode(decoded) == data:
                continue  # another encoding of the same message, which the wire may have
            with pytest.raises(ProofFailed):
                check(decoded)


def mutations(data: bytes) -> Iterator[bytes]:
    for i in range(len(data)):
        for mask in (1, 0x80, 0xFF):
            yield data[:i] + bytes([data[i] ^ mask]) + data[i + 1 :]


# --- versions ----------------------------------------------------------------------------------------------------


def check_version(store: Store, evidence: VersionEvidence | None, selector: Selector) -> VersionRoot | Missing:
    return proof.check_version(AGUID, store.record(), evidence, selector)


def roots(store: Store) -> list[VersionRoot]:
    return [decode_version_root(root) for _, root in store.outcomes() if root is not None]


def test_each_selector_finds_its_version(store: Store) -> None:
    versions = roots(store)
    assert [version.deleted for version in versions] == [False] * 3 + [True] + [False] * 2
    for version in versions:
        evidence = store.version_evidence(version.number)
        assert check_version(store, evidence, ByNumber(version.number)) == version
        assert check_version(store, evidence, ByVguid(version.digest())) == version
        assert check_version(store, evidence, AtTime(version.time)) == version
        assert check_version(store, evidence, AtTime(version.time + 999)) == version
    newest = versions[-1]
    assert check_version(store, store.version_evidence(6), Latest()) == newest
    assert check_version(store, store.version_evidence(6), AtTime(2**60)) == newest


def test_no_selector_takes_another_version(store: Store) -> None:
    versions = roots(store)
    for version in versions:
        evidence = store.version_evidence(version.number)
        for other in versions:
            if other is version:
                continue
            wrong: list[Selector] = [ByNumber(other.number), ByVguid(other.digest()), AtTime(other.time)]
            if version.number != 6:
                wrong.append(Latest())
            for selector in wrong:
                with pytest.raises(ProofFailed):
                    check_version(store, evidence, selector)


def test_missing_versions(store: Store) -> None:
    assert check_version(store, None, ByNumber(0)) is Missing.PROVED
    assert check_version(store, None, ByNumber(7)) is Missing.PROVED
    assert check_version(store, None, ByVguid(bytes(32))) is Missing.CLAIMED
    first = roots(store)[0]
    assert check_version(store, store.version_evidence(1), AtTime(first.time - 1)) is Missing.PROVED
    for selector in (Latest(), ByNumber(1), ByNumber(6), AtTime(0), AtTime(2**60)):
        with pytest.raises(ProofFailed):
            check_version(store, None, selector)
    with pytest.raises(ProofFailed):
        check_version(store, store.version_evidence(2), AtTime(0))


@pytest.mark.parametrize("number", range(1, 6))
def test_a_time_needs_the_version_that_follows(store: Store, number: int) -> None:
    evidence = store.version_evidence(number)
    version = roots(store)[number - 1]
    good = evidence.followed_by
    others: list[OutcomeEvidence | None] = [None]
    others += [store.outcome_evidence(index) for index in range(store.record().history.count)]
    assert good in others
    for time in (version.time, roots(store)[number].time - 1, roots(store)[number].time, 2**60):
        for followed_by in others:
            changed = msgspec.structs.replace(evidence, followed_by=followed_by)
            if followed_by == good and time < roots(store)[number].time:
                assert check_version(store, changed, AtTime(time)) == version
            else:
                with pytest.raises(ProofFailed):
                    check_version(store, changed, AtTime(time))


def test_evidence_of_another_object_or_state(store: Store) -> None:
    evidence = store.version_evidence(1, OTHER)
    with pytest.raises(ProofFailed):
        check_version(store, evidence, ByNumber(1))
    with pytest.raises(ProofFailed):
        proof.check_version(OTHER, store.record(), store.version_evidence(1), ByNumber(1))
    for number in range(1, 7):
        with pytest.raises(ProofFailed):
            proof.check_version(AGUID, store.record(OTHER), store.version_evidence(number), ByNumber(number))


def test_no_bit_of_the_evidence_is_free(store: Store) -> None:
    for number in (2, 6):
        data = msgspec.msgpack.encode(store.version_evidence(number))
        time = roots(store)[number - 1].time
        for changed in mutations(data):
            try:
                evidence = msgspec.msgpack.decode(changed, type=VersionEvidence)
            except msgspec.DecodeError:
                continue
            if msgspec.msgpack.encode(evidence) == data:
                continue
            with pytest.raises(ProofFailed):
                check_version(store, evidence, AtTime(time))


def test_an_abort_makes_no_version(store: Store) -> None:
    aborted = next(
        store.outcome_evidence(i)
        for i in range(store.record().history.count)
        if decode_outcome(store.outcome_evidence(i).outcome).status == Status.ABORTED
    )
    number = decode_outcome(aborted.outcome).number
    evidence = msgspec.structs.replace(store.version_evidence(number), made_by=aborted)
    with pytest.raises(ProofFailed):
        check_version(store, evidence, ByNumber(number))


VERSION = VersionRoot(
    aguid=AGUID,
    number=1,
    block_size=BLOCK_SIZE,
    content=EMPTY,
    previous=None,
    update=digest(b"request"),
    time=500,
    acl_version=0,
    metadata=None,
    history=History(0, MountainRange.empty().root),
    deleted=False,
)


@pytest.mark.parametrize(
    ("of_version", "of_outcome", "of_record"),
    [
        ({"time": 501}, {}, {}),
        ({"update": bytes(32)}, {}, {}),
        ({"aguid": OTHER}, {}, {}),
        ({"content": TreeRoot(bytes(32), 1, 1, 1)}, {}, {}),
        ({"history": History(1, bytes(32))}, {}, {}),
        ({"number": 2, "previous": bytes(32)}, {}, {}),
        ({}, {"vguid": bytes(32)}, {}),
        ({}, {"aguid": OTHER}, {}),
        ({}, {}, {"vguid": bytes(32)}),
        ({"number": 2, "previous": bytes(32)}, {"number": 2}, {}),
    ],
)
def test_evidence_that_a_faulty_ring_would_vouch_for(
    of_version: dict[str, object], of_outcome: dict[str, object], of_record: dict[str, object]
) -> None:
    """Outcome, version and record must agree even where each is proved to be the ring's."""

    def build(
        of_version: dict[str, object], of_outcome: dict[str, object], of_record: dict[str, object]
    ) -> tuple[ObjectRecord, VersionEvidence]:
        version = msgspec.structs.replace(VERSION, **of_version)
        outcome = Outcome(
            aguid=AGUID,
            index=0,
            update=VERSION.update,
            writer=OWNER,
            status=Status.COMMITTED,
            clause=0,
            reason=None,
            number=1,
            vguid=version.digest(),
            size_bytes=0,
            time=VERSION.time,
        )
        outcome = msgspec.structs.replace(outcome, **of_outcome)
        history, _ = MountainRange.empty().append(leaf_hash(outcome.encode()))
        record = ObjectRecord(
            owner=OWNER, number=1, vguid=version.digest(), deleted=False, block_size=BLOCK_SIZE, history=history
        )
        evidence = VersionEvidence(version.encode(), OutcomeEvidence(outcome.encode(), []), None)
        return msgspec.structs.replace(record, **of_record), evidence

    record, evidence = build({}, {}, {})
    assert proof.check_version(AGUID, record, evidence, Latest()) == VERSION
    record, evidence = build(of_version, of_outcome, of_record)
    selectors: list[Selector] = [Latest(), ByNumber(1), ByVguid(digest(evidence.root)), AtTime(1000)]
    for selector in selectors:
        with pytest.raises(ProofFailed):
            proof.check_version(AGUID, record, evidence, selector)


# --- history -----------------------------------------------------------------------------------------------------


def test_the_whole_history(store: Store) -> None:
    history = proof.check_history(AGUID, store.record(), store.outcomes())
    assert [version.number for _, version in history if version is not None] == [1, 2, 3, 4, 5, 6]
    assert [outcome.index for outcome, _ in history] == list(range(9))


def test_a_history_that_was_tampered_with(store: Store) -> None:
    outcomes, record = store.outcomes(), store.record()
    wrong: list[list[tuple[bytes, bytes | None]]] = [[], outcomes[1:], outcomes[:-1], [*outcomes, outcomes[-1]]]
    for i, (outcome, root) in enumerate(outcomes):
        wrong.append(outcomes[:i] + outcomes[i + 1 :])
        wrong.append([*outcomes[:i], (outcome, None if root else outcomes[0][1]), *outcomes[i + 1 :]])
        wrong.append([*outcomes[:i], (b"", root), *outcomes[i + 1 :]])
        wrong.append([*outcomes[:i], (outcome, b""), *outcomes[i + 1 :]])
        if i:
            swapped = list(outcomes)
            swapped[i - 1 : i + 1] = swapped[i], swapped[i - 1]
            wrong.append(swapped)
        for j, (_, other) in enumerate(outcomes):
            if other != root:
                wrong.append([*outcomes[:i], (outcome, outcomes[j][1]), *outcomes[i + 1 :]])
    for each in wrong:
        with pytest.raises(ProofFailed):
            proof.check_history(AGUID, record, each)
    with pytest.raises(ProofFailed):
        proof.check_history(OTHER, record, outcomes)
    with pytest.raises(ProofFailed):
        proof.check_history(AGUID, store.record(OTHER), outcomes)


@pytest.mark.parametrize(
    "change",
    [
        {"number": 3},
        {"previous": bytes(32)},
        {"history": History(1, bytes(32))},
        {"time": 1},
        {"block_size": 8192},
        {"aguid": OTHER},
        {"update": bytes(32)},
    ],
)
def test_a_forged_version_does_not_follow(store: Store, change: dict[str, object]) -> None:
    """Even where an outcome vouches for it, as a faulty ring might make one."""
    outcomes = store.outcomes()
    check = HistoryCheck(AGUID)
    check.add(*outcomes[0])
    root = outcomes[1][1]
    assert root is not None
    version = msgspec.structs.replace(decode_version_root(root), **change)
    outcome = msgspec.structs.replace(
        decode_outcome(outcomes[1][0]), vguid=version.digest(), number=version.number, time=version.time
    )
    with pytest.raises(ProofFailed):
        check.add(outcome.encode(), version.encode())


def test_a_record_that_names_another_newest_version(store: Store) -> None:
    for change in ({"vguid": bytes(32)}, {"number": 5}, {"deleted": True}, {"block_size": 8192}):
        record = msgspec.structs.replace(store.record(), **change)
        with pytest.raises(ProofFailed):
            proof.check_history(AGUID, record, store.outcomes())


# --- answers -----------------------------------------------------------------------------------------------------


def test_answers() -> None:
    request = digest(b"request")
    outcome = Outcome(
        aguid=AGUID,
        index=None,
        update=request,
        writer=OWNER,
        status=Status.REFUSED,
        clause=None,
        reason=Reason.NOT_OWNER,
        number=0,
        vguid=None,
        size_bytes=0,
        time=5,
    )
    answer = Answer(request, AnswerStatus.EXECUTED, outcome.encode())
    assert proof.check_outcome(answer, request) == outcome
    with pytest.raises(ProofFailed, match="another request"):
        proof.check_outcome(answer, digest(b"other"))
    with pytest.raises(ProofFailed, match="EXPIRED"):
        proof.check_outcome(Answer(request, AnswerStatus.EXPIRED, b""), request)
    for result in (b"", b"\x00", outcome.encode() + b"\x00", outcome.encode()[:-1]):
        with pytest.raises(ProofFailed):
            proof.check_outcome(Answer(request, AnswerStatus.EXECUTED, result), request)
    other = msgspec.structs.replace(outcome, update=digest(b"other")).encode()
    with pytest.raises(ProofFailed, match="another request"):
        proof.check_outcome(Answer(request, AnswerStatus.EXECUTED, other), request)

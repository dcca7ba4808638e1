"""Updates against a plain model of an object, the truth of each predicate, and who may do what."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bft.merkle import MountainRange, leaf_hash, verify
from bft.secret import Secret
from bft.state_tree import Kind, state_key
from pond.model import names, tables, tree
from pond.model import update as u
from pond.model.block import BlockRef, to_runs
from pond.model.proof import check_history
from pond.model.update import Founding, Predicate
from pond.model.version import Metadata, Outcome, Reason, Status, VersionRoot, decode_outcome, decode_version_root
from tests.unit.model.store import AGUID, BLOCK_SIZE, OWNER, STRANGER, TAG, Store, clause, update

METADATA = Metadata(epoch=0, salt=bytes(32), counter=3, ciphertext=b"m" * 40)
OTHER_METADATA = Metadata(epoch=1, salt=bytes(32), counter=4, ciphertext=b"M" * 16)


def content(store: Store) -> list[BlockRef]:
    root = newest(store).content
    return [ref for _, ref in tree.refs(root, lambda guid: store.tables[tables.NODES, guid])]


def newest(store: Store) -> VersionRoot:
    return decode_version_root(store.tables[tables.VERSIONS, store.record().vguid])


def founded(*lengths: int) -> tuple[Store, list[BlockRef]]:
    store = Store()
    refs = [store.block(number, length) for number, length in enumerate(lengths)]
    assert store.run(update(clause(u.Write(to_runs(refs))))).outcome.status == Status.COMMITTED
    return store, refs


# --- founding and access -----------------------------------------------------------------------------------------


def test_the_first_write_founds() -> None:
    store = Store()
    refs = [store.block(1, 5)]
    result = store.run(update(clause(u.Write(to_runs(refs)))))
    outcome = result.outcome
    assert (outcome.status, outcome.number, outcome.index, outcome.clause) == (Status.COMMITTED, 1, 0, 0)
    assert outcome.size_bytes == 5
    assert content(store) == refs
    record, version = store.record(), newest(store)
    assert (record.owner, record.block_size, record.deleted) == (OWNER, BLOCK_SIZE, False)
    assert version.previous is None
    assert version.history.count == 0
    assert version.update == outcome.update
    assert version.digest() == outcome.vguid == record.vguid


OTHER_TAG = names.name_tag(Secret(b"n" * 32), "other")


@pytest.mark.parametrize("founding", [None, Founding(OTHER_TAG, BLOCK_SIZE), Founding(bytes(32), BLOCK_SIZE)])
def test_no_founding_no_object(founding: Founding | None) -> None:
    store = Store()
    result = store.run(update(clause(u.Write([])), founding=founding))
    assert (result.outcome.status, result.outcome.reason) == (Status.REFUSED, Reason.NO_SUCH_OBJECT)
    assert not result.state
    assert not result.writes


def test_nobody_founds_an_object_of_somebody_else() -> None:
    store = Store()
    result = store.run(update(clause(u.Write([]))), STRANGER)
    assert (result.outcome.status, result.outcome.reason) == (Status.REFUSED, Reason.NO_SUCH_OBJECT)
    assert not store.values


def test_only_the_owner_writes_and_a_stranger_leaves_no_trace() -> None:
    store, _ = founded(5)
    before = dict(store.tables), dict(store.values)
    for asked in (update(clause(u.Delete())), update(clause(u.Write([])), founding=None)):
        outcome = store.run(asked, STRANGER).outcome
        assert (outcome.status, outcome.reason, outcome.index) == (Status.REFUSED, Reason.NOT_OWNER, None)
        assert (outcome.number, outcome.vguid, outcome.size_bytes) == (0, None, 0)
    assert before == (store.tables, store.values)


def test_an_abort_is_logged_only_where_there_is_an_object() -> None:
    store = Store()
    never = clause(u.Write([]), when=[u.Exists()])
    outcome = store.run(update(never)).outcome
    assert (outcome.status, outcome.index, outcome.number) == (Status.ABORTED, None, 0)
    assert not store.tables
    assert not store.values
    store.run(update(clause(u.Write([]))))
    outcome = store.run(update(clause(u.Write([]), when=[u.Absent()]))).outcome
    assert (outcome.status, outcome.reason, outcome.index) == (Status.ABORTED, Reason.NO_CLAUSE_HOLDS, 1)
    assert (outcome.number, outcome.vguid) == (1, store.record().vguid)
    assert store.record().history.count == 2
    assert decode_outcome(store.tables[tables.OUTCOMES, tables.outcome_key(AGUID, 1)]) == outcome


def test_founding_is_ignored_where_the_object_is() -> None:
    store, _ = founded(5)
    store.run(update(clause(u.Append(to_runs([store.block(9, 4096)]))), founding=Founding(TAG, 2 * BLOCK_SIZE)))
    assert store.record().block_size == BLOCK_SIZE
    too_long = u.Append(to_runs([store.block(10, 5000)]))
    outcome = store.run(update(clause(too_long), founding=Founding(TAG, 2 * BLOCK_SIZE))).outcome
    assert outcome.reason == Reason.BLOCK_TOO_LONG


# --- clauses -----------------------------------------------------------------------------------------------------


def test_the_first_clause_that_holds_runs_and_no_other() -> None:
    store, _ = founded(5)
    outcome = store.run(
        update(
            clause(u.Truncate(1), when=[u.VersionIs(7)]),
            clause(u.Truncate(2), when=[u.VersionIs(1), u.SizeIs(5)]),
            clause(u.Truncate(3)),
        )
    ).outcome
    assert (outcome.status, outcome.clause, outcome.size_bytes) == (Status.COMMITTED, 1, 2)


def test_an_impossible_action_undoes_those_before_it_and_no_other_clause_is_tried() -> None:
    store, refs = founded(5, 6)
    root = newest(store).content
    outcome = store.run(update(clause(u.DeleteBlocks(0, 1), u.DeleteBlocks(1, 1)), clause(u.Truncate(0)))).outcome
    assert (outcome.status, outcome.clause, outcome.reason) == (Status.ABORTED, 0, Reason.OUT_OF_RANGE)
    assert newest(store).content == root
    assert content(store) == refs


def test_actions_see_those_before_them() -> None:
    store, refs = founded(5, 6, 7)
    new = [store.block(10 + i, 10 + i) for i in range(4)]
    store.run(
        update(
            clause(
                u.DeleteBlocks(0, 1),
                u.InsertBlocks(2, to_runs(new[:1])),
                u.ReplaceBlocks(0, 1, to_runs(new[1:3])),
                u.Append(to_runs(new[3:])),
                u.SetMetadata(METADATA),
            )
        )
    )
    assert content(store) == [new[1], new[2], refs[2], new[0], new[3]]
    assert newest(store).metadata == METADATA


def test_only_nodes_in_use_are_stored() -> None:
    store, _ = founded(*[1] * 100)
    result = store.run(update(clause(*[u.DeleteBlocks(0, 1)] * 30, u.Truncate(10))))
    nodes = [write for write in result.writes if write.table == tables.NODES]
    assert len(nodes) == 1
    assert newest(store).content.blocks == 10


@pytest.mark.parametrize(
    "action",
    [
        u.Truncate(12),
        u.Truncate(2**62),
        u.DeleteBlocks(2, 1),
        u.DeleteBlocks(0, 3),
        u.DeleteBlocks(2**62, 2**62),
    ],
)
def test_out_of_range(action: u.Action) -> None:
    store, _ = founded(5, 6)
    outcome = store.run(update(clause(action))).outcome
    assert (outcome.status, outcome.reason, outcome.number) == (Status.ABORTED, Reason.OUT_OF_RANGE, 1)


def test_inserting_and_replacing_out_of_range() -> None:
    store, refs = founded(5, 6)
    runs = to_runs(refs)
    for action in (u.InsertBlocks(3, runs), u.ReplaceBlocks(2, 1, runs), u.ReplaceBlocks(1, 2, runs)):
        assert store.run(update(clause(action))).outcome.reason == Reason.OUT_OF_RANGE
    assert store.run(update(clause(u.InsertBlocks(2, runs)))).outcome.status == Status.COMMITTED


@pytest.mark.parametrize(
    ("stored", "claimed", "reason"),
    [
        (100, 100, None),
        (100, 99, None),
        (100, 1, None),
        (100, 101, Reason.BLOCK_TOO_SHORT),
        (0, 1, Reason.BLOCK_TOO_SHORT),
        (100, BLOCK_SIZE, Reason.BLOCK_TOO_SHORT),
        (BLOCK_SIZE, BLOCK_SIZE, None),
        (BLOCK_SIZE + 1, BLOCK_SIZE + 1, Reason.BLOCK_TOO_LONG),
        (BLOCK_SIZE + 1, BLOCK_SIZE, Reason.BLOCK_TOO_LONG),
    ],
)
def test_lengths_that_lie(stored: int, claimed: int, reason: Reason | None) -> None:
    store, _ = founded(5)
    ref = msgspec.structs.replace(store.block(50, stored), length=claimed)
    for action in (
        u.Write(to_runs([ref])),
        u.Append(to_runs([ref])),
        u.InsertBlocks(0, to_runs([ref])),
        u.ReplaceBlocks(0, 1, to_runs([ref])),
    ):
        assert store.run(update(clause(action))).outcome.reason == reason


def test_a_run_without_its_block_is_our_fault() -> None:
    store = Store()
    ref = BlockRef(bytes(32), 5, 0, bytes(32), 0)
    with pytest.raises(AssertionError, match="our fault"):
        store.run(update(clause(u.Write(to_runs([ref])))))


# --- tombstones and time -----------------------------------------------------------------------------------------


def test_delete_leaves_a_tombstone_that_a_write_follows() -> None:
    store, refs = founded(5, 6)
    store.run(update(clause(u.SetMetadata(METADATA))))
    outcome = store.run(update(clause(u.Delete()))).outcome
    assert (outcome.status, outcome.number, outcome.size_bytes) == (Status.COMMITTED, 3, 0)
    assert store.record().deleted
    version = newest(store)
    assert (version.deleted, version.content, version.metadata, version.history.count) == (True, tree.EMPTY, None, 2)
    outcome = store.run(update(clause(u.Delete()))).outcome
    assert (outcome.status, outcome.reason, outcome.index) == (Status.ABORTED, Reason.NOTHING_TO_DELETE, 3)
    outcome = store.run(update(clause(u.Append(to_runs(refs[:1])), when=[u.Absent(), u.VersionIs(3)]))).outcome
    assert (outcome.status, outcome.number, outcome.size_bytes) == (Status.COMMITTED, 4, 5)
    assert not store.record().deleted
    assert newest(store).previous is not None
    check_history(AGUID, store.record(), store.outcomes())


def test_nothing_to_delete_founds_nothing() -> None:
    store = Store()
    outcome = store.run(update(clause(u.Delete()))).outcome
    assert (outcome.status, outcome.reason, outcome.index) == (Status.ABORTED, Reason.NOTHING_TO_DELETE, None)
    assert not store.values


def test_time_never_goes_back() -> None:
    store = Store()
    times = [store.run(update(clause(u.Write([]))), time=time).outcome.time for time in (500, 400, 500, 600, 1)]
    assert times == [500, 500, 500, 600, 600]


# --- predicates --------------------------------------------------------------------------------------------------


def truth(store: Store, predicate: Predicate, time: int | None = None) -> bool:
    """Whether the predicate holds, which must not be visible otherwise."""
    asked = update(clause(u.Truncate(2**40), when=[predicate]))
    copy = Store(dict(store.tables), dict(store.values), store.requests, store.now)
    return copy.run(asked, time=time).outcome.clause == 0


@pytest.fixture(scope="module")
def stores() -> dict[str, Store]:
    present, refs = founded(5, 6)
    present.run(update(clause(u.SetMetadata(METADATA))))
    gone = Store(dict(present.tables), dict(present.values), present.requests, present.now)
    gone.run(update(clause(u.Delete())))
    empty, _ = founded()
    assert refs
    return {"never": Store(), "empty": empty, "present": present, "gone": gone}


REF0, REF1 = (Store().block(i, length).bguid for i, length in ((0, 5), (1, 6)))


@pytest.mark.parametrize(
    ("predicate", "where"),
    [
        (u.VersionIs(0), "never"),
        (u.VersionIs(1), "empty"),
        (u.VersionIs(2), "present"),
        (u.VersionIs(3), "gone"),
        (u.VersionIs(4), ""),
        (u.SizeIs(0), "never empty gone"),
        (u.SizeIs(11), "present"),
        (u.SizeIs(10), ""),
        (u.Exists(), "empty present"),
        (u.Absent(), "never gone"),
        (u.BlockIs(0, REF0), "present"),
        (u.BlockIs(1, REF1), "present"),
        (u.BlockIs(1, REF0), ""),
        (u.BlockIs(2, REF1), ""),
        (u.BlockIs(2**63 - 1, REF1), ""),
        (u.MetadataIs(None), "never empty gone"),
        (u.MetadataIs(METADATA.digest()), "present"),
        (u.MetadataIs(OTHER_METADATA.digest()), ""),
        (u.Not(u.Exists()), "never gone"),
        (u.Not(u.VersionIs(3)), "never empty present"),
        (u.And([u.Absent(), u.Not(u.VersionIs(0))]), "gone"),
        (u.Or([u.VersionIs(0), u.SizeIs(11)]), "never present"),
    ],
)
def test_predicates(stores: dict[str, Store], predicate: Predicate, where: str) -> None:
    assert {name for name, store in stores.items() if truth(store, predicate)} == set(where.split())


@pytest.mark.parametrize("time", [2000, 2001, 2002])
def test_before_and_after(stores: dict[str, Store], time: int) -> None:
    for store in stores.values():
        assert truth(store, u.Before(2001), time) == (time < 2001)
        assert truth(store, u.After(2001), time) == (time > 2001)


TRUE, FALSE = u.Exists(), u.Absent()


@pytest.mark.parametrize("values", [*product([True, False], repeat=1), *product([True, False], repeat=3)])
def test_connectives(stores: dict[str, Store], values: tuple[bool, ...]) -> None:
    terms: list[Predicate] = [TRUE if value else FALSE for value in values]
    store = stores["present"]
    assert truth(store, u.And(terms)) == all(values)
    assert truth(store, u.Or(terms)) == any(values)
    assert truth(store, u.Not(u.And(terms))) == (not all(values))
    asked = update(clause(u.Truncate(2**40), when=terms))
    copy = Store(dict(store.tables), dict(store.values))
    assert (copy.run(asked).outcome.clause == 0) == all(values)


# --- against a model ---------------------------------------------------------------------------------------------


@dataclass
class Model:
    """An object as a list of blocks, and what is expected of the next update."""

    blocks: list[tuple[bytes, int]] = field(default_factory=list)
    metadata: Metadata | None = None
    number: int = 0
    deleted: bool = True
    commits: int = 0
    aborts: int = 0

    @property
    def size(self) -> int:
        return sum(length for _, length in self.blocks)

    def holds(self, predicate: Predicate, time: int) -> bool:
        match predicate:
            case u.VersionIs(number):
                return number == self.number
            case u.SizeIs(size):
                return size == self.size
            case u.BlockIs(index, bguid):
                return index < len(self.blocks) and self.blocks[index][0] == bguid
            case u.Exists():
                return not self.deleted
            case u.Absent():
                return self.deleted
            case u.Before(limit):
                return time < limit
            case u.After(limit):
                return time > limit
            case u.MetadataIs(digest):
                return (self.metadata.digest() if self.metadata else None) == digest
            case u.And(terms):
                return all(self.holds(term, time) for term in terms)
            case u.Or(terms):
                return any(self.holds(term, time) for term in terms)
            case u.Not(term):
                return not self.holds(term, time)

    def run(self, asked: u.Update, time: int) -> Status:
        for each in asked.clauses:
            if all(self.holds(predicate, time) for predicate in each.predicates):
                if self._apply(each.actions):
                    self.commits += 1
                    self.number += 1
                    return Status.COMMITTED
                break
        self.aborts += self.number > 0
        return Status.ABORTED

    def _apply(self, actions: list[u.Action]) -> bool:
        blocks, metadata, deleted = list(self.blocks), self.metadata, False
        for action in actions:
            refs = [each for run in u.runs_of(action) for each in zip(run.bguids, run.lengths, strict=True)]
            match action:
                case u.Write():
                    blocks = refs
                case u.Append():
                    blocks += refs
                case u.InsertBlocks(index):
                    if index > len(blocks):
                        return False
                    blocks[index:index] = refs
                case u.ReplaceBlocks(index, count) | u.DeleteBlocks(index, count):
                    if index + count > len(blocks):
                        return False
                    blocks[index : index + count] = refs
                case u.Truncate(size):
                    if size > sum(length for _, length in blocks):
                        return False
                    kept = []
                    for name, length in blocks:
                        if size > 0:
                            kept.append((name, min(length, size)))
                        size -= length
                    blocks = kept
                case u.SetMetadata(new):
                    metadata = new
                case u.Delete():
                    if self.deleted:
                        return False
                    blocks, metadata, deleted = [], None, True
        self.blocks, self.metadata, self.deleted = blocks, metadata, deleted
        return True


BLOCK_STORE = Store()
BLOCKS = [BLOCK_STORE.block(number, 1 + number % 5) for number in range(300)]

small = st.integers(0, 6)
runs = st.one_of(
    st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=4).map(to_runs),
    st.tuples(st.integers(0, 150), st.integers(1, 150)).map(lambda cut: to_runs(BLOCKS[cut[0] : cut[0] + cut[1]])),
)
simple: st.SearchStrategy[Predicate] = st.one_of(
    st.builds(u.VersionIs, small),
    st.builds(u.SizeIs, st.integers(0, 30)),
    st.builds(u.BlockIs, small, st.sampled_from([ref.bguid for ref in BLOCKS[:5]])),
    st.just(u.Exists()),
    st.just(u.Absent()),
    st.builds(u.Before, st.integers(1000, 1150)),
    st.builds(u.After, st.integers(1000, 1150)),
    st.builds(u.MetadataIs, st.sampled_from([None, METADATA.digest(), OTHER_METADATA.digest()])),
)
predicates = st.recursive(
    simple,
    lambda inner: st.one_of(
        st.builds(u.And, st.lists(inner, min_size=1, max_size=3)),
        st.builds(u.Or, st.lists(inner, min_size=1, max_size=3)),
        st.builds(u.Not, inner),
    ),
    max_leaves=4,
)
actions: st.SearchStrategy[u.Action] = st.one_of(
    st.builds(u.Write, runs),
    st.builds(u.Append, runs),
    st.builds(u.InsertBlocks, small, runs),
    st.builds(u.ReplaceBlocks, small, st.integers(1, 3), runs),
    st.builds(u.DeleteBlocks, small, st.integers(1, 70)),
    st.builds(u.Truncate, st.integers(0, 60)),
    st.builds(u.SetMetadata, st.sampled_from([None, METADATA, OTHER_METADATA])),
)
clauses = st.builds(
    u.Clause,
    st.lists(predicates, max_size=2),
    st.one_of(st.lists(actions, min_size=1, max_size=3), st.just([u.Delete()])),
)
all_updates = st.lists(clauses, min_size=1, max_size=3).map(lambda each: update(*each))


@settings(max_examples=150)
@given(st.lists(all_updates, max_size=12))
def test_random_updates(asked: list[u.Update]) -> None:
    store, model = Store(dict(BLOCK_STORE.tables)), Model()
    for each in asked:
        outcome = store.run(each).outcome
        assert outcome.status == model.run(each, store.now)
        assert (outcome.number, outcome.size_bytes) == (model.number, model.size)
        if outcome.status == Status.COMMITTED:
            assert [(ref.bguid, ref.length) for ref in content(store)] == model.blocks
            assert newest(store).metadata == model.metadata
            assert newest(store).deleted == store.record().deleted == model.deleted
    if model.number:
        history = check_history(AGUID, store.record(), store.outcomes())
        assert [root is not None for _, root in history].count(True) == model.commits == model.number
        assert len(history) == model.commits + model.aborts
        check_places(store)
    else:
        assert not store.values


def check_places(store: Store) -> None:
    """Each logged outcome has its path, and each number its version."""
    history = store.record().history
    expected = MountainRange.empty()
    for index in range(history.count):
        evidence = store.outcome_evidence(index)
        assert verify(history.root, evidence.outcome, index, history.count, evidence.path)
        expected, _ = expected.append(leaf_hash(evidence.outcome))
        outcome = decode_outcome(evidence.outcome)
        if outcome.status == Status.COMMITTED:
            value = store.tables[tables.NUMBERS, tables.number_key(AGUID, outcome.number)]
            assert tables.parse_number_value(value) == (index, outcome.vguid)
    assert expected == history


def test_execution_is_deterministic_and_changes_nothing_it_reads() -> None:
    store, _ = founded(*[3] * 200)
    before = dict(store.tables), dict(store.values)
    asked = update(clause(u.DeleteBlocks(50, 3), u.SetMetadata(METADATA)))
    results = []
    for _ in range(2):
        copy = Store(dict(store.tables), dict(store.values), store.requests, store.now)
        results.append(copy.run(asked))
    assert results[0] == results[1]
    assert (store.tables, store.values) == before
    assert set(results[0].state) == {state_key(Kind.OBJECT, AGUID)}


def test_outcomes_are_small() -> None:
    store, _ = founded(5)
    outcome: Outcome = store.run(update(clause(u.Write([])))).outcome
    assert len(outcome.encode()) < 200

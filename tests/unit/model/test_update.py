"""The form of updates: what is refused before it is ordered, whatever the state."""

from __future__ import annotations

from typing import Any

import pytest

from bft import statement
from pond.model import update as u
from pond.model.block import Run
from pond.model.update import Clause, Founding, Predicate, Update, UpdateError
from pond.model.version import MAX_METADATA_BYTES, Metadata
from tests.unit.model.samples import FULL_UPDATE, RUN

AGUID = bytes(range(32))


def of(*clauses: Clause, founding: Founding | None = None) -> Update:
    return Update(aguid=AGUID, founding=founding, clauses=list(clauses))


def with_predicate(*predicates: Predicate) -> Update:
    return of(Clause(list(predicates), [u.Truncate(0)]))


def with_action(*actions: u.Action) -> Update:
    return of(Clause([], list(actions)))


def run_of(count: int, first: int = 0) -> Run:
    return Run(0, bytes(32), 0, [1] * count, [(first + i).to_bytes(32, "big") for i in range(count)])


def nested(depth: int) -> Predicate:
    predicate: Predicate = u.Exists()
    for _ in range(depth - 1):
        predicate = u.Not(predicate)
    return predicate


def test_every_part_comes_back() -> None:
    assert u.decode(FULL_UPDATE.encode()) == FULL_UPDATE
    u.check(FULL_UPDATE)


@pytest.mark.parametrize(
    "good",
    [
        with_action(u.Write([])),
        with_action(u.SetMetadata(None)),
        with_action(u.Delete()),
        with_action(*[u.Truncate(0)] * 256),
        of(*[Clause([], [u.Truncate(0)])] * 64),
        with_predicate(nested(16)),
        with_predicate(*[u.Exists()] * 256),
        with_predicate(u.Or([u.Exists()] * 255)),
        with_action(u.Append([run_of(2**18)])),
        of(Clause([], [u.Truncate(0)]), founding=Founding(bytes(32), 4096)),
        of(Clause([], [u.Truncate(0)]), founding=Founding(bytes(32), 5000)),
        of(Clause([], [u.Truncate(0)]), founding=Founding(bytes(32), 2**22)),
        with_predicate(u.VersionIs(2**63 - 1)),
        with_action(u.SetMetadata(Metadata(epoch=0, salt=bytes(32), counter=0, ciphertext=bytes(MAX_METADATA_BYTES)))),
    ],
    ids=range(14),
)
def test_limits_are_reached(good: Update) -> None:
    u.check(good)
    assert u.decode(good.encode()) == good


@pytest.mark.parametrize(
    "bad",
    [
        of(),
        of(*[Clause([], [u.Truncate(0)])] * 65),
        of(Clause([], [])),
        with_action(*[u.Truncate(0)] * 257),
        of(Clause([], [u.Truncate(0)] * 200), Clause([], [u.Truncate(0)] * 57)),
        with_action(u.Delete(), u.Write([])),
        with_action(u.Write([]), u.Delete()),
        with_predicate(nested(17)),
        with_predicate(nested(300)),
        with_predicate(*[u.Exists()] * 257),
        with_predicate(u.Or([u.Exists()] * 256)),
        of(Clause([u.Exists()] * 200, [u.Truncate(0)]), Clause([u.Exists()] * 57, [u.Truncate(0)])),
        with_predicate(u.And([])),
        with_predicate(u.Or([])),
        with_action(u.Append([])),
        with_action(u.Append([run_of(2**18), run_of(1)])),
        with_action(u.Append([run_of(2**17)]), u.Append([run_of(2**17 + 1)])),
        with_action(u.DeleteBlocks(0, 0)),
        with_action(u.ReplaceBlocks(0, 0, [RUN])),
        with_action(u.DeleteBlocks(-1, 1)),
        with_action(u.Truncate(2**63)),
        with_action(u.Truncate(2**64)),
        with_action(u.Truncate(-1)),
        with_predicate(u.BlockIs(0, bytes(31))),
        with_predicate(u.MetadataIs(b"")),
        of(Clause([], [u.Truncate(0)]), founding=Founding(bytes(32), 4095)),
        of(Clause([], [u.Truncate(0)]), founding=Founding(bytes(32), 2**22 + 1)),
        of(Clause([], [u.Truncate(0)]), founding=Founding(bytes(33), 4096)),
        with_action(
            u.SetMetadata(Metadata(epoch=0, salt=bytes(32), counter=0, ciphertext=bytes(MAX_METADATA_BYTES + 1)))
        ),
        with_action(u.SetMetadata(Metadata(epoch=0, salt=bytes(32), counter=0, ciphertext=bytes(15)))),
        Update(aguid=bytes(31), founding=None, clauses=[Clause([], [u.Truncate(0)])]),
    ],
    ids=range(31),
)
def test_bad_forms(bad: Update) -> None:
    with pytest.raises(UpdateError):
        u.check(bad)


CLAUSES: list[Any] = [[[], [[2, 0]]]]


@pytest.mark.parametrize(
    "fields",
    [
        (),
        (AGUID,),
        (AGUID, None),
        (AGUID, None, CLAUSES, None),
        (AGUID, None, [[[], [[2, 0]], []]]),
        (AGUID, None, [[[], [[2, 0, 0]]]]),
        (AGUID, None, [[[], [[2]]]]),
        (AGUID, None, [[[], [[8, 0]]]]),
        (AGUID, None, [[[], [[-1, 0]]]]),
        (AGUID, None, [[[], [["2", 0]]]]),
        (AGUID, None, [[[], [[2, 0.0]]]]),
        (AGUID, None, [[[], [[2, True]]]]),
        (AGUID, None, [[[[11]], [[2, 0]]]]),
        (AGUID, None, [[[[3, 0]], [[2, 0]]]]),
        (AGUID, None, [[[[10, [10, [3], 0]]], [[2, 0]]]]),
        (AGUID, None, [[[], [[1, [[0, bytes(32), 0, [1, 1], [bytes(32)]]]]]]]),
        (AGUID, None, [[[], [[1, [[0, bytes(32), 0, [0], [bytes(32)]]]]]]]),
        (AGUID, None, [[[], [[1, [[0, bytes(32), 0, [2**22 + 1], [bytes(32)]]]]]]]),
        (AGUID, None, [[[], [[1, [[0, bytes(32), 0, [], []]]]]]]),
        (AGUID, None, [[[], [[1, [[0, bytes(32), 2**63 - 1, [1, 1], [bytes(32)] * 2]]]]]]),
        (AGUID, [bytes(32)], CLAUSES),
        (AGUID, [bytes(32), 4096, 0], CLAUSES),
        (AGUID, bytes(32), CLAUSES),
        ("a" * 32, None, CLAUSES),
    ],
)
def test_malformed_statements(fields: tuple[Any, ...]) -> None:
    assert u.decode(statement.encode("pond.update", 1, AGUID, None, CLAUSES)) == with_action(u.Truncate(0))
    with pytest.raises(UpdateError):
        u.decode(statement.encode("pond.update", 1, *fields))


def test_other_tags_and_formats() -> None:
    for tag, number in (("pond.updates", 1), ("pond.version", 1), ("pond.update", 2), ("pond.update", 0)):
        with pytest.raises(UpdateError):
            u.decode(statement.encode(tag, number, AGUID, None, CLAUSES))


@pytest.mark.parametrize("depth", [20, 1000, 100_000, 4_000_000])
def test_endless_nesting(depth: int) -> None:
    head = statement.encode("pond.update", 1, AGUID, None, [])[:-1]
    for level in (b"\x92\x0a", b"\x92\x08\x91", b"\x91", b"\xdd\xff\xff\xff\xff"):
        for start in (head, head + b"\x91\x92\x91"):
            with pytest.raises(UpdateError):
                u.decode(start + level * depth)


def test_named_blocks_are_distinct_and_in_order() -> None:
    a, b, c = (number.to_bytes(32, "big") for number in range(3))
    update = of(
        Clause(
            [u.BlockIs(0, bytes([9]) * 32)], [u.Append([Run(0, bytes(32), 0, [1, 1], [b, a])]), u.DeleteBlocks(0, 1)]
        ),
        Clause([], [u.Write([Run(0, bytes(32), 0, [1, 1], [a, c]), Run(0, bytes(32), 5, [1], [b])])]),
        Clause([], [u.InsertBlocks(0, [run_of(1)]), u.ReplaceBlocks(0, 1, [run_of(1)])]),
    )
    assert u.named_blocks(update) == [b, a, c]
    assert u.named_blocks(with_action(u.Delete())) == []

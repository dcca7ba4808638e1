"""The overlay's canonical statements: the same bytes as everybody else's, by the shared vectors."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bft import statement as other
from tapestry import statement
from tapestry.statement import StatementError

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "statements.json").read_text())
STATEMENTS = [pytest.param(vector, id=vector["name"]) for vector in VECTORS["statements"]]
REFUSED = [pytest.param(bytes.fromhex(vector["encoded"]), id=vector["name"]) for vector in VECTORS["refused"]]

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=300) | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=20),
    max_leaves=20,
)


def fields_of(written: list[Any]) -> list[Any]:
    """Fields as the vectors write them, with bytes in hexadecimal."""
    return [
        bytes.fromhex(field["hex"])
        if isinstance(field, dict)
        else fields_of(field)
        if isinstance(field, list)
        else field
        for field in written
    ]


@pytest.mark.parametrize("vector", STATEMENTS)
def test_the_vectors(vector):
    encoded = statement.encode(vector["tag"], vector["format"], *fields_of(vector["fields"]))
    assert encoded.hex() == vector["encoded"]
    assert statement.digest(encoded).hex() == vector["sha256"]
    assert statement.decode(encoded, vector["tag"], vector["format"]) == fields_of(vector["fields"])


@pytest.mark.parametrize("data", REFUSED)
def test_what_is_refused(data):
    with pytest.raises(StatementError):
        statement.decode(data, "t", 1)


@pytest.mark.parametrize("vector", STATEMENTS)
def test_every_prefix_and_extension_is_refused(vector):
    data = bytes.fromhex(vector["encoded"])
    for wrong in [data[:size] for size in range(len(data))] + [data + b"\0", data + data, b"\0" + data]:
        with pytest.raises(StatementError):
            statement.decode(wrong, vector["tag"], vector["format"])


@given(st.text(max_size=30), st.integers(0, 2**32), st.lists(VALUES, max_size=18))
def test_it_agrees_with_the_ring(tag, number, fields):
    encoded = statement.encode(tag, number, *fields)
    assert encoded == other.encode(tag, number, *fields)
    assert statement.digest(encoded) == other.digest(encoded)
    assert repr(statement.decode(encoded, tag, number)) == repr(other.decode(encoded, tag, number)) == repr(fields)


@given(st.binary(max_size=60))
def test_it_refuses_what_the_ring_refuses(tail):
    for data in (tail, b"\x93\xa1t\x01" + tail):
        results = []
        for module in (statement, other):
            try:
                results.append(repr(module.decode(data, "t", 1)))
            except module.StatementError as error:
                results.append(f"refused: {error}")
        assert results[0] == results[1]


def test_the_two_modules_are_the_same_lines():
    sources = [Path(module.__file__ or "").read_text() for module in (statement, other)]
    trees = [ast.parse(source) for source in sources]
    for tree in trees:
        del tree.body[0]  # the docstring, which names the other
    assert ast.dump(trees[0]) == ast.dump(trees[1])

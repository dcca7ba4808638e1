"""Canonical statements: one encoding each, the same from msgpack and from msgspec."""

import hashlib
import json
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bft import statement
from bft.statement import StatementError

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "statements.json").read_text())
STATEMENTS = [pytest.param(vector, id=vector["name"]) for vector in VECTORS["statements"]]
REFUSED = [pytest.param(bytes.fromhex(vector["encoded"]), id=vector["name"]) for vector in VECTORS["refused"]]

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=300) | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=20),
    max_leaves=30,
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


def struct_of(tag: str, format_number: int, fields: list[Any]) -> msgspec.Struct:
    """The same statement as a message struct on the wire would be."""
    names = [("format_number", int), *((f"field_{index}", Any) for index in range(len(fields)))]
    kind = msgspec.defstruct("Statement", names, array_like=True, tag=tag, frozen=True)
    return kind(format_number, *fields)


@pytest.mark.parametrize("vector", STATEMENTS)
def test_the_vectors_are_what_is_encoded(vector):
    encoded = statement.encode(vector["tag"], vector["format"], *fields_of(vector["fields"]))
    assert encoded.hex() == vector["encoded"]
    assert statement.digest(encoded).hex() == vector["sha256"]


@pytest.mark.parametrize("vector", STATEMENTS)
def test_structs_encode_the_vectors(vector):
    encoded = msgspec.msgpack.encode(struct_of(vector["tag"], vector["format"], fields_of(vector["fields"])))
    assert encoded.hex() == vector["encoded"]
    assert hashlib.sha256(encoded).hexdigest() == vector["sha256"]


@pytest.mark.parametrize("vector", STATEMENTS)
def test_the_vectors_decode_to_their_fields(vector):
    data = bytes.fromhex(vector["encoded"])
    assert statement.decode(data, vector["tag"], vector["format"]) == fields_of(vector["fields"])
    assert msgspec.msgpack.decode(data) == [vector["tag"], vector["format"], *fields_of(vector["fields"])]


def test_the_vectors_have_different_digests():
    assert len({vector["sha256"] for vector in VECTORS["statements"]}) == len(VECTORS["statements"])


@pytest.mark.parametrize("data", REFUSED)
def test_what_is_not_canonical_is_refused(data):
    with pytest.raises(StatementError):
        statement.decode(data, "t", 1)


@pytest.mark.parametrize("vector", STATEMENTS)
def test_a_statement_is_of_its_tag_and_format_only(vector):
    data = bytes.fromhex(vector["encoded"])
    for tag, format_number in ((vector["tag"] + "x", vector["format"]), (vector["tag"], vector["format"] + 1), ("", 0)):
        with pytest.raises(StatementError):
            statement.decode(data, tag, format_number)


@pytest.mark.parametrize("vector", STATEMENTS)
def test_every_prefix_and_extension_is_refused(vector):
    data = bytes.fromhex(vector["encoded"])
    for wrong in [data[:size] for size in range(len(data))] + [data + b"\0", data + data, b"\0" + data]:
        with pytest.raises(StatementError):
            statement.decode(wrong, vector["tag"], vector["format"])


@pytest.mark.parametrize("vector", STATEMENTS)
def test_a_flipped_bit_changes_the_fields_or_is_refused(vector):
    data = bytes.fromhex(vector["encoded"])
    for bit in range(0, 8 * len(data), 1 + len(data) // 100):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            fields = statement.decode(bytes(flipped), vector["tag"], vector["format"])
        except StatementError:
            continue
        # Not the values but the types and values: True and 1 are equal in Python.
        assert repr(fields) != repr(fields_of(vector["fields"]))


@given(st.text(max_size=30), st.integers(0, 2**32), st.lists(VALUES, max_size=18))
def test_both_encoders_agree_and_decoding_gives_it_back(tag, format_number, fields):
    encoded = statement.encode(tag, format_number, *fields)
    assert msgpack.packb([tag, format_number, *fields], use_bin_type=True) == encoded
    assert msgspec.msgpack.encode(struct_of(tag, format_number, fields)) == encoded
    assert repr(statement.decode(encoded, tag, format_number)) == repr(fields)


@given(st.binary(max_size=60))
def test_random_bytes_are_refused_or_canonical(tail):
    data = b"\x93\xa1t\x01" + tail
    try:
        fields = statement.decode(data, "t", 1)
    except StatementError:
        return
    assert statement.encode("t", 1, *fields) == data


@given(st.binary(max_size=60))
def test_random_bytes_raise_nothing_else(data):
    with pytest.raises(StatementError):
        statement.decode(data, "a tag that random bytes do not have", 1)

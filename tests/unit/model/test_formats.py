"""Stored and signed formats: fixed for ever by golden vectors, and safe to decode from anybody."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bft import statement
from pond.model import tree
from pond.model import update as updates
from pond.model.bundle import BundleDamaged
from pond.model.stored import Codec, Stored
from pond.model.tree import EMPTY, InnerNode, LeafNode, TreeError, TreeRoot
from pond.model.update import UpdateError
from pond.model.version import (
    History,
    Metadata,
    Outcome,
    Reason,
    VersionError,
    decode_outcome,
    decode_record,
    decode_version_root,
)
from tests.unit.model import samples
from tests.unit.model.samples import RANGE, RECORD, STATEMENTS, TOMBSTONE, VERSION
from tests.unit.model.test_bundle import check

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "model.json").read_text())

DECODERS: dict[str, tuple[Callable[[bytes], Stored], type[ValueError]]] = {
    "pond.version": (decode_version_root, VersionError),
    "pond.object": (decode_record, VersionError),
    "pond.outcome": (decode_outcome, VersionError),
    "pond.update": (updates.decode, UpdateError),
    "pond.metadata": (Codec(Metadata, "metadata", VersionError).decode, VersionError),
}
NODES = (Codec(LeafNode, "a leaf", TreeError), Codec(InnerNode, "an inner node", TreeError))


def decoder(value: Stored) -> tuple[Callable[[bytes], Stored], type[ValueError]]:
    if isinstance(value, LeafNode):
        return NODES[0].decode, TreeError
    if isinstance(value, InnerNode):
        return NODES[1].decode, TreeError
    return DECODERS[str(value.__struct_config__.tag)]


def test_the_vectors_are_all_there() -> None:
    assert VECTORS["statements"].keys() == STATEMENTS.keys()
    assert VECTORS["others"].keys() == samples.others().keys()


@pytest.mark.parametrize("name", STATEMENTS)
def test_statements(name: str) -> None:
    value, vector = STATEMENTS[name], VECTORS["statements"][name]
    data = bytes.fromhex(vector["encoded"])
    assert value.encode() == data
    assert value.digest().hex() == sha256(data).hexdigest() == vector["sha256"]
    assert decoder(value)[0](data) == value
    fields = statement.decode(data, str(value.__struct_config__.tag), 1)
    assert statement.encode(str(value.__struct_config__.tag), 1, *fields) == data


def test_the_deepest_update_is_a_statement() -> None:
    """Nothing that servers take may be nested deeper than `bft.statement` allows."""
    deepest: updates.Predicate = updates.Exists()
    for _ in range(updates.MAX_PREDICATE_DEPTH - 1):
        deepest = updates.And([deepest])
    written = updates.Update(aguid=bytes(32), founding=None, clauses=[updates.Clause([deepest], [updates.Delete()])])
    updates.check(written)
    assert statement.decode(written.encode(), "pond.update", 1)


@pytest.mark.parametrize("name", samples.others())
def test_others(name: str) -> None:
    assert samples.others()[name].hex() == VECTORS["others"][name]


@pytest.mark.parametrize("name", ["bundle", "bundle with data"])
def test_golden_bundles_hold(name: str) -> None:
    report = check(bytes.fromhex(VECTORS["others"][name]))
    assert (report.versions, report.aborted) == (2, 1)


# --- what contradicts itself -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "change"),
    [
        (VERSION, {"number": 1}),
        (VERSION, {"previous": None}),
        (VERSION, {"deleted": True}),
        (VERSION, {"content": TreeRoot(None, 1, 0, 0)}),
        (VERSION, {"content": TreeRoot(bytes(32), 1, 2, 1)}),
        (VERSION, {"content": TreeRoot(bytes(32), 2, 2, 9)}),
        (TOMBSTONE, {"metadata": samples.METADATA}),
        (TOMBSTONE, {"content": samples.CONTENT}),
        (RECORD, {"number": RANGE.count + 1}),
        (RECORD, {"history": type(RANGE)(RANGE.count, RANGE.peaks[:-1])}),
        (RECORD, {"history": type(RANGE)(0, [])}),
        (STATEMENTS["committed"], {"index": None}),
        (STATEMENTS["committed"], {"clause": None}),
        (STATEMENTS["committed"], {"vguid": None}),
        (STATEMENTS["committed"], {"number": 0}),
        (STATEMENTS["committed"], {"number": 0, "vguid": None}),
        (STATEMENTS["committed"], {"reason": Reason.NOT_OWNER}),
        (STATEMENTS["aborted no-clause-holds"], {"reason": None}),
        (STATEMENTS["aborted no-clause-holds"], {"index": None}),
        (STATEMENTS["refused not-owner"], {"index": 0}),
        (STATEMENTS["refused not-owner"], {"clause": 0}),
        (STATEMENTS["refused not-owner"], {"number": 1, "vguid": bytes(32)}),
    ],
)
def test_contradictions(value: Stored, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        msgspec.structs.replace(value, **change)
    fields = msgpack.unpackb(value.encode())
    for name, new in change.items():
        plain = msgspec.msgpack.decode(msgspec.msgpack.encode(new))
        fields[1 + value.__struct_fields__.index(name)] = plain
    decode, error = decoder(value)
    with pytest.raises(error):
        decode(msgpack.packb(fields))


def test_out_of_bounds() -> None:
    cases: list[tuple[Stored, str, list[Any]]] = [
        (VERSION, "number", [0, -1, 2**63, True, 1.0, None]),
        (VERSION, "block_size", [0, 4095, 2**22 + 1]),
        (VERSION, "aguid", [bytes(31), bytes(33), "a" * 32, None]),
        (VERSION, "time", [-1, 2**63]),
        (VERSION, "deleted", [0, None]),
        (VERSION, "format", [0, 2, True, "1"]),
        (VERSION, "history", [None, [0], [0, bytes(32), 0], [-1, bytes(32)]]),
        (RECORD, "owner", [bytes(31), None]),
        (RECORD, "number", [0]),
        (STATEMENTS["committed"], "status", [3, -1, "0", None]),
        (STATEMENTS["aborted no-clause-holds"], "reason", ["", "other", 0, b"no-clause-holds"]),
    ]
    for value, name, wrong in cases:
        decode, refusal = decoder(value)
        for each in wrong:
            fields = msgpack.unpackb(value.encode())
            fields[1 + value.__struct_fields__.index(name)] = each
            with pytest.raises(refusal):
                decode(msgpack.packb(fields))


# --- hostile bytes -----------------------------------------------------------------------------------------------


def mutations(data: bytes, seed: int) -> Iterator[bytes]:
    rng = random.Random(seed)
    for i in range(len(data)):
        yield data[:i] + bytes([data[i] ^ (1 << rng.randrange(8))]) + data[i + 1 :]
        yield data[:i]
        yield data[:i] + rng.choice((b"\xc0", b"\xcc", b"\xdd\xff\xff\xff\xff", b"\x91" * 50)) + data[i:]
        yield data[:i] + data[i + 1 + rng.randrange(4) :]
    yield data + b"\x00"


@pytest.mark.parametrize("name", STATEMENTS)
def test_mutated_bytes_are_refused_or_another_value(name: str) -> None:
    value = STATEMENTS[name]
    decode, error = decoder(value)
    data = value.encode()
    refused = 0
    for changed in mutations(data, len(name)):
        if changed == data:
            continue
        try:
            found = decode(changed)
        except error:
            refused += 1
        else:
            assert found != value
            assert found.encode() == changed
    assert refused > len(data)


@given(st.binary(max_size=300))
def test_arbitrary_bytes(data: bytes) -> None:
    for decode, error in DECODERS.values():
        with pytest.raises(error):
            decode(data)
    for codec in NODES:
        with pytest.raises(TreeError):
            codec.decode(data)
    with pytest.raises(BundleDamaged):
        check(data)


@pytest.mark.parametrize("name", STATEMENTS)
def test_wider_integers_are_not_canonical(name: str) -> None:
    """The same value in another encoding of MessagePack."""
    value = STATEMENTS[name]
    data = value.encode()
    tag = str(value.__struct_config__.tag).encode()
    assert data[2 + len(tag)] == 1 or data[4 + len(tag)] == 1
    decode, error = decoder(value)
    wide = data.replace(tag + b"\x01", tag + b"\xcc\x01", 1)
    assert msgpack.unpackb(wide) == msgpack.unpackb(data)
    with pytest.raises(error, match="canonical"):
        decode(wide)


def test_samples_are_sound() -> None:
    assert TreeRoot(None, 0, 0, 0) == EMPTY
    tree.check_root(samples.CONTENT)
    assert History(RANGE.count, RANGE.root) == VERSION.history
    assert all(isinstance(value, Outcome) for name, value in STATEMENTS.items() if name.startswith("aborted"))

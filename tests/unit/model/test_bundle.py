"""Bundles: they hold as written, and not with any one byte changed, missing or added."""

from __future__ import annotations

import io
from collections.abc import Callable

import msgpack
import msgspec
import pytest

from bft import statement
from bft.merkle import leaf_hash
from bft.signatures import Ed25519Verifier
from pond.model import tables, tree
from pond.model import update as u
from pond.model.block import BlockRef, bguid, to_runs
from pond.model.bundle import LEAVES_IN_PART, BundleDamaged, BundleReport, BundleWriter, _Contents, verify
from pond.model.proof import ProofFailed
from pond.model.version import Metadata, decode_version_root
from tests.unit.model.store import AGUID, RING, RING_ID, STRANGER, Store, clause, update


def history(blocks: int = 3, length: int = 5) -> Store:
    """A store with a few versions that share blocks, an abort, and a tombstone."""
    store = Store()
    refs = [store.block(number, length) for number in range(blocks)]
    metadata = Metadata(epoch=0, salt=bytes(32), counter=0, ciphertext=b"m" * 20)
    store.run(update(clause(u.Write(to_runs(refs)))))
    store.run(update(clause(u.Append(to_runs([store.block(1000, length)])), u.SetMetadata(metadata))))
    store.run(update(clause(u.Write([]), when=[u.VersionIs(7)])))
    store.run(update(clause(u.InsertBlocks(1, to_runs([store.block(1001, length), refs[0]])))))
    store.run(update(clause(u.Delete())))
    store.run(update(clause(u.Write(to_runs(refs[:2])))))
    return store


def write(store: Store, *, with_data: bool, aguid: bytes = AGUID, order: list[bytes] | None = None) -> bytes:
    certificate, proof = store.prove(aguid)
    writer = BundleWriter(aguid, with_data=with_data)
    outcomes = store.outcomes(aguid)
    data = writer.begin(certificate, certificate.claim(), proof, [leaf_hash(outcome) for outcome, _ in outcomes])
    for outcome, root in outcomes:
        data += writer.outcome(outcome, root)
        while wanted := writer.wanted(10):
            assert len(set(wanted)) == len(wanted) <= 10
            if order is not None:
                order.append(wanted[0])
            data += writer.add(stored(store, wanted[0]))
    writer.finish()
    return data


def stored(store: Store, guid: bytes) -> bytes:
    return store.tables.get((tables.NODES, guid)) or store.tables[tables.BLOCKS, guid]


def check(data: bytes, read: Callable[[int], bytes] | None = None) -> BundleReport:
    return verify(read or io.BytesIO(data).read, RING.public_key, Ed25519Verifier())


def spans(data: bytes) -> list[tuple[int, int]]:
    unpacker = msgpack.Unpacker()
    unpacker.feed(data)
    found, start = [], 0
    while start < len(data):
        unpacker.skip()
        found.append((start, unpacker.tell()))
        start = unpacker.tell()
    return found


def damage(data: bytes) -> BundleDamaged:
    with pytest.raises(BundleDamaged) as caught:
        check(data)
    assert 0 <= caught.value.start <= caught.value.end <= len(data)
    return caught.value


@pytest.mark.parametrize("with_data", [False, True])
def test_what_was_written_holds(with_data: bool) -> None:
    store = history()
    data = write(store, with_data=with_data)
    report = check(data)
    assert (report.ring_id, report.aguid, report.record) == (RING_ID, AGUID, store.record())
    assert (report.versions, report.aborted, report.with_data) == (5, 1, with_data)
    assert report.size_bytes == len(data)
    assert report.time == store.now + 5


@pytest.mark.parametrize("with_data", [False, True])
@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_every_changed_byte_is_found_and_named(with_data: bool, mask: int) -> None:
    data = write(history(), with_data=with_data)
    of_byte = {i: span for span in spans(data) for i in range(*span)}
    for i in range(len(data)):
        changed = data[:i] + bytes([data[i] ^ mask]) + data[i + 1 :]
        found = damage(changed)
        assert found.start == of_byte[i][0], (i, found)
        assert found.start <= i
        if i >= found.end:  # its head says that the part is shorter than it is, or is no byte string
            assert i - of_byte[i][0] >= found.end - found.start
        in_head = i - found.start < 5
        assert in_head or found.end == of_byte[i][1]


@pytest.mark.parametrize("with_data", [False, True])
def test_every_truncation_is_found(with_data: bool) -> None:
    data = write(history(), with_data=with_data)
    starts = {start for start, _ in spans(data)}
    for size in range(len(data)):
        found = damage(data[:size])
        assert found.end == size
        assert found.start in starts


@pytest.mark.parametrize("with_data", [False, True])
def test_anything_after_the_end_is_found(with_data: bool) -> None:
    data = write(history(), with_data=with_data)
    for byte in range(256):
        found = damage(data + bytes([byte]))
        assert (found.start, found.end) == (len(data), len(data) + 1)
    found = damage(data + data)
    assert found.start == len(data)


@pytest.mark.parametrize("with_data", [False, True])
def test_no_part_may_be_missing_doubled_or_swapped(with_data: bool) -> None:
    data = write(history(), with_data=with_data)
    parts = [data[start:end] for start, end in spans(data)]
    starts = [start for start, _ in spans(data)]
    for i in range(len(parts)):
        assert damage(b"".join(parts[:i] + parts[i + 1 :])).start == starts[i]
        doubled = damage(b"".join(parts[: i + 1] + parts[i:]))
        assert doubled.start == starts[i] + len(parts[i])
        for j in range(i + 1, len(parts)):
            swapped = [*parts[:i], parts[j], *parts[i + 1 : j], parts[i], *parts[j + 1 :]]
            assert damage(b"".join(swapped)).start == starts[i]


def test_another_encoding_of_the_same_part_is_refused() -> None:
    data = write(history(), with_data=True)
    for start, end in spans(data):
        part = msgpack.unpackb(data[start:end])
        for longer in (
            b"\xc5" + len(part).to_bytes(2, "big") + part,
            b"\xc6" + len(part).to_bytes(4, "big") + part,
        ):
            if longer == data[start:end]:
                continue
            found = damage(data[:start] + longer + data[end:])
            assert (found.start, found.end) == (start, start + len(longer))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_short_reads(size: int) -> None:
    data = write(history(), with_data=True)
    file = io.BytesIO(data)
    assert check(data, lambda wanted: file.read(min(size, wanted))).versions == 5


def test_a_big_tree_in_bounded_memory() -> None:
    store = history(blocks=300, length=4000)
    order: list[bytes] = []
    data = write(store, with_data=True, order=order)
    assert len(order) == len(set(order))
    file = io.BytesIO(data)
    sizes: list[int] = []

    def read(size: int) -> bytes:
        sizes.append(size)
        return file.read(size)

    assert check(data, read).size_bytes == len(data)
    assert max(sizes) <= 2**20
    position = {name: i for i, name in enumerate(order)}
    for number in range(1, 6):
        root = decode_version_root(
            store.tables[
                tables.VERSIONS,
                tables.parse_number_value(store.tables[tables.NUMBERS, tables.number_key(AGUID, number)])[1],
            ]
        )
        for node, node_data in tree.walk(root.content, lambda guid: store.tables[tables.NODES, guid]):
            assert node.guid is not None
            below: list[bytes] = (
                [ref.bguid for ref in tree.open_leaf(node, node_data)]
                if node.height == 1
                else [child.guid or b"" for child in tree.open_inner(node, node_data)]
            )
            if node.guid in position:
                assert all(name in position for name in below)
    # One flipped bit deep in the data is named exactly.
    where = [(start, end) for start, end in spans(data) if end - start > 3000]
    for start, end in where[::50]:
        changed = bytearray(data)
        changed[(start + end) // 2] ^= 4
        found = damage(bytes(changed))
        assert (found.start, found.end) == (start, end)


def test_what_is_wanted_can_be_fetched_ahead() -> None:
    store = history(blocks=100)
    certificate, proof = store.prove()
    writer = BundleWriter(AGUID, with_data=True)
    outcomes = store.outcomes()
    writer.begin(certificate, certificate.claim(), proof, [leaf_hash(outcome) for outcome, _ in outcomes])
    writer.outcome(*outcomes[0])
    rounds, fetched = 0, dict[bytes, bytes]()
    while wanted := writer.wanted(1000):
        if wanted[0] not in fetched:
            rounds += 1
            fetched |= {guid: stored(store, guid) for guid in wanted}
        writer.add(fetched.pop(wanted[0]))
    assert rounds <= 4
    assert not fetched


def test_many_outcomes_have_their_hashes_in_several_parts() -> None:
    store = Store()
    store.run(update(clause(u.Write([]))))
    for _ in range(LEAVES_IN_PART + 10):
        store.run(update(clause(u.Truncate(1))))
    data = write(store, with_data=False)
    report = check(data)
    assert report.aborted == LEAVES_IN_PART + 10
    parts = spans(data)
    changed = bytearray(data)
    changed[parts[3][0] + 100] ^= 1
    found = damage(bytes(changed))
    assert (found.start, found.end) == (parts[3][0], parts[4][1])
    where = parts[5 + 1 + 2000]
    changed = bytearray(data)
    changed[where[1] - 1] ^= 1
    found = damage(bytes(changed))
    assert (found.start, found.end) == where


# --- bundles made by somebody who can compute every digest but not sign ------------------------------------------


def forge(data: bytes, change: Callable[[list[bytes]], None]) -> bytes:
    parts = [msgpack.unpackb(data[start:end]) for start, end in spans(data)]
    change(parts)
    return b"".join(msgpack.packb(part) for part in parts)


def header(ring: bytes, aguid: bytes, count: int, with_data: bool) -> bytes:
    check = statement.digest(statement.encode("pond.bundle", 1, ring, aguid, count, with_data))
    return statement.encode("pond.bundle", 1, ring, aguid, count, with_data, check)


@pytest.mark.parametrize(
    "fields",
    [
        (bytes(32), AGUID, 6, True),
        (RING_ID, bytes(32), 6, True),
        (RING_ID, AGUID, 5, True),
        (RING_ID, AGUID, 7, True),
        (RING_ID, AGUID, 0, True),
        (RING_ID, AGUID, 2**63 - 1, True),
        (RING_ID, AGUID, 6, False),
    ],
)
def test_a_forged_header(fields: tuple[bytes, bytes, int, bool]) -> None:
    data = write(history(), with_data=True)

    def change(parts: list[bytes]) -> None:
        assert parts[0] == header(RING_ID, AGUID, 6, True)
        parts[0] = header(*fields)

    damage(forge(data, change))


def test_no_such_object() -> None:
    data = write(history(), with_data=False)
    certificate, proof = Store().prove()

    def change(parts: list[bytes]) -> None:
        parts[0] = header(RING_ID, AGUID, 0, False)
        parts[1] = msgspec.msgpack.encode(certificate)
        parts[2:] = [msgspec.msgpack.encode(proof)]

    assert "no such object" in damage(forge(data, change)).what


def test_another_ring() -> None:
    data = write(history(), with_data=False)
    with pytest.raises(BundleDamaged, match="not signed by the ring") as caught:
        verify(io.BytesIO(data).read, STRANGER, Ed25519Verifier())
    assert (caught.value.start, caught.value.end) == spans(data)[1]


@pytest.mark.parametrize(
    "junk", [b"", b"\x00", b"\xc4", b"\xc6\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff" * 9, b"\x91" * 9999]
)
def test_junk(junk: bytes) -> None:
    assert damage(junk).start == 0


def test_a_huge_part_is_refused_before_it_is_read() -> None:
    data = write(history(), with_data=False)
    read = 0

    def endless(size: int) -> bytes:
        nonlocal read
        read += size
        return (data[: spans(data)[4][1]] + b"\xc6\x7f\xff\xff\xff" if read == size else bytes(size))[:size]

    with pytest.raises(BundleDamaged):
        check(data, endless)
    assert read < 2**25


# --- a writer is given wrong things ------------------------------------------------------------------------------


def test_the_writer_refuses_what_a_reader_would() -> None:
    store = history()
    certificate, proof = store.prove()
    outcomes = store.outcomes()
    leaves = [leaf_hash(outcome) for outcome, _ in outcomes]
    for wrong in ([], leaves[:-1], leaves[::-1], [*leaves, leaves[0]]):
        with pytest.raises(ProofFailed):
            BundleWriter(AGUID, with_data=True).begin(certificate, certificate.claim(), proof, wrong)
    writer = BundleWriter(AGUID, with_data=True)
    writer.begin(certificate, certificate.claim(), proof, leaves)
    with pytest.raises(ProofFailed):
        writer.outcome(*outcomes[1])
    with pytest.raises(ProofFailed):
        writer.outcome(outcomes[0][0], None)
    writer.outcome(*outcomes[0])
    with pytest.raises(tree.TreeError):
        writer.add(b"something else")
    with pytest.raises(ProofFailed, match="not complete"):
        writer.finish()
    writer.add(stored(store, writer.wanted(1)[0]))
    with pytest.raises(tree.TreeError):
        writer.add(b"something else")
    while wanted := writer.wanted(1):
        writer.add(stored(store, wanted[0]))
    with pytest.raises(ProofFailed):
        writer.finish()


def test_a_block_that_is_shorter_than_in_use_is_refused() -> None:
    ref = BlockRef(bguid(b"short"), 5, 0, bytes(32), 0)
    leaf = tree.LeafNode(children=[ref])
    contents = tree.TreeRoot(leaf.digest(), 5, 1, 1)
    checker = _Contents()
    checker.begin(contents)
    checker.add(leaf.encode())
    with pytest.raises(tree.TreeError):
        checker.add(b"short")

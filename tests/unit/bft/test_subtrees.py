"""Subtrees of the state tree: what they say of themselves is true, and nothing else is believed."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bft.state_tree import (
    CHUNK_BYTES,
    CHUNK_ITEMS,
    EMPTY,
    MAX_DEPTH,
    Branch,
    Chunk,
    ChunkError,
    Items,
    StateTree,
    open_branch,
    open_items,
)
from tests.unit.bft.test_state_tree import CONTENTS, KEYS, numbered, path_of, reference_root, tree_of

PREFIXES = st.sampled_from(KEYS).flatmap(
    lambda key: st.integers(0, 64).map(lambda depth: bytes(int(digit, 16) for digit in path_of(key)[:depth]))
)


def digits(prefix: bytes) -> str:
    return "".join(f"{nibble:x}" for nibble in prefix)


@given(CONTENTS, PREFIXES)
def test_a_subtree_is_what_lies_under_its_prefix(content, prefix):
    tree = tree_of(content)
    below = {key: value for key, value in content.items() if path_of(key).startswith(digits(prefix))}
    assert dict(tree.items(prefix)) == below
    assert tree.digest_at(prefix) == reference_root(content, digits(prefix))


@given(CONTENTS, PREFIXES)
def test_a_chunk_is_accepted_for_its_digest_alone(content, prefix):
    tree = tree_of(content)
    below = dict(tree.items(prefix))
    chunk = tree.chunk(prefix)
    assert isinstance(chunk, Items)
    assert open_items(tree.digest_at(prefix), prefix, chunk) == below
    with pytest.raises(ChunkError):
        open_items(bytes(32), prefix, chunk)
    for changed in changes(chunk):
        with pytest.raises(ChunkError):
            open_items(tree.digest_at(prefix), prefix, changed)


def changes(chunk: Items) -> list[Items]:
    """Other items."""
    items = list(chunk.items)
    others = [[*items, (b"new", b"")]]
    for i, (key, value) in enumerate(items):
        others.append(items[:i] + items[i + 1 :])
        others.append([*items[:i], (key, value + b"!"), *items[i + 1 :]])
        others.append([*items[: i + 1], *items[i:]])
    if len(items) > 1:
        others.append(items[::-1])
    return [Items(other) for other in others]


@pytest.mark.parametrize("count", [CHUNK_ITEMS, CHUNK_ITEMS + 1, 500, 5000])
def test_a_walk_down_the_chunks_finds_everything(count: int):
    content = numbered(count)
    tree = tree_of(content)
    found: dict[bytes, bytes] = {}
    wanted = [(b"", tree.root)]
    while wanted:
        prefix, digest = wanted.pop()
        chunk = over_the_wire(tree.chunk(prefix))
        if isinstance(chunk, Items):
            found |= open_items(digest, prefix, chunk)
        else:
            slots = open_branch(digest, chunk)
            wanted += [(prefix + bytes([slot]), below) for slot, below in enumerate(slots) if below != EMPTY]
    assert found == content
    assert isinstance(tree.chunk(b""), Items) == (count <= CHUNK_ITEMS)


def over_the_wire(chunk: Chunk) -> Chunk:
    decoded: Chunk = msgspec.msgpack.decode(msgspec.msgpack.encode(chunk), type=Chunk)
    return decoded


def test_large_values_make_small_chunks_and_one_alone_is_sent_all_the_same():
    content = {key: bytes(CHUNK_BYTES // 4) for key in numbered(12)}
    assert isinstance(tree_of(content).chunk(b""), Branch)
    alone = {b"key": bytes(3 * CHUNK_BYTES)}
    assert tree_of(alone).chunk(b"") == Items(list(alone.items()))


def test_no_other_branch_is_accepted():
    rng = random.Random(1)
    tree = tree_of(numbered(200))
    chunk = tree.chunk(b"")
    assert isinstance(chunk, Branch)
    assert open_branch(tree.root, chunk)[3] == tree.digest_at(b"\x03")
    for _ in range(300):
        data = bytearray(chunk.digests)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        bitmap = chunk.bitmap ^ (1 << rng.randrange(16) if rng.random() < 0.5 else 0)
        for other in (Branch(chunk.bitmap, bytes(data)), Branch(bitmap, bytes(data))):
            with pytest.raises(ChunkError):
                open_branch(tree.root, other)
    with pytest.raises(ChunkError):
        open_branch(tree.root, Branch(chunk.bitmap, chunk.digests + bytes(32)))


def test_a_branch_never_flags_an_empty_slot():
    """It would hash to the same and be another encoding of it."""
    tree = StateTree.empty().update({key: b"" for key in KEYS if path_of(key)[0] in "05"})
    branch = Branch(1 << 0 | 1 << 5, tree.digest_at(b"\x00") + tree.digest_at(b"\x05"))
    assert open_branch(tree.root, branch)[1] == EMPTY
    padded = Branch(branch.bitmap | 2, branch.digests[:32] + EMPTY + branch.digests[32:])
    with pytest.raises(ChunkError):
        open_branch(tree.root, padded)


def test_prefixes_that_no_path_has():
    tree = tree_of(numbered(100))
    for prefix in (b"\xff", b"\x10" * MAX_DEPTH, b"\x00" * MAX_DEPTH):
        assert tree.chunk(prefix) == Items([])
        assert tree.digest_at(prefix) == EMPTY


@given(CONTENTS, CONTENTS)
def test_differences_are_what_differs(first, second):
    found = list(tree_of(first).differences(tree_of(second)))
    keys = {key for key in {*first, *second} if first.get(key) != second.get(key)}
    assert {key: (old, new) for key, old, new in found} == {key: (first.get(key), second.get(key)) for key in keys}
    assert len(found) == len(keys)


@given(CONTENTS)
def test_one_after_another(content):
    tree = tree_of(content)
    found = []
    key = None
    while (entry := tree.after(key)) is not None:
        found.append(entry)
        key = entry[0]
    assert found == list(tree.items())
    for absent in KEYS:
        later = [entry for entry in found if path_of(entry[0]) > path_of(absent)]
        assert tree.after(absent) == next(iter(later), None)

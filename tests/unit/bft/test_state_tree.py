"""The state tree against a dictionary and against its own definition, written down a second time and naively."""

import random
from collections.abc import Mapping
from hashlib import sha256
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bft import state_tree
from bft.state_tree import EMPTY, Kind, OtherLeaf, ProofError, StateProof, StateTree, state_key, verify_proof

DECODER = msgspec.msgpack.Decoder(StateProof)


def path_of(key: bytes) -> str:
    return sha256(b"bft.state.key\0" + key).hexdigest()


def reference_leaf(key: bytes, value: bytes) -> bytes:
    value_hash = sha256(b"bft.state.value\0" + value).digest()
    return sha256(b"bft.state.leaf\0" + bytes.fromhex(path_of(key)) + value_hash).digest()


def reference_root(content: Mapping[bytes, bytes], prefix: str = "") -> bytes:
    """The digest of the keys below a prefix, as the module's docstring defines it."""
    below = {key: value for key, value in content.items() if path_of(key).startswith(prefix)}
    if not below:
        return sha256(b"bft.state.empty\0").digest()
    if len(below) == 1:
        return reference_leaf(*next(iter(below.items())))
    level = [reference_root(below, prefix + digit) for digit in "0123456789abcdef"]
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=True)
        level = [
            left if left == right == EMPTY else sha256(b"bft.state.node\0" + left + right).digest()
            for left, right in pairs
        ]
    return level[0]


def crowded_keys() -> list[bytes]:
    """Keys whose paths agree in many nibbles with some other's, and a few that do not."""
    found = sorted((state_key(Kind.OBJECT, n.to_bytes(4, "big")) for n in range(40_000)), key=path_of)

    def shared(pair: tuple[bytes, bytes]) -> int:
        first, second = map(path_of, pair)
        return next(depth for depth in range(64) if first[depth] != second[depth])

    pairs = sorted(pairwise(found), key=shared, reverse=True)[:6]
    assert shared(pairs[0]) >= 6
    assert shared(pairs[5]) >= 5
    deep = path_of(pairs[0][0])
    near = [next(key for key in found if path_of(key)[:n] == deep[:n] and path_of(key)[n] != deep[n]) for n in range(4)]
    return sorted({key for pair in pairs for key in pair} | {*near, *found[::8000], b"", b"\0", b"k" * 200})


KEYS = crowded_keys()
STRANGERS = [state_key(Kind.SESSION, n.to_bytes(4, "big")) for n in range(300)]
VALUES = st.sampled_from([b"", b"\0", b"one", b"two", b"x" * 100])
CHANGES = st.dictionaries(st.sampled_from(KEYS), st.none() | VALUES, max_size=len(KEYS))
CONTENTS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=len(KEYS))


def tree_of(content: Mapping[bytes, bytes]) -> StateTree:
    return StateTree.empty().update(content)


def numbered(count: int) -> dict[bytes, bytes]:
    return {state_key(Kind.OBJECT, n.to_bytes(32, "big")): b"value %d" % n for n in range(count)}


def assert_is(tree: StateTree, content: Mapping[bytes, bytes]) -> None:
    """The tree is that of the content in everything that can be asked of it."""
    assert tree.root == reference_root(content)
    assert len(tree) == len(content)
    assert list(tree.items()) == sorted(content.items(), key=lambda item: path_of(item[0]))
    for key in [*KEYS, *STRANGERS[:5]]:
        assert tree.get(key) == content.get(key)
        assert verify_proof(tree.root, key, tree.prove(key)) == content.get(key)


def accepts(root: bytes, key: bytes, proof: StateProof) -> bool:
    try:
        verify_proof(root, key, proof)
    except ProofError:
        return False
    return True


# Contents and shape


@settings(max_examples=60)
@given(st.lists(CHANGES, max_size=6))
def test_it_is_a_dictionary_and_old_trees_stay(batches):
    model: dict[bytes, bytes] = {}
    trees = [(StateTree.empty(), model)]
    for changes in batches:
        merged = model | changes
        model = {key: value for key, value in merged.items() if value is not None}
        trees.append((trees[-1][0].update(changes), model))
    for tree, content in trees:
        assert_is(tree, content)


@settings(max_examples=60)
@given(CONTENTS, st.lists(CHANGES, max_size=4), st.randoms())
def test_the_root_depends_on_contents_and_not_on_history(content, batches, shuffler):
    tree = StateTree.empty()
    for changes in batches:
        tree = tree.update(changes)
    stale = {key: None for key, _ in tree.items() if key not in content}
    one_by_one = list((content | stale).items())
    shuffler.shuffle(one_by_one)
    for key, value in one_by_one:
        tree = tree.update({key: value})
    assert_is(tree, content)
    assert tree.root == tree_of(content).root


@given(CONTENTS, CHANGES, st.randoms())
def test_the_order_of_a_batch_does_not_matter(content, changes, shuffler):
    tree = tree_of(content)
    shuffled = list(changes.items())
    shuffler.shuffle(shuffled)
    one_by_one = tree
    for key, value in shuffled:
        one_by_one = one_by_one.update({key: value})
    assert tree.update(changes).root == tree.update(dict(shuffled)).root == one_by_one.root
    assert len(tree.update(changes)) == len(one_by_one)


@given(CONTENTS, CONTENTS)
def test_equal_roots_mean_equal_contents(first, second):
    assert (tree_of(first).root == tree_of(second).root) == (first == second)


@given(CONTENTS)
def test_what_changes_nothing_gives_the_same_tree(content):
    tree = tree_of(content)
    absent = {key: None for key in [*KEYS, *STRANGERS[:40]] if key not in content}
    for changes in ({}, content, absent, content | absent):
        assert tree.update(changes) is tree
    for key, value in (content | absent).items():
        assert tree.update({key: value}) is tree


@given(CONTENTS)
def test_everything_can_be_deleted(content):
    tree = tree_of(content)
    assert tree.update(dict.fromkeys(content)).root == EMPTY
    for key in content:
        tree = tree.update({key: None})
    assert_is(tree, {})


@pytest.mark.parametrize("count", [0, 1, 2, 3, 15, 16, 17, 64, 300])
def test_sizes(count):
    content = numbered(count)
    tree = tree_of(content)
    assert tree.root == reference_root(content)
    assert len(tree) == len(list(tree.items())) == count
    for key in [*list(content)[:20], *STRANGERS[:20]]:
        assert verify_proof(tree.root, key, tree.prove(key)) == content.get(key)


@pytest.mark.parametrize("seed", range(8))
def test_long_histories_with_dense_nodes(seed):
    drawn = random.Random(seed)
    keys = [state_key(Kind.OBJECT, drawn.randbytes(32)) for _ in range(400)]
    tree = StateTree.empty()
    model: dict[bytes, bytes] = {}
    for _ in range(40):
        changes = {
            drawn.choice(keys): drawn.choice([None, None, b"1", b"2", b"3"])
            for _ in range(drawn.choice([1, 3, 40, 200]))
        }
        tree = tree.update(changes)
        model = {key: value for key, value in (model | changes).items() if value is not None}
        assert len(tree) == len(model)
        assert tree.root == tree_of(model).root
    assert tree.root == reference_root(model)
    assert list(tree.items()) == sorted(model.items(), key=lambda item: path_of(item[0]))


def test_stored_format():
    # These digests are in certificates that must verify for ever.
    assert EMPTY.hex() == "c6ece52acb6bad9e127277223b6ffcb8df89441c9bca7044e462ceea4876003e"
    assert tree_of(numbered(1)).root.hex() == "4f1e21408793b6e6e29f62119cd8c2ff329377aba25a4e4790a8993ac9c21144"
    assert tree_of(numbered(1000)).root.hex() == "088b672e18fd1c7c6cb1e10f493e3ad3b558e550f0470039f2f6468102e7ece9"
    assert state_key(Kind.ARCHIVE, b"ab") == b"\x05ab"
    assert {kind.name: int(kind) for kind in Kind} == {
        "OBJECT": 1,
        "SESSION": 2,
        "ANSWERS": 3,
        "MEMBERSHIP": 4,
        "ARCHIVE": 5,
        "CONFIGURATION": 6,
    }


@pytest.mark.parametrize(
    "changes", [{"text": b"a"}, {b"a": "text"}, {b"a": bytearray(b"a")}, {b"a": 1}, {5: b"a"}, {b"a": memoryview(b"a")}]
)
def test_keys_and_values_are_bytes(changes):
    with pytest.raises(TypeError):
        StateTree.empty().update(changes)


def test_a_repr_shows_no_values():
    assert "secret value" not in repr(tree_of({b"a": b"secret value"}))


# Cost


def counted(monkeypatch) -> list[int]:
    hashes: list[int] = []

    def counting(data: bytes):
        hashes.append(len(data))
        return sha256(data)

    monkeypatch.setattr(state_tree, "sha256", counting)
    return hashes


def test_one_update_hashes_four_nodes_a_level(monkeypatch):
    content = numbered(4096)
    tree = tree_of(content)
    key = next(key for key in content if len(tree.prove(key).present) == 3)
    hashes = counted(monkeypatch)
    tree.update({key: b"new"})
    # The key's path twice and its value and leaf once; the lowest level, if sparse, is hashed as a whole.
    assert len(hashes) <= 4 + 4 + 4 + 15


def test_a_batch_hashes_what_it_shares_once(monkeypatch):
    content = numbered(4096)
    tree = tree_of(content)
    changes = dict.fromkeys(list(content)[:64], b"new")
    hashes = counted(monkeypatch)
    together = tree.update(changes)
    batch = len(hashes)
    for key, value in changes.items():
        tree = tree.update({key: value})
    assert tree.root == together.root
    assert batch < 0.75 * (len(hashes) - batch)


# Proofs

PROVED = {
    "of an empty tree": ({}, KEYS[0]),
    "of the only key": ({KEYS[0]: b"value"}, KEYS[0]),
    "of another than the only key": ({KEYS[0]: b"value"}, KEYS[1]),
    "of one of two": ({KEYS[0]: b"value", STRANGERS[0]: b""}, STRANGERS[0]),
    "of a deep key": (
        dict.fromkeys(KEYS, b"value"),
        max(KEYS, key=lambda key: len(tree_of(dict.fromkeys(KEYS, b"")).prove(key).present)),
    ),
    "of one of many": (numbered(300), next(iter(numbered(1)))),
}
for _end, _name in ((type(None), "of an empty slot"), (OtherLeaf, "of another's place")):
    _tree = tree_of(numbered(300))
    PROVED[_name] = (numbered(300), next(key for key in STRANGERS if type(_tree.prove(key).end) is _end))


@pytest.mark.parametrize(("content", "key"), PROVED.values(), ids=PROVED)
def test_every_flip_of_a_byte_is_refused(content, key):
    tree = tree_of(content)
    encoded = msgspec.msgpack.encode(tree.prove(key))
    assert verify_proof(tree.root, key, DECODER.decode(encoded)) == content.get(key)
    every = range(1, 256) if len(encoded) < 150 else (1, 2, 4, 8, 16, 32, 64, 128, 0x55, 0xAA, 0xFF, 0x0F, 0xF0)
    for place in range(len(encoded)):
        for mask in every:
            flipped = bytearray(encoded)
            flipped[place] ^= mask
            try:
                proof = DECODER.decode(flipped)
            except msgspec.DecodeError:
                continue
            with pytest.raises(ProofError):
                verify_proof(tree.root, key, proof)


@pytest.mark.parametrize(("content", "key"), PROVED.values(), ids=PROVED)
def test_every_cut_and_extension_is_refused(content, key):
    encoded = msgspec.msgpack.encode(tree_of(content).prove(key))
    for wrong in [encoded[:size] for size in range(len(encoded))] + [encoded + b"\0", encoded + encoded]:
        with pytest.raises(msgspec.DecodeError):
            DECODER.decode(wrong)


@pytest.mark.parametrize(("content", "key"), PROVED.values(), ids=PROVED)
def test_a_proof_is_of_one_root_and_key(content, key):
    tree = tree_of(content)
    proof = tree.prove(key)
    others = [EMPTY, bytes(32), b"", tree.root[:31], tree_of(content | {key: b"other"}).root]
    for root in others:
        assert root == tree.root or not accepts(root, key, proof)
    for other in [*KEYS, *STRANGERS[:50]]:
        # Another's absence may have the same proof; another's presence or a wrong absence never.
        if accepts(tree.root, other, proof):
            assert verify_proof(tree.root, other, proof) == content.get(other)
            assert proof == tree.prove(other)


@given(CONTENTS, CHANGES, st.sampled_from(KEYS))
def test_proofs_of_old_trees_stay_and_are_not_of_new_ones(content, changes, key):
    old = tree_of(content)
    root, before = old.root, old.prove(key)
    new = old.update(changes)
    assert old.prove(key) == before
    assert verify_proof(root, key, before) == content.get(key)
    if accepts(new.root, key, before):
        assert new.prove(key) == before


def mutations(proof: StateProof, drawn: random.Random, donor: StateProof):
    """Proofs that a liar would make of a proof: the same with a part removed, doubled, moved, or taken from another."""
    present, siblings = (
        bytearray(proof.present),
        [proof.siblings[n : n + 32] for n in range(0, len(proof.siblings), 32)],
    )
    ends = [None, b"", b"value", OtherLeaf(bytes(32), bytes(32)), donor.end]
    if isinstance(proof.end, OtherLeaf):
        ends += [OtherLeaf(proof.end.value_hash, proof.end.path), proof.end.path + proof.end.value_hash]
    for end in ends:
        yield StateProof(proof.present, proof.siblings, end)
    yield StateProof(donor.present, donor.siblings, proof.end)
    yield StateProof(bytes(reversed(present)), b"".join(reversed(siblings)), proof.end)
    for level in range(len(present) + 1):
        for flags in (0, 1, 8, 15):
            added = [EMPTY] * flags.bit_count()
            at = sum(flag.bit_count() for flag in present[:level])
            wider = bytes([*present[:level], flags, *present[level:]])
            yield StateProof(wider, b"".join([*siblings[:at], *added, *siblings[at:]]), proof.end)
            yield StateProof(wider, proof.siblings, proof.end)
    for level in range(len(present)):
        at = sum(flag.bit_count() for flag in present[:level])
        count = present[level].bit_count()
        yield StateProof(
            bytes([*present[:level], *present[level + 1 :]]),
            b"".join([*siblings[:at], *siblings[at + count :]]),
            proof.end,
        )
        for bit in range(8):
            flipped = bytes([*present[:level], present[level] ^ 1 << bit, *present[level + 1 :]])
            yield StateProof(flipped, proof.siblings, proof.end)
            place = at + (present[level] & (1 << bit) - 1).bit_count()
            if present[level] >> bit & 1:
                yield StateProof(flipped, b"".join([*siblings[:place], *siblings[place + 1 :]]), proof.end)
            else:
                yield StateProof(flipped, b"".join([*siblings[:place], EMPTY, *siblings[place:]]), proof.end)
    if siblings:
        place = drawn.randrange(len(siblings))
        for wrong in (EMPTY, bytes(32), siblings[0][::-1], donor.siblings[:32]):
            yield StateProof(proof.present, b"".join([*siblings[:place], wrong, *siblings[place + 1 :]]), proof.end)


@settings(max_examples=60)
@given(CONTENTS, st.sampled_from([*KEYS, *STRANGERS[:20]]), st.sampled_from(KEYS), st.integers(0, 2**32))
def test_one_statement_has_one_proof(content, key, other, seed):
    tree = tree_of(content)
    honest = tree.prove(key)
    for proof in mutations(honest, random.Random(seed), tree.prove(other)):
        assert proof == honest or not accepts(tree.root, key, proof)


ENDS = (
    st.none() | st.binary(max_size=40) | st.builds(OtherLeaf, st.binary(min_size=31, max_size=33), st.just(bytes(32)))
)
HOSTILE = st.builds(StateProof, st.binary(max_size=70), st.binary(max_size=200), ENDS)
FITTING = st.lists(st.integers(0, 15), max_size=64).flatmap(
    lambda present: st.builds(
        StateProof, st.just(bytes(present)), st.just(EMPTY * sum(flags.bit_count() for flags in present)), ENDS
    )
)


@given(CONTENTS, st.sampled_from(KEYS), HOSTILE | FITTING)
def test_hostile_proofs_are_refused(content, key, proof):
    tree = tree_of(content)
    assert proof == tree.prove(key) or not accepts(tree.root, key, proof)


@given(st.binary(max_size=33), st.binary(max_size=5), st.binary(max_size=200))
def test_hostile_bytes_are_refused(root, key, encoded):
    try:
        proof = DECODER.decode(encoded)
    except msgspec.DecodeError:
        return
    assert not accepts(root, key, proof)


def test_hostile_proofs_cost_no_more_than_the_deepest(monkeypatch):
    hashes = counted(monkeypatch)
    assert not accepts(bytes(32), b"key", StateProof(b"\x0f" * 64, bytes(32 * 256), b"value"))
    assert len(hashes) <= 256 + 3
    hashes.clear()
    assert not accepts(bytes(32), b"key", StateProof(b"\x0f" * 65, bytes(32 * 260), b"value"))
    assert not accepts(bytes(32), b"key", StateProof(b"\x0f" * 10**6, bytes(32 * 4 * 10**6), b"value"))
    assert not hashes


@pytest.mark.parametrize(
    "proof",
    [
        StateProof(b"\x00", b"", None),
        StateProof(b"\x00" * 64, b"", None),
        StateProof(b"\x00\x01", bytes(32), None),
        StateProof(b"\x10", bytes(32), None),
        StateProof(b"\x01", b"", None),
        StateProof(b"\x01", EMPTY, None),
        StateProof(b"\x0f", EMPTY * 4, None),
        StateProof(b"", EMPTY, None),
        StateProof(b"", b"\0", None),
        StateProof(b"", b"", OtherLeaf(bytes(32), bytes(32))),
        StateProof(b"", b"", EMPTY),
        StateProof(b"", b"", b""),
    ],
    ids=str,
)
def test_an_empty_tree_has_one_proof(proof):
    assert verify_proof(EMPTY, b"key", StateProof(b"", b"", None)) is None
    with pytest.raises(ProofError):
        verify_proof(EMPTY, b"key", proof)


def test_a_keys_own_leaf_does_not_prove_its_absence():
    tree = tree_of(numbered(300))
    key, value = next(tree.items())
    proof = tree.prove(key)
    own = OtherLeaf(bytes.fromhex(path_of(key)), sha256(b"bft.state.value\0" + value).digest())
    with pytest.raises(ProofError):
        verify_proof(tree.root, key, StateProof(proof.present, proof.siblings, own))


def test_another_leaf_proves_absence_only_where_the_key_would_be():
    tree = tree_of(numbered(300))
    keys = [key for key, _ in tree.items()]
    near = tree.prove(keys[0])
    leaf = OtherLeaf(bytes.fromhex(path_of(keys[0])), sha256(b"bft.state.value\0" + numbered(300)[keys[0]]).digest())
    for key in keys[1:]:
        with pytest.raises(ProofError):
            verify_proof(tree.root, key, StateProof(near.present, near.siblings, leaf))


def test_a_leaf_that_a_lying_tree_misplaced_proves_nothing():
    key = KEYS[0]
    wrong = "0" if path_of(key)[0] != "0" else "1"
    other = next(key for key in STRANGERS if path_of(key)[0] == wrong)
    leaf = OtherLeaf(bytes.fromhex(path_of(other)), bytes(32))
    proof = StateProof(b"\x01", bytes(32), leaf)
    digest = sha256(b"bft.state.leaf\0" + leaf.path + leaf.value_hash).digest()
    for height in range(4):
        sibling = EMPTY if height else bytes(32)
        right = int(path_of(key)[0], 16) >> height & 1
        digest = sha256(b"bft.state.node\0" + (sibling + digest if right else digest + sibling)).digest()
    with pytest.raises(ProofError, match="not where"):
        verify_proof(digest, key, proof)


def test_an_inner_node_does_not_pass_for_a_leaf_or_an_empty_slot():
    tree = tree_of(dict.fromkeys(KEYS, b"value"))
    key = max(KEYS, key=lambda key: len(tree.prove(key).present))
    proof = tree.prove(key)
    for cut in range(1, len(proof.present) + 1):
        dropped = sum(flags.bit_count() for flags in proof.present[:cut])
        for end in (None, b"value", proof.end):
            short = StateProof(proof.present[cut:], proof.siblings[32 * dropped :], end)
            assert not accepts(tree.root, key, short)


def test_proofs_are_compact():
    tree = tree_of(numbered(2000))
    sizes = [len(msgspec.msgpack.encode(tree.prove(key))) for key in STRANGERS]
    assert sum(sizes) / len(sizes) < 460


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        [b"", b""],
        [b"", b"", None, None],
        ["", b"", None],
        [b"", "", None],
        [b"", b"", "text"],
        [b"", b"", 1],
        [b"", b"", [bytes(32)]],
        [b"", b"", [bytes(32), bytes(31)]],
        [b"", b"", [bytes(32), bytes(33)]],
        [b"", b"", [bytes(32), bytes(32), b""]],
        [bytes(65), b"", None],
        [b"", bytes(64 * 128 + 1), None],
        {},
        None,
    ],
    ids=str,
)
def test_wrong_structs_do_not_decode(wrong):
    with pytest.raises(msgspec.DecodeError):
        DECODER.decode(msgspec.msgpack.encode(wrong))

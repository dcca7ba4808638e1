"""Merkle trees of RFC 9162 against its own recursive definitions, and mountain ranges against the trees."""

from hashlib import sha256

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bft import merkle
from bft.merkle import MountainRange

LEAVES = [b"", b"\0", *(bytes([n]) * (n % 7) + n.to_bytes(2, "big") for n in range(2, 200))]

# The tree of the certificate-transparency project's own tests, one leaf more each.
KNOWN_LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
KNOWN_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def split(count: int) -> int:
    """The largest power of two below the count."""
    return 1 << (count - 1).bit_length() - 1


def reference_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162, section 2.1.1, as it is written there."""
    if not leaves:
        return sha256().digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = split(len(leaves))
    return sha256(b"\x01" + reference_root(leaves[:k]) + reference_root(leaves[k:])).digest()


def reference_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of RFC 9162, section 2.1.3.1, as it is written there."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if index < k:
        return [*reference_path(index, leaves[:k]), reference_root(leaves[k:])]
    return [*reference_path(index - k, leaves[k:]), reference_root(leaves[:k])]


def grown(count: int) -> tuple[MountainRange, dict[tuple[int, int], bytes]]:
    """A mountain range over the first leaves and the nodes that its owner stored."""
    range_, stored = MountainRange.empty(), {}
    for leaf in LEAVES[:count]:
        range_, nodes = range_.append(merkle.leaf_hash(leaf))
        for level, index, digest in nodes:
            assert (level, index) not in stored
            stored[level, index] = digest
    return range_, stored


@pytest.mark.parametrize("count", range(9))
def test_known_roots(count):
    assert merkle.root([bytes.fromhex(leaf) for leaf in KNOWN_LEAVES[:count]]).hex() == KNOWN_ROOTS[count]


@pytest.mark.parametrize("count", range(70))
def test_root_is_that_of_the_rfc(count):
    assert merkle.root(LEAVES[:count]) == reference_root(LEAVES[:count])


@pytest.mark.parametrize("count", [*range(1, 35), 63, 64, 65, 100])
def test_paths_are_those_of_the_rfc_and_verify(count):
    leaves = LEAVES[:count]
    root = merkle.root(leaves)
    for index, leaf in enumerate(leaves):
        path = merkle.path(leaves, index)
        assert path == reference_path(index, leaves)
        assert merkle.verify(root, leaf, index, count, path)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13])
def test_anything_else_does_not_verify(count):
    leaves = LEAVES[:count]
    root = merkle.root(leaves)
    for index, leaf in enumerate(leaves):
        path = merkle.path(leaves, index)
        assert not merkle.verify(root, leaf + b"x", index, count, path)
        assert not merkle.verify(bytes(32), leaf, index, count, path)
        assert not merkle.verify(root[:31], leaf, index, count, path)
        assert not merkle.verify(root, leaf, index, count, [*path, bytes(32)])
        assert not merkle.verify(root, leaf, index, count, [*path, root])
        for other in range(-2, count + 3):
            assert other == index or not merkle.verify(root, leaf, other, count, path)
        for place in range(len(path)):
            assert not merkle.verify(root, leaf, index, count, path[:place] + path[place + 1 :])
            for wrong in (bytes(32), path[place][:31], path[place] + b"\0", b"", path[place][::-1]):
                assert not merkle.verify(root, leaf, index, count, [*path[:place], wrong, *path[place + 1 :]])
        if len(path) > 1:
            assert not merkle.verify(root, leaf, index, count, path[::-1])


def test_a_node_does_not_pass_for_a_leaf():
    leaves = LEAVES[:4]
    root, node = merkle.root(leaves), merkle.leaf_hash(leaves[0]) + merkle.leaf_hash(leaves[1])
    right = merkle.node_hash(merkle.leaf_hash(leaves[2]), merkle.leaf_hash(leaves[3]))
    assert not merkle.verify(root, node, 0, 2, [right])
    assert not merkle.verify(root, b"\x01" + node, 0, 2, [right])


def test_a_path_longer_than_the_count_allows_proves_nothing():
    leaves = LEAVES[:2]
    for index, leaf in enumerate(leaves):
        assert not merkle.verify(merkle.root(leaves), leaf, 0, 1, merkle.path(leaves, index))


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
def test_siblings_of_another_size_prove_nothing_even_to_a_root_made_of_them(size):
    root = merkle.node_hash(bytes(size), merkle.leaf_hash(b"a"))
    assert not merkle.verify(root, b"a", 1, 2, [bytes(size)])


@pytest.mark.parametrize(
    ("index", "count"),
    [
        (0, 0),
        (-1, 1),
        (1, 1),
        (0, -1),
        (0, 2**63),
        (2**63, 2**63),
        (2**64, 2**65),
        (10**1000, 10**1001),
        (-(10**99), 1),
    ],
)
def test_impossible_places_are_refused(index, count):
    assert not merkle.verify(merkle.leaf_hash(b"a"), b"a", index, count, [])


def test_long_paths_are_refused_before_they_are_hashed(monkeypatch):
    hashed: list[bytes] = []

    def counting(left: bytes, right: bytes) -> bytes:
        hashed.append(left)
        return bytes(32)

    monkeypatch.setattr(merkle, "node_hash", counting)
    assert not merkle.verify(bytes(32), b"a", 0, 2**63 - 1, [bytes(32)] * 1_000_000)
    assert not hashed
    assert merkle.verify(bytes(32), b"a", 5, 2**63 - 1, [bytes(32)] * 63)
    assert len(hashed) == 63


@given(
    st.binary(max_size=33),
    st.binary(max_size=3),
    st.integers(),
    st.integers(),
    st.lists(st.binary(min_size=30, max_size=33), max_size=70),
)
def test_hostile_input_never_raises(root, leaf, index, count, path):
    assert not merkle.verify(root, leaf, index, count, path)


@pytest.mark.parametrize(("count", "index"), [(0, 0), (1, 1), (5, -1), (5, 5)])
def test_no_path_for_a_leaf_outside(count, index):
    with pytest.raises(IndexError):
        merkle.path(LEAVES[:count], index)
    with pytest.raises(IndexError):
        merkle.inclusion_path(grown(count)[0], index, lambda level, place: bytes(32))


@pytest.mark.parametrize("count", range(140))
def test_a_mountain_range_has_the_root_of_the_tree(count):
    range_, stored = grown(count)
    assert range_.valid()
    assert range_.count == count
    assert range_.root == merkle.root(LEAVES[:count])
    assert len(stored) == 2 * count - count.bit_count()


@pytest.mark.parametrize("count", [*range(1, 40), 64, 100, 127, 128, 129, 200])
def test_paths_of_a_mountain_range_are_those_of_the_tree(count):
    range_, stored = grown(count)
    root = range_.root
    for index in range(count):
        asked: list[tuple[int, int]] = []

        def node(level: int, place: int, asked: list[tuple[int, int]] = asked) -> bytes:
            asked.append((level, place))
            return stored[level, place]

        path = merkle.inclusion_path(range_, index, node)
        assert path == merkle.path(LEAVES[:count], index)
        assert merkle.verify(root, LEAVES[index], index, count, path)
        assert len(asked) <= count.bit_length()


def test_old_ranges_still_prove_from_the_nodes_of_the_new_one():
    _, stored = grown(100)
    for count in range(1, 101):
        range_, _ = grown(count)
        for index in {0, count // 2, count - 1}:
            path = merkle.inclusion_path(range_, index, lambda level, place: stored[level, place])
            assert merkle.verify(range_.root, LEAVES[index], index, count, path)


def test_appending_changes_nothing_that_was():
    range_, _ = grown(7)
    peaks = list(range_.peaks)
    range_.append(bytes(32))
    assert (range_.count, range_.peaks) == (7, peaks)


def test_nodes_are_named_from_the_leaf_upwards():
    range_, _ = grown(7)
    _, nodes = range_.append(bytes(32))
    assert [(level, index) for level, index, _ in nodes] == [(0, 7), (1, 3), (2, 1), (3, 0)]


@pytest.mark.parametrize(
    ("count", "peaks"),
    [(0, 1), (1, 0), (1, 2), (2, 2), (3, 1), (3, 3), (7, 2), (8, 3), (2**63 - 1, 62), (-1, 1), (2**63, 1), (2**64, 1)],
)
def test_peaks_that_do_not_fit_the_count_are_not_valid(count, peaks):
    range_ = MountainRange(count, [bytes(32)] * peaks)
    assert not range_.valid()
    with pytest.raises(AssertionError):
        range_.append(bytes(32))
    with pytest.raises(AssertionError):
        merkle.inclusion_path(range_, 0, lambda level, index: bytes(32))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_peaks_of_another_size_are_not_valid(size):
    assert not MountainRange(1, [bytes(size)]).valid()
    with pytest.raises(AssertionError):
        MountainRange.empty().append(bytes(size))


def test_the_largest_range_is_full():
    full = MountainRange(2**63 - 1, [bytes(32)] * 63)
    assert full.valid()
    with pytest.raises(AssertionError):
        full.append(bytes(32))
    asked: list[int] = []

    def node(level: int, index: int) -> bytes:
        asked.append(level)
        return bytes(32)

    path = merkle.inclusion_path(full, 0, node)
    assert len(asked) == 62
    assert merkle.verify_hash(full.root, bytes(32), 0, full.count, path) is False


@given(st.integers(0, 2**63 - 2), st.data())
def test_a_range_grown_far_still_proves(count, data):
    # Peaks are arbitrary, as if somebody else had grown it; what is appended here is proved.
    peaks = [sha256(bytes([n])).digest() for n in range(count.bit_count())]
    range_, nodes = MountainRange(count, peaks).append(merkle.leaf_hash(b"new"))
    stored = {(level, index): digest for level, index, digest in nodes}
    merged = dict(enumerate(reversed(peaks)))  # the k-th smallest mountain is the sibling at level k while count is odd

    def node(level: int, index: int) -> bytes:
        return stored.get((level, index)) or merged[level]

    assert range_.valid()
    path = merkle.inclusion_path(range_, count, node)
    assert merkle.verify(range_.root, b"new", count, count + 1, path)


def test_on_the_wire():
    range_, _ = grown(11)
    encoded = msgspec.msgpack.encode(range_)
    assert encoded[:2] == b"\x92\x0b"
    assert msgspec.msgpack.decode(encoded, type=MountainRange) == range_


@pytest.mark.parametrize(
    "wrong", [[], [0], [0, [], 1], [-1, []], [2**63, []], [1, [bytes(31)]], [0, [bytes(32)] * 64], [1.5, []], [0, None]]
)
def test_wrong_structs_do_not_decode(wrong):
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(wrong), type=MountainRange)


def test_all_paths_at_once_are_the_paths_one_by_one() -> None:
    for count in range(40):
        leaves = [b"%d" % i for i in range(count)]
        assert merkle.paths(leaves) == [merkle.path(leaves, i) for i in range(count)]

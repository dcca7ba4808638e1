"""FROST(Ed25519, SHA-512): signatures that everybody checks, liars of all kinds, and the guard of nonces."""

import copy
import json
import pickle
from collections.abc import Sequence
from hashlib import sha512
from itertools import combinations

import msgspec
import nacl.signing
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import (
    crypto_core_ed25519_add,
    crypto_core_ed25519_from_uniform,
    crypto_core_ed25519_sub,
    crypto_scalarmult_ed25519_base_noclamp,
)

from bft import frost, threshold
from bft.frost import ORDER, KeyShare
from bft.secret import Secret
from bft.threshold import (
    BadCommitments,
    BadShares,
    Frost,
    FrostError,
    NonceCommitment,
    Nonces,
    ThresholdPublic,
)

MESSAGE = b"a certificate"

IDENTITY = bytes([1]) + bytes(31)
SMALL_ORDER = [
    bytes.fromhex(point)
    for point in (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    )
]
NOT_CANONICAL = [  # y = p, p + 1, 2**255 - 1, the identity and y = -1 with the sign of x set
    bytes.fromhex("ed" + "ff" * 30 + "7f"),
    bytes.fromhex("ee" + "ff" * 30 + "7f"),
    bytes.fromhex("ff" * 31 + "7f"),
    bytes.fromhex("ff" * 32),
    bytes.fromhex("01" + "00" * 30 + "80"),
    bytes.fromhex("ec" + "ff" * 31),
]
POINT = crypto_core_ed25519_from_uniform(bytes(range(32)))
MIXED_ORDER = [crypto_core_ed25519_add(POINT, small) for small in SMALL_ORDER[1:]]
NOT_ON_THE_CURVE = [bytes([y]) + bytes(31) for y in (2, 7, 8, 11)]
INVALID = [*SMALL_ORDER, *NOT_CANONICAL, *MIXED_ORDER, *NOT_ON_THE_CURVE]
WRONG_SIZE = [b"", bytes(31), POINT[:31], POINT + b"\0", POINT * 2]


def drawn(label: object, size: int) -> bytes:
    """Bytes that look random and are the same in each run."""
    blocks = [sha512(f"{label} {n}".encode()).digest() for n in range(size // 64 + 1)]
    return b"".join(blocks)[:size]


class Group:
    """All signers of a dealt group, and sessions among them."""

    def __init__(self, signers: int, needed: int) -> None:
        self.public, self.shares = threshold.deal(Secret(drawn((signers, needed), 64 * needed)), signers, needed)
        self.schemes = {share.identifier: Frost(share, self.public) for share in self.shares}
        self.key = self.public.group_public_key
        self._drawn = 0

    def commit(self, identifiers: Sequence[int]) -> tuple[dict[int, Nonces], list[tuple[int, NonceCommitment]]]:
        nonces, commitments = {}, []
        for identifier in identifiers:
            self._drawn += 1
            nonces[identifier], commitment = self.schemes[identifier].commit(drawn(("nonce", self._drawn), 64))
            commitments.append((identifier, commitment))
        return nonces, commitments

    def sign(self, identifiers: Sequence[int], message: bytes = MESSAGE) -> tuple[list, dict[int, bytes]]:
        nonces, commitments = self.commit(identifiers)
        return commitments, {
            identifier: self.schemes[identifier].sign(message, nonces[identifier], commitments)
            for identifier in identifiers
        }


GROUPS = {4: Group(4, 2), 7: Group(7, 3), 10: Group(10, 4)}


def assert_signature(key: bytes, message: bytes, signature: bytes) -> None:
    assert len(signature) == 64
    nacl.signing.VerifyKey(key).verify(message, signature)
    Ed25519PublicKey.from_public_bytes(key).verify(signature, message)


# Sound among the honest

SUBSETS = [
    (size, signers) for size, group in GROUPS.items() for signers in combinations(group.schemes, group.public.threshold)
]


@pytest.mark.parametrize(("size", "signers"), SUBSETS, ids=str)
def test_every_smallest_set_of_signers_signs(size, signers):
    group = GROUPS[size]
    commitments, shares = group.sign(signers)
    assert_signature(group.key, MESSAGE, group.schemes[signers[0]].aggregate(MESSAGE, commitments, shares))


@pytest.mark.parametrize("signers", [c for n in (3, 4) for c in combinations(range(1, 5), n)], ids=str)
def test_more_than_enough_sign_too(signers):
    commitments, shares = GROUPS[4].sign(signers)
    assert_signature(GROUPS[4].key, MESSAGE, GROUPS[4].schemes[1].aggregate(MESSAGE, commitments, shares))


@pytest.mark.parametrize("size", GROUPS)
def test_the_order_of_the_list_and_who_aggregates_do_not_matter(size):
    group = GROUPS[size]
    signers = list(group.schemes)[-group.public.threshold :]
    nonces, commitments = group.commit(signers)
    shares = {
        n: group.schemes[n].sign(MESSAGE, nonces[n], commitments[i:] + commitments[:i]) for i, n in enumerate(signers)
    }
    made = {group.schemes[n].aggregate(MESSAGE, commitments[::-1], shares) for n in group.schemes}
    assert len(made) == 1
    assert_signature(group.key, MESSAGE, made.pop())


@settings(max_examples=30)
@given(st.binary(max_size=300), st.binary(min_size=64, max_size=64), st.binary(min_size=64, max_size=64))
def test_any_message_and_nonces(message, first, second):
    schemes = GROUPS[4].schemes
    (one, public_one), (two, public_two) = schemes[2].commit(first), schemes[4].commit(second)
    commitments = [(2, public_one), (4, public_two)]
    shares = {2: schemes[2].sign(message, one, commitments), 4: schemes[4].sign(message, two, commitments)}
    assert_signature(GROUPS[4].key, message, schemes[1].aggregate(message, commitments, shares))


@settings(max_examples=30)
@given(st.binary(max_size=100), st.binary(min_size=64, max_size=64))
def test_a_signers_short_cut_gives_the_same_session(message, random_bytes):
    share = GROUPS[4].shares[0]
    (hiding, binding), points = frost.commit(share.secret, random_bytes)
    _, (other,) = GROUPS[4].commit([3])
    commitments = [(1, *points), (3, other[1].hiding, other[1].binding)]
    full = frost.open_session(GROUPS[4].key, commitments, message)
    assert frost.open_session(GROUPS[4].key, commitments, message, (1, hiding, binding)) == full


@settings(max_examples=40)
@given(st.lists(st.integers(0, ORDER - 1), min_size=1, max_size=6), st.data())
def test_lagrange_coefficients_find_the_value_at_zero(polynomial, data):
    identifiers = data.draw(st.lists(st.integers(1, 65535), unique=True, min_size=len(polynomial), max_size=8))
    total = 0
    for x in identifiers:
        value = sum(c * x**power for power, c in enumerate(polynomial))
        total += value * int.from_bytes(frost.lagrange(x, identifiers), "little")
    assert total % ORDER == polynomial[0]


def test_different_messages_signers_and_nonces_have_different_factors():
    _, commitments = GROUPS[4].commit([1, 2])
    _, others = GROUPS[4].commit([1, 2])
    flat = [(n, c.hiding, c.binding) for n, c in commitments]
    changed = [(n, c.hiding, c.binding) for n, c in [commitments[0], others[1]]]
    key, other_key = GROUPS[4].key, GROUPS[7].key
    seen = [
        frost.binding_factors(key, flat, b"m"),
        frost.binding_factors(key, flat, b"n"),
        frost.binding_factors(other_key, flat, b"m"),
        frost.binding_factors(key, changed, b"m"),
        frost.binding_factors(key, [(3, *flat[1][1:]), flat[0]], b"m"),
    ]
    values = [factor for factors in seen for factor in factors.values()]
    assert len(set(values)) == 10


# Wrong shares


def plus_order(share: bytes) -> bytes:
    return (int.from_bytes(share, "little") + ORDER).to_bytes(32, "little")


WRONG_SHARES = {
    "zero": lambda share: bytes(32),
    "one more": lambda share: ((int.from_bytes(share, "little") + 1) % ORDER).to_bytes(32, "little"),
    "negated": lambda share: (-int.from_bytes(share, "little") % ORDER).to_bytes(32, "little"),
    "not reduced": plus_order,
    "the order": lambda share: ORDER.to_bytes(32, "little"),
    "all ones": lambda share: b"\xff" * 32,
    "high bit": lambda share: share[:31] + bytes([share[31] | 0x80]),
    "cut": lambda share: share[:31],
    "longer": lambda share: share + b"\0",
    "empty": lambda share: b"",
}


@pytest.mark.parametrize("wrong", WRONG_SHARES.values(), ids=WRONG_SHARES)
@pytest.mark.parametrize("culprits", [(1,), (4,), (6,), (1, 4), (1, 6), (4, 6), (1, 4, 6)], ids=str)
@pytest.mark.parametrize("coordinator", [4, 7], ids=["who signs", "who does not"])
def test_culprits_are_named(wrong, culprits, coordinator):
    group = GROUPS[7]
    commitments, shares = group.sign([6, 1, 4])
    for culprit in culprits:
        shares[culprit] = wrong(shares[culprit])
    with pytest.raises(BadShares) as caught:
        group.schemes[coordinator].aggregate(MESSAGE, commitments, shares)
    assert caught.value.culprits == culprits


def test_a_share_for_another_message_key_or_session_is_the_culprits():
    group = GROUPS[7]
    nonces, commitments = group.commit([1, 4, 6])
    shares = {n: group.schemes[n].sign(MESSAGE + b"x" * (n == 4), nonces[n], commitments) for n in (1, 4, 6)}
    with pytest.raises(BadShares) as caught:
        group.schemes[2].aggregate(MESSAGE, commitments, shares)
    assert caught.value.culprits == (4,)
    _, of_another_session = group.sign([1, 4, 6])
    commitments, shares = group.sign([1, 4, 6])
    with pytest.raises(BadShares) as caught:
        group.schemes[2].aggregate(MESSAGE, commitments, shares | {6: of_another_session[6]})
    assert caught.value.culprits == (6,)


def test_errors_that_cancel_do_no_harm():
    commitments, shares = GROUPS[7].sign([1, 4, 6])
    swapped = {1: shares[4], 4: shares[1], 6: shares[6]}
    assert_signature(GROUPS[7].key, MESSAGE, GROUPS[7].schemes[2].aggregate(MESSAGE, commitments, swapped))
    with pytest.raises(BadShares) as caught:
        GROUPS[7].schemes[2].aggregate(MESSAGE, commitments, swapped | {6: bytes(32)})
    assert caught.value.culprits == (1, 4, 6)


def test_after_blame_the_right_shares_still_make_the_signature():
    group = GROUPS[4]
    commitments, shares = group.sign([2, 3])
    for _ in range(2):
        with pytest.raises(BadShares):
            group.schemes[2].aggregate(MESSAGE, commitments, shares | {3: bytes(32)})
    assert_signature(group.key, MESSAGE, group.schemes[2].aggregate(MESSAGE, commitments, shares))
    assert_signature(group.key, MESSAGE, group.schemes[2].aggregate(MESSAGE, commitments, shares))


@pytest.mark.parametrize("named", [[], [1], [1, 2], [1, 3, 4], [3, 4], [1, 3, 9]], ids=str)
def test_shares_of_other_signers_are_refused(named):
    commitments, shares = GROUPS[4].sign([1, 3])
    with pytest.raises(FrostError) as caught:
        GROUPS[4].schemes[1].aggregate(MESSAGE, commitments, {n: shares.get(n, shares[1]) for n in named})
    assert not isinstance(caught.value, BadShares)


def test_nobody_is_blamed_for_a_wrong_group_key():
    public = GROUPS[4].public
    wrong = ThresholdPublic(GROUPS[7].key, public.threshold, public.verification_shares)
    assert not wrong.valid()
    schemes = {n: Frost(GROUPS[4].shares[n - 1], wrong) for n in (1, 2)}
    (one, public_one), (two, public_two) = (schemes[n].commit(drawn(n, 64)) for n in (1, 2))
    commitments = [(1, public_one), (2, public_two)]
    shares = {1: schemes[1].sign(MESSAGE, one, commitments), 2: schemes[2].sign(MESSAGE, two, commitments)}
    with pytest.raises(FrostError) as caught:
        schemes[1].aggregate(MESSAGE, commitments, shares)
    assert not isinstance(caught.value, BadShares)


# Wrong commitments


@pytest.mark.parametrize("point", [*INVALID, *WRONG_SIZE], ids=lambda point: point.hex() or "empty")
def test_invalid_points_are_refused_on_arrival(point):
    scheme = GROUPS[4].schemes[1]
    assert not frost.is_valid_point(point)
    for commitment in (NonceCommitment(point, POINT), NonceCommitment(POINT, point), NonceCommitment(point, point)):
        assert scheme.valid_commitment(commitment) is False
    assert scheme.valid_commitment(NonceCommitment(POINT, POINT))


@pytest.mark.parametrize("point", [None, "p" * 32, 5, bytearray(32)])
def test_points_of_another_type_are_refused(point):
    assert not frost.validate_commitment(point, POINT)
    assert not frost.validate_commitment(POINT, point)


@pytest.mark.parametrize("point", INVALID, ids=lambda point: point.hex())
@pytest.mark.parametrize("field", ["hiding", "binding"])
def test_a_liars_invalid_commitment_is_refused_or_blamed_on_the_liar(field, point):
    # As if nobody had asked valid_commitment: no crash, no signature, and the honest are never blamed.
    group = GROUPS[4]
    nonces, commitments = group.commit([1, 3])
    lie = msgspec.structs.replace(commitments[1][1], **{field: point})
    commitments[1] = (3, lie)

    def run() -> None:
        share = group.schemes[1].sign(MESSAGE, nonces[1], commitments)
        group.schemes[1].aggregate(MESSAGE, commitments, {1: share, 3: drawn("lie", 31) + b"\0"})

    with pytest.raises((BadCommitments, BadShares)) as caught:
        run()
    assert caught.value.culprits == (3,)
    if field == "binding" or point in NOT_ON_THE_CURVE:
        assert caught.type is BadCommitments


@pytest.mark.parametrize("culprits", [(1,), (6,), (1, 4), (1, 4, 6)], ids=str)
def test_all_invalid_commitments_are_named_to_the_coordinator(culprits):
    commitments, shares = GROUPS[7].sign([1, 4, 6])
    lies = [(n, NonceCommitment(IDENTITY, IDENTITY) if n in culprits else pair) for n, pair in commitments]
    with pytest.raises(BadCommitments) as caught:
        GROUPS[7].schemes[2].aggregate(MESSAGE, lies, shares)
    assert caught.value.culprits == culprits


NO_SESSION = {
    "nobody": lambda own, other: [],
    "too few": lambda own, other: [(1, own)],
    "not the signer": lambda own, other: [(2, other), (3, other)],
    "twice the same": lambda own, other: [(1, own), (1, own), (3, other)],
    "twice": lambda own, other: [(1, own), (1, other), (3, other)],
    "another twice": lambda own, other: [(1, own), (3, other), (3, own)],
    "number zero": lambda own, other: [(0, other), (1, own)],
    "negative": lambda own, other: [(-1, other), (1, own)],
    "number beyond": lambda own, other: [(1, own), (5, other)],
    "number of 17 bits": lambda own, other: [(1, own), (65537, other)],
    "number plus order": lambda own, other: [(1, own), (ORDER + 3, other)],
    "huge number": lambda own, other: [(1, own), (2**300, other)],
    "own under another number": lambda own, other: [(2, own), (3, other)],
    "others nonces as own": lambda own, other: [(1, other), (3, own)],
    "own hiding swapped": lambda own, other: [(1, NonceCommitment(other.hiding, own.binding)), (3, other)],
    "own binding swapped": lambda own, other: [(1, NonceCommitment(own.hiding, other.binding)), (3, other)],
    "own turned round": lambda own, other: [(1, NonceCommitment(own.binding, own.hiding)), (3, other)],
    "short point": lambda own, other: [(1, own), (3, NonceCommitment(other.hiding, other.binding[:31]))],
    "empty point": lambda own, other: [(1, own), (3, NonceCommitment(b"", other.binding))],
}


@pytest.mark.parametrize("commitments", NO_SESSION.values(), ids=NO_SESSION)
def test_lists_that_make_no_session_are_refused_and_burn_the_nonces(commitments):
    group = GROUPS[4]
    nonces, pairs = group.commit([1, 3])
    with pytest.raises(FrostError):
        group.schemes[1].sign(MESSAGE, nonces[1], commitments(pairs[0][1], pairs[1][1]))
    assert nonces[1].used
    with pytest.raises(AssertionError):
        group.schemes[1].sign(MESSAGE, nonces[1], pairs)


@pytest.mark.parametrize("name", [name for name in NO_SESSION if "own" not in name and name != "not the signer"])
def test_lists_that_make_no_session_are_refused_by_the_coordinator(name):
    group = GROUPS[4]
    _, pairs = group.commit([1, 3])
    commitments = NO_SESSION[name](pairs[0][1], pairs[1][1])
    with pytest.raises(FrostError) as caught:
        group.schemes[4].aggregate(MESSAGE, commitments, {number: bytes(32) for number, _ in commitments})
    assert not isinstance(caught.value, BadShares)


def test_a_group_commitment_that_is_the_identity_is_refused():
    one = (1).to_bytes(32, "little")
    minus = crypto_core_ed25519_sub(IDENTITY, POINT)
    with pytest.raises(FrostError):
        frost.group_commitment([(1, POINT, POINT), (2, minus, minus)], {1: one, 2: one})


# Zero scalars, which libsodium refuses


def test_zero_scalars_are_refusals_and_not_crashes():
    zero = Secret(bytes(32))
    with pytest.raises(FrostError):
        frost.deal(zero, [Secret(drawn(1, 64))], 3, 2)
    with pytest.raises(FrostError):
        frost.deal(Secret(drawn(1, 64)), [zero], 3, 2)
    with pytest.raises(FrostError):
        frost.public_share(KeyShare(1, zero))
    _, pairs = GROUPS[4].commit([1, 3])
    commitments = [(n, c.hiding, c.binding) for n, c in pairs]
    with pytest.raises(FrostError):
        frost.open_session(GROUPS[4].key, commitments, MESSAGE, (1, zero, zero))
    with pytest.raises(FrostError):
        frost.group_commitment(commitments, {1: bytes(32), 3: bytes(32)})


def test_a_polynomial_with_a_root_at_a_signer_is_refused():
    secret = int.from_bytes(drawn("root", 31), "little")
    coefficient = -secret * pow(2, -1, ORDER) % ORDER  # so that signer 2 gets zero
    scalars = [Secret(number.to_bytes(32, "little")) for number in (secret, coefficient)]
    with pytest.raises(FrostError):
        frost.deal(scalars[0], scalars[1:], 4, 2)


@pytest.mark.parametrize("scalar", [ORDER, ORDER + 1, 2**255 - 1, 2**256 - 1, 2 * ORDER])
def test_scalars_that_are_not_reduced_are_refused(scalar):
    with pytest.raises(FrostError):
        frost.deal(Secret(scalar.to_bytes(32, "little")), [], 1, 1)
    with pytest.raises(FrostError):
        frost.deal(Secret(drawn(1, 64)), [Secret(scalar.to_bytes(32, "little"))], 3, 2)


@pytest.mark.parametrize("size", [0, 1, 31, 33, 63, 65])
def test_scalars_and_random_bytes_have_their_sizes(size):
    share = GROUPS[4].shares[0]
    with pytest.raises(FrostError):
        frost.deal(Secret(bytes([1]) * size), [], 1, 1)
    with pytest.raises(FrostError):
        frost.nonce_generate(share.secret, bytes(size))
    with pytest.raises(FrostError):
        GROUPS[4].schemes[1].commit(bytes(size))
    with pytest.raises(FrostError):
        threshold.deal(Secret(bytes([1]) * size), 4, 2)


@pytest.mark.parametrize(("signers", "needed"), [(0, 0), (0, 1), (4, 0), (4, 5), (-1, -1), (4, -2), (65536, 2)])
def test_sizes_that_make_no_sense_are_refused(signers, needed):
    random_bytes = Secret(drawn("sizes", 64 * max(needed, 1)))
    with pytest.raises(FrostError):
        threshold.deal(random_bytes, signers, needed)
    with pytest.raises(FrostError):
        frost.deal(Secret(drawn(1, 64)), [Secret(drawn(2, 64))] * (needed - 1), signers, needed)


def test_a_threshold_takes_its_number_of_coefficients():
    for count in (0, 2, 3):
        with pytest.raises(FrostError):
            frost.deal(Secret(drawn(1, 64)), [Secret(drawn(2, 64))] * count, 4, 2)


@pytest.mark.parametrize("identifiers", [[1, 1], [0, 1], [1, -1], [2, 3], [], [1, 2**16], [1, ORDER + 1]], ids=str)
def test_lagrange_refuses(identifiers):
    with pytest.raises(FrostError):
        frost.lagrange(1, identifiers)


# Keys


@pytest.mark.parametrize("size", GROUPS)
def test_a_dealt_group_is_valid(size):
    public = GROUPS[size].public
    assert public.valid()
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(public), type=ThresholdPublic) == public


def test_a_group_with_anything_changed_is_not_valid():
    public = GROUPS[7].public
    shares = public.verification_shares
    other = GROUPS[10].public.verification_shares
    assert not ThresholdPublic(GROUPS[4].key, 3, shares).valid()
    assert not ThresholdPublic(public.group_public_key, 2, shares).valid()
    assert not ThresholdPublic(public.group_public_key, 8, shares).valid()
    assert not ThresholdPublic(public.group_public_key, 0, shares).valid()
    assert not ThresholdPublic(public.group_public_key, 3, shares[::-1]).valid()
    for index in range(7):
        for point in (other[index], IDENTITY, MIXED_ORDER[0], crypto_core_ed25519_add(shares[index], SMALL_ORDER[1])):
            assert not ThresholdPublic(
                public.group_public_key, 3, [*shares[:index], point, *shares[index + 1 :]]
            ).valid()
    assert not ThresholdPublic(crypto_core_ed25519_add(public.group_public_key, SMALL_ORDER[1]), 3, shares).valid()


def test_a_share_of_another_group_or_place_is_refused():
    public = GROUPS[7].public
    for share in (
        GROUPS[4].shares[0],
        KeyShare(2, GROUPS[7].shares[0].secret),
        KeyShare(0, GROUPS[7].shares[6].secret),
    ):
        with pytest.raises(FrostError):
            Frost(share, public)
    for number in (-1, 8, 65536):
        with pytest.raises(FrostError):
            Frost(KeyShare(number, GROUPS[7].shares[6].secret), public)


def test_fewer_than_the_threshold_do_not_find_the_key():
    points = GROUPS[7].public.verification_shares
    assert frost.combine_points({1: points[0], 2: points[1], 5: points[4]}) == GROUPS[7].key
    assert frost.combine_points({1: points[0], 2: points[1]}) != GROUPS[7].key


def test_a_coordinator_forgets_the_oldest_sessions_first_and_can_still_aggregate():
    group = Group(4, 2)
    sessions = []
    for number in range(80):
        message = b"%d" % number
        sessions.append((message, *group.sign([1, 2], message)))
    assert len(group.schemes[1]._sessions) == 64
    for message, commitments, shares in sessions:
        assert_signature(group.key, message, group.schemes[1].aggregate(message, commitments, shares))
    assert len(group.schemes[1]._sessions) == 0


# Nonces (RFC 9591, section 7.1; safety rule 6)


def solve(rows: list[list[int]]) -> list[int]:
    """The solution of three linear equations modulo the group's order."""
    for column in range(3):
        pivot = next(row for row in range(column, 3) if rows[row][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        inverse = pow(rows[column][column], -1, ORDER)
        rows[column] = [value * inverse % ORDER for value in rows[column]]
        for row in range(3):
            if row != column:
                factor = rows[row][column]
                rows[row] = [(a - factor * b) % ORDER for a, b in zip(rows[row], rows[column], strict=True)]
    return [row[3] for row in rows]


def test_a_nonce_used_in_three_sessions_gives_the_share_away():
    group, victim = GROUPS[4], GROUPS[4].shares[0]
    (hiding, binding), points = frost.commit(victim.secret, drawn("reused", 64))
    rows = []
    for message in (b"one", b"two", b"three"):
        _, [(number, other)] = group.commit([3])
        commitments = [(1, *points), (number, other.hiding, other.binding)]
        session = frost.open_session(group.key, commitments, message)
        share = frost.sign_share(session, victim, hiding, binding)
        weight = int.from_bytes(frost.lagrange(1, (1, 3)), "little") * int.from_bytes(session.challenge, "little")
        factor = int.from_bytes(session.binding_factors[1], "little")
        rows.append([1, factor, weight % ORDER, int.from_bytes(share, "little")])
    found = [number.to_bytes(32, "little") for number in solve(rows)]
    assert found == [hiding.reveal(), binding.reveal(), victim.secret.reveal()]
    assert crypto_scalarmult_ed25519_base_noclamp(found[2]) == group.public.verification_shares[0]


@pytest.mark.parametrize("message", [MESSAGE, b"another"])
def test_the_guard_stops_a_second_use(message):
    group = GROUPS[4]
    nonces, commitments = group.commit([1, 3])
    assert not nonces[1].used
    group.schemes[1].sign(MESSAGE, nonces[1], commitments)
    _, others = group.commit([2])
    for again in (commitments, [commitments[0], others[0]]):
        with pytest.raises(AssertionError):
            group.schemes[1].sign(message, nonces[1], again)


def test_used_nonces_are_gone():
    nonces, _ = GROUPS[4].schemes[1].commit(drawn("gone", 64))
    nonces.take()
    assert nonces.used
    held = [getattr(nonces, name) for name in ("commitment", "_Nonces__pair")]
    assert not any(isinstance(thing, Secret) for thing in held)
    assert held[1] == []
    with pytest.raises(AssertionError):
        nonces.take()


@pytest.mark.parametrize("leak", [pickle.dumps, copy.copy, copy.deepcopy, msgspec.msgpack.encode, json.dumps])
def test_nonces_and_shares_are_neither_copied_nor_encoded(leak):
    nonces, _ = GROUPS[4].schemes[1].commit(drawn("copied", 64))
    with pytest.raises(TypeError):
        leak(nonces)
    if leak is not copy.copy:
        with pytest.raises(TypeError):
            leak(GROUPS[4].shares[0])


def test_no_secret_is_ever_shown():
    group = GROUPS[4]
    share, scheme = group.shares[0], group.schemes[1]
    nonces, commitments = group.commit([1, 3])
    hiding, binding = nonces[1].take()
    nonces, commitments = group.commit([1, 3])
    texts = [repr(share), repr(scheme), repr(nonces), str(nonces[1]), repr(group.public), repr(hiding), f"{share}"]
    scheme.sign(MESSAGE, nonces[1], commitments)
    texts += [repr(nonces), repr(scheme), repr(vars(scheme))]
    for wrong in (lambda: scheme.sign(MESSAGE, nonces[1], commitments), lambda: Frost(share, GROUPS[7].public)):
        with pytest.raises((AssertionError, FrostError)) as caught:
            wrong()
        texts.append(repr(caught.value))
    for secret in (share.secret, hiding, binding):
        content = secret.reveal()
        shown = (content.hex(), repr(content)[2:-1], str(int.from_bytes(content, "little")), str(list(content))[1:-1])
        assert not any(form in text for form in shown for text in texts)


def test_nonces_are_hedged_with_the_share():
    shares = GROUPS[4].shares
    made = {frost.nonce_generate(share.secret, bytes(32)).reveal() for share in shares}
    assert len(made) == len(shares)


@pytest.mark.parametrize("wrong", [[], [POINT], [POINT, POINT, 1], [POINT, POINT[:31]], [POINT + b"\0", POINT], [1, 2]])
def test_commitments_on_the_wire_have_their_form(wrong):
    good = NonceCommitment(POINT, POINT)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(good), type=NonceCommitment) == good
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(wrong), type=NonceCommitment)

"""What FROST refuses: commitments that are no points or make no session, zero scalars, keys that do not fit."""

import msgspec
import pytest
from nacl.bindings import (
    crypto_core_ed25519_add,
    crypto_core_ed25519_sub,
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
    ThresholdPublic,
)
from tests.unit.bft.frost_group import (
    GROUPS,
    IDENTITY,
    INVALID,
    MESSAGE,
    MIXED_ORDER,
    NOT_ON_THE_CURVE,
    POINT,
    SMALL_ORDER,
    WRONG_SIZE,
    Group,
    assert_signature,
    drawn,
)

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
    assert isinstance(caught.value, BadCommitments | BadShares)
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

"""FROST(Ed25519, SHA-512): signatures that everybody checks, shares that lie, and the guard of nonces."""

import copy
import json
import pickle
from itertools import combinations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import (
    crypto_scalarmult_ed25519_base_noclamp,
)

from bft import frost
from bft.frost import ORDER
from bft.secret import Secret
from bft.threshold import (
    BadShares,
    Frost,
    FrostError,
    NonceCommitment,
    ThresholdPublic,
)
from tests.unit.bft.frost_group import (
    GROUPS,
    MESSAGE,
    POINT,
    assert_signature,
    drawn,
)

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


def test_shares_do_not_pass_for_another_message_at_a_coordinator_that_signed():
    commitments, shares = GROUPS[7].sign([1, 4, 6])
    with pytest.raises(BadShares) as caught:
        GROUPS[7].schemes[1].aggregate(b"another", commitments, shares)
    assert caught.value.culprits == (1, 4, 6)


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

"""Cheap signatures keep the rules of the real ones."""

import pytest

from bft.frost import BadShares, FrostError
from cluster.sim.cheap import CheapScheme, CheapSigner, CheapVerifier, Ledger, NonceReused

MESSAGE = b"a claim"


@pytest.fixture
def group():
    ledger = Ledger()
    return [CheapScheme(number, 2, 4, b"ring", ledger) for number in range(1, 5)]


def commit(scheme, seed=b"x"):
    return scheme.commit(seed * 64)


def test_a_signature_holds_for_one_key_and_one_message():
    signer, verifier = CheapSigner(b"a"), CheapVerifier()
    signature = signer.sign(MESSAGE)
    assert len(signature) == 64
    assert verifier.verify(signer.public_key, MESSAGE, signature)
    assert not verifier.verify(signer.public_key, b"another", signature)
    assert not verifier.verify(CheapSigner(b"b").public_key, MESSAGE, signature)
    assert not verifier.verify(b"short", MESSAGE, signature)


def test_enough_shares_make_the_groups_signature(group):
    (first, named), (second, other) = commit(group[0], b"1"), commit(group[2], b"3")
    commitments = [(3, other), (1, named)]
    shares = {1: group[0].sign(MESSAGE, first, commitments), 3: group[2].sign(MESSAGE, second, commitments)}
    signature = group[3].aggregate(MESSAGE, commitments, shares)
    assert CheapVerifier().verify(group[0].group_public_key, MESSAGE, signature)


def test_bad_shares_are_blamed_and_too_few_signers_refused(group):
    (first, named), (second, other) = commit(group[0], b"1"), commit(group[2], b"3")
    commitments = [(1, named), (3, other)]
    share = group[0].sign(MESSAGE, first, commitments)
    with pytest.raises(BadShares) as blamed:
        group[0].aggregate(MESSAGE, commitments, {1: share, 3: group[2].sign(b"another", second, commitments)})
    assert blamed.value.culprits == (3,)
    with pytest.raises(FrostError):
        group[0].aggregate(MESSAGE, commitments[:1], {1: share})
    with pytest.raises(FrostError):
        group[0].aggregate(MESSAGE, commitments, {1: share})
    with pytest.raises(FrostError):
        group[0].sign(MESSAGE, commit(group[0], b"9")[0], commitments)


def test_a_nonce_is_found_out_even_when_its_signer_forgot_that_it_was_used(group):
    nonces, named = commit(group[0], b"1")
    commitments = [(1, named), (2, commit(group[1], b"2")[1])]
    group[0].sign(MESSAGE, nonces, commitments)
    with pytest.raises(AssertionError):
        group[0].sign(MESSAGE, nonces, commitments)
    again, _ = commit(group[0], b"1")
    with pytest.raises(NonceReused):
        group[0].sign(b"another", again, commitments)

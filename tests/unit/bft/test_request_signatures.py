"""Requests signed alone and together: what holds, what does not, and how often a signature is checked."""

import hashlib
import os
import random

import msgspec
import pytest

from bft import merkle
from bft.messages import Request
from bft.request_signatures import MAX_SIGNATURE_BYTES, MAX_TOGETHER, REMEMBERED, RequestVerifier, sign
from bft.secret import Secret
from bft.signatures import SIGNATURE_BYTES, Ed25519Signer, Ed25519Verifier

SIGNER = Ed25519Signer(Secret(hashlib.sha256(b"a client").digest()))
OTHER = Ed25519Signer(Secret(hashlib.sha256(b"another client").digest()))


class Counting:
    """Counts the checks of Ed25519."""

    def __init__(self) -> None:
        self.checks = 0

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        self.checks += 1
        return Ed25519Verifier().verify(public_key, message, signature)


def statements(count: int) -> list[bytes]:
    return [b"statement %d" % number for number in range(count)]


def holds(stated: bytes, signature: bytes, principal: bytes = SIGNER.public_key) -> bool:
    return RequestVerifier(Ed25519Verifier()).verify(principal, stated, signature)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 31, 100, 255, MAX_TOGETHER])
def test_each_signature_holds_for_its_own_statement_alone(count: int) -> None:
    stated = statements(count)
    counting = Counting()
    verifier = RequestVerifier(counting)
    signatures = sign(SIGNER, stated)
    assert len(signatures) == count
    for one, signature in zip(stated, signatures, strict=True):
        assert SIGNATURE_BYTES <= len(signature) <= MAX_SIGNATURE_BYTES
        assert verifier.verify(SIGNER.public_key, one, signature)
        assert not verifier.verify(OTHER.public_key, one, signature)
        assert not verifier.verify(SIGNER.public_key, one + b"x", signature)
    if count > 1:
        assert not holds(stated[0], signatures[1])
        assert not holds(stated[1], signatures[0])


def test_one_check_serves_all_that_were_signed_together() -> None:
    stated = statements(100)
    counting = Counting()
    verifier = RequestVerifier(counting)
    for one, signature in zip(stated, sign(SIGNER, stated), strict=True):
        assert verifier.verify(SIGNER.public_key, one, signature)
    assert counting.checks == 1


def test_a_wrong_signature_is_not_remembered_as_right() -> None:
    [first, _] = sign(SIGNER, [b"a", b"b"])
    counting = Counting()
    verifier = RequestVerifier(counting)
    wrong = bytes([first[0] ^ 1]) + first[1:]
    for _ in range(3):
        assert not verifier.verify(SIGNER.public_key, b"a", wrong)
    assert counting.checks == 3
    assert verifier.verify(SIGNER.public_key, b"a", first)


def test_no_flipped_bit_and_no_other_length_holds() -> None:
    stated = statements(11)
    signature = sign(SIGNER, stated)[9]
    for bit in range(8 * len(signature)):
        flipped = bytearray(signature)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not holds(stated[9], bytes(flipped)), bit
    for length in range(len(signature)):
        assert not holds(stated[9], signature[:length])
    assert not holds(stated[9], signature + b"\0")
    assert not holds(stated[9], signature + bytes(32))


def test_an_inner_node_is_no_statement() -> None:
    """Leaves hash behind another byte, so a path cannot begin higher up."""
    stated = statements(4)
    node = merkle.leaf_hash(stated[0]) + merkle.leaf_hash(stated[1])
    signature = sign(SIGNER, stated)[0]
    count, place = (2).to_bytes(2, "big"), bytes(2)
    assert not holds(node, signature[:SIGNATURE_BYTES] + count + place + signature[-32:])


def test_a_signature_over_many_is_none_over_their_root_as_a_request() -> None:
    stated = statements(2)
    signature = sign(SIGNER, stated)[0]
    assert not holds(merkle.root(stated), signature[:SIGNATURE_BYTES])
    assert not holds(stated[0], signature[:SIGNATURE_BYTES])


def test_hostile_bytes_never_raise() -> None:
    choices = random.Random(1)
    for _ in range(5000):
        signature = choices.randbytes(choices.randrange(MAX_SIGNATURE_BYTES + 1))
        assert not holds(b"statement", signature)


def test_no_more_are_remembered_than_a_limit() -> None:
    verifier = RequestVerifier(Ed25519Verifier())
    for number in range(REMEMBERED + 10):
        stated = [b"%d" % number, b"other"]
        assert verifier.verify(SIGNER.public_key, stated[0], sign(SIGNER, stated)[0])
    assert len(verifier._checked) == REMEMBERED


def test_a_request_carries_either() -> None:
    for count in (1, 2, MAX_TOGETHER):
        for stated, signature in zip(statements(count), sign(SIGNER, statements(count)), strict=True):
            encoded = msgspec.msgpack.encode(Request(stated, signature, []))
            assert msgspec.msgpack.decode(encoded, type=Request).signature == signature
    for size in (SIGNATURE_BYTES - 1, MAX_SIGNATURE_BYTES + 1):
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(msgspec.msgpack.encode(Request(b"", os.urandom(size), [])), type=Request)

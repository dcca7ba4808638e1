"""Ed25519 behind its protocols, and secrets that do not leak."""

import copy
import json
import pickle

import msgspec
import nacl.signing
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from bft.secret import Secret
from bft.signatures import Ed25519Signer, Ed25519Verifier, PublicKey, Signature, Signer, Verifier

ORDER = 2**252 + 27742317777372353535851937790883648493
SIGNER = Ed25519Signer(Secret(bytes(range(32))))
MESSAGE = b"a message"
SIGNATURE = SIGNER.sign(MESSAGE)
VERIFIER = Ed25519Verifier()

# RFC 8032, section 7.1, tests 1 to 3: seed, public key, message, signature
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
        "655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aee"
        "b00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28d"
        "c027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("seed", "public_key", "message", "signature"), RFC_8032)
def test_vectors_of_rfc_8032(seed, public_key, message, signature):
    signer: Signer = Ed25519Signer(Secret(bytes.fromhex(seed)))
    verifier: Verifier = VERIFIER
    assert signer.public_key.hex() == public_key
    assert signer.sign(bytes.fromhex(message)).hex() == signature
    assert verifier.verify(signer.public_key, bytes.fromhex(message), bytes.fromhex(signature))


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_others_check_our_signatures(seed, message):
    signer = Ed25519Signer(Secret(seed))
    signature = signer.sign(message)
    nacl.signing.VerifyKey(signer.public_key).verify(message, signature)
    Ed25519PublicKey.from_public_bytes(signer.public_key).verify(signature, message)
    assert VERIFIER.verify(signer.public_key, message, signature)


@pytest.mark.parametrize("bit", range(0, 512, 3))
def test_a_flipped_bit_of_the_signature_is_refused(bit):
    flipped = (int.from_bytes(SIGNATURE, "little") ^ (1 << bit)).to_bytes(64, "little")
    assert not VERIFIER.verify(SIGNER.public_key, MESSAGE, flipped)


@pytest.mark.parametrize("bit", range(0, 256, 3))
def test_a_flipped_bit_of_the_key_is_refused(bit):
    flipped = (int.from_bytes(SIGNER.public_key, "little") ^ (1 << bit)).to_bytes(32, "little")
    assert not VERIFIER.verify(flipped, MESSAGE, SIGNATURE)


def test_a_signature_with_an_unreduced_scalar_is_refused():
    scalar = int.from_bytes(SIGNATURE[32:], "little") + ORDER
    assert not VERIFIER.verify(SIGNER.public_key, MESSAGE, SIGNATURE[:32] + scalar.to_bytes(32, "little"))


@pytest.mark.parametrize("key", [bytes(32), bytes([1]) + bytes(31), b"\xff" * 32, b"\xec" + b"\xff" * 30 + b"\x7f"])
def test_keys_of_small_order_sign_nothing(key):
    # With such a key, R = identity and S = 0 would hold for a share of all messages.
    for signature in (bytes([1]) + bytes(63), bytes(64), key + bytes(32)):
        assert not any(VERIFIER.verify(key, bytes([n]), signature) for n in range(32))


@pytest.mark.parametrize(
    ("key", "message", "signature"),
    [
        (b"", MESSAGE, SIGNATURE),
        (SIGNER.public_key[:31], MESSAGE, SIGNATURE),
        (SIGNER.public_key + b"\0", MESSAGE, SIGNATURE),
        (SIGNER.public_key, MESSAGE, b""),
        (SIGNER.public_key, MESSAGE, SIGNATURE[:63]),
        (SIGNER.public_key, MESSAGE, SIGNATURE + b"\0"),
        (SIGNER.public_key, MESSAGE[1:], SIGNATURE + MESSAGE[:1]),
        (SIGNER.public_key, b"", SIGNATURE),
        (None, MESSAGE, SIGNATURE),
        (SIGNER.public_key, None, SIGNATURE),
        (SIGNER.public_key, MESSAGE, None),
        ("k" * 32, MESSAGE, SIGNATURE),
        (SIGNER.public_key, "text", SIGNATURE),
        (SIGNER.public_key, MESSAGE, "s" * 64),
        (SIGNER.public_key, "text", "s" * 64),
        (5, 5, 5),
        ([0] * 32, MESSAGE, SIGNATURE),
    ],
)
def test_malformed_input_is_refused_and_never_raises(key, message, signature):
    assert VERIFIER.verify(key, message, signature) is False


@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=80))
def test_random_bytes_are_refused(key, message, signature):
    assert not VERIFIER.verify(key, message, signature)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_seed_has_32_bytes(size):
    with pytest.raises(ValueError):
        Ed25519Signer(Secret(bytes(size)))


@pytest.mark.parametrize(("kind", "size"), [(PublicKey, 32), (Signature, 64)])
def test_types_on_the_wire_have_their_size(kind, size):
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(bytes(size)), type=kind) == bytes(size)
    for wrong in (size - 1, size + 1, 0):
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(msgspec.msgpack.encode(bytes(wrong)), type=kind)


def test_a_secret_reveals_itself_only_when_asked():
    secret = Secret(b"hunter2")
    assert secret.reveal() == b"hunter2"
    shown = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!r}",
        repr([secret]),
        repr({"key": secret}),
    ]
    assert all("hunter2" not in text for text in shown)
    assert repr(secret) == "Secret(...)"
    assert not hasattr(secret, "__dict__")


def test_a_signer_shows_no_secret():
    assert bytes(range(32)).hex() not in repr(SIGNER)
    assert not hasattr(SIGNER, "__dict__")


ENCODERS = [json.dumps, msgspec.json.encode, msgspec.msgpack.encode, msgspec.to_builtins]
PICKLERS = [*(lambda thing, protocol=n: pickle.dumps(thing, protocol) for n in range(6)), copy.deepcopy]


@pytest.mark.parametrize("leak", [*ENCODERS, *PICKLERS, copy.copy])
def test_a_secret_is_neither_pickled_nor_copied_nor_encoded(leak):
    with pytest.raises(TypeError):
        leak(Secret(b"hunter2"))


@pytest.mark.parametrize("leak", [*ENCODERS, *PICKLERS])
def test_a_signer_is_neither_pickled_nor_encoded(leak):
    with pytest.raises(TypeError):
        leak(SIGNER)


def test_secrets_are_equal_by_content_and_not_hashable():
    assert Secret(b"a") == Secret(b"a")
    assert Secret(b"a") != Secret(b"b")
    assert Secret(b"a") != Secret(b"aa")
    assert Secret(b"a") != b"a"
    with pytest.raises(TypeError):
        hash(Secret(b"a"))


@pytest.mark.parametrize("content", ["text", bytearray(b"a"), memoryview(b"a"), None, 5])
def test_a_secret_is_made_of_bytes(content):
    with pytest.raises(TypeError):
        Secret(content)

"""Encryption of blocks: what comes back, what is refused, and that no nonce comes twice."""

from __future__ import annotations

import copy
import pickle
from hashlib import sha256
from itertools import pairwise

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from bft.secret import Secret
from pond.model import block, encryption
from pond.model.block import BlockRef, Run, from_runs, to_runs
from pond.model.encryption import DecryptionError, Decryptor, UpdateCipher, decrypt

KEY = Secret(b"k" * 32)
AGUID = b"a" * 32
SALT = b"s" * 32


def cipher(salt: bytes = SALT) -> UpdateCipher:
    return UpdateCipher(KEY, 3, AGUID, salt)


@given(st.lists(st.binary(max_size=100), max_size=10))
def test_what_was_encrypted_comes_back(plaintexts: list[bytes]) -> None:
    encrypt = cipher()
    sealed = [encrypt.encrypt(plaintext) for plaintext in plaintexts]
    assert [counter for _, counter in sealed] == list(range(len(plaintexts)))
    decryptor = Decryptor(AGUID, {3: KEY})
    for plaintext, (ciphertext, counter) in zip(plaintexts, sealed, strict=True):
        assert len(ciphertext) == len(plaintext) + encryption.OVERHEAD_BYTES
        assert decryptor.decrypt(3, SALT, counter, ciphertext) == plaintext
        assert decrypt(KEY, AGUID, 3, SALT, counter, ciphertext) == plaintext


def test_the_construction_is_the_documented_one() -> None:
    ciphertext, counter = cipher().encrypt(b"hello")
    key = HKDF(SHA256(), 32, SALT, b"pond.encryption.update 1").derive(KEY.reveal())
    assert AESGCM(key).decrypt(counter.to_bytes(12, "big"), ciphertext, AGUID) == b"hello"


def test_everything_is_bound() -> None:
    encrypt = cipher()
    encrypt.encrypt(b"first")
    ciphertext, counter = encrypt.encrypt(b"hello")
    good = Decryptor(AGUID, {3: KEY, 4: Secret(b"l" * 32)})
    assert good.decrypt(3, SALT, counter, ciphertext) == b"hello"
    for decryptor, epoch, salt, number, data in (
        (Decryptor(b"b" * 32, {3: KEY}), 3, SALT, counter, ciphertext),
        (Decryptor(AGUID, {3: Secret(b"l" * 32)}), 3, SALT, counter, ciphertext),
        (Decryptor(AGUID, {}), 3, SALT, counter, ciphertext),
        (good, 4, SALT, counter, ciphertext),
        (good, 5, SALT, counter, ciphertext),
        (good, 3, b"t" * 32, counter, ciphertext),
        (good, 3, SALT, counter + 1, ciphertext),
        (good, 3, SALT, 2**63 - 1, ciphertext),
        (good, 3, SALT, counter, ciphertext[:-1]),
        (good, 3, SALT, counter, ciphertext + b"\0"),
        (good, 3, SALT, counter, b""),
        *((good, 3, SALT, counter, flip(ciphertext, i)) for i in range(len(ciphertext))),
    ):
        with pytest.raises(DecryptionError) as caught:
            decryptor.decrypt(epoch, salt, number, data)
        assert "kkkk" not in str(caught.value)


def flip(data: bytes, i: int) -> bytes:
    return data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :]


def test_a_cipher_is_not_copied() -> None:
    encrypt = cipher()
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            attempt(encrypt)


def test_a_decryptor_keeps_few_keys() -> None:
    decryptor = Decryptor(AGUID, {3: KEY})
    for number in range(encryption.KEPT_KEYS * 3):
        salt = sha256(b"%d" % number).digest()
        ciphertext, counter = cipher(salt).encrypt(b"hello")
        assert decryptor.decrypt(3, salt, counter, ciphertext) == b"hello"
    assert len(decryptor._ciphers) == encryption.KEPT_KEYS


@pytest.mark.parametrize(
    ("key", "salt"), [(b"k" * 31, SALT), (b"k" * 33, SALT), (b"k" * 32, b""), (b"k" * 32, b"s" * 33)]
)
def test_keys_and_salts_of_another_size(key: bytes, salt: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        UpdateCipher(Secret(key), 0, AGUID, salt)


# --- blocks ------------------------------------------------------------------------------------------------------


def test_sealed_blocks_are_unsealed() -> None:
    decryptor = Decryptor(AGUID, {3: KEY})
    encrypt = cipher()
    for number, plaintext in enumerate((b"x", b"hello" * 1000)):
        ciphertext, ref = block.seal(encrypt, plaintext)
        assert ref == BlockRef(block.bguid(ciphertext), len(plaintext), 3, SALT, number)
        assert block.unseal(decryptor, ref, ciphertext) == plaintext
        shorter = BlockRef(ref.bguid, 1, ref.epoch, ref.salt, ref.counter)
        assert block.unseal(decryptor, shorter, ciphertext) == plaintext[:1]
        longer = BlockRef(ref.bguid, len(plaintext) + 1, ref.epoch, ref.salt, ref.counter)
        with pytest.raises(DecryptionError, match="are in use"):
            block.unseal(decryptor, longer, ciphertext)
        with pytest.raises(DecryptionError):
            block.unseal(decryptor, ref, flip(ciphertext, 0))


@pytest.mark.parametrize("size", [0, block.MAX_BLOCK_SIZE + 1])
def test_blocks_of_impossible_size(size: int) -> None:
    with pytest.raises(ValueError):
        block.seal(cipher(), bytes(size))


def test_a_block_is_named_by_its_tag_and_ciphertext() -> None:
    assert block.bguid(b"data") == sha256(b"pond.block 1\0data").digest()
    assert block.bguid(memoryview(b"xdata")[1:]) == block.bguid(b"data")


refs = st.builds(
    lambda name, length, epoch, salt, counter: BlockRef(bytes([name]) * 32, length, epoch, bytes([salt]) * 32, counter),
    st.integers(0, 255),
    st.integers(1, 9),
    st.integers(0, 1),
    st.integers(0, 1),
    st.integers(0, 3),
)
sequences = st.lists(
    st.tuples(refs, st.integers(1, 5)).map(
        lambda each: [
            BlockRef(each[0].bguid, each[0].length, each[0].epoch, each[0].salt, each[0].counter + i)
            for i in range(each[1])
        ]
    ),
    max_size=8,
).map(lambda parts: [ref for part in parts for ref in part])


@given(sequences)
def test_runs_hold_the_same_references(each: list[BlockRef]) -> None:
    runs = to_runs(each)
    assert from_runs(runs) == each
    assert to_runs(from_runs(runs)) == runs
    breaks = sum(
        (before.epoch, before.salt, before.counter + 1) != (after.epoch, after.salt, after.counter)
        for before, after in pairwise(each)
    )
    assert len(runs) == (breaks + 1 if each else 0)


def test_runs_are_not_too_long() -> None:
    ref = BlockRef(bytes(32), 1, 0, bytes(32), 0)
    many = [BlockRef(ref.bguid, 1, 0, ref.salt, i) for i in range(block.MAX_RUN + 1)]
    assert [len(run.bguids) for run in to_runs(many)] == [block.MAX_RUN, 1]


@pytest.mark.parametrize(
    ("counter", "lengths", "names"), [(0, [1, 1], [bytes(32)]), (0, [1], []), (2**63 - 1, [1, 1], [bytes(32)] * 2)]
)
def test_runs_that_contradict_themselves(counter: int, lengths: list[int], names: list[bytes]) -> None:
    with pytest.raises(ValueError):
        Run(0, bytes(32), counter, lengths, names)


def test_default_block_sizes() -> None:
    mebibyte = 2**20
    assert block.default_block_size(0) == block.default_block_size(64 * mebibyte - 1) == 64 * 1024
    assert block.default_block_size(64 * mebibyte) == block.default_block_size(2**34 - 1) == mebibyte // 4
    assert block.default_block_size(2**34) == block.default_block_size(2**40) == mebibyte

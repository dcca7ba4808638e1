"""Dealt groups of signers, points that are none, and bytes that look random: what the tests of FROST share."""

from collections.abc import Sequence
from hashlib import sha512

import nacl.signing
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from nacl.bindings import (
    crypto_core_ed25519_add,
    crypto_core_ed25519_from_uniform,
)

from bft import threshold
from bft.secret import Secret
from bft.threshold import (
    Frost,
    NonceCommitment,
    Nonces,
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

    def sign(
        self, identifiers: Sequence[int], message: bytes = MESSAGE
    ) -> tuple[list[tuple[int, NonceCommitment]], dict[int, bytes]]:
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

"""Ordinary Ed25519 signatures (RFC 8032) behind two small protocols, so that a simulation may put cheap ones in place.

The real ones stand on libsodium, which refuses what RFC 8032 section 5.1.7 leaves open: scalars that are not reduced,
encodings that are not canonical, public keys of small order. One signature thus has one encoding.
"""

from typing import Annotated, Protocol

import msgspec
from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import CryptoError

from bft.secret import Secret

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
SEED_BYTES = 32

PublicKey = Annotated[bytes, msgspec.Meta(min_length=PUBLIC_KEY_BYTES, max_length=PUBLIC_KEY_BYTES)]
"""An Ed25519 public key: 32 bytes."""

Signature = Annotated[bytes, msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
"""An Ed25519 signature: 64 bytes."""


class Verifier(Protocol):
    """Whoever can check a signature."""

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Whether `signature` is one of `public_key` over `message`. False for anything malformed; never raises."""
        ...


class Signer(Protocol):
    """Whoever can sign as one principal."""

    @property
    def public_key(self) -> bytes:
        """The key that checks what `sign` makes: 32 bytes."""
        ...

    def sign(self, message: bytes) -> bytes:
        """A signature over `message`: 64 bytes."""
        ...


class Ed25519Verifier:
    """Checks Ed25519 signatures with libsodium. Stateless."""

    __slots__ = ()

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Whether the 64-byte `signature` is one of the 32-byte `public_key` over `message`.

        False for anything malformed, also of another type or size; never raises. RFC 8032, section 5.1.7.
        """
        try:
            # libsodium reads 32 bytes at the key whatever its size is, so the sizes are checked here.
            if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
                return False
            crypto_sign_open(signature + message, public_key)
        except (CryptoError, TypeError):
            return False
        return True


class Ed25519Signer:
    """Signs with the key that a 32-byte seed determines (RFC 8032, section 5.1.5). Deterministic."""

    __slots__ = ("_public_key", "_secret_key")

    def __init__(self, seed: Secret) -> None:
        """Raises ValueError unless the seed has 32 bytes."""
        if len(seed.reveal()) != SEED_BYTES:
            raise ValueError(f"an Ed25519 seed has {SEED_BYTES} bytes")
        public_key, secret_key = crypto_sign_seed_keypair(seed.reveal())
        self._public_key = public_key
        self._secret_key = Secret(secret_key)

    @property
    def public_key(self) -> bytes:
        """The public key: 32 bytes."""
        return self._public_key

    def sign(self, message: bytes) -> bytes:
        """The signature over `message`: 64 bytes. RFC 8032, section 5.1.6."""
        return crypto_sign(message, self._secret_key.reveal())[:SIGNATURE_BYTES]

    def __repr__(self) -> str:
        return f"Ed25519Signer(public_key={self._public_key.hex()})"

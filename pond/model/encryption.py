"""How a client encrypts the blocks and metadata of one update: AES-256-GCM (design.md, 4).

The key is HKDF-SHA256 of the epoch's read key with a random salt that each update draws when it is built, the nonce a
12-byte counter over all ciphertexts of the update, and the associated data the AGUID. A pair of key and nonce meets
one plaintext only (rule 6): an update that is sent again sends the same bytes, one that is built anew has a new salt.

Content that is worth resuming has a salt that follows from all of it instead (decision 9): the same content, and
nothing else, is encrypted the same way again, so that servers still know its blocks.
"""

import hmac
from collections.abc import Mapping, Sequence
from typing import Annotated, NoReturn

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from bft import statement
from bft.secret import Secret
from bft.types import Natural
from tapestry.guid import GUID

KEY_BYTES = 32
SALT_BYTES = 32
NONCE_BYTES = 12
OVERHEAD_BYTES = 16
"""How much longer a ciphertext is than its plaintext: GCM's tag."""

KEPT_KEYS = 64
"""How many derived keys a Decryptor keeps."""

_KEY_INFO = b"pond.encryption.update 1"
_SALT_INFO = b"pond.encryption.salt 1"

Salt = Annotated[bytes, msgspec.Meta(min_length=SALT_BYTES, max_length=SALT_BYTES)]
"""32 random bytes, drawn when an update is built; public."""

KeyEpoch = Natural
"""Number of an object's read key; grows by one whenever readers are removed."""


class DecryptionError(ValueError):
    """A ciphertext that cannot be decrypted: no read key of its epoch, or not encrypted with it for this object."""


def _derive(read_key: Secret, salt: bytes) -> AESGCM:
    if len(read_key.reveal()) != KEY_BYTES:
        raise ValueError(f"a read key has {KEY_BYTES} bytes")
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes")
    return AESGCM(HKDF(SHA256(), KEY_BYTES, salt, _KEY_INFO).derive(read_key.reveal()))


def repeatable_salt(read_key: Secret, aguid: GUID, base: GUID, block_size: int, digests: Sequence[bytes]) -> bytes:
    """The salt of exactly this content: SHA-256 digests of the plaintexts that counters 0, 1, 2 ... will encrypt.

    Whoever encrypts under it must check each plaintext against its digest first. `base` is the object's newest VGUID:
    the same content written upon another version looks unrelated to it, to all who have no read key.
    """
    key = HKDF(SHA256(), KEY_BYTES, None, _SALT_INFO).derive(read_key.reveal())
    content = statement.digest(b"".join(digests))
    return hmac.digest(key, statement.encode("pond.salt", 1, aguid, base, block_size, len(digests), content), "sha256")


class UpdateCipher:
    """Encrypts everything that one update carries, in the order of the counter.

    `salt` is 32 random bytes that no other update has had. Not picklable or copyable, since a copy would use the same
    counters again. Raises ValueError for keys or salts of another size.
    """

    def __init__(self, read_key: Secret, epoch: int, aguid: GUID, salt: bytes) -> None:
        self.epoch = epoch
        self.salt = salt
        self._aguid = aguid
        self._cipher = _derive(read_key, salt)
        self._next = 0

    def encrypt(self, plaintext: bytes) -> tuple[bytes, int]:
        """The ciphertext, 16 bytes longer than the plaintext, and the counter it was encrypted under."""
        counter, self._next = self._next, self._next + 1
        return self._cipher.encrypt(_nonce(counter), plaintext, self._aguid), counter

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("an UpdateCipher is never pickled or copied: its counters would repeat")


class Decryptor:
    """Decrypts what updates of one object encrypted; keeps the keys derived last, since an update has many blocks."""

    def __init__(self, aguid: GUID, read_keys: Mapping[int, Secret]) -> None:
        self._aguid = aguid
        self._read_keys = read_keys
        self._ciphers: dict[tuple[int, bytes], AESGCM] = {}

    def decrypt(self, epoch: int, salt: bytes, counter: int, ciphertext: bytes) -> bytes:
        """The plaintext. Raises DecryptionError."""
        try:
            return self._cipher(epoch, salt).decrypt(_nonce(counter), ciphertext, self._aguid)
        except InvalidTag:
            raise DecryptionError(
                f"a ciphertext of object {self._aguid.hex()} was not encrypted with its read key of epoch {epoch}"
            ) from None

    def encrypted_again(self, epoch: int, salt: bytes, counter: int, plaintext: bytes) -> bytes:
        """What a plaintext was encrypted as, if it was: only to be compared with that, and then forgotten.

        The bytes must not leave the process: of another plaintext they would be a second one under this nonce.
        """
        return self._cipher(epoch, salt).encrypt(_nonce(counter), plaintext, self._aguid)

    def _cipher(self, epoch: int, salt: bytes) -> AESGCM:
        cipher = self._ciphers.get((epoch, salt))
        if cipher is None:
            read_key = self._read_keys.get(epoch)
            if read_key is None:
                raise DecryptionError(f"no read key of epoch {epoch} for object {self._aguid.hex()}")
            cipher = _derive(read_key, salt)
            while len(self._ciphers) >= KEPT_KEYS:
                del self._ciphers[next(iter(self._ciphers))]
            self._ciphers[epoch, salt] = cipher
        return cipher


def decrypt(read_key: Secret, aguid: GUID, epoch: int, salt: bytes, counter: int, ciphertext: bytes) -> bytes:
    """One plaintext; a Decryptor is for many. Raises DecryptionError."""
    return Decryptor(aguid, {epoch: read_key}).decrypt(epoch, salt, counter, ciphertext)


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(NONCE_BYTES, "big")

"""Blocks: pieces of content that the client encrypted, each named by the hash of its ciphertext (design.md, 4)."""

from collections.abc import Iterable
from hashlib import sha256
from typing import Annotated

import msgspec

from bft.types import Natural
from pond.model.encryption import OVERHEAD_BYTES, DecryptionError, Decryptor, KeyEpoch, Salt, UpdateCipher
from tapestry.guid import GUID

MIN_BLOCK_SIZE = 4 * 1024
MAX_BLOCK_SIZE = 4 * 1024 * 1024
MAX_CIPHERTEXT_BYTES = MAX_BLOCK_SIZE + OVERHEAD_BYTES

MAX_RUN = 2**18
"""Blocks of one run at most."""

_TAG = b"pond.block 1\x00"
"""Hashed before the ciphertext. No statement starts so: the first byte of a MessagePack array is above 0x8f."""

BlockSize = Annotated[int, msgspec.Meta(ge=MIN_BLOCK_SIZE, le=MAX_BLOCK_SIZE)]
"""Plaintext bytes of a block of this object at most."""

Length = Annotated[int, msgspec.Meta(ge=1, le=MAX_BLOCK_SIZE)]
"""Plaintext bytes of a block that are in use."""


class BlockRef(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a piece of content is and how to read it.

    `length` bytes of the plaintext are in use, counted from its start: a truncated block keeps its ciphertext.
    """

    bguid: GUID
    length: Length
    epoch: KeyEpoch
    salt: Salt
    counter: Natural


class Run(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Consecutive blocks of one epoch, one salt and consecutive counters."""

    epoch: KeyEpoch
    salt: Salt
    first_counter: Natural
    lengths: Annotated[list[Length], msgspec.Meta(min_length=1, max_length=MAX_RUN)]
    bguids: Annotated[list[GUID], msgspec.Meta(min_length=1, max_length=MAX_RUN)]

    def __post_init__(self) -> None:
        if len(self.lengths) != len(self.bguids):
            raise ValueError("a run has as many lengths as blocks")
        if self.first_counter + len(self.lengths) > 2**63:
            raise ValueError("the counters of a run end below 2**63")


def bguid(ciphertext: bytes | memoryview) -> GUID:
    """Name of a block: SHA-256 over its own tag and the ciphertext, which is not copied."""
    hasher = sha256(_TAG)
    hasher.update(ciphertext)
    return hasher.digest()


def seal(cipher: UpdateCipher, plaintext: bytes) -> tuple[bytes, BlockRef]:
    """The ciphertext of a new block, and the reference to it. Raises ValueError above 4 MiB, or for nothing."""
    if not 1 <= len(plaintext) <= MAX_BLOCK_SIZE:
        raise ValueError(f"a block holds 1 to {MAX_BLOCK_SIZE} bytes")
    ciphertext, counter = cipher.encrypt(plaintext)
    return ciphertext, BlockRef(bguid(ciphertext), len(plaintext), cipher.epoch, cipher.salt, counter)


def unseal(decryptor: Decryptor, ref: BlockRef, ciphertext: bytes) -> bytes:
    """The `ref.length` bytes of content in a block that has been checked against its name: hashing it twice costs more
    than decrypting it does. Raises DecryptionError, also when it is too short.
    """
    plaintext = decryptor.decrypt(ref.epoch, ref.salt, ref.counter, ciphertext)
    if len(plaintext) < ref.length:
        raise DecryptionError(f"block {ref.bguid.hex()} has {len(plaintext)} bytes, but {ref.length} are in use")
    return plaintext[: ref.length]


def is_content(decryptor: Decryptor, ref: BlockRef, plaintext: bytes) -> bool:
    """Whether these bytes are what a block holds, found without the block. Not of one that was truncated: nobody knows
    what else it was made of. Raises DecryptionError without the read key."""
    if len(plaintext) != ref.length:
        return False
    return bguid(decryptor.encrypted_again(ref.epoch, ref.salt, ref.counter, plaintext)) == ref.bguid


def to_runs(refs: Iterable[BlockRef]) -> list[Run]:
    """The fewest runs that hold these references in this order."""
    runs: list[Run] = []
    for ref in refs:
        run = runs[-1] if runs else None
        if (
            run is not None
            and (ref.epoch, ref.salt) == (run.epoch, run.salt)
            and ref.counter == run.first_counter + len(run.bguids)
            and len(run.bguids) < MAX_RUN
        ):
            run.lengths.append(ref.length)
            run.bguids.append(ref.bguid)
        else:
            runs.append(Run(ref.epoch, ref.salt, ref.counter, [ref.length], [ref.bguid]))
    return runs


def from_runs(runs: Iterable[Run]) -> list[BlockRef]:
    """The references in the order of the runs."""
    return [
        BlockRef(name, length, run.epoch, run.salt, run.first_counter + i)
        for run in runs
        for i, (length, name) in enumerate(zip(run.lengths, run.bguids, strict=True))
    ]


def default_block_size(content_bytes: int) -> int:
    """Block size in bytes for an object that starts with this much content: 64 KiB below 64 MiB, 256 KiB below 16 GiB.

    Larger ones have 1 MiB. A part that is read costs a block more than it has, at most; blocks of 256 KiB take no more
    processor time than larger ones do, of 64 KiB a seventh more.
    """
    if content_bytes < 64 * 1024 * 1024:
        return 64 * 1024
    return 256 * 1024 if content_bytes < 16 * 1024**3 else 1024 * 1024

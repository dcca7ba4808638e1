"""Plaintext from wherever it is, cut into blocks, encrypted, and sent ahead: in bounded memory, however much it is."""

import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from functools import partial
from hashlib import sha256
from typing import BinaryIO, TypeAlias

from bft.secret import Secret
from pond.client.asking import Deadline
from pond.client.blocks import Progress
from pond.client.upload import Upload
from pond.errors import UsageError
from pond.model.block import BlockRef, seal
from pond.model.encryption import SALT_BYTES, UpdateCipher, repeatable_salt
from pond.model.update import MAX_BLOCK_REFS
from pond.model.version import Metadata
from tapestry.guid import GUID

PEEK_BYTES = 1024 * 1024
"""How much of a stream of unknown length is read to guess how long it is."""

MANY_BYTES = 64 * 1024 * 1024
"""What a stream that is longer than that is taken for."""

RESUMED_FROM_BYTES = 16 * 1024 * 1024
"""Content from this length on is read twice where it can be, so that an upload of it that is broken off can go on."""

Data: TypeAlias = "bytes | bytearray | memoryview | BinaryIO | AsyncIterable[bytes]"
"""Content: bytes, a binary file that is read from where it stands, or pieces of bytes that arrive."""


class Source:
    """Content to be written, read once. `size_hint` is its length in bytes as far as known."""

    def __init__(self, data: Data) -> None:
        self.again = isinstance(data, bytes | bytearray | memoryview)
        """Whether it can be read again."""
        self._read: Callable[[int], bytes] | None = None
        self._pieces: AsyncIterator[bytes] | None = None
        self._start: list[bytes] = []
        self.size_bytes: int | None = None
        self._rewind: Callable[[], object] | None = None
        if isinstance(data, bytes | bytearray | memoryview):
            self._start = [bytes(data)]
            self.size_bytes = len(self._start[0])
            self._rewind = bool
        elif isinstance(data, AsyncIterable):
            self._pieces = aiter(data)
            self.size_bytes = getattr(data, "size_bytes", None)
            self._rewind = getattr(data, "rewind", None)
        elif hasattr(data, "read"):
            self._read = data.read
            self.size_bytes = rest_of(data)
            if self.size_bytes is not None:
                self._rewind = partial(data.seek, data.tell())
        else:
            raise UsageError(f"content is bytes or a file opened in binary mode, not {type(data).__name__}")

    async def size_hint(self) -> int:
        """About how many bytes there are."""
        if self.size_bytes is None:
            held = sum(map(len, self._start))
            while held < PEEK_BYTES:
                piece = await self._more(PEEK_BYTES)
                if not piece:
                    self.size_bytes = held
                    return held
                self._start.append(piece)
                held += len(piece)
            return MANY_BYTES
        return self.size_bytes

    @property
    def resumable(self) -> bool:
        """Whether an upload of it can go on after it was broken off, and is worth that."""
        return self._rewind is not None and (self.size_bytes or 0) >= RESUMED_FROM_BYTES

    async def digests(self, size_bytes: int, deadline: Deadline, progress: Progress | None) -> list[bytes]:
        """SHA-256 of each block to come; none of what is not resumable."""
        if not self.resumable or self._rewind is None:
            return []
        found: list[bytes] = []
        async for block in self.blocks(size_bytes):
            found.append(sha256(block).digest())
            deadline.extend()
            if progress is not None:
                progress(0, self.size_bytes or 0)
        self._rewind()
        return found

    async def blocks(self, size_bytes: int) -> AsyncIterator[bytes]:
        """All of it in pieces of this size, only the last of which may be shorter."""
        held = memoryview(b"".join(self._start))
        if not self.again:
            self._start = []
        while True:
            while len(held) >= size_bytes:
                yield bytes(held[:size_bytes])
                held = held[size_bytes:]
            parts, count = [bytes(held)], len(held)
            while count < size_bytes and (piece := await self._more(size_bytes - count)):
                parts.append(piece)
                count += len(piece)
            held = memoryview(b"".join(parts))
            if len(held) < size_bytes:
                if held:
                    yield bytes(held)
                return

    async def take(self, size_bytes: int) -> bytes:
        """The next bytes, fewer only at the end."""
        parts, count = self._start, sum(map(len, self._start))
        while count < size_bytes and (piece := await self._more(size_bytes - count)):
            parts.append(piece)
            count += len(piece)
        data = b"".join(parts)
        self._start = [data[size_bytes:]]
        return data[:size_bytes]

    async def _more(self, size_bytes: int) -> bytes:
        if self._read is not None:
            piece = self._read(size_bytes)
            if piece is not None and not isinstance(piece, bytes | bytearray | memoryview):
                raise UsageError("the file is open in text mode: open it with mode 'rb'")
            return bytes(piece or b"")
        if self._pieces is not None:
            async for piece in self._pieces:
                if piece:
                    return bytes(piece)
        return b""


def rest_of(file: BinaryIO) -> int | None:
    """Bytes from where a file stands to its end, when that can be known."""
    try:
        here = file.tell()
        end = file.seek(0, os.SEEK_END)
        file.seek(here)
    except (OSError, AttributeError, ValueError):
        return None
    return max(end - here, 0)


class Sealer:
    """Encrypts what one update carries and hands it to an upload.

    Whatever is built anew needs a new one, which has a new salt (rule 6). Content that is the same as in an attempt
    that was broken off may have the salt that it had there.
    """

    def __init__(
        self,
        aguid: GUID,
        read_key: Secret,
        epoch: int,
        block_size: int,
        upload: Upload,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._aguid = aguid
        self._read_key = read_key
        self._epoch = epoch
        self._cipher = UpdateCipher(read_key, epoch, aguid, random_bytes(SALT_BYTES))
        self._block_size = block_size
        self._upload = upload

    async def repeatable(
        self, source: Source, base: GUID, deadline: Deadline, progress: Progress | None
    ) -> list[BlockRef]:
        """References to the blocks of a source, which servers may hold from an earlier attempt to write it upon the
        version `base`."""
        digests = await source.digests(self._block_size, deadline, progress)
        if not digests:
            return await self.content(source, deadline)
        salt = repeatable_salt(self._read_key, self._aguid, base, self._block_size, digests)
        cipher = UpdateCipher(self._read_key, self._epoch, self._aguid, salt)
        return await self.content(source, deadline, cipher, digests)

    async def content(
        self, source: Source, deadline: Deadline, cipher: UpdateCipher | None = None, digests: Sequence[bytes] = ()
    ) -> list[BlockRef]:
        """References to the blocks of a source; `cipher` is for those that begin with these digests, and no other."""
        refs: list[BlockRef] = []
        async for plaintext in source.blocks(self._block_size):
            if len(refs) == MAX_BLOCK_REFS:
                raise UsageError(
                    f"one update carries at most {MAX_BLOCK_REFS} blocks of {self._block_size} bytes: write the rest"
                    " with append, or create the object with a larger block size"
                )
            if cipher is not None and (len(refs) >= len(digests) or sha256(plaintext).digest() != digests[len(refs)]):
                cipher = None  # somebody writes to the file: what follows is other content than the salt is for
            ciphertext, ref = seal(cipher or self._cipher, plaintext)
            await self._upload.add(ciphertext, ref.bguid, perhaps_there=cipher is not None)
            refs.append(ref)
            deadline.extend()
        return refs

    def metadata(self, plaintext: bytes) -> Metadata:
        """The encrypted metadata."""
        ciphertext, counter = self._cipher.encrypt(plaintext)
        return Metadata(epoch=self._cipher.epoch, salt=self._cipher.salt, counter=counter, ciphertext=ciphertext)

"""Plaintext from wherever it is, cut into blocks, encrypted, and sent ahead: in bounded memory, however much it is."""

import os
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import BinaryIO, TypeAlias

from bft.secret import Secret
from pond.client.asking import Deadline
from pond.client.blocks import Upload
from pond.errors import UsageError
from pond.model.block import BlockRef, seal
from pond.model.encryption import SALT_BYTES, UpdateCipher
from pond.model.update import MAX_BLOCK_REFS
from pond.model.version import Metadata
from tapestry.guid import GUID

PEEK_BYTES = 1024 * 1024
"""How much of a stream of unknown length is read to guess how long it is."""

MANY_BYTES = 64 * 1024 * 1024
"""What a stream that is longer than that is taken for."""

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
        if isinstance(data, bytes | bytearray | memoryview):
            self._start = [bytes(data)]
            self.size_bytes = len(self._start[0])
        elif isinstance(data, AsyncIterable):
            self._pieces = aiter(data)
            self.size_bytes = getattr(data, "size_bytes", None)
        elif hasattr(data, "read"):
            self._read = data.read
            self.size_bytes = rest_of(data)
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

    Whatever is built anew needs a new one, which has a new salt (rule 6).
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
        self._cipher = UpdateCipher(read_key, epoch, aguid, random_bytes(SALT_BYTES))
        self._block_size = block_size
        self._upload = upload

    async def content(self, source: Source, deadline: Deadline) -> list[BlockRef]:
        """References to the blocks of a source."""
        refs: list[BlockRef] = []
        async for plaintext in source.blocks(self._block_size):
            if len(refs) == MAX_BLOCK_REFS:
                raise UsageError(
                    f"one update carries at most {MAX_BLOCK_REFS} blocks of {self._block_size} bytes: write the rest"
                    " with append, or create the object with a larger block size"
                )
            ciphertext, ref = seal(self._cipher, plaintext)
            await self._upload.add(ciphertext, ref.bguid)
            refs.append(ref)
            deadline.extend()
        return refs

    def metadata(self, plaintext: bytes) -> Metadata:
        """The encrypted metadata."""
        ciphertext, counter = self._cipher.encrypt(plaintext)
        return Metadata(epoch=self._cipher.epoch, salt=self._cipher.salt, counter=counter, ciphertext=ciphertext)

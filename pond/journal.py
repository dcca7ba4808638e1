"""What was written since the storage's last commit: records in one file, each durable after a sync of a few kilobytes.

A commit of the engine (`pond.storage`) writes every page that a change touches, then a root page: five to ten times the
work of an append. So a sync appends a record here, and after a few megabytes one commit holds them all; then the file
is written over from its start. After a crash the records since that commit are applied again.

Records are numbered from 1, for ever. A record of an earlier round has a number below the one that is expected, so
nothing has to be erased. What it held may be anything, since clients choose what is in blocks: so that none of it reads
as a record, the checksum of a header begins with a seed that only this directory knows.

The last record may be torn by a crash, and then nobody was told that it is durable. A record that is not as it was
written and has one behind it was once synced: the disk has changed it, and what votes rest on is lost. Records begin at
sectors, so that a torn one leaves those before it whole.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

JOURNAL_BYTES = 4 * 1024 * 1024
"""How long the file grows at most. A commit takes some 20 ms for that much, and a start to apply it about as long."""

SECTOR_BYTES = 512

_STEP_BYTES = 256 * 1024
"""The file grows by so much at a time: a sync that also has to record a new length takes twice as long."""

_HEADER = struct.Struct(">QII")
"""Number, length of the payload in bytes and its CRC-32; a CRC-32 of these three follows, begun with the seed."""
_HEADER_BYTES = _HEADER.size + 4


class RecordLost(Exception):
    """A record that was synced is not there any longer."""


class Journal:
    """The file and the place where the next record goes. Raises OSError as the disk does; then it is used no more."""

    def __init__(self, path: Path, number: int, limit_bytes: int = JOURNAL_BYTES, seed: int = 0) -> None:
        """Open the file, or make it: `number` is that of the first record since the last commit."""
        self.number = number
        """Of the record that is written next."""
        self.seed = seed
        self._limit_bytes = limit_bytes
        self._offset = 0
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size

    def replay(self) -> Iterator[bytes]:
        """The payloads of the records since the last commit, in order; new ones go behind them. Raises RecordLost."""
        data = os.pread(self._file, self._size, 0)
        while (payload := _record(data, self._offset, self.number, self.seed)) is not None:
            self._advance(len(payload))
            yield payload
        for offset in range(self._offset, len(data), SECTOR_BYTES):
            header = _header(data, offset, self.seed)
            if header is not None and header[0] > self.number:
                raise RecordLost(f"record {self.number} is gone, and there is a record {header[0]}")

    def has_room(self, payload_bytes: int) -> bool:
        """Whether a payload of that length still goes into the file."""
        return self._offset + _HEADER_BYTES + payload_bytes <= self._limit_bytes

    def append(self, payload: bytes) -> None:
        """The record is on the disk when this returns."""
        fields = _HEADER.pack(self.number, len(payload), crc32(payload))
        self._put(b"".join((fields, crc32(fields, self.seed).to_bytes(4, "big"), payload)), self._offset)
        self._advance(len(payload))
        if self._offset > self._size:
            grown = -(-self._offset // _STEP_BYTES) * _STEP_BYTES
            self._put(bytes(grown - self._offset), self._offset)
            self._size = grown
        os.fdatasync(self._file)

    def restart(self) -> None:
        """All records are in a commit: their places are written over from now on."""
        self._offset = 0

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def _advance(self, payload_bytes: int) -> None:
        self._offset += -(-(_HEADER_BYTES + payload_bytes) // SECTOR_BYTES) * SECTOR_BYTES
        self.number += 1

    def _put(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file, view, offset)
            view = view[written:]
            offset += written


def _header(data: bytes, offset: int, seed: int) -> tuple[int, int, int] | None:
    fields = data[offset : offset + _HEADER.size]
    checksum = data[offset + _HEADER.size : offset + _HEADER_BYTES]
    if len(checksum) < 4 or crc32(fields, seed).to_bytes(4, "big") != checksum:
        return None
    number, length, payload_checksum = _HEADER.unpack(fields)
    return number, length, payload_checksum


def _record(data: bytes, offset: int, number: int, seed: int) -> bytes | None:
    """The payload of the record at a place, if it is whole and has this number."""
    header = _header(data, offset, seed)
    if header is None or header[0] != number:
        return None
    _, length, checksum = header
    payload = data[offset + _HEADER_BYTES : offset + _HEADER_BYTES + length]
    return payload if len(payload) == length and crc32(payload) == checksum else None

"""Key files: an owner's root key, a server's own key, its share of the ring's key.

A file is one line of text, to be copied by hand where need be: `pond-key 1 node <hex> <checksum>`; 1 is the number of
the format. Nothing but the checksum's mismatch is ever said of what a file contains.
"""

import hashlib
import os
import secrets
from enum import StrEnum
from pathlib import Path

from bft.secret import Secret
from pond.errors import ClusterDamaged, NotFound, UsageError

TAG = "pond-key"
FORMAT = "1"

KEY_BYTES = 32
MAX_FILE_BYTES = 64 * 1024


class Kind(StrEnum):
    """Whose key a file holds."""

    OWNER = "owner"
    """The 32-byte root from which all keys of an owner are derived."""
    NODE = "node"
    """The 32-byte Ed25519 seed of a server."""
    SHARE = "share"
    """A server's share of its ring's key, encoded by `bft`."""


def write_key(path: Path, kind: Kind, key: Secret) -> None:
    """Write a new key file, readable by its owner alone; durable when this returns.

    Raises UsageError when it cannot be written, or exists: a key is never overwritten.
    """
    content = key.reveal()
    assert kind is Kind.SHARE or len(content) == KEY_BYTES, f"our fault: a {kind} key has {KEY_BYTES} bytes"
    line = f"{TAG} {FORMAT} {kind} {content.hex()} {_checksum(kind, content)}\n"
    try:
        write_durably(path, line.encode(), replace=False)
    except FileExistsError:
        raise UsageError(f"{path} exists: a key is never overwritten; choose another name or move it away") from None
    except OSError as error:
        raise UsageError(f"cannot write {path} ({error.strerror}): check that you may write there") from None


def read_key(path: Path, kind: Kind) -> Secret:
    """The key in a file. Raises NotFound, UsageError when others may read the file, ClusterDamaged."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_FILE_BYTES)
    except FileNotFoundError:
        raise NotFound(f"there is no {kind} key at {path}: make one, or name the file that holds it") from None
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror}): check the name and who owns the file") from None
    if mode & 0o077:
        raise UsageError(f"{path} can be read by others: if nobody has read it yet, run chmod 600 on it")
    match data.split():
        case [tag, *_] if tag != TAG.encode():
            pass
        case [_, number, *_] if number != FORMAT.encode():
            raise ClusterDamaged(f"{path} has another format than {FORMAT}: read it with the version that wrote it")
        case [_, _, found, *_] if found != kind.encode():
            raise UsageError(f"{path} is not the key of kind {kind} that is needed here: name another file")
        case [_, _, _, digits, checksum]:
            content = _from_hex(digits)
            right_length = kind is Kind.SHARE or len(content) == KEY_BYTES
            if right_length and checksum == _checksum(kind, content).encode():
                return Secret(content)
    raise ClusterDamaged(f"{path} is damaged, it does not hold a key: restore it from a copy")


def write_durably(path: Path, data: bytes, *, replace: bool) -> None:
    """Put a file of mode 0600 in its place as a whole, on disk when this returns; a missing directory gets mode 0700.

    Raises FileExistsError when it exists and is not to be replaced.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.rename(path)
        else:
            path.hardlink_to(temporary)  # unlike a rename, fails where the name is taken
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _checksum(kind: Kind, content: bytes) -> str:
    return hashlib.sha256(f"{TAG} {FORMAT} {kind} ".encode() + content).hexdigest()[:8]


def _from_hex(digits: bytes) -> bytes:
    try:
        return bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        return b""

"""Names of objects, the keys that one owner key gives, and the owner's directory (design.md, 3).

Servers see only AGUIDs: a hash of the owner's public key and of an HMAC of the name under the owner's name key, so that
no dictionary of names finds an object. The directory, itself an encrypted object, holds the names and read keys; its
own AGUID follows from the owner key too, and so the owner key alone regains everything.
"""

import hmac
import unicodedata
from collections.abc import Iterable
from typing import Annotated, NamedTuple

import msgpack
import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from bft import statement
from bft.secret import Secret
from bft.statement import Digest
from bft.types import Natural
from pond.model.encryption import KEY_BYTES
from pond.model.stored import Codec, Stored
from tapestry.guid import GUID

MAX_NAME_BYTES = 255
OWNER_KEY_BYTES = 32

_SHOWN_CHARACTERS = 40
_DIRECTORY = b"/directory"
"""What the directory's tag is made of: no name has a '/'."""


class NameRefused(ValueError):
    """A name that no object can have; the message says what to do."""


def check_name(name: str) -> None:
    """Raises NameRefused for a name that is empty, too long, or has characters that names do not have."""
    if not name:
        raise NameRefused("an object needs a name: give at least one character")
    shown = ascii(name if len(name) <= _SHOWN_CHARACTERS else name[:_SHOWN_CHARACTERS] + "...")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise NameRefused(f"name {shown} is not valid Unicode text: use another name") from None
    if size > MAX_NAME_BYTES:
        raise NameRefused(f"name {shown} has {size} bytes: use at most {MAX_NAME_BYTES}")
    if "/" in name:
        raise NameRefused(f"name {shown} has a '/', which separates owners from names: leave it out")
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in name):
        raise NameRefused(f"name {shown} has a control character or line break: leave it out")


def name_tag(name_key: Secret, name: str) -> Digest:
    """The tag that stands for a name in its object's AGUID. Raises NameRefused."""
    check_name(name)
    return hmac.digest(name_key.reveal(), name.encode(), "sha256")


def directory_tag(name_key: Secret) -> Digest:
    """The tag of the owner's directory, which no name has."""
    return hmac.digest(name_key.reveal(), _DIRECTORY, "sha256")


def aguid(owner: bytes, tag: Digest) -> GUID:
    """AGUID of the object that the principal `owner` (public key) founds under a tag."""
    return statement.digest(statement.encode("pond.aguid", 1, owner, tag))


class OwnerSecrets(NamedTuple):
    """What follows from an owner key."""

    signing_seed: Secret
    """Seed of the principal's Ed25519 key."""
    name_key: Secret
    directory_read_key: Secret

    @classmethod
    def derive(cls, owner_key: Secret) -> "OwnerSecrets":
        """From the 32 random bytes that an owner keeps and exports. Raises ValueError for another size."""
        root = owner_key.reveal()
        if len(root) != OWNER_KEY_BYTES:
            raise ValueError(f"an owner key has {OWNER_KEY_BYTES} bytes")
        return cls(
            *(
                Secret(HKDF(SHA256(), KEY_BYTES, None, b"pond.owner." + use + b" 1").derive(root))
                for use in (b"signing", b"names", b"directory")
            )
        )


# --- the directory -----------------------------------------------------------------------------------------------


class DirectoryError(ValueError):
    """Content that is not a directory."""


class Entry(NamedTuple):
    """Where an object is, and its read keys by epoch."""

    aguid: GUID
    read_keys: dict[int, Secret]


_ReadKey = Annotated[bytes, msgspec.Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]


class _EntryForm(Stored, frozen=True, kw_only=True, tag="pond.entry"):
    name: str
    aguid: GUID
    read_keys: Annotated[list[tuple[Natural, _ReadKey]], msgspec.Meta(min_length=1, max_length=1024)]


class _Undecodable(ValueError):
    pass


_entries = Codec(_EntryForm, "an entry", _Undecodable)


def encode_entry(name: str, entry: Entry) -> bytes:
    """The bytes of one entry, to be appended to the directory's content. Raises NameRefused."""
    check_name(name)
    read_keys = [(epoch, key.reveal()) for epoch, key in sorted(entry.read_keys.items(), key=lambda item: item[0])]
    return _EntryForm(name=name, aguid=entry.aguid, read_keys=read_keys).encode()


def decode_entries(content: bytes) -> dict[str, Entry]:
    """The entries of a directory by name; of entries with one name the first counts. Raises DirectoryError."""
    entries: dict[str, Entry] = {}
    for start, stop in _spans(content):
        try:
            form = _entries.decode(content[start:stop])
            check_name(form.name)
        except (_Undecodable, NameRefused):
            # What is wrong is not said: an error shows no name and no key.
            raise DirectoryError(f"the directory is damaged at byte {start}") from None
        epochs = [epoch for epoch, _ in form.read_keys]
        if epochs != sorted(set(epochs)):
            raise DirectoryError(f"the directory is damaged at byte {start}")
        keys = {epoch: Secret(key) for epoch, key in form.read_keys}
        entries.setdefault(form.name, Entry(form.aguid, keys))
    return entries


def _spans(content: bytes) -> Iterable[tuple[int, int]]:
    """(start, stop) of each MessagePack value of the content."""
    unpacker = msgpack.Unpacker(max_buffer_size=max(len(content), 1))
    unpacker.feed(content)
    start = 0
    while start < len(content):
        try:
            unpacker.skip()
        except (ValueError, msgpack.exceptions.UnpackException):
            raise DirectoryError(f"the directory is damaged at byte {start}") from None
        stop = unpacker.tell()
        yield start, stop
        start = stop

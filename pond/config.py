"""Every setting, and the public description of a cluster: JSON files, read strictly.

Limits are no settings; each stands as a constant beside the rule that it belongs to.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from pond.errors import ClusterDamaged, NotFound, UsageError
from pond.keys import write_durably

FORMAT = 1
"""Number of the form of these files; it stands in each of them."""

MAX_FILE_BYTES = 1024 * 1024

LEAST_QUOTA_BYTES = 16 * 1024 * 1024
"""Room for the log of a ring that does little."""

MOST_QUOTA_BYTES = 2**46

Count = Annotated[int, msgspec.Meta(ge=0)]
Address = Annotated[str, msgspec.Meta(pattern=r"^tcp://[^\s/:]+:[1-9][0-9]{0,4}$")]
Quota = Annotated[int, msgspec.Meta(ge=LEAST_QUOTA_BYTES, le=MOST_QUOTA_BYTES)]
HostPort = Annotated[str, msgspec.Meta(pattern=r"^[^\s/:]+:[1-9][0-9]{0,4}$")]


class Hex(bytes):
    """32 bytes, a key or an id, written as 64 base-16 digits."""


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One ring server: its place in the ring, its Ed25519 key, and where it listens."""

    id: Count
    public_key: Hex
    peer_address: Address
    client_address: Address
    metrics_address: HostPort
    overlay_address: Address | None = None
    """Null: it runs no node of the overlay."""


class StorageMember(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One storage server: it takes part in the overlay and not in the ring."""

    id: Count
    public_key: Hex
    overlay_address: Address
    client_address: Address
    metrics_address: HostPort


class ClusterFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="format", tag=FORMAT):
    """What anybody may know of a cluster and everybody needs: which ring, which key to believe, where to ask."""

    ring_id: Hex
    epoch: Count
    ring_key: Hex
    """The ring's Ed25519 key: all that a client trusts."""
    members: Annotated[tuple[Member, ...], msgspec.Meta(min_length=1)]
    """In order of their ids, 0 to n-1."""
    created: Annotated[str, msgspec.Meta(max_length=64)]
    """When, as ISO 8601 text; for people."""
    storage: tuple[StorageMember, ...] = ()
    """In order of their ids, 0 to m-1."""

    def __post_init__(self) -> None:
        if [member.id for member in self.members] != list(range(len(self.members))):
            raise ValueError("members are not numbered 0 to n-1 in order")
        if [member.id for member in self.storage] != list(range(len(self.storage))):
            raise ValueError("storage servers are not numbered 0 to m-1 in order")
        keys = {member.public_key for member in self.members} | {member.public_key for member in self.storage}
        if len(keys) != len(self.members) + len(self.storage):
            raise ValueError("two members have the same key")


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="format", tag=FORMAT):
    """What one server directory says of itself; key and data lie beside it."""

    id: Count
    """The server's place in the ring, or among the storage servers."""
    cluster: str
    """Path of the cluster file, relative to the server's directory."""
    quota_bytes: Quota | None = None
    """How large the server's data may grow, at least 16 MiB, beside a journal of up to 4 MiB; null: as the disk has
    room. It is read at the server's start, and every few seconds while it stands aside for want of room."""
    role: Literal["ring", "storage"] = "ring"
    """What the server does."""


Settings = TypeVar("Settings", ClusterFile, NodeConfig)


def read(path: Path, kind: type[Settings]) -> Settings:
    """The settings in a file. Raises NotFound, UsageError, or ClusterDamaged that says which field is wrong."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES)
    except FileNotFoundError:
        raise NotFound(f"there is no {path}: start a cluster with `pond cluster up`, or name its directory") from None
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror}): check the name and who owns the file") from None
    try:
        return msgspec.json.decode(data, type=kind, dec_hook=_from_json)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if isinstance(error, msgspec.ValidationError) and "$.quota_bytes" in str(error):
            raise UsageError(
                f"quota_bytes in {path} makes no sense: write null, or a number of bytes from {LEAST_QUOTA_BYTES} (16"
                f" MiB) to {MOST_QUOTA_BYTES} (64 TiB)"
            ) from None
        raise ClusterDamaged(f"{path} is damaged or of another format ({error}): restore it from a copy") from None


def write(path: Path, settings: ClusterFile | NodeConfig) -> None:
    """Replace the file as a whole; durable when this returns."""
    data = msgspec.json.encode(settings, enc_hook=_to_json)
    write_durably(path, msgspec.json.format(data, indent=2) + b"\n", replace=True)


def _from_json(kind: type, value: Any) -> Hex:
    assert kind is Hex, "our fault: a setting of a type that has no form in JSON"
    if not isinstance(value, str) or len(value) != 64:
        raise ValueError("expected 64 base-16 digits")
    return Hex.fromhex(value)


def _to_json(value: Any) -> str:
    assert isinstance(value, Hex), "our fault: a setting of a type that has no form in JSON"
    return value.hex()

"""The servers that a cluster file lists: what people call them, and where each is in the overlay."""

from typing import NamedTuple

from pond.config import ClusterFile, Member, StorageMember
from tapestry.guid import GUID
from tapestry.pointers import node_guid


class Listed(NamedTuple):
    """One server."""

    name: str
    public_key: bytes
    guid: GUID
    client_address: str
    overlay_address: str | None
    """None: it runs no node of the overlay."""


def ring_name(identity: int) -> str:
    """What people call a ring server."""
    return f"ring-{identity}"


def storage_name(identity: int) -> str:
    """What people call a storage server."""
    return f"storage-{identity}"


def listed(cluster: ClusterFile) -> list[Listed]:
    """All servers: those of the ring first, each kind in order of its ids."""
    ring = [_listed(ring_name(member.id), member) for member in cluster.members]
    return ring + [_listed(storage_name(member.id), member) for member in cluster.storage]


def _listed(name: str, member: Member | StorageMember) -> Listed:
    key = bytes(member.public_key)
    return Listed(name, key, node_guid(key), member.client_address, member.overlay_address)

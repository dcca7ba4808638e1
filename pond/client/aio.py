"""The asynchronous face: `async with pond.aio.connect() as store`. Every name and rule is that of `pond.connect`."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from time import time_ns

from bft.membership import Membership
from bft.secret import Secret
from bft.types import Epoch
from pond import config
from pond.client.asking import Burst
from pond.client.changes import Update
from pond.client.content import ChangedRange
from pond.client.locate import OWNER_KEY, cluster_file
from pond.client.objects import (
    TIMEOUT_SECONDS,
    ExportReport,
    LogEntry,
    Object,
    ObjectFile,
    ObjectStat,
    Parts,
    Store,
    open_store,
)
from pond.client.target import Version
from pond.config import ClusterFile
from pond.errors import ClusterDamaged, Unavailable
from pond.keys import Kind, read_key
from pond.protocol import MAX_MESSAGE_BYTES
from pond.transport import Remote, ServerLinks

__all__ = [
    "ChangedRange",
    "ExportReport",
    "LogEntry",
    "Object",
    "ObjectFile",
    "ObjectStat",
    "Store",
    "Update",
    "Version",
    "connect",
]


LISTEN_SECONDS = 1.0
"""How long to wait for a refusal; who runs on this machine refuses at once."""


class Connection:
    """What a store is opened from; to be entered with `async with`, or awaited and closed by hand."""

    def __init__(self, settings: ClusterFile, owner_key: Secret, timeout: float) -> None:
        try:
            self._membership = membership(settings)
        except ValueError as error:
            raise ClusterDamaged(f"the cluster file does not describe a ring: {error}") from None
        self._remotes = {
            member.id: Remote(bytes(member.public_key), member.client_address) for member in settings.members
        }
        self._owner_key = owner_key
        self._timeout = timeout
        self._store: Store | None = None

    async def open(self) -> Store:
        """A store, with links under way. Raises Unavailable when no server runs at all."""
        addresses = [remote.address.removeprefix("tcp://") for remote in self._remotes.values()]
        if not any(await asyncio.gather(*map(_may_listen, addresses))):
            raise Unavailable("no server of the cluster runs: start it with `pond cluster up`")

        def make_links(received: Callable[[Burst], None]) -> ServerLinks:
            return ServerLinks(self._remotes, received, MAX_MESSAGE_BYTES)

        return open_store(Parts(make_links, _wall_clock), self._membership, self._owner_key, self._timeout)

    async def __aenter__(self) -> Store:
        self._store = await self.open()
        return self._store

    async def __aexit__(self, *_: object) -> None:
        if self._store is not None:
            self._store.close()


def connect(
    cluster: "str | os.PathLike[str] | None" = None,
    *,
    key: "str | os.PathLike[str] | Secret | None" = None,
    timeout: float = TIMEOUT_SECONDS,
) -> Connection:
    """Connect to a cluster as the owner of a key.

    `cluster` is its directory or public file, else POND_CLUSTER, else the user's own; `key` the owner key or its file,
    else owner.key beside the cluster's file. `timeout` is how many seconds an operation may take, retries included; a
    transfer that moves on may take longer. Raises NotFound, UsageError, ClusterDamaged.
    """
    file = cluster_file(cluster)
    settings = config.read(file, ClusterFile)
    owner_key = key if isinstance(key, Secret) else read_key(_path(key, file), Kind.OWNER)
    return Connection(settings, owner_key, timeout)


def membership(settings: ClusterFile) -> Membership:
    """The ring that a cluster's public file describes. Raises ValueError."""
    keys = tuple(bytes(member.public_key) for member in settings.members)
    return Membership(bytes(settings.ring_id), Epoch(settings.epoch), bytes(settings.ring_key), keys)


def _path(key: "str | os.PathLike[str] | None", file: Path) -> Path:
    return Path(key) if key is not None else file.parent / OWNER_KEY


async def _may_listen(address: str) -> bool:
    """Whether anything is at host:port; only a refusal says no."""
    host, port = address.rsplit(":", 1)
    try:
        async with asyncio.timeout(LISTEN_SECONDS):
            _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionRefusedError:
        return False
    except (OSError, TimeoutError):
        return True
    writer.close()
    return True


def _wall_clock() -> int:
    return time_ns() // 1000

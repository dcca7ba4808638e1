"""The directory of a local cluster: what stands where, making one as a whole, and refusing one that is not whole.

    cluster.json                        public: the ring's id and key, its members and where they listen
    owner.key                           secret: the root of the user's own keys
    servers/ring-0/node.json            which place in which cluster
                  /node.key, share.key  secret: the server's own key, its share of the ring's
                  /store/, server.log   what it keeps, what it says
                  /process              which process it is, while it runs
           storage-0/...                the same of a storage server, which has no share of the ring's key and no store

Directories have mode 0700 and files 0600. A new directory is built beside its place and renamed there, and one that is
to go is renamed away first: a cluster is there as a whole or not at all. What was left half-way is cleared away when
the next cluster is made there.
"""

import fcntl
import os
import random
import re
import secrets
import shutil
import socket
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeAlias

from bft import key_share
from bft.frost import FrostError
from bft.membership import SIZES
from bft.secret import Secret
from bft.signatures import Ed25519Signer
from bft.threshold import deal
from pond import config, keys
from pond.client.locate import CLUSTER_FILE, OWNER_KEY
from pond.config import ClusterFile, Hex, Member, NodeConfig, StorageMember
from pond.errors import ClusterDamaged, NotFound, PondError, Unavailable, UsageError
from pond.servers import ring_name, storage_name

SERVERS = "servers"
NODE_CONFIG = "node.json"
NODE_KEY = "node.key"
SHARE_KEY = "share.key"
LOG = "server.log"
PROCESS = "process"

HOST = "127.0.0.1"
PORTS_PER_RING_SERVER = 4
PORTS_PER_STORAGE_SERVER = 3
MOST_STORAGE = 64
"""Storage servers of one local cluster."""

LOWEST_PORT = 10_000
TRIES_PER_PORT = 100

_SECRET_MODE = 0o077
_CLUSTER = f"../../{CLUSTER_FILE}"


@dataclass(frozen=True)
class Place:
    """One server's name and its directory."""

    name: str
    directory: Path

    @property
    def log(self) -> Path:
        """What the server writes, and what its process printed."""
        return self.directory / LOG

    @property
    def process(self) -> Path:
        """The file that says which process the server is."""
        return self.directory / PROCESS


@dataclass(frozen=True)
class ServerPlace(Place):
    """A server, and who it is in the ring."""

    member: Member


@dataclass(frozen=True)
class StoragePlace(Place):
    """A storage server."""

    member: StorageMember


AnyPlace: TypeAlias = ServerPlace | StoragePlace


class Layout(NamedTuple):
    """A cluster's directory, opened."""

    directory: Path
    cluster: ClusterFile

    @property
    def servers(self) -> list[ServerPlace]:
        """All ring servers, in order of their ids."""
        return [
            ServerPlace(name, self.directory / SERVERS / name, member)
            for member in self.cluster.members
            for name in [ring_name(member.id)]
        ]

    @property
    def storage(self) -> list[StoragePlace]:
        """All storage servers, in order of their ids."""
        return [
            StoragePlace(name, self.directory / SERVERS / name, member)
            for member in self.cluster.storage
            for name in [storage_name(member.id)]
        ]

    def named(self, names: tuple[str, ...]) -> list[AnyPlace]:
        """The servers with these names, each once. Raises UsageError for a name that none has."""
        servers: dict[str, AnyPlace] = {server.name: server for server in self.servers}
        servers |= {server.name: server for server in self.storage}
        for name in names:
            if name not in servers:
                known = ", ".join(server.name for server in self.servers)
                if self.storage:
                    known += f" and {self.storage[0].name} to {self.storage[-1].name}"
                raise UsageError(f"there is no server {name[:40]!r} in {self.directory}: it has {known}")
        return [servers[name] for name in dict.fromkeys(names)]


# --- opening -----------------------------------------------------------------------------------------------------


def open_layout(directory: Path) -> Layout:
    """The cluster in a directory, of whose servers any may be damaged. Raises NotFound, UsageError, ClusterDamaged."""
    try:
        found = sorted(os.listdir(directory))
    except FileNotFoundError:
        raise NotFound(
            f"there is no cluster at {directory}: start one with `pond cluster up`, or name its directory (--cluster)"
        ) from None
    except NotADirectoryError:
        raise UsageError(f"{directory} is a file: name the directory of a cluster") from None
    except OSError as error:
        raise UsageError(f"cannot read {directory} ({error.strerror}): check who owns it") from None
    file = directory / CLUSTER_FILE
    if not file.exists():
        if SERVERS in found or OWNER_KEY in found:
            raise ClusterDamaged(f"{directory} is no whole cluster, it lacks {CLUSTER_FILE}: {_ADVICE}")
        raise NotFound(f"{directory} is no cluster: name another directory, or one that does not exist yet")
    return Layout(directory, config.read(file, ClusterFile))


_COPY = "put it back from a copy"
_ADVICE = f"{_COPY}, or move the directory away and begin anew with `pond cluster up`"


def places(directory: Path) -> list[Place]:
    """The servers that have a directory there, whatever else the cluster lacks."""
    try:
        return [Place(found.name, found) for found in sorted((directory / SERVERS).iterdir()) if found.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def check(layout: Layout) -> None:
    """Look at what all servers share and the user needs: the directory, closed to others, and the owner's key.

    Raises UsageError or ClusterDamaged that names what is bad.
    """
    if layout.directory.stat().st_mode & _SECRET_MODE:
        raise UsageError(f"{layout.directory} is open to others: run chmod 700 on it, it holds secret keys")
    with _damage(layout, OWNER_KEY):
        keys.read_key(layout.directory / OWNER_KEY, keys.Kind.OWNER)


def check_server(layout: Layout, server: AnyPlace) -> None:
    """Look at every file that a server needs to start. Raises UsageError or ClusterDamaged that names a bad one."""
    directory = server.directory
    with _damage(layout, f"{SERVERS}/{server.name}"):
        settings = config.read(directory / NODE_CONFIG, NodeConfig)
        seed = keys.read_key(directory / NODE_KEY, keys.Kind.NODE)
    role = "ring" if isinstance(server, ServerPlace) else "storage"
    if settings.id != server.member.id or settings.role != role:
        raise ClusterDamaged(f"{directory / NODE_CONFIG} is of another server: {_COPY}")
    if Ed25519Signer(seed).public_key != server.member.public_key:
        raise ClusterDamaged(f"{directory / NODE_KEY} is not the key in {CLUSTER_FILE}: {_COPY}")
    if isinstance(server, ServerPlace):
        _check_share(layout, server)


def _check_share(layout: Layout, server: ServerPlace) -> None:
    directory = server.directory
    with _damage(layout, f"{SERVERS}/{server.name}"):
        kept = keys.read_key(directory / SHARE_KEY, keys.Kind.SHARE)
    try:
        share, public = key_share.decode(kept)
    except FrostError:
        raise ClusterDamaged(f"{directory / SHARE_KEY} holds no share of a key: {_COPY}") from None
    if public.group_public_key != layout.cluster.ring_key or share.identifier != server.member.id + 1:
        raise ClusterDamaged(f"{directory / SHARE_KEY} is not of the ring in {CLUSTER_FILE}: {_COPY}")


@contextmanager
def _damage(layout: Layout, part: str) -> Iterator[None]:
    """A file of a cluster that is not there is damage, not something that was never made."""
    try:
        yield
    except NotFound as error:
        missing = str(error).partition(":")[0]
        raise ClusterDamaged(f"{layout.directory} is no whole cluster ({part}): {missing}; {_COPY}") from None


# --- making ------------------------------------------------------------------------------------------------------


def create(directory: Path, ring: int, storage: int = 0) -> Layout:
    """Make a new cluster with a ring of `ring` servers and `storage` others; the directory may exist when it is empty.

    Raises UsageError when it is not, or cannot be written.
    """
    if ring not in SIZES:
        raise UsageError(f"a ring has {', '.join(map(str, SIZES))} servers, not {ring}")
    if not 0 <= storage <= MOST_STORAGE:
        raise UsageError(f"a local cluster has up to {MOST_STORAGE} storage servers, not {storage}")
    building = _beside(directory)
    try:
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _clear(directory)
        building.mkdir(mode=0o700)
        try:
            with _busy(building):
                cluster = _fill(building, ring, storage)
                building.rename(directory)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except PondError:
        raise
    except OSError as error:
        if directory.exists():
            raise UsageError(f"{directory} is in use ({error.strerror}): name another directory") from None
        raise UsageError(f"cannot make {directory} ({error.strerror}): name a directory that you can write") from None
    return Layout(directory, cluster)


def discard(directory: Path) -> None:
    """Remove a cluster's directory, locked by the caller, with all that is in it. Raises UsageError."""
    going = _beside(directory)
    try:
        directory.rename(going)
        shutil.rmtree(going)
    except OSError as error:
        raise UsageError(
            f"cannot remove {directory} ({error.strerror}): check who owns it, remove it by hand"
        ) from None


def _beside(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.{secrets.token_hex(8)}")


@contextmanager
def _busy(directory: Path) -> Iterator[None]:
    """Keeps others from clearing this directory away; the kernel forgets it when the process ends."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _clear(directory: Path) -> None:
    """Remove what processes that ended half-way have left beside a directory."""
    leftover = re.compile(rf"\.{re.escape(directory.name)}\.[0-9a-f]{{16}}")
    for found in directory.parent.iterdir():
        if leftover.fullmatch(found.name) and found.is_dir():
            with suppress(OSError), _busy(found):  # unless somebody is at work in it
                shutil.rmtree(found)


def _fill(directory: Path, ring: int, storage: int) -> ClusterFile:
    threshold = (ring - 1) // 3 + 1
    public, shares = deal(Secret(os.urandom(64 * threshold)), ring, threshold)
    ports = iter(free_ports(PORTS_PER_RING_SERVER * ring + PORTS_PER_STORAGE_SERVER * storage))
    (directory / SERVERS).mkdir(mode=0o700)
    members = []
    for identity, share in enumerate(shares):
        place = directory / SERVERS / ring_name(identity)
        members.append(
            Member(
                id=identity,
                public_key=_new_server(place, NodeConfig(id=identity, cluster=_CLUSTER)),
                peer_address=f"tcp://{HOST}:{next(ports)}",
                client_address=f"tcp://{HOST}:{next(ports)}",
                metrics_address=f"{HOST}:{next(ports)}",
                overlay_address=f"tcp://{HOST}:{next(ports)}",
            )
        )
        keys.write_key(place / SHARE_KEY, keys.Kind.SHARE, key_share.encode(share, public))
    others = [
        StorageMember(
            id=identity,
            public_key=_new_server(
                directory / SERVERS / storage_name(identity), NodeConfig(id=identity, cluster=_CLUSTER, role="storage")
            ),
            overlay_address=f"tcp://{HOST}:{next(ports)}",
            client_address=f"tcp://{HOST}:{next(ports)}",
            metrics_address=f"{HOST}:{next(ports)}",
        )
        for identity in range(storage)
    ]
    keys.write_key(directory / OWNER_KEY, keys.Kind.OWNER, Secret(os.urandom(keys.KEY_BYTES)))
    cluster = ClusterFile(
        ring_id=Hex(os.urandom(32)),
        epoch=0,
        ring_key=Hex(public.group_public_key),
        members=tuple(members),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        storage=tuple(others),
    )
    config.write(directory / CLUSTER_FILE, cluster)
    return cluster


def _new_server(place: Path, settings: NodeConfig) -> Hex:
    """Make a server's directory; its public key."""
    seed = Secret(os.urandom(keys.KEY_BYTES))
    keys.write_key(place / NODE_KEY, keys.Kind.NODE, seed)
    config.write(place / NODE_CONFIG, settings)
    return Hex(Ed25519Signer(seed).public_key)


def free_ports(count: int, taken: Collection[int] = ()) -> list[int]:
    """Ports that nobody listens at now, and not those that are `taken` by whoever is down.

    They lie below those that the kernel gives to outgoing connections: a server that is down for a while must find its
    own port free again. Raises Unavailable.
    """
    lowest_outgoing = _lowest_outgoing_port()
    ports: list[int] = []
    with ExitStack() as held:
        for _ in range(count * TRIES_PER_PORT):
            listener = held.enter_context(socket.socket())
            wanted = random.randrange(LOWEST_PORT, lowest_outgoing) if lowest_outgoing > LOWEST_PORT else 0
            try:
                listener.bind((HOST, wanted))
            except OSError:
                listener.close()
                continue
            if listener.getsockname()[1] in taken:
                continue
            ports.append(listener.getsockname()[1])
            if len(ports) == count:
                return ports
    raise Unavailable(f"found no {count} free ports at {HOST}: stop programs that listen there")


def _lowest_outgoing_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0

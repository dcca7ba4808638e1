"""Golden data directories: stopped clusters as earlier versions of Pond left them. Each must open for ever.

`data-directories/N.tar.xz` holds a whole cluster: public file, keys, four servers' stores, and an exported bundle
beside it. `N.json` says what is in it. The keys were made for these tests and protect nothing.
The storage engine's files are those of a machine with 64-bit words, little-endian.

When a stored format changes, a new directory is made beside the old ones, which stay as they are: what cannot read them
is a bug. `python -m tests.vectors.data_directories N` makes one with the code as it is, and refuses a number that is
taken. It starts real servers and takes about ten seconds.
"""

import contextlib
import hashlib
import json
import random
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

import pond
from bft import key_share, log
from bft.membership import Membership
from bft.replica import Replica
from bft.signatures import Ed25519Signer, Ed25519Verifier
from bft.threshold import Frost
from bft.types import AgreedTime, Epoch, ReplicaId
from cluster import launch, layout, probe
from pond import config, keys, storage
from pond.node.disk import Disk
from pond.node.ring import RingServer
from pond.node.server import STORE, TABLES
from pond.node.service import Service
from pond.servers import ring_name
from pond.storage import DATA_FILE, JOURNAL_FILE, Storage

DIRECTORY = Path(__file__).parent / "data-directories"
CLUSTER = "cluster"
BUNDLE = "notes.pond"
"""What the archive holds."""

KEPT = ("cluster.json", "owner.key", "node.json", "node.key", "share.key", "started", DATA_FILE, JOURNAL_FILE)
"""Names of a cluster's files that last; logs, locks and process files do not."""

PORTS_PER_SERVER = 3
"""Of the versions that left these directories behind: there was no overlay."""

NUMBERS = sorted(int(path.stem) for path in DIRECTORY.glob("*.json"))

START = bytes(16)


class Golden(NamedTuple):
    """A golden directory, unpacked."""

    directory: Path
    bundle: Path
    expected: Any


def unpack(number: int, to: Path) -> Golden:
    """A copy, to be used and changed. Ports are those of today: others may have the old ones by now."""
    with tarfile.open(DIRECTORY / f"{number}.tar.xz") as archive:
        if hasattr(tarfile, "data_filter"):  # Debian 12's Python has none; the archive is our own
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(to)
    directory = to / CLUSTER
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    file = directory / "cluster.json"
    cluster = config.read(file, config.ClusterFile)
    ports = layout.free_ports(PORTS_PER_SERVER * len(cluster.members))
    members = []
    for member in cluster.members:
        peer, client, metrics = (ports.pop() for _ in range(PORTS_PER_SERVER))
        members.append(
            msgspec.structs.replace(
                member,
                peer_address=f"tcp://{layout.HOST}:{peer}",
                client_address=f"tcp://{layout.HOST}:{client}",
                metrics_address=f"{layout.HOST}:{metrics}",
            )
        )
    file.unlink()
    config.write(file, msgspec.structs.replace(cluster, members=tuple(members)))
    return Golden(directory, to / BUNDLE, json.loads((DIRECTORY / f"{number}.json").read_text()))


class Opened(NamedTuple):
    """One server's storage and the core that has taken up what it holds, without a socket."""

    storage: Storage
    membership: Membership
    core: RingServer


def open_server(directory: Path, identity: int) -> Opened:
    """A server of the cluster in `directory`; close its storage."""
    place = directory / layout.SERVERS / ring_name(identity)
    cluster = config.read(directory / "cluster.json", config.ClusterFile)
    membership = Membership(
        bytes(cluster.ring_id),
        Epoch(cluster.epoch),
        bytes(cluster.ring_key),
        tuple(bytes(member.public_key) for member in cluster.members),
    )
    share, public = key_share.decode(keys.read_key(place / layout.SHARE_KEY, keys.Kind.SHARE))
    store = Storage(place / STORE, TABLES, verify_seconds=20)
    replica = Replica(
        ReplicaId(identity),
        membership,
        Ed25519Signer(keys.read_key(place / layout.NODE_KEY, keys.Kind.NODE)),
        Ed25519Verifier(),
        Frost(share, public),
        Service(),
        Disk(store),
    )
    core = RingServer(replica)
    core.started(AgreedTime(2_000_000_000_000_000), START)
    return Opened(store, membership, core)


def describe_server(directory: Path, identity: int) -> dict[str, Any]:
    """How far a server had come."""
    opened = open_server(directory, identity)
    replica = opened.core.replica
    try:
        return {
            "executed": replica.execution.executed,
            "stable": replica.checkpoints.stable,
            "view": log.read_standing(opened.storage).view,
            "state_root": replica.execution.tree.root.hex(),
        }
    finally:
        opened.storage.close()


# --- making one --------------------------------------------------------------------------------------------------


def _fill(directory: Path, bundle: Path) -> dict[str, Any]:
    """Some of everything that is stored: versions of all kinds, several blocks, an aborted update, a changed view, and
    enough batches for a checkpoint."""
    draw = random.Random(1)
    with pond.connect(directory) as store:
        notes = store.create("notes", block_size=4096)
        notes.write(b"one")
        notes.append(b" two")
        with contextlib.suppress(pond.Aborted):
            notes.update().when(pond.version_is(7)).append(b" never").commit()
        large = store.create("several blocks", block_size=4096)
        large.write(draw.randbytes(20_000))
        launch.kill(directory, ("ring-0",))
        large.append(draw.randbytes(5_000))
        large.update().insert(4096, b"in between").commit()
        launch.restart(directory, ("ring-0",))
        gone = store.create("deleted")
        gone.write(b"was here")
        gone.delete()
        for number in range(70):
            notes.append(b" %d" % number)
        notes.update().truncate(7).set_metadata(b"about these notes").commit()
        notes.restore(version=2)
        with bundle.open("wb") as file:
            notes.export(file, with_data=True)
        return {
            "ring_key": store.ring_key.hex(),
            "objects": {
                found.name: {"aguid": found.aguid.hex(), "history": _history(store.open(found.name))}
                for found in store.stats(deleted=True)
            },
        }


def _history(thing: pond.Object) -> list[dict[str, Any]]:
    entries = []
    for entry in thing.history():
        entries.append(
            {
                "version": entry.version,
                "vguid": entry.vguid.hex(),
                "size": entry.size,
                "time": entry.time.isoformat(),
                "status": entry.status,
                "sha256": hashlib.sha256(thing.read(version=entry.version)).hexdigest()
                if entry.status == "committed"
                else None,
            }
        )
    return entries


def make(number: int) -> None:
    """Make data directory `number`."""
    if number in NUMBERS:
        raise SystemExit(f"data directory {number} is there, and stays as it is: take the next number")
    DIRECTORY.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        directory, bundle = Path(temporary) / CLUSTER, Path(temporary) / BUNDLE
        launch.up(directory, ring=4)
        try:
            expected = _fill(directory, bundle)
            _kill_all(layout.open_layout(directory))
        finally:
            launch.down(directory)
        expected["formats"] = {"pond": version("pond"), "storage": storage.FORMAT.decode(), "log": log.FORMAT}
        with tarfile.open(DIRECTORY / f"{number}.tar.xz", "w:xz", preset=9) as archive:
            for path in sorted(directory.rglob("*")):
                if path.name in KEPT:
                    archive.add(path, path.relative_to(temporary), filter=_anonymous)
            archive.add(bundle, BUNDLE, filter=_anonymous)
        expected["servers"] = [describe_server(directory, identity) for identity in range(4)]
    (DIRECTORY / f"{number}.json").write_text(json.dumps(expected, indent=1) + "\n")


def _kill_all(cluster: layout.Layout) -> None:
    """What the journals hold is in no commit. An empty batch comes first: its votes are synced, and what ran before."""
    members = [server.member for server in cluster.servers]
    last = max(status.sequence for status in probe.statuses(members, 10).values())
    probe.statuses(members, 10, lambda status: status.sequence > last)
    launch.kill(cluster.directory, tuple(server.name for server in cluster.servers))


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    make(int(sys.argv[1]))

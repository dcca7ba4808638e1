"""Servers whose disk was emptied, or lies: they come back with what the others have, and vote again when it is safe."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from cluster import launch, layout, probe
from cluster.check import standing
from cluster.layout import Layout
from pond.model.tables import BLOCKS
from pond.node.server import DAMAGED, STORE, TABLES
from pond.protocol import Condition, ServerStatus
from pond.storage import DATA_FILE, JOURNAL_FILE, Storage
from tests.process.commands import COMMAND_SECONDS, check_failed, pond, run
from tests.process.conftest import stop

pytestmark = pytest.mark.process

LARGE = 2_000_000


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Layout]:
    made = layout.create(tmp_path / "cluster", 4)
    try:
        launch.up(made.directory)
        yield made
    finally:
        stop(made.directory)


def until(cluster: Layout, server: int, *conditions: Condition) -> ServerStatus:
    """What a server says once it is in one of these conditions."""
    member = cluster.servers[server].member
    said = probe.statuses([member], COMMAND_SECONDS, lambda status: status.condition in conditions)
    assert server in said, f"server {server} never said {conditions}"
    assert said[server].condition in conditions, said[server]
    return said[server]


def fill(cluster: Layout) -> dict[str, bytes]:
    """Some objects, small ones and a large one, of several versions."""
    choices = random.Random(1)
    contents = {f"small-{number}": choices.randbytes(300) for number in range(4)} | {"large": choices.randbytes(LARGE)}
    for name, content in contents.items():
        pond(cluster.directory, "put", name, stdin=b"first")
        pond(cluster.directory, "put", name, stdin=content)
    return contents


def check_votes_again(cluster: Layout, server: int, contents: dict[str, bytes]) -> None:
    """With another server down, no update commits without this one, and no read is proved."""
    other = next(name for name in ("ring-3", "ring-2") if name != cluster.servers[server].name)
    pond(cluster.directory, "cluster", "kill", other)
    pond(cluster.directory, "put", "after", stdin=b"it votes again")
    for name, content in contents.items():
        assert pond(cluster.directory, "get", name) == content
    assert pond(cluster.directory, "get", "after") == b"it votes again"
    pond(cluster.directory, "verify", "large")


def test_a_server_with_an_emptied_disk_rejoins_by_itself(cluster: Layout) -> None:
    contents = fill(cluster)
    pond(cluster.directory, "cluster", "kill", "ring-1")
    for path in (cluster.servers[1].directory / STORE).iterdir():
        path.unlink()
    pond(cluster.directory, "cluster", "restart", "ring-1")
    learning = until(cluster, 1, Condition.LEARNING, Condition.SERVING)
    assert learning.condition != Condition.LEARNING or "lost its votes" in learning.detail
    until(cluster, 1, Condition.SERVING)
    check_votes_again(cluster, 1, contents)


@pytest.mark.parametrize(("file", "seed"), [(DATA_FILE, 0), (DATA_FILE, 1), (JOURNAL_FILE, 0)])
def test_flipped_bytes_are_found_and_the_server_is_mended(cluster: Layout, file: str, seed: int) -> None:
    contents = fill(cluster)
    pond(cluster.directory, "cluster", "kill", "ring-1")
    path = cluster.servers[1].directory / STORE / file
    data = bytearray(path.read_bytes())
    choices = random.Random(seed)
    for _ in range(30):
        data[choices.randrange(len(data))] ^= 1 << choices.randrange(8)
    path.write_bytes(data)
    pond(cluster.directory, "cluster", "restart", "ring-1")
    until(cluster, 1, Condition.SERVING)
    check_votes_again(cluster, 1, contents)


def test_a_block_that_rots_is_mended_and_said_in_status(cluster: Layout) -> None:
    """Blocks are most of what a server holds. The walk begins with the start, and takes a moment on a small store; what
    a server executes only then, as it does with the last batch before it was killed, waits for the next walk."""
    fill(cluster)
    pond(cluster.directory, "put", "the last batch", stdin=b"")
    standing.wait_until_in_step(cluster, ("ring-1",), COMMAND_SECONDS)
    pond(cluster.directory, "cluster", "kill", "ring-1")
    change_a_block(cluster.servers[1].directory / STORE)
    pond(cluster.directory, "cluster", "restart", "ring-1")
    member = cluster.servers[1].member
    said = probe.statuses([member], COMMAND_SECONDS, lambda status: "mended" in status.detail)
    assert "mended" in said[1].detail, said[1]
    assert said[1].condition == Condition.SERVING
    assert not (cluster.servers[1].directory / DAMAGED).exists()
    assert b"mended" in pond(cluster.directory, "cluster", "status")


def change_a_block(directory: Path) -> None:
    """One bit of a large block, wherever in the file it stands."""
    storage = Storage(directory, TABLES)
    values = [storage.get(BLOCKS, key) or b"" for key in storage.keys(BLOCKS, b"", 1000)]
    storage.close()
    part = max(values, key=len)[1000:1100]
    data = bytearray((directory / DATA_FILE).read_bytes())
    place = data.find(part)
    assert place > 0
    while place > 0:
        data[place] ^= 1
        place = data.find(part, place)
    (directory / DATA_FILE).write_bytes(data)


def test_a_ring_that_lost_more_disks_than_may_fail_says_that_it_is_over(cluster: Layout, tmp_path: Path) -> None:
    """Nothing ends the silence of two: what there is can be saved, and nobody waits for more."""
    pond(cluster.directory, "put", "notes", stdin=b"to be saved")
    names = ("ring-2", "ring-3")
    pond(cluster.directory, "cluster", "kill", *names)
    for server in (2, 3):
        shutil.rmtree(cluster.servers[server].directory / STORE)
    pond(cluster.directory, "cluster", "restart", *names)
    reached = max(until(cluster, server, Condition.SERVING).sequence for server in (0, 1))
    lost = [cluster.servers[server].member for server in (2, 3)]
    has_run = probe.statuses(lost, COMMAND_SECONDS, lambda status: status.sequence >= reached)
    assert {status.condition for status in has_run.values()} == {Condition.LEARNING}
    said = pond(cluster.directory, "cluster", "status").decode()
    assert "ring-2, ring-3 lost their votes with their disks, and of 4 servers only one may" in said
    pond(cluster.directory, "export", "notes", "--data", "-o", str(tmp_path / "notes.pond"))
    assert pond(cluster.directory, "get", "notes", "--consistency", "any") == b"to be saved"
    pond(cluster.directory, "cluster", "down")
    began = monotonic()
    check_failed(run(cluster.directory, "cluster", "up"), 5, "ring-2, ring-3 lost their votes", "pond cluster restart")
    assert monotonic() - began < launch.START_SECONDS / 2
    pond(cluster.directory, "cluster", "restart", *(server.name for server in cluster.servers))
    assert pond(cluster.directory, "get", "notes", "--consistency", "any") == b"to be saved"

"""Servers whose disk is full: they step aside and say so, nothing is lost, and they come back by themselves."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import msgspec
import pytest

import pond
from cluster import launch, layout, probe
from cluster.layout import Layout
from pond import config
from pond.client import objects
from pond.client.ring import Consistency
from pond.protocol import Condition, ServerStatus
from tests.process.commands import COMMAND_SECONDS
from tests.process.conftest import stop

pytestmark = pytest.mark.process

MIB = 1024 * 1024
PIECE_BYTES = 60_000
"""Small enough to travel inside the update, so that no upload is refused before ordering fills the disk."""

AT_ONCE = 10


def set_quota(place: layout.ServerPlace, quota_bytes: int | None) -> None:
    path = place.directory / layout.NODE_CONFIG
    config.write(path, msgspec.structs.replace(config.read(path, config.NodeConfig), quota_bytes=quota_bytes))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Layout]:
    """Servers 2 and 3 have little room, server 3 less."""
    made = layout.create(tmp_path / "cluster", 4)
    set_quota(made.servers[2], 22 * MIB)
    set_quota(made.servers[3], 16 * MIB)
    try:
        launch.up(made.directory)
        yield made
    finally:
        stop(made.directory)


def wait_for(cluster: Layout, servers: tuple[int, ...], enough: Callable[[ServerStatus], bool]) -> list[ServerStatus]:
    """What these servers say, as soon as each says enough."""
    members = [cluster.servers[server].member for server in servers]
    said = probe.statuses(members, COMMAND_SECONDS, enough)
    assert len(said) == len(servers), said
    assert all(map(enough, said.values())), said
    return [said[server] for server in servers]


def events(cluster: Layout, server: int, event: str) -> list[dict[str, object]]:
    lines = map(json.loads, cluster.servers[server].log.read_text().splitlines())
    return [line for line in lines if line["event"] == event]


def piece(number: int) -> bytes:
    return hashlib.shake_128(b"piece %d" % number).digest(PIECE_BYTES)


class Writer:
    """Writes objects, ten at a time where there are many, and remembers which were acknowledged."""

    def __init__(self, store: objects.Store, acknowledged: list[int]) -> None:
        self._store = store
        self.acknowledged = acknowledged

    async def write(self, number: int) -> None:
        await (await self._store.create(f"object {number}")).write(piece(number))
        self.acknowledged.append(number)

    async def write_until(self, server: int, condition: Condition, first: int) -> int:
        """Also when writes come to wait; returns the next number."""
        until = monotonic() + COMMAND_SECONDS
        while monotonic() < until:
            status = (await self._store.status())[server]
            if status is not None and status.condition == condition:
                return first
            came = await asyncio.gather(*map(self.write, range(first, first + AT_ONCE)), return_exceptions=True)
            assert all(error is None or isinstance(error, pond.TimedOut) for error in came), came
            first += AT_ONCE
        raise AssertionError(f"server {server} is not {condition} after {len(self.acknowledged)} writes")

    async def check_all(self, consistency: Consistency) -> None:
        for first in range(0, len(self.acknowledged), AT_ONCE):
            some = self.acknowledged[first : first + AT_ONCE]
            await asyncio.gather(*(self._check(number, consistency) for number in some))

    async def _check(self, number: int, consistency: Consistency) -> None:
        read = await (await self._store.open(f"object {number}")).read(consistency=consistency)
        assert read == piece(number), f"object {number}"


def test_full_servers_step_aside_and_come_back(cluster: Layout) -> None:
    """One full backup costs nothing; with two, writes wait and reads go on; given room, both are back within seconds
    and have everything that was acknowledged."""

    async def fill() -> list[int]:
        async with pond.aio.connect(cluster.directory, timeout=60) as store:
            writer = Writer(store, [])
            done = await writer.write_until(3, Condition.DISK_FULL, 0)
            for number in range(done, done + 20):
                await writer.write(number)
            await writer.check_all("latest")
            assert sorted(writer.acknowledged) == list(range(done + 20))
        async with pond.aio.connect(cluster.directory, timeout=2) as impatient:
            writer = Writer(impatient, writer.acknowledged)
            done = await writer.write_until(2, Condition.DISK_FULL, done + 20)
            with pytest.raises(pond.TimedOut):
                await writer.write(done)
            await writer.check_all("any")
        return writer.acknowledged

    acknowledged = asyncio.run(fill())
    full = wait_for(cluster, (2, 3), lambda status: status.condition == Condition.DISK_FULL)
    assert all("quota_bytes" in status.detail for status in full), full
    assert not any(status.view_active for status in full)
    aside = [line["condition"] for line in events(cluster, 3, "stepped aside")]
    assert set(aside) == {Condition.DISK_FULL}
    assert len(aside) < 5, "where a burst was larger than what is left, it comes back and takes what is smaller"

    began = monotonic()
    for server in (2, 3):
        set_quota(cluster.servers[server], 256 * MIB)
    wait_for(cluster, (2, 3), lambda status: status.condition == Condition.SERVING)
    assert monotonic() - began < 20
    for server in (2, 3):
        assert len(events(cluster, server, "back")) == len(events(cluster, server, "stepped aside"))
    launch.kill(cluster.directory, ("ring-1",))  # from now on both are needed for everything

    async def check() -> None:
        async with pond.aio.connect(cluster.directory, timeout=60) as store:
            writer = Writer(store, acknowledged)
            for number in range(1000, 1005):
                await writer.write(number)
            await writer.check_all("latest")

    asyncio.run(check())

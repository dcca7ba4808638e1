"""One server as a process is, in this process: what a disk that refuses, or lies, does to it."""

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from bft.effects import Write
from bft.execution import StateDamaged
from cluster import layout
from pond import config, keys
from pond.client.asking import Asker
from pond.errors import StorageBusy, StorageDamaged, StorageError, StorageFull, StorageRotten
from pond.logs import Log
from pond.model.tables import BLOCKS, NODES
from pond.node import server as module
from pond.node.server import DAMAGED, LOST, STORE, TABLES, Server
from pond.protocol import (
    MAX_MESSAGE_BYTES,
    Blocks,
    Condition,
    GetBlocks,
    GetStatus,
    Latest,
    Overloaded,
    PutBlocks,
    Question,
    ReadObject,
    Reply,
    ServerStatus,
)
from pond.storage import Storage
from pond.transport import Remote, ServerLinks
from tests.unit.pond.test_storage_rot import overwrite

DEADLINE_SECONDS = 20.0


class Faulty(Storage):
    """A storage whose disk fails when a test says so."""

    failure: Exception | None = None
    opened = 0

    def __init__(
        self, directory: Path, tables: tuple[str, ...], quota_bytes: int | None, verify_seconds: float
    ) -> None:
        super().__init__(directory, tables, quota_bytes, verify_seconds)
        Faulty.opened += 1

    def free_bytes(self) -> int:
        if Faulty.failure is not None:
            raise Faulty.failure
        return super().free_bytes()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> layout.ServerPlace:
    """A server of a new ring that never sees the others."""
    monkeypatch.setattr(module, "Storage", Faulty)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr("pond.node.life.ROOM_SECONDS", 0.01)
    Faulty.failure = None
    Faulty.opened = 0
    return layout.create(tmp_path / "cluster", 4).servers[1]


class Client:
    """Asks the one server."""

    def __init__(self, place: layout.ServerPlace) -> None:
        remote = Remote(bytes(place.member.public_key), place.member.client_address)
        self._asker = Asker(lambda received: ServerLinks({0: remote}, received, MAX_MESSAGE_BYTES), 1, os.urandom)
        self.close = self._asker.close

    async def ask(self, make: Callable[[int], Question]) -> Reply:
        until = self._asker.loop.time() + DEADLINE_SECONDS
        with self._asker.open() as talk:
            data = talk.encode(make(talk.ask))
            while self._asker.loop.time() < until:
                talk.send(0, data)
                answer = await talk.next(self._asker.loop.time() + 0.2)
                if answer is not None:
                    return answer[1]
        raise AssertionError("the server does not answer")

    async def status(self) -> ServerStatus:
        reply = await self.ask(GetStatus)
        assert isinstance(reply, ServerStatus)
        return reply

    async def until(self, condition: Condition) -> ServerStatus:
        until = self._asker.loop.time() + DEADLINE_SECONDS
        while self._asker.loop.time() < until:
            status = await self.status()
            if status.condition == condition:
                return status
        raise AssertionError(f"{status.condition}, not {condition}")


def run(place: layout.ServerPlace, test: Callable[[Server, Client], Awaitable[None]]) -> None:
    """The test, while the server runs."""

    async def both() -> None:
        log = Log("server", place.log)
        server = Server(place.directory, log)
        running = asyncio.ensure_future(server.run())
        client = Client(place)
        testing = asyncio.ensure_future(test(server, client))
        try:
            await asyncio.wait((running, testing), return_when=asyncio.FIRST_COMPLETED)
            if testing.done():
                server._stop()
                await testing
            await running
        finally:
            testing.cancel()
            client.close()
            log.close()

    asyncio.run(both())


@pytest.mark.parametrize(
    ("failure", "condition"),
    [
        (StorageFull("no room: make some"), Condition.DISK_FULL),
        (StorageError("input/output error: check the disk"), Condition.DISK_FAILING),
    ],
)
def test_a_disk_that_refuses_for_a_while_makes_it_step_aside_for_that_while(
    place: layout.ServerPlace, failure: Exception, condition: Condition
) -> None:
    async def test(server: Server, client: Client) -> None:
        assert (await client.status()).condition == Condition.SERVING
        Faulty.failure = failure
        status = await client.until(condition)
        assert status.detail == str(failure)
        assert not status.view_active
        questions: list[Callable[[int], Question]] = [
            lambda ask: GetBlocks(ask, [bytes(32)]),
            lambda ask: PutBlocks(ask, [b"block"]),
            lambda ask: ReadObject(ask, bytes(32), Latest(), True),
        ]
        for question in questions:
            assert isinstance(await client.ask(question), Overloaded)
        Faulty.failure = None
        assert (await client.until(Condition.SERVING)).detail == ""
        assert server._metrics.registry.get_sample_value("pond_serving") == 1
        assert server._metrics.registry.get_sample_value("pond_stepped_aside_total", {"condition": str(condition)}) == 1

    run(place, test)


def test_a_disk_that_is_full_at_the_start_is_waited_for(place: layout.ServerPlace) -> None:
    Faulty.failure = StorageFull("no room: make some")

    async def test(server: Server, client: Client) -> None:
        assert not (await client.until(Condition.DISK_FULL)).view_active
        Faulty.failure = None
        assert (await client.until(Condition.SERVING)).view_active

    run(place, test)


def test_a_disk_that_is_gone_is_waited_for(place: layout.ServerPlace) -> None:
    async def test(server: Server, client: Client) -> None:
        await client.until(Condition.SERVING)
        Faulty.failure = StorageError("input/output error: check the disk")
        await client.until(Condition.DISK_FAILING)
        (place.directory / STORE).rename(place.directory / "elsewhere")
        Faulty.failure = None
        while "is gone" not in (await client.until(Condition.DISK_FAILING)).detail:
            pass
        (place.directory / "elsewhere").rename(place.directory / STORE)
        assert (await client.until(Condition.SERVING)).detail == ""

    run(place, test)


def test_a_server_says_how_large_a_write_it_has_room_for(place: layout.ServerPlace) -> None:
    """A quarter of what is free: one client leaves as much to others, and all together half to what commits."""
    settings = config.read(place.directory / layout.NODE_CONFIG, config.NodeConfig)
    config.write(place.directory / layout.NODE_CONFIG, msgspec.structs.replace(settings, quota_bytes=16 * 1024 * 1024))

    async def test(server: Server, client: Client) -> None:
        status = await client.until(Condition.SERVING)
        assert status.upload_bytes == pytest.approx(status.free_bytes / 4, rel=0.01)
        Faulty.failure = StorageFull("no room: make some")
        assert (await client.until(Condition.DISK_FULL)).upload_bytes == 0

    run(place, test)


ROTTEN = StorageRotten("log", b"key")


@pytest.mark.parametrize("failure", [ROTTEN, StorageDamaged("a page is not what it was"), StateDamaged("another root")])
def test_a_disk_that_lied_about_votes_is_not_believed_again(place: layout.ServerPlace, failure: Exception) -> None:
    async def test(server: Server, client: Client) -> None:
        await client.until(Condition.SERVING)
        Faulty.failure = failure
        assert (await client.until(Condition.DISK_DAMAGED)).detail == str(failure)
        Faulty.failure = None
        learning = await client.until(Condition.LEARNING)
        assert "lost its votes" in learning.detail
        assert (place.directory / DAMAGED / "data.mdb").exists(), "for whoever wants to look into it"

    run(place, test)


@pytest.mark.parametrize("failure", [ROTTEN, StorageDamaged("a page is not what it was")])
def test_a_storage_damaged_at_the_start_is_set_aside_and_silence_outlasts_restarts(
    place: layout.ServerPlace, failure: Exception
) -> None:
    async def test(server: Server, client: Client) -> None:
        await client.until(Condition.DISK_DAMAGED)
        Faulty.failure = None
        await client.until(Condition.LEARNING)

    async def again(server: Server, client: Client) -> None:
        assert "lost its votes" in (await client.until(Condition.LEARNING)).detail

    Faulty.failure = failure
    run(place, test)
    run(place, again)


@pytest.mark.parametrize("at_start", [False, True])
def test_a_damaged_storage_that_cannot_be_set_aside_yet_is_set_aside_later(
    place: layout.ServerPlace, monkeypatch: pytest.MonkeyPatch, at_start: bool
) -> None:
    """The disk is full as well, and takes no note of the lost votes: a server that gave up then never came back."""
    write = keys.write_durably
    refused: list[Path] = []

    def refuse(path: Path, data: bytes, *, replace: bool) -> None:
        if path.name == LOST and len(refused) < 3:
            refused.append(path)
            raise OSError(errno.ENOSPC, "no space left on device")
        write(path, data, replace=replace)

    async def test(server: Server, client: Client) -> None:
        if not at_start:
            await client.until(Condition.SERVING)
            Faulty.failure = ROTTEN
        await client.until(Condition.DISK_DAMAGED)
        Faulty.failure = None
        assert "lost its votes" in (await client.until(Condition.LEARNING)).detail
        assert len(refused) == 3

    monkeypatch.setattr(keys, "write_durably", refuse)
    Faulty.failure = ROTTEN if at_start else None
    run(place, test)


def test_a_storage_that_is_gone_is_begun_anew_in_silence(place: layout.ServerPlace) -> None:
    async def serves(server: Server, client: Client) -> None:
        await client.until(Condition.SERVING)

    async def learns(server: Server, client: Client) -> None:
        assert "lost its votes" in (await client.until(Condition.LEARNING)).detail

    run(place, serves)
    (place.directory / STORE / "data.mdb").unlink()
    run(place, learns)


def test_a_fault_of_ours_at_the_start_is_told_to_who_starts_it(place: layout.ServerPlace) -> None:
    async def test(server: Server, client: Client) -> None:
        await client.status()

    Faulty.failure = AssertionError("our fault")
    with pytest.raises(AssertionError):
        run(place, test)


def test_a_directory_in_use_is_told_to_who_starts_it(place: layout.ServerPlace) -> None:
    async def test(server: Server, client: Client) -> None:
        await client.status()

    other = Storage(place.directory / STORE, TABLES)
    with pytest.raises(StorageBusy):
        run(place, test)
    other.close()


def test_a_fault_of_ours_is_not_survived(place: layout.ServerPlace) -> None:
    async def test(server: Server, client: Client) -> None:
        await client.until(Condition.SERVING)
        Faulty.failure = AssertionError("our fault")
        while True:
            await client.status()

    with pytest.raises(AssertionError, match="our fault"):
        run(place, test)


def test_a_rotten_block_is_one_that_this_server_cannot_give(place: layout.ServerPlace) -> None:
    names = [bytes([number]) * 32 for number in range(4)]
    storage = Storage(place.directory / STORE, TABLES)
    storage.write([Write(table, name, b"data") for table in (BLOCKS, NODES) for name in names[:2]])
    storage.write([Write(BLOCKS, names[2], b"data"), Write(NODES, names[3], b"data")])
    storage.commit()
    storage.close()
    for table, name in ((BLOCKS, names[2]), (NODES, names[3])):
        overwrite(place.directory / STORE, table, name, b"dada....")

    async def test(server: Server, client: Client) -> None:
        reply = await client.ask(lambda ask: GetBlocks(ask, names))
        assert isinstance(reply, Blocks)
        assert reply.blocks == [b"data", b"data", None, None]
        assert server._life is not None
        disk = server._life.disk
        assert list(disk.rotten) == [(BLOCKS, names[2]), (NODES, names[3])]
        disk.write((Write(NODES, names[3], b"mended"),))
        reply = await client.ask(lambda ask: GetBlocks(ask, names[2:]))
        assert isinstance(reply, Blocks)
        assert reply.blocks == [None, b"mended"]
        assert list(disk.rotten) == [(BLOCKS, names[2])]
        assert (await client.status()).condition == Condition.SERVING

    run(place, test)

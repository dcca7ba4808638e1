"""Storage servers as processes are, in this process: what they answer, and what they refuse to start with."""

import asyncio
import os
import shutil
import signal
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest

from cluster import layout
from pond import config
from pond.client import overlay as client
from pond.client.asking import Asker
from pond.errors import ClusterDamaged, TimedOut, Unavailable
from pond.logs import Log
from pond.node import overlay as module
from pond.node.storage_server import StorageServer
from pond.protocol import (
    MAX_MESSAGE_BYTES,
    GetBlocks,
    GetOverlay,
    OverlayStatus,
    Question,
    Refused,
    Reply,
)
from pond.servers import listed
from pond.transport import Remote, ServerLinks

DEADLINE_SECONDS = 20.0


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> layout.Layout:
    """A cluster of which only storage servers run: the first of them begins the overlay at once."""
    monkeypatch.setattr(module, "NEXT_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(module, "SIGN_SECONDS", 0.2)
    return layout.create(tmp_path / "cluster", 4, 3)


@contextmanager
def server(place: layout.Place) -> Iterator[StorageServer]:
    """As its directory has it; not yet running."""
    with closing(Log(place.name, place.log)) as log:
        yield StorageServer(place.directory, log)


async def serve(place: layout.Place) -> None:
    with server(place) as found:
        await found.run()


class Client:
    """Asks one server, also what is no question."""

    def __init__(self, place: layout.StoragePlace) -> None:
        remote = Remote(bytes(place.member.public_key), place.member.client_address)
        self._links: list[ServerLinks] = []

        def links(received: Callable[[list[tuple[int, bytes]]], None]) -> ServerLinks:
            self._links.append(ServerLinks({0: remote}, received, MAX_MESSAGE_BYTES))
            return self._links[0]

        self._asker = Asker(links, 1, os.urandom)
        self.close = self._asker.close

    def send(self, data: bytes) -> None:
        self._links[0].send(0, data)

    async def ask(self, make: Callable[[int], Question]) -> Reply:
        with self._asker.open() as conversation:
            conversation.send(0, conversation.encode(make(conversation.ask)))
            answer = await conversation.next(self._asker.loop.time() + DEADLINE_SECONDS)
            assert answer is not None, "no answer"
            return answer[1]


def run(made: layout.Layout, test: Callable[[], Awaitable[None]], running: int) -> None:
    """The test, beside so many servers that run in the same event loop."""

    async def within_deadline() -> None:
        tasks = [asyncio.create_task(serve(place)) for place in made.storage[:running]]
        try:
            await asyncio.wait_for(test(), DEADLINE_SECONDS)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(within_deadline())


def test_it_answers_what_is_asked_of_the_overlay_and_nothing_else(made: layout.Layout) -> None:
    async def test() -> None:
        one = Client(made.storage[0])
        try:
            for data in (b"", b"\xc1", b"\x93\x08", os.urandom(300)):
                one.send(data)
            status = await one.ask(GetOverlay)
            assert isinstance(status, OverlayStatus)
            refused = await one.ask(lambda ask: GetBlocks(ask, [bytes(32)]))
            assert isinstance(refused, Refused)
            assert "holds no objects" in refused.reason
        finally:
            one.close()
        url = f"http://{made.storage[0].member.metrics_address}/metrics"
        page = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read().decode())
        assert 'pond_rejected_total{reason="undecodable question"} 4.0' in page
        assert 'pond_messages_total{direction="in",type="GetOverlay"} 1.0' in page
        assert "pond_overlay_neighbours" in page

    run(made, test, 1)


def test_clients_find_one_that_answers_among_those_that_do_not(made: layout.Layout) -> None:
    async def test() -> None:
        storage = listed(made.cluster)[4:]
        key = bytes(32)
        _, found = await client.route(storage, key, DEADLINE_SECONDS)
        assert found.root in {server.guid for server in storage[:2]}
        told = await client.publish(storage[1], "thing", True, DEADLINE_SECONDS)
        assert told.object == client.object_of("thing")
        by, located = await client.locate(storage, storage[1:2], told.object, DEADLINE_SECONDS)
        assert (by, located.holder) == (storage[1], storage[1].guid)
        known = await client.neighbours(storage[0], DEADLINE_SECONDS)
        assert known.status.joined
        with pytest.raises(TimedOut, match="storage-2"):
            await client.neighbours(storage[2], 0.05)

    run(made, test, 2)


def test_a_signal_ends_it(made: layout.Layout) -> None:
    place = made.storage[0]

    async def test() -> None:
        task = asyncio.create_task(serve(place))
        one = Client(place)
        try:
            assert isinstance(await one.ask(GetOverlay), OverlayStatus)
        finally:
            one.close()
        os.kill(os.getpid(), signal.SIGTERM)
        await task

    run(made, test, 0)
    assert '"stopped"' in place.log.read_text()


def test_a_port_that_is_taken_is_said(made: layout.Layout) -> None:
    place = made.storage[0]

    async def test() -> None:
        address = place.member.overlay_address.removeprefix("tcp://").rsplit(":", 1)
        taken = await asyncio.start_server(lambda reader, writer: None, address[0], int(address[1]))
        async with taken:
            with pytest.raises(Unavailable, match="another program has the port"):
                await serve(place)

    run(made, test, 0)


@pytest.mark.parametrize("change", [{"id": 1}, {"id": 9}, {"role": "ring"}])
def test_a_directory_of_another_server_is_damage(made: layout.Layout, change: dict[str, object]) -> None:
    place = made.storage[0]
    path = place.directory / "node.json"
    config.write(path, msgspec.structs.replace(config.read(path, config.NodeConfig), **change))
    with pytest.raises(ClusterDamaged, match="restore the directory"), server(place):
        pass
    with pytest.raises(ClusterDamaged, match=r"node\.json"):
        layout.check_server(made, place)


def test_a_key_of_another_server_is_damage(made: layout.Layout) -> None:
    place, other = made.storage[:2]
    shutil.copy(other.directory / "node.key", place.directory / "node.key")
    with pytest.raises(ClusterDamaged, match="restore the directory"), server(place):
        pass
    with pytest.raises(ClusterDamaged, match=r"node\.key"):
        layout.check_server(made, place)

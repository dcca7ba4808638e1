"""Hostile bytes on both ports of a running server: it serves on, and its memory stays flat (rule 9)."""

import asyncio
import contextlib
import os
import random
import socket
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from bft.messages import Certified, Checkpoint, Commit, FetchBodies, Message, Nonces, Prepare, SignatureShare, Status
from bft.threshold import NonceCommitment
from bft.types import Epoch, Sequence, View
from cluster import launch
from cluster.layout import Layout
from pond import keys
from pond.protocol import (
    MAX_MESSAGE_BYTES,
    AtTime,
    GetBlocks,
    GetStatus,
    KeepBlocks,
    Latest,
    PutBlocks,
    Question,
    ReadHistory,
    ReadObject,
    Reply,
    ServerStatus,
    Submit,
)
from pond.transport import PeerPort, Remote, ServerLinks

pytestmark = pytest.mark.process

MESSAGES = 100_000
WARM_UP = 20_000
GROWTH_BYTES = 24 * 1024 * 1024
"""What the allocator may take beyond what it had after the warm-up; a leak of 300 bytes a message would exceed it."""

_encode = msgspec.msgpack.encode
_replies = msgspec.msgpack.Decoder(Reply)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    directory = tmp_path_factory.mktemp("hostile") / "cluster"
    layout, _ = launch.up(directory, 4)
    yield layout
    launch.down(directory, delete=True)


def resident_bytes(layout: Layout, server: int) -> int:
    [report] = [report for report in launch.report(layout) if report.server.member.id == server]
    assert report.process.pid is not None, f"server {server} is gone: {launch.tail(report.server.log)}"
    fields = Path(f"/proc/{report.process.pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def taken_in(layout: Layout, server: int) -> float:
    """How many messages the server says it has read: decoded ones, and refusals of what was not."""
    address = layout.cluster.members[server].metrics_address
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    decoded = [line for line in lines if line.startswith("pond_messages_total") and 'direction="in"' in line]
    undecoded = [line for line in lines if line.startswith('pond_rejected_total{reason="undecodable')]
    return sum(float(line.rsplit(" ", 1)[1]) for line in (*decoded, *undecoded))


class Talker:
    """A client of one server, which waits for an answer to know that all before it was read."""

    def __init__(self, layout: Layout, server: int) -> None:
        member = layout.cluster.members[server]
        self._answers: asyncio.Queue[bytes] = asyncio.Queue()
        remote = Remote(bytes(member.public_key), member.client_address)
        self._links = ServerLinks({0: remote}, self._received, MAX_MESSAGE_BYTES)
        self._asked = 10**6

    def _received(self, burst: list[tuple[int, bytes]]) -> None:
        for _, data in burst:
            self._answers.put_nowait(data)

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(30):
            while not self._links.send(0, data):
                await asyncio.sleep(0)

    async def status(self) -> ServerStatus:
        """The server's answer, asked for anew each second: answers to one who does not read may be dropped."""
        async with asyncio.timeout(30):
            while True:
                self._asked += 1
                await self.send(_encode(GetStatus(self._asked)))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        return await self._answer()

    async def _answer(self) -> ServerStatus:
        while True:
            reply = _replies.decode(await self._answers.get())
            if isinstance(reply, ServerStatus) and reply.ask == self._asked:
                return reply

    def close(self) -> None:
        self._links.close()


@asynccontextmanager
async def talking_to(layout: Layout, server: int) -> AsyncIterator[Talker]:
    talker = Talker(layout, server)
    try:
        yield talker
    finally:
        talker.close()


def mutated(draw: random.Random, valid: list[bytes]) -> bytes:
    """A valid message with bytes changed, cut, repeated or put in; or bytes at random."""
    match draw.randrange(6):
        case 0:
            return draw.randbytes(draw.randrange(200))
        case 1:
            message = bytearray(draw.choice(valid))
            for _ in range(draw.randrange(1, 4)):
                message[draw.randrange(len(message))] = draw.randrange(256)
            return bytes(message)
        case 2:
            message = bytearray(draw.choice(valid))
            return bytes(message[: draw.randrange(len(message))])
        case 3:
            return draw.choice(valid) + draw.randbytes(draw.randrange(1, 20))
        case 4:
            return b"\xdd\xff\xff\xff\xff" + draw.randbytes(8)  # an array of four thousand million
        case _:
            return draw.choice(valid)


QUESTIONS: list[Question] = [
    GetBlocks(1, [bytes(32)]),
    ReadObject(2, bytes(32), Latest(), False),
    ReadObject(3, bytes(32), AtTime(2**63 - 1), True),
    ReadHistory(4, bytes(32), 2**63 - 1, 4096),
    PutBlocks(5, [b"x"]),
    KeepBlocks(6, [bytes(32)] * 1024),
    GetStatus(2**63 - 1),
]


def check_flood(layout: Layout, server: int, send_round: Callable[[int], None]) -> None:
    """Flood in two parts and compare the server's memory after each."""
    read_before = taken_in(layout, server)
    send_round(WARM_UP)
    before = resident_bytes(layout, server)
    send_round(MESSAGES - WARM_UP)
    grown = resident_bytes(layout, server) - before
    assert taken_in(layout, server) - read_before >= 0.9 * MESSAGES, "the flood did not arrive"
    assert grown < GROWTH_BYTES, f"memory grew by {grown} bytes over {MESSAGES - WARM_UP} messages"


def test_hostile_bytes_on_the_client_port(cluster: Layout) -> None:
    draw = random.Random(1)
    valid = [_encode(question) for question in QUESTIONS]
    submit = b"\x93\x01\x07\x93\xc4\x05hello\xc4\x40" + bytes(64) + b"\x90"
    assert isinstance(msgspec.msgpack.decode(submit, type=Submit), Submit)
    valid.append(submit)

    async def send(count: int) -> None:
        async with talking_to(cluster, 0) as talker:
            for i in range(count):
                await talker.send(mutated(draw, valid))
                if i % 2000 == 0:
                    await talker.status()
            await talker.status()

    check_flood(cluster, 0, lambda count: asyncio.run(send(count)))


def test_hostile_bytes_from_a_member_on_the_peer_port(cluster: Layout) -> None:
    """Server 3 is dead and somebody has its key: all that a liar among the ring can send."""
    layout, liar, victim = cluster, 3, 1
    launch.kill(layout.directory, ("ring-3",))
    draw = random.Random(2)
    point = NonceCommitment(b"\x58" + b"\x66" * 31, b"\x58" + b"\x66" * 31)
    epoch = Epoch(layout.cluster.epoch)
    messages: list[Message] = [
        Prepare(epoch, View(0), Sequence(5), bytes(32)),
        Commit(epoch, View(0), Sequence(2**62), bytes(32)),
        Checkpoint(epoch, Sequence(64), bytes(32), bytes(64)),
        Nonces(epoch, View(0), bytes(16), 0, [point] * 3),
        SignatureShare(epoch, View(0), Sequence(3), bytes(32)),
        Certified(epoch, b"statement", bytes(64)),
        Status(epoch, View(0), True, Sequence(0), Sequence(0), Sequence(0), True, True, True, Sequence(0)),
        FetchBodies(epoch, [bytes(32)] * 3),
    ]
    valid = [_encode(message) for message in messages]
    place = layout.servers[liar]
    seed = keys.read_key(place.directory / "node.key", keys.Kind.NODE)
    members = {m.id: Remote(bytes(m.public_key), m.peer_address) for m in layout.cluster.members}

    async def send(count: int) -> None:
        port = PeerPort(seed, "tcp://127.0.0.1:*", lambda burst: None, MAX_MESSAGE_BYTES)
        try:
            port.set_members(members)
            async with talking_to(layout, victim) as talker, asyncio.timeout(120):
                read_before = taken_in(layout, victim)
                for _ in range(count):
                    while not port.send(victim, mutated(draw, valid)):
                        await asyncio.sleep(0)
                while taken_in(layout, victim) - read_before < count:  # what is queued goes with the port
                    await talker.status()
        finally:
            port.close()

    try:
        check_flood(layout, victim, lambda count: asyncio.run(send(count)))
    finally:
        launch.restart(layout.directory, ("ring-3",))


@pytest.mark.parametrize("port", ["peer_address", "client_address", "metrics_address"])
def test_raw_bytes_on_every_port(cluster: Layout, port: str) -> None:
    """No ZeroMQ: random bytes, half a greeting, a greeting with another mechanism, connections that only open."""
    draw = random.Random(3)
    host, number = getattr(cluster.cluster.members[0], port).removeprefix("tcp://").rsplit(":", 1)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\x00") + b"\x00" + bytes(31)
    for i in range(24):
        with socket.create_connection((host, int(number)), timeout=10) as connection:
            data = [draw.randbytes(draw.randrange(1, 5000)), greeting[: draw.randrange(1, 64)], greeting * 3, b""][
                i % 4
            ]
            try:
                connection.sendall(data)
            except (BrokenPipeError, ConnectionResetError):
                continue

    async def still_serves() -> None:
        async with talking_to(cluster, 0) as talker:
            assert (await talker.status()).replica == 0

    asyncio.run(still_serves())


def test_a_frame_above_the_limit_costs_its_sender_the_link_and_nobody_else(cluster: Layout) -> None:
    async def check() -> None:
        async with talking_to(cluster, 0) as good, talking_to(cluster, 0) as bad:
            await bad.status()
            await bad.send(bytes(MAX_MESSAGE_BYTES + 1000))
            for _ in range(20):
                assert (await good.status()).replica == 0

    asyncio.run(check())


def test_the_ring_still_orders_after_all_this(cluster: Layout) -> None:
    """The idle ring orders a batch each second: a later certificate than now must appear at every server."""

    async def later_certificate(server: int) -> bool:
        async with talking_to(cluster, server) as talker:
            before = (await talker.status()).certified
            while (await talker.status()).certified <= before:
                await asyncio.sleep(0)
            return True

    async def all_servers() -> list[bool]:
        async with asyncio.timeout(60):
            return [await later_certificate(server) for server in range(4)]

    assert asyncio.run(all_servers()) == [True] * 4

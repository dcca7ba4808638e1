"""Real sockets on the loopback: who is heard, who is not, what is lost, and what hostile bytes do (nothing)."""

import asyncio
import errno
import os
import resource
import socket
import struct
import warnings
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from typing import Any

import nacl.bindings
import pytest

from bft.secret import Secret
from pond import connections
from pond.transport import ClientPort, PeerPort, Remote, ServerLinks, curve_public, link, sockets

ANYWHERE = "tcp://127.0.0.1:*"
MAX_MESSAGE_BYTES = 1024 * 1024
DEADLINE_SECONDS = 20

SEEDS = [Secret(bytes([number]) * 32) for number in range(1, 6)]
PUBLIC = [nacl.bindings.crypto_sign_seed_keypair(seed.reveal())[0] for seed in SEEDS]


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def within_deadline():
        await asyncio.wait_for(test(), DEADLINE_SECONDS)

    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        asyncio.run(within_deadline())


async def until(holds: Callable[[], object]) -> None:
    while not holds():
        await asyncio.sleep(0)


def peer(number: int, inbox: list[Any], address: str = ANYWHERE) -> PeerPort:
    return PeerPort(SEEDS[number], address, inbox.extend, MAX_MESSAGE_BYTES)


def remote(number: int, port: PeerPort | ClientPort) -> Remote:
    return Remote(PUBLIC[number], port.address)


def links(number: int, port: ClientPort | PeerPort, inbox: list[Any]) -> ServerLinks:
    return ServerLinks({0: remote(number, port)}, inbox.extend, MAX_MESSAGE_BYTES)


def raw(port: PeerPort | ClientPort) -> socket.socket:
    host, number = port.address.removeprefix("tcp://").split(":")
    return socket.create_connection((host, int(number)))


def test_peers_hear_each_other_and_know_who_speaks():
    async def test():
        inboxes: list[list[Any]] = [[], [], []]
        ports = [peer(number, inbox) for number, inbox in enumerate(inboxes)]
        members = {number: remote(number, port) for number, port in enumerate(ports)}
        for port in ports:
            port.set_members(members)
        for number, port in enumerate(ports):
            for other in {0, 1, 2} - {number}:
                assert port.send(other, b"from %d to %d" % (number, other))
        await until(lambda: all(len(inbox) == 2 for inbox in inboxes))
        for number, inbox in enumerate(inboxes):
            assert sorted(inbox) == [
                (other, b"from %d to %d" % (other, number)) for other in range(3) if other != number
            ]
        await until(lambda: all(len(port.connected) == 2 for port in ports))
        for port in ports:
            port.close()
            assert not port.counters["handshake failed"]

    run(test)


def test_a_key_outside_the_membership_gets_nothing_through_until_it_is_admitted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(link, "REVIVE_SECONDS", 0.05)

    async def test():
        inbox: list[Any] = []
        with closing(peer(0, inbox)) as member, closing(peer(1, [])) as stranger:
            member.set_members({0: remote(0, member), 2: Remote(PUBLIC[2], "tcp://127.0.0.1:1")})
            stranger.set_members({0: remote(0, member)})
            await until(lambda: [stranger.send(0, b"let me in")] and member.counters["key refused"] > 1)
            assert inbox == []
            assert stranger.connected == frozenset()
            member.set_members({0: remote(0, member), 1: remote(1, stranger)})
            await until(lambda: [stranger.send(0, b"now a member")] and inbox)
            assert set(inbox) == {(1, b"now a member")}

    run(test)


def test_a_member_that_was_removed_is_not_heard_though_still_connected():
    async def test():
        inbox: list[Any] = []
        with closing(peer(0, inbox)) as member, closing(peer(1, [])) as other:
            members = {0: remote(0, member), 1: remote(1, other)}
            member.set_members(members)
            other.set_members(members)
            other.send(0, b"first")
            await until(lambda: inbox)
            member.set_members({0: members[0]})
            other.send(0, b"second")
            await until(lambda: member.counters["no member any more"])
            assert inbox == [(1, b"first")]
            assert not member.send(1, b"answer")

    run(test)


def test_a_client_cannot_speak_on_the_peers_port(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(link, "REVIVE_SECONDS", 0.05)

    async def test():
        inbox: list[Any] = []
        with closing(peer(0, inbox)) as member, closing(links(0, member, [])) as client:
            member.set_members({0: remote(0, member)})
            await until(lambda: [client.send(0, b"I am a replica")] and member.counters["key refused"] > 1)
            assert inbox == []

    run(test)


def test_a_server_with_another_key_gets_nothing():
    async def test():
        inbox: list[Any] = []
        with (
            closing(ClientPort(SEEDS[0], ANYWHERE, inbox.extend, MAX_MESSAGE_BYTES)) as impostor,
            closing(links(1, impostor, [])) as client,
        ):
            client.send(0, b"for server 1 only")
            await until(lambda: client.counters["handshake failed"] > 1)
            assert inbox == []
            assert client.connected == frozenset()

    run(test)


def test_clients_ask_and_are_answered_each_under_its_own_key():
    async def test():
        asked: list[Any] = []
        answers: list[list[Any]] = [[], []]
        with closing(ClientPort(SEEDS[0], ANYWHERE, asked.extend, MAX_MESSAGE_BYTES)) as port:
            clients = [links(0, port, inbox) for inbox in answers]
            for number, client in enumerate(clients):
                client.send(0, b"question %d" % number)
            await until(lambda: len(asked) == 2)
            assert len({key for _, key, _ in asked}) == len({handle for handle, _, _ in asked}) == 2
            for handle, _, question in asked:
                assert port.send(handle, question.replace(b"question", b"answer"))
            await until(lambda: all(answers))
            assert answers == [[(0, b"answer 0")], [(0, b"answer 1")]]
            for client in clients:
                client.close()
            await until(lambda: not port.send(asked[0][0], b"too late"))
            assert port.counters["client gone"] == 1

    run(test)


def test_a_burst_of_20000_arrives_in_order_and_whole():
    async def test():
        inbox: list[Any] = []
        bursts: list[int] = []

        def received(burst: list[Any]) -> None:
            bursts.append(len(burst))
            inbox.extend(burst)

        with closing(PeerPort(SEEDS[0], ANYWHERE, received, MAX_MESSAGE_BYTES)) as one, closing(peer(1, [])) as other:
            members = {0: remote(0, one), 1: remote(1, other)}
            one.set_members(members)
            other.set_members(members)
            for number in range(20_000):
                data = b"%d" % number + bytes(200)
                await until(partial(other.send, 0, data))
            await until(lambda: len(inbox) == 20_000)
            assert [int(data[: data.index(0)]) for _, data in inbox] == list(range(20_000))
            assert max(bursts) <= sockets.MAX_BURST_MESSAGES

    run(test)


def test_a_queue_that_is_full_drops_and_counts():
    async def test():
        with closing(peer(0, [])) as port:
            nobody = Remote(PUBLIC[1], "tcp://127.0.0.1:1")
            port.set_members({1: nobody})
            sent = [port.send(1, b"x") for _ in range(link.MAX_QUEUED_TO_SERVER + 100)]
            assert sum(sent) == link.MAX_QUEUED_TO_SERVER
            assert port.counters["queue full"] == 100

    run(test)


def test_large_messages_that_wait_are_bounded_by_their_bytes():
    async def test():
        with closing(peer(0, [])) as port:
            port.set_members({1: Remote(PUBLIC[1], "tcp://127.0.0.1:1")})
            large = bytes(8 * 1024 * 1024)
            assert [port.send(1, large) for _ in range(10)] == [True] * 8 + [False] * 2

    run(test)


def test_a_client_that_does_not_read_takes_a_bounded_share():
    async def test():
        asked: list[Any] = []
        answers: list[Any] = []
        with closing(ClientPort(SEEDS[0], ANYWHERE, asked.extend, MAX_MESSAGE_BYTES)) as port:
            idle, busy = links(0, port, []), links(0, port, answers)
            with closing(idle), closing(busy):
                idle.send(0, b"idle")
                busy.send(0, b"busy")
                await until(lambda: len(asked) == 2)
                handles = {question: handle for handle, _, question in asked}
                assert idle._links[0]._reader is not None
                idle._links[0]._reader.close()  # from here on nobody empties its socket
                large = bytes(MAX_MESSAGE_BYTES)
                await until(lambda: not port.send(handles[b"idle"], large))
                assert port.send(handles[b"busy"], b"as ever")
                await until(lambda: answers)

    run(test)


def test_large_messages_arrive_whole_and_too_large_ones_do_not():
    async def test():
        asked: list[Any] = []
        with closing(ClientPort(SEEDS[0], ANYWHERE, asked.extend, MAX_MESSAGE_BYTES)) as port:
            with closing(links(0, port, [])) as client:
                large = os.urandom(MAX_MESSAGE_BYTES)
                client.send(0, large)
                await until(lambda: asked)
                assert asked[0][2] == large
            with closing(links(0, port, [])) as client:
                client.send(0, large + bytes(1024))
                client.send(0, b"more")
                await until(lambda: port.counters["disconnected"] > 1)
                assert all(data in (large, b"more") for _, _, data in asked)

    run(test)


def test_several_frames_are_dropped_and_counted():
    async def test():
        asked: list[Any] = []
        with (
            closing(ClientPort(SEEDS[0], ANYWHERE, asked.extend, MAX_MESSAGE_BYTES)) as port,
            closing(links(0, port, [])) as client,
        ):
            client._links[0]._socket.send_multipart([b"", b"two", b"three"])
            client.send(0, b"one")
            await until(lambda: asked)
            assert [data for _, _, data in asked] == [b"one"]
            assert port.counters["several frames"] == 1

    run(test)


class HostileClient:
    """Speaks CurveZMQ (RFC 26) by itself, so that it can say what libzmq would never say."""

    def __init__(self, port: PeerPort | ClientPort, server_key: bytes, properties: bytes = b"") -> None:
        server = nacl.bindings.crypto_sign_ed25519_pk_to_curve25519(server_key)
        public, secret = nacl.bindings.crypto_box_keypair()
        short_public, short_secret = nacl.bindings.crypto_box_keypair()
        self.socket = raw(port)
        self.socket.sendall(GREETING + b"CURVE".ljust(20, b"\0") + bytes(32))
        self._receive(64)
        box = nacl.bindings.crypto_box(bytes(64), b"CurveZMQHELLO---" + struct.pack(">Q", 1), server, short_secret)
        self._command(b"\x05HELLO\x01\0" + bytes(72) + short_public + struct.pack(">Q", 1) + box)
        welcome = self._frame()
        opened = nacl.bindings.crypto_box_open(welcome[24:], b"WELCOME-" + welcome[8:24], server, short_secret)
        self._key = nacl.bindings.crypto_box_beforenm(opened[:32], short_secret)
        nonce = os.urandom(16)
        vouch = nacl.bindings.crypto_box(short_public + server, b"VOUCH---" + nonce, opened[:32], secret)
        properties += b"\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
        box = self._box(public + nonce + vouch + properties, b"CurveZMQINITIATE", 2)
        self._command(b"\x08INITIATE" + opened[32:] + struct.pack(">Q", 2) + box)
        assert self._frame().startswith(b"\x05READY")
        self._sent = 2

    def send(self, data: bytes, more: bool) -> None:
        self._sent += 1
        message = b"\x07MESSAGE" + struct.pack(">Q", self._sent)
        message += self._box(bytes([more]) + data, b"CurveZMQMESSAGEC", self._sent)
        self.socket.sendall(b"\x02" + struct.pack(">Q", len(message)) + message)

    def _box(self, data: bytes, prefix: bytes, number: int) -> bytes:
        return nacl.bindings.crypto_box_afternm(data, prefix + struct.pack(">Q", number), self._key)

    def _command(self, body: bytes) -> None:
        self.socket.sendall(b"\x06" + struct.pack(">Q", len(body)) + body)

    def _frame(self) -> bytes:
        _, length = self._receive(2)
        return self._receive(length)

    def _receive(self, length: int) -> bytes:
        data = self.socket.recv(length, socket.MSG_WAITALL)
        assert len(data) == length
        return data


def test_a_peer_cannot_say_who_it_is_in_its_handshake():
    async def test():
        asked: list[Any] = []
        with closing(ClientPort(SEEDS[0], ANYWHERE, asked.extend, MAX_MESSAGE_BYTES)) as port:
            forged = b"\x07User-Id" + struct.pack(">I", 40) + b"x" * 40
            client = await asyncio.to_thread(HostileClient, port, PUBLIC[0], forged)
            with client.socket:
                client.send(b"hello", more=False)
                await until(lambda: asked)
                assert [(key == "x" * 40, data) for _, key, data in asked] == [(False, b"hello")]

    run(test)


def test_a_message_without_end_costs_its_sender_the_connection():
    async def test():
        asked: list[Any] = []
        with closing(ClientPort(SEEDS[0], ANYWHERE, asked.extend, MAX_MESSAGE_BYTES)) as port:
            client = await asyncio.to_thread(HostileClient, port, PUBLIC[0])

            def flood() -> None:
                with client.socket:
                    while True:
                        client.send(bytes(64 * 1024), more=True)

            with pytest.raises(OSError):
                await asyncio.to_thread(flood)
            await until(lambda: port.counters["disconnected"])
            assert port.counters["message without end"] == 1
            assert asked == []

    run(test)


def test_a_busy_connection_is_not_taken_for_a_message_without_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "CHECK_SECONDS", 0.01)

    async def test():
        asked: list[Any] = []
        with (
            closing(ClientPort(SEEDS[0], ANYWHERE, asked.extend, MAX_MESSAGE_BYTES)) as port,
            closing(links(0, port, [])) as client,
        ):
            for _ in range(40):
                await until(lambda: client.send(0, bytes(MAX_MESSAGE_BYTES)))
            await until(lambda: len(asked) == 40)
            assert not port.counters["message without end"]

    run(test)


def test_beyond_the_most_connections_the_silent_ones_go(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 5)
    monkeypatch.setattr(connections, "CHECK_SECONDS", 0.01)

    async def test():
        asked: list[Any] = []
        answers: list[Any] = []
        with (
            closing(ClientPort(SEEDS[0], ANYWHERE, asked.extend, MAX_MESSAGE_BYTES)) as port,
            closing(links(0, port, answers)) as client,
        ):
            strangers = []
            handles = set()
            for _ in range(20):
                asked.clear()
                await until(lambda: [client.send(0, b"here")] and asked)
                handles.add(asked[0][0])
                await until(lambda: not port._side.connections._heard)  # so it was noted
                strangers.append(raw(port))
            assert port.send(asked[-1][0], b"still there")
            await until(lambda: answers)
            assert len(handles) == 1
            await until(lambda: port.counters["too many connections"] == 16)
            for stranger in strangers:
                stranger.close()

    run(test)


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01"


@pytest.mark.parametrize(
    "hostile",
    [
        b"GET / HTTP/1.1\r\nHost: pond\r\n\r\n" * 10,
        bytes(range(256)) * 8,
        b"\xff" * 100,
        GREETING,
        GREETING + b"NULL".ljust(20, b"\0") + bytes(32),
        GREETING + b"PLAIN".ljust(20, b"\0") + bytes(32) + b"\x04\x0a\x05HELLO\x01a\x01b",
        GREETING + b"CURVE".ljust(20, b"\0") + bytes(32) + b"\x04\xc8\x05HELLO" + bytes(194),
        GREETING + b"CURVE".ljust(20, b"\0") + bytes(32) + b"\x02" + struct.pack(">Q", 1 << 62),
        GREETING + b"CURVE".ljust(20, b"\0") + bytes(32) + b"\x06" + struct.pack(">Q", (1 << 64) - 1) + bytes(4096),
    ],
    ids=["http", "counting", "ones", "half a greeting", "null", "plain", "empty hello", "huge", "huger"],
)
def test_hostile_bytes_disturb_nobody(hostile: bytes):
    async def test():
        inbox: list[Any] = []
        asked: list[Any] = []
        with (
            closing(peer(0, inbox)) as one,
            closing(peer(1, [])) as other,
            closing(ClientPort(SEEDS[0], ANYWHERE, asked.extend, MAX_MESSAGE_BYTES)) as port,
        ):
            members = {0: remote(0, one), 1: remote(1, other)}
            one.set_members(members)
            other.set_members(members)
            attackers = [raw(target) for target in (one, port) for _ in range(20)]
            for attacker in attackers:
                attacker.sendall(hostile)
            with closing(links(0, port, [])) as client:
                other.send(0, b"hello")
                client.send(0, b"hello")
                await until(lambda: inbox and asked)
            for attacker in attackers:
                attacker.close()
            await until(lambda: one.counters["disconnected"] >= 20 and port.counters["disconnected"] >= 20)
            assert inbox == [(1, b"hello")]
            assert [data for _, _, data in asked] == [b"hello"]

    run(test)


@pytest.mark.parametrize(
    "nonsense", [bytes(range(200)), GREETING + b"NULL".ljust(20, b"\0") + bytes(32)], ids=["counting", "null"]
)
def test_a_link_that_met_nonsense_is_made_anew(nonsense: bytes, monkeypatch: pytest.MonkeyPatch):
    """libzmq itself gives such a connection up for ever."""
    monkeypatch.setattr(link, "REVIVE_SECONDS", 0.05)

    async def test():
        inbox: list[Any] = []
        with closing(peer(1, [])) as other:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
                listener.setblocking(False)
                other.set_members({0: Remote(PUBLIC[0], address)})
                connection, _ = await asyncio.get_running_loop().sock_accept(listener)
                with connection:
                    connection.sendall(nonsense)
                    await until(lambda: other.counters["link revived"])
            with closing(peer(0, inbox, address)) as one:
                one.set_members({0: remote(0, one), 1: remote(1, other)})
                await until(lambda: [other.send(0, b"again")] and inbox)
                assert inbox[0] == (1, b"again")

    run(test)


def test_a_link_whose_bytes_were_changed_on_the_way_recovers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(link, "REVIVE_SECONDS", 0.05)

    async def test():
        asked: list[Any] = []
        spoil = False

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while data := await reader.read(65536):
                    writer.write(bytes(255 - byte for byte in data) if spoil else data)
            finally:  # also when this end was reset: else the other one would wait for ever
                writer.close()

        pumps: list[asyncio.Task[None]] = []

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            host, number = port.address.removeprefix("tcp://").split(":")
            further = await asyncio.open_connection(host, int(number))
            pumps.append(asyncio.create_task(pump(reader, further[1])))
            pumps.append(asyncio.create_task(pump(further[0], writer)))

        with closing(ClientPort(SEEDS[0], ANYWHERE, asked.extend, MAX_MESSAGE_BYTES)) as port:
            relays = await asyncio.start_server(relay, "127.0.0.1", 0)
            address = f"tcp://127.0.0.1:{relays.sockets[0].getsockname()[1]}"
            answers: list[Any] = []
            with closing(ServerLinks({0: Remote(PUBLIC[0], address)}, answers.extend, MAX_MESSAGE_BYTES)) as client:
                client.send(0, b"before")
                await until(lambda: asked)
                spoil = True
                await until(lambda: [port.send(asked[0][0], b"spoiled")] and not client.connected)
                spoil = False
                await until(lambda: [client.send(0, b"after")] and len(asked) > 1)
                assert asked[-1][2] == b"after"
            relays.close()
            await asyncio.gather(*pumps, return_exceptions=True)

    run(test)


def test_a_callback_that_raises_does_not_stop_the_port():
    async def test():
        asked: list[Any] = []
        failures: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))

        def received(burst: list[Any]) -> None:
            asked.extend(burst)
            if len(asked) == 1:
                raise LookupError("our fault")

        with (
            closing(ClientPort(SEEDS[0], ANYWHERE, received, MAX_MESSAGE_BYTES)) as port,
            closing(links(0, port, [])) as client,
        ):
            client.send(0, b"first")
            await until(lambda: asked)
            client.send(0, b"second")
            await until(lambda: len(asked) == 2)
            assert [type(failure) for failure in failures] == [LookupError]

    run(test)


def test_an_address_that_is_taken_is_an_os_error():
    async def test():
        with closing(peer(0, [])) as port, pytest.raises(OSError, match="cannot listen at") as caught:
            peer(1, [], port.address)
        assert caught.value.errno == errno.EADDRINUSE

    run(test)


def test_closing_leaves_no_descriptor_behind():
    async def once():
        inbox: list[Any] = []
        with closing(peer(0, inbox)) as one, closing(peer(1, [])) as other:
            members = {0: remote(0, one), 1: remote(1, other), 2: Remote(PUBLIC[2], "tcp://127.0.0.1:1")}
            one.set_members(members)
            other.set_members(members)
            other.send(2, bytes(sockets.LARGE_BYTES))  # never arrives, so it has to be thrown away
            other.send(0, bytes(sockets.LARGE_BYTES))
            await until(lambda: inbox)

    run(once)  # what Python and libzmq keep for the life of a process is there after this
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        run(once)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_the_curve_key_comes_from_the_ed25519_key_alone():
    assert curve_public(PUBLIC[0]) == sockets.keys_of_node(SEEDS[0]).public
    assert sockets.keys_of_node(SEEDS[0]).secret.reveal().decode() not in repr(sockets.keys_of_node(SEEDS[0]))
    for wrong in (bytes(32), b"short", b"\xff" * 32):
        with pytest.raises(ValueError, match="not an Ed25519 public key"):
            curve_public(wrong)


def test_memory_is_bounded_when_a_receiver_is_gone():
    async def test():
        with closing(peer(0, [])) as port:
            port.set_members({1: Remote(PUBLIC[1], "tcp://127.0.0.1:1")})
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for _ in range(1000):
                port.send(1, os.urandom(256 * 1024))
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            assert grown < 100 * 1024  # KiB, of 250 MiB that was sent

    run(test)

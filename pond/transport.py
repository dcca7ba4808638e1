"""All of ZeroMQ: encrypted links between servers, and between clients and servers. The one file that imports zmq.

Every link is CurveZMQ (RFC 26) under the server's key, which is its Ed25519 key in Curve25519 form, so that a
membership lists one key per server. Each port has a context of its own, hence its own I/O thread, and its own judge of
keys (ZAP, RFC 27). The sender of a message is the key that its link was opened with, as ZAP noted it: no field of the
message, and no routing id, since a peer may choose that itself.

Sockets are drained in bursts from their file descriptor, with no await per message; each burst goes to one callback.
The descriptor is edge-triggered, it says that something changed: so a socket is read until it is empty, and looked at
again after a send, which may have swallowed the edge.

Nothing here blocks, and nothing is certain to arrive. A queue that is full drops what is new and counts it in
`counters`; protocols send again. Hostile bytes cost their sender the link, and us a count.
"""

import asyncio
import struct
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from typing import Generic, NamedTuple, TypeVar

import nacl.bindings
import nacl.exceptions
import zmq
from zmq.utils import z85

from bft.secret import Secret
from pond.connections import Connections

MAX_BURST_MESSAGES = 512
MAX_BURST_BYTES = 16 * 1024 * 1024
"""A burst ends at either, so that timers and other sockets get their turn."""

LARGE_BYTES = 16 * 1024
"""From here on libzmq sends from the bytes given to it instead of from a copy, and tells when it is done with them."""

MAX_LARGE_IN_FLIGHT_BYTES = 64 * 1024 * 1024
"""Large messages that wait for one receiver. Smaller ones are bounded by their number alone."""

MAX_LARGE_TO_CLIENTS_BYTES = 256 * 1024 * 1024
"""The same, for all clients together."""

MAX_QUEUED_TO_SERVER = 2000
MAX_QUEUED_TO_CLIENT = 256
MAX_QUEUED_IN = 8
"""Messages on each link. More that comes in waits in the sender's kernel and queue."""

REVIVE_SECONDS = 0.5
"""How long after its end a link that libzmq gave up is made anew."""

CURVE_OVERHEAD_BYTES = 64
"""A frame's growth by encryption is 33 bytes; the limit of libzmq is for what is on the wire."""

_OPTIONS = {
    zmq.LINGER: 0,
    zmq.RECONNECT_IVL: 10,  # milliseconds, unless it says otherwise
    zmq.RECONNECT_IVL_MAX: 200,  # who was down for long still waits for its peers when it comes back
    zmq.CONNECT_TIMEOUT: 5000,
    zmq.HANDSHAKE_IVL: 5000,
    # The kernel watches over dead links. libzmq's own heartbeats abort the process when one falls due on a link whose
    # peer went away while its receiving queue was full (libzmq 4.3.5, issue 4841): anybody could kill a server so.
    zmq.TCP_MAXRT: 30_000,  # how long unacknowledged data may wait before the link counts as dead
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 10,  # seconds
    zmq.TCP_KEEPALIVE_INTVL: 5,
    zmq.TCP_KEEPALIVE_CNT: 3,
    zmq.BACKLOG: 1024,
}

_HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_RETRYING = zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_CONNECT_DELAYED | zmq.EVENT_CONNECTED
_EVENT = struct.Struct("=Hi")
_names = count()
Item = TypeVar("Item")


class Remote(NamedTuple):
    """A server as seen from elsewhere: its Ed25519 public key (32 bytes) and one of its addresses, tcp://host:port."""

    public_key: bytes
    address: str


def curve_public(public_key: bytes) -> bytes:
    """The CURVE key (Z85 text) of an Ed25519 public key. Raises ValueError when that is not one."""
    try:
        return z85.encode(nacl.bindings.crypto_sign_ed25519_pk_to_curve25519(public_key))
    except (nacl.exceptions.CryptoError, ValueError) as error:
        raise ValueError(f"not an Ed25519 public key: {public_key.hex()}") from error


class _Keys(NamedTuple):
    public: bytes
    secret: Secret


def _keys_of_node(seed: Secret) -> _Keys:
    public_key, secret_key = nacl.bindings.crypto_sign_seed_keypair(seed.reveal())
    secret = z85.encode(nacl.bindings.crypto_sign_ed25519_sk_to_curve25519(secret_key))
    return _Keys(curve_public(public_key), Secret(secret))


class _Side:
    """What all sockets of one port, or of one client, share."""

    def __init__(self, keys: _Keys, max_message_bytes: int) -> None:
        self.keys = keys
        self.counters: Counter[str] = Counter()
        self.connections = Connections(max_message_bytes, self.counters)
        self._max_message_bytes = max_message_bytes
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def socket(self, kind: int, max_queued_out: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind, copy_threshold=LARGE_BYTES)
        for option, value in _OPTIONS.items():
            socket.setsockopt(option, value)
        socket.setsockopt(zmq.MAXMSGSIZE, self._max_message_bytes + CURVE_OVERHEAD_BYTES)
        socket.setsockopt(zmq.SNDHWM, max_queued_out)
        socket.setsockopt(zmq.RCVHWM, MAX_QUEUED_IN)
        return socket

    def close(self) -> None:
        self.connections.close()
        self._context.term()


class _Reader:
    """Calls `burst` whenever its socket may have something; `burst` says whether more may be left."""

    def __init__(self, socket: zmq.Socket[bytes], burst: Callable[[], bool]) -> None:
        self._loop = asyncio.get_running_loop()
        self._burst = burst
        self._descriptor = int(socket.getsockopt(zmq.FD))
        self._soon: asyncio.Handle | None = None
        self._closed = False
        self._loop.add_reader(self._descriptor, self._run)
        self.wake()

    def wake(self) -> None:
        """Look at the socket in the loop's next round; wanted after each send on it."""
        if self._soon is None and not self._closed:
            self._soon = self._loop.call_soon(self._run)

    def close(self) -> None:
        self._closed = True
        self._loop.remove_reader(self._descriptor)
        if self._soon is not None:
            self._soon.cancel()

    def _run(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        more = True  # also when the burst raises: the loop reports it, and the rest is still to be read
        try:
            more = self._burst()
        finally:
            if more:
                self.wake()


class _Events:
    """What libzmq reports of a socket's connections: the bit that names an event, and its value."""

    def __init__(self, socket: zmq.Socket[bytes], events: int, seen: Callable[[int, int], None]) -> None:
        self._watched = socket
        self._seen = seen
        address = f"inproc://events-{next(_names)}"
        socket.monitor(address, events)
        self._socket: zmq.Socket[bytes] = socket.context.socket(zmq.PAIR)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)  # a full queue would block the I/O thread
        self._socket.connect(address)
        self._reader = _Reader(self._socket, self._burst)

    def close(self) -> None:
        self._reader.close()
        self._watched.disable_monitor()
        self._socket.close()

    def _burst(self) -> bool:
        try:
            for _ in range(MAX_BURST_MESSAGES):
                self._seen(*_EVENT.unpack(self._socket.recv_multipart(zmq.NOBLOCK)[0]))
        except zmq.Again:
            return False
        return True


def _take_burst(
    socket: zmq.Socket[bytes],
    routed: bool,
    accept: Callable[[bytes, zmq.Frame], Item | None],
    received: Callable[[list[Item]], None],
    side: _Side,
) -> bool:
    """Hand over what a socket holds, up to one burst; whether more may be left.

    A message is one frame, after the routing id when the socket is `routed`; `accept` makes an item of both, or None.
    """
    burst: list[Item] = []
    room = MAX_BURST_BYTES
    handle = b""
    heard = side.connections.heard
    try:
        for _ in range(MAX_BURST_MESSAGES):
            if routed:
                handle = socket.recv(zmq.NOBLOCK)
            frame = socket.recv(zmq.NOBLOCK, copy=False)
            room -= len(frame)
            heard(frame.get(zmq.SRCFD))
            if frame.more:
                side.counters["several frames"] += 1
                while frame.more:
                    frame = socket.recv(zmq.NOBLOCK, copy=False)
            elif (item := accept(handle, frame)) is not None:
                burst.append(item)
            if room <= 0:
                break
        more = True
    except zmq.Again:
        more = False
    if burst:
        received(burst)
    return more


def _key_of(frame: zmq.Frame) -> str:
    """The CURVE key of the link that a frame came over, as ZAP noted it; empty when there is none."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""


class _InFlight:
    """Bytes of the large messages that libzmq still holds for one receiver."""

    def __init__(self) -> None:
        self._messages: deque[tuple[zmq.MessageTracker, int]] = deque()
        self._bytes = 0

    def bytes(self) -> int:
        while self._messages and self._messages[0][0].done:
            self._bytes -= self._messages.popleft()[1]
        return self._bytes

    def add(self, tracker: zmq.MessageTracker, size_bytes: int) -> None:
        self._messages.append((tracker, size_bytes))
        self._bytes += size_bytes


class _Link:
    """An outgoing connection to the server that owns a key, and to nobody else.

    libzmq connects again by itself after a connection broke, but not after one that spoke nonsense or refused us: then
    it drops the connection for good. Whoever sits on the wire could so cut two servers off for ever, hence such a link
    is made anew. What was queued on it is lost.
    """

    def __init__(
        self,
        side: _Side,
        kind: int,
        remote: Remote,
        server_key: bytes,
        burst: Callable[[zmq.Socket[bytes]], bool] | None = None,
    ) -> None:
        self.remote = remote
        self.connected = False
        self._side = side
        self._kind = kind
        self._server_key = server_key
        self._burst = burst
        self._revival: asyncio.TimerHandle | None = None
        self._open()

    def send(self, data: bytes) -> bool:
        """Queue a message; False when it was dropped."""
        large = len(data) >= LARGE_BYTES
        if large and self._in_flight.bytes() + len(data) > MAX_LARGE_IN_FLIGHT_BYTES:
            self._side.counters["queue full"] += 1
            return False
        try:
            tracker = self._socket.send(data, zmq.NOBLOCK, copy=not large, track=large)
        except zmq.Again:
            self._side.counters["queue full"] += 1
            return False
        if tracker is not None:
            self._in_flight.add(tracker, len(data))
        if self._reader is not None:
            self._reader.wake()
        return True

    def close(self) -> None:
        if self._revival is not None:
            self._revival.cancel()
        self._events.close()
        if self._reader is not None:
            self._reader.close()
        self._socket.close()

    def _open(self) -> None:
        self.connected = False
        self._revival = None
        self._in_flight = _InFlight()
        self._socket = self._side.socket(self._kind, MAX_QUEUED_TO_SERVER)
        self._socket.setsockopt(zmq.CURVE_SERVERKEY, self._server_key)
        self._socket.setsockopt(zmq.CURVE_PUBLICKEY, self._side.keys.public)
        self._socket.setsockopt(zmq.CURVE_SECRETKEY, self._side.keys.secret.reveal())
        watched = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | _RETRYING | _HANDSHAKE_FAILED
        self._events = _Events(self._socket, watched, self._on_event)
        self._reader = None if self._burst is None else _Reader(self._socket, partial(self._burst, self._socket))
        self._socket.connect(self.remote.address)

    def _on_event(self, event: int, value: int) -> None:
        if event == zmq.EVENT_CONNECTED:
            self._side.connections.opened(value)
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.connected = True
        elif event & _HANDSHAKE_FAILED:
            self._side.counters["handshake failed"] += 1
        elif event == zmq.EVENT_DISCONNECTED:
            self.connected = False
            self._side.connections.closed(value)
            if self._revival is None:
                self._revival = asyncio.get_running_loop().call_later(REVIVE_SECONDS, self._revive)
        elif self._revival is not None:
            self._revival.cancel()
            self._revival = None

    def _revive(self) -> None:
        self._side.counters["link revived"] += 1
        self.close()
        self._open()


# --- ports of a server -------------------------------------------------------------------------------------------


class _Port(ABC, Generic[Item]):
    """A bound socket with its own context, judge of keys and counters."""

    _kind: int
    _domain: bytes
    _max_queued_out: int

    def __init__(
        self, seed: Secret, address: str, received: Callable[[list[Item]], None], max_message_bytes: int
    ) -> None:
        """Listen at `address`. Raises OSError when it is taken."""
        self._received = received
        self._side = _Side(_keys_of_node(seed), max_message_bytes)
        self.counters = self._side.counters
        """What was dropped or refused, by reason."""
        self._zap = self._side.socket(zmq.REP, 0)
        self._zap.bind("inproc://zeromq.zap.01")
        self._socket = self._side.socket(self._kind, self._max_queued_out)
        self._socket.setsockopt(zmq.CURVE_SERVER, 1)
        self._socket.setsockopt(zmq.CURVE_SECRETKEY, self._side.keys.secret.reveal())
        self._socket.setsockopt(zmq.ZAP_DOMAIN, self._domain)
        self._socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without it, no judge would mean that all may enter
        watched = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | _HANDSHAKE_FAILED
        self._events = _Events(self._socket, watched, self._on_event)
        self._zap_reader = _Reader(self._zap, self._judge)
        self._reader = _Reader(self._socket, self._burst)
        self._closed = False
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self.close()
            raise OSError(error.errno, f"cannot listen at {address}: {error.strerror}") from None
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        """Where the port really listens: `tcp://127.0.0.1:*` or port 0 takes a free one."""

    def close(self) -> None:
        """Drop what is queued, free the address and all descriptors."""
        if self._closed:
            return
        self._closed = True
        self._events.close()
        self._reader.close()
        self._zap_reader.close()
        self._socket.close()
        self._zap.close()
        self._side.close()

    @abstractmethod
    def _admits(self, key: str) -> bool:
        """Whether the owner of a CURVE key may enter."""

    @abstractmethod
    def _accept(self, handle: bytes, frame: zmq.Frame) -> Item | None:
        """What to hand over of a message, or None to drop it."""

    def _burst(self) -> bool:
        return _take_burst(self._socket, self._kind == zmq.ROUTER, self._accept, self._received, self._side)

    def _judge(self) -> bool:
        try:
            for _ in range(MAX_BURST_MESSAGES):
                version, request, _, _, _, mechanism, *credentials = self._zap.recv_multipart(zmq.NOBLOCK)
                key = z85.encode(credentials[0]) if mechanism == b"CURVE" else b""
                if key and self._admits(key.decode()):
                    verdict = [b"200", b"OK", key, b""]
                else:
                    self.counters["key refused"] += 1
                    verdict = [b"400", b"unknown key", b"", b""]
                self._zap.send_multipart([version, request, *verdict])
        except zmq.Again:
            return False
        return True

    def _on_event(self, event: int, value: int) -> None:
        if event == zmq.EVENT_ACCEPTED:
            self._side.connections.opened(value)
        elif event == zmq.EVENT_DISCONNECTED:
            self._side.connections.closed(value)
            self.counters["disconnected"] += 1
        else:
            self.counters["handshake failed"] += 1


class PeerPort(_Port[tuple[int, bytes]]):
    """Where the servers of a ring talk to each other: members alone, each known by its key.

    `received` gets each burst as a list of (replica id, message). Nobody is admitted before `set_members`. Construct it
    inside a running event loop.
    """

    _kind = zmq.PULL  # one way in and one way out per pair: no replies, so no routing ids that a peer could forge
    _domain = b"peers"
    _max_queued_out = 1

    def __init__(
        self, seed: Secret, address: str, received: Callable[[list[tuple[int, bytes]]], None], max_message_bytes: int
    ) -> None:
        self._ids: dict[str, int] = {}
        self._links: dict[int, _Link] = {}
        super().__init__(seed, address, received, max_message_bytes)

    def set_members(self, members: Mapping[int, Remote]) -> None:
        """Admit these and link to them; drop links to others, and what others send from now on. We may be among them.

        Raises ValueError when a key is not an Ed25519 public key.
        """
        keys = {replica: curve_public(remote.public_key) for replica, remote in members.items()}
        others = {replica: remote for replica, remote in members.items() if keys[replica] != self._side.keys.public}
        for replica, link in list(self._links.items()):
            if others.get(replica) != link.remote:
                link.close()
                del self._links[replica]
        for replica, remote in others.items():
            if replica not in self._links:
                self._links[replica] = _Link(self._side, zmq.PUSH, remote, keys[replica])
        self._ids = {keys[replica].decode(): replica for replica in others}

    def send(self, to: int, data: bytes) -> bool:
        """Queue a message to another member; False when it was dropped, as to one that is no member any more."""
        link = self._links.get(to)
        if link is None:
            self.counters["no such member"] += 1
            return False
        return link.send(data)

    @property
    def connected(self) -> frozenset[int]:
        """Members that our messages reach at the moment."""
        return frozenset(replica for replica, link in self._links.items() if link.connected)

    def close(self) -> None:
        for link in self._links.values():
            link.close()
        self._links.clear()
        super().close()

    def _admits(self, key: str) -> bool:
        return key in self._ids

    def _accept(self, _handle: bytes, frame: zmq.Frame) -> tuple[int, bytes] | None:
        sender = self._ids.get(_key_of(frame))
        if sender is None:
            self.counters["no member any more"] += 1
            return None
        return sender, frame.bytes


class ClientPort(_Port[tuple[bytes, str, bytes]]):
    """Where clients ask: any CURVE key may enter.

    `received` gets each burst as a list of (handle, key, message): the handle says where to answer, the key (Z85 text)
    is what to count and limit by. Connections take turns, message by message. Construct it inside a running event loop.
    """

    _kind = zmq.ROUTER
    _domain = b"clients"
    _max_queued_out = MAX_QUEUED_TO_CLIENT

    def __init__(
        self,
        seed: Secret,
        address: str,
        received: Callable[[list[tuple[bytes, str, bytes]]], None],
        max_message_bytes: int,
    ) -> None:
        self._in_flight: dict[bytes, _InFlight] = {}
        super().__init__(seed, address, received, max_message_bytes)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)

    def send(self, client: bytes, data: bytes) -> bool:
        """Queue an answer; False when it was dropped: the client is gone, or does not read."""
        large = len(data) >= LARGE_BYTES
        if large and not self._has_room(client, len(data)):
            self.counters["queue full"] += 1
            return False
        try:
            self._socket.send(client, zmq.SNDMORE | zmq.NOBLOCK)
            tracker = self._socket.send(data, zmq.NOBLOCK, copy=not large, track=large)
        except zmq.Again:
            self.counters["queue full"] += 1
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self.counters["client gone"] += 1
            return False
        finally:
            self._reader.wake()
        if tracker is not None:
            self._in_flight.setdefault(client, _InFlight()).add(tracker, len(data))
        return True

    def _has_room(self, client: bytes, size_bytes: int) -> bool:
        held = {handle: flight.bytes() for handle, flight in self._in_flight.items()}
        self._in_flight = {handle: flight for handle, flight in self._in_flight.items() if held[handle]}
        return (
            held.get(client, 0) + size_bytes <= MAX_LARGE_IN_FLIGHT_BYTES
            and sum(held.values()) + size_bytes <= MAX_LARGE_TO_CLIENTS_BYTES
        )

    def _admits(self, key: str) -> bool:
        return True

    def _accept(self, handle: bytes, frame: zmq.Frame) -> tuple[bytes, str, bytes] | None:
        key = _key_of(frame)
        return (handle, key, frame.bytes) if key else None


# --- a client ----------------------------------------------------------------------------------------------------


class ServerLinks:
    """A client's links to servers, under a CURVE key of this object alone.

    `received` gets each burst as a list of (server, message). Construct it inside a running event loop.
    """

    def __init__(
        self, servers: Mapping[int, Remote], received: Callable[[list[tuple[int, bytes]]], None], max_message_bytes: int
    ) -> None:
        """Begin to connect to all. Raises ValueError when a key is not an Ed25519 public key."""
        self._received = received
        keys = {server: curve_public(remote.public_key) for server, remote in servers.items()}
        public, secret = zmq.curve_keypair()
        self._side = _Side(_Keys(public, Secret(secret)), max_message_bytes)
        self.counters = self._side.counters
        """What was dropped, by reason."""
        self._links = {
            server: _Link(self._side, zmq.DEALER, remote, keys[server], self._burst_from(server))
            for server, remote in servers.items()
        }
        self._closed = False

    def send(self, server: int, data: bytes) -> bool:
        """Queue a message; False when it was dropped because too much waits for that server."""
        return self._links[server].send(data)

    @property
    def connected(self) -> frozenset[int]:
        """Servers that are reached at the moment."""
        return frozenset(server for server, link in self._links.items() if link.connected)

    def close(self) -> None:
        """Drop what is queued and free all descriptors."""
        if self._closed:
            return
        self._closed = True
        for link in self._links.values():
            link.close()
        self._side.close()

    def _burst_from(self, server: int) -> Callable[[zmq.Socket[bytes]], bool]:
        return lambda socket: _take_burst(
            socket, False, lambda _handle, frame: (server, frame.bytes), self._received, self._side
        )

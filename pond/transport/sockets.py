"""Sockets as all ports and links have them: their options and keys, bursts read from them, and what befalls them."""

import asyncio
import struct
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import NamedTuple, TypeVar

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

MAX_QUEUED_IN = 8
"""Messages on each link. More that comes in waits in the sender's kernel and queue."""

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

HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
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


class Keys(NamedTuple):
    """A pair of CURVE keys, as Z85 text."""

    public: bytes
    secret: Secret


def keys_of_node(seed: Secret) -> Keys:
    """The CURVE keys that follow from a server's Ed25519 seed."""
    public_key, secret_key = nacl.bindings.crypto_sign_seed_keypair(seed.reveal())
    secret = z85.encode(nacl.bindings.crypto_sign_ed25519_sk_to_curve25519(secret_key))
    return Keys(curve_public(public_key), Secret(secret))


class Side:
    """What all sockets of one port, or of one client, share."""

    def __init__(self, keys: Keys, max_message_bytes: int) -> None:
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


class Reader:
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


class Events:
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
        self._reader = Reader(self._socket, self._burst)

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


def take_burst(
    socket: zmq.Socket[bytes],
    routed: bool,
    accept: Callable[[bytes, zmq.Frame], Item | None],
    received: Callable[[list[Item]], None],
    side: Side,
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


def key_of(frame: zmq.Frame) -> str:
    """The CURVE key of the link that a frame came over, as ZAP noted it; empty when there is none."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""

"""One outgoing connection, and the large messages that wait on it."""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

import zmq

from pond.transport.sockets import HANDSHAKE_FAILED, LARGE_BYTES, Events, Reader, Remote, Side

MAX_LARGE_IN_FLIGHT_BYTES = 64 * 1024 * 1024
"""Large messages that wait for one receiver. Smaller ones are bounded by their number alone."""

MAX_QUEUED_TO_SERVER = 2000

REVIVE_SECONDS = 0.5
"""How long after its end a link that libzmq gave up is made anew."""

_RETRYING = zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_CONNECT_DELAYED | zmq.EVENT_CONNECTED


class InFlight:
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


class Link:
    """An outgoing connection to the server that owns a key, and to nobody else.

    libzmq connects again by itself after a connection broke, but not after one that spoke nonsense or refused us: then
    it drops the connection for good. Whoever sits on the wire could so cut two servers off for ever, hence such a link
    is made anew. What was queued on it is lost.
    """

    def __init__(
        self,
        side: Side,
        kind: int,
        remote: Remote,
        server_key: bytes,
        burst: Callable[[zmq.Socket[bytes]], bool] | None = None,
        max_queued: int = MAX_QUEUED_TO_SERVER,
    ) -> None:
        self.remote = remote
        self.connected = False
        self._side = side
        self._kind = kind
        self._server_key = server_key
        self._burst = burst
        self._max_queued = max_queued
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

    def close(self, linger_seconds: float = 0.0) -> None:
        """Free its descriptors; what is queued has so long to get out before its side is closed."""
        if self._revival is not None:
            self._revival.cancel()
        self._events.close()
        if self._reader is not None:
            self._reader.close()
        self._socket.close(round(1000 * linger_seconds))

    def _open(self) -> None:
        self.connected = False
        self._revival = None
        self._in_flight = InFlight()
        self._socket = self._side.socket(self._kind, self._max_queued)
        self._socket.setsockopt(zmq.CURVE_SERVERKEY, self._server_key)
        self._socket.setsockopt(zmq.CURVE_PUBLICKEY, self._side.keys.public)
        self._socket.setsockopt(zmq.CURVE_SECRETKEY, self._side.keys.secret.reveal())
        watched = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | _RETRYING | HANDSHAKE_FAILED
        self._events = Events(self._socket, watched, self._on_event)
        self._reader = None if self._burst is None else Reader(self._socket, partial(self._burst, self._socket))
        self._socket.connect(self.remote.address)

    def _on_event(self, event: int, value: int) -> None:
        if event == zmq.EVENT_CONNECTED:
            self._side.connections.opened(value)
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.connected = True
        elif event & HANDSHAKE_FAILED:
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

"""Ports of a server: where the ring's members talk to each other, and where clients ask."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Generic

import zmq
from zmq.utils import z85

from bft.secret import Secret
from pond.transport.link import MAX_LARGE_IN_FLIGHT_BYTES, InFlight, Link
from pond.transport.sockets import (
    HANDSHAKE_FAILED,
    LARGE_BYTES,
    MAX_BURST_MESSAGES,
    Events,
    Item,
    Reader,
    Remote,
    Side,
    curve_public,
    key_of,
    keys_of_node,
    take_burst,
)

MAX_LARGE_TO_CLIENTS_BYTES = 256 * 1024 * 1024
"""The same, for all clients together."""
MAX_QUEUED_TO_CLIENT = 256


class Port(ABC, Generic[Item]):
    """A bound socket with its own context, judge of keys and counters."""

    _kind: int
    _domain: bytes
    _max_queued_out: int

    def __init__(
        self, seed: Secret, address: str, received: Callable[[list[Item]], None], max_message_bytes: int
    ) -> None:
        """Listen at `address`. Raises OSError when it is taken."""
        self._received = received
        self._side = Side(keys_of_node(seed), max_message_bytes)
        self.counters = self._side.counters
        """What was dropped or refused, by reason."""
        self._zap = self._side.socket(zmq.REP, 0)
        self._zap.bind("inproc://zeromq.zap.01")
        self._socket = self._side.socket(self._kind, self._max_queued_out)
        self._socket.setsockopt(zmq.CURVE_SERVER, 1)
        self._socket.setsockopt(zmq.CURVE_SECRETKEY, self._side.keys.secret.reveal())
        self._socket.setsockopt(zmq.ZAP_DOMAIN, self._domain)
        self._socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without it, no judge would mean that all may enter
        watched = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | HANDSHAKE_FAILED
        self._events = Events(self._socket, watched, self._on_event)
        self._zap_reader = Reader(self._zap, self._judge)
        self._reader = Reader(self._socket, self._burst)
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
        return take_burst(self._socket, self._kind == zmq.ROUTER, self._accept, self._received, self._side)

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


class PeerPort(Port[tuple[int, bytes]]):
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
        self._links: dict[int, Link] = {}
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
                self._links[replica] = Link(self._side, zmq.PUSH, remote, keys[replica])
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
        sender = self._ids.get(key_of(frame))
        if sender is None:
            self.counters["no member any more"] += 1
            return None
        return sender, frame.bytes


class ClientPort(Port[tuple[bytes, str, bytes]]):
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
        self._in_flight: dict[bytes, InFlight] = {}
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
            self._in_flight.setdefault(client, InFlight()).add(tracker, len(data))
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
        key = key_of(frame)
        return (handle, key, frame.bytes) if key else None

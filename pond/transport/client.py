"""A client's links to servers."""

from collections.abc import Callable, Mapping

import zmq

from bft.secret import Secret
from pond.transport.link import Link
from pond.transport.sockets import Keys, Remote, Side, curve_public, take_burst


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
        self._side = Side(Keys(public, Secret(secret)), max_message_bytes)
        self.counters = self._side.counters
        """What was dropped, by reason."""
        self._links = {
            server: Link(self._side, zmq.DEALER, remote, keys[server], self._burst_from(server))
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
        return lambda socket: take_burst(
            socket, False, lambda _handle, frame: (server, frame.bytes), self._received, self._side
        )

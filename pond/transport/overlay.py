"""The port of an overlay node: as the ring's members talk to each other, but with links only where there is talk."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping

import zmq

from bft.secret import Secret
from pond.transport.link import Link
from pond.transport.ports import Port
from pond.transport.sockets import Remote, curve_public, key_of

MAX_LINKS = 256
"""Links that are open at once; the one used longest ago goes first. Each takes four descriptors."""

IDLE_SECONDS = 60.0
"""A link that nothing was sent over for so long is closed: neighbours hear from each other well within it."""

MAX_QUEUED = 256
"""Messages that wait on each link: what was not sent within seconds is of no use any more."""

MAX_OVERLAY_BYTES = 64 * 1024
"""Size of a message at most: a node's whole leaf set, a row of its table or a few dozen pointers."""


class OverlayPort(Port[tuple[bytes, bytes]]):
    """Where overlay nodes talk to each other: admitted ones alone, each known by its key.

    Nodes go by names, which are bytes. `received` gets each burst as a list of (name, message). Nobody is admitted
    before `set_nodes`. Construct it inside a running event loop.
    """

    _kind = zmq.PULL
    _domain = b"overlay"
    _max_queued_out = 1

    def __init__(
        self,
        seed: Secret,
        address: str,
        received: Callable[[list[tuple[bytes, bytes]]], None],
        max_message_bytes: int = MAX_OVERLAY_BYTES,
    ) -> None:
        self._nodes: dict[bytes, tuple[Remote, bytes]] = {}
        self._names: dict[str, bytes] = {}
        self._links: OrderedDict[bytes, tuple[Link, float]] = OrderedDict()
        self._max_message_bytes = max_message_bytes
        self._loop = asyncio.get_running_loop()
        self._look = self._loop.call_later(IDLE_SECONDS / 2, self._close_idle)
        super().__init__(seed, address, received, max_message_bytes)

    def set_nodes(self, nodes: Mapping[bytes, Remote]) -> None:
        """Admit these, and send to these alone, at these addresses. We may be among them.

        Raises ValueError when a key is not an Ed25519 public key.
        """
        found = {name: (remote, curve_public(remote.public_key)) for name, remote in nodes.items()}
        self._nodes = {name: node for name, node in found.items() if node[1] != self._side.keys.public}
        self._names = {key.decode(): name for name, (_, key) in self._nodes.items()}
        for name, (link, _) in list(self._links.items()):
            if name not in self._nodes or self._nodes[name][0] != link.remote:
                del self._links[name]
                link.close()

    def send(self, to: bytes, data: bytes) -> bool:
        """Queue a message to a node, over a link that is made if there is none; False when it was dropped."""
        node = self._nodes.get(to)
        if node is None:
            self.counters["no such node"] += 1
            return False
        if len(data) > self._max_message_bytes:
            self.counters["too large"] += 1
            return False
        opened = self._links.pop(to, None)
        link = Link(self._side, zmq.PUSH, *node, max_queued=MAX_QUEUED) if opened is None else opened[0]
        self._links[to] = link, self._loop.time()
        if len(self._links) > MAX_LINKS:
            self.counters["link closed for another"] += 1
            self._links.popitem(last=False)[1][0].close()
        return link.send(data)

    @property
    def linked(self) -> frozenset[bytes]:
        """Nodes that there is a link to, whether it is up or not."""
        return frozenset(self._links)

    @property
    def connected(self) -> frozenset[bytes]:
        """Nodes that our messages reach at the moment."""
        return frozenset(name for name, (link, _) in self._links.items() if link.connected)

    def close(self, linger_seconds: float = 0.0) -> None:
        """Free the address and all descriptors. What is queued to those who are there has so long to get out."""
        self._look.cancel()
        for link, _ in self._links.values():
            link.close(linger_seconds if link.connected else 0.0)
        self._links.clear()
        super().close()

    def _close_idle(self) -> None:
        now = self._loop.time()
        while self._links:
            name, (link, used) = next(iter(self._links.items()))
            if now - used < IDLE_SECONDS:
                break
            del self._links[name]
            link.close()
        self._look = self._loop.call_later(IDLE_SECONDS / 2, self._close_idle)

    def _admits(self, key: str) -> bool:
        return key in self._names

    def _accept(self, _handle: bytes, frame: zmq.Frame) -> tuple[bytes, bytes] | None:
        sender = self._names.get(key_of(frame))
        if sender is None:
            self.counters["no node any more"] += 1
            return None
        return sender, frame.bytes

"""TCP connections as the kernel sees them: how many there are, and what came in on each that never became a message.

ZeroMQ bounds the messages of a connection by number and size, but not the frames of one unfinished message: whoever may
connect could send frames without end, and the process would hold them all. So whoever sent more than a message's worth
of bytes since the last whole message is cut off. It looks at descriptors that belong to another thread; a descriptor
that is no longer the same connection is left alone.
"""

import asyncio
import socket
import struct
from collections import Counter

CHECK_SECONDS = 0.25
"""What one connection can pile up beyond the limit is what it can send in this time."""

SLACK_BYTES = 4 * 1024 * 1024
"""For what is on its way to the callback, and for heartbeats, which are bytes but no messages: a link that is idle for
days is cut for nothing, and made again at once."""

MAX_CONNECTIONS = 1000
"""The one that has been silent longest goes first. Below the usual limit of 1,024 descriptors."""

_BYTES_RECEIVED = struct.Struct("=128xQ")
"""tcpi_bytes_received in Linux's struct tcp_info."""


class Connections:
    """The connections of one port or client. Construct it inside a running event loop."""

    def __init__(self, max_message_bytes: int, counters: Counter[str]) -> None:
        self._limit_bytes = max_message_bytes + SLACK_BYTES
        self._counters = counters
        self._heard: set[int] = set()
        self._known: dict[int, tuple[object, int]] = {}
        """By descriptor, those silent longest first: both ends, and bytes received when last heard."""
        self.heard = self._heard.add
        """heard(descriptor): a whole message came over it."""
        self._again = asyncio.get_running_loop().call_later(CHECK_SECONDS, self._check)

    def opened(self, descriptor: int) -> None:
        """A connection was made."""
        self._known.pop(descriptor, None)
        found = _look(descriptor)
        if found is not None:
            self._known[descriptor] = found
        if len(self._known) > MAX_CONNECTIONS:
            self._cut(next(iter(self._known)), "too many connections")

    def closed(self, descriptor: int) -> None:
        """A connection has ended."""
        self._known.pop(descriptor, None)

    def close(self) -> None:
        """Stop looking."""
        self._again.cancel()

    def _check(self) -> None:
        for descriptor, (ends, received) in list(self._known.items()):
            found = _look(descriptor)
            if found is None or found[0] != ends:
                del self._known[descriptor]
            elif descriptor in self._heard:
                del self._known[descriptor]
                self._known[descriptor] = found
            elif found[1] - received > self._limit_bytes:
                self._cut(descriptor, "message without end")
        self._heard.clear()
        self._again = asyncio.get_running_loop().call_later(CHECK_SECONDS, self._check)

    def _cut(self, descriptor: int, reason: str) -> None:
        ends, _ = self._known.pop(descriptor)
        found = _look(descriptor, cut=ends)
        if found is not None:
            self._counters[reason] += 1


def _look(descriptor: int, cut: object = None) -> tuple[object, int] | None:
    """Both ends of a connection and bytes received on it, or None if it is none; shut down when its ends are `cut`."""
    try:
        connection = socket.socket(fileno=descriptor)
    except OSError:
        return None
    try:
        ends = (connection.getsockname(), connection.getpeername())
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED.size)
        if ends == cut:
            connection.shutdown(socket.SHUT_RDWR)
        return ends, _BYTES_RECEIVED.unpack(info)[0]
    except OSError:
        return None
    finally:
        connection.detach()

"""TCP connections as the kernel sees them: how many there are, and what came in on each that never became a message.

ZeroMQ bounds the messages of a connection by number and size, but not the frames of one unfinished message: whoever may
connect could send frames without end, and the process would hold them all. So whoever sent more than a message's worth
of bytes since the last whole message is cut off. It looks at descriptors that belong to another thread; a descriptor
that is no longer the same connection is left alone.
"""

import asyncio
import socket
import struct
import sys
import termios
from collections import Counter
from fcntl import ioctl
from typing import NamedTuple

CHECK_SECONDS = 0.25
"""What one connection can pile up beyond the limit is what it can send in twice this time: only the second look in a
row that finds it beyond cuts it off, since the first may have come between whole messages and their reader."""

SLACK_BYTES = 4 * 1024 * 1024
"""For the handshake, encryption and framing."""

MAX_CONNECTIONS = 1000
"""The one that has been silent longest goes first. Below the usual limit of 1,024 descriptors."""

_BYTES_RECEIVED = struct.Struct("=128xQ")
"""tcpi_bytes_received in Linux's struct tcp_info."""
_RESET_AT_CLOSE = struct.pack("=ii", 1, 0)
"""Neither side's kernel then keeps the connection and what is queued on it."""


class _State(NamedTuple):
    """A connection as it was when last heard, or made."""

    ends: object
    read_bytes: int
    suspect: bool = False


class Connections:
    """The connections of one port or client. Construct it inside a running event loop."""

    def __init__(self, max_message_bytes: int, counters: Counter[str]) -> None:
        self._limit_bytes = max_message_bytes + SLACK_BYTES
        self._counters = counters
        self._heard: set[int] = set()
        self._known: dict[int, _State] = {}  # by descriptor, those silent longest first
        self.heard = self._heard.add
        """heard(descriptor): a whole message came over it."""
        self._again = asyncio.get_running_loop().call_later(CHECK_SECONDS, self._check)

    def opened(self, descriptor: int) -> None:
        """A connection was made."""
        self._known.pop(descriptor, None)
        state = _look(descriptor)
        if state is not None:
            self._known[descriptor] = state
        if len(self._known) > MAX_CONNECTIONS:
            self._cut(next(iter(self._known)), "too many connections")

    def closed(self, descriptor: int) -> None:
        """A connection has ended."""
        self._known.pop(descriptor, None)

    def close(self) -> None:
        """Stop looking."""
        self._again.cancel()

    def _check(self) -> None:
        for descriptor, state in list(self._known.items()):
            now = _look(descriptor)
            if now is None or now.ends != state.ends:
                del self._known[descriptor]
            elif descriptor in self._heard:
                del self._known[descriptor]
                self._known[descriptor] = now
            elif now.read_bytes - state.read_bytes > self._limit_bytes:
                if state.suspect:
                    self._cut(descriptor, "message without end")
                else:
                    self._known[descriptor] = state._replace(suspect=True)
        self._heard.clear()
        self._again = asyncio.get_running_loop().call_later(CHECK_SECONDS, self._check)

    def _cut(self, descriptor: int, reason: str) -> None:
        state = self._known.pop(descriptor)
        if _look(descriptor, cut=state.ends) is not None:
            self._counters[reason] += 1


def _look(descriptor: int, cut: object = None) -> _State | None:
    """A connection's ends and the bytes read from it, or None if it is none; shut down when its ends are `cut`."""
    try:
        connection = socket.socket(fileno=descriptor)
    except OSError:
        return None
    try:
        ends = (connection.getsockname(), connection.getpeername())
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED.size)
        unread = int.from_bytes(ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)
        if ends == cut:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            connection.shutdown(socket.SHUT_RDWR)  # its owner closes it then
        return _State(ends, _BYTES_RECEIVED.unpack(info)[0] - unread)
    except OSError:
        return None
    finally:
        connection.detach()

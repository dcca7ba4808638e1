"""A network between two halves of a local cluster that can be cut: relays that run in a process of their own.

Each half has a cluster file of its own, in which servers of the other half are reached at relays. The servers are those
that users run, with links that are encrypted from end to end; nothing in them knows of the cut, and both halves live.
What the servers of a ring say to each other goes through relays too. Clients reach all servers at any time.
"""

import asyncio
import multiprocessing
import resource
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from cluster.layout import HOST, NODE_CONFIG, AnyPlace, Layout, free_ports
from cluster.processes import end_with_parent
from pond import config
from pond.config import Member, NodeConfig, StorageMember
from pond.errors import Unavailable

BREAK_SECONDS = 30.0
"""A connection over which nothing passes is broken after so long, as the kernel breaks one over a cut network
(TCP_MAXRT of our links)."""

DIALED_AT_ONCE = 16
"""Connections to servers that are being made. When a network heals, a thousand wait for it, and give up after 5 s: some
at a time are made in time, where all at once none would be."""

ANSWER_SECONDS = 10.0

Order: TypeAlias = Literal["cut", "heal"]


class _Relay(NamedTuple):
    port: int
    to: int
    """The port at which the server listens."""


class Relays:
    """Between the halves of a stopped cluster, from `with` to its end. Start it within, and stop it before the end."""

    def __init__(self, layout: Layout, half: Sequence[AnyPlace]) -> None:
        """`half` is one of the two; all others are the other."""
        self._layout = layout
        self._half = {server.name for server in half}

    def __enter__(self) -> "Relays":
        relays: list[_Relay] = []
        layout = self._layout
        servers: list[AnyPlace] = [*layout.servers, *layout.storage]
        taken = {port for server in servers for port in _ports(server.member)}
        ports = iter(free_ports(2 * len(layout.servers) + len(layout.storage), taken))

        def relayed(address: str) -> str:
            port = int(address.rpartition(":")[2])
            relays.append(_Relay(next(ports), port))
            return f"tcp://{HOST}:{relays[-1].port}"

        far = {server.name: _relayed(server.member, relayed) for server in servers}
        for side in (True, False):
            seen = {s.name: s.member if (s.name in self._half) is side else far[s.name] for s in servers}
            members = tuple(m for m in seen.values() if isinstance(m, Member))
            storage = tuple(m for m in seen.values() if isinstance(m, StorageMember))
            file = layout.directory / f"cluster-{int(side)}.json"
            config.write(file, msgspec.structs.replace(layout.cluster, members=members, storage=storage))
            for server in servers:
                if (server.name in self._half) is side:
                    path = server.directory / NODE_CONFIG
                    settings = config.read(path, NodeConfig)
                    config.write(path, msgspec.structs.replace(settings, cluster=f"../../{file.name}"))
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, relays), daemon=True)
        self._process.start()
        theirs.close()
        self._answer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()  # the end of its input is the end of the process
        self._process.join(ANSWER_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    @property
    def pid(self) -> int:
        """Of the process that relays."""
        assert self._process.pid is not None, "our fault: it was started"
        return self._process.pid

    def cut(self) -> None:
        """From now on nothing passes between the halves."""
        self._order("cut")

    def heal(self) -> None:
        """From now on everything passes again."""
        self._order("heal")

    def _order(self, order: Order) -> None:
        self._pipe.send(order)
        self._answer()

    def _answer(self) -> None:
        try:
            if self._pipe.poll(ANSWER_SECONDS):
                self._pipe.recv()
                return
        except EOFError:
            pass
        raise Unavailable("the relays between the halves do not answer: another program may have their ports")


def _ports(member: Member | StorageMember) -> list[int]:
    addresses = [member.client_address, member.metrics_address, member.overlay_address]
    addresses += [member.peer_address] if isinstance(member, Member) else []
    return [int(address.rpartition(":")[2]) for address in addresses if address is not None]


def _relayed(member: Member | StorageMember, relayed: Callable[[str], str]) -> Member | StorageMember:
    """A server as the other half reaches it."""
    changes = {"overlay_address": relayed(member.overlay_address)} if member.overlay_address is not None else {}
    if isinstance(member, Member):
        changes["peer_address"] = relayed(member.peer_address)
    return msgspec.structs.replace(member, **changes)


# --- in the process of the relays --------------------------------------------------------------------------------


class _Network:
    """All connections between the halves."""

    def __init__(self) -> None:
        self.is_cut = False
        self.ends: set[_End] = set()
        self.dialing = asyncio.Semaphore(DIALED_AT_ONCE)
        self._break: asyncio.TimerHandle | None = None

    def order(self, order: Order) -> None:
        """Cut, or heal."""
        if self._break is not None:
            self._break.cancel()
        self.is_cut = order == "cut"
        if self.is_cut:
            self._break = asyncio.get_running_loop().call_later(BREAK_SECONDS, self._break_all)
        for end in list(self.ends):
            end.settle()

    def _break_all(self) -> None:
        for end in list(self.ends):
            end.abort()


class _End(asyncio.Protocol):
    """One end of a connection through a relay. What comes in goes out at the other end, unless the network is cut: then
    it waits in the kernel, as does what is sent to a host that cannot be reached."""

    def __init__(self, network: _Network, to: int | None) -> None:
        """`to` is the port at which the server listens; None at the server's own end."""
        self._network = network
        self._to = to
        self._other: _End | None = None
        self._transport: asyncio.Transport | None = None
        self._other_is_full = False
        self._held = b""
        """What was read before there was an other end: a few bytes, as each side waits for the other's greeting."""
        self._dialing: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "TCP"
        self._transport = transport
        self._network.ends.add(self)
        self.settle()

    def settle(self) -> None:
        """Read on where what is read can be passed on; connect to the server where that has not been done yet. Whoever
        waits for that is read, so that it is noticed when it waits no longer."""
        if self._transport is None or self._transport.is_closing():
            return
        passes = not self._network.is_cut
        if passes and self._to is not None and self._other is None and self._dialing is None:
            self._dialing = asyncio.get_running_loop().create_task(self._dial(self._to))
        if self._other is None:
            return
        if passes and not self._other_is_full:
            held, self._held = self._held, b""
            self.data_received(held)
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    async def _dial(self, port: int) -> None:
        async with self._network.dialing:
            if self._transport is None or self._transport.is_closing():
                return
            try:
                _, other = await asyncio.get_running_loop().create_connection(
                    lambda: _End(self._network, None), HOST, port
                )
            except OSError:
                self.abort()
                return
            self._other, other._other = other, self
            if self._transport.is_closing():
                other.abort()
            self.settle()
            other.settle()

    def data_received(self, data: bytes) -> None:
        if self._network.is_cut or self._other is None or self._other._transport is None:
            self._held += data
            return
        self._other._transport.write(data)

    def pause_writing(self) -> None:
        self._tell_other(is_full=True)

    def resume_writing(self) -> None:
        self._tell_other(is_full=False)

    def _tell_other(self, is_full: bool) -> None:
        if self._other is not None:
            self._other._other_is_full = is_full
            self._other.settle()

    def connection_lost(self, error: Exception | None) -> None:
        self._network.ends.discard(self)
        if self._other is not None and self._other._transport is not None:
            self._other._transport.close()

    def abort(self) -> None:
        """The connection breaks."""
        if self._transport is not None:
            self._transport.abort()


def _serve(pipe: Connection, relays: Iterable[_Relay]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to answer
    threading.Thread(target=end_with_parent, daemon=True).start()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(_relay(pipe, relays))


async def _relay(pipe: Connection, relays: Iterable[_Relay]) -> None:
    loop = asyncio.get_running_loop()
    network = _Network()
    for port, to in relays:
        await loop.create_server(lambda to=to: _End(network, to), HOST, port)  # type: ignore[misc]
    pipe.send(None)
    while True:
        try:
            order = await loop.run_in_executor(None, pipe.recv)
        except EOFError:
            return
        network.order(order)
        pipe.send(None)

"""A real ring in one process under a client, on virtual time: instant links, disks in memory, lies as a test likes."""

import asyncio
import hashlib
import inspect
import selectors
from collections.abc import Callable
from typing import Any

import msgspec

from bft.effects import (
    Broadcast,
    Effect,
    NeedRandom,
    Persist,
    Send,
    SetTimer,
    Store,
)
from bft.membership import Membership
from bft.messages import Message
from bft.replica import Replica
from bft.secret import Secret
from bft.signatures import Ed25519Signer, Ed25519Verifier
from bft.threshold import Frost, deal
from bft.types import AgreedTime, Epoch, ReplicaId
from pond.client import objects, sync
from pond.client.asking import Burst
from pond.client.changes import Update
from pond.client.objects import Parts, open_store
from pond.node.ring import RingServer, ToClient
from pond.node.service import Service
from pond.protocol import Question, Reply
from tests.unit.bft.ring import RING_ID, MemoryDisk

START_TIME = 1_800_000_000_000_000
"""Microseconds: when the virtual clock starts."""

Lie = Callable[[Reply], Reply | None]
"""What a server says instead of its answer; None: nothing."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only when nothing else is to be done, and then at once."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_VirtualSelector(self))

    def time(self) -> float:
        return self.now


class _VirtualSelector(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events and timeout != 0:
            assert timeout is not None, "nothing will ever happen any more"
            self._loop.now += timeout
        return events


class Randomness:
    """Bytes that look random and are the same in each run."""

    def __init__(self, seed: str) -> None:
        self._seed = seed.encode()
        self._count = 0

    def __call__(self, size: int) -> bytes:
        self._count += 1
        return b"".join(
            hashlib.sha512(self._seed + b"%d %d" % (self._count, i)).digest() for i in range(-(-size // 64))
        )[:size]


def _deal(size: int) -> tuple[list[Ed25519Signer], list[Frost], Membership]:
    faults = (size - 1) // 3
    signers = [Ed25519Signer(Secret(hashlib.sha256(b"replica %d" % i).digest())) for i in range(size)]
    material = b"".join(hashlib.sha512(b"dealer %d" % i).digest() for i in range(faults + 1))
    public, shares = deal(Secret(material), size, faults + 1)
    membership = Membership(RING_ID, Epoch(1), public.group_public_key, tuple(s.public_key for s in signers))
    return signers, [Frost(share, public) for share in shares], membership


class Cluster:
    """n servers, to be made in a running loop. Messages arrive in the loop's next round."""

    def __init__(self, size: int = 4, pace: float = 1.0) -> None:
        self.loop = asyncio.get_running_loop()
        self.lies: dict[int, Lie] = {}
        self.down: set[int] = set()
        self.asked: list[tuple[int, Question]] = []
        """Every question that reached a server."""
        self.skew = 0
        """Microseconds that the servers' clocks are ahead of the client's."""
        self._pace = pace
        self._random = Randomness("servers")
        self._bursts = [False] * size
        signers, schemes, self.membership = _deal(size)
        self.disks = [MemoryDisk() for _ in range(size)]
        self.servers = [
            RingServer(
                Replica(
                    ReplicaId(i),
                    self.membership,
                    signers[i],
                    Ed25519Verifier(),
                    schemes[i],
                    Service(),
                    self.disks[i],
                )
            )
            for i in range(size)
        ]
        for i in range(size):
            self._perform(i, self.servers[i].started(self.now, b"start %10d" % i))

    @property
    def now(self) -> AgreedTime:
        """The servers' clock."""
        return AgreedTime(START_TIME + self.skew + int(self.loop.time() * 1e6))

    def client_clock(self) -> int:
        return START_TIME + int(self.loop.time() * 1e6)

    def links(self, received: Callable[[Burst], None]) -> "ClientLinks":
        return ClientLinks(self, received)

    def store(
        self, owner: str = "owner", timeout: float = 30.0, clock: Callable[[], int] | None = None
    ) -> objects.Store:
        parts = Parts(self.links, clock or self.client_clock, Randomness("client of " + owner))
        return open_store(parts, self.membership, Secret(hashlib.sha256(owner.encode()).digest()), timeout)

    # --- the servers' shell ----------------------------------------------------------------------------------------

    def ask(self, server: int, links: "ClientLinks", data: bytes) -> None:
        if server in self.down:
            return
        question = msgspec.msgpack.decode(data, type=Question)
        self.asked.append((server, question))
        self._perform(server, self.servers[server].on_client(links, question, self.now))
        self._burst(server)

    def _deliver(self, sender: int, to: int, message: Message) -> None:
        if to not in self.down and sender not in self.down:
            self._perform(to, self.servers[to].on_peer(ReplicaId(sender), message, self.now))
            self._burst(to)

    def _burst(self, server: int) -> None:
        if not self._bursts[server]:
            self._bursts[server] = True
            self.loop.call_soon(self._burst_ended, server)

    def _burst_ended(self, server: int) -> None:
        self._bursts[server] = False
        self._perform(server, self.servers[server].burst_ended(self.now))

    def _fire(self, server: int, timer: Any) -> None:
        if server in self.down:  # paused: it goes on when it is up again
            self.loop.call_later(0.1, self._fire, server, timer)
        else:
            self._perform(server, self.servers[server].on_timer(timer, self.now))

    def _perform(self, server: int, effects: list[Effect | ToClient]) -> None:
        for effect in effects:
            match effect:
                case Persist(writes) | Store(writes):
                    self.disks[server].write(writes)
                case Send(to, message):
                    self.loop.call_soon(self._deliver, server, to, message)
                case Broadcast(message):
                    for other in range(len(self.servers)):
                        if other != server:
                            self.loop.call_soon(self._deliver, server, other, message)
                case SetTimer(timer, seconds):
                    self.loop.call_later(seconds * self._pace, self._fire, server, timer)
                case NeedRandom(size):
                    self.loop.call_soon(self._give_random, server, size)
                case ToClient(links, reply):
                    self._answer(server, links, reply)

    def _give_random(self, server: int, size: int) -> None:
        self._perform(server, self.servers[server].on_random(self._random(size)))

    def _answer(self, server: int, links: Any, reply: Reply) -> None:
        said = self.lies[server](reply) if server in self.lies else reply
        if said is not None:
            self.loop.call_soon(links.arrive, server, msgspec.msgpack.encode(said))


class ClientLinks:
    """One client's links to the cluster."""

    def __init__(self, cluster: Cluster, received: Callable[[Burst], None]) -> None:
        self._cluster = cluster
        self._received = received
        self.closed = False

    def send(self, server: int, data: bytes) -> None:
        self._cluster.loop.call_soon(self._cluster.ask, server, self, data)

    def close(self) -> None:
        self.closed = True

    def arrive(self, server: int, data: bytes) -> None:
        if not self.closed:
            self._received([(server, data)])


# --- both faces under one set of tests ---------------------------------------------------------------------------


class Blocking:
    """An object of the asynchronous face whose methods are run to their end, so that a test of both faces is one."""

    def __init__(self, core: Any, run: Callable[[Any], Any]) -> None:
        self._core = core
        self._run = run

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._core, name)
        if not callable(found):
            return found

        def call(*args: Any, **options: Any) -> Any:
            result = found(*args, **options)
            if inspect.isasyncgen(result):
                return iter(self._run(_all(result)))
            return self._wrap(self._run(result) if inspect.isawaitable(result) else result)

        return call

    def __enter__(self) -> "Blocking":
        self._run(self._core.__aenter__())
        return self

    def __exit__(self, *exception: object) -> None:
        self._run(self._core.__aexit__(*exception))

    def _wrap(self, result: Any) -> Any:
        ours = isinstance(result, objects.Store | objects.Object | objects.ObjectFile | Update)
        return Blocking(result, self._run) if ours else result


async def _all(pieces: Any) -> list[bytes]:
    return [piece async for piece in pieces]


class AsyncFace:
    """Stores of the asynchronous face on a virtual loop."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.cluster = self.loop.run_until_complete(_make(1.0))

    def store(self, owner: str = "owner", timeout: float = 30.0) -> Any:
        async def make() -> objects.Store:
            return self.cluster.store(owner, timeout)

        return Blocking(self.loop.run_until_complete(make()), self.loop.run_until_complete)

    def close(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.close()


class SyncFace:
    """Stores of the synchronous face, with the cluster in the loop of each: in real time, with quick timers."""

    def __init__(self) -> None:
        self.cluster: Cluster | None = None
        self._runner = sync.Runner()

    def store(self, owner: str = "owner", timeout: float = 30.0) -> sync.Store:
        async def make() -> objects.Store:
            if self.cluster is None:
                self.cluster = await _make(0.02)
            return self.cluster.store(owner, timeout)

        return sync.Store(self._runner, self._runner.run(make()))

    def close(self) -> None:
        self._runner.close()


async def _make(pace: float) -> Cluster:
    return Cluster(pace=pace)

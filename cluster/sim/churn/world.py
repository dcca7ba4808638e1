"""All nodes of a run: each a real core behind a simulated link, started and crashed, asked for the roots of keys.

A message is encoded once, for its size, and handed on as it is; one in so many is decoded from those bytes and must be
the same. Nodes crash without a word. Whoever joins is told of one live node.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from cluster.sim.churn.links import HEADER_BYTES, Links, Port
from cluster.sim.churn.loop import Loop
from cluster.sim.churn.overlay import Core, Overlay
from cluster.sim.churn.population import Population
from cluster.sim.churn.topology import Place, latency, random_place
from cluster.sim.trace import Trace
from tapestry.effects import Joined, Received, Rejected, Resolved, Route, Send, SetTimer, Started, Timer, TimerFired
from tapestry.messages import Contact

DECODED_ONE_IN = 64
"""So many messages, one is decoded."""


class Lookup:
    """One question for the root of a key, and what came of it."""

    __slots__ = ("answered", "asked", "asker", "asker_died", "direct", "hops", "key", "root")

    def __init__(self, key: bytes, asker: int, asked: float) -> None:
        self.key = key
        self.asker = asker
        self.asked = asked
        self.answered: float | None = None
        self.root = b""
        """The GUID that answered; empty without an answer."""
        self.hops = 0
        self.direct = 0.0
        """Seconds that a packet takes from who asked to who answered."""
        self.asker_died = False
        """Before any answer."""


class Host(Port):
    """One node, from its start to its crash and after."""

    __slots__ = ("contact", "core", "crashed", "honest", "joined", "lookups", "number", "reads", "started")

    def __init__(
        self, number: int, contact: Contact, place: Place, side: int, core: Core | None, started: float
    ) -> None:
        super().__init__(place, side)
        self.number = number
        self.contact = contact
        self.core = core
        """None once it has crashed."""
        self.honest = True
        self.started = started
        self.joined: float | None = None
        self.crashed: float | None = None
        self.lookups: dict[int, Lookup] = {}
        """That it asked and that nobody answered yet."""
        self.reads: dict[int, Any] = {}
        """Searches for objects under way, by number (`cluster.sim.churn.objects.Read`)."""


class World:
    """The nodes, their links, and one clock. Everything random comes from the seed."""

    def __init__(self, overlay: Overlay, seed: int, loss: float = 0.0) -> None:
        self._overlay = overlay
        self._seed = seed
        self.loop = Loop()
        self.trace = Trace(self.loop)
        self.links: Links[Host, Any] = Links(self.loop, self.random("loss"), self._deliver, loss)
        self.hosts: list[Host] = []
        """All that ever started."""
        self.live: Population[Host] = Population()
        """Honest ones that have not crashed."""
        self.members: Population[Host] = Population()
        """Those that live and have joined."""
        self.askers = self.members
        """Those of them that ask: the honest ones."""
        self.sent: dict[type, list[int]] = {}
        """Messages and bytes of each kind."""
        self.rejected: Counter[str] = Counter()
        self.live_seconds = 0.0
        """Of all nodes together, up to the last start or crash."""
        self._by_guid: dict[bytes, Host] = {}
        self._guids = self.random("guids")
        self._places = self.random("places")
        self._introductions = self.random("ways in")
        self._changed = 0.0
        self._numbers = 0
        self._messages = 0

    def random(self, name: str) -> Random:
        """A stream of choices of its own: what is drawn from one shifts nothing in the others."""
        return Random(f"{self._seed} {name}")

    # --- who is there ----------------------------------------------------------------------------------------------

    def start(self) -> Host:
        """One more node, which joins through a random member, or is the first."""
        return self._start(self._guids.randbytes(32), self._overlay.make)

    def _start(self, guid: bytes, make: Callable[[Contact, Random], Core], honest: bool = True) -> Host:
        number = len(self.hosts)
        address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}:7400"
        contact = Contact(guid, address)
        core = make(contact, self.random(f"node {number}"))
        host = Host(number, contact, random_place(self._places), self._guids.getrandbits(1), core, self.loop.now)
        host.honest = honest
        ways_in = self._ways_in(host)
        self._count_seconds()
        self.hosts.append(host)
        self._by_guid[contact.guid] = host
        if honest:
            self.live.add(host)
        self.trace.note("start", number, *([way_in.number for way_in in ways_in] or [-1]))
        self._step(host, core, Started(tuple(way_in.contact for way_in in ways_in), self.loop.now))
        return host

    def crash(self, host: Host) -> None:
        """The node is gone, and nobody is told."""
        self._count_seconds()
        self.live.remove(host)
        if host.joined is not None:
            self.members.remove(host)
        host.crashed, host.core = self.loop.now, None
        for lookup in host.lookups.values():
            lookup.asker_died = True
        host.lookups.clear()
        self.trace.note("crash", host.number)

    def host(self, guid: bytes) -> Host:
        """The node with this GUID, dead or alive."""
        return self._by_guid[guid]

    def live_node_seconds(self) -> float:
        """Seconds that all nodes together have lived so far."""
        self._count_seconds()
        return self.live_seconds

    def _ways_in(self, host: Host) -> Sequence[Host]:
        """A random member, of its side while there are two; nobody where there is none."""
        if not self.members:
            return ()
        while True:
            way_in = self.members.pick(self._introductions)
            if not self.links.split or way_in.side == host.side:
                return (way_in,)

    def _count_seconds(self) -> None:
        self.live_seconds += len(self.live) * (self.loop.now - self._changed)
        self._changed = self.loop.now

    # --- what they are asked ---------------------------------------------------------------------------------------

    def ask(self, host: Host, key: bytes) -> Lookup:
        """Ask a live node for the root of a key; the answer comes into what is returned."""
        assert host.core is not None, f"node {host.number} was asked after its crash"
        self._numbers += 1
        lookup = Lookup(key, host.number, self.loop.now)
        host.lookups[self._numbers] = lookup
        self._step(host, host.core, Route(key, self._numbers, self.loop.now))
        return lookup

    def _resolved(self, host: Host, effect: Resolved) -> None:
        lookup = host.lookups.pop(effect.number, None)
        if lookup is None:
            return
        root = self._by_guid[effect.root.guid]
        lookup.answered = self.loop.now
        lookup.root = effect.root.guid
        lookup.hops = effect.hops
        lookup.direct = 0.0 if root is host else latency(host.place, root.place)
        self.trace.note("answer", host.number, root.number, effect.hops)

    # --- what they do ----------------------------------------------------------------------------------------------

    def _deliver(self, sender: Host, to: Host, message: Any) -> None:
        core = to.core
        if core is not None:
            self.trace.note("message", sender.number, to.number, type(message).__name__)
            self._step(to, core, Received(sender.contact, message, self.loop.now))

    def _fire(self, host: Host, timer: Timer) -> None:
        core = host.core
        if core is not None:
            self._step(host, core, TimerFired(timer, self.loop.now))

    def _step(self, host: Host, core: Core, event: Any) -> None:
        for effect in core.step(event):
            kind = type(effect)
            if kind is Send:
                self._send(host, effect.to, effect.message)  # type: ignore[union-attr]
            elif kind is SetTimer:
                self.loop.after(effect.seconds, self._fire, host, effect.timer)  # type: ignore[union-attr]
            elif kind is Resolved:
                self._resolved(host, effect)  # type: ignore[arg-type]
            elif kind is Joined:
                self._joined(host)
            elif kind is Rejected:
                self.rejected[effect.reason] += 1  # type: ignore[union-attr]
            else:
                self._searched(host, effect)

    def _searched(self, host: Host, effect: Any) -> None:
        """Something came of a search for an object."""
        raise AssertionError(f"node {host.number} asked for {effect}")

    def _joined(self, host: Host) -> None:
        assert host.joined is None, f"node {host.number} joined twice"
        host.joined = self.loop.now
        self.members.add(host)
        self.trace.note("joined", host.number)

    def _send(self, host: Host, to: Contact, message: Any) -> None:
        data = self._overlay.encode(message)
        size = len(data) + HEADER_BYTES
        self._messages += 1
        if self._messages % DECODED_ONE_IN == 0:
            came = self._overlay.decode(data)
            assert came == message, f"{message} comes out as {came}"
        self._post(host, self._by_guid[to.guid], message, size)

    def _post(self, host: Host, to: Host, message: Any, size: int) -> None:
        sums = self.sent.get(type(message))
        if sums is None:
            sums = self.sent[type(message)] = [0, 0]
        sums[0] += 1
        sums[1] += size
        self.links.send(host, to, message, size)

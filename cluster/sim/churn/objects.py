"""Objects in the simulated world: nodes publish them, and read them by asking who has them and then for them.

A read is what a client does: locate a holder, ask it for the object itself, and when that does not come pass it over
and locate another. Both messages travel on the simulated links. Where a holder dies another node comes to hold the
object at once and publishes it, as repair would see to.

Some nodes may lie (`cluster.sim.churn.liars`). Then each node joins through three members, and as a member it is told
of others from time to time: real nodes have a cluster file that lists all.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from cluster.sim.churn import liars
from cluster.sim.churn.keys import Keys, Notary
from cluster.sim.churn.links import HEADER_BYTES
from cluster.sim.churn.overlay import Core, Overlay, Recovery
from cluster.sim.churn.population import Population
from cluster.sim.churn.topology import LEAST_ACCESS_SECONDS, latency, random_place
from cluster.sim.churn.world import Host, World
from tapestry.effects import Locate, LocatedAt, Meet, NotFound, Publish
from tapestry.guid import distance
from tapestry.messages import Contact, Forward, Join
from tapestry.node import Node
from tapestry.pointers import node_guid, root_key

HOLDERS = 4
"""Nodes that hold one object."""

READ_SECONDS = 10.0
"""Mean time between two reads of one node: as often as it looks up keys."""

READ_PATIENCE_SECONDS = 60.0
"""As for lookups: whom a holder fails asks on for so long, and what comes later does not count."""

FETCH_SECONDS = 1.0
"""A holder that has not sent the object for so long is passed over: as long as TCP waits where it knows no round trip
(RFC 6298), and twice the longest of these links."""

NEXT_FETCH_SECONDS = 0.25
"""Once one has been passed over, others are asked so soon one after another, and whoever answers first is heard."""

OBJECT_BYTES = 1024
ASKING_BYTES = 64
"""Of the two messages, without headers."""

PUBLISH_SECONDS = 20.0
"""In which all objects are published, after the last eclipsing node has started."""

ECLIPSE_SECONDS = 10.0
"""In which these start."""

READS_AFTER_SECONDS = 40.0
"""From the end of the start until nodes read."""

WAYS_IN = 3
"""Members that a new node is told of where some lie."""

MEET_SECONDS = 15.0
MET = 3
"""So often a member is told of so many: as `pond.node.overlay` does from the cluster file."""

NEVER_WERE = 64
"""Nodes that liars speak of and that never were."""

INSERT_SECONDS = 2.0
"""What a node sends and gets so long after it has become a member still belongs to its insertion: it fetches rows."""


class Read:
    """One question for an object, and what came of it."""

    __slots__ = (
        "answered",
        "asked",
        "asker_died",
        "attempts",
        "object",
        "passed_over",
        "straight_seconds",
        "way_seconds",
    )

    def __init__(self, obj: bytes, asked: float, straight_seconds: float) -> None:
        self.object = obj
        self.asked = asked
        self.straight_seconds = straight_seconds
        """What a packet takes to the nearest holder that lives."""
        self.answered: float | None = None
        """When the object came."""
        self.way_seconds = 0.0
        """From the asking until the search that found it was at a holder."""
        self.passed_over: tuple[bytes, ...] = ()
        self.attempts = 0
        """Nodes that were asked for the object."""
        self.asker_died = False


class Ask(NamedTuple):
    """To somebody who is said to hold the object of a read."""

    read: Read


class Give(NamedTuple):
    """The object."""

    read: Read


class WorldWithObjects(World):
    """Nodes with keys and objects, and liars among them."""

    def __init__(
        self,
        overlay: Overlay,
        recovery: Recovery,
        seed: int,
        loss: float,
        nodes: int,
        objects: int,
        lying: int,
        eclipsing: int,
    ) -> None:
        """Of the `nodes` started first, `lying` lie; `eclipsing` more that do are started next to an object's root."""
        super().__init__(overlay, seed, loss)
        self.askers = Population()
        self.reads: list[Read] = []
        self.insert_bytes: defaultdict[int, int] = defaultdict(int)
        """By node: what was sent by it, to it and for it until it was a member for a moment."""
        self._recovery = recovery
        self._notary = Notary(self.random("keys"))
        self._choices = self.random("objects")
        self._reading = self.random("reads")
        self._objects = [self._choices.randbytes(32) for _ in range(objects)]
        self._eclipsing = eclipsing
        self.eclipsed = self._objects[0] if eclipsing else None
        """The object whose first root liars surround."""
        self._holders: dict[bytes, dict[int, Host]] = {obj: {} for obj in self._objects}
        self._held: defaultdict[int, list[bytes]] = defaultdict(list)
        self._league = liars.League() if lying or eclipsing else None
        self._lying = frozenset(self.random("liars").sample(range(1, nodes), lying))
        self._meeting = self.random("meeting")
        self._inserting: dict[int, float] = {}
        """When the insertion of a node is over, where it has joined."""
        for number in range(NEVER_WERE if self._league else 0):
            self._add_nobody(Contact(self._choices.randbytes(32), f"10.255.0.{number}:7400"))

    # --- who is there ------------------------------------------------------------------------------------------------

    def start(self) -> Host:
        """One more node; of the first ones, some lie."""
        lies = len(self.hosts) in self._lying
        return self._start_with(self._notary.new(), lies)

    def _start_with(self, keys: Keys, lies: bool) -> Host:
        def make(contact: Contact, choices: random.Random) -> Core:
            node = Node(contact, choices, self._recovery, keys)
            if not lies:
                return node
            assert self._league is not None
            return liars.Liar(node, keys, self._league, liars.manners(choices), choices)

        host = self._start(node_guid(keys.public_key), make, not lies)
        if lies:
            host.place = host.place._replace(access=LEAST_ACCESS_SECONDS)
        return host

    def _add_nobody(self, contact: Contact) -> None:
        assert self._league is not None
        nobody = Host(-1, contact, random_place(self._choices), 0, None, 0.0)
        self._by_guid[contact.guid] = nobody
        self._league.gone.append(contact)

    def _ways_in(self, host: Host) -> Sequence[Host]:
        if self._league is None:
            return super()._ways_in(host)
        return self.members.sample(self._introductions, WAYS_IN)

    def _joined(self, host: Host) -> None:
        super()._joined(host)
        self._inserting[host.number] = self.loop.now + INSERT_SECONDS
        if host.honest:
            self.askers.add(host)
            if self._league is not None:
                self.loop.after(MEET_SECONDS * self._meeting.random(), self._meet, host)

    def _meet(self, host: Host) -> None:
        if host.core is not None:
            some = self.members.sample(self._meeting, MET)
            self._step(host, host.core, Meet(tuple(other.contact for other in some), self.loop.now))
            self.loop.after(MEET_SECONDS, self._meet, host)

    def crash(self, host: Host) -> None:
        """The node is gone; others come to hold what it held."""
        super().crash(host)
        if host.joined is not None:
            self.askers.remove(host)
        if self._league is not None:
            self._league.gone.append(host.contact)
        for read in host.reads.values():
            read.asker_died = True
        host.reads.clear()
        for obj in self._held.pop(host.number, []):
            del self._holders[obj][host.number]
            self._give(obj)

    # --- what they hold ----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """All nodes are there: let some of them hold the objects and publish them, and then all read them."""
        if self.eclipsed is not None:
            key = root_key(self.eclipsed, 0)
            places = min(distance(host.contact.guid, key) for host in self.live)
            for number in range(self._eclipsing):
                keys = self._notary.new_near(key, places)
                self.loop.after(ECLIPSE_SECONDS * number / self._eclipsing, self._start_with, keys, True)
        for number, obj in enumerate(self._objects):
            self.loop.after(ECLIPSE_SECONDS + PUBLISH_SECONDS * number / len(self._objects), self._give, obj, HOLDERS)
        self.loop.after(READS_AFTER_SECONDS, self._read_again)

    def _give(self, obj: bytes, times: int = 1) -> None:
        """So many more members hold the object, and say so."""
        holders = self._holders[obj]
        others = [host for host in self.askers.sample(self._choices, times + HOLDERS) if host.number not in holders]
        for host in others[:times]:
            holders[host.number] = host
            self._held[host.number].append(obj)
            assert host.core is not None
            self._step(host, host.core, Publish((obj,), self.loop.now))

    # --- what they read ----------------------------------------------------------------------------------------------

    def _read_again(self) -> None:
        self.loop.after(self._reading.expovariate(max(len(self.askers), 1) / READ_SECONDS), self._read_again)
        whole = self.eclipsed is None or self._reading.random() < 0.5
        obj = self._reading.choice(self._objects) if whole else self.eclipsed
        assert obj is not None
        holders = self._holders[obj]
        askers = [host for host in self.askers.sample(self._reading, HOLDERS + 1) if host.number not in holders]
        if askers and holders:
            self._read(askers[0], obj)

    def _read(self, host: Host, obj: bytes) -> None:
        straight = min(latency(host.place, holder.place) for holder in self._holders[obj].values())
        read = Read(obj, self.loop.now, straight)
        self.reads.append(read)
        self._locate(host, read)

    def _locate(self, host: Host, read: Read) -> None:
        assert host.core is not None
        self._numbers += 1
        host.reads[self._numbers] = read
        event = Locate(read.object, self._numbers, read.passed_over, self.loop.now)
        self._step(host, host.core, event)

    def _searched(self, host: Host, effect: Any) -> None:
        read = host.reads.pop(effect.number)
        if isinstance(effect, NotFound):
            self.trace.note("not found", host.number)
            return
        assert isinstance(effect, LocatedAt), f"node {host.number} asked for {effect}"
        holder = self._by_guid[effect.pointer.holder.guid]
        back = latency(holder.place, host.place)
        self.trace.note("located", host.number, holder.number)
        read.attempts += 1
        read.way_seconds = self.loop.now - back - read.asked
        self._post(host, holder, Ask(read), ASKING_BYTES + HEADER_BYTES)
        self.loop.after(NEXT_FETCH_SECONDS if read.passed_over else FETCH_SECONDS, self._overdue, host, read, holder)

    def _overdue(self, host: Host, read: Read, holder: Host) -> None:
        if host.core is not None and read.answered is None:
            read.passed_over = (*read.passed_over, holder.contact.guid)
            if self.loop.now - read.asked < READ_PATIENCE_SECONDS:
                self._locate(host, read)

    def _deliver(self, sender: Host, to: Host, message: Any) -> None:
        if isinstance(message, Ask):
            if to.number in self._holders[message.read.object]:
                self._post(to, sender, Give(message.read), OBJECT_BYTES + HEADER_BYTES)
        elif isinstance(message, Give):
            if to.core is not None and message.read.answered is None:
                message.read.answered = self.loop.now
        else:
            super()._deliver(sender, to, message)

    # --- what it costs -----------------------------------------------------------------------------------------------

    def _post(self, host: Host, to: Host, message: Any, size: int) -> None:
        """Of what liars send nothing is counted."""
        if not host.honest:
            self.links.send(host, to, message, size)
            return
        super()._post(host, to, message, size)
        now, inserting = self.loop.now, self._inserting
        by = {host, to}
        if isinstance(message, Forward) and isinstance(message.cargo, Join):
            by.add(self._by_guid[message.origin.guid])
        for each in by:
            if now < inserting.get(each.number, now + 1):
                self.insert_bytes[each.number] += size

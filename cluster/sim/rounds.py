"""Rounds of power failures: before or after a sync that something waits for, or at any instant; of one server or all.

A round strikes at one point, starts again whom it struck, and is over when an update that came later has run and all
servers are up. Points are struck in turn, so all come up equally often.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

from bft.effects import Broadcast, Send
from cluster.faults import manifest as faults
from cluster.sim.kernel import Kernel, OutOfTime
from cluster.sim.server import Outgoing, Server
from cluster.sim.trace import Trace
from cluster.sim.watch import Watch

PRIMARY, BACKUP = "primary", "backup"

SYNCS = (
    (PRIMARY, "PrePrepare"),
    (BACKUP, "Prepare"),
    (PRIMARY, "Commit"),
    (BACKUP, "Commit"),
    (PRIMARY, "Checkpoint"),
    (BACKUP, "Checkpoint"),
    (PRIMARY, "ViewChange"),
    (BACKUP, "ViewChange"),
    (PRIMARY, "NewView"),
    (PRIMARY, "BlocksHeld"),
    (BACKUP, "BlocksHeld"),
    (BACKUP, "SignatureShare"),
)
"""Who syncs, and what must not leave before: every kind of message that rests on a sync, at each role that sends it."""

OF_VIEWS = frozenset({"NewView", "ViewChange"})
"""These syncs come only when a view ends, which the round sees to."""

PATIENCE_SECONDS = 60.0
"""How long a round may take, each of its waits."""

LOOK_SECONDS = 0.002

MOST_INSTANT_SECONDS = 0.05
"""Within so long after the last round power fails at any instant."""


class Point(NamedTuple):
    """Where a round strikes."""

    role: str
    """Of the server that is struck, or watched when all are."""
    sync: str
    """The message that its sync holds back, or `instant`."""
    after: bool
    """Whether the sync is done; if so nothing that waited for it has left."""
    everyone: bool

    def __str__(self) -> str:
        who = "all" if self.everyone else self.role
        if self.sync == "instant":
            return f"{who}, at any instant"
        return f"{who}, {'after' if self.after else 'before'} the {self.role}'s sync for {self.sync}"


POINTS = tuple(
    Point(role, sync, after, everyone)
    for everyone, after, (role, sync) in product(
        (False, True), (False, True), (*SYNCS, *3 * ((PRIMARY, "instant"), (BACKUP, "instant")))
    )
)


class Rounds:
    """The rounds of one run."""

    def __init__(
        self, spec: faults.Rounds, kernel: Kernel, trace: Trace, servers: Sequence[Server], watch: Watch
    ) -> None:
        self.done: Counter[Point] = Counter()
        self.longest_seconds = 0.0
        """From starting servers again to the update, at most."""
        self.over = False
        self.crashes = 0
        self._spec = spec
        self._kernel = kernel
        self._trace = trace
        self._servers = servers
        self._watch = watch
        self._choices = kernel.random("rounds")
        self._armed: Point | None = None
        self._struck: asyncio.Future[None] | None = None
        for server in servers:
            server.at_sync = self._at_sync

    async def play(self) -> None:
        """All of them. Raises OutOfTime when the ring does not go on."""
        first = self._choices.randrange(len(POINTS))
        for number in range(self._spec.count):
            point = POINTS[(first + number) % len(POINTS)]
            self._trace.note("round", point.role, point.sync, point.after, point.everyone)
            await self._strike(point)
            await asyncio.sleep(self._choices.expovariate(1.0) * self._spec.seconds)
            await self._go_on(point)
            self.done[point] += 1
        self.over = True

    async def _strike(self, point: Point) -> None:
        if point.sync == "instant":
            await asyncio.sleep(self._choices.random() * MOST_INSTANT_SECONDS)
            self._kill(self._choices.choice(self._having(point.role)), point)
            return
        if point.sync in OF_VIEWS:
            self._having(PRIMARY)[0].die()
        self._armed = point
        self._struck = self._kernel.create_future()
        if point.sync in OF_VIEWS:
            self._start_all()
        self._kernel.after(PATIENCE_SECONDS, self._give_up, self._struck, point)
        await self._struck

    def _give_up(self, struck: "asyncio.Future[None]", point: Point) -> None:
        if not struck.done():
            struck.set_exception(OutOfTime(f"in {PATIENCE_SECONDS:g} s nobody came to: {point}"))

    def _having(self, role: str) -> list[Server]:
        """Servers of a role, as most of them see it; never none."""
        views = Counter(server.core.replica.ordering.primary for server in self._servers)
        primary = max(views, key=lambda identity: (views[identity], identity))
        return [server for server in self._servers if (server.identity == primary) == (role == PRIMARY)]

    def _at_sync(self, server: Server, held: Sequence[Outgoing], after: bool) -> None:
        point = self._armed
        if point is None or point.after != after:
            return
        leads = server.core.replica.ordering.primary == server.identity
        if leads == (point.role == PRIMARY) and point.sync in _kinds(held):
            assert self._struck is not None
            self._armed = None
            self._kill(server, point)
            self._struck.set_result(None)

    def _kill(self, server: Server, point: Point) -> None:
        for victim in self._servers if point.everyone else [server]:
            if victim.up:
                self.crashes += 1
                victim.die()

    def _start_all(self) -> None:
        for server in self._servers:
            if not server.up:
                server.start()

    async def _go_on(self, point: Point) -> None:
        """Start those that are down, and wait for an update."""
        self._start_all()
        began, mark = self._kernel.now, len(self._watch.commits)
        while not any(batch.updates for batch in self._watch.commits[mark:]):
            if self._kernel.now > began + PATIENCE_SECONDS:
                raise OutOfTime(f"no update ran in {PATIENCE_SECONDS:g} s after a power failure: {point}")
            await asyncio.sleep(LOOK_SECONDS)
        self.longest_seconds = max(self.longest_seconds, self._kernel.now - began)


def _kinds(held: Sequence[Outgoing]) -> set[str]:
    """What waits for a sync."""
    return {type(effect.message if isinstance(effect, Send | Broadcast) else effect.reply).__name__ for effect in held}

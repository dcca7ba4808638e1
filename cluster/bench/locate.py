"""`pond bench locate`: the overlay on real processes, a third of them killed at once, and in two halves.

A locate is what a user waits for: a server drawn at random is asked who holds a test object, and the holder is asked
whether it does; one that does not answer is passed over and another looked for (pond.client.overlay). Locates are due
at a fixed rate, whatever became of those before, and are timed from when they were due: each second has as many, and
what holds this process up is in their times.
"""

import asyncio
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from random import SystemRandom
from time import CLOCK_BOOTTIME, clock_gettime, time
from typing import Any, NamedTuple

import msgspec

from cluster import launch, processes
from cluster.bench import floor
from cluster.bench.figures import percentile, three_digits
from cluster.bench.locate_answers import Joined, Located, LocateMeasured
from cluster.bench.usage import CLOCK_TICKS, cpu_seconds
from cluster.faults.relays import Relays
from cluster.layout import AnyPlace, Layout
from pond.cli.answers import table
from pond.client import overlay as client
from pond.errors import PondError, Unavailable
from pond.servers import Listed, listed
from tapestry.guid import GUID

KILLED_SHARE = 0.3
"""Of all servers; of the ring no more than may fail."""

HOLDERS = 4
"""Of each object."""

VIA = 3
"""Servers that one locate is asked of, the next when one does not answer for two seconds."""

KEYS = 16
"""Whose roots all servers are asked for."""

DEADLINE_SECONDS = 10.0
"""A locate that takes so long has failed."""

ANSWER_SECONDS = 5.0
"""A server has so long to tell a root."""

AT_ONCE = 64
"""Questions for roots under way at a time."""

AGREE_SECONDS = 120.0
"""For all servers to find the same roots."""

JOIN_SECONDS = 60.0

TARGET_P95_MS, TARGET_P99_MS = 250.0, 1000.0
"""After the kill."""
TARGET_ONE_ROOT_SECONDS = 30.0
"""After healing."""

Say = Callable[[str], object]

_draw = SystemRandom()


class Size(NamedTuple):
    """How much is measured."""

    storage: int = 46
    objects: int = 128
    per_second: int = 40
    quiet_seconds: float = 20.0
    killed_seconds: float = 30.0
    cut_seconds: float = 60.0


class Attempt(NamedTuple):
    """One locate: when it was due, in seconds since the first, and how long after that it had found a holder; None when
    it found nobody."""

    due: float
    seconds: float | None


def locate(size: Size, parent: Path | None = None, say: Say = len) -> LocateMeasured:
    """Start a cluster in a temporary directory (in `parent`), measure, hurt it, and stop it. Raises PondError."""
    question_ms = floor.question()
    with tempfile.TemporaryDirectory(prefix="pond-bench-", dir=parent) as scratch:
        layout, started = launch.up(Path(scratch) / "cluster", storage=size.storage)
        try:
            if started.failed:
                raise started.failed[0].error
            killed = asyncio.run(_kill_some(layout, size, question_ms, say))
            launch.down(layout.directory)
            servers = _servers(layout)
            with Relays(layout, servers[::2]) as relays:
                launch.up(layout.directory)
                cut = asyncio.run(_cut_in_two(layout, size, question_ms, say, relays, servers[::2]))
                launch.down(layout.directory)
        finally:
            with suppress(PondError):
                launch.down(layout.directory)
    return LocateMeasured(
        floor_ms=question_ms,
        servers=len(servers),
        killed=killed.victims,
        joins=killed.joins,
        results=[*killed.results, *cut.results],
        success_by_second=killed.by_second,
        cut_seconds=size.cut_seconds,
        keys=KEYS,
        two_roots=cut.two_roots,
        one_root_seconds=cut.one_root_seconds,
    )


def _servers(layout: Layout) -> list[AnyPlace]:
    return [*layout.servers, *layout.storage]


# --- what is asked -----------------------------------------------------------------------------------------------


class _Scenario:
    """A cluster, links to all its servers, and objects that some of them hold."""

    def __init__(self, layout: Layout, size: Size, question_ms: float, say: Say) -> None:
        """Construct it inside a running event loop."""
        self._layout = layout
        self._size = size
        self._question_ms = question_ms
        self._say = say
        self._every = listed(layout.cluster)
        self._linked = client.Linked(self._every)
        self._holders: dict[str, list[Listed]] = {}
        self._load: set[asyncio.Task[None]] = set()
        self._attempts: list[Attempt] = []

    async def _publish(self) -> None:
        names = [f"object {number}" for number in range(self._size.objects)]
        self._holders = {name: _draw.sample(self._every, min(HOLDERS, len(self._every))) for name in names}
        for name, holders in self._holders.items():
            await asyncio.gather(*(client.publish(one, name, True, JOIN_SECONDS, self._linked) for one in holders))

    async def _locates(self, name: str, seconds: float, sides: Sequence[Collection[Listed]]) -> Located:
        """Locates for so long, each through servers of one of these sides of an object that one of that side holds."""
        loop = asyncio.get_running_loop()
        self._attempts.clear()
        of_side = [
            (list(side), [name for name, holders in self._holders.items() if any(one in side for one in holders)])
            for side in sides
        ]
        before, began = self._cpu_seconds(), loop.time()
        for turn in range(round(seconds * self._size.per_second)):
            due = turn / self._size.per_second
            await asyncio.sleep(began + due - loop.time())
            via, names = of_side[turn % len(of_side)]
            task = loop.create_task(self._locate(_draw.choice(names), via, due, began + due))
            self._load.add(task)
            task.add_done_callback(self._load.discard)
        await asyncio.gather(*self._load)
        spent = self._cpu_seconds() - before
        return self._row(name, spent, loop.time() - began)

    async def _locate(self, name: str, via: list[Listed], due: float, due_at: float) -> None:
        loop = asyncio.get_running_loop()
        seconds = None
        some = _draw.sample(via, min(VIA, len(via)))
        with suppress(PondError):
            _, found = await client.locate(self._every, some, client.object_of(name), DEADLINE_SECONDS, self._linked)
            if found.holder is not None:
                seconds = loop.time() - due_at
        self._attempts.append(Attempt(due, seconds))

    def _row(self, name: str, cpu_spent: float, seconds: float) -> Located:
        took = sorted(1000 * one.seconds for one in self._attempts if one.seconds is not None)
        if not took:
            raise Unavailable(f"{name}: no locate has succeeded")
        return Located(
            name=name,
            n=len(self._attempts),
            failed=len(self._attempts) - len(took),
            p50_ms=percentile(took, 0.5),
            p95_ms=percentile(took, 0.95),
            p99_ms=percentile(took, 0.99),
            max_ms=took[-1],
            per_second=len(took) / seconds,
            cpu_ms_per_op=1000 * cpu_spent / len(self._attempts),
            cores=cpu_spent / seconds,
            ratio_to_floor=percentile(took, 0.5) / self._question_ms,
        )

    def _cpu_seconds(self) -> float:
        """Of all servers that run and of this process."""
        pids = [processes.look(server).pid for server in _servers(self._layout)]
        return sum(cpu_seconds(pid) for pid in (*pids, os.getpid()) if pid is not None)

    async def _roots(self, servers: Iterable[Listed], keys: Sequence[GUID]) -> dict[GUID, set[bytes | None]]:
        """What these servers find to be the root of each key; None of one that found none in time."""
        room = asyncio.Semaphore(AT_ONCE)
        found: dict[GUID, set[bytes | None]] = {key: set() for key in keys}

        async def ask(server: Listed, key: GUID) -> None:
            root = None
            async with room:
                with suppress(PondError):
                    root = (await client.route([server], key, ANSWER_SECONDS, self._linked))[1].root
            found[key].add(root)

        await asyncio.gather(*(ask(server, key) for server in servers for key in keys))
        return found

    async def _one_root(self, keys: Sequence[GUID]) -> float:
        """Seconds until all servers have found one and the same root for each key."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            found = await self._roots(self._every, keys)
            if all(len(roots) == 1 and None not in roots for roots in found.values()):
                return loop.time() - began
            if loop.time() - began > AGREE_SECONDS:
                several = sum(len(roots) > 1 for roots in found.values())
                raise Unavailable(f"after {AGREE_SECONDS:.0f} s {several} of {len(keys)} keys have no one root")


# --- a third killed ----------------------------------------------------------------------------------------------


class _KilledFound(NamedTuple):
    victims: list[str]
    joins: list[Joined]
    results: list[Located]
    by_second: list[float]


async def _kill_some(layout: Layout, size: Size, question_ms: float, say: Say) -> _KilledFound:
    return await _Killed(layout, size, question_ms, say).run()


class _Killed(_Scenario):
    """Nearly a third of all servers are killed at once, while locates go on, and started again."""

    async def run(self) -> _KilledFound:
        """What came of it."""
        with self._linked:
            servers = _servers(self._layout)
            joins = [_joined("start of all", servers)]
            self._say(f"{len(servers)} servers are in the overlay")
            await self._publish()
            quiet = await self._locates("all serve", self._size.quiet_seconds, [self._every])
            victims = self._victims()
            names = tuple(victim.name for victim in victims)
            self._say(f"{len(names)} are killed: {', '.join(names)}")
            left = [server for server in self._every if server.name not in names]
            locates = asyncio.create_task(self._locates("killed", self._size.killed_seconds, [left]))
            await asyncio.to_thread(launch.kill, self._layout.directory, names)
            killed = await locates
            found = by_second(self._attempts)
            await asyncio.to_thread(self._start_again, names)
            joins.append(_joined("killed and started again", victims))
            return _KilledFound(list(names), joins, [quiet, killed], found)

    def _victims(self) -> list[AnyPlace]:
        ring, storage = self._layout.servers, self._layout.storage
        count = round(KILLED_SHARE * (len(ring) + len(storage)))
        of_ring = min((len(ring) - 1) // 3, count)
        return [*_draw.sample(ring, of_ring), *_draw.sample(storage, min(count - of_ring, len(storage)))]

    def _start_again(self, names: tuple[str, ...]) -> None:
        launch.restart(self._layout.directory, names)
        nodes = launch.overlay_report(self._layout, JOIN_SECONDS, joined=True)
        missing = [node.server.name for node in nodes if node.status is None or not node.status.joined]
        if missing:
            raise Unavailable(f"{', '.join(missing)} have not joined the overlay after {JOIN_SECONDS:.0f} s")


def by_second(attempts: Iterable[Attempt]) -> list[float]:
    """The share of those due in each second that found a holder."""
    seconds: dict[int, list[bool]] = {}
    for one in attempts:
        seconds.setdefault(int(one.due), []).append(one.seconds is not None)
    return [sum(found) / len(found) for _, found in sorted(seconds.items())]


def _joined(name: str, servers: Sequence[AnyPlace]) -> Joined:
    both = [_join_seconds(server) for server in servers]
    total, own = (sorted(1000 * seconds for seconds in each) for each in zip(*both, strict=True))
    return Joined(
        name=name,
        n=len(servers),
        p50_ms=percentile(total, 0.5),
        p95_ms=percentile(total, 0.95),
        max_ms=total[-1],
        node_p50_ms=percentile(own, 0.5),
        node_p95_ms=percentile(own, 0.95),
    )


def _join_seconds(server: AnyPlace) -> tuple[float, float]:
    """From the start of a server's process until it had joined the overlay, and from the start of its node."""
    ticks = processes.start_ticks(server)
    lines = [msgspec.json.decode(line, type=dict[str, Any]) for line in server.log.read_bytes().splitlines()]
    last = [line for line in lines if line.get("event") == "joined"][-1]
    started = time() - (clock_gettime(CLOCK_BOOTTIME) - ticks / CLOCK_TICKS)
    return datetime.fromisoformat(last["time"]).timestamp() - started, last["seconds"]


# --- in two halves -----------------------------------------------------------------------------------------------


class _CutFound(NamedTuple):
    results: list[Located]
    two_roots: int
    one_root_seconds: float


async def _cut_in_two(
    layout: Layout, size: Size, question_ms: float, say: Say, relays: Relays, half: Sequence[AnyPlace]
) -> _CutFound:
    return await _Cut(layout, size, question_ms, say).run(relays, half)


class _Cut(_Scenario):
    """The network is cut in two for a while, and healed."""

    async def run(self, relays: Relays, half: Sequence[AnyPlace]) -> _CutFound:
        """What came of it; the cluster was started between `relays`."""
        with self._linked:
            await self._publish()
            keys = [os.urandom(32) for _ in range(KEYS)]
            await self._one_root(keys)
            names = {server.name for server in half}
            sides = [[server for server in self._every if (server.name in names) is one] for one in (True, False)]
            self._say(f"cut into {len(sides[0])} and {len(sides[1])} servers for {self._size.cut_seconds:.0f} s")
            loop = asyncio.get_running_loop()
            cut_at = loop.time()
            relays.cut()
            row = await self._locates("cut, within a half", self._size.cut_seconds, sides)
            by_side = [await self._roots(side, keys) for side in sides]
            two = sum(by_side[0][key] != by_side[1][key] for key in keys)
            await asyncio.sleep(cut_at + self._size.cut_seconds - loop.time())
            relays.heal()
            self._say("healed")
            one_root_seconds = await self._one_root(keys)
            healed = await self._locates("healed", self._size.quiet_seconds, [self._every])
            return _CutFound([row, healed], two, one_root_seconds)


# --- in words ----------------------------------------------------------------------------------------------------


def in_words(measured: LocateMeasured) -> str:
    """The answer as text."""
    joins: list[list[object]] = [["JOINED", "N", "P50 S", "P95 S", "MAX S", "NODE P50 S", "NODE P95 S"]]
    for row in measured.joins:
        times = (row.p50_ms, row.p95_ms, row.max_ms, row.node_p50_ms, row.node_p95_ms)
        joins.append([row.name, row.n, *(f"{ms / 1000:.2f}" for ms in times)])
    rows: list[list[object]] = [
        ["VERIFIED LOCATE", "N", "FAILED", "P50 MS", "P95 MS", "P99 MS", "MAX MS", "CPU MS", "CORES", "FLOORS"]
    ]
    for one in measured.results:
        figures = map(three_digits, (one.p50_ms, one.p95_ms, one.p99_ms, one.max_ms, one.cpu_ms_per_op))
        rows.append([one.name, one.n, one.failed, *figures, f"{one.cores:.2f}", three_digits(one.ratio_to_floor)])
    worst = min(measured.success_by_second)
    return "\n".join(
        [
            table(joins, right=range(1, 7)),
            "",
            table(rows, right=range(1, 10)),
            "",
            f"{len(measured.killed)} of {measured.servers} killed at once: found in the first second"
            f" {measured.success_by_second[0]:.1%}, in the worst one {worst:.1%}",
            f"target of it: p95 {TARGET_P95_MS:.0f} ms, p99 {TARGET_P99_MS:.0f} ms",
            f"cut in two for {measured.cut_seconds:.0f} s: {measured.two_roots} of {measured.keys} keys had two roots"
            f" then; one root again at all servers {measured.one_root_seconds:.1f} s after healing, target"
            f" {TARGET_ONE_ROOT_SECONDS:.0f} s",
            "JOINED: from the start of the process; NODE: from that of its node. CPU: of all servers and the client for"
            " one locate, upkeep included",
            f"floor: a question and its answer between two processes, {measured.floor_ms:.2f} ms",
        ]
    )

"""One run: nodes start, churn begins, minutes are measured, and what was asked in them may still be answered."""

import gc
from collections.abc import Callable
from itertools import pairwise
from time import process_time
from typing import NamedTuple

from cluster.sim.churn import measures, oracle
from cluster.sim.churn.objects import Read, WorldWithObjects
from cluster.sim.churn.oracle import Agreement
from cluster.sim.churn.overlay import Name, Overlay, Recovery, named
from cluster.sim.churn.words import duration
from cluster.sim.churn.workload import Churn, Lookups, kill, populate
from cluster.sim.churn.world import Lookup, World

START_SECONDS = 120.0
"""In which all nodes are started: a thousand double every twelve seconds."""

SETTLE_SECONDS = 60.0
"""From the last start to the first that is measured, with churn and lookups on, if nothing else is said. Objects are
published, and reads begin, in the last of these minutes."""

SAMPLE_SECONDS = 1.0
SAMPLED_KEYS = 10
SAMPLED_NODES = 50
SAMPLES = 3
"""After a partition: so often, so many nodes are asked for so many keys, until so many times each key had one root."""

EVERYONE_KEYS = 20
"""That every node is asked for in the quiet after a run."""

EVENT_SHARE = 0.25
"""Of the time measured, until nodes are killed or parted."""

IN_FLIGHT_SECONDS = 1.0
"""Lookups asked so shortly before nodes die are among those that it touches."""

RECOVERY_SECONDS = 10.0
"""After nodes were killed, until success is looked at again."""


class Plan(NamedTuple):
    """What to run. Times are virtual seconds."""

    overlay: Name = "tapestry"
    nodes: int = 1000
    median_session_seconds: float | None = 360.0
    """None: nobody dies but by `kill`."""
    seconds: float = 360.0
    """That are measured."""
    seed: int = 1
    recovery: Recovery = "periodic"
    kill: float | None = None
    """Share of the nodes that die at once."""
    partition_seconds: float | None = None
    quiet_seconds: float | None = None
    """At the end, without churn; then every node is asked for the same keys."""
    loss: float = 0.0
    """Share of all packets that get lost."""
    settle_seconds: float = SETTLE_SECONDS
    """Before those that are measured: at least a minute."""
    objects: int | None = None
    """That nodes publish and read; None: there are none."""
    liars: float = 0.0
    """Share of the nodes that lie; with objects."""
    eclipse: int = 0
    """Nodes that lie and join besides, next to the first root of one object; with objects."""

    @property
    def event_seconds(self) -> float:
        """From the first measured moment to the massive failure or the partition."""
        return self.seconds * EVENT_SHARE

    @property
    def lying(self) -> int:
        """Nodes that lie, of those that are started first."""
        return round(self.liars * self.nodes)

    def replay(self) -> str:
        """The command that does the same again."""
        words = [
            f"pond sim churn --nodes {self.nodes}",
            f"--median-session {duration(self.median_session_seconds)}",
            f"--minutes {self.seconds / 60:g}",
            f"--settle {duration(self.settle_seconds)}" if self.settle_seconds != SETTLE_SECONDS else "",
            f"--overlay {self.overlay}",
            f"--recovery {self.recovery}" if self.recovery != "periodic" else "",
            f"--kill {self.kill:g}" if self.kill is not None else "",
            f"--partition {duration(self.partition_seconds)}" if self.partition_seconds is not None else "",
            f"--quiet {duration(self.quiet_seconds)}" if self.quiet_seconds is not None else "",
            f"--loss {self.loss:g}" if self.loss else "",
            f"--objects {self.objects}" if self.objects is not None else "",
            f"--liars {self.liars:g}" if self.liars else "",
            f"--eclipse {self.eclipse}" if self.eclipse else "",
            f"--seed {self.seed}",
        ]
        return " ".join(filter(None, words))


class Killed(NamedTuple):
    """What a massive failure did; success is the share of lookups completed with the majority's answer."""

    second: float
    nodes: int
    before: float | None
    """Success up to a second before it."""
    worst_second: float | None
    """Success of the worst second from then on."""
    after: float | None
    """Success from ten seconds after it to the end."""


class Parted(NamedTuple):
    """What a partition did."""

    second: float
    seconds: float
    one_root_seconds: float | None
    """From healing until a sample of nodes first named one root for each of its keys; None: never."""
    samples: list[tuple[float, Agreement]]
    """By seconds since healing."""


class Run(NamedTuple):
    """All that came of a plan."""

    plan: Plan
    lookups: list[Lookup]
    """Asked in the time measured."""
    figures: measures.Figures
    seconds: list[measures.Second]
    started: int
    joined: float | None
    join_seconds: list[float]
    node_seconds: float
    """Of all live nodes together, in the time measured."""
    bytes_per_node_second: float
    bytes_by_second: list[int]
    """Sent by all, in each second of the time measured."""
    sent: dict[str, tuple[int, int]]
    """Messages and bytes by kind, in the time measured."""
    dropped: dict[str, int]
    rejected: dict[str, int]
    killed: Killed | None
    parted: Parted | None
    objects: measures.OfObjects | None
    agreement: Agreement | None
    """Of all nodes, in the quiet after the run."""
    virtual_seconds: float
    steps: int
    cpu_seconds: float
    trace: str


Progress = Callable[[float, float, int], object]
"""Called each virtual second with that, how many there will be at most, and how many nodes live."""


def simulate(plan: Plan, progress: Progress = lambda now, end, live: None) -> Run:
    """Run a plan to its end. The same plan, the same run: all choices come from its seed."""
    collecting = gc.isenabled()
    gc.disable()  # what a run makes lives as long as it does
    try:
        return _Simulation(plan, progress).run()
    finally:
        if collecting:
            gc.enable()


class _Simulation:
    def __init__(self, plan: Plan, progress: Progress) -> None:
        self._plan = plan
        self._progress = progress
        self._overlay: Overlay = named(plan.overlay, plan.recovery)
        self._objects: WorldWithObjects | None = None
        if plan.objects is not None:
            self._objects = WorldWithObjects(
                self._overlay, plan.recovery, plan.seed, plan.loss, plan.nodes, plan.objects, plan.lying, plan.eclipse
            )
        self._world = self._objects or World(self._overlay, plan.seed, plan.loss)
        self._lookups = Lookups(self._world)
        self._churn = Churn(self._world, plan.median_session_seconds)
        self._keys = self._world.random("sampled")
        self._begin = START_SECONDS + plan.settle_seconds
        self._end = self._begin + plan.seconds
        self._killed = 0
        self._sent_so_far: list[int] = []
        """Bytes, at the end of each second of the time measured."""
        self._samples: list[tuple[float, Agreement]] = []

    def run(self) -> Run:
        plan, world, loop = self._plan, self._world, self._world.loop
        began = process_time()
        populate(world, plan.nodes, START_SECONDS)
        self._run_to(START_SECONDS)
        self._churn.begin()
        self._lookups.begin()
        self._run_to(self._begin - SETTLE_SECONDS)
        if self._objects is not None:
            self._objects.begin()
        self._run_to(self._begin)
        first, bytes_before, live_before = len(self._lookups.all), world.links.bytes_sent, world.live_node_seconds()
        first_read = len(self._objects.reads) if self._objects is not None else 0
        sent_before = {kind: (sums[0], sums[1]) for kind, sums in world.sent.items()}
        self._plan_events()
        self._run_to(self._end)
        lookups = self._lookups.all[first:]
        live_seconds = world.live_node_seconds() - live_before
        so_far = [bytes_before, *self._sent_so_far]
        reads = self._objects.reads[first_read:] if self._objects is not None else []
        sent = {
            kind.__name__: (sums[0] - before[0], sums[1] - before[1])
            for kind, sums in world.sent.items()
            for before in [sent_before.get(kind, (0, 0))]
        }
        started, joined = measures.joined(world.hosts, self._begin, self._end)
        self._run_until_answered([*lookups, *reads])
        agreement = self._everyone()
        rows = measures.seconds(lookups, self._begin, self._end)
        return Run(
            plan=plan,
            lookups=lookups,
            figures=measures.figures(lookups),
            seconds=rows,
            started=started,
            joined=joined,
            join_seconds=measures.join_times(world.hosts, self._begin, self._end),
            node_seconds=live_seconds,
            bytes_per_node_second=sum(size for _, size in sent.values()) / live_seconds,
            bytes_by_second=[later - earlier for earlier, later in pairwise(so_far)][: len(rows)],
            sent=dict(sorted(sent.items())),
            dropped=dict(sorted(world.links.dropped.items())),
            rejected=dict(sorted(world.rejected.items())),
            killed=self._what_killing_did(lookups),
            parted=self._what_parting_did(),
            objects=self._what_became_of(reads),
            agreement=agreement,
            virtual_seconds=loop.now,
            steps=loop.steps,
            cpu_seconds=process_time() - began,
            trace=world.trace.digest,
        )

    def _run_to(self, when: float) -> None:
        loop = self._world.loop
        most = self._end + measures.PATIENCE_SECONDS + (self._plan.quiet_seconds or 0.0)
        while loop.now < when:
            loop.run(min(when, loop.now + 1.0))
            if self._begin < loop.now <= self._end:
                self._sent_so_far.append(self._world.links.bytes_sent)
            self._progress(loop.now, most, len(self._world.live))

    def _run_until_answered(self, asked: list[Lookup | Read]) -> None:
        """Churn and lookups go on; the run is over when all that was asked has its answer, or had its time."""
        loop = self._world.loop
        while loop.now < self._end + measures.PATIENCE_SECONDS:
            if all(each.answered is not None or each.asker_died for each in asked):
                return
            self._run_to(loop.now + 1.0)

    # --- events ----------------------------------------------------------------------------------------------------

    def _plan_events(self) -> None:
        plan, loop = self._plan, self._world.loop
        if plan.kill is not None:
            loop.after(plan.event_seconds, self._kill, plan.kill)
        if plan.partition_seconds is not None:
            loop.after(plan.event_seconds, self._part)
            loop.after(plan.event_seconds + plan.partition_seconds, self._heal)

    def _kill(self, share: float) -> None:
        self._killed = kill(self._world, share)

    def _part(self) -> None:
        self._world.links.split = True

    def _heal(self) -> None:
        self._world.links.split = False
        self._sample(self._world.loop.now)

    def _sample(self, healed: float) -> None:
        world = self._world
        keys = [self._keys.randbytes(32) for _ in range(SAMPLED_KEYS)]
        questions = oracle.ask(world, keys, world.askers.sample(self._keys, SAMPLED_NODES))
        guids = [host.contact.guid for host in world.members]
        world.loop.after(oracle.ANSWER_SECONDS, self._judge, questions, guids, healed)
        agreed = sum(agreement.one_root == agreement.keys for _, agreement in self._samples)
        if agreed < SAMPLES and world.loop.now + SAMPLE_SECONDS + oracle.ANSWER_SECONDS < self._end:
            world.loop.after(SAMPLE_SECONDS, self._sample, healed)

    def _judge(self, questions: oracle.Questions, guids: list[bytes], healed: float) -> None:
        self._samples.append((questions.when - healed, oracle.judge(questions, self._overlay, guids)))

    def _everyone(self) -> Agreement | None:
        if self._plan.quiet_seconds is None:
            return None
        self._churn.end()
        self._run_to(self._world.loop.now + self._plan.quiet_seconds)
        keys = [self._keys.randbytes(32) for _ in range(EVERYONE_KEYS)]
        return oracle.ask_everyone(self._world, self._overlay, keys)

    # --- what came of them -----------------------------------------------------------------------------------------

    def _what_killing_did(self, lookups: list[Lookup]) -> Killed | None:
        if self._plan.kill is None:
            return None
        at = self._plan.event_seconds
        when = self._begin + at
        majority = measures.majorities(lookups)
        rows = measures.seconds(lookups, when - IN_FLIGHT_SECONDS, self._end)

        def success(begin: float, end: float) -> float | None:
            return measures.success([each for each in lookups if begin <= each.asked < end], majority)

        return Killed(
            second=at,
            nodes=self._killed,
            before=success(self._begin, when - IN_FLIGHT_SECONDS),
            worst_second=min((row.succeeded for row in rows if row.succeeded is not None), default=None),
            after=success(when + RECOVERY_SECONDS, self._end),
        )

    def _what_became_of(self, reads: list[Read]) -> measures.OfObjects | None:
        world = self._objects
        if world is None:
            return None
        hosts = [host for host in world.live if self._begin <= host.started < self._end - measures.YOUNG_SECONDS]
        return measures.OfObjects(
            all=measures.of_reads(reads),
            eclipsed=measures.of_reads([read for read in reads if read.object == world.eclipsed]),
            insert_bytes=sorted(world.insert_bytes[host.number] for host in hosts if host.joined is not None),
        )

    def _what_parting_did(self) -> Parted | None:
        if self._plan.partition_seconds is None:
            return None
        return Parted(
            second=self._plan.event_seconds,
            seconds=self._plan.partition_seconds,
            one_root_seconds=next(
                (since for since, agreement in self._samples if agreement.one_root == agreement.keys), None
            ),
            samples=self._samples,
        )

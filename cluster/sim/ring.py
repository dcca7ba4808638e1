"""A ring under faults: real servers and real clients on virtual time, all of it decided by one seed.

In the first phase the network misbehaves and up to f backups at a time crash and come back; then everything is healed,
and every operation must complete and all servers must reach one state. Safety is looked at after every step
(`cluster.sim.watch`), and what the clients saw when all is over (`cluster.check`). The primary goes down only with all
others, when the power fails: without view changes nobody could follow it.
"""

import asyncio
import hashlib
import random
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from enum import Enum
from time import perf_counter

import msgspec

from bft.membership import Membership
from bft.replica import Replica
from bft.secret import Secret
from bft.signatures import Ed25519Signer, Ed25519Verifier, Signer, Verifier
from bft.state_tree import Kind, state_key
from bft.threshold import Frost, ThresholdScheme, deal
from bft.types import Epoch, ReplicaId
from cluster.check import linearizability
from cluster.check.history import Illegal
from cluster.sim.cheap import CheapScheme, CheapSigner, CheapVerifier, Ledger, NonceReused
from cluster.sim.kernel import Kernel, OutOfTime, Stuck
from cluster.sim.limits import Limits
from cluster.sim.network import Conditions, Network
from cluster.sim.server import Server
from cluster.sim.server import Surroundings as ServerSurroundings
from cluster.sim.shared import SharedService, shared_work
from cluster.sim.trace import Trace
from cluster.sim.watch import Violation, Watch
from cluster.sim.words import words
from cluster.sim.workload import Client, Habits, Principal, Replayer
from cluster.sim.workload import Surroundings as ClientSurroundings
from pond.model.tables import BLOCKS
from pond.model.update import decode, named_blocks
from pond.model.version import Outcome, Status, decode_record
from pond.node.ring import RingServer
from pond.node.service import Service

EPOCH_SECONDS = 1_700_000_000
"""What the right clock shows when a run begins: some moment in 2023."""

REAL_KEYS_EVERY = 100
"""One seed in so many runs with Ed25519 and FROST instead of cheap stand-ins."""

UNSHARED_EVERY = 20
"""In one seed of so many each server does all of its work itself (`cluster.sim.shared`)."""

HEALED_SECONDS = 120.0
"""Virtual seconds in which a healed ring must have done all that was asked of it."""

MOST_CLOCK_ERROR_SECONDS = 1.5

REPLAYER = -1000


class Verdict(Enum):
    """How a run ended."""

    OK = "ok"
    SAFETY = "safety"
    LIVENESS = "liveness"
    CRASH = "crash"


@dataclass
class Run:
    """What came of one seed."""

    seed: int
    verdict: Verdict = Verdict.OK
    what: str = ""
    """What broke, in one paragraph; empty when nothing did."""
    story: list[str] = field(default_factory=list)
    """The last events before something broke."""
    operations: int = 0
    steps: int = 0
    batches: int = 0
    crashes: int = 0
    messages: int = 0
    lost: int = 0
    duplicated: int = 0
    checked: int = 0
    """Operations that the linearizability of the history rests on."""
    virtual_seconds: float = 0.0
    seconds: float = 0.0
    trace: str = ""
    """Hash of all that happened."""


@dataclass(frozen=True)
class Weather:
    """Which servers fail, how often and for how long; means in virtual seconds."""

    servers: int
    real_keys: bool
    unshared: bool
    """Whether each server does all work itself."""
    pickup_seconds: float
    """From a message's arrival until its server looks: what comes meanwhile is taken with it."""
    sync_seconds: float
    head_start_seconds: float
    """When clients begin: before or after the ring's first batch, an empty one after a second."""
    phase_seconds: float
    """How long faults go on, at most."""
    crash_every_seconds: float
    """0: no crashes."""
    most_crashes: int
    down_seconds: float
    power_fails: bool
    """Whether all servers go down at once, the primary too, in the middle of what they do."""
    cut_every_seconds: float
    """0: no links are cut."""
    cut_seconds: float
    clock_jumps: bool
    careless_primary: bool
    """Whether the primary orders requests again that have run, as a liar may."""

    @classmethod
    def drawn(cls, seed: int, choices: random.Random) -> "Weather":
        """Each kind of fault on in some runs and off in others."""
        pace = choices.choice((0.02, 0.1, 0.5))
        return cls(
            servers=7 if choices.random() < 0.08 else 4,
            real_keys=seed % REAL_KEYS_EVERY == 0,
            unshared=seed % UNSHARED_EVERY == 0,
            pickup_seconds=choices.choice((0.00003, 0.0002, 0.0005)),
            sync_seconds=choices.choice((0.0001, 0.0005, 0.005)),
            head_start_seconds=choices.choice((0.0, 1.2, 1.2, 1.2)),
            phase_seconds=choices.uniform(0.3, 4.0),
            crash_every_seconds=pace if choices.random() < 0.7 else 0.0,
            most_crashes=choices.choice((1, 3, 10)),
            down_seconds=choices.choice((0.01, 0.1, 0.6)),
            power_fails=choices.random() < 0.15,
            cut_every_seconds=pace if choices.random() < 0.4 else 0.0,
            cut_seconds=choices.choice((0.01, 0.1, 0.6)),
            clock_jumps=choices.random() < 0.3,
            careless_primary=choices.random() < 0.15,
        )


class Scenario:
    """One seed's ring, its clients and its faults."""

    def __init__(self, seed: int, operations: int, show: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.operations = operations
        self.kernel = Kernel(seed)
        choices = self.kernel.random("scenario")
        self.weather = Weather.drawn(seed, choices)
        self.habits = Habits.drawn(choices)
        self.limits = Limits.drawn(choices, 2 * MOST_CLOCK_ERROR_SECONDS, self.habits.impatient)
        self.trace = Trace(self.kernel.time, words, show)
        self.network = Network(self.kernel, Conditions.drawn(choices), self.trace)
        self.crashes = 0
        self._choices = self.kernel.random("faults")
        self._service = None if self.weather.unshared else SharedService(Service())
        self._keys()
        self.watch = Watch(self.membership, self._verifier, self.limits, self._right_time)
        around = ServerSurroundings(
            self.kernel, self.network, self.trace, self.watch, self.weather.servers, EPOCH_SECONDS
        )
        self.servers = [
            Server(
                ReplicaId(identity),
                around,
                self._make_core,
                self.weather.pickup_seconds,
                self.weather.sync_seconds,
                choices.uniform(-MOST_CLOCK_ERROR_SECONDS, MOST_CLOCK_ERROR_SECONDS),
            )
            for identity in range(self.weather.servers)
        ]
        self._make_clients()

    def _right_time(self) -> int:
        return int((EPOCH_SECONDS + self.kernel.now) * 1e6)

    # --- who takes part --------------------------------------------------------------------------------------------

    def _keys(self) -> None:
        size = self.weather.servers
        weak = (size - 1) // 3 + 1
        ring_id = hashlib.sha256(b"simulated ring %d" % self.seed).digest()
        self._signers = [self._signer(b"server %d" % identity) for identity in range(size)]
        self._verifier: Verifier = CheapVerifier()
        self._schemes: list[Callable[[], ThresholdScheme]]
        if self.weather.real_keys:
            self._verifier = Ed25519Verifier()
            material = self.kernel.random("dealer").randbytes(64 * weak)
            public, shares = deal(Secret(material), size, weak)
            ring_key = public.group_public_key
            self._schemes = [lambda share=share: Frost(share, public) for share in shares]  # type: ignore[misc]
        else:
            ledger = Ledger()
            ring_key = CheapScheme(1, weak, size, b"ring", ledger).group_public_key
            self._schemes = [
                lambda number=number: CheapScheme(number, weak, size, b"ring", ledger)  # type: ignore[misc]
                for number in range(1, size + 1)
            ]
        self.membership = Membership(ring_id, Epoch(1), ring_key, tuple(signer.public_key for signer in self._signers))

    def _signer(self, name: bytes) -> Signer:
        seed = hashlib.sha256(b"%d " % self.seed + name).digest()
        return Ed25519Signer(Secret(seed)) if self.weather.real_keys else CheapSigner(seed)

    def _make_core(self, server: Server) -> RingServer:
        identity = server.identity
        replica = Replica(
            identity,
            self.membership,
            self._signers[identity],
            self._verifier,
            self._schemes[identity](),
            self.watch.service(self._service or Service()),
            server.disk,
            self.limits.tuning,
        )
        if self.weather.careless_primary and identity == 0:
            replica.replies.knows = lambda request: False  # type: ignore[method-assign]
            replica.replies.answer_known = lambda *about: None  # type: ignore[method-assign]
        return RingServer(replica)

    def _make_clients(self) -> None:
        habits = self.habits
        principals = tuple(
            Principal(
                self._signer(b"principal %d" % number),
                tuple(hashlib.sha256(b"object %d" % tag).digest() for tag in range(habits.objects)),
            )
            for number in range(habits.principals)
        )
        self._replayer = Replayer(self.kernel, self.network, self.weather.servers, habits.replays, REPLAYER)
        around = ClientSurroundings(
            self.kernel,
            self.network,
            self.trace,
            self.watch,
            self.membership,
            self._verifier,
            habits,
            principals,
            self._right_time,
            self._replayer.overhear,
        )
        self.clients = [Client(number, around) for number in range(habits.clients)]

    # --- what happens ----------------------------------------------------------------------------------------------

    async def play(self) -> None:
        """Both phases. Raises Violation or Stuck."""
        for server in self.servers:
            server.start()
        await self._wait(self.weather.head_start_seconds)
        shares = [self.operations // len(self.clients)] * len(self.clients)
        for extra in range(self.operations % len(self.clients)):
            shares[extra] += 1
        clients = [
            self.kernel.create_task(client.run(share)) for client, share in zip(self.clients, shares, strict=True)
        ]
        self._begin_faults()
        await asyncio.wait(clients, timeout=self.weather.phase_seconds, return_when=asyncio.FIRST_EXCEPTION)
        self._heal()
        done, late = await asyncio.wait(clients, timeout=HEALED_SECONDS, return_when=asyncio.FIRST_EXCEPTION)
        for client in clients:
            if client in done:
                client.result()
        if late:
            count = sum(client.done for client in self.clients)
            raise OutOfTime(f"{self.operations - count} operations not done {HEALED_SECONDS:g} s after all was healed")
        await self._converge()

    def _begin_faults(self) -> None:
        self._healed = False
        weather = self.weather
        if weather.crash_every_seconds:
            self._later(weather.crash_every_seconds, self._crash_some_server)
        if weather.power_fails:
            self._later(0.2, self._fail_power)
        if weather.cut_every_seconds:
            self._later(weather.cut_every_seconds, self._cut_some_link)
        if weather.clock_jumps:
            self._later(0.2, self._jump_some_clock)

    def _later(self, mean_seconds: float, callback: Callable[[], object]) -> None:
        self.kernel.after(self._choices.expovariate(1.0) * mean_seconds, callback)

    def _crash_some_server(self) -> None:
        if self._healed or self.crashes == self.weather.most_crashes:
            return
        self._later(self.weather.crash_every_seconds, self._crash_some_server)
        choices = self._choices
        server = self.servers[choices.randrange(len(self.servers))]
        down = sum(not other.up or other.dying for other in self.servers)
        if not server.up or server.dying or down >= self.membership.faults:
            return
        self.crashes += 1
        if choices.random() < 0.5:
            server.die()
        else:
            server.die_within(choices.randrange(12))
        self._later(self.weather.down_seconds, lambda: self._restart(server))

    def _fail_power(self) -> None:
        if self._healed:
            return
        self.trace.note("power fails")
        for server in self.servers:
            if server.up:
                self.crashes += 1
                server.die()
            self._later(self.weather.down_seconds, lambda server=server: self._restart(server))  # type: ignore[misc]

    def _restart(self, server: Server) -> None:
        server.spare()
        if not server.up:
            server.start()

    def _cut_some_link(self) -> None:
        if self._healed:
            return
        self._later(self.weather.cut_every_seconds, self._cut_some_link)
        choices = self._choices
        one, other = choices.sample(range(len(self.servers)), 2)
        links = [(one, other)]
        match choices.randrange(4):
            case 0:
                links.append((other, one))
            case 1:
                links = [(one, peer) for peer in range(len(self.servers)) if peer != one]
            case 2:
                links = [(-1 - choices.randrange(len(self.clients)), one)]
        for sender, to in links:
            self.network.cut(sender, to)
            self.trace.note("cut", sender, to)
        self._later(self.weather.cut_seconds, lambda: self._mend(links))

    def _mend(self, links: list[tuple[int, int]]) -> None:
        for sender, to in links:
            self.network.mend(sender, to)

    def _jump_some_clock(self) -> None:
        if self._healed:
            return
        self._later(0.2, self._jump_some_clock)
        choices = self._choices
        server = choices.choice(self.servers)
        server.clock_offset_seconds = choices.uniform(-MOST_CLOCK_ERROR_SECONDS, MOST_CLOCK_ERROR_SECONDS)
        self.trace.note("clock", server.identity, server.clock_offset_seconds)

    def _heal(self) -> None:
        self._healed = True
        self.trace.note("healed")
        self.network.heal()
        for server in self.servers:
            self._restart(server)

    async def _converge(self) -> None:
        """All servers run all that any of them has run, and hold what every version needs."""
        target = max(server.core.replica.execution.executed for server in self.servers)
        deadline = self.kernel.now + HEALED_SECONDS
        while True:
            behind = [server.identity for server in self.servers if server.core.replica.execution.executed < target]
            if not behind:
                break
            if self.kernel.now > deadline:
                raise OutOfTime(
                    f"servers {behind} have not run batch {target} {HEALED_SECONDS:g} s after all was healed"
                )
            await self._wait(0.05)
        for server in self.servers:
            self._check_state(server)

    async def _wait(self, seconds: float) -> None:
        done = self.kernel.create_future()
        self.kernel.after(seconds, done.set_result, None)
        await done

    def _check_state(self, server: Server) -> None:
        """It holds the newest version of each object, as far as it has come, and the blocks that updates brought."""
        execution = server.core.replica.execution
        newest: dict[bytes, Outcome] = {}
        for ran in self.watch.ordered.values():
            if ran.sequence > execution.executed or ran.outcome.status is not Status.COMMITTED:
                continue
            asked = decode(ran.operation)
            clause = asked.clauses[ran.outcome.clause or 0]
            for guid in named_blocks(msgspec.structs.replace(asked, clauses=[clause])):
                if server.disk.size(BLOCKS, guid) is None:
                    raise Violation(f"rule 2: server {server.identity} lacks block {guid.hex()[:8]} of a version")
            before = newest.setdefault(ran.outcome.aguid, ran.outcome)
            if ran.outcome.number > before.number:
                newest[ran.outcome.aguid] = ran.outcome
        for aguid, outcome in newest.items():
            value = execution.tree.get(state_key(Kind.OBJECT, aguid))
            record = decode_record(value) if value is not None else None
            if record is None or (record.number, record.vguid) != (outcome.number, outcome.vguid):
                raise Violation(
                    f"rule 2: server {server.identity} does not hold version {outcome.number} that was made"
                )

    def check(self) -> int:
        """What clients saw, as a whole; how many operations it rests on. Raises Violation."""
        verdict = linearizability.check(operation for client in self.clients for operation in client.history)
        if isinstance(verdict, Illegal):
            raise Violation(f"not linearizable: {verdict}")
        return len([operation for client in self.clients for operation in client.history])


def simulate(seed: int, operations: int = 200, show: Callable[[str], None] | None = None) -> Run:
    """Run one seed to its end, whatever that is."""
    began = perf_counter()
    scenario = Scenario(seed, operations, show)
    run = Run(seed)
    with scenario.limits.applied(), nullcontext() if scenario.weather.unshared else shared_work():
        try:
            try:
                scenario.kernel.run_until_complete(scenario.play())
                run.checked = scenario.check()
            finally:
                scenario.kernel.close()
        except (Violation, NonceReused) as violation:
            run.verdict, run.what = Verdict.SAFETY, str(violation)
        except Stuck as stuck:
            run.verdict, run.what = Verdict.LIVENESS, str(stuck)
        except Exception:
            run.verdict, run.what = Verdict.CRASH, traceback.format_exc()
    if run.verdict is not Verdict.OK:
        run.story = scenario.trace.story()
    counters = scenario.network.counters
    run.operations = sum(client.done for client in scenario.clients)
    run.steps = scenario.kernel.steps
    run.batches = len(scenario.watch.claims)
    run.crashes = scenario.crashes
    run.messages, run.lost, run.duplicated = counters.sent, counters.lost, counters.duplicated
    run.virtual_seconds = scenario.kernel.now
    run.trace = scenario.trace.digest
    run.seconds = perf_counter() - began
    return run

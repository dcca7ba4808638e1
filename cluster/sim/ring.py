"""A ring under faults: real servers and real clients on virtual time. Seed and manifest are one run, on any machine.

In the first phase anything that the manifest names goes wrong, and safety must hold all the same. Then a core quorum is
healed while the rest stays broken, and every operation must complete; in the end, in most runs, all is healed and all
correct servers must reach one state. Safety is looked at after every step (`cluster.sim.watch`), and what the clients
saw when all is over (`cluster.check`).
"""

import asyncio
import hashlib
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from time import process_time

import msgspec

from bft.membership import Membership
from bft.replica import Replica
from bft.secret import Secret
from bft.signatures import Ed25519Signer, Ed25519Verifier, Signer, Verifier
from bft.state_tree import Kind, state_key
from bft.statement import Digest
from bft.threshold import Frost, ThresholdScheme, deal
from bft.types import Epoch, ReplicaId
from cluster.check import linearizability
from cluster.check.history import Illegal
from cluster.faults.liars import LyingServer, Means
from cluster.faults.manifest import Manifest
from cluster.sim import limits
from cluster.sim.cheap import CheapScheme, CheapSigner, CheapVerifier, Ledger, NonceReused
from cluster.sim.kernel import Kernel, OutOfTime, Stuck
from cluster.sim.network import Network
from cluster.sim.rounds import Point, Rounds
from cluster.sim.server import DECODED, Server, decode_message, decode_question
from cluster.sim.server import Surroundings as ServerSurroundings
from cluster.sim.shared import SharedService, shared_work
from cluster.sim.split import Split
from cluster.sim.split import figures as split_figures
from cluster.sim.trace import Observe, Trace
from cluster.sim.watch import Ordered, Violation, Watch
from cluster.sim.weather import Weather, choose_faulty
from cluster.sim.words import line
from cluster.sim.workload import Client, Principal, Replayer
from cluster.sim.workload import Surroundings as ClientSurroundings
from pond.model.block import bguid
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
"""Virtual seconds in which a healed quorum must have done all that was asked of it."""

REPLAYER = -1000

COUNTED_ELSEWHERE = frozenset({"message", "refused", "synced"})
"""Events that are counted in more detail where they happen."""


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
    manifest: Manifest
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
    view: int = 0
    """The highest that a correct server was in at the end."""
    split: Split | None = None
    """What a ring in two did; None when it was never parted for its time."""
    rounds: Counter[Point] = field(default_factory=Counter)
    """How often power failed, by the point at which."""
    resumed_seconds: float = 0.0
    """From power coming back to the next update, at most."""
    virtual_seconds: float = 0.0
    cpu_seconds: float = 0.0
    trace: str = ""
    """Hash of all that happened."""
    reached: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(kind, name) of all that came up, and how often (`cluster.sim.coverage`)."""


class Scenario:
    """One seed's ring, its clients and its faults."""

    def __init__(self, seed: int, manifest: Manifest, observe: Observe | None = None) -> None:
        self.seed = seed
        self.manifest = manifest
        self.real_keys = seed % REAL_KEYS_EVERY == 0
        self.unshared = seed % UNSHARED_EVERY == 0
        self.kernel = Kernel(seed)
        self.trace = Trace(self.kernel, observe)
        self.network = Network(self.kernel, manifest.network, self.trace)
        self.faulty = choose_faulty(manifest, self.kernel)
        self.lies: Counter[str] = Counter()
        self._service = None if self.unshared else SharedService(Service())
        self._keys()
        self.reached: Counter[tuple[str, str]] = Counter()
        self.watch = Watch(
            self.membership,
            self._verifier,
            limits.bounds(manifest),
            self._right_time,
            self.reached,
            self.faulty.servers,
        )
        around = ServerSurroundings(
            self.kernel,
            self.network,
            self.trace,
            self.watch,
            manifest.sizes.servers,
            EPOCH_SECONDS,
            manifest.disk,
            manifest.process.pickup_seconds,
            self.reached,
            decode_message if self.unshared else lru_cache(DECODED)(decode_message),
            decode_question if self.unshared else lru_cache(DECODED)(decode_question),
            set(),
        )
        clocks, error = self.kernel.random("clocks"), manifest.clock.error_seconds
        self.servers = [
            Server(ReplicaId(identity), around, self._make_core, clocks.uniform(-error, error))
            for identity in range(manifest.sizes.servers)
        ]
        if self.faulty.rotten is not None:
            self.servers[self.faulty.rotten].rotten = True
        self.weather = Weather(manifest, self.kernel, self.network, self.trace, self.servers, self.faulty)
        spec = manifest.rounds
        self.rounds = Rounds(spec, self.kernel, self.trace, self.servers, self.watch) if spec is not None else None
        self._healed_at: float | None = None
        self._in_step_at: float | None = None
        self._make_clients()

    def _right_time(self) -> int:
        return int((EPOCH_SECONDS + self.kernel.now) * 1e6)

    # --- who takes part --------------------------------------------------------------------------------------------

    def _keys(self) -> None:
        size = self.manifest.sizes.servers
        weak = self.manifest.faults + 1
        ring_id = hashlib.sha256(b"simulated ring %d" % self.seed).digest()
        self._signers = [self._signer(b"server %d" % identity) for identity in range(size)]
        self._verifier: Verifier = CheapVerifier()
        self._schemes: list[Callable[[], ThresholdScheme]]
        if self.real_keys:
            self._verifier = Ed25519Verifier()
            material = self.kernel.random("dealer").randbytes(64 * weak)
            public, shares = deal(Secret(material), size, weak)
            ring_key = public.group_public_key
            self._schemes = [lambda share=share: Frost(share, public) for share in shares]  # type: ignore[misc]
        else:
            ledger, unwatched = Ledger(), Ledger(strict=False)
            ring_key = CheapScheme(1, weak, size, b"ring", ledger).group_public_key
            self._schemes = [
                lambda number=identity + 1, used=unwatched if identity in self.faulty.servers else ledger: (  # type: ignore[misc]
                    CheapScheme(number, weak, size, b"ring", used)
                )
                for identity in range(size)
            ]
        self.membership = Membership(ring_id, Epoch(1), ring_key, tuple(signer.public_key for signer in self._signers))

    def _signer(self, name: bytes) -> Signer:
        seed = hashlib.sha256(b"%d " % self.seed + name).digest()
        return Ed25519Signer(Secret(seed)) if self.real_keys else CheapSigner(seed)

    def _make_core(self, server: Server) -> RingServer:
        identity = server.identity
        replica = Replica(
            identity,
            self.membership,
            self._signers[identity],
            self._verifier,
            self._schemes[identity](),
            self.watch.service(server, self._service or Service()),
            server.disk,
            limits.tuning(self.manifest),
        )
        lies = self.faulty.liars.get(identity)
        if lies is None:
            return RingServer(replica)
        choices = self.kernel.random(f"liar {identity} {server.starts}")
        means = Means(
            replica, self.membership, self._signers[identity], limits.tuning(self.manifest), choices, self.lies
        )
        return LyingServer(lies, means)

    def _make_clients(self) -> None:
        sizes, habits = self.manifest.sizes, self.manifest.habits
        principals = tuple(
            Principal(
                self._signer(b"principal %d" % number),
                tuple(hashlib.sha256(b"object %d" % tag).digest() for tag in range(sizes.objects)),
            )
            for number in range(sizes.principals)
        )
        self._replayer = Replayer(self.kernel, self.network, sizes.servers, habits.replays, REPLAYER)
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
        self.clients = [Client(number, around) for number in range(sizes.clients)]
        self._reader = Client(sizes.clients, around)

    # --- what happens ----------------------------------------------------------------------------------------------

    async def play(self) -> None:
        """All phases. Raises Violation or Stuck."""
        sizes, ending = self.manifest.sizes, self.manifest.ending
        for server in self.servers:
            server.start()
        await self._wait(self.manifest.habits.head_start_seconds)
        each, extra = divmod(sizes.operations, len(self.clients))
        clients = [
            self.kernel.create_task(client.run(each + (number < extra), self._rounds_go_on))
            for number, client in enumerate(self.clients)
        ]
        self.weather.begin()
        over = self.kernel.create_task(self._until_split_is_over())
        await self._until_rounds_are_over(clients)
        await asyncio.wait(clients, timeout=sizes.phase_seconds, return_when=asyncio.FIRST_EXCEPTION)
        await over
        core = self.weather.choose_core()
        self.weather.shelter(core)
        self.weather.abandon(server.identity for server in self.servers if server.identity not in core)
        done, late = await asyncio.wait(clients, timeout=HEALED_SECONDS, return_when=asyncio.FIRST_EXCEPTION)
        for client in clients:
            if client in done:
                client.result()
        if late:
            count = sum(client.done for client in self.clients)
            raise OutOfTime(
                f"{sizes.operations - count} operations not done {HEALED_SECONDS:g} s after servers {sorted(core)} were"
                " healed"
            )
        await self._converge(core)
        correct = frozenset(range(sizes.servers)) - self.faulty.servers
        if ending.converge and core != correct:
            self.weather.shelter(correct)
            await self._converge(correct)
        if self.rounds is not None:
            await self._reader.read_back(outcome for client in self.clients for outcome in client.acknowledged)

    def _rounds_go_on(self) -> bool:
        return self.rounds is not None and not self.rounds.over

    async def _until_rounds_are_over(self, clients: list["asyncio.Task[None]"]) -> None:
        """Strike, while clients go on; whoever fails ends it."""
        if self.rounds is not None:
            rounds = self.kernel.create_task(self.rounds.play())
            await asyncio.wait([rounds, *clients], return_when=asyncio.FIRST_EXCEPTION)
            if rounds.done():
                rounds.result()

    async def _until_split_is_over(self) -> None:
        """Wait until the split of the manifest has healed, and from then on note when all servers are in step again."""
        split, began = self.manifest.network.split, self.weather.split_at
        if split is None:
            return
        assert began is not None
        await self._wait(max(0.0, began + split.seconds - self.kernel.now))
        self._healed_at = EPOCH_SECONDS + began + split.seconds
        self.kernel.create_task(self._until_in_step(max(self.watch.claims, default=0)))

    async def _until_in_step(self, target: int) -> None:
        while any(not server.up or server.core.replica.execution.executed < target for server in self.servers):
            await self._wait(0.01)
        self._in_step_at = self._right_time() / 1e6

    @property
    def split(self) -> Split | None:
        """What the manifest's split came to, once it is over."""
        if self._healed_at is None:
            return None
        assert self.weather.split_at is not None
        cut_at = EPOCH_SECONDS + self.weather.split_at
        return split_figures(self.watch.commits, cut_at, self._healed_at, self._in_step_at)

    async def _converge(self, members: Iterable[int]) -> None:
        """These servers run all that any of them has run, and hold what every version needs."""
        servers = [self.servers[identity] for identity in sorted(members)]
        target = max(server.core.replica.execution.executed for server in servers)
        deadline = self.kernel.now + HEALED_SECONDS
        while True:
            told = max(self.watch.claims, default=0)  # beyond it are batches whose sync the watch has not seen
            executed = {server.identity: server.core.replica.execution.executed for server in servers}
            behind = [identity for identity, last in executed.items() if not target <= last <= told]
            if not behind:
                break
            if self.kernel.now > deadline:
                raise OutOfTime(f"servers {behind} have not run batch {target} {HEALED_SECONDS:g} s after they healed")
            await self._wait(0.05)
        ordered = self.watch.ordered.values()
        made = [(ran, _blocks(ran)) for ran in ordered if ran.outcome.status is Status.COMMITTED]
        for server in servers:
            self._check_state(server, made)

    async def _wait(self, seconds: float) -> None:
        done = self.kernel.create_future()
        self.kernel.after(seconds, done.set_result, None)
        await done

    def _check_state(self, server: Server, made: list[tuple[Ordered, list[Digest]]]) -> None:
        """It holds the newest version of each object, as far as it has come, and the blocks that updates brought."""
        execution = server.core.replica.execution
        newest: dict[bytes, Outcome] = {}
        for ran, blocks in made:
            if ran.sequence > execution.executed:
                continue
            for guid in blocks:
                block = server.disk.get(BLOCKS, guid)
                if block is None or bguid(block) != guid:
                    held = "lacks" if block is None else "has other content under the name of"
                    raise Violation(f"rule 2: server {server.identity} {held} block {guid.hex()[:8]} of a version")
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


def _blocks(ran: Ordered) -> list[Digest]:
    """The blocks that the clause names by which an update committed."""
    asked = decode(ran.operation)
    clause = asked.clauses[ran.outcome.clause or 0]
    return named_blocks(msgspec.structs.replace(asked, clauses=[clause]))


def simulate(seed: int, manifest: Manifest, observe: Observe | None = None) -> Run:
    """Run one seed to its end, whatever that is. Raises ManifestError when it cannot be run."""
    began = process_time()
    scenario = Scenario(seed, manifest, observe)
    run = Run(seed, manifest)
    with limits.applied(manifest), nullcontext() if scenario.unshared else shared_work():
        try:
            run.checked = _play(scenario)
        except (Violation, NonceReused) as violation:
            run.verdict, run.what = Verdict.SAFETY, str(violation)
        except Stuck as stuck:
            run.verdict, run.what = Verdict.LIVENESS, str(stuck)
        except Exception:
            run.verdict, run.what = Verdict.CRASH, traceback.format_exc()
    if run.verdict is not Verdict.OK:
        run.story = list(map(line, scenario.trace.story()))
    counters = scenario.network.counters
    run.operations = sum(client.done for client in scenario.clients)
    run.steps = scenario.kernel.steps
    run.batches = len(scenario.watch.claims)
    run.crashes = scenario.weather.crashes
    run.messages, run.lost, run.duplicated = counters.sent, counters.lost, counters.duplicated
    run.view = max(
        (
            server.core.replica.views.view
            for server in scenario.servers
            if server.up and server.identity not in scenario.faulty.servers
        ),
        default=0,
    )
    run.virtual_seconds = scenario.kernel.now
    run.split = scenario.split
    if scenario.rounds is not None:
        run.rounds = scenario.rounds.done
        run.crashes += scenario.rounds.crashes
        run.resumed_seconds = scenario.rounds.longest_seconds
    run.trace = scenario.trace.digest
    run.reached = scenario.reached
    run.reached.update({("lie", kind): times for kind, times in scenario.lies.items()})
    happened = scenario.trace.counts.items()
    run.reached.update({("event", what): count for what, count in happened if what not in COUNTED_ELSEWHERE})
    run.cpu_seconds = process_time() - began
    return run


def _play(scenario: Scenario) -> int:
    """How many operations were judged. An interrupt leaves the kernel as it is: it stands in the middle of some task,
    which cannot be brought to its end in order."""
    try:
        scenario.kernel.run_until_complete(scenario.play())
        judged = scenario.check()
    except Exception:
        scenario.kernel.close()
        raise
    scenario.kernel.close()
    return judged

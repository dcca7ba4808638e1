"""What clients do in a run: each is a real `RingClient` that makes operations one by one and writes down what it saw.

Contents are random bytes where real clients have ciphertext; servers cannot tell the difference. Several clients act
for one principal, so that their updates meet at the same objects.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from bft.membership import Membership
from bft.signatures import Signer, Verifier
from cluster.check.history import Operation
from cluster.faults.manifest import Habits
from cluster.sim.kernel import Kernel
from cluster.sim.network import Network
from cluster.sim.trace import Trace
from cluster.sim.watch import Violation, Watch
from pond.client.asking import Asker, Burst, Deadline
from pond.client.blocks import BLOCK, NODE, Fetcher
from pond.client.ring import Ran, RingClient, Seen
from pond.client.upload import Upload
from pond.errors import TimedOut, Unavailable
from pond.model import names, tree, update
from pond.model.block import BlockRef, Run, bguid, to_runs
from pond.model.encryption import OVERHEAD_BYTES
from pond.model.proof import Missing
from pond.model.version import Metadata, Outcome, Status
from pond.protocol import ByNumber, Latest

BLOCK_SIZE = 4096

PATIENCE_SECONDS = 600.0
"""Longer than any run: whoever gives up sooner shows a failure of liveness."""
SUBMIT = 1
"""The second byte of an encoded Submit, which is an array that begins with its tag."""

LARGE_BYTES = 66 * 1024
"""More than travels inside a request, so that it is sent ahead."""


ACTIONS = {"append": 42, "write": 26, "replace": 5, "insert": 5, "cut": 4, "truncate": 6, "metadata": 6, "delete": 6}
"""What clients ask for, and how often in a hundred times."""

TOGETHER = 3
"""Updates that a client makes at once, where so many are left."""


class Principal(NamedTuple):
    """Somebody who may sign, and the tags of the objects that are theirs."""

    signer: Signer
    tags: tuple[bytes, ...]


class Links:
    """One client's ways to the servers."""

    def __init__(self, network: Network, address: int, tap: Callable[[bytes], None]) -> None:
        self._network = network
        self._address = address
        self._tap = tap

    def send(self, server: int, data: bytes) -> None:
        """Put a question on its way."""
        self._tap(data)
        self._network.send(self._address, server, data)

    def close(self) -> None:
        """Nothing to free."""


class Surroundings(NamedTuple):
    """What the clients of one run have in common."""

    kernel: Kernel
    network: Network
    trace: Trace
    watch: Watch
    membership: Membership
    verifier: Verifier
    habits: Habits
    principals: tuple[Principal, ...]
    wall_clock: Callable[[], int]
    tap: Callable[[bytes], None]
    """Overhears what clients send."""


class Client:
    """One process of one principal. `history` is what it did and saw."""

    def __init__(self, number: int, around: Surroundings) -> None:
        self.history: list[Operation] = []
        self.acknowledged: list[Outcome] = []
        """What became of its updates, as it was told."""
        self.done = 0
        self._number = number
        self._address = -1 - number
        self._around = around
        self._kernel = around.kernel
        self._choices = around.kernel.random(f"client {number}")
        self._principal = around.principals[number % len(around.principals)]
        self._patience_seconds = around.habits.patience_seconds or PATIENCE_SECONDS
        self._known: dict[bytes, int] = {}
        """The newest version of each object that this client has seen."""

    async def run(self, operations: int, go_on: Callable[[], bool]) -> None:
        """Make so many operations, and more as long as `go_on` says. Raises Violation; what is not proved or not
        possible in time is written down."""
        choices, habits = self._choices, self._around.habits
        self._connect()
        while self.done < operations or go_on():
            if habits.pause_seconds:
                await self._wait(choices.expovariate(1.0) * habits.pause_seconds)
            if choices.random() < habits.reads:
                await self._read()
                self.done += 1
            elif habits.together and choices.random() < habits.together:
                at_once = max(1, min(TOGETHER, operations - self.done))
                await asyncio.gather(*(self._update() for _ in range(at_once)))
                self.done += at_once
            else:
                await self._update()
                self.done += 1
        self._asker.close()

    async def read_back(self, acknowledged: Iterable[Outcome]) -> None:
        """Read each object's whole history: what was acknowledged is there, once. Raises Violation."""
        self._connect()
        by_object: dict[bytes, list[Outcome]] = {}
        for outcome in acknowledged:
            by_object.setdefault(outcome.aguid, []).append(outcome)
        for aguid, outcomes in by_object.items():
            deadline = Deadline(self._patience_seconds)
            seen = await self._ring.read(aguid, Latest(), "latest", deadline)
            self._check_seen(aguid, seen, "latest")
            there: Counter[bytes] = Counter()
            if seen.record is not None:
                events = await self._ring.history(aguid, seen.record, deadline)
                there.update(event.outcome.encode() for event in events)
            for outcome in outcomes:
                if there[outcome.encode()] != 1:
                    raise Violation(
                        f"rule 2: an acknowledged update is there {there[outcome.encode()]} times: {outcome}"
                    )
        self._asker.close()

    def _connect(self) -> None:
        around, choices = self._around, self._choices
        self._asker = Asker(self._make_links, around.membership.size, choices.randbytes)
        self._ring = RingClient(
            self._asker,
            around.membership,
            self._principal.signer,
            around.verifier,
            around.wall_clock,
            choices.randbytes,
        )
        self._fetcher = Fetcher(self._asker)

    async def _wait(self, seconds: float) -> None:
        woken = self._kernel.create_future()
        self._kernel.after(seconds, _wake, woken)
        await woken

    def _make_links(self, received: Callable[[Burst], None]) -> Links:
        trace, address = self._around.trace, self._address

        def receive(sender: int, data: bytes) -> None:
            trace.note("message", sender, address, data)
            received([(sender, data)])

        self._around.network.attach(address, receive)
        return Links(self._around.network, address, self._around.tap)

    # --- updates ---------------------------------------------------------------------------------------------------

    async def _update(self) -> None:
        choices = self._choices
        owner = self._principal
        stranger = choices.random() < 0.03
        if stranger:
            owner = choices.choice(self._around.principals)
        tag = choices.choice(owner.tags)
        aguid = names.aguid(owner.signer.public_key, tag)
        known = self._known.get(aguid, 0)
        blocks: list[bytes] = []
        clauses = self._clauses(known, blocks)
        asked = update.Update(aguid=aguid, founding=update.Founding(tag, BLOCK_SIZE), clauses=clauses)
        name = "+".join(type(clause.actions[0]).__name__ for clause in clauses)
        began = self._kernel.now
        deadline = Deadline(self._patience_seconds)
        try:
            ran = await self._submit(aguid, asked.encode(), blocks, deadline)
        except TimedOut as late:
            self._around.trace.note("late", self._address, name, str(late))
            self._record(name, aguid, began, None, None, False)
            return
        outcome = ran.outcome
        self._around.trace.note("ran", self._address, name, aguid, int(outcome.status), outcome.number)
        self._check_outcome(asked, ran)
        if outcome.status is not Status.REFUSED:
            self.acknowledged.append(outcome)
            self._known[aguid] = outcome.number
            self._record(name, aguid, began, self._kernel.now, outcome.number, outcome.status is Status.COMMITTED)

    def _clauses(self, known: int, blocks: list[bytes]) -> list[update.Clause]:
        choices, habits = self._choices, self._around.habits
        if known == 0:
            guard: list[update.Predicate] = [update.Absent()] if choices.random() < 0.5 else []
            return [update.Clause(guard, [update.Write(self._runs(blocks))])]
        action = self._action(blocks)
        if choices.random() >= habits.conditional:
            return [update.Clause([self._guess()] if choices.random() < 0.2 else [], [action])]
        stale = choices.random() < 0.3
        number = max(0, known - 1) if stale else known
        clause = update.Clause([update.VersionIs(number)], [action])
        if choices.random() < 0.5:
            return [clause]
        other = update.Clause(
            [update.Or([update.Not(update.VersionIs(number)), update.Exists()])], [self._action(blocks)]
        )
        return [clause, other]

    def _guess(self) -> update.Predicate:
        """What may hold or not."""
        now = update.After(self._around.wall_clock())
        here: update.Predicate = update.Or([update.SizeIs(0), update.BlockIs(0, bytes(32)), update.MetadataIs(None)])
        return self._choices.choice((now, update.Before(now.time), update.And([update.Exists(), here])))

    def _action(self, blocks: list[bytes]) -> update.Action:
        choices = self._choices
        match choices.choices(list(ACTIONS), list(ACTIONS.values()))[0]:
            case "append":
                return update.Append(self._runs(blocks))
            case "write":
                return update.Write(self._runs(blocks))
            case "replace":
                return update.ReplaceBlocks(choices.randrange(3), 1, self._runs(blocks))
            case "insert":
                return update.InsertBlocks(choices.randrange(3), self._runs(blocks))
            case "cut":
                return update.DeleteBlocks(choices.randrange(3), 1)
            case "truncate":
                return update.Truncate(choices.choice((0, 100)))
            case "metadata":
                return update.SetMetadata(
                    Metadata(epoch=0, salt=choices.randbytes(32), counter=0, ciphertext=choices.randbytes(40))
                )
            case _:
                return update.Delete()

    def _runs(self, blocks: list[bytes]) -> list[Run]:
        choices = self._choices
        salt = choices.randbytes(32)
        sizes = [choices.randint(1, 200) for _ in range(choices.choice((1, 1, 2)))]
        if choices.random() < self._around.habits.large:
            sizes = [BLOCK_SIZE] * (LARGE_BYTES // BLOCK_SIZE)
        made = [choices.randbytes(size + OVERHEAD_BYTES) for size in sizes]
        blocks += made
        return to_runs(
            BlockRef(bguid(block), size, 0, salt, counter)
            for counter, (block, size) in enumerate(zip(made, sizes, strict=True))
        )

    async def _submit(self, aguid: bytes, operation: bytes, blocks: list[bytes], deadline: Deadline) -> Ran:
        self._around.watch.signed(self._principal.signer.public_key, operation)
        upload = Upload(self._asker, self._fetcher, self._around.membership.quorum, lambda: self._ring.leader, deadline)
        try:
            for block in blocks:
                await upload.add(block, bguid(block))
            inline = await upload.finish()
            return await self._ring.submit(aguid, operation, inline, deadline, self._supplier(upload))
        finally:
            await upload.abandon()

    def _supplier(self, upload: Upload) -> Callable[[int], object]:
        def supply(server: int) -> object:
            return self._kernel.create_task(upload.supply(server))

        return supply

    def _check_outcome(self, asked: update.Update, ran: Ran) -> None:
        outcome = ran.outcome
        ordered = self._around.watch.ordered.get(outcome.update)
        if ordered is None or ordered.outcome != outcome:
            what = "never ran" if ordered is None else f"came to something else in batch {ordered.sequence}"
            raise Violation(f"rule 2: client {self._number} believes an outcome of an update that {what}: {outcome}")
        first = asked.clauses[0].predicates
        if outcome.status is Status.REFUSED or not first or not isinstance(first[0], update.VersionIs):
            return
        expected = first[0].number
        if outcome.status is Status.COMMITTED:
            held = outcome.number == expected + 1
        else:
            held = outcome.number == expected
        if held != (outcome.clause == 0):
            raise Violation(f"an update for version {expected} ran by clause {outcome.clause} at {outcome.number}")

    # --- reads -----------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        choices, around = self._choices, self._around
        owner = choices.choice(around.principals)
        aguid = names.aguid(owner.signer.public_key, choices.choice(owner.tags))
        kind = choices.choices(("latest", "any", "number", "content", "history"), (38, 45, 10, 5, 2))[0]
        deadline = Deadline(self._patience_seconds)
        began = self._kernel.now
        try:
            match kind:
                case "any":
                    self._check_seen(aguid, await self._ring.read(aguid, Latest(), "any", deadline), kind)
                    return
                case "number":
                    number = choices.randint(1, self._known.get(aguid, 0) + 2)
                    self._check_seen(aguid, await self._ring.read(aguid, ByNumber(number), "latest", deadline), kind)
                    return
            seen = await self._ring.read(aguid, Latest(), "latest", deadline)
            number = self._check_seen(aguid, seen, kind)
            self._record(kind, aguid, began, self._kernel.now, number, False)
            if kind == "content":
                await self._fetch(seen, deadline)
            if kind == "history" and seen.record is not None:
                await self._ring.history(aguid, seen.record, deadline)
        except TimedOut as late:
            around.trace.note("late", self._address, kind, str(late))

    def _check_seen(self, aguid: bytes, seen: Seen, kind: str) -> int:
        """The newest version's number, 0 for none; every version is the one that was made under that number."""
        self._around.trace.note("seen", self._address, kind, aguid, seen.record.number if seen.record else 0)
        versions = self._around.watch.versions
        if seen.record is None:
            return 0
        if versions.get((aguid, seen.record.number)) != seen.record.vguid:
            raise Violation(f"rule 4: client {self._number} believes in another version {seen.record.number}")
        if not isinstance(seen.version, Missing):
            made = versions.get((aguid, seen.version.number))
            if made != seen.version.digest():
                raise Violation(f"rule 4: client {self._number} believes in another version {seen.version.number}")
        if kind != "any":
            self._known[aguid] = seen.record.number
        return seen.record.number

    async def _fetch(self, seen: Seen, deadline: Deadline) -> None:
        version = seen.version
        if isinstance(version, Missing) or version.content.guid is None or version.content.height != 1:
            return
        guid = version.content.guid
        try:
            leaf = (await self._fetcher.get([guid], NODE, deadline))[guid]
            refs = tree.open_leaf(version.content, leaf)
            await self._fetcher.get([ref.bguid for ref in refs], BLOCK, deadline)
        except TimedOut:
            raise
        except Unavailable as lost:
            if self._patience_seconds < PATIENCE_SECONDS:
                raise TimedOut(str(lost)) from None  # servers that were started again make tree nodes again
            raise Violation(f"rule 2: version {version.number} lost its content: {lost}") from lost

    def _record(
        self, name: str, aguid: bytes, began: float, ended: float | None, version: int | None, made: bool
    ) -> None:
        self.history.append(Operation(self._number, name, aguid, began, ended, version, made))


class Replayer:
    """Somebody who overhears requests and sends some of them again, later and to others."""

    def __init__(self, kernel: Kernel, network: Network, servers: int, rate: float, address: int) -> None:
        self._kernel = kernel
        self._network = network
        self._servers = servers
        self._rate = rate
        self._address = address
        self._choices = kernel.random("replays")
        self._heard: list[bytes] = []
        network.attach(address, lambda sender, data: None)

    def overhear(self, data: bytes) -> None:
        """A client sent this."""
        choose = self._choices
        if self._rate and data[1] == SUBMIT and choose.random() < self._rate:
            self._heard.append(data)
            self._kernel.after(choose.expovariate(1.0) * choose.choice((0.001, 0.1, 2.0)), self._again)

    def _again(self) -> None:
        data = self._choices.choice(self._heard)
        self._network.send(self._address, self._choices.randrange(self._servers), data)


def _wake(woken: "asyncio.Future[None]") -> None:
    if not woken.done():
        woken.set_result(None)

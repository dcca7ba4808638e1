"""`pond bench mixed`: many users who do different things at once, for long: what each sees, and that nobody fails.

Writers overwrite objects of 4 KiB, readers read them, others write and read back 2 MB, and the last send updates whose
condition cannot hold. Each content begins with the digest of the rest, so a reader knows whether it was written so.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from itertools import cycle
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

import pond
from bft.secret import Secret
from cluster import launch, processes
from cluster.answers import Kind, Mixed
from cluster.bench import floor, usage
from cluster.bench.clients import Clients, Operation, Ran
from cluster.bench.figures import percentile, three_digits
from cluster.bench.memory import Peaks
from cluster.layout import Layout
from pond.cli.answers import table
from pond.client.ring import Consistency
from pond.errors import PondError, VerificationFailed
from pond.model.names import OWNER_KEY_BYTES

SECONDS = 600.0
SMALL_BYTES, LARGE_BYTES = 4096, 2_000_000
HEAD_BYTES = 32
TICK_SECONDS = 30.0
TIMEOUT_SECONDS = 60.0
NEVER = 1 << 40
"""A version that no object has."""

Say = Callable[[str], object]


def content(size_bytes: int) -> bytes:
    """Random bytes behind their own digest."""
    rest = os.urandom(size_bytes - HEAD_BYTES)
    return hashlib.sha256(rest).digest() + rest


def check(found: bytes, size_bytes: int) -> None:
    """Raises VerificationFailed when these are not bytes that `content` made."""
    if len(found) != size_bytes or hashlib.sha256(found[HEAD_BYTES:]).digest() != found[:HEAD_BYTES]:
        raise VerificationFailed(f"{len(found)} bytes were read that nobody wrote")


class _User(NamedTuple):
    """What all users have: a key and an object of their own, with one version."""

    directory: Path
    size_bytes: int

    async def start(self, stack: AsyncExitStack) -> pond.aio.Object:
        """The object. Raises PondError."""
        owner = Secret(os.urandom(OWNER_KEY_BYTES))
        store = await stack.enter_async_context(pond.aio.connect(self.directory, key=owner, timeout=TIMEOUT_SECONDS))
        target = await store.create("mixed")
        await target.write(content(self.size_bytes))
        return target


class Writes(_User):
    """Overwrites its object; each version is new."""

    async def open(self, stack: AsyncExitStack) -> Operation:
        """One more user."""
        target = await self.start(stack)
        return lambda: target.write(content(self.size_bytes))


class Reads(_User):
    """Reads its object, by turns from any server and the newest, and now and then writes it anew."""

    async def open(self, stack: AsyncExitStack) -> Operation:
        """One more user."""
        target = await self.start(stack)
        turns = cycle(range(16))
        consistencies: tuple[Consistency, ...] = ("any", "latest")

        async def read() -> None:
            turn = next(turns)
            if turn == 0:
                await target.write(content(self.size_bytes))
            check(await target.read(consistency=consistencies[turn % 2]), self.size_bytes)

        return read


class LargeWrites(_User):
    """Overwrites its object with blocks that go ahead of the update, and reads it back."""

    async def open(self, stack: AsyncExitStack) -> Operation:
        """One more user."""
        target = await self.start(stack)

        async def both() -> None:
            written = content(self.size_bytes)
            await target.write(written)
            if await target.read() != written:
                raise VerificationFailed("what was read is not what was written")

        return both


class Aborts(_User):
    """Sends updates whose condition cannot hold: to be told so is what it asks for."""

    async def open(self, stack: AsyncExitStack) -> Operation:
        """One more user."""
        target = await self.start(stack)

        async def abort() -> None:
            try:
                await target.update().when(pond.version_is(NEVER)).append(content(self.size_bytes)).commit()
            except pond.Aborted:
                return
            raise VerificationFailed("an update has committed whose condition does not hold")

        return abort


class _Group(NamedTuple):
    name: str
    users: Callable[[Path, int], Writes | Reads | LargeWrites | Aborts]
    size_bytes: int
    share: float


GROUPS = (
    _Group("4 KiB written", Writes, SMALL_BYTES, 0.5),
    _Group("4 KiB read", Reads, SMALL_BYTES, 0.25),
    _Group("2 MB written and read", LargeWrites, LARGE_BYTES, 0.0625),
    _Group("4 KiB aborted", Aborts, SMALL_BYTES, 0.1875),
)
"""Who there is, and which part of all of them; each group has one at least."""


def mixed(seconds: float = SECONDS, clients: int = 64, parent: Path | None = None, say: Say = len) -> Mixed:
    """Start a ring in a temporary directory (in `parent`), let them work, and stop it. Raises PondError."""
    with tempfile.TemporaryDirectory(prefix="pond-bench-", dir=parent) as scratch:
        layout, _ = launch.up(Path(scratch) / "cluster")
        try:
            return _measure(layout, seconds, clients, say)
        finally:
            launch.down(layout.directory)


def _measure(layout: Layout, seconds: float, clients: int, say: Say) -> Mixed:
    machine = floor.measure(SMALL_BYTES, layout.directory)
    shares = {group: max(1, round(clients * group.share)) for group in GROUPS}
    pids = {server.name: pid for server in layout.servers if (pid := processes.look(server).pid) is not None}
    with ExitStack() as stack:
        loads = {
            group: stack.enter_context(Clients(group.users(layout.directory, group.size_bytes), share))
            for group, share in shares.items()
        }
        for group, load in loads.items():
            load.open(shares[group])
        before = usage.of_servers(layout)
        began = monotonic()
        with Peaks(pids) as peaks:
            for group, load in loads.items():
                load.start(shares[group])
            while (left := began + seconds - monotonic()) > 0:
                sleep(min(left, TICK_SECONDS))
                done = sum(load.done for load in loads.values())
                say(f"{monotonic() - began:.0f} s: {done} operations")
            ran = {group: load.finish() for group, load in loads.items()}
        took = monotonic() - began
    spent = usage.of_servers(layout)
    return Mixed(
        floor=machine,
        seconds=took,
        kinds=[_kind(group.name, shares[group], ran[group], took) for group in GROUPS],
        ring_cpu_share=sum(spent[name] - before[name] for name in before) / took,
        anonymous_bytes=max(most.anonymous for most in peaks.most.values()),
        resident_bytes=max(most.resident for most in peaks.most.values()),
    )


def _kind(name: str, clients: int, ran: Ran, seconds: float) -> Kind:
    times = sorted(done.seconds * 1000 for done in ran.done)
    if not times:
        raise PondError(f"{name}: nothing was done, since {(ran.errors or ['of no reason given'])[0]}")
    p50, p99, p999 = (percentile(times, share) for share in (0.5, 0.99, 0.999))
    return Kind(
        name=name,
        clients=clients,
        n=len(times),
        per_second=len(times) / seconds,
        p50_ms=p50,
        p99_ms=p99,
        p999_ms=p999,
        max_ms=times[-1],
        errors=len(ran.errors),
        error=ran.errors[0] if ran.errors else None,
    )


def in_words(measured: Mixed) -> str:
    """The answer as text."""
    rows: list[list[object]] = [["", "CLIENTS", "N", "PER S", "P50 MS", "P99 MS", "P99.9 MS", "MAX MS", "ERRORS"]]
    for kind in measured.kinds:
        times = map(three_digits, (kind.per_second, kind.p50_ms, kind.p99_ms, kind.p999_ms, kind.max_ms))
        rows.append([kind.name, kind.clients, kind.n, *times, kind.errors])
    return "\n".join(
        [
            table(rows, right=range(1, len(rows[0]))),
            "",
            f"{measured.seconds:.0f} s; the servers kept {measured.ring_cpu_share:.2f} cores busy; most memory of one:"
            f" {measured.anonymous_bytes / 1e6:.0f} MB of its own, {measured.resident_bytes / 1e6:.0f} MB resident",
            f"floor of a write of 4 KiB: {measured.floor.write_ms:.2f} ms",
            *(f"{kind.name}: {kind.error}" for kind in measured.kinds if kind.error is not None),
        ]
    )

"""Writers on a real cluster, and the judgement of all that they were told.

Every update carries a token that no other has. Writers run on a thread of their own, while whoever started them hurts
the cluster and waits for commits. Afterwards everything is read back: an update that was acknowledged is there once, at
the version that was acknowledged, none is there twice, and the history is linearizable.
"""

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import NamedTuple

import pond
from cluster.check.history import Illegal, Operation, Verdict
from cluster.check.linearizability import check
from pond.errors import Aborted, TimedOut, Unavailable

TOKEN_BYTES = 32

TIMEOUT_SECONDS = 60.0
"""How long a writer waits for one update, before it counts it as unknown and goes on."""

OBJECTS = 2
"""Few, so that writers meet at them."""

READ_EVERY = 8
CONDITIONAL_EVERY = 5
"""One in so many operations of a writer reads, or changes only the version that it knows."""

RECENT = 1000
"""Updates that are looked at for one of the last moments: more than end between two looks."""

SETUP = -1
"""The client of a history that made the objects."""

READ_BACK_AT_ONCE = 4


class Update(NamedTuple):
    """What a writer was told of one update."""

    token: bytes
    operation: Operation

    @property
    def acknowledged(self) -> bool:
        """Whether it was told that it made a version."""
        return self.operation.made and self.operation.ended is not None


class Judged(NamedTuple):
    """What became of everything."""

    acknowledged: int
    aborted: int
    unknown: int
    """Updates whose writer gave up."""
    lost: tuple[Operation, ...]
    """Acknowledged and not there."""
    twice: tuple[bytes, ...]
    """Tokens that are there more than once, or that nobody wrote."""
    history: Verdict

    @property
    def faultless(self) -> bool:
        """Whether every promise was kept."""
        return not self.lost and not self.twice and not isinstance(self.history, Illegal)


class Workload:
    """Concurrent writers, from `with` until `stop`.

    With `payload_bytes` each update is a whole new content of that size; without, it appends its token alone.
    """

    def __init__(self, directory: Path, name: str, writers: int = 8, payload_bytes: int = 0) -> None:
        self.updates: list[Update] = []
        self.reads: list[Operation] = []
        self._directory = directory
        self._names = [f"{name} {number}" for number in range(OBJECTS)]
        self._writers = writers
        self._filling = os.urandom(max(0, payload_bytes - TOKEN_BYTES))
        self._whole = payload_bytes > 0
        self._salt = os.urandom(8).hex()
        self._changed = threading.Condition()
        self._commits: list[float] = []
        self._failure: BaseException | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"workload {name}", daemon=True)

    # --- while it runs ---------------------------------------------------------------------------------------------

    def __enter__(self) -> "Workload":
        """Returns when the first update is acknowledged."""
        self._thread.start()
        self.wait_for_commits(1, TIMEOUT_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def stop(self) -> None:
        """Each writer ends with the operation that it is at. Raises what a writer has met that no writer should."""
        self._stopping.set()
        self._thread.join()
        self._check()

    @property
    def commits(self) -> Sequence[float]:
        """When updates were acknowledged, in order (time.monotonic)."""
        return self._commits

    def wait_for_commits(self, count: int, seconds: float) -> None:
        """Return when so many more updates are acknowledged. Raises TimedOut when that takes longer."""
        wanted = len(self._commits) + count
        with self._changed:
            self._changed.wait_for(lambda: len(self._commits) >= wanted or self._failure is not None, seconds)
        self._check()
        if len(self._commits) < wanted:
            raise TimedOut(f"{len(self._commits) - wanted + count} of {count} updates acknowledged in {seconds:g} s")

    def wait_for_commit_after(self, moment: float, seconds: float) -> float:
        """When the first update was acknowledged that had begun after a moment: only a ring that has gone on since can
        do that. Raises TimedOut when there is none in this time from now."""

        def ended() -> float | None:
            found = [update.operation for update in self.updates[-RECENT:] if update.acknowledged]
            return min((op.ended for op in found if op.began > moment and op.ended is not None), default=None)

        with self._changed:
            self._changed.wait_for(lambda: ended() is not None or self._failure is not None, seconds)
            self._check()
            first = ended()
        if first is None:
            raise TimedOut(f"no update begun after the fault was acknowledged in {seconds:g} s")
        return first

    def go_on(self, seconds: float) -> None:
        """Let the writers write for so long. Raises what a writer has met that no writer should."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None, seconds)
        self._check()

    def longest_gap(self, since: float, until: float) -> tuple[float, float]:
        """The longest time without a commit within these times: when it began, and when it ended."""
        at = [since, *(moment for moment in list(self._commits) if since < moment < until), until]
        return max(pairwise(at), key=lambda gap: gap[1] - gap[0])

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    # --- writers ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._write())
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    async def _write(self) -> None:
        async with pond.aio.connect(self._directory, timeout=TIMEOUT_SECONDS) as store:
            for name in self._names:
                began = monotonic()
                target = await store.create(name)
                made = await target.write(b"")
                first = Operation(SETUP, "create", target.aguid, began, monotonic(), made.number, True)
                self.reads.append(first)
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._writers):
                tasks.create_task(self._writer(number))

    async def _writer(self, number: int) -> None:
        async with pond.aio.connect(self._directory, timeout=TIMEOUT_SECONDS) as store:
            targets = [await store.open(name) for name in self._names]
            known = [1] * len(targets)
            turn = number
            while not self._stopping.is_set():
                place = turn % len(targets)
                if turn % READ_EVERY == 0:
                    known[place] = await self._read(number, targets[place], known[place])
                else:
                    when = known[place] if turn % CONDITIONAL_EVERY == 0 else None
                    token = f"{self._salt}:{number:03}:{turn:0{TOKEN_BYTES - len(self._salt) - 6}}\n".encode()
                    known[place] = await self._update(number, targets[place], token, when) or known[place]
                turn += 1

    async def _read(self, number: int, target: pond.aio.Object, known: int) -> int:
        began = monotonic()
        try:
            seen = await target.latest()
        except TimedOut:
            return known
        self.reads.append(Operation(number, "latest", target.aguid, began, monotonic(), seen.number, False))
        return seen.number

    async def _update(self, number: int, target: pond.aio.Object, token: bytes, when: int | None) -> int | None:
        change = target.update() if when is None else target.update().when(pond.version_is(when))
        change = change.write(token + self._filling) if self._whole else change.append(token)
        name = f"update {token.decode().strip()}"
        began, ended, version, made = monotonic(), None, None, False
        try:
            version, made = (await change.commit()).number, True
            ended = monotonic()
        except Aborted as conflict:
            version, ended = conflict.version, monotonic()
        except TimedOut:
            pass
        with self._changed:
            self.updates.append(Update(token, Operation(number, name, target.aguid, began, ended, version, made)))
            if made and ended is not None:
                self._commits.append(ended)
            self._changed.notify_all()
        return version

    # --- afterwards ------------------------------------------------------------------------------------------------

    def judge(self) -> Judged:
        """Read everything back, when all writers have stopped. Raises VerificationFailed, and Unavailable."""
        assert not self._thread.is_alive(), "writers still write"
        return asyncio.run(self._judge())

    async def _judge(self) -> Judged:
        there: dict[tuple[bytes, bytes], list[int]] = {}
        async with pond.aio.connect(self._directory, timeout=TIMEOUT_SECONDS) as store:
            for name in self._names:
                target = await store.open(name)
                history = [entry.version for entry in await target.history() if entry.status == "committed"]
                if history != list(range(1, len(history) + 1)):
                    raise Unavailable(f"the versions of {name!r} are no chain: {history}")
                report = await target.verify()
                assert report.versions == len(history), f"{report} of {len(history)} versions"
                for version, token in await self._read_back(target, len(history)):
                    there.setdefault((target.aguid, token), []).append(version)
        acknowledged = {(update.operation.object, update.token): update for update in self.updates}
        lost = [
            update.operation
            for place, update in acknowledged.items()
            if update.acknowledged and there.get(place) != [update.operation.version]
        ]
        twice = [
            token
            for (aguid, token), versions in there.items()
            if len(versions) > 1 or not self._may_be_there(acknowledged.get((aguid, token)))
        ]
        outcomes = Counter(
            "acknowledged" if update.acknowledged else "unknown" if update.operation.ended is None else "aborted"
            for update in self.updates
        )
        return Judged(
            outcomes["acknowledged"],
            outcomes["aborted"],
            outcomes["unknown"],
            tuple(lost),
            tuple(twice),
            check([*self.reads, *(update.operation for update in self.updates)]),
        )

    @staticmethod
    def _may_be_there(update: Update | None) -> bool:
        return update is not None and (update.acknowledged or update.operation.ended is None)

    async def _read_back(self, target: pond.aio.Object, versions: int) -> list[tuple[int, bytes]]:
        """The token of each version but the first."""
        if not self._whole:
            content = await target.read()
            return [
                (version, content[(version - 2) * TOKEN_BYTES : (version - 1) * TOKEN_BYTES])
                for version in range(2, versions + 1)
            ]
        found: list[tuple[int, bytes]] = []
        for first in range(2, versions + 1, READ_BACK_AT_ONCE):
            some = range(first, min(first + READ_BACK_AT_ONCE, versions + 1))
            heads = await asyncio.gather(*(target.read(version=version, stop=TOKEN_BYTES) for version in some))
            found += zip(some, heads, strict=True)
        return found

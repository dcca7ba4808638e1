"""Fetching the parts that a state commits to: from above, since each names the next; written from below.

A part is asked for when what names it has been checked, and written when everything below it is on the disk. So a
crash at any moment leaves nothing that looks whole and is not, and a walk that begins again passes over what it finds.
The walk goes depth first and pulls what comes next only when there is somebody to ask: its memory is bounded by the
fan-out and depth of what it walks, whatever its size. Ours, not of TOCS 2002, whose state is one flat array of pages.
"""

from collections.abc import Iterable, Iterator

from bft.effects import Effect, Overlay, Rejected, Send, Store, Write
from bft.messages import MAX_SPANS, FetchParts, Parts
from bft.peers import Peers
from bft.service import Part, PartError
from bft.serving import ANSWER_BYTES, LOOKUP_BYTES
from bft.types import Epoch, ReplicaId

REQUEST_BYTES = ANSWER_BYTES
REQUEST_SPANS = MAX_SPANS
"""Parts in one question, by what their answer will weigh, about, as peers count it, and by number: most are small, and
under load an answer takes 0.1 s whatever is in it."""

STEP_ENTRIES = 2048
"""Entries looked for on the disk in one step: some 20 ms of work, when most of them are there already."""


class _Task:
    """A part that is not on the disk yet."""

    __slots__ = ("asked", "open", "part", "waiting", "writes")

    def __init__(self, part: Part) -> None:
        self.part = part
        self.asked = False
        self.writes: tuple[Write, ...] | None = None
        """Once its values have come: what to write when nothing below is open."""
        self.open = 0
        """Parts below it that are not on the disk."""
        self.waiting: list[_Task] = []
        """Those above, which have this one open."""


_Name = tuple[str, bytes]


class PartFetch:
    """Brings to the disk all that some parts commit to."""

    def __init__(self, epoch: Epoch, peers: Peers, disk: Overlay, roots: Iterable[Part]) -> None:
        self.fetched_bytes = 0
        self.fetched_parts = 0
        self._epoch = epoch
        self._peers = peers
        self._disk = disk
        self._roots: Iterator[Part] | None = iter(roots)
        self._tasks: dict[_Name, _Task] = {}
        self._ready: list[_Task] = []
        self._asked: dict[ReplicaId, list[_Task]] = {}
        self._written: list[Write] = []

    @property
    def done(self) -> bool:
        """Whether everything is on the disk."""
        return self._roots is None and not self._tasks

    @property
    def open(self) -> int:
        """Parts that are known to be missing: those that they will name are not counted yet."""
        return len(self._tasks)

    def ask(self) -> list[Effect]:
        """Questions to peers that are free, and writes about what turned out to be here."""
        questions: list[Effect] = []
        entries = STEP_ENTRIES
        for peer in self._peers.free():
            tasks: list[_Task] = []
            size = 0
            while size < REQUEST_BYTES and len(tasks) < REQUEST_SPANS and entries > 0:
                task = self._next()
                if task is None:
                    break
                entries -= 1 + task.part.span.count
                held = task.part.held(self._disk)
                if held is not None:
                    task.writes = held
                    self._complete(task)
                    continue
                tasks.append(task)
                size += task.part.size_bytes + LOOKUP_BYTES * task.part.span.count
            if not tasks:
                break
            for task in tasks:
                task.asked = True
            self._asked[peer] = tasks
            self._peers.asked(peer)
            questions.append(Send(peer, FetchParts(self._epoch, [task.part.span for task in tasks])))
        return self._stored() + questions

    def on_parts(self, sender: ReplicaId, message: Parts) -> list[Effect]:
        """Parts from anybody: what is not missed any longer is passed over, as late answers are."""
        useful = False
        effects: list[Effect] = []
        for span, values in message.found:
            task = self._tasks.get((span.table, span.key))
            if task is None or task.writes is not None or task.part.span != span:
                continue
            try:
                self._take(task, values)
            except PartError as error:
                effects.append(Rejected(sender, f"part: {error}"))
                self._peers.lied(sender)
                break
            useful = True
        if useful and not effects:
            self._peers.answered(sender)
        elif sender in self._asked and not effects:
            self._peers.failed(sender)
        self.give_up(sender)
        return self._stored() + effects

    def give_up(self, peer: ReplicaId) -> None:
        """What this peer was asked for and did not send is to be asked of others."""
        for task in reversed(self._asked.pop(peer, [])):
            task.asked = False
            if task.writes is None:
                self._ready.append(task)

    def _next(self) -> _Task | None:
        """A part to look for, the deepest first."""
        while True:
            while self._ready:
                task = self._ready.pop()
                if task.writes is None and not task.asked:
                    return task
            if self._roots is None:
                return None
            root = next(self._roots, None)
            if root is None:
                self._roots = None
            else:
                self._open(root, None)

    def _open(self, part: Part, above: _Task | None) -> None:
        name = (part.span.table, part.span.key)
        task = self._tasks.get(name)
        if task is None:
            task = self._tasks[name] = _Task(part)
            self._ready.append(task)
        assert task.part.span == part.span, f"our fault: {part.span} and {task.part.span} overlap"
        if above is not None:
            above.open += 1
            task.waiting.append(above)

    def _take(self, task: _Task, values: list[bytes]) -> None:
        """Raises PartError."""
        if len(values) != task.part.span.count:
            raise PartError("more or fewer entries than asked for")
        accepted = task.part.accept(values)
        task.writes = accepted.writes
        self.fetched_parts += 1
        self.fetched_bytes += sum(map(len, values))
        for part in reversed(accepted.below):
            self._open(part, task)
        if task.open == 0:
            self._complete(task)

    def _complete(self, task: _Task) -> None:
        """Write a part, and those above it that waited for nothing else."""
        complete = [task]
        while complete:
            task = complete.pop()
            assert task.writes is not None, f"our fault: {task.part.span} is written before it came"
            self._disk.record(task.writes)
            self._written += task.writes
            name = (task.part.span.table, task.part.span.key)
            if self._tasks.get(name) is task:
                del self._tasks[name]
            for above in task.waiting:
                above.open -= 1
                if above.open == 0:
                    complete.append(above)

    def _stored(self) -> list[Effect]:
        writes, self._written = tuple(self._written), []
        return [Store(writes)] if writes else []

"""Work that all servers of a run would do alike is done once, and for the others only checked to be the same.

An update reads some of the state and comes to a result that follows from what it read. The first server to run it
really runs it; another one, for which the same reads find the same values on its own disk, takes the result over. If
one read differs, it runs the update itself, and whatever is wrong shows. So also for the state tree, whose root names
its contents, and for the form of requests, which follows from their bytes. Some seeds do without
(`cluster.sim.ring`), in case it is the sharing that hides something.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bft.messages import Request, RequestStatement
from bft.service import Result, ServiceView, StateMachine
from bft.state_tree import StateTree
from bft.statement import Digest
from bft.types import AgreedTime

_Read = tuple[str, str, bytes, bytes | int | None]
"""(what was asked, of which table, for which key, and the answer)."""


class _RecordingView:
    """A view that remembers what was read through it."""

    def __init__(self, inner: ServiceView) -> None:
        self.reads: list[_Read] = []
        self._inner = inner

    def state(self, key: bytes) -> bytes | None:
        """Value of a key of the state tree."""
        value = self._inner.state(key)
        self.reads.append(("state", "", key, value))
        return value

    def get(self, table: str, key: bytes) -> bytes | None:
        """Value of a key of a table."""
        value = self._inner.get(table, key)
        self.reads.append(("get", table, key, value))
        return value

    def size(self, table: str, key: bytes) -> int | None:
        """Length of such a value in bytes."""
        size = self._inner.size(table, key)
        self.reads.append(("size", table, key, size))
        return size


class SharedService:
    """The service of all servers of one run. A bft.service.StateMachine."""

    def __init__(self, inner: StateMachine) -> None:
        self._inner = inner
        self._known: dict[tuple[Digest, AgreedTime], list[tuple[list[_Read], Result]]] = {}
        self._forms: dict[bytes, str | None] = {}
        self._bodies: dict[bytes, list[Digest]] = {}
        self.body_digest = inner.body_digest
        self.body_table = inner.body_table
        self.hold = inner.hold
        self.parts = inner.parts
        self.read = inner.read

    def refuses(self, operation: bytes) -> str | None:
        """Reason why the operation's form is bad, or None."""
        if operation not in self._forms:
            self._forms[operation] = self._inner.refuses(operation)
        return self._forms[operation]

    def bodies(self, operation: bytes) -> list[Digest]:
        """Digests of the bodies that an operation needs."""
        known = self._bodies.get(operation)
        if known is None:
            known = self._bodies[operation] = self._inner.bodies(operation)
        return known

    def execute(
        self, operation: bytes, principal: bytes, request: Digest, time: AgreedTime, view: ServiceView
    ) -> Result:
        """Run one operation, or find that it has been run on the same state."""
        known = self._known.setdefault((request, time), [])
        for reads, result in known:
            if _finds_the_same(view, reads):
                return result
        recording = _RecordingView(view)
        result = self._inner.execute(operation, principal, request, time, recording)
        known.append((recording.reads, result))
        return result


def _finds_the_same(view: ServiceView, reads: list[_Read]) -> bool:
    for what, table, key, before in reads:
        match what:
            case "state":
                found: bytes | int | None = view.state(key)
            case "get":
                found = view.get(table, key)
            case _:
                found = view.size(table, key)
        if found != before:
            return False
    return True


@contextmanager
def shared_work() -> Iterator[None]:
    """Within this, trees of one root with the same changes are made once, and so are requests of the same bytes."""
    update, parse = StateTree.update, Request.parse
    trees: dict[tuple[Digest, tuple[tuple[bytes, bytes | None], ...]], StateTree] = {}
    requests: dict[bytes, RequestStatement] = {}

    def shared_update(tree: StateTree, changes: Mapping[bytes, bytes | None]) -> StateTree:
        key = (tree.root, tuple(changes.items()))
        known = trees.get(key)
        if known is None:
            known = trees[key] = update(tree, changes)
        return known

    def shared_parse(request: Request) -> RequestStatement:
        known = requests.get(request.statement)
        if known is None:
            known = requests[request.statement] = parse(request)
        return known

    StateTree.update = shared_update  # type: ignore[assignment,method-assign]
    Request.parse = shared_parse  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        StateTree.update = update  # type: ignore[method-assign]
        Request.parse = parse  # type: ignore[method-assign]

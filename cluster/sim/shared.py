"""Work that all servers of a run would do alike is done once, and for the others only checked to be the same.

An update reads some of the state and comes to a result that follows from what it read. The first server to run it
really runs it; another one, for which the same reads find the same values on its own disk, takes the result over. If
one read differs, it runs the update itself, and whatever is wrong shows. So also for the state tree, whose root names
its contents, and for what follows from bytes alone: messages, requests, certificates. Some seeds do without
(`cluster.sim.ring`), in case it is the sharing that hides something.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bft.admission import Admission, Admitted
from bft.certificate import Certificate, Claim
from bft.messages import Request, RequestStatement
from bft.service import Result, ServiceView, StateMachine
from bft.state_tree import StateProof, StateTree
from bft.statement import Digest
from bft.types import AgreedTime
from pond.model import proof
from pond.model.version import ObjectRecord
from tapestry.guid import GUID

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
    """Within this, what follows from the same tree or the same bytes is computed once. All servers of a run have one
    membership and one verifier, so a request that one admits is one that all do."""
    update, get, prove = StateTree.update, StateTree.get, StateTree.prove
    parse, admit, claim = Request.parse, Admission.admit, Certificate.claim
    check_record = proof.check_record
    trees: dict[tuple[Digest, tuple[tuple[bytes, bytes | None], ...]], StateTree] = {}
    values: dict[tuple[Digest, bytes], bytes | None] = {}
    proofs: dict[tuple[Digest, bytes], StateProof] = {}
    requests: dict[bytes, RequestStatement] = {}
    admitted: dict[tuple[bytes, bytes], Admitted] = {}
    claims: dict[bytes, Claim] = {}
    records: dict[tuple[Digest, StateProof, GUID], ObjectRecord | None] = {}

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

    def shared_get(tree: StateTree, key: bytes) -> bytes | None:
        place = (tree.root, key)
        try:
            return values[place]
        except KeyError:
            value = values[place] = get(tree, key)
            return value

    def shared_prove(tree: StateTree, key: bytes) -> StateProof:
        place = (tree.root, key)
        known = proofs.get(place)
        if known is None:
            known = proofs[place] = prove(tree, key)
        return known

    def shared_admit(admission: Admission, request: Request) -> Admitted:
        key = (request.statement, request.signature)
        known = admitted.get(key)
        if known is None:
            checked = admit(admission, request)
            admitted[key] = checked.bare()
            return checked
        return known if not request.bodies else Admitted(request, *known[1:])

    def shared_claim(certificate: Certificate) -> Claim:
        known = claims.get(certificate.statement)
        if known is None:
            known = claims[certificate.statement] = claim(certificate)
        return known

    def shared_check_record(claim: Claim, proved: StateProof, aguid: GUID) -> ObjectRecord | None:
        place = (claim.state_root, proved, aguid)
        try:
            return records[place]
        except KeyError:
            record = records[place] = check_record(claim, proved, aguid)
            return record

    shared: list[tuple[object, str, object, object]] = [
        (StateTree, "update", update, shared_update),
        (StateTree, "get", get, shared_get),
        (StateTree, "prove", prove, shared_prove),
        (Request, "parse", parse, shared_parse),
        (Admission, "admit", admit, shared_admit),
        (Certificate, "claim", claim, shared_claim),
        (proof, "check_record", check_record, shared_check_record),
    ]
    for owner, name, _, once in shared:
        setattr(owner, name, once)
    try:
        yield
    finally:
        for owner, name, own, _ in shared:
            setattr(owner, name, own)

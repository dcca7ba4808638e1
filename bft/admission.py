"""Which requests a replica lets into agreement: well-formed, for this ring, signed (design.md, 4).

Only form and signature are judged here, from the request's bytes alone, so that all correct replicas agree about it;
predicates and access are judged at execution, against ordered state.
"""

from collections import OrderedDict
from typing import NamedTuple

from bft.membership import Membership
from bft.messages import MAX_REQUEST_BYTES, Request, RequestError, RequestStatement
from bft.request_signatures import RequestVerifier
from bft.service import StateMachine
from bft.signatures import Verifier
from bft.statement import Digest, digest

REMEMBERED = 8192
REMEMBERED_BYTES = 8 * 1024
"""Checked requests remembered, and how long they may be: one that comes from its client and again in a proposal is
checked once. A larger one is checked again, which costs little beside moving it."""


class Admitted(NamedTuple):
    """A request that passed: its digest is that of its statement; `named` are the bodies it needs."""

    request: Request
    statement: RequestStatement
    digest: Digest
    named: tuple[Digest, ...]

    def bare(self) -> "Admitted":
        """The same without the bodies that travelled beside it."""
        bare = Request(self.request.statement, self.request.signature, [])
        return Admitted(bare, self.statement, self.digest, self.named)


class Admission:
    """Checks requests, remembering what it checked."""

    def __init__(self, membership: Membership, verifier: Verifier, service: StateMachine) -> None:
        self._membership = membership
        self._signatures = RequestVerifier(verifier)
        self._service = service
        self._checked: OrderedDict[tuple[Digest, bytes], Admitted] = OrderedDict()

    def admit(self, request: Request) -> Admitted:
        """The request, checked. Raises RequestError with the reason when no replica may vote for it."""
        if request.size_bytes > MAX_REQUEST_BYTES:
            raise RequestError(f"request is larger than {MAX_REQUEST_BYTES} bytes")
        key = (digest(request.statement), request.signature)
        known = self._checked.get(key)
        if known is not None:
            self._checked.move_to_end(key)
            return Admitted(request, known.statement, known.digest, known.named)
        stated = request.parse()
        if stated.ring_id != self._membership.ring_id:
            raise RequestError("request for another ring")
        if not self._signatures.verify(stated.principal, request.statement, request.signature):
            raise RequestError("request is not signed by its principal")
        reason = self._service.refuses(stated.operation)
        if reason is not None:
            raise RequestError(reason)
        admitted = Admitted(request, stated, key[0], tuple(self._service.bodies(stated.operation)))
        if len(request.statement) <= REMEMBERED_BYTES:
            self._checked[key] = admitted.bare()
            if len(self._checked) > REMEMBERED:
                self._checked.popitem(last=False)
        return admitted

    def bodies(self, admitted: Admitted) -> dict[Digest, bytes]:
        """The bodies that travelled with a request, by digest. Raises RequestError for one that it does not name."""
        if not admitted.request.bodies:
            return {}
        bodies = {self._service.body_digest(body): body for body in admitted.request.bodies}
        if not bodies.keys() <= set(admitted.named):
            raise RequestError("request carries a body that it does not name")
        return bodies

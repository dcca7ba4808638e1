"""Who waits for which answer, and with what proof it gets it (TOCS 2002, section 4.1; design.md, 5).

An answer leaves with the certificate of its batch, or of a later one through its session's page in the state tree. When
no certificate comes for a while it leaves without: f + 1 equal ones convince the client as well.
"""

from typing import NamedTuple

import msgspec

from bft import merkle
from bft.answer import BatchPath, SessionPath, Status
from bft.effects import AnswerClient, Effect, SetTimer, Timer
from bft.execution import Certified, Execution, State
from bft.messages import RequestStatement
from bft.sessions import find_answer, known_answer, page_key, read_session, refusal, session_key
from bft.statement import Digest
from bft.types import AgreedTime, Sequence, View

UNCERTIFIED_SECONDS = 0.4
"""How long an answer waits for its certificate: shorter than a client's patience, longer than any healthy signing."""

MAX_WAITING = 65_536
"""Clients waiting at one replica; above it a request is refused as overload."""


MAX_ASKERS = 8
"""Clients waiting for one request; one client needs one, and one more for each time it asks anew."""

PATIENCE_SECONDS = 120
"""How long a client is remembered that has not asked again: far longer than clients wait before they do."""


class _Waiting:
    """Who waits for a request that has not run, in the order of their last asking."""

    __slots__ = ("clients", "since", "stated")

    def __init__(self, stated: RequestStatement) -> None:
        self.stated = stated
        self.clients: dict[object, None] = {}
        self.since = AgreedTime(0)


class _Ready(NamedTuple):
    client: object
    stated: RequestStatement
    answer: bytes


class Replies:
    """Matches clients that wait with answers and certificates."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._waiting: dict[Digest, _Waiting] = {}
        self._ready: dict[Sequence, list[_Ready]] = {}
        self._timer_set = False

    def __len__(self) -> int:
        return len(self._waiting)

    def knows(self, request: Digest) -> bool:
        """Whether somebody waits for this request already."""
        return request in self._waiting

    def wait(self, client: object, request: Digest, stated: RequestStatement, now: AgreedTime) -> None:
        """Answer `client` when the request has run, if that is soon. Asking twice answers once; of many who ask, the
        last ones are answered."""
        waiting = self._waiting.get(request)
        if waiting is None:
            waiting = self._waiting[request] = _Waiting(msgspec.structs.replace(stated, operation=b""))
        waiting.since = now
        waiting.clients.pop(client, None)
        waiting.clients[client] = None
        if len(waiting.clients) > MAX_ASKERS:
            del waiting.clients[next(iter(waiting.clients))]

    def answer_known(self, client: object, request: Digest, stated: RequestStatement) -> list[Effect] | None:
        """Answer a request that has run or has expired; None when it is still to be ordered."""
        state = self._execution.tree.get
        if stated.not_after < self._execution.time:
            return [AnswerClient(client, refusal(request, Status.EXPIRED), None, None)]
        if not self.ran(stated):
            return None
        verdict = known_answer(state, stated, request, self._execution.time)
        if isinstance(verdict, Status):
            return [AnswerClient(client, refusal(request, verdict), None, None)]
        return self._answer_or_hold(self._execution.executed, _Ready(client, stated, verdict))

    def ran(self, stated: RequestStatement) -> bool:
        """Whether a request has run or has expired: nobody needs to order it."""
        record = read_session(self._execution.tree.get(session_key(stated.principal, stated.session)))
        return stated.not_after < self._execution.time or (record is not None and stated.number <= record.last)

    def executed(self, sequence: Sequence, answers: dict[Digest, bytes]) -> list[Effect]:
        """A batch ran: those who wait for one of its requests wait for its certificate from now on."""
        ready = [
            _Ready(client, waiting.stated, answer)
            for request, answer in answers.items()
            if (waiting := self._waiting.pop(request, None)) is not None
            for client in waiting.clients
        ]
        return self._hold(sequence, ready) if ready else []

    def certified(self, certified: Certified) -> list[Effect]:
        """A certificate arrived: everything up to it can be proved."""
        effects: list[Effect] = []
        for sequence in sorted(sequence for sequence in self._ready if sequence <= certified.sequence):
            waiting = self._ready.pop(sequence)
            places = _places(certified.state) if sequence == certified.sequence else {}
            effects += [_prove(ready, places.get(ready.answer), certified) for ready in waiting]
        return effects

    def on_timer(self, number: int) -> list[Effect]:
        """No certificate came: send what ran up to then as this replica's own word."""
        self._timer_set = False
        effects: list[Effect] = []
        for sequence in sorted(sequence for sequence in self._ready if sequence <= number):
            effects += [AnswerClient(ready.client, ready.answer, None, None) for ready in self._ready.pop(sequence)]
        return effects + self._set_timer()

    def expire(self, time: AgreedTime, now: AgreedTime) -> list[Effect]:
        """Requests whose not-after has passed in agreed time will never run: their clients are told. Clients that have
        not asked for long are forgotten."""
        effects: list[Effect] = []
        gone = now - PATIENCE_SECONDS * 1_000_000
        for request, waiting in list(self._waiting.items()):
            if waiting.stated.not_after < time:
                expired = refusal(request, Status.EXPIRED)
                effects += [AnswerClient(client, expired, None, None) for client in waiting.clients]
            elif waiting.since >= gone:
                continue
            del self._waiting[request]
        return effects

    def _answer_or_hold(self, sequence: Sequence, ready: _Ready) -> list[Effect]:
        certified = self._execution.certified
        if certified is not None and _page_has(certified.state, ready):
            return [_prove(ready, None, certified)]
        return self._hold(sequence, [ready])

    def _hold(self, sequence: Sequence, ready: list[_Ready]) -> list[Effect]:
        self._ready.setdefault(sequence, []).extend(ready)
        return self._set_timer()

    def _set_timer(self) -> list[Effect]:
        if self._timer_set or not self._ready:
            return []
        self._timer_set = True
        return [SetTimer(Timer("uncertified", View(0), max(self._ready)), UNCERTIFIED_SECONDS)]


def _page_has(state: State, ready: _Ready) -> bool:
    page = state.tree.get(page_key(ready.stated.principal, ready.stated.session, ready.stated.number))
    entry = find_answer(page, ready.stated.number)
    return entry is not None and entry.answer == ready.answer


def _places(state: State) -> dict[bytes, BatchPath]:
    """Where each answer of a batch stands in the tree of its answers."""
    count = len(state.answers)
    paths = merkle.paths(state.answers)
    return {answer: BatchPath(index, count, paths[index]) for index, answer in enumerate(state.answers)}


def _prove(ready: _Ready, place: BatchPath | None, certified: Certified) -> AnswerClient:
    """By its place in the certified batch itself, else by its session's page, else (a refusal) not at all."""
    if place is not None:
        return AnswerClient(ready.client, ready.answer, certified.certificate, place)
    state = certified.state
    if _page_has(state, ready):
        proof = state.tree.prove(page_key(ready.stated.principal, ready.stated.session, ready.stated.number))
        return AnswerClient(ready.client, ready.answer, certified.certificate, SessionPath(proof))
    return AnswerClient(ready.client, ready.answer, None, None)

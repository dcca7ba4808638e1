"""Orders an update and believes the answer only when it is proved; reads objects the same way (design.md, 5 and 8).

A request goes to the primary, soon to all servers, and again with growing pauses: always the same bytes, so it runs
at most once (TOCS 2002, section 4.1). Believed is one answer with a certificate of the ring, or f + 1 equal ones.
Not here: reads with session guarantees.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from bft.answer import Answer, AnswerError, BatchPath, check_batch_path, check_session_path
from bft.answer import Status as AnswerStatus
from bft.answer import decode as decode_answer
from bft.certificate import Certificate, Claim
from bft.membership import Membership
from bft.messages import Request, RequestStatement
from bft.sessions import LONGEST_LIFE_SECONDS, page_key
from bft.signatures import Signer, Verifier
from bft.state_tree import StateProof
from bft.statement import digest
from pond.client.asking import (
    FIRST_PATIENCE_SECONDS,
    Asker,
    Deadline,
    RoundTrips,
    Turns,
    reached,
)
from pond.client.leader import Leader
from pond.client.signing import SigningTogether
from pond.errors import PondError, TimedOut, Unavailable, UsageError, VerificationFailed
from pond.model.proof import HistoryCheck, Missing, ProofFailed, check_certificate, check_object, check_version
from pond.model.version import ObjectRecord, Outcome, VersionError, VersionRoot, decode_outcome
from pond.protocol import (
    MAX_NAMED,
    Answered,
    AtTime,
    ByNumber,
    ByVguid,
    GetStatus,
    History,
    ObjectRead,
    Overloaded,
    ReadHistory,
    ReadObject,
    Refused,
    Selector,
    ServerStatus,
    Submit,
)
from pond.protocol import Latest as LatestVersion
from tapestry.guid import GUID

Consistency: TypeAlias = Literal["latest", "any"]
"""`latest` is linearizable: 2f+1 servers answer and the newest counts. `any` takes the first proved answer."""

MARGIN_SECONDS = 60.0
"""How much longer than its caller waits an update may run: room for clocks that differ."""

CLOCK_TRUSTED_SECONDS = 300.0
"""How far our clock may be ahead of the ring's time and still be used."""

MOST_TOO_FAR = 3
"""How often an update is signed by the ring's time and found too far ahead of it."""

SESSION_SLACK_SECONDS = 10.0
"""A session is left alone this long before the ring may forget it."""

MAX_SESSIONS = 256
"""Free sessions kept."""

PAUSE_WHEN_OVERLOADED_SECONDS = 5.0

LEAST_WRITE_PATIENCE_SECONDS = 0.1
"""How long the primary is given before an update goes to all servers, at least: a few round trips and syncs."""

BUSY_PATIENCE_SECONDS = 1.0
"""The same for a primary that says that it has too much to do."""

LATEST_PATIENCE_SECONDS = 1.0
"""When a question that went to all servers is repeated."""

SECONDS_PER_OUTCOME = 1e-4
"""How much longer an answer with so many outcomes may take before another server is asked as well."""

REST_SECONDS = 2.0
"""How long a server that gave the first part of a history may take for the next one."""

LACKS_BLOCKS = "does not hold"
"""Part of a refusal for blocks that have not arrived yet, the one refusal that sending them may mend."""

Supply: TypeAlias = Callable[[int], object]
"""Called with a server that lacks blocks of the update: to bring them, in the background."""

T = TypeVar("T")


class Ran(NamedTuple):
    """What became of an update that ran, and the certificate that says so; None when f+1 servers said so."""

    outcome: Outcome
    certificate: Certificate | None


class Seen(NamedTuple):
    """A proved read: the object's record (None: there is no object), and the version selected, or why there is none."""

    certificate: Certificate
    claim: Claim
    proof: StateProof
    record: ObjectRecord | None
    version: VersionRoot | Missing
    first: VersionRoot | None = None
    """The object's first version, when a time before it was asked for."""


class Event(NamedTuple):
    """One outcome of an object's history, with the version that it made, if it made one."""

    outcome: Outcome
    version: VersionRoot | None


class Consequence(Enum):
    """What to do after an answer."""

    DONE = "done"
    SIGN_ANEW = "sign anew"
    ASK_FOR_TIME = "ask for the ring's time and sign anew"
    FIND_OUT = "find out"


class _Session:
    def __init__(self, identity: bytes) -> None:
        self.identity = identity
        self.number = 0
        self.not_after = 0


class RingClient:
    """One principal's dealings with one ring."""

    def __init__(
        self,
        asker: Asker,
        membership: Membership,
        signer: Signer,
        verifier: Verifier,
        wall_clock: Callable[[], int],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self.membership = membership
        self.principal = signer.public_key
        self._asker = asker
        self._loop = asker.loop
        self._signing = SigningTogether(signer, asker.loop)
        self._verifier = verifier
        self._wall_clock = wall_clock
        self._random_bytes = random_bytes
        self._sessions: deque[_Session] = deque()
        self._time: tuple[int, float] | None = None
        self._leader = Leader(asker, membership.weak)
        self._write_trips = RoundTrips(LEAST_WRITE_PATIENCE_SECONDS)
        self._read_trips = RoundTrips()

    # --- time ------------------------------------------------------------------------------------------------------

    def now(self) -> int:
        """About what the ring's agreed time is (microseconds): our clock, unless the ring's is known to differ much."""
        wall = self._wall_clock()
        if self._time is None:
            return wall
        agreed, seen_at = self._time
        agreed += int((self._loop.time() - seen_at) * 1e6)
        return wall if agreed <= wall <= agreed + int(CLOCK_TRUSTED_SECONDS * 1e6) else agreed

    def _learn(self, claim: Claim) -> None:
        if self._time is None or claim.time > self._time[0]:
            self._time = claim.time, self._loop.time()

    @property
    def leader(self) -> int:
        """The server that leads, as far as we know."""
        return self._leader.server

    # --- updates ---------------------------------------------------------------------------------------------------

    async def submit(
        self,
        aguid: GUID,
        operation: bytes,
        bodies: Sequence[bytes],
        deadline: Deadline,
        supply: Supply | None = None,
    ) -> Ran:
        """Order an update of an object and return what became of it.

        Raises TimedOut when that is unknown, UsageError when its form is bad.
        """
        session: _Session | None = None
        too_far = 0
        while True:
            if self._time is None:
                # A request that is signed too far ahead could be replayed later, so the ring's time is asked for first.
                await self.read(aguid, LatestVersion(), "latest", deadline)
            session = session or self._take_session()
            life = min(max(deadline.at - self._loop.time(), 0) + MARGIN_SECONDS, LONGEST_LIFE_SECONDS / 2)
            not_after = self.now() + int(life * 1e6)
            stated = RequestStatement(
                self.membership.ring_id, self.principal, session.identity, session.number + 1, not_after, operation
            )
            data = stated.encode()
            request = Request(data, await self._signing.sign(data), list(bodies))
            answer, certificate = await self._order(stated, request, digest(data), deadline, supply)
            match _consequence(answer.status):
                case Consequence.DONE:
                    session.number += 1
                    session.not_after = max(session.not_after, not_after)
                    self._sessions.append(session)
                    return Ran(_outcome(answer, digest(data)), certificate)
                case Consequence.FIND_OUT:
                    return await self._find_out(aguid, digest(data), deadline)
                case Consequence.SIGN_ANEW:
                    session = None
                case Consequence.ASK_FOR_TIME:
                    # What was signed may run in some hours, if somebody sends it again; under the same number only one
                    # of the two can.
                    self._time = None
                    too_far += 1
                    if too_far == MOST_TOO_FAR:
                        raise TimedOut(
                            "the ring's time and this computer's differ too much to order an update: it may still run"
                            " within a day, see the object's log; set the clock and try again"
                        )

    def _take_session(self) -> _Session:
        """A session that nobody uses now. One whose last answer never came is not given back: its fate is unknown."""
        usable = self.now() + int(SESSION_SLACK_SECONDS * 1e6)
        while self._sessions:
            session = self._sessions.pop()
            if session.not_after > usable:
                while len(self._sessions) > MAX_SESSIONS:
                    self._sessions.popleft()
                return session
        return _Session(self._random_bytes(16))

    async def _order(
        self, stated: RequestStatement, request: Request, name: bytes, deadline: Deadline, supply: Supply | None
    ) -> tuple[Answer, Certificate | None]:
        words: dict[int, bytes] = {}
        refusals: dict[int, str] = {}
        started = self._loop.time()
        pause = self._write_patience()
        again_at = all_at = started + self._asker.jitter(pause)
        first, alone = self._leader.server, True
        with self._asker.open() as talk:
            data = talk.encode(Submit(talk.ask, request))
            if self._leader.is_old:
                self._leader.ask(talk)
            talk.send(first, data)
            while True:
                reply = await talk.next(min(again_at, deadline.at))
                if reply is None:
                    if deadline.passed:
                        raise TimedOut(
                            f"the update was not confirmed within {deadline.seconds:g} s ({len(words | refusals)} of "
                            f"{self._asker.servers} servers answered); it may still run: look at the object's log, and "
                            "at `pond cluster status`"
                        )
                    if not reached(all_at):
                        talk.send(self._leader.server, data)
                        again_at = all_at
                        continue
                    alone = False
                    talk.send_all(data)
                    self._leader.ask(talk)
                    pause = min(2 * pause, PAUSE_WHEN_OVERLOADED_SECONDS)
                    again_at = self._loop.time() + self._asker.jitter(pause)
                    continue
                server, said = reply
                match said:
                    case Answered():
                        answer = self._believe(said, stated, name, server, words)
                        if answer is not None and answer.status is not AnswerStatus.OUT_OF_ORDER:
                            talk.round_trip(server)
                            if server == first:
                                # Also when others were asked meanwhile: it is how long the ring takes, not the link.
                                self._write_trips.add(self._loop.time() - started)
                            elif not alone:
                                self._leader.doubt()
                            return answer, said.certificate
                    case ServerStatus():
                        if self._leader.heard(server, said) and alone:
                            talk.send(self._leader.server, data)
                    case Overloaded(_, retry_after_ms):
                        # Who is busy is alive: others are asked too after a while only, since it may lie.
                        wait = min(retry_after_ms / 1000, PAUSE_WHEN_OVERLOADED_SECONDS)
                        if alone:
                            all_at = max(all_at, started + BUSY_PATIENCE_SECONDS)
                        later = self._loop.time() + self._asker.jitter(wait + pause / 4)
                        again_at = min(later, all_at if alone else again_at)
                    case Refused(_, reason) if LACKS_BLOCKS in reason and supply is not None:
                        supply(server)
                        again_at = min(again_at, self._loop.time() + self._asker.jitter(pause / 4))
                    case Refused(_, reason):
                        refusals[server] = reason
                        if _agreed(refusals, self.membership.weak) is not None:
                            raise UsageError(f"the servers refuse this update: {reason}")
                        if alone:
                            again_at = all_at = self._loop.time()  # one server's word; the others are asked at once
                    case _:
                        self._asker.distrust("answer to another question")

    def _write_patience(self) -> float:
        """Seconds after which an update goes to all servers: a few of its usual times, or else of those of reads."""
        if self._write_trips.known:
            return self._write_trips.patience
        return max(FIRST_PATIENCE_SECONDS, 2 * self._read_trips.patience)

    def _believe(
        self, said: Answered, stated: RequestStatement, name: bytes, server: int, words: dict[int, bytes]
    ) -> Answer | None:
        """The answer, once it is proved or f+1 servers gave the same; else None."""
        try:
            answer = decode_answer(said.answer)
            if answer.request != name:
                raise AnswerError("the answer is to another request")
            if said.certificate is None or said.place is None:
                words[server] = said.answer
                return answer if _agreed(words, self.membership.weak) == said.answer else None
            claim = self._certified(said.certificate)
            if isinstance(said.place, BatchPath):
                check_batch_path(claim, said.answer, said.place)
            else:
                page = page_key(stated.principal, stated.session, stated.number)
                check_session_path(claim, page, stated.number, said.answer, said.place)
        except (AnswerError, ProofFailed):
            self._asker.distrust("answer to an update that is not proved")
            return None
        self._learn(claim)
        return answer

    def _certified(self, certificate: Certificate) -> Claim:
        return check_certificate(certificate, self.membership.ring_key, self.membership.ring_id, self._verifier)

    async def _find_out(self, aguid: GUID, name: bytes, deadline: Deadline) -> Ran:
        """What became of an update whose answer the ring no longer keeps: its object's log says."""
        seen = await self.read(aguid, LatestVersion(), "latest", deadline)
        if seen.record is not None:
            for event in reversed(await self.history(aguid, seen.record, deadline)):
                if event.outcome.update == name:
                    return Ran(event.outcome, None)
        raise TimedOut(
            f"the update was not ordered within {deadline.seconds:g} s and has expired: it changed nothing and never"
            " will; try again"
        )

    # --- reads -----------------------------------------------------------------------------------------------------

    async def read(self, aguid: GUID, selector: Selector, consistency: Consistency, deadline: Deadline) -> Seen:
        """One version of an object, or the proof that there is none. Raises TimedOut."""
        if consistency == "any" or not isinstance(selector, LatestVersion):
            seen = await self._read_any(aguid, selector, deadline)
            if seen is not None and (consistency == "any" or _settled(seen, selector)):
                return seen
        return await self._read_latest(aguid, selector, deadline)

    async def _read_any(self, aguid: GUID, selector: Selector, deadline: Deadline) -> Seen | None:
        """The first answer that is proved; None when as many as lie may say that there is none."""
        claimed: set[int] = set()
        with self._asker.open() as talk:
            data = talk.encode(ReadObject(talk.ask, aguid, selector, False))
            order = self._asker.quickest()
            turns = Turns(self._asker, talk, order, lambda server: talk.send(server, data), self._read_trips.patience)
            while True:
                reply = await turns.answer(deadline.at)
                if reply is None:
                    raise self._unanswered(len(claimed), 1, deadline)
                server = reply[0]
                seen = self._check_read(reply, aguid, selector)
                if seen is None:
                    turns.skip(server)
                    continue
                seconds = talk.round_trip(server)
                if seconds is not None:
                    self._read_trips.add(seconds)
                if seen.version is not Missing.CLAIMED:
                    return seen
                claimed.add(server)
                if len(claimed) == 1:
                    talk.send_all(data)  # it takes a quorum to believe that
                if len(claimed) >= self.membership.quorum:
                    return None

    async def _read_latest(self, aguid: GUID, selector: Selector, deadline: Deadline) -> Seen:
        """2f+1 answers, each of a state that covers what its server has sent COMMIT for; the newest counts."""
        valid: dict[int, Seen] = {}
        pause = max(self._read_trips.patience, LATEST_PATIENCE_SECONDS)
        with self._asker.open() as talk:
            data = talk.encode(ReadObject(talk.ask, aguid, selector, True))
            if self._leader.is_old:
                self._leader.ask(talk)
            talk.send_all(data)
            again_at = self._loop.time() + pause
            while True:
                reply = await talk.next(min(again_at, deadline.at))
                if reply is None:
                    if deadline.passed:
                        raise self._unanswered(len(valid), self.membership.quorum, deadline)
                    for server in [s for s in range(self._asker.servers) if s not in valid]:
                        talk.send(server, data)
                    again_at = self._loop.time() + self._asker.jitter(pause)
                    pause = min(2 * pause, PAUSE_WHEN_OVERLOADED_SECONDS)
                    continue
                server, said = reply
                if isinstance(said, ServerStatus):
                    self._leader.heard(server, said)
                    continue
                if isinstance(said, Overloaded):
                    again_at = min(again_at, self._loop.time() + self._asker.jitter(said.retry_after_ms / 1000 + 0.05))
                seen = self._check_read(reply, aguid, selector)
                if seen is None:
                    continue
                valid.setdefault(server, seen)
                seconds = talk.round_trip(server)
                if seconds is not None:
                    self._read_trips.add(seconds)
                if len(valid) >= self.membership.quorum:
                    return max(valid.values(), key=lambda s: (s.version is not Missing.CLAIMED, s.claim.sequence))

    def _check_read(self, reply: tuple[int, object], aguid: GUID, selector: Selector) -> Seen | None:
        """What one server answered, once it is proved; else None."""
        said = reply[1]
        if not isinstance(said, ObjectRead):
            if not isinstance(said, Overloaded):
                self._asker.distrust("refusal to read" if isinstance(said, Refused) else "answer to another question")
            return None
        try:
            claim, record = check_object(
                said.certificate,
                said.proof,
                aguid,
                self.membership.ring_key,
                self.membership.ring_id,
                self._verifier,
            )
            version: VersionRoot | Missing = Missing.PROVED
            first: VersionRoot | None = None
            if record is not None:
                version = check_version(aguid, record, said.version, selector)
                if version is Missing.PROVED and isinstance(selector, AtTime) and said.version is not None:
                    found = check_version(aguid, record, said.version, ByNumber(1))
                    first = found if isinstance(found, VersionRoot) else None
        except ProofFailed:
            self._asker.distrust("read that is not proved")
            return None
        self._learn(claim)
        return Seen(said.certificate, claim, said.proof, record, version, first)

    async def history(self, aguid: GUID, record: ObjectRecord, deadline: Deadline) -> list[Event]:
        """All outcomes of an object, oldest first, as its proved record has them. Raises TimedOut."""
        pause = self._read_trips.patience
        while True:
            for _ in range(self._asker.servers):
                found = await self._history_of_one(aguid, record, deadline)
                if found is not None:
                    return found
                if deadline.passed:
                    raise TimedOut(
                        f"no server gave the object's history of {record.history.count} updates within "
                        f"{deadline.seconds:g} s: see `pond cluster status`"
                    )
            await asyncio.sleep(min(self._asker.jitter(pause), max(0.0, deadline.at - self._loop.time())))
            pause = min(2 * pause, PAUSE_WHEN_OVERLOADED_SECONDS)

    async def _history_of_one(self, aguid: GUID, record: ObjectRecord, deadline: Deadline) -> list[Event] | None:
        """The history as the first server has it that answers in time; None when it does not hold, or ends early."""
        check = HistoryCheck(aguid)
        events: list[Event] = []
        order = self._asker.quickest()
        while check.count < record.history.count:
            count = min(MAX_NAMED, record.history.count - check.count)
            patience = self._read_trips.patience + count * SECONDS_PER_OUTCOME
            with self._asker.open() as talk:
                data = talk.encode(ReadHistory(talk.ask, aguid, check.count, count))
                # What is wrong with a part shows at the end only, so all parts have to be of one server.
                ask = partial(talk.send, data=data)
                until = deadline.at if len(order) > 1 else min(deadline.at, self._loop.time() + REST_SECONDS + patience)
                reply = await Turns(self._asker, talk, order, ask, patience).answer(until)
                if reply is None:
                    return None
                server, said = reply
                talk.round_trip(server)
                order = [server]
            if not isinstance(said, History) or not said.outcomes:
                self._asker.suspect(server)
                return None
            try:
                events += [Event(*check.add(outcome, root)) for outcome, root in said.outcomes[:count]]
            except ProofFailed:
                self._asker.suspect(server)
                self._asker.distrust("history that is not proved")
                return None
            deadline.extend()
        try:
            check.finish(record)
        except ProofFailed:
            self._asker.suspect(order[0])
            self._asker.distrust("history that is not proved")
            return None
        return events

    async def status(self, deadline: Deadline) -> list[ServerStatus | None]:
        """What each server says of itself, unproved; None for one that does not answer in time."""
        answers: dict[int, ServerStatus] = {}
        pause = max(self._read_trips.patience, FIRST_PATIENCE_SECONDS)
        with self._asker.open() as talk:
            data = talk.encode(GetStatus(talk.ask))
            talk.send_all(data)
            again_at = self._loop.time() + pause
            while len(answers) < self._asker.servers and not deadline.passed:
                reply = await talk.next(min(again_at, deadline.at))
                if reply is None:
                    for server in [s for s in range(self._asker.servers) if s not in answers]:
                        talk.send(server, data)
                    again_at = self._loop.time() + self._asker.jitter(pause)
                    pause = min(2 * pause, PAUSE_WHEN_OVERLOADED_SECONDS)
                    continue
                server, said = reply
                if isinstance(said, ServerStatus):
                    answers[server] = said
                    self._leader.heard(server, said)
        return [answers.get(server) for server in range(self._asker.servers)]

    def _unanswered(self, answered: int, needed: int, deadline: Deadline) -> Unavailable:
        return TimedOut(
            f"{answered} of {self._asker.servers} servers gave a proved answer within {deadline.seconds:g} s, but "
            f"{needed} {'is' if needed == 1 else 'are'} needed: see `pond cluster status`"
        )


def _consequence(status: AnswerStatus) -> Consequence:
    match status:
        case AnswerStatus.EXECUTED:
            return Consequence.DONE
        case AnswerStatus.EXPIRED:
            return Consequence.FIND_OUT
        case AnswerStatus.UNKNOWN_SESSION:
            # Its earlier numbers have expired, so this one can never run: the operation may be signed anew.
            return Consequence.SIGN_ANEW
        case AnswerStatus.NOT_AFTER_TOO_FAR:
            return Consequence.ASK_FOR_TIME
        case AnswerStatus.NUMBER_TAKEN:
            raise UsageError(
                "another process goes on with this connection, so the update did not run: connect anew in each process"
                " after a fork"
            )
        case _:
            raise PondError(f"the ring answered {status.name}: this is a fault in Pond")


def _settled(seen: Seen, selector: Selector) -> bool:
    """Whether no later state can answer otherwise: versions never change, only new ones come."""
    match selector:
        case ByNumber() | ByVguid():
            return isinstance(seen.version, VersionRoot)
        case AtTime(time):
            return isinstance(seen.version, VersionRoot) and seen.claim.time > time
        case _:
            return False


def _outcome(answer: Answer, name: bytes) -> Outcome:
    try:
        outcome = decode_outcome(answer.result)
    except VersionError as error:
        raise VerificationFailed(f"the ring answered with something else than an outcome: {error}") from None
    if outcome.update != name:
        raise VerificationFailed("the ring answered with the outcome of another update")
    return outcome


def _agreed(words: "dict[int, T]", enough: int) -> T | None:
    """What `enough` servers said alike."""
    if not words:
        return None
    word, count = Counter(words.values()).most_common(1)[0]
    return word if count >= enough else None

"""At most once, for ever: sessions and their answers as replicated state (design.md, 4; TOCS 2002, section 4.1).

A session (principal, random id) is opened by its number 1 and its numbers run on. The answer to each number is kept in
the state tree, in pages, until its not-after has passed in agreed time; from then on the only answer is EXPIRED. A
session is dropped when the not-after of all its numbers has passed: whatever is replayed then has expired too.
"""

import hashlib
import heapq
from collections.abc import Callable, Iterable
from functools import lru_cache

import msgspec

from bft.answer import Answer, PageEntry, Status, decode_page
from bft.answer import decode as decode_answer
from bft.messages import RequestStatement
from bft.state_tree import Kind, state_key
from bft.statement import Digest
from bft.types import AgreedTime, Natural

PAGE = 16
"""Answers in one leaf of the state tree: few leaves, and small ones, since each answer rewrites its page."""

LONGEST_LIFE_SECONDS = 24 * 3600
"""How far ahead of agreed time a not-after may lie: bounds how long the ring must keep an answer."""

SWEEP = 64
SWEEP_PER_REQUEST = 4
"""Expired sessions and pages dropped per batch at most, so many and so many more for each of its requests: bounds a
batch's work, the same at all replicas, and is twice what the batch can add."""


class SessionRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The last number that ran, and the latest not-after of all that ran."""

    last: Natural
    expiry: AgreedTime


_encode = msgspec.msgpack.encode
_records = msgspec.msgpack.Decoder(SessionRecord)


@lru_cache(maxsize=4096)
def _identifier(principal: bytes, session: bytes) -> bytes:
    return hashlib.sha256(b"bft.session\x00" + principal + session).digest()


def session_key(principal: bytes, session: bytes) -> bytes:
    """Key of a session in the state tree."""
    return state_key(Kind.SESSION, _identifier(principal, session))


def page_key(principal: bytes, session: bytes, number: int) -> bytes:
    """Key of the page of the state tree that holds the answer to `number`."""
    return state_key(Kind.ANSWERS, _identifier(principal, session) + (number // PAGE).to_bytes(8, "big"))


class StateView:
    """Changes of a batch so far on top of a state: what the next request of the batch sees."""

    def __init__(self, get: Callable[[bytes], bytes | None]) -> None:
        self._get = get
        self._found: dict[bytes, bytes | None] = {}
        self.changes: dict[bytes, bytes | None] = {}

    def state(self, key: bytes) -> bytes | None:
        """Value of a key as the batch so far left it."""
        if key in self.changes:
            return self.changes[key]
        return self.before(key)

    def before(self, key: bytes) -> bytes | None:
        """Value of a key in the state below; it is looked up once."""
        if key not in self._found:
            self._found[key] = self._get(key)
        return self._found[key]


class Sessions:
    """Judges each request against its session, and keeps its answer."""

    def __init__(self) -> None:
        self._expiries: list[tuple[AgreedTime, bytes]] = []

    def restore(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Find again, from the state, when what expires."""
        self._expiries = [(expiry, key) for key, value in items if (expiry := _expiry(key, value)) is not None]
        heapq.heapify(self._expiries)

    def judge(self, view: StateView, stated: RequestStatement, request: Digest, time: AgreedTime) -> Status | bytes:
        """EXECUTED when the request is to run now, the answer kept when it ran before, else why it may not run."""
        if stated.not_after < time:
            return Status.EXPIRED
        record = read_session(view.state(session_key(stated.principal, stated.session)))
        last = record.last if record is not None else 0
        if stated.not_after > time + LONGEST_LIFE_SECONDS * 1_000_000:
            return Status.NOT_AFTER_TOO_FAR
        if stated.number <= last:
            return known_answer(view.state, stated, request, time)
        if stated.number > last + 1:
            return Status.OUT_OF_ORDER if record is not None else Status.UNKNOWN_SESSION
        return Status.EXECUTED

    def keep(self, view: StateView, stated: RequestStatement, answer: bytes) -> None:
        """The request ran: advance its session and keep its answer."""
        not_after = AgreedTime(stated.not_after)
        where = session_key(stated.principal, stated.session)
        record = read_session(view.state(where))
        expiry = max(record.expiry, not_after) if record is not None else not_after
        if record is None:
            heapq.heappush(self._expiries, (expiry, where))
        view.changes[where] = _encode(SessionRecord(stated.number, expiry))
        place = page_key(stated.principal, stated.session, stated.number)
        page = view.state(place) if record is not None else None  # a page of a session that is gone is no page
        entries = decode_page(page) if page is not None else []
        if page is None:
            heapq.heappush(self._expiries, (not_after, place))
        entries.append(PageEntry(stated.number, not_after, answer))
        view.changes[place] = _encode(entries)

    def outlast(self, view: StateView, stated: RequestStatement) -> None:
        """Another request was told that its number is taken: the session stays until that one has expired as well, or
        else it could run after all."""
        where = session_key(stated.principal, stated.session)
        record = read_session(view.state(where))
        if record is not None and stated.not_after > record.expiry:
            view.changes[where] = _encode(SessionRecord(record.last, AgreedTime(stated.not_after)))

    def sweep(self, view: StateView, time: AgreedTime, requests: int) -> None:
        """Drop what expired, oldest first. The heap's order is by the expiry last known, which only grows: an entry is
        put back until it is true, so every replica drops the same, however it came to its heap."""
        dropped = 0
        most = SWEEP + SWEEP_PER_REQUEST * requests
        while dropped < most and self._expiries and self._expiries[0][0] < time:
            known, key = heapq.heappop(self._expiries)
            value = view.state(key)
            expiry = _expiry(key, value) if value is not None else None
            if expiry is None:
                continue
            if expiry != known:
                heapq.heappush(self._expiries, (expiry, key))
                continue
            view.changes[key] = None
            dropped += 1


def read_session(value: bytes | None) -> SessionRecord | None:
    """The session's record, from its value in the state tree."""
    return _records.decode(value) if value is not None else None


def known_answer(
    state: Callable[[bytes], bytes | None], stated: RequestStatement, request: Digest, time: AgreedTime
) -> Status | bytes:
    """The answer kept for a number that has run, or why there is none for this request."""
    kept = find_answer(state(page_key(stated.principal, stated.session, stated.number)), stated.number)
    if kept is None or kept.not_after < time:
        return Status.EXPIRED
    return kept.answer if decode_answer(kept.answer).request == request else Status.NUMBER_TAKEN


def find_answer(page: bytes | None, number: int) -> PageEntry | None:
    """The entry of a number in its page."""
    if page is None:
        return None
    return next((entry for entry in decode_page(page) if entry.number == number), None)


def refusal(request_digest: bytes, status: Status) -> bytes:
    """The answer to a request that may not run."""
    return Answer(request_digest, status, b"").encode()


def _expiry(key: bytes, value: bytes) -> AgreedTime | None:
    match key[0]:
        case Kind.SESSION:
            return _records.decode(value).expiry
        case Kind.ANSWERS:
            return AgreedTime(max(entry.not_after for entry in decode_page(value)))
    return None

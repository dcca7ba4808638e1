"""At most once, for ever: sessions judged against a plain model, and their expiry."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bft.answer import Answer, Status, decode_page
from bft.messages import RequestStatement
from bft.sessions import (
    LONGEST_LIFE_SECONDS,
    PAGE,
    SWEEP,
    Sessions,
    StateView,
    page_key,
    read_session,
    session_key,
)
from bft.state_tree import StateTree
from bft.types import AgreedTime

PRINCIPAL = b"p" * 32
SESSION = b"s" * 16


def stated(number: int, not_after: int = 1000, session: bytes = SESSION) -> RequestStatement:
    return RequestStatement(bytes(32), PRINCIPAL, session, number, not_after, b"")


def digest(statement: RequestStatement) -> bytes:
    return hashlib.sha256(statement.encode()).digest()


class World:
    """Sessions over a state tree, a request at a time, as batches of one."""

    def __init__(self) -> None:
        self.tree = StateTree.empty()
        self.sessions = Sessions()
        self.ran = 0

    def submit(self, statement: RequestStatement, time: int) -> Status | bytes:
        view = StateView(self.tree.get)
        self.sessions.sweep(view, AgreedTime(time), 0)
        verdict = self.sessions.judge(view, statement, digest(statement), AgreedTime(time))
        if verdict is Status.EXECUTED:
            self.ran += 1
            answer = Answer(digest(statement), Status.EXECUTED, b"%d" % self.ran).encode()
            self.sessions.keep(view, statement, answer)
            verdict = answer
        elif verdict is Status.NUMBER_TAKEN:
            self.sessions.outlast(view, statement)
        self.tree = self.tree.update(view.changes)
        return verdict

    def restart(self) -> None:
        self.sessions = Sessions()
        self.sessions.restore(list(self.tree.items()))


def test_the_same_request_runs_once_and_gets_the_same_answer_until_its_not_after() -> None:
    world = World()
    first = world.submit(stated(1), 10)
    for time in (10, 500, 1000):
        assert world.submit(stated(1), time) == first
    assert world.submit(stated(1), 1001) is Status.EXPIRED
    assert world.ran == 1


def test_an_old_request_never_runs_again_however_late() -> None:
    world = World()
    world.submit(stated(1), 10)
    for time in (1001, 2000, 10**12):
        assert world.submit(stated(1), time) is Status.EXPIRED
    assert world.ran == 1
    assert len(world.tree) == 0, "nothing of an expired session stays"


def test_numbers_run_on() -> None:
    world = World()
    assert world.submit(stated(2), 10) is Status.UNKNOWN_SESSION
    assert isinstance(world.submit(stated(1), 10), bytes)
    assert world.submit(stated(3), 10) is Status.OUT_OF_ORDER
    assert isinstance(world.submit(stated(2), 10), bytes)
    assert isinstance(world.submit(stated(3), 10), bytes), "what came too early may come again"
    assert world.ran == 3


def test_another_request_under_a_number_that_ran_does_not_get_its_answer() -> None:
    world = World()
    world.submit(stated(1, 1000), 10)
    assert world.submit(stated(1, 999), 10) is Status.NUMBER_TAKEN


def test_a_session_of_another_principal_is_another_session() -> None:
    assert session_key(b"a" * 32, SESSION) != session_key(b"b" * 32, SESSION)
    assert page_key(PRINCIPAL, SESSION, 0) == page_key(PRINCIPAL, SESSION, PAGE - 1)
    assert page_key(PRINCIPAL, SESSION, 0) != page_key(PRINCIPAL, SESSION, PAGE)


def test_a_not_after_too_far_ahead_is_refused_without_a_trace() -> None:
    world = World()
    limit = 10 + LONGEST_LIFE_SECONDS * 1_000_000
    assert world.submit(stated(1, limit + 1), 10) is Status.NOT_AFTER_TOO_FAR
    assert len(world.tree) == 0
    assert isinstance(world.submit(stated(1, limit), 10), bytes)


def test_answers_are_kept_in_pages() -> None:
    world = World()
    for number in range(1, 3 * PAGE):
        world.submit(stated(number), 10)
    assert len(world.tree) == 1 + 3
    page = world.tree.get(page_key(PRINCIPAL, SESSION, PAGE))
    assert page is not None
    assert [entry.number for entry in decode_page(page)] == list(range(PAGE, 2 * PAGE))


def test_expiry_is_bounded_per_batch_and_catches_up() -> None:
    world = World()
    for i in range(3 * SWEEP):
        world.submit(stated(1, 100 + i, b"%016d" % i), 10)
    assert len(world.tree) == 2 * 3 * SWEEP
    sizes = []
    for batch in range(7):
        world.submit(stated(1, 10**9, b"x%015d" % batch), 10_000)
        sizes.append(len(world.tree))
    assert sizes[0] == 6 * SWEEP - SWEEP + 2
    assert sizes[-1] == 2 * 7


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),  # session
            st.integers(1, 5),  # number
            st.integers(0, 60),  # not-after, from now
            st.integers(0, 30),  # time passes
            st.booleans(),  # restart first
        ),
        max_size=60,
    )
)
def test_no_request_runs_twice_and_a_restart_changes_nothing(steps: list[tuple[int, int, int, int, bool]]) -> None:
    world, twin = World(), World()
    time = 0
    sent: list[RequestStatement] = []
    ran: set[bytes] = set()
    for which, number, life, passes, restart in steps:
        time += passes
        if restart:
            world.restart()
        session = b"%016d" % which
        record = read_session(world.tree.get(session_key(PRINCIPAL, session)))
        fresh = stated(number if record is None else min(number, record.last + 1), time + life, session)
        for statement in (fresh, *sent[-3:]):
            before = world.ran
            verdict = world.submit(statement, time)
            assert verdict == twin.submit(statement, time)
            assert world.tree.root == twin.tree.root
            if world.ran > before:
                assert digest(statement) not in ran, "a request ran twice"
                assert statement.not_after >= time
                ran.add(digest(statement))
        sent.append(fresh)


@pytest.mark.parametrize("status", list(Status))
def test_every_status_survives_its_encoding(status: Status) -> None:
    from bft.answer import decode

    answer = Answer(bytes(32), status, b"result")
    assert decode(answer.encode()) == answer

"""Questions and their answers: numbered, timed, and each answered once by the node that was asked."""

import pytest

from tapestry.effects import Effect, Send, SetTimer, Timer
from tapestry.messages import Contact, Find, Forward, Message, Probe
from tapestry.neighbours import FIRST_TIMEOUT_SECONDS, GRACE_SECONDS, Neighbours
from tapestry.questions import CARGO, LATE, WAITING, Question, Questions
from tests.unit.tapestry.model import at

OWN, ONE, OTHER = at("4"), at("8"), at("c")


def asking() -> tuple[Questions, Neighbours]:
    neighbours = Neighbours(OWN)
    neighbours.heard(ONE, 0.0)
    return Questions(neighbours), neighbours


def sent(effects: list[Effect]) -> tuple[Contact, Message]:
    """The one message of a question."""
    send = effects[0]
    assert isinstance(send, Send)
    return send


def test_a_question_is_sent_with_a_timer_of_its_number():
    questions, _ = asking()
    assert questions.ask(ONE, Probe, 5.0) == [
        Send(ONE, Probe(1)),
        SetTimer(Timer("asked", 1), FIRST_TIMEOUT_SECONDS),
    ]
    assert sent(questions.ask(OTHER, Probe, 5.0)) == (OTHER, Probe(2)), "no number is used twice"


def test_a_question_waits_as_long_as_its_node_usually_takes():
    questions, _ = asking()
    questions.ask(ONE, Probe, 5.0)
    questions.answered(1, Probe, ONE, 5.1)
    timer = questions.ask(ONE, Probe, 6.0)[1]
    assert isinstance(timer, SetTimer)
    assert timer.timer == Timer("asked", 2)
    assert timer.seconds == pytest.approx(0.1 + 4 * 0.05 + GRACE_SECONDS)


def test_an_answer_closes_its_question_and_tells_a_round_trip():
    questions, neighbours = asking()
    questions.ask(ONE, Probe, 5.0, (b"tried",))
    assert questions.answered(1, Probe, ONE, 5.25) == Question(ONE, 5.0, Probe(1), (b"tried",))
    known = neighbours.get(ONE.guid)
    assert known is not None
    assert known.rtt_seconds == 0.25
    assert not questions.asks(ONE.guid)


@pytest.mark.parametrize(
    ("number", "sender"), [(1, OTHER), (2, ONE), (0, ONE), (3, OTHER), (2**63 - 1, ONE), (1, at("81"))]
)
def test_an_answer_to_nothing_or_of_somebody_else_changes_nothing(number, sender):
    questions, neighbours = asking()
    questions.ask(ONE, Probe, 5.0)
    assert questions.answered(number, Probe, sender, 5.1) is None
    assert questions.asks(ONE.guid)
    assert neighbours.timeout_seconds(ONE.guid, 9.0) == FIRST_TIMEOUT_SECONDS
    assert OTHER.guid not in neighbours
    assert questions.answered(1, Probe, ONE, 5.2) is not None, "the true answer still counts"


@pytest.mark.parametrize("given_up", [False, True])
def test_an_answer_to_a_question_of_another_kind_is_none(given_up):
    """It was asked by the number that is this one's since a restart."""
    questions, neighbours = asking()
    questions.ask(ONE, Probe, 5.0)
    if given_up:
        questions.given_up(1)
    assert questions.answered(1, Forward, ONE, 5.1) is None
    assert questions.asks(ONE.guid) is not given_up
    assert neighbours.timeout_seconds(ONE.guid, 5.1) == FIRST_TIMEOUT_SECONDS
    assert (questions.answered(1, (Forward, Probe), ONE, 5.2) is None) is given_up


def test_a_second_answer_is_none():
    questions, neighbours = asking()
    questions.ask(ONE, Probe, 5.0)
    questions.answered(1, Probe, ONE, 5.1)
    timeout = neighbours.timeout_seconds(ONE.guid, 9.0)
    assert questions.answered(1, Probe, ONE, 9.0) is None
    assert neighbours.timeout_seconds(ONE.guid, 9.0) == timeout, "and tells no round trip"


def test_an_answer_after_the_time_is_none():
    questions, _ = asking()
    questions.ask(ONE, Probe, 5.0)
    assert questions.given_up(1) == Question(ONE, 5.0, Probe(1), ())
    assert questions.answered(1, Probe, ONE, 9.0) is None
    assert not questions.asks(ONE.guid)


def test_an_answer_after_the_time_still_tells_how_long_the_node_takes_now():
    """Or all that is asked of a node that has become slow is given up for ever."""
    questions, neighbours = asking()
    questions.ask(ONE, Probe, 5.0)
    questions.given_up(1)
    assert questions.answered(1, Probe, OTHER, 7.0) is None
    assert questions.answered(1, Probe, ONE, 7.0) is None
    known = neighbours.get(ONE.guid)
    assert known is not None
    assert known.rtt_seconds == 2.0
    assert questions.answered(1, Probe, ONE, 9.0) is None
    assert known.rtt_seconds == 2.0, "once"


def test_of_questions_that_were_given_up_the_last_are_remembered():
    questions, neighbours = asking()
    for number in range(1, LATE + 2):
        questions.ask(ONE, Probe, 5.0)
        questions.given_up(number)
    known = neighbours.get(ONE.guid)
    assert known is not None
    questions.answered(1, Probe, ONE, 6.0)
    assert known.rtt_seconds == 0.0
    questions.answered(2, Probe, ONE, 6.0)
    assert known.rtt_seconds == 1.0


def test_a_timer_of_a_question_that_is_over_means_nothing():
    questions, _ = asking()
    questions.ask(ONE, Probe, 5.0)
    questions.answered(1, Probe, ONE, 5.1)
    assert questions.given_up(1) is None
    assert questions.given_up(7) is None


def test_whether_a_node_is_being_asked():
    questions, _ = asking()
    assert not questions.asks(ONE.guid)
    questions.ask(ONE, Probe, 5.0)
    questions.ask(ONE, Probe, 5.0)
    assert questions.asks(ONE.guid)
    assert not questions.asks(OTHER.guid)
    questions.answered(1, Probe, ONE, 5.1)
    assert questions.asks(ONE.guid), "one of two questions is open"
    questions.given_up(2)
    assert not questions.asks(ONE.guid)


def test_above_a_number_of_open_questions_nothing_is_asked():
    questions, _ = asking()
    for number in range(1, WAITING + 1):
        assert sent(questions.ask(ONE, Probe, 0.0)) == (ONE, Probe(number))
    assert questions.ask(OTHER, Probe, 0.0) == []
    assert not questions.asks(OTHER.guid)
    questions.given_up(1)
    assert sent(questions.ask(OTHER, Probe, 0.0)) == (OTHER, Probe(WAITING + 1))


def test_cargo_has_room_of_its_own():
    """Upkeep, which others can cause, does not take it, nor the other way round."""
    questions, _ = asking()

    def hop(number: int) -> Forward:
        return Forward(number, OTHER.guid, ONE, 7, 1, Find())

    for _ in range(WAITING):
        questions.ask(ONE, Probe, 0.0)
    assert questions.ask(ONE, Probe, 0.0) == []
    full = []
    for number in range(WAITING + 1, WAITING + CARGO + 1):
        full.append(questions.full_of_cargo)
        assert sent(questions.ask(ONE, hop, 0.0)) == (ONE, hop(number))
    assert not any(full)
    assert questions.full_of_cargo
    assert questions.ask(ONE, hop, 0.0) == questions.ask(ONE, Probe, 0.0) == []
    questions.given_up(1)
    assert questions.full_of_cargo
    assert sent(questions.ask(ONE, Probe, 0.0)) == (ONE, Probe(WAITING + CARGO + 1))
    questions.answered(WAITING + 1, Forward, ONE, 0.1)
    assert sent(questions.ask(ONE, hop, 0.2)) == (ONE, hop(WAITING + CARGO + 2))
    assert questions.ask(ONE, Probe, 0.2) == []

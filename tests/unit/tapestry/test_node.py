"""One node as a whole: which message has which answer, what is dropped, and keys that are looked for."""

from random import Random

import pytest

from tapestry.effects import (
    Effect,
    Leave,
    Received,
    Rejected,
    Resolved,
    Route,
    Send,
    SetTimer,
    Started,
    Timer,
    TimerFired,
)
from tapestry.finding import UNANSWERED
from tapestry.messages import (
    MAX_HOPS,
    Acknowledge,
    Alive,
    AskNextHop,
    Contact,
    Find,
    Forward,
    Found,
    GetRow,
    LeafNews,
    Leaves,
    Leaving,
    Message,
    NextHop,
    Probe,
    Row,
    Welcome,
)
from tapestry.node import Node
from tapestry.routing import CERTAIN_MISSES
from tests.unit.tapestry.model import at, digits

OWN, NEAR, FAR, CLIENT = at("4"), at("5"), at("c"), at("f")


def member(*neighbours: Contact) -> Node:
    """A node that is up, and has heard these."""
    node = Node(OWN, Random(1))
    node.step(Started((), 0.0))
    for contact in neighbours:
        node.step(Received(contact, Probe(1), 0.0))
    return node


def hear(node: Node, sender: Contact, message: Message, now: float = 1.0) -> list[Effect]:
    return node.step(Received(sender, message, now))


def sends(effects: list[Effect]) -> list[tuple[Contact, Message]]:
    return [(effect.to, effect.message) for effect in effects if isinstance(effect, Send)]


def find(key: bytes, origin: Contact = CLIENT, hops: int = 1, hop: int = 9, number: int = 77) -> Forward:
    return Forward(hop, key, origin, number, hops, Find())


# --- each message ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (Probe(3), Alive(3)),
        (GetRow(3, 0), Row(3, (NEAR, FAR))),
        (AskNextHop(3, digits("cf")), NextHop(3, FAR)),
        (AskNextHop(3, OWN.guid), NextHop(3, None)),
    ],
)
def test_a_question_has_one_answer_to_who_asked(question, answer):
    node = member(NEAR, FAR)
    assert hear(node, NEAR, question) == [Send(NEAR, answer)]


def test_leaf_sets_are_compared_with_news_and_names():
    node = member(NEAR, FAR)
    [(to, message)] = sends(hear(node, NEAR, Leaves(3, b"")))
    assert to == NEAR
    assert message == LeafNews(3, (FAR,), node.neighbours.leaves.names())


@pytest.mark.parametrize(
    "answer",
    [
        Acknowledge(1),
        Alive(1),
        LeafNews(1, (at("9"),), b"\x01" * 8),
        Row(1, (at("9"),)),
        NextHop(1, at("9")),
        Found(1, 2),
    ],
    ids=lambda message: type(message).__name__,
)
def test_an_answer_that_nobody_asked_for_is_dropped(answer):
    node = member(NEAR, FAR)
    assert hear(node, NEAR, answer) == []
    assert at("9").guid not in node.neighbours


def test_news_that_come_back_need_no_question():
    node = member(NEAR)
    assert sends(hear(node, NEAR, LeafNews(0, (at("9"),), b""))) == [(at("9"), Probe(1))]


def test_the_news_that_come_back_are_the_last_word():
    one, other = member(NEAR), Node(NEAR, Random(2))
    other.step(Started((), 0.0))
    for contact in (OWN, FAR):
        other.step(Received(contact, Probe(1), 0.0))
    [(_, leaves)] = sends(one.step(TimerFired(Timer("leaves"), 1.0)))
    [(_, news)] = sends(hear(other, OWN, leaves))
    [(probed, probe)] = sends(hear(one, NEAR, news))
    assert (probed, probe) == (FAR, Probe(2))


def test_a_message_in_our_own_name_is_refused():
    node = member()
    assert hear(node, OWN, Probe(1)) == [Rejected(OWN, "a message in our own name")]
    assert len(node.neighbours) == 0


@pytest.mark.parametrize(
    "message",
    [Probe(1), Alive(1), Acknowledge(1), Leaves(1, b""), LeafNews(1, (), b""), GetRow(1, 0), Row(1, ()), Found(1, 1)],
    ids=lambda message: type(message).__name__,
)
def test_whoever_speaks_as_a_member_is_taken_up(message):
    node = member()
    hear(node, NEAR, message)
    assert NEAR.guid in node.neighbours


def test_who_only_measures_is_not_taken_up():
    node = member()
    hear(node, CLIENT, AskNextHop(1, digits("8")))
    assert CLIENT.guid not in node.neighbours


def test_a_welcome_that_was_not_asked_for_brings_no_more_than_questions():
    node = member(NEAR)
    assert sends(hear(node, FAR, Welcome(1, (at("9"), NEAR, OWN), (at("a"),)))) == [(at("9"), Probe(1))]


def test_a_farewell_takes_its_sender_out_of_all_tables():
    node = member(NEAR, FAR)
    assert sends(hear(node, NEAR, Leaving((FAR, at("9"))))) == [(at("9"), Probe(1))]
    assert NEAR.guid not in node.neighbours
    assert node.routing.next_hop(NEAR.guid) is None


def test_who_leaves_says_so_to_every_leaf():
    node = member(NEAR, FAR)
    effects = node.step(Leave(1.0))
    assert effects == [Send(leaf, Leaving(tuple(node.neighbours.leaves))) for leaf in node.neighbours.leaves]
    assert {to for to, _ in sends(effects)} == {NEAR, FAR}


# --- cargo -----------------------------------------------------------------------------------------------------------


def test_a_cargo_is_acknowledged_first_and_sent_on():
    node = member(NEAR, FAR)
    acknowledge, onward, timer = hear(node, NEAR, find(digits("cf"), hops=3))
    assert acknowledge == Send(NEAR, Acknowledge(9))
    assert onward == Send(FAR, find(digits("cf"), hops=4, hop=1))
    assert isinstance(timer, SetTimer)
    assert timer.timer == Timer("asked", 1)


def test_at_the_root_the_origin_is_told():
    node = member(NEAR, FAR)
    assert sends(hear(node, NEAR, find(digits("41"), hops=3))) == [(NEAR, Acknowledge(9)), (CLIENT, Found(77, 3))]


def test_a_cargo_that_has_come_too_far_is_acknowledged_and_dropped():
    node = member(NEAR, FAR)
    assert sends(hear(node, NEAR, find(digits("cf"), hops=MAX_HOPS))) == [(NEAR, Acknowledge(9))]


def test_a_hop_that_is_acknowledged_is_over():
    node = member(NEAR, FAR)
    hear(node, NEAR, find(digits("cf")))
    assert hear(node, FAR, Acknowledge(1)) == []
    assert node.step(TimerFired(Timer("asked", 1), 2.0)) == []
    assert not node.neighbours.suspects


def test_an_acknowledgement_of_somebody_else_is_none():
    node = member(NEAR, FAR)
    hear(node, NEAR, find(digits("cf")))
    hear(node, NEAR, Acknowledge(1))
    assert sends(node.step(TimerFired(Timer("asked", 1), 2.0)))
    assert node.neighbours.suspects == {FAR.guid}


def test_a_silent_root_is_asked_if_it_is_there_and_sent_the_cargo_once_more_before_the_next_nearest():
    node = member(NEAR, FAR, at("d"))
    hear(node, NEAR, find(digits("cf")))
    assert sends(node.step(TimerFired(Timer("asked", 1), 2.0))) == [
        (at("d"), Probe(2)),
        (at("d"), find(digits("cf"), hops=2, hop=3)),
    ]
    assert sends(node.step(TimerFired(Timer("asked", 3), 3.0))) == [(FAR, find(digits("cf"), hops=2, hop=4))]


def test_where_no_way_is_left_this_node_is_the_root_and_answers():
    node = member(FAR)
    hear(node, FAR, find(digits("cf")))
    effects: list[Effect] = []
    for number in range(1, 2 * CERTAIN_MISSES + 1):
        effects += node.step(TimerFired(Timer("asked", number), 2.0 + number))
    assert (CLIENT, Found(77, 1)) in sends(effects)


# --- keys that are looked for ----------------------------------------------------------------------------------------


def test_a_key_of_our_own_is_resolved_at_once():
    assert member(NEAR).step(Route(digits("41"), 5, 1.0)) == [Resolved(5, OWN, 0)]


def test_another_key_is_resolved_by_the_answer_of_its_root():
    node = member(NEAR, FAR)
    [(to, message)] = sends(node.step(Route(digits("cf"), 5, 1.0)))
    assert (to, message) == (FAR, find(digits("cf"), origin=OWN, hops=1, hop=1, number=5))
    assert hear(node, FAR, Found(5, 1)) == [Resolved(5, FAR, 1)]
    assert hear(node, FAR, Found(5, 1)) == [], "once"


def test_two_keys_are_resolved_each_by_its_number():
    node = member(NEAR, FAR)
    node.step(Route(digits("cf"), 5, 1.0))
    node.step(Route(digits("5f"), 6, 1.0))
    assert hear(node, NEAR, Found(6, 1)) == [Resolved(6, NEAR, 1)]
    assert hear(node, FAR, Found(5, 2)) == [Resolved(5, FAR, 2)]


def test_of_the_keys_that_are_looked_for_the_oldest_is_forgotten_above_a_number():
    node = member(NEAR, FAR)
    for number in range(UNANSWERED + 1):
        node.step(Route(digits("cf"), number, 1.0))
        hear(node, FAR, Acknowledge(number + 1))
    assert hear(node, FAR, Found(0, 1)) == []
    assert hear(node, FAR, Found(1, 1)) == [Resolved(1, FAR, 1)]


def test_a_cargo_of_our_own_that_comes_back_to_us_is_resolved():
    """We were the root after all: the next hop knew better."""
    node = member(NEAR, FAR)
    node.step(Route(digits("cf"), 5, 1.0))
    hear(node, FAR, Acknowledge(1))
    node.neighbours.forget(FAR.guid, 1.0)
    assert hear(node, NEAR, find(digits("41"), origin=OWN, hops=2, number=5))[1:] == [Resolved(5, OWN, 2)]


def test_who_is_no_member_yet_is_the_root_of_nothing():
    node = Node(OWN, Random(1))
    node.step(Started((NEAR,), 0.0))
    assert node.step(Route(digits("8"), 5, 0.1)) == []
    assert hear(node, CLIENT, AskNextHop(3, digits("8"))) == []
    assert hear(node, NEAR, Found(5, 1)) == []


# --- recovery in answer to each change -------------------------------------------------------------------------------


def test_reactive_recovery_answers_also_the_change_that_leaves_as_many_leaves_as_before():
    node = Node(OWN, Random(1), "reactive")
    node.step(Started((), 0.0))
    far = [at(f"4{digit}") for digit in "23456789"]
    for contact in far:
        hear(node, contact, Probe(1), 0.0)
    assert [to for to, message in sends(hear(node, far[0], Probe(2))) if isinstance(message, Leaves)] == []
    nearer = at("41")
    shown = {to for to, message in sends(hear(node, nearer, Probe(1))) if isinstance(message, Leaves)}
    assert shown == set(node.neighbours.leaves) == {nearer, *far[:-1]}

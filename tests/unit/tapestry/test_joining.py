"""The way in, step by step (Tapestry, JSAC 2004, IV-A; Bamboo, USENIX 2004, 3.1)."""

from random import Random

import pytest

from tapestry.effects import Effect, Joined, Meet, Received, Send, SetTimer, Started, Timer, TimerFired
from tapestry.joining import OWN_ROOT_SECONDS, RETRY_SECONDS, WAYS
from tapestry.messages import (
    MAX_CONTACTS,
    Acknowledge,
    Alive,
    Contact,
    Find,
    Forward,
    GetRow,
    Join,
    LeafNews,
    Leaves,
    Message,
    Probe,
    Welcome,
)
from tapestry.node import Node
from tapestry.questions import WAITING
from tests.unit.tapestry.model import at

OWN, FIRST, ROOT, LEAF, OTHER = at("4"), at("8"), at("5"), at("3"), at("9")
WELCOME = Welcome(1, (LEAF,), (FIRST, ROOT))


def joining(*through: Contact, seed: int = 1) -> tuple[Node, list[Effect]]:
    """A node that starts, and what it does."""
    node = Node(OWN, Random(seed))
    return node, node.step(Started(through, 0.0))


def hear(node: Node, sender: Contact, message: Message, now: float = 0.1) -> list[Effect]:
    return node.step(Received(sender, message, now))


def sends(effects: list[Effect]) -> list[tuple[Contact, Message]]:
    return [(effect.to, effect.message) for effect in effects if isinstance(effect, Send)]


def numbers(effects: list[Effect]) -> dict[Contact, int]:
    """The numbers of the leaf sets that were sent."""
    return {to: message.id for to, message in sends(effects) if isinstance(message, Leaves)}


def test_who_knows_nobody_is_the_first_member():
    node, effects = joining()
    assert node.member
    assert effects[0] == Joined()
    assert {effect.timer.kind for effect in effects[1:] if isinstance(effect, SetTimer)} == {
        *("leaves", "table", "constrained", "silent", "lost", "own root")
    }


def test_who_knows_only_itself_is_the_first_too():
    assert joining(OWN)[0].member


def test_a_join_is_routed_to_the_node_s_own_guid():
    node, effects = joining(FIRST)
    assert sends(effects) == [(FIRST, Forward(1, OWN.guid, OWN, 1, 1, Join(())))]
    assert SetTimer(Timer("join"), RETRY_SECONDS) in effects
    assert not node.member


def test_a_join_without_an_answer_is_begun_again_through_others():
    crowd = [at(f"{digit:x}") for digit in range(16) if digit != 4]
    node, effects = joining(*crowd)
    asked = {to for to, _ in sends(effects)}
    assert len(asked) == WAYS
    for attempt in range(1, 30):
        effects = node.step(TimerFired(Timer("join"), attempt * RETRY_SECONDS))
        sent = sends(effects)
        assert len({to for to, _ in sent}) == WAYS
        numbers = {message.number for _, message in sent if isinstance(message, Forward)}
        assert numbers == {attempt + 1}, "so that the answer to each can be told"
        assert SetTimer(Timer("join"), RETRY_SECONDS) in effects
        asked |= {to for to, _ in sent}
    assert asked == set(crowd)


def test_a_member_asks_for_its_own_root_through_somebody_again_and_again():
    """A liar on one way in does not choose our leaves for ever."""
    node, _ = joining()
    assert sends(node.step(TimerFired(Timer("own root"), 1.0))) == []
    for neighbour in (FIRST, LEAF, OTHER):
        hear(node, neighbour, Probe(1))
    node.neighbours.missed(LEAF.guid, 1.0, 1.0)
    asked = set()
    for _ in range(20):
        *effects, again = node.step(TimerFired(Timer("own root"), 1.0))
        [(to, message)] = sends(effects)
        assert isinstance(message, Forward)
        assert (message.key, message.cargo) == (OWN.guid, Join(()))
        assert isinstance(again, SetTimer)
        assert again.timer == Timer("own root")
        assert 0.75 * OWN_ROOT_SECONDS <= again.seconds <= 1.25 * OWN_ROOT_SECONDS
        asked.add(to)
    assert asked == {FIRST, OTHER}


def test_a_hop_of_a_join_that_is_not_acknowledged_waits_for_the_next_attempt():
    node, _ = joining(FIRST)
    assert sends(node.step(TimerFired(Timer("asked", 1), 1.0))) == []


def test_the_root_and_its_leaves_are_shown_our_leaf_set():
    node, _ = joining(FIRST)
    effects = hear(node, ROOT, WELCOME)
    assert {to for to, _ in sends(effects)} == {ROOT, LEAF}
    assert all(isinstance(message, Leaves) for _, message in sends(effects))
    assert not node.member


def test_once_all_of_them_know_us_we_are_a_member_and_ask_for_rows():
    node, _ = joining(FIRST)
    asked = numbers(hear(node, ROOT, WELCOME))
    assert Joined() not in hear(node, ROOT, LeafNews(asked[ROOT], (), b""))
    effects = hear(node, LEAF, LeafNews(asked[LEAF], (), b""))
    assert node.member
    assert effects.count(Joined()) == 1
    rows = [(to, message.row) for to, message in sends(effects) if isinstance(message, GetRow)]
    assert rows == [(FIRST, 0), (ROOT, 0)]
    assert {leaf.guid for leaf in node.neighbours.leaves} == {ROOT.guid, LEAF.guid}


def test_answers_from_before_a_restart_keep_nobody_out():
    """They wait on links to the dead by the hundred, and numbers begin again."""
    node, _ = joining(FIRST)
    asked = numbers(hear(node, ROOT, WELCOME))
    for leaf in asked:
        for number in range(1, 20):
            hear(node, leaf, Acknowledge(number))
            hear(node, leaf, Alive(number))
    effects = [effect for leaf, number in asked.items() for effect in hear(node, leaf, LeafNews(number, (), b""))]
    assert Joined() in effects


def test_rows_are_those_of_the_digits_in_common():
    node = Node(at("4227"), Random(1))
    node.step(Started((FIRST,), 0.0))
    passed = (FIRST, at("41"), at("4225"), at("4227"))
    asked = numbers(hear(node, ROOT, Welcome(1, (), passed)))
    effects = hear(node, ROOT, LeafNews(asked[ROOT], (), b""))
    assert [(to, message.row) for to, message in sends(effects) if isinstance(message, GetRow)] == [
        (FIRST, 0),
        (at("41"), 1),
        (at("4225"), 3),
    ]


def test_news_of_further_leaves_are_followed_up_on_the_way():
    node, _ = joining(FIRST)
    asked = numbers(hear(node, ROOT, WELCOME))
    effects = hear(node, ROOT, LeafNews(asked[ROOT], (OTHER,), b""))
    assert [to for to, message in sends(effects) if isinstance(message, Probe)] == [OTHER]
    hear(node, OTHER, Alive(max(asked.values()) + 1))
    assert OTHER.guid in node.neighbours.leaves


def test_a_leaf_that_is_silent_does_not_keep_us_out():
    node, _ = joining(FIRST)
    asked = numbers(hear(node, ROOT, WELCOME))
    hear(node, ROOT, LeafNews(asked[ROOT], (), b""))
    effects = node.step(TimerFired(Timer("asked", asked[LEAF]), 1.5))
    assert Joined() in effects


def test_nor_for_longer_than_a_join_takes():
    node, _ = joining(FIRST)
    asked = numbers(hear(node, ROOT, WELCOME))
    hear(node, ROOT, LeafNews(asked[ROOT], (), b""))
    assert Joined() in node.step(TimerFired(Timer("join"), RETRY_SECONDS))


def test_other_ways_in_do_not_put_that_off():
    node, _ = joining(FIRST)
    asked = numbers(hear(node, ROOT, WELCOME))
    hear(node, ROOT, LeafNews(asked[ROOT], (), b""))
    for turn in range(3):
        effects = node.step(Meet((OTHER,), 0.3 + turn))
        assert [type(message) for _, message in sends(effects)] == [Forward]
        assert [effect for effect in effects if isinstance(effect, SetTimer) and effect.timer.kind == "join"] == []
    assert Joined() in node.step(TimerFired(Timer("join"), RETRY_SECONDS))
    assert node.step(TimerFired(Timer("join"), 2 * RETRY_SECONDS)) == [], "it is a member"


def test_where_all_are_silent_the_join_begins_again():
    node = Node(OWN, Random(1))
    node.step(Started((FIRST,), 0.0))
    asked = numbers(hear(node, ROOT, WELCOME))
    node.neighbours.forget(ROOT.guid, 0.2)
    for number in asked.values():
        assert Joined() not in node.step(TimerFired(Timer("asked", number), 1.5))
    [(to, message)] = sends(node.step(TimerFired(Timer("join"), RETRY_SECONDS)))
    assert to == FIRST
    assert isinstance(message, Forward)


def test_without_a_single_leaf_the_join_begins_again_though_some_may_still_answer():
    node, _ = joining(FIRST)
    hear(node, ROOT, WELCOME)
    node.neighbours.forget(ROOT.guid, 0.2)
    effects = node.step(TimerFired(Timer("join"), RETRY_SECONDS))
    assert not node.member
    assert [to for to, _ in sends(effects)] == [FIRST]


def test_who_answers_after_we_have_become_a_member_makes_us_none_again():
    node, _ = joining(FIRST)
    asked = numbers(hear(node, ROOT, WELCOME))
    assert Joined() in node.step(TimerFired(Timer("join"), RETRY_SECONDS))
    for contact, number in asked.items():
        assert Joined() not in hear(node, contact, LeafNews(number, (), b""), 3.0)


def test_nobody_but_a_leaf_that_was_greeted_lets_us_in():
    node, _ = joining(FIRST)
    hear(node, OTHER, Probe(1))
    assert Joined() not in node.step(TimerFired(Timer("asked", 1), 1.0))
    assert not node.member


def test_a_welcome_that_comes_twice_greets_nobody_twice():
    node, _ = joining(FIRST)
    hear(node, ROOT, WELCOME)
    assert sends(hear(node, ROOT, WELCOME)) == []


def test_a_welcome_to_a_member_brings_news_and_nothing_else():
    """As after a partition: the root on the other side answers with its leaves, which may be ours."""
    node, _ = joining()
    effects = hear(node, ROOT, Welcome(1, (LEAF, ROOT, OWN), (OTHER,)))
    assert [(to, type(message)) for to, message in sends(effects)] == [(LEAF, Probe)]
    assert not any(isinstance(effect, Joined) for effect in effects)


def test_a_welcome_without_leaves_is_that_of_a_lonely_root():
    node, _ = joining(FIRST)
    asked = numbers(hear(node, FIRST, Welcome(1, (), (FIRST,))))
    assert asked == {FIRST: 2}
    assert Joined() in hear(node, FIRST, LeafNews(2, (), b""))


def test_our_own_name_in_a_welcome_is_not_greeted():
    node, _ = joining(FIRST)
    assert set(numbers(hear(node, ROOT, Welcome(1, (OWN, LEAF), (OWN,))))) == {ROOT, LEAF}


def test_who_is_no_member_yet_forwards_nothing():
    """It would take itself for a root; the sender finds another way."""
    node, _ = joining(FIRST)
    find = Forward(5, bytes(32), OTHER, 1, 1, Find())
    assert hear(node, OTHER, find) == []
    node, _ = joining()
    assert sends(hear(node, OTHER, find))[0] == (OTHER, Acknowledge(5))


def test_the_root_welcomes_with_its_leaves_but_for_suspects_and_with_who_was_passed():
    node, _ = joining()
    for leaf in (ROOT, LEAF, OTHER):
        hear(node, leaf, Probe(1))
    node.neighbours.missed(OTHER.guid, 0.2, 0.2)
    new = at("44")
    effects = hear(node, ROOT, Forward(6, new.guid, new, 3, 2, Join((FIRST,))))
    assert sends(effects) == [(ROOT, Acknowledge(6)), (new, Welcome(3, (ROOT, LEAF), (FIRST, OWN)))]
    assert new.guid not in node.neighbours, "it is no member yet, and was not heard from"


def test_a_join_straight_from_the_new_node_does_not_make_it_a_neighbour():
    node, _ = joining()
    new = at("44")
    hear(node, new, Forward(1, new.guid, new, 1, 1, Join(())))
    assert len(node.neighbours) == 0


def test_on_the_way_each_node_adds_itself_and_the_new_one_is_not_asked():
    node, _ = joining()
    new = at("f1")
    hear(node, at("f"), Probe(1))
    hear(node, new, Probe(1))
    effects = hear(node, FIRST, Forward(6, new.guid, new, 3, 2, Join((FIRST,))))
    onward = sends(effects)[1]
    assert onward[0] == at("f"), "nearest after the new node itself, which others may still know from before"
    assert isinstance(onward[1], Forward)
    assert onward[1].cargo == Join((FIRST, OWN))


def test_who_passed_is_listed_up_to_a_bound():
    node, _ = joining()
    new = at("44")
    crowd = tuple(at(f"{i:04x}") for i in range(MAX_CONTACTS))
    welcome = sends(hear(node, FIRST, Forward(6, new.guid, new, 3, 2, Join(crowd))))[1][1]
    assert isinstance(welcome, Welcome)
    assert len(welcome.passed) == MAX_CONTACTS


def test_a_join_that_comes_back_to_us_is_over():
    """We asked through a node that had been lost, and are our own root on its side too."""
    node, _ = joining()
    assert sends(hear(node, ROOT, Forward(6, OWN.guid, OWN, 1, 2, Join((ROOT,))))) == [(ROOT, Acknowledge(6))]


def test_a_lost_node_that_answers_is_asked_for_our_root_on_its_side():
    node, _ = joining()
    hear(node, ROOT, Probe(1))
    node.neighbours.forget(ROOT.guid, 0.2)
    spoken = sends(hear(node, ROOT, Probe(2), 50.0))
    [(to, asked)] = [(to, message) for to, message in spoken if isinstance(message, Probe)]
    assert to == ROOT
    assert ROOT.guid not in node.neighbours
    assert [message for _, message in sends(hear(node, ROOT, Probe(3), 50.1))] == [Alive(3)], "one question at a time"
    effects = hear(node, ROOT, Alive(asked.id), 50.2)
    joins = [message for _, message in sends(effects) if isinstance(message, Forward)]
    assert [(message.key, message.cargo) for message in joins] == [(OWN.guid, Join(()))]
    assert ROOT.guid in node.neighbours
    again = [message for _, message in sends(hear(node, ROOT, Probe(4), 51.0)) if isinstance(message, Forward)]
    assert again == []


@pytest.mark.parametrize("size", [1, MAX_CONTACTS])
def test_welcomes_without_end_do_not_fill_the_memory_of_who_joins(size):
    node, _ = joining(FIRST)
    draw = Random(size)
    for _ in range(2 * WAITING // size):
        leaves = tuple(Contact(draw.randbytes(32), "a") for _ in range(size))
        hear(node, ROOT, Welcome(1, leaves, leaves))
    assert len(node._joining._greeted) <= WAITING
    assert len(node._joining._passed) <= MAX_CONTACTS


def test_all_ways_in_but_one_go_by_constrained_entries():
    """Who is near may name friends, who is nearest to a point may not be chosen."""
    members = tuple(at(text) for text in ("11", "52", "93", "d4"))
    effects = Node(at("7a"), Random(1)).step(Started(members, 1.0))
    messages = [effect.message for effect in effects if isinstance(effect, Send)]
    ways = [message.constrained for message in messages if isinstance(message, Forward)]
    assert ways == [False, True, True]


def test_a_member_looks_for_its_own_root_through_those_it_was_told_of():
    node = Node(at("7a"), Random(1))
    node.step(Started((), 1.0))
    node.step(Received(at("11"), Probe(1), 2.0))
    met = (at("52"), at("7a"))
    node.step(Meet(met, 3.0))
    for now in (40.0, 80.0, 120.0):
        effects = node.step(TimerFired(Timer("own root"), now))
        asked = [effect for effect in effects if isinstance(effect, Send)]
        assert [effect.to for effect in asked] == [at("52")]
        assert all(isinstance(e.message, Forward) and e.message.constrained for e in asked)

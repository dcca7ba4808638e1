"""Upkeep of one node: what it asks by its timers, and what it makes of what others say (Bamboo, 3.2, 4.1 and 4.2)."""

from random import Random

import pytest

from tapestry.effects import Effect, Send, SetTimer, Timer
from tapestry.leaf_set import SIDE
from tapestry.messages import (
    NAME_BYTES,
    Alive,
    Contact,
    GetRow,
    LeafNews,
    Leaves,
    Leaving,
    Message,
    Probe,
    Row,
)
from tapestry.neighbours import LOST_SECONDS, MISSES, Neighbours
from tapestry.questions import WAITING, Questions
from tapestry.upkeep import (
    CONSTRAINED_SECONDS,
    FIRST_SECONDS,
    GROWTH,
    LEAVES_SECONDS,
    LOST_AGAIN_SECONDS,
    MOST_SLOWNESS,
    PROBE_SECONDS,
    ROWS,
    SAMPLED,
    SILENT_SECONDS,
    TABLE_SECONDS,
    Recovery,
    Upkeep,
)
from tests.unit.tapestry import model
from tests.unit.tapestry.model import at

OWN = at("4227")
LEAVES = [model.contact(model.number(OWN.guid) + way * 2**200) for way in (*range(1, SIDE + 1), *range(-SIDE, 0))]
PERIODS = {
    "leaves": LEAVES_SECONDS,
    "table": FIRST_SECONDS,
    "constrained": FIRST_SECONDS,
    "silent": PROBE_SECONDS,
    "lost": LOST_AGAIN_SECONDS,
}


class Keeper:
    """The upkeep of a node that knows these, each having spoken at time 0."""

    def __init__(self, *contacts: Contact, recovery: Recovery = "periodic", seed: int = 1) -> None:
        self.neighbours = Neighbours(OWN)
        for contact in contacts:
            self.neighbours.heard(contact, 0.0)
        self.questions = Questions(self.neighbours)
        self.upkeep = Upkeep(self.neighbours, self.questions, Random(seed), recovery)

    def fire(self, kind: str, now: float = 1.0) -> list[tuple[Contact, Message]]:
        """What is sent when a timer fires; the timer is set again."""
        timer = Timer(kind)  # type: ignore[arg-type]
        *effects, again = self.upkeep.on_timer(timer, now)
        assert isinstance(again, SetTimer)
        assert again.timer.kind == kind
        return sends(effects)

    def period(self, kind: str) -> float:
        """How long until it fires again."""
        again = self.upkeep.on_timer(Timer(kind), 1.0)[-1]  # type: ignore[arg-type]
        assert isinstance(again, SetTimer)
        return again.seconds


def sends(effects: list[Effect]) -> list[tuple[Contact, Message]]:
    """Whom what is sent to, in order."""
    return [(effect.to, effect.message) for effect in effects if isinstance(effect, Send)]


def asked(sent: list[tuple[Contact, Message]]) -> list[Contact]:
    """Who is asked if it is there; nothing else is sent."""
    assert all(isinstance(message, Probe) for _, message in sent)
    return [to for to, _ in sent]


# --- periods ---


def test_all_timers_are_set_at_some_moment_of_their_period():
    drawn = []
    for seed in range(20):
        effects = Keeper(seed=seed).upkeep.start()
        assert all(isinstance(effect, SetTimer) for effect in effects)
        seconds = {effect.timer.kind: effect.seconds for effect in effects if isinstance(effect, SetTimer)}
        assert set(seconds) == set(PERIODS)
        assert all(0 <= when <= PERIODS[kind] for kind, when in seconds.items())
        drawn.append(seconds["table"])
    assert max(drawn) - min(drawn) > FIRST_SECONDS / 2, "nodes that begin together do not go on together"


@pytest.mark.parametrize("kind", sorted(PERIODS.keys() - {"table", "constrained"}))
def test_a_timer_is_set_again_for_about_its_period(kind):
    keeper = Keeper()
    drawn = [keeper.period(kind) for _ in range(50)]
    assert 0.75 * PERIODS[kind] <= min(drawn) < 0.9 * PERIODS[kind]
    assert 1.1 * PERIODS[kind] < max(drawn) <= 1.25 * PERIODS[kind]


@pytest.mark.parametrize(("kind", "most"), [("table", TABLE_SECONDS), ("constrained", CONSTRAINED_SECONDS)])
def test_a_new_member_looks_for_others_more_often(kind, most):
    keeper = Keeper()
    drawn = [keeper.period(kind) for _ in range(50)]
    assert drawn[0] <= 1.25 * GROWTH * FIRST_SECONDS
    assert sum(drawn[:8]) < 4 * TABLE_SECONDS
    assert 0.75 * most <= min(drawn[-20:]) <= max(drawn[-20:]) <= 1.25 * most


def test_upkeep_slows_down_while_questions_go_unanswered_and_recovers():
    """Bamboo, 3.2: recovery adds no load while the network is at its limit."""
    keeper = Keeper()
    for _ in range(500):
        keeper.upkeep.answered(False)
    slow = [keeper.period("leaves") for _ in range(50)]
    assert 0.75 * MOST_SLOWNESS * LEAVES_SECONDS <= min(slow) <= max(slow) <= 1.25 * MOST_SLOWNESS * LEAVES_SECONDS
    for _ in range(500):
        keeper.upkeep.answered(True)
    assert max(keeper.period("leaves") for _ in range(50)) <= 1.25 * LEAVES_SECONDS * 1.001


def test_a_timer_of_another_kind_is_our_own_fault():
    with pytest.raises(AssertionError, match="nobody sets"):
        Keeper().upkeep.on_timer(Timer("asked"), 0.0)


def test_who_knows_nobody_asks_nobody():
    keeper = Keeper()
    assert all(keeper.fire(kind, 100.0) == [] for kind in PERIODS)


# --- leaf sets ---


def test_the_leaf_set_is_compared_with_one_leaf_at_a_time_and_with_each_in_the_end():
    keeper = Keeper(*LEAVES)
    met = set()
    for number in range(1, 200):
        [(to, message)] = keeper.fire("leaves")
        assert message == Leaves(number, keeper.neighbours.leaves.names())
        met.add(to)
    assert met == set(LEAVES)


def test_leaves_are_answered_with_what_the_other_lacks_and_our_own_names():
    keeper = Keeper(*LEAVES)
    other = LEAVES[0]
    names = b"".join(leaf.guid[:NAME_BYTES] for leaf in LEAVES[1:7])
    [(to, message)] = sends(keeper.upkeep.on_leaves(other, Leaves(9, names)))
    assert to == other
    assert isinstance(message, LeafNews)
    assert (message.id, message.names) == (9, keeper.neighbours.leaves.names())
    expected = model.leaves(other.guid, [leaf.guid for leaf in LEAVES]) - {leaf.guid for leaf in LEAVES[1:7]}
    assert {contact.guid for contact in message.contacts} == expected


def test_suspects_are_no_news():
    keeper = Keeper(*LEAVES)
    keeper.neighbours.missed(LEAVES[3].guid, 0.0, 0.0)
    [(_, message)] = sends(keeper.upkeep.on_leaves(LEAVES[0], Leaves(9, b"")))
    assert isinstance(message, LeafNews)
    assert LEAVES[3] not in message.contacts
    assert LEAVES[4] in message.contacts


def test_news_are_asked_if_they_are_there_and_taken_up_by_nobodys_word():
    keeper = Keeper(LEAVES[0])
    sent = sends(keeper.upkeep.on_leaf_news(LEAVES[0], LeafNews(1, tuple(LEAVES[1:4]), b""), 1.0))
    assert asked(sent) == LEAVES[1:4]
    assert all(leaf.guid not in keeper.neighbours for leaf in LEAVES[1:4])


def test_what_the_other_lacks_comes_back_once_and_without_a_list():
    keeper = Keeper(*LEAVES[:4])
    news = LeafNews(1, (), keeper.neighbours.leaves.names()[: 2 * NAME_BYTES])
    [(to, message)] = sends(keeper.upkeep.on_leaf_news(LEAVES[0], news, 1.0))
    assert to == LEAVES[0]
    assert message == LeafNews(0, tuple(LEAVES[2:4]), b""), "nothing is sent in answer to an empty list of names"
    everything = LeafNews(1, (), keeper.neighbours.leaves.names())
    assert keeper.upkeep.on_leaf_news(LEAVES[0], everything, 1.0) == []


def test_of_those_in_the_news_some_are_not_asked():
    lost = at("9")
    keeper = Keeper(*LEAVES, at("81"), at("82"), at("83"), lost)
    keeper.neighbours.forget(lost.guid, 0.0)
    useless = (OWN, LEAVES[3], at("81"), at("84"), lost)
    assert keeper.upkeep.consider(useless, 1.0) == []
    assert asked(sends(keeper.upkeep.consider(useless, LOST_SECONDS + 1.0))) == [lost]


def test_nobody_is_asked_twice_at_a_time():
    keeper = Keeper()
    assert asked(sends(keeper.upkeep.consider((at("8"), at("8"), at("9")), 1.0))) == [at("8"), at("9")]
    assert keeper.upkeep.consider((at("8"), at("9")), 1.0) == []
    keeper.questions.given_up(1)
    assert asked(sends(keeper.upkeep.consider((at("8"), at("9")), 1.0))) == [at("8")]


def test_periodic_recovery_does_nothing_about_a_change_and_reactive_tells_all_leaves():
    assert Keeper(*LEAVES).upkeep.leaves_changed(1.0) == []
    sent = sends(Keeper(*LEAVES, recovery="reactive").upkeep.leaves_changed(1.0))
    assert {to for to, _ in sent} == set(LEAVES)
    assert all(isinstance(message, Leaves) for _, message in sent)


def test_reactive_recovery_compares_leaf_sets_at_no_other_time():
    effects = Keeper(recovery="reactive").upkeep.start()
    assert {effect.timer.kind for effect in effects if isinstance(effect, SetTimer)} == set(PERIODS) - {"leaves"}


def test_who_says_farewell_is_forgotten_and_its_leaves_are_asked():
    keeper = Keeper(*LEAVES)
    keeper.neighbours.forget(LEAVES[5].guid, 0.0)
    others = (LEAVES[1], at("81"), OWN, LEAVES[5])
    sent = keeper.upkeep.on_leaving(LEAVES[0], Leaving(others), 1.0)
    assert LEAVES[0].guid not in keeper.neighbours
    assert asked(sends(sent)) == [at("81")]
    assert keeper.upkeep.consider((LEAVES[0],), 2.0) == [], "others may still speak of it"


# --- the table ---


def test_a_row_is_asked_for_of_a_node_in_that_row():
    keeper = Keeper(at("8"), at("9"), at("43"), at("423"))
    seen = set()
    for _ in range(60):
        [(to, message)] = keeper.fire("table")
        assert isinstance(message, GetRow)
        assert to in keeper.neighbours.table.row(message.row)
        seen.add((to, message.row))
    assert seen == {(at("8"), 0), (at("9"), 0), (at("43"), 1), (at("423"), 2)}


@pytest.mark.parametrize(("row", "found"), [(0, ("8", "9")), (1, ("43",)), (2, ()), (63, ())])
def test_a_row_is_answered_with_the_first_of_each_slot(row, found):
    keeper = Keeper(at("8"), at("81"), at("9"), at("43"))
    assert sends(keeper.upkeep.on_get_row(at("8"), GetRow(5, row))) == [(at("8"), Row(5, tuple(map(at, found))))]


def test_nodes_of_a_row_that_have_a_place_are_all_asked():
    keeper = Keeper(*LEAVES)
    contacts = tuple(at(f"{digit:x}1") for digit in range(16) if digit != 4)
    assert asked(sends(keeper.upkeep.on_row(LEAVES[0], Row(5, contacts), 1.0))) == list(contacts)


def full_table() -> tuple[Keeper, list[str]]:
    """A node whose row 0 holds three nodes for each of eleven digits, the nearer the higher the digit."""
    keeper, taken = Keeper(*LEAVES), [f"{digit:x}" for digit in range(16) if digit not in (3, 4, 5, 12, 13)]
    for order, digit in enumerate(taken):
        for backup in range(3):
            keeper.neighbours.heard(at(f"{digit}{backup}"), 0.0)
            keeper.neighbours.measured(at(f"{digit}{backup}"), 0.2 - 0.01 * order, 0.0)
    return keeper, taken


def test_of_those_without_a_place_some_are_asked_where_ours_are_furthest_away():
    """Tapestry, III-C: neighbours are the nearest by the network; Bamboo, 4.2: found by sampling."""
    keeper, taken = full_table()
    strangers = tuple(at(f"{digit}5") for digit in taken)
    known = (OWN, at(f"{taken[0]}0"), LEAVES[0])
    sent = asked(sends(keeper.upkeep.on_row(LEAVES[0], Row(5, (*reversed(strangers), *known)), 1.0)))
    assert sent == list(strangers[:SAMPLED])


def test_of_some_of_a_row_the_nearest_is_asked_so_that_the_far_ones_seldom_are():
    keeper, taken = full_table()
    firsts = set(keeper.neighbours.table.row(0))
    asked_for = [to.guid for _ in range(300) for to, _ in keeper.fire("table") if to in firsts]
    counts = [asked_for.count(at(f"{digit}0").guid) for digit in taken]
    assert sum(counts) == len(asked_for)
    assert counts[-1] > len(asked_for) / 4
    assert counts[: ROWS - 1][-1] == 0 < counts[-2]


# --- who is there ---


def test_a_question_is_answered():
    assert Keeper().upkeep.on_probe(at("8"), Probe(7)) == [Send(at("8"), Alive(7))]


def test_who_was_silent_longest_is_asked_if_that_was_long():
    keeper = Keeper(at("8"), at("9"), at("a"))
    keeper.neighbours.heard(at("9"), 1.0)
    keeper.neighbours.heard(at("a"), 2.0)
    keeper.neighbours.heard(at("8"), 3.0)
    assert keeper.fire("silent", 1.0 + SILENT_SECONDS - 0.1) == []
    assert asked(keeper.fire("silent", 1.0 + SILENT_SECONDS)) == [at("9")]


def test_backups_that_are_no_leaves_are_not_watched():
    keeper = Keeper(*LEAVES, at("81"), at("82"))
    for leaf in (*LEAVES, at("81")):
        keeper.neighbours.heard(leaf, 100.0)
    assert keeper.fire("silent", 100.0) == []


def test_who_missed_a_question_is_asked_again_until_it_is_given_up():
    keeper = Keeper(at("8"))
    keeper.upkeep.compare(at("8"), 1.0)
    numbers = [1]
    for miss in range(1, MISSES + 1):
        question = keeper.questions.given_up(numbers[-1])
        assert question is not None
        assert keeper.neighbours.missed(at("8").guid, 2.0, 2.0) == (miss == MISSES)
        sent = sends(keeper.upkeep.suspected(question, 2.0))
        assert asked(sent) == ([] if miss == MISSES else [at("8")])
        numbers += [message.id for _, message in sent if isinstance(message, Probe)]
    assert at("8").guid in keeper.neighbours.lost


def test_a_suspect_is_asked_one_question_at_a_time():
    keeper = Keeper(at("8"))
    for _ in range(4):
        keeper.upkeep.compare(at("8"), 1.0)
    sent = []
    for number in (1, 2):
        question = keeper.questions.given_up(number)
        assert question is not None
        keeper.neighbours.missed(at("8").guid, 2.0, 2.0)
        sent += sends(keeper.upkeep.suspected(question, 2.0))
    assert asked(sent) == [at("8")]
    assert keeper.fire("silent", 50.0) == [], "nor by the timer"


def test_who_speaks_and_never_answers_in_time_is_asked_one_question_at_a_time_too():
    """Its words end the suspicion, so the question that is under way is no longer the one that goes on."""
    keeper = Keeper(at("8"))
    keeper.upkeep.compare(at("8"), 1.0)
    open_now, now = [1], 1.0
    for _ in range(30):
        now += 1.0
        keeper.neighbours.heard(at("8"), now)
        keeper.upkeep.compare(at("8"), now)
        open_now.append(keeper.questions.last)
        for number in open_now[:]:
            question = keeper.questions.given_up(number)
            assert question is not None
            open_now.remove(number)
            keeper.neighbours.missed(at("8").guid, question.sent, now + 0.5)
            if keeper.upkeep.suspected(question, now + 0.5):
                open_now.append(keeper.questions.last)
        assert len(open_now) == 1


def test_a_suspect_that_could_not_be_asked_is_asked_by_the_timer():
    """Too many questions were open when it missed one."""
    keeper = Keeper(at("8"))
    keeper.upkeep.compare(at("8"), 1.0)
    question = keeper.questions.given_up(1)
    assert question is not None
    for _ in range(WAITING):
        keeper.upkeep.probe(at("c"), 1.0)
    keeper.neighbours.missed(at("8").guid, 2.0, 2.0)
    assert keeper.upkeep.suspected(question, 2.0) == []
    for number in range(2, WAITING + 2):
        keeper.questions.given_up(number)
    assert asked(keeper.fire("silent", 50.0)) == [at("8")]


def test_those_given_up_are_asked_again_one_by_one_for_ever():
    keeper = Keeper(*LEAVES)
    for leaf in LEAVES[:5]:
        keeper.neighbours.forget(leaf.guid, 0.0)
    met = {to for now in range(100) for to in asked(keeper.fire("lost", 1000.0 + now))}
    assert met == set(LEAVES[:5])

"""Who is known, how long each takes, and who is given up (Bamboo, USENIX 2004, 3.2 and 4.3; RFC 6298)."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.leaf_set import SIDE
from tapestry.messages import Contact
from tapestry.neighbours import (
    FIRST_TIMEOUT_SECONDS,
    GRACE_SECONDS,
    LOST,
    LOST_SECONDS,
    MET,
    MISSES,
    MOST_TIMEOUT_SECONDS,
    STALE_SECONDS,
    Neighbours,
)
from tests.unit.tapestry import model
from tests.unit.tapestry.model import at, digits

OWN = at("4227")
OTHER = at("81")


def near(way: int) -> Contact:
    """A node so many places after OWN: far enough apart to differ in the first digits after 4227."""
    return model.contact(model.number(OWN.guid) + way * 2**200)


def known(*contacts: Contact) -> Neighbours:
    """Neighbours that have spoken at time 0."""
    made = Neighbours(OWN)
    for contact in contacts:
        made.heard(contact, 0.0)
    return made


def give_up(neighbours: Neighbours, contact: Contact, now: float = 0.0) -> None:
    for _ in range(MISSES):
        neighbours.missed(contact.guid, now, now)


def check_nothing_else_is_known(neighbours: Neighbours) -> None:
    """Those known are the leaf set and the table, and nobody is both known and lost."""
    guids = {neighbour.contact.guid for neighbour in neighbours.all}
    assert guids == {contact.guid for contact in (*neighbours.leaves, *neighbours.table)}
    assert len(neighbours) == len(guids)
    assert not guids & set(neighbours.lost)
    assert neighbours.own.guid not in guids


# --- who is taken up -------------------------------------------------------------------------------------------------


def test_who_speaks_is_taken_up_wherever_it_belongs():
    neighbours = known(OTHER)
    assert OTHER.guid in neighbours
    assert OTHER.guid in neighbours.leaves
    assert OTHER.guid in neighbours.table
    check_nothing_else_is_known(neighbours)


def test_who_is_only_spoken_of_is_wanted_and_not_taken_up():
    neighbours = known()
    assert neighbours.wanted(OTHER, 0.0)
    assert OTHER.guid not in neighbours
    assert (len(neighbours), len(neighbours.leaves), list(neighbours.table)) == (0, 0, [])


def test_nobody_wants_itself():
    assert not known().wanted(OWN, 0.0)


def test_who_is_known_and_in_its_place_is_not_wanted():
    assert not known(OTHER).wanted(OTHER, 0.0)


def test_who_has_no_place_is_neither_wanted_nor_taken_up():
    crowd = [near(way) for way in (*range(1, SIDE + 1), *range(-SIDE, 0))]
    neighbours = known(*crowd, at("81"), at("82"), at("83"))
    assert not neighbours.wanted(at("84"), 0.0)
    neighbours.heard(at("84"), 0.0)
    assert at("84").guid not in neighbours
    check_nothing_else_is_known(neighbours)


def test_a_leaf_whose_slot_of_the_table_is_full_is_a_leaf_all_the_same():
    crowd = [near(way) for way in range(16, 21)]
    neighbours = known(*crowd)
    assert all(contact.guid in neighbours.leaves for contact in crowd)
    assert [contact.guid in neighbours.table for contact in crowd] == [True] * 3 + [False] * 2
    give_up(neighbours, crowd[0])
    assert not neighbours.wanted(crowd[4], 1.0), "it is known already; its next answer brings it into the table"
    check_nothing_else_is_known(neighbours)


def test_a_nearer_leaf_pushes_another_out_which_stays_if_the_table_holds_it():
    neighbours = known(*(near(way) for way in range(2, SIDE + 2)))
    furthest = near(SIDE + 1)
    neighbours.heard(near(1), 0.0)
    assert furthest.guid not in neighbours.leaves
    assert (furthest.guid in neighbours) == (furthest.guid in neighbours.table)
    check_nothing_else_is_known(neighbours)


def test_a_node_of_the_table_becomes_a_leaf_when_there_is_room_and_it_speaks():
    """It is known, so nobody would ever introduce it."""
    crowd = [near(way) for way in (*range(1, SIDE + 1), *range(-SIDE, 0))]
    neighbours = known(*crowd, OTHER)
    assert OTHER.guid in neighbours.table
    assert OTHER.guid not in neighbours.leaves
    assert not neighbours.wanted(OTHER, 1.0)
    for way in range(1, SIDE + 1):
        give_up(neighbours, near(way))
        give_up(neighbours, near(-way))
    assert neighbours.wanted(OTHER, 1.0), "its word is asked for when others speak of it"
    neighbours.heard(OTHER, 2.0)
    assert OTHER.guid in neighbours.leaves
    assert not neighbours.wanted(OTHER, 2.0)
    check_nothing_else_is_known(neighbours)


def test_who_speaks_from_another_place_is_known_there_from_then_on():
    """A server that was started again may have another address."""
    neighbours = known(OTHER, at("9"))
    neighbours.measured(OTHER, 0.1, 0.0)
    neighbours.missed(OTHER.guid, 1.0, 1.0)
    moved = Contact(OTHER.guid, "elsewhere")
    assert not neighbours.heard(moved, 2.0)
    neighbour = neighbours.get(OTHER.guid)
    assert neighbour is not None
    assert (neighbour.contact, neighbour.misses, neighbour.rtt_seconds) == (moved, 0, 0.0)
    assert moved in list(neighbours.leaves)
    assert OTHER not in list(neighbours.leaves)
    assert neighbours.table.toward(digits("8")) == [moved]
    check_nothing_else_is_known(neighbours)


def test_an_answer_of_a_nearer_node_takes_a_slot_of_the_table():
    crowd = [near(way) for way in (*range(1, SIDE + 1), *range(-SIDE, 0))]
    neighbours = known(*crowd)
    for rank, text in enumerate(("81", "82", "83")):
        neighbours.heard(at(text), 0.0)
        neighbours.measured(at(text), 0.1 * (rank + 1), 0.0)
    neighbours.heard(at("84"), 1.0)
    neighbours.measured(at("84"), 0.05, 1.0)
    assert neighbours.table.toward(digits("8")) == [at("84"), at("81"), at("82")]
    assert at("83").guid not in neighbours
    neighbours.measured(at("85"), 5.0, 1.0)
    assert at("85").guid not in neighbours
    check_nothing_else_is_known(neighbours)


def test_our_own_round_trip_is_nobodys():
    neighbours = known()
    neighbours.measured(OWN, 0.1, 0.0)
    check_nothing_else_is_known(neighbours)


# --- who has stopped to answer ---------------------------------------------------------------------------------------


def test_after_one_miss_it_is_suspected_and_after_the_last_given_up():
    neighbours = known(OTHER)
    assert not neighbours.suspect(OTHER.guid)
    for miss in range(1, MISSES):
        assert not neighbours.missed(OTHER.guid, 5.0, 5.0)
        assert neighbours.suspect(OTHER.guid)
        assert neighbours.suspects == {OTHER.guid}
        known_as = neighbours.get(OTHER.guid)
        assert known_as is not None
        assert known_as.misses == miss
    assert neighbours.missed(OTHER.guid, 5.0, 5.0)
    assert OTHER.guid not in neighbours
    assert neighbours.lost == {OTHER.guid: (OTHER, 5.0)}
    assert not neighbours.suspects
    check_nothing_else_is_known(neighbours)


def test_questions_that_were_under_way_together_count_as_one():
    """One moment without a network is no reason to give up a neighbour that was asked much in it."""
    neighbours = known(OTHER)
    for sent in (1.0, 1.1, 1.4, 1.9, 2.0):
        assert not neighbours.missed(OTHER.guid, sent, sent + 1.0)
    neighbour = neighbours.get(OTHER.guid)
    assert neighbour is not None
    assert neighbour.misses == 2, "the first, and what was asked when its time was over"
    assert neighbours.missed(OTHER.guid, 3.0, 4.0)


def test_a_word_of_it_makes_up_for_all_misses():
    neighbours = known(OTHER)
    for _ in range(MISSES - 1):
        neighbours.missed(OTHER.guid, 1.0, 1.0)
    assert not neighbours.heard(OTHER, 2.0), "it had not been given up"
    assert not neighbours.suspect(OTHER.guid)
    assert not neighbours.missed(OTHER.guid, 3.0, 3.0), "the count begins again"
    neighbour = neighbours.get(OTHER.guid)
    assert neighbour is not None
    assert (neighbour.heard, neighbour.misses) == (2.0, 1)


def test_who_is_not_known_cannot_be_suspected_or_lost():
    neighbours = known()
    assert not neighbours.missed(OTHER.guid, 0.0, 0.0)
    neighbours.forget(OTHER.guid, 0.0)
    assert (neighbours.suspect(OTHER.guid), neighbours.suspects, neighbours.lost) == (False, set(), {})


@pytest.mark.parametrize(
    ("later", "wanted"), [(0.0, False), (LOST_SECONDS - 0.1, False), (LOST_SECONDS, True), (LOST_SECONDS * 9, True)]
)
def test_nobodys_word_for_one_that_was_given_up_counts_for_a_while(later, wanted):
    neighbours = known(OTHER)
    give_up(neighbours, OTHER, 100.0)
    assert neighbours.wanted(OTHER, 100.0 + later) == wanted


def test_its_own_answer_counts_at_once_and_its_word_never():
    """Or one that we hear and that does not hear us is given up and taken up for ever."""
    neighbours = known(OTHER)
    give_up(neighbours, OTHER, 100.0)
    for later in (0.1, 30.0, LOST_SECONDS, 9 * LOST_SECONDS):
        assert neighbours.heard(OTHER, 100.0 + later), "it speaks, and may not hear"
        assert OTHER.guid not in neighbours
    neighbours.measured(OTHER, 0.1, 700.0)
    assert OTHER.guid in neighbours.leaves
    assert OTHER.guid in neighbours.table
    assert not neighbours.lost
    assert not neighbours.heard(OTHER, 700.2)
    check_nothing_else_is_known(neighbours)


def test_of_those_given_up_the_last_are_remembered():
    neighbours = known()
    contacts = [near(way) for way in range(1, LOST + 20)]
    for i, contact in enumerate(contacts):
        neighbours.heard(contact, 0.0)
        neighbours.forget(contact.guid, float(i))
    assert list(neighbours.lost) == [contact.guid for contact in contacts[-LOST:]]


# --- how long to wait ------------------------------------------------------------------------------------------------


def test_round_trips_of_long_ago_make_nobody_wait_longer_than_all_take_now():
    """As where all were slow when they began together; and the next one counts as the first."""
    neighbours = known(OTHER, at("9"))
    for _ in range(3):
        neighbours.measured(OTHER, 2.0, 0.0)
    neighbours.measured(at("9"), 0.001, 1.0)
    for _ in range(60):
        neighbours.measured(at("9"), 0.001, STALE_SECONDS - 1.0)
    slow = 2.0 + 4 * 1.0 * (3 / 4) ** 2 + GRACE_SECONDS
    assert neighbours.timeout_seconds(OTHER.guid, STALE_SECONDS - 0.1) == pytest.approx(min(slow, MOST_TIMEOUT_SECONDS))
    assert neighbours.timeout_seconds(OTHER.guid, STALE_SECONDS) < 0.06
    neighbours.measured(OTHER, 0.1, STALE_SECONDS)
    assert neighbours.timeout_seconds(OTHER.guid, STALE_SECONDS) == pytest.approx(0.1 + 4 * 0.05 + GRACE_SECONDS)


def test_a_near_node_is_not_given_longer_for_having_been_silent():
    neighbours = known(OTHER, at("9"))
    neighbours.measured(OTHER, 0.01, 0.0)
    for _ in range(20):
        neighbours.measured(at("9"), 1.0, 10.0)
    waits = [neighbours.timeout_seconds(OTHER.guid, now) for now in (0.0, STALE_SECONDS, 9 * STALE_SECONDS)]
    assert waits == pytest.approx([0.01 + 4 * 0.005 + GRACE_SECONDS] * 3)


def test_before_any_round_trip_the_timeout_is_that_of_the_rfc():
    assert (
        known(OTHER).timeout_seconds(OTHER.guid, 0.0)
        == known().timeout_seconds(OTHER.guid, 0.0)
        == FIRST_TIMEOUT_SECONDS
    )


def test_a_first_round_trip_counts_with_half_of_itself_as_spread():
    neighbours = known(OTHER)
    neighbours.measured(OTHER, 0.1, 0.0)
    assert neighbours.timeout_seconds(OTHER.guid, 0.0) == pytest.approx(0.1 + 4 * 0.05 + GRACE_SECONDS)


def test_further_ones_are_smoothed_as_in_the_rfc():
    neighbours = known(OTHER)
    for seconds in (0.1, 0.2):
        neighbours.measured(OTHER, seconds, 0.0)
    spread = 0.05 * 3 / 4 + 0.1 / 4
    smoothed = 0.1 * 7 / 8 + 0.2 / 8
    assert neighbours.timeout_seconds(OTHER.guid, 0.0) == pytest.approx(smoothed + 4 * spread + GRACE_SECONDS)


def test_who_was_never_asked_is_given_as_long_as_the_others_take():
    neighbours = known(OTHER)
    neighbours.measured(OTHER, 0.1, 0.0)
    assert neighbours.timeout_seconds(at("9").guid, 0.0) == neighbours.timeout_seconds(OTHER.guid, 0.0)
    neighbours.heard(at("9"), 0.0)
    assert neighbours.timeout_seconds(at("9").guid, 0.0) == neighbours.timeout_seconds(OTHER.guid, 0.0)


def test_each_has_a_timeout_of_its_own():
    neighbours = known(OTHER, at("9"))
    for _ in range(30):
        neighbours.measured(OTHER, 0.01, 0.0)
        neighbours.measured(at("9"), 0.5, 0.0)
    assert neighbours.timeout_seconds(OTHER.guid, 0.0) == pytest.approx(0.01 + GRACE_SECONDS, rel=0.1)
    assert neighbours.timeout_seconds(at("9").guid, 0.0) == pytest.approx(0.5 + GRACE_SECONDS, rel=0.1)


def test_after_two_misses_in_a_row_it_is_given_twice_as_long():
    neighbours = known(OTHER)
    neighbours.measured(OTHER, 0.1, 0.0)
    waits = [neighbours.timeout_seconds(OTHER.guid, 0.0)]
    for _ in range(MISSES - 1):
        neighbours.missed(OTHER.guid, 0.0, 0.0)
        waits.append(neighbours.timeout_seconds(OTHER.guid, 0.0))
    assert waits == pytest.approx([0.35, 0.35, 0.7])


@given(st.lists(st.floats(0.0001, 1000.0), min_size=1, max_size=30), st.integers(0, MISSES - 1))
def test_a_timeout_is_longer_than_what_is_usual_and_never_without_end(trips, misses):
    neighbours = known(OTHER)
    for seconds in trips:
        neighbours.measured(OTHER, seconds, 0.0)
    for _ in range(misses):
        neighbours.missed(OTHER.guid, 0.0, 0.0)
    neighbour = neighbours.get(OTHER.guid)
    assert neighbour is not None
    assert min(trips) * 0.999 <= neighbour.rtt_seconds <= max(trips) * 1.001
    timeout = neighbours.timeout_seconds(OTHER.guid, 0.0)
    assert min(neighbour.rtt_seconds + GRACE_SECONDS, MOST_TIMEOUT_SECONDS) <= timeout <= MOST_TIMEOUT_SECONDS


# --- whatever happens ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(25))
def test_never_more_than_leaf_set_and_table(seed):
    """Any order of words, answers, silences and farewells; leaf sets are those of the model, of who spoke since."""
    draw = Random(f"neighbours {seed}")
    neighbours = Neighbours(OWN)
    pool = [near(draw.randrange(-60, 60)) for _ in range(40)] + [
        Contact(draw.randbytes(32), f"n{i}") for i in range(80)
    ]
    pool = [contact for contact in pool if contact.guid != OWN.guid]
    for now in range(1500):
        contact = draw.choice(pool)
        match draw.randrange(7):
            case 0 | 1 | 2:
                lost = contact.guid in neighbours.lost
                assert neighbours.heard(contact, float(now)) == lost
                assert lost == (contact.guid in neighbours.lost)
                assert lost or not neighbours.leaves.wants(contact.guid)
            case 3:
                neighbours.heard(contact, float(now))
                neighbours.measured(contact, draw.choice((0.001, 0.1, 3.0)) * draw.random(), float(now))
            case 4 | 5:
                neighbours.missed(contact.guid, float(now), float(now))
            case 6:
                neighbours.forget(contact.guid, float(now))
        check_nothing_else_is_known(neighbours)
        assert len(neighbours.lost) <= LOST
    for contact in pool:
        neighbours.heard(contact, 2000.0)
        neighbours.measured(contact, 0.1, 2000.0)
    assert {leaf.guid for leaf in neighbours.leaves} == model.leaves(OWN.guid, [contact.guid for contact in pool])


def test_ways_apart_go_by_nodes_that_no_node_has_named():
    """Of those that nodes name, all may lie; of those met, as many as lie at all."""
    neighbours, choices = Neighbours(OWN), Random(1)
    named, met = at("91"), [at(f"a{digit:x}") for digit in range(MET + 2)]
    neighbours.heard(named, 0.0)
    assert neighbours.ways_apart(choices, 3) == [named], "a constrained entry, as nobody was met"
    neighbours.meet([*met, OWN])
    drawn = {contact for _ in range(100) for contact in neighbours.ways_apart(choices, 2)}
    assert drawn == set(met[2:]), "the last MET of them, and never this node"
    neighbours.heard(met[-1], 0.0)
    give_up(neighbours, met[-1])
    drawn = {contact for _ in range(100) for contact in neighbours.ways_apart(choices, 2)}
    assert drawn == set(met[2:-1]), "not those that were given up"

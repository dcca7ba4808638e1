"""The next hop of a cargo, rule by rule (Tapestry, JSAC 2004; Bamboo, USENIX 2004)."""

from random import Random

import msgspec
import pytest

from tapestry.effects import Effect, Send, SetTimer
from tapestry.guid import distance, shared_digits
from tapestry.leaf_set import SIDE
from tapestry.messages import MAX_HOPS, Contact, Find, Forward
from tapestry.neighbours import MISSES, Neighbours
from tapestry.questions import Questions
from tapestry.routing import CERTAIN_MISSES, TRIES, Routing
from tests.unit.tapestry import model
from tests.unit.tapestry.model import at, digits

OWN = at("4227")
STEP = 2**200
LEAVES = [model.contact(model.number(OWN.guid) + way * STEP) for way in (*range(1, SIDE + 1), *range(-SIDE, 0))]
"""A whole leaf set: it covers very little of the ring."""


class Hop:
    """A node that knows these, each having spoken once."""

    def __init__(self, *contacts: Contact) -> None:
        self.neighbours = Neighbours(OWN)
        for contact in contacts:
            self.neighbours.heard(contact, 0.0)
            assert contact.guid in self.neighbours
        self.questions = Questions(self.neighbours)
        self.routing = Routing(self.neighbours, self.questions)

    def next(self, text: str, tried: tuple[bytes, ...] = ()) -> Contact | None:
        """The next hop of a key that begins so."""
        return self.routing.next_hop(digits(text), tried)

    def miss(self, contact: Contact, times: int = 1) -> None:
        for _ in range(times):
            self.neighbours.missed(contact.guid, 0.0, 0.0)

    def nearest_first(self, *contacts: Contact) -> None:
        """Round trips, each longer than that before it."""
        for rank, contact in enumerate(contacts):
            self.neighbours.measured(contact, 0.01 * (rank + 1), 0.0)


def crowded(*texts: str) -> Hop:
    """A node with a whole leaf set, and these in its table."""
    return Hop(*LEAVES, *map(at, texts))


def key_near(way: float) -> bytes:
    """A key so many steps from this node."""
    return model.guid(model.number(OWN.guid) + int(way * STEP))


def cargo(key: bytes = digits("8"), hops: int = 0) -> Forward:
    return Forward(0, key, at(b"origin".hex()), 77, hops, Find())


def sent(effects: list[Effect] | None) -> Send:
    """The one message among the effects."""
    assert effects is not None
    send, timer = effects
    assert isinstance(send, Send)
    assert isinstance(timer, SetTimer)
    return send


# --- prefix routing: Tapestry III-B ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "hop"),
    [("8f", "81"), ("80", "81"), ("4f", "4f3"), ("43a", "435"), ("420", "4201"), ("4221", "42211"), ("422f", "422f")],
)
def test_the_next_hop_shares_one_digit_more_with_the_key(key, hop):
    made = crowded("81", "4f3", "435", "4201", "42211", "422f")
    assert made.next(key) == at(hop)
    assert shared_digits(at(hop).guid, digits(key)) > shared_digits(OWN.guid, digits(key))


def test_of_a_slot_the_nearest_by_round_trip_is_taken():
    made = crowded("81", "82", "83")
    made.nearest_first(at("82"), at("83"), at("81"))
    assert made.next("8f") == at("82")
    assert made.next("81") == at("82"), "not the one that shares most"


def test_who_was_tried_is_passed_over_for_a_backup():
    made = crowded("81", "82", "83")
    made.nearest_first(at("82"), at("83"), at("81"))
    assert made.next("8f", (at("82").guid,)) == at("83")
    assert made.next("8f", (at("82").guid, at("83").guid)) == at("81")


def test_who_is_suspected_is_passed_over_at_once():
    """Bamboo, 4.3: routing around suspected neighbours."""
    made = crowded("81", "82")
    made.nearest_first(at("82"), at("81"))
    made.miss(at("82"))
    assert made.next("8f") == at("81")
    made.neighbours.heard(at("82"), 1.0)
    assert made.next("8f") == at("82"), "and is back when it speaks"


# --- the leaf set: Bamboo 3.1 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [0.0, 0.4, -0.4, 0.49])
def test_a_key_that_is_nearest_to_this_node_has_its_root_here(way):
    assert crowded().routing.next_hop(key_near(way)) is None


@pytest.mark.parametrize(
    ("way", "leaf"), [(0.6, 1), (1.0, 1), (1.4, 1), (1.6, 2), (SIDE, SIDE), (-0.6, -1), (-2.6, -3), (-SIDE, -SIDE)]
)
def test_within_the_leaf_set_the_next_hop_is_the_nearest(way, leaf):
    assert crowded().routing.next_hop(key_near(way)) == model.contact(model.number(OWN.guid) + leaf * STEP)


def test_half_way_between_two_the_lower_guid_is_the_root():
    assert crowded().routing.next_hop(key_near(0.5)) is None
    assert crowded().routing.next_hop(key_near(-0.5)) == model.contact(model.number(OWN.guid) - STEP)


def test_the_leaf_set_goes_before_a_longer_prefix():
    """The key shares more digits with a node of the table than with the leaf that it lies nearest to."""
    key = model.guid(model.number(OWN.guid) - STEP * 2)
    made = crowded("8")
    assert shared_digits(OWN.guid, key) < shared_digits(LEAVES[-1].guid, key)
    assert made.routing.next_hop(key) == LEAVES[-2]


def test_a_suspected_leaf_has_a_second_chance_and_no_third():
    made = crowded()
    first = LEAVES[0]
    key = first.guid
    made.miss(first)
    assert made.routing.next_hop(key) == first
    assert made.routing.next_hop(key, (first.guid,)) == first, "one answer may have been lost"
    made.miss(first, CERTAIN_MISSES - 1)
    assert made.routing.next_hop(key) is None, "the next nearest is this node"
    made.neighbours.heard(first, 1.0)
    assert made.routing.next_hop(key) == first


def test_a_leaf_that_was_tried_and_has_spoken_since_is_not_tried_again():
    made = crowded()
    assert made.routing.next_hop(LEAVES[0].guid, (LEAVES[0].guid,)) is None
    assert made.routing.next_hop(LEAVES[1].guid, (LEAVES[1].guid,)) == LEAVES[0]


def test_where_a_side_is_short_everybody_known_may_be_the_root():
    made = Hop(*LEAVES[:3], at("81"), at("c"))
    assert not made.neighbours.leaves.whole
    for text, root in (("8", "81"), ("9", "81"), ("b", "c"), ("f", "c"), ("4227", None)):
        assert made.next(text) == (at(root) if root else None)


def test_who_knows_nobody_is_the_root_of_everything():
    assert all(Hop().next(text) is None for text in ("0", "4227", "8", "f"))


# --- the rare case: no entry where one should be ---------------------------------------------------------------------


def test_without_an_entry_a_nearer_node_that_shares_no_fewer_digits_is_taken():
    made = crowded("421", "45", "8", "3")
    assert made.next("4f") == at("45"), "8 is nearer to the key, but shares nothing with it"
    assert distance(digits("4f"), at("45").guid) > 0


def test_one_that_shares_fewer_digits_is_taken_only_where_there_is_no_other():
    made = crowded("45", "50")
    assert made.next("4f") == at("45"), "50 is nearer to the key"
    for contact in (*LEAVES, at("45")):
        made.miss(contact)
    assert made.next("4f") == at("50")


def test_one_that_is_further_from_the_key_is_never_taken():
    made = crowded("8")
    for leaf in LEAVES:
        made.miss(leaf)
    assert made.next("5") is None
    assert made.routing.send(cargo(digits("5")), 0.0) == []


def test_or_else_simply_the_nearest():
    made = crowded("8", "9", "3")
    assert made.next("c") == at("9")
    made.miss(at("9"))
    assert made.next("c") == at("8")
    assert made.next("c", (at("8").guid,)) == at("3"), "which is the nearest by the other way round"


@pytest.mark.parametrize("seed", range(40))
def test_each_hop_is_nearer_in_digits_or_on_the_ring(seed):
    """So no cargo goes in a circle: by table a digit more, else no digit less and nearer, or nearest of all leaves."""
    draw = Random(f"hops {seed}")
    made = Hop()
    for _ in range(draw.choice((3, 20, 80))):
        made.neighbours.heard(Contact(draw.randbytes(32), "a"), 0.0)
    for known in list(made.neighbours.all):
        made.miss(known.contact, draw.choice((0, 0, 1, 2)))
    for _ in range(60):
        key = draw.randbytes(32)
        tried = tuple(known.contact.guid for known in made.neighbours.all if draw.random() < 0.2)
        hop = made.routing.next_hop(key, tried)
        if hop is None:
            continue
        more = shared_digits(hop.guid, key) > shared_digits(OWN.guid, key)
        assert more or distance(hop.guid, key) <= distance(OWN.guid, key)
        known_hop = made.neighbours.get(hop.guid)
        assert known_hop is not None
        assert hop.guid != OWN.guid
        assert known_hop.misses < CERTAIN_MISSES
        assert hop.guid not in tried or known_hop.misses


# --- seeing a hop through --------------------------------------------------------------------------------------------


def test_a_cargo_is_sent_on_with_one_hop_more():
    made = crowded("8")
    to, message = sent(made.routing.send(cargo(hops=3), 0.0))
    assert to == at("8")
    assert message == msgspec.structs.replace(cargo(hops=4), hop=1)


def test_a_cargo_at_its_root_is_not_sent():
    assert crowded("8").routing.send(cargo(OWN.guid), 0.0) is None


def test_a_first_hop_may_be_chosen():
    assert sent(crowded("8").routing.send(cargo(), 0.0, first=at("5"))).to == at("5")


def test_a_cargo_that_has_come_too_far_is_dropped():
    made = crowded("8")
    assert sent(made.routing.send(cargo(hops=MAX_HOPS - 1), 0.0)).message == msgspec.structs.replace(
        cargo(hops=MAX_HOPS), hop=1
    )
    assert made.routing.send(cargo(hops=MAX_HOPS), 0.0) == []
    assert made.routing.send(cargo(OWN.guid, MAX_HOPS), 0.0) is None, "unless it has arrived"


def test_a_hop_that_is_not_acknowledged_is_tried_with_others_and_in_the_end_given_up():
    made = crowded("81", "82", "83", "9", "a", "b", "7", "6")
    made.nearest_first(at("81"), at("82"), at("83"))
    effects = made.routing.send(cargo(digits("8f")), 0.0)
    tried = []
    while effects:
        to, message = sent(effects)
        assert isinstance(message, Forward)
        assert message.hops == 1, "a hop that did not come about is not counted"
        tried.append(to)
        question = made.questions.given_up(message.hop)
        assert question is not None
        assert isinstance(question.message, Forward)
        made.miss(to)
        effects = made.routing.send_again(question, question.message, 0.0)
    assert effects == []
    assert len(tried) == len(set(tried)) == TRIES
    assert tried[:3] == [at("81"), at("82"), at("83")]


def test_a_root_that_is_silent_is_asked_twice_and_then_this_node_is_the_root():
    made = crowded()
    effects = made.routing.send(cargo(LEAVES[0].guid), 0.0)
    for _ in range(CERTAIN_MISSES):
        to, message = sent(effects)
        assert to == LEAVES[0]
        assert isinstance(message, Forward)
        question = made.questions.given_up(message.hop)
        made.miss(to)
        assert question is not None
        assert isinstance(question.message, Forward)
        effects = made.routing.send_again(question, question.message, 0.0)
    assert effects is None


def test_who_hears_nobody_for_a_moment_is_not_the_root_of_what_lies_far_away():
    """All neighbours left one question without an answer, and none is given up: a key beyond the leaf set has its root
    beyond it, so the cargo is dropped, and its origin asks again."""
    made = crowded("8", "9")
    for known in list(made.neighbours.all):
        made.miss(known.contact)
    assert not made.neighbours.leaves.covers(digits("8f"))
    assert made.routing.send(cargo(digits("8f")), 0.0) == []
    assert made.routing.send(cargo(key_near(0.3)), 0.0) is None


def test_who_has_given_all_up_is_the_root_of_everything():
    made = crowded("8")
    for known in list(made.neighbours.all):
        made.miss(known.contact, MISSES)
    assert made.routing.send(cargo(digits("8f")), 0.0) is None

"""The leaf set against a list of everybody (Bamboo, USENIX 2004, 3.1)."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.leaf_set import SIDE, LeafSet, nearest
from tapestry.messages import NAME_BYTES, Contact
from tests.unit.tapestry import model

FAR = st.integers(0, model.SPACE - 1)
CLOSE = st.integers(-200, 200)
EDGE = st.integers(-20, 20).map(lambda way: model.SPACE // 2 + way)
PLACES = st.lists(FAR | CLOSE | EDGE, max_size=60, unique_by=lambda place: place % model.SPACE)
OWN = st.sampled_from([0, 7, -1, model.SPACE // 2, 2**200]) | FAR


def filled(own: bytes, guids: list[bytes]) -> LeafSet:
    """A leaf set that has been shown all of these."""
    leaves = LeafSet(own)
    for guid in guids:
        if leaves.wants(guid):
            leaves.add(Contact(guid, "a"))
    return leaves


def members(leaves: LeafSet) -> set[bytes]:
    return {contact.guid for contact in leaves}


def around(own: int, places: list[int]) -> tuple[bytes, list[bytes]]:
    """GUIDs with places counted from `own`."""
    return model.guid(own), [model.guid(own + place) for place in places]


def random_guids(seed: object, count: int) -> list[bytes]:
    draw = Random(f"leaves {seed}")
    return [draw.randbytes(32) for _ in range(count)]


def way_of(own: int, guid: bytes) -> int:
    return (model.number(guid) - own) % model.SPACE


@given(OWN, PLACES)
def test_members_are_the_nearest_of_each_half(own, places):
    own_guid, guids = around(own, places)
    leaves = filled(own_guid, guids)
    assert members(leaves) == model.leaves(own_guid, guids)
    assert len(leaves) == len(list(leaves)) == len(members(leaves))
    assert leaves.whole == (len(leaves) == 2 * SIDE)


@given(OWN, PLACES, FAR | CLOSE | EDGE)
def test_it_wants_whoever_the_whole_list_would_bring_in(own, places, other):
    own_guid, guids = around(own, places)
    leaves, guid = filled(own_guid, guids), model.guid(own + other)
    inside = guid in model.leaves(own_guid, [*guids, guid])
    assert leaves.wants(guid) == (inside and guid not in members(leaves))
    assert (guid in leaves) == (guid in members(leaves))


@given(OWN, PLACES)
def test_each_that_comes_pushes_out_at_most_the_furthest(own, places):
    own_guid, guids = around(own, places)
    leaves = LeafSet(own_guid)
    for guid in guids:
        before = members(leaves)
        if leaves.wants(guid):
            gone = leaves.add(Contact(guid, "a"))
            assert (before | {guid}) - members(leaves) == ({gone.guid} if gone else set())
            assert gone is None or gone.guid != guid


@given(OWN, PLACES, st.sets(st.integers(0, 59)))
def test_who_is_removed_is_gone_and_nobody_else(own, places, going):
    own_guid, guids = around(own, places)
    leaves = filled(own_guid, guids)
    left = members(leaves)
    for at in going:
        guid = guids[at] if at < len(guids) else model.guid(own + at)
        leaves.remove(guid)
        left.discard(guid)
        assert members(leaves) == left


@given(OWN, PLACES)
def test_it_lists_each_side_from_the_nearest_on(own, places):
    own_guid, guids = around(own, places)
    leaves = filled(own_guid, guids)
    ways = [(model.number(contact.guid) - own) % model.SPACE for contact in leaves]
    up = [way for way in ways if way <= model.SPACE // 2]
    down = [model.SPACE - way for way in ways if way > model.SPACE // 2]
    assert up == sorted(up)
    assert down == sorted(down)
    assert ways == up + [model.SPACE - way for way in down]


@given(OWN, PLACES, FAR | CLOSE | EDGE)
def test_a_key_that_it_covers_has_its_root_there(own, places, key):
    """What is not covered lies beyond the furthest of a full side."""
    own_guid, guids = around(own, places)
    leaves, key_guid = filled(own_guid, guids), model.guid(own + key)
    everybody = [own_guid, *guids]
    if leaves.covers(key_guid) and leaves.whole:
        assert model.root(key_guid, everybody) in members(leaves) | {own_guid}
    if not leaves.covers(key_guid):
        way = (model.number(key_guid) - own) % model.SPACE
        side = [way_of(own, guid) for guid in members(leaves)]
        same = [each for each in side if (each <= model.SPACE // 2) == (way <= model.SPACE // 2)]
        assert len(same) == SIDE
        assert all(min(each, model.SPACE - each) < min(way, model.SPACE - way) for each in same)


def test_the_edges_of_what_it_covers():
    own, guids = around(1000, [*range(10, 90, 10), *range(-80, 0, 10)])
    leaves = filled(own, guids)
    assert leaves.whole
    assert all(leaves.covers(model.guid(1000 + way)) for way in (0, 1, 79, 80, -1, -79, -80))
    assert not any(leaves.covers(model.guid(1000 + way)) for way in (81, -81, 2**255, 2**100, -(2**100)))
    leaves.remove(model.guid(1030))
    assert leaves.covers(model.guid(1000 + 2**200)), "one side is short, so nobody beyond is known"
    assert not leaves.covers(model.guid(1000 - 81))


@pytest.mark.parametrize("count", range(2 * SIDE + 3))
def test_small_rings_are_known_whole(count):
    """As long as no half holds more than SIDE, everybody is a leaf of everybody, and every key is covered."""
    guids = [model.guid(model.SPACE // max(1, count) * i + 5) for i in range(count)]
    for own in guids:
        leaves = filled(own, guids)
        assert members(leaves) == model.leaves(own, guids)
        assert len(leaves) == min(count - 1, 2 * SIDE)
        assert own not in leaves
        assert count > 2 * SIDE or all(leaves.covers(key) for key in random_guids(count, 20))


def test_alone():
    leaves = LeafSet(model.guid(3))
    assert (len(leaves), list(leaves), leaves.names(), leaves.whole) == (0, [], b"", False)
    assert not leaves.wants(model.guid(3)), "nobody is a leaf of his own"
    assert leaves.covers(model.guid(4))


def test_the_place_opposite_belongs_to_the_upper_half():
    own, (opposite, above, below) = around(0, [2**255, 2**255 + 1, 2**255 - 1])
    leaves = filled(own, [opposite, above, below])
    assert [contact.guid for contact in leaves] == [below, opposite, above]


# --- comparing two leaf sets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 5, 17, 18, 30, 60])
@pytest.mark.parametrize("seed", range(4))
def test_lacking_is_what_the_other_wants(count, seed):
    guids = random_guids((count, seed), count)
    draw = Random(f"{count} {seed}")
    for _ in range(10):
        one, other = draw.sample(guids, 2)
        known = filled(one, draw.sample(guids, draw.randint(1, count)))
        theirs = filled(other, draw.sample(guids, draw.randint(0, count)))
        lacking = known.lacking(other, theirs.names(), ())
        assert {contact.guid for contact in lacking} == {leaf.guid for leaf in known if theirs.wants(leaf.guid)}


@pytest.mark.parametrize("seed", range(8))
def test_two_that_know_everybody_have_no_news_for_each_other(seed):
    guids = random_guids(f"all {seed}", 50)
    sets = {guid: filled(guid, guids) for guid in guids}
    assert all(sets[one].lacking(other, sets[other].names(), ()) == [] for one in guids for other in guids[:9])


def test_names_are_the_beginnings():
    own, guids = around(0, [2**250, 2**251])
    assert filled(own, guids).names() == b"".join(guid[:NAME_BYTES] for guid in guids)


def test_nobody_that_is_passed_over_is_news():
    own, guids = around(0, [2**250 * i for i in range(1, 7)])
    known = filled(own, guids)
    other = model.guid(2**255)
    assert {contact.guid for contact in known.lacking(other, b"", ())} == set(guids)
    assert {contact.guid for contact in known.lacking(other, b"", guids[:2])} == set(guids[2:])
    assert {contact.guid for contact in known.lacking(guids[3], b"", ())} == set(guids) - {guids[3]}


def test_two_that_begin_alike_pass_for_one():
    """Whoever has one of them is not told of the other; whoever has neither is told of both."""
    one, twin = model.digits("a" * 16 + "1"), model.digits("a" * 16 + "2")
    known = filled(model.digits("4"), [one, twin])
    other = model.digits("9")
    assert known.lacking(other, one[:NAME_BYTES], ()) == []
    assert {contact.guid for contact in known.lacking(other, b"", ())} == {one, twin}


@pytest.mark.parametrize("other", ["a" * 16 + "1", "a" * 16 + "3"])
def test_news_of_a_node_that_begins_like_the_asker(other):
    twin = model.digits("a" * 16 + "2")
    known = filled(model.digits("4"), [twin])
    assert [contact.guid for contact in known.lacking(model.digits(other), b"", ())] == [twin]


@given(st.binary(max_size=512), st.binary(min_size=32, max_size=32))
def test_names_of_any_kind_bring_no_more_than_it_holds(names, other):
    known = filled(model.digits("4"), random_guids("any", 40))
    lacking = known.lacking(other, names, ())
    assert {contact.guid for contact in lacking} <= members(known) - {other}
    assert len(lacking) == len({contact.guid for contact in lacking})


# --- roots ----------------------------------------------------------------------------------------------------------


@given(st.lists(FAR | CLOSE | EDGE, min_size=1, max_size=20, unique_by=lambda place: place % model.SPACE), FAR | CLOSE)
def test_the_nearest_is_the_root(places, key):
    guids = [model.guid(place) for place in places]
    found = nearest(model.guid(key), [Contact(guid, "a") for guid in guids])
    assert found is not None
    assert found.guid == model.root(model.guid(key), guids)


def test_of_two_equally_far_the_lower_is_the_root():
    below, above = model.contact(90), model.contact(110)
    assert nearest(model.guid(100), [above, below]) == nearest(model.guid(100), [below, above]) == below
    last, first = model.contact(-10), model.contact(10)
    assert nearest(model.guid(0), [last, first]) == first, "the lower GUID, not the lower side"
    assert nearest(model.guid(0), []) is None

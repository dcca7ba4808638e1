"""The routing table: rows, slots, backups (Tapestry, JSAC 2004, III-B)."""

from random import Random

import pytest

from tapestry.guid import digit, shared_digits
from tapestry.routing_table import SLOT, RoutingTable
from tests.unit.tapestry.model import at, digits

OWN = digits("4227")


def table(*texts: str) -> RoutingTable:
    """A table that holds these, the first of them nearest by round trip."""
    made = RoutingTable(OWN)
    for rank, text in enumerate(texts):
        made.put(at(text), 0.01 * (rank + 1))
    return made


@pytest.mark.parametrize(
    ("text", "row"),
    [("3", 0), ("5", 0), ("43", 1), ("40", 1), ("423", 2), ("4228", 3), ("42271", 4), ("4227000000001", 12)],
)
def test_a_node_stands_in_the_row_of_what_it_shares(text, row):
    filled = table(text)
    assert filled.rows() == [row]
    assert filled.row(row) == [at(text)]
    assert all(filled.row(other) == [] for other in range(64) if other != row)


def test_a_row_is_in_the_order_of_digits():
    filled = table("f", "0", "8", "3", "43", "41")
    assert filled.row(0) == [at("0"), at("3"), at("8"), at("f")]
    assert filled.row(1) == [at("41"), at("43")]
    assert filled.rows() == [0, 1]
    assert filled.primaries == {at(text).guid for text in ("f", "0", "8", "3", "43", "41")}


def test_the_nearest_by_round_trip_comes_first_and_two_more_behind_it():
    filled = RoutingTable(OWN)
    for text, rtt in (("81", 0.05), ("82", 0.01), ("83", 0.03)):
        assert filled.put(at(text), rtt) is None
    assert filled.toward(digits("8f")) == [at("82"), at("83"), at("81")]
    assert (filled.primaries, filled.row(0)) == ({at("82").guid}, [at("82")])


def test_a_nearer_one_pushes_the_furthest_out_and_a_further_one_itself():
    filled = table("81", "82", "83")
    assert filled.put(at("84"), 0.015) == at("83")
    assert filled.toward(digits("8")) == [at("81"), at("84"), at("82")]
    assert filled.put(at("85"), 9.0) == at("85")
    assert at("85").guid not in filled
    assert at("83").guid not in filled


def test_a_new_round_trip_sorts_it_in_anew():
    filled = table("81", "82", "83")
    assert filled.put(at("83"), 0.001) is None
    assert filled.put(at("81"), 5.0) is None
    assert filled.toward(digits("8")) == [at("83"), at("82"), at("81")]


def test_it_wants_nodes_as_long_as_there_is_room():
    filled = table("81", "82")
    filled.constrain(at("82"))
    assert filled.wants(digits("83"))
    assert not filled.wants(digits("82")), "it is here"
    filled.put(at("83"), 1.0)
    assert not filled.wants(digits("84"))
    assert filled.wants(digits("91")), "another slot"
    filled.remove(digits("81"))
    assert filled.wants(digits("84"))


def test_a_backup_takes_the_place_of_a_primary_that_goes():
    filled = table("81", "82", "83")
    filled.remove(digits("81"))
    assert filled.primaries == {at("82").guid}
    for text in ("82", "83", "83"):
        filled.remove(digits(text))
    assert (filled.toward(digits("8")), filled.primaries, filled.rows()) == ([], set(), [])


def test_removing_who_is_not_there_changes_nothing():
    filled = table("81", "43")
    for text in ("82", "9", "44", "5"):
        filled.remove(digits(text))
    assert set(filled) == {at("81"), at("43")}


@pytest.mark.parametrize(
    ("key", "found"),
    [("8f", "81"), ("80", "81"), ("43f", "432"), ("44", None), ("9", None), ("423", "4231"), ("4226", None)],
)
def test_toward_a_key_are_those_that_share_one_digit_more(key, found):
    filled = table("81", "432", "4231")
    assert filled.toward(digits(key)) == ([at(found)] if found else [])


def test_it_does_not_hold_the_node_itself():
    assert OWN not in table("81", "4")


@pytest.mark.parametrize("seed", range(30))
def test_against_a_list_of_everybody(seed):
    """Any order of nodes and round trips: each slot holds the nearest SLOT of those that were put and not removed."""
    draw = Random(f"table {seed}")
    filled = RoutingTable(OWN)
    kept: dict[tuple[int, int], list[tuple[float, bytes]]] = {}
    pool = [draw.choice(["", "4", "42", "422"]) + f"{draw.randrange(16**4):04x}" for _ in range(60)]
    for _ in range(200):
        node = at(draw.choice(pool))
        if node.guid == OWN:
            continue
        row = shared_digits(OWN, node.guid)
        slot = kept.setdefault((row, digit(node.guid, row)), [])
        wanted = filled.wants(node.guid)
        assert filled.has_room(node.guid) == (len(slot) < SLOT)
        assert wanted == all(guid != node.guid for _, guid in slot), "nothing stands at the point of a slot"
        slot[:] = [entry for entry in slot if entry[1] != node.guid]
        if draw.random() < 0.25:
            filled.remove(node.guid)
        else:
            rtt = draw.random()
            slot.append((rtt, node.guid))
            slot.sort()
            out = filled.put(node, rtt)
            assert (out.guid if out else None) == (slot.pop()[1] if len(slot) > SLOT else None)
        assert [contact.guid for contact in filled.toward(node.guid)] == [guid for _, guid in slot]
    everybody = {guid for slot in kept.values() for _, guid in slot}
    assert {contact.guid for contact in filled} == everybody
    assert all(guid in filled for guid in everybody)
    assert filled.rows() == sorted({row for (row, _), slot in kept.items() if slot})

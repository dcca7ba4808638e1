"""Constrained entries of the routing table: nobody is in one by what others say of it (Castro et al., OSDI 2002)."""

from random import Random

import pytest

from tapestry.effects import Received, Send
from tapestry.guid import digit, distance, shared_digits
from tapestry.messages import NAME_BYTES, Contact, GetConstrained, Probe, Row
from tapestry.neighbours import Neighbours
from tapestry.routing_table import RoutingTable, nearer, point
from tests.unit.tapestry.model import at, digits
from tests.unit.tapestry.stage import Stage

OWN = digits("4227")


@pytest.mark.parametrize(
    ("row", "column", "there"), [(0, 0, "0227"), (0, 15, "f227"), (1, 3, "4327"), (2, 9, "4297"), (63, 1, "4227")]
)
def test_a_point_is_the_own_guid_with_one_other_digit(row, column, there):
    expected = digits(there) if row < 63 else digits("4227")[:31] + b"\x01"
    assert point(OWN, row, column) == expected


def test_the_nearest_to_the_point_has_the_entry_whatever_its_round_trip():
    table = RoutingTable(OWN)
    assert table.constrain(at("8f")) is None
    assert table.constrain(at("823")) == at("8f")
    assert table.constrain(at("829")) is None
    for rank, text in enumerate(("8f", "8e", "8d")):
        table.put(at(text), 0.01 * (rank + 1))
    assert table.toward(digits("8b")) == [at("8f"), at("8e"), at("8d"), at("823")], "in need, behind all others"
    assert table.toward(digits("8b"), constrained=True) == [at("823"), at("8f"), at("8e"), at("8d")]
    assert set(table) == {at("823"), at("8f"), at("8e"), at("8d")}
    assert at("823").guid in table
    assert not table.wants(digits("829"))
    assert table.wants(digits("8228"))


def test_when_it_goes_another_of_the_slot_takes_its_place():
    table = RoutingTable(OWN)
    for text in ("8f", "823"):
        table.put(at(text), 0.1)
        table.constrain(at(text))
    table.remove(digits("823"))
    assert table.constrained() == [at("8f")]
    table.remove(digits("8f"))
    assert (table.constrained(), list(table)) == ([], [])


@pytest.mark.parametrize("seed", range(20))
def test_against_a_list_of_everybody(seed):
    """Whoever is heard of, in any order: each entry is the nearest of all to its point."""
    draw = Random(f"constrained {seed}")
    neighbours = Neighbours(Contact(OWN, "own"))
    heard = {Contact(bytes([draw.choice([0x42, draw.randrange(256)])]) + draw.randbytes(31), "n") for _ in range(120)}
    for contact in sorted(heard, key=lambda _: draw.random()):
        neighbours.heard(contact, 1.0)
    best: dict[tuple[int, int], bytes] = {}
    for guid in (contact.guid for contact in heard):
        row = shared_digits(OWN, guid)
        place = row, digit(guid, row)
        nearest = best.get(place)
        if nearest is None or distance(guid, point(OWN, *place)) < distance(nearest, point(OWN, *place)):
            best[place] = guid
    assert {contact.guid for contact in neighbours.table.constrained()} == set(best.values())
    assert all(guid in neighbours for guid in best.values())
    for guid in best.values():
        neighbours.forget(guid, 2.0)
    assert not {contact.guid for contact in neighbours.table.constrained()} & set(best.values())


def test_of_all_nodes_those_are_told_that_are_nearer_than_what_the_other_has():
    names = b"".join(digits(text)[:NAME_BYTES] for text in ("8f", "123", "4f"))
    known = [at(text) for text in ("8e", "823", "829", "1f", "1229", "5", "43", "4227f")]
    assert set(nearer(OWN, 0, names, known)) == {at("823"), at("1229"), at("5")}
    assert nearer(OWN, 1, names, known) == [at("43")]
    assert nearer(OWN, 0, b"".join(each.guid[:NAME_BYTES] for each in known), known) == []


def test_a_node_tells_what_it_knows_and_who_asked_asks_those_if_they_are_there():
    stage = Stage("constrained")
    stage.grow(30)
    name, other = sorted(stage.nodes)[:2]
    asker = stage.contacts[name]
    effects = stage.step(other, Received(asker, GetConstrained(7, 0, b""), stage.now))
    rows = [effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, Row)]
    assert len(rows) == 1
    assert len({digit(contact.guid, 0) for contact in rows[0].contacts}) == len(rows[0].contacts) > 5
    assert not any(contact.guid == asker.guid for contact in rows[0].contacts)


def test_neighbours_have_the_nearest_of_all_in_time():
    """Every node asks its leaves, whose points are close to its own, so the nearest are found by all around them."""
    stage = Stage("found")
    stage.grow(30)
    stage.run(300.0)
    entries = right = 0
    for node in stage.nodes.values():
        own = node.contact.guid
        for contact in node.neighbours.table.constrained():
            row = shared_digits(own, contact.guid)
            column = digit(contact.guid, row)
            slot = [g for g in stage.guids if shared_digits(own, g) == row and digit(g, row) == column]
            entries += 1
            right += contact.guid == min(slot, key=lambda guid: distance(guid, point(own, row, column)))
    assert entries > 300
    assert right > 0.95 * entries, stage.story(f"{right} of {entries}")


def test_who_is_named_is_taken_up_by_its_own_word_alone():
    stage = Stage("named")
    stage.grow(12)
    nobody = Contact(stage.draw.randbytes(32), "nowhere")
    node = stage.nodes["n3"]
    effects = stage.step("n3", Received(stage.contacts["n4"], Row(node._questions.last, (nobody,)), stage.now))
    assert not any(isinstance(effect, Send) for effect in effects), "it did not ask"
    asked = node._upkeep._ask_for_constrained(stage.now)
    question = next(effect for effect in asked if isinstance(effect, Send))
    assert isinstance(question.message, GetConstrained)
    row = Row(question.message.id, (nobody,))
    effects = stage.step("n3", Received(question.to, row, stage.now))
    assert [effect.to for effect in effects if isinstance(effect, Send) and isinstance(effect.message, Probe)] == [
        nobody
    ]
    assert nobody.guid not in node.neighbours


def test_a_constrained_cargo_goes_by_the_constrained_entry_and_around_it_when_it_is_silent():
    stage = Stage("cargo")
    stage.grow(40)
    node = stage.nodes["n3"]
    neighbours, routing = node.neighbours, node.routing
    keys = (stage.draw.randbytes(32) for _ in range(500))
    key = next(
        key
        for key in keys
        if not neighbours.leaves.covers(key)
        and neighbours.table.toward(key)[:1] != neighbours.table.toward(key, constrained=True)[:1]
    )
    entry = routing.next_hop(key, constrained=True)
    assert entry in neighbours.table.constrained()
    assert routing.next_hop(key) != entry
    assert entry is not None
    assert routing.next_hop(key, (entry.guid,), constrained=True) == routing.next_hop(key)

"""Chord, the baseline: rings form, searches end at the successor, and crashes of successors are survived."""

import random

import pytest

from cluster.sim import chord
from cluster.sim.chord_messages import (
    Acknowledge,
    Forward,
    Found,
    GetNeighbours,
    Leaving,
    Neighbours,
    Notify,
    Ping,
    Pong,
    Timer,
)
from cluster.sim.churn import oracle
from cluster.sim.churn.overlay import named, successor
from cluster.sim.churn.workload import populate
from cluster.sim.churn.world import World
from cluster.sim.round_trips import FIRST_SECONDS, MOST_SECONDS, RoundTrips
from tapestry.effects import Joined, Leave, Received, Resolved, Route, Send, SetTimer, Started, TimerFired
from tapestry.messages import Contact


def contact(place):
    """A node at this sixteenth of the ring."""
    return Contact(bytes([place << 4]) + bytes(31), f"node-{place}")


def key(place):
    return contact(place).guid


def member(place, *others):
    """A node that has joined, and has these for its successors."""
    node = chord.Node(contact(place), random.Random(1))
    if not others:
        node.step(Started((), 0.0))
        return node
    join = said(node.step(Started((contact(others[0]),), 0.0)), Forward)[0]
    asked = said(heard(node, others[0], Found(join.number, 1), 0.1), GetNeighbours)[0]
    tail = tuple(map(contact, others[1:]))
    effects = heard(node, others[0], Neighbours(asked.id, None, tail), 0.2)
    assert Joined() in effects
    return node


def heard(node, place, message, now):
    return node.step(Received(contact(place), message, now))


def fired(node, timer, now):
    return node.step(TimerFired(timer, now))


def timers(effects):
    return [effect.timer for effect in effects if isinstance(effect, SetTimer)]


def said(effects, kind):
    return [effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, kind)]


def sent_to(effects, kind):
    return [effect.to for effect in effects if isinstance(effect, Send) and isinstance(effect.message, kind)]


def world_of(nodes, seconds=120.0, seed=1):
    world = World(named("chord"), seed)
    populate(world, nodes, nodes / 4)
    world.loop.run(seconds)
    return world


def ring_of(world):
    """Each live GUID, with that of its successor and of its predecessor as the node has them."""
    cores = {host.contact.guid: host.core for host in world.live}
    return {guid: (core.successors[0].guid, core.predecessor.guid) for guid, core in cores.items()}


def assert_is_ring(world):
    guids = sorted(host.contact.guid for host in world.live)
    before_and_after = zip([guids[-1], *guids], guids, [*guids[1:], guids[0]], strict=False)
    assert ring_of(world) == {guid: (after, before) for before, guid, after in before_and_after}


# --- step by step ------------------------------------------------------------------------------------------------


def test_the_first_node_is_a_member_at_once_and_answers_itself():
    node = chord.Node(contact(3), random.Random(1))
    effects = node.step(Started((), 0.0))
    assert effects[0] == Joined()
    assert sorted(timer.kind for timer in timers(effects)) == ["finger", "predecessor", "stabilize"]
    assert node.step(Route(key(9), 7, 1.0)) == [Resolved(7, contact(3), 0)]


def test_a_node_joins_by_a_search_for_its_own_guid_and_the_list_of_its_successor():
    node = chord.Node(contact(3), random.Random(1))
    join = said(node.step(Started((contact(8),), 0.0)), Forward)[0]
    assert (join.key, join.origin, join.last) == (key(3), contact(3), False)
    asked = heard(node, 5, Found(join.number, 2), 0.2)
    assert sent_to(asked, GetNeighbours) == [contact(5)]
    answer = Neighbours(said(asked, GetNeighbours)[0].id, contact(1), (contact(8), contact(1)))
    effects = heard(node, 5, answer, 0.4)
    assert Joined() in effects
    assert sent_to(effects, Notify) == [contact(5)]
    assert node.successors == [contact(5), contact(8), contact(1)]


def test_a_join_without_an_answer_is_begun_again():
    node = chord.Node(contact(3), random.Random(1))
    node.step(Started((contact(8),), 0.0))
    assert sent_to(fired(node, Timer("join"), 3.0), Forward) == [contact(8)]


@pytest.mark.parametrize(
    ("place", "to", "last"),
    [(4, 5, True), (5, 5, True), (6, 5, False), (9, 8, False), (15, 8, False), (2, 8, False)],
)
def test_a_search_goes_to_the_successor_or_else_to_the_closest_that_comes_before_the_key(place, to, last):
    effects = member(3, 5, 8).step(Route(key(place), 7, 1.0))
    assert sent_to(effects, Forward) == [contact(to)]
    assert [message.last for message in said(effects, Forward)] == [last]


def test_who_is_told_to_be_last_answers_the_origin_and_acknowledges_the_hop():
    forward = Forward(12, key(2), contact(9), 34, 3, True)
    effects = heard(member(3, 5, 8), 1, forward, 1.0)
    assert effects == [(contact(1), Acknowledge(12)), (contact(9), Found(34, 3))]


def test_a_key_between_the_predecessor_and_the_node_is_its_own():
    node = member(3, 5, 8)
    heard(node, 1, Notify(), 1.0)
    assert node.predecessor == contact(1)
    assert node.step(Route(key(2), 7, 1.0)) == [Resolved(7, contact(3), 0)]
    assert sent_to(node.step(Route(key(1), 8, 1.0)), Forward) == [contact(8)]


def test_only_a_nearer_predecessor_takes_the_place_of_one():
    node = member(3, 5, 8)
    for place, kept in ((1, 1), (15, 1), (2, 2)):
        heard(node, place, Notify(), 1.0)
        assert node.predecessor == contact(kept)


def test_stabilize_finds_the_node_that_came_between():
    node = member(3, 6, 8)
    asked = said(fired(node, Timer("stabilize"), 5.0), GetNeighbours)[0]
    effects = heard(node, 6, Neighbours(asked.id, contact(4), (contact(8),)), 5.1)
    assert node.successors == [contact(4), contact(6), contact(8)]
    assert sent_to(effects, Notify) == sent_to(effects, GetNeighbours) == [contact(4)]


def test_who_is_silent_is_passed_over_at_once_and_forgotten_after_a_second_silence():
    node = member(3, 5, 8, 12)
    hop = said(node.step(Route(key(4), 7, 1.0)), Forward)[0].hop
    effects = fired(node, Timer("answer", hop), 2.0)
    assert sent_to(effects, Forward) == [contact(8)]
    assert sent_to(effects, Ping) == [contact(5)]
    assert node.successors[0] == contact(5)
    fired(node, Timer("answer", said(effects, Ping)[0].id), 3.0)
    assert node.successors == [contact(8), contact(12)]


def test_a_suspect_that_says_something_is_none_any_longer():
    node = member(3, 5, 8)
    hop = said(node.step(Route(key(4), 7, 1.0)), Forward)[0].hop
    ping = said(fired(node, Timer("answer", hop), 2.0), Ping)[0].id
    heard(node, 5, Pong(ping), 2.5)
    assert fired(node, Timer("answer", ping), 3.0) == []
    assert sent_to(node.step(Route(key(4), 8, 3.0)), Forward) == [contact(5)]


def test_fingers_are_looked_up_from_the_farthest_to_the_nearest_beyond_the_successor_list():
    node = member(0, 1, 2)
    searched = []
    for number in range(5):
        forward = said(fired(node, Timer("finger"), 2.0 * number), Forward)[0]
        searched.append(forward.key[0] >> 4)
        heard(node, 9, Found(forward.number, 1), 2.0 * number + 1)
    assert searched == [8, 4, 8, 4, 8]
    assert node.fingers == {255: contact(9), 254: contact(9)}
    assert sent_to(node.step(Route(key(12), 7, 9.0)), Forward) == [contact(9)]


def test_a_node_whose_whole_list_died_goes_on_with_the_next_that_it_knows():
    node = member(0, 1)
    forward = said(fired(node, Timer("finger"), 2.0), Forward)[0]
    heard(node, 9, Found(forward.number, 1), 2.5)
    ping = said(
        fired(node, Timer("answer", said(fired(node, Timer("stabilize"), 5.0), GetNeighbours)[0].id), 6.0), Ping
    )
    fired(node, Timer("answer", ping[0].id), 8.0)
    assert node.successors == []
    assert sent_to(fired(node, Timer("stabilize"), 10.0), GetNeighbours) == [contact(9)]


def test_whoever_leaves_tells_its_neighbours_and_is_gone_there():
    leaver = member(3, 5, 8)
    heard(leaver, 1, Notify(), 1.0)
    effects = leaver.step(Leave(2.0))
    assert [effect.to for effect in effects] == [contact(1), contact(5)]
    before = member(1, 3, 5)
    heard(before, 3, Leaving((contact(5), contact(8))), 2.1)
    assert before.successors == [contact(5), contact(8)]


# --- together ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [1, 2, 3, 24])
def test_nodes_that_join_one_after_another_form_a_ring(nodes):
    world = world_of(nodes)
    assert len(world.members) == nodes
    if nodes > 1:
        assert_is_ring(world)


def test_every_search_ends_at_the_successor_of_its_key():
    world = world_of(24)
    keys = [random.Random(number).randbytes(32) for number in range(20)]
    assert oracle.ask_everyone(world, named("chord"), keys) == oracle.Agreement(20, 20, 20, 480, 480)


def test_crashes_of_neighbours_in_a_row_are_survived():
    world = world_of(24)
    ordered = sorted(world.live, key=lambda host: host.contact.guid)
    for host in ordered[4:14]:
        world.crash(host)
    keys = [host.contact.guid for host in ordered[4:14]]
    world.loop.run(world.loop.now + 60)
    assert_is_ring(world)
    assert oracle.ask_everyone(world, named("chord"), keys).complete
    assert successor(keys[0], [host.contact.guid for host in world.live]) == ordered[14].contact.guid


# --- round trips -------------------------------------------------------------------------------------------------


def test_timeouts_follow_round_trips_and_those_of_others_where_there_are_none():
    trips = RoundTrips()
    assert trips.timeout(b"a") == FIRST_SECONDS
    for _ in range(50):
        trips.add(b"a", 0.1)
    assert 0.1 < trips.timeout(b"a") < 0.2
    assert 0.1 < trips.timeout(b"b") < 0.25
    trips.add(b"a", 0.5)
    assert 0.5 < trips.timeout(b"a") < 0.9
    trips.add(b"c", 2.0)
    assert trips.timeout(b"c") == MOST_SECONDS
    trips.forget(b"c")
    assert trips.timeout(b"c") < MOST_SECONDS

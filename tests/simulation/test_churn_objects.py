"""Objects in simulated churn: published, read, held elsewhere when holders die; nodes that lie; one object eclipsed."""

import json
import random

import click.testing
import pytest

from cluster.sim.churn import liars, objects
from cluster.sim.churn.keys import Notary
from cluster.sim.churn.objects import HOLDERS, WorldWithObjects
from cluster.sim.churn.overlay import named
from cluster.sim.churn.run import SETTLE_SECONDS, START_SECONDS, Plan, simulate
from cluster.sim.churn.workload import populate
from cluster.sim.cli import sim
from tapestry.effects import Received, Send, Started
from tapestry.guid import distance
from tapestry.messages import (
    Acknowledge,
    Contact,
    Copies,
    Find,
    Forward,
    Found,
    GetRow,
    Join,
    Leaves,
    Locate,
    Located,
    NotLocated,
    Publish,
    Row,
    Welcome,
)
from tapestry.node import Node
from tapestry.pointers import make, node_guid, refuse, root_key

SMALL = Plan("tapestry", 30, 360.0, 20.0, 1, objects=8)


def command(*arguments):
    return click.testing.CliRunner().invoke(sim, ["churn", *arguments])


def world_of(nodes=30, seed=1, lying=0, eclipsing=0, held=6):
    """A world in which all have joined, and some hold the objects."""
    world = WorldWithObjects(named("tapestry"), "periodic", seed, 0.0, nodes, held, lying, eclipsing)
    populate(world, nodes, 30.0)
    world.loop.run(60.0)
    world.begin()
    world.loop.run(100.0)
    return world


def test_every_object_is_read_from_its_holders_and_again_when_they_have_died():
    run = simulate(SMALL._replace(median_session_seconds=120.0, seconds=30.0))
    assert run.objects is not None
    assert run.objects.all.reads > 50
    assert run.objects.all.succeeded == 1.0
    assert run.objects.eclipsed.reads == 0
    assert (run.objects.all.stretch or 0.0) >= 1.0


def test_after_a_longer_settling_objects_are_published_in_its_last_minute():
    run = simulate(SMALL._replace(median_session_seconds=None, settle_seconds=90.0))
    assert run.plan.replay().endswith("--minutes 0.333333 --settle 1.5m --overlay tapestry --objects 8 --seed 1")
    assert run.virtual_seconds >= START_SECONDS + 90.0 + 20.0
    assert run.objects is not None
    early = simulate(run.plan._replace(settle_seconds=SETTLE_SECONDS))
    assert early.objects is not None
    assert 0.5 < run.objects.all.reads / early.objects.all.reads < 2.0, "as many are measured"
    assert run.virtual_seconds - early.virtual_seconds == pytest.approx(30.0, abs=2.0)


def test_the_same_seed_is_the_same_run_and_what_is_not_asked_for_changes_nothing():
    plan = SMALL._replace(seconds=10.0, liars=0.2, eclipse=4, nodes=20)
    assert simulate(plan).trace == simulate(plan).trace
    bare = plan._replace(objects=None, liars=0.0, eclipse=0)
    assert simulate(bare).objects is None


def test_where_a_holder_dies_another_holds_the_object():
    world = world_of()
    obj = world._objects[0]
    before = set(world._holders[obj])
    assert len(before) == HOLDERS
    world.crash(world.hosts[min(before)])
    assert len(world._holders[obj]) == HOLDERS
    assert set(world._holders[obj]) - before
    assert all(host.core is not None for host in world._holders[obj].values())


def test_who_does_not_give_the_object_is_passed_over():
    world = world_of()
    holders = world._holders[world._objects[0]]
    one, *others = list(holders)
    for number in others:
        del holders[number]
    asker = next(host for host in world.askers if host.number not in (one, *others))
    world._read(asker, world._objects[0])
    read = world.reads[-1]
    world.loop.run(world.loop.now + 10.0)
    assert read.answered is not None
    assert read.attempts == 1 + len(read.passed_over)
    assert {world.host(guid).number for guid in read.passed_over} <= set(others)
    wrong = len(read.passed_over)
    least = objects.FETCH_SECONDS + (wrong - 1) * objects.NEXT_FETCH_SECONDS if wrong else 0.0
    assert read.way_seconds >= least


def test_among_liars_objects_are_read():
    """Success is all; and that who claims everything is asked last shows in the time: 2.2 s without, 0.4 s with it."""
    run = simulate(Plan("tapestry", 60, None, 15.0, 1, objects=15, liars=0.3))
    assert run.objects is not None
    assert run.objects.all.reads > 50
    assert run.objects.all.succeeded == 1.0
    assert run.objects.all.p50_seconds is not None
    assert run.objects.all.p50_seconds < 1.0


def test_an_object_whose_first_root_is_surrounded_is_read():
    run = simulate(Plan("tapestry", 40, None, 10.0, 1, objects=10, eclipse=12))
    assert run.objects is not None
    assert run.objects.eclipsed.reads > 15
    assert run.objects.eclipsed.succeeded == 1.0


def test_who_eclipses_is_nearer_to_the_root_than_any_honest_node():
    world = world_of(eclipsing=5)
    assert world.eclipsed is not None
    key = root_key(world.eclipsed, 0)
    lying = [host.contact.guid for host in world.hosts if not host.honest]
    assert len(lying) == 5
    nearest = min(distance(key, host.contact.guid) for host in world.live)
    assert all(distance(key, guid) < nearest for guid in lying)
    assert not any(host in set(world.askers) or host in set(world.live) for host in world.hosts if not host.honest)


def test_of_the_first_nodes_as_many_lie_as_were_asked_for_and_none_dies():
    world = world_of(lying=7)
    assert sum(not host.honest for host in world.hosts) == 7
    assert world.hosts[0].honest, "somebody has to begin"
    assert (len(world.live), len(world.members)) == (23, 30)


# --- keys --------------------------------------------------------------------------------------------------------


def test_nobody_signs_for_another():
    notary = Notary(random.Random(1))
    alice, bob = notary.new(), notary.new()
    contact = Contact(node_guid(alice.public_key), "a")
    (pointer,) = make(alice, contact, [b"o" * 32], 0, 60)
    assert refuse(pointer, bob, 1.0) is None
    (forged,) = make(bob, contact, [b"o" * 32], 0, 60)
    assert refuse(forged, alice, 1.0) is not None
    assert not bob.verify(b"?" * 32, b"data", bob.sign(b"data"))


def test_a_place_is_found_by_drawing_keys():
    place, places = b"\x42" * 32, 1 << 250
    assert distance(node_guid(Notary(random.Random(1)).new_near(place, places).public_key), place) < places


# --- liars -------------------------------------------------------------------------------------------------------


class Lair:
    """One liar and a friend of it, as their victim sees them."""

    def __init__(self, searches="swallow", finds="swallow"):
        notary, choices = Notary(random.Random(2)), random.Random(3)
        self.league = liars.League()
        self.victim = Contact(node_guid(notary.new().public_key), "victim")
        self.liars = []
        for name in ("one", "two"):
            keys = notary.new()
            node = Node(Contact(node_guid(keys.public_key), name), random.Random(name), keys=keys)
            lie = liars.Liar(node, keys, self.league, liars.Manners(searches, finds), choices)
            self.liars.append((node.contact, lie))
        self.league.gone.append(Contact(b"\x01" * 32, "nowhere"))
        (_, core), (second, other) = self.liars
        core.step(Started((), 0.0))
        other.step(Started((), 0.0))
        core.step(Received(second, Leaves(1, b""), 1.0))

    def hears(self, message, sender=None):
        """What the first says to a message, without its acknowledgement."""
        effects = self.liars[0][1].step(Received(sender or self.victim, message, 2.0))
        sends = [(effect.to, effect.message) for effect in effects if isinstance(effect, Send)]
        return [(to, said) for to, said in sends if not isinstance(said, Acknowledge)]

    def forward(self, cargo, key=b"\x33" * 32):
        return Forward(5, key, self.victim, 77, 1, cargo)


def test_searches_are_swallowed_denied_or_claimed():
    search = Locate(b"o" * 32, 0, None, ())
    assert Lair("swallow").hears(Lair().forward(search)) == []
    lair = Lair("deny")
    assert lair.hears(lair.forward(search)) == [(lair.victim, NotLocated(77, 1))]
    lair = Lair("claim")
    ((to, said),) = lair.hears(lair.forward(search))
    assert to == lair.victim
    assert isinstance(said, Located)
    assert said.pointer.holder == lair.liars[0][0]


def test_who_was_passed_over_lets_another_claim():
    lair = Lair("claim")
    (one, _), (two, other) = lair.liars
    ((to, said),) = lair.hears(lair.forward(Locate(b"o" * 32, 0, None, (one.guid,))))
    assert to == two
    other.step(Received(lair.victim, Leaves(1, b""), 1.0))
    answers = [e.message for e in other.step(Received(one, said, 2.0)) if isinstance(e, Send)]
    assert any(isinstance(answer, Located) and answer.pointer.holder == two for answer in answers)
    assert lair.hears(lair.forward(Locate(b"o" * 32, 0, None, (one.guid, two.guid)))) == []


def test_the_nearest_liar_says_that_it_is_the_root():
    lair = Lair(finds="claim")
    (one, _), (two, _) = lair.liars
    assert lair.hears(lair.forward(Find(), one.guid)) == [(lair.victim, Found(77, 1))]
    message = lair.forward(Find(), two.guid)
    assert lair.hears(message) == [(two, message)]
    assert lair.hears(lair.forward(Find(), one.guid), sender=two) == [(lair.victim, Found(77, 1))]


def test_who_joins_and_who_asks_is_told_of_liars():
    lair = Lair()
    names = {contact for contact, _ in lair.liars}
    ((_, welcome),) = lair.hears(lair.forward(Join(()), lair.victim.guid))
    assert isinstance(welcome, Welcome)
    assert set(welcome.leaves) == names
    lair.hears(Leaves(1, b""))
    rows = [said for _, said in lair.hears(GetRow(9, 0)) if isinstance(said, Row)]
    assert [set(row.contacts) for row in rows] == [names | set(lair.league.gone)]


def test_objects_that_are_heard_of_are_claimed_at_their_roots():
    lair = Lair()
    notary = Notary(random.Random(9))
    keys = notary.new()
    holder = Contact(node_guid(keys.public_key), "holder")
    (pointer,) = make(keys, holder, [b"o" * 32], 0, 60)
    assert lair.hears(lair.forward(Publish(pointer, 0))) == []
    assert lair.league.objects == [b"o" * 32]
    pushed = lair.liars[0][1]._push(3.0)
    copies = [effect.message for effect in pushed if isinstance(effect, Send) and isinstance(effect.message, Copies)]
    assert {salt for message in copies for salt, _ in message.pointers} == {0, 1, 2, 3}
    assert {claim.holder for message in copies for _, claim in message.pointers} == {lair.liars[0][0]}


# --- the command -------------------------------------------------------------------------------------------------


def test_the_command_answers_with_reads_and_says_how_to_replay_them():
    words = "--nodes 20 --minutes 0.2 --seed 1 --median-session never --liars 0.2 --eclipse 3 --objects 5".split()
    done = command(*words, "--json")
    assert done.exit_code == 0
    assert "--objects 5 --liars 0.2 --eclipse 3 --seed 1" in done.stderr
    read = json.loads(done.stdout)["objects"]
    assert (read["objects"], read["liars"], read["eclipsing"]) == (5, 4, 3)
    assert read["read"]["reads"] >= read["eclipsed"]["reads"] > 0
    assert 0 <= read["read"]["succeeded"] <= 1


@pytest.mark.parametrize("option", [["--objects", "3"], ["--liars", "0.2"], ["--eclipse", "5"]])
def test_chord_has_no_objects(option):
    done = command("--overlay", "chord", *option)
    assert done.exit_code == 2
    assert "are of tapestry" in done.stderr

"""How nodes of the overlay join, route, leave and fail, message by message, as text.

`tests/paper/overlay_scenarios/` holds what is to happen, exactly; `pytest --rewrite` writes it anew, and a person reads
the difference.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tapestry.messages import Acknowledge, Alive, GetConstrained, GetRow, LeafNews, Leaves, Probe, Row
from tests.paper.overlay_stage import Told

FOLDER = Path(__file__).parent / "overlay_scenarios"


def first_two() -> Told:
    """Tapestry, IV-A; Bamboo, 3.1: the first is a member by itself, the second by its welcome."""
    stage = Told("two")
    stage.scene("alice starts, and knows nobody")
    stage.enter("alice", "2a")
    stage.scene("bob joins through alice")
    stage.enter("bob", "9b", "alice")
    stage.run(0.7)
    return stage


def joining() -> Told:
    """The cargo goes to the root of the new node's GUID, whose leaves learn of the new one by its own word."""
    stage = Told("join")
    stage.prepare(alice="2a", bob="9b", carol="5c")
    stage.scene("dave, whose GUID lies next to carol's, joins through bob")
    stage.enter("dave", "5d", "bob")
    stage.run(0.6)
    return stage


def joining_when_messages_are_lost() -> Told:
    """A join that brings no answer is begun again; a leaf that says nothing does not keep the new node out."""
    stage = Told("lost join", unsaid=(GetRow, Row))
    stage.prepare(alice="2a", bob="9b")
    welcomes = []

    def drop(sender: object, to: object, message: object) -> bool:
        welcome = type(message).__name__ == "Welcome"
        if welcome and message not in welcomes:
            welcomes.append(message)
        return welcome and len(welcomes) == 1

    stage.drops = drop
    stage.scene("carol joins; the first welcome is lost")
    stage.enter("carol", "5c", "bob")
    stage.run(3.0)
    return stage


def routing() -> Told:
    """Tapestry, III-B, and Bamboo, 3.1: a digit more with each hop, then the nearest of the leaf set."""
    stage = Told("route", unsaid=(Leaves, LeafNews, Probe, Alive, GetRow, Row))
    ring = {f"n{place:02x}": f"{place:02x}" for place in range(4, 256, 7)}
    stage.prepare(**ring)
    stage.run(30.0)
    stage.scene("a key whose root is a leaf of who seeks it")
    stage.seek("n04", "0d")
    stage.run(0.3)
    stage.scene("a key far away")
    stage.seek("n04", "a1")
    stage.run(0.3)
    stage.scene("a key whose root shares no digit with it: it lies just below the next digit")
    stage.seek("n04", "affffff")
    stage.run(0.3)
    stage.scene("a key of one's own")
    stage.seek("n04", "05")
    stage.run(0.3)
    return stage


def failure_of_a_next_hop() -> Told:
    """Bamboo, 4.3: who does not acknowledge is passed over at once, and asked if it is there until it is given up."""
    stage = Told("failure", unsaid=(Leaves, LeafNews, GetRow, Row))
    stage.prepare(**{f"n{place:02x}": f"{place:02x}" for place in range(4, 256, 7)})
    stage.run(30.5)
    hop = stage.nodes["n04"].routing.next_hop(bytes.fromhex("a1" + "00" * 31))
    assert hop is not None
    stage.crash(hop.address)
    stage.scene(f"{hop.address} is gone; n04 seeks a key by way of it")
    stage.unsaid, stage.watched = (Leaves, LeafNews, GetRow, Row, Probe, Alive), "n04"
    stage.seek("n04", "a1")
    stage.run(0.6)
    return stage


def failure_of_a_root() -> Told:
    """The root is asked twice, since one answer may have been lost; then the next nearest is the root."""
    stage = Told("root", unsaid=(Leaves, LeafNews, GetRow, Row))
    stage.prepare(alice="2a", bob="9b", carol="5c")
    stage.run(20.0)
    stage.crash("carol")
    stage.scene("carol is gone; alice seeks a key of hers")
    stage.seek("alice", "5b")
    stage.run(1.2)
    stage.scene("from then on")
    stage.seek("alice", "5b")
    stage.run(0.3)
    return stage


def a_lost_acknowledgement() -> Told:
    """The cargo comes twice, and the second answer changes nothing."""
    stage = Told("acknowledgement", unsaid=(Leaves, LeafNews, GetRow, Row))
    stage.prepare(alice="2a", bob="9b", carol="5c")
    stage.run(20.0)
    lost: list[object] = []

    def drop(sender: object, to: object, message: object) -> bool:
        if isinstance(message, Acknowledge) and message not in lost[:1]:
            lost.append(message)
        return message in lost[:1]

    stage.drops = drop
    stage.scene("alice seeks a key of carol's; the acknowledgement is lost")
    stage.seek("alice", "5b")
    stage.run(0.8)
    return stage


def leaving() -> Told:
    """A node that goes says so, and its leaves ask those that may take its place."""
    stage = Told("leave", unsaid=(GetRow, Row))
    stage.prepare(alice="2a", bob="9b", carol="5c", dave="5d")
    stage.run(9.3)
    stage.scene("carol leaves")
    stage.leave("carol")
    stage.run(0.2)
    stage.scene("alice seeks a key that was carol's")
    stage.seek("alice", "5b")
    stage.run(0.2)
    return stage


def comparing_leaf_sets() -> Told:
    """Bamboo, 3.2: push and pull with one leaf at a time; the third message brings back what the second showed."""
    stage = Told("compare", unsaid=(GetRow, Row))
    stage.prepare(alice="2a", bob="9b", carol="5c", dave="5d")
    stage.run(21.9)
    for name, other in (("alice", "carol"), ("alice", "dave"), ("bob", "dave")):
        neighbours = stage.nodes[name].neighbours
        neighbours.forget(stage.contacts[other].guid, stage.now)
        neighbours.lost.clear()
    stage.nodes["alice"].neighbours.heard(stage.contacts["dave"], stage.now)
    stage.scene("alice does not know carol, nor bob dave; bob compares his leaves with those of alice")
    while not any(line.startswith("bob > alice") for line in stage.lines):
        stage.lines[1:] = []
        stage.fire("bob", "leaves")
    stage.run(0.2)
    return stage


def meeting_again() -> Told:
    """Who was given up is asked now and then; when it answers, its side's root of our GUID shows us its leaves."""
    stage = Told("meet", unsaid=(Leaves, LeafNews, GetRow, Row))
    stage.prepare(alice="2a", bob="9b", carol="5c", dave="c1")
    stage.split(["alice", "bob"], ["carol", "dave"])
    stage.run(121.0)
    stage.heal()
    stage.scene("alice and bob, carol and dave have given each other up; now messages pass again, and bob asks")
    while not any(" > " in line for line in stage.lines):
        stage.fire("bob", "lost")
    stage.run(1.0)
    assert stage.settled(), stage.story("")
    return stage


OBJECT = b"o" * 32


def publishing() -> Told:
    """Tapestry, III-C: a pointer to the root of each salt, kept by those on the way and by those near the root."""
    stage = Told("publish", unsaid=(Acknowledge, Leaves, LeafNews, Probe, Alive, GetRow, GetConstrained, Row))
    stage.prepare_with_keys("alice", "bob", "carol", "dave", "erin", "frank")
    stage.run(9.1)
    stage.scene("alice holds an object")
    stage.publish("alice", OBJECT)
    stage.run(0.3)
    return stage


def locating() -> Told:
    """Tapestry, III-C: towards a root until a node has a pointer, and from there to the holder. What one says that
    does not give it, another may have."""
    stage = Told("locate", unsaid=(Acknowledge, Leaves, LeafNews, Probe, Alive, GetRow, GetConstrained, Row))
    stage.prepare_with_keys("alice", "bob", "carol", "dave", "erin", "frank")
    for name in ("alice", "carol"):
        stage.publish(name, OBJECT)
        stage.run(2.0)
    stage.scene("bob seeks an object that alice and carol hold")
    stage.locate("bob", OBJECT)
    stage.run(0.3)
    stage.scene("carol does not give it: bob asks on, by constrained entries, at all roots at once")
    stage.locate("bob", OBJECT, "carol")
    stage.run(0.3)
    stage.scene("alice seeks what she holds")
    stage.locate("alice", OBJECT)
    return stage


SCENARIOS = [
    first_two,
    joining,
    joining_when_messages_are_lost,
    routing,
    failure_of_a_next_hop,
    failure_of_a_root,
    a_lost_acknowledgement,
    leaving,
    comparing_leaf_sets,
    meeting_again,
    publishing,
    locating,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_scenario(scenario: Callable[[], Told], rewrite: bool) -> None:
    stage = scenario()
    told = "\n".join(stage.lines) + "\n"
    path = FOLDER / f"{scenario.__name__}.txt"
    if rewrite:
        FOLDER.mkdir(exist_ok=True)
        path.write_text(told)
    assert told == path.read_text(), "run with --rewrite, and read the difference"


def test_no_scenario_is_left_over() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == {scenario.__name__ for scenario in SCENARIOS}

"""Many nodes: whatever has happened, left alone they come to the true leaf sets, and every key has one root.

Seeds decide delays, order, loss and every choice; a failure names its seed, and the same test run again replays it.
"""

from random import Random

import pytest

from tapestry.effects import Resolved, Route
from tapestry.guid import shared_digits
from tapestry.leaf_set import SIDE
from tapestry.messages import Acknowledge, Contact, Forward, Leaving, Message, Probe
from tapestry.neighbours import LOST, LOST_SECONDS
from tests.unit.tapestry import model
from tests.unit.tapestry.stage import Stage

KEYS = [Random(f"key {number}").randbytes(32) for number in range(50)]
SILENCE = 40.0
"""Seconds until all that have crashed at a moment are given up by those next to them, and others have come in."""


def grown(seed: object, nodes: int) -> Stage:
    stage = Stage(seed)
    stage.grow(nodes)
    return stage


def around(stage: Stage) -> list[str]:
    """Nodes that are up, in the order of the ring."""
    return sorted(stage.nodes, key=lambda name: stage.contacts[name].guid)


# --- joining ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [1, 2, 3, 5, SIDE + 1, 2 * SIDE, 2 * SIDE + 1, 2 * SIDE + 2, 60])
def test_all_join_and_every_node_finds_the_one_root_of_each_key(nodes):
    stage = grown(nodes, nodes)
    stage.check_roots(KEYS)
    stage.check_roots([contact.guid for contact in stage.contacts.values()][:20])
    assert not stage.rejected


def test_a_crowd_joins_at_once_through_the_first():
    stage = grown("crowd", 1)
    first = stage.contacts["n0"]
    for _ in range(39):
        stage.add(through=[first])
    stage.run_until(stage.settled, 60)
    stage.check_roots(KEYS)


def test_nodes_that_lie_close_together_are_told_apart():
    """Half of the ring is empty, and prefixes are long."""
    stage = Stage("close")
    for number in range(24):
        contact = model.contact(2**250 + number * 2**180)
        stage.add(Contact(contact.guid, f"n{number}"))
        stage.run(3.0)
    stage.run_until(stage.settled, 60)
    stage.check_roots([*KEYS, *(model.guid(2**250 + number * 2**179 + 1) for number in range(50))])


def test_ways_are_short():
    """Tapestry, III-B: the logarithm of the number of nodes, to the base of 16; the leaf set is one hop more."""
    stage = grown("short", 50)
    stage.run(15.0)
    hops: list[int] = []
    stage.answers = Hops(hops)
    stage.check_roots(KEYS[:20])
    assert len(hops) == 50 * 20
    assert max(hops) <= 4
    assert sum(hops) / len(hops) < 2.0


class Hops(dict[tuple[str, int], Resolved]):
    """Answers, of which the hops are noted."""

    def __init__(self, noted: list[int]) -> None:
        super().__init__()
        self._noted = noted

    def __setitem__(self, key: tuple[str, int], answer: Resolved) -> None:
        self._noted.append(answer.hops)
        super().__setitem__(key, answer)


def test_tables_fill_with_nodes_of_every_digit():
    """Once all is quiet, row 0 has an entry wherever there is a node for it."""
    stage = grown("rows", 30)
    stage.run(100.0)
    lacking = [
        (name, other.hex()[:1])
        for name, node in stage.nodes.items()
        for other in stage.guids
        if shared_digits(other, node.contact.guid) == 0 and not node.neighbours.table.toward(other)
    ]
    assert lacking == []


# --- going -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("going", [1, 2, 7])
@pytest.mark.parametrize("nodes", [9, 30])
def test_adjacent_nodes_crash_at_once(nodes, going):
    """Fewer than SIDE at a time cannot cut the ring."""
    stage = grown((nodes, going), nodes)
    for name in around(stage)[1 : 1 + going]:
        stage.crash(name)
    stage.run(SILENCE)
    assert stage.settled(), stage.story("leaf sets are not right")
    stage.check_roots(KEYS[:10])


def test_half_of_all_nodes_crash_at_once():
    stage = grown("half", 40)
    for name in around(stage)[::2]:
        stage.crash(name)
    stage.run(SILENCE)
    assert stage.settled(), stage.story("leaf sets are not right")
    stage.check_roots(KEYS[:10])


def test_who_leaves_is_out_of_all_tables_as_soon_as_its_farewell_has_come():
    stage = grown("leave", 12)
    gone = {stage.contacts[name].guid for name in ("n3", "n7")}
    for name in ("n3", "n7"):
        stage.leave(name)
    stage.run(0.5)
    assert stage.settled(), stage.story("leaf sets are not right")
    assert not any(guid in node.neighbours for node in stage.nodes.values() for guid in gone)
    farewells = stage.sent
    stage.check_roots(KEYS[:10])
    assert stage.sent > farewells


def test_who_comes_back_under_its_name_is_in_its_place_again():
    stage = grown("back", 25)
    for name in ("n4", "n9"):
        stage.crash(name)
        stage.run(0.3)
        stage.add(stage.contacts[name])
    stage.run_until(stage.settled, 60)
    stage.leave("n5")
    stage.run(1.0)
    stage.add(stage.contacts["n5"])
    stage.run_until(stage.settled, 60)
    stage.check_roots(KEYS[:10])


def test_who_comes_back_at_another_address_is_reached_there_at_once():
    stage = grown("moved", 20)
    name = "n7"
    stage.crash(name)
    moved = Contact(stage.contacts[name].guid, "moved")
    stage.add(moved, [stage.contacts["n1"]])
    stage.run_until(lambda: stage.nodes["moved"].member, 10)
    stage.run(20.0)
    for node in stage.nodes.values():
        neighbour = node.neighbours.get(moved.guid)
        assert neighbour is None or neighbour.contact == moved, stage.story(f"{node.contact.address} looks elsewhere")
    stage.run_until(stage.settled, 60)
    stage.check_roots([*KEYS[:5], moved.guid])


def test_keys_are_found_while_nodes_crash():
    """Every few seconds one goes and one comes: a root is found that was or is one, by a question or two."""
    stage = grown("churn", 30)
    draw = Random("churn")
    found = asked = 0
    for _ in range(10):
        stage.crash(draw.choice(sorted(stage.nodes)))
        stage.add()
        stage.run(4.0)
        members = {name: node for name, node in stage.nodes.items() if node.member}
        guids = [node.contact.guid for node in members.values()]
        answers = stage.roots(KEYS[:3], tries=2)
        for name in members:
            for key in KEYS[:3]:
                asked += 1
                found += answers.get((name, key)) == model.root(key, guids)
    assert found > 0.97 * asked, f"{found} of {asked}"


# --- partitions and loss ---------------------------------------------------------------------------------------------


def test_two_halves_give_each_other_up_and_meet_again():
    stage = grown("halves", 24)
    names = around(stage)
    halves = names[::2], names[1::2]
    stage.split(*halves)
    stage.run(2 * LOST_SECONDS)
    for half in halves:
        guids = {stage.contacts[name].guid for name in half}
        for name in half:
            assert {leaf.guid for leaf in stage.nodes[name].neighbours.leaves} == guids - {stage.contacts[name].guid}
            assert set(stage.nodes[name].neighbours.lost) <= set(stage.guids) - guids
    stage.heal()
    stage.run_until(stage.settled, 120)
    stage.check_roots(KEYS)


def test_halves_that_meet_again_at_once_are_no_worse_off():
    """Who was given up a moment ago is not asked on another's word; its own word is enough."""
    stage = grown("short cut", 24)
    names = around(stage)
    stage.split(names[:12], names[12:])
    stage.run(15.0)
    stage.heal()
    stage.run_until(stage.settled, 150)
    stage.check_roots(KEYS[:10])


def test_nodes_that_came_to_one_half_meanwhile_are_found_by_the_other():
    stage = grown("meanwhile", 20)
    names = around(stage)
    stage.split(names[:10], names[10:])
    stage.run(30.0)
    sides = [list(names[:10]), list(names[10:])]
    for side in sides:
        through = [stage.contacts[name] for name in side[:3]]
        for _ in range(5):
            contact = Contact(stage.draw.randbytes(32), f"n{len(stage.contacts)}")
            side.append(contact.address)
            stage.split(*sides)
            stage.add(contact, through)
            stage.run(5.0)
    stage.heal()
    stage.run_until(stage.settled, 200)
    stage.check_roots(KEYS[:10])


def test_all_join_though_a_fifth_of_all_messages_is_lost():
    """Of those in leaf sets some are always being given up by mistake, and taken up again; few of them matter."""
    stage = Stage("lossy", loss=0.2)
    for _ in range(25):
        stage.add()
        stage.run(3.0)
    stage.run(60.0)
    assert all(node.member for node in stage.nodes.values())
    wrong = sum(len(stage.missing(name)) for name in stage.nodes)
    assert wrong < 0.1 * 2 * SIDE * len(stage.nodes), stage.story("more than a tenth of all leaves are missing")
    answers = stage.roots(KEYS[:20])
    truth = {key: model.root(key, stage.guids) for key in KEYS[:20]}
    right = sum(answers.get((name, key)) == truth[key] for name in stage.nodes for key in KEYS[:20])
    assert right > 0.95 * len(stage.nodes) * 20, f"{right} of {len(stage.nodes) * 20}"
    stage.heal()
    stage.run_until(stage.settled, 120)
    stage.check_roots(KEYS[:5])


@pytest.mark.parametrize("nth", range(3))
def test_a_cargo_survives_the_loss_of_any_one_message_of_its_way(nth):
    """Every hop is acknowledged; only the answer at the end is sent once."""
    stage = grown("one lost", 30)
    truth = {key: model.root(key, stage.guids) for key in KEYS}
    for name in around(stage)[:6]:
        for key in KEYS[:6]:
            passed: list[Message] = []

            def drop(sender: Contact, to: Contact, message: Message, passed: list[Message] = passed) -> bool:
                if isinstance(message, Forward | Acknowledge):
                    passed.append(message)
                return isinstance(message, Forward | Acknowledge) and len(passed) == nth + 1

            stage.drops = drop
            stage.step(name, Route(key, 1, stage.now))
            stage.run(1.0)
            assert stage.answers.pop((name, 1)).root.guid == truth[key]
            stage.drops = lambda sender, to, message: False
            stage.run(0.2)


def test_delays_that_grow_at_once_are_learnt():
    """A network that has become slow is not one whose nodes are all dead, and needs no more messages."""
    stage = grown("slow", 20)
    stage.run(30.0)
    before = sent_in(stage, 30.0)
    stage.delay_factor = 12.0
    stage.run(30.0)
    assert sent_in(stage, 30.0) < 2 * before
    assert not any(node.neighbours.suspects or node.neighbours.lost for node in stage.nodes.values())
    assert stage.settled(), stage.story("leaf sets are not right")
    stage.check_roots(KEYS[:10])


def test_a_link_that_works_one_way_costs_no_more_and_more():
    """Who is heard of and does not answer is asked again, by one question at a time."""
    stage = grown("one way", 10)
    before = sent_in(stage, 60.0)
    stage.drops = lambda sender, to, message: (sender.address, to.address) == ("n3", "n5")
    assert sent_in(stage, 60.0) < 2 * before
    stage.run(300.0)
    assert sent_in(stage, 60.0) < 2 * before
    stage.heal()
    stage.run_until(stage.settled, 60)


def sent_in(stage: Stage, seconds: float) -> int:
    """Messages that all send in so many seconds."""
    before = stage.sent
    stage.run(seconds)
    return stage.sent - before


def test_reactive_recovery_comes_to_the_same():
    stage = Stage("reactive", recovery="reactive")
    stage.grow(25)
    for name in around(stage)[3:8]:
        stage.crash(name)
    stage.run(SILENCE)
    assert stage.settled(), stage.story("leaf sets are not right")


# --- whatever happens ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_from_any_state_left_alone_all_is_right_again(seed):
    stage, draw = Stage(seed), Random(f"churn {seed}")
    stage.grow(draw.randint(2, 24))
    down: list[str] = []
    for _ in range(draw.randint(4, 14)):
        disturb(stage, draw, down)
        stage.run(draw.choice((0.1, 0.5, 2.0, 5.0, 20.0, 45.0)))
        check_bounds(stage)
    stage.heal()
    restart_those_without_a_way_in(stage)
    assert in_touch(stage), "the seed proves nothing: parts of the ring do not know of each other"
    stage.run_until(stage.settled, 400)
    stage.check_roots(KEYS[:10])


def disturb(stage: Stage, draw: Random, down: list[str]) -> None:
    """Something happens."""
    names = around(stage)
    match draw.randrange(8):
        case 0:
            stage.add()
        case 1 if len(names) > 3:
            down.append(draw.choice(names))
            stage.crash(down[-1])
        case 2 if down:
            stage.add(stage.contacts[down.pop(draw.randrange(len(down)))])
        case 3 if len(names) > 3:
            down.append(draw.choice(names))
            stage.leave(down[-1])
        case 4 if len(names) > 12:
            first = draw.randrange(len(names) - SIDE)
            for name in names[first : first + draw.randrange(2, SIDE)]:
                down.append(name)
                stage.crash(name)
        case 5:
            left = [name for name in names if draw.random() < 0.5]
            stage.split(left, [name for name in stage.contacts if name not in left])
        case 6:
            stage.split()
        case 7:
            stage.loss = draw.choice((0.0, 0.1, 0.3))


def check_bounds(stage: Stage) -> None:
    """No node keeps more than leaf set and table, and of those given up a few."""
    for name, node in stage.nodes.items():
        neighbours = node.neighbours
        guids = {known.contact.guid for known in neighbours.all}
        assert guids == {contact.guid for contact in (*neighbours.leaves, *neighbours.table)}, stage.story(name)
        assert len(neighbours.lost) <= LOST
        assert node.contact.guid not in guids


def restart_those_without_a_way_in(stage: Stage) -> None:
    """Who has started and finds none of the nodes that it was told of is started again, by whoever runs it."""
    for name in around(stage):
        if not stage.nodes[name].member:
            stage.crash(name)
            stage.add(stage.contacts[name])


def in_touch(stage: Stage) -> bool:
    """Whether everybody may hear of everybody: by those known, and those given up, who are asked again."""
    members = {node.contact.guid: node.neighbours for node in stage.nodes.values() if node.member}
    links: dict[bytes, set[bytes]] = {guid: set() for guid in members}
    for guid, neighbours in members.items():
        for other in (*(known.contact.guid for known in neighbours.all), *neighbours.lost):
            if other in members:
                links[guid].add(other)
                links[other].add(guid)
    reached: set[bytes] = set()
    ahead = [*members][:1]
    while ahead:
        guid = ahead.pop()
        if guid not in reached:
            reached.add(guid)
            ahead += links[guid]
    return reached == set(members)


def test_the_same_seed_is_the_same_run():
    """Byte for byte: who sends what to whom, and when."""

    def told() -> list[object]:
        stage, draw, down = Stage("twice"), Random("twice"), list[str]()
        lines: list[object] = []
        stage.drops = lambda sender, to, message: bool(lines.append((stage.now, sender, to, message)))  # type: ignore[func-returns-value]
        stage.grow(12)
        for _ in range(8):
            disturb(stage, draw, down)
            stage.run(5.0)
        return lines

    first = told()
    assert first == told()
    assert any(isinstance(line[3], Leaving | Probe) for line in first if isinstance(line, tuple))

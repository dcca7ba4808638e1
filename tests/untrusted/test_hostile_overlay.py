"""Nodes of the overlay among liars who say anything that has the right types, under any name: they stay up and small.

A liar may have any GUID and speak of any nodes, real and not, with numbers near those in use; it floods, answers what
was asked of others, and comes again. Each message moves a node to few messages of its own, and when the liars fall
silent the others find their true leaves and roots again.
"""

from collections import Counter
from random import Random
from typing import Any

import msgspec
import pytest

from tapestry.allowance import Allowance
from tapestry.effects import Received, Rejected, Route, Send, SetTimer
from tapestry.finding import UNANSWERED
from tapestry.joining import WAYS
from tapestry.leaf_set import SIDE
from tapestry.messages import (
    MAX_CONTACTS,
    MAX_HOPS,
    NAME_BYTES,
    Acknowledge,
    Alive,
    Contact,
    Find,
    Forward,
    Found,
    GetRow,
    Join,
    LeafNews,
    Leaves,
    Leaving,
    Message,
    Probe,
    Row,
    Welcome,
    decode,
    encode,
)
from tapestry.neighbours import LOST
from tapestry.node import Node
from tapestry.questions import CARGO, LATE, WAITING
from tapestry.routing_table import SLOT
from tapestry.upkeep import NEWS, NEWS_PER_SECOND
from tests.unit.tapestry import model
from tests.unit.tapestry.stage import Stage
from tests.untrusted.generate import Generator

A_FEW = 6
"""Messages that one message may move a node to besides one for each contact in it."""

MESSAGES = 1500


class Liars:
    """Makes messages that a node among honest ones might be sent."""

    def __init__(self, seed: object, stage: Stage) -> None:
        self.draw = Random(f"liars {seed}")
        self.stage = stage
        self.honest = list(stage.contacts.values())
        self.names = [Contact(self.draw.randbytes(32), f"liar {number}") for number in range(30)]
        self.generator = Generator(self.draw)
        self.generator.longest = MAX_CONTACTS
        self.generator.blobs[32] = [contact.guid for contact in (*self.honest, *self.names)]

    def somebody(self) -> Contact:
        """Real, a liar, or made up: anywhere, or close to a real one."""
        draw = self.draw
        match draw.randrange(5):
            case 0:
                return draw.choice(self.honest)
            case 1:
                return draw.choice(self.names)
            case 2:
                near = model.number(draw.choice(self.honest).guid) + draw.randint(-(2**200), 2**200)
                return Contact(model.guid(near), "nowhere")
            case 3:
                return Contact(draw.choice(self.honest).guid, "nowhere")
            case _:
                return Contact(draw.randbytes(32), "nowhere")

    def crowd(self) -> tuple[Contact, ...]:
        return tuple(self.somebody() for _ in range(self.draw.choice((0, 1, 3, MAX_CONTACTS))))

    def message(self, node: Node) -> Message:
        """Of any kind; numbers are near those that the node uses."""
        draw = self.draw
        number = max(0, draw.choice((0, 1, node._questions.last)) + draw.randint(-6, 2))
        names = b"".join(contact.guid[:NAME_BYTES] for contact in self.crowd())
        hops = draw.choice((0, 1, MAX_HOPS - 1, MAX_HOPS))
        key = self.somebody().guid
        match draw.randrange(13):
            case 0 | 1:
                return LeafNews(number, self.crowd(), names)
            case 2:
                return Row(number, self.crowd())
            case 3:
                return Welcome(number, self.crowd(), self.crowd())
            case 4:
                return Leaving(self.crowd())
            case 5:
                return Forward(number, key, self.somebody(), number, hops, Find())
            case 6:
                return Forward(number, key, self.somebody(), number, hops, Join(self.crowd()))
            case 7:
                origin = self.somebody()
                return Forward(number, origin.guid, origin, number, hops, Join(self.crowd()))
            case 8:
                return Found(number, hops)
            case 9:
                return draw.choice((Acknowledge(number), Alive(number), Probe(number), GetRow(number, 0)))
            case 10:
                return Leaves(number, names)
            case _:
                self.generator.numbers = [number, hops]
                made: Message = self.generator.make(draw.choice(Message.__args__))
                return made


def check_bounds(node: Node) -> None:
    """What a node keeps, whatever it was sent."""
    neighbours, questions = node.neighbours, node._questions
    guids = {known.contact.guid for known in neighbours.all}
    assert guids == {contact.guid for contact in (*neighbours.leaves, *neighbours.table)}
    assert node.contact.guid not in guids
    assert len(neighbours.leaves) <= 2 * SIDE
    slots = Counter(neighbours.table._place(contact.guid) for contact in neighbours.table)
    assert max(slots.values(), default=0) <= SLOT + 1, "and a constrained entry"
    assert len(neighbours.lost) <= LOST
    assert len(questions._waiting) <= WAITING + CARGO
    assert questions._cargo == sum(isinstance(asked.message, Forward) for asked in questions._waiting.values())
    assert len(questions._late) <= LATE
    assert sum(questions._open.values()) == len(questions._waiting)
    assert len(node._finding._sought) <= UNANSWERED
    assert len(node._joining._greeted) <= WAITING
    assert len(node._joining._passed) <= MAX_CONTACTS
    assert len(node.location.pointers) == 0, "nobody signed one"


def contacts_in(value: Any) -> int:
    """How many nodes a message speaks of."""
    if isinstance(value, Contact):
        return 1
    if isinstance(value, tuple):
        return sum(map(contacts_in, value))
    if isinstance(value, msgspec.Struct):
        return sum(contacts_in(getattr(value, field)) for field in value.__struct_fields__)
    return 0


def check_answer(node: Node, sender: Contact, message: Message, effects: list[Any]) -> None:
    """Few messages, each of which can be read, and a timer for each question."""
    sends = [effect for effect in effects if isinstance(effect, Send)]
    assert len(sends) <= contacts_in(message) + A_FEW, f"{len(sends)} for {message}"
    assert sum(isinstance(effect, SetTimer) for effect in effects) <= len(sends) + A_FEW
    for send in sends:
        assert decode(encode(send.message)) == send.message
        assert send.to.guid != node.contact.guid, f"to itself for {message} of {sender}"
        carried = send.message.hops if isinstance(send.message, Forward | Found) else 0
        assert carried <= MAX_HOPS


@pytest.mark.parametrize("seed", range(6))
def test_a_member_among_liars_stays_up_and_small_and_is_right_again(seed: int) -> None:
    stage = Stage(f"hostile {seed}")
    stage.grow(stage.draw.choice((1, 4, 12, 24)))
    liars = Liars(seed, stage)
    refused = 0
    for _ in range(MESSAGES):
        name = liars.draw.choice(sorted(stage.nodes)[:2])
        node, sender = stage.nodes[name], liars.somebody()
        message = decode(encode(liars.message(node)))
        effects = stage.step(name, Received(sender, message, stage.now))
        refused += any(isinstance(effect, Rejected) for effect in effects)
        check_answer(node, sender, message, effects)
        check_bounds(node)
        if liars.draw.random() < 0.05:
            stage.step(name, Route(liars.somebody().guid, liars.draw.randrange(2000), stage.now))
        if liars.draw.random() < 0.1:
            stage.run(liars.draw.choice((0.01, 0.3, 1.5)))
    assert refused
    stage.run(10.0)
    stage.run_until(stage.settled, 500)
    stage.check_roots([liars.draw.randbytes(32) for _ in range(10)])


@pytest.mark.parametrize("seed", range(6))
def test_who_joins_among_liars_stays_up_and_small_and_joins(seed: int) -> None:
    stage = Stage(f"hostile join {seed}")
    stage.grow(8)
    name = stage.add().address
    liars, node = Liars(seed, stage), stage.nodes[name]
    for _ in range(200):
        sender = liars.somebody()
        message = decode(encode(liars.message(node)))
        before, member = len(node._joining._passed), node.member
        effects = stage.step(name, Received(sender, message, stage.now))
        if node.member and not member:
            assert sum(isinstance(effect, Send) for effect in effects) <= contacts_in(message) + before + A_FEW
        else:
            check_answer(node, sender, message, effects)
        check_bounds(node)
        if liars.draw.random() < 0.1:
            stage.run(0.05)
    stage.run_until(stage.settled, 500)
    assert node.member


def test_a_flood_of_news_of_one_member_makes_a_node_ask_few() -> None:
    """It may speak of NEWS nodes at once, and then of NEWS_PER_SECOND; others are not made to wait for it."""
    stage = Stage("flood of one")
    stage.grow(6)
    node, draw = stage.nodes["n0"], Random("flood")
    before = len(node._questions._waiting)
    for _ in range(20):
        stage.step("n0", Received(stage.contacts["n1"], news(draw), stage.now))
    assert len(node._questions._waiting) - before == NEWS
    stage.run(2.0)
    asked = node._questions.last
    for _ in range(20):
        stage.step("n0", Received(stage.contacts["n1"], news(draw), stage.now))
    assert 0 < node._questions.last - asked <= 2.0 * NEWS_PER_SECOND
    asked = node._questions.last
    stage.step("n0", Received(stage.contacts["n2"], news(draw), stage.now))
    assert node._questions.last - asked > 2.0 * NEWS_PER_SECOND
    assert len(node._upkeep._news) == 2


def news(draw: Random) -> LeafNews:
    """Of nodes that do not exist."""
    return LeafNews(0, tuple(Contact(draw.randbytes(32), "nowhere") for _ in range(MAX_CONTACTS)), b"")


def test_a_flood_of_news_of_all_costs_a_node_its_upkeep_for_no_longer_than_its_questions_wait() -> None:
    """While it lasts nothing more is asked than WAITING at a time, and cargo goes its way; then all is as before."""
    stage = Stage("flood")
    stage.grow(6)
    node, draw = stage.nodes["n0"], Random("flood")
    node._upkeep._news = Allowance(2 * WAITING, 0.0)  # as if all the liars of a large overlay spoke as one
    for _ in range(2 * WAITING // MAX_CONTACTS):
        stage.step("n0", Received(stage.contacts["n1"], news(draw), stage.now))
    assert len(node._questions._waiting) - node._questions._cargo == WAITING
    target = stage.contacts["n3"]
    asked = stage.step("n0", Route(target.guid, 1, stage.now))
    assert [type(effect.message) for effect in asked if isinstance(effect, Send)] == [Forward]
    carried = Forward(9, target.guid, stage.contacts["n1"], 7, 1, Find())
    sends = [
        effect.message
        for effect in stage.step("n0", Received(stage.contacts["n1"], carried, stage.now))
        if isinstance(effect, Send)
    ]
    assert [type(message) for message in sends] == [Acknowledge, Forward]
    stage.run(10.0)
    assert len(node._questions._waiting) < 10
    assert stage.settled(), stage.story("the flood has left something")
    stage.check_roots([draw.randbytes(32) for _ in range(10)])


def test_a_node_that_is_full_of_cargo_acknowledges_none_but_what_it_is_the_root_of() -> None:
    """Who is not acknowledged finds another way; what is acknowledged and dropped is lost."""
    stage = Stage("full of cargo")
    stage.grow(6)
    node, other, target = stage.nodes["n0"], stage.contacts["n1"], stage.contacts["n3"]

    def carry(key: bytes) -> list[Any]:
        return stage.step("n0", Received(other, Forward(9, key, other, 7, 1, Find()), stage.now))

    for _ in range(CARGO):
        assert Send(other, Acknowledge(9)) in carry(target.guid)
    assert carry(target.guid) == []
    assert Send(other, Acknowledge(9)) in carry(node.contact.guid)
    stage.run(1.0)
    assert Send(other, Acknowledge(9)) in carry(target.guid)


def test_a_cargo_that_goes_round_among_liars_comes_to_an_end() -> None:
    stage = Stage("round")
    stage.grow(4)
    node = stage.nodes["n0"]
    far = next(contact for contact in stage.contacts.values() if contact != node.contact)
    hops, passed = 0, 0
    while True:
        effects = stage.step(
            "n0", Received(far, Forward(1, far.guid, stage.contacts["n1"], 7, hops, Find()), stage.now)
        )
        onward = [e.message.hops for e in effects if isinstance(e, Send) and isinstance(e.message, Forward)]
        if not onward:
            break
        hops, passed = onward[0], passed + 1
    assert passed == MAX_HOPS


def test_who_joins_through_members_asks_few_of_them() -> None:
    """However many it was told of."""
    stage = Stage("many")
    crowd = [Contact(stage.draw.randbytes(32), f"nobody {number}") for number in range(500)]
    stage.add(through=crowd)
    assert stage.sent == WAYS

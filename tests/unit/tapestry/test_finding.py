"""Roots that are too far from their keys are not believed alone (Castro et al., OSDI 2002, section 5)."""

from random import Random

import pytest

from tapestry import finding
from tapestry.effects import Effect, Received, Resolved, Route, Send, SetTimer, TimerFired
from tapestry.finding import AGAIN, FAR, UNANSWERED, implausible
from tapestry.leaf_set import SIDE, LeafSet
from tapestry.messages import Contact, Find, Forward, Found
from tests.unit.tapestry import model
from tests.unit.tapestry.stage import Stage

NODES = 200


def leaves_among(own: bytes, guids: list[bytes]) -> LeafSet:
    made = LeafSet(own)
    for guid in model.leaves(own, guids):
        made.add(Contact(guid, "n"))
    return made


@pytest.mark.parametrize("lying", [None, 0.1, 0.2, 0.25, 0.5])
def test_false_alarms_and_misses_are_as_often_as_the_formula_has_it(lying):
    """With gaps drawn at random: 0.6 % of true roots are doubted; of the nearest of a fifth, 31 % are found out."""
    draw = Random(f"density {lying}")
    doubted = asked = 0
    for _ in range(25):
        guids = [draw.randbytes(32) for _ in range(NODES)]
        those = guids if lying is None else guids[: round(lying * NODES)]
        for own in draw.sample(guids, 10):
            leaves = leaves_among(own, guids)
            for _ in range(5):
                key = draw.randbytes(32)
                asked += 1
                doubted += implausible(leaves, key, model.root(key, those))
    far = FAR if lying is None else FAR * lying
    assert doubted / asked == pytest.approx((1 + far / (2 * SIDE)) ** (-2 * SIDE), abs=0.04)


def test_where_few_nodes_are_known_nobody_is_too_far():
    guids = [Random(f"few {number}").randbytes(32) for number in range(2 * SIDE)]
    leaves = leaves_among(guids[0], guids)
    assert not leaves.whole
    assert not any(implausible(leaves, model.guid(model.number(guid) + 2**255), guid) for guid in guids)


class Far(Stage):
    """An overlay in which one node is asked for a key, and the answers are the test's."""

    def __init__(self) -> None:
        super().__init__("far")
        self.grow(40)
        self.name = sorted(self.nodes)[0]
        node = self.nodes[self.name]
        others = [contact for contact in self.contacts.values() if contact.address != self.name]
        self.key = next(
            key for key in (self.draw.randbytes(32) for _ in range(100)) if not node.neighbours.leaves.covers(key)
        )
        others.sort(key=lambda contact: model.places_between(self.key, contact.guid))
        self.near, self.far, self.further = others[0], others[-2], others[-1]
        assert implausible(node.neighbours.leaves, self.key, self.far.guid)
        assert not implausible(node.neighbours.leaves, self.key, self.near.guid)

    def ask(self) -> list[Effect]:
        return self.nodes[self.name].step(Route(self.key, 7, self.now))

    def answer(self, root: Contact, hops: int = 2) -> list[Effect]:
        return self.nodes[self.name].step(Received(root, Found(7, hops), self.now))

    def timer(self, effects: list[Effect]) -> TimerFired:
        (timer,) = [e.timer for e in effects if isinstance(e, SetTimer) and e.timer.kind == "found"]
        return TimerFired(timer, self.now)


def sought(effects: list[Effect]) -> list[tuple[Contact, Forward]]:
    return [(e.to, e.message) for e in effects if isinstance(e, Send) and isinstance(e.message, Forward)]


def test_an_answer_from_near_enough_is_the_answer():
    stage = Far()
    assert [message.constrained for _, message in sought(stage.ask())] == [False]
    assert stage.answer(stage.near) == [Resolved(7, stage.near, 2)]
    assert stage.answer(stage.near) == [], "it was answered"


def test_after_one_from_too_far_the_key_is_looked_for_by_constrained_entries():
    stage = Far()
    stage.ask()
    effects = stage.answer(stage.far)
    entries = stage.nodes[stage.name].neighbours.table.constrained()
    again = sought(effects)
    assert 1 < len(again) <= AGAIN
    assert all(to in entries and message.constrained for to, message in again)
    assert all((message.key, message.cargo, message.number) == (stage.key, Find(), 7) for _, message in again)
    assert stage.answer(stage.further) == []
    assert stage.answer(stage.near, 3) == [Resolved(7, stage.near, 3)]
    assert stage.nodes[stage.name].step(stage.timer(effects)) == [], "it was answered"


def test_where_nobody_nearer_answers_the_nearest_was_the_root():
    stage = Far()
    stage.ask()
    effects = stage.answer(stage.further)
    assert sought(effects)
    assert stage.answer(stage.far, 5) == []
    assert stage.nodes[stage.name].step(stage.timer(effects)) == [Resolved(7, stage.far, 5)]
    assert stage.answer(stage.near) == []


def test_a_liar_that_answers_for_all_ways_does_not_end_the_search():
    stage = Far()
    stage.ask()
    ways = len(sought(stage.answer(stage.far)))
    for _ in range(2 * ways):
        assert stage.answer(stage.further) == []
        assert stage.answer(stage.far) == []
    assert stage.answer(stage.near, 3) == [Resolved(7, stage.near, 3)]


def test_an_answer_to_what_was_not_asked_is_none():
    stage = Far()
    assert stage.answer(stage.near) == []
    stage.ask()
    for number in range(100, 100 + UNANSWERED):
        stage.nodes[stage.name].step(Route(stage.key, number, stage.now))
    assert stage.answer(stage.near) == [], "it was forgotten"


def test_true_roots_that_are_doubted_are_found_all_the_same(monkeypatch):
    """Here every third is, where few are else."""
    monkeypatch.setattr(finding, "FAR", 1)
    stage = Stage("doubts")
    stage.grow(30)
    keys = [stage.draw.randbytes(32) for _ in range(5)]
    node = stage.nodes["n3"]
    assert any(implausible(node.neighbours.leaves, key, model.root(key, stage.guids)) for key in keys)
    stage.check_roots(keys)

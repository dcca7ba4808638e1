"""Objects are found while holders come and go, roots move, and some nodes lie (Tapestry, JSAC 2004, III-C)."""

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import count
from random import Random

import msgspec
import pytest

from tapestry import location
from tapestry.effects import (
    Effect,
    Event,
    Locate,
    LocatedAt,
    NotFound,
    Publish,
    Received,
    Rejected,
    Send,
    SetTimer,
    TimerFired,
    Unpublish,
)
from tapestry.messages import (
    MAX_CONTACTS,
    SALTS,
    Acknowledge,
    Contact,
    Copies,
    Forward,
    Located,
    Message,
    NotLocated,
    Pointer,
)
from tapestry.messages import Locate as Search
from tapestry.messages import Publish as Carried
from tapestry.node import Node
from tapestry.pointers import LIFETIME_SECONDS, make, root_key
from tests.unit.tapestry import model
from tests.unit.tapestry.stage import Stage
from tests.unit.tapestry.test_pointers import Keys


class Town(Stage):
    """Nodes with keys, some of which may lie."""

    def __init__(
        self, seed: object, nodes: int, liars: Iterable[int] = (), lie: Callable[..., object] | None = None
    ) -> None:
        super().__init__(seed)
        self.now = 1_700_000_000.0
        self.keys: dict[str, Keys] = {}
        self.found: dict[int, LocatedAt | None] = {}
        self._lying = {f"n{number}" for number in liars}
        self._lie = lie
        self._searches = count(1)
        for number in range(nodes):
            keys = self.keys[f"n{number}"] = Keys(f"n{number}")
            self.add(keys.contact)
            self.run_until(lambda name=keys.contact.address: self.nodes[name].member, 20)  # type: ignore[misc]
        self.run_until(self.settled, 90)

    def make(self, contact: Contact, choices: Random) -> Node:
        keys = self.keys[contact.address]
        if contact.address in self._lying:
            assert self._lie is not None
            return Liar(contact, choices, keys, self._lie)
        return Node(contact, choices, keys=keys)

    def step(self, name: str, event: Event) -> list[Effect]:
        effects = super().step(name, event)
        for effect in effects:
            match effect:
                case LocatedAt(number):
                    assert self.found.setdefault(number, effect) is effect
                case NotFound(number):
                    assert number not in self.found
                    self.found[number] = None
        return effects

    def publish(self, name: str, *objects: bytes) -> None:
        self.step(name, Publish(objects, self.now))
        self.run(5.0)

    def locate(self, name: str, obj: bytes, passed_over: tuple[bytes, ...] = ()) -> LocatedAt | None:
        """Who is found to hold the object. Raises AssertionError when nobody says anything in 20 s."""
        number = next(self._searches)
        self.step(name, Locate(obj, number, passed_over, self.now))
        self.run_until(lambda: number in self.found, 20)
        return self.found[number]

    def holder(self, name: str, obj: bytes, passed_over: tuple[bytes, ...] = ()) -> str | None:
        answer = self.locate(name, obj, passed_over)
        return None if answer is None else answer.pointer.holder.address

    def verified(self, name: str, obj: bytes, holders: set[str]) -> bool:
        """Whether an object is found that proves itself: whoever claims to hold it and does not is passed over."""
        passed_over: tuple[bytes, ...] = ()
        for _ in range(20):
            answer = self.locate(name, obj, passed_over)
            if answer is None:
                return False
            if answer.pointer.holder.address in holders:
                return True
            passed_over = (*passed_over, answer.pointer.holder.guid)
        return False


def test_where_hops_are_quick_other_ways_are_soon_tried_and_the_last_has_its_time():
    town = Town("patience", 3)
    node = town.nodes["n0"]
    usual = node.neighbours.timeout_seconds(node.contact.guid, town.now)
    assert 0 < 8 * usual < location.LOCATE_SECONDS
    waits = []
    timer = None
    for effect in town.step("n0", Locate(b"x" * 32, 7, (), town.now)):
        if isinstance(effect, SetTimer) and effect.timer.kind == "locate":
            timer, _ = effect
            waits.append(effect.seconds)
    while timer is not None:
        effects = node.step(TimerFired(timer, town.now))
        following = [each for each in effects if isinstance(each, SetTimer) and each.timer.kind == "locate"]
        timer = following[0].timer if following else None
        waits += [each.seconds for each in following]
    assert waits == pytest.approx([8 * usual] * (len(location.WAYS) - 1) + [location.LOCATE_SECONDS])


def test_more_pointers_of_one_neighbour_than_may_be_are_not_even_checked(monkeypatch):
    """A check costs some 50 us, a forgery nothing: the neighbour that brought it pays, and nobody else does."""
    monkeypatch.setattr(location, "CHECKS", 8)
    monkeypatch.setattr(location, "CHECKS_PER_SECOND", 2.0)
    town = Town("checks", 3)
    name, other = "n0", town.keys["n1"].contact
    checked: list[bytes] = []
    keys = town.keys[name]

    def nobody_signed(public_key: bytes, data: bytes, signature: bytes) -> bool:
        checked.append(data)
        return False

    monkeypatch.setattr(keys, "verify", nobody_signed)

    def reasons(sender: Contact, message: Message) -> list[str]:
        effects = town.step(name, Received(sender, message, town.now))
        return [effect.reason for effect in effects if isinstance(effect, Rejected)]

    def forged(number: int) -> Pointer:
        holder = town.keys["n2"]
        return next(make(holder, holder.contact, [b"%032d" % number], int(town.now), int(town.now) + 60))

    dearest = Copies(tuple((0, forged(number)) for number in range(12)))
    assert Counter(reasons(other, dearest)) == {
        "a pointer that its holder did not sign": 8,
        "more pointers than are checked for one neighbour": 4,
    }
    carried = forged(99)
    forward = Forward(9, root_key(carried.object, 1), other, 7, 1, Carried(carried, 1))
    assert reasons(other, forward) == ["more pointers than are checked for one neighbour"]
    assert len(checked) == 8
    assert reasons(town.keys["n2"].contact, forward) == ["a pointer that its holder did not sign"]
    town.run(1.0)
    del checked[:]
    assert len(reasons(other, dearest)) == 12
    assert len(checked) == 2


class Liar(Node):
    """Does with the cargo of others what `lie` says, and keeps to the rules otherwise."""

    def __init__(self, contact: Contact, choices: Random, keys: Keys, lie: Callable[..., object]) -> None:
        super().__init__(contact, choices, keys=keys)
        self.keys = keys
        self.choices = choices
        self._lie = lie

    def step(self, event: Event) -> list[Effect]:
        if isinstance(event, Received) and isinstance(event.message, Forward) and self.member:
            lies = self._lie(self, event.message, event.now)
            if lies is not None:
                assert isinstance(lies, list)
                return [Send(event.sender, Acknowledge(event.message.hop)), *lies]
        return super().step(event)


def swallow(liar: Liar, message: Forward, now: float) -> list[Effect] | None:
    return [] if isinstance(message.cargo, Carried | Search) else None


def deny(liar: Liar, message: Forward, now: float) -> list[Effect] | None:
    match message.cargo:
        case Carried():
            return []
        case Search():
            return [Send(message.origin, NotLocated(message.number, message.hops))]
    return None


def claim(liar: Liar, message: Forward, now: float) -> list[Effect] | None:
    match message.cargo:
        case Carried():
            return []
        case Search(obj):
            pointer = next(make(liar.keys, liar.contact, [obj], int(now), int(now) + 60))
            return [Send(message.origin, Located(message.number, pointer, message.hops))]
    return None


OBJECT, OTHER = b"o" * 32, b"p" * 32


@pytest.mark.parametrize("nodes", [1, 2, 3, 10, 40])
def test_every_node_finds_what_one_published(nodes):
    town = Town(nodes, nodes)
    publisher = f"n{nodes // 2}"
    town.publish(publisher, OBJECT)
    assert {town.holder(name, OBJECT) for name in town.nodes} == {publisher}
    assert town.locate("n0", OTHER) is None


def test_who_holds_it_finds_it_at_once_without_a_message():
    town = Town("self", 12)
    town.publish("n3", OBJECT)
    sent = town.sent
    town.step("n3", Locate(OBJECT, 99, (), town.now))
    answer = town.found[99]
    assert answer is not None
    assert (answer.pointer.holder.address, answer.hops, town.sent) == ("n3", 0, sent)


def test_the_root_of_each_salt_and_those_near_it_keep_the_pointer():
    town = Town("near", 40)
    town.publish("n5", OBJECT)
    for salt in range(SALTS):
        key = root_key(OBJECT, salt)
        nearest = sorted(town.nodes.values(), key=lambda node: model.places_between(key, node.contact.guid))
        for node in nearest[: location.NEAR]:
            assert node.location.pointers.get(OBJECT, town.keys["n5"].contact.guid, salt) is not None
        assert [kept.at_root for kept in nearest[0].location.pointers if kept.salt == salt] == [True]


def test_what_was_withdrawn_is_found_no_more():
    town = Town("gone", 30)
    town.publish("n5", OBJECT, OTHER)
    town.step("n5", Unpublish((OBJECT,), town.now))
    town.run(5.0)
    assert town.locate("n8", OBJECT) is None
    assert town.holder("n8", OTHER) == "n5"


def test_another_holder_is_found_when_one_is_passed_over():
    town = Town("three", 30)
    for name in ("n1", "n2", "n3"):
        town.publish(name, OBJECT)
    guids = {name: town.keys[name].contact.guid for name in ("n1", "n2", "n3")}
    assert town.holder("n9", OBJECT, (guids["n1"], guids["n3"])) == "n2"
    assert town.locate("n9", OBJECT, tuple(guids.values())) is None
    assert town.holder("n2", OBJECT, (guids["n2"],)) in {"n1", "n3"}


def test_what_a_dead_node_held_is_found_elsewhere():
    town = Town("dead", 30)
    for name in ("n1", "n2", "n3"):
        town.publish(name, OBJECT)
    town.crash("n1")
    town.crash("n3")
    assert {town.holder(name, OBJECT) for name in town.nodes} == {"n2"}


def test_pointers_outlive_their_roots():
    town = Town("roots", 40)
    town.publish("n5", OBJECT)
    for salt in range(SALTS):
        root = model.root(root_key(OBJECT, salt), town.guids)
        name = next(name for name, node in town.nodes.items() if node.contact.guid == root)
        if name != "n5":
            town.crash(name)
    assert {town.holder(name, OBJECT) for name in town.nodes} == {"n5"}


def test_a_new_root_is_handed_its_pointers():
    town = Town("moved", 24)
    town.publish("n5", OBJECT)
    key = root_key(OBJECT, 2)
    keys = next(
        keys
        for keys in (Keys(f"new{number}") for number in count())
        if model.root(key, [*town.guids, keys.contact.guid]) == keys.contact.guid
    )
    town.keys[keys.contact.address] = keys
    town.add(keys.contact)
    new = town.nodes[keys.contact.address]

    def is_handed_over() -> bool:
        return any(kept.at_root and kept.salt == 2 for kept in new.location.pointers)

    town.run_until(is_handed_over, 30)
    town.run(30.0)
    roots = [
        node for node in town.nodes.values() if any(kept.at_root and kept.salt == 2 for kept in node.location.pointers)
    ]
    assert roots == [new]


def test_a_holder_that_lives_is_found_for_longer_than_a_pointer_lasts():
    town = Town("long", 10)
    town.publish("n5", OBJECT)
    town.run(LIFETIME_SECONDS + 100)
    assert town.holder("n8", OBJECT) == "n5"


def test_one_that_is_gone_is_forgotten():
    town = Town("forgotten", 10)
    town.publish("n5", OBJECT)
    town.crash("n5")
    town.run(LIFETIME_SECONDS + 100)
    assert not any(len(node.location.pointers) for node in town.nodes.values())


def test_much_is_published_a_little_at_a_time():
    town = Town("much", 8)
    objects = tuple(bytes([number]) * 32 for number in range(100))
    before = town.keys["n2"].signed
    effects = town.step("n2", Publish(objects, town.now))
    assert town.keys["n2"].signed == before + 1
    assert not any(isinstance(effect, Send) for effect in effects)
    town.run(0.5)
    assert 0 < len(town.nodes["n2"].location.pointers) < len(objects) * SALTS
    town.run(20)
    assert {town.holder("n7", obj) for obj in objects} == {"n2"}


@pytest.mark.parametrize("lie", [swallow, deny, claim])
def test_a_quarter_of_all_lie(lie):
    liars = range(1, 40, 4)
    town = Town(lie.__name__, 40, liars, lie)
    honest = [f"n{number}" for number in range(40) if number not in liars]
    town.publish(honest[3], OBJECT)
    town.publish(honest[9], OBJECT)
    town.run(5.0)
    assert all(town.verified(name, OBJECT, {honest[3], honest[9]}) for name in honest)


def test_pointers_that_do_not_hold_are_refused_and_go_no_further():
    town = Town("forged", 12)
    alice, bob = town.keys["n1"], town.keys["n2"]
    good = next(make(alice, alice.contact, [OBJECT], int(town.now), int(town.now) + 60))
    forged = msgspec.structs.replace(good, object=OTHER)
    for pointer, key in ((forged, root_key(OTHER, 0)), (good, root_key(OTHER, 0))):
        cargo = Forward(1, key, bob.contact, 1, 1, Carried(pointer, 0))
        effects = town.step("n4", Received(bob.contact, cargo, town.now))
        assert [type(effect).__name__ for effect in effects] == ["Send", "Rejected"]
    town.step("n4", Received(bob.contact, Copies(((0, forged), (1, forged))), town.now))
    assert len(town.rejected) == 4
    assert not any(len(node.location.pointers) for node in town.nodes.values())


def test_an_old_pointer_played_again_does_not_bring_back_what_was_withdrawn():
    town = Town("replay", 12)
    seen: list[Carried] = []

    def overhear(sender: Contact, to: Contact, message: object) -> bool:
        if isinstance(message, Forward) and isinstance(message.cargo, Carried):
            seen.append(message.cargo)
        return False

    town.drops = overhear
    town.publish("n5", OBJECT)
    played = seen[:]
    town.run(3.0)
    town.step("n5", Unpublish((OBJECT,), town.now))
    town.run(5.0)
    town.crash("n5")
    outside = Keys("outside").contact
    for name in town.nodes:
        for cargo in played:
            message = Forward(1, root_key(OBJECT, cargo.salt), outside, 1, 1, cargo)
            town.step(name, Received(outside, message, town.now))
            town.step(name, Received(outside, Copies(((cargo.salt, cargo.pointer),)), town.now))
    town.run(2.0)
    kept = [each.pointer for node in town.nodes.values() for each in node.location.pointers]
    assert kept
    assert town.locate("n8", OBJECT) is None


def test_an_answer_that_was_not_asked_for_is_no_answer():
    town = Town("unasked", 12)
    town.publish("n5", OBJECT)
    alice = town.keys["n1"]
    number = 1000
    town.drops = lambda sender, to, message: isinstance(message, Located | NotLocated)
    town.step("n3", Locate(OBJECT, number, (), town.now))
    other = next(make(alice, alice.contact, [OTHER], int(town.now), int(town.now) + 60))
    stolen = next(make(town.keys["n5"], town.keys["n5"].contact, [OBJECT], int(town.now), int(town.now) + 60))
    (way,) = town.nodes["n3"].location._ways
    for guess, pointer in ((way, other), (way, stolen), (number, stolen)):
        sender = alice if guess == way else town.keys["n5"]
        town.step("n3", Received(sender.contact, Located(guess, pointer, 1), town.now))
    assert number not in town.found
    town.step("n3", Received(town.keys["n5"].contact, Located(way, stolen, 1), town.now))
    assert town.found[number] is not None
    town.step("n3", Received(town.keys["n5"].contact, Located(way, stolen, 1), town.now))


def test_one_liar_that_denies_many_times_ends_no_search():
    town = Town("denier", 12)
    town.publish("n5", OBJECT)
    town.drops = lambda sender, to, message: isinstance(message, Located)
    town.step("n3", Locate(OBJECT, 1000, (), town.now))
    for _ in range(100):
        (way, *_) = town.nodes["n3"].location._ways
        town.step("n3", Received(town.keys["n1"].contact, NotLocated(way, 1), town.now))
    assert 1000 not in town.found
    town.drops = lambda sender, to, message: False
    town.run_until(lambda: 1000 in town.found, 20)
    assert town.found[1000] is not None


def located(town: Town, way: int, name: str, obj: bytes = OBJECT) -> list[Effect]:
    """What comes of it that a node says at n3 that it holds the object."""
    keys = town.keys[name]
    pointer = next(make(keys, keys.contact, [obj], int(town.now), int(town.now) + 60))
    effects = town.step("n3", Received(keys.contact, Located(way, pointer, 1), town.now))
    return [effect for effect in effects if isinstance(effect, LocatedAt | Rejected)]


def searching(name: str) -> tuple[Town, list[int]]:
    """A node that has begun its second group of ways, none of which brings anything by itself; and their numbers."""
    town = Town(name, 14)
    town.drops = lambda sender, to, message: True
    town.step("n3", Locate(OBJECT, 1000, (), town.now))
    town.run(location.LOCATE_SECONDS + 0.1)
    ways = list(town.nodes["n3"].location._ways)
    assert len(ways) == 1 + location.WAYS[1]
    return town, ways


def test_who_asks_on_hears_next_of_a_holder_by_another_way():
    """However many are named by one way, they wait until each other way was heard."""
    town, ways = searching("voices")
    assert [type(effect) for effect in located(town, ways[1], "n4")] == [LocatedAt]
    for name in ("n5", "n6", "n7"):
        assert located(town, ways[1], name) == []
    for way, name in ((ways[2], "n8"), (ways[3], "n9")):
        assert located(town, way, name) == []
    passed_over: tuple[bytes, ...] = (town.keys["n4"].contact.guid,)
    given = []
    for number in range(1001, 1004):
        (effect,) = town.step("n3", Locate(OBJECT, number, passed_over, town.now))
        assert isinstance(effect, LocatedAt)
        given.append(effect.pointer.holder.address)
        passed_over = (*passed_over, effect.pointer.holder.guid)
    assert given == ["n8", "n9", "n5"]
    left = (*passed_over, *(town.keys[name].contact.guid for name in ("n6", "n7")))
    effects = town.step("n3", Locate(OBJECT, 1004, left, town.now))
    assert any(isinstance(effect, Send) for effect in effects), "none is left: it is looked for anew"


def test_one_way_brings_no_more_answers_than_holders_are_asked():
    town, ways = searching("many voices")
    for number in range(4, 4 + location.HOLDERS_AT_ONCE):
        located(town, ways[1], f"n{number}")
    assert located(town, ways[1], "n13") == [Rejected(town.keys["n13"].contact, "more answers than holders were asked")]


def test_answers_to_an_earlier_search_are_no_answers_to_a_new_one():
    town, ways = searching("earlier")
    for name in ("n4", "n5"):
        located(town, ways[1], name)
    assert any(isinstance(effect, Send) for effect in town.step("n3", Locate(OBJECT, 1001, (), town.now)))
    effects = town.step("n3", Locate(OBJECT, 1002, (town.keys["n4"].contact.guid,), town.now))
    assert not any(isinstance(effect, LocatedAt) for effect in effects)


def test_who_denies_and_cannot_be_the_root_is_answered_with_constrained_ways():
    town = Town("implausible", 30)
    node = town.nodes["n3"]
    town.drops = lambda sender, to, message: True
    town.step("n3", Locate(OBJECT, 1000, (), town.now))
    ((way, begun),) = node.location._ways.items()
    far = max(town.contacts.values(), key=lambda contact: model.places_between(begun.key, contact.guid))
    assert far.address != "n3"
    effects = town.step("n3", Received(far, NotLocated(way, 2), town.now))
    again = [effect.message for effect in effects if isinstance(effect, Send)]
    assert len(again) >= SALTS - 1
    assert all(isinstance(message, Forward) and message.constrained for message in again)
    assert town.step("n3", Received(far, NotLocated(way, 2), town.now)) == []


def test_a_search_by_constrained_entries_goes_to_several_holders_at_once():
    town = Town("several", 12)
    for name in ("n1", "n2", "n4", "n5", "n6", "n7"):
        town.publish(name, OBJECT)
    asks = town.keys["n9"].contact
    passed_over = (town.keys["n1"].contact.guid,)
    for constrained, expected in ((False, 1), (True, location.HOLDERS_AT_ONCE)):
        cargo = Search(OBJECT, 0, None, passed_over)
        message = Forward(1, root_key(OBJECT, 0), asks, 7, 1, cargo, constrained)
        effects = town.step("n8", Received(asks, message, town.now))
        sent = [e for e in effects if isinstance(e, Send) and isinstance(e.message, Forward)]
        assert len({effect.to for effect in sent}) == len(sent) == expected
        for effect in sent:
            assert isinstance(effect.message, Forward)
            assert isinstance(effect.message.cargo, Search)
            assert effect.message.cargo.holder == effect.to.guid
            assert effect.to.guid not in passed_over


def test_of_holders_those_that_claim_much_more_than_others_are_asked_last():
    town = Town("greedy", 12)
    objects = [OBJECT, *(bytes([number]) * 32 for number in range(1, 40))]
    town.publish("n1", *objects)
    town.publish("n2", OBJECT)
    town.run(20.0)
    greedy, modest = (town.keys[name].contact for name in ("n1", "n2"))
    both = 0
    for node in town.nodes.values():
        held = node.location.pointers.holders(OBJECT, town.now)
        if {greedy, modest} <= set(held) and node.contact not in (greedy, modest):
            both += 1
            assert node.location._believed([greedy, modest]) == [modest]
            assert node.location._believed([greedy]) == [greedy]
    assert both > 5


def test_searches_are_bounded(monkeypatch):
    monkeypatch.setattr(location, "SEARCHES", 5)
    town = Town("bounded", 3)
    town.drops = lambda sender, to, message: True
    for number in range(20):
        town.step("n1", Locate(OBJECT, number, (), town.now))
    assert len(town.nodes["n1"].location._searches) == 5
    assert len(town.nodes["n1"].location._ways) <= 5 * sum(location.WAYS)
    town.step("n1", Locate(OBJECT, 21, tuple(bytes([number]) * 32 for number in range(MAX_CONTACTS + 9)), town.now))


def test_what_is_kept_for_those_who_ask_on_is_bounded(monkeypatch):
    monkeypatch.setattr(location, "SPARES", 3)
    town = Town("spares", 6)
    town.drops = lambda sender, to, message: True
    objects = [bytes([number]) * 32 for number in range(1, 10)]
    for number, obj in enumerate(objects):
        town.step("n3", Locate(obj, number, (), town.now))
        way = list(town.nodes["n3"].location._ways)[-1]
        assert located(town, way, "n4", obj)
        assert located(town, way, "n5", obj) == []
    assert len(town.nodes["n3"].location._spare) == 3
    passed_over = (town.keys["n4"].contact.guid,)
    spared = [
        obj
        for number, obj in enumerate(objects, 100)
        if any(isinstance(effect, LocatedAt) for effect in town.step("n3", Locate(obj, number, passed_over, town.now)))
    ]
    assert spared == objects[-3:]


def test_a_node_without_keys_keeps_nothing_and_publishes_nothing():
    stage = Stage("no keys")
    stage.grow(5)
    stage.step("n1", Publish((OBJECT,), stage.now))
    stage.run(5.0)
    alice = Keys("n9")
    pointer = next(make(alice, alice.contact, [OBJECT], int(stage.now), int(stage.now) + 60))
    stage.step("n1", Received(alice.contact, Copies(((0, pointer),)), stage.now))
    assert not any(len(node.location.pointers) for node in stage.nodes.values())
    assert [refused.reason for _, refused in stage.rejected] == ["no pointers are kept here"]

"""Overlay nodes as servers run them, on virtual time: the way in, questions of clients, and what outsiders send."""

import heapq
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from bft.secret import Secret
from bft.signatures import Ed25519Signer, Ed25519Verifier
from pond.logs import Log
from pond.node import overlay as module
from pond.node.clock import Clock
from pond.node.metrics import OverlayMetrics
from pond.node.overlay import NodeKeys, Overlay
from pond.protocol import (
    FindNextHop,
    FindRoot,
    GetNeighbours,
    GetOverlay,
    LocateObject,
    NextHopFound,
    ObjectLocated,
    OverlayNeighbours,
    OverlayQuestion,
    OverlayStatus,
    Overloaded,
    Published,
    PublishTest,
    Refused,
    Reply,
    RootFound,
    guid_of_test,
)
from pond.servers import Listed
from tapestry.guid import distance
from tapestry.messages import Contact, Find, Forward, Join, LeafNews, Probe, Row, decode, encode
from tapestry.pointers import node_guid

ONE_WAY_SECONDS = 0.002
LONG_SECONDS = 120.0


class Timer:
    def __init__(self, callback: Callable[..., object], args: tuple[object, ...]) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args = args

    def cancel(self) -> None:
        self.callback = None


class World:
    """Servers of one cluster file, a network between them, and time that passes when nothing is left to do."""

    def __init__(self, size: int, directory: Path) -> None:
        self.now = 1_700_000_000.0
        self.log = Log("test", directory / "log")
        self.cut: Callable[[bytes, bytes], bool] = lambda one, other: False
        self.sent: list[tuple[bytes, bytes, Any]] = []
        self._order = count()
        self._heap: list[tuple[float, int, Timer]] = []
        signers = [Ed25519Signer(Secret(bytes([number + 1]) * 32)) for number in range(size)]
        self.signers = {node_guid(signer.public_key): signer for signer in signers}
        self.listed = [
            Listed(f"server-{number}", signer.public_key, node_guid(signer.public_key), "c", f"tcp://a:{number + 1}")
            for number, signer in enumerate(signers)
        ]
        self.nodes: dict[bytes, Overlay] = {}
        self.registries: dict[bytes, CollectorRegistry] = {}

    def later(self, delay: float, callback: Callable[..., object], /, *args: object) -> Timer:
        timer = Timer(callback, args)
        heapq.heappush(self._heap, (self.now + delay, next(self._order), timer))
        return timer

    def start(self, number: int) -> Overlay:
        own = self.listed[number]
        keys = NodeKeys(self.signers[own.guid], Ed25519Verifier())
        registry = self.registries[own.guid] = CollectorRegistry()
        metrics = OverlayMetrics(registry)
        node = Overlay(own, self.listed, keys, Random(number), lambda: self.now, self.later, metrics, self.log)
        self.nodes[own.guid] = node
        node.start(Wire(self, own.guid))
        return node

    def stop(self, number: int) -> None:
        self.nodes.pop(self.listed[number].guid).close()

    def deliver(self, sender: bytes, to: bytes, data: bytes) -> None:
        node = self.nodes.get(to)
        if node is not None and not self.cut(sender, to):
            node.received([(sender, data)])

    def run(self, holds: Callable[[], object], seconds: float = LONG_SECONDS) -> None:
        """Until it holds, which it must within so many virtual seconds."""
        until = self.now + seconds
        while not holds():
            at, _, timer = heapq.heappop(self._heap)
            assert at < until, "it does not come to hold"
            self.now = max(self.now, at)
            if timer.callback is not None:
                timer.callback(*timer.args)

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        self.later(seconds, lambda: None)
        self.run(lambda: self.now >= until, seconds + 1)

    def ask(self, node: Overlay, question: OverlayQuestion) -> Reply:
        answers: list[Reply] = []
        node.ask(question, answers.append)
        self.run(lambda: answers)
        return answers[0]

    def root(self, node: Overlay, key: bytes) -> bytes:
        found = self.ask(node, FindRoot(1, key))
        assert isinstance(found, RootFound), found
        return found.root

    def refused(self, number: int) -> float:
        registry = self.registries[self.listed[number].guid]
        return sum(
            sample.value
            for family in registry.collect()
            for sample in family.samples
            if sample.name == "pond_overlay_rejected_total"
        )


class Wire:
    def __init__(self, world: World, own: bytes) -> None:
        self.world = world
        self.own = own

    def send(self, to: bytes, data: bytes, /) -> bool:
        self.world.sent.append((self.own, to, decode(data)))
        self.world.later(ONE_WAY_SECONDS, self.world.deliver, self.own, to, data)
        return True


def all_joined(world: World) -> bool:
    return all(node.joined for node in world.nodes.values())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(8, tmp_path)
    yield world
    world.log.close()


@pytest.fixture
def overlay(world: World) -> list[Overlay]:
    """All eight, joined and acquainted."""
    nodes = [world.start(number) for number in range(8)]
    world.run(lambda: all(node.joined and node.neighbours == 7 for node in nodes))
    return nodes


KEYS = [sha256(b"key %d" % number).digest() for number in range(16)]


def test_the_first_of_the_file_begins_and_all_others_join(world: World, overlay: list[Overlay]) -> None:
    assert world.now - 1_700_000_000 < 10
    for key in KEYS:
        root = min(world.signers, key=lambda guid: distance(key, guid))
        assert {world.root(node, key) for node in overlay} == {root}


def test_who_asks_each_hop_for_the_next_one_comes_to_the_root(world: World, overlay: list[Overlay]) -> None:
    for key in KEYS:
        at: bytes | None = overlay[3]._own.guid
        walked: list[bytes] = []
        while at is not None:
            walked.append(at)
            found = world.ask(world.nodes[at], FindNextHop(1, key))
            assert isinstance(found, NextHopFound)
            at = found.node
        assert walked[-1] == world.root(overlay[3], key)
        assert len(walked) == len(set(walked))


def test_holders_that_a_client_passes_over_are_not_named(world: World, overlay: list[Overlay]) -> None:
    obj = guid_of_test(KEYS[0])
    for number in (2, 5):
        world.ask(overlay[number], PublishTest(1, KEYS[0], True))
    world.pass_time(3)
    holders = [overlay[number]._own.guid for number in (2, 5)]
    for first, second in (holders, holders[::-1]):
        found = world.ask(overlay[0], LocateObject(1, obj, (first,)))
        assert isinstance(found, ObjectLocated)
        assert found.holder == second
    nobody = world.ask(overlay[0], LocateObject(1, obj, tuple(holders)))
    assert isinstance(nobody, ObjectLocated)
    assert nobody.holder is None
    own = world.ask(overlay[2], LocateObject(1, obj))
    assert isinstance(own, ObjectLocated)
    assert own.holder == holders[0], "a holder names itself"


def test_where_the_first_is_missing_the_next_begins(world: World) -> None:
    nodes = [world.start(number) for number in range(2, 5)]
    world.run(lambda: all_joined(world))
    assert world.now - 1_700_000_000 > module.NEXT_FIRST_SECONDS
    world.run(lambda: all(node.neighbours == 2 for node in nodes))
    assert len({world.root(node, KEYS[0]) for node in nodes}) == 1


def test_a_sign_of_a_member_keeps_a_node_from_beginning_an_overlay_of_its_own(world: World) -> None:
    for number in range(1, 4):
        world.start(number)
    world.run(lambda: all_joined(world))
    first = world.listed[0].guid
    world.cut = lambda one, other: one == first
    late = world.start(0)
    world.deliver(world.listed[3].guid, first, encode(Probe(1)))
    world.pass_time(3 * module.FIRST_SECONDS)
    assert not late.joined
    world.cut = lambda one, other: False
    world.run(lambda: late.joined)
    assert late.neighbours > 0


def test_overlays_that_began_apart_become_one(world: World) -> None:
    half = {server.guid for server in world.listed[:4]}
    world.cut = lambda one, other: (one in half) != (other in half)
    nodes = [world.start(number) for number in range(8)]
    world.run(lambda: all_joined(world) and all(node.neighbours == 3 for node in nodes))
    roots = {node.rank: world.root(node, KEYS[0]) for node in nodes}
    assert len(set(roots.values())) == 2
    world.cut = lambda one, other: False
    world.run(lambda: all(node.neighbours == 7 for node in nodes))
    assert len({world.root(node, KEYS[0]) for node in nodes}) == 1


def test_who_is_alone_in_its_file_is_a_member_at_once(tmp_path: Path) -> None:
    world = World(1, tmp_path)
    assert world.start(0).joined
    world.log.close()


def test_a_question_before_the_node_has_joined_is_for_later(world: World) -> None:
    node = world.start(3)
    status = world.ask(node, GetOverlay(7))
    assert isinstance(status, OverlayStatus)
    assert (status.ask, status.joined, status.guid) == (7, False, world.listed[3].guid)
    assert isinstance(world.ask(node, FindRoot(8, KEYS[0])), Overloaded)


def test_a_node_tells_whom_it_knows(world: World, overlay: list[Overlay]) -> None:
    told = world.ask(overlay[2], GetNeighbours(1))
    assert isinstance(told, OverlayNeighbours)
    assert told.status.joined
    assert told.status.neighbours == len(told.neighbours) == 7
    assert all(one.leaf and not one.suspect for one in told.neighbours)
    assert {one.rtt_ms for one in told.neighbours} - {None}
    assert 0 in {one.row for one in told.neighbours}


def test_what_is_published_is_located_until_it_is_withdrawn(world: World, overlay: list[Overlay]) -> None:
    label = KEYS[3]
    for number in (1, 4):
        assert world.ask(overlay[number], PublishTest(1, label, True)) == Published(1, guid_of_test(label))
    world.pass_time(2)
    for node in overlay:
        found = world.ask(node, LocateObject(2, guid_of_test(label)))
        assert isinstance(found, ObjectLocated)
        assert found.holder in (world.listed[1].guid, world.listed[4].guid)
    for number in (1, 4):
        world.pass_time(2)
        world.ask(overlay[number], PublishTest(3, label, False))
    world.pass_time(2)
    gone = world.ask(overlay[6], LocateObject(4, guid_of_test(label)))
    assert isinstance(gone, ObjectLocated)
    assert gone.holder is None


def test_a_client_can_make_a_server_publish_test_objects_only_and_not_without_end(
    world: World, overlay: list[Overlay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TEST_OBJECTS", 2)
    published = [world.ask(overlay[0], PublishTest(1, key, True)) for key in (*KEYS[:3], KEYS[0])]
    assert [type(each) for each in published] == [Published, Published, Refused, Published]
    assert not {each.object for each in published if isinstance(each, Published)} & set(KEYS)


def test_questions_that_nobody_answers_are_forgotten(world: World, overlay: list[Overlay]) -> None:
    alone = overlay[0]
    world.cut = lambda one, other: True
    answers: list[Reply] = []
    for key in KEYS:
        alone.ask(FindRoot(1, key), answers.append)
    world.pass_time(module.QUESTION_SECONDS + 1)
    assert not alone._asked


def test_undecodable_bytes_are_dropped_and_counted(world: World, overlay: list[Overlay]) -> None:
    draw = Random(1)
    sender, to = world.listed[1].guid, world.listed[0].guid
    before = world.refused(0)
    for _ in range(200):
        world.deliver(sender, to, b"\xc1" + draw.randbytes(draw.randrange(300)))
    assert world.refused(0) - before == 200
    assert overlay[0].joined
    world.root(overlay[0], KEYS[0])


def test_nodes_that_the_cluster_file_does_not_list_are_not_asked_nor_answered(
    world: World, overlay: list[Overlay]
) -> None:
    liar, victim = world.listed[1].guid, world.listed[0].guid
    forged = tuple(Contact(sha256(b"forged %d" % number).digest(), "tcp://evil:1") for number in range(60))
    moved = Contact(world.listed[2].guid, "tcp://evil:2")
    world.sent.clear()
    for message in (
        LeafNews(0, (*forged, moved), b""),
        Row(1, forged),
        Forward(1, KEYS[0], forged[0], 1, 0, Find()),
    ):
        before = world.refused(0)
        world.deliver(liar, victim, encode(message))
        assert world.refused(0) > before
    world.pass_time(5)
    assert {to for _, to, _ in world.sent} <= set(world.signers)
    told = repr([message for _, _, message in world.sent])
    assert "evil" not in told
    assert overlay[0].neighbours == 7


def test_a_core_that_fails_begins_anew_and_says_again_what_it_holds(
    world: World, overlay: list[Overlay], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = overlay[5]
    world.ask(node, PublishTest(1, KEYS[1], True))
    failing = node._core

    def fail(event: object) -> list[object]:
        raise AssertionError("our fault")

    monkeypatch.setattr(failing, "step", fail)
    world.run(lambda: node._core is not failing and node.joined)
    status = world.ask(node, GetOverlay(2))
    assert isinstance(status, OverlayStatus)
    world.run(lambda: node.neighbours == 7 and node._core.location.held.keys() == {guid_of_test(KEYS[1])})
    world.pass_time(2)
    found = world.ask(overlay[2], LocateObject(3, guid_of_test(KEYS[1])))
    assert isinstance(found, ObjectLocated)
    assert found.holder == world.listed[5].guid


def test_who_leaves_is_forgotten_at_once_and_nothing_is_sent_after_it(world: World, overlay: list[Overlay]) -> None:
    overlay[7].leave()
    gone = world.nodes.pop(world.listed[7].guid)
    world.run(lambda: all(node.neighbours == 6 for node in world.nodes.values()), 5)
    world.sent.clear()
    gone.received([(world.listed[1].guid, encode(Forward(1, KEYS[0], overlay[1]._own, 1, 0, Find())))])
    world.pass_time(20)
    assert gone._own.guid not in {sender for sender, _, _ in world.sent}


class CountingVerifier(Ed25519Verifier):
    __slots__ = ("asked",)

    def __init__(self) -> None:
        self.asked = 0

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        self.asked += 1
        return super().verify(public_key, message, signature)


def test_a_good_signature_is_checked_once_and_a_bad_one_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VERIFIED", 2)
    signer, verifier = Ed25519Signer(Secret(bytes(32))), CountingVerifier()
    keys = NodeKeys(signer, verifier)
    signatures = {data: keys.sign(data) for data in (b"a", b"b", b"c")}
    assert all(keys.verify(signer.public_key, b"a", signatures[b"a"]) for _ in range(3))
    assert verifier.asked == 1
    assert not any(keys.verify(signer.public_key, b"b", signatures[b"a"]) for _ in range(2))
    assert not keys.verify(signer.public_key[:31], b"a", signatures[b"a"])
    assert verifier.asked == 3
    for data in (b"b", b"c", b"a"):
        assert keys.verify(signer.public_key, data, signatures[data])
    assert verifier.asked == 6


def test_the_clock_goes_on_when_the_wall_clock_is_set_back() -> None:
    wall, steady = [1000.0], [50.0]
    clock = Clock(lambda: wall[0], lambda: steady[0])
    assert clock() == 1000.0
    seen = []
    for wall_step, steady_step in ((1.0, 1.0), (-500.0, 1.0), (1.0, 1.0), (3600.0, 1.0), (0.0, 0.0), (-1.0, 0.0)):
        wall[0] += wall_step
        steady[0] += steady_step
        seen.append(clock())
    assert seen == [1001.0, 1001.5, 1002.0, 4102.0, 4102.0, 4102.0]


def test_who_was_started_again_is_let_in_though_others_suspect_it(world: World, overlay: list[Overlay]) -> None:
    """They know it, as nobody has given it up yet, and it lets nothing through before it is a member again."""
    world.stop(6)
    gone = world.listed[6].guid
    for node in world.nodes.values():
        known = node._core.neighbours.get(gone)
        assert known is not None
        known.misses = 1
    world.sent.clear()
    again = world.start(6)
    world.run(lambda: again.joined, 3)
    carried = [message for _, to, message in world.sent if to == gone and isinstance(message, Forward)]
    assert not [message for message in carried if isinstance(message.cargo, Join)]


def test_neighbours_that_were_started_again_together_let_each_other_in(world: World, overlay: list[Overlay]) -> None:
    """Everybody knows both, from their questions, and takes each for the root of the other, which it is not yet."""
    order = sorted(range(8), key=lambda number: world.listed[number].guid)
    for one, other in zip(order, order[1:] + order[:1], strict=True):
        for seconds in (0.5, 2.0, 5.0):
            for number in {one, other} - {0}:
                world.stop(number)
            world.pass_time(seconds)
            for number in {one, other} - {0}:
                world.start(number)
            world.run(lambda: all_joined(world), 6)
            assert all_joined(world)

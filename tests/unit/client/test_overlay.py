"""A located holder is asked itself: who is dead or does not hold the object is passed over."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext

import pytest

from pond.client import overlay as client
from pond.client.asking import Deadline
from pond.errors import TimedOut, Unavailable
from pond.protocol import FindNextHop, LocateObject, NextHopFound, ObjectLocated, OverlayStatus
from pond.servers import Listed
from tapestry.messages import MAX_CONTACTS

OBJECT = client.object_of("thing")
SERVERS = [Listed(f"s{number}", bytes(32), bytes([number]) * 32, "tcp://a:1", "tcp://a:2") for number in range(100)]


class Overlay:
    """Servers that say of each object who holds it; some lie, some are dead."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, claims: Sequence[int], honest: set[int], dead: set[int]
    ) -> None:
        self.asked: list[tuple[str, int]] = []
        self._claims, self._honest, self._dead = claims, honest, dead
        monkeypatch.setattr(client, "_ask", self.ask)

    async def ask(self, servers, make, kind, deadline: Deadline, last_seconds=0.0, linked=None):
        question: LocateObject = make(1)
        assert kind is ObjectLocated
        assert question.object == OBJECT
        assert len(question.passed_over) <= MAX_CONTACTS
        [server] = servers
        number = SERVERS.index(server)
        self.asked.append((server.name, len(question.passed_over)))
        if number in self._dead:
            raise TimedOut("no answer")
        if number in self._honest:
            return server, ObjectLocated(1, server.guid, 0, 0.1)
        passed = set(question.passed_over)
        left = [claim for claim in self._claims if SERVERS[claim].guid not in passed]
        return server, ObjectLocated(1, SERVERS[left[0]].guid if left else None, 2, 1.0)

    def locate(self, seconds: float = 30.0) -> bytes | None:
        by, found = asyncio.run(client.locate(SERVERS, [SERVERS[99]], OBJECT, seconds))
        assert by == SERVERS[99]
        return found.holder


def test_a_holder_that_answers_for_the_object_is_found(monkeypatch):
    overlay = Overlay(monkeypatch, [5], {5}, set())
    assert overlay.locate() == SERVERS[5].guid
    assert overlay.asked == [("s99", 0), ("s5", 0)]


def test_the_dead_and_those_that_know_nothing_of_it_are_passed_over(monkeypatch):
    overlay = Overlay(monkeypatch, [1, 2, 3], {3}, {1})
    assert overlay.locate() == SERVERS[3].guid
    assert overlay.asked == [("s99", 0), ("s1", 0), ("s99", 1), ("s2", 0), ("s99", 2), ("s3", 0)]


def test_a_holder_that_no_file_lists_is_passed_over(monkeypatch):
    overlay = Overlay(monkeypatch, [1, 2], {2}, set())
    by, found = asyncio.run(client.locate(SERVERS[2:], [SERVERS[99]], OBJECT, 30.0))
    assert (by, found.holder) == (SERVERS[99], SERVERS[2].guid)
    assert overlay.asked == [("s99", 0), ("s99", 1), ("s2", 0)]


def test_when_nobody_is_left_nobody_holds_it(monkeypatch):
    assert Overlay(monkeypatch, [1, 2], set(), {1}).locate() is None


def test_however_many_lie_the_question_stays_small(monkeypatch):
    crowd = range(MAX_CONTACTS)
    overlay = Overlay(monkeypatch, crowd, set(), set(crowd))
    assert overlay.locate() is None
    assert len(overlay.asked) == 2 * MAX_CONTACTS + 1


def test_once_one_has_been_passed_over_nobody_waits_for_each_of_the_others(monkeypatch):
    """The first to be asked answers when the fourth is asked, and none of the others ever does."""
    overlay = Overlay(monkeypatch, range(1, 40), {1}, set())
    monkeypatch.setattr(client, "HOLDER_SECONDS", 0.001)
    monkeypatch.setattr(client, "NEXT_HOLDER_SECONDS", 0.001)

    async def locate() -> bytes | None:
        fourth = asyncio.Event()

        async def ask(servers, make, kind, deadline, last_seconds=0.0, linked=None):
            number = SERVERS.index(servers[0])
            if number == 4:
                fourth.set()
            if number == 1:
                await fourth.wait()
            elif number < 99:
                await asyncio.Event().wait()
            return await overlay.ask(servers, make, kind, deadline)

        monkeypatch.setattr(client, "_ask", ask)
        return (await client.locate(SERVERS, [SERVERS[99]], OBJECT, 30.0))[1].holder

    assert asyncio.run(locate()) == SERVERS[1].guid
    assert [name for name, _ in overlay.asked].count("s99") >= 4


def test_who_answers_after_the_last_was_named_is_heard(monkeypatch):
    overlay = Overlay(monkeypatch, [1, 2], {1}, set())
    monkeypatch.setattr(client, "HOLDER_SECONDS", 0.001)

    async def locate() -> bytes | None:
        none_left = asyncio.Event()

        async def ask(servers, make, kind, deadline, last_seconds=0.0, linked=None):
            if SERVERS.index(servers[0]) == 1:
                await none_left.wait()
            server, found = await overlay.ask(servers, make, kind, deadline)
            if found.holder is None:
                none_left.set()
            return server, found

        monkeypatch.setattr(client, "_ask", ask)
        return (await client.locate(SERVERS, [SERVERS[99]], OBJECT, 30.0))[1].holder

    assert asyncio.run(locate()) == SERVERS[1].guid


def test_who_names_again_whom_it_was_to_pass_over_is_not_asked_any_more(monkeypatch):
    """Else it would hold the search up until its deadline, as fast as it answers."""
    overlay = Overlay(monkeypatch, [2, 1], {2}, set())
    liars = SERVERS[97:99]
    asked = []

    async def ask(servers, make, kind, deadline, last_seconds=0.0, linked=None):
        server = next((server for server in servers if server in liars), servers[0])
        asked.append(server.name)
        if server in liars:
            return server, ObjectLocated(1, SERVERS[1].guid, 2, 1.0)
        return await overlay.ask([server], make, kind, deadline)

    monkeypatch.setattr(client, "_ask", ask)
    by, found = asyncio.run(client.locate(SERVERS, SERVERS[97:], OBJECT, 30.0))
    assert (by, found.holder) == (SERVERS[99], SERVERS[2].guid)
    assert sorted(set(asked)) == ["s1", "s2", "s97", "s98", "s99"]
    assert len(asked) == 6, "the first of the liars twice, all others once"
    asked.clear()
    by, found = asyncio.run(client.locate(SERVERS, liars, OBJECT, 30.0))
    assert by in liars
    assert found.holder is None
    assert len(asked) == 4


def test_holders_that_no_file_lists_are_named_four_a_second(monkeypatch):
    monkeypatch.setattr(client, "NEXT_HOLDER_SECONDS", 0.05)
    named = iter(range(1_000_000))

    async def ask(servers, make, kind, deadline, last_seconds=0.0, linked=None):
        if deadline.passed:
            raise TimedOut("no answer")
        return servers[0], ObjectLocated(1, next(named).to_bytes(32, "big"), 2, 1.0)

    monkeypatch.setattr(client, "_ask", ask)
    with pytest.raises(TimedOut):
        asyncio.run(client.locate(SERVERS, SERVERS[99:], OBJECT, 0.5))
    assert next(named) <= 20


def test_no_server_that_can_be_asked_is_an_error(monkeypatch):
    async def nobody(*words, **more):
        raise Unavailable("refused")

    monkeypatch.setattr(client, "_ask", nobody)
    with pytest.raises(Unavailable):
        asyncio.run(client.locate(SERVERS, SERVERS, OBJECT, 1.0))


def test_a_way_is_walked_until_its_root_or_where_nobody_answers(monkeypatch):
    ways = {0: 1, 1: 7, 7: None, 2: 3, 3: 4, 4: 3, 5: 6}
    dead = {6}

    async def ask(servers, make, kind, deadline, last_seconds=0.0, linked=None):
        [server] = servers
        number = SERVERS.index(server)
        if number in dead:
            raise TimedOut("no answer")
        if kind is OverlayStatus:
            return server, OverlayStatus(1, server.guid, True, 1.0, 0, 0, 0)
        assert make(1) == FindNextHop(1, OBJECT)
        following = ways[number]
        return server, NextHopFound(1, None if following is None else SERVERS[following].guid)

    monkeypatch.setattr(client, "_ask", ask)
    monkeypatch.setattr(client, "Linked", lambda servers: nullcontext())

    def walked(start: int, among: Sequence[Listed] = SERVERS) -> list[tuple[int, bool]]:
        hops = asyncio.run(client.walk(among, SERVERS[start], OBJECT, 5.0))
        return [(hop.guid[0], hop.seconds is not None) for hop in hops]

    assert walked(0) == [(0, True), (1, True), (7, True)]
    assert walked(7) == [(7, True)]
    assert walked(2) == [(2, True), (3, True), (4, True)], "a liar sends it back: that is no way"
    assert walked(5) == [(5, True), (6, False)]
    assert walked(0, SERVERS[:5]) == [(0, True), (1, True), (7, False)], "a node that no file lists"

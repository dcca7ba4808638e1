"""The overlay's port on real sockets: links on demand and only to whom the cluster file lists, others not heard."""

from contextlib import closing
from typing import Any

import pytest

from pond.transport import OverlayPort, Remote, ServerLinks, link, overlay
from pond.transport.overlay import MAX_OVERLAY_BYTES
from tests.unit.pond.test_transport import ANYWHERE, PUBLIC, SEEDS, run, until

NAMES = [bytes([number]) * 32 for number in range(5)]
NOWHERE = "tcp://127.0.0.1:1"


def node(number: int, inbox: list[Any], address: str = ANYWHERE) -> OverlayPort:
    return OverlayPort(SEEDS[number], address, inbox.extend)


def remote(number: int, port: OverlayPort) -> Remote:
    return Remote(PUBLIC[number], port.address)


def test_links_are_made_for_what_is_sent_and_the_sender_is_known_by_its_key():
    async def test():
        inboxes: list[list[Any]] = [[], [], []]
        ports = [node(number, inbox) for number, inbox in enumerate(inboxes)]
        nodes = {NAMES[number]: remote(number, port) for number, port in enumerate(ports)}
        for port in ports:
            port.set_nodes(nodes)
        assert ports[0].linked == frozenset()
        assert ports[0].send(NAMES[1], b"from 0")
        assert ports[2].send(NAMES[1], b"from 2")
        await until(lambda: len(inboxes[1]) == 2)
        assert sorted(inboxes[1]) == [(NAMES[0], b"from 0"), (NAMES[2], b"from 2")]
        assert [port.linked for port in ports] == [{NAMES[1]}, frozenset(), {NAMES[1]}]
        for port in ports:
            port.close()

    run(test)


def test_what_goes_to_unknown_names_or_is_too_large_is_dropped_and_counted():
    async def test():
        with closing(node(0, [])) as port:
            port.set_nodes({NAMES[1]: Remote(PUBLIC[1], NOWHERE)})
            assert not port.send(NAMES[2], b"who is this?")
            assert not port.send(NAMES[1], bytes(MAX_OVERLAY_BYTES + 1))
            assert (port.counters["no such node"], port.counters["too large"]) == (1, 1)
            assert port.linked == frozenset()

    run(test)


def test_a_key_that_is_not_listed_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(link, "REVIVE_SECONDS", 0.05)

    async def test():
        inbox: list[Any] = []
        with closing(node(0, inbox)) as port, closing(node(1, [])) as stranger:
            port.set_nodes({NAMES[2]: Remote(PUBLIC[2], NOWHERE)})
            stranger.set_nodes({NAMES[0]: remote(0, port)})
            client = ServerLinks({0: remote(0, port)}, inbox.extend, MAX_OVERLAY_BYTES)
            with closing(client):
                await until(
                    lambda: (
                        [stranger.send(NAMES[0], b"hello"), client.send(0, b"I am nobody")]
                        and port.counters["key refused"] > 2
                    )
                )
            assert inbox == []

    run(test)


def test_a_node_that_is_no_longer_listed_is_not_heard_though_still_connected():
    async def test():
        inbox: list[Any] = []
        with closing(node(0, inbox)) as port, closing(node(1, [])) as other:
            port.set_nodes({NAMES[1]: remote(1, other)})
            other.set_nodes({NAMES[0]: remote(0, port)})
            other.send(NAMES[0], b"first")
            port.send(NAMES[1], b"answer")
            await until(lambda: inbox)
            port.set_nodes({})
            assert port.linked == frozenset()
            other.send(NAMES[0], b"second")
            await until(lambda: port.counters["no node any more"])
            assert inbox == [(NAMES[1], b"first")]

    run(test)


def test_above_the_bound_the_link_used_longest_ago_goes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(overlay, "MAX_LINKS", 2)

    async def test():
        with closing(node(0, [])) as port:
            port.set_nodes({NAMES[number]: Remote(PUBLIC[number], NOWHERE) for number in range(1, 5)})
            for number in (1, 2, 1, 3):
                port.send(NAMES[number], b"x")
            assert port.linked == {NAMES[1], NAMES[3]}
            assert port.counters["link closed for another"] == 1

    run(test)


def test_idle_links_are_closed_and_made_anew_when_there_is_something_to_say(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(overlay, "IDLE_SECONDS", 0.05)

    async def test():
        inbox: list[Any] = []
        with closing(node(0, inbox)) as port, closing(node(1, [])) as other:
            port.set_nodes({NAMES[1]: remote(1, other)})
            other.set_nodes({NAMES[0]: remote(0, port)})
            await until(lambda: [other.send(NAMES[0], b"one")] and inbox)
            await until(lambda: not other.linked)
            await until(lambda: port.counters["disconnected"])
            await until(lambda: [other.send(NAMES[0], b"two")] and (NAMES[1], b"two") in inbox)
            assert other.counters["link closed for another"] == 0

    run(test)


def test_last_words_get_out_when_the_port_closes_slowly():
    async def test():
        inbox: list[Any] = []
        with closing(node(0, inbox)) as port:
            other = node(1, [])
            port.set_nodes({NAMES[1]: remote(1, other)})
            other.set_nodes({NAMES[0]: remote(0, port)})
            other.send(NAMES[0], b"one")
            await until(lambda: inbox and other.connected)
            assert other.send(NAMES[0], b"farewell")
            other.close(linger_seconds=5.0)
            await until(lambda: inbox[-1][1] == b"farewell")
            assert other.linked == frozenset()

    run(test)


def test_hostile_bytes_are_handed_over_as_they_came_and_too_long_frames_cost_the_link():
    async def test():
        inbox: list[Any] = []
        with closing(node(0, inbox)) as port:
            ignored: list[Any] = []
            liar = OverlayPort(SEEDS[1], ANYWHERE, ignored.extend, 16 * MAX_OVERLAY_BYTES)
            with closing(liar):
                port.set_nodes({NAMES[1]: remote(1, liar)})
                liar.set_nodes({NAMES[0]: remote(0, port)})
                await until(lambda: [liar.send(NAMES[0], b"\xc1" * 100)] and inbox)
                liar.send(NAMES[0], bytes(2 * MAX_OVERLAY_BYTES))
                await until(lambda: port.counters["disconnected"])
                await until(lambda: [liar.send(NAMES[0], b"again")] and inbox[-1][1] == b"again")
                assert all(len(data) <= 100 for _, data in inbox)

    run(test)

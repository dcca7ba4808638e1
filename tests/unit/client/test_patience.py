"""How long a client waits for one server before it asks others; a slow ring is not asked for everything n times.

Time is virtual: links take none, so what passes is the client's patience.
"""

import io
from collections import Counter
from typing import Any

import msgspec
import pytest

from bft.answer import Answer, Status
from bft.messages import RequestStatement
from bft.statement import digest
from pond.client.asking import FIRST_PATIENCE_SECONDS, LEAST_PATIENCE_SECONDS, LONGEST_PATIENCE_SECONDS, RoundTrips
from pond.client.ring import LATEST_PATIENCE_SECONDS
from pond.protocol import (
    Answered,
    Blocks,
    GetBlocks,
    GetStatus,
    Overloaded,
    Question,
    ReadObject,
    Refused,
    Reply,
    ServerStatus,
    Submit,
)
from tests.unit.client import test_lies
from tests.unit.client.harness import Cluster
from tests.unit.client.test_lies import about, check_run, loop, replace

__all__ = ["loop"]

SOON_SECONDS = 0.2
"""What one dead server may cost a new client."""


async def passes(cluster: Cluster, seconds: float) -> None:
    """Until so much later."""
    later = cluster.loop.create_future()
    cluster.loop.call_later(seconds, later.set_result, None)
    await later


async def notes_of(cluster: Cluster) -> Any:
    """A store and an object, in a ring that has run for a while: reads wait for its first certificate."""
    await passes(cluster, 2)
    return await test_lies.notes_of(cluster)


class Slow:
    """Every answer of these servers takes so long."""

    def __init__(self, cluster: Cluster, seconds: float, servers: range = range(4)) -> None:
        self.seconds = seconds
        self._answer = cluster._answer
        self._loop = cluster.loop
        self._servers = servers
        cluster._answer = self.later  # type: ignore[method-assign]

    def stop(self) -> None:
        """What is answered from now on takes no time."""
        self.seconds = 0.0

    def later(self, server: int, links: Any, reply: Reply) -> None:
        wait = self.seconds if server in self._servers else 0.0
        self._loop.call_later(wait, self._answer, server, links, reply)


def submits(cluster: Cluster) -> list[tuple[int, float]]:
    """From now on: which server gets each update, and when."""
    found: list[tuple[int, float]] = []
    ask = cluster.ask

    def note(server: int, links: Any, data: bytes) -> None:
        if isinstance(msgspec.msgpack.decode(data, type=Question), Submit):
            found.append((server, cluster.loop.time()))
        ask(server, links, data)

    cluster.ask = note  # type: ignore[method-assign]
    return found


async def newcomer(cluster: Cluster) -> Any:
    """The notes, opened by a client that knows nothing yet."""
    store = cluster.store()
    random_bytes: Any = store._context.random_bytes
    random_bytes._seed = b"newcomer %d" % len(cluster.asked)
    return await store.open("notes")


# --- one server that is down -------------------------------------------------------------------------------------


@pytest.mark.parametrize("down", [1, 2, 3])
def test_a_dead_backup_costs_a_new_client_next_to_nothing(loop, down):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        for i in range(3):
            await notes.write(bytes(100_000) + b"%d" % i)
        cluster.down = {down}
        for command in (
            lambda notes: notes.history(),
            lambda notes: notes.export(io.BytesIO(), with_data=True),
            lambda notes: notes.verify(),
            lambda notes: notes.read(version=1),
        ):
            fresh = await newcomer(cluster)
            before = cluster.loop.time()
            await command(fresh)
            assert cluster.loop.time() - before < SOON_SECONDS

    check_run(loop, test)


def test_a_server_that_was_overdue_once_is_asked_last(loop):
    async def test(cluster: Cluster) -> None:
        store, notes = await notes_of(cluster)
        await notes.write(b"hello")
        cluster.down = {store._context.asker.quickest()[0]}
        before = cluster.loop.time()
        for _ in range(10):
            await notes.read(version=1, consistency="any")
        assert 0 < cluster.loop.time() - before < SOON_SECONDS

    check_run(loop, test)


def test_a_server_that_was_overdue_is_tried_again_later(loop):
    async def test(cluster: Cluster) -> None:
        store, notes = await notes_of(cluster)
        await notes.write(b"hello")
        asker = store._context.asker
        first = asker.quickest()[0]
        asker.suspect(first)
        assert asker.quickest()[-1] == first
        asker.suspect(asker.quickest()[0])
        assert asker.quickest()[-2] == first, "of those suspected, the one suspected last comes last"
        await passes(cluster, 60)
        assert asker.quickest()[0] == first

    check_run(loop, test)


@pytest.mark.parametrize("warm", [False, True])
def test_a_dead_primary_is_not_waited_for(loop, warm):
    """The servers' own timers decide about a view change; none of them runs before they have the update."""

    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        await notes.write(b"hello")
        for i in range(10):
            await notes.append(b"%d" % i)
        cluster.down = {0}
        if not warm:
            notes = await newcomer(cluster)
        sent = submits(cluster)
        before = cluster.loop.time()
        await notes.append(b"!")
        assert cluster.loop.time() - before < 1.5
        assert {server for server, at in sent if at - before < SOON_SECONDS} == {0, 1, 2, 3}
        assert max(Counter(server for server, _ in sent).values()) <= 5, "with growing pauses"
        before = cluster.loop.time()
        sent.clear()
        await notes.append(b"?")
        assert (1, before) in sent[:2], "the new leader at once"

    check_run(loop, test)


# --- servers that share the work ---------------------------------------------------------------------------------


async def shares(cluster: Cluster, notes: Any) -> Counter[int]:
    """How many of the questions for the blocks of a long version each server gets."""
    cluster.asked.clear()
    await notes.read(version=1, consistency="any")
    return Counter(server for server, question in cluster.asked if isinstance(question, GetBlocks))


async def long_notes(cluster: Cluster) -> Any:
    """About forty chunks."""
    store, notes = await notes_of(cluster)
    await notes.write(bytes(range(256)) * 10_000)
    store._context.asker.downlink.took = lambda size, seconds: None
    return store, notes


def test_all_servers_share_what_a_long_read_costs(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await long_notes(cluster)
        asked = await shares(cluster, notes)
        assert len(asked) == 4
        assert max(asked.values()) - min(asked.values()) <= 1 < min(asked.values())

    check_run(loop, test)


def test_a_server_that_stalled_shares_again_as_soon_as_it_has_answered(loop):
    async def test(cluster: Cluster) -> None:
        store, notes = await long_notes(cluster)
        asker = store._context.asker
        slow = Slow(cluster, 0.08, range(3, 4))
        await shares(cluster, notes)
        assert asker.suspects(3), "it was overdue, and has not answered yet"
        slow.stop()
        await passes(cluster, 0.1)
        assert not asker.suspects(3)
        assert len(await shares(cluster, notes)) == 4

    check_run(loop, test)


def test_a_server_that_is_farther_than_patience_is_seldom_asked_first(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await long_notes(cluster)
        Slow(cluster, 0.08, range(3, 4))
        asked = []
        for _ in range(20):
            asked.append(await shares(cluster, notes))
            await passes(cluster, 0.1)
        assert sum(each[3] for each in asked[10:]) <= 2

    check_run(loop, test)


def test_a_server_that_was_slow_once_is_asked_again_after_a_while(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await long_notes(cluster)
        slow = Slow(cluster, 1.0, range(3, 4))
        await shares(cluster, notes)
        await passes(cluster, 1.0)
        slow.stop()
        assert 3 not in await shares(cluster, notes)
        await passes(cluster, 60)
        assert len(await shares(cluster, notes)) == 4

    check_run(loop, test)


@pytest.mark.parametrize("late", [False, True])
def test_a_server_that_gives_nothing_of_use_is_suspected_though_it_answers(loop, late):
    """Before or after another has answered."""

    async def test(cluster: Cluster) -> None:
        store, notes = await long_notes(cluster)
        cluster.lies[3] = about(Blocks, lambda reply: Refused(reply.ask, "not today"))
        slow = Slow(cluster, 0.08 if late else 0.0, range(3, 4))
        await shares(cluster, notes)
        await passes(cluster, 0.2)
        slow.stop()
        assert store._context.asker.suspects(3)

    check_run(loop, test)


@pytest.mark.parametrize(
    ("said", "suspected"), [("", False), ("overdue", False), ("suspect overdue", True), ("overdue suspect", True)]
)
def test_to_answer_late_makes_up_for_being_late_and_for_nothing_else(loop, said, suspected):
    async def test(cluster: Cluster) -> None:
        store, _ = await notes_of(cluster)
        asker = store._context.asker
        with asker.open() as talk:
            talk.send(3, talk.encode(GetStatus(talk.ask)))
            for what in said.split():
                getattr(asker, what)(3)
        await passes(cluster, 0.1)
        assert asker.suspects(3) == suspected

    check_run(loop, test)


def test_a_server_that_was_asked_twice_is_known_to_be_there(loop):
    """A stall of the whole machine at a client's first read is not to leave out for good who answered last."""

    async def test(cluster: Cluster) -> None:
        await long_notes(cluster)
        slow = Slow(cluster, LATEST_PATIENCE_SECONDS + 0.05, range(2, 4))
        fresh = await newcomer(cluster)
        slow.stop()
        await passes(cluster, 60)
        assert len(await shares(cluster, fresh)) == 4

    check_run(loop, test)


# --- a ring that is slow -----------------------------------------------------------------------------------------


def test_a_slow_ring_gets_each_update_once(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        Slow(cluster, 0.4)
        for i in range(5):
            await notes.append(b"%d" % i)
        sent = submits(cluster)
        for i in range(10):
            await notes.append(b"%d" % i)
        assert [server for server, _ in sent] == [0] * 10

    check_run(loop, test)


def test_reads_of_a_slow_ring_are_asked_once(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        await notes.write(b"hello")
        Slow(cluster, 0.2)
        for _ in range(5):
            await notes.read(version=1)
        cluster.asked.clear()
        for _ in range(10):
            await notes.read(version=1)
        assert len(cluster.asked) == 20, "the version and its block"

    check_run(loop, test)


def test_a_ring_is_not_asked_at_once_when_one_server_is_slow(loop):
    """The next server is asked, not all of them."""

    async def test(cluster: Cluster) -> None:
        store, notes = await notes_of(cluster)
        await notes.write(b"hello")
        first, second = store._context.asker.quickest()[:2]
        Slow(cluster, 0.4, range(first, first + 1))
        cluster.asked.clear()
        await notes.read(version=1, consistency="any")
        assert [s for s, question in cluster.asked if isinstance(question, ReadObject)] == [first, second]

    check_run(loop, test)


def test_a_primary_that_is_busy_is_asked_again_before_all_are(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        busy = 5
        sent = submits(cluster)
        before = cluster.loop.time()
        ask = cluster.ask

        def refuse(server: int, links: Any, data: bytes) -> None:
            nonlocal busy
            question = msgspec.msgpack.decode(data, type=Question)
            if isinstance(question, Submit) and busy:
                busy -= 1
                sent.append((server, cluster.loop.time()))
                links.arrive(server, msgspec.msgpack.encode(Overloaded(question.ask, 50)))
            else:
                ask(server, links, data)

        cluster.ask = refuse  # type: ignore[method-assign]
        await notes.write(b"hello")
        assert [server for server, _ in sent] == [0] * 6
        assert cluster.loop.time() - before < 1

    check_run(loop, test)


def test_patience_is_a_few_round_trips_within_bounds():
    trips = RoundTrips()
    assert (trips.known, trips.patience) == (False, FIRST_PATIENCE_SECONDS)
    trips.add(0.001)
    assert (trips.known, trips.patience) == (True, LEAST_PATIENCE_SECONDS)
    for _ in range(50):
        trips.add(0.1)
    assert 0.39 < trips.patience < 0.42
    trips.add(1000.0)
    assert trips.patience == LONGEST_PATIENCE_SECONDS


# --- who leads ---------------------------------------------------------------------------------------------------


def elsewhere(reply: ServerStatus) -> Any:
    return replace(view=5, primary=1)(reply)


@pytest.mark.parametrize(("saying", "first"), [({1, 2}, 1), ({3}, 0)])
def test_a_new_client_learns_who_leads_beside_its_first_read(loop, saying, first):
    """By the word of f + 1 servers; those in an earlier view do not count against them."""

    async def test(cluster: Cluster) -> None:
        await notes_of(cluster)
        for server in saying:
            cluster.lies[server] = about(ServerStatus, elsewhere)
        cluster.asked.clear()
        notes = await newcomer(cluster)
        assert sum(isinstance(question, GetStatus) for _, question in cluster.asked) == 4
        sent = submits(cluster)
        await notes.write(b"hello")
        assert sent[0][0] == first

    check_run(loop, test)


def test_a_client_that_has_been_there_for_long_learns_who_leads(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        await notes.write(b"hello")
        for server in (1, 2):
            cluster.lies[server] = about(ServerStatus, elsewhere)
        await passes(cluster, 20)
        sent = submits(cluster)
        await notes.append(b" world")
        assert [server for server, _ in sent] == [0, 1], "at once when it hears of it"
        await notes.append(b"!")
        assert sent[2][0] == 1

    check_run(loop, test)


def test_after_a_leader_that_did_not_help_the_next_update_asks_who_leads(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        await notes.write(b"hello")
        cluster.lies[0] = about(Answered, lambda reply: None)
        await notes.append(b" world")
        for server in (1, 2):
            cluster.lies[server] = about(ServerStatus, elsewhere)
        sent = submits(cluster)
        before = cluster.loop.time()
        await notes.append(b"!")
        assert sent[:2] == [(0, before), (1, before)]

    check_run(loop, test)


# --- the ring's time ---------------------------------------------------------------------------------------------


def test_an_update_that_was_signed_too_far_ahead_is_signed_anew_under_its_number(loop):
    """What was refused could run in some hours, if somebody sent it again: only one of the two can."""

    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        await notes.write(b"hello")
        refused: list[RequestStatement] = []
        signed: dict[bytes, RequestStatement] = {}
        ask = cluster.ask

        def refuse(server: int, links: Any, data: bytes) -> None:
            question = msgspec.msgpack.decode(data, type=Question)
            if isinstance(question, Submit):
                stated = question.request.parse()
                signed[question.request.statement] = stated
                if len(refused) < 1 or stated in refused:
                    refused.append(stated)
                    answer = Answer(digest(question.request.statement), Status.NOT_AFTER_TOO_FAR, b"").encode()
                    links.arrive(server, msgspec.msgpack.encode(Answered(question.ask, answer, None, None)))
                    return
            ask(server, links, data)

        cluster.ask = refuse  # type: ignore[method-assign]
        assert (await notes.append(b" world")).number == 2
        first, second = signed.values()
        assert (first.session, first.number) == (second.session, second.number)
        assert first.operation == second.operation
        assert (await notes.append(b"!")).number == 3

    check_run(loop, test)


def test_an_update_with_a_very_long_timeout_is_not_signed_for_longer_than_the_ring_remembers(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        assert (await notes.write(b"hello", timeout=10**6)).number == 1
        for _, question in cluster.asked:
            if isinstance(question, Submit):
                assert question.request.parse().not_after - cluster.now < 24 * 3_600_000_000

    check_run(loop, test)

"""Servers that lie, say nothing, lose what they are sent, or are busy: nothing false is believed, work gets done."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import msgspec
import pytest

import pond
from bft.answer import Answer, Status
from bft.answer import decode as decode_answer
from bft.certificate import Certificate
from bft.messages import Request
from bft.statement import digest
from pond.client.objects import Object
from pond.protocol import (
    Answered,
    Blocks,
    BlocksHeld,
    History,
    ObjectRead,
    Overloaded,
    PutBlocks,
    Question,
    ReadObject,
    Refused,
    Reply,
    Submit,
)
from tests.unit.client.harness import Cluster, Lie, VirtualLoop

Test = Callable[[Cluster], Coroutine[Any, Any, Any]]


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.close()


def check_run(loop: VirtualLoop, test: Test, size: int = 4) -> Any:
    async def with_cluster() -> Any:
        return await test(Cluster(size))

    return loop.run_until_complete(with_cluster())


async def notes_of(cluster: Cluster, **options: Any) -> tuple[Any, Object]:
    store = cluster.store(**options)
    return store, await store.create("notes", block_size=4096)


def replace(**changes: Any) -> Callable[[Any], Any]:
    return lambda reply: msgspec.structs.replace(reply, **changes)


def about(kind: type[Reply], change: Callable[[Any], Reply | None]) -> Lie:
    """A lie about one kind of answer."""
    return lambda reply: change(reply) if isinstance(reply, kind) else reply


def forged(certificate: Certificate) -> Certificate:
    return Certificate(certificate.statement, bytes(64))


def other_outcome(reply: Answered) -> Any:
    answer = decode_answer(reply.answer)
    return replace(answer=Answer(answer.request, answer.status, b"all is well").encode())(reply)


def for_another_request(reply: Answered) -> Any:
    answer = decode_answer(reply.answer)
    return replace(answer=Answer(digest(b"another"), answer.status, answer.result).encode())(reply)


def reordered(order: slice) -> Callable[[Any], Any]:
    return lambda reply: replace(outcomes=reply.outcomes[order])(reply)


def flipped(blocks: list[bytes | None]) -> list[bytes | None]:
    return [None if block is None else bytes([block[0] ^ 1]) + block[1:] for block in blocks]


# --- answers to updates ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lie",
    [
        other_outcome,
        for_another_request,
        lambda reply: replace(certificate=forged(reply.certificate))(reply) if reply.certificate else reply,
        lambda reply: replace(place=None, answer=other_outcome(reply).answer)(reply),
        lambda reply: replace(answer=b"nonsense")(reply),
        lambda reply: Overloaded(reply.ask, 2**40),
        lambda reply: Refused(reply.ask, "no"),
        lambda reply: Refused(reply.ask, "this server does not hold it"),
        lambda reply: BlocksHeld(reply.ask),
        lambda reply: None,
    ],
)
@pytest.mark.parametrize("liar", [0, 2])
def test_one_liar_changes_no_answer(loop, lie, liar):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        cluster.lies[liar] = about(Answered, lie)
        version = await notes.write(b"hello")
        assert (version.number, version.size) == (1, 5)
        assert await notes.read() == b"hello"
        assert len(await notes.history()) == 1

    check_run(loop, test)


def test_an_old_certificate_proves_no_new_answer(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        old = (await notes.write(b"first")).certificate
        for server in range(4):
            cluster.lies[server] = about(Answered, replace(certificate=old))
        with pytest.raises(pond.TimedOut, match="not confirmed within 2 s"):
            await notes.write(b"second", timeout=2)
        cluster.lies.clear()
        assert [entry.status for entry in await notes.history()] == ["committed", "committed"]

    check_run(loop, test)


def test_equal_words_of_f_plus_1_servers_count_without_certificate(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        for server in range(4):
            cluster.lies[server] = about(Answered, replace(certificate=None, place=None))
        version = await notes.write(b"hello")
        assert (version.number, version.certificate) == (1, None)

    check_run(loop, test)


def test_the_word_of_f_servers_does_not_count(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        cluster.lies[0] = about(Answered, replace(certificate=None, place=None))
        for server in (1, 2, 3):
            cluster.lies[server] = about(Answered, lambda reply: None)
        with pytest.raises(pond.TimedOut):
            await notes.write(b"hello", timeout=3)

    check_run(loop, test)


def test_a_refusal_of_f_plus_1_servers_is_final(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        for server in (0, 1):
            cluster.lies[server] = about(Answered, lambda reply: Refused(reply.ask, "not so"))
        for server in (2, 3):
            cluster.lies[server] = about(Answered, lambda reply: None)
        with pytest.raises(pond.UsageError, match="not so"):
            await notes.write(b"hello")

    check_run(loop, test)


def test_what_does_not_decode_is_dropped_and_counted(loop):
    async def test(cluster: Cluster) -> None:
        store, notes = await notes_of(cluster)
        links = store._context.asker._links
        for data in (b"", b"\xc1", b"\x91\x40", bytes(1000), b"\x93\x40\x01\x01"):
            links.arrive(0, data)
        assert store.dropped == {"malformed answer": 5}
        await notes.write(b"hello")

    check_run(loop, test)


# --- when the fate of an update is not known ---------------------------------------------------------------------


def say_expired(reply: Answered) -> Answered:
    answer = Answer(decode_answer(reply.answer).request, Status.EXPIRED, b"").encode()
    return Answered(reply.ask, answer, None, None)


def test_an_expired_answer_is_found_in_the_log(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        for server in range(4):
            cluster.lies[server] = about(Answered, say_expired)
        assert (await notes.write(b"hello")).number == 1
        assert (await notes.append(b" world")).number == 2

    check_run(loop, test)


def answer_instead(cluster: Cluster, status: Status, sessions: int = 1000) -> None:
    """All servers answer requests of the first so many sessions with this status, without running them."""
    ask = cluster.ask
    seen: dict[bytes, None] = {}

    def refuse(server: int, links: Any, data: bytes) -> None:
        question = msgspec.msgpack.decode(data, type=Question)
        if isinstance(question, Submit):
            session = question.request.parse().session
            if session in seen or len(seen) < sessions:
                seen[session] = None
                answer = Answer(digest(question.request.statement), status, b"").encode()
                links.arrive(server, msgspec.msgpack.encode(Answered(question.ask, answer, None, None)))
                return
        ask(server, links, data)

    cluster.ask = refuse  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (Status.EXPIRED, pond.TimedOut, "changed nothing and never will"),
        (Status.NUMBER_TAKEN, pond.UsageError, "after a fork"),
        (Status.NOT_AFTER_TOO_FAR, pond.TimedOut, "may still run within a day.* set the clock"),
        (Status.OUT_OF_ORDER, pond.TimedOut, "not confirmed"),
    ],
)
def test_an_update_that_did_not_run_says_so(loop, status, error, says):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        await notes.write(b"hello")
        answer_instead(cluster, status)
        with pytest.raises(error, match=says):
            await notes.write(b"other")
        assert await notes.read() == b"hello"

    check_run(loop, test)


def test_a_forgotten_session_is_replaced(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        answer_instead(cluster, Status.UNKNOWN_SESSION, 1)
        assert (await notes.write(b"hello")).number == 1

    check_run(loop, test)


def test_after_a_long_pause_a_new_session_is_opened(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        await notes.write(b"hello")
        later = cluster.loop.create_future()
        cluster.loop.call_later(200, later.set_result, None)
        await later
        assert (await notes.append(b" world")).number == 2
        requests = [question.request for _, question in cluster.asked if isinstance(question, Submit)]
        assert [request.parse().number for request in requests] == [1, 2, 1]

    check_run(loop, test)


# --- clocks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [-100, -1, 1, 25, 100_000])
def test_a_client_whose_clock_is_wrong_can_write(loop, hours):
    async def test(cluster: Cluster) -> None:
        store = cluster.store(clock=lambda: cluster.client_clock() + hours * 3_600_000_000)
        notes = await store.create("notes")
        assert (await notes.write(b"hello")).number == 1
        for request in [question.request for _, question in cluster.asked if isinstance(question, Submit)]:
            assert 0 < request.parse().not_after - cluster.now < 600_000_000

    check_run(loop, test)


# --- reads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lie",
    [
        lambda reply: replace(certificate=forged(reply.certificate))(reply),
        lambda reply: replace(version=None)(reply),
        lambda reply: replace(proof=replace(end=None)(reply.proof))(reply),
        lambda reply: Refused(reply.ask, "no"),
        lambda reply: None,
    ],
)
def test_one_liar_changes_no_read(loop, lie):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        await notes.write(b"hello")
        for liar in range(4):
            cluster.lies = {liar: about(ObjectRead, lie)}
            assert await notes.read() == b"hello"
            assert await notes.read(consistency="any") == b"hello"
            assert await notes.read(version=1) == b"hello"

    check_run(loop, test)


def test_an_old_state_does_not_hide_the_newest(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        await notes.write(b"old")
        kept: list[ObjectRead] = []
        cluster.lies[1] = about(ObjectRead, lambda reply: kept.append(reply) or reply)  # type: ignore[func-returns-value]
        await notes.read()
        cluster.lies[1] = about(ObjectRead, lambda reply: replace(ask=reply.ask)(kept[0]))
        for text in (b"new", b"newer"):
            await notes.write(text)
            assert await notes.read() == text
            cluster.down = {3}  # the three that are left are needed, the liar among them
            assert await notes.read() == text
            cluster.down = set()
        with pytest.raises(pond.NotFound, match="versions are 1 to 3"):
            await notes.read(version=4)

    check_run(loop, test)


def test_a_version_that_one_server_denies_is_found(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        vguid = (await notes.write(b"hello")).vguid
        for liar in range(4):
            cluster.lies = {liar: about(ObjectRead, replace(version=None))}
            assert await notes.read(vguid=vguid) == b"hello"
            assert await notes.read(vguid=vguid, consistency="any") == b"hello"

    check_run(loop, test)


@pytest.mark.parametrize(
    "lie",
    [
        lambda reply: replace(blocks=flipped(reply.blocks))(reply),
        lambda reply: replace(blocks=[None for _ in reply.blocks])(reply),
        lambda reply: replace(blocks=reply.blocks[::-1])(reply),
        lambda reply: replace(blocks=[])(reply),
        lambda reply: replace(blocks=reply.blocks * 100)(reply),
        lambda reply: replace(blocks=reply.blocks[:1])(reply),
        lambda reply: Overloaded(reply.ask, 10),
        lambda reply: None,
    ],
)
def test_one_liar_changes_no_block(loop, lie):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        data = b"".join(b"%8d" % i for i in range(5000))
        await notes.write(data)
        for liar in range(4):
            cluster.lies = {liar: about(Blocks, lie)}
            assert await (await cluster.store().open("notes")).read() == data

    check_run(loop, test)


def test_a_wrong_history_is_asked_from_another_server(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        for text in (b"a", b"b", b"c"):
            await notes.write(text)
        for liar in range(4):
            for order in (slice(None, None, -1), slice(-1), slice(0)):
                cluster.lies = {liar: about(History, reordered(order))}
                assert [entry.version for entry in await notes.history()] == [1, 2, 3]

    check_run(loop, test)


# --- blocks that travel ahead ------------------------------------------------------------------------------------


def test_a_primary_that_lacks_blocks_is_brought_them(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        ask = cluster.ask
        lost = [0]

        def lose(server: int, links: Any, data: bytes) -> None:
            if server == 0 and data[1] == 2 and lost[0] < 3:
                lost[0] += 1
            else:
                ask(server, links, data)

        cluster.ask = lose  # type: ignore[method-assign]
        data = bytes(range(256)) * 1000
        assert (await notes.write(data)).size == len(data)
        assert lost[0]
        assert await notes.read() == data

    check_run(loop, test)


@pytest.mark.parametrize("down", [1, 2, 3])
def test_one_dead_server_costs_an_upload_its_grace_once(loop, down):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        cluster.down = {down}
        started = cluster.loop.time()
        await notes.write(bytes(20 * 1024 * 1024))
        assert cluster.loop.time() - started < 2

    check_run(loop, test)


def test_too_few_servers_time_out_and_say_how_many(loop):
    async def test(cluster: Cluster) -> None:
        store, notes = await notes_of(cluster)
        await notes.write(b"hello")
        cluster.down = {1, 2}
        with pytest.raises(pond.TimedOut, match="2 of 4 servers gave a proved answer within 5 s, but 3 are needed"):
            await notes.read(timeout=5)
        assert await notes.read(consistency="any") == b"hello"
        with pytest.raises(pond.TimedOut, match="2 of 4 servers took the blocks"):
            await notes.write(bytes(1_000_000), timeout=5)
        with pytest.raises(pond.TimedOut, match="not confirmed"):
            await notes.write(b"small", timeout=5)
        assert [answer is not None for answer in await store.status()] == [True, False, False, True]
        cluster.down = set()
        assert (await notes.append(b"!")).number in (2, 3)

    check_run(loop, test)


def test_a_network_that_loses_a_third_still_gets_it_done(loop):
    async def test(cluster: Cluster) -> None:
        count = itertools.count()
        ask = cluster.ask

        def lost() -> bool:
            return digest(b"%d" % next(count))[0] % 3 == 0

        def lossy(server: int, links: Any, data: bytes) -> None:
            if not lost():
                ask(server, links, data)

        cluster.ask = lossy  # type: ignore[method-assign]
        for server in range(4):
            cluster.lies[server] = lambda reply: None if lost() else reply
        _, notes = await notes_of(cluster, timeout=120.0)
        data = bytes(range(256)) * 4000
        await notes.write(data)
        for i in range(10):
            await notes.append(b"%d" % i)
        assert await notes.read() == data + b"0123456789"
        assert len(await notes.history()) == 11

    check_run(loop, test)


# --- several at once ---------------------------------------------------------------------------------------------


def test_appends_at_once_all_run_once(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        await notes.write(b"")
        versions = await asyncio.gather(*(notes.append(b"%03d" % i) for i in range(60)))
        assert sorted(version.number for version in versions) == list(range(2, 62))
        content = await notes.read()
        assert sorted(content[i : i + 3] for i in range(0, 180, 3)) == [b"%03d" % i for i in range(60)]

    check_run(loop, test)


def test_changes_at_an_offset_are_built_anew_when_others_were_quicker(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        await notes.write(b"-")
        await asyncio.gather(*(notes.update().insert(0, b"%d" % i).commit() for i in range(6)))
        assert sorted(await notes.read()) == sorted(b"012345-")
        salts = set()
        for _, question in cluster.asked:
            if isinstance(question, Submit):
                salts.add(question.request.parse().operation)
        assert len(salts) > 7

        async def insert_if_first(text: bytes) -> None:
            await notes.update().when(pond.version_is(7)).insert(0, text).commit()

        results = await asyncio.gather(insert_if_first(b"a"), insert_if_first(b"b"), return_exceptions=True)
        assert sum(isinstance(result, pond.Aborted) for result in results) == 1

    check_run(loop, test)


def test_names_made_at_once_by_two_programs_agree(loop):
    async def test(cluster: Cluster) -> None:
        stores = [cluster.store() for _ in range(3)]
        for store, seed in zip(stores, "abc", strict=True):
            store._context.ring._random_bytes._seed = seed.encode()  # type: ignore[attr-defined]
        made = await asyncio.gather(*(store.create("notes") for store in stores))
        await asyncio.gather(*(notes.append(b"x") for notes in made))
        assert [await notes.read() for notes in made] == [b"xxx"] * 3
        assert await cluster.store().names() == ["notes"]

    check_run(loop, test)


def test_a_directory_of_many_blocks_is_written_anew(loop, monkeypatch):
    monkeypatch.setattr("pond.client.directory.MOST_BLOCKS", 8)

    async def test(cluster: Cluster) -> None:
        store, other = cluster.store(), cluster.store("owner")
        names = [f"name {i:02}" for i in range(20)]
        for name in names:
            await store.create(name)
            assert name in await other.names()
        assert await store.names() == await other.names() == await cluster.store().names() == names
        assert len(store._directory._refs) <= 8
        await (await other.open("name 03")).write(b"x")
        assert await (await store.open("name 03")).read() == b"x"

    check_run(loop, test)


def test_a_cancelled_write_leaves_no_task_behind(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        cluster.down = {1, 2, 3}
        before = asyncio.all_tasks()
        for work in (notes.write(bytes(30_000_000)), notes.write(b"small"), notes.read()):
            task = asyncio.ensure_future(work)
            for _ in range(20):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert asyncio.all_tasks() == before

    check_run(loop, test)


def test_a_resent_request_is_the_same_bytes(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        cluster.asked.clear()
        cluster.lies[0] = about(Answered, lambda reply: None)
        await notes.write(b"hello")
        requests: list[Request] = [question.request for _, question in cluster.asked if isinstance(question, Submit)]
        assert len(requests) >= 5
        assert all(request == requests[0] for request in requests)

    check_run(loop, test)


def test_a_quiet_ring_is_asked_no_more_than_needed(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        await notes.write(b"hello")
        cluster.asked.clear()
        await notes.append(b" world")
        assert [(server, type(question)) for server, question in cluster.asked] == [(0, Submit)]
        cluster.asked.clear()
        await notes.read(version=1, consistency="any")
        assert sum(isinstance(question, ReadObject) for _, question in cluster.asked) == 1
        assert not any(isinstance(question, PutBlocks) for _, question in cluster.asked)

    check_run(loop, test)


def test_a_ring_of_seven_needs_three_equal_words(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        for server in range(7):
            cluster.lies[server] = about(Answered, replace(certificate=None, place=None))
        assert (await notes.write(b"hello")).number == 1
        for server in range(2, 7):
            cluster.lies[server] = about(Answered, lambda reply: None)
        with pytest.raises(pond.TimedOut):
            await notes.write(b"hello", timeout=3)

    check_run(loop, test, size=7)

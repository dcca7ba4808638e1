"""Uploads that are broken off and go on, and servers that are away meanwhile: what is sent again, and what never is."""

import asyncio
import io
import random
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

import msgspec
import pytest

import pond
from pond.client.asking import Burst
from pond.model.block import bguid
from pond.model.tables import BLOCKS
from pond.model.update import decode, named_blocks
from pond.protocol import BlocksHeld, BlocksKept, KeepBlocks, PutBlocks, Submit
from tests.unit.client.harness import ClientLinks, Cluster
from tests.unit.client.test_lies import about, check_run, loop, notes_of
from tests.unit.client.test_patience import passes

__all__ = ["loop"]

PUT_BLOCKS = msgspec.msgpack.encode(PutBlocks(1, []))[1]
"""The second byte of every encoded PutBlocks: its tag."""

CHUNK = 256 * 1024
SIZE = 40 * CHUNK
OVERHEAD = SIZE // 4096 * 16
"""How much longer the ciphertext is."""


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr("pond.client.upload.CHUNK_BYTES", CHUNK)
    monkeypatch.setattr("pond.client.pace.CHUNK_BYTES", CHUNK)
    monkeypatch.setattr("pond.client.pace.FIRST_CHUNK_BYTES", CHUNK)
    monkeypatch.setattr("pond.client.sealing.RESUMED_FROM_BYTES", CHUNK)


CONTENT = random.Random("content").randbytes(SIZE)


def sent(cluster: Cluster, since: int = 0) -> Counter[int]:
    """Bytes of blocks that reached each server."""
    found: Counter[int] = Counter()
    for server, question in cluster.asked[since:]:
        if isinstance(question, PutBlocks):
            found[server] += sum(map(len, question.blocks))
    return found


def held(cluster: Cluster, server: int) -> int:
    """Bytes of blocks on a server, about: there are few but large ones."""
    return len(cluster.disks[server].tables.get(BLOCKS, {})) * 4096


async def until_held(cluster: Cluster, size_bytes: int, writing: "asyncio.Future[Any]") -> None:
    """Until server 0 holds so much."""
    for turn in count(1):
        if held(cluster, 0) >= size_bytes:
            return
        assert not writing.done()
        await (passes(cluster, 0.01) if turn % 100 == 0 else asyncio.sleep(0))  # time passes when nothing else is done


async def broken_off(cluster: Cluster, target: Any, content: Any, at: int) -> None:
    """A write that ends when a server holds so many bytes."""
    writing = asyncio.ensure_future(target.write(content))
    await until_held(cluster, at, writing)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await passes(cluster, 0.1)


async def again(cluster: Cluster) -> Any:
    """The notes, of another process of the same owner."""
    store = cluster.store()
    random_bytes: Any = store._context.random_bytes
    random_bytes._seed = b"process %d" % len(cluster.asked)
    return await store.open("notes")


@pytest.mark.parametrize("as_file", [False, True])
def test_what_servers_hold_is_not_sent_again(loop, as_file):
    def source() -> Any:
        return io.BytesIO(CONTENT) if as_file else CONTENT

    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        await notes.write(b"first")
        for at in (SIZE // 4, SIZE // 2):
            await broken_off(cluster, await again(cluster), source(), at)
        had = min(held(cluster, server) for server in range(4))
        before = len(cluster.asked)
        reported: list[tuple[int, int]] = []
        update = (await again(cluster)).update().write(source())
        version = await update.commit(progress=lambda done, total: reported.append((done, total)))
        assert version.number == 2
        assert await notes.read() == CONTENT
        for server in range(4):
            assert sent(cluster, before)[server] <= SIZE - had + CHUNK, "only what was not there"
            assert sent(cluster)[server] <= SIZE + 12 * CHUNK, "and what was on its way twice"
        assert update.resumed_bytes >= had - CHUNK
        assert [done for done, _ in reported] == sorted(done for done, _ in reported)
        assert reported[-1][0] >= SIZE

    check_run(loop, test)


def test_other_content_has_nothing_in_common(loop):
    """Rule 6: what differs in one byte, or is written upon another version, has another salt."""

    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        await broken_off(cluster, notes, CONTENT, SIZE // 2)
        blocks = set(cluster.disks[0].tables[BLOCKS])
        changed = bytearray(CONTENT)
        changed[-1] ^= 1
        update = notes.update().write(bytes(changed))
        await update.commit()
        assert update.resumed_bytes == 0
        update = notes.update().write(CONTENT)
        await update.commit()
        assert update.resumed_bytes == 0, "the object has another version than at the first attempt"
        await notes.write(CONTENT)
        operations = {q.request.parse().operation for _, q in cluster.asked if isinstance(q, Submit)}
        large = {operation for operation in operations if len(named_blocks(decode(operation))) > 9}
        assert len(large) == 3
        assert len({clause.actions[0].runs[0].salt for clause in _clauses(large)}) == 3
        assert blocks.isdisjoint(name for operation in large for name in named_blocks(decode(operation)))

    check_run(loop, test)


def _clauses(operations: set[bytes]) -> Any:
    return [clause for operation in sorted(operations) for clause in decode(operation).clauses]


class Changing(io.BytesIO):
    """A file that somebody writes to after it has been read once."""

    changed = False

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if not data and not self.changed:
            self.changed = True
            with self.getbuffer() as content:
                content[SIZE // 2] ^= 1
            self.write(b"and more")
        return data


def test_a_file_that_changes_while_it_is_read_is_written_as_it_was_read_last(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        file = Changing(CONTENT)
        await notes.write(file)
        assert await notes.read() == file.getvalue() != CONTENT
        served: dict[tuple[bytes, int], bytes] = {}
        operation = [q for _, q in cluster.asked if isinstance(q, Submit)][-1].request.parse().operation
        [clause] = _clauses({operation})
        runs = clause.actions[0].runs
        assert len(runs) == 2, "what follows the change has a salt of its own"
        await notes.delete()
        await broken_off(cluster, notes, CONTENT, held(cluster, 0) + SIZE // 2)
        for run in runs:
            for place, name in enumerate(run.bguids):
                assert served.setdefault((run.salt, run.first_counter + place), name) == name

    check_run(loop, test)


def test_a_pipe_is_written_though_it_cannot_be_resumed(loop):
    async def pieces():
        for start in range(0, SIZE, CHUNK):
            yield CONTENT[start : start + CHUNK]

    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        await notes.write(pieces())
        assert await notes.read() == CONTENT
        assert not any(isinstance(question, KeepBlocks) for _, question in cluster.asked)

    check_run(loop, test)


def test_a_new_upload_soon_asks_no_more(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        await notes.write(CONTENT)
        asked = [question for _, question in cluster.asked if isinstance(question, KeepBlocks)]
        assert 4 <= len(asked) <= 4 * 12
        assert max(sent(cluster).values()) <= SIZE + OVERHEAD

    check_run(loop, test)


def test_each_server_may_be_away_in_its_turn(loop):
    """Of 4 servers one can be missing at a time; none holds everything but those that are never away."""

    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        writing = asyncio.ensure_future(notes.write(CONTENT, timeout=20.0))
        for server in (1, 2, 3):
            await until_held(cluster, held(cluster, 0) + SIZE // 5, writing)
            cluster.down = {server}
            await until_held(cluster, held(cluster, 0) + SIZE // 10, writing)
            cluster.down = set()
        assert (await writing).size == SIZE
        assert await notes.read() == CONTENT
        assert sum(held(cluster, server) >= SIZE for server in range(4)) >= 3

    check_run(loop, test)


def test_who_leads_holds_everything_before_it_is_asked_to_order_it(loop):
    """Else it refuses what all others wait for it to propose, until they replace it."""

    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        ask, before = cluster.ask, len(cluster.asked)
        lost: list[bytes] = []

        def losing(server: int, links: Any, data: bytes) -> None:
            if server == 0 and len(data) > CHUNK // 2 and len(lost) < 5:
                lost.append(data)
            else:
                ask(server, links, data)

        cluster.ask = losing  # type: ignore[method-assign]
        assert (await notes.write(CONTENT, timeout=20.0)).size == SIZE
        assert len(lost) == 5
        asked = [type(question) for server, question in cluster.asked[before:] if server == 0]
        assert PutBlocks in asked
        assert PutBlocks not in asked[asked.index(Submit) :]
        assert held(cluster, 0) >= SIZE

    check_run(loop, test)


def test_who_leads_and_takes_its_time_at_most_doubles_an_upload(loop):
    """A liar answers each question just in time, and holds nothing."""

    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        ask = cluster.ask

        def late(server: int, links: Any, data: bytes) -> None:
            if server == 0 and len(data) > 8 * 1024:
                cluster.loop.call_later(1.9, ask, server, links, data)
            else:
                ask(server, links, data)

        cluster.ask = late  # type: ignore[method-assign]
        cluster.lies[0] = about(
            BlocksKept, lambda reply: msgspec.structs.replace(reply, held=[False] * len(reply.held))
        )
        began = cluster.loop.time()
        assert (await notes.write(CONTENT, timeout=60.0)).size == SIZE
        assert cluster.loop.time() - began < 10.0

    check_run(loop, test)


def test_who_leads_is_not_waited_for_when_it_does_not_answer(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        writing = asyncio.ensure_future(notes.write(CONTENT, timeout=20.0))
        await until_held(cluster, SIZE // 5, writing)
        cluster.down = {0}
        assert (await writing).size == SIZE

    check_run(loop, test)


class SlowLinks(ClientLinks):
    """All go through one line of so many bytes a second, each way."""

    bytes_per_second = 1e6

    def __init__(self, cluster: Cluster, received: Callable[[Burst], None]) -> None:
        super().__init__(cluster, received)
        self.arrived_bytes = 0
        self._free_at = {"up": 0.0, "down": 0.0}

    def send(self, server: int, data: bytes) -> None:
        self._pass("up", len(data), self._cluster.ask, server, self, data)

    def arrive(self, server: int, data: bytes) -> None:
        self.arrived_bytes += len(data)
        self._pass("down", len(data), super().arrive, server, data)

    def _pass(self, way: str, size: int, arrived: Callable[..., None], *args: Any) -> None:
        loop = self._cluster.loop
        self._free_at[way] = max(self._free_at[way], loop.time()) + size / self.bytes_per_second
        loop.call_at(self._free_at[way], arrived, *args)


@pytest.mark.parametrize("bytes_per_second", [10e6, 1e6, 3e5, 125e3])
def test_over_a_slow_line_nothing_is_sent_twice(loop, monkeypatch, bytes_per_second):
    """Or else all would wait for what was sent again, and be sent again: 4 MiB on their way take up to 33 s."""

    async def test(cluster: Cluster) -> None:
        monkeypatch.setattr("pond.client.pace.FIRST_CHUNK_BYTES", 64 * 1024)
        monkeypatch.setattr(SlowLinks, "bytes_per_second", bytes_per_second)
        lines: list[SlowLinks] = []

        def links(received: Callable[[Burst], None]) -> SlowLinks:
            lines.append(SlowLinks(cluster, received))
            return lines[-1]

        monkeypatch.setattr(cluster, "links", links)
        _, notes = await notes_of(cluster)
        await notes.write(CONTENT)
        took = sorted(sent(cluster).values())
        assert took[1:] == [SIZE + OVERHEAD] * 3
        assert took[0] <= SIZE + OVERHEAD, "the last of four falls behind where each is a second later than the other"
        before = lines[0].arrived_bytes
        assert await notes.read() == CONTENT
        assert lines[0].arrived_bytes - before < 1.3 * SIZE, "some of the first chunks came several times"

    check_run(loop, test)


def test_what_was_lost_on_its_way_is_sent_again_once_that_is_known(loop, monkeypatch):
    """A server is started again, or its link: what was queued is gone, and the questions after it arrive."""

    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        ask = cluster.ask
        lost: list[int] = []

        def drop(server: int, links: ClientLinks, data: bytes) -> None:
            if server in (1, 2) and data[1] == PUT_BLOCKS and len(lost) < 6:
                lost.append(server)
            else:
                ask(server, links, data)

        monkeypatch.setattr(cluster, "ask", drop)
        await notes.write(CONTENT)
        assert len(lost) == 6
        assert await notes.read() == CONTENT
        assert all(sent(cluster)[server] <= SIZE + OVERHEAD for server in range(4)), "nothing else was sent again"

    check_run(loop, test)


def test_a_liar_who_says_again_and_again_that_it_lacks_blocks_is_not_sent_them_again_and_again(loop, monkeypatch):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        answer = cluster._answer

        def lie(server: int, links: Any, reply: Any) -> None:
            if server == 3 and isinstance(reply, BlocksHeld):
                for _ in range(5):
                    answer(server, links, BlocksKept(reply.ask, [False] * 63))
            else:
                answer(server, links, reply)

        monkeypatch.setattr(cluster, "_answer", lie)
        await notes.write(CONTENT)
        assert sent(cluster)[3] <= SIZE + OVERHEAD

    check_run(loop, test)


def test_too_few_servers_are_waited_for(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        writing = asyncio.ensure_future(notes.write(CONTENT, timeout=20.0))
        await until_held(cluster, SIZE // 3, writing)
        cluster.down = {1, 2, 3}
        await passes(cluster, 12.0)
        assert not writing.done()
        cluster.down = set()
        assert (await writing).size == SIZE
        cluster.down = {1, 2}
        with pytest.raises(pond.TimedOut, match="2 of 4 servers"):
            await notes.write(CONTENT, timeout=5.0)

    check_run(loop, test)


@pytest.mark.parametrize("all_of_it", [True, False])
def test_a_liar_about_what_it_holds_harms_nothing(loop, all_of_it):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        cluster.lies[2] = about(
            BlocksKept, lambda reply: msgspec.structs.replace(reply, held=[all_of_it] * len(reply.held))
        )
        await notes.write(b"first")
        await broken_off(cluster, notes, CONTENT, SIZE // 2)
        before = len(cluster.asked)
        await (await again(cluster)).write(CONTENT)
        assert await notes.read() == CONTENT
        assert sent(cluster, before)[0] <= SIZE * 3 // 4

    check_run(loop, test)


@pytest.mark.parametrize(
    "lie", [lambda reply: BlocksKept(reply.ask, [True]), lambda reply: BlocksHeld(reply.ask), lambda reply: None]
)
def test_an_answer_that_says_nothing_counts_for_nothing(loop, lie):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        cluster.lies[1] = about(BlocksKept, lie)
        await notes.write(b"first")
        await broken_off(cluster, notes, CONTENT, SIZE // 2)
        await (await again(cluster)).write(CONTENT)
        assert await notes.read() == CONTENT

    check_run(loop, test)


def test_a_slow_upload_keeps_what_it_has_sent(loop, monkeypatch):
    """Longer than servers wait for an update: what was sent first must still be there at the end."""
    monkeypatch.setattr("pond.node.uploads.UPLOAD_SECONDS", 40)
    monkeypatch.setattr("pond.node.uploads.RENEW_SECONDS", 10)
    monkeypatch.setattr("pond.node.uploads.SWEEP_SECONDS", 1.0)
    monkeypatch.setattr("pond.client.upload.KEEP_SECONDS", 10.0)

    async def pieces():
        for start in range(0, SIZE, CHUNK):
            yield CONTENT[start : start + CHUNK]
            await later(2.0)

    async def later(seconds: float) -> None:
        done = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(seconds, done.set_result, None)
        await done

    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        writing = asyncio.ensure_future(notes.write(pieces(), timeout=3600))
        assert (await writing).size == SIZE
        assert await notes.read() == CONTENT
        names = {bguid(block) for _, q in cluster.asked if isinstance(q, PutBlocks) for block in q.blocks}
        kept = {name for _, q in cluster.asked if isinstance(q, KeepBlocks) for name in q.guids}
        assert kept <= names
        assert max(sent(cluster).values()) < SIZE + CHUNK, "and nothing was sent twice"

    check_run(loop, test)

"""Blocks sent ahead: held within a limit, let go when nothing used them, never while something needs them."""

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from bft.effects import Persist
from bft.messages import Commit
from bft.types import AgreedTime
from pond.client.predicates import version_is
from pond.errors import Aborted, StorageRotten
from pond.model.block import bguid
from pond.model.tables import BLOCKS
from pond.node.ring import SCRUB, SWEEP, RingServer, ToClient
from pond.node.uploads import (
    NAMED_SECONDS,
    NOBODY,
    RENEW_SECONDS,
    SWEEP_SECONDS,
    UPLOAD_COST_BYTES,
    UPLOAD_SECONDS,
    UPLOADS,
    UPLOADS_BY_TIME,
    account_of,
)
from pond.protocol import (
    MAX_KEPT,
    MAX_NAMED,
    BlocksHeld,
    BlocksKept,
    GetBlocks,
    KeepBlocks,
    Overloaded,
    PutBlocks,
    Question,
    Refused,
)
from tests.unit.client.harness import Cluster, VirtualLoop

LARGE = 300_000
"""More than travels beside an update, so its blocks are sent ahead."""


def run(test: Callable[[Cluster], Awaitable[None]]) -> None:
    async def start() -> None:
        await test(Cluster())

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(start())


def put(cluster: Cluster, block: bytes, server: int = 0, key: str = "") -> object:
    """The server's answer to a PutBlocks."""
    effects = cluster.servers[server].on_client("client", PutBlocks(7, [block]), cluster.now, key)
    cluster._perform(server, [effect for effect in effects if not isinstance(effect, ToClient)])
    [reply] = [effect.reply for effect in effects if isinstance(effect, ToClient)]
    return reply


def keep(cluster: Cluster, *blocks: bytes, server: int = 0) -> tuple[list[bool], int]:
    """Which of these the server says it keeps, and how much it wrote for that."""
    question = KeepBlocks(7, [bguid(block) for block in blocks])
    effects = cluster.servers[server].on_client("anybody", question, cluster.now)
    cluster._perform(server, [effect for effect in effects if not isinstance(effect, ToClient)])
    written = [len(effect.writes) for effect in effects if isinstance(effect, Persist)]
    reply = effects[len(written)]
    assert isinstance(reply, ToClient)
    assert isinstance(reply.reply, BlocksKept), "after what it rests on"
    return reply.reply.held, sum(written)


def sweep(cluster: Cluster, later_seconds: float, server: int = 0) -> None:
    now = AgreedTime(cluster.now + int(later_seconds * 1e6))
    cluster._perform(server, cluster.servers[server].on_timer(SWEEP, now))
    cluster._perform(server, cluster.servers[server].burst_ended(now))


def held(cluster: Cluster, block: bytes, server: int = 0) -> bool:
    return cluster.disks[server].get(BLOCKS, bguid(block)) == block


def test_a_block_that_nothing_uses_goes_after_its_time() -> None:
    async def test(cluster: Cluster) -> None:
        block = os.urandom(100)
        assert put(cluster, block) == BlocksHeld(7)
        sweep(cluster, UPLOAD_SECONDS - 1)
        assert held(cluster, block)
        sweep(cluster, UPLOAD_SECONDS + 1)
        assert not held(cluster, block)
        assert cluster.disks[0].scan(UPLOADS, b"", b"\xff" * 33) == []
        assert cluster.servers[0].uploads.held_bytes == 0

    run(test)


def test_a_block_that_is_sent_again_starts_its_time_anew() -> None:
    async def test(cluster: Cluster) -> None:
        block = b"again"
        put(cluster, block)
        cluster.skew += UPLOAD_SECONDS // 2 * 1_000_000
        put(cluster, block)
        sweep(cluster, UPLOAD_SECONDS / 2 + 10)
        assert held(cluster, block)
        assert cluster.servers[0].uploads.held_bytes == len(block) + UPLOAD_COST_BYTES, "counted once"

    run(test)


def test_a_block_that_is_named_in_time_waits_on() -> None:
    async def test(cluster: Cluster) -> None:
        block = b"named"
        put(cluster, block, key="mine")
        assert keep(cluster, block, b"unknown", block) == ([True, False, True], 0), "it is young, so nothing is written"
        cluster.skew += int(UPLOAD_SECONDS * 0.9 * 1e6)
        held_bytes = cluster.servers[0].uploads.held_bytes
        assert keep(cluster, block, block)[0] == [True, True]
        assert keep(cluster, block) == ([True], 0)
        sweep(cluster, UPLOAD_SECONDS - RENEW_SECONDS)
        assert held(cluster, block)
        assert cluster.servers[0].uploads.held_bytes == held_bytes == len(block) + UPLOAD_COST_BYTES, "counted once"
        _, account = split(cluster.disks[0].get(UPLOADS, bguid(block)))
        assert account[:2] == account_of("mine")
        for _ in range(100):  # after a long absence it goes in steps
            sweep(cluster, UPLOAD_SECONDS + 1)
        assert keep(cluster, block) == ([False], 0)
        assert cluster.servers[0].uploads.held_bytes == 0
        assert cluster.disks[0].scan(UPLOADS, b"", b"\xff" * 33) == []

    run(test)


def test_names_alone_do_not_hold_room_for_ever() -> None:
    async def test(cluster: Cluster) -> None:
        put(cluster, b"squatter")
        began, said = cluster.now, True
        while said and cluster.now - began < 2 * NAMED_SECONDS * 1e6:
            cluster.skew += int(UPLOAD_SECONDS / 2 * 1e6)
            sweep(cluster, 0)
            [said], _ = keep(cluster, b"squatter")
        assert NAMED_SECONDS <= (cluster.now - began) / 1e6 < NAMED_SECONDS + UPLOAD_SECONDS
        assert put(cluster, b"squatter") == BlocksHeld(7), "its bytes came again"
        assert keep(cluster, b"squatter")[0] == [True]
        cluster.skew += int(UPLOAD_SECONDS / 2 * 1e6)
        assert keep(cluster, b"squatter")[0] == [True]

    run(test)


def test_a_block_that_a_version_has_is_kept_without_a_word() -> None:
    async def test(cluster: Cluster) -> None:
        store = cluster.store()
        target = await store.create("large")
        await target.write(bytes(LARGE))
        names = {guid for disk in cluster.disks for guid in disk.tables[BLOCKS]}
        cluster.skew += 10 * UPLOAD_SECONDS * 1_000_000
        for server in cluster.servers:
            written, answer = server.on_client("anybody", KeepBlocks(7, sorted(names)), cluster.now)
            assert written == Persist(())
            assert answer == ToClient("anybody", BlocksKept(7, [True] * len(names)))
        store.close()

    run(test)


@pytest.mark.parametrize("count", [0, MAX_KEPT + 1])
def test_who_names_too_many_blocks_or_none_is_not_understood(count: int) -> None:
    data = msgspec.msgpack.encode(KeepBlocks(1, [bytes(32)] * count))
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(data, type=Question)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(KeepBlocks(1, [bytes(32)] * MAX_KEPT)), type=Question)


def test_a_block_that_an_update_used_stays() -> None:
    async def test(cluster: Cluster) -> None:
        store = cluster.store()
        target = await store.create("large")
        data = hashlib.shake_128(b"large").digest(LARGE)
        await target.write(data)
        for server in range(4):
            assert cluster.disks[server].scan(UPLOADS, b"", b"\xff" * 33) == []
            assert cluster.servers[server].uploads.held_bytes == 0
            sweep(cluster, 10 * UPLOAD_SECONDS, server)
        assert await target.read() == data
        store.close()

    run(test)


def test_a_block_that_an_update_on_its_way_names_is_not_let_go() -> None:
    async def test(cluster: Cluster) -> None:
        store = cluster.store(timeout=5 * UPLOAD_SECONDS)
        target = await store.create("large")
        deliver = cluster._deliver
        cluster._deliver = lambda sender, to, message: (  # type: ignore[method-assign]
            None if isinstance(message, Commit) else deliver(sender, to, message)
        )
        data = hashlib.shake_128(b"slow").digest(LARGE)
        writing = asyncio.ensure_future(target.write(data))
        while not all(server.replica.named_bodies() for server in cluster.servers):
            await asyncio.sleep(0)
        for server, named in enumerate(server.replica.named_bodies() for server in cluster.servers):
            sweep(cluster, 10 * UPLOAD_SECONDS, server)
            assert all(cluster.disks[server].get(BLOCKS, name) is not None for name in named)
        cluster._deliver = deliver  # type: ignore[method-assign]
        await writing
        assert await target.read() == data
        store.close()

    run(test)


def cost(size: int) -> int:
    return size + UPLOAD_COST_BYTES


def test_a_client_may_hold_as_much_as_it_leaves_free() -> None:
    async def test(cluster: Cluster) -> None:
        cluster.servers[0] = RingServer(cluster.servers[0].replica, upload_limit_bytes=4 * cost(900))
        cluster.servers[0].uploads.restore(cluster.now)
        assert cluster.servers[0].uploads.room_bytes == 2 * cost(900)
        assert put(cluster, b"a" * 900, key="greedy") == BlocksHeld(7)
        assert put(cluster, b"b" * 900, key="greedy") == BlocksHeld(7), "half of the limit"
        assert isinstance(put(cluster, b"c", key="greedy"), Overloaded)
        assert put(cluster, b"a" * 900, key="greedy") == BlocksHeld(7), "what is held already takes no room"
        assert put(cluster, b"d" * 900, key="modest") == BlocksHeld(7), "another client has room"
        assert isinstance(put(cluster, b"e" * 900, key="modest"), Overloaded)
        assert put(cluster, b"f" * 100, key="third") == BlocksHeld(7)
        sweep(cluster, UPLOAD_SECONDS + 1)
        assert put(cluster, b"c", key="greedy") == BlocksHeld(7), "what goes makes room again"

    run(test)


def test_uploads_leave_the_disk_its_reserve() -> None:
    async def test(cluster: Cluster) -> None:
        uploads = cluster.servers[0].uploads
        uploads.has_room(2 * cost(1000))
        assert uploads.room_bytes == 2 * cost(1000)
        assert put(cluster, b"a" * 1000) == BlocksHeld(7)
        assert isinstance(put(cluster, b"b" * 2000), Overloaded), "counted at once, before the disk is asked again"
        uploads.has_room(-1)
        assert uploads.room_bytes == 0
        assert isinstance(put(cluster, b"c"), Overloaded)
        assert put(cluster, b"a" * 1000) == BlocksHeld(7), "what is held already takes no room"
        uploads.has_room(cost(1))
        assert put(cluster, b"c") == BlocksHeld(7)

    run(test)


def test_an_upload_stays_on_its_account_until_an_update_commits_with_it() -> None:
    async def test(cluster: Cluster) -> None:
        block = b"mine"
        put(cluster, block, key="mine")
        since, account = split(cluster.disks[0].get(UPLOADS, bguid(block)))
        assert account == account_of("mine")
        cluster.skew += 1_000_000
        put(cluster, block, key="another's")
        again, account = split(cluster.disks[0].get(UPLOADS, bguid(block)))
        assert (again - since, account) == (1_000_000, account_of("mine"))
        assert [key[10:] for key, _ in cluster.disks[0].scan(UPLOADS_BY_TIME, b"", b"\xff" * 9)] == [bguid(block)]

    run(test)


def split(mark: bytes | None) -> tuple[int, bytes]:
    assert mark is not None
    return int.from_bytes(mark[:8], "big"), mark[8:]


def test_blocks_of_an_update_that_aborts_wait_on() -> None:
    async def test(cluster: Cluster) -> None:
        store = cluster.store()
        target = await store.create("small")
        await target.write(b"first")
        with pytest.raises(Aborted):
            await target.update().when(version_is(7)).append(b"never").commit()
        for server in range(4):
            [(key, _)] = cluster.disks[server].scan(UPLOADS_BY_TIME, b"", b"\xff" * 9)
            assert key[8:10] == NOBODY
            assert cluster.disks[server].get(UPLOADS, key[10:]) == key[:10]
            sweep(cluster, 2 * UPLOAD_SECONDS, server)
            assert cluster.disks[server].get(BLOCKS, key[10:]) is None
            assert cluster.servers[server].uploads.held_bytes == 0
        assert await target.read() == b"first"
        store.close()

    run(test)


def test_a_sweep_after_a_long_absence_goes_in_steps() -> None:
    async def test(cluster: Cluster) -> None:
        for minute in range(10):
            put(cluster, b"block %d" % minute)
            cluster.skew += 60_000_000
        server = cluster.servers[0]
        left = []
        while server.uploads.held_bytes:
            sweep(cluster, 2 * UPLOAD_SECONDS)
            left.append(len(cluster.disks[0].scan(UPLOADS, b"", b"\xff" * 33)))
        assert left[0] == 9, "what came in one minute"
        assert left == sorted(left, reverse=True)
        assert len(left) < 10, "minutes of little are taken together"
        for _ in range(10):
            sweep(cluster, 2 * UPLOAD_SECONDS)
        assert server.uploads.sweep_after_seconds == SWEEP_SECONDS

    run(test)


def test_a_block_above_the_largest_size_is_refused() -> None:
    async def test(cluster: Cluster) -> None:
        assert isinstance(put(cluster, bytes(5 * 1024 * 1024)), Refused)

    run(test)


def test_what_was_uploaded_counts_again_after_a_restart() -> None:
    async def test(cluster: Cluster) -> None:
        put(cluster, b"a" * 900)
        again = RingServer(cluster.servers[0].replica)
        again.started(cluster.now, b"start %10d" % 99)
        assert again.uploads.held_bytes == 900 + UPLOAD_COST_BYTES

    run(test)


def suspected(cluster: Cluster, block: bytes) -> tuple[set[tuple[str, bytes]], str]:
    """What a server thinks is rotten when someone asks for a block many times, and what it says of itself then."""
    server = cluster.servers[0]
    server.on_client("anybody", GetBlocks(7, [bguid(block)] * MAX_NAMED), cluster.now)
    suspects = server._suspects
    server.on_timer(SCRUB, cluster.now)
    return suspects, server.status(8).detail


def test_an_empty_block_is_not_taken_for_a_rotten_one() -> None:
    """Anybody could make a server say that its disk has lost entries."""

    async def test(cluster: Cluster) -> None:
        assert put(cluster, b"") == BlocksHeld(7)
        suspects, detail = suspected(cluster, b"")
        assert not suspects
        assert not detail

    run(test)


def test_a_rotten_block_is_suspected_once_however_often_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(cluster: Cluster) -> None:
        block = os.urandom(100)
        assert put(cluster, block) == BlocksHeld(7)

        def rotten(table: str, key: bytes) -> bytes:
            raise StorageRotten(table, key)

        monkeypatch.setattr(cluster.servers[0]._disk, "get", rotten)
        suspects, detail = suspected(cluster, block)
        assert len(suspects) == 1
        assert "1 entries" in detail

    run(test)

"""Blocks sent ahead: held within a limit, let go when nothing used them, never while something needs them."""

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable

from bft.messages import Commit
from bft.types import AgreedTime
from pond.model.block import bguid
from pond.model.tables import BLOCKS
from pond.node.ring import SWEEP, UPLOAD_COST_BYTES, UPLOAD_SECONDS, RingServer, ToClient
from pond.node.service import UPLOADS
from pond.protocol import BlocksHeld, Overloaded, PutBlocks, Refused
from tests.unit.client.harness import Cluster, VirtualLoop

LARGE = 300_000
"""More than travels beside an update, so its blocks are sent ahead."""


def run(test: Callable[[Cluster], Awaitable[None]]) -> None:
    async def start() -> None:
        await test(Cluster())

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(start())


def put(cluster: Cluster, block: bytes, server: int = 0) -> object:
    """The server's answer to a PutBlocks."""
    effects = cluster.servers[server].on_client("client", PutBlocks(7, [block]), cluster.now)
    cluster._perform(server, [effect for effect in effects if not isinstance(effect, ToClient)])
    [reply] = [effect.reply for effect in effects if isinstance(effect, ToClient)]
    return reply


def sweep(cluster: Cluster, later_seconds: float, server: int = 0) -> None:
    now = AgreedTime(cluster.now + int(later_seconds * 1e6))
    cluster._perform(server, cluster.servers[server].on_timer(SWEEP, now))


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
        assert cluster.servers[0]._uploaded_bytes == 0

    run(test)


def test_a_block_that_is_sent_again_starts_its_time_anew() -> None:
    async def test(cluster: Cluster) -> None:
        block = b"again"
        put(cluster, block)
        cluster.skew += UPLOAD_SECONDS // 2 * 1_000_000
        put(cluster, block)
        sweep(cluster, UPLOAD_SECONDS / 2 + 10)
        assert held(cluster, block)
        assert cluster.servers[0]._uploaded_bytes == len(block) + UPLOAD_COST_BYTES, "counted once"

    run(test)


def test_a_block_that_an_update_used_stays() -> None:
    async def test(cluster: Cluster) -> None:
        store = cluster.store()
        target = await store.create("large")
        data = hashlib.shake_128(b"large").digest(LARGE)
        await target.write(data)
        for server in range(4):
            assert cluster.disks[server].scan(UPLOADS, b"", b"\xff" * 33) == []
            assert cluster.servers[server]._uploaded_bytes == 0
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
        while not all(server.replica.ordering.committing > 1 for server in cluster.servers):
            await asyncio.sleep(0)
        for server in range(4):
            sweep(cluster, 10 * UPLOAD_SECONDS, server)
        cluster._deliver = deliver  # type: ignore[method-assign]
        await writing
        assert await target.read() == data
        store.close()

    run(test)


def test_above_the_limit_the_answer_is_overload() -> None:
    async def test(cluster: Cluster) -> None:
        server = RingServer(cluster.servers[0].replica, upload_limit_bytes=1000 + 2 * UPLOAD_COST_BYTES)
        cluster.servers[0] = server
        assert put(cluster, b"a" * 900) == BlocksHeld(7)
        assert isinstance(put(cluster, b"b" * 200), Overloaded)
        assert put(cluster, b"a" * 900) == BlocksHeld(7), "what is held already takes no room"
        assert put(cluster, b"c" * 100) == BlocksHeld(7)

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
        assert again._uploaded_bytes == 900 + UPLOAD_COST_BYTES

    run(test)

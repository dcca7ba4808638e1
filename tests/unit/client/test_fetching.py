"""Blocks that no server gives, now or at all."""

import pytest

import pond
from pond.protocol import Blocks
from tests.unit.client.harness import Cluster
from tests.unit.client.test_lies import about, check_run, loop, notes_of, replace

__all__ = ["loop"]


def test_a_block_that_no_server_has_is_missed_when_the_time_is_over(loop):
    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        await notes.write(b"hello")
        for server in range(4):
            cluster.lies[server] = about(Blocks, lambda reply: replace(blocks=[None])(reply))
        before, asked = cluster.loop.time(), len(cluster.asked)
        with pytest.raises(pond.Unavailable, match="no server has block"):
            await notes.read()
        assert 29 < cluster.loop.time() - before < 31
        assert len(cluster.asked) - asked < 50, "with growing pauses"

    check_run(loop, test)


def test_a_block_that_no_server_has_yet_is_waited_for(loop):
    """Seed 65141: all that had run an update were started again, and made its tree nodes again when they had run it
    once more."""

    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        await notes.write(b"hello")
        back_at = cluster.loop.time() + 3

        def lacks(reply: Blocks) -> Blocks:
            return reply if cluster.loop.time() > back_at else replace(blocks=[None])(reply)

        for server in range(4):
            cluster.lies[server] = about(Blocks, lacks)
        assert await (await cluster.store().open("notes")).read() == b"hello"
        assert back_at < cluster.loop.time() < back_at + 6

    check_run(loop, test)

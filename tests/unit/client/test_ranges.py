"""Parts of large objects: what they cost, and what is left of a read that was broken off is used."""

import io
import random

import pytest

from pond.protocol import GetBlocks
from tests.unit.client.harness import AsyncFace, Cluster, SyncFace
from tests.unit.client.test_lies import check_run, loop, notes_of

__all__ = ["loop"]

SIZE = 3_000_000
CONTENT = random.Random("content").randbytes(SIZE)
BLOCK = 64 * 1024


@pytest.fixture(params=[AsyncFace, SyncFace])
def store(request):
    face = request.param()
    yield face.store()
    face.close()


def received(store) -> int:
    return sum(traffic.received for traffic in store.traffic)


@pytest.mark.parametrize("start", [0, 1_000_000, SIZE - 300_000])
def test_a_range_costs_its_blocks_and_little_more(store, start):
    target = store.create("large", block_size=BLOCK)
    target.write(CONTENT)
    before = received(store)
    assert target.read(start=start, stop=start + 300_000) == CONTENT[start : start + 300_000]
    assert 300_000 <= received(store) - before < 300_000 + 2 * BLOCK + 20_000
    assert sum(traffic.sent for traffic in store.traffic) > SIZE


def test_what_is_there_already_is_known_without_its_blocks(store):
    target = store.create("large", block_size=BLOCK)
    target.write(b"another version")
    target.write(CONTENT)
    before = received(store)
    assert target.equal_prefix(CONTENT) == SIZE
    assert target.equal_prefix(io.BytesIO(CONTENT[:1_000_000])) == 1_000_000 // BLOCK * BLOCK
    assert target.equal_prefix(CONTENT[: 10 * BLOCK] + bytes(SIZE)) == 10 * BLOCK
    assert target.equal_prefix(b"") == target.equal_prefix(CONTENT[1:]) == target.equal_prefix(CONTENT, 1) == 0
    assert target.equal_prefix(CONTENT + b"more") == SIZE
    damaged = bytearray(CONTENT)
    damaged[7 * BLOCK + 5] ^= 1
    assert target.equal_prefix(bytes(damaged), vguid=target.latest().vguid) == 7 * BLOCK
    assert received(store) - before < 100_000


def test_nothing_of_a_truncated_block_is_known(store):
    target = store.create("large", block_size=BLOCK)
    target.write(CONTENT)
    target.update().truncate(3 * BLOCK + 100).commit()
    target.append(b"more")
    assert target.equal_prefix(target.read()) == 3 * BLOCK


def test_all_servers_share_the_work_of_a_long_read(loop):
    async def test(cluster: Cluster) -> None:
        store, notes = await notes_of(cluster)
        await notes.write(CONTENT * 12)
        before = [traffic.received for traffic in store.traffic]
        assert await notes.read() == CONTENT * 12
        took = [traffic.received - was for traffic, was in zip(store.traffic, before, strict=True)]
        assert min(took) > 12 * SIZE // 8, "a quarter each, or half of that"
        asked = [server for server, question in cluster.asked if isinstance(question, GetBlocks)]
        cluster.down = {asked[-1]}
        assert await notes.read() == CONTENT * 12

    check_run(loop, test)

"""The main job on a real ring: concurrent writers lose nothing, and what was written is read back, every version."""

import asyncio
import random
from collections.abc import Iterator

import pytest

import pond
from bft.signatures import Ed25519Verifier
from cluster import launch
from cluster.layout import Layout

pytestmark = pytest.mark.process

WRITERS = 8
LARGEST = 5 * 1024 * 1024


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    layout, _ = launch.up(tmp_path_factory.mktemp("write-path") / "cluster", 4)
    yield layout
    launch.down(layout.directory, delete=True)


def test_updates_by_eight_writers_under_version_is(cluster: Layout, full: bool) -> None:
    """No lost update, one chain, verified: each acknowledged record is in the object exactly once, in the order of the
    versions that were acknowledged. A thousand updates with `--full`."""
    updates = 1000 if full else 200

    async def writer(number: int, acknowledged: dict[int, bytes]) -> int:
        aborted = 0
        async with pond.aio.connect(cluster.directory, timeout=120) as store:
            target = await store.open("counter")
            version = (await target.latest()).number
            for i in range(updates // WRITERS):
                record = b"%02d:%04d\n" % (number, i)
                while True:
                    try:
                        made = await target.update().when(pond.version_is(version)).append(record).commit()
                    except pond.Aborted as conflict:
                        aborted += 1
                        version = conflict.version
                        continue
                    assert made.number == version + 1
                    assert made.number not in acknowledged, (
                        f"two writers were told that they made version {made.number}"
                    )
                    acknowledged[made.number] = record
                    version = made.number
                    break
        return aborted

    async def run() -> None:
        acknowledged: dict[int, bytes] = {}
        async with pond.aio.connect(cluster.directory, timeout=120) as store:
            target = await store.create("counter")
            await target.write(b"")
            aborted = sum(await asyncio.gather(*(writer(number, acknowledged) for number in range(WRITERS))))
            assert sorted(acknowledged) == list(range(2, updates + 2))
            content = b"".join(acknowledged[number] for number in sorted(acknowledged))
            assert await target.read() == content
            history = await target.history()
            assert [entry.version for entry in history if entry.status == "committed"] == list(range(1, updates + 2))
            assert len(history) == updates + 1 + aborted
            assert (await target.verify()).versions == updates + 1
            for number in (2, 3, updates // 2, updates + 1):
                assert await target.read(version=number) == content[: 8 * (number - 1)]

    asyncio.run(run())


def test_objects_changed_at_random_offsets_are_read_back_in_all_versions(cluster: Layout, full: bool) -> None:
    """Two hundred objects with `--full`."""
    objects = 200 if full else 50
    draw = random.Random(2003)
    sizes = [0, 1, 4095, 4096, 4097, 65535, 65536, 65537, LARGEST - 1, LARGEST]
    sizes += [round(LARGEST ** draw.random()) for _ in range(objects - len(sizes))]

    async def one(store: pond.aio.Store, number: int, size: int) -> None:
        target = await store.create(f"object {number}")
        content = draw.randbytes(size)
        versions = [content]
        await target.write(content)
        for _ in range(draw.randrange(1, 4)):
            offset = draw.randrange(len(content) + 1)
            data = draw.randbytes(draw.randrange(1, 5000))
            change = target.update()
            match draw.choice(["replace", "insert", "append", "delete", "truncate"]):
                case "replace":
                    data = data[: len(content) - offset]
                    if not data:
                        continue
                    await change.replace(offset, data).commit()
                    content = content[:offset] + data + content[offset + len(data) :]
                case "insert":
                    await change.insert(offset, data).commit()
                    content = content[:offset] + data + content[offset:]
                case "append":
                    await change.append(data).commit()
                    content += data
                case "delete":
                    count = min(len(data), len(content) - offset)
                    if not count:
                        continue
                    await change.delete_range(offset, count).commit()
                    content = content[:offset] + content[offset + count :]
                case "truncate":
                    await change.truncate(offset).commit()
                    content = content[:offset]
            versions.append(content)
        for version, expected in enumerate(versions, 1):
            assert await target.read(version=version) == expected, f"object {number} of {size} bytes, version {version}"
        assert await target.read(consistency="any") in versions

    async def run() -> None:
        async with pond.aio.connect(cluster.directory, timeout=120) as store:
            for first in range(0, objects, 4):
                await asyncio.gather(*(one(store, i, sizes[i]) for i in range(first, min(first + 4, objects))))

    asyncio.run(run())


def test_every_acknowledged_write_carries_the_rings_certificate(cluster: Layout) -> None:
    with pond.connect(cluster.directory) as store:
        version = store.create("certified").write(b"x")
        assert version.certificate is not None
        claim = version.certificate.verify(Ed25519Verifier(), bytes(cluster.cluster.ring_key))
        assert claim.ring_id == bytes(cluster.cluster.ring_id)


def test_writes_go_on_while_one_backup_is_dead_and_it_catches_up_when_it_returns(cluster: Layout) -> None:
    with pond.connect(cluster.directory, timeout=60) as store:
        notes = store.create("while one is dead")
        notes.write(b"0")
        launch.kill(cluster.directory, ("ring-2",))
        for i in range(1, 150):
            notes.append(b"%d" % i)
        launch.restart(cluster.directory, ("ring-2",))
        launch.kill(cluster.directory, ("ring-3",))  # now the returned one is needed for every quorum
        for i in range(150, 300):
            notes.append(b"%d" % i)
        assert notes.read() == b"".join(b"%d" % i for i in range(300))
        launch.restart(cluster.directory, ("ring-3",))
        assert notes.read() == b"".join(b"%d" % i for i in range(300))


def test_what_was_written_is_there_after_all_servers_were_killed_at_once(cluster: Layout) -> None:
    with pond.connect(cluster.directory, timeout=60) as store:
        notes = store.create("after all fell")
        notes.write(b"before")
    names = tuple(server.name for server in cluster.servers)
    launch.kill(cluster.directory, names)
    launch.up(cluster.directory)
    with pond.connect(cluster.directory, timeout=60) as store:
        notes = store.open("after all fell")
        assert notes.read() == b"before"
        notes.append(b" and after")
        assert notes.read() == b"before and after"

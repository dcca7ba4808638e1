"""The overlay on real servers: all join, find the same roots and what others hold, and outlive the death of some."""

import asyncio
import os
import random
import urllib.request
from collections.abc import Callable
from hashlib import sha256
from time import monotonic, time

import pytest
from msgspec.structs import replace

from bft.secret import Secret
from bft.signatures import Ed25519Signer, Ed25519Verifier
from cluster.layout import open_layout
from pond import keys
from pond.client import overlay as client
from pond.config import ClusterFile
from pond.node.overlay import NodeKeys
from pond.servers import Listed, listed
from pond.transport import OverlayPort, Remote
from pond.transport.overlay import MAX_OVERLAY_BYTES
from tapestry.location import CHECKS
from tapestry.messages import SALTS, Contact, Find, Forward, LeafNews, Leaving, Pointer, Publish, Row, encode
from tapestry.pointers import make, node_guid, root_key
from tests.process.commands import answer, check_failed, pond, run
from tests.process.conftest import stop

pytestmark = pytest.mark.process

STORAGE = 8
DEADLINE_SECONDS = 60.0
ANYWHERE = "tcp://127.0.0.1:*"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A ring of four and eight storage servers; who kills some brings them back."""
    directory = tmp_path_factory.mktemp("overlay") / "cluster"
    found = answer(directory, "cluster", "up", "--storage", str(STORAGE))
    assert len(found["started"]) == 4 + STORAGE
    yield directory
    stop(directory)


def settings(cluster) -> ClusterFile:
    return open_layout(cluster).cluster


def servers(cluster) -> list[Listed]:
    return listed(settings(cluster))


def named(cluster, name: str) -> Listed:
    return next(server for server in servers(cluster) if server.name == name)


def all_joined(cluster) -> bool:
    status = answer(cluster, "cluster", "status")
    return all(server["joined"] for server in (*status["ring"], *status["storage"]))


def until(holds: Callable[[], object]) -> None:
    end = monotonic() + DEADLINE_SECONDS
    while not holds():
        assert monotonic() < end, "it does not come to hold"


def test_all_servers_have_joined_and_status_says_so(cluster):
    status = answer(cluster, "cluster", "status")
    assert [server["name"] for server in status["storage"]] == [f"storage-{number}" for number in range(STORAGE)]
    assert {server["state"] for server in status["storage"]} == {"running"}
    assert len({server["pid"] for server in status["storage"]}) == STORAGE
    for server in (*status["ring"], *status["storage"]):
        assert server["joined"]
        assert server["neighbours"] > 0
    text = pond(cluster, "cluster", "status").decode()
    assert f"All {4 + STORAGE} servers are in the overlay." in text
    assert "storage-7  running" in text
    assert b'"joined"' in pond(cluster, "cluster", "logs", "storage-3")


def test_every_server_finds_the_same_roots(cluster):
    every = servers(cluster)
    chosen = [sha256(b"key %d" % number).digest() for number in range(4)] + [every[5].guid]

    async def roots(key: bytes) -> set[bytes]:
        found = await asyncio.gather(*(client.route([server], key, DEADLINE_SECONDS) for server in every))
        return {root.root for _, root in found}

    found = [asyncio.run(roots(key)) for key in chosen]
    assert [len(each) for each in found] == [1] * len(chosen)
    assert found[-1] == {every[5].guid}
    told = answer(cluster, "overlay", "route", chosen[0].hex(), "--via", "storage-1")
    assert (told["source"], told["root_guid"]) == ("storage-1", found[0].pop().hex())
    assert told["walk"][0]["name"] == "storage-1"
    assert told["walk"][-1]["guid"] == told["root_guid"]
    assert len(told["walk"]) == told["hops"] + 1
    assert all(hop["ms"] > 0 for hop in told["walk"])
    assert "storage-1 is the root of" in pond(cluster, "overlay", "route", "storage-1").decode()


def test_a_table_shows_leaves_and_round_trips(cluster):
    told = answer(cluster, "overlay", "table", "storage-2")
    assert (told["name"], told["joined"]) == ("storage-2", True)
    assert all(one["name"] for one in told["neighbours"])
    assert any(one["leaf"] for one in told["neighbours"])
    assert any(one["rtt_ms"] for one in told["neighbours"])
    assert b"storage-2" in pond(cluster, "overlay", "table", "storage-2")


def test_what_cannot_be_found_or_makes_no_sense(cluster):
    check_failed(run(cluster, "overlay", "locate", "nobody has this"), 4, "nobody has this", "publish")
    check_failed(run(cluster, "overlay", "route", "xyz"), 2, "64 base-16 digits")
    check_failed(run(cluster, "overlay", "table", "storage-9"), 2, "storage-9")
    check_failed(run(cluster, "cluster", "kill", "storage-9"), 2, "ring-3 and storage-0 to storage-7")
    check_failed(run(cluster, "cluster", "up", "--storage", "9"), 2, "8 storage servers", "--storage")
    check_failed(run(cluster, "cluster", "up", "--storage", "65"), 2, "--storage")


def test_objects_are_located_while_servers_die_and_come_back(cluster):
    pond(cluster, "overlay", "publish", "thing", "storage-0", "storage-3", "storage-5")
    found = answer(cluster, "overlay", "locate", "thing", "--via", "ring-2")
    assert found["holder"] in ("storage-0", "storage-3", "storage-5")

    victims = ("storage-0", "storage-3", "storage-7")
    pond(cluster, "cluster", "kill", *victims)
    status = answer(cluster, "cluster", "status")
    assert [one["name"] for one in status["storage"] if one["state"] == "stopped"] == list(victims)
    alive = [server for server in servers(cluster) if server.name not in victims]
    thing = client.object_of("thing")

    async def holders() -> set[bytes | None]:
        found = await asyncio.gather(*(client.locate(alive, [server], thing, DEADLINE_SECONDS) for server in alive))
        return {located.holder for _, located in found}

    for _ in range(3):
        assert asyncio.run(holders()) == {named(cluster, "storage-5").guid}
    check_failed(run(cluster, "overlay", "table", "storage-0", "--timeout", "1"), 5, "storage-0")

    again = answer(cluster, "cluster", "restart", *victims)
    assert again["servers"] == list(victims)
    assert all_joined(cluster)
    assert answer(cluster, "overlay", "locate", "thing", "--via", "storage-0")["holder"] == "storage-5"
    pond(cluster, "overlay", "publish", "thing", "storage-5", "--withdraw")
    until(lambda: run(cluster, "overlay", "locate", "thing", "--via", "ring-1").returncode == 4)


def test_a_paused_server_and_those_that_are_down_come_back_by_name(cluster):
    pond(cluster, "cluster", "pause", "storage-1")
    status = answer(cluster, "cluster", "status")
    assert {one["name"]: one["state"] for one in status["storage"]}["storage-1"] == "paused"
    pond(cluster, "cluster", "resume", "storage-1")
    pond(cluster, "cluster", "kill", "storage-2")
    assert answer(cluster, "cluster", "up")["started"] == ["storage-2"]
    assert all_joined(cluster)


def refused(cluster, name: str, why: str = "") -> float:
    """Messages of the overlay, or parts of them, that a server has dropped; of those for this reason."""
    layout = open_layout(cluster)
    [server] = layout.named((name,))
    with urllib.request.urlopen(f"http://{server.member.metrics_address}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    reasons = [line for line in lines if line.startswith("pond_overlay_rejected_total") and why in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in reasons)


def test_a_key_that_the_cluster_does_not_list_gets_nothing_through(cluster):
    victim = named(cluster, "ring-1")
    before = refused(cluster, "ring-1")

    async def knock() -> None:
        port = OverlayPort(Secret(os.urandom(32)), ANYWHERE, lambda burst: None)
        try:
            port.set_nodes({victim.guid: Remote(victim.public_key, victim.overlay_address or "")})
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not port.counters["handshake failed"]:
                    port.send(victim.guid, b"\xc1 let me in")
                    await asyncio.sleep(0)
            assert victim.guid not in port.connected
        finally:
            port.close()

    asyncio.run(knock())
    assert refused(cluster, "ring-1") == before


@pytest.fixture(scope="module")
def seed(cluster):
    """The key of storage-4, which is dead while others speak in its name: an admitted node that does as it likes."""
    pond(cluster, "cluster", "kill", "storage-4")
    yield keys.read_key(open_layout(cluster).storage[4].directory / "node.key", keys.Kind.NODE)
    pond(cluster, "cluster", "restart", "storage-4")
    assert all_joined(cluster)


def test_whatever_the_key_of_a_dead_server_sends_the_others_stay_up(cluster, seed):
    """Random bytes, and contacts that nobody knows or that are said to be elsewhere."""
    draw = random.Random(3)
    liar, victims = named(cluster, "storage-4"), [named(cluster, name) for name in ("ring-1", "storage-6")]
    assert node_guid(Ed25519Signer(seed).public_key) == liar.guid
    forged = tuple(Contact(draw.randbytes(32), "tcp://127.0.0.1:9") for _ in range(64))
    moved = tuple(Contact(server.guid, "tcp://127.0.0.1:9") for server in servers(cluster))
    valid = [
        encode(LeafNews(0, forged, b"")),
        encode(LeafNews(0, moved, b"")),
        encode(Row(1, forged)),
        encode(Leaving(forged)),
        encode(Forward(1, draw.randbytes(32), forged[0], 1, 0, Find())),
        encode(Forward(2, draw.randbytes(32), moved[0], 1, 63, Find())),
    ]
    messages = [*valid * 50, *(b"\xc1" + draw.randbytes(draw.randrange(400)) for _ in range(700))]
    before = {victim.name: refused(cluster, victim.name) for victim in victims}

    async def lie() -> None:
        port = OverlayPort(seed, ANYWHERE, lambda burst: None)
        try:
            port.set_nodes({one.guid: Remote(one.public_key, one.overlay_address or "") for one in victims})
            async with asyncio.timeout(DEADLINE_SECONDS):
                for message in messages:
                    for victim in victims:
                        while not port.send(victim.guid, message):
                            await asyncio.sleep(0)
                while any(refused(cluster, one.name) - before[one.name] < 700 for one in victims):
                    await asyncio.sleep(0)
        finally:
            port.close()

    asyncio.run(lie())
    for victim in victims:
        told = asyncio.run(client.neighbours(victim, DEADLINE_SECONDS))
        assert told.status.joined
        assert {one.guid for one in told.neighbours} <= {server.guid for server in servers(cluster)}
        assert asyncio.run(client.route([victim], liar.guid, DEADLINE_SECONDS))
    pond(cluster, "put", "notes", stdin=b"the ring goes on")


def test_forged_replayed_and_oversized_pointers_of_an_admitted_key_change_nothing(cluster, seed):
    """More of them than are checked, and a message larger than any may be; the server is up, and keeps what it kept."""
    pond(cluster, "overlay", "publish", "theirs", "storage-2")
    liar, victim, other = (named(cluster, name) for name in ("storage-4", "storage-6", "storage-2"))
    signer = NodeKeys(Ed25519Signer(seed), Ed25519Verifier())
    at = Contact(liar.guid, liar.overlay_address or "")
    now, objects = int(time()), [sha256(b"%d" % number).digest() for number in range(256)]
    theirs = client.object_of("theirs")

    def publish(pointer: Pointer, number: int) -> bytes:
        return encode(Forward(number, root_key(pointer.object, 0), at, number, 0, Publish(pointer, 0)))

    withdrawn = next(make(signer, at, objects[:1], now + 2, now + 2))
    replayed = next(make(signer, at, objects[:1], now, now + 600))
    in_their_name = next(make(signer, Contact(other.guid, other.overlay_address or ""), [theirs], now + 5, now + 5))
    signed = list(make(signer, at, objects, now, now + 600))
    unsigned = [replace(signed[number % 256], signature=os.urandom(64)) for number in range(CHECKS)]
    before = asyncio.run(client.neighbours(victim, DEADLINE_SECONDS)).status.pointers

    async def lie() -> None:
        port = OverlayPort(seed, ANYWHERE, lambda burst: None, 10 * MAX_OVERLAY_BYTES)
        try:
            port.set_nodes({victim.guid: Remote(victim.public_key, victim.overlay_address or "")})
            async with asyncio.timeout(DEADLINE_SECONDS):
                messages = [withdrawn, replayed, in_their_name, *unsigned]
                while not refused(cluster, victim.name, "more pointers than are checked"):
                    for number, pointer in enumerate(messages):
                        while not port.send(victim.guid, publish(pointer, number)):
                            await asyncio.sleep(0)
                    messages = unsigned
                port.send(victim.guid, bytes(9 * MAX_OVERLAY_BYTES))
                while victim.guid in port.connected:
                    await asyncio.sleep(0)
        finally:
            port.close()

    asyncio.run(lie())
    for why in ("older pointer", "key is another", "holder did not sign"):
        assert refused(cluster, victim.name, why), why
    told = asyncio.run(client.neighbours(victim, DEADLINE_SECONDS))
    assert told.status.joined
    assert told.status.pointers <= before + SALTS, "of what the liar signed, only that it holds nothing any more"
    assert answer(cluster, "overlay", "locate", "theirs", "--via", victim.name)["holder"] == other.name

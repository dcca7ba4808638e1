"""Commands on the overlay over a stand-in for its servers: what is printed, and which exit code."""

import json

import pytest
from click.testing import CliRunner

from cluster import layout
from pond.cli import overlay
from pond.cli.main import main
from pond.client import overlay as client
from pond.errors import NotFound, Unavailable
from pond.protocol import Neighbour, ObjectLocated, OverlayNeighbours, OverlayStatus, Published, RootFound
from pond.servers import listed

KEY = "ab" * 32


@pytest.fixture
def cluster(tmp_path):
    return layout.create(tmp_path / "cluster", 4, 2)


@pytest.fixture
def pond(cluster):
    def run(*words):
        return CliRunner().invoke(main, ["--cluster", str(cluster.directory), "overlay", *words])

    return run


@pytest.fixture
def servers(cluster):
    return {server.name: server for server in listed(cluster.cluster)}


def test_a_route_is_drawn_from_where_it_began_to_the_root(pond, servers, monkeypatch):
    async def route(through, key, seconds):
        assert (key, seconds) == (bytes.fromhex(KEY), 30.0)
        return servers["ring-1"], RootFound(1, servers["storage-1"].guid, 2, 3.25)

    async def walk(every, start, key, seconds):
        assert (len(every), start, key) == (6, servers["ring-1"], bytes.fromhex(KEY))
        return walked

    guids = {name: server.guid for name, server in servers.items()}
    walked = [
        client.Hop(guids["ring-1"], 0.0005),
        client.Hop(guids["ring-3"], 0.00125),
        client.Hop(guids["storage-1"], 0.5),
    ]
    monkeypatch.setattr(client, "route", route)
    monkeypatch.setattr(client, "walk", walk)
    assert pond("route", KEY).output.splitlines() == [
        f"storage-1 is the root of {KEY}.",
        "",
        "  ring-1 ─▶ ring-3 ─▶ storage-1      2 hops, 3.2 ms",
        "",
        "HOP  NODE       GUID                ANSWER",
        f"  0  ring-1     {guids['ring-1'].hex()[:16]}    0.5 ms",
        f"  1  ring-3     {guids['ring-3'].hex()[:16]}    1.2 ms",
        f"  2  storage-1  {guids['storage-1'].hex()[:16]}  500.0 ms",
    ]
    told = json.loads(pond("route", KEY, "--json").output)
    assert told == {
        "key": KEY,
        "source": "ring-1",
        "root": "storage-1",
        "root_guid": servers["storage-1"].guid.hex(),
        "hops": 2,
        "ms": 3.25,
        "walk": [
            {"name": "ring-1", "guid": guids["ring-1"].hex(), "ms": 0.5},
            {"name": "ring-3", "guid": guids["ring-3"].hex(), "ms": 1.25},
            {"name": "storage-1", "guid": guids["storage-1"].hex(), "ms": 500.0},
        ],
    }
    walked[1:] = [client.Hop(bytes(32), None)]
    shown = pond("route", KEY).output.splitlines()
    assert shown[2] == "  ring-1 ─▶ · ─▶ storage-1      2 hops, 3.2 ms", "another way than the one that it took"
    assert shown[-1] == f"  1  -       {'0' * 16}    none"


def test_a_server_can_be_routed_to_by_its_name_and_through_another(pond, servers, monkeypatch):
    async def route(through, key, seconds):
        assert [server.name for server in through] == ["storage-0"]
        assert key == servers["ring-2"].guid
        return through[0], RootFound(1, key, 1, 1.0)

    async def walk(every, start, key, seconds):
        return [client.Hop(start.guid, 0.001), client.Hop(key, 0.001)]

    monkeypatch.setattr(client, "route", route)
    monkeypatch.setattr(client, "walk", walk)
    assert "storage-0 ─▶ ring-2      1 hop, 1.0 ms" in pond("route", "ring-2", "--via", "storage-0").output


@pytest.mark.parametrize(
    ("source", "target", "hops", "drawn"),
    [
        ("a", "a", 0, "  a"),
        ("a", "b", 1, "  a ─▶ b      1 hop, 2.0 ms"),
        ("a", "a", 2, "  a ─▶ · ─▶ a      2 hops, 2.0 ms"),
    ],
)
def test_drawings(source, target, hops, drawn):
    assert overlay._drawn(source, target, hops, 2.0) == drawn


def test_a_table_names_nodes_and_says_how_far_they_are(pond, servers, monkeypatch):
    async def neighbours(server, seconds):
        known = [
            Neighbour(servers["ring-1"].guid, True, None, None, True),
            Neighbour(servers["ring-2"].guid, True, 1, 2.5, False),
            Neighbour(bytes(32), False, 0, 1.25, False),
        ]
        return OverlayNeighbours(1, OverlayStatus(1, server.guid, True, 10.0, 3, 4, 5), known)

    monkeypatch.setattr(client, "neighbours", neighbours)
    lines = pond("table", "ring-0").output.splitlines()
    assert "is in the overlay: it knows 3 nodes, 2 of them leaves, keeps 4 pointers and has published 5" in lines[0]
    assert [line.split()[:2] for line in lines[3:]] == [["0", "-"], ["1", "ring-2"], ["-", "ring-1"]]
    assert lines[-1].endswith("leaf, suspect")
    told = json.loads(pond("table", "ring-0", "--json").output)
    assert [one["name"] for one in told["neighbours"]] == [None, "ring-2", "ring-1"]
    assert (told["pointers"], told["objects"], told["joined"]) == (4, 5, True)


def test_an_object_is_located_or_not_found(pond, servers, monkeypatch):
    async def locate(every, via, obj, seconds):
        assert ([*every], via) == ([*servers.values()], every)
        assert obj == client.object_of("thing")
        return servers["ring-0"], ObjectLocated(1, holders.pop(0), 1, 1.5)

    holders = [servers["storage-0"].guid, None]
    monkeypatch.setattr(client, "locate", locate)
    assert pond("locate", "thing").output.startswith("storage-0 answers that it holds thing (")
    missing = pond("locate", "thing")
    assert (missing.exit_code, missing.stdout) == (NotFound.exit_code, "")
    assert "no server is known to hold" in missing.stderr


def test_publishing_asks_each_server_once(pond, monkeypatch):
    asked = []

    async def publish(server, name, held, seconds):
        asked.append((server.name, name, held))
        return Published(1, bytes(32))

    monkeypatch.setattr(client, "publish", publish)
    assert ": published by ring-1, storage-0." in pond("publish", "thing", "ring-1", "storage-0", "ring-1").output
    told = json.loads(pond("publish", "thing", "ring-1", "--withdraw", "--json").output)
    assert (told["done"], told["servers"], told["object"]) == ("withdrawn", ["ring-1"], client.object_of("thing").hex())
    assert asked == [("ring-1", "thing", True), ("storage-0", "thing", True), ("ring-1", "thing", False)]


@pytest.mark.parametrize(
    "words",
    [("table", "ring-9"), ("route", "xyz"), ("route", KEY, "--via", "x"), ("publish", "thing", "ring-0", "x")],
)
def test_names_that_nobody_has_are_usage_errors(pond, words):
    assert pond(*words).exit_code == 2


def test_a_cluster_without_an_overlay_says_so(pond, cluster, monkeypatch):
    monkeypatch.setattr("pond.servers.listed", lambda settings: [])
    refused = pond("route", KEY)
    assert refused.exit_code == Unavailable.exit_code
    assert "runs no overlay" in refused.stderr

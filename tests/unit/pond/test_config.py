"""Files of settings: what is written comes back, and everything else is refused with the file's name."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pond import config
from pond.config import LEAST_QUOTA_BYTES, ClusterFile, Hex, Member, NodeConfig, StorageMember
from pond.errors import ClusterDamaged, NotFound, UsageError
from pond.servers import listed


def cluster() -> ClusterFile:
    members = tuple(
        Member(
            i,
            Hex(bytes([i]) * 32),
            f"tcp://127.0.0.1:{1000 + i}",
            f"tcp://127.0.0.1:{2000 + i}",
            f"127.0.0.1:{3000 + i}",
        )
        for i in range(4)
    )
    return ClusterFile(ring_id=Hex(b"r" * 32), epoch=1, ring_key=Hex(b"k" * 32), members=members, created="2026-01-01")


def with_storage() -> ClusterFile:
    storage = tuple(
        StorageMember(
            i,
            Hex(bytes([100 + i]) * 32),
            f"tcp://127.0.0.1:{4000 + i}",
            f"tcp://127.0.0.1:{5000 + i}",
            f"127.0.0.1:{6000 + i}",
        )
        for i in range(2)
    )
    return msgspec.structs.replace(cluster(), storage=storage)


def test_settings_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    config.write(path, cluster())
    assert config.read(path, ClusterFile) == cluster()
    assert json.loads(path.read_text())["ring_key"] == (b"k" * 32).hex()
    config.write(path, NodeConfig(id=2, cluster="../../cluster.json"))
    assert config.read(path, NodeConfig) == NodeConfig(id=2, cluster="../../cluster.json", quota_bytes=None)
    config.write(path, NodeConfig(id=2, cluster="../../cluster.json", quota_bytes=LEAST_QUOTA_BYTES))
    assert json.loads(path.read_text())["quota_bytes"] == LEAST_QUOTA_BYTES
    path.write_text('{"format": 1, "id": 2, "cluster": "../../cluster.json"}')
    assert config.read(path, NodeConfig).quota_bytes is None


def test_files_of_versions_without_an_overlay_open(tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    config.write(path, cluster())
    content = json.loads(path.read_text())
    del content["storage"]
    for member in content["members"]:
        del member["overlay_address"]
    path.write_text(json.dumps(content))
    assert config.read(path, ClusterFile) == cluster()
    node = tmp_path / "node.json"
    node.write_text('{"format": 1, "id": 2, "cluster": "../../cluster.json"}')
    assert config.read(node, NodeConfig).role == "ring"


def test_storage_servers_come_back_as_they_were_and_are_listed_after_the_ring(tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    config.write(path, with_storage())
    assert config.read(path, ClusterFile) == with_storage()
    servers = listed(with_storage())
    assert [server.name for server in servers] == ["ring-0", "ring-1", "ring-2", "ring-3", "storage-0", "storage-1"]
    assert len({server.guid for server in servers}) == 6
    assert [server.overlay_address is None for server in servers] == [True] * 4 + [False] * 2


@pytest.mark.parametrize(
    ("field", "value"),
    [("id", 0), ("public_key", "00" * 32), ("overlay_address", None), ("overlay_address", "nowhere"), ("id", 5)],
)
def test_a_storage_server_that_is_wrong_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    path = tmp_path / "cluster.json"
    config.write(path, with_storage())
    content = json.loads(path.read_text())
    content["storage"][1][field] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ClusterDamaged):
        config.read(path, ClusterFile)


@pytest.mark.parametrize("quota", [0, -1, LEAST_QUOTA_BYTES - 1, 2**80, 1.5, "64 MiB"])
def test_a_quota_that_makes_no_sense_is_refused(tmp_path: Path, quota: object) -> None:
    path = tmp_path / "node.json"
    path.write_text(json.dumps({"format": 1, "id": 2, "cluster": "cluster.json", "quota_bytes": quota}))
    with pytest.raises(
        UsageError, match=r"^quota_bytes in .*node.json makes no sense: .* from 16777216 \(16 MiB\)"
    ) as said:
        config.read(path, NodeConfig)
    assert not isinstance(said.value, ClusterDamaged), "whoever wrote it corrects it"


def test_a_file_that_is_not_there_or_a_directory(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="pond cluster up"):
        config.read(tmp_path / "cluster.json", ClusterFile)
    with pytest.raises(UsageError):
        config.read(tmp_path, ClusterFile)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"ring_key": "short"},
        {"ring_key": "zz" * 32},
        {"ring_id": 5},
        {"epoch": -1},
        {"epoch": "1"},
        {"members": []},
        {"unknown": 1},
        {"created": None},
    ],
)
def test_what_is_not_as_it_should_be_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "cluster.json"
    config.write(path, cluster())
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ClusterDamaged, match=r"cluster\.json"):
        config.read(path, ClusterFile)


@pytest.mark.parametrize("field", ["id", "public_key", "peer_address", "client_address", "metrics_address"])
def test_a_member_that_is_wrong_is_refused(tmp_path: Path, field: str) -> None:
    path = tmp_path / "cluster.json"
    config.write(path, cluster())
    content = json.loads(path.read_text())
    content["members"][1][field] = content["members"][2][field] if field in ("id", "public_key") else "nowhere"
    path.write_text(json.dumps(content))
    with pytest.raises(ClusterDamaged):
        config.read(path, ClusterFile)


def test_no_truncation_of_the_file_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    config.write(path, cluster())
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ClusterDamaged):
            config.read(path, ClusterFile)

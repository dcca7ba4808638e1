"""Key files: written once, closed to others, refused when damaged, and never quoted."""

import os
import stat
from pathlib import Path

import pytest

from bft.secret import Secret
from pond.errors import ClusterDamaged, NotFound, PondError, UsageError
from pond.keys import Kind, read_key, write_durably, write_key

KEY = Secret(bytes(range(32)))


@pytest.mark.parametrize("kind", list(Kind))
def test_a_key_comes_back_as_it_was_and_only_its_owner_may_read_it(tmp_path: Path, kind: Kind) -> None:
    path = tmp_path / "new" / "a.key"
    write_key(path, kind, KEY)
    assert read_key(path, kind) == KEY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["a.key"], "nothing temporary stays"


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    write_key(path, Kind.OWNER, KEY)
    with pytest.raises(UsageError, match="never overwritten"):
        write_key(path, Kind.OWNER, Secret(bytes(32)))
    assert read_key(path, Kind.OWNER) == KEY


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    write_key(path, Kind.OWNER, KEY)
    path.chmod(0o640)
    with pytest.raises(UsageError, match="chmod 600"):
        read_key(path, Kind.OWNER)


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    write_key(path, Kind.NODE, KEY)
    with pytest.raises(UsageError, match="owner"):
        read_key(path, Kind.OWNER)


def test_a_key_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"a\.key"):
        read_key(tmp_path / "a.key", Kind.OWNER)
    with pytest.raises(UsageError):
        read_key(tmp_path, Kind.OWNER)


def test_every_damaged_character_is_noticed_and_no_part_of_the_key_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    write_key(path, Kind.OWNER, KEY)
    line = path.read_bytes()
    secret = KEY.reveal().hex()
    for position in range(len(line) - 1):
        changed = bytearray(line)
        changed[position] = ord("z") if changed[position] != ord("z") else ord("y")
        path.write_bytes(bytes(changed))
        with pytest.raises(PondError) as refused:
            read_key(path, Kind.OWNER)
        assert not any(secret[i : i + 8] in str(refused.value) for i in range(0, 56, 8))


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"pond-key", b"pond-key 1 owner", b"\xff" * 100, b"pond-key 1 owner xx 00000000"]
)
def test_what_is_no_key_is_said_to_be_damaged(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.key"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(ClusterDamaged, match="damaged"):
        read_key(path, Kind.OWNER)


def test_a_file_of_another_format_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    write_key(path, Kind.OWNER, KEY)
    path.write_text(path.read_text().replace("pond-key 1", "pond-key 2"))
    with pytest.raises(ClusterDamaged, match="format"):
        read_key(path, Kind.OWNER)


def test_replacing_a_file_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_durably(path, b"first", replace=False)
    with pytest.raises(FileExistsError):
        write_durably(path, b"second", replace=False)
    write_durably(path, b"second", replace=True)
    assert path.read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["file"]

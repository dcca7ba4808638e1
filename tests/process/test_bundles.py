"""Exported histories: the command refuses each with any byte changed, and says where."""

import os
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from pond.cli.main import main
from tests.process.commands import answer, pond

pytestmark = pytest.mark.process

SAMPLES = 300


def exit_code(file: Path, key: str) -> int:
    """Of `pond verify FILE --ring-key KEY`, in this process: some thousands of times."""
    return CliRunner().invoke(main, ["verify", str(file), "--ring-key", key]).exit_code


@pytest.fixture
def key(ring: Path) -> str:
    return str(answer(ring, "cluster", "status")["public_key"])


@pytest.mark.parametrize("with_data", [False, True])
def test_every_single_byte_flip_of_a_small_bundle_is_refused_with_exit_6(
    ring: Path, tmp_path: Path, key: str, with_data: bool
) -> None:
    name = f"small {with_data}"
    pond(ring, "put", name, stdin=b"one")
    pond(ring, "append", name, stdin=b" two")
    file = tmp_path / "small.pond"
    pond(ring, "export", name, "-o", str(file), *(["--data"] if with_data else []))
    assert exit_code(file, key) == 0
    whole = file.read_bytes()
    taken = []
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 + position % 255
        file.write_bytes(changed)
        if exit_code(file, key) != 6:
            taken.append(position)
    assert not taken, f"of {len(whole)} bytes, changes of these were not refused: {taken}"


def test_sampled_byte_flips_and_cuts_of_a_large_bundle_are_refused_with_exit_6(
    ring: Path, tmp_path: Path, key: str
) -> None:
    pond(ring, "put", "large", stdin=os.urandom(3_000_000))
    pond(ring, "append", "large", stdin=os.urandom(1_000_000))
    file = tmp_path / "large.pond"
    pond(ring, "export", "large", "-o", str(file), "--data")
    assert exit_code(file, key) == 0
    whole = file.read_bytes()
    assert len(whole) > 4_000_000
    draw = random.Random(1)
    for _ in range(SAMPLES):
        position = draw.randrange(len(whole))
        with file.open("r+b") as bundle:
            bundle.seek(position)
            bundle.write(bytes([whole[position] ^ (1 + draw.randrange(255))]))
        assert exit_code(file, key) == 6, f"byte {position} was changed and not noticed"
        with file.open("r+b") as bundle:
            bundle.seek(position)
            bundle.write(whole[position : position + 1])
    assert exit_code(file, key) == 0, "and as it was, it holds"
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert exit_code(file, key) == 6, f"cut to {length} bytes and not noticed"
    file.write_bytes(whole + b"\x00")
    assert exit_code(file, key) == 6

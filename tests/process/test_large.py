"""Large files through real processes, broken off by kill -9 and gone on with. The benchmark's figures, made small."""

import os
import subprocess

import pytest

from cluster.bench.large import in_words, large
from tests.process.commands import COMMAND_SECONDS, POND, answer, environment, pond

pytestmark = pytest.mark.process

MEBIBYTE = 1024 * 1024
SIZE = 64 * MEBIBYTE
ON_THE_WAY = 16 * MEBIBYTE
"""What may be lost of a transfer when it is killed, each way, by server: four chunks of 4 MiB."""


def test_a_file_goes_in_and_comes_out_though_both_are_killed_twice(tmp_path):
    measured = large(SIZE, parent=tmp_path)
    by_name = {each.name: each for each in measured.transfers}
    told = in_words(measured)
    assert measured.identical, told
    assert [each.killed for each in measured.transfers[2:]] == [True, True, False] * 2, told
    puts = [
        each.sent_bytes for each in measured.transfers if each.name.startswith("put") and each.name != "put at once"
    ]
    assert 3 * SIZE <= sum(puts) <= 4 * (SIZE + 2 * ON_THE_WAY), "who fell behind gets it from others"
    assert puts[-1] <= 4 * SIZE * 3 // 4, "the last attempt began where the others ended"
    assert by_name["put at once"].sent_bytes <= 4 * SIZE * 1.01, told
    gets = [each.received_bytes for each in measured.transfers if each.name.startswith("get again")]
    assert gets[-1] < SIZE, told
    assert by_name["get at once"].most_share < 0.7, "servers share it, though one may have stalled"
    assert measured.range_bytes <= measured.range_received_bytes < 3 * measured.range_bytes, "a stall doubles a chunk"
    assert all(process.resident_bytes < 400e6 for process in measured.memory), told


def test_servers_that_die_and_come_back_break_no_transfer_off(ring, tmp_path):
    given, taken = tmp_path / "in", tmp_path / "out"
    given.write_bytes(os.urandom(SIZE))
    put = subprocess.Popen([*POND, "put", "sturdy", str(given), "--timeout", "60"], env=environment(ring))
    for server in ("ring-1", "ring-2"):
        pond(ring, "cluster", "kill", server)
        pond(ring, "cluster", "restart", server)
    assert put.wait(COMMAND_SECONDS) == 0
    assert answer(ring, "stat", "sturdy")["size"] == SIZE
    get = subprocess.Popen([*POND, "get", "sturdy", "-o", str(taken)], env=environment(ring))
    pond(ring, "cluster", "kill", "ring-3")
    try:
        assert get.wait(COMMAND_SECONDS) == 0
    finally:
        pond(ring, "cluster", "restart", "ring-3")
    assert taken.read_bytes() == given.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]

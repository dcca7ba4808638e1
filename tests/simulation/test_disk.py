"""The simulated disk: reads see what was written, a crash keeps a prefix of what was not synced."""

import random
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from bft.effects import Write
from cluster.sim.disk import Disk

KEYS = st.sampled_from([b"a", b"b", b"c", b"d"])
GROUPS = st.lists(st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=3)), max_size=4), max_size=8)


def content(disk):
    return dict(disk.scan("t", b"", b"\xff"))


def as_writes(group):
    return [Write("t", key, value) for key, value in group]


def apply(expected, group):
    for key, value in group:
        if value is None:
            expected.pop(key, None)
        else:
            expected[key] = value


@given(synced=GROUPS, unsynced=GROUPS, kept=st.integers(0, 8), scan_first=st.booleans())
def test_a_crash_keeps_what_was_synced_and_a_prefix_of_the_rest(synced, unsynced, kept, scan_first):
    disk = Disk()
    expected: dict[bytes, bytes] = {}
    for group in synced:
        disk.write(as_writes(group))
        apply(expected, group)
    disk.sync()
    if scan_first:
        assert content(disk) == expected
    survivors = dict(expected)
    for place, group in enumerate(unsynced):
        disk.write(as_writes(group))
        apply(expected, group)
        if place < kept:
            apply(survivors, group)
    assert content(disk) == expected
    assert disk.lose(kept) == max(0, len(unsynced) - kept)
    assert content(disk) == survivors
    assert disk.unsynced == 0
    for key, value in survivors.items():
        assert disk.get("t", key) == value
        assert disk.size("t", key) == len(value)


def test_all_nothing_and_something_in_between_survive_crashes():
    seen = set()
    for seed in range(100):
        disk = Disk()
        for number in range(5):
            disk.write([Write("t", b"%d" % number, b"")])
        disk.crash(random.Random(seed))
        left = sorted(content(disk))
        assert left == [b"%d" % number for number in range(len(left))]
        seen.add(len(left))
    assert seen == set(range(6))


def test_a_disk_may_keep_all_or_lose_all_of_what_was_not_synced():
    cases: list[tuple[Literal["all", "none"], int]] = [("all", 5), ("none", 0)]
    for survives, left in cases:
        disk = Disk()
        for number in range(5):
            disk.write([Write("t", b"%d" % number, b"")])
        assert disk.crash(random.Random(1), survives) == 5 - left
        assert len(content(disk)) == left


def test_a_flip_changes_one_bit_and_a_wiped_disk_is_empty():
    disk = Disk()
    assert disk.flip(random.Random(1)) is None
    disk.write([Write("t", b"a", b"1234"), Write("t", b"b", b"")])
    assert disk.flip(random.Random(1)) == "t"
    changed = int.from_bytes(disk.get("t", b"a") or b"") ^ int.from_bytes(b"1234")
    assert changed.bit_count() == 1
    disk.wipe()
    assert content(disk) == {}


def test_what_is_not_there_reads_as_none():
    disk = Disk()
    assert disk.get("t", b"a") is None
    assert disk.size("t", b"a") is None
    assert disk.scan("t", b"", b"\xff") == []
    disk.write([Write("t", b"a", b"1"), Write("t", b"a", None)])
    assert disk.get("t", b"a") is None

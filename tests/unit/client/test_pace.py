"""Chunks of a long transfer: large where the line is quick, small and long waited for where it is slow."""

import pytest

from pond.client.pace import CHUNK_BYTES, FIRST_CHUNK_BYTES, LONGEST_CHUNK_SECONDS, Pace


def test_over_a_quick_line_chunks_grow_to_their_full_size():
    pace = Pace()
    assert pace.chunk_bytes == FIRST_CHUNK_BYTES
    for _ in range(10):
        pace.took(pace.chunk_bytes, 0.1)
    assert pace.chunk_bytes == CHUNK_BYTES
    assert pace.patience(CHUNK_BYTES) == pytest.approx(CHUNK_BYTES / 10e6)


@pytest.mark.parametrize("bits_per_second", [1e5, 1e6, 1e7, 1e8, 1e9])
def test_a_chunk_is_there_before_it_is_overdue(bits_per_second):
    """Four at a time share the line."""
    pace = Pace()
    for turn in range(20):
        size = pace.chunk_bytes
        took = 4 * 8 * size / bits_per_second
        if turn:
            assert took < pace.patience(size) or took > LONGEST_CHUNK_SECONDS
        pace.took(size, took)
    assert 4 * 8 * pace.chunk_bytes / bits_per_second < 8 or pace.chunk_bytes == FIRST_CHUNK_BYTES


def test_when_a_line_becomes_slow_chunks_become_small_again():
    pace = Pace()
    for _ in range(10):
        pace.took(pace.chunk_bytes, 0.1)
    for _ in range(10):
        pace.took(pace.chunk_bytes, 30.0)
    assert pace.chunk_bytes == FIRST_CHUNK_BYTES
    assert pace.patience(pace.chunk_bytes) == LONGEST_CHUNK_SECONDS


def test_what_is_small_takes_a_round_trip_and_tells_nothing():
    """Else who got a tree node in 5 ms would give a server that died fifteen seconds for the blocks."""
    pace = Pace()
    pace.took(FIRST_CHUNK_BYTES, 0.01)
    for size in (0, 1, 150, 10_000):
        before = pace.chunk_bytes
        pace.took(size, 0.005)
        assert pace.chunk_bytes == before
        assert pace.patience(CHUNK_BYTES) < 2
    pace.took(150, 10.0)
    assert pace.chunk_bytes == FIRST_CHUNK_BYTES, "but a line on which even that takes long is slow"

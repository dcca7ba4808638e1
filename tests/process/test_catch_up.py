"""A server that missed thousands of updates comes back to a ring under load. The benchmark's figures, made small."""

from pathlib import Path

import pytest

from cluster.bench.catch_up import Size, catch_up

pytestmark = pytest.mark.process

MOST_MEMORY_BYTES = 250_000_000


def test_who_missed_very_much_catches_up_under_load_in_bounded_memory(tmp_path: Path) -> None:
    found = catch_up(Size(8_000, 16_000_000, objects=32, watch_seconds=1.0), seconds=60.0, parent=tmp_path)
    assert found.missed_updates >= 8_000
    assert found.missed_bytes >= 13_000_000
    assert found.fetching_seconds > 0, "it ran all batches, and fetched no state"
    assert (found.lost, found.unknown, found.views) == (0, 0, 0)
    for server in found.memory:
        assert 0 < server.anonymous_bytes < MOST_MEMORY_BYTES, server
    meanwhile = {saw.name: saw for saw in found.writers}["it catches up"]
    assert meanwhile.updates > 0
    assert meanwhile.longest_gap_ms < 5000

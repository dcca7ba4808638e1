"""Contents that tell whether they were written so, and what is said of users who met errors."""

import pytest

from cluster.bench.clients import Done, Ran
from cluster.bench.mixed import GROUPS, _kind, check, content
from pond.errors import PondError, VerificationFailed


def test_a_content_is_recognised_and_any_other_is_not() -> None:
    one = content(4096)
    check(one, 4096)
    assert one != content(4096)
    for wrong in (one[:-1], one + b"\0", bytes(4096), one[:100] + bytes([one[100] ^ 1]) + one[101:], b""):
        with pytest.raises(VerificationFailed, match="nobody wrote"):
            check(wrong, 4096)


def test_the_groups_are_everybody() -> None:
    assert sum(group.share for group in GROUPS) == 1


def test_errors_are_counted_and_the_first_is_told() -> None:
    kind = _kind("reads", 2, Ran([Done(1.0, 0.5), Done(2.0, 0.25)], ["bad bytes", "late"]), 4.0)
    assert (kind.n, kind.per_second, kind.p50_ms, kind.max_ms) == (2, 0.5, 250, 500)
    assert (kind.errors, kind.error) == (2, "bad bytes")


def test_a_group_that_did_nothing_at_all_is_no_figure() -> None:
    with pytest.raises(PondError, match="nothing was done, since bad bytes"):
        _kind("reads", 2, Ran([], ["bad bytes"]), 4.0)

"""What a neighbour may cause: so much at once, and then so much a second, whatever others do."""

from random import Random

import pytest

from tapestry.allowance import SENDERS, Allowance

ONE, OTHER = b"one", b"other"


def taken(allowance: Allowance, sender: bytes, now: float, times: int = 100) -> int:
    return sum(allowance.take(sender, now) for _ in range(times))


def test_so_much_at_once_and_then_so_much_a_second():
    allowance = Allowance(8, 2.0)
    assert taken(allowance, ONE, 5.0) == 8
    assert [taken(allowance, ONE, now) for now in (5.4, 5.5, 6.0, 8.0)] == [0, 1, 1, 4]
    assert taken(allowance, ONE, 1000.0) == 8, "no more than that, however long it was silent"


def test_one_does_not_use_up_what_another_has():
    allowance = Allowance(8, 2.0)
    assert taken(allowance, ONE, 5.0) == taken(allowance, OTHER, 5.0) == 8


@pytest.mark.parametrize("seed", range(5))
def test_in_any_time_no_more_than_that(seed):
    draw = Random(f"allowance {seed}")
    allowance, now, times = Allowance(5, 3.0), 0.0, []
    for _ in range(400):
        now += draw.choice((0.0, 0.01, 0.1, 1.0)) * draw.random()
        if allowance.take(ONE, now):
            times.append(now)
    assert len(times) > 50
    for first, began in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= 5 + 3.0 * (times[last] - began) + 1e-6


def test_few_are_remembered_and_those_that_were_heard_last():
    allowance = Allowance(1, 0.0)
    for number in range(SENDERS + 1):
        assert allowance.take(b"%d" % number, 0.0)
    assert len(allowance) == SENDERS
    assert not allowance.take(b"%d" % SENDERS, 0.0)
    assert allowance.take(b"0", 0.0)

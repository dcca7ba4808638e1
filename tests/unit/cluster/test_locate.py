"""Locates are counted in the second in which they were due, whenever they came to their ends."""

from cluster.bench.locate import Attempt, by_second


def test_each_second_has_those_that_were_due_in_it():
    attempts = [Attempt(turn / 25, 0.3) for turn in reversed(range(75))]
    assert by_second(attempts) == [1.0, 1.0, 1.0]


def test_one_that_finds_nobody_counts_against_its_second():
    assert by_second([Attempt(0.0, 1.5), Attempt(0.5, None), Attempt(1.0, 0.1)]) == [0.5, 1.0]

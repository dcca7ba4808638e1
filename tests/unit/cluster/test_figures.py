"""Percentiles, and sizes in words."""

import pytest

from cluster.bench.figures import HUNDREDTHS, percentile, size_in_words, three_digits


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.01, 1), (0.5, 50), (0.501, 51), (0.95, 95), (0.99, 99), (0.999, 100), (1, 100)]
)
def test_a_percentile_of_a_hundred_samples_is_the_sample_of_that_rank(share: float, expected: int) -> None:
    assert percentile(range(1, 101), share) == expected


def test_every_percentile_of_one_sample_is_that_sample() -> None:
    assert {percentile([7.0], share) for share in HUNDREDTHS} == {7.0}


def test_the_median_of_two_is_the_lower_one() -> None:
    assert percentile([1.0, 2.0], 0.5) == 1.0


def test_a_distribution_never_goes_down() -> None:
    samples = sorted((number * 7919) % 1000 for number in range(333))
    drawn = [percentile(samples, share) for share in HUNDREDTHS]
    assert drawn == sorted(drawn)
    assert drawn[0] == samples[0]


@pytest.mark.parametrize(
    ("size", "words"),
    [(100, "100 B"), (1024, "1 KiB"), (4096, "4 KiB"), (65536, "64 KiB"), (2_000_000, "2 MB"), (1001, "1001 B")],
)
def test_sizes_are_named_as_people_do(size: int, words: str) -> None:
    assert size_in_words(size) == words


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.0456, "0.05"), (9.876, "9.88"), (98.76, "98.8"), (987.6, "988"), (0.0, "0.00")]
)
def test_figures_are_shown_with_the_digits_that_count(value: float | None, text: str) -> None:
    assert three_digits(value) == text

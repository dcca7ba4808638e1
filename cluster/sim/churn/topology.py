"""Where nodes are, and how long a packet takes between two of them.

A node is a point of a square and the access line that leads there: the latency of a pair is the distance of their
points and both their lines. Two coordinates and such a height describe measured round trips well (Dabek et al.,
Vivaldi, SIGCOMM 2004, section 5, which fits them to the King data set). The square is sized so that the mean round trip
is 160 ms; studies with samples of that data set (Gummadi et al., IMW 2002) have 150 to 180 ms.
Unlike there, the triangle inequality holds, and latencies do not change.
"""

import random
from math import hypot
from typing import NamedTuple

SIDE_SECONDS = 0.115
"""Of the square. Two random points of it are 0.5214 sides apart on average: 60 ms."""

LEAST_ACCESS_SECONDS = 0.002
MEAN_ACCESS_SECONDS = 0.010
"""Of one line; what is above the least is exponential. Two lines make a quarter of the mean latency."""


class Place(NamedTuple):
    """A point, and its access line; all in seconds one way."""

    x: float
    y: float
    access: float


def random_place(choices: random.Random) -> Place:
    """Any place."""
    return Place(
        choices.uniform(0.0, SIDE_SECONDS),
        choices.uniform(0.0, SIDE_SECONDS),
        LEAST_ACCESS_SECONDS + choices.expovariate(1 / (MEAN_ACCESS_SECONDS - LEAST_ACCESS_SECONDS)),
    )


def latency(one: Place, other: Place) -> float:
    """Seconds that a packet takes one way, besides what the links need to send it."""
    return hypot(one[0] - other[0], one[1] - other[1]) + one[2] + other[2]

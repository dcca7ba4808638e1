"""How large the protocol's windows are in one run: small ones make its corners come up within two hundred operations.

The constants are the protocol's own, in `bft`; a run sets them for itself and puts them back.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from bft import checkpoints, execution, ordering, replica, signing


class Limits(NamedTuple):
    """Constants of `bft` that a run may change, and bounds that it watches."""

    interval: int
    window: int
    retained: int
    pipeline: int
    pool: int
    queue: int
    states: int
    clock_error_seconds: float

    @classmethod
    def drawn(cls, choices: random.Random, clock_error_seconds: float) -> "Limits":
        """As in production in a third of the runs, else small."""
        interval, window, retained = checkpoints.INTERVAL, ordering.WINDOW, checkpoints.RETAINED
        pipeline, pool = replica.PIPELINE, signing.POOL
        if choices.random() < 0.67:
            interval = choices.choice((2, 4, 8, 16))
            window = interval * choices.choice((2, 3, 4))
            retained = 512
            pool = choices.choice((4, 16, 64))
            pipeline = choices.choice((1, 2, 4, 8))
        return cls(
            interval, window, retained, pipeline, pool, replica.QUEUE, execution.KEPT_STATES, clock_error_seconds
        )

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this, `bft` works with these constants."""
        changed = [
            (checkpoints, "INTERVAL", self.interval),
            (checkpoints, "WINDOW", self.window),
            (ordering, "WINDOW", self.window),
            (replica, "WINDOW", self.window),
            (checkpoints, "RETAINED", self.retained),
            (replica, "PIPELINE", self.pipeline),
            (signing, "POOL", self.pool),
        ]
        before = [(module, name, getattr(module, name)) for module, name, _ in changed]
        for module, name, value in changed:
            setattr(module, name, value)
        try:
            yield
        finally:
            for module, name, value in before:
                setattr(module, name, value)

"""How large the protocol's windows are in one run: small ones make its corners come up within two hundred operations.

The constants are the protocol's own, in `bft` and in the client; a run sets them for itself and puts them back.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from bft import execution, requests
from bft.tuning import DEFAULT, Tuning
from pond.client import ring as client

IMPATIENT_MARGIN_SECONDS = 2.0
"""Above the error of any clock here."""


class Limits(NamedTuple):
    """Constants that a run may change, and bounds that it watches."""

    tuning: Tuning
    margin_seconds: float
    """How much longer than its client waits an update may run."""
    queue: int
    states: int
    clock_error_seconds: float

    @classmethod
    def drawn(cls, choices: random.Random, clock_error_seconds: float, impatient: bool) -> "Limits":
        """As in production in a third of the runs, else small. Updates of impatient clients expire within the run."""
        tuning = DEFAULT
        if choices.random() < 0.67:
            interval = choices.choice((2, 4, 8, 16))
            tuning = Tuning(
                interval=interval,
                window=interval * choices.choice((2, 3, 4)),
                retained=512,
                pool=choices.choice((4, 16, 64)),
                pipeline=choices.choice((1, 2, 4, 8)),
            )
        margin = IMPATIENT_MARGIN_SECONDS if impatient else client.MARGIN_SECONDS
        return cls(tuning, margin, requests.QUEUE, execution.KEPT_STATES, clock_error_seconds)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this, clients work with these constants."""
        before = client.MARGIN_SECONDS
        client.MARGIN_SECONDS = self.margin_seconds
        try:
            yield
        finally:
            client.MARGIN_SECONDS = before

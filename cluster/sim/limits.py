"""How large the protocol's windows are in one run: small ones make its corners come up within two hundred operations.

The constants are the protocol's own, in `bft` and in the client; a run sets them for itself and puts them back.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from bft import execution, ordering, requests
from bft.tuning import DEFAULT, Tuning
from cluster.faults.manifest import Manifest
from pond.client import ring as client

IMPATIENT_MARGIN_SECONDS = 2.0
"""How much longer than an impatient client waits its update may run, so that it expires within the run: above the error
of any clock here."""


class Bounds(NamedTuple):
    """What the watch holds servers to."""

    window: int
    queue: int
    states: int
    clock_error_seconds: float
    """How far agreed time may be ahead of a correct clock."""


def tuning(manifest: Manifest) -> Tuning:
    """Sizes that the ring of a run works with: production's, but for those that its manifest gives."""
    limits = manifest.limits
    given = {name: getattr(limits, name) for name in Tuning._fields}
    return DEFAULT._replace(**{name: value for name, value in given.items() if value is not None})


def bounds(manifest: Manifest) -> Bounds:
    """Those of a run. A primary that lies about the time is believed as far as backups allow for drift."""
    window = tuning(manifest).window
    error = 2 * manifest.clock.error_seconds + (ordering.DRIFT_SECONDS if manifest.liars else 0)
    return Bounds(window, requests.QUEUE, execution.KEPT_STATES, error)


@contextmanager
def applied(manifest: Manifest) -> Iterator[None]:
    """Within this, clients' updates expire when the run's should."""
    before = client.MARGIN_SECONDS
    if manifest.habits.patience_seconds is not None:
        client.MARGIN_SECONDS = IMPATIENT_MARGIN_SECONDS
    try:
        yield
    finally:
        client.MARGIN_SECONDS = before

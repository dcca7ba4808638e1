"""How large the protocol's windows are in one run: small ones make its corners come up within two hundred operations.

The constants are the protocol's own, in `bft` and in the client; a run sets them for itself and puts them back.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import NamedTuple

from bft import checkpoints, execution, ordering, replica, signing
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
    """Between any two clocks."""


def bounds(manifest: Manifest) -> Bounds:
    """Those of a run."""
    window = manifest.limits.window or ordering.WINDOW
    return Bounds(window, replica.QUEUE, execution.KEPT_STATES, 2 * manifest.clock.error_seconds)


@contextmanager
def applied(manifest: Manifest) -> Iterator[None]:
    """Within this, `bft` and clients work with the run's constants."""
    limits = manifest.limits
    impatient = manifest.habits.patience_seconds is not None
    wanted: list[tuple[ModuleType, str, float | None]] = [
        (checkpoints, "INTERVAL", limits.interval),
        (checkpoints, "WINDOW", limits.window),
        (ordering, "WINDOW", limits.window),
        (replica, "WINDOW", limits.window),
        (checkpoints, "RETAINED", limits.retained),
        (replica, "PIPELINE", limits.pipeline),
        (signing, "POOL", limits.pool),
        (client, "MARGIN_SECONDS", IMPATIENT_MARGIN_SECONDS if impatient else None),
    ]
    changed = [(module, name, value) for module, name, value in wanted if value is not None]
    before = [(module, name, getattr(module, name)) for module, name, _ in changed]
    for module, name, value in changed:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)

"""Where the servers of a real ring stand: who leads, which view it is, who is behind."""

from time import monotonic, sleep

from cluster import launch
from cluster.layout import Layout, ServerPlace
from pond.errors import TimedOut
from pond.protocol import ServerStatus

IN_STEP_BATCHES = 16
"""A server that is no more behind than this is in step: under load, answers of one moment differ by a few batches."""

AGAIN_SECONDS = 0.05


def statuses(layout: Layout) -> dict[str, ServerStatus]:
    """What the servers that answer say of themselves, by name."""
    return {report.server.name: report.status for report in launch.report(layout) if report.status is not None}


def view(layout: Layout) -> int:
    """The highest view that a server is in, or on its way to."""
    return max((status.view for status in statuses(layout).values()), default=0)


def leader(layout: Layout) -> ServerPlace:
    """The server that leads the highest view, whether it runs or not."""
    highest = max(statuses(layout).values(), key=lambda status: status.view)
    return layout.servers[highest.primary]


def wait_until_in_step(layout: Layout, names: tuple[str, ...], seconds: float) -> float:
    """Return when these servers are in the view of the others and in step with them, and how long that took.

    Raises TimedOut.
    """
    began = monotonic()
    while True:
        found = statuses(layout)
        if in_step(found, names):
            return monotonic() - began
        if monotonic() - began > seconds:
            stand = ", ".join(f"{name}: view {said.view}, batch {said.sequence}" for name, said in found.items())
            raise TimedOut(f"{', '.join(names)} not in step after {seconds:g} s ({stand})")
        sleep(AGAIN_SECONDS)


def furthest(layout: Layout) -> int:
    """The highest batch that a server has executed."""
    return max((status.sequence for status in statuses(layout).values()), default=0)


def in_step(found: dict[str, ServerStatus], names: tuple[str, ...]) -> bool:
    """Whether these servers are in the view of the others and in step with them, by what all said at one time."""
    furthest = max((status.sequence for status in found.values()), default=0)
    highest = max((status.view for status in found.values()), default=0)
    return all(name in found and _in_step(found[name], furthest, highest) for name in names)


def _in_step(status: ServerStatus, furthest: int, highest: int) -> bool:
    return status.view == highest and status.sequence >= furthest - IN_STEP_BATCHES

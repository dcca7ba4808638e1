"""How a local cluster is, in figures and in words: who leads, who lags and why, and what that means for its users.

What one server says of itself is shown as its word. What is said of the ring is what f + 1 servers say alike, so that
one of them at least is right.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from cluster.answers import ClusterStatus, RingServer
from cluster.launch import Report
from cluster.layout import Layout, server_name
from pond.cli.answers import human_size, table
from pond.cli.options import one_line
from pond.protocol import Condition

FAR_BEHIND = 16
"""Batches that a server may lag before it is worth a sentence: not all are asked at the same moment."""

LONGEST_DETAIL = 200
"""Characters of a server's own words that are shown."""

HELPS = (Condition.SERVING, Condition.CHANGING_VIEW)
"""Conditions in which a server takes part in ordering."""


def look(layout: Layout, reports: Sequence[Report]) -> ClusterStatus:
    """What is known of the cluster."""
    faults = _faults(reports)
    said = [report.status for report in reports if report.status is not None]
    reached = sorted((status.sequence for status in said), reverse=True)
    sure = reached[faults] if len(reached) > faults else None
    words = Counter((status.view, server_name(status.primary)) for status in said if status.view_active)
    agreed = [word for word, count in words.items() if count > faults]
    view, primary = max(agreed) if agreed else (None, None)
    ring = [_server(report, sure) for report in reports]
    return ClusterStatus(
        directory=one_line(str(layout.directory)),
        public_key=layout.cluster.ring_key.hex(),
        view=view,
        primary=primary,
        may_fail=faults - sum(not _helps(server) for server in ring),
        ring=ring,
        replicas=[],
        storage=[],
    )


def _server(report: Report, sure: int | None) -> RingServer:
    """`sure`: the batch that f + 1 servers have run."""
    server, status = report.server, report.status
    return RingServer(
        name=server.name,
        state=report.state,
        pid=report.process.pid,
        view=None if status is None else status.view,
        sequence=None if status is None else status.sequence,
        primary=None if status is None else server_name(status.primary),
        behind=None if status is None or sure is None else max(0, sure - status.sequence),
        condition=None if status is None else status.condition,
        detail=None if status is None else one_line(status.detail[:LONGEST_DETAIL]),
        view_active=None if status is None else status.view_active,
        disk_bytes=_disk_bytes(server.directory / "store"),
        free_bytes=None if status is None else status.free_bytes,
        client_address=server.member.client_address,
        metrics=f"http://{server.member.metrics_address}/metrics",
    )


def _disk_bytes(directory: Path) -> int:
    """What a directory's files take on disk: a file with holes takes less than it is long."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(folder, name)).st_blocks * 512
    return total


# --- in words ----------------------------------------------------------------------------------------------------


def figures(found: ClusterStatus) -> str:
    """One line for each server."""
    rows: list[Sequence[object]] = [
        ("SERVER", "STATE", "PID", "VIEW", "SEQUENCE", "BEHIND", "DISK", "FREE", "ROLE/NOTE")
    ]
    for server in found.ring:
        numbers = [server.pid, server.view, server.sequence, server.behind]
        words = ["-" if number is None else number for number in numbers]
        free = human_size(server.free_bytes) if server.free_bytes else "-"
        rows.append((server.name, server.state, *words, human_size(server.disk_bytes), free, _note(found, server)))
    return table(rows, right=(2, 3, 4, 5, 6, 7))


def _note(found: ClusterStatus, server: RingServer) -> str:
    leads = ["leads" if server.state == "running" else "led"] if server.name == found.primary else []
    condition = [server.condition] if server.condition not in (None, Condition.SERVING) else []
    return ", ".join(leads + condition)


def sentences(found: ClusterStatus) -> list[str]:
    """Who leads, what is wrong with whom and what mends it, and what that means for users."""
    if all(server.state == "stopped" for server in found.ring):
        return ["The cluster is stopped: `pond cluster up` starts it."]
    troubles = [trouble for server in found.ring if (trouble := _trouble(found, server)) is not None]
    return [_who_leads(found), *troubles, what_it_means(found)]


def _who_leads(found: ClusterStatus) -> str:
    leader = next((server for server in found.ring if server.name == found.primary), None)
    if leader is not None:
        if leader.state == "running":
            return f"{leader.name} leads, in view {found.view}."
        then = ": the others elect another one" if found.may_fail >= 0 else ""
        return f"{leader.name} leads in view {found.view}, but is {leader.state}{then}."
    answers = [server for server in found.ring if server.view is not None]
    changing = [server for server in answers if not server.view_active]
    if len(answers) <= _faults(found.ring):
        return "Too few servers answer to say who leads."
    if len(changing) > _faults(found.ring):
        return f"{_names(changing)} are changing view: writes wait until a new leader begins; look again in a second."
    said = ", ".join(f"{server.name} says {server.primary} in view {server.view}" for server in answers)
    return f"The servers do not agree who leads: {said}."


def _trouble(found: ClusterStatus, server: RingServer) -> str | None:
    """What is wrong with a server, and what to do."""
    name, said = server.name, (server.detail or "").rstrip(".")
    why = f": {said}" if said else ""
    lag = f", {server.behind} batches behind" if server.behind else ""
    restart = f"`pond cluster restart {name}`"
    match server.state, server.condition:
        case "stopped", _:
            return f"{name} is stopped: {restart} starts it."
        case "paused", _:
            return f"{name} is paused: `pond cluster resume {name}` lets it go on."
        case "unreachable", _:
            return f"{name} runs and does not answer: `pond cluster logs {name}` may say why, {restart} may help."
        case _, Condition.DISK_FULL:
            return f"{name}: its disk is full{lag}{why}; make room there, then {restart}."
        case _, Condition.DISK_FAILING:
            return f"{name}: its disk fails{lag}{why}; move its directory to another disk, then {restart}."
        case _, Condition.DISK_DAMAGED:
            return f"{name}: what is on its disk is damaged{lag}{why}; `pond cluster logs {name}` says more."
        case _, Condition.DIVERGED:
            return f"{name}: its state differs from the ring's, so it answers no reads{lag}{why}."
        case _, Condition.CATCHING_UP | Condition.TRANSFERRING | Condition.LEARNING as condition:
            return f"{name} is {condition}{lag}{why}."
        case _, Condition.SERVING if (server.behind or 0) > FAR_BEHIND or said:
            return f"{name} serves{lag}{why}."
    if found.view is not None and server.view_active and server.view != found.view:
        return f"{name} is in view {server.view}, others are in view {found.view}."
    return None


def what_it_means(found: ClusterStatus) -> str:
    """Whether the ring works, and how many more of its servers may fail."""
    size, faults = len(found.ring), _faults(found.ring)
    helping = sum(_helps(server) for server in found.ring)
    if helping == size:
        return f"All {size} servers serve; any {_number(faults)} of them may fail or lie."
    if found.may_fail > 0:
        return f"The ring works on with {helping} of {size} servers; {_number(found.may_fail)} more may fail or lie."
    if found.may_fail == 0:
        return f"The ring works on with {helping} of {size} servers; no more may fail until another one serves again."
    needed = size - faults
    reads = "; `pond get NAME --consistency any` still reads" if helping else ""
    return f"Only {helping} of {size} servers serve and {needed} are needed: writes wait until then{reads}."


def _helps(server: RingServer) -> bool:
    return server.state == "running" and server.condition in HELPS


def _faults(ring: Sequence[object]) -> int:
    """How many servers of a ring may fail."""
    return (len(ring) - 1) // 3


def _names(servers: Iterable[RingServer]) -> str:
    return ", ".join(server.name for server in servers)


def _number(count: int) -> str:
    return {1: "one", 2: "two", 3: "three"}.get(count, str(count))

"""How a local cluster is, in figures and in words: who leads, who lags and why, and what that means for its users.

What one server says of itself is shown as its word. What is said of the ring is what f + 1 servers say alike, so that
one of them at least is right.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from textwrap import shorten

from cluster.answers import ClusterStatus, RingServer, StorageServer
from cluster.launch import InOverlay, Report
from cluster.layout import NODE_CONFIG, SERVERS, Layout, StoragePlace
from pond.cli.answers import human_size, table
from pond.cli.options import one_line
from pond.client.upload import INLINE_BYTES
from pond.protocol import Condition, OverlayStatus
from pond.servers import ring_name

FAR_BEHIND = 16
"""Batches that a server may lag before it is worth a sentence: not all are asked at the same moment."""

LONGEST_DETAIL = 400
"""Characters of a server's own words that are shown."""

DAMAGED = "store.damaged"
"""Where a server keeps a storage that it found damaged, in its directory (pond.node.server)."""

LITTLE_ROOM_BYTES = 64 * 1024 * 1024
"""Room for uploads that is worth a sentence when there is no more: a larger write of one client is not taken."""

_MENDS = (
    ("stopped", ("are stopped", "is stopped"), "restart", ("starts them", "starts it")),
    ("paused", ("are paused", "is paused"), "resume", ("lets them go on", "lets it go on")),
    ("unreachable", ("run and do not answer", "runs and does not answer"), "restart", ("may help", "may help")),
)
"""States of storage servers, and what mends each: of several, and of one."""

HELPS = (Condition.SERVING, Condition.CHANGING_VIEW)
"""Conditions in which a server takes part in ordering."""

NEVER_LEADS = (
    Condition.LEARNING,
    Condition.DISK_FULL,
    Condition.DISK_FAILING,
    Condition.DISK_DAMAGED,
    Condition.CHANGING_VIEW,
)
"""Conditions in which a server does not lead, whatever the others take it for."""


def look(layout: Layout, reports: Sequence[Report], overlay: Sequence[InOverlay] = ()) -> ClusterStatus:
    """What is known of the cluster."""
    nodes = {node.server.name: node.status for node in overlay}
    faults = _faults(reports)
    said = [report.status for report in reports if report.status is not None]
    reached = sorted((status.sequence for status in said), reverse=True)
    sure = reached[faults] if len(reached) > faults else None
    words = Counter((status.view, ring_name(status.primary)) for status in said if status.view_active)
    agreed = [word for word, count in words.items() if count > faults]
    view, primary = max(agreed) if agreed else (None, None)
    ring = [_server(report, sure, nodes.get(report.server.name)) for report in reports]
    return ClusterStatus(
        directory=one_line(str(layout.directory)),
        public_key=layout.cluster.ring_key.hex(),
        view=view,
        primary=primary,
        may_fail=faults - sum(not _helps(server) for server in ring),
        ring=ring,
        replicas=[],
        storage=[_storage_server(node, node.server) for node in overlay if isinstance(node.server, StoragePlace)],
        overlay=all(member.overlay_address is not None for member in layout.cluster.members),
    )


def _storage_server(node: InOverlay, server: StoragePlace) -> StorageServer:
    return StorageServer(
        name=server.name,
        state=node.state,
        pid=node.process.pid,
        joined=None if node.status is None else node.status.joined,
        join_ms=None if node.status is None else round(node.status.join_ms, 1),
        neighbours=None if node.status is None else node.status.neighbours,
        client_address=server.member.client_address,
        metrics=f"http://{server.member.metrics_address}/metrics",
    )


def _server(report: Report, sure: int | None, node: OverlayStatus | None) -> RingServer:
    """`sure`: the batch that f + 1 servers have run."""
    server, status = report.server, report.status
    return RingServer(
        name=server.name,
        state=report.state,
        pid=report.process.pid,
        view=None if status is None else status.view,
        sequence=None if status is None else status.sequence,
        primary=None if status is None else ring_name(status.primary),
        behind=None if status is None or sure is None else max(0, sure - status.sequence),
        condition=None if status is None else status.condition,
        detail=(report.unfit or None) if status is None else one_line(_short(status.detail)),
        view_active=None if status is None else status.view_active,
        disk_bytes=_disk_bytes(server.directory / "store"),
        free_bytes=None if status is None else status.free_bytes,
        upload_bytes=None if status is None else status.upload_bytes,
        client_address=server.member.client_address,
        metrics=f"http://{server.member.metrics_address}/metrics",
        joined=None if node is None else node.joined,
        neighbours=None if node is None else node.neighbours,
    )


def _short(detail: str) -> str:
    """Up to the last whole word."""
    return shorten(detail, LONGEST_DETAIL, placeholder=" ...")


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
        ("SERVER", "STATE", "PID", "VIEW", "SEQUENCE", "BEHIND", "DISK", "FREE", "NEIGHBOURS", "ROLE/NOTE")
    ]
    for server in found.ring:
        numbers = [server.pid, server.view, server.sequence, server.behind]
        words = ["-" if number is None else number for number in numbers]
        free = "-" if server.free_bytes is None or _knows_no_room(server) else human_size(server.free_bytes)
        disk = human_size(server.disk_bytes)
        rows.append((server.name, server.state, *words, disk, free, _known(server), _note(found, server)))
    for other in found.storage:
        pid = "-" if other.pid is None else other.pid
        rows.append((other.name, other.state, pid, *["-"] * 5, _known(other), "storage"))
    return table(rows, right=(2, 3, 4, 5, 6, 7, 8))


def _known(server: RingServer | StorageServer) -> object:
    """How many nodes of the overlay it knows."""
    if server.joined is None:
        return "-"
    return server.neighbours if server.joined else "joining"


def _knows_no_room(server: RingServer) -> bool:
    """Whether a disk that fails has yet to say how much room it has."""
    return not server.free_bytes and server.condition in (Condition.DISK_FAILING, Condition.DISK_DAMAGED)


def _note(found: ClusterStatus, server: RingServer) -> str:
    note = []
    if server.name == found.primary and not _lost_votes(found):
        note.append("leads" if _leads(server) else "led")
    if server.condition == Condition.SERVING:
        if (server.behind or 0) > FAR_BEHIND:
            note.append(Condition.CATCHING_UP)
        if _room(server) < INLINE_BYTES:
            note.append("no large writes")
    elif server.condition is not None:
        note.append(server.condition)
    return ", ".join(note)


def sentences(found: ClusterStatus) -> list[str]:
    """Who leads, what is wrong with whom and what mends it, and what that means for users."""
    if all(server.state == "stopped" for server in found.ring):
        unfit = [trouble for server in found.ring if server.detail and (trouble := _trouble(found, server))]
        return [*unfit, "The cluster is stopped: `pond cluster up` starts it."]
    troubles = [trouble for server in found.ring if (trouble := _trouble(found, server)) is not None]
    room = [said for server in found.ring if (said := _little_room(found, server)) is not None]
    return [_who_leads(found), *troubles, *room, *_overlay(found), what_it_means(found)]


def _overlay(found: ClusterStatus) -> list[str]:
    """Who is in the overlay, and who is not and what mends that."""
    if not found.overlay:
        return [
            "This cluster was made by a version without an overlay, and runs none: `pond overlay` needs a new cluster."
        ]
    said = []
    for state, verb, mend, then in _MENDS:
        names = [server.name for server in found.storage if server.state == state]
        if names:
            one = len(names) == 1
            mends = f"`pond cluster {mend} {' '.join(names)}` {then[one]}"
            said.append(f"{', '.join(names)} {verb[one]}: {mends}.")
    servers: list[RingServer | StorageServer] = [*found.ring, *found.storage]
    joined = [server for server in servers if server.joined]
    joining = [server.name for server in servers if server.joined is False]
    if joining:
        said.append(f"Not in the overlay yet: {', '.join(joining)}.")
    if joined:
        who = f"All {len(servers)}" if len(joined) == len(servers) else f"{len(joined)} of {len(servers)}"
        said.append(f"{who} servers are in the overlay.")
    return said


def _leads(server: RingServer) -> bool:
    """Whether nothing keeps a server that others take for the leader from leading."""
    return server.state == "running" and server.condition not in NEVER_LEADS and bool(server.view_active)


def _who_leads(found: ClusterStatus) -> str:
    if _lost_votes(found):
        return "No server can lead any more."
    leader = next((server for server in found.ring if server.name == found.primary), None)
    if leader is not None:
        if _leads(leader):
            return f"{leader.name} leads, in view {found.view}."
        how = leader.state if leader.state != "running" else _how(leader)
        then = ": the others elect another one" if found.may_fail >= 0 else f": {_no_new_leader(found)}"
        return f"{leader.name} leads in view {found.view}, but is {how}{then}."
    answers = [server for server in found.ring if server.view is not None]
    changing = [server for server in answers if not server.view_active]
    if len(answers) <= _faults(found.ring):
        return "Too few servers answer to say who leads."
    if len(changing) > _faults(found.ring):
        then = "look again in a second" if found.may_fail >= 0 else _no_new_leader(found)
        return f"{_names(changing)} wait for a new leader, and writes wait too: {then}."
    said = ", ".join(f"{server.name} says {server.primary} in view {server.view}" for server in answers)
    return f"The servers do not agree who leads: {said}."


def _how(server: RingServer) -> str:
    """Its condition, as a sentence goes on after "is"."""
    match server.condition:
        case Condition.DISK_FULL | Condition.DISK_FAILING | Condition.DISK_DAMAGED as condition:
            return f"aside ({condition})"
        case Condition.SERVING | None:
            return "between two views"
        case condition:
            return condition


def _no_new_leader(found: ClusterStatus) -> str:
    more = "one more server serves" if found.may_fail == -1 else f"{_number(-found.may_fail)} more servers serve"
    return f"no other can begin until {more}"


def _trouble(found: ClusterStatus, server: RingServer) -> str | None:
    """What is wrong with a server, and what to do."""
    name, said = server.name, (server.detail or "").rstrip(".")
    why = f": {said}" if said else ""
    lag = f", {server.behind} batches behind" if (server.behind or 0) > FAR_BEHIND else ""
    restart = f"`pond cluster restart {name}`"
    match server.state, server.condition:
        case "stopped", _:
            return f"{name} is stopped and cannot start{why}." if said else f"{name} is stopped: {restart} starts it."
        case "paused", _:
            return f"{name} is paused: `pond cluster resume {name}` lets it go on."
        case "unreachable", _:
            return f"{name} runs and does not answer: `pond cluster logs {name}` may say why, {restart} may help."
        case _, Condition.DISK_FULL:
            full = f"{name}: its disk is full{lag}{why or ': make room there'}"
            return f"{full}. Once there is room it comes back by itself, within a minute."
        case _, Condition.DISK_FAILING:
            return (
                f"{name}: its disk fails{lag}{why}. It comes back by itself when the disk is well again; else move its"
                f" directory to another disk, then {restart}."
            )
        case _, Condition.DISK_DAMAGED:
            kept = _directory(found, server) / DAMAGED
            return (
                f"{name}: what is on its disk is damaged{lag}{why}. It repairs itself: it moves its storage to {kept},"
                " which you may delete once it serves, and begins anew with what the others have."
            )
        case _, Condition.DIVERGED:
            return f"{name}: its state differs from the ring's, so it answers no reads{lag}{why}."
        case _, Condition.LEARNING if server in _lost_votes(found):
            return None
        case _, Condition.CATCHING_UP | Condition.TRANSFERRING | Condition.LEARNING as condition:
            return f"{name} is {condition}{lag}{why}."
        case _, Condition.SERVING if (server.behind or 0) > FAR_BEHIND:
            return f"{name} is catching up{lag}{why}."
        case _, Condition.SERVING if said:
            return f"{name} serves{why}."
    return _in_another_view(found, server)


def _in_another_view(found: ClusterStatus, server: RingServer) -> str | None:
    if found.view is None or server.view is None or server.view == found.view:
        return None
    if server.view_active:
        return f"{server.name} is in view {server.view}, others are in view {found.view}."
    if server.view > found.view and found.may_fail >= 0:
        return (
            f"{server.name} waits alone for view {server.view}, while the others go on in view {found.view}: it follows"
            " them, and votes again from the next view on. Should another server fail first, all go there, and writes"
            " pause for a moment."
        )
    return None


def _little_room(found: ClusterStatus, server: RingServer) -> str | None:
    """That a server takes no large writes, and what mends it."""
    room = _room(server)
    if not _helps(server) or room >= LITTLE_ROOM_BYTES:
        return None
    return (
        f"{server.name} refuses writes above {_largest(room)}, as its storage has no room for larger ones: raise"
        f" quota_bytes in {_directory(found, server) / NODE_CONFIG}, or make room on its disk, then"
        f" `pond cluster restart {server.name}`."
    )


def what_it_means(found: ClusterStatus) -> str:
    """Whether the ring works, and how many more of its servers may fail."""
    size, faults = len(found.ring), _faults(found.ring)
    needed = size - faults
    helping = [server for server in found.ring if _helps(server)]
    if lost := _lost_votes(found):
        return (
            f"{_names(lost)} lost their votes with their disks, and of {size} servers only {_number(faults)} may: this"
            " ring cannot write again. Save now what can still be read, before any server stops:"
            " `pond export NAME --data -o FILE` keeps the whole history with its proofs,"
            " `pond get NAME --consistency any -o FILE` one version. Then make a new ring in another directory:"
            " `pond --cluster DIR cluster up`."
        )
    if found.may_fail < 0:
        reads = "; `pond get NAME --consistency any` still reads" if helping else ""
        few = f"Only {len(helping)} of {size} servers serve" if helping else f"None of {size} servers serves"
        return f"{few} and {needed} are needed: writes wait until then{reads}."
    room = sorted(map(_room, helping), reverse=True)[needed - 1]
    waits = f" Writes above {_largest(room)} wait until {needed} servers have room for them."
    return _who_may_fail(found, len(helping)) + (waits if room < LITTLE_ROOM_BYTES else "")


def _who_may_fail(found: ClusterStatus, helping: int) -> str:
    size = len(found.ring)
    if helping == size:
        return f"All {size} servers serve; any {_number(found.may_fail)} of them may fail or lie."
    if found.may_fail > 0:
        return f"The ring works on with {helping} of {size} servers; {_number(found.may_fail)} more may fail or lie."
    return f"The ring works on with {helping} of {size} servers; no more may fail until another one serves again."


def _lost_votes(found: ClusterStatus) -> list[RingServer]:
    """Servers that lost their votes and cannot learn when they may vote again, as too few others vote: none unless
    these are more than may fail. One that still runs what the ring has ordered may get as far as it has to."""
    learning = [server for server in found.ring if server.condition == Condition.LEARNING and not server.behind]
    return learning if len(learning) > _faults(found.ring) else []


def _helps(server: RingServer) -> bool:
    return server.state == "running" and server.condition in HELPS


def _room(server: RingServer) -> int:
    """Bytes; a server that does not say how much has enough."""
    return LITTLE_ROOM_BYTES if server.upload_bytes is None else server.upload_bytes


def _largest(room: int) -> str:
    """What a server with so much room takes at most: what travels inside an update needs no room of its own."""
    return human_size(max(room, INLINE_BYTES))


def _directory(found: ClusterStatus, server: RingServer) -> Path:
    return Path(found.directory) / SERVERS / server.name


def _faults(ring: Sequence[object]) -> int:
    """How many servers of a ring may fail."""
    return (len(ring) - 1) // 3


def _names(servers: Iterable[RingServer]) -> str:
    return ", ".join(server.name for server in servers)


def _number(count: int) -> str:
    return {1: "one", 2: "two", 3: "three"}.get(count, str(count))

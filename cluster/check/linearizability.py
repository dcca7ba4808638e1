"""Linearizability of updates and latest reads (Herlihy & Wing, TOPLAS 1990), where each object's versions are counted
and every answer says which version it saw.

That makes the check exact and quick. A history is linearizable when of two operations on one object, of which one ended
before the other began, the later one saw no older version, and a newer one if it made it; and when each version up to
the newest had a maker who had begun before anybody had seen it or a later one. An operation that never came back may be
such a maker. Aborted updates judge the newest version too, so they count as reads.
"""

import heapq
from collections.abc import Iterable

from cluster.check.history import Illegal, Ok, Operation, Unknown, Verdict


def check(operations: Iterable[Operation]) -> Verdict:
    """Whether the operations on every object are linearizable. Takes time n log n."""
    by_object: dict[bytes, list[Operation]] = {}
    for operation in operations:
        by_object.setdefault(operation.object, []).append(operation)
    checked = 0
    for name in sorted(by_object):
        history = by_object[name]
        illegal = _out_of_order(history) or _made_by_nobody(history)
        if illegal is not None:
            return illegal
        checked += sum(operation.version is not None for operation in history)
    return Ok(checked) if checked else Unknown("no operation came back")


def _out_of_order(history: list[Operation]) -> Illegal | None:
    ended: list[tuple[float, int, Operation]] = []
    newest: Operation | None = None
    known = sorted((operation for operation in history if operation.version is not None), key=_began)
    for place, operation in enumerate(known):
        while ended and ended[0][0] < operation.began:
            before = heapq.heappop(ended)[2]
            if newest is None or _version(before) > _version(newest):
                newest = before
        if newest is not None:
            if _version(operation) < _version(newest):
                return Illegal(
                    "an operation saw an older version than one that had ended before it began", (newest, operation)
                )
            if operation.made and _version(operation) == _version(newest):
                return Illegal("a version was seen before the update that made it began", (newest, operation))
        if operation.ended is not None:
            heapq.heappush(ended, (operation.ended, place, operation))
    return None


def _made_by_nobody(history: list[Operation]) -> Illegal | None:
    """Versions with two makers or none; a maker who began too late is out of order, which was looked at before."""
    makers: dict[int, Operation] = {}
    first_to_see: dict[int, Operation] = {}
    for operation in history:
        if operation.version is None or operation.ended is None:
            continue
        if operation.made:
            other = makers.setdefault(operation.version, operation)
            if other is not operation:
                return Illegal(f"two updates made version {operation.version}", (other, operation))
        seen = first_to_see.get(operation.version)
        if seen is None or operation.ended < _ended(seen):
            first_to_see[operation.version] = operation
    lost = sorted(operation.began for operation in history if operation.ended is None)
    orphans: list[tuple[float, int, Operation]] = []
    first: Operation | None = None
    for version in range(max(first_to_see, default=0), 0, -1):
        seen = first_to_see.get(version)
        if seen is not None and (first is None or _ended(seen) < _ended(first)):
            first = seen
        assert first is not None
        if version not in makers:
            orphans.append((_ended(first), version, first))
    # Whoever may have made one orphan may also have made those that were seen later: counting is enough.
    orphans.sort(key=lambda orphan: orphan[:2])
    for count, (until, version, witness) in enumerate(orphans):
        if count >= len(lost) or lost[count] > until:
            return Illegal(f"nobody made version {version}", (witness,))
    return None


def _began(operation: Operation) -> float:
    return operation.began


def _ended(operation: Operation) -> float:
    assert operation.ended is not None
    return operation.ended


def _version(operation: Operation) -> int:
    assert operation.version is not None
    return operation.version

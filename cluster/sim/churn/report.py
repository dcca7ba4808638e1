"""What came of a run, as an answer and in words."""

from collections.abc import Sequence

from cluster.bench.figures import percentile, three_digits
from cluster.sim.churn import measures
from cluster.sim.churn.answers import (
    KilledNodes,
    LookupSecond,
    MessagesSent,
    NodesAgree,
    ObjectsRead,
    PartedNodes,
    SimulatedChurn,
    SimulatedObjects,
)
from cluster.sim.churn.oracle import Agreement
from cluster.sim.churn.run import Killed, Parted, Run
from cluster.sim.churn.words import duration
from pond.cli.answers import table

HEAD = "NODES,SESSION,JOINED,COMPLETED,CONSISTENT,MEAN S,P95 S,B/S/NODE,HOPS,STRETCH,EVENTS,SECONDS,TRACE"

READ_HEAD = "READS,COUNT,SUCCEEDED,MEAN S,P50 S,P95 S,P99 S,ATTEMPTS,STRETCH"


def answer(run: Run, seconds: float) -> SimulatedChurn:
    """All of a run that took so many seconds."""
    plan, found = run.plan, run.figures
    return SimulatedChurn(
        replay=plan.replay(),
        overlay=plan.overlay,
        recovery=plan.recovery,
        seed=plan.seed,
        nodes=plan.nodes,
        median_session_s=plan.median_session_seconds,
        measured_s=plan.seconds,
        joined=_rounded(run.joined),
        completed=_rounded(found.completed),
        consistent=_rounded(found.consistent),
        mean_s=_rounded(found.mean_seconds),
        p50_s=_rounded(found.p50_seconds),
        p95_s=_rounded(found.p95_seconds),
        bytes_per_node_s=round(run.bytes_per_node_second, 2),
        mean_hops=_rounded(found.mean_hops),
        stretch=_rounded(found.stretch),
        lookups=found.lookups,
        started=run.started,
        join_p50_s=_quantile(run.join_seconds, 0.5),
        join_p95_s=_quantile(run.join_seconds, 0.95),
        quantiles_s=[round(each, 6) for each in found.quantiles_seconds],
        messages=[
            MessagesSent(
                kind=kind,
                count=count,
                bytes=size,
                bytes_per_node_s=round(size / run.node_seconds, 2),
            )
            for kind, (count, size) in run.sent.items()
        ],
        dropped=run.dropped,
        rejected=run.rejected,
        per_second=[
            LookupSecond(
                second=each.second,
                lookups=each.lookups,
                succeeded=_rounded(each.succeeded),
                completed=_rounded(each.completed),
                mean_s=_rounded(each.mean_seconds),
                p95_s=_rounded(each.p95_seconds),
                bytes=size,
            )
            for each, size in zip(run.seconds, run.bytes_by_second, strict=True)
        ],
        killed=_killed(run.killed) if run.killed else None,
        parted=_parted(run.parted) if run.parted else None,
        objects=_objects(run, run.objects) if run.objects else None,
        everyone=_agree(run.agreement) if run.agreement else None,
        virtual_s=round(run.virtual_seconds, 6),
        events=run.steps,
        seconds=round(seconds, 3),
        us_per_event=round(run.cpu_seconds / max(run.steps, 1) * 1e6, 2),
        trace=run.trace,
    )


def in_words(answer: SimulatedChurn) -> str:
    """The answer for people."""
    row = (
        answer.nodes,
        duration(answer.median_session_s),
        percent(answer.joined),
        percent(answer.completed),
        percent(answer.consistent),
        three_digits(answer.mean_s),
        three_digits(answer.p95_s),
        f"{answer.bytes_per_node_s:.0f}",
        three_digits(answer.mean_hops),
        three_digits(answer.stretch),
        answer.events,
        f"{answer.seconds:.1f}",
        answer.trace[:16],
    )
    head = HEAD.split(",")
    lines = [table([head, row], right=range(len(head) - 1)), ""]
    of_kinds = sorted(answer.messages, key=lambda each: -each.bytes)
    rows = [(each.kind, each.count, f"{each.bytes_per_node_s:.1f}") for each in of_kinds]
    lines += [table([("MESSAGE", "COUNT", "B/S/NODE"), *rows], right=(1, 2)), ""]
    lines += [_counts("Dropped", answer.dropped)] if answer.dropped else []
    lines += [_counts("Refused", answer.rejected)] if answer.rejected else []
    lines += [_killed_in_words(answer.killed)] if answer.killed else []
    lines += [_parted_in_words(answer.parted)] if answer.parted else []
    lines += _objects_in_words(answer.objects) if answer.objects else []
    lines += [_everyone_in_words(answer.everyone)] if answer.everyone else []
    lines.append(
        f"{answer.lookups} lookups in {duration(answer.measured_s)}; joining took {three_digits(answer.join_p50_s)} s"
        f" (p95 {three_digits(answer.join_p95_s)}). {answer.us_per_event:.1f} us of processor time an event."
    )
    return "\n".join(lines)


def percent(share: float | None) -> str:
    """A share with two digits of its percentage, rounded down: 100 % is all."""
    return "-" if share is None else f"{int(share * 10_000 + 1e-6) / 100:.2f} %"


def _killed_in_words(killed: KilledNodes) -> str:
    return (
        f"{killed.nodes} nodes died at once, {killed.second:g} s into it. Success before: {percent(killed.before)};"
        f" in the worst second: {percent(killed.worst_second)}; from 10 s after it: {percent(killed.after_10_s)}."
    )


def _parted_in_words(parted: PartedNodes) -> str:
    healed = "never again" if parted.one_root_s is None else f"again {parted.one_root_s:.1f} s after healing"
    return f"Two halves for {duration(parted.seconds)}, {parted.second:g} s into it: one root for each key {healed}."


def _everyone_in_words(agree: NodesAgree) -> str:
    return (
        f"After the quiet, all nodes were asked for {agree.keys} keys, and answered {agree.answered} of {agree.asked}"
        f" times: {agree.one_root} have one root, {agree.right} the right one."
    )


def _objects_in_words(objects: SimulatedObjects) -> list[str]:
    rows = [_row("all", objects.read)]
    if objects.eclipsed is not None:
        rows.append(_row("eclipsed", objects.eclipsed))
    lines = [table([READ_HEAD.split(","), *rows], right=range(1, len(rows[0]))), ""]
    if objects.inserted:
        lines.append(
            f"The insertion of a node took {objects.insert_p50_bytes} bytes (p95 {objects.insert_p95_bytes}), of"
            f" {objects.inserted}."
        )
    if objects.liars or objects.eclipsing:
        lines.append(
            f"{objects.liars} nodes lied, and {objects.eclipsing} more that joined around the first root of one object."
        )
    return lines


def _row(of: str, read: ObjectsRead) -> tuple[object, ...]:
    times = (read.mean_s, read.p50_s, read.p95_s, read.p99_s, read.mean_attempts, read.stretch)
    return (of, read.reads, percent(read.succeeded), *map(three_digits, times))


def _counts(what: str, counts: dict[str, int]) -> str:
    return f"{what}: " + ", ".join(f"{count} ({why})" for why, count in counts.items()) + "."


def _objects(run: Run, found: measures.OfObjects) -> SimulatedObjects:
    plan = run.plan
    return SimulatedObjects(
        objects=plan.objects or 0,
        liars=plan.lying,
        eclipsing=plan.eclipse,
        read=_read(found.all),
        eclipsed=_read(found.eclipsed) if plan.eclipse else None,
        inserted=len(found.insert_bytes),
        insert_p50_bytes=percentile(found.insert_bytes, 0.5) if found.insert_bytes else None,
        insert_p95_bytes=percentile(found.insert_bytes, 0.95) if found.insert_bytes else None,
    )


def _read(found: measures.ReadFigures) -> ObjectsRead:
    return ObjectsRead(
        reads=found.reads,
        succeeded=_rounded(found.succeeded),
        mean_s=_rounded(found.mean_seconds),
        p50_s=_rounded(found.p50_seconds),
        p95_s=_rounded(found.p95_seconds),
        p99_s=_rounded(found.p99_seconds),
        mean_attempts=_rounded(found.mean_attempts),
        stretch=_rounded(found.stretch),
    )


def _killed(killed: Killed) -> KilledNodes:
    return KilledNodes(
        second=killed.second,
        nodes=killed.nodes,
        before=_rounded(killed.before),
        worst_second=_rounded(killed.worst_second),
        after_10_s=_rounded(killed.after),
    )


def _parted(parted: Parted) -> PartedNodes:
    return PartedNodes(
        second=parted.second,
        seconds=parted.seconds,
        one_root_s=_rounded(parted.one_root_seconds),
        samples=[(round(since, 6), _agree(found)) for since, found in parted.samples],
    )


def _agree(found: Agreement) -> NodesAgree:
    return NodesAgree(
        keys=found.keys, one_root=found.one_root, right=found.right, asked=found.asked, answered=found.answered
    )


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return round(percentile(ordered, share), 6) if ordered else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)

"""The runs of `pond bench overlay`: several at a time, each in a process, and each kept as soon as it is over.

What was kept by an interrupted bench, or an earlier one, is used again if it is of the same plan and the same code.
"""

import gc
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from time import monotonic

import msgspec

import cluster.sim
import tapestry
from cluster.sim import jobs as workers
from cluster.sim.churn import report
from cluster.sim.churn.answers import SimulatedChurn
from cluster.sim.churn.measures import PATIENCE_SECONDS
from cluster.sim.churn.run import START_SECONDS, Plan, simulate
from cluster.sim.churn.words import duration

TELL_SECONDS = 60.0
"""So often it is said how far the runs are, when none has come to its end."""

EVENTS = {"periodic": 15.0, "reactive": 31.0, "chord": 12.0}
"""Of one node in a second, at sessions of some minutes."""
EVENT_SECONDS = {"periodic": 33e-6, "reactive": 31e-6, "chord": 13e-6}
"""Of a processor, with a thousand nodes, where docs/benchmarks.md was measured."""
GROWTH = 0.24
"""They grow with the nodes to this power, as caches hold ever less of them: with ten thousand one took 57 us."""

UNSEEN = ("cli.py", "plots.py")
"""Modules of a run that only ask and draw."""

Say = Callable[[str], object]


class Kept(msgspec.Struct, frozen=True):
    """A result as it lies in a file."""

    code: str
    """`code()` of those who ran it."""
    answer: SimulatedChurn


def kind(plan: Plan) -> str:
    """Which overlay, and how it recovers: `periodic` and `reactive` are Tapestry's ways."""
    return "chord" if plan.overlay == "chord" else plan.recovery


def name(plan: Plan) -> str:
    """Names a plan among those of a bench."""
    words = [
        plan.overlay,
        "reactive" if plan.recovery == "reactive" else "",
        str(plan.nodes),
        duration(plan.median_session_seconds),
        f"killed{plan.kill:g}" if plan.kill else "",
        f"{plan.seconds / 60:g}min",
        f"seed{plan.seed}",
    ]
    return "-".join(filter(None, words))


def code() -> str:
    """Hash over the source of all that decides what comes of a run."""
    simulator = Path(cluster.sim.__file__).parent
    files = [
        *Path(tapestry.__file__).parent.glob("*.py"),
        *(file for file in simulator.glob("churn/*.py") if file.name not in UNSEEN),
        *(simulator / f"{each}.py" for each in ("chord", "chord_messages", "round_trips", "trace")),
    ]
    hashes = sorted(f"{file.parent.name}/{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files)
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:16]


def expected_seconds(plan: Plan) -> float:
    """About how long a run takes a processor."""
    starting = START_SECONDS / math.log(max(plan.nodes, 3))
    node_seconds = plan.nodes * (starting + plan.settle_seconds + plan.seconds + PATIENCE_SECONDS)
    return node_seconds * EVENTS[kind(plan)] * EVENT_SECONDS[kind(plan)] * math.pow(plan.nodes / 1000, GROWTH)


def results(plans: Sequence[Plan], directory: Path, jobs: int, say: Say) -> list[SimulatedChurn]:
    """The answers of all plans, in their order: those kept in the directory, and the others from running them."""
    directory.mkdir(parents=True, exist_ok=True)
    now = code()
    found = {plan: answer for plan in plans if (answer := _kept(plan, directory, now, say)) is not None}
    left = sorted((plan for plan in plans if plan not in found), key=expected_seconds, reverse=True)
    if left:
        total, at_once = sum(map(expected_seconds, left)), min(jobs, os.cpu_count() or 1)
        say(
            f"{len(left)} of {len(plans)} runs are left: {_about(total)} of processor time,"
            f" {_about(max(total / at_once, expected_seconds(left[0])))} with {at_once} at a time"
        )
    for plan, answer in _run(left, jobs, say):
        _keep(answer, directory / f"{name(plan)}.json", now)
        found[plan] = answer
    return [found[plan] for plan in plans]


def _kept(plan: Plan, directory: Path, now: str, say: Say) -> SimulatedChurn | None:
    file = directory / f"{name(plan)}.json"
    try:
        kept = msgspec.json.decode(file.read_bytes(), type=Kept)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError:
        say(f"{file.name} is not read by this version: it is run again")
        return None
    if kept.code != now or kept.answer.replay != plan.replay():
        say(f"{file.name} is of {'other code' if kept.code != now else 'another plan'}: it is run again")
        return None
    say(f"{file.name} is there already")
    return kept.answer


def _keep(answer: SimulatedChurn, file: Path, now: str) -> None:
    """Whole or not at all, wherever this is interrupted."""
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(Kept(now, answer))))
    os.replace(unfinished, file)


def _run(plans: Sequence[Plan], jobs: int, say: Say) -> Iterator[tuple[Plan, SimulatedChurn]]:
    """In the order in which they come to their ends."""
    if not plans:
        return
    began = monotonic()
    total = left = sum(map(expected_seconds, plans))
    with ProcessPoolExecutor(min(jobs, len(plans)), initializer=workers.begin_worker) as pool:
        under_way: dict[Future[SimulatedChurn], Plan] = {pool.submit(_simulated, plan): plan for plan in plans}
        try:
            while under_way:
                done, _ = wait(under_way, TELL_SECONDS, FIRST_COMPLETED)
                for future in done:
                    plan, answer = under_way.pop(future), future.result()
                    left -= expected_seconds(plan)
                    say(f"{name(plan)}: {answer.seconds:.0f} s, {answer.us_per_event:.1f} us of processor an event")
                    yield plan, answer
                so_far = monotonic() - began
                more = f", about {_about(so_far * left / (total - left))} more" if left < total and under_way else ""
                say(f"{len(plans) - len(under_way)} of {len(plans)} runs are over after {_about(so_far)}{more}")
        except BaseException:
            workers.abandon(pool)
            raise


def _simulated(plan: Plan) -> SimulatedChurn:
    began = monotonic()
    answer = report.answer(simulate(plan), monotonic() - began)
    gc.collect()
    return answer


def _about(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"

"""Many seeds, one after another or several at a time, each worker in a process of its own."""

import gc
import multiprocessing
import multiprocessing.connection
import os
import shlex
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from typing import NamedTuple

from cluster.faults.manifest import Manifest
from cluster.sim.drawing import drawn
from cluster.sim.ring import Run, simulate
from cluster.sim.trace import Observe

CHUNK = 8
"""Seeds handed to a worker at a time."""

AHEAD = 8
"""So many of these wait for a worker, or for one that is slower to come before them."""


class Plan(NamedTuple):
    """What each seed runs: one manifest for all, or each the one that it draws."""

    operations: int
    manifest: Manifest | None = None
    path: str = ""
    """Where that manifest came from."""

    def manifest_of(self, seed: int) -> Manifest:
        """The manifest of a seed."""
        return self.manifest or drawn(seed, self.operations)

    def run(self, seed: int, observe: Observe | None = None) -> Run:
        """One seed to its end."""
        return simulate(seed, self.manifest_of(seed), observe)

    def replay(self, seeds: range) -> str:
        """The command that does the same again."""
        which = f"--seed {seeds[0]}" if len(seeds) == 1 else f"--seeds {seeds[0]}..{seeds[-1]}"
        how = f"--operations {self.operations}" if self.manifest is None else f"--manifest {shlex.quote(self.path)}"
        return f"pond sim ring {which} {how}"


def runs(plan: Plan, seeds: range, jobs: int) -> Iterator[Run]:
    """In the order of the seeds, each as soon as it and those before it have come to their ends."""
    if len(seeds) == 1:
        yield plan.run(seeds[0])
        return
    chunks = iter([seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)])
    with ProcessPoolExecutor(min(jobs, os.cpu_count() or 1), initializer=begin_worker) as pool:
        try:
            under_way = deque(pool.submit(_run_some, plan, chunk) for chunk in islice(chunks, AHEAD * jobs))
            while under_way:
                done = under_way.popleft().result()
                under_way.extend(pool.submit(_run_some, plan, chunk) for chunk in islice(chunks, 1))
                yield from done
        except BaseException:
            abandon(pool)
            raise


def abandon(pool: ProcessPoolExecutor) -> None:
    """End all workers, whatever they are at."""
    pool.shutdown(wait=False, cancel_futures=True)
    for process in multiprocessing.active_children():
        process.terminate()


def _run_some(plan: Plan, seeds: range) -> list[Run]:
    done = []
    for seed in seeds:
        done.append(plan.run(seed))
        gc.collect(0)  # all that the run has made is in the youngest generation
    return done


def begin_worker() -> None:
    """An interrupt is the parent's to answer, a worker dies of SIGTERM at once, and none outlives its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    gc.disable()  # in the middle of a run it costs a fifth of the time, and finds little


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(0)

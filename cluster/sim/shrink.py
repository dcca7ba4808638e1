"""From a run that fails to a smaller one that fails alike: fewer kinds of faults, fewer operations, fewer clients.

Delta debugging (Zeller & Hildebrandt, IEEE TSE 2002) over the manifest: each key is put back to its default, whole
sections first, and sizes are halved, as long as the run still fails with the same verdict and the same first words.
Every change shifts what the seed chooses, so a few other seeds are tried as well.
"""

import re
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, NamedTuple

import msgspec

from cluster.faults.manifest import Manifest, ManifestError
from cluster.sim.ring import Run, Verdict, simulate

BUDGET_SECONDS = 60.0
"""How long it goes on, at most, once the first run is over."""

OTHER_SEEDS = (1, 2, 3, 4)

WORDS = 6
"""So many first words of two failures are the same when the failures are, but for their numbers."""

LEAST = {"operations": 1, "clients": 1, "phase_seconds": 0.05, "principals": 1, "objects": 1, "servers": 4}


class Failure(NamedTuple):
    """What a smaller run must show as well."""

    verdict: Verdict
    words: tuple[str, ...]


class Shrunk(NamedTuple):
    """The smallest run found."""

    run: Run
    tried: int


def failure(run: Run) -> Failure:
    """The verdict and the first words, without numbers; of a crash, its exception."""
    what = run.what.strip().splitlines()
    text = (what[-1] if run.verdict is Verdict.CRASH else what[0]) if what else ""
    return Failure(run.verdict, tuple(re.sub(r"[0-9a-f]*\d[0-9a-f]*", "N", text).split()[:WORDS]))


def shrink(run: Run, progress: Callable[[int, Run], object], budget_seconds: float | None = None) -> Shrunk:
    """A run that fails as this one does, of the smallest manifest that is found in time."""
    wanted = failure(run)
    deadline = monotonic() + (BUDGET_SECONDS if budget_seconds is None else budget_seconds)
    smallest, tried, smaller = run, 0, True
    while smaller:
        smaller = False
        for candidate in _simpler(smallest.manifest):
            for seed in dict.fromkeys((smallest.seed, *OTHER_SEEDS)):
                if monotonic() > deadline:
                    return Shrunk(smallest, tried)
                tried += 1
                attempt = simulate(seed, candidate)
                if failure(attempt) == wanted:
                    smallest, smaller = attempt, True
                    progress(tried, attempt)
                    break
            if smaller:
                break
    return Shrunk(smallest, tried)


def _simpler(manifest: Manifest) -> Iterator[Manifest]:
    """Manifests with one thing less, the largest steps first."""
    fewer = [{"liars": [lie for lie in manifest.liars if lie is not spared]} for spared in manifest.liars]
    for changes in [*_halves(manifest), *_without(manifest, Manifest()), *fewer]:
        candidate = msgspec.structs.replace(manifest, **changes)
        try:
            candidate.check()
        except ManifestError:
            continue
        if candidate != manifest:
            yield candidate


def _halves(manifest: Manifest) -> Iterator[dict[str, Any]]:
    sizes = manifest.sizes
    for name, least in LEAST.items():
        value = getattr(sizes, name)
        for smaller in (least, value // 4 if isinstance(value, int) else value / 4, value // 2):
            if least <= smaller < value:
                yield {"sizes": msgspec.structs.replace(sizes, **{name: smaller})}


def _without(section: Any, default: Any) -> Iterator[dict[str, Any]]:
    """Each field put back to its default, then each field of the sections among them, and so on inwards."""
    fields = [name for name in section.__struct_fields__ if getattr(section, name) != getattr(default, name)]
    for name in fields:
        if name != "sizes":
            yield {name: getattr(default, name)}
    for name in fields:
        inner, plain = getattr(section, name), getattr(default, name)
        if isinstance(inner, msgspec.Struct) and isinstance(plain, msgspec.Struct) and name != "sizes":
            for changes in _without(inner, plain):
                yield {name: msgspec.structs.replace(inner, **changes)}

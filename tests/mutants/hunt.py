"""Looks for one mutant in a process of its own: `python -m tests.mutants.hunt NAME` prints what came of it as JSON."""

import contextlib
import io
import re
import sys
import tomllib
from time import monotonic
from typing import Any, NamedTuple

import msgspec
import pytest

from cluster.faults.manifest import Manifest
from cluster.sim.drawing import drawn
from cluster.sim.ring import Verdict, simulate
from tests.mutants.listed import MUTANTS
from tests.mutants.mutant import OPERATIONS, BySeeds, ByTests, Mutant

FOUND, MISSED, OTHERWISE, ALWAYS = "found", "NOT FOUND", "FOUND OTHERWISE", "FAILS WITHOUT IT TOO"


class Finding(NamedTuple):
    """What came of looking for a mutant."""

    name: str
    verdict: str
    by: str
    """The test or seed that failed first."""
    seeds: int
    """How many it took; 0 for tests."""
    seconds: float
    words: str
    """What the failure said."""


def hunt(mutant: Mutant) -> Finding:
    """Plant it and look."""
    began = monotonic()
    match mutant.found_by:
        case BySeeds() as by:
            verdict, what, seeds, words = _by_seeds(mutant, by)
        case ByTests() as by:
            verdict, what, words = _by_tests(mutant, by)
            seeds = 0
    return Finding(mutant.name, verdict, what, seeds, round(monotonic() - began, 1), words)


# --- seeds ---------------------------------------------------------------------------------------------------------


def manifest_of(by: BySeeds, seed: int) -> Manifest:
    """The seed's own manifest, with what is switched on in it."""
    own = drawn(seed, OPERATIONS)
    if not by.switched_on:
        return own
    changed = msgspec.convert(_merged(msgspec.to_builtins(own), tomllib.loads(by.switched_on)), Manifest)
    changed.check()
    return changed


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for name, value in changes.items():
        merged[name] = _merged(merged.get(name) or {}, value) if isinstance(value, dict) else value
    return merged


def _by_seeds(mutant: Mutant, by: BySeeds) -> tuple[str, str, int, str]:
    for seed in range(1, by.most + 1):
        manifest = manifest_of(by, seed)
        with pytest.MonkeyPatch.context() as patch:
            mutant.plant(patch)
            run = simulate(seed, manifest)
        if run.verdict is Verdict.OK:
            continue
        words = run.what.strip().splitlines()[-1]
        if run.verdict.value not in by.verdicts or not re.search(by.says, run.what):
            return OTHERWISE, f"seed {seed}", seed, f"{run.verdict.value}: {run.what}"
        # A run that fails by itself would find any mutant.
        healthy = simulate(seed, manifest).verdict is Verdict.OK
        return FOUND if healthy else ALWAYS, f"seed {seed}", seed, f"{run.verdict.value}: {words}"
    return MISSED, f"none of {by.most} seeds", by.most, ""


# --- tests ---------------------------------------------------------------------------------------------------------


class _Plugin:
    def __init__(self, mutant: Mutant) -> None:
        self.failures: list[tuple[str, str]] = []
        self._mutant = mutant
        self._patch = pytest.MonkeyPatch()

    def pytest_configure(self) -> None:
        self._mutant.plant(self._patch)

    def pytest_unconfigure(self) -> None:
        self._patch.undo()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failures.append((report.nodeid, report.longreprtext))


def _by_tests(mutant: Mutant, by: ByTests) -> tuple[str, str, str]:
    plugin = _Plugin(mutant)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *by.nodes], plugins=[plugin])
    if code == pytest.ExitCode.OK:
        return MISSED, "none of the tests named", ""
    if code != pytest.ExitCode.TESTS_FAILED or not plugin.failures:
        return OTHERWISE, "pytest", output.getvalue()
    node, report = plugin.failures[0]
    said = [line[1:].strip() for line in report.splitlines() if line.startswith("E ")]
    verdict = FOUND if re.search(by.says, "\n".join(said)) else OTHERWISE
    return verdict, node, said[0] if verdict == FOUND else report


if __name__ == "__main__":
    print(msgspec.json.encode(hunt(MUTANTS[sys.argv[1]])).decode())

"""The quickest mutants, with each test run; and that the list, and what looks for it, are sound themselves."""

import re
from pathlib import Path

import pytest

from bft.ordering import Ordering
from tests.mutants import __main__ as command
from tests.mutants.hunt import FOUND, MISSED, OTHERWISE, Finding, hunt, manifest_of
from tests.mutants.listed import MUTANTS
from tests.mutants.mutant import BySeeds, ByTests, Mutant, Plant
from tests.tidy.tree import ROOT

QUICK = [name for name, mutant in MUTANTS.items() if mutant.quick]


@pytest.mark.parametrize("name", QUICK)
def test_a_quick_mutant_is_found(name: str) -> None:
    finding = hunt(MUTANTS[name])
    assert finding.verdict == FOUND, finding


def test_there_are_enough_and_some_are_quick() -> None:
    assert len(MUTANTS) >= 20
    assert len(QUICK) == 6


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS.keys())
def test_how_it_is_to_be_found_makes_sense(mutant: Mutant) -> None:
    re.compile(mutant.found_by.says)
    match mutant.found_by:
        case BySeeds() as by:
            assert by.most <= 5000
            assert manifest_of(by, 1).sizes.operations == 100
        case ByTests(nodes=nodes):
            for node in nodes:
                path, _, name = node.partition("::")
                assert f"def {name}" in Path(ROOT / path).read_text(encoding="utf-8")


def _planted(plant: Plant, by: BySeeds | ByTests) -> Finding:
    return hunt(Mutant("planted", "", "", plant, by, False))


def _nothing(patch: pytest.MonkeyPatch) -> None:
    """No bug at all."""


def _crash(patch: pytest.MonkeyPatch) -> None:
    """A bug that is another one than expected."""
    patch.setattr(Ordering, "on_commit", lambda *about: 1 // 0)


def test_a_mutant_that_nothing_finds_is_told() -> None:
    assert _planted(_nothing, BySeeds("rule", 1)).verdict == MISSED
    ran = _planted(_nothing, ByTests("", ("tests/unit/bft/test_statement.py",)))
    assert (ran.verdict, ran.by) == (MISSED, "none of the tests named")


def test_a_mutant_that_is_found_as_something_else_is_told() -> None:
    finding = _planted(_crash, BySeeds("rule 1", 3))
    assert (finding.verdict, finding.by) == (OTHERWISE, "seed 1")
    assert "ZeroDivisionError" in finding.words
    assert _planted(_crash, BySeeds("ZeroDivisionError", 3, verdicts=("crash",))).verdict == FOUND


def test_the_command_fails_when_one_is_not_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    found, missed = list(MUTANTS)[:2]
    findings = [Finding(found, FOUND, "seed 7", 7, 1.0, "this"), Finding(missed, MISSED, "none", 9, 2.0, "")]
    monkeypatch.setattr(command, "find_all", lambda wanted: iter(findings))
    assert command.main([found, missed]) == 1
    told = capsys.readouterr().out
    assert "**NOT FOUND** (none)" in told
    assert "1 of 2 mutants found" in told
    assert command.main([found]) == 1
    findings.pop()
    assert command.main([found]) == 0
    assert command.main(["nobody"]) == 2

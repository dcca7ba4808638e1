"""Plants each mutant and shows what finds it: `python -m tests.mutants [NAME...]`, or `make mutants`.

Without a name all of them, which takes minutes; those named alone. Exit code 1 when one is not found, or is
found as something else than expected.
"""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from time import monotonic

import msgspec

from tests.mutants.hunt import FOUND, MISSED, OTHERWISE, Finding
from tests.mutants.listed import MUTANTS
from tests.mutants.mutant import BySeeds, Mutant

JOBS = 2
LONGEST_SECONDS = 600
"""What a mutant may take: one that makes a run go on for ever was not found."""

WORDS = 60
"""Characters of what a failure said that the table shows."""


def find(mutant: Mutant) -> Finding:
    """Look for it in a process of its own."""
    began = monotonic()
    command = [sys.executable, "-m", "tests.mutants.hunt", mutant.name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_SECONDS)
    except subprocess.TimeoutExpired:
        return Finding(mutant.name, MISSED, f"not within {LONGEST_SECONDS} s", 0, LONGEST_SECONDS, "")
    if done.returncode != 0:
        return Finding(mutant.name, OTHERWISE, "planting", 0, round(monotonic() - began, 1), done.stderr)
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Finding)


def find_all(mutants: list[Mutant]) -> Iterator[Finding]:
    """As they are found; those that may take longest are begun first."""
    cost = {mutant: mutant.found_by.most if isinstance(mutant.found_by, BySeeds) else 100 for mutant in mutants}
    with ThreadPoolExecutor(JOBS) as pool:
        hunts = [pool.submit(find, mutant) for mutant in sorted(mutants, key=lambda mutant: -cost[mutant])]
        for hunt in as_completed(hunts):
            yield hunt.result()


def table(findings: list[Finding]) -> str:
    """As Markdown."""
    rows = [("mutant", "breaks", "found by", "seeds", "seconds", "which said")]
    rows += [
        (
            finding.name,
            MUTANTS[finding.name].rule,
            _short(finding.by) if finding.verdict == FOUND else f"**{finding.verdict}** ({_short(finding.by)})",
            str(finding.seeds or ""),
            f"{finding.seconds:.1f}",
            _cut(finding.words),
        )
        for finding in findings
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _short(by: str) -> str:
    return by.removeprefix("tests/")


def _cut(words: str) -> str:
    line = (words.splitlines() or [""])[-1].replace("|", "/")
    return line if len(line) <= WORDS else line[: WORDS - 3] + "..."


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
    else:
        print(line, file=sys.stderr, flush=True)


def main(names: list[str]) -> int:
    """Exit code."""
    if any(name in ("-h", "--help") for name in names):
        print(f"{__doc__}\nNames: {', '.join(MUTANTS)}")
        return 0
    unknown = [name for name in names if name not in MUTANTS]
    if unknown:
        print(f"no such mutant: {', '.join(unknown)}; there are {', '.join(MUTANTS)}", file=sys.stderr)
        return 2
    wanted = [MUTANTS[name] for name in names] or list(MUTANTS.values())
    began = monotonic()
    findings: dict[str, Finding] = {}
    for finding in find_all(wanted):
        findings[finding.name] = finding
        _progress(f"{len(findings)} of {len(wanted)}: {finding.name} {finding.verdict} after {finding.seconds:.1f} s")
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    print(table([findings[mutant.name] for mutant in wanted]))
    wrong = [finding for finding in findings.values() if finding.verdict != FOUND]
    for finding in wrong:
        print(f"\n{finding.name}: {finding.verdict}\n{finding.words}")
    print(f"\n{len(wanted) - len(wrong)} of {len(wanted)} mutants found in {monotonic() - began:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

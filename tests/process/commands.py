"""Runs `pond` commands as a user does, each as a process of its own.

Those that a test waits for are forked from a process that has Pond imported; with `--full` each starts Python itself,
as those always do that a test sends signals to.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.process.forks import Forks

COMMAND_SECONDS = 120.0
"""A deadline, not an expectation: a command that takes so long hangs."""

POND = [sys.executable, "-P", "-m", "pond"]

Done = subprocess.CompletedProcess[bytes]

servers: list[Forks] = []
"""The one that forks commands, if any does."""


def environment(cluster: Path | None, **more: str) -> dict[str, str]:
    """The caller's, without settings of Pond but the cluster."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("POND_", "PYTHONOPTIMIZE"))}
    return own | ({} if cluster is None else {"POND_CLUSTER": str(cluster)}) | more


def run(cluster: Path | None, *words: str | bytes, stdin: bytes = b"", cwd: Path | None = None) -> Done:
    """The command's exit code and output."""
    if servers:
        return servers[0].run(words, stdin, environment(cluster), cwd, COMMAND_SECONDS)
    return subprocess.run(
        [*POND, *words],
        input=stdin,
        capture_output=True,
        env=environment(cluster),
        cwd=cwd,
        timeout=COMMAND_SECONDS,
    )


def pond(cluster: Path, *words: str, stdin: bytes = b"") -> bytes:
    """What a command that must succeed prints."""
    done = run(cluster, *words, stdin=stdin)
    assert done.returncode == 0, f"pond {' '.join(words)}: exit code {done.returncode}, {done.stderr.decode()}"
    return done.stdout


def answer(cluster: Path, *words: str, stdin: bytes = b"") -> Any:
    """The JSON answer of a command that must succeed."""
    return json.loads(pond(cluster, *words, "--json", stdin=stdin))


def check_failed(done: Done, exit_code: int, *words: str) -> None:
    """The command ended with this code, and one line on standard error that has these words and no traceback."""
    said = done.stderr.decode()
    assert done.returncode == exit_code, f"exit code {done.returncode}, not {exit_code}: {said}"
    assert said.startswith("pond: "), said
    assert said.find("\n") == len(said) - 1, said
    assert len(said) < 600, said
    assert "Traceback" not in said
    for word in words:
        assert word in said, f"{word!r} is not in {said!r}"


def states(cluster: Path) -> dict[str, str]:
    """The state of each server by name."""
    return {server["name"]: server["state"] for server in answer(cluster, "cluster", "status")["ring"]}

"""`pond cluster demo`: the main job on real input, shown as the commands that a user would type and what they answer.

Every command is run as a process of its own, and every answer is checked: the demo fails when an expectation does not
hold.
"""

import io
import json
import os
import shlex
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import click

import cluster as cluster_package
from pond.cli.options import one_line
from pond.errors import PondError

COMMAND_SECONDS = 120.0
SHOWN_LINES = 14

TIMED_WRITES = 20
TIMED_BYTES = 4096

FIRST = "Pond keeps what must outlive its machines.\n"
SECOND = FIRST + "Four servers agree on every version.\n"
ADDED = "One of them may lie.\n"
ADDED_LATER = "The one that led them was just killed.\n"

PACKAGES = ("tapestry", "bft", "archive", "pond", "cluster")


class DemoFailed(PondError):
    """An expectation of the demo does not hold: a bug, or a machine that cannot run it."""

    exit_code = 1


def run(*, keep: bool = False) -> None:
    """Run the demo in a temporary directory, which goes at its end. Raises DemoFailed."""
    began = perf_counter()
    home = Path(tempfile.mkdtemp(prefix="pond-demo-"))
    demo = _Demo(home)
    try:
        demo.play()
    except BaseException:
        demo.clear()
        raise
    if keep:
        click.echo(f"\nThe cluster runs on: pond --cluster {demo.cluster} cluster status")
    else:
        demo.title("Stop the servers")
        demo.pond("cluster", "down")
        demo.clear()
    click.secho(f"\nAll of it held. {perf_counter() - began:.0f} s.", bold=True)


class _Demo:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.cluster = home / "cluster"
        self._steps = 0

    # --- the story -------------------------------------------------------------------------------------------------

    def play(self) -> None:
        """All steps but the last, which stops the servers."""
        self._start()
        self._store_sources()
        times = self._update_text()
        self._read_versions(times)
        self._where_time_goes()
        self._lose_a_server()
        self._verify_offline()

    def _start(self) -> None:
        self.title("Four servers, of which any one may fail or lie")
        click.echo(f"  $ export POND_CLUSTER={self.cluster}")
        self.pond("cluster", "up")

    def _store_sources(self) -> None:
        names = _source_files()
        self.title(f"Store something real: this project's own {len(names)} files, in one archive")
        archive = self.home / "source.tar"
        archive.write_bytes(_tar(names))
        self.pond("put", "source", "source.tar")
        self.pond("get", "source", "-o", "copy.tar")
        self.expect((self.home / "copy.tar").read_bytes() == archive.read_bytes(), "the copy differs from what was put")
        click.echo(f"  copy.tar and source.tar are equal, {archive.stat().st_size:,} bytes.")

    def _update_text(self) -> list[str]:
        """Three versions of a text; their times."""
        self.title("Write a text, and change it only if nobody else has")
        (self.home / "first.txt").write_text(FIRST)
        (self.home / "second.txt").write_text(SECOND)
        self.pond("put", "notes", "first.txt", "--if-absent")
        self.pond("put", "notes", "second.txt", "--if-version", "1")
        click.echo("  A second writer who still thinks that version 1 is the newest changes nothing:")
        self.pond("put", "notes", "first.txt", "--if-version", "1", expected=3)
        self.pond("append", "notes", stdin=ADDED)
        events = self.answer("log", "notes")
        made = [event for event in events if event["status"] == "committed"]
        self.expect([event["version"] for event in made] == [1, 2, 3], "the log does not have versions 1 to 3")
        aborted = [event for event in events if event["status"] == "aborted"]
        self.expect(len(aborted) == 1, "the log does not have the one update that was aborted")
        return [event["time"] for event in made]

    def _read_versions(self, times: list[str]) -> None:
        self.title("Every version stays, by number and by time")
        contents = [FIRST, SECOND, SECOND + ADDED]
        for number, (time, content) in enumerate(zip(times, contents, strict=True), start=1):
            got = self.pond("get", "notes", "--version", str(number))
            self.expect(got == content, f"version {number} is not what was written")
            got = self.pond("get", "notes", "--at", time, show=number == 1)
            self.expect(got == content, f"what was newest at {time} is not version {number}")
        self.pond("log", "notes")
        changed = self.pond("diff", "notes", "1", "2")
        self.expect(
            "+Four servers agree on every version." in changed, "the diff does not show the line that was added"
        )

    def _where_time_goes(self) -> None:
        self.title(f"Where the time of a write of {TIMED_BYTES} bytes goes")
        import pond
        from cluster import launch
        from cluster.layout import open_layout

        began = perf_counter()
        writes = []
        with pond.connect(self.cluster) as store:
            connected = perf_counter()
            timed = store.create("timed")
            created = perf_counter()
            for _ in range(TIMED_WRITES):
                content = os.urandom(TIMED_BYTES)
                start = perf_counter()
                timed.write(content)
                writes.append(perf_counter() - start)
            start = perf_counter()
            self.expect(timed.read() == content, "the last write is not what is read")
            read = perf_counter() - start
        reports = launch.report(open_layout(self.cluster))
        answers = [report.status for report in reports if report.status is not None]
        self.expect(len(answers) == len(reports), "not all servers answer")
        (primary, *_) = [status for status in answers if status.primary == status.replica] or answers
        median = statistics.median(writes)
        _show_times(
            [
                ("connect to the ring", connected - began),
                ("enter a new name in the encrypted directory", created - connected),
                (f"write, median of {TIMED_WRITES}, from call to checked certificate", median),
            ]
        )
        click.echo("  of the write:")
        phases = [(f"  {name}, in the primary", seconds) for name, seconds in primary.phases.items()]
        rest = max(0.0, median - sum(primary.phases.values()))
        _show_times([*phases, ("  encrypt, sign, travel, check the answer: the rest", rest)])
        _show_times([("read back, and check", read)])

    def _lose_a_server(self) -> None:
        self.title("Kill the server that leads: the others agree on another, and go on")
        before = self.answer("cluster", "status")
        leader, view = before["primary"], before["view"]
        self.expect(leader is not None, "the servers do not agree who leads")
        self.pond("cluster", "kill", leader)
        self.pond("append", "notes", stdin=ADDED_LATER)
        got = self.pond("get", "notes")
        self.expect(got == SECOND + ADDED + ADDED_LATER, "what was written after the kill is not what is read")
        self.pond("cluster", "status")
        after = self.answer("cluster", "status")
        states = [server["state"] for server in after["ring"] if server["name"] == leader]
        self.expect(states == ["stopped"], f"{leader} is not shown as stopped")
        self.expect(after["view"] > view, "no new view has begun")
        click.echo("  It comes back, catches up and follows:")
        self.pond("cluster", "restart", leader)
        self.pond("cluster", "status")

    def _verify_offline(self) -> None:
        self.title("Take the whole history away, and check it with the ring's key alone")
        key = self.answer("cluster", "status")["public_key"]
        self.pond("export", "notes", "-o", "notes.pond", "--data")
        self.pond("verify", "notes.pond", "--ring-key", key, offline=True)
        click.echo("  One bit flipped in the middle of a copy:")
        data = bytearray((self.home / "notes.pond").read_bytes())
        data[len(data) // 2] ^= 1
        (self.home / "forged.pond").write_bytes(data)
        self.pond("verify", "forged.pond", "--ring-key", key, offline=True, expected=6)

    # --- how it is told --------------------------------------------------------------------------------------------

    def title(self, text: str) -> None:
        """Say what comes next."""
        self._steps += 1
        click.secho(f"\n{self._steps}. {text}", bold=True)

    def expect(self, holds: bool, otherwise: str) -> None:
        """Raises DemoFailed."""
        if not holds:
            raise DemoFailed(f"the demo stops in step {self._steps}: {otherwise}")

    def answer(self, *words: str) -> Any:
        """The JSON answer of a command, which is not shown."""
        return json.loads(self.pond(*words, "--json", show=False))

    def pond(self, *words: str, expected: int = 0, stdin: str = "", show: bool = True, offline: bool = False) -> str:
        """Run a command and show it with its output, which is returned. Raises DemoFailed for another exit code."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("POND_")}
        if not offline:
            environment["POND_CLUSTER"] = str(self.cluster)
        done = subprocess.run(
            [sys.executable, "-P", "-m", "pond", *words],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=self.home,
            env=environment | {"NO_COLOR": "1"},
            timeout=COMMAND_SECONDS,
        )
        if show or done.returncode != expected:
            before = f"printf {shlex.quote(stdin).replace(chr(10), chr(92) + 'n')} | " if stdin else ""
            click.secho(f"  $ {before}pond {shlex.join(words)}", fg="cyan")
            _show_lines([*done.stdout.splitlines(), *done.stderr.splitlines()])
            if expected and done.returncode == expected:
                click.echo(f"    (exit code {done.returncode})")
        self.expect(
            done.returncode == expected, f"`pond {words[0]}` ended with exit code {done.returncode}, not {expected}"
        )
        return done.stdout

    def clear(self) -> None:
        """Stop what runs and remove the directory."""
        import shutil

        from cluster import launch

        with launch.signals_wait():
            if self.cluster.exists():
                launch.down(self.cluster, delete=True)
            shutil.rmtree(self.home, ignore_errors=True)


def _show_lines(lines: Sequence[str]) -> None:
    for line in lines[:SHOWN_LINES]:
        click.echo(f"    {one_line(line)}")
    if len(lines) > SHOWN_LINES:
        click.echo(f"    ... {len(lines) - SHOWN_LINES} lines more")


def _show_times(rows: Sequence[tuple[str, float]]) -> None:
    for name, seconds in rows:
        click.echo(f"    {name:<60}{seconds * 1e3:8.1f} ms")


def _source_files() -> list[Path]:
    """The project's own files: those in git, or else those of the installed packages."""
    root = Path(cluster_package.__file__).parents[1]
    git = ["git", "-C", str(root), "ls-files", "-z", "--", "."]
    try:
        listed = subprocess.run(git, capture_output=True, check=True).stdout
        found = [root / os.fsdecode(name) for name in listed.split(b"\0") if name]
    except (FileNotFoundError, subprocess.CalledProcessError):
        found = []
    if not found:
        found = [path for package in PACKAGES for path in (root / package).rglob("*.py")]
    return sorted(path for path in found if path.is_file())


def _tar(paths: Iterable[Path]) -> bytes:
    root = Path(cluster_package.__file__).parents[1]
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for path in paths:
            archive.add(path, arcname=str(path.relative_to(root)), recursive=False)
    return data.getvalue()

"""What the documents tell a reader to do works as printed."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import launch
from cluster.layout import Layout
from tests.process.commands import COMMAND_SECONDS, answer, environment, pond

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    layout, _ = launch.up(tmp_path_factory.mktemp("docs") / "cluster", 4)
    yield layout
    launch.down(layout.directory, delete=True)


def test_the_example_in_the_readme_runs(cluster: Layout, tmp_path: Path) -> None:
    """In a directory that is not the project's."""
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "example.py").write_text(example)
    words = [sys.executable, "example.py"]
    seconds = COMMAND_SECONDS
    done = subprocess.run(
        words, capture_output=True, text=True, cwd=tmp_path, env=environment(cluster.directory), timeout=seconds
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "b'hello world' [1, 2]\n"


def script_for_certificates() -> str:
    [script] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "protocol.md").read_text(), re.DOTALL)
    return str(script)


def run_script(ring_key: str, stat: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-I", "-c", script_for_certificates(), ring_key]
    return subprocess.run(words, input=stat, capture_output=True, text=True, timeout=60)


def test_the_ten_line_script_checks_a_certificate_with_cryptography_alone(cluster: Layout) -> None:
    pond(cluster.directory, "put", "notes", stdin=b"hello")
    stat = pond(cluster.directory, "stat", "notes", "--json").decode()
    key = bytes(cluster.cluster.ring_key).hex()
    good = run_script(key, stat)
    assert (good.returncode, good.stdout.strip()) == (0, "signed by this ring")
    other = bytes(cluster.cluster.members[0].public_key).hex()
    assert run_script(other, stat).returncode != 0
    forged = json.loads(stat)
    statement = bytearray.fromhex(forged["certificate"]["statement"])
    for position in range(len(statement)):
        statement[position] ^= 1
        forged["certificate"]["statement"] = statement.hex()
        if position % 16 == 0:
            assert run_script(key, json.dumps(forged)).returncode != 0
        statement[position] ^= 1


def test_the_script_imports_nothing_but_cryptography_and_what_python_brings() -> None:
    imported = set(re.findall(r"^(?:from|import) ([\w., ]+?)(?: import.*)?$", script_for_certificates(), re.MULTILINE))
    names = {name.strip().split(".")[0] for entry in imported for name in entry.split(",")}
    assert names - set(sys.stdlib_module_names) == {"cryptography"}
    assert len(script_for_certificates().splitlines()) <= 10


def test_the_ring_key_is_the_one_that_status_shows(cluster: Layout) -> None:
    assert answer(cluster.directory, "cluster", "status")["public_key"] == bytes(cluster.cluster.ring_key).hex()

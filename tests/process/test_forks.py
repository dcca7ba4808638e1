"""A command that was forked is one that was started: the same words, streams, directory, environment and end."""

import os
import subprocess

import pytest

from tests.process import commands
from tests.process.commands import POND, environment
from tests.process.forks import Forks

pytestmark = pytest.mark.process


@pytest.fixture
def forks():
    forks = Forks()
    yield forks
    forks.close()


@pytest.mark.parametrize(
    ("words", "stdin"),
    [
        (["--version"], b""),
        (["get"], b""),
        (["get", b"caf\xe9"], b""),
        (["get", "n" * 10_000], b""),
        (["key", "new", "no/dir/k"], b""),
        (["verify", "-", "--ring-key", "00" * 32], bytes(3_000_000)),
        (["verify", "-", "--ring-key", "no key"], bytes(3_000_000)),
        (["ls"], b""),
    ],
    ids=range(8),
)
def test_a_forked_command_says_and_returns_what_a_started_one_does(forks, tmp_path, words, stdin):
    own = environment(tmp_path / "none")
    forked = forks.run(words, stdin, own, tmp_path, commands.COMMAND_SECONDS)
    started = subprocess.run([*POND, *words], input=stdin, capture_output=True, env=own, cwd=tmp_path)
    assert (forked.returncode, forked.stdout, forked.stderr) == (started.returncode, started.stdout, started.stderr)


def test_a_forked_command_that_does_not_end_is_killed(forks, tmp_path):
    os.mkfifo(tmp_path / "never")
    with pytest.raises(subprocess.TimeoutExpired):
        forks.run(["verify", "never", "--ring-key", "00" * 32], b"", environment(None), tmp_path, 0.5)


def test_nothing_of_the_forks_stays():
    forks = Forks()
    forks.run(["--version"], b"", environment(None), None, commands.COMMAND_SECONDS)
    forks.close()
    assert forks.server.returncode == 0

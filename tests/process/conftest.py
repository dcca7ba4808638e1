"""What starts once for all tests, as it takes long: a cluster, and a process that forks commands."""

import signal
from pathlib import Path

import pytest

from cluster import launch
from tests.process import commands
from tests.process.commands import pond
from tests.process.forks import Forks

# A shell starts jobs in its background with SIGINT ignored, which children inherit: the commands that tests interrupt
# would not hear of it. Here, so that it is before anything is started.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def stop(directory: Path) -> None:
    """Whatever a test has left of its cluster."""
    if (directory / "cluster.json").exists():
        launch.down(directory, delete=True)


@pytest.fixture(scope="session", autouse=True)
def forks(full):
    """Commands are forked, unless `--full` is given."""
    if full:
        yield
        return
    server = Forks()
    commands.servers.append(server)
    yield
    commands.servers.remove(server)
    server.close()


@pytest.fixture(scope="session")
def ring(tmp_path_factory):
    """A running cluster of four; who changes its servers brings them back."""
    directory = tmp_path_factory.mktemp("ring") / "cluster"
    pond(directory, "cluster", "up")
    yield directory
    stop(directory)

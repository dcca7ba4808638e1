"""A running cluster for all tests that need one: to start one takes seconds."""

from pathlib import Path

import pytest

from cluster import launch
from tests.process.commands import pond


def stop(directory: Path) -> None:
    """Whatever a test has left of its cluster."""
    if (directory / "cluster.json").exists():
        launch.down(directory, delete=True)


@pytest.fixture(scope="session")
def ring(tmp_path_factory):
    """A running cluster of four; who changes its servers brings them back."""
    directory = tmp_path_factory.mktemp("ring") / "cluster"
    pond(directory, "cluster", "up")
    yield directory
    stop(directory)

"""What every test shares: settings of hypothesis, `--rewrite` for what is generated and then read by a person, and
`--full` for tests that have a short form."""

import signal

import hypothesis
import pytest

# What a shell runs in its background ignores Ctrl-C, and so would every command that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A loaded machine is no reason for a property to fail, so no example has a deadline.
hypothesis.settings.register_profile("pond", deadline=None)
hypothesis.settings.load_profile("pond")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--rewrite` writes golden files and reference pages anew; `--full` runs what is short by default at full size."""
    parser.addoption("--rewrite", action="store_true", help="write golden files and reference pages anew")
    parser.addoption(
        "--full", action="store_true", help="as much, as often and as long as was promised, not a part of it"
    )


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written anew."""
    return bool(request.config.getoption("--rewrite"))


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether tests that have a short form run at their full size."""
    return bool(request.config.getoption("--full"))

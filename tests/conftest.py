"""What every test shares: settings of hypothesis, `--rewrite` for what is generated and then read by a person, and how
often real servers are killed."""

import hypothesis
import pytest

# A loaded machine is no reason for a property to fail, so no example has a deadline.
hypothesis.settings.register_profile("pond", deadline=None)
hypothesis.settings.load_profile("pond")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--rewrite` writes golden files and reference pages anew; `--rounds` kills real servers oftener."""
    parser.addoption("--rewrite", action="store_true", help="write golden files and reference pages anew")
    parser.addoption(
        "--rounds", type=int, default=10, metavar="N", help="rounds of kill -9 in tests/process/test_faults.py"
    )


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written anew."""
    return bool(request.config.getoption("--rewrite"))

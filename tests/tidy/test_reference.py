"""docs/cli.md and docs/config.md say what the code says."""

from pathlib import Path

import pytest

from pond.cli.main import main
from tests.tidy.reference import cli_page, config_page

ROOT = Path(__file__).parents[2]
ANSWERS = (
    "pond/cli/answers.py",
    "cluster/answers.py",
    "cluster/sim/churn/answers.py",
    "cluster/bench/locate_answers.py",
)


@pytest.mark.parametrize("name", ["cli.md", "config.md"])
def test_a_reference_page_is_what_the_code_says(name: str, rewrite: bool) -> None:
    made = (
        cli_page(main, [ROOT / file for file in ANSWERS])
        if name == "cli.md"
        else config_page(ROOT / "pond" / "config.py")
    )
    page = ROOT / "docs" / name
    if rewrite:
        page.write_text(made)
    assert page.exists(), f"docs/{name} is missing: pytest tests/tidy --rewrite"
    assert page.read_text() == made, (
        f"docs/{name} is not what the code says: pytest tests/tidy --rewrite, and look at it"
    )

"""The commands that README.md shows exist."""

import click
import pytest

from tests.tidy import readme, tree


@click.group()
def example() -> None:
    """A stand-in for the pond command."""


@example.group()
def cluster() -> None:
    """A group in it."""


@cluster.command()
@click.option("--ring", type=int)
@click.option("--json", is_flag=True)
@click.argument("name")
def up(ring: int, json: bool, name: str) -> None:
    """A command in the group."""


MAKEFILE = "version := 1\nhelp:   ## help\n\t@true\n\ntest-fast: lint\n"


def test_every_command_in_the_readme_exists():
    from pond.cli.main import main

    text = tree.read(tree.ROOT / "README.md")
    assert readme.unknown_commands(text, main, readme.targets(tree.read(tree.ROOT / "Makefile"))) == []


def test_commands_are_found_in_fenced_and_indented_blocks():
    text = "pond prose\n\n    $ A=1 pond x --n 1  # why\n\n```sh\nmake y && pond z 'a b' | less\n```\npond prose\n"
    assert list(readme.shell_commands(text)) == [
        ["pond", "x", "--n", "1"],
        ["make", "y"],
        ["pond", "z", "a b"],
        ["less"],
    ]


@pytest.mark.parametrize(
    ("line", "unknown"),
    [
        ("pond cluster up --ring 4 --json here", None),
        (".venv/bin/pond cluster up --ring=4 -", None),
        ("make help test-fast -j2 X=1", None),
        ("python -m pond.nothing", None),
        ("pond clutser up", "clutser"),
        ("pond cluster upp", "upp"),
        ("pond cluster up --rings 4", "--rings"),
        ("true && pond put", "put"),
        ("make version", "version"),
        ("make tests", "tests"),
    ],
)
def test_what_does_not_exist_is_found(line, unknown):
    found = readme.unknown_commands(f"```\n{line}\n```", example, readme.targets(MAKEFILE))
    assert [each.rsplit("no ")[-1] for each in found] == ([unknown] if unknown else [])

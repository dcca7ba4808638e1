"""The reference pages: docs/cli.md from the commands and their JSON answers, docs/config.md from the settings."""

import ast
from collections.abc import Iterator
from pathlib import Path

import click

from pond.cli.main import EXIT_CODES

WIDTH = 100


def cli_page(pond: click.Command, answers: list[Path]) -> str:
    """Every command's help, and every JSON answer with its keys."""
    parts = ["# Commands\n\nMade from the commands themselves: `pytest tests/tidy --rewrite` writes it anew.\n"]
    for words, command in commands(pond, ("pond",)):
        settings = {**pond.context_settings, "max_content_width": WIDTH, "terminal_width": WIDTH}
        command._help_option = None  # click keeps the first one it made, perhaps for a context without our settings
        context = click.Context(command, info_name=" ".join(words), **settings)
        parts.append(f"## {' '.join(words)}\n\n```\n{command.get_help(context)}\n```\n")
    rows = [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES]
    parts.append("\n".join(["# Exit codes", "", "| code | meaning |", "|---|---|", *rows, ""]))
    parts.append("# JSON answers\n\nWhat `--json` prints. Keys that are here stay; more may come.\n")
    for file in answers:
        parts += structs(file)
    return "\n".join(parts)


def config_page(settings: Path) -> str:
    """Every file of settings and its keys."""
    head = "# Settings\n\nMade from the code by `pytest tests/tidy --rewrite`. Files are JSON, read strictly.\n"
    return "\n".join([head, *structs(settings)])


def commands(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """A command and all below it, each with the words that lead to it."""
    yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None, name
            yield from commands(found, (*words, name))


def structs(file: Path) -> Iterator[str]:
    """A section for each struct of a module that has fields: its docstring, and a row for each field."""
    for node in ast.parse(file.read_text()).body:
        if not isinstance(node, ast.ClassDef):
            continue
        rows = list(fields(node))
        if rows:
            table = ["| key | type | |", "|---|---|---|", *(f"| `{n}` | `{t}` | {d} |" for n, t, d in rows)]
            yield f"## {node.name}\n\n{ast.get_docstring(node) or ''}\n\n" + "\n".join(table) + "\n"


def fields(node: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    """(name, type, what its docstring says) of each field."""
    for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            is_doc = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            text = str(following.value.value) if is_doc else ""  # type: ignore[union-attr]
            kind = ast.unparse(statement.annotation).replace("|", "\\|")
            yield statement.target.id, kind, " ".join(text.split()).replace("|", "\\|")

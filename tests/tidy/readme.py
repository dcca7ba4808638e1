"""Commands in a README: which there are, and whether the `pond` command and the Makefile know them."""

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import PurePath

import click


def shell_commands(markdown: str) -> Iterator[list[str]]:
    """The words of each command in the code blocks of a text, fenced or indented, without prompt and comment."""
    fenced = False
    for line in markdown.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield from split(line.strip().removeprefix("$ "))


def split(line: str) -> Iterator[list[str]]:
    """The commands of one line of shell, each as its words; what is no shell has none."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.commenters = "#"
    try:
        words = list(lexer)
    except ValueError:  # an unpaired quote: prose or another language
        return
    command: list[str] = []
    for word in [*words, ";"]:
        if set(word) <= set("();<>|&"):
            if command:
                yield command
            command = []
        elif command or not re.match(r"\w+=", word):  # VARIABLE=value before the command is no part of it
            command.append(word)


def unknown_commands(markdown: str, pond: click.Command, make_targets: Iterable[str]) -> list[str]:
    """The commands of a text that do not exist, each with the word that nobody knows."""
    found = []
    for program, *words in shell_commands(markdown):
        match PurePath(program).name:
            case "pond":
                unknown = unknown_word(pond, words)
            case "make":
                goals = [word for word in words if not re.search(r"^-|=", word)]
                unknown = next((goal for goal in goals if goal not in make_targets), None)
            case _:
                continue
        if unknown:
            found.append(f"{shlex.join([program, *words])}: no {unknown}")
    return found


def unknown_word(command: click.Command, words: list[str], parent: click.Context | None = None) -> str | None:
    """The first word that is no sub-command where one has to be, or no option of the command that was reached."""
    context = click.Context(command, parent=parent, **command.context_settings)
    options = {name: each for each in command.get_params(context) for name in [*each.opts, *each.secondary_opts]}
    position = 0
    while position < len(words):
        word, _, value = words[position].partition("=")
        position += 1
        if word.startswith("-") and word != "-":
            if word not in options:
                return word
            option = options[word]
            takes_value = isinstance(option, click.Option) and not option.is_flag and not option.count
            position += option.nargs if takes_value and not value else 0
        elif isinstance(command, click.Group):
            found = command.get_command(context, word)
            return unknown_word(found, words[position:], context) if found else word
    return None


def targets(makefile: str) -> set[str]:
    """The targets that a Makefile has a rule for."""
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", makefile, flags=re.MULTILINE))

"""How commands end: each cause as one line on standard error and the exit code that was promised."""

import itertools
import signal
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from pond import errors
from pond.cli import objects
from pond.cli.main import EXIT_CODES, main


def commands(command, words=()):
    """Every command and group with the words that name it."""
    yield list(words), command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), (*words, name))


def failing(error):
    """A stand-in for the connection to a ring."""

    def connected(timeout):
        raise error

    return connected


def check_one_line(result, exit_code, *words):
    assert result.exit_code == exit_code, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("pond: ")
    assert result.stderr.find("\n") == len(result.stderr) - 1
    for word in words:
        assert word in result.stderr


def test_every_command_has_help():
    found = list(commands(main))
    assert {"put", "get", "cluster", "key", "node", "sim", "bench"} <= {words[0] for words, _ in found if words}
    for words, command in found:
        result = CliRunner().invoke(main, [*words, "--help"])
        assert result.exit_code == 0, (words, result.output)
        assert command.help, words


def test_exit_codes_are_in_the_help_and_are_those_of_the_errors():
    help_page = CliRunner().invoke(main, ["--help"]).output
    assert "  3        aborted by a predicate, or not permitted: nothing has changed\n" in help_page
    told = {code for code, _ in EXIT_CODES}
    kinds = [getattr(errors, name) for name in dir(errors)]
    assert {str(kind.exit_code) for kind in kinds if hasattr(kind, "exit_code")} <= told


def test_every_result_command_has_json():
    without = {"get", "cluster logs", "cluster demo", "key export", "node run"}
    for words, command in commands(main):
        if not isinstance(command, click.Group) and " ".join(words) not in without:
            assert any(parameter.name == "as_json" for parameter in command.params), words


def test_help_loads_nothing_heavy():
    program = (
        "import sys\n"
        "from pond.cli.main import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "heavy = {'zmq', 'cryptography', 'nacl', 'lmdb'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.UsageError("wrong: do right"), 2),
        (errors.ClusterDamaged("damaged: mend it"), 2),
        (errors.Aborted("changed: read again", reason="no-clause-holds", version=3), 3),
        (errors.PermissionRefused("not yours: ask"), 3),
        (errors.NotFound("nothing there: make it"), 4),
        (errors.Unavailable("no answer: wait"), 5),
        (errors.TimedOut("late: wait"), 5),
        (errors.StorageFull("full: make room"), 5),
        (errors.VerificationFailed("forged: take another"), 6),
    ],
)
def test_each_error_has_its_exit_code(monkeypatch, error, exit_code):
    monkeypatch.setattr(objects, "connected", failing(error))
    result = CliRunner().invoke(main, ["get", "notes"])
    check_one_line(result, exit_code, str(error))


def test_a_message_with_lines_is_still_one_line(monkeypatch):
    monkeypatch.setattr(objects, "connected", failing(errors.NotFound("a\nb\x1b[31m\udcff")))
    check_one_line(CliRunner().invoke(main, ["ls"]), 4, "a\\nb\\x1b[31m\\udcff")


def test_a_bug_is_one_line_that_shows_nothing_of_what_the_exception_says(monkeypatch):
    monkeypatch.setattr(objects, "connected", failing(KeyError("secret")))
    result = CliRunner().invoke(main, ["ls"])
    check_one_line(result, 1, "KeyError at test_main.py:", "POND_DEBUG=1")
    assert "secret" not in result.stderr
    told = CliRunner().invoke(main, ["ls"], env={"POND_DEBUG": "1"})
    assert told.exit_code == 1
    assert "Traceback" in told.stderr


def test_interrupts_and_broken_pipes(monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)  # it is the tests' own
    monkeypatch.setattr(objects, "connected", failing(KeyboardInterrupt()))
    check_one_line(CliRunner().invoke(main, ["ls"]), 130, "interrupted")


@pytest.mark.parametrize("moment", [b"click.core", b"click", b"msgspec", b"pond.cli.options"])
def test_an_interrupt_while_the_command_is_loading_is_one_line(moment):
    """Python tells of each import as it is done."""
    program = [sys.executable, "-X", "importtime", "-P", "-m", "pond", "ls"]
    command = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert command.stderr is not None
    loading = itertools.takewhile(lambda line: line.split()[-1] != moment, iter(command.stderr.readline, b""))
    assert all(line.startswith(b"import time:") for line in loading)
    command.send_signal(signal.SIGINT)
    _, said = command.communicate(timeout=60)
    assert [line for line in said.splitlines() if not line.startswith(b"import time:")] == [b"pond: interrupted"]
    assert command.returncode == 130


@pytest.mark.parametrize(
    "words", [["gett"], ["get"], ["get", "a", "b"], ["get", "a", "--versoin", "1"], ["--nonsense"]]
)
def test_usage_errors_say_where_to_look(words):
    check_one_line(CliRunner().invoke(main, words), 2, "--help`")


def test_without_a_command_there_is_help():
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 2
    assert "pond cluster up" in result.stderr


def test_version():
    assert CliRunner().invoke(main, ["--version"]).output.startswith("pond ")

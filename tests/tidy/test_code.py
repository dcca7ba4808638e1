"""The code keeps its own habits: one test per habit, over every file that it is a habit of."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from tests.tidy import habits, tree

MAX_LINES = 600


def assert_habit(find: Callable[[str], list[str]], paths: Iterable[Path]) -> None:
    found = [f"{path}: {what}" for path in paths for what in find(tree.read(path))]
    assert not found, "\n".join(["", *found])


def test_cores_reach_nothing_outside_and_never_wait():
    assert_habit(habits.impurities, tree.modules(*tree.CORES))


def test_only_the_transport_imports_zmq():
    others = [path for path in tree.modules(*tree.PACKAGES) if path.parent != Path("pond/transport")]
    assert_habit(partial(habits.imports_of, package="zmq"), others)


def test_only_the_storage_imports_its_engine():
    others = [path for path in tree.modules(*tree.PACKAGES) if path != Path("pond/storage.py")]
    assert_habit(partial(habits.imports_of, package="lmdb"), others)


def test_only_commands_print():
    commands = tree.modules("pond/cli", "cluster/cli", "cluster/cli.py", "cluster/demo", "cluster/demo.py")
    assert_habit(habits.prints, [path for path in tree.modules(*tree.PACKAGES) if path not in commands])


def test_no_exception_is_swallowed_unseen():
    assert_habit(habits.swallowed_exceptions, tree.modules())


def test_nothing_is_left_for_later_in_a_comment():
    assert_habit(habits.unfinished, tree.modules())


def test_every_module_says_what_it_is():
    assert_habit(habits.missing_docstring, tree.modules())


def test_no_file_is_too_long():
    assert_habit(partial(habits.too_long, limit=MAX_LINES), tree.modules())


def test_no_test_sleeps():
    assert_habit(habits.sleeps, tree.modules("tests"))


def test_every_test_asserts_something():
    tests = [path for path in tree.modules("tests") if path.name.startswith("test_")]
    assert_habit(habits.tests_without_assertion, tests)

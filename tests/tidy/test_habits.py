"""The tidy checks see what they are there to see: a planted violation is found, its innocent neighbour is not."""

from functools import partial

import pytest

from tests.tidy import habits, tree

zmq_imports = partial(habits.imports_of, package="zmq")
longer_than_two_lines = partial(habits.too_long, limit=2)


@pytest.mark.parametrize(
    ("find", "source"),
    [
        (habits.impurities, "import time"),
        (habits.impurities, "import os.path as p"),
        (habits.impurities, "from random import randbytes"),
        (habits.impurities, "from random import Random\nchoices = Random()"),
        (habits.impurities, "def f():\n    import asyncio"),
        (habits.impurities, "async def f(): pass"),
        (habits.impurities, "async def f(): return [x async for x in y]"),
        (habits.impurities, "open('file')"),
        (habits.impurities, "import datetime\ndatetime.datetime.now()"),
        (habits.impurities, "from datetime import datetime as d\nd.utcnow()"),
        (habits.impurities, "from nacl.utils import random\nrandom(32)"),
        (habits.impurities, "import nacl.bindings as b\nb.randombytes(32)"),
        (habits.impurities, "from cryptography.x import Ed25519PrivateKey\nEd25519PrivateKey.generate()"),
        (habits.impurities, "from cryptography.x import AESGCM\nAESGCM.generate_key(256)"),
        (zmq_imports, "import zmq.asyncio"),
        (zmq_imports, "from zmq import Context"),
        (habits.prints, "def f():\n    print('here')"),
        (habits.sleeps, "import time\ntime.sleep(0)"),
        (habits.sleeps, "from time import sleep as wait\nwait(1)"),
        (habits.sleeps, "import asyncio\nasyncio.sleep(0.1)"),
        (habits.sleeps, "from asyncio import sleep\nsleep(delay)"),
        (habits.swallowed_exceptions, "try: f()\nexcept: raise"),
        (habits.swallowed_exceptions, "try: f()\nexcept Exception: pass"),
        (habits.swallowed_exceptions, "for x in y:\n  try: f()\n  except (OSError, BaseException) as error: continue"),
        (habits.swallowed_exceptions, "import contextlib\nwith contextlib.suppress(Exception): f()"),
        (habits.unfinished, "x = 1  # TODO: more"),
        (habits.unfinished, "def f():\n    '''FIXME later.'''"),
        (habits.missing_docstring, ""),
        (habits.missing_docstring, "# A comment.\nx = 1"),
        (habits.tests_without_assertion, "def test_x(): f()"),
        (habits.tests_without_assertion, "class TestX:\n    async def test_x(self): checked()"),
        (longer_than_two_lines, "1\n2\n3\n"),
    ],
)
def test_a_planted_violation_is_found(find, source):
    assert len(find(source)) >= 1


@pytest.mark.parametrize(
    ("find", "source"),
    [
        (habits.impurities, "from random import Random\ndef f(choices: Random): choices.random()"),
        (habits.impurities, "import hashlib\nfrom tapestry.time import now\nself.open()\nkey.random()"),
        (habits.impurities, "from datetime import datetime\ndatetime.fromtimestamp(0)"),
        (zmq_imports, "import zmqish\nfrom pond import zmq"),
        (habits.prints, "'print(x)'  # print(x)\nself.print()"),
        (habits.sleeps, "import asyncio\nasyncio.sleep(0)\nmachine.sleep(1)"),
        (habits.swallowed_exceptions, "try: f()\nexcept Exception as error: log(error)"),
        (habits.swallowed_exceptions, "try: f()\nexcept KeyError: pass"),
        (habits.swallowed_exceptions, "from contextlib import suppress\nwith suppress(KeyError): f()"),
        (habits.unfinished, "x = 'TODO'  # a to-do list"),
        (habits.missing_docstring, "'''What it is.'''"),
        (habits.tests_without_assertion, "def test_x():\n    for x in y: assert x"),
        (habits.tests_without_assertion, "def test_x():\n    with pytest.raises(E): f()"),
        (habits.tests_without_assertion, "def test_x(): helpers.assert_equal(1, 1)\ndef helper(): pass"),
        (longer_than_two_lines, "1\n2\n"),
    ],
)
def test_what_only_looks_like_a_violation_is_left_alone(find, source):
    assert find(source) == []


def test_a_finding_says_where():
    assert habits.impurities("x = 1\n\nimport time\n") == ["line 3: imports time"]


def test_the_files_are_the_same_without_git():
    """A tarball has no git; what tools may have left beside the code is the one difference."""
    assert set(tree.modules()) <= {path for path in tree.walk() if path.suffix == ".py"}

"""The checker of linearizability can tell right from wrong; every kind of wrong is shown to it."""

import itertools
import random

from cluster.check.history import Illegal, Ok, Operation, Unknown
from cluster.check.linearizability import check


def write(began, ended, version, client=0, name=b"x"):
    return Operation(client, "write", name, began, ended, version, True)


def read(began, ended, version, client=1, name=b"x"):
    return Operation(client, "read", name, began, ended, version, False)


def lost(began):
    return Operation(2, "write", b"x", began, None, None, False)


def test_right_histories():
    assert check([write(0, 1, 1), read(2, 3, 1), write(4, 5, 2), read(6, 7, 2)]) == Ok(4)
    assert check([write(0, 9, 1), read(1, 2, 0), read(3, 4, 1), read(1, 5, 0)]) == Ok(4)
    assert check([write(0, 1, 1), write(0, 1, 1, name=b"y"), read(2, 3, 1, name=b"y")]) == Ok(3)
    assert check([lost(0), read(5, 6, 1), write(7, 8, 2)]) == Ok(2)
    assert check([lost(0), lost(9)]) == Unknown("no operation came back")


def reason(*operations):
    verdict = check(operations)
    assert isinstance(verdict, Illegal), verdict
    assert str(verdict).count("\n") == len(verdict.operations)
    return verdict.reason


def test_a_read_that_is_stale():
    assert "older version" in reason(write(0, 1, 1), write(2, 3, 2), read(4, 5, 1))


def test_reads_that_go_back():
    assert "older version" in reason(write(0, 1, 1), write(2, 9, 2), read(3, 4, 2), read(5, 6, 1))


def test_an_update_that_was_ordered_before_an_earlier_one():
    assert "older version" in reason(write(0, 1, 2), write(2, 3, 1))


def test_a_version_seen_before_its_update_began():
    assert "before the update" in reason(read(0, 1, 1), write(2, 3, 1))
    assert "older version" in reason(write(0, 1, 1), read(2, 9, 3), write(9.5, 10, 2), write(2, 9.7, 3))


def test_a_version_made_twice():
    assert "two updates" in reason(write(0, 9, 1), write(1, 9, 1, client=3))


def test_a_version_that_nobody_made():
    assert "nobody made version 1" in reason(read(0, 1, 1))
    assert "nobody made version 1" in reason(write(0, 1, 2))
    assert "nobody made" in reason(lost(0), read(1, 2, 2))
    assert "nobody made" in reason(lost(5), read(1, 2, 1))


def runs_in_order(operations):
    """Herlihy and Wing's definition itself, by trying every order."""
    for order in itertools.permutations(operations):
        newest, fits = 0, True
        for place, operation in enumerate(order):
            newest += operation.made
            early = any(later.ended < operation.began for later in order[place + 1 :])
            if early or operation.version != newest:
                fits = False
                break
        if fits:
            return True
    return False


def test_it_says_what_the_definition_says():
    choices = random.Random(1)
    verdicts = []
    for _ in range(3000):
        operations = []
        for _ in range(choices.randint(1, 5)):
            began = choices.randint(0, 9)
            made = choices.random() < 0.5
            operations.append(
                Operation(
                    0, "", b"x", began, began + choices.choice((0.5, 3.5, 6.5)), choices.randint(int(made), 2), made
                )
            )
        legal = isinstance(check(operations), Ok)
        assert legal == runs_in_order(operations), operations
        verdicts.append(legal)
    assert 100 < sum(verdicts) < 2900

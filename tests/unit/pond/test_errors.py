"""One tree, and the exit codes that scripts rely on."""

import pytest

from pond import errors


@pytest.mark.parametrize(
    ("kind", "also", "exit_code"),
    [
        (errors.UsageError, ValueError, 2),
        (errors.ClusterDamaged, errors.UsageError, 2),
        (errors.PermissionRefused, PermissionError, 3),
        (errors.NotFound, FileNotFoundError, 4),
        (errors.Unavailable, errors.PondError, 5),
        (errors.TimedOut, TimeoutError, 5),
        (errors.StorageFull, errors.StorageError, 5),
        (errors.VerificationFailed, errors.PondError, 6),
    ],
)
def test_each_error_is_what_python_users_expect_too(kind: type[errors.PondError], also: type, exit_code: int):
    error = kind("what happened")
    assert isinstance(error, errors.PondError)
    assert isinstance(error, also)
    assert error.exit_code == exit_code
    assert str(error) == "what happened"


def test_an_abort_carries_why_and_where_the_object_stands():
    error = errors.Aborted("the condition did not hold", reason="version", version=7)
    assert (error.reason, error.version, error.exit_code) == ("version", 7, 3)

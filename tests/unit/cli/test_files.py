"""Outputs that appear as a whole or not at all, and what is left of them for the next attempt."""

import fcntl
import os
import stat

import pytest

from pond.cli import files


@pytest.fixture(autouse=True)
def little_is_kept(monkeypatch):
    monkeypatch.setattr(files, "KEPT_BYTES", 10)


def write(path, data, error=None):
    """Whether something was there, and what."""
    with files.resumed_output(str(path)) as (out, begun):
        found = out.read() if begun else b""
        out.write(data)
        if error is not None:
            raise error
    return found


def test_what_was_written_is_there_for_the_next_attempt(tmp_path):
    for number in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "out", b"0123456789", KeyboardInterrupt())
        assert [path.name for path in tmp_path.iterdir()] == [".out.part"], number
    assert write(tmp_path / "out", b"end") == b"0123456789" * 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_bytes() == b"0123456789" * 2 + b"end"
    assert write(tmp_path / "out", b"anew") == b""
    assert (tmp_path / "out").read_bytes() == b"anew"


def test_little_is_not_left(tmp_path):
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(OSError):
        write(tmp_path / "out", b"012345678", OSError())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_bytes() == b"old"


def test_two_at_once_do_not_share_a_file(tmp_path):
    with files.resumed_output(str(tmp_path / "out")) as (out, _):
        out.write(b"slow, and more than ten bytes")
        out.flush()
        assert write(tmp_path / "out", b"quick") == b""
        assert (tmp_path / "out").read_bytes() == b"quick"
    assert (tmp_path / "out").read_bytes().startswith(b"slow")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("make", ["symlink", "hard link", "pipe", "directory"])
def test_what_somebody_else_put_there_is_left_alone(tmp_path, make):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    partial = tmp_path / ".out.part"
    match make:
        case "symlink":
            partial.symlink_to(victim)
        case "hard link":
            partial.hardlink_to(victim)
        case "pipe":
            os.mkfifo(partial)
        case "directory":
            partial.mkdir()
    before = partial.lstat().st_mode
    assert write(tmp_path / "out", b"content") == b""
    assert (tmp_path / "out").read_bytes() == b"content"
    assert victim.read_bytes() == b"precious"
    assert partial.lstat().st_mode == before


def test_a_device_is_written_directly(tmp_path):
    assert write("/dev/null", b"content") == b""
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_pipe_that_has_no_name_is_written_directly():
    reading, writing = os.pipe()
    try:
        assert write(f"/dev/fd/{writing}", b"content") == b""
        assert os.read(reading, 100) == b"content"
    finally:
        os.close(reading)
        os.close(writing)


def test_what_takes_the_place_of_a_private_file_is_private(tmp_path):
    for write in (files.new_file, lambda path: files.resumed_output(path)):
        place = tmp_path / "private"
        place.write_bytes(b"old")
        place.chmod(0o600)
        with write(str(place)) as opened:
            out = opened[0] if isinstance(opened, tuple) else opened
            assert stat.S_IMODE(os.fstat(out.fileno()).st_mode) == 0o600
            out.write(b"new")
        assert (place.read_bytes(), stat.S_IMODE(place.stat().st_mode)) == (b"new", 0o600)


@pytest.mark.parametrize(
    ("write", "module", "name"),
    [
        (files.new_file, os, "open"),
        (files.new_file, files, "_keep_mode"),
        (files.resumed_output, os, "open"),
        (files.resumed_output, fcntl, "flock"),
        (files.resumed_output, os, "fstat"),
        (files.resumed_output, files, "_keep_mode"),
    ],
)
def test_a_signal_while_the_file_is_being_made_leaves_nothing(tmp_path, monkeypatch, write, module, name):
    """It is heard as soon as the call has done its work."""
    work = getattr(module, name)

    def interrupted(*arguments):
        monkeypatch.setattr(module, name, work)
        work(*arguments)
        raise SystemExit(143)

    monkeypatch.setattr(module, name, interrupted)
    with pytest.raises(SystemExit), write(str(tmp_path / "out")):
        pass
    assert list(tmp_path.iterdir()) == []

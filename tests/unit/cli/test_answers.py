"""The parts that commands share: keys of answers, tables, sizes, progress."""

import io
import sys

import pytest

from cluster import answers as cluster_answers
from pond.cli import answers, options


@pytest.mark.parametrize(
    ("answer", "keys"),
    [
        (answers.Written, "name aguid version vguid size time status"),
        (answers.Event, "version vguid size time writer status"),
        (answers.Verified, "name versions ok"),
        (cluster_answers.ClusterStatus, "public_key ring replicas storage"),
        (cluster_answers.RingServer, "name state pid view sequence primary"),
        (cluster_answers.Cached, "name state pid"),
    ],
)
def test_keys_that_scripts_rely_on(answer, keys):
    assert set(keys.split()) <= set(answer.__struct_encode_fields__)
    assert answer.__doc__


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (1_572_864, "1.5 MiB"), (2**50, "1024.0 TiB")],
)
def test_sizes_for_people(size, text):
    assert answers.human_size(size) == text


def test_tables_are_aligned_and_have_no_blanks_at_the_end():
    text = answers.table([("NAME", "SIZE", ""), ("a", 5, "x"), ("long", 12345, "")], right=(1,))
    assert text == "NAME   SIZE\na         5  x\nlong  12345"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("total", [0, 200])
def test_progress_is_drawn_and_taken_away(monkeypatch, total):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(options.Progress, "AFTER_SECONDS", 0.0)
    with options.Progress("put notes") as progress:
        progress(100, total)
    drawn = terminal.getvalue()
    assert "put notes" in drawn
    assert (" 50%" in drawn) == bool(total)
    assert drawn.endswith(" \r")


def test_progress_tells_what_was_there_already(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(options.Progress, "AFTER_SECONDS", 0.0)
    with options.Progress("put notes") as progress:
        progress.resumed_bytes = lambda: 150_000_000
        progress(150_000_000, 200_000_000)
    assert " 75%    0.0 MB/s, 150 MB were there" in terminal.getvalue()


def test_progress_of_quick_work_or_without_a_terminal_is_silent(monkeypatch):
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        with options.Progress("put notes") as progress:
            progress(100, 200)
        assert stream.getvalue() == ""
        monkeypatch.setattr(options.Progress, "AFTER_SECONDS", 0.0)

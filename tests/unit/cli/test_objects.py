"""Commands on objects over a stand-in for the store: what is asked of it, and how answers are printed."""

import io
import json
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner

from pond.cli import objects
from pond.cli.main import main
from pond.client.content import ChangedRange
from pond.client.objects import LogEntry, ObjectStat
from pond.client.target import Version
from pond.errors import NotFound

START = datetime(2026, 1, 2, 3, 4, 5, 6, UTC)


class FakeFile(io.BytesIO):
    def __init__(self, content, version):
        super().__init__(content)
        self.version = version


class FakeUpdate:
    def __init__(self, target):
        self.target = target
        self.predicates = []
        self.resumed_bytes = 0

    def write(self, content):
        self.content = content.read()
        return self

    def append(self, content):
        self.content = (self.target.contents[-1] if self.target.contents else b"") + content.read()
        return self

    def when(self, predicate):
        self.predicates.append(predicate)
        return self

    def commit(self, progress=None):
        self.resumed_bytes = self.target.resumed_bytes
        self.target.asked.append(self.predicates)
        return self.target.add(self.content)


class FakeObject:
    """Keeps its versions in a list."""

    aguid = b"\xaa" * 32
    resumed_bytes = 0

    def __init__(self, name):
        self.name = name
        self.contents = []
        self.asked = []

    def add(self, content):
        self.contents.append(content)
        return self.number(len(self.contents))

    def number(self, number):
        content = self.contents[number - 1]
        return Version(number, bytes([number]) * 32, len(content), START + timedelta(hours=number), None)

    def update(self):
        return FakeUpdate(self)

    def read_stream(self, version, *, vguid, at, start, stop, consistency, progress):
        self.asked.append((version, vguid, at, consistency))
        number = version or len(self.contents)
        if not 1 <= number <= len(self.contents):
            raise NotFound(f"no version {number}")
        yield self.contents[number - 1][start:stop]

    def open(self, mode, *, version):
        return FakeFile(self.contents[version - 1], self.number(version))

    def changed_ranges(self, old, new):
        return [ChangedRange(0, len(self.contents[old - 1]), 0, len(self.contents[new - 1]))]

    def stat(self):
        return ObjectStat(self.name, self.aguid, b"\x01" * 32, False, self.number(1), 4096, 1, 2, None)

    def history(self):
        made = self.number(1)
        entry = LogEntry(1, made.vguid, made.size, made.time, b"\x01" * 32, "committed", None)
        return [entry, entry._replace(status="aborted", reason="no-clause-holds")]


class FakeStore:
    def __init__(self):
        self.objects = {}
        self.created = []

    def create(self, name, *, block_size=None):
        self.created.append((name, block_size))
        return self.objects.setdefault(name, FakeObject(name))

    def open(self, name, consistency="latest"):
        if name not in self.objects:
            raise NotFound(f"no object {name}")
        return self.objects[name]

    def stats(self, *, deleted):
        return [each.stat() for each in self.objects.values()]


@pytest.fixture
def store(monkeypatch):
    fake = FakeStore()

    @contextmanager
    def connected(timeout):
        yield fake

    monkeypatch.setattr(objects, "connected", connected)
    return fake


@pytest.fixture
def notes(store):
    target = store.create("notes")
    target.add(b"one\n")
    return target


def run(*words, stdin=b"", **settings):
    return CliRunner().invoke(main, list(words), input=stdin, **settings)


@pytest.mark.parametrize(
    ("span", "expected"), [("0..3", b"012"), ("4..", b"456789"), ("..2", b"01"), ("..", b"0123456789"), ("5..5", b"")]
)
def test_get_of_a_range(store, tmp_path, span, expected):
    store.create("notes").add(b"0123456789")
    assert run("get", "notes", "--range", span).stdout_bytes == expected
    run("get", "notes", "--range", span, "-o", str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == expected


@pytest.mark.parametrize("span", ["5", "3..2", "a..b", "k..2", "1..2..3", "-1..2", "1.5..2"])
def test_what_is_no_range_is_refused(store, span):
    result = run("get", "notes", f"--range={span}")
    assert result.exit_code == 2
    assert "--range" in result.stderr


def test_put_prints_the_version(store, tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    result = run("put", "notes", str(tmp_path / "file"), "--block-size", "8k", "--json")
    assert json.loads(result.stdout) == {
        "name": "notes",
        "aguid": "aa" * 32,
        "version": 1,
        "vguid": "01" * 32,
        "size": 7,
        "time": "2026-01-02T04:04:05.000006Z",
        "status": "committed",
        "resumed": 0,
    }
    assert store.created == [("notes", 8192)]
    assert run("put", "notes", stdin=b"again").stdout == "notes: version 2, 5 bytes, 2026-01-02T05:04:05.000006Z\n"
    assert store.objects["notes"].contents == [b"content", b"again"]
    store.objects["notes"].resumed_bytes = 3 << 20
    assert run("put", "notes", stdin=b"third").stdout.endswith(", resumed: 3.0 MiB were there\n")


def test_predicates_go_with_the_update(store, notes):
    from pond.client import predicates

    run("put", "notes", "--if-version", "7", stdin=b"x")
    run("put", "notes", "--if-absent", stdin=b"x")
    assert notes.asked == [[predicates.version_is(7)], [predicates.absent()]]
    assert run("put", "other", "--if-version", "7").exit_code == 4
    assert "other" not in store.objects


def test_get_asks_for_what_was_named(notes):
    assert run("get", "notes").stdout == "one\n"
    run("get", "notes", "--version", "1", "--consistency", "any")
    run("get", "notes", "--vguid", "ab" * 32)
    run("get", "notes", "--at", "2026-01-02T03:04:05.000006Z")
    run("get", "notes", "--at", "1767323045.5")
    assert notes.asked == [
        (None, None, None, "latest"),
        (1, None, None, "any"),
        (None, b"\xab" * 32, None, "latest"),
        (None, None, START, "latest"),
        (None, None, datetime(2026, 1, 2, 3, 4, 5, 500_000, UTC), "latest"),
    ]


def test_local_time_is_the_default(notes, monkeypatch):
    run("get", "notes", "--at", "2026-07-01 12:00")
    assert notes.asked[0][2] == datetime(2026, 7, 1, 12).astimezone()


@pytest.mark.parametrize("version", ["0", "-1", "x", str(2**63)])
def test_versions_that_cannot_be(notes, version):
    for words in (["get", "notes", "--version", version], ["put", "notes", "--if-version", version]):
        result = run(*words)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("name", ["", "n" * 10_000, "a/b", "two\nlines", "\udce9", "\0"])
def test_names_that_cannot_be(store, name):
    for command in ("put", "get", "append", "stat", "log", "rm", "verify"):
        result = run(command, name)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert len(result.stderr) < 300
    assert store.created == []


def test_output_files_appear_as_a_whole_or_not_at_all(notes, tmp_path):
    file = tmp_path / "out"
    file.write_text("mine")
    assert run("get", "notes", "--version", "2", "-o", str(file)).exit_code == 4
    assert file.read_text() == "mine"
    assert run("get", "notes", "-o", str(file)).exit_code == 0
    assert file.read_bytes() == b"one\n"
    link = tmp_path / "link"
    link.symlink_to(file)
    notes.add(b"two\n")
    assert run("get", "notes", "-o", str(link)).exit_code == 0
    assert (link.is_symlink(), file.read_bytes()) == (True, b"two\n")
    assert run("get", "notes", "-o", "/dev/null").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out"]


def test_log_shows_commits_and_aborts(notes):
    text = run("log", "notes").stdout.splitlines()
    assert text[0].split() == ["VERSION", "SIZE", "TIME", "WRITER", "STATUS", "VGUID"]
    assert text[1].split()[-1] == "01" * 32
    assert text[2].endswith("aborted: no-clause-holds")
    assert [event["status"] for event in json.loads(run("log", "notes", "--json").stdout)] == ["committed", "aborted"]


def test_ls_of_nothing_prints_nothing(store):
    assert run("ls").stdout == ""
    assert run("ls", "--json").stdout == "[]\n"


def test_diff_of_lines_without_an_end(notes):
    notes.add(b"one\ntwo")
    said = run("diff", "notes", "1", "2").stdout
    assert said == "--- notes, version 1\n+++ notes, version 2\n@@ -1 +1,2 @@\n one\n+two\n\\ No newline at the end\n"


def test_diff_of_bytes_is_narrowed_to_what_differs(notes):
    notes.add(b"\xff" * 50 + b"abc" + b"\xff" * 50)
    notes.add(b"\xff" * 50 + b"ABBC" + b"\xff" * 50)
    changes = json.loads(run("diff", "notes", "2", "3", "--json").stdout)["changes"]
    assert changes == [{"old_start": 50, "old_end": 53, "new_start": 50, "new_end": 54}]
    assert "50 to 53" in run("diff", "notes", "2", "3").stdout
    assert json.loads(run("diff", "notes", "2", "2", "--json").stdout)["equal"] is True


def test_colours_only_where_they_are_wanted(notes):
    notes.add(b"two\n")
    assert "\x1b[" in run("diff", "notes", "1", "2", color=True).stdout
    assert "\x1b[" not in run("diff", "notes", "1", "2", color=True, env={"NO_COLOR": "1"}).stdout
    assert "\x1b[" not in run("diff", "notes", "1", "2").stdout

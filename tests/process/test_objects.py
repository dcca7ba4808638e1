"""Commands on objects against a real ring: every promise once, and whatever a user may get wrong."""

import os
import signal
import subprocess
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from time import monotonic

import pytest

from tests.process.commands import COMMAND_SECONDS, POND, answer, check_failed, environment, pond, run
from tests.process.conftest import stop

pytestmark = pytest.mark.process

SHORT = ("--timeout", "1")
"""For what cannot succeed."""


@contextmanager
def killed(ring, *servers):
    """These servers are down meanwhile."""
    pond(ring, "cluster", "kill", *servers)
    try:
        yield
    finally:
        pond(ring, "cluster", "restart", *servers)


@pytest.fixture(scope="module")
def notes(ring):
    """An object with three versions, and an update that was aborted after the second; its contents by version."""
    contents = {1: b"one\n", 2: b"one\ntwo\n", 3: b"one\ntwo\nthree\n"}
    pond(ring, "put", "notes", "--if-absent", stdin=contents[1])
    pond(ring, "put", "notes", "-", "--if-version", "1", stdin=contents[2])
    check_failed(
        run(ring, "put", "notes", "--if-version", "1", stdin=b"late"), 3, "version 2 of 'notes' is", "diff notes 1 2"
    )
    pond(ring, "append", "notes", stdin=b"three\n")
    return contents


def test_every_version_is_read_by_number_guid_and_time(ring, notes):
    assert pond(ring, "get", "notes") == pond(ring, "get", "notes", "--consistency", "any") == notes[3]
    made = [event for event in answer(ring, "log", "notes") if event["status"] == "committed"]
    assert [event["version"] for event in made] == [1, 2, 3]
    for event in made:
        content = notes[event["version"]]
        assert event["size"] == len(content)
        assert pond(ring, "get", "notes", "--version", str(event["version"])) == content
        assert pond(ring, "get", "notes", "--vguid", event["vguid"]) == content
        assert pond(ring, "get", "notes", "--at", event["time"]) == content
        local = datetime.fromisoformat(event["time"]).astimezone().replace(tzinfo=None)
        assert pond(ring, "get", "notes", "--at", local.isoformat()) == content
        just_before = (datetime.fromisoformat(event["time"]) - timedelta(microseconds=1)).isoformat()
        before = run(ring, "get", "notes", "--at", just_before)
        assert before.stdout == notes.get(event["version"] - 1, b"")
    soon = str(int((datetime.now(UTC) + timedelta(days=1)).timestamp()))
    assert pond(ring, "get", "notes", "--at", soon) == notes[3]


def test_log_has_the_promised_keys_and_the_abort(ring, notes):
    events = answer(ring, "log", "notes")
    assert [event["status"] for event in events] == ["committed", "committed", "aborted", "committed"]
    assert all({"version", "vguid", "size", "time", "writer", "status"} <= set(event) for event in events)
    assert events[2]["reason"] == "no-clause-holds"
    assert {event["writer"] for event in events} == {answer(ring, "key", "show")["public_key"]}
    text = pond(ring, "log", "notes").decode()
    assert "aborted: no-clause-holds" in text
    assert events[0]["vguid"] in text


def test_written_versions_have_the_promised_keys(ring):
    first = answer(ring, "put", "keys", stdin=b"1")
    assert set(first) == {"name", "aguid", "version", "vguid", "size", "time", "status", "resumed"}
    assert (first["name"], first["version"], first["size"], first["status"]) == ("keys", 1, 1, "committed")
    assert answer(ring, "append", "keys", stdin=b"2")["size"] == 2
    restored = answer(ring, "restore", "keys", "1")
    assert (restored["version"], restored["size"], restored["aguid"]) == (3, 1, first["aguid"])
    assert pond(ring, "get", "keys") == b"1"


def test_deleted_objects_keep_their_history_and_come_back(ring):
    pond(ring, "put", "gone", stdin=b"here")
    assert answer(ring, "rm", "gone")["status"] == "deleted"
    check_failed(run(ring, "get", "gone"), 4, "deleted")
    check_failed(run(ring, "rm", "gone"), 4, "deleted")
    assert "gone" not in [each["name"] for each in answer(ring, "ls")]
    assert "gone" in [each["name"] for each in answer(ring, "ls", "--all")]
    assert answer(ring, "stat", "gone")["deleted"] is True
    assert pond(ring, "get", "gone", "--version", "1") == b"here"
    pond(ring, "restore", "gone", "1")
    assert pond(ring, "get", "gone") == b"here"
    pond(ring, "rm", "gone")
    pond(ring, "put", "gone", "--if-absent", stdin=b"again")


def test_listing_and_stat_agree(ring, notes):
    (listed,) = [each for each in answer(ring, "ls") if each["name"] == "notes"]
    told = answer(ring, "stat", "notes")
    # An idle ring orders an empty batch from time to time, and so the proof of what has not changed may be a newer one.
    assert listed | {"certificate": None} == told | {"certificate": None}
    assert set(listed["certificate"]) == set(told["certificate"])
    assert (listed["version"], listed["size"], listed["updates"], listed["deleted"]) == (3, len(notes[3]), 4, False)
    assert b"notes" in pond(ring, "ls")
    assert listed["aguid"].encode() in pond(ring, "stat", "notes")


def test_diff_of_texts_is_by_line(ring, notes):
    said = pond(ring, "diff", "notes", "1", "3").decode().splitlines()
    assert said == ["--- notes, version 1", "+++ notes, version 3", "@@ -1 +1,3 @@", " one", "+two", "+three"]
    assert pond(ring, "diff", "notes", "2", "2") == b""


def test_diff_of_bytes_names_the_ranges(ring):
    content = bytearray(os.urandom(100_000))
    pond(ring, "put", "bytes", "--block-size", "4K", stdin=bytes(content))
    content[70_000] ^= 1
    pond(ring, "put", "bytes", stdin=bytes(content))
    pond(ring, "append", "bytes", stdin=b"\xff\xfe")
    found = answer(ring, "diff", "bytes", "1", "2")
    assert (found["equal"], found["from"], found["to"]) == (False, 1, 2)
    assert found["changes"] == [{"old_start": 70_000, "old_end": 70_001, "new_start": 70_000, "new_end": 70_001}]
    added = {"old_start": 100_000, "old_end": 100_000, "new_start": 100_000, "new_end": 100_002}
    assert answer(ring, "diff", "bytes", "2", "3")["changes"] == [added]
    assert b"70000 to 70001" in pond(ring, "diff", "bytes", "1", "2")
    assert answer(ring, "stat", "bytes")["block_size"] == 4096


def test_content_that_was_written_again_is_equal(ring):
    """Encrypted anew each time, so no block is the same: the contents decide."""
    content = os.urandom(10_000)
    pond(ring, "put", "same", stdin=content)
    pond(ring, "put", "same", stdin=content)
    assert answer(ring, "diff", "same", "1", "2")["equal"] is True
    assert pond(ring, "diff", "same", "1", "2") == b""


def test_large_files_come_back_equal(ring, tmp_path):
    content = os.urandom(9_000_000)
    (tmp_path / "in").write_bytes(content)
    pond(ring, "put", "large", str(tmp_path / "in"))
    pond(ring, "get", "large", "-o", str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert pond(ring, "get", "large", "-o", "-") == content


def test_empty_content_is_content(ring):
    assert answer(ring, "put", "empty", "/dev/null")["size"] == 0
    assert pond(ring, "get", "empty") == b""


def test_an_exported_history_is_verified_with_the_key_alone(ring, notes, tmp_path):
    file = tmp_path / "notes.pond"
    exported = answer(ring, "export", "notes", "-o", str(file), "--data")
    assert (exported["versions"], exported["aborted"], exported["size"]) == (3, 1, file.stat().st_size)
    key = answer(ring, "cluster", "status")["public_key"]
    verified = run(None, "verify", str(file), "--ring-key", key, "--json")
    assert verified.returncode == 0
    assert b'"ok":true' in verified.stdout
    piped = run(None, "verify", "-", "--ring-key", key, stdin=file.read_bytes())
    assert b"versions 1 to 3" in piped.stdout
    data = file.read_bytes()
    for place in range(0, len(data), 97):
        file.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        damaged = run(None, "verify", str(file), "--ring-key", key)
        check_failed(damaged, 6, "bytes ")
        if place >= 97 * 3:
            break
    file.write_bytes(data)
    other = run(None, "verify", str(file), "--ring-key", "00" * 32)
    check_failed(other, 6, "do not hold", "likely the key of another ring", "pond cluster status")
    file.write_bytes(
        data[:-1] + bytes([data[-1] ^ 0x10])
    )  # not the certificate, whose damage may look like another key
    damaged = run(None, "verify", str(file), "--ring-key", key)
    check_failed(damaged, 6, "bytes ")
    assert b"another ring" not in damaged.stderr
    check_failed(run(None, "verify", str(file), "--ring-key", "no key"), 2, "64 base-16 digits")
    truncated = run(None, "verify", "-", "--ring-key", key, "--json", stdin=data[:-1])
    assert truncated.returncode == 6
    assert b'"ok":false' in truncated.stdout


def test_an_export_goes_into_a_pipe(ring, notes, tmp_path):
    key = answer(ring, "cluster", "status")["public_key"]
    done = subprocess.run(
        [*POND, "export", "notes", "-o", "-"], cwd=tmp_path, env=environment(ring), capture_output=True, check=True
    )
    assert b"standard output: 3 versions of notes" in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert b"versions 1 to 3" in run(None, "verify", "-", "--ring-key", key, stdin=done.stdout).stdout
    check_failed(run(ring, "export", "notes", "-o", "-", "--json"), 2, "choose one")


def test_an_export_is_not_shown_on_a_terminal(ring, notes):
    controller, terminal = os.openpty()
    try:
        done = subprocess.run(
            [*POND, "export", "notes", "-o", "-"], env=environment(ring), stdout=terminal, stderr=subprocess.PIPE
        )
    finally:
        os.close(terminal)
        os.close(controller)
    assert done.returncode == 2
    assert b"name a file with -o" in done.stderr


def test_a_block_size_is_for_ever(ring):
    pond(ring, "put", "sized", "--block-size", "8K", stdin=b"x")
    pond(ring, "put", "sized", "--block-size", "8192", stdin=b"xx")
    pond(ring, "put", "sized", "--block-size", "8192", "--if-version", "2", stdin=b"xxx")
    for more in ([], ["--if-version", "3"], ["--if-absent"]):
        refused = run(ring, "put", "sized", "--block-size", "16K", *more, stdin=b"y")
        check_failed(refused, 2, "'sized' has blocks of 8192 bytes for ever, not of 16384", "leave the block size out")
    assert pond(ring, "get", "sized") == b"xxx"


def test_verify_by_name_fetches_everything(ring, notes):
    found = answer(ring, "verify", "notes")
    assert {"name": "notes", "versions": 3, "ok": True}.items() <= found.items()


def test_an_owner_key_alone_regains_everything(ring, notes, tmp_path):
    copy = tmp_path / "copy.key"
    pond(ring, "key", "export", "-o", str(copy))
    assert copy.stat().st_mode & 0o777 == 0o600
    assert pond(ring, "key", "export", "-o", "-") == copy.read_bytes()
    assert pond(ring, "get", "notes", "--key", str(copy)) == notes[3]
    check_failed(run(ring, "key", "export", "-o", str(copy)), 2, "never overwritten")
    for words in (["key", "new", "no/dir/k"], ["key", "export", "-o", "no/dir/k"]):
        check_failed(run(ring, *words, cwd=tmp_path), 2, "there is no directory", "no/dir: make it first")
    check_failed(run(tmp_path / "none", "key", "new"), 2, "there is no directory", "none: make it first")
    assert list(tmp_path.iterdir()) == [copy]
    shown = pond(ring, "key", "show") + pond(ring, "key", "list") + pond(ring, "key", "list", "--json")
    assert copy.read_text().split()[3].encode() not in shown


def test_another_owner_has_other_objects(ring, notes, tmp_path):
    other = ("--key", str(tmp_path / "other.key"))
    pond(ring, "key", "new", other[1])
    check_failed(run(ring, "get", "notes", *other), 4, "notes")
    check_failed(run(ring, "append", "notes", *other, stdin=b"mine now"), 4, "notes")
    pond(ring, "put", "notes", *other, stdin=b"another owner's")
    assert pond(ring, "get", "notes") == notes[3]
    assert pond(ring, "get", "notes", *other) == b"another owner's"
    check_failed(run(ring, "get", "notes", "--key", str(tmp_path / "none.key")), 4, "none.key")
    check_failed(run(ring, "get", "notes", "--key", "/dev/null"), 2, "/dev/null")


# --- what users get wrong ----------------------------------------------------------------------------------------

BAD_NAMES = [
    b"",
    b"n" * 10_000,
    b"caf\xe9",
    b"a/b",
    b"/etc/passwd",
    b"two\nlines",
    b"bell\x07",
    "zwölf".encode() * 100,
]
COMMANDS_ON_NAMES = [
    ("put",),
    ("append",),
    ("get",),
    ("stat",),
    ("log",),
    ("rm",),
    ("verify",),
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=range(len(BAD_NAMES)))
def test_names_that_no_object_can_have(ring, name):
    for command in COMMANDS_ON_NAMES if name == b"" else [("get",)]:
        check_failed(run(ring, *command, name), 2, "name" if name else "at least one character")
    check_failed(run(ring, "put", name, stdin=b"x"), 2)


@pytest.mark.parametrize(
    ("words", "exit_code", "said"),
    [
        (["get", "notes", "--version", "0"], 2, "--version"),
        (["get", "notes", "--version", "-1"], 2, "--version"),
        (["get", "notes", "--version", "1.5"], 2, "--version"),
        (["get", "notes", "--version", str(10**12)], 4, "versions are 1 to 3"),
        (["get", "notes", "--version", str(10**30)], 2, "--version"),
        (["get", "notes", "--vguid", "abc"], 2, "64 base-16 digits"),
        (["get", "notes", "--vguid", "ab" * 32], 4, "pond log"),
        (["get", "notes", "--at", "2001-01-01"], 4, "did not exist"),
        (["get", "notes", "--at", "1900-01-01"], 2, "1970"),
        (["get", "notes", "--at", "yesterday"], 2, "write it like"),
        (["get", "notes", "--at", "9999-12-31T23:59:59-12:00"], 2, "--at"),
        (["get", "notes", "--at", "9" * 40], 2, "--at"),
        (["get", "notes", "--version", "1", "--at", "2030-01-01"], 2, "choose one"),
        (["get", "notes", "--consistency", "eventual"], 2, "latest"),
        (["get", "notes", "--timeout", "0"], 2, "--timeout"),
        (["get", "notes", "-o", "/nowhere/file"], 2, "/nowhere/file"),
        (["get", "notes", "-o", "/tmp"], 2, "/tmp"),
        (["get", "nothing"], 4, "nothing"),
        (["stat", "nothing"], 4, "nothing"),
        (["log", "nothing"], 4, "nothing"),
        (["rm", "nothing"], 4, "nothing"),
        (["append", "nothing"], 4, "nothing"),
        (["put", "nothing", "--if-version", "3"], 4, "nothing"),
        (["restore", "notes", "99"], 4, "versions are 1 to 3"),
        (["restore", "notes", "0"], 2, "restore --help"),
        (["diff", "notes", "1", "99"], 4, "versions are 1 to 3"),
        (["diff", "notes", "1"], 2, "NEW"),
        (["export", "nothing", "-o", "/dev/null"], 4, "nothing"),
        (["export", "notes"], 2, "-o"),
        (["export", "notes", "-o", "/nowhere/file"], 2, "/nowhere/file"),
        (["verify", "nothing"], 4, "nothing"),
        (["verify", "/etc/hostname"], 2, "--ring-key"),
        (["verify", "/nowhere/file", "--ring-key", "00" * 32], 2, "/nowhere/file"),
        (["verify", "/etc/passwd", "--ring-key", "00" * 32], 6, "bytes 0 to"),
        (["put", "notes", "/nowhere/file"], 2, "/nowhere/file"),
        (["put", "notes", "/tmp"], 2, "/tmp"),
        (["put", "notes", "--if-version", "0"], 2, "--if-version"),
        (["put", "notes", "--if-version", "1", "--if-absent"], 2, "choose one"),
        (["put", "notes", "--if-absent"], 3, "version 3"),
        (["put", "notes", "--block-size", "5 elephants"], 2, "64K"),
        (["put", "blocks", "--block-size", "1"], 2, "block size"),
        (["put", "blocks", "--block-size", "1G"], 2, "--block-size"),
        (["append", "notes", "/dev/null"], 2, "nothing to append"),
        (["gett", "notes"], 2, "gett"),
        (["get"], 2, "NAME"),
        (["get", "notes", "--nonsense"], 2, "--nonsense"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(ring, notes, words, exit_code, said):
    check_failed(run(ring, *words), exit_code, said)
    assert pond(ring, "get", "notes") == notes[3]


def test_a_cluster_that_is_not_there(ring, tmp_path):
    for words in (["get", "notes"], ["put", "notes"], ["ls"], ["key", "show"]):
        check_failed(run(tmp_path / "gone", *words), 4, str(tmp_path / "gone"))
    (tmp_path / "cluster.json").write_text("{}")
    check_failed(run(tmp_path, "get", "notes"), 2, "cluster.json")


def test_the_cluster_is_named_before_or_after_the_command(ring, notes, tmp_path):
    named = ["--cluster", str(ring)]
    assert run(tmp_path, *named, "get", "notes").stdout == notes[3]
    assert run(tmp_path, "get", "notes", *named).stdout == notes[3]
    assert run(None, "--cluster", str(tmp_path), "get", *named, "notes").stdout == notes[3]


def test_one_of_two_writers_with_the_same_expectation_wins(ring):
    pond(ring, "put", "contested", stdin=b"first")
    writers = [
        subprocess.Popen(
            [*POND, "put", "contested", "--if-version", "1"],
            env=environment(ring),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for number, writer in enumerate(writers):
        writer.communicate(b"writer %d" % number, timeout=COMMAND_SECONDS)
    codes = [writer.returncode for writer in writers]
    assert sorted(codes) == [0, 3]
    assert pond(ring, "get", "contested") == b"writer %d" % codes.index(0)
    assert [event["status"] for event in answer(ring, "log", "contested")] == ["committed", "committed", "aborted"]


# --- servers that do not help ------------------------------------------------------------------------------------


def test_one_server_down_is_not_noticed(ring, notes):
    with killed(ring, "ring-3"):
        pond(ring, "put", "alone", stdin=b"three are enough")
        assert pond(ring, "get", "alone") == b"three are enough"


def test_the_leader_is_missed_for_a_moment_only(ring, notes):
    before = answer(ring, "cluster", "status")["primary"]
    with killed(ring, before):
        pond(ring, "put", "leaderless", stdin=b"another one leads")
        found = answer(ring, "cluster", "status")
        assert found["primary"] not in (None, before)
        assert pond(ring, "get", "leaderless") == b"another one leads"
        assert f"{before} is stopped" in pond(ring, "cluster", "status").decode()


def test_more_servers_down_are_said_and_nothing_is_lost(ring, notes):
    with killed(ring, "ring-2", "ring-3"):
        # Of its own: it may still be ordered when the servers are back.
        check_failed(run(ring, "put", "unsure", *SHORT, stdin=b"x"), 5, "pond cluster status")
        check_failed(run(ring, "get", "notes", *SHORT), 5, "pond cluster status")
        assert pond(ring, "get", "notes", "--consistency", "any") == notes[3], "one server's proof is enough"
        with killed(ring, "ring-1"):
            check_failed(run(ring, "get", "notes", *SHORT), 5, "pond cluster status")
            check_failed(run(ring, "ls", *SHORT), 5)
    assert pond(ring, "get", "notes") == notes[3]


def test_a_cluster_that_is_stopped_keeps_everything(tmp_path):
    directory = tmp_path / "cluster"
    try:
        pond(directory, "cluster", "up")
        pond(directory, "put", "kept", stdin=b"for ever")
        pond(directory, "put", "later", stdin=b"whose votes are synced, and what came before them")
        pond(directory, "cluster", "kill", "ring-0", "ring-1", "ring-2", "ring-3")
        check_failed(run(directory, "get", "kept", *SHORT), 5, "pond cluster")
        pond(directory, "cluster", "restart", "ring-2")
        assert pond(directory, "get", "kept", "--consistency", "any") == b"for ever", "it keeps what the ring signed"
        check_failed(run(directory, "get", "kept", *SHORT), 5, "pond cluster")
        pond(directory, "cluster", "up")
        assert pond(directory, "get", "kept") == b"for ever"
    finally:
        stop(directory)


# --- interrupts --------------------------------------------------------------------------------------------------


def interrupted(command, when, number=signal.SIGINT):
    """Send a signal to a running command once `when` holds; its exit code and what it said."""
    until = monotonic() + COMMAND_SECONDS
    try:
        while not when() and monotonic() < until:
            assert command.poll() is None, command.communicate()
        command.send_signal(number)
        command.wait(COMMAND_SECONDS)
        return command.returncode, command.stderr.read()
    finally:
        command.kill()
        command.wait()


def test_an_interrupted_put_changes_nothing(ring):
    """It reads standard input that does not end."""
    command = subprocess.Popen(
        [*POND, "put", "half", "-"], env=environment(ring), stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert command.stdin is not None
    pipe = command.stdin.fileno()
    os.set_blocking(pipe, False)
    taken = 0

    def takes():
        """It has taken more than a pipe holds: it is reading."""
        nonlocal taken
        with suppress(BlockingIOError):
            taken += os.write(pipe, bytes(65536))
        return taken > 4_000_000

    assert interrupted(command, takes) == (130, b"pond: interrupted\n")
    check_failed(run(ring, "get", "half"), 4, "half")


@pytest.mark.parametrize(("number", "code", "said"), [(2, 130, b"pond: interrupted\n"), (15, 143, b"")])
def test_an_interrupted_get_leaves_no_file(ring, notes, tmp_path, number, code, said):
    with killed(ring, "ring-2", "ring-3"):
        command = subprocess.Popen(
            [*POND, "get", "notes", "-o", str(tmp_path / "out")], env=environment(ring), stderr=subprocess.PIPE
        )
        assert interrupted(command, lambda: any(tmp_path.iterdir()), number) == (code, said)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_get_leaves_the_file_as_it_was(ring, notes, tmp_path):
    (tmp_path / "out").write_text("mine")
    check_failed(run(ring, "get", "nothing", "-o", str(tmp_path / "out")), 4)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out", "mine")]


def test_a_reader_that_goes_away_is_no_error_to_tell_of(ring, tmp_path):
    pond(ring, "put", "long", stdin=bytes(3_000_000))
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*POND, "get", "long"], env=environment(ring), stdout=writing, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_output_that_cannot_be_written(ring, notes):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*POND, "get", "notes"], env=environment(ring), stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr.count(b"\n")) == (5, 1)
    assert b"No space left" in done.stderr


def test_python_without_asserts_is_refused(ring):
    done = subprocess.run([POND[0], "-O", *POND[1:], "ls"], env=environment(ring), capture_output=True)
    check_failed(done, 2, "-O")

"""Local clusters of real processes: starting, looking, hurting, stopping, and whatever a user may get wrong."""

import json
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from time import monotonic

import pytest

from cluster import launch, layout, processes
from tests.process.commands import COMMAND_SECONDS, POND, answer, check_failed, environment, pond, run, states
from tests.process.conftest import stop

pytestmark = pytest.mark.process

RUNNING = dict.fromkeys(["ring-0", "ring-1", "ring-2", "ring-3"], "running")


@pytest.fixture
def stopped(tmp_path):
    """A cluster that was made and is not started; a test may start it or damage it."""
    directory = tmp_path / "cluster"
    places = layout.create(directory, 4).servers
    yield directory
    for place in places:
        processes.send(place, signal.SIGKILL)
        processes.wait_for_end(place, COMMAND_SECONDS)
    shutil.rmtree(directory, ignore_errors=True)


def process_ids(directory: Path) -> list[int]:
    """Server processes of a cluster, found without its help."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            if any(word.startswith(os.fsencode(directory / "servers")) for word in words):
                found.append(int(entry.name))
    return found


def test_status_tells_of_every_server_and_the_key(ring):
    status = answer(ring, "cluster", "status")
    assert list(RUNNING) == [server["name"] for server in status["ring"]]
    assert {server["state"] for server in status["ring"]} == {"running"}
    assert sorted(server["pid"] for server in status["ring"]) == sorted(process_ids(ring))
    assert {server["primary"] for server in status["ring"]} <= set(RUNNING)
    assert all(server["sequence"] >= 1 and server["view"] >= 0 for server in status["ring"])
    assert status["public_key"] == json.loads((ring / "cluster.json").read_text())["ring_key"]
    assert status["replicas"] == status["storage"] == []
    text = pond(ring, "cluster", "status").decode()
    assert f"{status['primary']} leads, in view {status['view']}." in text
    assert "All 4 servers serve" in text
    assert (status["may_fail"], {server["condition"] for server in status["ring"]}) == (1, {"serving"})
    assert status["public_key"] in text


def test_secrets_are_closed_to_others(ring):
    for path in [ring, *ring.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_second_up_says_that_it_runs(ring):
    check_failed(run(ring, "cluster", "up"), 2, "is running", "pond cluster status")
    assert states(ring) == RUNNING


def test_killed_paused_and_brought_back(ring):
    assert answer(ring, "cluster", "kill", "ring-3") == {"servers": ["ring-3"], "done": "killed"}
    assert states(ring) == RUNNING | {"ring-3": "stopped"}
    text = pond(ring, "cluster", "status")
    assert b"ring-3 is stopped: `pond cluster restart ring-3` starts it." in text
    assert b"The ring works on with 3 of 4 servers; no more may fail" in text
    check_failed(run(ring, "cluster", "kill", "ring-3"), 2, "ring-3 is not running", "restart ring-3")
    check_failed(run(ring, "cluster", "pause", "ring-2", "ring-3"), 2, "ring-3 is not running")
    pond(ring, "cluster", "pause", "ring-2")
    assert states(ring) == RUNNING | {"ring-2": "paused", "ring-3": "stopped"}
    assert b"writes wait" in pond(ring, "cluster", "status")
    check_failed(run(ring, "cluster", "resume", "ring-2", "ring-1"), 2, "ring-1 is not paused")
    assert states(ring)["ring-2"] == "paused"
    pond(ring, "cluster", "pause", "ring-1")
    check_failed(run(ring, "cluster", "up"), 2, "ring-1, ring-2 are paused: `pond cluster resume ring-1 ring-2` lets")
    pond(ring, "cluster", "resume", "ring-1", "ring-2")
    pond(ring, "cluster", "restart", "ring-3")
    assert states(ring) == RUNNING


def test_up_starts_only_those_that_are_down(ring):
    before = {server["name"]: server["pid"] for server in answer(ring, "cluster", "status")["ring"]}
    pond(ring, "cluster", "kill", "ring-1")
    assert b"4 servers run" in (said := pond(ring, "cluster", "up"))
    assert b"(ring-1 started now)" in said
    after = {server["name"]: server["pid"] for server in answer(ring, "cluster", "status")["ring"]}
    assert {name for name in before if before[name] != after[name]} == {"ring-1"}


def test_a_paused_server_can_be_restarted_and_killed(ring):
    pond(ring, "cluster", "pause", "ring-3")
    pond(ring, "cluster", "restart", "ring-3")
    assert states(ring) == RUNNING
    pond(ring, "cluster", "pause", "ring-3")
    pond(ring, "cluster", "kill", "ring-3")
    assert states(ring)["ring-3"] == "stopped"
    pond(ring, "cluster", "restart", "ring-3")


def test_unknown_servers_are_named_with_those_that_there_are(ring):
    for command in ("kill", "pause", "resume", "restart"):
        check_failed(run(ring, "cluster", command, "ring-9"), 2, "'ring-9'", "ring-0, ring-1, ring-2, ring-3")
        check_failed(run(ring, "cluster", command), 2, "NODE")
    check_failed(run(ring, "cluster", "logs", "\n" * 10_000), 2, "no server")


def test_logs_end_with_the_newest_line(ring):
    lines = pond(ring, "cluster", "logs", "ring-0", "-n", "1").splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["server"] == "ring-0"
    assert pond(ring, "cluster", "logs", "ring-0", "-n", "0") == b""


def test_followed_logs_go_on_until_interrupted(ring):
    follow = subprocess.Popen(
        [*POND, "cluster", "logs", "-f", "-n", "0", "ring-2"],
        env=environment(ring),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert follow.stdout is not None
        with (ring / "servers" / "ring-2" / "server.log").open("ab") as log:
            # Written again until it is seen: nobody knows when the command has begun to look.
            until = monotonic() + COMMAND_SECONDS
            os.set_blocking(follow.stdout.fileno(), False)
            seen = b""
            while b"a new line" not in seen and monotonic() < until:
                log.write(b'{"event":"a new line"}\n')
                log.flush()
                seen += follow.stdout.read() or b""
        assert b"a new line" in seen
        follow.send_signal(signal.SIGINT)
        _, said = follow.communicate(timeout=COMMAND_SECONDS)
    finally:
        follow.kill()
        follow.wait()
    assert follow.returncode == 130
    assert said == b"pond: interrupted\n"


def test_a_recycled_process_id_is_never_signalled(ring):
    """The file of ring-3 is made to name another process: nothing may happen to that."""
    place = layout.open_layout(ring).named(("ring-3",))[0]
    identity = json.loads(place.process.read_text())
    innocent = subprocess.Popen(["sleep", "1000"])
    try:
        place.process.write_text(json.dumps(identity | {"pid": innocent.pid}))
        check_failed(run(ring, "cluster", "kill", "ring-3"), 2, "ring-3 is not running")
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()
        place.process.write_text(json.dumps(identity))
    assert states(ring) == RUNNING


def test_commands_take_turns(ring):
    """While one command is at work, the next one waits."""
    with launch.locked(ring):
        waiting = subprocess.Popen(
            [*POND, "cluster", "pause", "ring-3"], env=environment(ring), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1)
    assert waiting.communicate(timeout=COMMAND_SECONDS) == (b"ring-3: paused.\n", b"")
    pond(ring, "cluster", "resume", "ring-3")


def test_two_clusters_side_by_side(ring, tmp_path):
    other = tmp_path / "other"
    try:
        pond(other, "cluster", "up")
        assert states(other) == states(ring) == RUNNING
        pond(other, "cluster", "down")
        assert process_ids(other) == []
        assert states(ring) == RUNNING
    finally:
        stop(other)


def test_down_leaves_the_data_and_nothing_else(stopped):
    pond(stopped, "cluster", "up")
    pond(stopped, "cluster", "pause", "ring-0")
    stopped_servers = answer(stopped, "cluster", "down")
    assert stopped_servers == {"servers": list(RUNNING), "done": "stopped"}
    assert process_ids(stopped) == []
    assert list(stopped.rglob("process")) == []
    assert states(stopped) == dict.fromkeys(RUNNING, "stopped")
    assert b"No server was running" in pond(stopped, "cluster", "down")
    check_failed(run(stopped, "cluster", "kill", "ring-0"), 2, "not running")
    pond(stopped, "cluster", "up")
    assert states(stopped) == RUNNING
    pond(stopped, "cluster", "down", "--delete")
    assert not stopped.exists()
    assert list(stopped.parent.iterdir()) == []


def test_servers_outlive_the_session_of_the_command_that_started_them(stopped):
    """A terminal that closes signals its session; servers have sessions of their own."""
    pond(stopped, "cluster", "up")
    found = process_ids(stopped)
    assert len(found) == 4
    assert all(os.getsid(pid) == pid for pid in found)


@pytest.mark.parametrize("signals", [1, 1000])
@pytest.mark.parametrize("moment", ["beginning", "making", "starting"])
def test_an_interrupted_up_stops_what_it_started_and_leaves_nothing(tmp_path, moment, signals):
    """However often Ctrl-C is pressed, and whenever."""
    directory = tmp_path / "cluster"
    up: subprocess.Popen[bytes]
    reached = {
        "beginning": lambda: b"pond" in Path(f"/proc/{up.pid}/cmdline").read_bytes(),
        "making": lambda: any(tmp_path.iterdir()),
        "starting": lambda: process_ids(directory),
    }[moment]
    up = subprocess.Popen([*POND, "cluster", "up"], env=environment(directory), stderr=subprocess.PIPE)
    try:
        until = monotonic() + COMMAND_SECONDS
        while not reached() and monotonic() < until:
            assert up.poll() is None
        for _ in range(signals):
            up.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                up.wait(0.002)
                break
        _, said = up.communicate(timeout=COMMAND_SECONDS)
        if moment == "beginning":  # Python itself may not have begun
            assert up.returncode in (130, -signal.SIGINT)
        else:
            assert (up.returncode, said) == (130, b"pond: interrupted\n")
        assert process_ids(directory) == []
        assert list(tmp_path.iterdir()) == []
    finally:
        up.kill()
        up.wait()
        stop(directory)


def test_what_a_killed_command_left_half_made_is_cleared_away(tmp_path):
    directory = tmp_path / "cluster"
    left = tmp_path / ".cluster.0123456789abcdef"
    busy = tmp_path / ".cluster.fedcba9876543210"
    others = [tmp_path / ".cluster.backup", tmp_path / ".other.0123456789abcdef"]
    for place in [left, busy, *others]:
        (place / "servers").mkdir(parents=True)
    try:
        with launch.locked(busy):
            pond(directory, "cluster", "up")
        assert not left.exists()
        assert all(place.exists() for place in [busy, *others])
    finally:
        stop(directory)


def test_another_size_than_the_directory_has(stopped):
    check_failed(run(stopped, "cluster", "up", "--ring", "7"), 2, "ring of 4", "--ring")
    check_failed(run(stopped, "cluster", "up", "--ring", "5"), 2, "--ring")


def test_a_damaged_server_is_named_and_the_others_serve(stopped):
    shutil.rmtree(stopped / "servers" / "ring-3")
    done = run(stopped, "cluster", "up", "--json")
    assert done.returncode == 0
    said = done.stderr.decode()
    assert said.startswith("pond: warning: ring-3 does not serve: ")
    assert "servers/ring-3" in said
    found = json.loads(done.stdout)
    assert found["started"] == ["ring-0", "ring-1", "ring-2"]
    (failed,) = found["failed"]
    assert (failed["name"], "copy" in failed["reason"]) == ("ring-3", True)
    assert states(stopped) == RUNNING | {"ring-3": "stopped"}
    assert len(process_ids(stopped)) == 3
    pond(stopped, "put", "notes", stdin=b"three are enough")
    again = run(stopped, "cluster", "up")
    assert again.returncode == 0
    assert b"3 servers run" in again.stdout
    assert b"none started now" in again.stdout
    check_failed(run(stopped, "cluster", "restart", "ring-3"), 2, "ring-3", "copy")
    assert b"ring-3 is stopped and cannot start: " in pond(stopped, "cluster", "status")


@pytest.mark.parametrize("name", ["node.key", "share.key", "node.json", ""])
@pytest.mark.parametrize("content", [None, b"", b"\xff" * 100, b"{}\n"])
def test_too_many_damaged_servers_are_refused_by_name(stopped, name, content):
    for server in ("ring-1", "ring-2"):
        path = stopped / "servers" / server / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        if content is not None:
            path.write_bytes(content)
    check_failed(run(stopped, "cluster", "up"), 2, f"ring-1/{name}", "ring-2 cannot serve either", "3 servers are")
    assert process_ids(stopped) == []


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"{}\n"])
@pytest.mark.parametrize("name", ["cluster.json", "owner.key"])
def test_a_file_of_the_whole_cluster_that_is_damaged_is_refused(stopped, name, content):
    (stopped / name).write_bytes(content)
    check_failed(run(stopped, "cluster", "up"), 2, name)
    assert process_ids(stopped) == []


def test_keys_of_another_server_are_refused(stopped):
    for name in ("node.key", "share.key"):
        first, second = (stopped / "servers" / server / name for server in ("ring-0", "ring-1"))
        kept = first.read_bytes(), second.read_bytes()
        first.write_bytes(kept[1])
        second.write_bytes(kept[0])
        check_failed(run(stopped, "cluster", "up"), 2, name)
        first.write_bytes(kept[0])
        second.write_bytes(kept[1])


def test_keys_that_others_can_read_are_refused(stopped):
    keys = [stopped / "servers" / server / "node.key" for server in ("ring-2", "ring-3")]
    for key in keys:
        key.chmod(0o644)
    check_failed(run(stopped, "cluster", "up"), 2, "node.key", "chmod 600")
    for key in keys:
        key.chmod(0o600)
    stopped.chmod(0o755)
    check_failed(run(stopped, "cluster", "up"), 2, "chmod 700")


def test_half_a_cluster_is_no_cluster(stopped):
    (stopped / "cluster.json").unlink()
    for command in ("up", "status"):
        check_failed(run(stopped, "cluster", command), 2, "cluster.json")


@pytest.mark.parametrize("damage", ["no cluster.json", "bad cluster.json", "no process file", "no server", "nothing"])
def test_down_stops_what_runs_whatever_is_damaged(stopped, damage):
    pond(stopped, "cluster", "up")
    match damage:
        case "no cluster.json":
            (stopped / "cluster.json").unlink()
        case "bad cluster.json":
            (stopped / "cluster.json").write_text("{}")
        case "no process file":
            (stopped / "servers" / "ring-1" / "process").unlink()
        case "no server":
            shutil.rmtree(stopped / "servers" / "ring-1")
        case "nothing":
            shutil.rmtree(stopped)
    assert len(process_ids(stopped)) == 4
    done = run(stopped, "cluster", "down", "--json")
    assert done.returncode == 0, done.stderr
    assert sorted(json.loads(done.stdout)["servers"]) == list(RUNNING)
    assert process_ids(stopped) == []
    assert (b"pond: warning: " in done.stderr) == (damage in ("no cluster.json", "bad cluster.json", "nothing"))


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for command in ("up", "status", "down"):
        check_failed(run(tmp_path, "cluster", command), 4, "is no cluster")
    check_failed(run(tmp_path / "mine.txt", "cluster", "up"), 2, "is a file")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_directory_that_does_not_exist(tmp_path):
    for command in (["status"], ["down"], ["kill", "ring-0"], ["logs", "ring-0"]):
        check_failed(run(tmp_path / "gone", "cluster", *command), 4, "pond cluster up")


def test_a_server_that_cannot_start_shows_its_log(stopped):
    """One does not keep the others from serving; of two, the reason is on the screen and nothing runs."""
    place = layout.open_layout(stopped).servers[2]
    (place.directory / "store").write_text("no directory")
    done = run(stopped, "cluster", "up")
    said = done.stderr.decode().splitlines()
    assert done.returncode == 0, said
    assert said[-1].startswith("pond: warning: ring-2 does not serve: ring-2 ended while it was starting")
    assert any("store" in line for line in said[:-1]), said
    assert b"3 servers run" in done.stdout
    assert states(stopped) == RUNNING | {"ring-2": "stopped"}
    pond(stopped, "cluster", "down")
    (stopped / "servers" / "ring-3" / "server.log").unlink()
    (stopped / "servers" / "ring-3" / "server.log").mkdir()
    done = run(stopped, "cluster", "up")
    said = done.stderr.decode().splitlines()
    assert done.returncode == 5
    assert said[-1].startswith("pond: ring-3 cannot be started (Is a directory)")
    assert "ring-2 cannot serve either); 3 servers are needed, so the cluster stays down" in said[-1]
    assert process_ids(stopped) == []
    assert processes.look(place) == processes.STOPPED

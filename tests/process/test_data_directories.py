"""Clusters that earlier versions of Pond left behind: today's servers start on them, and everything is there."""

import hashlib

import pytest

import pond
from pond.errors import NotFound
from tests.process import commands
from tests.process.conftest import stop
from tests.vectors.data_directories import NUMBERS, unpack

pytestmark = pytest.mark.process


@pytest.fixture(params=NUMBERS)
def golden(request, tmp_path):
    unpacked = unpack(request.param, tmp_path)
    yield unpacked
    stop(unpacked.directory)


def test_a_ring_goes_on_where_it_stopped(golden):
    directory, expected = golden.directory, golden.expected
    commands.pond(directory, "cluster", "up")
    status = commands.answer(directory, "cluster", "status")
    assert [server["state"] for server in status["ring"]] == ["running"] * 4
    assert status["public_key"] == expected["ring_key"]
    with pond.connect(directory) as store:
        assert {found.name for found in store.stats(deleted=True)} == set(expected["objects"])
        for name, known in expected["objects"].items():
            check_object(store.open(name), known["history"])
        made = store.open("notes").append(b", and one more")
        assert made.number == expected["objects"]["notes"]["history"][-1]["version"] + 1
        assert store.open("notes").read() == b"one two, and one more"
        assert store.create("new").write(b"new").number == 1
    commands.pond(directory, "cluster", "kill", "ring-2")
    assert commands.pond(directory, "get", "notes") == b"one two, and one more"


def check_object(thing, history):
    seen = [
        (entry.version, entry.vguid.hex(), entry.size, entry.time.isoformat(), entry.status)
        for entry in thing.history()
    ]
    assert seen == [
        (known["version"], known["vguid"], known["size"], known["time"], known["status"]) for known in history
    ]
    for known in history:
        if known["status"] == "committed":
            assert hashlib.sha256(thing.read(version=known["version"])).hexdigest() == known["sha256"]
    assert thing.verify().aborted == sum(known["status"] == "aborted" for known in history)
    if history[-1]["status"] == "deleted":
        with pytest.raises(NotFound, match="deleted"):
            thing.read()


def test_a_bundle_verifies_without_a_ring(golden):
    expected = golden.expected
    done = commands.run(None, "verify", str(golden.bundle), "--ring-key", expected["ring_key"], "--json")
    assert done.returncode == 0, done.stderr
    assert b'"ok": true' in done.stdout or b'"ok":true' in done.stdout
    other = "00" * 31 + "01"
    assert commands.run(None, "verify", str(golden.bundle), "--ring-key", other).returncode == 6

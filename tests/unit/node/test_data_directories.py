"""What earlier versions left on their disks: storage, log and state are read as they were written, without a socket."""

import json

import pytest

from bft import log
from bft.checkpoints import checkpoint_digest
from bft.state_tree import Kind, state_key
from bft.types import Sequence
from pond.model.tables import NUMBERS, OUTCOMES, number_key, outcome_key, parse_number_value
from pond.model.version import decode_outcome, decode_record
from pond.node.server import TABLES
from tests.vectors.data_directories import DIRECTORY, describe_server, make, open_server, unpack
from tests.vectors.data_directories import NUMBERS as DIRECTORIES

SERVERS = range(4)


@pytest.fixture(scope="module", params=DIRECTORIES)
def golden(request, tmp_path_factory):
    return unpack(request.param, tmp_path_factory.mktemp("golden"))


@pytest.fixture(params=SERVERS)
def server(request, golden):
    opened = open_server(golden.directory, request.param)
    yield opened
    opened.storage.close()


def test_there_is_one_and_none_is_too_large():
    assert DIRECTORIES
    sizes = [path.stat().st_size for path in DIRECTORY.iterdir()]
    assert max(sizes) < 1_000_000


@pytest.mark.parametrize("number", DIRECTORIES)
def test_what_is_there_is_never_made_again(number):
    with pytest.raises(SystemExit, match="take the next number"):
        make(number)


@pytest.mark.parametrize("identity", SERVERS)
def test_a_server_is_as_far_as_it_was(golden, identity):
    assert describe_server(golden.directory, identity) == golden.expected["servers"][identity]
    assert golden.expected["servers"][identity]["view"] >= 1, "views have changed"
    assert golden.expected["servers"][identity]["stable"] > 0, "there was a checkpoint"


def test_every_stored_value_is_sound(server):
    assert server.storage.verified
    for table in TABLES:
        server.storage.check_whole(table)


def test_the_log_reads(server):
    """Batches with their votes, what leads back to the state before each, checkpoints, the view."""
    replica = server.core.replica
    stable, executed = replica.checkpoints.stable, replica.execution.executed
    entries = log.read(server.storage, Sequence(1), executed)
    requests = 0
    for sequence in map(Sequence, range(stable + 1, executed + 1)):
        entry = entries[sequence]
        assert entry.ran is not None
        assert entry.votes
        assert entry.prepared is not None
        assert log.read_undo(server.storage, sequence) is not None
        requests += len(log.read_contents(server.storage, sequence, entry.ran.place).requests)
    assert requests > 5
    assert any(entry.checkpoint is not None for entry in entries.values())
    assert log.read_standing(server.storage).new_view is not None


def test_the_checkpoint_is_proved_and_its_state_is_reached_by_undoing(server):
    replica = server.core.replica
    proven = log.read_stable(server.storage)
    assert proven is not None
    assert replica.checkpoints.proves(proven)
    states = {sequence: (time, tree.root) for sequence, time, tree in replica.execution.earlier(proven.sequence)}
    assert checkpoint_digest(proven.sequence, *states[proven.sequence]) == proven.digest


def test_every_object_has_its_versions_and_its_history(server, golden):
    tree = server.core.replica.execution.tree
    statuses = set()
    for known in golden.expected["objects"].values():
        aguid = bytes.fromhex(known["aguid"])
        record = decode_record(tree.get(state_key(Kind.OBJECT, aguid)))
        history = known["history"]
        assert record.history.count == len(history)
        assert (record.number, record.vguid.hex()) == (history[-1]["version"], history[-1]["vguid"])
        for index, entry in enumerate(history):
            outcome = decode_outcome(server.storage.get(OUTCOMES, outcome_key(aguid, index)))
            assert (outcome.number, outcome.vguid) == (entry["version"], bytes.fromhex(entry["vguid"]))
            assert outcome.size_bytes == entry["size"]
            statuses.add(entry["status"])
            if entry["status"] != "aborted":
                made = server.storage.get(NUMBERS, number_key(aguid, entry["version"]))
                assert parse_number_value(made) == (index, outcome.vguid)
    assert statuses == {"committed", "aborted", "deleted"}


def test_what_is_expected_is_plain(golden):
    assert set(golden.expected) == {"ring_key", "objects", "formats", "servers"}
    assert "several blocks" in golden.expected["objects"]
    assert json.dumps(golden.expected["formats"])

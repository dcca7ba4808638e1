"""What `pond cluster status` says of every state that a ring can be in."""

import threading
from pathlib import Path

import msgspec
import pytest

from cluster import launch, status
from cluster.launch import InOverlay, Report
from cluster.layout import Layout
from cluster.processes import STOPPED, Process, State
from pond.config import ClusterFile, Hex, Member, StorageMember
from pond.node.server import DAMAGED
from pond.protocol import Condition, OverlayStatus, ServerStatus

RUNNING = Process(State.RUNNING, 100)
PAUSED = Process(State.PAUSED, 100)


def layout(size=4, storage=0):
    members = tuple(
        Member(
            id=i,
            public_key=Hex(bytes([i] * 32)),
            peer_address="p",
            client_address="c",
            metrics_address="m",
            overlay_address="o",
        )
        for i in range(size)
    )
    others = tuple(
        StorageMember(
            id=i, public_key=Hex(bytes([100 + i] * 32)), overlay_address="o", client_address="c", metrics_address="m"
        )
        for i in range(storage)
    )
    cluster = ClusterFile(
        ring_id=Hex(bytes(32)),
        epoch=0,
        ring_key=Hex(bytes(32)),
        members=members,
        created="2000-01-01T00:00:00+00:00",
        storage=others,
    )
    return Layout(Path("/nowhere"), cluster)


def says(
    sequence=1000,
    view=0,
    primary=0,
    condition=Condition.SERVING,
    detail="",
    active=True,
    free=2**30,
    upload: int | None = 2**28,
):
    """What a server answers."""
    numbers = (1, 0, view, primary, sequence, sequence, 0, 0)
    return ServerStatus(*numbers, bytes(32), 0, 0, 0, {}, condition, detail, free, active, upload)


def look(*servers):
    """Status of a ring: for each server what it answers, or else how its process is."""
    place = layout(len(servers))
    reports = [
        Report(server, RUNNING, said) if isinstance(said, ServerStatus) else Report(server, said, None)
        for server, said in zip(place.servers, servers, strict=True)
    ]
    return status.look(place, reports)


def sentences(*servers):
    return status.sentences(look(*servers))


def test_all_is_well():
    assert sentences(says(), says(), says(), says()) == [
        "ring-0 leads, in view 0.",
        "All 4 servers serve; any one of them may fail or lie.",
    ]
    assert "any three of them" in sentences(*[says()] * 10)[-1]


def test_a_table_has_a_line_for_each_server():
    found = look(says(), says(sequence=998, condition=Condition.CATCHING_UP), STOPPED, says(view=4))
    lines = [line.split() for line in status.figures(found).splitlines()]
    assert lines[0] == "SERVER STATE PID VIEW SEQUENCE BEHIND DISK FREE NEIGHBOURS ROLE/NOTE".split()
    assert lines[1] == "ring-0 running 100 0 1000 0 0 bytes 1.0 GiB - leads".split()
    assert lines[2] == "ring-1 running 100 0 998 2 0 bytes 1.0 GiB - catching up".split()
    assert lines[3] == "ring-2 stopped - - - - 0 bytes - -".split()
    assert lines[4] == "ring-3 running 100 4 1000 0 0 bytes 1.0 GiB -".split()


def in_overlay(place, *storage):
    """Ring servers that have joined, and for each storage server what it answers or else how its process is."""
    nodes = [InOverlay(server, RUNNING, node()) for server in place.servers]
    return nodes + [
        InOverlay(server, RUNNING, said) if isinstance(said, OverlayStatus) else InOverlay(server, said, None)
        for server, said in zip(place.storage, storage, strict=True)
    ]


def node(joined=True, neighbours=6):
    return OverlayStatus(1, bytes(32), joined, 120.0, neighbours, 0, 0)


def look_at_overlay(*storage):
    place = layout(4, len(storage))
    return status.look(
        place, [Report(server, RUNNING, says()) for server in place.servers], in_overlay(place, *storage)
    )


def test_storage_servers_have_lines_and_all_say_whom_they_know():
    found = look_at_overlay(node(), node(joined=False, neighbours=0), STOPPED)
    lines = [line.split() for line in status.figures(found).splitlines()]
    assert lines[1] == "ring-0 running 100 0 1000 0 0 bytes 1.0 GiB 6 leads".split()
    assert lines[5] == "storage-0 running 100 - - - - - 6 storage".split()
    assert lines[6] == "storage-1 running 100 - - - - - joining storage".split()
    assert lines[7] == "storage-2 stopped - - - - - - - storage".split()
    assert [(one.joined, one.neighbours, one.join_ms) for one in found.storage] == [
        (True, 6, 120.0),
        (False, 0, 120.0),
        (None, None, None),
    ]
    assert status.sentences(found)[1:4] == [
        "storage-2 is stopped: `pond cluster restart storage-2` starts it.",
        "Not in the overlay yet: storage-1.",
        "5 of 7 servers are in the overlay.",
    ]


def test_all_servers_in_the_overlay():
    assert "All 5 servers are in the overlay." in status.sentences(look_at_overlay(node()))


def test_storage_servers_that_do_not_run_as_they_should():
    said = status.sentences(look_at_overlay(PAUSED, PAUSED, RUNNING))
    assert "storage-0, storage-1 are paused: `pond cluster resume storage-0 storage-1` lets them go on." in said
    assert "storage-2 runs and does not answer: `pond cluster restart storage-2` may help." in said


def test_a_cluster_of_an_earlier_version_runs_no_overlay():
    place = layout()
    members = tuple(msgspec.structs.replace(member, overlay_address=None) for member in place.cluster.members)
    old = place._replace(cluster=msgspec.structs.replace(place.cluster, members=members))
    found = status.look(old, [Report(server, RUNNING, says()) for server in old.servers])
    assert (found.overlay, found.storage) == (False, [])
    assert any("runs none" in said for said in status.sentences(found))


@pytest.mark.parametrize(
    ("process", "said"),
    [
        (STOPPED, "ring-3 is stopped: `pond cluster restart ring-3` starts it."),
        (PAUSED, "ring-3 is paused: `pond cluster resume ring-3` lets it go on."),
        (RUNNING, "ring-3 runs and does not answer: `pond cluster logs ring-3` may say why, "),
        (says(sequence=900), "ring-3 is catching up, 100 batches behind."),
        (says(sequence=900, condition=Condition.TRANSFERRING), "ring-3 is transferring, 100 batches behind."),
        (says(condition=Condition.CATCHING_UP, detail="3 of 9 parts."), "ring-3 is catching up: 3 of 9 parts."),
        (
            says(condition=Condition.DISK_FULL, detail="no room"),
            "ring-3: its disk is full: no room. Once there is room it comes back by itself, within a minute.",
        ),
        (says(condition=Condition.DISK_FAILING), "ring-3: its disk fails. It comes back by itself"),
        (says(condition=Condition.DISK_DAMAGED), "ring-3: what is on its disk is damaged. It repairs itself:"),
        (says(condition=Condition.DIVERGED), "ring-3: its state differs from the ring's, so it answers no reads."),
        (says(view=2, primary=2), "ring-3 is in view 2, others are in view 0."),
    ],
)
def test_each_trouble_has_a_sentence_that_says_what_to_do(process, said):
    found = sentences(says(), says(), says(), process)
    assert found[0] == "ring-0 leads, in view 0."
    assert found[1].startswith(said)


def test_what_the_troubles_mean_for_users():
    full = says(condition=Condition.DISK_FULL)
    assert "no more may fail until" in sentences(says(), says(), says(), full)[-1]
    assert look(says(), says(), says(), full).may_fail == 0
    assert "Only 2 of 4 servers serve and 3 are needed: writes wait" in sentences(says(), says(), STOPPED, full)[-1]
    assert look(says(), says(), STOPPED, full).may_fail == -1
    assert "5 of 7 servers; no more" in sentences(*[says()] * 5, STOPPED, PAUSED)[-1]
    assert "6 of 7 servers; one more may fail" in sentences(*[says()] * 6, STOPPED)[-1]
    assert sentences(*[STOPPED] * 4) == ["The cluster is stopped: `pond cluster up` starts it."]


def test_a_stopped_server_that_lacks_a_file_says_so_instead_of_asking_for_a_restart():
    place = layout()
    reports = [Report(server, STOPPED, None, "there is no node.key; put it back") for server in place.servers[:1]]
    reports += [Report(server, RUNNING, says()) for server in place.servers[1:]]
    said = status.sentences(status.look(place, reports))
    assert said[1] == "ring-0 is stopped and cannot start: there is no node.key; put it back."
    every = [Report(server, STOPPED, None, reports[0].unfit) for server in place.servers]
    assert status.sentences(status.look(place, every))[3:] == [
        "ring-3 is stopped and cannot start: there is no node.key; put it back.",
        "The cluster is stopped: `pond cluster up` starts it.",
    ]


def test_a_server_that_lags_little_is_no_news():
    assert len(sentences(says(), says(sequence=990), says(), says())) == 2


def test_no_server_leads_by_the_word_of_f():
    found = look(says(), says(view=1, primary=1), STOPPED, STOPPED)
    assert (found.primary, found.view) == (None, None)
    said = status.sentences(found)[0]
    assert said.startswith("The servers do not agree who leads: ring-0 says ring-0 in view 0, ring-1 says ring-1")
    assert sentences(says(), STOPPED, STOPPED, STOPPED)[0] == "Too few servers answer to say who leads."


def test_of_two_views_that_f_plus_1_servers_tell_of_the_later_counts():
    found = look(says(), says(), says(view=5, primary=1), says(view=5, primary=1))
    assert (found.primary, found.view) == ("ring-1", 5)


def test_between_two_views_nobody_leads():
    changing = says(view=1, primary=1, active=False, condition=Condition.CHANGING_VIEW)
    found = look(STOPPED, changing, changing, changing)
    assert found.primary is None
    assert status.sentences(found)[0] == (
        "ring-1, ring-2, ring-3 wait for a new leader, and writes wait too: look again in a second."
    )
    too_few = sentences(PAUSED, PAUSED, changing, changing)
    assert too_few[0] == (
        "ring-2, ring-3 wait for a new leader, and writes wait too: no other can begin until one more server serves."
    )
    assert found.may_fail == 0


def test_a_leader_that_is_gone_is_replaced():
    assert sentences(STOPPED, says(), says(), says())[0] == (
        "ring-0 leads in view 0, but is stopped: the others elect another one."
    )
    assert sentences(STOPPED, PAUSED, says(), says())[0] == (
        "ring-0 leads in view 0, but is stopped: no other can begin until one more server serves."
    )


def test_one_server_that_boasts_makes_no_other_lag():
    found = look(says(), says(), says(), says(sequence=2**60))
    assert [server.behind for server in found.ring] == [0, 0, 0, 0]
    assert [server.behind for server in look(says(), STOPPED, STOPPED, STOPPED).ring] == [None] * 4


def test_what_a_server_says_stays_one_line_and_short():
    found = look(says(), says(), says(), says(condition=Condition.DIVERGED, detail="\x1b[31m{}\n" * 1000))
    assert all(line.isprintable() and len(line) < 1000 for line in status.sentences(found))


def test_a_server_without_room_for_uploads_says_so():
    """It serves, and only large writes need it to have room."""
    full = says(free=0, upload=0)
    one = look(says(), says(), says(), full)
    assert status.figures(one).splitlines()[-1].endswith("0 bytes           -  no large writes")
    assert status.sentences(one)[1:] == [
        "ring-3 refuses writes above 64.0 KiB, as its storage has no room for larger ones: raise quota_bytes in"
        " /nowhere/servers/ring-3/node.json, or make room on its disk, then `pond cluster restart ring-3`.",
        "All 4 servers serve; any one of them may fail or lie.",
    ]
    assert sentences(says(), says(), full, says(upload=4 * 2**20))[-1] == (
        "All 4 servers serve; any one of them may fail or lie."
        " Writes above 4.0 MiB wait until 3 servers have room for them."
    )
    assert "Writes above 64.0 KiB wait until 3 servers" in sentences(says(), says(), STOPPED, full)[-1]
    assert "Writes above" not in sentences(says(), STOPPED, STOPPED, full)[-1], "all writes wait"


def test_a_server_that_does_not_say_how_much_room_it_has_has_enough():
    assert len(sentences(says(), says(), says(), says(upload=None))) == 2


def test_a_ring_in_which_more_than_f_lost_their_votes_never_writes_again():
    lost = says(condition=Condition.LEARNING, detail="it lost its votes and follows")
    waits = says(condition=Condition.CHANGING_VIEW, view=1, primary=1, active=False)
    nobody, said = sentences(says(), waits, lost, lost)
    assert (nobody, sentences(waits, waits, lost, lost)[0]) == ("No server can lead any more.",) * 2
    assert said.startswith("ring-2, ring-3 lost their votes with their disks, and of 4 servers only one may: this ring")
    assert "pond export NAME" in said
    assert sentences(says(), says(), says(), lost)[1] == "ring-3 is learning: it lost its votes and follows."
    one_follows = says(condition=Condition.LEARNING, sequence=500)
    assert "cannot write again" not in sentences(says(), says(), lost, one_follows)[-1], "it may get far enough"


def test_a_backup_that_waits_alone_for_the_next_view():
    alone = says(view=1, primary=1, active=False, condition=Condition.CHANGING_VIEW)
    leads, said, means = sentences(says(), says(), says(), alone)
    assert leads == "ring-0 leads, in view 0."
    assert said.startswith(
        "ring-3 waits alone for view 1, while the others go on in view 0: it follows them, and votes"
    )
    assert means == "All 4 servers serve; any one of them may fail or lie."


def test_a_leader_that_stands_aside_does_not_lead():
    damaged = look(says(condition=Condition.DISK_DAMAGED, active=False, free=0), says(), says(), says())
    assert status.sentences(damaged)[0] == (
        "ring-0 leads in view 0, but is aside (disk damaged): the others elect another one."
    )
    assert status.figures(damaged).splitlines()[1].endswith(" -  led, disk damaged")


def test_the_damaged_storage_is_where_the_server_puts_it():
    assert status.DAMAGED == DAMAGED


def test_a_long_detail_ends_with_a_whole_word():
    found = look(says(), says(), says(), says(condition=Condition.DISK_DAMAGED, detail="0123456789 " * 100))
    assert found.ring[3].detail.endswith("0123456789 ...")


def test_the_ring_and_the_overlay_are_asked_at_the_same_time(monkeypatch):
    """Or servers that do not answer would be waited for twice."""
    both = threading.Barrier(2, timeout=10)

    def wait(_):
        both.wait()
        return []

    monkeypatch.setattr(launch, "report", wait)
    monkeypatch.setattr(launch, "overlay_report", wait)
    assert launch.reports(layout()) == ([], [])

"""The log: what it says about a number, places of batches, what is cut; Q keeps so many batches, the latest views'."""

import pytest

from bft import log
from bft.batches import batch_digest
from bft.effects import Write
from bft.messages import MAX_ACCEPTED, Accepted, ViewChange
from bft.ordering import Slot
from bft.types import AgreedTime, Sequence, View
from tests.paper.changes import leave, sent
from tests.unit.bft.ring import Client, MemoryDisk, Ring

ONE = Sequence(1)


def disk(*writes: Write) -> MemoryDisk:
    """A disk on which these have been written."""
    made = MemoryDisk()
    made.write(writes)
    return made


def vote(name: bytes, view: int, place: int) -> log.Vote:
    """A Q entry."""
    return log.Vote(name * 32, View(view), place, None, None)


def test_an_empty_disk_says_that_nothing_has_happened() -> None:
    empty = disk()
    assert log.read_entry(empty, ONE) == log.Entry()
    assert log.read_progress(empty) is None
    assert log.read_stable(empty) is None
    assert log.read_standing(empty) == log.Standing(View(0), None, None)
    assert log.read_learning(empty) == 0


def test_entries_are_read_in_order_with_all_they_hold() -> None:
    prepared = Accepted(Sequence(3), b"p" * 32, View(1))
    made = disk(
        log.ran(Sequence(300), b"r" * 32, 8),
        log.votes(Sequence(3), [vote(b"p", 1, 0)]),
        log.prepared(prepared),
        log.contents(Sequence(3), 0, log.Contents(AgreedTime(5), [])),
    )
    entries = log.read(made, Sequence(1), Sequence(1000))
    assert list(entries) == [3, 300]
    assert entries[Sequence(3)].prepared == prepared
    assert entries[Sequence(300)].ran == log.Ran(b"r" * 32, 8)
    assert log.read_contents(made, Sequence(3), 0).time == 5


def test_a_batch_lies_where_it_ran_or_was_accepted() -> None:
    entry = log.Entry(votes=[vote(b"a", 0, 2), vote(b"b", 1, 5)], ran=log.Ran(b"c" * 32, 8))
    assert [entry.place_of(name * 32) for name in (b"a", b"b", b"c", b"d")] == [2, 5, 8, None]


def test_cutting_leaves_nothing_of_a_number() -> None:
    writes = [
        *(log.contents(ONE, place, log.Contents(AgreedTime(0), [])) for place in range(log.PLACES)),
        log.votes(ONE, []),
        log.prepared(Accepted(ONE, bytes(32), View(0))),
        log.ran(ONE, bytes(32), 0),
    ]
    made = disk(*writes, log.ran(Sequence(2), bytes(32), 0))
    made.write(log.truncate(ONE, ONE))
    assert [key[:8] for key in made.tables["log"]] == [(2).to_bytes(8, "big")]


def test_a_batch_that_the_log_names_and_lacks_is_our_fault() -> None:
    with pytest.raises(AssertionError, match="lacks a batch"):
        log.read_contents(disk(), ONE, 0)


def test_of_more_batches_than_q_holds_the_one_of_the_lowest_view_goes() -> None:
    """Its place is used again, and after a restart everything is found where it should be."""
    ring = Ring()
    machine = ring.replicas[1]
    client = Client()
    digests = []
    for view in range(1, MAX_ACCEPTED + 4):
        admitted = machine._admission.admit(client.request(b"%d" % view))
        digest = batch_digest(AgreedTime(view), [(admitted.digest, admitted.request.signature)])
        machine._disk.step_done()
        machine.views.view = machine.ordering.view = View(view)
        machine.ordering.slots.clear()
        machine.batches.own(ONE, digest, AgreedTime(view), [admitted])
        slot = machine.ordering.slots.setdefault(ONE, Slot())
        slot.digest = digest
        ring.perform(machine.identity, machine.ordering._vote(ONE, slot))
        digests.append(digest)
    ring.links.clear()
    kept = machine.ordering.accepted[ONE]
    assert [vote.digest for vote in kept] == digests[-MAX_ACCEPTED:]
    assert len({vote.place for vote in kept}) == MAX_ACCEPTED
    for number, digest in enumerate(digests, 1):
        place = log.read_entry(ring.disks[1], ONE).place_of(digest)
        assert (place is None) == (digest not in digests[-MAX_ACCEPTED:])
        if place is not None:
            assert log.read_contents(ring.disks[1], ONE, place).time == number
    ring.crash(machine.identity)
    ring.restart(machine.identity)
    assert ring.replicas[1].ordering.accepted[ONE] == kept
    [own] = sent(leave(ring, 1, 50), ViewChange)
    assert len(own.pre_prepared) == MAX_ACCEPTED

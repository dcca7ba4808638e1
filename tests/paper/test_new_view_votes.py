"""Castro & Liskov, TOCS 2002, section 4.4: what was under way when a view was left goes on in the next one, once.

Design.md, 5, on time: entries of a NEW-VIEW keep theirs; fresh proposals must lie within bounds of each clock.
"""

import pytest

from bft.batches import NULL
from bft.effects import Effect, Requested
from bft.messages import Commit, Decided, Message, Prepare, PrePrepare
from bft.types import AgreedTime, ReplicaId
from tests.paper.changes import leave, prepared, reasons, receive, register, sent, views
from tests.unit.bft.ring import Client, Ring


def test_a_batch_that_prepared_commits_in_the_next_view_and_runs_once() -> None:
    ring = prepared(b"once ")
    for i in (1, 2, 3):
        leave(ring, i, 1)
    ring.run()
    assert views(ring) == [(1, True)] * 4
    ring.pass_time(0.3)
    assert [register(ring, i) for i in range(4)] == [b"once "] * 4


def test_a_batch_that_ran_is_voted_for_again_and_not_run_again() -> None:
    """4.4: 'replicas redo the protocol for messages between min-s and max-s but avoid reexecuting client requests'."""
    ring = Ring()
    ring.drops = lambda sender, to, message: isinstance(message, Commit) and to in (2, 3)
    ring.submit(Client().request(b"x"))
    assert ring.executed == [1, 1, 0, 0]
    ring.deliver_all()
    votes: list[Message] = []

    def watch(sender: ReplicaId, to: ReplicaId, message: Message) -> bool:
        if isinstance(message, Prepare | Commit) and message.view == 1 and sender == 0:
            votes.append(message)
        return isinstance(message, Decided)

    ring.drops = watch
    for i in (1, 2, 3):
        leave(ring, i, 1)
    ring.run()
    assert {type(vote) for vote in votes} == {Prepare, Commit}, "replica 0, which has run it, votes again"
    assert ring.executed == [1, 1, 1, 1]
    assert [register(ring, i) for i in range(4)] == [b"x"] * 4


def test_gaps_are_filled_with_batches_that_change_nothing() -> None:
    ring = Ring()
    ring.drops = lambda sender, to, message: (
        isinstance(message, Commit) or (isinstance(message, Prepare) and message.sequence == 1)
    )
    ring.submit(Client("a").request(b"first"))
    ring.submit(Client("b").request(b"second"))
    ring.deliver_all()
    for i in (1, 2, 3):
        leave(ring, i, 1)
    ring.run()
    assert ring.replicas[1].views.new_view is not None
    assert ring.replicas[1].views.new_view.batches[0] == NULL
    assert len(ring.replicas[1].views.new_view.batches) == 2
    assert {register(ring, i) for i in range(4)} == {b"second"}
    assert min(ring.executed) >= 2


def test_a_batch_proposed_again_after_an_hours_outage_goes_through_with_its_time() -> None:
    """agreement.md, time: 'entries of a NEW-VIEW keep theirs'."""
    ring = prepared()
    proposed = ring.now
    ring.now = AgreedTime(ring.now + 3_600_000_000)
    for i in (1, 2, 3):
        leave(ring, i, 1)
    ring.run()
    assert register(ring, 3) == b"x"
    assert ring.replicas[3].execution.time == proposed
    ring.submit(Client("later").request(b"y"), to=[1])
    assert ring.replicas[3].execution.time == ring.now, "what is proposed afresh has the time of today"


@pytest.mark.parametrize(
    ("drift", "reason"),
    [
        (3_600_000_000, "proposed time is ahead of our clock"),
        (-3_600_000_000, "proposed time is behind our clock"),
    ],
)
def test_a_primary_an_hour_ahead_or_behind_gets_no_votes(drift: int, reason: str) -> None:
    ring = Ring()
    proposals = ring.catch(PrePrepare)
    clock = ring.now
    ring.now = AgreedTime(ring.now + drift)
    ring.submit(Client().request(b"x"))
    ring.now = clock
    effects = receive(ring, 1, 0, proposals[0])
    assert reasons(effects) == [reason]
    assert not sent(effects, Prepare)


def test_a_primary_whose_clock_stands_still_is_replaced() -> None:
    ring = Ring()
    step, frozen = ring.step, ring.now

    def slow_clock(identity: ReplicaId, event: object) -> list[Effect]:
        if identity == 0 and hasattr(event, "now"):
            event = event._replace(now=frozen)  # type: ignore[attr-defined]
        return step(identity, event)  # type: ignore[arg-type]

    ring.step = slow_clock  # type: ignore[method-assign]
    ring.pass_time(8)
    assert min(view for view, _ in views(ring)[1:]) == 1
    before = ring.executed
    ring.pass_time(3)
    assert min(ring.executed[1:]) > max(before), "under another primary the ring goes on"


def test_requests_that_waited_go_to_the_new_primary() -> None:
    ring = Ring()
    ring.drops = lambda sender, to, message: sender == 0 or to == 0
    client = Client()
    for i in (1, 2, 3):
        ring.step(ReplicaId(i), Requested("client", client.request(b"x", number=1), ring.now))
    for i in (1, 2, 3):
        leave(ring, i, 1)
    ring.run()
    assert [register(ring, i) for i in (1, 2, 3)] == [b"x"] * 3


def test_a_restarted_primary_gives_up_its_view() -> None:
    """design.md, 5: it cannot know what it said."""
    ring = Ring()
    ring.submit(Client().request(b"x"))
    ring.crash(ReplicaId(0))
    ring.restart(ReplicaId(0))
    ring.run()
    assert views(ring) == [(1, True)] * 4
    ring.crash(ReplicaId(1))
    ring.restart(ReplicaId(1))
    ring.run()
    assert views(ring) == [(2, True)] * 4


def test_a_restarted_backup_goes_on_in_the_view_that_it_had_entered() -> None:
    ring = prepared()
    for i in (1, 2, 3):
        leave(ring, i, 1)
    ring.run()
    ring.crash(ReplicaId(2))
    ring.restart(ReplicaId(2))
    assert views(ring)[2] == (1, True)
    ring.submit(Client("b").request(b"y"), to=[1])
    ring.pass_time(0.3)
    assert register(ring, 2) == b"xy"

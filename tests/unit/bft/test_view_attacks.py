"""What attacks on view changes and on what surrounds them found: liars who stop, slow down, fill or end a server."""

import hashlib
import sys

import msgspec
import pytest

from bft import batches, early, requests
from bft.batches import NULL
from bft.effects import Effect, Requested
from bft.messages import (
    MAX_ACCEPTED,
    Accepted,
    Batch,
    Bodies,
    Checkpoint,
    Commit,
    Decided,
    FetchBatches,
    FetchBodies,
    Message,
    Prepare,
    PrePrepare,
    Relay,
    StableCheckpoint,
    ViewChange,
)
from bft.new_view import decide
from bft.suspicion import MOST_SECONDS, STARVED, TICK_SECONDS, Suspicion
from bft.tuning import Tuning
from bft.types import AgreedTime, Epoch, ReplicaId, Sequence, View
from tests.paper.changes import MEMBERSHIPS, change, leave, new_view, reasons, receive, register, sent, signed, views
from tests.unit.bft.ring import Client, Ring

ONE = Epoch(1)


# --- primaries that have done nothing wrong -------------------------------------------------------------------------


def test_requests_now_and_then_on_an_idle_ring_cost_no_primary_its_view() -> None:
    """The empty batch was due a second after the timer was set, and not after what was proposed since."""
    ring, client = Ring(), Client()
    for pause in (1.05, 0.3, 2.5, 1.95, 0.05, 1.5, 2.5, 0.95, 1.3, 2.2):
        ring.submit(client.request(b"x"), to=range(4))
        ring.pass_time(pause)
    assert views(ring) == [(0, True)] * 4


@pytest.mark.parametrize("kind", [Prepare, Commit])
def test_votes_of_f_liars_do_not_make_an_idle_primary_look_silent(kind: type[Prepare | Commit]) -> None:
    ring = Ring()
    for _ in range(40):
        for at in (0, 1, 2):
            ahead = Sequence(ring.executed[at] + 3)
            receive(ring, at, 3, kind(ONE, View(0), ahead, hashlib.sha256(b"nothing").digest()))
        ring.pass_time(0.1)
    assert views(ring)[:3] == [(0, True)] * 3


def test_votes_of_f_plus_1_for_what_was_not_proposed_here_do() -> None:
    """The primary has sent its proposal to others only: what they vote for is waited for."""
    ring = Ring()
    for sender in (2, 3):
        receive(ring, 1, sender, Prepare(ONE, View(0), Sequence(1), NULL))
    assert ring.replicas[1].ordering.waiting()


def test_a_request_that_can_never_run_is_held_against_nobody() -> None:
    """A client signs two requests of one number, and brings one to the primary, the other to the backups alone."""
    ring, client = Ring(), Client()
    first, second = client.request(b"first", number=1), client.request(b"second", number=1)
    for backup in (1, 2, 3):
        ring.step(ReplicaId(backup), Requested("b", second, ring.now))
    ring.submit(first, to=[0])
    assert all(replica.queued == 1 for replica in ring.replicas[1:])
    ring.pass_time(6)
    assert views(ring) == [(0, True)] * 4
    assert all(replica.queued == 0 for replica in ring.replicas)
    assert register(ring) == b"first"


def test_a_relayed_request_that_was_lost_is_relayed_again() -> None:
    ring = Ring()
    lost = ring.catch(Relay, keep=lambda message: len(lost) < 2)
    ring.step(ReplicaId(1), Requested("c", Client().request(b"x"), ring.now))
    ring.pass_time(1.2)
    assert len(lost) == 2
    assert register(ring) == b"x"
    assert views(ring) == [(0, True)] * 4


# --- primaries that have --------------------------------------------------------------------------------------------


def test_a_primary_that_makes_each_request_wait_a_little_longer_is_given_up_in_the_end() -> None:
    suspicion, usual = Suspicion(), 0.0
    for _ in range(200):
        waits = int(STARVED * (suspicion.patience + usual))
        if suspicion.tick(False, False, waits, usual, False) is not None:
            break
        suspicion.executed(fresh=True)
        usual += (waits - usual) / 16
    else:
        pytest.fail(f"it may let requests wait for {usual} ticks")
    assert waits <= 2 * STARVED * (suspicion.patience + MOST_SECONDS / TICK_SECONDS)


def test_proposals_that_nobody_signed_do_not_make_a_primary_look_slow() -> None:
    """How long a batch takes is counted from its proposal, and stretches everybody's patience."""
    ring = Ring()
    proposals = ring.catch(PrePrepare)
    ring.submit(Client().request(b"x"))
    ring.deliver_all()
    ring.now = AgreedTime(ring.now - 4_000_000)
    forged = msgspec.structs.replace(proposals[0], signature=bytes(64))
    assert reasons(receive(ring, 1, 3, forged)) == ["proposal is not signed by the primary"]
    ring.now = AgreedTime(ring.now + 4_000_000)
    ring.pass_time(0.9)
    assert ring.executed[1] >= 1
    assert ring.replicas[1].suspicion.patience == Suspicion().patience


def test_times_of_proposals_are_forgotten_with_them() -> None:
    ring, client = Ring(), Client()
    proposals: list[PrePrepare] = []

    def watch(sender: ReplicaId, to: ReplicaId, message: Message) -> bool:
        if isinstance(message, PrePrepare) and to == 1:
            proposals.append(message)
        return False

    ring.drops = watch
    for i in range(20):
        ring.submit(client.request(b"%d" % i))
    for message in proposals:
        receive(ring, 1, 2, message)
    assert not ring.replicas[1]._pacing._proposed


# --- what a liar may fill -------------------------------------------------------------------------------------------


def lies(count: int, size: int) -> list[PrePrepare]:
    """Large proposals of a lying primary, each for a number of its own and well signed."""
    ring, client = Ring(), Client()
    liar = ring.replicas[0]
    proposals = []
    for _ in range(count):
        admitted = liar._admission.admit(client.request(bytes(size)))
        proposals += sent(liar.ordering.propose([admitted], None, ring.now), PrePrepare)
    return proposals


def test_a_window_of_the_largest_proposals_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_BYTES", 10_000)
    ring = Ring()
    for message in lies(12, 2000):
        refused = reasons(receive(ring, 1, 0, message))
        ring.links.clear()
        assert refused in ([], ["more is proposed at once than we hold"])
    held = ring.replicas[1].batches
    assert held.full
    assert sum(known.size_bytes for known in held._known.values()) < 15_000


def test_proposals_of_views_to_come_are_held_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early, "PROPOSED_BYTES", 10_000)
    ring = Ring()
    message = lies(1, 2000)[0]
    refused = [reasons(receive(ring, 1, 3, msgspec.structs.replace(message, view=View(view)))) for view in range(1, 30)]
    assert refused[:4] == [[]] * 4
    assert refused[5:] == [["too many proposals for a view that has not begun"]] * 24
    for sequence in range(5000):
        receive(ring, 1, 3, Prepare(ONE, View(5), Sequence(sequence), NULL))
    assert len(ring.replicas[1]._early._kept[ReplicaId(3)]) <= early.VOTES


def test_relayed_requests_whose_bodies_never_come_are_held_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "INCOMPLETE_BYTES", 10_000)
    ring, client = Ring(), Client()
    for i in range(30):
        operation = b"#" + hashlib.sha256(b"%d" % i).digest() + bytes(2000)
        effects = receive(ring, 0, 3, Relay(ONE, client.request(operation)))
        assert sent(effects, FetchBodies)
    held = ring.replicas[0].requests._incomplete
    assert 1 < len(held) < 6
    for i in range(200):
        receive(ring, 0, 3, Relay(ONE, client.request(b"#" + hashlib.sha256(b"%d" % i).digest())))
    assert len(held) <= requests.INCOMPLETE


def test_a_relayed_request_is_not_proposed_when_a_body_has_gone_meanwhile() -> None:
    """A primary would find its own proposal incomplete: that ended it."""
    ring = Ring()
    ring.replicas[0]._service.bodies = lambda operation: [operation[1:33], operation[33:65]]  # type: ignore[method-assign]
    here, late = b"here", b"comes late"
    names = [hashlib.sha256(body).digest() for body in (here, late)]
    ring.disks[0].tables["bodies"] = {names[0]: here}
    receive(ring, 0, 3, Relay(ONE, Client().request(b"#" + names[0] + names[1])))
    ring.disks[0].tables["bodies"].clear()  # swept: nobody had used it for long
    effects = receive(ring, 0, 3, Bodies(ONE, [late]))
    assert not sent(effects, PrePrepare)
    assert ring.replicas[0].queued == 0


def test_what_was_voted_for_keeps_its_bodies_between_views() -> None:
    """Whatever view comes may decide it, an hour later: no sweep may take them."""
    ring = Ring()
    body = b"a body"
    name = hashlib.sha256(body).digest()
    ring.drops = lambda sender, to, message: isinstance(message, Prepare)
    ring.submit(Client().request(b"#" + name, [body]))
    for i in (1, 2):
        assert name in ring.replicas[i].named_bodies()
        leave(ring, i, 1)
        assert name in ring.replicas[i].named_bodies()
    ring.crash(ReplicaId(2))
    ring.restart(ReplicaId(2))
    assert name in ring.replicas[2].named_bodies()


# --- fetching -------------------------------------------------------------------------------------------------------


def test_one_batch_asked_for_a_thousand_times_is_sent_once() -> None:
    ring = Ring()
    ring.submit(Client().request(bytes(1000)))
    entry = (Sequence(1), ring.replicas[1].ordering.accepted[Sequence(1)][0].digest)
    assert len(sent(receive(ring, 1, 3, FetchBatches(ONE, [entry] * 1000)), Batch)) == 1


def test_one_body_asked_for_a_thousand_times_is_sent_once() -> None:
    ring = Ring()
    body = bytes(1000)
    name = hashlib.sha256(body).digest()
    ring.submit(Client().request(b"#" + name, [body]))
    [answer] = sent(receive(ring, 1, 3, FetchBodies(ONE, [name] * 1000)), Bodies)
    assert answer.bodies == [body]


def test_who_fetches_without_end_is_served_so_much_a_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "ALLOWANCE_BYTES", 3000)
    monkeypatch.setattr(batches, "LOOKUP_BYTES", 256)
    ring = Ring()
    body = bytes(1000)
    name = hashlib.sha256(body).digest()
    ring.submit(Client().request(b"#" + name, [body]))
    batch = (Sequence(1), ring.replicas[1].ordering.accepted[Sequence(1)][0].digest)

    def answered(message: Message, times: int = 100, by: int = 3) -> int:
        return sum(len(receive(ring, 1, by, message)) for _ in range(times))

    assert answered(FetchBodies(ONE, [name])) == 10
    assert answered(FetchBatches(ONE, [batch])) == 0
    assert answered(FetchBodies(ONE, [name]), by=2) == 10, "each has its own allowance"
    ring.fire("tick")
    ring.links.clear()
    assert 1 <= answered(FetchBodies(ONE, [name])) <= 3
    assert answered(FetchBodies(ONE, [b"unknown" + bytes(25)])) == 0, "looking for it costs as well"


def lacking() -> tuple[Ring, list[Effect]]:
    """A new primary that waits for a batch which it never had."""
    ring = Ring()
    ring.drops = lambda sender, to, message: (
        isinstance(message, Commit) or (to == 1 and isinstance(message, PrePrepare | Decided | FetchBatches))
    )
    ring.submit(Client().request(b"x"))
    changes = [
        *sent(leave(ring, 2, 1), ViewChange),
        *sent(leave(ring, 3, 1), ViewChange),
    ]
    ring.links.clear()
    effects: list[Effect] = []
    for message in changes:
        effects += receive(ring, 1, message.replica, message)
    ring.links.clear()
    return ring, effects


def test_messages_that_bring_nothing_make_nobody_fetch_again() -> None:
    """Else a liar would make honest replicas send each other megabytes for a few bytes of its own."""
    ring, effects = lacking()
    assert len(sent(effects, FetchBatches)) == 1
    for junk in (
        Bodies(ONE, [b"junk"]),
        Batch(ONE, Sequence(1), AgreedTime(0), []),
        Batch(ONE, Sequence(9), ring.now, []),
    ):
        assert receive(ring, 1, 3, junk) == []
    for view in range(2, 9):
        assert not sent(receive(ring, 1, 3, signed(ring, change(3, view=view))), FetchBatches)
    assert views(ring)[1] == (1, False)


def test_a_batch_with_other_contents_is_not_taken() -> None:
    ring, _ = lacking()
    genuine = next(iter(ring.replicas[1].batches._known))
    other = Client("other").request(b"y")
    for bad in (
        Batch(ONE, genuine[0], ring.now, [other]),
        Batch(ONE, genuine[0], AgreedTime(0), []),
        Batch(ONE, Sequence(2), ring.now, [other]),
    ):
        assert receive(ring, 1, 3, bad) == []
        assert ring.replicas[1].batches.get(*genuine) is None


# --- beginning views ------------------------------------------------------------------------------------------------


def test_who_cannot_vote_for_what_it_would_announce_does_not_begin_the_view() -> None:
    """NEW-VIEW is its primary's vote, which must be on its disk: above its own watermarks it has none to give."""
    tuning = Tuning(interval=4, window=8, retained=64)
    ring = Ring(tuning=tuning)
    behind = lambda sender, to, message: to == 1 and not isinstance(message, ViewChange | StableCheckpoint | Batch)  # noqa: E731
    ring.drops = lambda sender, to, message: (
        behind(sender, to, message) or (isinstance(message, Commit | Checkpoint) and message.sequence > 7)
    )
    client = Client()
    for i in range(8):
        ring.submit(client.request(b"%d" % i))
    for i in range(3):
        ring.submit(client.request(b"under way %d" % i))
    assert ring.executed == [7, 0, 7, 7]
    assert ring.replicas[2].ordering.prepared
    for i in (2, 3):
        leave(ring, i, 1)
    ring.run()
    decision = ring.replicas[1].views.decision()
    assert decision is not None
    assert decision.stable + len(decision.batches) > ring.replicas[1].ordering.high
    assert views(ring)[1] == (1, False)
    ring.deliver_all()
    ring.pass_time(20)
    assert register(ring, 1) == b"01234567under way 0under way 1under way 2"
    assert len({register(ring, i) for i in range(4)}) == 1


def test_who_runs_far_beyond_its_stable_checkpoint_still_says_a_view_change_that_counts() -> None:
    """It catches up by what others have run, and hears of a stable checkpoint only when it has come there."""
    tuning = Tuning(interval=4, window=8, retained=64)
    ring = Ring(tuning=tuning)
    ring.crash(ReplicaId(3))
    client = Client()
    for i in range(30):
        ring.submit(client.request(b"%d " % i))
    ring.restart(ReplicaId(3))
    ring.links.clear()
    ring.drops = lambda sender, to, message: isinstance(message, Checkpoint | StableCheckpoint)
    machine = ring.replicas[0].catch_up
    for message in sent(machine.tell(ReplicaId(3), Sequence(1), Sequence(30)), Decided):
        for sender in (0, 1):
            receive(ring, 3, sender, message)
    ring.run()
    assert ring.executed[3] > 2 * tuning.window
    assert ring.replicas[3].checkpoints.stable == 0
    [own] = sent(leave(ring, 3, 1), ViewChange)
    assert reasons(receive(ring, 1, 3, own)) == []


def test_deciding_takes_no_time_whatever_f_liars_list() -> None:
    """Each lists all that it may: of ten replicas three, in a window of 1024."""
    window, views_before = 1024, 8
    numbers = range(1, window + 1)
    votes = [
        Accepted(Sequence(n), hashlib.sha256(b"%d %d" % (n, i)).digest(), View(i))
        for n in numbers
        for i in range(MAX_ACCEPTED)
    ]
    prepared = votes[::MAX_ACCEPTED]
    changes = []
    looked = 0
    for replica in range(10):
        base = change(replica, view=views_before + 1)
        changes.append(msgspec.structs.replace(base, prepared=prepared, pre_prepared=votes))

    def count(frame: object, event: str, arg: object) -> None:
        nonlocal looked
        looked += 1

    sys.setprofile(count)
    decision = decide(MEMBERSHIPS[10], changes, window)
    sys.setprofile(None)
    assert decision is not None
    assert len(decision.batches) == window
    assert looked < 100 * 10 * window


def test_a_lying_primary_that_begins_one_view_twice_splits_nothing() -> None:
    """Two NEW-VIEWs, both of which follow from what they show: with the fourth VIEW-CHANGE, and without."""
    ring = Ring()
    ring.drops = lambda sender, to, message: isinstance(message, Commit) or (isinstance(message, Prepare) and to != 0)
    ring.submit(Client("x").request(b"x"))
    assert ring.replicas[0].ordering.prepared
    assert not ring.replicas[2].ordering.prepared
    ring.drops = lambda sender, to, message: True
    changes = [sent(leave(ring, i, 1), ViewChange)[0] for i in range(4)]
    with_it, without = decide(ring.membership, changes, 256), decide(ring.membership, changes[1:], 256)
    assert with_it is not None
    assert without is not None
    assert (len(with_it.batches), len(without.batches)) == (1, 0)
    receive(ring, 2, 1, new_view(ring, 1, changes, with_it))
    receive(ring, 3, 1, new_view(ring, 1, changes[1:], without))
    receive(ring, 0, 1, new_view(ring, 1, changes[1:], without))
    twin = Ring()
    leave(twin, 2, 1)
    leave(twin, 3, 1)
    twin.run()
    fresh = twin.catch(PrePrepare)
    twin.submit(Client("y").request(b"y"), to=[1])
    for at in (0, 2, 3):
        receive(ring, at, 1, fresh[0])
    ring.deliver_all()
    ring.links = type(ring.links)(link for link in ring.links if link[0] != 1)
    ring.run()
    ring.crash(ReplicaId(1))
    ring.pass_time(20)
    roots = {ring.replicas[i].execution.tree.root for i in (0, 2, 3)}
    assert len(roots) == 1
    assert register(ring, 0) in (b"xy", b"yx", b"x", b"y")

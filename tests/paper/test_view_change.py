"""Castro & Liskov, TOCS 2002, section 4.4, a sentence at a time: how a view is left and the next one begun."""

from collections.abc import Callable

import msgspec
import pytest

from bft.batches import NULL
from bft.effects import Broadcast, Effect, Persist, ViewChanged
from bft.messages import (
    Accepted,
    Checkpoint,
    Commit,
    Decided,
    Message,
    NewView,
    Prepare,
    PrePrepare,
    StableCheckpoint,
    ViewChange,
)
from bft.new_view import Decision, decide
from bft.tuning import Tuning
from bft.types import Epoch, ReplicaId, Sequence, View
from tests.paper.changes import change, leave, lose, new_view, prepared, reasons, receive, register, sent, signed, views
from tests.unit.bft.ring import Client, Ring

SMALL = Tuning(interval=4, window=8, retained=64)


def left(effects: list[Effect]) -> ViewChange:
    """The one VIEW-CHANGE among effects."""
    [message] = sent(effects, ViewChange)
    return message


# --- VIEW-CHANGE ----------------------------------------------------------------------------------------------------


def test_a_view_change_says_what_prepared_and_what_was_accepted() -> None:
    """4.4: '(VIEW-CHANGE, v + 1, h, C, P, Q, i)': P the requests that prepared at i in the latest view, Q those that
    pre-prepared, each with the number, digest and view."""
    ring = Ring()
    ring.drops = lambda sender, to, message: isinstance(message, Prepare) and message.sequence == 2
    client = Client()
    ring.submit(client.request(b"1"))
    ring.submit(client.request(b"2"))
    message = left(leave(ring, 1, 1))
    first, second = (ring.replicas[1].ordering.accepted[Sequence(n)][0].digest for n in (1, 2))
    assert (message.view, message.replica) == (1, 1)
    assert message.prepared == [Accepted(Sequence(1), first, View(0))]
    assert message.pre_prepared == [Accepted(Sequence(1), first, View(0)), Accepted(Sequence(2), second, View(0))]


def test_a_view_change_carries_its_low_watermark_with_proof_and_the_checkpoints_above_it() -> None:
    """4.4: 'h is the sequence number of the latest stable checkpoint known to i, C is a set of pairs with the sequence
    number and digest of each checkpoint stored at i'. Ours adds the 2f + 1 signatures over h."""
    ring = Ring(tuning=SMALL)
    ring.drops = lambda sender, to, message: isinstance(message, Checkpoint) and message.sequence > 4
    client = Client()
    for i in range(9):
        ring.submit(client.request(b"%d" % i))
    message = left(leave(ring, 1, 1))
    machine = ring.replicas[1].checkpoints
    assert message.stable == machine.proven
    assert len(message.stable.proof) == ring.membership.quorum
    assert message.checkpoints == [(4, machine.proven.digest), (8, machine._votes[Sequence(8)][ReplicaId(1)].digest)]
    assert {entry.sequence for entry in message.prepared} == {5, 6, 7, 8, 9}, "nothing at or below the checkpoint"


def test_a_batch_that_was_accepted_in_two_views_is_named_with_the_later_one() -> None:
    ring = prepared()
    ring.drops = lose(Commit)
    for i in (1, 2, 3):
        leave(ring, i, 1)
    ring.run()
    assert views(ring) == [(1, True)] * 4
    message = left(leave(ring, 2, 2))
    assert [entry.view for entry in message.prepared] == [1]
    assert [entry.view for entry in message.pre_prepared] == [1]


def test_batches_accepted_at_one_number_in_different_views_are_all_named() -> None:
    """4.4: Q keeps an entry for each digest; without the old one A2 could fail for what prepared elsewhere."""
    ring = Ring()
    ring.drops = lambda sender, to, message: isinstance(message, Prepare | PrePrepare) and to != 1
    ring.submit(Client("a").request(b"a"))
    ring.deliver_all()
    ring.links.clear()
    leave(ring, 2, 1)
    leave(ring, 3, 1)
    leave(ring, 0, 1)
    ring.run()
    digests = {vote.digest for vote in ring.replicas[1].ordering.accepted[Sequence(1)]}
    ring.submit(Client("b").request(b"b"), to=[1])
    digests |= {vote.digest for vote in ring.replicas[1].ordering.accepted[Sequence(1)]}
    named = {entry.digest for entry in left(leave(ring, 1, 2)).pre_prepared if entry.sequence == 1}
    assert named == digests


def test_the_view_is_on_disk_before_its_view_change_is_sent() -> None:
    """design.md, 5: 'the view before VIEW-CHANGE'."""
    ring = Ring()
    effects = leave(ring, 1, 1)
    kinds = [type(effect) for effect in effects]
    assert kinds.index(Persist) < kinds.index(Broadcast)
    ring.crash(ReplicaId(1))
    ring.links.clear()
    ring.restart(ReplicaId(1))
    assert (ring.replicas[1].views.view, ring.replicas[1].views.active) == (1, False)
    assert ring.replicas[1].views.own == left(effects), "and it says the same again"


def test_a_replica_that_leaves_a_view_accepts_nothing_more_in_it() -> None:
    """4.4: 'it stops accepting messages (other than CHECKPOINT, VIEW-CHANGE and NEW-VIEW messages)'."""
    ring, other = Ring(), Ring()
    proposals = other.catch(PrePrepare)
    other.submit(Client().request(b"x"))
    leave(ring, 1, 1)
    assert receive(ring, 1, 0, proposals[0]) == []
    for sender in (0, 2, 3):
        for kind in (Prepare, Commit):
            vote = kind(Epoch(1), View(0), Sequence(1), ring.replicas[0].checkpoints.proven.digest)
            assert not sent(receive(ring, 1, sender, vote), Commit)
    assert not ring.replicas[1].ordering.slots
    assert ring.executed[1] == 0


def test_checkpoints_count_between_views() -> None:
    ring = Ring(tuning=SMALL)
    held: list[tuple[ReplicaId, ReplicaId, Message]] = []

    def hold(sender: ReplicaId, to: ReplicaId, message: Message) -> bool:
        if isinstance(message, Checkpoint) and to == 1:
            held.append((sender, to, message))
        return isinstance(message, Checkpoint) and to == 1

    ring.drops = hold
    client = Client()
    for i in range(4):
        ring.submit(client.request(b"%d" % i))
    leave(ring, 1, 1)
    ring.links.clear()
    ring.links.extend(held)
    ring.deliver_all()
    ring.run()
    assert ring.replicas[1].checkpoints.stable == 4


def test_a_view_change_counts_only_in_the_name_of_its_sender() -> None:
    ring = Ring()
    genuine = left(leave(ring, 2, 1))
    assert reasons(receive(ring, 1, 3, genuine)) == ["a VIEW-CHANGE in another's name"]
    assert reasons(receive(ring, 1, 2, msgspec.structs.replace(genuine, view=View(2)))) == [
        "VIEW-CHANGE is not signed by its sender"
    ]


def malformed() -> dict[str, ViewChange]:
    """VIEW-CHANGEs that no correct replica sends, each well signed."""
    good = change(2, [(1, "a", 0)], view=1)
    replace = msgspec.structs.replace
    [entry] = good.prepared
    start = good.checkpoints[0]
    return {
        "two batches prepared at one number": replace(good, prepared=[entry, entry]),
        "P out of order": replace(good, prepared=[replace(entry, sequence=Sequence(2)), entry]),
        "P of the view it goes to": replace(good, prepared=[replace(entry, view=View(1))]),
        "Q of a later view": replace(good, pre_prepared=[replace(entry, view=View(7))]),
        "P above the watermarks": replace(good, prepared=[replace(entry, sequence=Sequence(257))]),
        "P at the low watermark": replace(good, prepared=[replace(entry, sequence=Sequence(0))]),
        "one batch twice in Q": replace(good, pre_prepared=[entry, replace(entry, view=View(0))]),
        "more batches in Q than are kept": change(2, q=[(1, str(i), 0) for i in range(9)], view=1),
        "another checkpoint first": replace(good, checkpoints=[(Sequence(0), NULL)]),
        "a checkpoint twice": replace(good, checkpoints=[start, (Sequence(64), NULL), (Sequence(64), NULL)]),
        "a checkpoint above the watermarks": replace(good, checkpoints=[start, (Sequence(320), NULL)]),
    }


@pytest.mark.parametrize("name", malformed())
def test_a_malformed_view_change_counts_for_nothing(name: str) -> None:
    ring = Ring()
    assert reasons(receive(ring, 1, 2, signed(ring, change(2, [(1, "a", 0)], view=1)))) == []
    ring = Ring()
    assert reasons(receive(ring, 1, 2, signed(ring, malformed()[name]))) == ["malformed VIEW-CHANGE"]
    assert ReplicaId(2) not in ring.replicas[1].views._received


def with_checkpoint() -> tuple[Ring, ViewChange]:
    """A ring with a stable checkpoint at 4, and a VIEW-CHANGE of replica 2 from there."""
    ring = Ring(tuning=SMALL)
    client = Client()
    for i in range(5):
        ring.submit(client.request(b"%d" % i))
    return ring, left(leave(ring, 2, 1))


@pytest.mark.parametrize("kind", ["too few", "twice", "too many", "forged", "another digest", "nobody", "none"])
def test_a_stable_checkpoint_needs_the_signatures_of_2f_plus_1(kind: str) -> None:
    ring, good = with_checkpoint()
    proof = good.stable.proof
    fourth = next(i for i in map(ReplicaId, range(4)) if i not in dict(proof))
    machine = ring.replicas[0].checkpoints
    extra = (fourth, ring._signers[fourth].sign(machine._signed(Sequence(4), good.stable.digest)))
    proofs = {
        "too few": proof[:2],
        "twice": [proof[0], proof[0], proof[1]],
        "too many": sorted([*proof, extra]),
        "forged": [*proof[:2], (proof[2][0], bytes(64))],
        "nobody": [*proof[:2], (ReplicaId(9), proof[2][1])],
        "none": [],
    }
    stable = msgspec.structs.replace(good.stable, proof=proofs.get(kind, proof))
    first = good.checkpoints[0]
    if kind == "another digest":
        stable = msgspec.structs.replace(stable, digest=NULL)
        first = (first[0], NULL)
    bad = msgspec.structs.replace(good, stable=stable, checkpoints=[first, *good.checkpoints[1:]])
    assert reasons(receive(ring, 0, 2, signed(ring, bad))) == ["VIEW-CHANGE without proof of its checkpoint"]
    assert reasons(receive(ring, 0, 2, good)) == []


def test_the_same_proof_by_other_signers_is_as_good() -> None:
    """It is not covered by the signature over the VIEW-CHANGE, and each of its signatures stands by itself."""
    ring, good = with_checkpoint()
    names = dict(good.stable.proof)
    machine = ring.replicas[0].checkpoints
    text = machine._signed(Sequence(4), good.stable.digest)
    for out in names:
        proof = [(i, ring._signers[i].sign(text)) for i in map(ReplicaId, range(4)) if i != out]
        other = msgspec.structs.replace(good, stable=msgspec.structs.replace(good.stable, proof=proof))
        assert ring.replicas[0].views._reject_reason(other) is None


def test_a_checkpoint_between_intervals_proves_nothing() -> None:
    ring = Ring(tuning=SMALL)
    machine = ring.replicas[0].checkpoints
    text = machine._signed(Sequence(3), NULL)
    proof = [(i, ring._signers[i].sign(text)) for i in map(ReplicaId, range(3))]
    assert not machine.proves(StableCheckpoint(Epoch(1), Sequence(3), NULL, proof))


# --- joining --------------------------------------------------------------------------------------------------------


def test_a_replica_joins_when_f_plus_1_others_are_in_higher_views_and_takes_the_smallest() -> None:
    """4.5.2: 'if a replica receives a set of f + 1 valid VIEW-CHANGE messages from other replicas for views greater
    than its current view, it sends a VIEW-CHANGE message for the smallest view in the set'."""
    ring = Ring()
    receive(ring, 1, 2, signed(ring, change(2, view=7)))
    assert views(ring)[1] == (0, True)
    effects = receive(ring, 1, 3, signed(ring, change(3, view=3)))
    assert left(effects).view == 3
    assert views(ring)[1] == (3, False)


def test_f_spammers_cause_no_view_change() -> None:
    ring = Ring()
    client = Client()
    for view in (*range(1, 60), 2**20, 2**62):
        for at in (0, 1, 2):
            assert reasons(receive(ring, at, 3, signed(ring, change(3, view=view)))) == []
    ring.submit(client.request(b"x"))
    ring.pass_time(4)
    assert views(ring)[:3] == [(0, True)] * 3
    assert register(ring) == b"x"


def test_one_replica_in_two_higher_views_is_one_replica() -> None:
    ring = Ring()
    receive(ring, 1, 2, signed(ring, change(2, view=2)))
    receive(ring, 1, 2, signed(ring, change(2, view=1)))
    receive(ring, 1, 2, signed(ring, change(2, view=3)))
    assert views(ring)[1] == (0, True)


def test_a_primary_that_gives_up_is_believed_at_once_for_the_next_view_only() -> None:
    """docs/divergence.md: nobody could make it lead, so its own word is enough."""
    ring = Ring()
    assert not sent(receive(ring, 1, 0, signed(ring, change(0, view=2))), ViewChange)
    ring = Ring()
    assert left(receive(ring, 1, 0, signed(ring, change(0, view=1)))).view == 1


# --- NEW-VIEW -------------------------------------------------------------------------------------------------------


def test_the_new_primary_begins_with_2f_plus_1_view_changes_and_says_so() -> None:
    """4.4: NEW-VIEW has the VIEW-CHANGEs that its primary went by, and what follows from them."""
    ring = prepared()
    begun = ring.catch(NewView)
    leave(ring, 2, 1)
    leave(ring, 3, 1)
    ring.run()
    assert views(ring)[1] == (1, True)
    message = begun[0]
    assert [said.replica for said in message.view_changes] == [1, 2, 3]
    assert message.batches == [ring.replicas[1].ordering.prepared[Sequence(1)].digest]
    assert (message.stable, message.digest) == (0, ring.replicas[1].checkpoints.proven.digest)


def test_what_new_view_names_is_on_the_disk_of_its_primary_before_it_is_sent() -> None:
    """It is the primary's vote for all of them: batches and Q entries come first (design.md, 5)."""
    ring = prepared()
    leave(ring, 2, 1)
    changes = [link[2] for link in ring.links if link[1] == 1]
    ring.links.clear()
    leave(ring, 1, 1)
    ring.links.clear()
    effects: list[Effect] = []
    for message in [*changes, signed(ring, change(3, view=1))]:
        effects += receive(ring, 1, message.replica if isinstance(message, ViewChange) else 2, message)
    place = next(i for i, e in enumerate(effects) if isinstance(e, Broadcast) and isinstance(e.message, NewView))
    for effect in effects[place:]:
        assert not isinstance(effect, Persist), "its own votes went to the disk before"
    assert any(isinstance(effect, ViewChanged) and effect.active for effect in effects)
    ring.crash(ReplicaId(1))
    ring.restart(ReplicaId(1))
    [own] = sent([Broadcast(ring.replicas[1].views.own)], ViewChange)  # type: ignore[arg-type]
    assert [entry.view for entry in own.pre_prepared] == [1]


def scene() -> tuple[Ring, list[ViewChange], Decision]:
    """A ring with a batch that prepared at number 1; all VIEW-CHANGEs for view 1, and what they lead to."""
    ring = prepared()
    ring.drops = lambda sender, to, message: True
    changes = [left(leave(ring, i, 1)) for i in range(4)]
    decision = decide(ring.membership, changes, 256)
    assert decision is not None
    assert len(decision.batches) == 1
    return ring, changes, decision


def test_a_backup_enters_by_a_valid_new_view_from_whomever_it_comes() -> None:
    ring, changes, decision = scene()
    effects = receive(ring, 2, 3, new_view(ring, 1, changes, decision))
    assert views(ring)[2] == (1, True)
    assert [vote.digest for vote in sent(effects, Prepare)] == list(decision.batches), "and votes for what it names"
    kinds = [type(effect) for effect in effects]
    assert kinds.index(Persist) < kinds.index(Broadcast)


def test_a_new_view_may_stand_on_any_2f_plus_1_or_more_view_changes() -> None:
    for out in (None, 0, 1, 2, 3):
        ring, changes, decision = scene()
        used = [said for said in changes if said.replica != out]
        receive(ring, 2, 1, new_view(ring, 1, used, decision))
        assert views(ring)[2] == (1, True)


Forgery = Callable[[Ring, list[ViewChange], Decision], NewView]


def _without_batches(ring: Ring, changes: list[ViewChange], good: Decision) -> NewView:
    return new_view(ring, 1, changes, good._replace(batches=()))


def _swapped(ring: Ring, changes: list[ViewChange], good: Decision) -> NewView:
    return new_view(ring, 1, changes, good._replace(batches=(NULL,)))


def _invented(ring: Ring, changes: list[ViewChange], good: Decision) -> NewView:
    return new_view(ring, 1, changes, good._replace(batches=(*good.batches, NULL)))


def _another_start(ring: Ring, changes: list[ViewChange], good: Decision) -> NewView:
    return new_view(ring, 1, changes, good._replace(digest=NULL))


def _a_later_start(ring: Ring, changes: list[ViewChange], good: Decision) -> NewView:
    return new_view(ring, 1, changes, Decision(Sequence(64), NULL, ()))


def _2f(ring: Ring, changes: list[ViewChange], good: Decision) -> NewView:
    return new_view(ring, 1, changes[:2], good)


def _one_twice(ring: Ring, changes: list[ViewChange], good: Decision) -> NewView:
    return new_view(ring, 1, [changes[0], changes[1], changes[1]], good)


def _out_of_order(ring: Ring, changes: list[ViewChange], good: Decision) -> NewView:
    return new_view(ring, 1, changes[::-1], good)


def _another_view(ring: Ring, changes: list[ViewChange], good: Decision) -> NewView:
    return new_view(ring, 1, [*changes[:2], signed(ring, change(3, view=2))], good)


def _forged(ring: Ring, changes: list[ViewChange], good: Decision) -> NewView:
    lie = signed(ring, change(3, view=1), by=1)
    return new_view(ring, 1, [*changes[:2], lie], good)


def _unproved(ring: Ring, changes: list[ViewChange], good: Decision) -> NewView:
    lie = signed(ring, change(3, view=1, stable=64))
    return new_view(ring, 1, [*changes[:2], lie], good)


def _malformed(ring: Ring, changes: list[ViewChange], good: Decision) -> NewView:
    lie = signed(ring, change(3, [(1, "h", 5)], view=1))
    return new_view(ring, 1, [*changes[:2], lie], good)


def _not_its_primary(ring: Ring, changes: list[ViewChange], good: Decision) -> NewView:
    return new_view(ring, 1, changes, good, by=3)


def _other_changes_than_signed(ring: Ring, changes: list[ViewChange], good: Decision) -> NewView:
    return msgspec.structs.replace(new_view(ring, 1, changes, good), view_changes=changes[:3])


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (_without_batches, "does not follow"),
        (_swapped, "does not follow"),
        (_invented, "does not follow"),
        (_another_start, "does not follow"),
        (_a_later_start, "does not follow"),
        (_2f, "fewer than 2f"),
        (_one_twice, "two VIEW-CHANGEs of one replica"),
        (_out_of_order, "out of order"),
        (_another_view, "for another view"),
        (_forged, "not signed by its sender"),
        (_unproved, "without proof"),
        (_malformed, "malformed"),
        (_not_its_primary, "not signed by the primary"),
        (_other_changes_than_signed, "not signed by the primary"),
    ],
)
def test_a_new_view_that_differs_in_anything_is_refused(forge: Forgery, reason: str) -> None:
    """4.4: backups check it by computing it again. The view does not begin."""
    ring, changes, decision = scene()
    effects = receive(ring, 2, 1, forge(ring, changes, decision))
    assert len(reasons(effects)) == 1
    assert reason in reasons(effects)[0]
    assert views(ring)[2] == (1, False)
    assert not sent(effects, Prepare)
    receive(ring, 2, 1, new_view(ring, 1, changes, decision))
    assert views(ring)[2] == (1, True), "the right one still counts"


def test_an_old_new_view_is_passed_over() -> None:
    ring, changes, decision = scene()
    old = new_view(ring, 1, changes, decision)
    leave(ring, 2, 2)
    assert receive(ring, 2, 1, old) == []
    assert views(ring)[2] == (2, False)


def test_a_second_new_view_of_a_lying_primary_changes_nothing() -> None:
    """Both follow from what they show; who has entered by one stays with it, through a restart too."""
    ring, changes, decision = scene()
    first = new_view(ring, 1, [said for said in changes if said.replica != 0], decision)
    receive(ring, 2, 1, first)
    assert receive(ring, 2, 1, new_view(ring, 1, changes, decision)) == []
    ring.crash(ReplicaId(2))
    ring.restart(ReplicaId(2))
    assert ring.replicas[2].views.new_view == first


def test_a_new_view_of_our_own_that_we_did_not_send_is_refused() -> None:
    ring, changes, decision = scene()
    effects = receive(ring, 1, 2, new_view(ring, 1, changes, decision))
    assert reasons(effects) == ["a NEW-VIEW of our own that we did not send"]


def test_a3_the_new_primary_waits_until_it_has_what_it_must_propose() -> None:
    """Rule A3: it fetches the batch from others, proved by its digest, and only then begins."""
    ring = Ring()
    ring.drops = lambda sender, to, message: (
        isinstance(message, Commit) or (to == 1 and isinstance(message, PrePrepare | Decided))
    )
    ring.submit(Client().request(b"x"))
    assert not ring.replicas[1].ordering.accepted, "it never saw the batch"
    begun = ring.catch(NewView)
    effects = leave(ring, 2, 1) + leave(ring, 3, 1)
    changes = sent(effects, ViewChange)
    ring.links.clear()
    for message in changes:
        receive(ring, 1, message.replica, message)
    assert views(ring)[1] == (1, False)
    assert not begun
    ring.run()
    assert views(ring)[1] == (1, True)
    ring.deliver_all()
    ring.pass_time(0.3)
    assert register(ring, 1) == b"x"

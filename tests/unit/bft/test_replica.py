"""A ring of replicas through loss, crashes and returns: what was lost is asked for, what was voted is kept."""

import random

import msgspec
import pytest

from bft import log
from bft.answer import Status, check_batch_path, check_session_path, decode
from bft.certificate import Certificate
from bft.effects import Received, Started
from bft.messages import Certified, Commit, Message, Nonces, PrePrepare, Request, SignatureShare, SigningPlan
from bft.replica import Replica
from bft.retransmission import STATUS_TICKS
from bft.sessions import page_key
from bft.signatures import Ed25519Verifier
from bft.signing import LOTS
from bft.suspicion import IDLE_SECONDS, LEAST_SECONDS, TICK_SECONDS, UNCERTIFIED_IDLE_TICKS
from bft.tuning import DEFAULT, Tuning
from bft.types import AgreedTime, Epoch, ReplicaId, Sequence, View
from tests.unit.bft.ring import Client, Ring


def settle(ring: Ring, rounds: int = 40) -> None:
    for _ in range(rounds):
        ring.fire("tick")
        ring.fire("shares")
        ring.fire("uncertified")
        ring.fire("idle")
    for _ in range(3):
        ring.fire("tick")  # who has left the view alone runs what the others say is decided


def check_one_state(ring: Ring) -> None:
    states = {(r.execution.executed, r.execution.tree.root) for r in ring.replicas}
    assert len(states) == 1, states


@pytest.mark.parametrize("size", [4, 7, 10])
def test_rings_of_all_sizes_order_and_certify(size: int) -> None:
    ring = Ring(size)
    client = Client()
    for i in range(10):
        ring.submit(client.request(b"%d" % i))
    check_one_state(ring)
    assert len(ring.answers) == 10
    for answer in ring.answers:
        assert answer.certificate is not None
        claim = answer.certificate.verify(Ed25519Verifier(), ring.membership.ring_key)
        check_batch_path(claim, answer.answer, answer.place)  # type: ignore[arg-type]


@pytest.mark.parametrize("crashed", [1, 2, 3])
def test_a_backup_that_was_down_catches_up_from_the_others_logs(crashed: int) -> None:
    ring = Ring()
    client = Client()
    ring.crash(ReplicaId(crashed))
    for i in range(3 * DEFAULT.interval):
        ring.submit(client.request(b"%d" % i))
    settle(ring, 2)
    ring.restart(ReplicaId(crashed))
    settle(ring)
    check_one_state(ring)
    assert ring.replicas[crashed].ordering.stable >= 3 * DEFAULT.interval


@pytest.mark.parametrize("when", range(1, 30))
def test_a_crash_at_any_message_loses_no_vote_that_was_sent(when: int) -> None:
    """All four lose power at once after `when` messages: what was answered is still there, and the ring goes on."""
    ring = Ring()
    client = Client()
    count = 0

    def cut(sender: ReplicaId, to: ReplicaId, message: Message) -> bool:
        nonlocal count
        count += 1
        return count > when

    ring.drops = cut
    for i in range(3):
        ring.submit(client.request(b"%d" % i))
    answered = {answer.answer for answer in ring.answers}
    for i in range(4):
        ring.crash(ReplicaId(i))
    ring.links.clear()
    ring.deliver_all()
    for i in range(4):
        ring.restart(ReplicaId(i))
    ring.run()
    settle(ring, 10)
    check_one_state(ring)
    ring.answers.clear()
    again = Client()
    for i in range(3):
        ring.submit(again.request(b"%d" % i), to=range(4))
    settle(ring, 3)
    assert {answer.answer for answer in ring.answers} >= answered
    assert ring.replicas[0].execution.tree.get(b"\x01register") == b"012", "each ran once"


def test_a_restarted_primary_gives_up_its_view_and_another_leads() -> None:
    """design.md, 5: 'A restarted primary does not propose again in its old view.'"""
    ring = Ring()
    client = Client()
    ring.submit(client.request(b"a"))
    ring.crash(ReplicaId(0))
    ring.restart(ReplicaId(0))
    ring.run()
    assert [replica.views.view for replica in ring.replicas] == [1] * 4
    assert all(replica.views.active for replica in ring.replicas)
    ring.submit(client.request(b"b"), to=[1])
    check_one_state(ring)
    assert ring.replicas[1].execution.tree.get(b"\x01register") == b"ab"


@pytest.mark.parametrize("seed", range(40))
def test_progress_under_heavy_loss_and_reordering(seed: int) -> None:
    """30 % of messages lost, half of them doubled, any order (agreement.md, retransmission)."""
    draw = random.Random(seed)
    ring = Ring()
    client = Client()
    ring.drops = lambda sender, to, message: draw.random() < 0.3
    requests = [client.request(b"%d" % i) for i in range(12)]
    for request in requests:
        ring.submit(request, to=range(4))
    for _ in range(400):
        items = list(ring.links)
        ring.links.clear()
        items += [item for item in items if draw.random() < 0.5]
        draw.shuffle(items)
        ring.links.extend(items)
        ring.fire("tick")
        if min(ring.executed) and ring.replicas[0].execution.tree.get(b"\x01register") == b"01234567891011":
            break
        for request in requests:
            ring.submit(request, to=range(4))
    ring.deliver_all()
    settle(ring)
    check_one_state(ring)
    assert ring.replicas[0].execution.tree.get(b"\x01register") == b"01234567891011"


def test_a_request_that_is_asked_again_gets_the_same_answer_proved_by_a_later_certificate() -> None:
    ring = Ring()
    client = Client()
    first = client.request(b"first")
    ring.submit(first)
    [answer] = ring.answers
    for i in range(5):
        ring.submit(client.request(b"%d" % i))
    ring.answers.clear()
    ring.submit(first, to=[2])
    [again] = ring.answers
    assert again.answer == answer.answer
    assert again.certificate is not None
    claim = again.certificate.verify(Ed25519Verifier(), ring.membership.ring_key)
    key = page_key(client.signer.public_key, client.session, 1)
    check_session_path(claim, key, 1, again.answer, again.place)  # type: ignore[arg-type]


def test_an_answer_leaves_without_certificate_when_signing_fails() -> None:
    ring = Ring()
    ring.drops = lambda sender, to, message: isinstance(message, SignatureShare)
    ring.submit(Client().request(b"x"))
    assert ring.answers == []
    ring.fire("uncertified")
    [answer] = ring.answers
    assert answer.certificate is None
    assert decode(answer.answer).status is Status.EXECUTED


def test_a_silent_signer_is_left_out_and_the_next_certificate_covers_what_went_before() -> None:
    ring = Ring()
    silent: set[ReplicaId] = set()

    def silence_the_first_signer(sender: ReplicaId, to: ReplicaId, message: Message) -> bool:
        if isinstance(message, SignatureShare) and not silent:
            silent.add(sender)
        return isinstance(message, SignatureShare) and sender in silent

    ring.drops = silence_the_first_signer
    client = Client()
    ring.submit(client.request(b"1"))
    assert len(silent) == 1
    ring.fire("shares")
    ring.submit(client.request(b"2"))
    assert len(ring.answers) == 2
    assert all(answer.certificate is not None for answer in ring.answers), "the first through its session's page"


def test_a_lying_signer_is_named_and_left_out() -> None:
    ring = Ring()
    client = Client()
    post = ring._post

    def corrupt(sender: ReplicaId, to: ReplicaId, message: Message) -> None:
        if isinstance(message, SignatureShare) and sender == 1:
            message = SignatureShare(message.epoch, message.view, message.sequence, b"\x01" + bytes(31))
        post(sender, to, message)

    ring._post = corrupt  # type: ignore[method-assign]
    for i in range(5):
        ring.submit(client.request(b"%d" % i))
    blamed = {rejected.sender for _, rejected in ring.rejected if rejected.reason == "bad signature share"}
    assert blamed == {1}
    assert len([entry for entry in ring.rejected if entry[1].reason == "bad signature share"]) == 1
    assert len(ring.answers) == 5


def test_lost_nonces_are_published_again() -> None:
    ring = Ring()
    ring.crash(ReplicaId(0))
    ring.restart(ReplicaId(0))  # the primary has none of the others' nonces now
    assert ring.replicas[0].signing.plan(Sequence(1), set()) is None
    for _ in range(12):
        ring.fire("tick")
    plan = ring.replicas[0].signing.plan(Sequence(1), set())
    assert plan is not None
    assert len(plan.signers) == 2


def test_nonces_last_for_many_batches_and_no_name_serves_twice() -> None:
    ring = Ring()
    client = Client()
    named: set[tuple[int, bytes, int]] = set()
    plans = 0

    def watch(sender: ReplicaId, to: ReplicaId, message: Message) -> bool:
        nonlocal plans
        if isinstance(message, PrePrepare) and to == 1 and message.plan is not None:
            plans += 1
            names = {(replica, name.start, name.index) for replica, name, _ in message.plan.signers}
            assert not names & named
            named.update(names)
        return False

    ring.drops = watch
    for i in range(300):
        ring.submit(client.request(b"%d" % i))
    assert plans == 300


def test_a_signer_named_twice_with_one_nonce_signs_once() -> None:
    ring = Ring()
    client = Client()
    plans: dict[int, SigningPlan] = {}

    def watch(sender: ReplicaId, to: ReplicaId, message: Message) -> bool:
        if isinstance(message, PrePrepare) and message.plan is not None:
            plans.update({replica: message.plan for replica, _, _ in message.plan.signers})
        return False

    ring.drops = watch
    ring.submit(client.request(b"x"))
    [signer] = [replica for replica in plans if replica != 0]
    certified = ring.replicas[signer].execution.certified
    assert certified is not None
    later = msgspec.structs.replace(certified.state.claim, sequence=Sequence(2))
    assert ring.replicas[signer].signing._sign(later, plans[signer]) is None


def test_a_forged_certificate_is_refused() -> None:
    ring = Ring()
    ring.submit(Client().request(b"x"))
    certified = ring.replicas[1].execution.certified
    assert certified is not None
    claim = certified.state.claim
    later = msgspec.structs.replace(claim, sequence=Sequence(5))
    for statement, signature in (
        (later.encode(), certified.certificate.signature),
        (later.encode(), bytes(64)),
        (b"garbage", bytes(64)),
    ):
        before = len(ring.rejected)
        ring.step(ReplicaId(1), Received(ReplicaId(0), Certified(Epoch(1), statement, signature), ring.now))
        assert len(ring.rejected) == before + 1
    assert ring.replicas[1].execution.certified == certified


def test_a_replica_that_starts_alone_proves_by_what_the_ring_signed_before() -> None:
    """Its disk ends with the batch of which it last heard a certificate, or with one after it."""
    ring, client = Ring(), Client()
    ring.submit(client.request(b"1"))
    certified = ring.replicas[2].execution.certified
    assert certified is not None
    ring.drops = lambda sender, to, message: isinstance(message, Certified | SignatureShare)
    ring.submit(client.request(b"2"))
    assert ring.replicas[2].execution.executed == 2
    for replica in ring.replicas:
        ring.disks[replica.identity].sync()
        ring.crash(replica.identity)
    ring.restart(ReplicaId(2))
    execution = ring.replicas[2].execution
    assert execution.certified is None
    assert execution.provable is not None
    assert execution.provable.certificate == certified.certificate
    assert execution.provable.state.tree.root == certified.state.tree.root != execution.tree.root


def test_a_certificate_of_another_state_proves_nothing() -> None:
    ring = Ring()
    ring.submit(Client().request(b"1"))
    disk = ring.disks[2]
    kept = log.read_certificate(disk)
    assert kept is not None
    other = msgspec.structs.replace(kept.claim(), state_root=bytes(32)).encode()
    disk.write((log.certificate(Certificate(other, kept.signature)),))
    disk.sync()
    ring.crash(ReplicaId(2))
    ring.restart(ReplicaId(2))
    assert ring.replicas[2].execution.provable is None


def test_what_was_committed_below_a_stable_checkpoint_is_counted_in_fresh_reads_after_a_restart() -> None:
    """A linearizable read waits for a certificate of all that this replica has voted to commit; with the checkpoint
    stable the log says no more of it."""
    ring, client = Ring(tuning=Tuning(interval=4, window=8, retained=8, pool=16)), Client()
    for number in range(4):
        ring.submit(client.request(b"%d" % number))
    ring.disks[2].sync()
    ring.crash(ReplicaId(2))
    ring.restart(ReplicaId(2))
    assert ring.replicas[2].checkpoints.stable == 4
    assert ring.replicas[2].ordering.committing == 4


def test_expired_requests_are_answered_so() -> None:
    ring = Ring()
    ring.submit(Client("a").request(b"x"))
    late = Client("b").request(b"late", not_after=int(ring.now) - 1)
    ring.submit(late, client="b")
    assert decode(ring.answers[-1].answer).status is Status.EXPIRED


def test_a_request_for_another_ring_or_with_a_bad_form_or_signature_is_refused() -> None:
    ring = Ring()
    client = Client()
    good = client.request(b"x")
    for bad in (
        Request(good.statement, bytes(64), []),
        Request(b"", good.signature, []),
        Request(good.statement + b"\x00", good.signature, []),
        client.request(b"!", number=1),
        Request(good.statement, good.signature, [b"a body that is not named"]),
    ):
        ring.submit(bad)
    assert len(ring.rejected) == 5
    assert ring.executed == [0, 0, 0, 0]
    ring.submit(client.request(b"y", number=1))
    assert ring.executed == [1, 1, 1, 1]


def test_another_epoch_is_refused() -> None:
    ring = Ring()
    ring.step(ReplicaId(1), Received(ReplicaId(2), Commit(Epoch(2), View(0), Sequence(1), bytes(32)), ring.now))
    assert [rejected.reason for _, rejected in ring.rejected] == ["another epoch"]


def test_memory_stays_bounded_by_the_window() -> None:
    ring = Ring()
    for sequence in range(1, 10 * DEFAULT.window):
        for kind_message in (
            Commit(Epoch(1), View(0), Sequence(sequence), bytes(32)),
            SignatureShare(Epoch(1), View(0), Sequence(sequence), bytes(32)),
        ):
            ring.step(ReplicaId(1), Received(ReplicaId(2), kind_message, ring.now))
    machine = ring.replicas[1]
    assert len(machine.ordering.slots) <= DEFAULT.window
    assert len(machine.signing._shares) <= 2 * DEFAULT.window


def test_too_many_nonces_are_refused() -> None:
    ring = Ring()
    commitment = next(iter(ring.replicas[2].signing._pool.values()))[1]
    flood = Nonces(Epoch(1), View(0), b"s" * 16, 0, [commitment] * 1000)
    ring.step(ReplicaId(0), Received(ReplicaId(2), flood, ring.now))
    assert ring.rejected[-1][1].reason == "more nonces than a pool has"


def test_nonces_are_replaced_a_few_at_a_time() -> None:
    """To make and to check all of a pool takes as long as a batch does, and one of them would wait for it."""
    ring, client = Ring(), Client()
    lots: list[int] = []

    def watch(sender: ReplicaId, to: ReplicaId, message: Message) -> bool:
        if isinstance(message, Nonces):
            lots.append(len(message.commitments))
        return False

    ring.drops = watch
    for number in range(3 * DEFAULT.pool):
        ring.submit(client.request(b"%d" % number))
    assert set(lots) == {DEFAULT.pool // LOTS}
    assert len(lots) == 3 * LOTS
    assert len(ring.replicas[0].signing._pool) > DEFAULT.pool - DEFAULT.pool // LOTS


def test_only_who_names_signers_keeps_nonces() -> None:
    ring = Ring()
    commitment = next(iter(ring.replicas[2].signing._pool.values()))[1]
    lot = Nonces(Epoch(1), View(0), b"s" * 16, 0, [commitment])
    ring.step(ReplicaId(1), Received(ReplicaId(2), lot, ring.now))
    assert ring.rejected[-1][1].reason == "nonces for another primary"
    kept = [[replica.signing.commitments_of(ReplicaId(peer)) > 0 for peer in range(4)] for replica in ring.replicas]
    assert kept == [[True] * 4] + [[False] * 4] * 3


def test_a_damaged_state_on_disk_is_noticed_at_start() -> None:
    from bft.execution import StateDamaged

    ring = Ring()
    ring.submit(Client().request(b"x"))
    ring.disks[1].tables["state"][b"\x01register"] = b"y"
    replica: Replica = ring._make(ReplicaId(1))
    with pytest.raises(StateDamaged):
        replica.step(Started(AgreedTime(0), b"s" * 16))


def test_who_is_far_behind_fetches_all_of_it_without_waiting_for_another_tick() -> None:
    """A replica that gets a few batches a tick never reaches a ring that orders many."""
    ring = Ring()
    client = Client()
    ring.crash(ReplicaId(3))
    for i in range(2 * DEFAULT.window):
        ring.submit(client.request(b"%d" % i))
    settle(ring, 2)
    ring.restart(ReplicaId(3))
    for _ in range(3 * STATUS_TICKS):
        ring.fire("tick")
    check_one_state(ring)


def test_a_backup_that_is_asked_alone_passes_the_request_on_at_its_next_tick() -> None:
    """A client goes on asking who led before, as long as that works."""
    ring = Ring()
    ring.submit(Client().request(b"a"), to=[1])
    assert ring.executed == [0] * 4
    ring.fire("tick")
    assert ring.executed == [1] * 4
    assert len(ring.answers) == 1


def test_a_primary_that_dies_before_it_certifies_is_missed_sooner_than_an_idle_one() -> None:
    """Nothing waits at the backups, but what ran cannot be read: the empty batch that covers it is due at once."""
    ticks = {}
    for dies_before_it_certifies in (True, False):
        ring = Ring()
        if dies_before_it_certifies:
            ring.catch(Certified)
        ring.submit(Client().request(b"a"))
        ring.deliver_all()
        ring.crash(ReplicaId(0))
        ticks[dies_before_it_certifies] = 0
        while ring.replicas[1].views.view == 0:
            ring.fire("tick")
            ticks[dies_before_it_certifies] += 1
    assert ticks[True] * TICK_SECONDS <= LEAST_SECONDS + (UNCERTIFIED_IDLE_TICKS + 1) * TICK_SECONDS
    assert ticks[False] * TICK_SECONDS > IDLE_SECONDS


def test_a_primary_with_nothing_to_do_covers_what_ran_uncertified_at_once() -> None:
    ring = Ring()
    ring.catch(SignatureShare)
    ring.submit(Client().request(b"a"))
    ring.deliver_all()
    for _ in range(UNCERTIFIED_IDLE_TICKS + 1):
        ring.fire("tick")
    assert [replica.execution.certified.sequence for replica in ring.replicas if replica.execution.certified] == [2] * 4


def test_who_did_not_vote_of_late_is_not_named_as_a_signer() -> None:
    """A server that was killed, is paused or has just come back costs at most the batches that are under way."""
    ring = Ring()
    client = Client()
    ring.submit(client.request(b"1"))
    ring.crash(ReplicaId(1))
    for i in range(2, 10):
        ring.submit(client.request(b"%d" % i))
    assert ring.executed[0] == 9
    assert ring.replicas[0].execution.certified is not None
    assert ring.replicas[0].execution.certified.sequence == 9
    assert sum(answer.certificate is None for answer in ring.answers) == 0
    assert len(ring.answers) == 9

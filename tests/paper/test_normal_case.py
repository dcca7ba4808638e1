"""Castro & Liskov, TOCS 2002, sections 4.2 and 4.3, a sentence at a time: messages in, effects out."""

import hashlib

import msgspec
import pytest

from bft.batches import batch_digest
from bft.checkpoints import checkpoint_digest
from bft.effects import Broadcast, Effect, Persist, Received, Rejected, Send
from bft.messages import Checkpoint, Commit, Message, Prepare, PrePrepare, SignatureShare
from bft.ordering import proposal_statement
from bft.tuning import DEFAULT
from bft.types import Epoch, ReplicaId, Sequence, View
from tests.unit.bft.ring import Client, Ring


def proposal(ring: Ring, operation: bytes = b"x") -> PrePrepare:
    """What the primary would broadcast for this operation, without any backup hearing of it."""
    sent = ring.catch(PrePrepare)
    ring.submit(Client().request(operation))
    ring.deliver_all()
    return sent[-1]


def receive(ring: Ring, at: int, sender: int, message: Message) -> list[object]:
    return list(ring.step(ReplicaId(at), Received(ReplicaId(sender), message, ring.now)))


def digest_of(effects: list[object]) -> bytes:
    [vote] = [e.message for e in effects if isinstance(e, Broadcast)]
    assert isinstance(vote, Prepare | Commit)
    return vote.digest


def reasons(effects: list[object]) -> list[str]:
    return [effect.reason for effect in effects if isinstance(effect, Rejected)]


def test_a_backup_accepts_a_pre_prepare_and_enters_the_prepare_phase_by_multicasting_a_prepare() -> None:
    """4.2: 'If backup i accepts the PRE-PREPARE message, it enters the prepare phase by multicasting a PREPARE
    message [...] and adds both messages to its log.'"""
    ring = Ring()
    effects = receive(ring, 1, 0, proposal(ring))
    assert [type(effect) for effect in effects] == [Persist, Broadcast]
    assert isinstance(effects[1], Broadcast)
    assert isinstance(effects[1].message, Prepare)


def test_a_pre_prepare_of_another_view_is_not_accepted() -> None:
    """4.2: 'it is in view v'. One of a later view waits until that has begun."""
    ring = Ring()
    other = msgspec.structs.replace(proposal(ring), view=View(4))
    assert receive(ring, 1, 0, other) == []
    assert not ring.replicas[1].ordering.slots


def test_a_pre_prepare_with_a_wrong_signature_is_refused() -> None:
    """4.2: 'the signatures in the request and the PRE-PREPARE message are correct'."""
    ring = Ring()
    forged = msgspec.structs.replace(proposal(ring), signature=bytes(64))
    assert reasons(receive(ring, 1, 0, forged)) == ["proposal is not signed by the primary"]


def test_a_pre_prepare_with_a_request_that_its_client_did_not_sign_is_refused() -> None:
    """4.2: the primary may well sign a proposal of a request that nobody made."""
    ring = Ring()
    genuine = proposal(ring)
    request = msgspec.structs.replace(genuine.requests[0], signature=bytes(64))
    digest = batch_digest(genuine.time, [(hashlib.sha256(request.statement).digest(), request.signature)])
    signed = proposal_statement(ring.membership, View(0), Sequence(1), digest, genuine.plan)
    forged = msgspec.structs.replace(genuine, requests=[request], signature=ring._signers[0].sign(signed))
    assert reasons(receive(ring, 1, 0, forged)) == ["proposal: request is not signed by its principal"]


@pytest.mark.parametrize("sequence", [DEFAULT.window + 1, 2**62])
def test_a_sequence_number_outside_the_watermarks_is_refused(sequence: int) -> None:
    """4.2: 'the sequence number in the PRE-PREPARE message is between a low water mark, h, and a high water mark, H',
    which 'is necessary to enable garbage collection and to prevent a faulty primary from exhausting the space of
    sequence numbers by selecting a very large one'."""
    ring = Ring()
    far = msgspec.structs.replace(proposal(ring), sequence=Sequence(sequence))
    assert reasons(receive(ring, 1, 0, far)) == ["outside the watermarks"]
    for kind in (Prepare, Commit):
        vote = kind(Epoch(1), View(0), Sequence(sequence), bytes(32))
        assert reasons(receive(ring, 1, 2, vote)) == ["outside the watermarks"]
    assert not ring.replicas[1].ordering.slots


def test_what_lies_below_the_low_watermark_is_old_news() -> None:
    ring = Ring()
    assert receive(ring, 1, 2, Commit(Epoch(1), View(0), Sequence(0), bytes(32))) == []
    assert not ring.replicas[1].ordering.slots


def test_a_second_proposal_for_one_number_is_refused() -> None:
    """4.2: 'it has not accepted a PRE-PREPARE message for view v and sequence number n containing a different
    digest'."""
    ring, twin = Ring(), Ring()
    receive(ring, 1, 0, proposal(ring, b"one"))
    effects = receive(ring, 1, 0, proposal(twin, b"two"))
    assert reasons(effects) == ["a second proposal for one number"]


def test_prepared_takes_the_proposal_and_2f_prepares_from_different_backups_that_match_it() -> None:
    """4.2: 'prepared(m, v, n, i) is true if and only if replica i has inserted in its log: the request m, a PRE-PREPARE
    for m in view v with sequence number n, and 2f PREPAREs from different backups that match the PRE-PREPARE.'"""
    ring = Ring()
    digest = digest_of(receive(ring, 1, 0, proposal(ring)))
    wrong = Prepare(Epoch(1), View(0), Sequence(1), bytes(32))
    assert receive(ring, 1, 3, wrong) == [], "a PREPARE that does not match counts for nothing"
    right = Prepare(Epoch(1), View(0), Sequence(1), digest)
    effects = receive(ring, 1, 2, right)
    assert isinstance(effects[0], Persist), "the P entry is on disk before COMMIT"
    [commit] = [e.message for e in effects if isinstance(e, Broadcast)]
    assert commit == Commit(Epoch(1), View(0), Sequence(1), digest)


def test_votes_that_overtake_their_proposal_count() -> None:
    ring = Ring()
    message = proposal(ring)
    digest = digest_of(receive(Ring(), 1, 0, message))
    receive(ring, 1, 2, Prepare(Epoch(1), View(0), Sequence(1), digest))
    for sender in (0, 2):
        receive(ring, 1, sender, Commit(Epoch(1), View(0), Sequence(1), digest))
    assert ring.executed[1] == 0
    receive(ring, 1, 0, message)
    assert ring.executed[1] == 1


def test_the_primary_does_not_prepare() -> None:
    ring = Ring()
    vote = Prepare(Epoch(1), View(0), Sequence(1), bytes(32))
    assert reasons(receive(ring, 1, 0, vote)) == ["the primary does not prepare"]


def test_a_message_that_claims_our_own_id_is_refused() -> None:
    ring = Ring()
    vote = Prepare(Epoch(1), View(0), Sequence(1), bytes(32))
    assert reasons(receive(ring, 1, 1, vote)) == ["a message in our own name"]


@pytest.mark.parametrize("kind", [Prepare, Commit])
def test_a_replica_that_votes_for_two_batches_at_one_number_is_refused_the_second(kind: type[Prepare | Commit]) -> None:
    ring = Ring()
    first = kind(Epoch(1), View(0), Sequence(1), b"a" * 32)
    second = kind(Epoch(1), View(0), Sequence(1), b"b" * 32)
    assert reasons(receive(ring, 1, 2, first)) == []
    assert reasons(receive(ring, 1, 2, first)) == [], "the same vote again is no second vote"
    assert len(reasons(receive(ring, 1, 2, second))) == 1


def test_committed_local_takes_prepared_and_2f_plus_1_commits() -> None:
    """4.2: 'committed-local(m, v, n, i) is true if and only if prepared(m, v, n, i) is true and i has accepted 2f + 1
    COMMITs (possibly including its own) from different replicas that match the PRE-PREPARE for m.'"""
    ring = Ring()
    message = proposal(ring)
    digest = digest_of(receive(ring, 1, 0, message))
    receive(ring, 1, 2, Prepare(Epoch(1), View(0), Sequence(1), digest))
    receive(ring, 1, 2, Commit(Epoch(1), View(0), Sequence(1), digest))
    receive(ring, 1, 2, Commit(Epoch(1), View(0), Sequence(1), digest))
    assert ring.executed[1] == 0, "its own and one other are two; the second from one replica adds nothing"
    receive(ring, 1, 0, Commit(Epoch(1), View(0), Sequence(1), digest))
    assert ring.executed[1] == 1


def test_requests_execute_in_the_order_of_their_sequence_numbers() -> None:
    """4.2: 'replica i executes the operation requested by m after committed-local is true and i's state reflects the
    sequential execution of all requests with lower sequence numbers.'"""
    ring = Ring()
    held: list[tuple[ReplicaId, ReplicaId, Message]] = []

    def hold_first(sender: ReplicaId, to: ReplicaId, message: Message) -> bool:
        if to == 1 and isinstance(message, PrePrepare | Prepare | Commit) and message.sequence == 1:
            held.append((sender, to, message))
            return True
        return False

    ring.drops = hold_first
    client = Client()
    ring.submit(client.request(b"1"))
    ring.submit(client.request(b"2"))
    assert ring.executed == [2, 0, 2, 2]
    ring.deliver_all()
    ring.links.extend(held)
    ring.run()
    assert ring.executed == [2, 2, 2, 2]
    assert len({replica.execution.tree.root for replica in ring.replicas}) == 1


def test_a_checkpoint_is_stable_with_2f_plus_1_equal_messages_and_cuts_what_lies_below() -> None:
    """4.3: 'Each replica collects messages until it has 2f + 1 with the same sequence number and digest [...] A
    checkpoint with a proof becomes stable and the replica discards all entries in its log with sequence numbers less
    than or equal to n.'"""
    ring = Ring()
    ring.drops = lambda sender, to, message: isinstance(message, Checkpoint) and to == 1 and sender != 0
    client = Client()
    for i in range(DEFAULT.interval):
        ring.submit(client.request(b"%d" % i))
    assert [replica.ordering.stable for replica in ring.replicas] == [
        DEFAULT.interval,
        0,
        DEFAULT.interval,
        DEFAULT.interval,
    ]
    assert len(ring.replicas[1].ordering.slots) == DEFAULT.interval
    assert not ring.replicas[0].ordering.slots
    ring.deliver_all()
    for _ in range(20):
        ring.fire("tick")
    assert ring.replicas[1].ordering.stable == DEFAULT.interval, "what was lost is sent again"


def test_wrong_checkpoints_of_f_replicas_do_not_stop_a_right_one() -> None:
    ring = Ring()
    client = Client()
    ring.drops = lambda sender, to, message: isinstance(message, Checkpoint) and sender == 3
    for i in range(DEFAULT.interval - 1):
        ring.submit(client.request(b"%d" % i))
    signer = ring._signers[3]
    for replica in (0, 1, 2):
        machine = ring.replicas[replica].checkpoints
        digest = checkpoint_digest(Sequence(DEFAULT.interval), ring.now, hashlib.sha256(b"wrong").digest())
        wrong = Checkpoint(
            Epoch(1),
            Sequence(DEFAULT.interval),
            digest,
            signer.sign(machine._signed(Sequence(DEFAULT.interval), digest)),
        )
        assert receive(ring, replica, 3, wrong) == []
    ring.submit(client.request(b"last"))
    assert [replica.ordering.stable for replica in ring.replicas[:3]] == [DEFAULT.interval] * 3


def test_a_replica_whose_state_differs_from_2f_plus_1_others_stops_serving() -> None:
    ring = Ring()
    client = Client()
    ring.submit(client.request(b"0"))
    ring.replicas[3].execution.tree = ring.replicas[3].execution.tree.update({b"\x01rot": b"rot"})
    for i in range(DEFAULT.interval):
        ring.submit(client.request(b"%d" % i))
    assert ring.replicas[3].checkpoints.diverged_at is not None
    assert ring.executed[:3] == [DEFAULT.interval + 1] * 3


def test_the_proposal_is_on_disk_before_it_is_sent() -> None:
    """design.md, 5: by the primary before PRE-PREPARE, which is its vote."""
    ring = Ring()
    kinds: list[str] = []
    perform = ring.perform

    def watch(identity: ReplicaId, effects: list[Effect]) -> None:
        if identity == 0:
            kinds.extend(type(effect).__name__ for effect in effects)
        perform(identity, effects)

    ring.perform = watch  # type: ignore[method-assign]
    ring.submit(Client().request(b"x"))
    assert kinds[:3] == ["Persist", "Mark", "Broadcast"]


def test_an_honest_primary_waits_at_the_high_watermark() -> None:
    ring = Ring()
    ring.drops = lambda sender, to, message: isinstance(message, Checkpoint)
    client = Client()
    for i in range(DEFAULT.window + 5):
        ring.submit(client.request(b"%d" % i))
    assert ring.executed == [DEFAULT.window] * 4
    assert ring.replicas[0].queued == 5
    ring.deliver_all()
    for _ in range(20):
        ring.fire("tick")
        ring.fire("idle")
    assert min(ring.executed) > DEFAULT.window


def test_an_idle_ring_orders_an_empty_batch() -> None:
    ring = Ring()
    ring.fire("idle")
    assert ring.executed == [1, 1, 1, 1]
    assert all(replica.execution.certified is not None for replica in ring.replicas)


def test_a_primary_ahead_of_the_clocks_gets_no_votes() -> None:
    ring = Ring()
    message = proposal(ring)
    effects = ring.step(ReplicaId(1), Received(ReplicaId(0), message, type(ring.now)(ring.now - 6_000_000)))
    assert [e.reason for e in effects if isinstance(e, Rejected)] == ["proposed time is ahead of our clock"]


def test_nothing_is_sent_to_a_client_before_its_batch_is_committed() -> None:
    ring = Ring()
    ring.drops = lambda sender, to, message: isinstance(message, Commit)
    ring.submit(Client().request(b"x"))
    assert ring.executed == [0, 0, 0, 0]
    assert ring.answers == []
    ring.deliver_all()
    for _ in range(3):
        ring.fire("tick")
    assert ring.executed == [1, 1, 1, 1]
    assert len(ring.answers) == 1


def test_a_body_that_is_missing_is_fetched_before_the_vote() -> None:
    """agreement.md: digests are ordered, bodies travel beside; no prepare without the body."""
    ring = Ring()
    body = b"a body" * 100
    name = hashlib.sha256(body).digest()
    request = Client().request(b"#" + name, [body])
    sent = ring.catch(PrePrepare)
    ring.submit(request)
    ring.deliver_all()
    bare = [msgspec.structs.replace(r, bodies=[]) for r in sent[-1].requests]
    stripped = msgspec.structs.replace(sent[-1], requests=bare)
    effects = receive(ring, 1, 0, stripped)
    assert not [e for e in effects if isinstance(e, Broadcast)], "no vote without the body"
    assert [type(e.message).__name__ for e in effects if isinstance(e, Send)] == ["FetchBodies"]
    ring.run()
    assert ring.disks[1].get("bodies", name) == body
    assert ring.replicas[1].ordering.slots[stripped.sequence].voted


def test_a_batch_whose_checkpoint_is_stable_still_gets_its_certificate() -> None:
    """The last share may come after the checkpoint of the same batch: it is not outside the watermarks for that."""
    ring = Ring()
    shares: list[tuple[ReplicaId, ReplicaId, Message]] = []

    def hold_shares(sender: ReplicaId, to: ReplicaId, message: Message) -> bool:
        if isinstance(message, SignatureShare) and message.sequence == DEFAULT.interval:
            shares.append((sender, to, message))
            return True
        return False

    ring.drops = hold_shares
    client = Client()
    for i in range(DEFAULT.interval):
        ring.submit(client.request(b"%d" % i))
    assert ring.replicas[0].ordering.stable == DEFAULT.interval
    ring.links.extend(shares)
    ring.deliver_all()
    ring.run()
    assert len(ring.answers) == DEFAULT.interval
    assert all(answer.certificate is not None for answer in ring.answers)

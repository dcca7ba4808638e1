"""What an attacker found, each as a test: one message that stopped a server or the ring, or grew it without end."""

import hashlib
from typing import Any

import msgpack
import msgspec
import pytest

from bft import statement
from bft.answer import AnswerError, Status
from bft.answer import decode as decode_answer
from bft.certificate import Certificate, CertificateError
from bft.effects import Broadcast, Received, Requested, Send
from bft.messages import MAX_REQUEST_BYTES, Bodies, Certified, FetchBodies, Message, NonceName, Nonces, PrePrepare
from bft.replies import MAX_ASKERS, PATIENCE_SECONDS
from bft.sessions import SWEEP, SWEEP_PER_REQUEST
from bft.statement import StatementError
from bft.types import AgreedTime, Epoch, ReplicaId, View
from tests.unit.bft.ring import Client, Ring
from tests.unit.bft.test_sessions import World, stated

NESTED = b"\x93" + msgpack.packb("bft.certificate") + b"\x01" + b"\x91" * 600 + b"\xc0"


def test_a_deeply_nested_statement_is_refused_wherever_it_arrives() -> None:
    with pytest.raises(StatementError):
        statement.decode(NESTED, "bft.certificate", 1)
    with pytest.raises(CertificateError):
        Certificate(NESTED, bytes(64)).claim()
    with pytest.raises(AnswerError):
        decode_answer(NESTED.replace(b"certificate", b"answer"))
    ring = Ring()
    ring.step(ReplicaId(1), Received(ReplicaId(2), Certified(Epoch(1), NESTED, bytes(64)), ring.now))
    assert ring.rejected[-1][1].reason.startswith("malformed certificate")


def nested(depth: int) -> bytes:
    return b"\x93\xa1t\x01" + b"\x91" * depth + b"\xc0"


def decoded_below(frames: int, depth: int) -> list[Any]:
    """Of a statement of this depth, from so far down the stack."""
    return decoded_below(frames - 1, depth) if frames else statement.decode(nested(depth), "t", 1)


@pytest.mark.parametrize("depth", [64, 100, 500, 511, 512, 513, 1000, 3000, 100_000])
def test_no_depth_of_nesting_raises_anything_else(depth: int) -> None:
    with pytest.raises(StatementError):
        statement.decode(nested(depth), "t", 1)


@pytest.mark.parametrize("frames", [0, 600])
def test_what_is_a_statement_does_not_depend_on_the_stack(frames: int) -> None:
    assert decoded_below(frames, statement.MAX_DEPTH - 1)
    with pytest.raises(StatementError, match="more than 64 lists in each other"):
        decoded_below(frames, statement.MAX_DEPTH)


def test_nonces_whose_index_fits_no_plan_are_refused() -> None:
    ring = Ring()
    points = [ring.replicas[2].signing._pool[index][1] for index in range(3)]
    ring.step(ReplicaId(0), Received(ReplicaId(1), Nonces(Epoch(1), View(0), b"X" * 16, 2**63 - 1, points), ring.now))
    assert ring.rejected[-1][1].reason == "nonces numbered too high"
    client = Client()
    for i in range(5):
        ring.submit(client.request(b"%d" % i))
    assert ring.executed == [5, 5, 5, 5]


def test_every_proposal_that_a_primary_sends_can_be_decoded() -> None:
    ring = Ring()
    sent: list[PrePrepare] = []
    start = b"X" * 16
    points = [ring.replicas[1].signing._pool[index][1] for index in range(3)]
    ring.step(ReplicaId(0), Received(ReplicaId(1), Nonces(Epoch(1), View(0), start, 2**62 - 1, points), ring.now))

    def watch(sender: ReplicaId, to: ReplicaId, message: Message) -> bool:
        if isinstance(message, PrePrepare):
            sent.append(msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=PrePrepare))
        return False

    ring.drops = watch
    client = Client()
    for i in range(8):
        ring.submit(client.request(b"%d" % i))
    plans = [message.plan for message in sent if message.plan is not None]
    assert any(name == NonceName(start, 2**62 - 1) for plan in plans for _, name, _ in plan.signers), (
        "the edge was reached"
    )


def test_a_request_that_no_proposal_could_carry_is_refused() -> None:
    ring = Ring()
    ring.submit(Client().request(bytes(MAX_REQUEST_BYTES)))
    assert "larger than" in ring.rejected[-1][1].reason
    assert ring.executed == [0, 0, 0, 0]


def test_bodies_that_are_fetched_go_to_the_disk_as_they_come() -> None:
    ring = Ring()
    bodies = [b"%d" % i * 100 for i in range(2)]
    requests = [Client(str(i)).request(b"#" + hashlib.sha256(body).digest(), [body]) for i, body in enumerate(bodies)]
    sent = ring.catch(PrePrepare)
    ring.step(ReplicaId(0), Requested("a", requests[0], ring.now))
    ring.submit(requests[1])
    ring.deliver_all()
    bare = [msgspec.structs.replace(request, bodies=[]) for request in sent[0].requests]
    ring.step(ReplicaId(1), Received(ReplicaId(0), msgspec.structs.replace(sent[0], requests=bare), ring.now))
    ring.links.clear()
    effects = ring.step(ReplicaId(1), Received(ReplicaId(0), Bodies(Epoch(1), bodies[:1]), ring.now))
    assert ring.disks[1].get("bodies", hashlib.sha256(bodies[0]).digest()) == bodies[0]
    assert not [effect for effect in effects if isinstance(effect, Broadcast)], "one is still missing"
    effects = ring.step(ReplicaId(1), Received(ReplicaId(0), Bodies(Epoch(1), bodies[1:]), ring.now))
    assert [effect for effect in effects if isinstance(effect, Broadcast)]


def test_missing_bodies_are_asked_of_one_replica_at_a_time() -> None:
    ring = Ring()
    name = hashlib.sha256(b"never comes").digest()
    sent = ring.catch(PrePrepare)
    ring.submit(Client().request(b"#" + name, [b"never comes"]))
    ring.deliver_all()
    bare = [msgspec.structs.replace(request, bodies=[]) for request in sent[0].requests]
    ring.step(ReplicaId(1), Received(ReplicaId(0), msgspec.structs.replace(sent[0], requests=bare), ring.now))
    asked = set()
    for turn in range(3):
        [fetch] = ring.replicas[1].batches.fetch(turn)
        assert isinstance(fetch, Send)
        assert isinstance(fetch.message, FetchBodies)
        asked.add(fetch.to)
    assert asked == {0, 2, 3}


def test_bodies_that_clients_bring_are_seen_before_they_are_written() -> None:
    ring = Ring()
    body = b"brought"
    name = hashlib.sha256(body).digest()
    sent = ring.catch(PrePrepare)
    ring.submit(Client().request(b"#" + name, [body]))
    bare = [msgspec.structs.replace(request, bodies=[]) for request in sent[0].requests]
    ring.step(ReplicaId(1), Received(ReplicaId(0), msgspec.structs.replace(sent[0], requests=bare), ring.now))
    writes = ring.replicas[0]._service.hold(name, body, ring.now)
    effects = ring.replicas[1].bodies_arrived(writes, ring.now)
    assert [effect for effect in effects if isinstance(effect, Broadcast)], "the vote goes out at once"


def test_those_who_ask_for_one_request_are_bounded_and_forgotten() -> None:
    ring = Ring()
    request = Client().request(b"x")
    for i in range(1000):
        ring.step(ReplicaId(1), Requested(f"client {i}", request, ring.now))
    replies = ring.replicas[1].replies
    [waiting] = replies._waiting.values()
    assert list(waiting.clients) == [f"client {i}" for i in range(1000 - MAX_ASKERS, 1000)]
    ring.now = AgreedTime(ring.now + (PATIENCE_SECONDS + 1) * 1_000_000)
    ring.fire("tick")
    assert len(replies) == 0


def test_a_request_that_would_wait_for_ever_is_refused_at_the_door() -> None:
    ring = Ring()
    ring.submit(Client().request(b"x", not_after=2**62), to=[1])
    assert "not-after" in ring.rejected[-1][1].reason
    assert len(ring.replicas[1].replies) == 0


def test_a_batch_drops_more_sessions_than_it_can_open() -> None:
    assert SWEEP_PER_REQUEST > 2, "each request can add a session and a page"
    assert SWEEP > 0


def test_a_request_that_was_told_that_its_number_is_taken_never_runs() -> None:
    world = World()
    world.submit(stated(1, 100), 10)
    other = stated(1, 100_000)
    assert world.submit(other, 20) is Status.NUMBER_TAKEN or world.ran == 1
    ran = world.ran
    for time in (101, 5_000, 99_999):
        verdict = world.submit(other, time)
        assert verdict is not Status.EXECUTED
        assert world.ran == ran, f"it ran at {time}"


def test_a_page_that_outlived_its_session_is_no_page_of_the_next_one() -> None:
    world = World()
    first = stated(1, 100)
    world.submit(first, 10)
    from bft.sessions import session_key

    gone = session_key(first.principal, first.session)
    world.tree = world.tree.update({gone: None})  # swept, and the page by the batch's limit not yet
    second = stated(1, 9_000)
    answer = world.submit(second, 200)
    assert isinstance(answer, bytes)
    assert world.submit(second, 201) == answer


def test_a_batch_that_has_run_is_kept_in_the_log_alone() -> None:
    ring = Ring()
    client = Client()
    for i in range(10):
        ring.submit(client.request(b"%d" % i))
    for replica in ring.replicas:
        assert not replica.batches.requests()
    ring.crash(ReplicaId(3))
    for i in range(5):
        ring.submit(client.request(b"more %d" % i))
    ring.restart(ReplicaId(3))
    for _ in range(10):
        ring.fire("tick")
    assert ring.executed == [15] * 4, "and can be sent again from there"


def test_a_primary_does_not_take_its_own_proposal_from_others() -> None:
    ring = Ring()
    sent = ring.catch(PrePrepare)
    ring.submit(Client().request(b"x"))
    fresh = Ring()
    fresh.step(ReplicaId(0), Received(ReplicaId(1), sent[0], fresh.now))
    assert fresh.rejected[-1][1].reason == "a proposal of our own that is not in our log"

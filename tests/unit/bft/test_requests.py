"""Requests that wait: the primary's queue and what it may hold, relays of backups, what is forgotten when."""

import hashlib

import pytest

from bft import requests
from bft.effects import Rejected, Requested
from bft.messages import MAX_BATCH, Bodies, FetchBodies, PrePrepare, Relay, Request
from bft.replica import OVERLOADED
from bft.types import AgreedTime, Epoch, ReplicaId
from tests.paper.changes import leave, lose, receive, register, sent
from tests.unit.bft.ring import Client, Ring

ONE = Epoch(1)


def ask(ring: Ring, at: int, request: Request) -> list[str]:
    """Bring a request to one replica, without the end of a burst. Why it was refused."""
    effects = ring.step(ReplicaId(at), Requested("client", request, ring.now))
    return [effect.reason for effect in effects if isinstance(effect, Rejected)]


def test_the_queue_has_an_end_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "QUEUE", 5)
    ring, client = Ring(), Client()
    answers = [ask(ring, 1, client.request(b"%d" % i)) for i in range(8)]
    assert answers == [[]] * 5 + [[OVERLOADED]] * 3
    assert ask(ring, 1, client.request(b"4", number=5)) == [], "who waits already may ask again"


def test_so_have_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "QUEUE_BYTES", 5000)
    ring, client = Ring(), Client()
    answers = [ask(ring, 1, client.request(bytes(1000))) for _ in range(8)]
    assert answers.count([]) == 5
    ring.pass_time(1)
    assert ring.replicas[1].requests._bytes == 0, "what ran makes room"
    assert ask(ring, 1, client.request(b"x")) == []


def test_a_batch_holds_so_many_requests_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "BATCH_BYTES", 4000)
    ring, client = Ring(), Client()
    for size in (10, 10, 10_000, 10, 3000, 3000):
        ask(ring, 1, client.request(bytes(size)))
    queue = ring.replicas[1].requests
    taken = [[len(admitted.statement.operation) for admitted in queue.take_batch()] for _ in range(5)]
    assert taken == [[10, 10], [10_000], [10, 3000], [3000], []], "in their order; one that is larger goes alone"
    for _ in range(MAX_BATCH + 3):
        ask(ring, 1, client.request(b""))
    monkeypatch.setattr(requests, "BATCH_BYTES", 10**9)
    assert [len(queue.take_batch()) for _ in range(2)] == [MAX_BATCH, 3]


def test_what_was_proposed_waits_until_it_ran() -> None:
    ring, client = Ring(), Client()
    ring.drops = lose(PrePrepare)
    ring.submit(client.request(b"x"))
    machine = ring.replicas[0].requests
    assert len(machine) == 0
    assert machine._waiting
    ring.deliver_all()
    ring.pass_time(1)
    assert register(ring) == b"x"
    assert not machine._waiting


def test_a_relay_with_a_body_that_is_missing_is_completed_from_who_relayed_it() -> None:
    ring = Ring()
    body = b"a body"
    name = hashlib.sha256(body).digest()
    request = Client().request(b"#" + name)
    ring.disks[2].tables["bodies"] = {name: body}
    [fetch] = sent(receive(ring, 0, 2, Relay(ONE, request)), FetchBodies)
    assert fetch.digests == [name]
    receive(ring, 0, 2, Bodies(ONE, [b"another body"]))
    assert ring.replicas[0].queued == 0
    ring.run()
    ring.pass_time(0.2)
    assert ring.disks[3].get("bodies", name) == body
    assert register(ring, 3) == b"#" + name


@pytest.mark.parametrize("at", [1, 2])
def test_a_relay_to_a_backup_is_dropped(at: int) -> None:
    ring = Ring()
    assert receive(ring, at, 3, Relay(ONE, Client().request(b"x"))) == []
    assert ring.replicas[at].queued == 0


def test_a_relay_that_is_not_signed_is_refused_and_one_that_ran_is_dropped() -> None:
    ring, client = Ring(), Client()
    good = client.request(b"x")
    bad = Request(good.statement, bytes(64), [])
    [refused] = receive(ring, 0, 3, Relay(ONE, bad))
    assert isinstance(refused, Rejected)
    ring.submit(good)
    assert receive(ring, 0, 3, Relay(ONE, good)) == []
    assert ring.replicas[0].queued == 0


def test_what_can_no_longer_run_is_forgotten() -> None:
    ring = Ring()
    ring.drops = lambda sender, to, message: to == 0
    ask(ring, 1, Client("a").request(b"late", not_after=int(ring.now) + 500_000))
    machine = ring.replicas[1].requests
    machine.expire(AgreedTime(ring.now + 400_000))
    assert len(machine) == 1
    machine.expire(AgreedTime(ring.now + 600_000))
    assert len(machine) == 0
    assert machine._bytes == 0


def test_what_nobody_asks_for_any_more_is_forgotten() -> None:
    ring = Ring()
    ask(ring, 1, Client().request(b"x"))
    machine = ring.replicas[1].requests
    for _ in range(requests.FORGOTTEN_TICKS + 1):
        machine.tick(ReplicaId(0), set(), lambda stated: False)
    machine.expire(AgreedTime(0))
    assert len(machine) == 0


def test_relays_become_rarer() -> None:
    ring = Ring()
    ask(ring, 1, Client().request(b"x"))
    machine = ring.replicas[1].requests
    relayed = [tick for tick in range(1, 200) if machine.tick(ReplicaId(0), set(), lambda stated: False)]
    assert relayed == [1, 2, 4, 8, 16, 32, 64, 128]


def test_so_many_are_relayed_at_a_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "RELAYED", 3)
    ring, client = Ring(), Client()
    for i in range(8):
        ask(ring, 1, client.request(b"%d" % i))
    machine = ring.replicas[1].requests
    counts = [len(machine.tick(ReplicaId(0), set(), lambda stated: False)) for _ in range(3)]
    assert counts == [3, 3, 3]


def test_a_new_primary_proposes_what_the_views_first_batches_do_not_have() -> None:
    ring, client = Ring(), Client()
    ring.drops = lambda sender, to, message: type(message).__name__ == "Commit"
    both = [client.request(b"first "), client.request(b"second ")]
    for i in range(4):
        ask(ring, i, both[0])
    ring.submit(both[0], to=[0])
    ring.deliver_all()
    for i in (1, 2, 3):
        ask(ring, i, both[1])
    for i in (1, 2, 3):
        leave(ring, i, 1)
    ring.run()
    assert register(ring, 1) == b"first second "
    assert ring.replicas[1].queued == 0

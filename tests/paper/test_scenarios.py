"""Message flows as text: who says what to whom, in which order, and what is on whose disk before it.

`tests/paper/scenarios/` holds what is to happen, exactly; `pytest --rewrite tests/paper/test_scenarios.py` writes it
anew, and a person reads the difference.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from bft.messages import Commit, Message, Nonces, Prepare, PrePrepare, Relay, SignatureShare, Status, ViewChange
from bft.tuning import Tuning
from bft.types import ReplicaId
from tests.paper.changes import leave, receive
from tests.paper.stage import Stage
from tests.unit.bft.ring import Client

FOLDER = Path(__file__).parent / "scenarios"


def normal_case() -> Stage:
    """Section 4.2, and the certificate."""
    stage = Stage()
    stage.scene("a client asks the primary of an idle ring")
    stage.ask(Client().request(b"a"), to=(0,))
    return stage


def full_pipeline() -> Stage:
    """Requests that come while four batches are under way make the next batch together."""
    stage = Stage(unsaid=(Nonces, Status, SignatureShare))
    client = Client()
    held: list[tuple[ReplicaId, ReplicaId, Message]] = []

    def hold(sender: ReplicaId, to: ReplicaId, message: Message) -> bool:
        first = isinstance(message, Commit) and message.sequence == 1
        if first and (sender, to, message) not in held:
            held.append((sender, to, message))
        return first

    stage.drops = hold
    for i in range(8):
        stage.ask(client.request(b"%d" % i), to=(0,))
    stage.lines.clear()
    stage.scene("four batches are under way, of 1, 1, 2 and 4 requests, and three requests come")
    for i in range(8, 11):
        stage.ask(client.request(b"%d" % i), to=(0,))
    stage.scene("the votes for the first, which were late, arrive")
    stage.deliver_all()
    stage.links.extend(held)
    stage.run()
    return stage


def checkpoint() -> Stage:
    """Section 4.3, with a checkpoint after every second batch."""
    stage = Stage(Tuning(interval=2, window=8))
    client = Client()
    stage.ask(client.request(b"first"), to=(0,))
    stage.lines.clear()
    stage.scene("the second batch, after which there is a checkpoint")
    stage.ask(client.request(b"second"), to=(0,))
    return stage


def view_change() -> Stage:
    """Section 4.4, with a batch that had prepared, and one above a gap."""
    stage = Stage()

    def drop(sender: ReplicaId, to: ReplicaId, message: Message) -> bool:
        return isinstance(message, Commit) or (isinstance(message, Prepare) and message.sequence == 2)

    stage.drops = drop
    client = Client()
    stage.scene("three batches; COMMITs are lost, and PREPAREs for the second")
    for i in range(4):
        stage.ask(client.request(b"%d" % i), to=(0,))
    stage.scene("the primary dies; backups wait until their timers run out")
    stage.crash(ReplicaId(0))
    stage.deliver_all()
    for i in (1, 2, 3):
        leave(stage, i, 1)
    stage.run()
    return stage


def client_retry() -> Stage:
    """Section 4.1: the primary does not hear the client, but backups do, and pass its request on."""
    stage = Stage()
    stage.scene("a client that got no answer asks all; the primary does not hear it")
    stage.ask(Client().request(b"a"), to=(1, 2, 3))
    stage.scene("a tick later")
    stage.fire("tick")
    return stage


def primary_that_ignores_a_client() -> Stage:
    """The same when the primary hears and does nothing."""
    stage = Stage(unsaid=(Nonces, Status, SignatureShare))
    stage.pass_time(1.5)
    stage.drops = lambda sender, to, message: isinstance(message, Relay) and to == 0
    stage.lines.clear()
    stage.scene("a client asks the backups; the primary drops what they relay")
    stage.ask(Client().request(b"a"), to=(1, 2, 3))
    stage.pass_time(1)
    return stage


def catching_up() -> Stage:
    """Section 4.6: a replica was away for three batches."""
    stage = Stage(unsaid=(Nonces,))
    client = Client()
    stage.crash(ReplicaId(3))
    for i in range(3):
        stage.ask(client.request(b"%d" % i), to=(0,))
    stage.links.clear()
    stage.lines.clear()
    stage.scene("replica 3 comes back; a tick later others have said where they are, and it asks")
    stage.restart(ReplicaId(3))
    stage.links.clear()
    for other in (0, 1):
        receive(stage, 3, other, stage.replicas[other].retransmission._status(ReplicaId(3), contents=False))
    stage.fire("tick")
    return stage


def learning_what_was_decided() -> Stage:
    """Section 4.6: votes of a view do not help who has left it; f + 1 who ran the batch do."""
    stage = Stage(unsaid=(Nonces, SignatureShare))
    leave(stage, 3, 1)
    stage.run()
    stage.lines.clear()
    stage.scene("replica 3 has left for view 1, alone; the others go on")
    stage.ask(Client().request(b"a"), to=(0,))
    stage.scene("a tick later")
    stage.fire("tick")
    return stage


def fetching_bodies() -> Stage:
    """A proposal whose body a backup does not hold: it asks before it votes."""
    stage = Stage(unsaid=(Nonces, Status, SignatureShare))
    body = b"a body"
    post = stage._post

    def strip(sender: ReplicaId, to: ReplicaId, message: Message) -> None:
        if isinstance(message, PrePrepare) and to == 3:
            bare = [msgspec.structs.replace(request, bodies=[]) for request in message.requests]
            message = msgspec.structs.replace(message, requests=bare)
        post(sender, to, message)

    stage._post = strip  # type: ignore[method-assign]
    stage.scene("the primary sends the proposal to replica 3 without the body")
    stage.ask(Client().request(b"#" + hashlib.sha256(body).digest(), [body]), to=(0,))
    return stage


def lost_nonces() -> Stage:
    """A ring whose primary has nobody's nonces cannot have anything signed, and asks for them."""
    stage = Stage(unsaid=())
    for replica in (1, 2, 3):
        stage.replicas[0].signing._published.pop(ReplicaId(replica))
    client = Client()
    stage.scene("the primary has lost what others published: nobody signs")
    stage.ask(client.request(b"a"), to=(0,))
    stage.scene("it finds that nothing is certified, and asks")
    stage.fire("tick")
    stage.fire("tick")
    stage.scene("the next batch is signed, and covers the first")
    stage.ask(client.request(b"b"), to=(0,))
    return stage


def lost_new_view() -> Stage:
    """NEW-VIEW is lost on its way to one replica, which asks for it."""
    stage = Stage(unsaid=(Nonces, SignatureShare))
    stage.drops = lambda sender, to, message: not isinstance(message, ViewChange) and to == 3
    stage.scene("the primary gives up its view, and replica 3 hears nothing of how the next one begins")
    leave(stage, 0, 1)
    stage.run()
    stage.deliver_all()
    stage.scene("a tick later")
    stage.fire("tick")
    return stage


SCENARIOS = [
    normal_case,
    full_pipeline,
    checkpoint,
    view_change,
    client_retry,
    primary_that_ignores_a_client,
    catching_up,
    learning_what_was_decided,
    fetching_bodies,
    lost_nonces,
    lost_new_view,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_scenario(scenario: Callable[[], Stage], rewrite: bool) -> None:
    stage = scenario()
    told = "\n".join(line.rstrip() for line in stage.lines) + "\n"
    path = FOLDER / f"{scenario.__name__}.txt"
    if rewrite:
        FOLDER.mkdir(exist_ok=True)
        path.write_text(told)
    assert told == path.read_text(), "run with --rewrite, and read the difference"


def test_no_scenario_is_left_over() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == {scenario.__name__ for scenario in SCENARIOS}

"""What is said again to whom: answers to STATUS have bounds, whoever asks, and bring who lags what it lacks."""

import pytest

from bft.batches import ALLOWANCE_BYTES, MAX_ANSWER_BYTES
from bft.catch_up import RESEND
from bft.messages import Certified, Commit, Decided, NewView, Prepare, PrePrepare, StableCheckpoint, Status
from bft.retransmission import GAP_SECONDS
from bft.tuning import DEFAULT, Tuning
from bft.types import AgreedTime, Epoch, ReplicaId, Sequence, View
from tests.paper.changes import leave, receive, register, sent
from tests.unit.bft.ring import Client, Ring

ONE = Epoch(1)
FAR = 2**63 - 1


def status(executed: int = 0, view: int = 0, active: bool = True, votes: bool = True, contents: bool = True) -> Status:
    """What a replica says of itself."""
    return Status(
        ONE,
        View(view),
        active,
        Sequence(executed),
        Sequence(0),
        Sequence(executed),
        False,
        votes,
        contents,
        Sequence(0),
    )


def ran(count: int, tuning: Tuning = DEFAULT) -> Ring:
    """A ring that has run so many batches."""
    ring, client = Ring(tuning=tuning), Client()
    for i in range(count):
        ring.submit(client.request(b"%d " % i))
    ring.now = AgreedTime(ring.now + 1_000_000)
    return ring


def test_one_answer_has_the_next_numbers_alone() -> None:
    ring = ran(3 * RESEND)
    said = sent(receive(ring, 1, 3, status(executed=5, votes=False)), Decided)
    assert [message.sequence for message in said] == list(range(6, 6 + RESEND))


def test_who_is_in_the_same_view_gets_votes_for_what_is_not_settled() -> None:
    ring = ran(70)
    effects = receive(ring, 1, 3, status(executed=60))
    assert [message.sequence for message in sent(effects, Decided)] == [61, 62, 63, 64], "up to the checkpoint"
    assert [message.sequence for message in sent(effects, PrePrepare)] == list(range(65, 71))
    assert [message.sequence for message in sent(effects, Prepare)] == list(range(65, 71))
    assert [message.sequence for message in sent(effects, Commit)] == list(range(65, 71))


def test_proposals_come_from_the_primary_or_from_whom_they_were_asked_of() -> None:
    ring = ran(3)
    asked = status(contents=False)
    assert [len(sent(receive(ring, i, 3, asked), PrePrepare)) for i in (0, 1, 2)] == [3, 0, 0]


def test_who_asks_too_often_is_not_answered() -> None:
    ring = ran(5)
    answered = []
    for _ in range(20):
        ring.now = AgreedTime(ring.now + round(GAP_SECONDS * 1e6 / 4))
        answered.append(bool(receive(ring, 1, 3, status())))
    assert sum(answered) == 5
    assert receive(ring, 1, 2, status()), "another is"


def test_a_flood_of_status_brings_no_flood_of_large_proposals() -> None:
    """Thirty-two proposals of 8 MB each would leave a server two hundred times a second. Three are more than one answer
    may have."""
    ring, client = Ring(), Client()
    for _ in range(3):
        ring.submit(client.request(bytes(7_000_000)))
    asked: list[int] = []
    for _ in range(20):
        ring.now = AgreedTime(ring.now + round(GAP_SECONDS * 1e6))
        proposals = sent(receive(ring, 1, 3, status()), PrePrepare)
        asked.append(sum(proposal.size_bytes for proposal in proposals))
    assert max(asked) <= MAX_ANSWER_BYTES + 7_100_000
    assert sum(asked) < 4 * ALLOWANCE_BYTES + max(asked)
    ring.fire("tick")
    ring.fire("tick")
    ring.fire("tick")
    assert sent(receive(ring, 1, 3, status()), PrePrepare), "it is answered again"


@pytest.mark.parametrize("view", [0, 1, FAR])
@pytest.mark.parametrize("number", [0, 1, 255, 256, 257, 2**32, FAR])
def test_no_number_makes_an_answer_long(number: int, view: int) -> None:
    ring = ran(5)
    message = Status(
        ONE, View(view), True, Sequence(number), Sequence(number), Sequence(number), True, True, True, Sequence(number)
    )
    assert len(receive(ring, 1, 3, message)) < 3 * RESEND
    ring.fire("tick")
    assert ring.replicas[1].retransmission.behind == 0, "one liar does not make others seem behind"


def test_decided_far_ahead_is_not_kept() -> None:
    ring = Ring()
    for number in (*range(1, 500), FAR):
        for sender in (0, 2, 3):
            receive(ring, 1, sender, Decided(ONE, Sequence(number), b"d" * 32))
    assert len(ring.replicas[1].catch_up._said) <= 2 * RESEND
    assert len(ring.replicas[1].batches._known) <= 2 * RESEND


def test_two_who_disagree_prove_nothing() -> None:
    ring = Ring()
    for sender, digest in ((0, b"a"), (2, b"b"), (0, b"c")):
        receive(ring, 1, sender, Decided(ONE, Sequence(1), digest * 32))
    assert ring.replicas[1].catch_up.decided(Sequence(1)) is None
    receive(ring, 1, 3, Decided(ONE, Sequence(1), b"b" * 32))
    assert ring.replicas[1].catch_up.decided(Sequence(1)) == b"b" * 32


def test_checkpoints_and_the_newest_certificate_come_as_well() -> None:
    ring = ran(9, Tuning(interval=4, window=8, retained=64))
    effects = receive(ring, 1, 3, status(executed=9))
    assert not sent(effects, Certified), "it has said that it has it"
    ring.now = AgreedTime(ring.now + 1_000_000)
    lacks = Status(ONE, View(0), True, Sequence(9), Sequence(0), Sequence(8), False, True, True, Sequence(0))
    effects = receive(ring, 1, 3, lacks)
    assert len(sent(effects, Certified)) == 1
    assert [message.sequence for message in sent(effects, StableCheckpoint)] == [8]


def test_who_waits_for_a_view_that_has_begun_gets_new_view() -> None:
    ring = Ring()
    for i in (0, 1, 2, 3):
        leave(ring, i, 1)
    ring.run()
    ring.now = AgreedTime(ring.now + 1_000_000)
    waits = status(view=1, active=False)
    answers = [len(sent(receive(ring, i, 3, waits), NewView)) for i in (0, 1, 2)]
    assert answers == [1, 1, 1]
    ring.now = AgreedTime(ring.now + 1_000_000)
    small = status(view=1, active=False, contents=False)
    answers = [len(sent(receive(ring, i, 3, small), NewView)) for i in (0, 1, 2)]
    assert answers == [0, 1, 0], "it is large: from its primary, or from whom it was asked of"


def test_a_replica_many_batches_behind_catches_up_without_its_view() -> None:
    ring = ran(0)
    leave(ring, 3, 5)
    ring.run()
    client = Client()
    ring.drops = lambda sender, to, message: to == 3
    for i in range(150):
        ring.submit(client.request(b"%d " % i))
    ring.deliver_all()
    ring.pass_time(3)
    assert register(ring, 3) == register(ring, 0)
    assert ring.replicas[3].checkpoints.stable == ring.replicas[0].checkpoints.stable == 128


def test_nobody_answers_itself() -> None:
    ring = ran(1)
    [refused] = receive(ring, 1, 1, status())
    assert "our own name" in str(refused)
    assert receive(ring, 1, ReplicaId(3), status())

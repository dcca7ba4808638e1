"""When requests are proposed, and together with how many others."""

from bft.effects import BurstEnded, Requested
from bft.messages import Commit, PrePrepare
from bft.pacing import Pacing
from bft.types import AgreedTime, ReplicaId, Sequence
from tests.paper.changes import sent
from tests.unit.bft.ring import Client, Ring

NOW = AgreedTime(1_000_000)


def test_with_nothing_under_way_one_request_is_worth_a_batch() -> None:
    pacing = Pacing()
    assert pacing.worth_a_batch(1)
    pacing.proposed(Sequence(1), 0, NOW)
    assert pacing.worth_a_batch(1), "an empty batch delays nobody"


def test_batches_grow_as_long_as_earlier_ones_are_under_way() -> None:
    pacing = Pacing()
    sizes = []
    waiting = 0
    for _ in range(64):
        waiting += 1
        if pacing.worth_a_batch(waiting):
            sizes.append(waiting)
            pacing.proposed(Sequence(len(sizes)), waiting, NOW)
            waiting = 0
    assert sizes == [1, 1, 2, 4, 8, 16, 32]


def test_who_waits_is_proposed_when_a_batch_has_run() -> None:
    pacing = Pacing()
    pacing.proposed(Sequence(1), 10, NOW)
    pacing.proposed(Sequence(2), 10, NOW)
    assert not pacing.worth_a_batch(10)
    assert pacing.ran(Sequence(1), AgreedTime(NOW + 5_000)) == 0.005
    assert pacing.worth_a_batch(10)


def test_what_ran_elsewhere_or_belongs_to_another_view_is_not_waited_for() -> None:
    pacing = Pacing()
    for number in (1, 2, 3):
        pacing.proposed(Sequence(number), 10, NOW)
    pacing.executed(Sequence(2))
    assert pacing.worth_a_batch(10)
    assert not pacing.worth_a_batch(9)
    pacing.view_began()
    assert pacing.worth_a_batch(1)


def test_a_primary_gathers_requests_while_a_batch_is_under_way() -> None:
    """Commits are held, so that nothing runs: the second request goes at once, the third waits for a fourth."""
    ring, client = Ring(), Client()
    ring.drops = lambda sender, to, message: isinstance(message, Commit)
    batches = []
    for number in range(4):
        request = client.request(b"%d" % number)
        ring.step(ReplicaId(0), Requested(object(), request, ring.now))
        effects = ring.step(ReplicaId(0), BurstEnded(ring.now))
        batches += [len(proposal.requests) for proposal in sent(effects, PrePrepare)]
        ring.deliver_all()
    assert batches == [1, 1, 2]

"""What the simulator found, as scenarios that do not depend on what a seed means today."""

from bft.messages import Nonces
from bft.tuning import Tuning
from bft.types import ReplicaId
from tests.unit.bft.ring import Ring


def certified(ring):
    newest = ring.replicas[0].execution.certified
    return 0 if newest is None else newest.sequence


def idle(ring, seconds):
    """Let the ring go on alone: each second a batch, and all timers."""
    for _ in range(seconds):
        ring.fire("idle")
        ring.fire("shares")
        for _ in range(10):
            ring.fire("tick")


def test_the_primary_stops_naming_nonces_of_servers_that_restarted():
    """Seed 63: every backup restarted, what each published then was lost, and for a minute nothing was certified."""
    ring = Ring()
    idle(ring, 1)
    assert certified(ring) == 1
    ring.drops = lambda sender, to, message: isinstance(message, Nonces) and to == 0
    for backup in map(ReplicaId, (1, 2, 3)):
        ring.crash(backup)
        ring.restart(backup)
        ring.run()
    ring.drops = lambda sender, to, message: False
    idle(ring, 5)
    assert certified(ring) == ring.executed[0] > 1


def test_nonces_published_again_are_never_more_than_may_be():
    """Seed 381: a pool had just been refilled above one lot, and all of it was sent, and refused for ever."""
    ring = Ring(tuning=Tuning(pool=4))
    for backup in map(ReplicaId, (1, 2, 3)):
        assert len(ring.replicas[backup].signing._pool) == 4
        ring.replicas[backup].signing._pool.pop(0)
        ring.replicas[backup].signing._pool.pop(1)
        ring.perform(backup, ring.replicas[backup].signing.refill())
        assert len(ring.replicas[backup].signing._pool) == 6
    ring.run()
    ring.replicas[0].signing._published.clear()
    ring.perform(ReplicaId(0), ring.replicas[0].signing.publish_again(ReplicaId(1)))
    idle(ring, 3)
    assert not [refused for _, refused in ring.rejected if "nonces" in refused.reason]
    assert all(ring.replicas[0].signing.commitments_of(ReplicaId(backup)) for backup in (1, 2, 3))

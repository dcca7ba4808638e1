"""What the simulator found, as scenarios that do not depend on what a seed means today."""

from bft.effects import BurstEnded, Requested
from bft.messages import Commit, NonceName, Nonces, Prepare, PrePrepare
from bft.tuning import Tuning
from bft.types import ReplicaId
from tests.unit.bft.ring import Client, Ring


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
    """Seed 381: a pool had just been refilled above its size, and all of it was sent, and refused for ever."""
    ring = Ring(tuning=Tuning(pool=4))
    for backup in map(ReplicaId, (1, 2, 3)):
        signer = ring.replicas[backup].signing
        assert len(signer._pool) == 4
        signer._pool.pop(0)
        signer._pool.pop(1)
        for _ in range(2):
            signer.publish_again(ReplicaId(0))
        ring.perform(backup, signer.refill())
        assert len(signer._pool) == 6
    ring.run()
    ring.replicas[0].signing._published.clear()
    ring.perform(ReplicaId(0), ring.replicas[0].signing.publish_again(ReplicaId(1)))
    ring.pass_time(3)
    assert not [refused for _, refused in ring.rejected if "nonces" in refused.reason]
    assert all(ring.replicas[0].signing.commitments_of(ReplicaId(backup)) for backup in (1, 2, 3))


def lose_one(ring, victim):
    """Two batches are under way, and one server hears of the first only when it is decided."""
    first = ring.executed[0] + 1
    ring.drops = lambda sender, to, message: (
        to == victim and isinstance(message, PrePrepare | Prepare | Commit) and message.sequence == first
    )
    for name in ("one", "two"):
        ring.step(ReplicaId(0), Requested(name, Client(f"{name} {first}").request(b"x"), ring.now))
        ring.step(ReplicaId(0), BurstEnded(ring.now))
    ring.run()
    ring.pass_time(0.3)
    ring.deliver_all()


def test_nonces_of_batches_that_others_told_of_do_not_stop_those_behind_them():
    """A signer that had not run a batch live sent only its nonce of that again, for ever, and no primary could use it:
    when each backup had lost one proposal, nothing was certified until the next view."""
    ring = Ring()
    ring.pass_time(3)
    for victim in (1, 2, 3):
        lose_one(ring, victim)
        ring.pass_time(5)
        assert all(ring.replicas[0].signing.commitments_of(ReplicaId(backup)) for backup in (1, 2, 3))
    assert certified(ring) == ring.executed[0]
    assert ring.replicas[0].views.view == 0


def test_a_primary_that_is_told_of_its_own_batches_does_not_run_out_of_nonces():
    """Those that it had named for them filled its pool, which was never filled up again."""
    ring = Ring()
    for _ in range(15):
        ring.drops = lambda sender, to, message: to == 0 and isinstance(message, Commit)
        ring.pass_time(2)
        ring.deliver_all()
        ring.pass_time(3)
        assert certified(ring) == ring.executed[0]
    assert ring.replicas[0].views.view == 0
    assert len(ring.replicas[0].signing._pool) <= 128


def test_who_has_named_all_nonces_of_a_signer_gets_new_ones():
    """All of its pool was named for batches that it did not run live."""
    ring = Ring(tuning=Tuning(pool=4))
    primary, signer = (ring.replicas[identity].signing for identity in (0, 1))
    for _ in range(20):
        primary._published[ReplicaId(1)].pairs.clear()
        primary._used[ReplicaId(1)] = NonceName(signer._start, signer._next_index - 1)
        for _ in range(2):
            ring.perform(ReplicaId(1), signer.publish_again(ReplicaId(0)) + signer.refill())
            ring.run()
        assert primary.commitments_of(ReplicaId(1)) == 4
        assert len(signer._pool) <= 8


def test_a_primary_that_asks_for_nonces_all_the_time_gets_one_pool_a_tick():
    ring = Ring()
    signer = ring.replicas[1].signing
    for _ in range(100):
        ring.perform(ReplicaId(1), signer.publish_again(ReplicaId(0)))
    assert signer._next_index == 64
    ring.fire("tick")
    assert signer._next_index == 128

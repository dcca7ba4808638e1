"""Servers lose power within a view change, between any two effects: no vote is forgotten, and the ring goes on.

What was written and not synced is gone with the power (`MemoryDisk.crash`).
"""

import pytest

from bft.effects import Effect, Requested
from bft.messages import Commit
from bft.tuning import Tuning
from bft.types import ReplicaId
from tests.paper.changes import leave, register, views
from tests.unit.bft.ring import Client, MemoryDisk, Ring
from tests.unit.bft.witness import Witness

TUNING = Tuning(pool=2)


class Power:
    """Cuts the power of some replicas before a replica's n-th effect."""

    def __init__(self, ring: Ring, watched: int, victims: tuple[int, ...], effect: int) -> None:
        self.cut = False
        self._ring = ring
        self._watched = watched
        self._victims = victims
        self._left = effect
        self._perform = ring.perform
        ring.perform = self.perform  # type: ignore[method-assign]

    def perform(self, identity: ReplicaId, effects: list[Effect]) -> None:
        for effect in effects:
            if identity in self._ring.down:
                return
            if identity == self._watched and not self.cut:
                if not self._left:
                    self.cut = True
                    for victim in self._victims:
                        self._ring.crash(ReplicaId(victim))
                    return
                self._left -= 1
            self._perform(identity, [effect])


def change_views(watched: int, victims: tuple[int, ...], effect: int) -> bool:
    """One batch has run, one has prepared; views change; the power goes. Whether it did before all was done."""
    ring = Ring(tuning=TUNING)
    witness = Witness(ring, set(range(4)))
    client = Client()
    ring.submit(client.request(b"ran "))
    ring.drops = lambda sender, to, message: isinstance(message, Commit)
    ring.submit(client.request(b"prepared "))
    ring.deliver_all()
    power = Power(ring, watched, victims, effect)
    waits = client.request(b"waits")
    for i in (2, 3):
        ring.step(ReplicaId(i), Requested("client", waits, ring.now))
    for i in (3, 2, 1, 0):
        if i not in ring.down and ring.replicas[i].views.view == 0:
            leave(ring, i, 1)
    ring.run()
    for _ in range(30):
        for victim in sorted(ring.down):
            ring.restart(victim)
        ring.pass_time(1)
        for i in range(4):
            ring.step(ReplicaId(i), Requested("client", waits, ring.now))
        if all(register(ring, i) == b"ran prepared waits" for i in range(4)):
            break
    else:
        pytest.fail(f"no progress: {views(ring)} {[register(ring, i) for i in range(4)]}")
    witness.check_states()
    assert witness.seen
    return power.cut


@pytest.mark.parametrize("tens", range(7))
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_one_loses_power_between_any_two_effects(victim: int, tens: int) -> None:
    """The old primary, the new one, a backup."""
    cut = [change_views(victim, (victim,), effect) for effect in range(10 * tens, 10 * tens + 10)]
    assert any(cut) or tens > 2, "the power went"


@pytest.mark.parametrize("tens", range(7))
@pytest.mark.parametrize("watched", [1, 2])
def test_all_lose_power_between_any_two_effects(watched: int, tens: int) -> None:
    cut = [change_views(watched, (0, 1, 2, 3), effect) for effect in range(10 * tens, 10 * tens + 10)]
    assert any(cut) or tens > 2, "the power went"


def test_the_whole_view_change_was_cut() -> None:
    """The highest number above lies behind the end of what is to be survived."""
    for watched in (0, 1, 2):
        assert change_views(watched, (watched,), 20)
        assert not all(change_views(watched, (watched,), effect) for effect in (70, 400))


def test_a_disk_that_does_not_sync_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """agreement.md, durable votes: 'the test fails when fsync is made a no-op'."""
    monkeypatch.setattr(MemoryDisk, "sync", lambda self: None)
    with pytest.raises(AssertionError, match=r"forgot|two batches|which it has left"):
        all(change_views(1, (0, 1, 2, 3), effect) or True for effect in range(10, 70))

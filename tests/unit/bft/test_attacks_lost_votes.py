"""Attacks with what a replica said before it lost its disk: signed, kept by liars, and true of another time."""

import msgspec

from bft.effects import Effect
from bft.messages import NewView, Prepare, PrePrepare, ViewChange
from bft.recovery import lost_votes
from bft.tuning import Tuning
from bft.types import ReplicaId
from tests.paper.changes import leave, lose, receive, register, sent, signed
from tests.unit.bft.ring import Client, Ring

SMALL = Tuning(interval=4, window=8, retained=8, pool=16)


def lose_disk(ring: Ring, identity: int) -> None:
    ring.crash(ReplicaId(identity))
    ring.disks[identity].tables.clear()
    ring.disks[identity].write(lost_votes())
    ring.disks[identity].sync()
    ring.restart(ReplicaId(identity))
    ring.run()


def test_a_view_change_from_before_a_disk_was_lost_says_nothing_about_later_votes() -> None:
    """Replica 3 leaves view 0 alone, loses its disk, comes back in view 0 and votes there again. A batch that commits
    with its vote must survive view 1, though the liar, 2, shows what 3 said then, and 1 has not heard of the batch."""
    ring, client = Ring(tuning=SMALL), Client()
    for i in range(30):
        ring.submit(client.request(b"%d " % i))
    ring.drops = lambda sender, to, message: isinstance(message, ViewChange)
    (stale,) = sent(leave(ring, 3, 1), ViewChange)
    ring.deliver_all()
    lose_disk(ring, 3)
    for _ in range(120):
        ring.fire("tick")
        ring.fire("idle")
    assert not ring.replicas[3].recovery.silent_until
    assert ring.replicas[3].views.view == 0
    ring.drops = lambda sender, to, message: to == 1 and isinstance(message, PrePrepare | Prepare)
    ring.submit(client.request(b"last"))
    assert register(ring, 3).endswith(b"last"), "it is committed, and its client has been told"
    ring.drops = lose(ViewChange)
    (innocent,) = sent(leave(ring, 2, 1), ViewChange)
    lie = signed(ring, _without(innocent, ring.executed[3]))
    leave(ring, 1, 1)
    effects: list[Effect] = [*receive(ring, 1, 3, stale), *receive(ring, 1, 2, lie)]
    assert not sent(effects, NewView), "which could give the number to another batch"


def _without(change: ViewChange, number: int) -> ViewChange:
    """The same from somebody who says that nothing was accepted at a number."""
    prepared = [entry for entry in change.prepared if entry.sequence != number]
    accepted = [entry for entry in change.pre_prepared if entry.sequence != number]
    return msgspec.structs.replace(change, prepared=prepared, pre_prepared=accepted)

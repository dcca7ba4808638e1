"""What others say was decided is run when f + 1 say the same, and not before: f of them may lie."""

import hashlib

import pytest

from bft.effects import Received
from bft.messages import Decided, PrePrepare
from bft.types import Epoch, ReplicaId, Sequence
from tests.unit.bft.ring import Client, Ring


@pytest.mark.parametrize("size", [4, 7])
def test_f_replicas_prove_nothing_and_f_plus_1_do(size: int) -> None:
    """Replica 1 holds the batch, so that it could run it at once, and hears no votes."""
    ring = Ring(size)
    ring.drops = lambda sender, to, message: to == 1 and not isinstance(message, PrePrepare)
    ring.submit(Client().request(b"x"))
    assert ring.executed[:2] == [1, 0]
    [proposed] = [slot.digest for slot in ring.replicas[1].ordering.slots.values()]
    other = hashlib.sha256(b"never proposed").digest()
    f = ring.membership.faults
    senders = [ReplicaId(replica) for replica in range(size) if replica != 1]

    def told(sender: ReplicaId, digest: bytes) -> int:
        said = Decided(Epoch(1), Sequence(1), digest)
        ring.step(ReplicaId(1), Received(sender, said, ring.now))
        return ring.executed[1]

    for liar in senders[-f:]:
        assert told(liar, other) == 0
    for sender in senders[:f]:
        assert told(sender, proposed) == 0
        assert told(sender, proposed) == 0, "saying it again adds nothing"
    assert told(senders[f], proposed) == 1

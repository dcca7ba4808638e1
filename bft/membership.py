"""Who takes part, and how many of them decide (TOCS 2002, section 3): n = 3f + 1 replicas, quorums of 2f + 1."""

from typing import Annotated

import msgspec

from bft.signatures import PublicKey
from bft.statement import Digest
from bft.types import Epoch, ReplicaId, View

SIZES = (4, 7, 10)
"""Sizes 3f + 1 only: at 5 or 6 with f = 1 two quorums need not meet in a correct replica."""


class Membership(msgspec.Struct, frozen=True):
    """One epoch's replicas: their Ed25519 keys in order of ReplicaId, and the ring's own, which signs certificates."""

    ring_id: Digest
    epoch: Epoch
    ring_key: PublicKey
    replicas: Annotated[tuple[PublicKey, ...], msgspec.Meta(min_length=4)]

    def __post_init__(self) -> None:
        if len(self.replicas) not in SIZES or len(set(self.replicas)) != len(self.replicas):
            raise ValueError(f"a ring has {', '.join(map(str, SIZES))} different replicas, not {len(self.replicas)}")

    @property
    def size(self) -> int:
        """n, the number of replicas."""
        return len(self.replicas)

    @property
    def faults(self) -> int:
        """f, the number of replicas that may lie or fail."""
        return (len(self.replicas) - 1) // 3

    @property
    def quorum(self) -> int:
        """2f + 1: any two quorums meet in a correct replica."""
        return 2 * self.faults + 1

    @property
    def weak(self) -> int:
        """f + 1: at least one of them is correct. Also the number of signers of a certificate."""
        return self.faults + 1

    def primary(self, view: View) -> ReplicaId:
        """The primary of a view: v mod n."""
        return ReplicaId(view % len(self.replicas))

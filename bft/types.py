"""The numbers that agreement speaks of, each with a type of its own: a View never meets a Sequence by accident."""

from typing import Annotated, NewType

import msgspec

ReplicaId = NewType("ReplicaId", int)
"""Place of a replica in its membership, 0 to n-1; the primary of view v is replica v mod n."""

View = NewType("View", int)
Sequence = NewType("Sequence", int)
Epoch = NewType("Epoch", int)
"""Number of a membership; grows by one with every change of it."""

AgreedTime = NewType("AgreedTime", int)
"""Microseconds since 1970-01-01 UTC, as the primary proposed and the ring agreed."""

Natural = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""Bound of every number on the wire, so that no message makes a number grow without end."""

_bounded = msgspec.Meta(ge=0, le=2**63 - 1)

WireView = Annotated[View, _bounded]
WireSequence = Annotated[Sequence, _bounded]
WireEpoch = Annotated[Epoch, _bounded]
WireTime = Annotated[AgreedTime, _bounded]
WireReplicaId = Annotated[ReplicaId, msgspec.Meta(ge=0, le=2**16)]
"""The same as they come in messages, where a liar might put any number."""

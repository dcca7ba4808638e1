"""When batches are proposed: how long each takes from there, and when an idle ring owes an empty one (design.md, 5)."""

from typing import NamedTuple

from bft.suspicion import IDLE_SECONDS
from bft.types import AgreedTime, Sequence

HURRY_SECONDS = 0.005
"""How soon an idle ring orders an empty batch while a replica that lost its votes waits for a checkpoint: a window of
numbers takes some seconds."""


class _Proposed(NamedTuple):
    at: AgreedTime
    requests: int


class Pacing:
    """The times of one view's proposals."""

    def __init__(self) -> None:
        self._proposed: dict[Sequence, _Proposed] = {}
        self._last = AgreedTime(0)

    def view_began(self) -> None:
        """Whatever was proposed before counts no longer."""
        self._proposed.clear()

    def proposed(self, sequence: Sequence, requests: int, now: AgreedTime) -> None:
        """This number was given a batch of so many requests that has not run; the first time counts."""
        self._proposed.setdefault(sequence, _Proposed(now, requests))
        self._last = now

    def worth_a_batch(self, waiting: int) -> bool:
        """Whether so many requests are proposed at once. A batch costs each server about as much as twenty requests:
        those that are fewer than all under way wait until one of these has run, so that a busy ring's batches grow."""
        return waiting >= sum(proposed.requests for proposed in self._proposed.values())

    def ran(self, sequence: Sequence, now: AgreedTime) -> float | None:
        """How long the batch took from its proposal, in seconds, if it was heard of."""
        proposed = self._proposed.pop(sequence, None)
        return (now - proposed.at) / 1e6 if proposed is not None else None

    def executed(self, sequence: Sequence) -> None:
        """All up to there have run, perhaps elsewhere."""
        self._proposed = {number: proposed for number, proposed in self._proposed.items() if number > sequence}

    def idle_seconds(self, hurry: bool) -> float:
        """How long a ring may be idle before its primary orders an empty batch."""
        return HURRY_SECONDS if hurry else IDLE_SECONDS

    def left_seconds(self, seconds: float, now: AgreedTime) -> float:
        """What is left of so many seconds since the last proposal, from where others count too; all when the clock went
        back."""
        since = (now - self._last) / 1e6
        return max(0.0, seconds - since) if since >= 0 else seconds

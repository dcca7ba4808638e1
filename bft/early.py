"""Messages of views that have not begun here: others enter a little sooner, and their votes are not to be lost."""

from collections import deque

from bft.effects import Effect, Rejected
from bft.messages import Commit, Prepare, PrePrepare
from bft.types import ReplicaId, View

VOTES = 1024
PROPOSALS = 16
PROPOSED_BYTES = 32 * 1024 * 1024
"""Kept of each replica at most; what is dropped is said again when it is asked for."""


class Early:
    """What waits for its view."""

    def __init__(self) -> None:
        self._kept: dict[ReplicaId, deque[PrePrepare | Prepare | Commit]] = {}

    def keep(self, sender: ReplicaId, message: PrePrepare | Prepare | Commit) -> list[Effect]:
        """A message of a view that may begin."""
        kept = self._kept.setdefault(sender, deque(maxlen=VOTES))
        if isinstance(message, PrePrepare):
            proposals = [other for other in kept if isinstance(other, PrePrepare)]
            size = sum(proposal.size_bytes for proposal in proposals)
            if len(proposals) >= PROPOSALS or (proposals and size + message.size_bytes > PROPOSED_BYTES):
                return [Rejected(sender, "too many proposals for a view that has not begun")]
        kept.append(message)
        return []

    def take(self, view: View) -> list[tuple[ReplicaId, PrePrepare | Prepare | Commit]]:
        """The messages of a view that begins, each sender's in their order; those of lower views are dropped."""
        taken = []
        for sender, kept in self._kept.items():
            taken += [(sender, message) for message in kept if message.view == view]
            self._kept[sender] = deque((message for message in kept if message.view > view), VOTES)
        return taken

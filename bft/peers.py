"""Whom to ask next: one question at a time to each of a few peers, in turn, and none for a while to those who fail.

For machines that fetch what proves itself, so that any peer will do (TOCS 2002, section 6.2). Time is counted in the
caller's ticks of 0.1 s.
"""

from bft.types import ReplicaId

MAX_ASKED = 4
"""Peers asked at a time: enough to hide a round trip, and a few of a large ring."""

ANSWER_TICKS = 20
"""After this long without an answer another peer is asked: 1 MiB takes half of it at 8 Mbit/s."""

PAUSE_TICKS = 10
LONGEST_PAUSE_TICKS = 300
"""How long a peer that gave no answer, or none of use, is left out: twice as long each time, up to half a minute."""

WRONG_TICKS = 600
"""How long a peer that sent something wrong is left out. It is a liar, or its disk is rotten."""


class Peers:
    """The other replicas of a ring, as somebody who fetches sees them."""

    def __init__(self, identity: ReplicaId, size: int) -> None:
        self._others = [replica for replica in map(ReplicaId, range(size)) if replica != identity]
        self._turn = 0
        self._now = 0
        self._asked: dict[ReplicaId, int] = {}
        self._left_out_until: dict[ReplicaId, int] = {}
        self._failures: dict[ReplicaId, int] = {}

    def free(self) -> list[ReplicaId]:
        """Peers that may be asked now, in the order of their turns."""
        room = MAX_ASKED - len(self._asked)
        turns = self._others[self._turn :] + self._others[: self._turn]
        return [peer for peer in turns if peer not in self._asked and self._left_out_until.get(peer, 0) <= self._now][
            :room
        ]

    def asked(self, peer: ReplicaId) -> None:
        """A question is on its way to this peer."""
        self._asked[peer] = self._now
        self._turn = (self._others.index(peer) + 1) % len(self._others)

    def answered(self, peer: ReplicaId) -> None:
        """The peer sent something of use."""
        self._asked.pop(peer, None)
        self._failures.pop(peer, None)

    def freed(self, peer: ReplicaId) -> None:
        """The peer said, in time, that it does not have what it was asked for: it may be asked for something else."""
        self._asked.pop(peer, None)

    def failed(self, peer: ReplicaId) -> None:
        """The peer sent nothing of use, or nothing at all."""
        self._asked.pop(peer, None)
        failures = self._failures[peer] = self._failures.get(peer, 0) + 1
        self._leave_out(peer, min(PAUSE_TICKS << min(failures - 1, 16), LONGEST_PAUSE_TICKS))

    def lied(self, peer: ReplicaId) -> None:
        """The peer sent something wrong."""
        self._asked.pop(peer, None)
        self._leave_out(peer, WRONG_TICKS)

    def tick(self) -> list[ReplicaId]:
        """Time passes: peers that did not answer in it, which count as failed."""
        self._now += 1
        overdue = [peer for peer, since in self._asked.items() if self._now - since >= ANSWER_TICKS]
        for peer in overdue:
            self.failed(peer)
        return overdue

    def forget_questions(self) -> None:
        """What was asked matters no longer."""
        self._asked.clear()

    def _leave_out(self, peer: ReplicaId, ticks: int) -> None:
        self._left_out_until[peer] = max(self._left_out_until.get(peer, 0), self._now + ticks)

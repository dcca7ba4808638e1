"""Running what others have decided while this replica was away or in another view (TOCS 2002, sections 4.3 and 4.6).

f + 1 replicas that executed a batch at a number prove that it is decided there, in whatever view that was: one of them
is correct. The batch itself is then fetched from whoever said so last, proved by its digest.
"""

from bft import log
from bft.batches import Complete
from bft.effects import Effect, Overlay, Send, Store, Write
from bft.membership import Membership
from bft.messages import Decided
from bft.statement import Digest
from bft.types import ReplicaId, Sequence

RESEND = 32
"""Numbers sent again in answer to one STATUS; who lacks more asks again when it has them."""


class CatchUp:
    """What others say they have executed, above what was executed here."""

    def __init__(self, membership: Membership, disk: Overlay) -> None:
        self._membership = membership
        self._disk = disk
        self._said: dict[Sequence, dict[ReplicaId, Digest]] = {}

    def on_decided(self, sender: ReplicaId, message: Decided, executed: Sequence) -> bool:
        """Another replica has executed this batch: whether that is proved now. What is far ahead will be said again."""
        if executed < message.sequence <= executed + 2 * RESEND:
            self._said.setdefault(message.sequence, {})[sender] = message.digest
        return self.decided(message.sequence) == message.digest

    def decided(self, sequence: Sequence) -> Digest | None:
        """The batch that f + 1 replicas have executed at a number."""
        said = self._said.get(sequence)
        if said is None:
            return None
        votes = list(said.values())
        return next((digest for digest in votes if votes.count(digest) >= self._membership.weak), None)

    def executed(self, sequence: Sequence) -> None:
        """The state includes this number."""
        for old in [old for old in self._said if old <= sequence]:
            del self._said[old]

    def ran(self, sequence: Sequence, digest: Digest, batch: Complete) -> list[Effect]:
        """A batch runs here, which others will be told; with the batch itself when this replica never voted for it."""
        place = log.read_entry(self._disk, sequence).place_of(digest)
        writes: tuple[Write, ...] = ()
        if place is None:
            place = log.PLACES - 1
            writes = (log.contents(sequence, place, batch.contents()),)
        writes = (*writes, log.ran(sequence, digest, place))
        self._disk.record(writes)
        return [Store(writes)]

    def tell(self, to: ReplicaId, first: Sequence, last: Sequence) -> list[Effect]:
        """What ran here at numbers first to last, as far as the log has it."""
        effects: list[Effect] = []
        for sequence, entry in log.read(self._disk, first, last).items():
            if entry.ran is None:
                break
            effects.append(Send(to, Decided(self._membership.epoch, sequence, entry.ran.digest)))
        return effects

"""Checkpoints: proof that 2f + 1 replicas hold one state, so that what led to it may be forgotten (TOCS 2002, 4.3).

Every INTERVAL batches each replica signs the digest of its state. 2f + 1 equal ones, ours among them, make a checkpoint
stable: the watermarks move and the log is cut. A replica that finds 2f + 1 others against its own digest has diverged.
"""

from bft import log, statement
from bft.effects import Broadcast, Effect, Overlay, Persist, Rejected, Send, Store
from bft.membership import Membership
from bft.messages import Checkpoint
from bft.ordering import WINDOW
from bft.signatures import Signer, Verifier
from bft.statement import Digest
from bft.types import AgreedTime, ReplicaId, Sequence

INTERVAL = 64
"""K: batches between checkpoints. A quarter of the window, so that a slow replica does not stall the primary."""

RETAINED = 4096
"""Numbers below the last stable checkpoint kept in the log for replicas that were away: about an hour of an idle ring,
which orders one empty batch a second."""


def checkpoint_digest(sequence: Sequence, time: AgreedTime, state_root: Digest) -> Digest:
    """Digest of everything a replica must hold to go on after `sequence`."""
    return statement.digest(statement.encode("bft.state", 1, sequence, time, state_root))


class Checkpoints:
    """Collects checkpoint messages and says when one is stable."""

    def __init__(
        self, identity: ReplicaId, membership: Membership, signer: Signer, verifier: Verifier, disk: Overlay
    ) -> None:
        self.stable = Sequence(0)
        self.diverged_at: Sequence | None = None
        """Where 2f + 1 others agreed on a state that is not ours: this replica must not serve any longer."""
        self._identity = identity
        self._membership = membership
        self._signer = signer
        self._verifier = verifier
        self._disk = disk
        self._votes: dict[Sequence, dict[ReplicaId, Digest]] = {}

    def restore(self, entries: dict[Sequence, log.Entry]) -> None:
        """Take up the last stable checkpoint and our own later messages."""
        self.stable = log.read_stable(self._disk)
        for sequence, entry in entries.items():
            if entry.checkpoint is not None and sequence > self.stable:
                self._votes.setdefault(sequence, {})[self._identity] = entry.checkpoint.digest

    def executed(self, sequence: Sequence, time: AgreedTime, state_root: Digest) -> list[Effect]:
        """A batch ran here: at each interval, tell the others what state it left."""
        if sequence % INTERVAL:
            return []
        digest = checkpoint_digest(sequence, time, state_root)
        message = Checkpoint(
            self._membership.epoch, sequence, digest, self._signer.sign(self._signed(sequence, digest))
        )
        self._votes.setdefault(sequence, {})[self._identity] = digest
        entry = (log.checkpoint(message),)
        self._disk.record(entry)
        return [Persist(entry), Broadcast(message), *self._settle(sequence)]

    def on_checkpoint(self, sender: ReplicaId, message: Checkpoint) -> list[Effect]:
        """Another replica's state."""
        reason = self._reject_reason(sender, message)
        if reason is not None:
            return [Rejected(sender, reason)] if reason else []
        self._votes.setdefault(message.sequence, {})[sender] = message.digest
        return self._settle(message.sequence)

    def send_again(self, to: ReplicaId, above: Sequence, executed: Sequence) -> list[Effect]:
        """Our own messages about the next checkpoints above the stable one of a replica that executed so much."""
        first = Sequence(above - above % INTERVAL + INTERVAL)
        effects: list[Effect] = []
        for sequence in map(Sequence, range(first, min(executed, above + WINDOW) + 1, INTERVAL)):
            entry = log.read(self._disk, sequence, sequence).get(sequence)
            if entry is not None and entry.checkpoint is not None:
                effects.append(Send(to, entry.checkpoint))
        return effects

    def _reject_reason(self, sender: ReplicaId, message: Checkpoint) -> str | None:
        """Why a checkpoint message is refused; empty for one that is merely old or known."""
        if message.sequence % INTERVAL:
            return "checkpoint between intervals"
        if message.sequence <= self.stable:
            return ""
        if message.sequence > self.stable + WINDOW:
            return "checkpoint outside the watermarks"
        known = self._votes.get(message.sequence, {}).get(sender)
        if known is not None:
            return "" if known == message.digest else "two checkpoints at one number"
        signed = self._signed(message.sequence, message.digest)
        if not self._verifier.verify(self._membership.replicas[sender], signed, message.signature):
            return "checkpoint is not signed by its sender"
        return None

    def _settle(self, sequence: Sequence) -> list[Effect]:
        votes = self._votes[sequence]
        own = votes.get(self._identity)
        for digest in set(votes.values()):
            if sum(1 for voted in votes.values() if voted == digest) < self._membership.quorum:
                continue
            if own is None:
                return []
            if own != digest:
                self.diverged_at = sequence
                return []
            return self._make_stable(sequence)
        return []

    def _make_stable(self, sequence: Sequence) -> list[Effect]:
        previous, self.stable = self.stable, sequence
        for old in [old for old in self._votes if old <= sequence]:
            del self._votes[old]
        writes = [log.stable(sequence)]
        if sequence > RETAINED:
            writes += log.truncate(Sequence(max(1, previous - RETAINED)), Sequence(sequence - RETAINED))
        self._disk.record(tuple(writes))
        return [Store(tuple(writes))]

    def _signed(self, sequence: Sequence, digest: Digest) -> bytes:
        return statement.encode("bft.checkpoint", 1, self._membership.ring_id, self._membership.epoch, sequence, digest)

"""Checkpoints: proof that 2f + 1 replicas hold one state, so that what led to it may be forgotten (TOCS 2002, 4.3).

Every K batches each replica signs the digest of its state. 2f + 1 equal ones, ours among them, make a checkpoint
stable: the watermarks move and the log is cut. A replica that finds 2f + 1 others against its own digest has diverged.
"""

from typing import NamedTuple

from bft import log, statement
from bft.effects import Broadcast, Effect, Overlay, Persist, Rejected, Send, Store
from bft.membership import Membership
from bft.messages import Checkpoint, StableCheckpoint
from bft.signatures import Signature, Signer, Verifier
from bft.state_tree import EMPTY
from bft.statement import Digest
from bft.tuning import Tuning
from bft.types import AgreedTime, ReplicaId, Sequence


def checkpoint_digest(sequence: Sequence, time: AgreedTime, state_root: Digest) -> Digest:
    """Digest of everything a replica must hold to go on after `sequence`."""
    return statement.digest(statement.encode("bft.state", 1, sequence, time, state_root))


GENESIS = checkpoint_digest(Sequence(0), AgreedTime(0), EMPTY)
"""Where every ring begins; needs no proof."""


class _Vote(NamedTuple):
    digest: Digest
    signature: Signature


class Checkpoints:
    """Collects checkpoint messages and says when one is stable."""

    def __init__(
        self,
        identity: ReplicaId,
        membership: Membership,
        signer: Signer,
        verifier: Verifier,
        disk: Overlay,
        tuning: Tuning,
    ) -> None:
        self.proven = StableCheckpoint(membership.epoch, Sequence(0), GENESIS, [])
        """The last stable checkpoint that was executed here."""
        self.ahead: StableCheckpoint | None = None
        """The highest that is known to be stable above what was executed here."""
        self.diverged_at: Sequence | None = None
        """Where 2f + 1 others agreed on a state that is not ours: this replica must not serve any longer."""
        self._identity = identity
        self._membership = membership
        self._signer = signer
        self._verifier = verifier
        self._disk = disk
        self._tuning = tuning
        self._votes: dict[Sequence, dict[ReplicaId, _Vote]] = {}

    @property
    def stable(self) -> Sequence:
        """Number of the last stable checkpoint."""
        return self.proven.sequence

    def restore(self, entries: dict[Sequence, log.Entry]) -> None:
        """Take up the last stable checkpoint and our own later messages."""
        self.proven = log.read_stable(self._disk) or self.proven
        for sequence, entry in entries.items():
            if entry.checkpoint is not None and sequence > self.stable:
                own = _Vote(entry.checkpoint.digest, entry.checkpoint.signature)
                self._votes.setdefault(sequence, {})[self._identity] = own

    def held(self) -> list[tuple[Sequence, Digest]]:
        """Our own checkpoints from the last stable one on (C of a VIEW-CHANGE), as far as the watermarks: who catches
        up runs beyond them before it hears of a stable one."""
        later = [
            (sequence, votes[self._identity].digest)
            for sequence, votes in sorted(self._votes.items())
            if self._identity in votes and sequence <= self.stable + self._tuning.window
        ]
        return [(self.stable, self.proven.digest), *later]

    def executed(self, sequence: Sequence, time: AgreedTime, state_root: Digest) -> list[Effect]:
        """This is our state: at each interval, tell the others, unless we have."""
        said = sequence <= self.stable or self._identity in self._votes.get(sequence, {})
        if sequence % self._tuning.interval or said:
            return []
        digest = checkpoint_digest(sequence, time, state_root)
        message = Checkpoint(
            self._membership.epoch, sequence, digest, self._signer.sign(self._signed(sequence, digest))
        )
        self._votes.setdefault(sequence, {})[self._identity] = _Vote(digest, message.signature)
        entry = (log.checkpoint(message),)
        self._disk.record(entry)
        effects: list[Effect] = [Persist(entry), Broadcast(message)]
        if self.ahead is not None and self.ahead.sequence == sequence:
            if self.ahead.digest != digest:
                self.diverged_at = sequence
                return effects
            return effects + self._make_stable(self.ahead)
        return effects + self._settle(sequence)

    def installed(
        self, sequence: Sequence, time: AgreedTime, state_root: Digest, proven: StableCheckpoint | None
    ) -> list[Effect]:
        """The state of this checkpoint was fetched, and is ours from now on. Not stable yet, it gets our vote."""
        return self._make_stable(proven) if proven is not None else self.executed(sequence, time, state_root)

    def on_checkpoint(self, sender: ReplicaId, message: Checkpoint) -> list[Effect]:
        """Another replica's state."""
        reason = self._reject_reason(sender, message)
        if reason is not None:
            return [Rejected(sender, reason)] if reason else []
        self._votes.setdefault(message.sequence, {})[sender] = _Vote(message.digest, message.signature)
        return self._settle(message.sequence)

    def on_stable(self, sender: ReplicaId, message: StableCheckpoint) -> list[Effect]:
        """A checkpoint that others found stable, with the proof."""
        if message.sequence <= self.stable or (self.ahead is not None and message.sequence <= self.ahead.sequence):
            return []
        if not self.proves(message):
            return [Rejected(sender, "stable checkpoint without proof")]
        return self._learn(message)

    def proves(self, message: StableCheckpoint) -> bool:
        """Whether 2f + 1 different replicas signed this checkpoint."""
        if message.sequence == 0:
            return message.digest == GENESIS and not message.proof
        signers = [replica for replica, _ in message.proof]
        if (
            message.epoch != self._membership.epoch
            or message.sequence % self._tuning.interval
            or len(signers) != self._membership.quorum
            or signers != sorted(set(signers))
            or signers[-1] >= self._membership.size
        ):
            return False
        if message == self.proven or message == self.ahead:
            return True
        signed = self._signed(message.sequence, message.digest)
        keys = self._membership.replicas
        return all(self._verifier.verify(keys[replica], signed, signature) for replica, signature in message.proof)

    def send_again(self, to: ReplicaId, above: Sequence, executed: Sequence) -> list[Effect]:
        """What helps a replica whose last stable checkpoint is `above`: ours with its proof, and our own messages about
        later ones as far as it has executed."""
        effects: list[Effect] = []
        if above < self.stable:
            effects.append(Send(to, self.proven))
        first = max(above, self.stable)
        interval = self._tuning.interval
        start = Sequence(first - first % interval + interval)
        for sequence in map(Sequence, range(start, min(executed, first + self._tuning.window) + 1, interval)):
            entry = log.read_entry(self._disk, sequence)
            if entry.checkpoint is not None:
                effects.append(Send(to, entry.checkpoint))
        return effects

    def _reject_reason(self, sender: ReplicaId, message: Checkpoint) -> str | None:
        """Why a checkpoint message is refused; empty for one that is merely old or known."""
        if message.sequence % self._tuning.interval:
            return "checkpoint between intervals"
        if message.sequence <= self.stable:
            return ""
        if message.sequence > self.stable + self._tuning.window:
            return "checkpoint outside the watermarks"
        known = self._votes.get(message.sequence, {}).get(sender)
        if known is not None:
            return "" if known.digest == message.digest else "two checkpoints at one number"
        signed = self._signed(message.sequence, message.digest)
        if not self._verifier.verify(self._membership.replicas[sender], signed, message.signature):
            return "checkpoint is not signed by its sender"
        return None

    def _settle(self, sequence: Sequence) -> list[Effect]:
        votes = self._votes[sequence]
        for digest in {vote.digest for vote in votes.values()}:
            agreeing = sorted((voter, vote.signature) for voter, vote in votes.items() if vote.digest == digest)
            if len(agreeing) >= self._membership.quorum:
                proof = agreeing[: self._membership.quorum]
                return self._learn(StableCheckpoint(self._membership.epoch, sequence, digest, proof))
        return []

    def _learn(self, proven: StableCheckpoint) -> list[Effect]:
        own = self._votes.get(proven.sequence, {}).get(self._identity)
        if own is None:
            if self.ahead is None or proven.sequence > self.ahead.sequence:
                self.ahead = proven
            return []
        if own.digest != proven.digest:
            self.diverged_at = proven.sequence
            return []
        return self._make_stable(proven)

    def _make_stable(self, proven: StableCheckpoint) -> list[Effect]:
        previous, sequence = self.stable, proven.sequence
        self.proven = proven
        if self.ahead is not None and self.ahead.sequence <= sequence:
            self.ahead = None
        for old in [old for old in self._votes if old <= sequence]:
            del self._votes[old]
        first = max(previous + 1, sequence - 2 * self._tuning.window)  # after a jump, nothing to undo lies there
        writes = [log.stable(proven), *log.no_undo(Sequence(first), sequence)]
        retained = self._tuning.retained
        if sequence > retained:
            last = min(sequence - retained, previous + self._tuning.window)  # after a jump, nothing lies above
            writes += log.truncate(Sequence(max(1, previous - retained)), Sequence(last))
        self._disk.record(tuple(writes))
        return [Store(tuple(writes))]

    def _signed(self, sequence: Sequence, digest: Digest) -> bytes:
        return statement.encode("bft.checkpoint", 1, self._membership.ring_id, self._membership.epoch, sequence, digest)

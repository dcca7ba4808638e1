"""Liars in what everybody says about batches: votes, checkpoints, and what was decided."""

from collections.abc import Sequence as SequenceOf

import msgspec

from bft import statement
from bft.batches import digest_of
from bft.effects import Send
from bft.messages import Checkpoint, Commit, Decided, Message, Prepare, PrePrepare, StableCheckpoint
from bft.signatures import Signature
from bft.statement import Digest
from bft.types import AgreedTime, ReplicaId, Sequence, View
from cluster.faults.lying import Effects, Forger, Liar, Means, NowAndThen, Parameters, Pest, SomeOfIt, kind, one_by_one
from pond.node.ring import ToClient
from pond.protocol import Question

FAR = 10**6
"""Intervals: further than any run comes."""


def signed_checkpoint(means: Means, sequence: Sequence, digest: Digest) -> Signature:
    """Its own signature over any state."""
    membership = means.membership
    return means.signer.sign(
        statement.encode("bft.checkpoint", 1, membership.ring_id, membership.epoch, sequence, digest)
    )


@kind("silent", SomeOfIt)
class Silent(Liar[SomeOfIt]):
    """Takes part in everything and says nothing, or only some of it. Attacks whatever waits for all."""

    def says(self, effects: Effects, now: AgreedTime) -> Effects:
        """All but its messages."""
        said: Effects = []
        for effect in one_by_one(effects, self.means.peers):
            if isinstance(effect, Send | ToClient) and self.choices.random() < self.parameters.share:
                self.lied()
            else:
                said.append(effect)
        return said


@kind("wrong-votes", SomeOfIt)
class WrongVotes(Forger[SomeOfIt]):
    """Tells some of its peers that it votes for batches that nobody proposed, and for states that nobody has. Attacks
    counting by voters instead of by digests."""

    def instead(self, to: ReplicaId, message: Message) -> SequenceOf[Message] | None:
        """Another digest in PREPARE, COMMIT and CHECKPOINT, which it does not sign anew."""
        if isinstance(message, Prepare | Commit | Checkpoint):
            return [msgspec.structs.replace(message, digest=bytes(32))]
        return None


@kind("votes-twice", SomeOfIt)
class VotesTwice(Forger[SomeOfIt]):
    """Votes for two batches at one number, in either order. Attacks counting a voter twice, and taking its word
    back."""

    def instead(self, to: ReplicaId, message: Message) -> SequenceOf[Message] | None:
        """Both PREPAREs or COMMITs, or signed CHECKPOINTs."""
        match message:
            case Prepare() | Commit():
                other: Message = msgspec.structs.replace(message, digest=self.choices.randbytes(32))
            case Checkpoint(sequence=sequence):
                digest = self.choices.randbytes(32)
                signature = signed_checkpoint(self.means, sequence, digest)
                other = msgspec.structs.replace(message, digest=digest, signature=signature)
            case _:
                return None
        return self.choices.choice(([message, other], [other, message]))


@kind("votes-blindly")
class VotesBlindly(Liar[Parameters]):
    """Says PREPARE and COMMIT at once for whatever it hears of, without batch, bodies or disk. Attacks quorums that
    would need each of their members' care, as when a primary equivocates."""

    def __init__(self, means: Means, parameters: Parameters, place: int = 0) -> None:
        super().__init__(means, parameters, place)
        self._voted: dict[tuple[View, Sequence, Digest], None] = {}
        self._said: list[Message] = []

    def hears(self, sender: object, message: Message | Question, now: AgreedTime) -> bool:
        """Each vote and proposal is worth a vote of its own."""
        match message:
            case PrePrepare():
                self._vote(message.view, message.sequence, digest_of(message.time, message.requests))
            case Prepare() | Commit():
                self._vote(message.view, message.sequence, message.digest)
        return True

    def _vote(self, view: View, sequence: Sequence, digest: Digest) -> None:
        if (view, sequence, digest) in self._voted:
            return
        self._voted[view, sequence, digest] = None
        if len(self._voted) > 256:
            del self._voted[next(iter(self._voted))]
        epoch = self.means.membership.epoch
        self._said += [Prepare(epoch, view, sequence, digest), Commit(epoch, view, sequence, digest)]

    def says(self, effects: Effects, now: AgreedTime) -> Effects:
        """Its votes first."""
        said, self._said = self._said, []
        return [*self.to_all(said), *effects]


@kind("wrong-checkpoints", SomeOfIt)
class WrongCheckpoints(Forger[SomeOfIt]):
    """Signs states that nobody has, to each another one. Attacks stability: f of them neither move it nor stop it."""

    def instead(self, to: ReplicaId, message: Message) -> SequenceOf[Message] | None:
        """Properly signed CHECKPOINTs."""
        if not isinstance(message, Checkpoint):
            return None
        digest = self.choices.randbytes(32)
        signature = signed_checkpoint(self.means, message.sequence, digest)
        return [msgspec.structs.replace(message, digest=digest, signature=signature)]


@kind("forges-checkpoints", NowAndThen)
class ForgesCheckpoints(Pest[NowAndThen]):
    """Shows checkpoints as stable with proofs that prove nothing: its own signature in every name, or a quorum's with
    one number changed. Attacks transfers to, and watermarks at, a state that does not exist."""

    def pester(self, now: AgreedTime) -> Effects:
        """Another one each time."""
        means, choices = self.means, self.choices
        proven = self.replica.checkpoints.proven
        interval = means.tuning.interval
        sequence = Sequence(proven.sequence + interval * choices.choice((1, 2, 8, FAR)))
        digest = choices.randbytes(32)
        own = signed_checkpoint(means, sequence, digest)
        quorum = means.membership.quorum
        proofs = [
            [(ReplicaId(replica), own) for replica in range(quorum)],
            [(means.identity, own)] * quorum,
            [(means.identity, own)],
            proven.proof,
        ]
        forged = StableCheckpoint(means.membership.epoch, sequence, digest, choices.choice(proofs))
        return self.to_all([forged])


@kind("invents-decided", NowAndThen)
class InventsDecided(Pest[NowAndThen]):
    """Says of batches that they were decided that nobody proposed, or that were only just proposed. Attacks running
    what f + 1 say has run: f liars are not enough, and no two of their claims add up."""

    def __init__(self, means: Means, parameters: NowAndThen, place: int = 0) -> None:
        super().__init__(means, parameters, place)
        self._early: list[Message] = []

    def hears(self, sender: object, message: Message | Question, now: AgreedTime) -> bool:
        """A proposal is as good as decided."""
        if isinstance(message, PrePrepare):
            digest = digest_of(message.time, message.requests)
            self._early.append(Decided(self.means.membership.epoch, message.sequence, digest))
        return True

    def says(self, effects: Effects, now: AgreedTime) -> Effects:
        """At once."""
        said, self._early = self._early, []
        return [*self.to_all(said), *effects]

    def pester(self, now: AgreedTime) -> Effects:
        """About the next numbers."""
        executed = self.replica.execution.executed
        epoch, some = self.means.membership.epoch, self.choices.randbytes(32)
        numbers = [Sequence(executed + 1 + ahead) for ahead in range(8)]
        return self.to_all(Decided(epoch, number, some) for number in numbers)

"""Liars in the ring's signature, and in what clients are told: nonces, plans, shares, certificates, answers, blocks."""

from collections.abc import Sequence as SequenceOf
from typing import Any

import msgspec

from bft.answer import Answer, AnswerError, Status, decode
from bft.effects import NewCertificate
from bft.messages import (
    Certified,
    Message,
    NonceName,
    Nonces,
    PrePrepare,
    SignatureShare,
    SigningPlan,
)
from bft.threshold import NonceCommitment
from bft.types import AgreedTime, ReplicaId, Sequence, View
from cluster.faults.liars_about_state import Flipper
from cluster.faults.liars_that_lead import resigned
from cluster.faults.lying import Effects, Forger, Means, SomeOfIt, kind
from pond.protocol import Answered, Blocks, BlocksHeld, History, ObjectRead, Overloaded, Refused, Reply

REMEMBERED = 64

# --- signers -----------------------------------------------------------------------------------------------------


@kind("bad-shares", SomeOfIt)
class BadShares(Flipper):
    """Sends shares that do not fit: a bit wrong, no scalar, nothing, or those of the batch before. Attacks joining
    them, and the blame for a session that fails."""

    def __init__(self, means: Means, parameters: SomeOfIt, place: int = 0) -> None:
        super().__init__(means, parameters, place)
        self._last = bytes(32)

    def instead(self, to: ReplicaId, message: Message) -> SequenceOf[Message] | None:
        """Not its share."""
        if not isinstance(message, SignatureShare):
            return None
        shares = (self.flip(message.share), b"\xff" * 32, bytes(32), self._last)
        self._last = message.share
        return [msgspec.structs.replace(message, share=self.choices.choice(shares))]


@kind("withholds-shares", SomeOfIt)
class WithholdsShares(Forger[SomeOfIt]):
    """Publishes nonces and signs nothing. Attacks the wait for shares."""

    def instead(self, to: ReplicaId, message: Message) -> SequenceOf[Message] | None:
        """No share."""
        return [] if isinstance(message, SignatureShare) else None


@kind("burns-nonces", SomeOfIt)
class BurnsNonces(Forger[SomeOfIt]):
    """Publishes nonces that it will not honour: invented ones, under the highest numbers, as another start of its
    process, for views to come, or points that are none. Attacks certificates, which name them."""

    def instead(self, to: ReplicaId, message: Message) -> SequenceOf[Message] | None:
        """Others than it has."""
        if not isinstance(message, Nonces):
            return None
        choices, some = self.choices, self.choices.randbytes(32)
        invented = [NonceCommitment(choices.randbytes(32), choices.randbytes(32)) for _ in message.commitments]
        others: list[SequenceOf[Message]] = [
            [msgspec.structs.replace(message, commitments=message.commitments[::-1])],
            [msgspec.structs.replace(message, commitments=invented)],
            [msgspec.structs.replace(message, commitments=invented * 10)],
            [msgspec.structs.replace(message, commitments=[NonceCommitment(some, some)] * len(invented))],
            [msgspec.structs.replace(message, first=2**62 - 1)],
            [msgspec.structs.replace(message, first=2**63 - 1)],
            [msgspec.structs.replace(message, start=some[:16]), message],
            [message, msgspec.structs.replace(message, start=some[:16])],
            [msgspec.structs.replace(message, view=View(message.view + choices.choice((1, 2**40))))],
        ]
        return choices.choice(others)


# --- the primary names signers -----------------------------------------------------------------------------------


class Planner(Forger[SomeOfIt]):
    """Names signers as it likes, under its signature. The batch stays what it is."""

    def __init__(self, means: Means, parameters: SomeOfIt, place: int = 0) -> None:
        super().__init__(means, parameters, place)
        self._made: dict[tuple[View, Sequence, ReplicaId], PrePrepare] = {}

    def instead(self, to: ReplicaId, message: Message) -> SequenceOf[Message] | None:
        """The proposal with another plan; each peer hears the same again when it asks again."""
        if not isinstance(message, PrePrepare) or message.plan is None or not message.plan.signers:
            return None
        if self.means.membership.primary(message.view) != self.means.identity:
            return None
        place = (message.view, message.sequence, to)
        if place not in self._made:
            plan = self.plan(message.plan)
            self._made[place] = resigned(self.means, message, plan=plan)
            if len(self._made) > REMEMBERED:
                del self._made[next(iter(self._made))]
        return [self._made[place]]

    def plan(self, plan: SigningPlan) -> SigningPlan | None:
        """What it says in place of this plan."""
        raise NotImplementedError


@kind("bad-plans", SomeOfIt)
class BadPlans(Planner):
    """Names signers that there are not, twice, too few or too many, or with nonces that they did not publish, to each
    peer others. Attacks signers, who must refuse or lose a nonce, but never their share of the key."""

    def plan(self, plan: SigningPlan) -> SigningPlan | None:
        choices, signers = self.choices, plan.signers
        (_, name, commitment), *rest = signers
        some = choices.randbytes(32)
        others = [
            None,
            SigningPlan([]),
            SigningPlan(signers[:1]),
            SigningPlan([*signers, *signers]),
            SigningPlan(signers[::-1]),
            SigningPlan([(ReplicaId(2**16), name, commitment), *rest]),
            SigningPlan([(ReplicaId(choices.randrange(4)), name, commitment), *rest]),
            SigningPlan([(replica, NonceName(some[:16], 0), own) for replica, _, own in signers]),
            SigningPlan([(replica, NonceName(own.start, 2**63 - 1), pair) for replica, own, pair in signers]),
            SigningPlan([(replica, own, NonceCommitment(some, some)) for replica, own, _ in signers]),
            SigningPlan([(replica, own, commitment) for replica, own, _ in signers]),
        ]
        return choices.choice(others)


@kind("reuses-nonces", SomeOfIt)
class ReusesNonces(Planner):
    """Names the same nonces for one batch after another, and for one batch with different ones of its own. Attacks the
    key: two shares by one nonce give it away."""

    def __init__(self, means: Means, parameters: SomeOfIt, place: int = 0) -> None:
        super().__init__(means, parameters, place)
        self._first: SigningPlan | None = None
        self._age = 0

    def plan(self, plan: SigningPlan) -> SigningPlan | None:
        if self._first is None or self._age > 16:
            self._first, self._age = plan, 0
        self._age += 1
        if self.choices.random() < 0.5:
            return self._first
        own = NonceCommitment(self.choices.randbytes(32), self.choices.randbytes(32))
        return SigningPlan(
            [
                (replica, name, own if replica == self.means.identity else pair)
                for replica, name, pair in self._first.signers
            ]
        )


# --- certificates ------------------------------------------------------------------------------------------------


@kind("stale-certificates", SomeOfIt)
class StaleCertificates(Forger[SomeOfIt]):
    """Gives old certificates out as the newest: to peers, and to clients with all that they prove, which is true and
    long over. Attacks freshness."""

    def __init__(self, means: Means, parameters: SomeOfIt, place: int = 0) -> None:
        super().__init__(means, parameters, place)
        self._old: Certified | None = None
        self._answers: dict[bytes, ObjectRead] = {}

    def says(self, effects: Effects, now: AgreedTime) -> Effects:
        """The first certificate that it sees is the one it sticks to."""
        for effect in effects:
            if isinstance(effect, NewCertificate) and self._old is None:
                certificate = effect.certificate
                self._old = Certified(self.means.membership.epoch, certificate.statement, certificate.signature)
        return super().says(effects, now)

    def instead(self, to: ReplicaId, message: Message) -> SequenceOf[Message] | None:
        """The same one for ever."""
        return [self._old] if isinstance(message, Certified) and self._old not in (None, message) else None

    def answer_instead(self, client: object, reply: Reply) -> SequenceOf[Reply] | None:
        """The first answer about an object, for ever."""
        if not isinstance(reply, ObjectRead):
            return None
        about = msgspec.msgpack.encode(reply.proof)[:64]
        first = self._answers.setdefault(about, reply)
        if len(self._answers) > REMEMBERED:
            del self._answers[next(iter(self._answers))]
        some = self.choices.choice([*self._answers.values()])
        old = self.choices.choice((first, some))
        return [msgspec.structs.replace(old, ask=reply.ask)] if old is not reply else None


@kind("forges-certificates", SomeOfIt)
class ForgesCertificates(Flipper):
    """Tells peers of certificates that the ring did not sign: the right state under a wrong signature, or another state
    under the right one. Attacks believing a peer about what all of them signed."""

    def instead(self, to: ReplicaId, message: Message) -> SequenceOf[Message] | None:
        """A bit of one or the other is wrong."""
        if not isinstance(message, Certified):
            return None
        forged: list[dict[str, Any]] = [
            {"signature": self.flip(message.signature)},
            {"statement": self.flip(message.statement)},
        ]
        return [msgspec.structs.replace(message, **self.choices.choice(forged))]


# --- clients -----------------------------------------------------------------------------------------------------


@kind("wrong-answers", SomeOfIt)
class WrongAnswers(Flipper):
    """Tells clients that something else became of what they asked, with and without proof: another result, another's
    certificate, a version that is not there, a refusal. Attacks taking one server's word."""

    def answer_instead(self, client: object, reply: Reply) -> SequenceOf[Reply] | None:
        """One lie, and at times the truth after it."""
        lie = self._lie(reply)
        if lie is None:
            return None
        return self.choices.choice(([lie], [lie, reply], [lie, lie]))

    def _lie(self, reply: Reply) -> Reply | None:
        choices = self.choices
        match reply:
            case Answered(ask, answer, certificate, place):
                return choices.choice(
                    (
                        Answered(ask, self._other(answer), certificate, place),
                        Answered(ask, self._other(answer), None, None),
                        Answered(ask, self.flip(answer), certificate, place),
                        Answered(ask, answer, certificate, None),
                        Refused(ask, "it is not so"),
                        Overloaded(ask, 1),
                    )
                )
            case ObjectRead(ask, certificate):
                forged = msgspec.structs.replace(certificate, statement=self.flip(certificate.statement))
                signed = msgspec.structs.replace(certificate, signature=self.flip(certificate.signature))
                empty = msgspec.structs.replace(reply.proof, siblings=self.flip(reply.proof.siblings))
                lies: list[Reply] = [
                    msgspec.structs.replace(reply, certificate=forged),
                    msgspec.structs.replace(reply, certificate=signed),
                    msgspec.structs.replace(reply, proof=empty),
                    Refused(ask, "it is not so"),
                ]
                if reply.version is not None:
                    lies.append(msgspec.structs.replace(reply, version=None))
                    other = msgspec.structs.replace(reply.version, root=self.flip(reply.version.root))
                    lies.append(msgspec.structs.replace(reply, version=other))
                return choices.choice(lies)
            case History(outcomes=outcomes):
                return choices.choice(
                    (
                        msgspec.structs.replace(reply, outcomes=outcomes[:-1]),
                        msgspec.structs.replace(reply, outcomes=outcomes[::-1]),
                    )
                )
            case BlocksHeld(ask):
                return Refused(ask, "it is not so")
        return None

    def _other(self, answer: bytes) -> bytes:
        """Well-formed, about the same request, and not what came of it."""
        try:
            known = decode(answer)
        except AnswerError:
            return answer
        others = [
            Answer(known.request, status, b"")
            for status in (Status.EXPIRED, Status.UNKNOWN_SESSION, Status.NUMBER_TAKEN)
        ]
        return self.choices.choice([*others, Answer(known.request, Status.EXECUTED, self.flip(known.result))]).encode()


@kind("corrupt-blocks", SomeOfIt)
class CorruptBlocks(Flipper):
    """Gives clients other blocks than they ask for, too few, too many, or none. Attacks taking a block without its
    name, and giving up on one that another server has."""

    def answer_instead(self, client: object, reply: Reply) -> SequenceOf[Reply] | None:
        """Not these."""
        if not isinstance(reply, Blocks):
            return None
        blocks = reply.blocks
        others: list[list[bytes | None]] = [
            [self.flip(block) if block is not None else b"" for block in blocks],
            [None] * len(blocks),
            [],
            [*blocks, b""],
            blocks[::-1] if len(blocks) > 1 else [b""],
        ]
        return [msgspec.structs.replace(reply, blocks=self.choices.choice(others))]


@kind("holds-nothing", SomeOfIt)
class HoldsNothing(Forger[SomeOfIt]):
    """Tells clients that it holds blocks which it never gives out. Attacks counting it among those who do."""

    def answer_instead(self, client: object, reply: Reply) -> SequenceOf[Reply] | None:
        """Held, and gone."""
        return (
            [msgspec.structs.replace(reply, blocks=[None] * len(reply.blocks))] if isinstance(reply, Blocks) else None
        )

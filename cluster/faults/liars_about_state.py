"""Liars in what others fetch and in where they say they are: contents, states, parts, STATUS."""

from collections.abc import Sequence as SequenceOf
from typing import Any

import msgspec

from bft.messages import (
    Batch,
    Bodies,
    FetchState,
    Message,
    Parts,
    StateChunk,
    StateGone,
    Status,
)
from bft.state_tree import Branch, Chunk, Items
from bft.types import AgreedTime, ReplicaId, Sequence, View
from cluster.faults.lying import Forger, Liar, Parameters, SomeOfIt, kind
from pond.protocol import Question

FAR = 2**60


def flipped(data: bytes, place: int) -> bytes:
    """The bytes with one bit turned over; for none, one more."""
    if not data:
        return b"\x01"
    altered = bytearray(data)
    altered[place % len(data)] ^= 1 << place % 8
    return bytes(altered)


class Flipper(Forger[SomeOfIt]):
    """Has some bit to turn over."""

    def flip(self, data: bytes) -> bytes:
        """One that the seed decides."""
        return flipped(data, self.choices.randrange(2**16))


# --- contents ----------------------------------------------------------------------------------------------------


@kind("wrong-contents", SomeOfIt)
class WrongContents(Flipper):
    """Sends other batches and bodies than it was asked for. Attacks taking them by number instead of by digest."""

    def instead(self, to: ReplicaId, message: Message) -> SequenceOf[Message] | None:
        """Something near the truth."""
        match message:
            case Batch(requests=requests):
                others: list[dict[str, Any]] = [
                    {"time": message.time + 1},
                    {"requests": []},
                    {"requests": requests * 2},
                ]
                if requests:
                    forged = msgspec.structs.replace(requests[0], statement=self.flip(requests[0].statement))
                    bare = [msgspec.structs.replace(request, bodies=[b"?"]) for request in requests]
                    others += [{"requests": [forged, *requests[1:]]}, {"requests": bare}]
                return [msgspec.structs.replace(message, **self.choices.choice(others))]
            case Bodies(bodies=bodies):
                return [msgspec.structs.replace(message, bodies=[self.flip(body) for body in bodies])]
        return None


# --- state transfer ----------------------------------------------------------------------------------------------


@kind("wrong-chunks", SomeOfIt)
class WrongChunks(Flipper):
    """Sends subtrees that are not those of the state, or of a state with another root or time. Attacks taking over a
    state that nobody had."""

    def instead(self, to: ReplicaId, message: Message) -> SequenceOf[Message] | None:
        """One thing is wrong."""
        if not isinstance(message, StateChunk):
            return None
        wrongs: list[dict[str, Any]] = [
            {"time": message.time + 1},
            {"root": self.flip(message.root)},
            {"sequence": message.sequence + self.means.tuning.interval},
        ]
        if message.chunks:
            place = self.choices.randrange(len(message.chunks))
            chunks = list(message.chunks)
            prefix, chunk = chunks[place]
            chunks[place] = (prefix, self._other(chunk))
            wrongs += [{"chunks": chunks}] * 4
        return [msgspec.structs.replace(message, **self.choices.choice(wrongs))]

    def _other(self, chunk: Chunk) -> Chunk:
        match chunk:
            case Branch(bitmap, digests):
                return self.choices.choice(
                    (Branch(bitmap, self.flip(digests)), Branch(bitmap ^ 1 or 2, digests), Branch(bitmap, digests[:-1]))
                )
            case Items(items) if items:
                (key, value), *rest = items
                return self.choices.choice(
                    (Items([(key, self.flip(value)), *rest]), Items([(self.flip(key), value), *rest]), Items(rest))
                )
        return Items([(b"\x01", b"?")])


@kind("wrong-parts", SomeOfIt)
class WrongParts(Flipper):
    """Sends other blocks and nodes than a state names, or more or fewer. Attacks what a transferred state rests on."""

    def instead(self, to: ReplicaId, message: Message) -> SequenceOf[Message] | None:
        """One of its spans is wrong, or its values are another's."""
        if not isinstance(message, Parts) or not message.found:
            return None
        place = self.choices.randrange(len(message.found))
        before, (span, values), after = message.found[:place], message.found[place], message.found[place + 1 :]
        wrongs = [[self.flip(value) for value in values], [*values, b""][:256], values[:-1]]
        found = [*before, (span, self.choices.choice(wrongs)), *after]
        return [msgspec.structs.replace(message, found=self.choices.choice((found, found, found, [])))]


@kind("claims-gone", SomeOfIt)
class ClaimsGone(Forger[SomeOfIt]):
    """Says that it holds no state that it is asked for, and no part. Attacks giving up on a state because one says
    so."""

    def instead(self, to: ReplicaId, message: Message) -> SequenceOf[Message] | None:
        """Nothing is here."""
        match message:
            case StateChunk(epoch, sequence):
                return [StateGone(epoch, sequence)]
            case Parts():
                return [msgspec.structs.replace(message, found=[])]
        return None


@kind("other-states", SomeOfIt)
class OtherStates(Forger[SomeOfIt]):
    """Answers whoever fetches a state without end and to no purpose: what was not asked for, what is known already,
    nothing at all, of this state and of others. Attacks counting any answer as progress."""

    def instead(self, to: ReplicaId, message: Message) -> SequenceOf[Message] | None:
        """Much of little use."""
        match message:
            case StateChunk(chunks=chunks):
                nothing = msgspec.structs.replace(message, chunks=[])
                again = msgspec.structs.replace(message, chunks=chunks[:1])
                aside = msgspec.structs.replace(message, chunks=[(prefix + b"\x00", chunk) for prefix, chunk in chunks])
                later = msgspec.structs.replace(message, sequence=message.sequence + self.means.tuning.interval)
                return [nothing, again, later, again, aside]
            case Parts(found=found):
                return [msgspec.structs.replace(message, found=found[:1])] * 3
        return None


# --- STATUS ------------------------------------------------------------------------------------------------------


@kind("claims-ahead", SomeOfIt)
class ClaimsAhead(Forger[SomeOfIt]):
    """Says that it has executed, certified and made stable what will not come for ages, in a view as far away. Attacks
    waiting for what one server claims, and the suspicion that waits while others may be further."""

    def instead(self, to: ReplicaId, message: Message) -> SequenceOf[Message] | None:
        """All of it, or one number."""
        if not isinstance(message, Status):
            return None
        names = ("executed", "stable", "certified", "view")
        chosen = names if self.choices.random() < 0.5 else (self.choices.choice(names),)
        return [msgspec.structs.replace(message, **dict.fromkeys(chosen, FAR))]


@kind("claims-behind", SomeOfIt)
class ClaimsBehind(Forger[SomeOfIt]):
    """Says for ever that it has nothing, in view 0 or in its own, and asks for all of it. Attacks the answers, which
    are read from the log, and the suspicion that asks who is further."""

    def instead(self, to: ReplicaId, message: Message) -> SequenceOf[Message] | None:
        """From the start."""
        if not isinstance(message, Status):
            return None
        nothing: dict[str, Any] = {"executed": 0, "stable": 0, "certified": 0, "nonces": 0, "contents": True}
        if self.choices.random() < 0.5:
            nothing |= {"view": View(0), "active": False}
        return [msgspec.structs.replace(message, votes=self.choices.random() < 0.5, **nothing)]


@kind("claims-learning", SomeOfIt)
class ClaimsLearning(Forger[SomeOfIt]):
    """Says for ever that it lost its votes and waits for a checkpoint that is not far off. Attacks the hurry of an idle
    ring for those who do."""

    def instead(self, to: ReplicaId, message: Message) -> SequenceOf[Message] | None:
        """Always a little further."""
        if not isinstance(message, Status):
            return None
        until = self.replica.execution.executed + self.choices.randint(1, 3 * self.means.tuning.window)
        return [msgspec.structs.replace(message, learning=Sequence(until))]


@kind("answers-nothing")
class AnswersNothing(Liar[Parameters]):
    """Takes part in ordering and helps nobody: no fetch and no STATUS reaches its core. Attacks asking one server
    only."""

    def hears(self, sender: object, message: Message | Question, now: AgreedTime) -> bool:
        """All but what asks."""
        if isinstance(message, Status | FetchState) or type(message).__name__.startswith("Fetch"):
            self.lied()
            return False
        return True

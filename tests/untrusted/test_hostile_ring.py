"""A ring with a liar who says anything that has the right types: nobody stops, fills up, or runs another batch.

The liar sees what is sent to it, changes and replays it, makes up messages with plausible fields, and signs what it
likes with its own key. Messages are also lost and reordered. Afterwards it falls silent, and the ring goes on.
"""

import random

import msgspec
import pytest

from bft import early, requests, view_change
from bft.batches import NULL, digest_of
from bft.effects import Received, Requested
from bft.messages import Accepted, Checkpoint, Message, NewView, PrePrepare, Request, ViewChange
from bft.new_view import Decision, decide
from bft.ordering import proposal_statement
from bft.replica import Replica
from bft.tuning import Tuning
from bft.types import Epoch, ReplicaId, Sequence, View
from bft.view_change import new_view_statement, view_change_statement
from tests.paper.changes import leave, register, views
from tests.unit.bft.ring import Client, Ring
from tests.unit.bft.witness import Witness
from tests.untrusted.generate import Generator, changed

TUNING = Tuning(interval=4, window=8, retained=32, pool=4)
ROUNDS = 120


class Hostile:
    """A ring of four, one of whom lies."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.ring = Ring(tuning=TUNING)
        self.liar = ReplicaId(seed % 4)
        self.honest = [ReplicaId(i) for i in range(4) if i != self.liar]
        self.generator = Generator(self.draw)
        self.seen: list[Message] = []
        self.refused = 0
        self.client = Client()
        self.asked: list[Request] = []
        self.witness = Witness(self.ring, set(self.honest))
        self.ring.drops = self._drop
        self.well_behaved = self.draw.choice((0.0, 0.3, 0.9))
        """How often what the liar's own server would say is sent as it is."""

    def _drop(self, sender: ReplicaId, to: ReplicaId, message: Message) -> bool:
        if to == self.liar and self.draw.random() < 0.3:
            self.generator.see(msgspec.to_builtins(message, builtin_types=(bytes,)))
            self.seen.append(message)
            del self.seen[:-200]
        return self.draw.random() < (1 - self.well_behaved if sender == self.liar else 0.03)

    def run(self) -> None:
        """Lies, requests and time, in any order."""
        for _ in range(ROUNDS):
            match self.draw.randrange(8):
                case 0:
                    self._ask()
                case 6 if self.draw.random() < 0.3:
                    self._suspect()
                case 1:
                    self.ring.pass_time(self.draw.choice((0.1, 0.3, 0.7)))
                case _:
                    for _ in range(self.draw.randint(1, 8)):
                        self._lie()
            self.draw.shuffle(self.ring.links)
            self.ring.run()
            self.check()

    def _suspect(self) -> None:
        """Timers of some run out, with or without reason."""
        for i in self.draw.sample(self.honest, self.draw.randint(1, 3)):
            if i not in self.ring.down:
                leave(self.ring, i, self.ring.replicas[i].views.view + 1)

    def _ask(self) -> None:
        if self.asked and self.draw.random() < 0.3:
            request = self.draw.choice(self.asked)
        elif self.draw.random() < 0.3:
            number = self.draw.choice((1, 2, self.client.number, self.client.number + 5))
            request = Client(str(self.draw.randrange(3))).request(b"hostile ", number=max(1, number))
        else:
            request = self.client.request(b"%d " % len(self.asked))
            self.asked.append(request)
        for i in self.draw.sample(range(4), self.draw.randint(1, 4)):
            self.ring.step(ReplicaId(i), Requested("client", request, self.ring.now))

    def _lie(self) -> None:
        to = self.draw.choice(self.honest)
        machine = self.ring.replicas[to]
        number = machine.execution.executed
        self.generator.numbers = [machine.views.view, number, number, machine.ordering.next, machine.checkpoints.stable]
        message = self._signed(self._made())
        # Whatever it is, it could have come by the wire.
        message = msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=Message)
        effects = self.ring.step(to, Received(self.liar, message, self.ring.now))
        self.refused += sum(1 for effect in effects if type(effect).__name__ == "Rejected")

    def _made(self) -> Message:
        kind = self.draw.random()
        if kind < 0.15:
            return self._view_change()
        if kind < 0.25 and (made := self._new_view()) is not None:
            return made
        if not self.seen or self.draw.random() < 0.5:
            return self.generator.make(Message)  # type: ignore[no-any-return]
        message = self.draw.choice(self.seen)
        for _ in range(20):
            plain = msgspec.to_builtins(message, builtin_types=(bytes,))
            try:
                return msgspec.convert(changed(self.draw, plain), Message, builtin_types=(bytes,))  # type: ignore[no-any-return]
            except msgspec.ValidationError:
                continue
        return message

    def _view_change(self) -> ViewChange:
        """A well-formed one, of which half might be true."""
        draw = self.draw
        machine = self.ring.replicas[draw.choice(self.honest)]
        stable = self.ring.replicas[self.liar].checkpoints.proven if draw.random() < 0.3 else machine.checkpoints.proven
        view = View(max(replica.views.view for replica in self.ring.replicas) + draw.choice((0, 0, 1, 1, 2)))
        digests = [digest for digest in self.generator.blobs.get(32, []) if draw.random() < 0.3] + [NULL]
        true = [entry for entries in machine.ordering.sets() for entry in entries]
        entries: dict[int, Accepted] = {}
        for number in range(stable.sequence + 1, stable.sequence + TUNING.window + 1):
            here = [entry for entry in true if entry.sequence == number]
            if here and draw.random() < 0.6:
                entries[number] = draw.choice(here)
            elif draw.random() < 0.3:
                below = View(draw.randrange(view)) if view else View(0)
                entries[number] = Accepted(Sequence(number), draw.choice(digests), below)
        prepared = [entry for entry in entries.values() if entry.view < view and draw.random() < 0.6]
        accepted = [entry for entry in entries.values() if entry.view < view]
        held = [(stable.sequence, stable.digest)]
        return ViewChange(Epoch(1), view, self.liar, stable, held, prepared, accepted, bytes(64))

    def _new_view(self) -> NewView | None:
        """As primary of a view that others wait for: one that follows from what it shows. It may send several."""
        left = [own for i in self.honest if (own := self.ring.replicas[i].views.own) is not None]
        views = [own.view for own in left if own.view % 4 == self.liar]
        if not views:
            return None
        view = self.draw.choice(views)
        lie = self._signed(msgspec.structs.replace(self._view_change(), view=view))
        shown = [own for own in left if own.view == view and self.draw.random() < 0.8]
        shown = sorted([*shown, lie], key=lambda said: said.replica)  # type: ignore[list-item]
        decision = decide(self.ring.membership, shown, TUNING.window)
        if decision is None:
            return None
        return NewView(Epoch(1), view, shown, decision.stable, decision.digest, list(decision.batches), bytes(64))

    def _signed(self, message: Message) -> Message:
        """With the liar's own key, most often."""
        if self.draw.random() < 0.2:
            return message
        membership, signer = self.ring.membership, self.ring._signers[self.liar]
        match message:
            case PrePrepare(_, view, sequence, time, batch, plan, _):
                if self.draw.random() < 0.8:
                    message = msgspec.structs.replace(message, time=self.ring.now)
                    time = self.ring.now
                text = proposal_statement(membership, view, sequence, digest_of(time, batch), plan)
            case Checkpoint(_, sequence, digest, _):
                text = self.ring.replicas[0].checkpoints._signed(sequence, digest)
            case ViewChange():
                message = msgspec.structs.replace(message, replica=self.liar)
                text = view_change_statement(membership, message)
            case NewView(_, view, changes, stable, digest, batches, _):
                text = new_view_statement(membership, view, changes, Decision(stable, digest, tuple(batches)))
            case _:
                return message
        return msgspec.structs.replace(message, signature=signer.sign(text))

    def check(self) -> None:
        """One history; bounded memory."""
        self.witness.check_states()
        states: dict[int, bytes] = {}
        for i in self.honest:
            machine = self.ring.replicas[i]
            assert machine.checkpoints.diverged_at is None
            root = states.setdefault(machine.execution.executed, machine.execution.tree.root)
            assert root == machine.execution.tree.root
            check_bounded(machine)

    def heal(self) -> None:
        """The liar falls silent: everything that is asked runs, once and in one order."""
        self.ring.crash(self.liar)
        self.ring.deliver_all()
        last = Client("last").request(b"last")
        for _ in range(60):
            for i in self.honest:
                self.ring.step(i, Requested("last", last, self.ring.now))
            self.ring.pass_time(2)
            if all(b"last" in register(self.ring, i) for i in self.honest):
                break
        else:
            pytest.fail(f"no progress: {views(self.ring)} {self.ring.executed}")
        self.check()


def check_bounded(machine: Replica) -> None:
    """Nothing that a liar can add to grows without end."""
    window = TUNING.window
    assert len(machine.ordering.slots) <= window
    assert len(machine.ordering.accepted) <= window
    assert len(machine.batches._known) <= 4 * window
    assert len(machine.catch_up._said) <= 64
    assert all(len(kept) <= early.VOTES for kept in machine._early._kept.values())
    assert len(machine._early._kept) <= 3
    assert len(machine.views._received) <= 4
    assert len(machine.views._valid) <= view_change.REMEMBERED
    assert len(machine.requests._incomplete) <= requests.INCOMPLETE
    assert len(machine.requests._waiting) <= requests.QUEUE
    assert len(machine.checkpoints._votes) <= window
    assert len(machine.signing._published) <= 4
    assert len(machine.signing._shares) <= 512
    assert len(machine._pacing._proposed) <= window
    assert len(machine.retransmission._heard) <= 3


@pytest.mark.parametrize("seed", range(24))
def test_a_liar_that_says_anything(seed: int) -> None:
    hostile = Hostile(seed)
    hostile.run()
    assert hostile.refused > 20, "much was refused"
    assert max(hostile.ring.executed) > 3, "and something ran all the while"
    hostile.heal()


def test_every_kind_of_message_can_be_made() -> None:
    generator = Generator(random.Random(1))
    made = {type(generator.make(Message)) for _ in range(3000)}
    assert made == set(Message.__args__)

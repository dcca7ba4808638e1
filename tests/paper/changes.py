"""VIEW-CHANGEs as tests of rules A and B write them: P and Q by number, batch and view, signed or not."""

import hashlib
from collections.abc import Callable, Iterable

import msgspec

from bft.checkpoints import GENESIS
from bft.effects import Broadcast, Effect, Received, Rejected, Send
from bft.membership import Membership
from bft.messages import Accepted, Commit, Message, NewView, StableCheckpoint, ViewChange
from bft.new_view import Decision, decide
from bft.types import Epoch, ReplicaId, Sequence, View
from bft.view_change import new_view_statement, view_change_statement
from tests.unit.bft.ring import RING_ID, Client, M, Ring

WINDOW = 8


def digest(name: str) -> bytes:
    """A batch, or a state, that is only a name."""
    return hashlib.sha256(name.encode()).digest()


MEMBERSHIPS = {
    size: Membership(RING_ID, Epoch(1), digest("ring"), tuple(digest(f"key {i}") for i in range(size)))
    for size in (4, 7, 10)
}
CHECKPOINTS = {0: GENESIS, **{n: digest(f"state {n}") for n in range(1, 200)}}

Entry = tuple[int, str, int]
"""Number, batch and view."""


def accepted(entries: Iterable[Entry]) -> list[Accepted]:
    """P or Q."""
    made = [Accepted(Sequence(n), digest(batch), View(v)) for n, batch, v in entries]
    return sorted(made, key=lambda entry: (entry.sequence, entry.digest))


def change(
    replica: int,
    p: Iterable[Entry] = (),
    q: Iterable[Entry] | None = None,
    view: int = 9,
    stable: int = 0,
    held: Iterable[int] = (),
) -> ViewChange:
    """A VIEW-CHANGE; Q is P unless it is given. Not signed."""
    p = list(p)
    return ViewChange(
        Epoch(1),
        View(view),
        ReplicaId(replica),
        StableCheckpoint(Epoch(1), Sequence(stable), CHECKPOINTS[stable], []),
        [(Sequence(n), CHECKPOINTS[n]) for n in (stable, *held)],
        accepted(p),
        accepted(p if q is None else q),
        bytes(64),
    )


def chosen(*changes: ViewChange, size: int = 4) -> list[str] | None:
    """Names of the batches that a view begins with, from number 1 on; None while that is undecided."""
    decision = decide(MEMBERSHIPS[size], changes, WINDOW)
    if decision is None:
        return None
    names = {digest(name): name for name in "abcdefgh"}
    return [names.get(batch, "-") for batch in decision.batches]


def signed(ring: Ring, unsigned: ViewChange, by: int | None = None) -> ViewChange:
    """The same, signed by its sender or by another."""
    signer = ring._signers[unsigned.replica if by is None else by]
    return msgspec.structs.replace(unsigned, signature=signer.sign(view_change_statement(ring.membership, unsigned)))


def new_view(ring: Ring, view: int, changes: list[ViewChange], to: Decision, by: int | None = None) -> NewView:
    """A NEW-VIEW, signed by the view's primary or by another."""
    signer = ring._signers[ring.membership.primary(View(view)) if by is None else by]
    signature = signer.sign(new_view_statement(ring.membership, View(view), changes, to))
    return NewView(Epoch(1), View(view), changes, to.stable, to.digest, list(to.batches), signature)


def leave(ring: Ring, replica: int, view: int) -> list[Effect]:
    """Make one replica leave for a view, as its timers would; nothing is delivered yet."""
    machine = ring.replicas[replica]
    machine._disk.step_done()
    effects = machine._leave(View(view), "the test says so") + machine._change_view(ring.now)
    ring.perform(ReplicaId(replica), effects)
    return effects


def receive(ring: Ring, at: int, sender: int, message: Message) -> list[Effect]:
    """Deliver one message."""
    return ring.step(ReplicaId(at), Received(ReplicaId(sender), message, ring.now))


def reasons(effects: list[Effect]) -> list[str]:
    """Why messages were refused."""
    return [effect.reason for effect in effects if isinstance(effect, Rejected)]


def sent(effects: list[Effect], kind: type[M]) -> list[M]:
    """Messages of one kind among these effects."""
    messages = [effect.message for effect in effects if isinstance(effect, Broadcast | Send)]
    return [message for message in messages if isinstance(message, kind)]


def views(ring: Ring) -> list[tuple[int, bool]]:
    """Each replica's view, and whether that has begun there."""
    return [(replica.views.view, replica.views.active) for replica in ring.replicas]


def register(ring: Ring, replica: int = 0) -> bytes:
    """What the operations that ran have written."""
    return ring.replicas[replica].execution.tree.get(b"\x01register") or b""


def lose(*kinds: type[Message]) -> Callable[[ReplicaId, ReplicaId, Message], bool]:
    """For `Ring.drops`: all messages of these kinds are lost."""
    return lambda sender, to, message: isinstance(message, kinds)


def prepared(operation: bytes = b"x") -> Ring:
    """A ring in which one batch has prepared everywhere, in view 0 at number 1, and committed nowhere."""
    ring = Ring()
    ring.drops = lose(Commit)
    ring.submit(Client().request(operation))
    ring.deliver_all()
    assert ring.executed == [0, 0, 0, 0]
    return ring

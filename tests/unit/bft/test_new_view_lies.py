"""A new primary that lies, and VIEW-CHANGEs that nobody sent: the view does not begin, and nobody leaves for it."""

import msgspec
import pytest

from bft.effects import Received
from bft.messages import Commit, Message, StableCheckpoint, ViewChange
from bft.new_view import Decision, decide
from bft.tuning import DEFAULT
from bft.types import Epoch, ReplicaId, Sequence, View
from tests.paper.changes import digest, new_view, signed
from tests.unit.bft.ring import Client, Ring

VICTIM = 3
LEADER = 1
"""Of view 1."""


class Scene:
    """A batch has prepared in view 0 and committed nowhere; replicas 0 to 2 leave for view 1, unheard by 3."""

    def __init__(self) -> None:
        self.ring = ring = Ring()
        ring.drops = lambda sender, to, message: isinstance(message, Commit)
        ring.submit(Client().request(b"x"))
        ring.drops = lambda sender, to, message: True
        for replica in range(3):
            ring.perform(ReplicaId(replica), ring.replicas[replica]._leave(View(1), "told to"))
        owns = [ring.replicas[replica].views.own for replica in range(3)]
        self.changes = [own for own in owns if own is not None]
        decision = decide(ring.membership, self.changes, DEFAULT.window)
        assert decision is not None
        self.decision = decision
        assert len(decision.batches) == 1, "what prepared is to be proposed again"

    def tell(self, message: Message, sender: int = LEADER) -> list[str]:
        """Reasons why the victim refuses it."""
        before = len(self.ring.rejected)
        self.ring.step(ReplicaId(VICTIM), Received(ReplicaId(sender), message, self.ring.now))
        return [refused.reason for _, refused in self.ring.rejected[before:]]

    @property
    def view(self) -> View:
        """The victim's."""
        return self.ring.replicas[VICTIM].views.view


def test_what_follows_from_its_view_changes_is_entered() -> None:
    scene = Scene()
    assert scene.tell(new_view(scene.ring, 1, scene.changes, scene.decision)) == []
    assert scene.view == 1


@pytest.mark.parametrize("batches", [(), (digest("invented"),), (digest("invented"), digest("another"))])
def test_what_does_not_follow_is_refused(batches: tuple[bytes, ...]) -> None:
    scene = Scene()
    claimed = Decision(scene.decision.stable, scene.decision.digest, batches)
    refused = scene.tell(new_view(scene.ring, 1, scene.changes, claimed))
    assert refused == ["NEW-VIEW that does not follow from its VIEW-CHANGEs"]
    assert scene.view == 0


def test_one_sender_does_not_count_twice() -> None:
    scene = Scene()
    twice = [scene.changes[0], scene.changes[1], scene.changes[1]]
    refused = scene.tell(new_view(scene.ring, 1, twice, scene.decision))
    assert refused == ["NEW-VIEW with two VIEW-CHANGEs of one replica, or out of order"]
    assert scene.view == 0


def test_2f_view_changes_are_too_few() -> None:
    scene = Scene()
    refused = scene.tell(new_view(scene.ring, 1, scene.changes[:2], scene.decision))
    assert refused == ["NEW-VIEW with fewer than 2f+1 VIEW-CHANGEs"]
    assert scene.view == 0


def test_only_its_primary_begins_a_view() -> None:
    scene = Scene()
    refused = scene.tell(new_view(scene.ring, 1, scene.changes, scene.decision, by=2), sender=2)
    assert refused == ["NEW-VIEW is not signed by the primary"]
    assert scene.view == 0


def test_a_view_change_that_its_sender_did_not_sign_counts_for_nothing() -> None:
    scene = Scene()
    nothing = msgspec.structs.replace(scene.changes[0], prepared=[], pre_prepared=[])
    forged = [signed(scene.ring, nothing, by=LEADER), *scene.changes[1:]]
    refused = scene.tell(new_view(scene.ring, 1, forged, scene.decision))
    assert refused == ["NEW-VIEW: VIEW-CHANGE is not signed by its sender"]
    assert scene.tell(forged[0], sender=0) == ["VIEW-CHANGE is not signed by its sender"]
    assert scene.view == 0


def test_a_checkpoint_that_nobody_signed_counts_for_nothing() -> None:
    """Else what prepared below it would count as settled."""
    scene = Scene()
    where = Sequence(DEFAULT.interval)
    for proof in ([], scene.changes[0].stable.proof, [(ReplicaId(i), bytes(64)) for i in range(3)]):
        invented = StableCheckpoint(Epoch(1), where, digest("state"), proof)
        change = ViewChange(Epoch(1), View(1), ReplicaId(2), invented, [(where, digest("state"))], [], [], bytes(64))
        assert scene.tell(signed(scene.ring, change), sender=2) == ["VIEW-CHANGE without proof of its checkpoint"]


def test_f_replicas_make_nobody_leave_and_f_plus_1_do() -> None:
    """4.5.2; the primary's own VIEW-CHANGE, which is believed alone, is another matter."""
    scene = Scene()
    assert scene.tell(scene.changes[2], sender=2) == []
    assert scene.view == 0
    assert scene.tell(scene.changes[1], sender=1) == []
    assert scene.view == 1

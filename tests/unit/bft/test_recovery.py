"""Replicas that come back after long, also with an empty disk: a state is fetched, and nothing said too early."""

import msgspec
import pytest

from bft import log
from bft.effects import Broadcast, Effect, Persist, Received, Send
from bft.messages import (
    Certified,
    Checkpoint,
    Commit,
    FetchBatches,
    FetchParts,
    FetchState,
    Message,
    NewView,
    Prepare,
    PrePrepare,
    Status,
    ViewChange,
)
from bft.recovery import SILENT_WINDOWS, lost_votes
from bft.transfer import STALLED_TICKS
from bft.tuning import Tuning
from bft.types import ReplicaId, Sequence, View
from tests.paper.changes import leave
from tests.unit.bft.ring import Client, MemoryDisk, Ring

SMALL = Tuning(interval=4, window=8, retained=8, pool=16)

VOTES = PrePrepare | Prepare | Commit | ViewChange | NewView


def tick(ring: Ring, times: int, idle: bool = False) -> None:
    for _ in range(times):
        ring.fire("tick")
        if idle:
            ring.fire("idle")


def order(ring: Ring, client: Client, count: int, to: tuple[int, ...] = (0,)) -> None:
    for _ in range(count):
        ring.submit(client.request(b"%d " % client.number), to)


@pytest.mark.parametrize("away", [1, 2, 3])
def test_who_was_away_for_longer_than_the_logs_reach_fetches_the_state(away: int) -> None:
    ring, client = Ring(tuning=SMALL), Client()
    order(ring, client, 3)
    ring.crash(ReplicaId(away))
    order(ring, client, 60)
    ring.restart(ReplicaId(away))
    tick(ring, 30, idle=True)
    tick(ring, 3)
    assert len(set(ring.executed)) == 1
    assert len({replica.execution.tree.root for replica in ring.replicas}) == 1
    other = next(i for i in (1, 2, 3) if i != away)
    ring.crash(ReplicaId(other))
    order(ring, client, 5)
    assert len({ring.executed[0], ring.executed[away]}) == 1, "its vote counts again"
    assert ring.replicas[away].execution.tree.get(ring.replicas[away]._service.KEY).endswith(b"67 ")  # type: ignore


def lose_disk(ring: Ring, identity: int) -> None:
    ring.crash(ReplicaId(identity))
    ring.disks[identity].tables.clear()
    ring.disks[identity].write(lost_votes())
    ring.disks[identity].sync()
    ring.restart(ReplicaId(identity))
    ring.run()


@pytest.mark.parametrize("lost", range(4))
def test_who_lost_its_disk_says_nothing_until_its_old_votes_cannot_matter(lost: int) -> None:
    ring, client = Ring(tuning=SMALL), Client()
    order(ring, client, 30)
    spoken: list[object] = []
    lose_disk(ring, lost)
    silent = ring.replicas[lost]
    perform = ring.perform

    def listen(identity: ReplicaId, effects: list[object]) -> None:
        if identity == lost and silent.recovery.silent_until:
            said = [e.message for e in effects if isinstance(e, Send | Broadcast)]
            spoken.extend(message for message in said if isinstance(message, VOTES))
        perform(identity, effects)  # type: ignore[arg-type]

    ring.perform = listen  # type: ignore[method-assign,assignment]
    tick(ring, 20, idle=True)
    assert silent.execution.executed >= 28
    for _ in range(90):
        if not silent.recovery.silent_until:
            break
        tick(ring, 1, idle=True)
    assert not spoken
    assert silent.recovery.silent_until == 0
    assert silent.execution.executed >= 28 + SILENT_WINDOWS * SMALL.window
    leader = ring.replicas[(lost + 1) % 4].ordering.primary
    other = next(i for i in range(4) if i not in (lost, leader))
    ring.crash(ReplicaId(other))
    before = ring.replicas[leader].execution.executed
    order(ring, client, 5, to=(0, 1, 2, 3))
    tick(ring, 3)
    assert ring.replicas[leader].execution.executed > before, "it votes again"


def test_silence_outlasts_a_restart() -> None:
    ring, client = Ring(tuning=SMALL), Client()
    order(ring, client, 30)
    lose_disk(ring, 3)
    ring.crash(ReplicaId(3))
    ring.restart(ReplicaId(3))
    assert ring.replicas[3].recovery.silent_until
    assert ring.replicas[3].ordering.silent
    assert isinstance(ring.disks[3], MemoryDisk)


def view_from_a_checkpoint_of_two(numbers: int) -> Ring:
    """Replica 1 is a liar that takes part in ordering and answers no question. It and replica 0 have run a few batches
    more than the two others, to a checkpoint that is not stable, from which the view begins that the liar leads."""
    ring, client = Ring(tuning=SMALL), Client()
    order(ring, client, 12 - numbers)

    def unheard(sender: ReplicaId, to: ReplicaId, message: Message) -> bool:
        return to == 1 and isinstance(message, Status | FetchState | FetchParts | FetchBatches)

    ring.drops = lambda sender, to, message: (
        unheard(sender, to, message) or (to in (2, 3) and isinstance(message, Commit | Checkpoint | Certified))
    )
    order(ring, client, numbers)
    assert ring.executed == [12, 12, 12 - numbers, 12 - numbers]
    ring.drops = unheard
    for identity in (0, 2, 3, 1):
        leave(ring, identity, 1)
    ring.run()
    for replica in ring.replicas:
        assert replica.views.new_view is not None
        assert (replica.views.new_view.stable, replica.ordering.stable) == (12, 8)
    return ring


@pytest.mark.parametrize("numbers", [1, 2, 4])
def test_who_lacks_the_checkpoint_that_a_view_begins_with_fetches_it(numbers: int) -> None:
    """f + 1 hold it, so it is right, but one of them may be a liar, and then nobody else proves what led to it."""
    ring = view_from_a_checkpoint_of_two(numbers)
    ring.pass_time(2)
    assert [replica.views.view for replica in ring.replicas] == [1] * 4
    assert min(ring.executed) >= 12
    assert min(replica.ordering.stable for replica in ring.replicas) >= 12
    assert len({replica.execution.tree.root for replica in ring.replicas}) == 1
    ring.crash(ReplicaId(1))
    order(ring, Client("another"), 5, to=(0, 2, 3))
    ring.pass_time(10)
    assert min(ring.executed[i] for i in (0, 2, 3)) > 12
    assert len({ring.replicas[i].execution.tree.root for i in (0, 2, 3)}) == 1


@pytest.mark.parametrize("after", range(4))
def test_a_checkpoints_state_is_to_be_had_from_those_who_started_again(after: int) -> None:
    """One is gone for good, one was away for too long for the logs, and the two others have run on from the checkpoint
    and started again: the first of them must still give its state to the second, or nothing is ordered ever again."""
    ring, client = Ring(tuning=SMALL), Client()
    order(ring, client, 3)
    ring.crash(ReplicaId(3))
    order(ring, client, 29 + after)
    assert ring.replicas[0].ordering.stable == 32
    ring.crash(ReplicaId(2))
    for identity in map(ReplicaId, (0, 1)):
        ring.disks[identity].sync()
        ring.crash(identity)
        ring.restart(identity)
    ring.restart(ReplicaId(3))
    order(ring, client, 1, to=(0, 1, 3))
    ring.pass_time(40)
    assert ring.replicas[3].execution.executed > 32 + after
    assert ring.executed[3] == ring.executed[0]
    assert len({ring.replicas[identity].execution.tree.root for identity in (0, 1, 3)}) == 1


def test_a_later_view_may_begin_with_an_earlier_checkpoint() -> None:
    """A liar that shows its checkpoint to some views only: what is fetched meanwhile is not forgotten."""
    ring = view_from_a_checkpoint_of_two(2)
    recovery, began = ring.replicas[2].recovery, ring.replicas[2].views.new_view
    assert began is not None
    for stable in (11, 20, 12, 20, 12):
        recovery.tick(5, msgspec.structs.replace(began, stable=Sequence(stable)))
    assert recovery.transfer.targets == [11, 20]
    for _ in range(2 * STALLED_TICKS):
        recovery.tick(5, began)
    assert recovery.transfer.targets == [20]


@pytest.mark.parametrize("done", range(3))
def test_power_cuts_while_a_state_is_taken_over_lose_no_vote_for_it(done: int) -> None:
    """The state is on the disk, and the vote for it, or not: the two who fetch it lose their power at that moment."""
    ring = view_from_a_checkpoint_of_two(2)
    cut = set()
    perform = ring.perform

    def lose_power(identity: ReplicaId, effects: list[Effect]) -> None:
        executed = log.read_progress(ring.disks[identity])
        if identity in (2, 3) and identity not in cut and executed is not None and executed.executed < 12:
            states = [n for n, effect in enumerate(effects) if isinstance(effect, Persist) and jumps(effect)]
            if states:
                cut.add(identity)
                perform(identity, effects[: states[0] + done])
                ring.crash(identity)
                ring.restart(identity)
                return
        perform(identity, effects)

    def jumps(effect: Persist) -> bool:
        return any((write.table, write.key) == ("meta", b"progress") for write in effect.writes)

    ring.perform = lose_power  # type: ignore[method-assign]
    ring.pass_time(4)
    assert cut == {2, 3}
    assert min(replica.ordering.stable for replica in ring.replicas) >= 12
    assert len({replica.execution.tree.root for replica in ring.replicas}) == 1


def test_a_vote_for_a_checkpoint_that_did_not_reach_the_disk_is_given_again() -> None:
    ring, client = Ring(tuning=SMALL), Client()
    order(ring, client, 3)
    perform = ring.perform

    def lose_power(identity: ReplicaId, effects: list[Effect]) -> None:
        said = [n for n, e in enumerate(effects) if isinstance(e, Broadcast) and isinstance(e.message, Checkpoint)]
        perform(identity, effects[: said[0] - 1] if said else effects)  # a Persist comes before it

    ring.perform = lose_power  # type: ignore[method-assign]
    order(ring, client, 1)
    ring.perform = perform  # type: ignore[method-assign]
    assert ring.executed == [4] * 4
    for identity in map(ReplicaId, range(4)):
        ring.disks[identity].sync()
        ring.crash(identity)
        ring.restart(identity)
    ring.pass_time(0.5)
    assert [replica.checkpoints.stable for replica in ring.replicas] == [4] * 4


def test_what_leads_back_to_a_checkpoint_is_forgotten_with_it() -> None:
    ring, client = Ring(tuning=SMALL), Client()
    order(ring, client, 30)
    stable = ring.replicas[0].ordering.stable
    found = [n for n in range(1, 40) if log.read_undo(ring.disks[0], Sequence(n)) is not None]
    assert found == list(range(stable + 1, 31))


def test_a_ring_hurries_once_for_who_says_that_it_lost_its_votes() -> None:
    """A liar that always loses them would have an idle ring order fifty empty batches in a second, for ever."""
    ring = Ring(tuning=SMALL)

    def claim() -> int:
        executed = ring.executed[0]
        until = Sequence(executed + SILENT_WINDOWS * SMALL.window)
        status = Status(1, View(0), True, Sequence(executed), Sequence(0), Sequence(0), False, True, False, until)  # type: ignore
        ring.step(ReplicaId(0), Received(ReplicaId(3), status, ring.now))
        ring.pass_time(1)
        return ring.executed[0] - executed

    first = [claim() for _ in range(3)]
    assert sum(first) >= SILENT_WINDOWS * SMALL.window
    assert [claim() for _ in range(5)] == [1] * 5

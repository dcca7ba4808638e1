"""Castro & Liskov, TOCS 2002, sections 4.1 and 4.5.2: when a primary is given up, and how long that takes."""

import pytest

from bft.effects import Effect, LinksLost, Requested, ViewChanged
from bft.messages import (
    Certified,
    Commit,
    Decided,
    NewView,
    Prepare,
    PrePrepare,
    Relay,
    SignatureShare,
    Status,
)
from bft.suspicion import (
    DOUBT_SECONDS,
    IDLE_SECONDS,
    LEAST_SECONDS,
    MOST_DOUBLINGS,
    MOST_SECONDS,
    STARTING_SECONDS,
    TICK_SECONDS,
    TIMES_TYPICAL,
    UNCERTIFIED_SECONDS,
    UNREACHABLE_TICKS,
    Reason,
    Suspicion,
)
from bft.types import Epoch, ReplicaId, Sequence
from tests.paper.changes import leave, receive, register, views
from tests.unit.bft.ring import Client, Ring

LEAST = round(LEAST_SECONDS / TICK_SECONDS)


def running() -> Suspicion:
    """Of a replica at which something has run."""
    suspicion = Suspicion()
    suspicion.executed(fresh=True)
    return suspicion


def waits(suspicion: Suspicion, reason: Reason, **over: object) -> int:
    """After how many ticks a replica leaves, for this reason, when only what is given here happens."""
    given = {"waiting": False, "alone": False, "oldest_ticks": 0, "usual_ticks": 0.0, "uncertified": False} | over
    for count in range(1, 10_000):
        found = suspicion.tick(**given)  # type: ignore[arg-type]
        if found is not None:
            assert found is reason
            return count
    pytest.fail("it never leaves")


def left_because(ring: Ring) -> list[str]:
    """Why replicas leave their views from now on, in the order in which they do."""
    whys: list[str] = []
    perform = ring.perform

    def watch(identity: ReplicaId, effects: list[Effect]) -> None:
        whys.extend(effect.why for effect in effects if isinstance(effect, ViewChanged) and not effect.active)
        perform(identity, effects)

    ring.perform = watch  # type: ignore[method-assign]
    return whys


def ask(ring: Ring, client: Client, operation: bytes, to: tuple[int, ...] = (0, 1, 2, 3)) -> None:
    """A client asks all, or some."""
    ring.submit(client.request(operation), to=to)


# --- the timer ------------------------------------------------------------------------------------------------------


def test_a_timer_runs_only_while_something_waits() -> None:
    """4.5.2: a backup's timer runs while it waits for a request to execute; else only the empty batch of an idle ring
    may be overdue (design.md, 5)."""
    assert waits(running(), Reason.SILENT, waiting=True) == LEAST + 1
    assert waits(running(), Reason.IDLE) == LEAST + IDLE_SECONDS / TICK_SECONDS + 1


def test_before_anything_has_run_a_replica_waits_longer() -> None:
    """The processes of a ring do not start at one moment."""
    idle = LEAST + (IDLE_SECONDS + STARTING_SECONDS) / TICK_SECONDS + 1
    assert waits(Suspicion(), Reason.IDLE) == idle
    assert waits(Suspicion(), Reason.SILENT, waiting=True) == LEAST + 1, "but what is asked for is missed at once"


def test_a_timer_starts_again_with_each_batch_that_runs() -> None:
    """4.5.2: it 'restarts it if at that point it is waiting to execute some other request'."""
    suspicion = running()
    for _ in range(50):
        for _ in range(LEAST):
            assert suspicion.tick(True, False, 0, 0.0, False) is None
        suspicion.executed(fresh=True)


def test_who_may_itself_be_cut_off_waits_longer() -> None:
    doubt = DOUBT_SECONDS / TICK_SECONDS
    assert waits(running(), Reason.SILENT, waiting=True, alone=True) == LEAST + doubt + 1


def test_a_request_that_waits_while_others_run_is_starved() -> None:
    suspicion = running()
    for oldest in range(1000):
        suspicion.executed(fresh=True)
        if suspicion.tick(True, False, oldest, 0.0, False) is Reason.STARVES:
            break
    assert oldest == 4 * LEAST + 1


def test_a_long_queue_is_no_starvation() -> None:
    suspicion = running()
    suspicion.executed(fresh=True)
    assert suspicion.tick(True, False, 100, 30.0, False) is None


def test_batches_without_certificates_are_borne_for_a_while() -> None:
    suspicion = running()
    count = 0
    while suspicion.tick(False, False, 0, 0.0, True) is None:
        count += 1
        suspicion.executed(fresh=True)
    assert count == LEAST + UNCERTIFIED_SECONDS / TICK_SECONDS
    suspicion.view_began()
    for _ in range(200):
        assert suspicion.tick(False, False, 0, 0.0, True) is None
        suspicion.executed(fresh=True)
        suspicion.certified()


# --- how long it is -------------------------------------------------------------------------------------------------


def test_patience_doubles_with_each_view_that_brings_nothing_and_is_reset_by_the_first_that_does() -> None:
    """4.5.2: after a view that brought nothing it waits twice as long for the next."""
    suspicion = running()
    for doublings in range(1, 12):
        suspicion.view_left()
        assert suspicion.patience == LEAST << min(doublings, MOST_DOUBLINGS)
    suspicion.executed(fresh=False)
    assert suspicion.patience == LEAST << MOST_DOUBLINGS, "what NEW-VIEW named is no merit of this primary"
    suspicion.executed(fresh=True)
    assert suspicion.patience == LEAST


def test_patience_stretches_with_what_batches_usually_take_up_to_a_bound() -> None:
    suspicion = running()
    for _ in range(200):
        suspicion.took(0.1)
    assert suspicion.patience == pytest.approx(TIMES_TYPICAL * 0.1 / TICK_SECONDS, abs=1)
    for _ in range(200):
        suspicion.took(4.0)
    assert suspicion.patience == MOST_SECONDS / TICK_SECONDS
    for nonsense in (-5.0, 3600.0):
        suspicion.took(nonsense)
    assert suspicion.patience == MOST_SECONDS / TICK_SECONDS


def test_the_clock_for_a_new_view_runs_once_2f_plus_1_wait_for_it() -> None:
    """4.5.2: so that nobody starts the next view change too soon."""
    suspicion = running()
    suspicion.view_left()
    for _ in range(1000):
        assert suspicion.tick_between(joined=False) is None
    count = 1
    while suspicion.tick_between(joined=True) is None:
        count += 1
    assert count == 2 * LEAST + 1


# --- rings ----------------------------------------------------------------------------------------------------------


def test_an_idle_ring_keeps_its_primary() -> None:
    ring = Ring()
    ring.pass_time(60)
    assert views(ring) == [(0, True)] * 4
    assert min(ring.executed) >= 59


def test_a_dead_primary_is_replaced_and_the_request_runs() -> None:
    ring = Ring()
    ring.pass_time(1)
    whys = left_because(ring)
    ring.crash(ReplicaId(0))
    ask(ring, Client(), b"x", to=(1, 2, 3))
    ring.pass_time(1)
    assert views(ring)[1:] == [(1, True)] * 3
    assert [register(ring, i) for i in (1, 2, 3)] == [b"x"] * 3
    assert whys[0] == Reason.SILENT.value
    assert len(ring.answers) == 3
    assert all(answer.certificate is not None for answer in ring.answers)


def test_a_primary_whose_links_broke_is_replaced_at_once() -> None:
    ring = Ring()
    ring.pass_time(1.5)
    whys = left_because(ring)
    ring.crash(ReplicaId(0))
    for identity in (1, 2, 3):
        ring.step(ReplicaId(identity), LinksLost(frozenset({ReplicaId(0)}), ring.now))
    ask(ring, Client(), b"x", to=(1, 2, 3))
    ring.pass_time(0.45)
    assert views(ring)[1:] == [(1, True)] * 3
    assert whys[0] == Reason.UNREACHABLE.value
    assert len(ring.answers) == 3


@pytest.mark.parametrize("lonely", [1, 3])
@pytest.mark.parametrize("every_seconds", [0.2, 1.7, 60.0])
def test_a_link_that_is_broken_for_one_alone_costs_nobody_the_view(lonely: int, every_seconds: float) -> None:
    ring = Ring()
    client = Client()
    ring.pass_time(1.5)
    ring.step(ReplicaId(lonely), LinksLost(frozenset({ReplicaId(0)}), ring.now))
    ring.drops = lambda sender, to, message: (sender, to) == (lonely, 0)
    for i in range(5):
        ask(ring, client, b"%d " % i)
        ring.pass_time(every_seconds)
    assert views(ring) == [(0, True)] * 4


def test_a_link_that_breaks_and_is_there_again_changes_nothing() -> None:
    ring = Ring()
    ring.pass_time(1.5)
    for _ in range(20):
        for identity in (1, 2, 3):
            ring.step(ReplicaId(identity), LinksLost(frozenset({ReplicaId(0)}), ring.now))
        ring.pass_time(0.2)
        for identity in (1, 2, 3):
            ring.step(ReplicaId(identity), LinksLost(frozenset(), ring.now))
        ring.pass_time(0.1)
    assert views(ring) == [(0, True)] * 4


def test_patience_with_broken_links_doubles_too() -> None:
    suspicion = running()
    assert waits(suspicion, Reason.UNREACHABLE, unreachable=True, waiting=True) == UNREACHABLE_TICKS + 1
    suspicion.view_left()
    suspicion.view_began()
    assert waits(suspicion, Reason.UNREACHABLE, unreachable=True, waiting=True) == 2 * UNREACHABLE_TICKS + 1
    lonely = waits(running(), Reason.UNREACHABLE, unreachable=True, uncertified=True, alone=True)
    assert lonely > DOUBT_SECONDS / TICK_SECONDS


def test_a_dead_primary_is_replaced_also_when_nobody_asks_for_anything() -> None:
    ring = Ring()
    whys = left_because(ring)
    ring.crash(ReplicaId(0))
    ring.pass_time(5)
    assert views(ring)[1:] == [(1, True)] * 3
    assert Reason.IDLE.value in whys


@pytest.mark.parametrize("size", [7, 10])
def test_silent_primaries_in_a_row(size: int) -> None:
    """f of them, one after another."""
    ring = Ring(size)
    dead = range(ring.membership.faults)
    for i in dead:
        ring.crash(ReplicaId(i))
    alive = range(len(dead), size)
    ask(ring, Client(), b"x", to=tuple(alive))
    ring.pass_time(8)
    assert {register(ring, i) for i in alive} == {b"x"}
    assert {views(ring)[i] for i in alive} == {(len(dead), True)}


def test_two_silent_primaries_in_a_row_of_whom_one_comes_back() -> None:
    ring = Ring()
    ring.crash(ReplicaId(0))
    ring.drops = lambda sender, to, message: sender == 1 or to == 1
    ask(ring, Client(), b"x", to=(1, 2, 3))
    ring.pass_time(30)
    assert register(ring, 2) == b"", "two are too few"
    ring.deliver_all()
    ring.pass_time(20)
    assert [register(ring, i) for i in (1, 2, 3)] == [b"x"] * 3


def test_a_primary_that_never_begins_its_view_is_passed_over() -> None:
    ring = Ring()
    ring.drops = lambda sender, to, message: sender == 1 and isinstance(message, NewView)
    ring.crash(ReplicaId(0))
    whys = left_because(ring)
    ask(ring, Client(), b"x", to=(1, 2, 3))
    ring.pass_time(8)
    assert Reason.NO_NEW_VIEW.value in whys
    assert [register(ring, i) for i in (2, 3)] == [b"x"] * 2
    assert views(ring)[2] == (2, True)


def test_a_primary_that_begins_its_view_for_one_alone_is_passed_over_or_passed_on() -> None:
    """NEW-VIEW is passed on by whoever has it."""
    ring = Ring()
    ring.crash(ReplicaId(0))
    ring.drops = lambda sender, to, message: sender == 1 and to == 3 and isinstance(message, NewView)
    ask(ring, Client(), b"x", to=(1, 2, 3))
    ring.pass_time(8)
    assert [register(ring, i) for i in (1, 2, 3)] == [b"x"] * 3


def test_a_primary_that_ignores_one_client_is_replaced_and_the_client_is_served() -> None:
    """4.1: backups relay the request; 'if the primary does not multicast the request to the group, it will eventually
    be suspected to be faulty by enough replicas to cause a view change'. Others run all the time."""
    ring = Ring()
    whys = left_because(ring)
    ring.drops = lambda sender, to, message: isinstance(message, Relay) and to == 0
    ask(ring, Client("ignored"), b"ignored ", to=(1, 2, 3))
    favoured = Client("favoured")
    for _ in range(60):
        ask(ring, favoured, b".", to=(0, 1, 2, 3))
        ring.pass_time(0.1)
    assert b"ignored " in register(ring)
    assert Reason.STARVES.value in whys
    assert views(ring) == [(1, True)] * 4, "and the next one, which did nothing wrong, is kept"


def test_a_request_that_only_a_backup_was_asked_for_is_relayed_and_costs_nobody_the_view() -> None:
    for backup in (1, 2, 3):
        ring = Ring()
        ask(ring, Client(), b"x", to=(backup,))
        ring.pass_time(3)
        assert register(ring) == b"x"
        assert views(ring) == [(0, True)] * 4


def test_a_primary_that_keeps_certificates_back_is_replaced() -> None:
    """agreement.md: no certificate for too long is a reason for a view change."""
    ring = Ring()
    ring.drops = lambda sender, to, message: (
        (isinstance(message, Certified) and sender == 0) or (isinstance(message, SignatureShare) and to == 0)
    )
    whys = left_because(ring)
    ask(ring, Client(), b"x")
    ring.pass_time(10)
    assert Reason.UNCERTIFIED.value in whys
    assert views(ring) == [(1, True)] * 4
    assert all(replica.execution.certified is not None for replica in ring.replicas)


def test_a_replica_that_was_cut_off_does_not_upset_the_others() -> None:
    """It may leave its view, alone; f + 1 would have to."""
    ring = Ring()
    client = Client()
    ring.drops = lambda sender, to, message: 3 in (sender, to)
    for i in range(20):
        ask(ring, client, b"%d " % i, to=(0, 1, 2))
        ring.pass_time(0.5)
    ring.deliver_all()
    ring.pass_time(5)
    assert [view for view, _ in views(ring)[:3]] == [0, 0, 0]
    assert register(ring, 3) == register(ring, 0)


def test_who_left_the_view_alone_learns_what_the_others_decide_and_takes_part_again_in_the_next() -> None:
    ring = Ring()
    client = Client()
    leave(ring, 3, 1)
    ring.run()
    for i in range(5):
        ask(ring, client, b"%d " % i)
        ring.pass_time(0.5)
    assert register(ring, 3) == b"0 1 2 3 4 "
    assert views(ring) == [(0, True)] * 3 + [(1, False)]
    ring.crash(ReplicaId(2))
    ask(ring, client, b"all needed", to=(0, 1, 3))
    ring.pass_time(10)
    assert [register(ring, i) for i in (0, 1, 3)] == [b"0 1 2 3 4 all needed"] * 3


def test_a_partition_heals() -> None:
    ring = Ring()
    ring.drops = lambda sender, to, message: (sender < 2) != (to < 2)
    client = Client()
    ask(ring, client, b"x")
    ring.pass_time(60)
    assert {register(ring, i) for i in range(4)} == {b""}
    ring.deliver_all()
    ring.pass_time(30)
    assert {register(ring, i) for i in range(4)} == {b"x"}


def test_a_backup_that_a_lying_primary_parked_gets_what_was_decided() -> None:
    """It voted for what was sent to it alone, and no votes help it: it asks what was decided."""
    ring, other = Ring(), Ring()
    twins = other.catch(PrePrepare)
    other.submit(Client("twin").request(b"twin"))
    receive(ring, 3, 0, twins[0])
    ring.links.clear()
    ring.drops = lambda sender, to, message: (
        (to == 3 and isinstance(message, Prepare | Commit) and message.sequence > 1)
        or (sender == 0 and to == 3 and isinstance(message, PrePrepare | Status))
    )
    ask(ring, Client(), b"x", to=(0,))
    assert ring.executed == [1, 1, 1, 0]
    assert ring.replicas[3].ordering.slots[min(ring.replicas[3].ordering.slots)].voted
    ring.pass_time(3)
    assert register(ring, 3) == b"x"


def test_f_liars_cannot_make_a_replica_run_a_batch() -> None:
    """f + 1 must say that they have executed it."""
    ring, other = Ring(), Ring()
    proposals = other.catch(PrePrepare)
    other.submit(Client("liar").request(b"lie"))
    digest = other.replicas[0].ordering.accepted[proposals[0].sequence][0].digest
    for _ in range(10):
        receive(ring, 1, 3, Decided(Epoch(1), Sequence(1), digest))
    ring.run()
    assert ring.executed[1] == 0
    assert not ring.replicas[1].batches.knows(proposals[0].sequence, digest), "nor fetch it"


def test_requests_wait_through_view_changes_at_whoever_was_asked() -> None:
    ring = Ring()
    ring.crash(ReplicaId(0))
    ring.step(ReplicaId(2), Requested("client", Client().request(b"x"), ring.now))
    ring.pass_time(8)
    assert register(ring, 2) == b"x"

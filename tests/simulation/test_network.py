"""The simulated network: what arrives, when, and how often."""

import pytest
from msgspec.structs import replace

from cluster.faults.manifest import Network as Conditions
from cluster.faults.manifest import Rate
from cluster.sim.kernel import Kernel, NothingLeft
from cluster.sim.network import Network
from cluster.sim.trace import Trace

CALM = Conditions(delay_seconds=0.001, jitter_seconds=0.0005)


def deliver(conditions, count=2000, seed=1, prepare=lambda network: None):
    """What arrives of `count` messages from 0 to 1, one each 0.1 ms: (when, which)."""
    kernel = Kernel(seed)
    network = Network(kernel, conditions, Trace(kernel))
    arrived = []
    network.attach(1, lambda sender, data: arrived.append((kernel.now, int(data))))
    prepare(network)
    for number in range(count):
        kernel.after(number * 0.0001, network.send, 0, 1, b"%d" % number)
    with pytest.raises(NothingLeft):
        kernel.run_until_complete(kernel.create_future())
    kernel.close()
    return arrived, network


def test_a_calm_network_delivers_everything_once_after_its_delay():
    arrived, network = deliver(CALM)
    assert sorted(number for _, number in arrived) == list(range(2000))
    assert all(when - number * 0.0001 >= 0.0005 for when, number in arrived)
    assert (network.counters.sent, network.counters.delivered, network.counters.lost) == (2000, 2000, 0)


def test_jitter_reorders_unless_the_link_keeps_order():
    jittery = replace(CALM, jitter_seconds=0.01)
    numbers = [number for _, number in deliver(jittery)[0]]
    assert numbers != sorted(numbers)
    assert [number for _, number in deliver(replace(jittery, in_order=True))[0]] == sorted(numbers)


def test_loss_and_duplication_come_at_their_rates():
    arrived, network = deliver(replace(CALM, loss=0.3, duplication=0.5))
    counters = network.counters
    assert 0.25 < counters.lost / counters.sent < 0.35
    assert 0.45 < counters.duplicated / (counters.sent - counters.lost) < 0.55
    assert len(arrived) == counters.sent - counters.lost + counters.duplicated


def test_stalls_hold_some_messages_back():
    arrived, _ = deliver(replace(CALM, stalls=Rate(share=0.05, seconds=1.0)))
    late = [when for when, number in arrived if when - number * 0.0001 > 0.1]
    assert 50 < len(late) < 150


def test_a_cut_link_loses_all_until_it_is_mended_and_the_other_way_goes_on():
    arrived, network = deliver(CALM, prepare=lambda network: network.cut(0, 1))
    assert arrived == []
    assert network.counters.lost == 2000
    assert len(deliver(CALM, prepare=lambda network: network.cut(1, 0))[0]) == 2000


def test_a_link_that_was_cut_twice_is_mended_twice():
    def prepare(network):
        network.cut(0, 1)
        network.cut(0, 1)
        network.mend(0, 1)

    assert deliver(CALM, prepare=prepare)[0] == []


def test_a_clogged_link_delivers_all_afterwards():
    arrived, _ = deliver(CALM, count=100, prepare=lambda network: network.clog(0, 1, 1.0))
    assert len(arrived) == 100
    assert all(when > 1.0 for when, _ in arrived)


def test_a_full_queue_loses_what_does_not_fit():
    arrived, network = deliver(replace(CALM, delay_seconds=0.1, queue=5))
    assert network.counters.overflowed == network.counters.lost == 2000 - len(arrived) > 1000


def test_replayed_messages_come_once_more_much_later():
    arrived, network = deliver(replace(CALM, replays=Rate(share=0.1, seconds=5.0)))
    assert len(arrived) == 2000 + network.counters.replayed
    assert 150 < network.counters.replayed < 250
    assert sum(when > 1.0 for when, _ in arrived) > 100


@pytest.mark.parametrize("distribution", ["exponential", "uniform", "heavy-tailed"])
def test_every_distribution_has_about_the_mean_it_was_given(distribution):
    arrived, _ = deliver(replace(CALM, delay_seconds=1e-9, jitter_seconds=0.01, distribution=distribution), 5000)
    mean = sum(when - number * 0.0001 for when, number in arrived) / len(arrived)
    assert 0.008 < mean < 0.012


def test_a_wide_area_has_its_own_delay_for_each_pair_of_sites():
    arrived, _ = deliver(replace(CALM, table_seconds=[[0.0, 3.0], [1.0, 0.0]]), 10)
    assert all(1.5 < when < 4.6 for when, _ in arrived)


def test_healing_ends_every_fault_among_the_healed():
    broken = Conditions(
        delay_seconds=0.001, jitter_seconds=0.01, loss=0.9, duplication=0.9, stalls=Rate(share=0.9, seconds=9)
    )

    def heal(*servers):
        def prepare(network):
            network.cut(0, 1)
            network.heal(frozenset(servers))

        return prepare

    arrived, network = deliver(broken, prepare=heal(0, 1))
    assert len(arrived) == 2000
    assert network.counters.lost == network.counters.duplicated == 0
    assert deliver(broken, prepare=heal(0, 2))[0] == []


def test_the_seed_decides_everything():
    rough = replace(CALM, loss=0.1, duplication=0.1, jitter_seconds=0.01)
    assert deliver(rough, seed=3)[0] == deliver(rough, seed=3)[0] != deliver(rough, seed=4)[0]

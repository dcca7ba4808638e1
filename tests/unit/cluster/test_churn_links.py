"""The network under simulated overlays: places, links, their queues, loss and partitions."""

import random
from itertools import combinations
from statistics import mean

import pytest

from cluster.sim.churn.links import BACKLOG_SECONDS, SECONDS_PER_BYTE, Links, Port
from cluster.sim.churn.loop import Loop
from cluster.sim.churn.population import Population
from cluster.sim.churn.topology import LEAST_ACCESS_SECONDS, Place, latency, random_place

HERE, THERE = Place(0.0, 0.0, 0.01), Place(0.03, 0.04, 0.02)
ACROSS = 0.08
"""Seconds from one to the other."""


class Net:
    """Links that note what is delivered, and when."""

    def __init__(self, loss=0.0):
        self.loop = Loop()
        self.came = []
        self.links = Links(self.loop, random.Random(1), self._deliver, loss)

    def _deliver(self, sender, to, item):
        self.came.append((round(self.loop.now, 9), item))


# --- time --------------------------------------------------------------------------------------------------------


def test_events_come_in_the_order_of_their_times_and_then_of_their_making():
    loop = Loop()
    seen: list[str] = []
    for seconds, name in ((2.0, "c"), (1.0, "a"), (1.0, "b"), (4.0, "d")):
        loop.after(seconds, seen.append, name)
    loop.run(3.0)
    assert (seen, loop.now, loop.steps) == (["a", "b", "c"], 3.0, 3)
    loop.run(4.0)
    assert seen == ["a", "b", "c", "d"]


# --- places ------------------------------------------------------------------------------------------------------


def test_latency_is_the_distance_and_both_access_lines():
    assert latency(HERE, THERE) == latency(THERE, HERE) == pytest.approx(ACROSS)


def test_round_trips_are_those_of_the_internet():
    choices = random.Random(1)
    places = [random_place(choices) for _ in range(300)]
    round_trips = sorted(2 * latency(one, other) for one, other in combinations(places, 2))
    assert 0.150 < mean(round_trips) < 0.170
    assert round_trips[0] > 4 * LEAST_ACCESS_SECONDS
    assert 0.15 < round_trips[len(round_trips) // 2] < 0.17
    assert 0.25 < round_trips[int(len(round_trips) * 0.99)] < 0.4


# --- links -------------------------------------------------------------------------------------------------------


def test_a_packet_is_sent_travels_and_is_taken_in():
    net = Net()
    net.links.send(Port(HERE), Port(THERE), "x", 1250)
    net.loop.run(1.0)
    assert net.came == [(ACROSS + 2 * 0.01, "x")]
    assert net.links.bytes_sent == 1250


def test_packets_of_one_sender_leave_one_after_another():
    net, sender, to = Net(), Port(HERE), Port(THERE)
    for item in "abc":
        net.links.send(sender, to, item, 1250)
    net.loop.run(1.0)
    assert net.came == [(pytest.approx(ACROSS + 0.01 + 0.01 * place), item) for place, item in enumerate("abc", 1)]


def test_packets_of_many_senders_are_taken_in_one_after_another():
    net, to = Net(), Port(THERE)
    for item in "abc":
        net.links.send(Port(HERE), to, item, 1250)
    net.loop.run(1.0)
    assert net.came == [(pytest.approx(ACROSS + 0.01 + 0.01 * place), item) for place, item in enumerate("abc", 1)]


def test_a_link_carries_no_more_than_its_megabit():
    net, to = Net(), Port(THERE)
    for number in range(1000):
        net.loop.after(number * 0.001, net.links.send, Port(HERE), to, number, 250)
    net.loop.run(10.0)
    first, last = net.came[0][0], net.came[-1][0]
    assert len(net.came) <= 1 + (last - first) / (250 * SECONDS_PER_BYTE) + 1e-6
    assert net.links.dropped["queue in"] > 0


@pytest.mark.parametrize(("senders", "where"), [(1, "queue out"), (200, "queue in")])
def test_what_would_wait_too_long_is_dropped(senders, where):
    net, to, ports = Net(), Port(THERE), [Port(HERE) for _ in range(senders)]
    for number in range(200):
        net.links.send(ports[number % senders], to, number, 1250)
    net.loop.run(10.0)
    assert abs(len(net.came) - BACKLOG_SECONDS / 0.01) <= 1
    assert net.links.dropped == {where: 200 - len(net.came)}


def test_loss_takes_its_share():
    net, to = Net(loss=0.3), Port(THERE)
    for number in range(2000):
        net.loop.after(number * 0.01, net.links.send, Port(HERE), to, number, 40)
    net.loop.run(100.0)
    assert 1300 < len(net.came) < 1500
    assert net.links.dropped == {"loss": 2000 - len(net.came)}


def test_a_partition_lets_through_what_stays_on_its_side_and_all_once_it_has_healed():
    net, here, there, beside = Net(), Port(HERE, 0), Port(THERE, 1), Port(HERE, 0)
    net.links.send(here, there, "before", 40)
    net.links.split = True
    net.links.send(here, there, "across", 40)
    net.links.send(here, beside, "beside", 40)
    net.loop.run(1.0)
    net.links.split = False
    net.links.send(there, here, "after", 40)
    net.loop.run(2.0)
    assert [item for _, item in net.came] == ["beside", "before", "after"]
    assert net.links.dropped == {"partition": 1}


# --- who is there ------------------------------------------------------------------------------------------------


def test_a_population_forgets_who_left_and_picks_each_alike():
    population, choices = Population[str](), random.Random(1)
    names = [f"node {number}" for number in range(10)]
    for name in names:
        population.add(name)
    for name in (names[0], names[9], names[4]):
        population.remove(name)
    left = {*names} - {names[0], names[9], names[4]}
    assert {*population} == left
    assert len(population) == 7
    assert {population.pick(choices) for _ in range(200)} == left
    assert {*population.sample(choices, 100)} == left
    assert len({*population.sample(choices, 3)}) == 3

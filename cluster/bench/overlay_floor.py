"""The floor of stretch: ways over tables that hold the nearest of all nodes in each slot, on idle links, no node dying.

The last hop goes to the root wherever it is, and each hop passes two access lines and sends a packet twice: so the ways
of prefix routing are longer than straight ones whatever the tables hold.
"""

import random
from bisect import bisect_left
from collections import defaultdict
from functools import cache

from cluster.sim.churn.links import HEADER_BYTES, SECONDS_PER_BYTE
from cluster.sim.churn.topology import latency, random_place
from tapestry.guid import distance, shared_digits
from tapestry.leaf_set import SIDE
from tapestry.messages import Contact, Find, Forward, Found, encode

LOOKUPS = 2000

_SOMEBODY = Contact(bytes(32), "10.0.0.0:7400")
_PACKET_SECONDS = (
    2 * SECONDS_PER_BYTE * (HEADER_BYTES + len(encode(Forward(1000, bytes(32), _SOMEBODY, 1000, 1, Find()))))
)
_ANSWER_SECONDS = 2 * SECONDS_PER_BYTE * (HEADER_BYTES + len(encode(Found(1000, 1))))


def perfect_stretch(nodes: int, seed: int = 1) -> float:
    """Time on the way to roots by what packets take that go there straight, in a simulated overlay of so many nodes."""
    choices = random.Random(seed)
    places = [random_place(choices) for _ in range(nodes)]
    guids = sorted(choices.randbytes(32) for _ in range(nodes))
    named: defaultdict[str, list[int]] = defaultdict(list)
    for node, guid in enumerate(guids):
        for digits in range(1, 8):
            named[guid.hex()[:digits]].append(node)

    @cache
    def nearest(node: int, prefix: str) -> int | None:
        others = [other for other in named[prefix] if other != node]
        return min(others, key=lambda other: latency(places[node], places[other]), default=None)

    def next_hop(node: int, key: bytes, root: int) -> int:
        apart = abs(node - root)
        if min(apart, nodes - apart) <= SIDE:
            return root
        other = nearest(node, key.hex()[: shared_digits(guids[node], key) + 1])
        return root if other is None else other

    taken = straight = 0.0
    for _ in range(LOOKUPS):
        key, node = choices.randbytes(32), choices.randrange(nodes)
        at = bisect_left(guids, key)
        root = min((at - 1) % nodes, at % nodes, key=lambda each: distance(key, guids[each]))
        if node == root:
            continue
        straight += latency(places[node], places[root])
        taken += _ANSWER_SECONDS
        while node != root:
            onward = next_hop(node, key, root)
            taken += latency(places[node], places[onward]) + _PACKET_SECONDS
            node = onward
    return taken / straight

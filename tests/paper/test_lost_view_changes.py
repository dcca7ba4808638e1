"""Castro & Liskov, TOCS 2002, section 4.5: whatever is lost of a view change, the ring goes on once messages arrive.

The first primary is dead. Of the three who are left all are needed, and any of their VIEW-CHANGEs and NEW-VIEWs may be
lost, however often they are said again, for the first ten seconds: eight links a view (six for VIEW-CHANGE, two for
NEW-VIEW), so 256 patterns. Then the network heals.
"""

import random
from itertools import permutations

import pytest

from bft.effects import Requested
from bft.messages import Message, NewView, ViewChange
from bft.tuning import Tuning
from bft.types import ReplicaId
from tests.paper.changes import leave, register, views
from tests.unit.bft.ring import Client, Ring

ALIVE = (1, 2, 3)
TUNING = Tuning(pool=2)
HEALS_SECONDS = 10

Link = tuple[str, int, int]


def links(view: int) -> list[Link]:
    """All ways that messages of a view's beginning take, as (kind, from, to)."""
    primary = view % 4
    new_views = [("NewView", primary, to) for to in ALIVE if to != primary] if primary in ALIVE else []
    return [*(("ViewChange", sender, to) for sender, to in permutations(ALIVE, 2)), *new_views]


def lost_links(view: int, pattern: int) -> set[Link]:
    """Those that a pattern, a number below 256, names."""
    return {link for bit, link in enumerate(links(view)) if pattern >> bit & 1}


def check_progress(patterns: dict[int, int], prepared: bool) -> None:
    """With these patterns of loss, view by view, a request runs at all three who are left, and runs once; so does one
    that had prepared before."""
    lost = {view: lost_links(view, pattern) for view, pattern in patterns.items()}
    ring = Ring(tuning=TUNING)
    client = Client()
    ring.drops = lambda sender, to, message: type(message).__name__ == "Commit"
    if prepared:
        ring.submit(client.request(b"prepared "))

    def drop(sender: ReplicaId, to: ReplicaId, message: Message) -> bool:
        return isinstance(message, ViewChange | NewView) and (type(message).__name__, sender, to) in lost.get(
            message.view, ()
        )

    ring.crash(ReplicaId(0))
    ring.drops = drop
    request = client.request(b"waits")
    for i in ALIVE:
        ring.step(ReplicaId(i), Requested("client", request, ring.now))
    for i in ALIVE:
        leave(ring, i, 1)
    ring.run()
    wanted = b"prepared waits" if prepared else b"waits"
    for second in range(60):
        if second == HEALS_SECONDS:
            ring.deliver_all()
        ring.pass_time(1)
        if all(register(ring, i) == wanted for i in ALIVE):
            return
    pytest.fail(f"no progress with {patterns}: {views(ring)} {[register(ring, i) for i in ALIVE]}")


@pytest.mark.parametrize("eight", range(32))
def test_every_pattern_of_loss_in_one_view(eight: int) -> None:
    for pattern in range(8 * eight, 8 * eight + 8):
        check_progress({1: pattern}, prepared=bool(pattern % 2))


@pytest.mark.parametrize("seed", range(24))
def test_patterns_of_loss_over_two_and_three_views(seed: int) -> None:
    """All of them are 2^22: a few hundred at random, some light and some heavy."""
    draw = random.Random(seed)
    for _ in range(3):
        heavy = draw.random() < 0.5
        patterns = {
            view: draw.getrandbits(8) | draw.getrandbits(8) if heavy else draw.getrandbits(8) & draw.getrandbits(8)
            for view in range(1, draw.choice((3, 4)))
        }
        check_progress(patterns, prepared=draw.random() < 0.5)


def test_all_lost_in_three_views() -> None:
    check_progress({1: 255, 2: 255, 3: 255}, prepared=True)

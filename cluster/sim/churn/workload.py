"""What happens to the nodes, and what they are asked: churn, a massive failure, a partition, Bamboo's lookups.

(Rhea et al., USENIX 2004, section 4: nodes die and are replaced in Poisson processes, so that the population stays the
same; each node asks for a random key each ten seconds on average, and each key is asked for by ten nodes at once.)
"""

from math import log

from cluster.sim.churn.world import Host, Lookup, World

ASKERS = 10
"""Nodes that ask for one key at once."""

LOOKUP_SECONDS = 10.0
"""Mean time between two lookups of one node."""


class Lookups:
    """Asks, from `begin` on, until the run is over."""

    def __init__(self, world: World) -> None:
        self.all: list[Lookup] = []
        """In the order in which they were asked."""
        self._world = world
        self._choices = world.random("lookups")

    def begin(self) -> None:
        """Ask from now on."""
        self._wait()

    def _wait(self) -> None:
        keys_per_second = max(len(self._world.askers), 1) / (ASKERS * LOOKUP_SECONDS)
        self._world.loop.after(self._choices.expovariate(keys_per_second), self._ask)

    def _ask(self) -> None:
        key = self._choices.randbytes(32)
        for host in self._world.askers.sample(self._choices, ASKERS):
            self.all.append(self._world.ask(host, key))
        self._wait()


class Churn:
    """Nodes live for exponentially distributed times, and each that dies is replaced by a new one at once."""

    def __init__(self, world: World, median_session_seconds: float | None) -> None:
        self._world = world
        self._mean = None if median_session_seconds is None else median_session_seconds / log(2)
        self._choices = world.random("lifetimes")
        self._on = False

    def begin(self) -> None:
        """From now on nodes die; for those that live, that is as if they had just begun to."""
        self._on = True
        for host in self._world.live:
            self._give_lifetime(host)

    def end(self) -> None:
        """No node dies or starts any more."""
        self._on = False

    def _give_lifetime(self, host: Host) -> None:
        if self._mean is not None:
            self._world.loop.after(self._choices.expovariate(1 / self._mean), self._die, host)

    def _die(self, host: Host) -> None:
        if self._on and host.core is not None:
            self._world.crash(host)
            self._give_lifetime(self._world.start())


def populate(world: World, nodes: int, seconds: float) -> None:
    """Start so many nodes, as many times more in each moment as there are already: hundreds that join a handful at once
    are not what overlays meet, and Chord takes minutes to put such a ring in order."""
    for number in range(nodes):
        world.loop.after(seconds * log(1 + number) / log(1 + nodes), world.start)


def kill(world: World, share: float) -> int:
    """Crash this share of the nodes in one instant; none is replaced. Returns how many."""
    doomed = world.live.sample(world.random("massacre"), round(share * len(world.live)))
    for host in doomed:
        world.crash(host)
    return len(doomed)

"""Brings the faults of a manifest about: whom they meet and when is drawn from the seed.

In the first phase every server is exposed to them. Then some are sheltered: nothing new happens to those, and what
had happened is undone. The rest stays as it is, or gets worse.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from bft.recovery import lost_votes
from cluster.faults import manifest as faults
from cluster.faults.manifest import Manifest
from cluster.sim.kernel import Kernel
from cluster.sim.network import Network
from cluster.sim.server import Server
from cluster.sim.trace import Trace

FATES = ("dead", "isolated", "deaf", "exposed")
"""What becomes of a correct server outside the core: it stays down, sees nobody, hears nobody, or goes on as before."""


class Faulty(NamedTuple):
    """Servers that may do anything, at most f: nothing that they claim is checked, and nothing rests on them."""

    liars: dict[int, list[faults.Lie]]
    amnesiac: int | None
    rotten: int | None

    @property
    def servers(self) -> frozenset[int]:
        """All of them."""
        return frozenset(self.liars).union(server for server in (self.amnesiac, self.rotten) if server is not None)


def choose_faulty(manifest: Manifest, kernel: Kernel) -> Faulty:
    """Who is faulty for good."""
    choices = kernel.random("faulty")
    named = {lie.server for lie in manifest.liars}
    free = [server for server in range(manifest.sizes.servers) if server not in named]
    chosen = choices.sample(free, min(manifest.faults, len(free)))
    liars: dict[int, list[faults.Lie]] = {}
    for lie in manifest.liars:
        liars.setdefault(chosen.pop() if lie.server is None else lie.server, []).append(lie)
    room = len(liars) < manifest.faults
    other = chosen.pop() if room else choices.choice(sorted(liars))
    amnesia, flips = manifest.process.amnesia, manifest.disk.flips
    return Faulty(liars, other if amnesia is not None else None, other if flips is not None else None)


class Weather:
    """The faults of one run."""

    def __init__(
        self,
        manifest: Manifest,
        kernel: Kernel,
        network: Network,
        trace: Trace,
        servers: Sequence[Server],
        faulty: Faulty,
    ) -> None:
        self.crashes = 0
        self.split_at: float | None = None
        """When the ring is to be split in two, if ever: known once the first phase has begun."""
        self._manifest = manifest
        self._kernel = kernel
        self._network = network
        self._trace = trace
        self._servers = servers
        self._faulty = faulty
        self._choices = kernel.random("faults")
        self._sheltered: set[int] = set()
        self._dead: set[int] = set()
        """Those that nobody starts again."""

    def begin(self) -> None:
        """The first phase."""
        process, disk, clock, network = (
            self._manifest.process,
            self._manifest.disk,
            self._manifest.clock,
            self._manifest.network,
        )
        self._repeat(process.crashes, self._crash)
        self._repeat(process.pauses, self._pause)
        self._repeat(process.amnesia, self._forget)
        self._repeat(disk.errors, lambda server_away: self._fail_disk("read or write error", server_away))
        self._repeat(disk.full, lambda until_room: self._fail_disk("no room", until_room))
        self._repeat(disk.slow, self._slow_disk)
        self._repeat(disk.flips, self._flip)
        self._repeat(clock.jumps, self._jump)
        self._repeat(clock.freezes, self._freeze)
        self._repeat(network.clogs, self._clog)
        self._repeat(network.partitions, self._part)
        if network.split is not None:
            after = network.split.after_seconds + self._kernel.random("split").random()
            self.split_at = self._kernel.now + after
            self._kernel.after(after, self._split, network.split)
        if process.outage is not None:
            self._later(process.outage.after_seconds, self._fail_power, process.outage)
        if process.rolling is not None:
            self._later(process.rolling.pause_seconds, self._roll, process.rolling, 0)
        if process.slow is not None:
            for server in self._choices.sample(self._servers, min(process.slow.servers, len(self._servers))):
                server.slowness = process.slow.factor

    # --- shelter ---------------------------------------------------------------------------------------------------

    def choose_core(self) -> frozenset[int]:
        """2f + 1 correct servers, or all that are correct, as the manifest says."""
        correct: list[int] = [
            server.identity for server in self._servers if server.identity not in self._faulty.servers
        ]
        if self._manifest.ending.heal == "all":
            return frozenset(correct)
        return frozenset(self._choices.sample(correct, 2 * self._manifest.faults + 1))

    def shelter(self, core: frozenset[int]) -> None:
        """From now on nothing happens to these servers, nor between them and clients."""
        self._sheltered |= core
        self._dead -= core
        self._trace.note("healed", *sorted(core))
        self._network.heal(core)
        for identity in sorted(core):
            server = self._servers[identity]
            server.slowness = server.disk_slowness = 1.0
            server.thaw_clock()
            server.resume()
            self._restart(server)

    def abandon(self, rest: Iterable[int]) -> None:
        """These get no help any more: each is dead, cut off, or goes on to fail or lie."""
        for identity in rest:
            server, fate = self._servers[identity], self._choices.choice(FATES)
            if identity in self._faulty.liars:
                fate = "exposed"
            self._trace.note("fate", identity, fate)
            others = [other.identity for other in self._servers if other is not server]
            match fate:
                case "dead":
                    self._dead.add(identity)
                    if server.up:
                        self._kill(server)
                case "isolated":
                    self._cut([link for other in others for link in ((other, identity), (identity, other))])
                case "deaf":
                    self._cut([(other, identity) for other in others])

    # --- when ------------------------------------------------------------------------------------------------------

    def _later(self, mean_seconds: float, callback: Callable[..., object], *arguments: object) -> None:
        self._kernel.after(self._choices.expovariate(1.0) * mean_seconds, callback, *arguments)

    def _repeat(self, fault: "faults.Spell | faults.Jumps | faults.Flips | None", act: Callable[..., object]) -> None:
        """Whenever it is due, as long as anybody is exposed."""
        if fault is None:
            return

        def again() -> None:
            if len(self._sheltered) == len(self._servers):
                return
            self._later(fault.every_seconds, again)
            act(fault)

        self._later(fault.every_seconds, again)

    def _someone(self, candidates: Iterable[int] | None = None) -> Server | None:
        """A server to which something may happen now."""
        among = range(len(self._servers)) if candidates is None else candidates
        exposed = [server for server in among if server not in self._sheltered and server not in self._dead]
        return self._servers[self._choices.choice(exposed)] if exposed else None

    def _leader(self) -> Server | None:
        """Who leads the newest view that has begun, if it is up and something may happen to it now."""
        replicas = [server.core.replica for server in self._servers if server.up]
        begun = [replica for replica in replicas if replica.views.active]
        newest = max(begun, key=lambda replica: replica.views.view, default=None)
        return self._someone([newest.ordering.primary]) if newest is not None else None

    # --- processes -------------------------------------------------------------------------------------------------

    def _may_fall(self, server: Server | None, at_once: int) -> bool:
        if server is None or not server.up or server.dying:
            return False
        return sum(not other.up or other.dying for other in self._servers) < at_once

    def _crash(self, crashes: faults.Crashes) -> None:
        server = self._leader() if crashes.whom == "leader" else self._someone()
        if self.crashes >= crashes.most or not self._may_fall(server, crashes.at_once or self._manifest.faults):
            return
        assert server is not None
        if self._choices.random() < 0.5:
            self._kill(server)
        else:
            self.crashes += 1
            server.die_within(self._choices.randrange(12))
        self._later(crashes.seconds, self._restart, server)

    def _kill(self, server: Server) -> None:
        self.crashes += 1
        server.die()

    def _restart(self, server: Server) -> None:
        server.spare()
        if not server.up and server.identity not in self._dead:
            server.start()

    def _fail_power(self, outage: faults.Outage) -> None:
        if self._sheltered:
            return
        self._trace.note("power fails")
        for server in self._servers:
            if server.up:
                self._kill(server)
            self._later(outage.seconds, self._restart, server)

    def _roll(self, rolling: faults.Rolling, turn: int) -> None:
        if self._sheltered or turn == len(self._servers):
            return
        server = self._servers[turn]
        if server.up:
            self._kill(server)
            self._later(rolling.seconds, self._restart, server)
        self._later(rolling.seconds + rolling.pause_seconds, self._roll, rolling, turn + 1)

    def _pause(self, spell: faults.Spell) -> None:
        server = self._someone()
        if server is not None and server.up:
            server.pause()
            self._later(spell.seconds, server.resume)

    def _forget(self, spell: faults.Spell) -> None:
        assert self._faulty.amnesiac is not None
        server = self._someone([self._faulty.amnesiac])
        if server is not None and server.up:
            self._kill(server)
            server.disk.wipe()
            server.disk.write(lost_votes())
            server.disk.sync()
            self._trace.note("amnesia", server.identity)
            self._later(spell.seconds, self._restart, server)

    # --- disks -----------------------------------------------------------------------------------------------------

    def _fail_disk(self, how: str, spell: faults.Spell) -> None:
        server = self._someone()
        if self._may_fall(server, self._manifest.faults):
            assert server is not None
            self.crashes += 1
            server.fail_disk(how)
            self._later(spell.seconds, self._restart, server)

    def _slow_disk(self, slow: faults.Slow) -> None:
        server = self._someone()
        if server is not None:
            server.disk_slowness = slow.factor
            self._trace.note("slow disk", server.identity, slow.factor)
            self._later(slow.seconds, self._hasten_disk, server)

    def _hasten_disk(self, server: Server) -> None:
        server.disk_slowness = 1.0

    def _flip(self, flips: faults.Flips) -> None:
        assert self._faulty.rotten is not None
        server = self._someone([self._faulty.rotten])
        if server is not None:
            table = server.disk.flip(self._choices)
            self._trace.note("flip", server.identity, str(table))

    # --- clocks ----------------------------------------------------------------------------------------------------

    def _jump(self, jumps: faults.Jumps) -> None:
        server = self._someone()
        if server is not None:
            most = self._manifest.clock.error_seconds
            server.clock_offset_seconds = self._choices.uniform(-most, most)
            self._trace.note("clock", server.identity, server.clock_offset_seconds)

    def _freeze(self, spell: faults.Spell) -> None:
        server = self._someone()
        if server is not None:
            server.freeze_clock()
            self._trace.note("frozen", server.identity)
            self._later(spell.seconds, server.thaw_clock)

    # --- links -----------------------------------------------------------------------------------------------------

    def _clog(self, spell: faults.Spell) -> None:
        one, other = self._choices.sample(range(len(self._servers)), 2)
        seconds = self._choices.expovariate(1.0) * spell.seconds
        self._network.clog(one, other, seconds)
        self._trace.note("clog", one, other, seconds)

    def _part(self, partitions: faults.Partitions) -> None:
        choices = self._choices
        everyone = range(len(self._servers))
        one, other = choices.sample(everyone, 2)
        match choices.choice(partitions.kinds):
            case "one-way":
                links = [(one, other)]
            case "symmetric":
                links = [(one, other), (other, one)]
            case "isolate":
                links = [(one, peer) for peer in everyone if peer != one]
                if choices.random() < 0.5:
                    links += [(peer, one) for peer in everyone if peer != one]
            case "halves":
                some = set(choices.sample(everyone, choices.randrange(1, len(everyone))))
                links = [(here, there) for here in everyone for there in everyone if (here in some) != (there in some)]
            case "client":
                client = -1 - choices.randrange(self._manifest.sizes.clients)
                links = [(client, one), (one, client)] if choices.random() < 0.5 else [(client, one)]
        # What is healed already carries everything: to cut it would only be said, not done.
        links = [link for link in links if not {end for end in link if end >= 0} <= self._sheltered]
        self._cut(links)
        self._later(partitions.seconds, self._mend, links)

    def _split(self, split: faults.Split) -> None:
        everyone, side = range(len(self._servers)), set(split.servers)
        links = [(here, there) for here in everyone for there in everyone if (here in side) != (there in side)]
        unreached = set() if split.clients is None else set(everyone) - set(split.clients)
        for client in range(-1, -1 - self._manifest.sizes.clients, -1):
            links += [link for server in sorted(unreached) for link in ((client, server), (server, client))]
        self._cut(links)
        self._kernel.after(split.seconds, self._mend, links)

    def _cut(self, links: list[tuple[int, int]]) -> None:
        for sender, to in links:
            self._network.cut(sender, to)
            self._trace.note("cut", sender, to)

    def _mend(self, links: list[tuple[int, int]]) -> None:
        for sender, to in links:
            self._network.mend(sender, to)
            self._trace.note("mend", sender, to)

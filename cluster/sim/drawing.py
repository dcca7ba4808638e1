"""Swarm testing (Groce et al., ISSTA 2012): each seed draws a manifest, some faults on, weak or strong, others off.

A run with all faults at once would hide what one of them does alone, and would rarely get far.
"""

import random
from typing import TypeVar

import msgspec

from cluster.faults import liars_about_state, liars_about_views
from cluster.faults import manifest as faults
from cluster.faults.liars import KINDS
from cluster.faults.manifest import Manifest

T = TypeVar("T")

OPERATIONS = 200

WIDE_AREA_SECONDS = (
    (0.0005, 0.012, 0.035, 0.045),
    (0.012, 0.0005, 0.025, 0.055),
    (0.035, 0.025, 0.0005, 0.040),
    (0.045, 0.055, 0.040, 0.0005),
)
"""One-way delays between four sites: two coasts of a continent, one between them, and one across an ocean."""

PARAMETERS: dict[str, tuple[bool | int | float | str, ...]] = {
    "share": (1.0, 1.0, 0.5, 0.1),
    "every_seconds": (0.01, 0.05, 0.5),
    "at_once": (1, 1, 5),
    "batches": (0, 3, 20),
    "ahead_seconds": (3600.0, -3600.0, 4.5, -4.5, 0.0),
    "frozen": (True, False),
    "to_one": (True, False),
    "from_all": (True, False),
    "besides_quorum": (True, False),
    "prepared": (True, True, False),
    "accepted": (True, True, False),
}
"""What is drawn for a liar, where its kind has something to set."""


def drawn(seed: int, operations: int = OPERATIONS) -> Manifest:
    """The manifest of a seed."""
    draw = _Draw(random.Random(f"{seed} manifest"))
    manifest = draw.manifest(operations)
    split = _Draw(random.Random(f"{seed} split")).split(manifest.sizes.servers)
    if split is not None:
        manifest = msgspec.structs.replace(manifest, network=msgspec.structs.replace(manifest.network, split=split))
    manifest.check()
    return manifest


class _Draw:
    def __init__(self, choices: random.Random) -> None:
        self._choices = choices
        self._one_of = choices.choice
        self._pace = self._one_of((0.02, 0.1, 0.5))
        """How often things happen in this run."""

    def manifest(self, operations: int) -> Manifest:
        sizes = faults.Sizes(
            servers=7 if self._happens(0.08) else 4,
            clients=self._one_of((5, 20, 40, 60, 60)),
            principals=self._one_of((1, 2, 3)),
            objects=self._one_of((1, 2, 4)),
            operations=operations,
            phase_seconds=self._between(0.3, 4.0),
        )
        manifest = Manifest(
            sizes=sizes,
            habits=self._habits(),
            limits=self._limits(),
            network=self._network(),
            disk=self._disk(),
            process=self._process(sizes.servers),
            clock=self._clock(),
            liars=self._liars(sizes.servers),
            ending=faults.Ending(heal=self._one_of(("quorum", "quorum", "all")), converge=self._happens(0.7)),
        )
        return self._with_occasions(manifest)

    # --- how to draw -----------------------------------------------------------------------------------------------

    def _happens(self, share: float) -> bool:
        return self._choices.random() < share

    def _between(self, low: float, high: float) -> float:
        return round(self._choices.uniform(low, high), 6)

    def _now_and_then(self, share: float, value: T) -> T | None:
        return value if self._happens(share) else None

    def _spell(self, share: float, *seconds: float) -> faults.Spell | None:
        return self._now_and_then(share, faults.Spell(every_seconds=self._pace, seconds=self._one_of(seconds)))

    # --- sections --------------------------------------------------------------------------------------------------

    def _habits(self) -> faults.Habits:
        return faults.Habits(
            head_start_seconds=self._one_of((0.0, 1.2, 1.2, 1.2)),
            pause_seconds=self._one_of((0.0, 0.0, 0.0, 0.0, 0.005)),
            reads=self._one_of((0.3, 0.6, 0.8)),
            conditional=self._one_of((0.0, 0.3, 0.8)),
            large=self._one_of((0.0, 0.0, 0.02)),
            together=self._one_of((0.0, 0.0, 0.1, 0.5)),
            replays=self._one_of((0.0, 0.1, 0.5)),
            patience_seconds=self._now_and_then(0.1, self._one_of((0.2, 1.0))),
        )

    def _limits(self) -> faults.Limits:
        """As in production in a third of the runs, else small."""
        if self._happens(0.33):
            return faults.Limits()
        interval = self._one_of((2, 4, 8, 16))
        return faults.Limits(
            interval=interval,
            window=interval * self._one_of((2, 3, 4)),
            retained=self._one_of((16, 512, 512)),
            pipeline=self._one_of((1, 2, 4, 8)),
            pool=self._one_of((4, 16, 64)),
        )

    def _network(self) -> faults.Network:
        wide = self._happens(0.06)
        delay = self._between(0.003, 0.02) if wide else self._between(0.00005, 0.001)
        in_order = self._happens(0.4)
        return faults.Network(
            delay_seconds=delay,
            jitter_seconds=round(delay * (0.05 if in_order else self._one_of((0.05, 0.5, 2.0))), 9),
            distribution=self._one_of(("exponential", "exponential", "uniform", "heavy-tailed")),
            table_seconds=[list(row) for row in WIDE_AREA_SECONDS] if self._happens(0.02) else None,
            in_order=in_order,
            loss=self._one_of((0.0, 0.0, 0.0, 0.01, 0.05, 0.2)),
            duplication=self._one_of((0.0, 0.0, 0.02, 0.1, 0.3)),
            replays=self._now_and_then(
                0.15, faults.Rate(share=self._one_of((0.01, 0.1)), seconds=self._one_of((0.05, 0.5)))
            ),
            stalls=self._now_and_then(
                0.5, faults.Rate(share=self._one_of((0.002, 0.02)), seconds=self._one_of((0.05, 0.3, 1.0)))
            ),
            clogs=self._spell(0.15, 0.05, 0.5),
            queue=self._now_and_then(0.1, self._one_of((4, 32))),
            partitions=self._partitions(),
        )

    def _partitions(self) -> faults.Partitions | None:
        kinds: tuple[faults.PartitionKind, ...] = ("one-way", "symmetric", "isolate", "halves", "client")
        some = tuple(kind for kind in kinds if self._happens(0.6)) or kinds
        seconds = self._one_of((0.01, 0.1, 0.6))
        return self._now_and_then(0.5, faults.Partitions(every_seconds=self._pace, seconds=seconds, kinds=some))

    def split(self, servers: int) -> faults.Split | None:
        """Whether the ring is in two once, and for how long."""
        everyone = range(servers)
        side = tuple(sorted(self._choices.sample(everyone, self._choices.randrange(1, servers))))
        other = tuple(sorted(set(everyone) - set(side)))
        seconds, clients = self._one_of((0.5, 3.0, 10.0)), self._one_of((None, side, other))
        return self._now_and_then(0.02, faults.Split(after_seconds=0.0, seconds=seconds, servers=side, clients=clients))

    def _disk(self) -> faults.Disk:
        slow = faults.Slow(every_seconds=self._pace, seconds=self._one_of((0.05, 0.5)), factor=self._one_of((5, 50)))
        return faults.Disk(
            sync_seconds=self._one_of((0.0001, 0.0005, 0.005)),
            unsynced=self._one_of(("some", "some", "none", "all")),
            slow=self._now_and_then(0.15, slow),
            errors=self._spell(0.1, 0.05, 0.5),
            full=self._spell(0.05, 0.2, 1.0),
            flips=self._now_and_then(0.03, faults.Flips(every_seconds=self._pace)),
        )

    def _process(self, servers: int) -> faults.Process:
        crashes = faults.Crashes(
            every_seconds=self._pace,
            seconds=self._one_of((0.01, 0.1, 0.6)),
            most=self._one_of((1, 3, 10)),
            at_once=self._one_of((None, None, servers)),
            whom=self._one_of(("anyone", "leader")),
        )
        down = self._one_of((0.01, 0.1, 0.6))
        slow = faults.SlowCpu(servers=self._one_of((1, 1, servers)), factor=self._one_of((3.0, 30.0)))
        return faults.Process(
            pickup_seconds=self._one_of((0.00003, 0.0002, 0.0005)),
            crashes=self._now_and_then(0.65, crashes),
            outage=self._now_and_then(0.15, faults.Outage(after_seconds=0.2, seconds=down)),
            pauses=self._spell(0.25, 0.05, 0.5),
            rolling=self._now_and_then(0.08, faults.Rolling(seconds=down, pause_seconds=self._one_of((0.01, 0.2)))),
            amnesia=self._spell(0.04, 0.05, 0.3),
            slow=self._now_and_then(0.1, slow),
        )

    def _clock(self) -> faults.Clock:
        return faults.Clock(
            error_seconds=self._one_of((0.05, faults.MOST_CLOCK_ERROR_SECONDS)),
            jumps=self._now_and_then(0.3, faults.Jumps(every_seconds=0.2)),
            freezes=self._spell(0.1, 0.1, 1.0),
        )

    def _liars(self, servers: int) -> list[faults.Lie]:
        """In a third of the runs up to f servers lie."""
        if not self._happens(0.33):
            return []
        count = self._choices.randint(1, (servers - 1) // 3)
        lying = self._choices.sample(range(servers), count)
        return [self._lie(server, kind) for server in lying for kind in self._ways()]

    def _ways(self) -> list[str]:
        """How a server lies: in one way, or in two that are about the same, so that one may serve the other."""
        first = self._one_of(sorted(KINDS))
        alike = sorted(kind for kind in KINDS if _subject(kind) == _subject(first))
        return [first, self._one_of(alike)] if self._happens(0.33) else [first]

    def _with_occasions(self, manifest: Manifest) -> Manifest:
        """Mostly, who lies about states meets servers that have been away for too long, and who lies about views meets
        primaries that fall: few runs bring either by themselves."""
        about = {_subject(lie.kind) for lie in manifest.liars}
        away = faults.Crashes(every_seconds=0.3, seconds=0.6, most=10)
        if liars_about_state.__name__ in about and self._happens(0.7):
            return msgspec.structs.replace(
                manifest,
                sizes=msgspec.structs.replace(manifest.sizes, clients=5, phase_seconds=4.0),
                habits=msgspec.structs.replace(manifest.habits, head_start_seconds=0.0, pause_seconds=0.05),
                limits=faults.Limits(interval=2, window=4, retained=2, pool=4),
                process=msgspec.structs.replace(manifest.process, crashes=away),
            )
        if liars_about_views.__name__ in about and self._happens(0.7):
            falling = msgspec.structs.replace(away, whom="leader")
            return msgspec.structs.replace(manifest, process=msgspec.structs.replace(manifest.process, crashes=falling))
        return manifest

    def _lie(self, server: int, kind: str) -> faults.Lie:
        known = KINDS[kind].parameters.__struct_fields__
        some = {name: self._one_of(values) for name, values in PARAMETERS.items() if name in known}
        return faults.Lie(kind=kind, server=server, parameters=some)


def _subject(kind: str) -> str:
    """What it lies about: the module that it is in."""
    return KINDS[kind].make.__module__

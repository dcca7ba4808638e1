"""When a replica gives up on a primary (TOCS 2002, sections 4.1 and 4.5.2): the one place of the ring's timeouts.

Time is counted in ticks of the replica's own timer, so that neither a clock that jumps nor a pause of the process makes
a primary look slow: a process that stood still for a minute has missed its ticks too. A replica that is behind others
counts nothing: it waits for itself. Each view that brings nothing doubles the patience with the next.
"""

from enum import Enum
from math import ceil

from bft.types import ReplicaId

TICK_SECONDS = 0.1
"""How often a replica looks whether it is stuck: a few round trips and fsyncs, so that loss costs little."""

IDLE_SECONDS = 1.0
"""An idle ring orders an empty batch this often: the one source of freshness for all objects (design.md, 5)."""

UNCERTIFIED_IDLE_TICKS = 2
"""It does so after this long already while what ran is not certified, as after a start or a view change: nothing of it
can be read before. So a primary that dies between the two is missed soon, though nothing waits to be executed."""

LEAST_SECONDS = 0.4
"""How long anything may take before the primary is suspected, at least: many round trips and fsyncs of any healthy
ring, and no more than a user forgives when a primary dies."""

MOST_SECONDS = 5.0
"""The same at most, however slow things were so far, before back-off: above it a lying primary could hide. So is what a
request may usually wait: a primary that made each wait a little longer would make them wait for ever."""

TIMES_TYPICAL = 20
"""How many times as long as usual a batch may take. It stretches the timeout in wide areas and under heavy load."""

UNREACHABLE_TICKS = 2
"""How long something may wait while the link to the primary is broken, at least: where a process died that is known at
once, and a link that broke for another reason is there again after this time (0.2 s) if both ends live. While nothing
waits it means nothing: who has lost a link alone would leave alone."""

STARVED = 4
"""How many timeouts a single request may wait while others run: an honest queue may be long, but not for ever."""

MOST_DOUBLINGS = 6

UNCERTIFIED_SECONDS = 5.0
"""How long a primary may order batches without a certificate for any: signing with others' help takes a few batches."""


DOUBT_SECONDS = 2.0
"""How much longer a replica waits when it cannot tell that others are no further than itself: it may be the one that is
cut off. After that it leaves all the same: those who know more may be gone."""


STARTING_SECONDS = 2.0
"""How much longer it waits for the first empty batch since the start: the processes of a ring start one by one."""


class Reason(Enum):
    """Why a primary is given up."""

    SILENT = "nothing is executed, though something waits"
    UNREACHABLE = "the link to the primary is broken"
    IDLE = "the empty batch of an idle ring is overdue"
    STARVES = "a request waits, though others run"
    UNCERTIFIED = "no batch is certified"
    NO_NEW_VIEW = "the view does not begin"


class Suspicion:
    """Counts how long this replica has been waiting, and for what."""

    def __init__(self) -> None:
        self.doublings = 0
        self.unreachable: frozenset[ReplicaId] = frozenset()
        """Whom our messages do not reach any longer."""
        self._typical_seconds = 0.0
        self._has_run = False
        self._waiting = 0
        self._idle = 0
        self._uncertified = 0
        self._unreachable = 0
        self._joined = 0

    @property
    def patience(self) -> int:
        """Ticks that anything may take in this view."""
        seconds = min(max(LEAST_SECONDS, TIMES_TYPICAL * self._typical_seconds), MOST_SECONDS)
        return ceil(seconds / TICK_SECONDS) << self.doublings

    def lost(self, primary: ReplicaId) -> bool:
        """Whether the link to the primary broke, and is not there again."""
        return primary in self.unreachable

    def took(self, seconds: float) -> None:
        """A batch took so long from its proposal to its execution here."""
        if 0 <= seconds <= MOST_SECONDS:
            self._typical_seconds += (seconds - self._typical_seconds) / 16

    def executed(self, fresh: bool) -> None:
        """A batch ran; a fresh one, which this view's primary proposed, shows that it does its work."""
        self._has_run = True
        self._waiting = self._idle = self._unreachable = 0
        if fresh:
            self.doublings = 0

    def certified(self) -> None:
        """A certificate came."""
        self._uncertified = 0

    def view_left(self) -> None:
        """A view is given up: have more patience with the next."""
        self.doublings = min(self.doublings + 1, MOST_DOUBLINGS)
        self._waiting = self._idle = self._uncertified = self._unreachable = self._joined = 0

    def view_began(self) -> None:
        """A view begins; what waits begins to wait anew."""
        self._waiting = self._idle = self._uncertified = self._unreachable = self._joined = 0

    @property
    def waited(self) -> int:
        """For how many ticks nothing has been executed."""
        return self._idle

    @property
    def overdue(self) -> bool:
        """Whether not even an empty batch has come when it should have."""
        return self._idle > IDLE_SECONDS / TICK_SECONDS

    def tick(
        self,
        waiting: bool,
        alone: bool,
        oldest_ticks: int,
        usual_ticks: float,
        uncertified: bool,
        unreachable: bool = False,
    ) -> Reason | None:
        """In a view: whether to leave it. `alone` says that others may be further; `oldest_ticks` how long the oldest
        request waits in this view, `usual_ticks` how long those that ran lately did: a long queue is no starvation.
        `unreachable`: the link to the primary broke, and is not there again."""
        self._waiting = self._waiting + 1 if waiting else 0
        self._idle += 1
        self._uncertified = self._uncertified + 1 if uncertified else 0
        self._unreachable = self._unreachable + 1 if unreachable and (waiting or uncertified) else 0
        doubt = DOUBT_SECONDS / TICK_SECONDS if alone else 0
        patience = self.patience + doubt
        if self._unreachable > (UNREACHABLE_TICKS << self.doublings) + doubt:
            return Reason.UNREACHABLE
        if self._waiting > patience:
            return Reason.SILENT
        if not self._has_run:
            patience += STARTING_SECONDS / TICK_SECONDS
        if self._idle > patience + (UNCERTIFIED_IDLE_TICKS if uncertified else IDLE_SECONDS / TICK_SECONDS):
            return Reason.IDLE
        if oldest_ticks > STARVED * (self.patience + min(usual_ticks, MOST_SECONDS / TICK_SECONDS)):
            return Reason.STARVES
        if self._uncertified > self.patience + UNCERTIFIED_SECONDS / TICK_SECONDS:
            return Reason.UNCERTIFIED
        return None

    def tick_between(self, joined: bool) -> Reason | None:
        """Between views: whether to go on to the next. The clock runs once 2f + 1 wait for the view (4.5.2)."""
        self._joined = self._joined + 1 if joined else 0
        return Reason.NO_NEW_VIEW if self._joined > self.patience else None

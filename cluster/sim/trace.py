"""What happened in a run, event by event, and one hash over all of it to compare two runs by.

Events are kept as plain data and put into words only when somebody reads them (`cluster.sim.words`). No event carries a
nonce, a key or a random byte: only what went over the network, and who did what when.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Callable
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

import msgspec

KEPT = 400
"""Events kept for the story of a failure."""

_CHUNK = 512

_encode = msgspec.msgpack.Encoder().encode


class Event(NamedTuple):
    """One thing that happened, and the details that go with its kind: whom it happened to comes first."""

    when: float
    what: str
    details: tuple[Any, ...]


_Plain = tuple[float, str, tuple[Any, ...]]
"""An event while it is only kept: plain tuples are made in a fraction of the time."""

_what = itemgetter(1)

Observe = Callable[[Event], object]


class Clock(Protocol):
    """Whatever has a time."""

    @property
    def now(self) -> float:
        """Seconds."""
        ...


class Trace:
    """Records a run. `observe`, when given, gets each event as it happens."""

    def __init__(self, clock: Clock, observe: Observe | None = None) -> None:
        self.counts: Counter[str] = Counter()
        """How often each kind of event happened."""
        self._clock = clock
        self._observe = observe
        self._last: deque[_Plain] = deque(maxlen=KEPT)
        self._chunk: list[_Plain] = []
        self._hash = hashlib.sha256()

    def note(self, what: str, *details: Any) -> None:
        """Record one event; details are numbers, text and bytes."""
        chunk = self._chunk
        chunk.append((self._clock.now, what, details))
        if len(chunk) >= _CHUNK:
            self._digest_chunk()
        if self._observe is not None:
            self._observe(Event(self._clock.now, what, details))

    def story(self) -> list[Event]:
        """The latest events, the oldest first."""
        return [Event(*event) for event in [*self._last, *self._chunk][-KEPT:]]

    @property
    def digest(self) -> str:
        """Hash of all events so far: equal for two runs exactly when they are the same."""
        self._digest_chunk()
        return self._hash.hexdigest()

    def _digest_chunk(self) -> None:
        self._hash.update(_encode(self._chunk))
        self.counts.update(map(_what, self._chunk))
        self._last.extend(self._chunk)
        self._chunk.clear()

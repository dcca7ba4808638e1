"""What happened in a run, one line per event, and one hash over all of it to compare two runs by.

Events are kept as plain data and put into words only when somebody reads them. No event carries a nonce, a key or a
random byte: only what went over the network, and who did what when.
"""

import hashlib
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

KEPT = 400
"""Events kept for the story of a failure."""

_CHUNK = 512

_encode = msgspec.msgpack.Encoder().encode

Event = tuple[float, str, tuple[Any, ...]]
"""One thing that happened: when, what, and the details that go with this kind of event, whom it happened to first."""

Words = Callable[[str, tuple[Any, ...]], str]


class Clock(Protocol):
    """Whatever has a time."""

    @property
    def now(self) -> float:
        """Seconds."""
        ...


class Trace:
    """Records a run. `show`, when given, gets each line as it happens."""

    def __init__(self, clock: Clock, words: Words, show: Callable[[str], None] | None = None) -> None:
        self.events = 0
        self._clock = clock
        self._words = words
        self._show = show
        self._last: deque[Event] = deque(maxlen=KEPT)
        self._chunk: list[Event] = []
        self._hash = hashlib.sha256()

    def note(self, what: str, *details: Any) -> None:
        """Record one event; details are numbers, text and bytes."""
        event = (self._clock.now, what, details)
        chunk = self._chunk
        chunk.append(event)
        if len(chunk) >= _CHUNK:
            self._digest_chunk()
        if self._show is not None:
            self._show(self.line(event))

    def line(self, event: Event) -> str:
        """An event in words."""
        when, what, details = event
        return f"{when:11.6f}  {self._words(what, details)}"

    def story(self, last: int = KEPT) -> list[str]:
        """The latest events in words, the oldest first."""
        return [self.line(event) for event in [*self._last, *self._chunk][-last:]]

    @property
    def digest(self) -> str:
        """Hash of all events so far: equal for two runs exactly when they are the same."""
        self._digest_chunk()
        return self._hash.hexdigest()

    def _digest_chunk(self) -> None:
        self.events += len(self._chunk)
        self._hash.update(_encode(self._chunk))
        self._last.extend(self._chunk)
        self._chunk.clear()

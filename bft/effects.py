"""What goes into the agreement core and what comes out: events and effects, both plain data.

The order of effects is the durability contract. A shell performs them in order; everything a `Persist` carries, and
everything before it, must be on disk before any effect that follows it is performed. `Store` may reach the disk later,
with whatever follows, but never out of order. A shell performs all effects of one step before it takes the next.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from bft.answer import BatchPath, SessionPath
from bft.certificate import Certificate
from bft.messages import Message, Request
from bft.types import AgreedTime, ReplicaId, Sequence, View

# --- storage -----------------------------------------------------------------------------------------------------


class Write(NamedTuple):
    """Set `key` of `table` to `value`, or remove it when `value` is None."""

    table: str
    key: bytes
    value: bytes | None


class Reader(Protocol):
    """What a core may read of its own disk: all writes of earlier steps are visible."""

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value under a key, or None."""
        ...

    def scan(self, table: str, start: bytes, stop: bytes) -> list[tuple[bytes, bytes]]:
        """Entries with start <= key < stop, in order of their keys."""
        ...

    def size(self, table: str, key: bytes) -> int | None:
        """Length of the value in bytes without reading it, or None."""
        ...


# --- events ------------------------------------------------------------------------------------------------------


class Timer(NamedTuple):
    """A wake-up that a machine asked for. It carries what it was set for, so that a stale one is ignored."""

    kind: str
    view: View
    number: int = 0


class Started(NamedTuple):
    """The first event of a process: its wall clock in microseconds, and 16 random bytes that name this start."""

    now: AgreedTime
    start: bytes


class Received(NamedTuple):
    """A typed message from an authenticated replica."""

    sender: ReplicaId
    message: Message
    now: AgreedTime


class Requested(NamedTuple):
    """A client's request, decoded but not checked. `client` is the shell's handle for where to answer."""

    client: object
    request: Request
    now: AgreedTime


class TimerFired(NamedTuple):
    """A timer that was set has fired."""

    timer: Timer
    now: AgreedTime


class BurstEnded(NamedTuple):
    """Nothing more has arrived for now: the moment to propose what waits, so that batches fill under load only."""

    now: AgreedTime


class LinksLost(NamedTuple):
    """The replicas that our messages reached once and do not reach now, as the links tell. A hint: nothing but time
    rests on it."""

    replicas: frozenset[ReplicaId]
    now: AgreedTime


class RandomBytes(NamedTuple):
    """Answer to NeedRandom. Never in a trace."""

    data: bytes

    def __repr__(self) -> str:
        return f"RandomBytes({len(self.data)} bytes)"


Event = Started | Received | Requested | TimerFired | BurstEnded | LinksLost | RandomBytes

# --- effects -----------------------------------------------------------------------------------------------------


class Persist(NamedTuple):
    """Durable before anything that follows (design.md, 5): a vote that was sent is never forgotten."""

    writes: tuple[Write, ...]


class Store(NamedTuple):
    """Durable in its order, at leisure: what can be computed again from what was persisted."""

    writes: tuple[Write, ...]


class Send(NamedTuple):
    """To one other replica."""

    to: ReplicaId
    message: Message


class Broadcast(NamedTuple):
    """To all other replicas."""

    message: Message


class SetTimer(NamedTuple):
    """Fire `timer` once after `seconds`."""

    timer: Timer
    seconds: float


class NeedRandom(NamedTuple):
    """Give me `size` bytes from the system's random source, as a RandomBytes event."""

    size: int


class Rejected(NamedTuple):
    """A message or request that was dropped, with the reason; to be counted and logged, and answered to a client."""

    sender: object
    reason: str


class Executed(NamedTuple):
    """A batch ran: its sequence number, agreed time and the answers, by digest of their requests."""

    sequence: Sequence
    time: AgreedTime
    answers: Mapping[bytes, bytes]


class NewCertificate(NamedTuple):
    """The ring's signature over the state after `sequence` is known here."""

    sequence: Sequence
    certificate: Certificate


class AnswerClient(NamedTuple):
    """A client's request has its answer; without certificate it is this replica's word alone."""

    client: object
    answer: bytes
    certificate: Certificate | None
    place: BatchPath | SessionPath | None


class Mark(NamedTuple):
    """A point in the life of a batch, for measuring: 'proposed', 'prepared', 'committed', 'executed', 'certified'."""

    sequence: Sequence
    point: str


class ViewChanged(NamedTuple):
    """This replica left for a view (not `active`, and `why`), or the view has begun here; to be logged and counted."""

    view: View
    primary: ReplicaId
    active: bool
    why: str


Effect = (
    Persist
    | Store
    | Send
    | Broadcast
    | SetTimer
    | NeedRandom
    | Rejected
    | Executed
    | NewCertificate
    | AnswerClient
    | Mark
    | ViewChanged
)


class Overlay:
    """Writes of the step under way on top of the disk's: later parts of the step read what earlier ones wrote."""

    def __init__(self, disk: Reader) -> None:
        self._disk = disk
        self._pending: dict[tuple[str, bytes], bytes | None] = {}

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value as this step left it."""
        if self._pending and (table, key) in self._pending:
            return self._pending[table, key]
        return self._disk.get(table, key)

    def size(self, table: str, key: bytes) -> int | None:
        """Length in bytes of the value as this step left it."""
        if self._pending and (table, key) in self._pending:
            value = self._pending[table, key]
            return None if value is None else len(value)
        return self._disk.size(table, key)

    def scan(self, table: str, start: bytes, stop: bytes) -> list[tuple[bytes, bytes]]:
        """Entries with start <= key < stop as this step left them."""
        stored = self._disk.scan(table, start, stop)
        if not self._pending:
            return stored
        found = dict(stored)
        for (where, key), value in self._pending.items():
            if where == table and start <= key < stop:
                if value is None:
                    found.pop(key, None)
                else:
                    found[key] = value
        return sorted(found.items())

    def record(self, writes: tuple[Write, ...]) -> None:
        """Take these writes into account until the step ends."""
        for table, key, value in writes:
            self._pending[table, key] = value

    def step_done(self) -> None:
        """The shell has performed the step's effects: the disk now shows its writes."""
        self._pending.clear()

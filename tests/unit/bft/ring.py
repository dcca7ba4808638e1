"""A ring of replicas in one process for tests of the cores: instant links that a test can cut, a disk that forgets."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

from bft.effects import (
    AnswerClient,
    Broadcast,
    BurstEnded,
    Effect,
    Event,
    NeedRandom,
    Persist,
    RandomBytes,
    Reader,
    Received,
    Rejected,
    Requested,
    Send,
    SetTimer,
    Started,
    Store,
    Timer,
    TimerFired,
    Write,
)
from bft.membership import Membership
from bft.messages import Message, Request, RequestStatement, Span
from bft.replica import Replica
from bft.secret import Secret
from bft.service import Part, Result, ServiceView
from bft.signatures import Ed25519Signer, Ed25519Verifier
from bft.state_tree import Kind, state_key
from bft.threshold import Frost, deal
from bft.tuning import DEFAULT, Tuning
from bft.types import AgreedTime, Epoch, ReplicaId, View

LATER = 1_060_000_000_000
"""A not-after within the day that sessions may live, on the clock of these rings."""

RING_ID = hashlib.sha256(b"a ring for tests").digest()


M = TypeVar("M", bound=Message)


class MemoryDisk:
    """A disk in memory: what was stored but not synced can be dropped."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[bytes, bytes]] = {}
        self._undo: list[tuple[str, bytes, bytes | None]] = []

    def get(self, table: str, key: bytes) -> bytes | None:
        return self.tables.get(table, {}).get(key)

    def size(self, table: str, key: bytes) -> int | None:
        value = self.get(table, key)
        return None if value is None else len(value)

    def scan(self, table: str, start: bytes, stop: bytes) -> list[tuple[bytes, bytes]]:
        return sorted((key, value) for key, value in self.tables.get(table, {}).items() if start <= key < stop)

    def write(self, writes: Iterable[Write]) -> None:
        for table, key, value in writes:
            entries = self.tables.setdefault(table, {})
            self._undo.append((table, key, entries.get(key)))
            if value is None:
                entries.pop(key, None)
            else:
                entries[key] = value

    def sync(self) -> None:
        self._undo.clear()

    def crash(self) -> None:
        """The power goes: what was not synced is gone."""
        for table, key, value in reversed(self._undo):
            if value is None:
                self.tables[table].pop(key, None)
            else:
                self.tables[table][key] = value
        self._undo.clear()


class Register:
    """A service that appends each operation to one value and names the bodies that follow a '#'."""

    KEY = state_key(Kind.OBJECT, b"register")

    def refuses(self, operation: bytes) -> str | None:
        return "a bad operation" if operation.startswith(b"!") else None

    def bodies(self, operation: bytes) -> list[bytes]:
        return [operation[1:33]] if operation.startswith(b"#") else []

    def body_digest(self, body: bytes) -> bytes:
        return hashlib.sha256(body).digest()

    def body_table(self) -> str:
        return "bodies"

    def hold(self, name: bytes, body: bytes, time: int) -> tuple[Write, ...]:
        return (Write("bodies", name, body),)

    def execute(self, operation: bytes, principal: bytes, request: bytes, time: int, view: ServiceView) -> Result:
        value = (view.state(self.KEY) or b"") + operation
        return Result(hashlib.sha256(value).digest(), {self.KEY: value}, ())

    def parts(self, key: bytes, old: bytes | None, new: bytes | None) -> Iterable[Part]:
        return []

    def read(self, span: Span, disk: Reader) -> list[bytes] | None:
        return None


class Client:
    """A principal with one session."""

    def __init__(self, name: str = "client") -> None:
        self.signer = Ed25519Signer(Secret(hashlib.sha256(name.encode()).digest()))
        self.session = hashlib.sha256(b"session" + name.encode()).digest()[:16]
        self.number = 0

    def request(
        self, operation: bytes, bodies: Iterable[bytes] = (), number: int | None = None, not_after: int = LATER
    ) -> Request:
        self.number = number if number is not None else self.number + 1
        stated = RequestStatement(RING_ID, self.signer.public_key, self.session, self.number, not_after, operation)
        data = stated.encode()
        return Request(data, self.signer.sign(data), list(bodies))


class Ring:
    """n replicas with real keys. `run` delivers everything until nothing is under way; timers fire only on request."""

    def __init__(self, size: int = 4, tuning: Tuning = DEFAULT) -> None:
        faults = (size - 1) // 3
        signers = [Ed25519Signer(Secret(hashlib.sha256(b"replica %d" % i).digest())) for i in range(size)]
        material = b"".join(hashlib.sha512(b"dealer %d" % i).digest() for i in range(faults + 1))
        public, shares = deal(Secret(material), size, faults + 1)
        self.membership = Membership(
            RING_ID, Epoch(1), public.group_public_key, tuple(signer.public_key for signer in signers)
        )
        self.now = AgreedTime(1_000_000_000_000)
        self.disks = [MemoryDisk() for _ in range(size)]
        self.links: deque[tuple[ReplicaId, ReplicaId, Message]] = deque()
        self.drops: Callable[[ReplicaId, ReplicaId, Message], bool] = lambda sender, to, message: False
        self.answers: list[AnswerClient] = []
        self.rejected: list[tuple[ReplicaId, Rejected]] = []
        self.timers: list[tuple[ReplicaId, Timer]] = []
        self.down: set[ReplicaId] = set()
        self._public, self._shares, self._signers = public, shares, signers
        self._due: dict[tuple[ReplicaId, Timer], int] = {}
        self._starts = 0
        self._tuning = tuning
        self.replicas = [self._make(ReplicaId(i)) for i in range(size)]
        for replica in self.replicas:
            self.start(replica.identity)
        self.run()

    def _make(self, identity: ReplicaId) -> Replica:
        scheme = Frost(self._shares[identity], self._public)
        return Replica(
            identity,
            self.membership,
            self._signers[identity],
            Ed25519Verifier(),
            scheme,
            Register(),
            self.disks[identity],
            self._tuning,
        )

    def start(self, identity: ReplicaId) -> None:
        self._starts += 1
        self.step(identity, Started(self.now, b"start %10d" % self._starts))

    def crash(self, identity: ReplicaId) -> None:
        self.disks[identity].crash()
        self.down.add(identity)
        self.timers = [(owner, timer) for owner, timer in self.timers if owner != identity]

    def restart(self, identity: ReplicaId) -> None:
        self.down.discard(identity)
        self.replicas[identity] = self._make(identity)
        self.start(identity)

    def step(self, identity: ReplicaId, event: Event) -> list[Effect]:
        if identity in self.down:
            return []
        effects = self.replicas[identity].step(event)
        self.perform(identity, effects)
        return effects

    def perform(self, identity: ReplicaId, effects: list[Effect]) -> None:
        disk = self.disks[identity]
        for effect in effects:
            match effect:
                case Persist(writes):
                    disk.write(writes)
                    disk.sync()
                case Store(writes):
                    disk.write(writes)
                case Send(to, message):
                    self._post(identity, to, message)
                case Broadcast(message):
                    for to in map(ReplicaId, range(self.membership.size)):
                        if to != identity:
                            self._post(identity, to, message)
                case SetTimer(timer, seconds):
                    self.timers.append((identity, timer))
                    self._due[identity, timer] = self.now + round(seconds * 1e6)
                case NeedRandom(size):
                    self._starts += 1
                    self.step(identity, RandomBytes(_stream(b"%d" % self._starts, size)))
                case AnswerClient():
                    self.answers.append(effect)
                case Rejected():
                    self.rejected.append((identity, effect))

    def _post(self, sender: ReplicaId, to: ReplicaId, message: Message) -> None:
        if not self.drops(sender, to, message):
            self.links.append((sender, to, message))

    def run(self) -> None:
        """Deliver all that is under way, in order, with the end of a burst after each message."""
        while self.links:
            sender, to, message = self.links.popleft()
            self.step(to, Received(sender, message, self.now))
            self.step(to, BurstEnded(self.now))

    def catch(self, kind: type[M], keep: Callable[[M], bool] = lambda message: True) -> list[M]:
        """Lose all messages of a kind from now on, and collect them here."""
        caught: list[M] = []

        def drop(sender: ReplicaId, to: ReplicaId, message: Message) -> bool:
            if not isinstance(message, kind) or not keep(message):
                return False
            caught.append(message)
            return True

        self.drops = drop
        return caught

    def deliver_all(self) -> None:
        """Lose nothing from now on."""
        self.drops = lambda sender, to, message: False

    def fire(self, kind: str) -> None:
        """Fire the timers of one kind that are set, once, a while later."""
        self.now = AgreedTime(self.now + 100_000)
        due = [item for item in self.timers if item[1].kind == kind]
        self.timers = [item for item in self.timers if item[1].kind != kind]
        for identity, timer in due:
            self.step(identity, TimerFired(timer, self.now))
        self.run()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, firing every timer when it is due and delivering what is sent."""
        end = self.now + round(seconds * 1e6)
        while self.timers:
            identity, timer = min(self.timers, key=lambda item: self._due[item])
            if self._due[identity, timer] > end:
                break
            self.now = AgreedTime(max(self.now, self._due[identity, timer]))
            self.timers.remove((identity, timer))
            self.step(identity, TimerFired(timer, self.now))
            self.step(identity, BurstEnded(self.now))
            self.run()
        self.now = AgreedTime(end)

    def submit(self, request: Request, to: Iterable[int] = (0,), client: object = "client") -> None:
        for identity in map(ReplicaId, to):
            self.step(identity, Requested(client, request, self.now))
            self.step(identity, BurstEnded(self.now))
        self.run()

    @property
    def executed(self) -> list[int]:
        return [replica.execution.executed for replica in self.replicas]


def _stream(seed: bytes, size: int) -> bytes:
    return b"".join(hashlib.sha512(seed + b"%d" % i).digest() for i in range(-(-size // 64)))[:size]


VIEW = View(0)

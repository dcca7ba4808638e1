"""One replica that fetches a state from others, for tests: links in memory that can lie, a disk that can crash."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from bft import log
from bft.checkpoints import checkpoint_digest
from bft.effects import Effect, Overlay, Persist, Reader, Rejected, Send, Store, Write
from bft.membership import Membership
from bft.messages import FetchParts, FetchState, Message, Parts, Span, StateChunk, StateGone
from bft.service import Accepted, Part, PartError, Result, ServiceView, StateMachine
from bft.serving import Serving
from bft.state_tree import StateTree
from bft.transfer import Installed, Transfer
from bft.types import AgreedTime, Epoch, ReplicaId
from bft.types import Sequence as Number
from tests.unit.bft.ring import MemoryDisk

ME = ReplicaId(0)
TIME = AgreedTime(1_700_000_000_000_000)
ITEMS = "items"

_decode = msgspec.msgpack.Decoder(Message).decode

Lie = Callable[[ReplicaId, Message], Message | None]


def membership(size: int = 4) -> Membership:
    return Membership(b"r" * 32, Epoch(0), b"k" * 32, tuple(b"%032d" % i for i in range(size)))


def named(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def item(label: bytes, *below: bytes) -> bytes:
    """An item that names others."""
    return bytes([len(below)]) + b"".join(below) + label


class _Item:
    def __init__(self, name: bytes) -> None:
        self.span = Span(ITEMS, name)
        self.size_bytes = 100

    def held(self, disk: Reader) -> tuple[Write, ...] | None:
        return () if disk.size(ITEMS, self.span.key) is not None else None

    def accept(self, values: Sequence[bytes]) -> Accepted:
        if named(values[0]) != self.span.key:
            raise PartError("another item")
        value = values[0]
        below = [_Item(value[1 + 32 * i : 33 + 32 * i]) for i in range(value[0])]
        return Accepted(below, (Write(ITEMS, self.span.key, value),))


class Items:
    """A service whose values of 32 bytes name items, which name others."""

    def refuses(self, operation: bytes) -> str | None:
        raise NotImplementedError

    def bodies(self, operation: bytes) -> list[bytes]:
        raise NotImplementedError

    def body_digest(self, body: bytes) -> bytes:
        raise NotImplementedError

    def body_table(self) -> str:
        raise NotImplementedError

    def hold(self, name: bytes, body: bytes, time: int) -> tuple[Write, ...]:
        raise NotImplementedError

    def execute(self, operation: bytes, principal: bytes, request: bytes, time: int, view: ServiceView) -> Result:
        raise NotImplementedError

    def parts(self, key: bytes, old: bytes | None, new: bytes | None) -> Iterable[Part]:
        if new is not None and len(new) == 32:
            yield _Item(new)

    def read(self, span: Span, disk: Reader) -> list[bytes] | None:
        value = disk.get(span.table, span.key) if span.table == ITEMS and span.count == 1 else None
        return None if value is None else [value]


class World:
    """Servers 1 to n - 1 hold states; replica 0 fetches one. Every message is encoded and decoded on its way."""

    def __init__(self, service: StateMachine, disk: MemoryDisk | None = None, size: int = 4) -> None:
        self.service = service
        self.membership = membership(size)
        self.there = disk or MemoryDisk()
        """The disk of the servers, which hold the same."""
        self.serving = {ReplicaId(i): Serving(self.membership, service, Overlay(self.there)) for i in range(1, size)}
        self.here = MemoryDisk()
        self.overlay = Overlay(self.here)
        self.transfer = Transfer(ME, self.membership, service, self.overlay)
        self.tree = StateTree.empty()
        self.links: deque[tuple[ReplicaId, Message]] = deque()
        self.lie: Lie = lambda peer, answer: answer
        self.rejected: list[Rejected] = []
        self.sent: list[Message] = []
        self.delivered = 0
        self.most_open = 0

    @property
    def asked_prefixes(self) -> int:
        """Subtrees that were asked for so far."""
        return sum(len(message.prefixes) for message in self.sent if isinstance(message, FetchState))

    def hold(self, sequence: int, tree: StateTree) -> bytes:
        """All servers reach a checkpoint. Its digest."""
        for serving in self.serving.values():
            serving.keep(Number(sequence), TIME, tree)
        return checkpoint_digest(Number(sequence), TIME, tree.root)

    def begin(self, sequence: int, digest: bytes) -> None:
        self.overlay.step_done()
        self.perform(self.transfer.begin(Number(sequence), digest, self.tree))

    def fetch(self, sequence: int, tree: StateTree) -> Installed:
        """From what is here to a state that all servers hold."""
        self.begin(sequence, self.hold(sequence, tree))
        return self.run()

    def have(self, content: Mapping[bytes, bytes]) -> None:
        """The state here is this one."""
        gone = [Write(log.STATE, key, None) for key in self.here.tables.get(log.STATE, {}) if key not in content]
        self.here.write([*gone, *(Write(log.STATE, key, value) for key, value in content.items())])
        self.tree = tree_of(content)

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(to, message):
                    self.sent.append(message)
                    self.links.append((to, message))
                case Store(writes) | Persist(writes):
                    self.here.write(writes)
                case Rejected():
                    self.rejected.append(effect)
        self.most_open = max(self.most_open, held(self.transfer))

    def deliver(self) -> None:
        """One question to a server, and what comes back."""
        peer, question = self.links.popleft()
        arrived = _wire(question)
        assert isinstance(arrived, FetchState | FetchParts)
        for effect in self.serving[peer].on_fetch(ME, arrived):
            assert isinstance(effect, Send)
            self.answer(peer, effect.message)

    def answer(self, peer: ReplicaId, message: Message) -> None:
        lied = self.lie(peer, message)
        if lied is None:
            return
        self.delivered += 1
        self.overlay.step_done()
        match _wire(lied):
            case StateChunk() as answer:
                self.perform(self.transfer.on_state_chunk(peer, answer))
            case StateGone() as answer:
                self.perform(self.transfer.on_state_gone(peer, answer))
            case Parts() as answer:
                self.perform(self.transfer.on_parts(peer, answer))
            case other:
                raise AssertionError(other)

    def tick(self) -> None:
        self.overlay.step_done()
        self.perform(self.transfer.tick())
        for peer, serving in self.serving.items():
            for effect in serving.tick():
                assert isinstance(effect, Send)
                self.answer(peer, effect.message)

    def run(self, ticks: int = 2000) -> Installed:
        """Deliver everything until the transfer is complete."""
        for _ in range(ticks):
            while self.links:
                self.deliver()
            if self.transfer.done is not None:
                return self.install(self.transfer.done)
            self.tick()
        raise AssertionError(f"not complete after {ticks} ticks: {self.transfer.progress}")

    def install(self, done: Installed) -> Installed:
        self.here.write(done.writes(self.tree))
        self.tree = done.tree
        self.transfer.stop()
        assert not self.transfer.busy
        entries = self.here.scan(log.STATE, b"", b"\xff" * 64)
        assert StateTree.empty().update(dict(entries)).root == done.tree.root
        return done

    def crash(self) -> None:
        """The power goes and comes back: what was not synced is lost, and all that was in memory."""
        self.here.crash()
        self.links.clear()
        self.overlay = Overlay(self.here)
        self.transfer = Transfer(ME, self.membership, self.service, self.overlay)


def held(transfer: Transfer) -> int:
    """How many things a transfer has in memory beside the trees."""
    progress = transfer.progress
    return 0 if progress is None else progress.open


def _wire(message: Message) -> Message:
    decoded: Message = _decode(msgspec.msgpack.encode(message))
    assert decoded == message
    return decoded


def tree_of(content: Mapping[bytes, bytes]) -> StateTree:
    return StateTree.empty().update(content)

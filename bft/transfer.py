"""State transfer: how a replica that is too far behind comes to a checkpoint that others hold (TOCS 2002, 6.2).

The paper's hierarchy of partitions is our state tree: subtrees that differ are fetched from the root down, each checked
against the digest that its parent gave, so any peer will do and a wrong one is found out at once. Then come the parts:
what the new state commits to in the service's tables and this disk lacks (`bft.part_fetch`). They go to the disk as
they come. The state itself is put there last, in one piece, by whoever takes `done`: until then the old one stands.

Not here: what peers answer (`bft.serving`), and when a transfer begins.
"""

from collections.abc import Iterator
from typing import NamedTuple

from bft import log
from bft.checkpoints import checkpoint_digest
from bft.effects import Effect, Overlay, Rejected, Send, Write
from bft.membership import Membership
from bft.messages import MAX_PREFIXES, FetchState, Parts, StateChunk, StateGone
from bft.part_fetch import PartFetch
from bft.peers import Peers
from bft.service import Part, StateMachine
from bft.state_tree import EMPTY, Branch, Chunk, ChunkError, StateTree, open_branch, open_items
from bft.statement import Digest
from bft.types import AgreedTime, Epoch, ReplicaId, Sequence

STALLED_TICKS = 50
"""After so long without anything new (5 s), a newer target is taken, or those who had nothing are asked again."""


class Installed(NamedTuple):
    """A state that is complete: everything it commits to is on the disk or among the effects so far."""

    sequence: Sequence
    time: AgreedTime
    digest: Digest
    tree: StateTree

    def writes(self, current: StateTree) -> tuple[Write, ...]:
        """What turns the disk from the state `current` to this one: to be persisted in one piece."""
        changes = [Write(log.STATE, key, value) for key, _, value in current.differences(self.tree)]
        return (*changes, log.progress(self.sequence, self.time, self.tree.root))


class Progress(NamedTuple):
    """How far a transfer is. `open` counts what is known to be missing, subtrees or parts, and may grow on the way."""

    sequence: Sequence
    phase: str
    """'state' or 'parts'."""
    fetched_bytes: int
    fetched_parts: int
    open: int


class _Target(NamedTuple):
    sequence: Sequence
    digest: Digest


class Transfer:
    """Fetches one state at a time. `begin` starts it; `done` holds it when it is complete."""

    def __init__(self, identity: ReplicaId, membership: Membership, service: StateMachine, disk: Overlay) -> None:
        self.done: Installed | None = None
        """To be taken by the caller, who then calls `stop`."""
        self._membership = membership
        self._service = service
        self._disk = disk
        self._peers = Peers(identity, membership.size)
        self._own = StateTree.empty()
        self._state: _StateFetch | None = None
        self._parts: PartFetch | None = None
        self._newer: _Target | None = None
        self._quiet_ticks = 0

    @property
    def busy(self) -> bool:
        """Whether a transfer is under way, or complete and not taken."""
        return self._state is not None

    @property
    def targets(self) -> list[Sequence]:
        """The checkpoint whose state is fetched, and the newer one that is kept."""
        wanted = (self._state.target if self._state is not None else None, self._newer)
        return [target.sequence for target in wanted if target is not None]

    @property
    def progress(self) -> Progress | None:
        """How far the transfer is that is under way."""
        state, parts = self._state, self._parts
        if state is None:
            return None
        if parts is None:
            return Progress(state.target.sequence, "state", state.fetched_bytes, 0, state.open)
        fetched_bytes = state.fetched_bytes + parts.fetched_bytes
        return Progress(state.target.sequence, "parts", fetched_bytes, parts.fetched_parts, parts.open)

    def begin(self, sequence: Sequence, digest: Digest, tree: StateTree) -> list[Effect]:
        """Fetch the state that has this checkpoint digest after `sequence`, which the caller has seen proved.

        `tree` is the state held now, with everything it commits to; a replica that cannot rely on what it holds gives
        the empty tree. While a transfer is under way a newer target is kept for the case that the older one is gone.
        """
        target = _Target(sequence, digest)
        if self._state is None:
            self._own = tree
            self._quiet_ticks = 0
            self._state = _StateFetch(target, tree, self._membership.epoch, self._peers)
            return self._state.ask()
        if sequence > max(self._state.target.sequence, self._newer.sequence if self._newer is not None else 0):
            self._newer = target
        return self._move_on()

    def stop(self) -> None:
        """Forget the transfer: it was taken, or is not needed any longer. Parts that came stay and are found again."""
        self.done = self._state = self._parts = self._newer = None
        self._own = StateTree.empty()
        self._peers.forget_questions()

    def on_state_chunk(self, sender: ReplicaId, message: StateChunk) -> list[Effect]:
        """Subtrees of a state."""
        state = self._state
        if state is None or state.done or message.sequence != state.target.sequence:
            return []  # an answer that came too late
        before = state.fetched_bytes
        effects = state.on_chunk(sender, message)
        if state.fetched_bytes > before:
            self._quiet_ticks = 0
        return effects + self._go_on()

    def on_state_gone(self, sender: ReplicaId, message: StateGone) -> list[Effect]:
        """A peer does not hold the state."""
        state = self._state
        if state is None or state.done or message.sequence != state.target.sequence:
            return []
        state.on_gone(sender)
        return self._move_on() + self._go_on()

    def on_parts(self, sender: ReplicaId, message: Parts) -> list[Effect]:
        """Entries of the service's tables."""
        if self._parts is None or self.done is not None:
            return []
        return self._parts.on_parts(sender, message) + self._go_on()

    def tick(self) -> list[Effect]:
        """0.1 s have passed."""
        if self._state is None or self.done is not None:
            return []
        for peer in self._peers.tick():
            self._state.give_up(peer)
            if self._parts is not None:
                self._parts.give_up(peer)
        self._quiet_ticks += 1
        return self._move_on() + self._go_on()

    def _move_on(self) -> list[Effect]:
        """Take the newer target when the present one cannot be had. What was fetched is compared like what is held."""
        state = self._state
        if state is None or state.done:
            return []
        stalled = self._quiet_ticks >= STALLED_TICKS
        if not stalled and len(state.gone) < self._membership.weak:
            return []
        if self._newer is not None:
            self._peers.forget_questions()
            self._state = _StateFetch(self._newer, state.tree, self._membership.epoch, self._peers, state.fetched_bytes)
            self._newer = None
            self._quiet_ticks = 0
        elif stalled:
            state.gone.clear()
            self._quiet_ticks = 0
        return []

    def _go_on(self) -> list[Effect]:
        state = self._state
        assert state is not None, "our fault: no transfer is under way"
        if not state.done:
            return state.ask()
        if self._parts is None:
            self._peers.forget_questions()
            self._parts = PartFetch(
                self._membership.epoch, self._peers, self._disk, self._missing(self._own, state.tree)
            )
        effects = self._parts.ask()
        if self._parts.done:
            assert state.head is not None, "our fault: a state without its root"
            self.done = Installed(state.target.sequence, state.head.time, state.target.digest, state.tree)
        return effects

    def _missing(self, own: StateTree, tree: StateTree) -> Iterator[Part]:
        for key, old, new in own.differences(tree):
            yield from self._service.parts(key, old, new)


class _Head(NamedTuple):
    time: AgreedTime
    root: Digest


class _StateFetch:
    """Turns one tree into that of a target, subtree by subtree."""

    def __init__(self, target: _Target, tree: StateTree, epoch: Epoch, peers: Peers, fetched_bytes: int = 0) -> None:
        self.target = target
        self.tree = tree
        """Subtrees that have come are in it already."""
        self.head: _Head | None = None
        """What the target's digest is made of, once somebody has told."""
        self.gone: set[ReplicaId] = set()
        """Peers that do not hold the target."""
        self.fetched_bytes = fetched_bytes
        self._epoch = epoch
        self._peers = peers
        self._wanted: dict[bytes, Digest] = {b"": EMPTY}
        """Prefix and digest of subtrees that differ; that of the root is only known with the head."""
        self._ready = [b""]
        self._asked: dict[ReplicaId, list[bytes]] = {}

    @property
    def done(self) -> bool:
        """Whether the tree is the target's."""
        return not self._wanted

    @property
    def open(self) -> int:
        """Subtrees that are known to differ."""
        return len(self._wanted)

    def ask(self) -> list[Effect]:
        """Questions to peers that are free."""
        free = [peer for peer in self._peers.free() if peer not in self.gone]
        effects: list[Effect] = []
        for place, peer in enumerate(free):
            share = min(MAX_PREFIXES, -(-len(self._ready) // (len(free) - place)))
            prefixes = [prefix for prefix in (self._ready.pop() for _ in range(share)) if prefix in self._wanted]
            if prefixes:
                self._asked[peer] = prefixes
                self._peers.asked(peer)
                effects.append(Send(peer, FetchState(self._epoch, self.target.sequence, prefixes)))
        return effects

    def on_gone(self, peer: ReplicaId) -> None:
        """The peer does not hold the target. It may hold the next one, if it is asked at once."""
        self.gone.add(peer)
        self._peers.freed(peer)
        self.give_up(peer)

    def give_up(self, peer: ReplicaId) -> None:
        """What this peer was asked for and did not send is to be asked of others."""
        self._ready += [prefix for prefix in self._asked.pop(peer, []) if prefix in self._wanted]

    def on_chunk(self, sender: ReplicaId, message: StateChunk) -> list[Effect]:
        """Subtrees from anybody, each checked by itself; one that is not missed any longer is passed over."""
        before = len(self._wanted), self.fetched_bytes
        effects: list[Effect] = []
        changes: dict[bytes, bytes | None] = {}
        try:
            self._check_head(message)
            for prefix, chunk in message.chunks:
                if prefix in self._wanted:
                    changes |= self._take(prefix, chunk)
        except ChunkError as error:
            effects.append(Rejected(sender, f"state: {error}"))
            self._peers.lied(sender)
        else:
            if (len(self._wanted), self.fetched_bytes) != before:
                self._peers.answered(sender)
            elif sender in self._asked:
                self._peers.failed(sender)
        self.tree = self.tree.update(changes)
        self.give_up(sender)
        assert self._wanted or self.head is None or self.tree.root == self.head.root, (
            "our fault: a tree of another root"
        )
        return effects

    def _check_head(self, message: StateChunk) -> None:
        if checkpoint_digest(message.sequence, message.time, message.root) != self.target.digest:
            raise ChunkError("a time and root that are not the checkpoint's")
        if self.head is None:
            self.head = _Head(message.time, message.root)
            if self.tree.root == message.root:
                del self._wanted[b""]
            else:
                self._wanted[b""] = message.root

    def _take(self, prefix: bytes, chunk: Chunk) -> dict[bytes, bytes | None]:
        """What a subtree changes; what differs below its node is wanted from now on. Raises ChunkError."""
        changes: dict[bytes, bytes | None] = {}
        if isinstance(chunk, Branch):
            slots = open_branch(self._wanted[prefix], chunk)
            self.fetched_bytes += len(chunk.digests)
            for slot, digest in enumerate(slots):
                below = prefix + bytes([slot])
                if self.tree.digest_at(below) == digest:
                    continue
                if digest == EMPTY:
                    changes |= dict.fromkeys(key for key, _ in self.tree.items(below))
                else:
                    self._wanted[below] = digest
                    self._ready.append(below)
        else:
            items = open_items(self._wanted[prefix], prefix, chunk)
            self.fetched_bytes += sum(len(key) + len(value) for key, value in items.items())
            changes |= dict.fromkeys(key for key, _ in self.tree.items(prefix) if key not in items)
            changes |= items
        del self._wanted[prefix]
        return changes

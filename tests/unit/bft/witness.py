"""Who watches what replicas say, through all their lives: nobody says two things, or forgets what it voted for."""

from bft.batches import digest_of
from bft.messages import Commit, Message, NewView, Prepare, PrePrepare, ViewChange
from bft.types import ReplicaId
from tests.unit.bft.ring import Ring


class Witness:
    """Sees every message that leaves an honest replica of a ring."""

    def __init__(self, ring: Ring, honest: set[int]) -> None:
        self._ring = ring
        self._honest = honest
        self._said: dict[tuple[int, str, int, int], bytes] = {}
        self._left: dict[int, int] = {}
        self.seen = 0
        post = ring._post

        def watch(sender: ReplicaId, to: ReplicaId, message: Message) -> None:
            if sender in honest:
                self._hear(sender, message)
            post(sender, to, message)

        ring._post = watch  # type: ignore[method-assign]

    def _hear(self, sender: int, message: Message) -> None:
        match message:
            case PrePrepare(_, view, sequence, time, requests) if sender == view % self._ring.membership.size:
                self._vote(sender, "accepted", view, sequence, digest_of(time, requests))
            case Prepare(_, view, sequence, digest):
                self._vote(sender, "accepted", view, sequence, digest)
            case Commit(_, view, sequence, digest):
                self._vote(sender, "prepared", view, sequence, digest)
            case NewView() if sender == message.view % self._ring.membership.size:
                for number, digest in enumerate(message.batches, message.stable + 1):
                    if number > self._ring.replicas[sender].checkpoints.stable:
                        self._vote(sender, "accepted", message.view, number, digest)
            case ViewChange():
                self._leave(sender, message)

    def _vote(self, sender: int, kind: str, view: int, sequence: int, digest: bytes) -> None:
        self.seen += 1
        assert view >= self._left.get(sender, 0), f"{sender} votes in view {view}, which it has left"
        before = self._said.setdefault((sender, kind, view, sequence), digest)
        assert before == digest, f"{sender} {kind} two batches at {sequence} in view {view}"

    def _leave(self, sender: int, message: ViewChange) -> None:
        self.seen += 1
        self._left[sender] = max(self._left.get(sender, 0), message.view)
        prepared: dict[int, int] = {entry.sequence: entry.view for entry in message.prepared}
        accepted: dict[tuple[int, bytes], int] = {(e.sequence, e.digest): e.view for e in message.pre_prepared}
        for (who, kind, view, sequence), digest in self._said.items():
            if who != sender or sequence <= message.stable.sequence or view >= message.view:
                continue
            told = prepared.get(sequence, -1) if kind == "prepared" else accepted.get((sequence, digest), -1)
            assert told >= view, f"{sender} forgot that it {kind} a batch at {sequence} in view {view}"

    def check_states(self) -> None:
        """No two honest replicas ran different batches at a number."""
        ran: dict[int, bytes] = {}
        for identity in self._honest:
            disk = self._ring.disks[identity]
            for key, value in disk.tables.get("log", {}).items():
                if key[8] == 0x12:
                    number = int.from_bytes(key[:8], "big")
                    assert ran.setdefault(number, value[3:35]) == value[3:35], f"two batches ran at {number}"

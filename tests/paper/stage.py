"""Who says what to whom, as text: a ring of which every step is written down, to be read by a person.

    0 syncs           batch 1, accepted 1
    0 > 1 2 3         PRE-PREPARE view 0 number 1: 1 request, signed by 0 and 1
    client < 2        answer: EXECUTED, certified

What a replica does in one step stands together and in its order, which is the durability contract.
"""

from collections.abc import Iterable

from bft.answer import decode
from bft.batches import NULL
from bft.effects import AnswerClient, Broadcast, Effect, Executed, NewCertificate, Persist, Send, ViewChanged, Write
from bft.messages import (
    Accepted,
    Batch,
    Bodies,
    Certified,
    Checkpoint,
    Commit,
    Decided,
    FetchBatches,
    FetchBodies,
    Message,
    NewView,
    Nonces,
    Prepare,
    PrePrepare,
    Relay,
    Request,
    SignatureShare,
    SigningPlan,
    StableCheckpoint,
    Status,
    ViewChange,
)
from bft.tuning import DEFAULT, Tuning
from bft.types import ReplicaId
from tests.unit.bft.ring import Ring

KINDS = {0x10: "accepted", 0x11: "prepared", 0x12: "ran", 0x13: "checkpoint"}


class Stage(Ring):
    """A ring that writes down what happens, but for messages of the kinds in `unsaid`."""

    def __init__(self, tuning: Tuning = DEFAULT, unsaid: tuple[type[Message], ...] = (Nonces, Status)) -> None:
        self.lines: list[str] = []
        self._step = 0
        self.unsaid: tuple[type[Message], ...] = (*unsaid, Nonces)
        super().__init__(tuning=tuning)
        self.unsaid = unsaid
        self.lines.clear()

    def scene(self, words: str) -> None:
        """What the reader is to know of what follows."""
        self.lines += ["", f"# {words}"] if self.lines else [f"# {words}"]

    def ask(self, request: Request, to: tuple[int, ...]) -> None:
        """A client asks."""
        self._step = len(self.lines)
        self._say("client", to, f"request {self._operation(request)}")
        self.submit(request, to)

    def perform(self, identity: ReplicaId, effects: list[Effect]) -> None:
        self._step = len(self.lines)
        for effect in effects:
            match effect:
                case Persist(writes):
                    self.lines.append(f"{identity} syncs           {_written(writes)}")
                case Broadcast(message):
                    self._send(identity, [i for i in range(self.membership.size) if i != identity], message)
                case Send(to, message):
                    self._send(identity, [to], message)
                case Executed(sequence, _, answers):
                    self.lines.append(
                        f"{identity} runs            batch {sequence} with {_count(len(answers), 'request')}"
                    )
                case NewCertificate(sequence, _):
                    self.lines.append(f"{identity} certified       up to {sequence}")
                case AnswerClient(client, answer, certificate, _):
                    proof = "certified" if certificate is not None else "its word alone"
                    self.lines.append(f"{client} < {identity}        answer: {decode(answer).status.name}, {proof}")
                case ViewChanged(view, _, active, why):
                    said = "is active" if active else f"left for: {why}"
                    self.lines.append(f"{identity} view {view}          {said}")
        super().perform(identity, effects)

    def _send(self, sender: ReplicaId, to: list[int], message: Message) -> None:
        if not isinstance(message, self.unsaid):
            lost = [i for i in to if self.drops(sender, ReplicaId(i), message)]
            self._say(str(sender), tuple(i for i in to if i not in lost), say(message))
            self._say(str(sender), tuple(lost), f"{say(message)} (lost)")

    def _say(self, sender: str, to: tuple[int, ...], words: str) -> None:
        if not to:
            return
        line = f"{sender} > {' '.join(map(str, to))}"
        previous = self.lines[-1] if len(self.lines) > self._step else ""
        if previous.startswith(f"{sender} > ") and previous[18:] == words:  # the same to another: one line
            line = f"{previous[:18].rstrip()} {' '.join(map(str, to))}"
            self.lines.pop()
        self.lines.append(f"{line:<18}{words}")

    def _operation(self, request: Request) -> str:
        operation = request.parse().operation
        return "naming a body" if operation.startswith(b"#") else operation.decode()


def say(message: Message) -> str:
    """One message in words."""
    match message:
        case PrePrepare(_, view, sequence, _, requests, plan):
            return f"PRE-PREPARE view {view} number {sequence}: {_count(len(requests), 'request')}, {_signers(plan)}"
        case Prepare(_, view, sequence, _):
            return f"PREPARE view {view} number {sequence}"
        case Commit(_, view, sequence, _):
            return f"COMMIT view {view} number {sequence}"
        case Checkpoint(_, sequence, _, _):
            return f"CHECKPOINT {sequence}"
        case StableCheckpoint(_, sequence, _, proof):
            return f"STABLE-CHECKPOINT {sequence} by {_names(replica for replica, _ in proof)}"
        case Nonces(_, view, _, first, commitments):
            return f"NONCES view {view}: {first} to {first + len(commitments) - 1}"
        case SignatureShare(_, view, sequence, _):
            return f"SIGNATURE-SHARE view {view} number {sequence}"
        case Certified():
            return "CERTIFIED"
        case ViewChange(_, view, _, stable, _, prepared, accepted, _):
            return f"VIEW-CHANGE {view}: from {stable.sequence}, P {_entries(prepared)}, Q {_entries(accepted)}"
        case NewView(_, view, changes, stable, _, named, _):
            what = ["null" if digest == NULL else "batch" for digest in named]
            numbers = ", ".join(f"{number} {it}" for number, it in enumerate(what, stable + 1)) or "nothing"
            return f"NEW-VIEW {view} by {_names(said.replica for said in changes)}: from {stable}, {numbers}"
        case Status() as status:
            asks = "votes" if status.votes else "what was decided"
            active = "" if status.active else ", waits for it"
            large = ", what is large too" if status.contents else ""
            nonces = ", nonces" if status.nonces else ""
            return f"STATUS view {status.view}{active}, ran {status.executed}; asks for {asks}{nonces}{large}"
        case Decided(_, sequence, _):
            return f"DECIDED {sequence}"
        case Relay():
            return "RELAY of a request"
        case FetchBatches(_, batches):
            return f"FETCH-BATCHES {_names(sequence for sequence, _ in batches)}"
        case Batch(_, sequence, _, requests):
            return f"BATCH {sequence}: {_count(len(requests), 'request')}"
        case FetchBodies(_, digests):
            return f"FETCH-BODIES: {_count(len(digests), 'body', 'bodies')}"
        case Bodies(_, bodies):
            return f"BODIES: {_count(len(bodies), 'body', 'bodies')}"
        case _:
            return type(message).__name__


def _written(writes: tuple[Write, ...]) -> str:
    told = []
    for write in writes:
        if write.table == "log":
            kind = KINDS.get(write.key[8], "batch")
            told.append(f"{kind} {int.from_bytes(write.key[:8], 'big')}")
        else:
            told.append(write.key.decode() if write.table == "meta" else write.table)
    return ", ".join(told)


def _entries(entries: list[Accepted]) -> str:
    return " ".join(f"{entry.sequence}@{entry.view}" for entry in entries) or "empty"


def _signers(plan: SigningPlan | None) -> str:
    return f"to be signed by {_names(replica for replica, _, _ in plan.signers)}" if plan else "not to be signed"


def _names(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers))


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"

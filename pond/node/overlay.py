"""The overlay's core in a process: its timers, its clock, bytes in and out, the way in, and questions of clients.

Everything from outside is hostile. Bytes that are no message are dropped; nodes are those that the cluster file lists,
and where each is reached is taken from there: what others say of a node's address is not even read. A core that fails,
which is our fault, is replaced by a new one, which joins again: the ring server beside it does not notice.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from random import Random, SystemRandom
from typing import NamedTuple, Protocol

import msgspec
from prometheus_client import CollectorRegistry

from bft.secret import Secret
from bft.signatures import Ed25519Signer, Ed25519Verifier, Signer, Verifier
from pond.logs import Log
from pond.node.clock import Clock
from pond.node.metrics import OverlayMetrics
from pond.protocol import (
    FindNextHop,
    FindRoot,
    GetNeighbours,
    GetOverlay,
    LocateObject,
    Neighbour,
    NextHopFound,
    ObjectLocated,
    OverlayNeighbours,
    OverlayQuestion,
    OverlayStatus,
    Overloaded,
    Published,
    PublishTest,
    Refused,
    Reply,
    RootFound,
    guid_of_test,
)
from pond.servers import Listed
from pond.transport import OverlayPort, Remote
from tapestry import effects as core
from tapestry.effects import Effect, Event, Joined, LocatedAt, NotFound, Rejected, Resolved, Send, SetTimer
from tapestry.guid import GUID, shared_digits
from tapestry.messages import (
    Acknowledge,
    Contact,
    Copies,
    Forward,
    Join,
    LeafNews,
    Leaving,
    Located,
    Message,
    NextHop,
    Probe,
    Publish,
    Row,
    Welcome,
    decode,
    encode,
)
from tapestry.node import Node

TRY_SECONDS = 0.15
TRY_GROWTH = 1.3
LONGEST_TRY_SECONDS = 4.0
"""Another server is asked to let this node in after so long, and longer each time."""

FIRST_SECONDS = 0.4
NEXT_FIRST_SECONDS = 4.0
"""When no member answers, the first server of the cluster file begins the overlay after FIRST_SECONDS, the next one
after NEXT_FIRST_SECONDS, each further one so much later again."""

SIGN_SECONDS = 10.0
"""A sign of any member makes a node try to join for so long more before it begins an overlay of its own."""

MEET_SECONDS = 15.0
MET = 3
"""So often a member looks at so many others of the cluster file, as it may lack some that have a place with it: the
network was in two, or two nodes began an overlay each."""

AGAIN_SECONDS = 1.0
"""After its core failed, a node begins anew so much later."""

QUESTION_SECONDS = 15.0
"""A client's question that is not answered by then never is; a search through all roots takes 12 s."""

QUESTIONS = 512
"""Of clients under way at once."""

TEST_OBJECTS = 1024
"""That clients may have one server publish."""

VERIFIED = 4096
"""Signatures that are remembered as good."""

LAST_WORDS_SECONDS = 0.2
"""How long a server that stops waits for its farewell to be sent."""

_MEMBERS_ALONE_SAY = (Acknowledge, Welcome, Probe)


class Handle(Protocol):
    """Something that was put off."""

    def cancel(self) -> None:
        """It is not to happen."""


class Later(Protocol):
    """Puts a call off, as the event loop's call_later does."""

    def __call__(self, delay: float, callback: Callable[..., object], /, *args: object) -> Handle:
        """Call it after so many seconds."""
        ...


class Links(Protocol):
    """Ways to other nodes, by GUID."""

    def send(self, to: bytes, data: bytes, /) -> bool:
        """Send, or drop and return False."""
        ...


class NodeKeys:
    """A server's signatures as the overlay's core wants them. The same pointer comes by many ways, so that good
    signatures are remembered."""

    def __init__(self, signer: Signer, verifier: Verifier) -> None:
        self.public_key = signer.public_key
        self.sign = signer.sign
        self._verifier = verifier
        self._good: OrderedDict[bytes, None] = OrderedDict()

    def verify(self, public_key: bytes, data: bytes, signature: bytes) -> bool:
        """Whether that key signed these bytes."""
        if len(public_key) != 32 or len(signature) != 64:
            return False
        name = sha256(public_key + signature + data).digest()
        if name in self._good:
            self._good.move_to_end(name)
            return True
        if not self._verifier.verify(public_key, data, signature):
            return False
        self._good[name] = None
        if len(self._good) > VERIFIED:
            self._good.popitem(last=False)
        return True


class _Asked(NamedTuple):
    """A client's question that the overlay is at work on."""

    question: FindRoot | LocateObject
    answer: Callable[[Reply], None]
    began: float
    overdue: Handle


class Overlay:
    """One node of the overlay, from its start to its end."""

    def __init__(
        self,
        own: Listed,
        servers: Sequence[Listed],
        keys: NodeKeys,
        choices: Random,
        now: Callable[[], float],
        later: Later,
        metrics: OverlayMetrics,
        log: Log,
    ) -> None:
        """`servers` are all of the cluster file, this one too, in its order: the first ones begin an overlay where
        there is none."""
        nodes = [server for server in servers if server.overlay_address is not None]
        self.rank = [server.guid for server in nodes].index(own.guid)
        self._contacts = {server.guid: Contact(server.guid, server.overlay_address or "") for server in nodes}
        self._names = {server.guid: server.name for server in nodes}
        self._others = [self._contacts[server.guid] for server in nodes if server.guid != own.guid]
        self._own = self._contacts[own.guid]
        self._keys = keys
        self._choices = choices
        self._now = now
        self._later = later
        self._metrics = metrics
        self._log = log
        self._links: Links | None = None
        self._timers: set[Handle] = set()
        self._asked: dict[int, _Asked] = {}
        self._tests: dict[GUID, None] = {}
        self._core = self._new_core()
        self._began = now()
        self._join_seconds: float | None = None
        self._first_at = 0.0
        self._tries = 0
        metrics.follow(self)

    @property
    def neighbours(self) -> int:
        """How many nodes this one knows."""
        return len(self._core.neighbours)

    @property
    def pointers(self) -> int:
        """How many it keeps."""
        return len(self._core.location.pointers)

    @property
    def joined(self) -> bool:
        """Whether it is a member."""
        return self._core.member

    @property
    def join_seconds(self) -> float:
        """How long it took to join, or how long it has tried."""
        return self._now() - self._began if self._join_seconds is None else self._join_seconds

    def start(self, links: Links) -> None:
        """Join, over these links."""
        self._links = links
        self._begin()

    def leave(self) -> None:
        """Say farewell; nothing is sent after it."""
        if self._links is not None:
            self._step(core.Leave(self._now()))
        self.close()

    def close(self) -> None:
        """Stop, and answer nobody any more."""
        self._links = None
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        for asked in self._asked.values():
            asked.overdue.cancel()
        self._asked.clear()

    # --- the way in ------------------------------------------------------------------------------------------------

    def _new_core(self) -> Node:
        return Node(self._own, self._choices, keys=self._keys)

    def _begin(self) -> None:
        self._core = self._new_core()
        self._began = self._now()
        self._join_seconds = None
        wait = FIRST_SECONDS if self.rank == 0 else NEXT_FIRST_SECONDS * self.rank
        self._first_at = self._began + (wait if self._others else 0.0)
        self._tries = 0
        self._step(core.Started(tuple(self._candidates()), self._began))
        self._put_off(TRY_SECONDS * self._choices.uniform(0.75, 1.25), self._try_again)
        self._put_off(MEET_SECONDS * self._choices.uniform(0.75, 1.25), self._meet)

    def _candidates(self) -> list[Contact]:
        """Whom to ask next. Each second one is the first of the cluster file, which is where overlays begin; between
        them come others of the ring, which are listed first, and then all."""
        turn, self._tries = self._tries, self._tries + 1
        if not self._others or turn % 2 == 0:
            return self._others[:1]
        return [self._others[(turn + 1) // 2 % len(self._others)]]

    def _try_again(self) -> None:
        if self._core.member:
            return
        now = self._now()
        self._step(core.Meet(() if now >= self._first_at else tuple(self._candidates()), now))
        pause = min(TRY_SECONDS * TRY_GROWTH**self._tries, LONGEST_TRY_SECONDS)
        self._put_off(pause * self._choices.uniform(0.75, 1.25), self._try_again)

    def _meet(self) -> None:
        if self._core.member:
            some = self._choices.sample(self._others, min(MET, len(self._others)))
            self._step(core.Meet(tuple(some), self._now()))
        self._put_off(MEET_SECONDS * self._choices.uniform(0.75, 1.25), self._meet)

    # --- what comes in ---------------------------------------------------------------------------------------------

    def received(self, burst: list[tuple[bytes, bytes]]) -> None:
        """Messages, each with the GUID of the node whose link brought it."""
        for guid, data in burst:
            sender = self._contacts.get(guid)
            if self._links is None or sender is None:
                continue
            try:
                message = decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                self._refused(guid, f"undecodable message: {error}")
                continue
            self._metrics.message(type(message), "in")
            listed = self._listed(message)
            if listed != message:
                self._refused(
                    guid, "unlisted node: a message names one that the cluster file does not have, or elsewhere"
                )
            if listed is None:
                continue
            now = self._now()
            if isinstance(listed, _MEMBERS_ALONE_SAY):
                self._first_at = max(self._first_at, now + SIGN_SECONDS)
            self._step(core.Received(sender, listed, now))

    def _refused(self, sender: bytes, reason: str) -> None:
        self._metrics.refused(reason)
        self._log.warning("refused", sender=self._names.get(sender, sender.hex()), reason=reason)

    def _listed(self, message: Message) -> Message | None:
        """The message with no nodes in it but those of the cluster file, where that says they are. None when it is
        about another one. What a holder signed is left as it is: messages go to its GUID."""
        replace = msgspec.structs.replace
        match message:
            case Forward(origin=origin, cargo=cargo):
                known = self._contacts.get(origin.guid)
                if known is None or (isinstance(cargo, Publish) and cargo.pointer.holder.guid not in self._contacts):
                    return None
                if isinstance(cargo, Join) and cargo.passed:
                    cargo = replace(cargo, passed=self._known(cargo.passed))
                return (
                    message
                    if known == origin and cargo is message.cargo
                    else replace(message, origin=known, cargo=cargo)
                )
            case Welcome(leaves=leaves, passed=passed):
                return replace(message, leaves=self._known(leaves), passed=self._known(passed))
            case LeafNews(contacts=contacts) | Row(contacts=contacts):
                return replace(message, contacts=self._known(contacts)) if contacts else message
            case Leaving(leaves=leaves):
                return replace(message, leaves=self._known(leaves))
            case NextHop(contact=contact) if contact is not None:
                return replace(message, contact=self._contacts.get(contact.guid))
            case Located(pointer=pointer):
                return message if pointer.holder.guid in self._contacts else None
            case Copies(pointers=pointers):
                return replace(
                    message,
                    pointers=tuple(kept for kept in pointers if kept[1].holder.guid in self._contacts),
                )
        return message

    def _known(self, contacts: tuple[Contact, ...]) -> tuple[Contact, ...]:
        return tuple(self._contacts[contact.guid] for contact in contacts if contact.guid in self._contacts)

    # --- what the core wants done ----------------------------------------------------------------------------------

    def _step(self, event: Event) -> None:
        try:
            for effect in self._core.step(event):
                self._perform(effect)
        except Exception as error:
            self._failed(error)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(to, message):
                if self._links is not None:
                    self._metrics.message(type(message), "out")
                    self._links.send(to.guid, encode(message))
            case SetTimer(timer, seconds):
                self._put_off(seconds, self._on_timer, timer)
            case Joined():
                self._join_seconds = self._now() - self._began
                self._log.info("joined", seconds=round(self._join_seconds, 3), tries=self._tries)
                if self._tests:
                    self._put_off(0.0, self._publish_again)
            case Resolved(number, root, hops):
                self._answer(number, lambda asked, ms: RootFound(asked.ask, root.guid, hops, ms))
            case LocatedAt(number, pointer, hops):
                self._answer(number, lambda asked, ms: ObjectLocated(asked.ask, pointer.holder.guid, hops, ms))
            case NotFound(number):
                self._answer(number, lambda asked, ms: ObjectLocated(asked.ask, None, 0, ms))
            case Rejected(sender, reason):
                self._refused(sender.guid, reason)

    def _on_timer(self, timer: core.Timer) -> None:
        self._step(core.TimerFired(timer, self._now()))

    def _put_off(self, seconds: float, callback: Callable[..., object], *args: object) -> None:
        if self._links is None:
            return

        def fire() -> None:
            self._timers.discard(handle)
            callback(*args)

        handle = self._later(seconds, fire)
        self._timers.add(handle)

    def _failed(self, error: Exception) -> None:
        """What the core remembers may be half of something: it begins anew, as after a crash."""
        self._log.error("the overlay's node failed", error)
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._core = self._new_core()
        self._put_off(AGAIN_SECONDS, self._begin)

    def _publish_again(self) -> None:
        self._step(core.Publish(tuple(self._tests), self._now()))

    # --- what clients ask ------------------------------------------------------------------------------------------

    def ask(self, question: OverlayQuestion, answer: Callable[[Reply], None]) -> None:
        """A client's question; `answer` is called at once, later, or never."""
        match question:
            case GetOverlay(ask):
                answer(self._status(ask))
            case GetNeighbours(ask):
                answer(OverlayNeighbours(ask, self._status(ask), self._all_neighbours()))
            case _ if not self._core.member or len(self._asked) >= QUESTIONS:
                answer(Overloaded(question.ask, round(1000 * AGAIN_SECONDS)))
            case PublishTest(ask, label, held):
                answer(self._publish(ask, guid_of_test(label), held))
            case FindNextHop(ask, key):
                following = self._core.routing.next_hop(key)
                answer(NextHopFound(ask, None if following is None else following.guid))
            case FindRoot(_, key):
                self._step(core.Route(key, self._remember(question, answer), self._now()))
            case LocateObject(_, obj, passed_over):
                self._step(core.Locate(obj, self._remember(question, answer), passed_over, self._now()))

    def _remember(self, question: FindRoot | LocateObject, answer: Callable[[Reply], None]) -> int:
        number = self._choices.getrandbits(48)
        overdue = self._later(QUESTION_SECONDS, lambda: self._asked.pop(number, None))
        self._asked[number] = _Asked(question, answer, self._now(), overdue)
        return number

    def _answer(self, number: int, make: Callable[[FindRoot | LocateObject, float], Reply]) -> None:
        asked = self._asked.pop(number, None)
        if asked is not None:
            asked.overdue.cancel()
            asked.answer(make(asked.question, 1000 * (self._now() - asked.began)))

    def _publish(self, ask: int, obj: GUID, held: bool) -> Reply:
        if not held:
            self._tests.pop(obj, None)
            self._step(core.Unpublish((obj,), self._now()))
            return Published(ask, obj)
        if obj not in self._tests and len(self._tests) >= TEST_OBJECTS:
            return Refused(ask, f"this server has published {TEST_OBJECTS} test objects already: withdraw some")
        self._tests[obj] = None
        self._step(core.Publish((obj,), self._now()))
        return Published(ask, obj)

    def _status(self, ask: int) -> OverlayStatus:
        objects = len(self._core.location.held)
        return OverlayStatus(
            ask, self._own.guid, self.joined, 1000 * self.join_seconds, self.neighbours, self.pointers, objects
        )

    def _all_neighbours(self) -> list[Neighbour]:
        known = self._core.neighbours
        return [
            Neighbour(
                one.contact.guid,
                one.contact.guid in known.leaves,
                shared_digits(self._own.guid, one.contact.guid) if one.contact.guid in known.table else None,
                1000 * one.rtt_seconds if one.rtt_seconds else None,
                one.misses > 0,
            )
            for one in known.all
        ]


@contextmanager
def running(
    own: Listed, servers: Sequence[Listed], seed: Secret, registry: CollectorRegistry, log: Log
) -> Iterator[Overlay | None]:
    """This server's node of the overlay, until the end of the block; None when the cluster file gives it no address.

    To be entered inside a running event loop. Raises OSError when its port is taken.
    """
    if own.overlay_address is None:
        yield None
        return
    overlay = Overlay(
        own,
        servers,
        NodeKeys(Ed25519Signer(seed), Ed25519Verifier()),
        SystemRandom(),
        Clock(),
        asyncio.get_running_loop().call_later,
        OverlayMetrics(registry),
        log,
    )
    port = OverlayPort(seed, own.overlay_address, overlay.received)
    try:
        port.set_nodes(
            {one.guid: Remote(one.public_key, one.overlay_address) for one in servers if one.overlay_address}
        )
        overlay.start(port)
        yield overlay
        overlay.leave()
    finally:
        overlay.close()
        port.close(LAST_WORDS_SECONDS)

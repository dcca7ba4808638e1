"""Many nodes of the overlay in one process, on virtual time: the seed decides delays, order, loss and every choice.

Messages pass through their encoding, so what a node sends is what another can read. Nodes crash without a word, come
back with nothing, and are cut off from each other.
"""

import heapq
import math
from collections.abc import Callable, Iterable
from itertools import count
from random import Random

from tapestry.effects import Effect, Event, Leave, Received, Rejected, Resolved, Route, Send, SetTimer, Started, Timer
from tapestry.effects import TimerFired as Fired
from tapestry.messages import Contact, Message, decode, encode
from tapestry.node import Node
from tapestry.upkeep import Recovery
from tests.unit.tapestry import model


class Stage:
    """Nodes, links between them, and the time."""

    def __init__(self, seed: object, loss: float = 0.0, recovery: Recovery = "periodic") -> None:
        self.seed = seed
        self.draw = Random(f"stage {seed}")
        self.loss = loss
        """Share of messages that do not arrive."""
        self.delay_factor = 1.0
        self.now = 0.0
        self.nodes: dict[str, Node] = {}
        """Nodes that are up, by address."""
        self.contacts: dict[str, Contact] = {}
        """All that ever were."""
        self.drops: Callable[[Contact, Contact, Message], bool] = lambda sender, to, message: False
        self.rejected: list[tuple[str, Rejected]] = []
        self.sent = 0
        self.answers: dict[tuple[str, int], Resolved] = {}
        self._recovery: Recovery = recovery
        self._events: list[tuple[float, int, str, Event | Timer, Node | None]] = []
        self._order = count()
        self._numbers = count(1)
        self._sides: dict[str, int] = {}
        self._spots: dict[str, tuple[float, float]] = {}

    # --- nodes -----------------------------------------------------------------------------------------------------

    def add(self, contact: Contact | None = None, through: Iterable[Contact] | None = None) -> Contact:
        """A node starts, and joins through nodes that are up, or those given."""
        if contact is None:
            contact = Contact(self.draw.randbytes(32), f"n{len(self.contacts)}")
        if through is None:
            up = [node.contact for node in self.nodes.values() if node.member]
            through = self.draw.sample(up, min(3, len(up)))
        name = contact.address
        self.contacts[name] = contact
        self._spots.setdefault(name, (self.draw.random(), self.draw.random()))
        self.nodes[name] = self.make(contact, Random(f"{self.seed} {name} {next(self._order)}"))
        self.step(name, Started(tuple(through), self.now))
        return contact

    def make(self, contact: Contact, choices: Random) -> Node:
        """The core of a node that starts."""
        return Node(contact, choices, self._recovery)

    def crash(self, name: str) -> None:
        """The node is gone, without a word; what is under way to it is lost."""
        del self.nodes[name]

    def leave(self, name: str) -> None:
        """The node says that it goes, and goes."""
        self.step(name, Leave(self.now))
        self.crash(name)

    def split(self, *sides: Iterable[str]) -> None:
        """Nothing passes between these sets of nodes."""
        self._sides = {name: at for at, side in enumerate(sides) for name in side}

    def heal(self) -> None:
        """Everything passes again, and nothing is lost."""
        self._sides = {}
        self.loss = 0.0
        self.drops = lambda sender, to, message: False

    # --- time ------------------------------------------------------------------------------------------------------

    def step(self, name: str, event: Event) -> list[Effect]:
        """One event at one node, and its effects."""
        node = self.nodes[name]
        effects = node.step(event)
        for effect in effects:
            match effect:
                case Send(to, message):
                    self._post(node.contact, to, message)
                case SetTimer(timer, seconds):
                    self._at(self.now + seconds, name, timer, node)
                case Resolved(number, _, _):
                    self.answers[name, number] = effect
                case Rejected():
                    self.rejected.append((name, effect))
        return effects

    def _at(self, when: float, name: str, what: Event | Timer, node: Node | None) -> None:
        heapq.heappush(self._events, (when, next(self._order), name, what, node))

    def _post(self, sender: Contact, to: Contact, message: Message) -> None:
        self.sent += 1
        data = encode(message)
        assert decode(data) == message
        if self.drops(sender, to, message) or self.draw.random() < self.loss:
            return
        if self._sides.get(sender.address) != self._sides.get(to.address):
            return
        self._at(self.now + self._delay(sender, to), to.address, Received(sender, decode(data), 0.0), None)

    def _delay(self, sender: Contact, to: Contact) -> float:
        (left, top), (right, bottom) = self._spots[sender.address], self._spots.get(to.address, (0.0, 0.0))
        way = 0.002 + 0.05 * math.hypot(left - right, top - bottom)
        return way * self.draw.uniform(1.0, 1.5) * self.delay_factor

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        while self._events and self._events[0][0] <= until:
            self.now, _, name, what, node = heapq.heappop(self._events)
            up = self.nodes.get(name)
            if up is None or (node is not None and node is not up):
                continue
            if isinstance(what, Received):
                self.step(name, what._replace(now=self.now))
            elif isinstance(what, Timer):
                self.step(name, Fired(what, self.now))
        self.now = until

    def run_until(self, reached: Callable[[], bool], seconds: float) -> None:
        """Let time pass until something holds. Raises AssertionError when it does not in so many seconds."""
        end = self.now + seconds
        while not reached():
            assert self.now < end, self.story(f"not reached in {seconds} s")
            self.run(1.0)

    def grow(self, nodes: int) -> None:
        """So many nodes join, one after another, and find each other."""
        for _ in range(nodes):
            name = self.add().address
            self.run_until(lambda name=name: self.nodes[name].member, 20)  # type: ignore[misc]
        self.run_until(self.settled, 60)

    # --- what is so ------------------------------------------------------------------------------------------------

    @property
    def guids(self) -> list[bytes]:
        """Of the nodes that are up."""
        return [node.contact.guid for node in self.nodes.values()]

    def missing(self, name: str) -> set[bytes]:
        """Nodes that are to be in a leaf set, and are not."""
        neighbours = self.nodes[name].neighbours
        return model.leaves(neighbours.own.guid, self.guids) - {leaf.guid for leaf in neighbours.leaves}

    def wrong(self) -> list[str]:
        """Nodes whose leaf set is not what it is to be, and how."""
        guids, names = self.guids, {contact.guid: name for name, contact in self.contacts.items()}
        found = []
        for name, node in self.nodes.items():
            have, expected = {leaf.guid for leaf in node.neighbours.leaves}, model.leaves(node.contact.guid, guids)
            if have != expected or not node.member:
                lacks, extra = (
                    sorted(names.get(guid, "?") for guid in each) for each in (expected - have, have - expected)
                )
                found.append(f"{name}: lacks {lacks}, has {extra}, member: {node.member}")
        return found

    def settled(self) -> bool:
        """Whether all are members and every leaf set is right."""
        return not self.wrong()

    def story(self, what: str) -> str:
        """What to say when something does not hold."""
        return "\n".join([f"{what}; seed {self.seed!r}, {len(self.nodes)} nodes, at {self.now:.1f} s", *self.wrong()])

    def roots(self, keys: list[bytes], tries: int = 5) -> dict[tuple[str, bytes], bytes]:
        """What each node finds to be the root of each key; a question that brings no answer is asked again."""
        found: dict[tuple[str, bytes], bytes] = {}
        for _ in range(tries):
            asked = {}
            for name in self.nodes:
                for key in keys:
                    if (name, key) not in found:
                        number = next(self._numbers)
                        asked[name, number] = key
                        self.step(name, Route(key, number, self.now))
            if not asked:
                break
            self.run(3.0)
            for (name, number), key in asked.items():
                answer = self.answers.pop((name, number), None)
                if answer is not None:
                    found[name, key] = answer.root.guid
        return found

    def check_roots(self, keys: list[bytes]) -> None:
        """Every node finds the same root of each key: the one nearest to it."""
        guids = self.guids
        truth = {key: model.root(key, guids) for key in keys}
        found = self.roots(keys)
        for name in self.nodes:
            for key in keys:
                assert found.get((name, key)) == truth[key], self.story(f"{name} finds another root of {key.hex()}")

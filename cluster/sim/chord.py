"""Chord (Stoica et al., IEEE/ACM Transactions on Networking 11(1), 2003) as a pure state machine: the baseline.

Here are its join, stabilize, notify, fix_fingers and check_predecessor (section IV.E, figure 6), successor lists
(IV.E.3) and the leave of IV.E.4. Searches are recursive, and their transport is that of the overlay it is compared
with: each hop is acknowledged, timeouts come from measured round trips, and a node that does not answer in time is
routed around at once (Bamboo, USENIX 2004, section 4). The successor itself answers who asked. Fingers are not chosen
by proximity, as they are not in the paper. Keys are not moved: there is no data.
"""

import random
from bisect import bisect_left
from collections.abc import Iterable
from itertools import takewhile
from typing import Any, Literal, NamedTuple

from cluster.sim.chord_messages import (
    Acknowledge,
    Forward,
    Found,
    GetNeighbours,
    Leaving,
    Message,
    Neighbours,
    Notify,
    Ping,
    Pong,
    Timer,
)
from cluster.sim.round_trips import RoundTrips
from tapestry.effects import (
    Effect,
    Event,
    Joined,
    Leave,
    Received,
    Resolved,
    Route,
    Send,
    SetTimer,
    Started,
    TimerFired,
)
from tapestry.guid import clockwise
from tapestry.messages import MAX_HOPS, Contact

SUCCESSORS = 16
"""Length of the successor list: it grows with log2 of the nodes (IV.E.3), of which there are 2**10 to 2**14 here."""

STABILIZE_SECONDS = 5.0
"""Of stabilize and of check_predecessor. The paper's simulations take 30 s (VI), for nodes that live for hours; with a
median of minutes the successor is what a right answer hangs on, and one question and answer cost 200 bytes a second."""

FINGER_SECONDS = 2.0
"""From one finger to the next. Of a thousand nodes, some six to ten of 256 fingers lie beyond the successor list, so
that each is fixed every 20 s or sooner; the paper's simulations fix one in 30 s."""

JOIN_SECONDS = 3.0
"""A join that has not come so far is begun again."""

LAST_SECONDS = 1.0
"""At least so long a node that was late has for its second chance."""

DEAD_SECONDS = 60.0
"""For so long nobody's successor list brings back a node that did not answer twice."""

QUESTION_SECONDS = 60.0
"""After this a search is forgotten."""

BITS = 256


class _Asked(NamedTuple):
    """Something that the other has to answer soon."""

    to: Contact
    when: float
    forward: Forward | None = None
    """Sent to another when the answer does not come."""
    ping: bool = False


class _Question(NamedTuple):
    """What a search is for; `number` is that of `Route`, or of the finger."""

    purpose: Literal["route", "finger", "join"]
    number: int
    when: float


class Node:
    """One node. `choices` decides when its periodic work is due, and through whom it joins."""

    def __init__(self, contact: Contact, choices: random.Random) -> None:
        self.contact = contact
        self.predecessor: Contact | None = None
        self.successors: list[Contact] = []
        """Nearest first; without itself, so that a node that is alone has none."""
        self.fingers: dict[int, Contact] = {}
        """By exponent: the successor of our GUID + 2**exponent, when it was last looked up."""
        self._choices = choices
        self._members: tuple[Contact, ...] = ()
        self._joined = False
        self._round_trips = RoundTrips()
        self._asked: dict[int, _Asked] = {}
        self._late: dict[int, _Asked] = {}
        """Not answered in time. An answer that still comes is a round trip measured, else timeouts would stay short."""
        self._questions: dict[int, _Question] = {}
        self._suspects: set[bytes] = set()
        """Did not answer in time; not routed to until they say something."""
        self._dead: dict[bytes, float] = {}
        """Did not answer twice; until when they stay out."""
        self._finger = BITS
        self._numbers = 0
        self._table: tuple[list[int], list[Contact]] | None = None
        self._now = 0.0
        self._effects: list[Effect] = []

    def step(self, event: Event) -> list[Effect]:
        """What comes of an event."""
        self._now = event.now
        effects: list[Effect] = []
        self._effects = effects
        match event:
            case Received():
                message: Any = event.message
                self._on_message(event.sender, message)
            case TimerFired():
                timer: Any = event.timer
                self._on_timer(timer)
            case Route():
                self._search(event.key, "route", event.number)
            case Started():
                self._on_started(event.members)
            case Leave():
                self._on_leave()
        return effects

    # --- joining and leaving ---------------------------------------------------------------------------------------

    def _on_started(self, members: tuple[Contact, ...]) -> None:
        self._members = members
        if members:
            self._join()
        else:
            self._become_member()

    def _join(self) -> None:
        number = self._next_number()
        self._questions[number] = _Question("join", 0, self._now)
        via = self._choices.choice(self._members)
        forward = Forward(self._next_number(), self.contact.guid, self.contact, number, 0, False)
        self._send(via, forward)
        self._set_timer(Timer("join"), JOIN_SECONDS)

    def _become_member(self) -> None:
        self._joined = True
        self._effects.append(Joined())
        for kind, seconds in (
            ("stabilize", STABILIZE_SECONDS),
            ("predecessor", STABILIZE_SECONDS),
            ("finger", FINGER_SECONDS),
        ):
            self._set_timer(Timer(kind), self._choices.uniform(0.0, seconds))  # type: ignore[arg-type]

    def _on_leave(self) -> None:
        if self.predecessor is not None:
            self._send(self.predecessor, Leaving(tuple(self.successors)))
        if self.successors:
            self._send(self.successors[0], Leaving(()))

    # --- what others say -------------------------------------------------------------------------------------------

    def _on_message(self, sender: Contact, message: Message) -> None:
        if sender.guid in self._suspects:
            self._suspects.discard(sender.guid)
            self._table = None
        self._dead.pop(sender.guid, None)
        match message:
            case Forward():
                self._on_forward(sender, message)
            case Acknowledge():
                self._answered(message.hop)
            case Found():
                self._on_found(sender, message.number, message.hops)
            case GetNeighbours():
                self._send(sender, Neighbours(message.id, self.predecessor, tuple(self.successors)))
            case Neighbours():
                if self._answered(message.id):
                    self._on_neighbours(sender, message)
            case Notify():
                self._on_notify(sender)
            case Ping():
                self._send(sender, Pong(message.id))
            case Pong():
                self._answered(message.id)
            case Leaving():
                self._bury(sender)
                if message.successors and self.successors:
                    self._set_successors([*self.successors, *message.successors])

    def _answered(self, number: int) -> bool:
        asked = self._asked.pop(number, None) or self._late.pop(number, None)
        if asked is None:
            return False
        self._round_trips.add(asked.to.guid, self._now - asked.when)
        return True

    def _on_notify(self, sender: Contact) -> None:
        """Figure 6, `n.notify(n')`."""
        guid = self.contact.guid
        before = self.predecessor
        if before is None or 0 < clockwise(before.guid, sender.guid) < clockwise(before.guid, guid):
            self.predecessor = sender
        if not self.successors:
            self._set_successors([sender])

    def _on_neighbours(self, sender: Contact, message: Neighbours) -> None:
        """Figure 6, `n.stabilize()`, from where the successor has answered."""
        successors = self.successors
        if not successors or successors[0].guid != sender.guid:
            return
        between = message.predecessor
        nearer = between is not None and self._place(between) < self._place(sender) and self._may_be_there(between)
        self._set_successors([*([between] if nearer and between else ()), sender, *message.successors])
        self._send(self.successors[0], Notify())
        if nearer:
            self._ask_neighbours(self.successors[0])
        if not self._joined:
            self._become_member()

    # --- searches --------------------------------------------------------------------------------------------------

    def _search(self, key: bytes, purpose: Literal["route", "finger"], number: int) -> None:
        ours = self._next_number()
        self._questions[ours] = _Question(purpose, number, self._now)
        self._send_on(Forward(0, key, self.contact, ours, 0, False))

    def _on_forward(self, sender: Contact, message: Forward) -> None:
        if not self._joined:
            return
        self._send(sender, Acknowledge(message.hop))
        if message.last:
            self._answer(message)
        else:
            self._send_on(message)

    def _send_on(self, message: Forward) -> None:
        """One hop nearer to the key (figure 5, `n.find_successor(id)`)."""
        key = message.key
        successor = next((each for each in self.successors if each.guid not in self._suspects), None)
        if successor is None or self._is_ours(key):
            self._answer(message)
            return
        if message.hops >= MAX_HOPS:
            return
        distance = clockwise(self.contact.guid, key)
        last = distance <= self._place(successor)
        to = successor if last else self._closest_preceding(distance, successor)
        hop = self._next_number()
        forward = Forward(hop, key, message.origin, message.number, message.hops + 1, last)
        self._ask(hop, forward, _Asked(to, self._now, message))

    def _is_ours(self, key: bytes) -> bool:
        before = self.predecessor
        return key == self.contact.guid or (
            before is not None and 0 < clockwise(before.guid, key) <= clockwise(before.guid, self.contact.guid)
        )

    def _closest_preceding(self, distance: int, successor: Contact) -> Contact:
        """Figure 5, `n.closest_preceding_node(id)`; successor lists take part (IV.E.3)."""
        if self._table is None:
            known = {each.guid: each for each in (*self.fingers.values(), *self.successors)}
            ordered = sorted((self._place(each), guid) for guid, each in known.items() if guid not in self._suspects)
            self._table = [place for place, _ in ordered], [known[guid] for _, guid in ordered]
        places, contacts = self._table
        at = bisect_left(places, distance)
        return contacts[at - 1] if at else successor

    def _answer(self, message: Forward) -> None:
        if message.origin.guid == self.contact.guid:
            self._on_found(self.contact, message.number, message.hops)
        else:
            self._send(message.origin, Found(message.number, message.hops))

    def _on_found(self, root: Contact, number: int, hops: int) -> None:
        question = self._questions.pop(number, None)
        if question is None:
            return
        match question.purpose:
            case "route":
                self._effects.append(Resolved(question.number, root, hops))
            case "finger":
                if root.guid != self.contact.guid and self.fingers.get(question.number) != root:
                    self.fingers[question.number] = root
                    self._table = None
            case "join":
                if not self._joined and root.guid != self.contact.guid:
                    self._set_successors([root])
                    self._ask_neighbours(root)

    # --- periodic work, and answers that do not come ---------------------------------------------------------------

    def _on_timer(self, timer: Timer) -> None:
        match timer.kind:
            case "answer":
                asked = self._asked.pop(timer.number, None)
                if asked is not None:
                    self._late[timer.number] = asked
                    self._on_silence(asked)
            case "stabilize":
                self._stabilize()
                self._again(timer, STABILIZE_SECONDS)
            case "predecessor":
                if self.predecessor is not None:
                    self._ping(self.predecessor)
                self._again(timer, STABILIZE_SECONDS)
            case "finger":
                self._forget()
                self._fix_finger()
                self._again(timer, FINGER_SECONDS)
            case "join":
                if not self._joined:
                    self._join()

    def _stabilize(self) -> None:
        if not self.successors:
            self._find_any_successor()
        successor = next((each for each in self.successors if each.guid not in self._suspects), None)
        if successor is not None:
            if successor != self.successors[0]:
                self._set_successors([each for each in self.successors if each.guid not in self._suspects])
            self._ask_neighbours(successor)

    def _find_any_successor(self) -> None:
        """All of the list died at once: the next that is known, or else the way in that was taken at first."""
        known = [*self.fingers.values(), *([self.predecessor] if self.predecessor else ())]
        self._set_successors(sorted(known, key=self._place)[:1] or self._members)

    def _fix_finger(self) -> None:
        """Figure 6, `n.fix_fingers()`, from the farthest to the nearest that the successor list does not have."""
        if not self.successors:
            return
        self._finger -= 1
        if 1 << self._finger <= self._place(self.successors[-1]):
            for exponent in [each for each in self.fingers if each <= self._finger]:
                del self.fingers[exponent]
                self._table = None
            self._finger = BITS - 1
        start = (int.from_bytes(self.contact.guid, "big") + (1 << self._finger)) % (1 << BITS)
        self._search(start.to_bytes(BITS // 8, "big"), "finger", self._finger)

    def _on_silence(self, asked: _Asked) -> None:
        guid = asked.to.guid
        if guid not in self._suspects:
            self._suspects.add(guid)
            self._table = None
            self._ping(asked.to, max(2 * self._round_trips.timeout(guid), LAST_SECONDS))
        elif asked.ping:
            self._bury(asked.to)
        if asked.forward is not None:
            self._send_on(asked.forward)
        elif not asked.ping:
            self._stabilize()

    def _bury(self, contact: Contact) -> None:
        guid = contact.guid
        self._suspects.discard(guid)
        self._dead[guid] = self._now + DEAD_SECONDS
        self._round_trips.forget(guid)
        self.successors = [each for each in self.successors if each.guid != guid]
        self.fingers = {exponent: each for exponent, each in self.fingers.items() if each.guid != guid}
        if self.predecessor is not None and self.predecessor.guid == guid:
            self.predecessor = None
        self._table = None

    def _forget(self) -> None:
        """What is over; both are in the order in which they came."""
        over = self._now - QUESTION_SECONDS
        for question in list(takewhile(lambda number: self._questions[number].when < over, self._questions)):
            del self._questions[question]
        for late in list(takewhile(lambda number: self._late[number].when < over, self._late)):
            del self._late[late]
        self._dead = {guid: until for guid, until in self._dead.items() if until > self._now}

    # --- small things ----------------------------------------------------------------------------------------------

    def _place(self, contact: Contact) -> int:
        return clockwise(self.contact.guid, contact.guid)

    def _may_be_there(self, contact: Contact) -> bool:
        return (
            contact.guid != self.contact.guid and contact.guid not in self._dead and contact.guid not in self._suspects
        )

    def _set_successors(self, contacts: Iterable[Contact]) -> None:
        """Those of these that come one after another around the ring, up to ourselves."""
        kept: list[Contact] = []
        reached = 0
        for contact in contacts:
            place = self._place(contact)
            if place > reached and contact.guid not in self._dead:
                kept.append(contact)
                reached = place
        self.successors = kept[:SUCCESSORS]
        self._table = None

    def _ask_neighbours(self, to: Contact) -> None:
        number = self._next_number()
        self._ask(number, GetNeighbours(number), _Asked(to, self._now))

    def _ping(self, to: Contact, seconds: float | None = None) -> None:
        number = self._next_number()
        self._ask(number, Ping(number), _Asked(to, self._now, None, True), seconds)

    def _ask(self, number: int, message: Message, asked: _Asked, seconds: float | None = None) -> None:
        self._asked[number] = asked
        self._send(asked.to, message)
        self._set_timer(Timer("answer", number), seconds or self._round_trips.timeout(asked.to.guid))

    def _next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _again(self, timer: Timer, seconds: float) -> None:
        self._set_timer(timer, seconds * self._choices.uniform(0.75, 1.25))

    def _send(self, to: Contact, message: Message) -> None:
        self._effects.append(Send(to, message))  # type: ignore[arg-type]

    def _set_timer(self, timer: Timer, seconds: float) -> None:
        self._effects.append(SetTimer(timer, seconds))  # type: ignore[arg-type]

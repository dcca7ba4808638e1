"""What the simulator has to know of an overlay: how to make a node, how its messages are encoded, who is right."""

import random
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from tapestry.effects import Effect, Event
from tapestry.guid import clockwise, distance
from tapestry.messages import Contact

Name = Literal["tapestry", "chord"]
Recovery = Literal["periodic", "reactive"]


class Core(Protocol):
    """A node of any overlay, as a state machine."""

    def step(self, event: Event) -> list[Effect]:
        """What comes of an event."""
        ...


class Overlay(NamedTuple):
    """One overlay."""

    make: Callable[[Contact, random.Random], Core]
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    root: Callable[[bytes, Sequence[bytes]], bytes]
    """The GUID, of these, to which a key belongs."""


def named(name: Name, recovery: Recovery = "periodic") -> Overlay:
    """The overlay of a name. How it recovers is the choice of Tapestry's alone."""
    return _chord() if name == "chord" else _tapestry(recovery)


def successor(key: bytes, guids: Sequence[bytes]) -> bytes:
    """The first GUID at the key or after it, around the ring: Chord's."""
    return min(guids, key=lambda guid: clockwise(key, guid))


def nearest(key: bytes, guids: Sequence[bytes]) -> bytes:
    """The GUID nearest to the key on the ring, of two that are equally near the one after it: Tapestry's here."""
    return min(guids, key=lambda guid: (distance(key, guid), clockwise(key, guid)))


def _chord() -> Overlay:
    from cluster.sim import chord, chord_messages

    return Overlay(chord.Node, chord_messages.encode, chord_messages.decode, successor)


def _tapestry(recovery: Recovery) -> Overlay:
    from tapestry import messages
    from tapestry.node import Node

    def make(contact: Contact, choices: random.Random) -> Core:
        return Node(contact, choices, recovery)

    return Overlay(make, messages.encode, messages.decode, nearest)

"""What a node of the overlay is told, and what it asks for. Times are seconds since 1970, of a clock that never goes
back."""

from typing import Literal, NamedTuple, TypeAlias

from tapestry.guid import GUID
from tapestry.messages import Contact, Message, Pointer


class Timer(NamedTuple):
    """Names a moment to be woken at; a timer that has become stale names something that is over."""

    kind: Literal[
        "asked",
        "leaves",
        "table",
        "constrained",
        "silent",
        "lost",
        "join",
        "own root",
        "found",
        "publish",
        "republish",
        "pointers",
        "locate",
    ]
    number: int = 0


# --- events ------------------------------------------------------------------------------------------------------


class Started(NamedTuple):
    """The node begins: it joins through one of these, or is the first where there are none."""

    members: tuple[Contact, ...]
    now: float


class Meet(NamedTuple):
    """Nodes that whoever runs this one knows of. A member asks those that have a place with it if they are there: so
    overlays that began apart become one. Who is no member yet joins through these from now on; where there are none,
    it is the first."""

    contacts: tuple[Contact, ...]
    now: float


class Received(NamedTuple):
    """A message; the link says who sent it."""

    sender: Contact
    message: Message
    now: float


class TimerFired(NamedTuple):
    """A timer that was set."""

    timer: Timer
    now: float


class Route(NamedTuple):
    """Find the root of a key, for whoever runs this node; `number` names the question in what comes of it."""

    key: GUID
    number: int
    now: float


class Publish(NamedTuple):
    """This node holds these objects: let others find them."""

    objects: tuple[GUID, ...]
    now: float


class Unpublish(NamedTuple):
    """It does not hold them any longer."""

    objects: tuple[GUID, ...]
    now: float


class Locate(NamedTuple):
    """Find a holder of an object; those in `passed_over` did not give it. `number` names the search in what comes of
    it."""

    object: GUID
    number: int
    passed_over: tuple[GUID, ...]
    now: float


class Leave(NamedTuple):
    """The node is about to be stopped, and says so."""

    now: float


Event: TypeAlias = Started | Meet | Received | TimerFired | Route | Publish | Unpublish | Locate | Leave


# --- effects -----------------------------------------------------------------------------------------------------


class Send(NamedTuple):
    """Send to one node; it may be lost."""

    to: Contact
    message: Message


class SetTimer(NamedTuple):
    """Wake the node in so many seconds."""

    timer: Timer
    seconds: float


class Joined(NamedTuple):
    """The node is a member from now on."""


class Resolved(NamedTuple):
    """The root of the key that `Route` with this number asked for, and how many hops away."""

    number: int
    root: Contact
    hops: int


class LocatedAt(NamedTuple):
    """The pointer's holder says that it has the object that `Locate` with this number asked for."""

    number: int
    pointer: Pointer
    hops: int


class NotFound(NamedTuple):
    """No root of the object knows a holder."""

    number: int


class Rejected(NamedTuple):
    """Something that came was dropped."""

    sender: Contact
    reason: str


Effect: TypeAlias = Send | SetTimer | Joined | Resolved | LocatedAt | NotFound | Rejected

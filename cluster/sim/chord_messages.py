"""What nodes of Chord say to each other, in the simulator that compares it with the overlay of `tapestry`.

Encoded as Tapestry's messages are, with contacts of the same kind, so that the bytes of both can be compared.
"""

from typing import Annotated, Literal, NamedTuple, TypeAlias

import msgspec

from tapestry.guid import GUID
from tapestry.messages import MAX_HOPS, Contact, Contacts, Number


class Timer(NamedTuple):
    """Names a moment to be woken at. `answer`: by then, what was sent under this number has to be answered."""

    kind: Literal["stabilize", "finger", "predecessor", "answer", "join"]
    number: int = 0


class _Said(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


class Forward(_Said, frozen=True, tag=0):
    """One hop of the search for the successor of `key`. `hop` names this hop in the acknowledgement; origin and
    `number` name the search. `last`: the sender takes the receiver for the successor."""

    hop: Number
    key: GUID
    origin: Contact
    number: Number
    hops: Annotated[int, msgspec.Meta(ge=0, le=MAX_HOPS)]
    last: bool


class Acknowledge(_Said, frozen=True, tag=1):
    """`Forward` has come."""

    hop: Number


class Found(_Said, frozen=True, tag=2):
    """To the origin of a search: the sender is the successor of its key, as far as it knows."""

    number: Number
    hops: Annotated[int, msgspec.Meta(ge=0, le=MAX_HOPS)]


class GetNeighbours(_Said, frozen=True, tag=3):
    """Who comes before you, and who after?"""

    id: Number


class Neighbours(_Said, frozen=True, tag=4):
    """The sender's predecessor and successor list."""

    id: Number
    predecessor: Contact | None
    successors: Contacts


class Notify(_Said, frozen=True, tag=5):
    """The sender takes itself for the receiver's predecessor."""


class Ping(_Said, frozen=True, tag=6):
    """Are you there?"""

    id: Number


class Pong(_Said, frozen=True, tag=7):
    """Yes."""

    id: Number


class Leaving(_Said, frozen=True, tag=8):
    """The sender is about to go; these came after it."""

    successors: Contacts


Message: TypeAlias = Forward | Acknowledge | Found | GetNeighbours | Neighbours | Notify | Ping | Pong | Leaving

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Message).decode

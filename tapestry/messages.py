"""What nodes of the overlay say to each other. Message names and fields are those of docs/protocol.md.

A `Forward` carries a cargo towards the root of a key, hop by hop, each acknowledged (Bamboo, USENIX 2004, 4.3); all
other messages go from one node to one it knows. Whoever reads them from a link knows by that link who the sender is.
"""

from typing import Annotated, TypeAlias

import msgspec

from tapestry.guid import BASE, GUID

MAX_CONTACTS = 64
"""Contacts in one message at most."""

MAX_HOPS = 64
"""A message that has come so far is dropped: each hop is to bring it nearer to its key, so it has met liars."""

NAME_BYTES = 8
"""Of a GUID, where it is only to be told from a few others: the first so many."""

Address = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
"""Where a node is reached, in the words of whoever carries messages."""

SALTS = 4
"""Roots of an object: whoever surrounds one of them does not surround the others (Tapestry, JSAC 2004, III-B)."""

MAX_OBJECTS = 1 << 20
"""Objects in one signed list of pointers."""

Salt = Annotated[int, msgspec.Meta(ge=0, lt=SALTS)]

Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Contact(msgspec.Struct, frozen=True, order=True, array_like=True, forbid_unknown_fields=True):
    """A node: who it is, and where."""

    guid: GUID
    address: Address


Contacts: TypeAlias = Annotated[tuple[Contact, ...], msgspec.Meta(max_length=MAX_CONTACTS)]


class Pointer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`holder` has `object` from `issued` until `expires` (seconds since 1970), as it says under its `key`: this is the
    leaf `index` of `count` of a Merkle tree whose root it signed (`tapestry.pointers`)."""

    object: GUID
    holder: Contact
    issued: Number
    expires: Number
    key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    index: Annotated[int, msgspec.Meta(ge=0, lt=MAX_OBJECTS)]
    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_OBJECTS)]
    path: Annotated[bytes, msgspec.Meta(max_length=32 * 20)]
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


class _Said(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


# --- what is carried to a root -----------------------------------------------------------------------------------


class Find(_Said, frozen=True, tag=0):
    """Who is the root of this key? It answers the origin with `Found`."""


class Join(_Said, frozen=True, tag=1):
    """The origin wants to be a member: the key is its own GUID. Each node that this passes adds itself, and the root
    answers with `Welcome`."""

    passed: Contacts


class Publish(_Said, frozen=True, tag=2):
    """Each node that this passes keeps the pointer, up to the root of the object's GUID with this salt, which is the
    key (Tapestry, JSAC 2004, III-C)."""

    pointer: Pointer
    salt: Salt


class Locate(_Said, frozen=True, tag=3):
    """On the same way: the first node with a pointer sends this to its `holder`, which answers the origin with
    `Located`. Holders in `passed_over` were asked before; the root answers with `NotLocated` when there is no other."""

    object: GUID
    salt: Salt
    holder: GUID | None
    passed_over: Annotated[tuple[GUID, ...], msgspec.Meta(max_length=MAX_CONTACTS)]


Cargo: TypeAlias = Find | Join | Publish | Locate


class Forward(_Said, frozen=True, tag=0):
    """One hop of a cargo on its way to the root of `key`. `hop` names this hop in the acknowledgement; origin and
    `number` name the cargo, whichever way it comes."""

    hop: Number
    key: GUID
    origin: Contact
    number: Number
    hops: Annotated[int, msgspec.Meta(ge=0, le=MAX_HOPS)]
    cargo: Cargo
    constrained: bool = False
    """Whether to go by constrained entries of routing tables (`tapestry.routing_table`) where there are any."""


class Acknowledge(_Said, frozen=True, tag=1):
    """`Forward` has come."""

    hop: Number


class Found(_Said, frozen=True, tag=2):
    """To the origin of a `Find`: the sender is the root of its key, as far as it knows."""

    number: Number
    hops: Annotated[int, msgspec.Meta(ge=0, le=MAX_HOPS)]


class Welcome(_Said, frozen=True, tag=3):
    """To the origin of a `Join`: the sender's leaf set, and the nodes that the cargo passed, whose tables help."""

    number: Number
    leaves: Contacts
    passed: Contacts


# --- upkeep ------------------------------------------------------------------------------------------------------


class Probe(_Said, frozen=True, tag=4):
    """Are you there?"""

    id: Number


class Alive(_Said, frozen=True, tag=5):
    """Yes."""

    id: Number


class Leaves(_Said, frozen=True, tag=6):
    """The sender's leaf set by the beginnings of its GUIDs. The answer is `LeafNews` (push and pull: Bamboo, 3.2)."""

    id: Number
    names: Annotated[bytes, msgspec.Meta(max_length=MAX_CONTACTS * NAME_BYTES)]


class LeafNews(_Said, frozen=True, tag=7):
    """Nodes that belong into the other's leaf set, as far as the sender knows them, and are not in it. In answer to
    `Leaves`, with the same id, it also lists the sender's leaf set: what that lacks comes back, with no list."""

    id: Number
    contacts: Contacts
    names: Annotated[bytes, msgspec.Meta(max_length=MAX_CONTACTS * NAME_BYTES)]


class GetRow(_Said, frozen=True, tag=8):
    """Which nodes does row `row` of the routing table hold?"""

    id: Number
    row: Annotated[int, msgspec.Meta(ge=0, le=63)]


class GetConstrained(_Said, frozen=True, tag=16):
    """Which nodes belong into the sender's constrained entries of row `row` before those that it has, which begin with
    these names?"""

    id: Number
    row: Annotated[int, msgspec.Meta(ge=0, le=63)]
    names: Annotated[bytes, msgspec.Meta(max_length=BASE * NAME_BYTES)]


class Row(_Said, frozen=True, tag=9):
    """In answer to `GetRow`, the nearest node of each slot of the row; to `GetConstrained`, those that it asks for."""

    id: Number
    contacts: Contacts


class Leaving(_Said, frozen=True, tag=10):
    """The sender is about to go; these were its leaves."""

    leaves: Contacts


# --- objects -----------------------------------------------------------------------------------------------------


class Located(_Said, frozen=True, tag=13):
    """To the origin of a `Locate`: the sender holds the object, and this pointer of it says so."""

    number: Number
    pointer: Pointer
    hops: Annotated[int, msgspec.Meta(ge=0, le=MAX_HOPS)]


class NotLocated(_Said, frozen=True, tag=14):
    """To the origin of a `Locate`: the sender is the root, and knows nobody who holds the object."""

    number: Number
    hops: Annotated[int, msgspec.Meta(ge=0, le=MAX_HOPS)]


class Copies(_Said, frozen=True, tag=15):
    """Pointers, each with its salt, from their root to the node that is the root now, or will be when it fails."""

    pointers: Annotated[tuple[tuple[Salt, Pointer], ...], msgspec.Meta(max_length=MAX_CONTACTS)]


# --- iterative routing, to measure -------------------------------------------------------------------------------


class AskNextHop(_Said, frozen=True, tag=11):
    """Where would you forward a cargo for this key?"""

    id: Number
    key: GUID


class NextHop(_Said, frozen=True, tag=12):
    """There; None: the sender is the root."""

    id: Number
    contact: Contact | None


Message: TypeAlias = (
    Forward
    | Acknowledge
    | Found
    | Welcome
    | Probe
    | Alive
    | Leaves
    | LeafNews
    | GetRow
    | GetConstrained
    | Row
    | Leaving
    | AskNextHop
    | NextHop
    | Located
    | NotLocated
    | Copies
)

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Message).decode
"""Raises msgspec.DecodeError (or UnicodeDecodeError, RecursionError) for what is no message."""

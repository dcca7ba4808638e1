"""Pointers: who holds an object, said by the holder itself and signed, for a while (Tapestry, JSAC 2004, III-C).

A holder signs one statement over all that it holds: the root of a Merkle tree over the objects' GUIDs. A pointer shows
one object's path in it, so whoever has it can check it without the others. A pointer replaces an older one of the same
holder; one that has expired as it is issued withdraws the object. Nothing here is believed for longer than LIFETIME.

    leaf = H(leaf tag, object)      node = H(node tag, left, right), an odd one rises as it is
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import NamedTuple, Protocol

from tapestry import statement
from tapestry.messages import SALTS, Contact, Pointer

LIFETIME_SECONDS = 600
"""A pointer says how long it holds, no longer than this. A holder that is gone is forgotten by then."""

HOLDERS = 16
"""Of one object that are remembered. Where there are more, each node keeps some of its own choice, that nobody can
foresee: liars who all claim an object do not crowd out its holder at every node on the way."""

PER_HOLDER = 100_000
IN_ALL = 200_000
"""Pointers kept at most: of one holder, and together. Where there is no room, who has most gives way to who has less:
it is the one that floods."""

GREED = 2
"""Who claims so many times as many objects as another gives way to it: liars that claim them all would take the places
of those that have some."""

_LEAF_TAG = b"tapestry.pointer.leaf\x00"
_NODE_TAG = b"tapestry.pointer.node\x00"


class Keys(Protocol):
    """Signatures as the node's shell makes and checks them (Ed25519)."""

    public_key: bytes
    """32 bytes: the node's GUID is their digest."""

    def sign(self, data: bytes) -> bytes:
        """64 bytes."""

    def verify(self, public_key: bytes, data: bytes, signature: bytes) -> bool:
        """Whether that key signed these bytes."""


def node_guid(public_key: bytes) -> bytes:
    """The GUID of a node: nobody chooses its place without a new key that must be admitted."""
    return statement.digest(statement.encode("tapestry.node", 1, public_key))


def root_key(obj: bytes, salt: int) -> bytes:
    """The key whose root keeps the pointers of an object: one for each salt."""
    return statement.digest(statement.encode("tapestry.root", 1, obj, salt))


def _stated(holder: Contact, issued: int, expires: int, count: int, root: bytes) -> bytes:
    return statement.encode("tapestry.pointers", 1, holder.guid, holder.address, issued, expires, count, root)


def _leaf(obj: bytes) -> bytes:
    return sha256(_LEAF_TAG + obj).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(_NODE_TAG + left + right).digest()


def make(keys: Keys, holder: Contact, objects: Sequence[bytes], issued: int, expires: int) -> Iterator[Pointer]:
    """A pointer for each object, all under one signature. Times are seconds since 1970."""
    levels = [[_leaf(obj) for obj in objects]]
    while len(levels[-1]) > 1:
        below = levels[-1]
        pairs = [_node(*below[place : place + 2]) for place in range(0, len(below) - 1, 2)]
        levels.append(pairs + below[len(below) & ~1 :])
    if not objects:
        return
    signature = keys.sign(_stated(holder, issued, expires, len(objects), levels[-1][0]))
    for index, obj in enumerate(objects):
        place, path = index, b""
        for level in levels[:-1]:
            if place ^ 1 < len(level):
                path += level[place ^ 1]
            place >>= 1
        yield Pointer(obj, holder, issued, expires, keys.public_key, index, len(objects), path, signature)


def refuse(pointer: Pointer, keys: Keys, now: float) -> str | None:
    """Why a pointer is no pointer, or None."""
    if pointer.holder.guid != node_guid(pointer.key):
        return "a pointer to a node whose key is another"
    if not pointer.issued <= pointer.expires <= pointer.issued + LIFETIME_SECONDS:
        return "a pointer for longer than pointers last"
    if pointer.issued + LIFETIME_SECONDS < now or pointer.issued > now + LIFETIME_SECONDS:
        return "a pointer of another time"
    root = _root(pointer)
    if root is None:
        return "a pointer whose path does not fit its place"
    stated = _stated(pointer.holder, pointer.issued, pointer.expires, pointer.count, root)
    return None if keys.verify(pointer.key, stated, pointer.signature) else "a pointer that its holder did not sign"


def _root(pointer: Pointer) -> bytes | None:
    digest, path = _leaf(pointer.object), pointer.path
    place, width = pointer.index, pointer.count
    if place >= width:
        return None
    while width > 1:
        if place ^ 1 < width:
            sibling, path = path[:32], path[32:]
            if len(sibling) < 32:
                return None
            digest = _node(sibling, digest) if place & 1 else _node(digest, sibling)
        place, width = place >> 1, (width + 1) >> 1
    return digest if not path else None


class Kept(NamedTuple):
    """A pointer as it lies at a node on the way to a root."""

    pointer: Pointer
    salt: int
    at_root: bool
    """Whether this node took itself for the root."""


class Pointers:
    """What a node knows of who holds what; all of it is checked, none of it lasts."""

    def __init__(self, secret: bytes) -> None:
        """By this secret a node chooses whom it remembers, of the holders of an object that has too many."""
        self._secret = secret
        self._by_object: dict[bytes, dict[tuple[bytes, int], Kept]] = {}
        self._by_holder: dict[bytes, dict[tuple[bytes, int], None]] = {}
        """Of each holder, the objects and salts of its pointers, oldest first."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Kept]:
        for of_object in self._by_object.values():
            yield from of_object.values()

    def get(self, obj: bytes, holder: bytes, salt: int) -> Pointer | None:
        """The pointer that is kept, expired or not."""
        kept = self._by_object.get(obj, {}).get((holder, salt))
        return None if kept is None else kept.pointer

    def put(self, pointer: Pointer, salt: int, at_root: bool) -> bool:
        """Keep a checked pointer. False where there is no room for it."""
        holder = pointer.holder.guid
        if self.get(pointer.object, holder, salt) is None:
            if not self._has_room(holder) or not self._is_chosen(pointer.object, holder):
                return False
            self._count += 1
            self._by_holder.setdefault(holder, {})[pointer.object, salt] = None
        self._by_object.setdefault(pointer.object, {})[holder, salt] = Kept(pointer, salt, at_root)
        return True

    def _has_room(self, holder: bytes) -> bool:
        """For one more pointer of this holder, if need be since another gives way that has more."""
        own = self.count_of(holder)
        if own >= PER_HOLDER:
            return False
        if self._count >= IN_ALL:
            most = max(self._by_holder, key=self.count_of)
            if self.count_of(most) <= own + 1:
                return False
            obj, salt = next(iter(self._by_holder[most]))
            self._drop(obj, (most, salt))
        return True

    def _is_chosen(self, obj: bytes, holder: bytes) -> bool:
        """Whether this is one of the holders of an object to be remembered, if need be in the place of another: of one
        that claims far more than the most modest of them, or else of one by this node's secret."""
        holders = {each for each, _ in self._by_object.get(obj, ())}
        if holder in holders or len(holders) < HOLDERS:
            return True
        holders.add(holder)
        modest = GREED * (min(map(self.count_of, holders)) + SALTS)

        def precedence(each: bytes) -> tuple[bool, bytes]:
            return self.count_of(each) > modest, sha256(self._secret + obj + each).digest()

        last = max(holders, key=precedence)
        self.drop_holder(obj, last)
        return last != holder

    def count_of(self, holder: bytes) -> int:
        """How many pointers to a holder are kept."""
        return len(self._by_holder.get(holder, ()))

    def holders(self, obj: bytes, now: float) -> list[Contact]:
        """Who holds an object, as far as pointers here say that have not expired, by GUID."""
        found = {
            kept.pointer.holder.guid: kept.pointer.holder
            for kept in self._by_object.get(obj, {}).values()
            if kept.pointer.expires > now
        }
        return [found[guid] for guid in sorted(found)]

    def drop_holder(self, obj: bytes, holder: bytes) -> None:
        """It did not answer, or has the object no longer."""
        for salt in range(SALTS):
            self._drop(obj, (holder, salt))

    def _drop(self, obj: bytes, place: tuple[bytes, int]) -> None:
        of_object = self._by_object.get(obj)
        if of_object is None or of_object.pop(place, None) is None:
            return
        if not of_object:
            del self._by_object[obj]
        self._count -= 1
        of_holder = self._by_holder[place[0]]
        del of_holder[obj, place[1]]
        if not of_holder:
            del self._by_holder[place[0]]

    def expire(self, now: float) -> None:
        """Forget what no longer holds. What was withdrawn stays until nothing older could come back."""
        over = [kept for kept in self if kept.pointer.issued + LIFETIME_SECONDS < now]
        for kept in over:
            self._drop(kept.pointer.object, (kept.pointer.holder.guid, kept.salt))

    def to_hand_over(self, is_root: Callable[[bytes], bool]) -> Iterable[Kept]:
        """Pointers that this node keeps as their root, and is no longer."""
        moved = [kept for kept in self if kept.at_root and not is_root(root_key(kept.pointer.object, kept.salt))]
        for kept in moved:
            self.put(kept.pointer, kept.salt, False)
        return moved

"""Pointers prove who said them, and are kept within bounds (Tapestry, JSAC 2004, III-C)."""

import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry import pointers
from tapestry.messages import SALTS, Contact, Pointer
from tapestry.pointers import HOLDERS, LIFETIME_SECONDS, Pointers, make, node_guid, refuse, root_key

NOW = 1_700_000_000


class Keys:
    """Signatures that anybody could forge, were it not a test."""

    def __init__(self, name: str) -> None:
        self.public_key = hashlib.sha256(name.encode()).digest()
        self.signed = 0
        self.contact = Contact(node_guid(self.public_key), name)

    def sign(self, data: bytes) -> bytes:
        self.signed += 1
        return hashlib.sha512(self.public_key + data).digest()

    def verify(self, public_key: bytes, data: bytes, signature: bytes) -> bool:
        return hashlib.sha512(public_key + data).digest() == signature


ALICE, BOB = Keys("alice:1"), Keys("bob:1")
SECRET = bytes(16)
OBJECTS = [hashlib.sha256(b"object %d" % number).digest() for number in range(300)]


def made(count: int = 1, lifetime: int = LIFETIME_SECONDS, keys: Keys = ALICE, issued: int = NOW) -> list[Pointer]:
    return list(make(keys, keys.contact, OBJECTS[:count], issued, issued + lifetime))


@pytest.mark.parametrize("count", [*range(1, 20), 31, 32, 33, 255, 256, 257])
def test_one_signature_is_over_all(count):
    keys = Keys("carol:1")
    signed = made(count, keys=keys)
    assert keys.signed == 1
    assert [pointer.object for pointer in signed] == OBJECTS[:count]
    assert [refuse(pointer, keys, NOW) for pointer in signed] == [None] * count


def test_nothing_to_say():
    assert list(make(ALICE, ALICE.contact, [], NOW, NOW + 1)) == []


@given(st.integers(1, 40), st.data())
def test_whatever_is_changed_shows(count, data):
    pointer = data.draw(st.sampled_from(made(count)))
    field = data.draw(
        st.sampled_from(["object", "holder", "issued", "expires", "key", "index", "count", "path", "signature"])
    )
    other = {
        "object": OBJECTS[-1],
        "holder": Contact(pointer.holder.guid, "elsewhere:1"),
        "issued": pointer.issued + 1,
        "expires": pointer.expires - 1,
        "key": BOB.public_key,
        "index": (pointer.index + 1) % count,
        "count": count + data.draw(st.integers(1, 5)),
        "path": pointer.path + bytes(32) if data.draw(st.booleans()) else pointer.path[:-32],
        "signature": bytes(64),
    }[field]
    changed = msgspec.structs.replace(pointer, **{field: other})
    if changed != pointer:
        assert refuse(changed, ALICE, NOW) is not None


def test_a_pointer_to_somebody_else_is_refused():
    for pointer in make(ALICE, BOB.contact, OBJECTS[:2], NOW, NOW + 60):
        assert refuse(pointer, ALICE, NOW) == "a pointer to a node whose key is another"


@pytest.mark.parametrize(
    ("issued", "lifetime", "reason"),
    [
        (NOW, LIFETIME_SECONDS + 1, "a pointer for longer than pointers last"),
        (NOW, -1, "a pointer for longer than pointers last"),
        (NOW - LIFETIME_SECONDS - 1, LIFETIME_SECONDS, "a pointer of another time"),
        (NOW + LIFETIME_SECONDS + 1, LIFETIME_SECONDS, "a pointer of another time"),
        (NOW - LIFETIME_SECONDS, LIFETIME_SECONDS, None),
        (NOW, 0, None),
    ],
)
def test_how_long_it_may_last(issued, lifetime, reason):
    assert refuse(made(1, lifetime, issued=issued)[0], ALICE, NOW) == reason


def test_each_salt_has_a_root_of_its_own():
    roots = {root_key(obj, salt) for obj in OBJECTS[:10] for salt in range(SALTS)}
    assert len(roots) == 10 * SALTS
    assert not roots & set(OBJECTS)


def test_who_holds_an_object():
    store = Pointers(SECRET)
    for keys in (ALICE, BOB):
        for salt in (0, 2):
            assert store.put(made(keys=keys)[0], salt, at_root=False)
    assert len(store) == 4
    both = sorted([ALICE.contact, BOB.contact], key=lambda contact: contact.guid)
    assert store.holders(OBJECTS[0], NOW) == both
    assert store.holders(OBJECTS[1], NOW) == []
    assert store.holders(OBJECTS[0], NOW + LIFETIME_SECONDS) == []
    store.drop_holder(OBJECTS[0], ALICE.contact.guid)
    assert store.holders(OBJECTS[0], NOW) == [BOB.contact]
    assert len(store) == 2


def test_a_newer_pointer_takes_the_place_of_an_older_one():
    store = Pointers(SECRET)
    store.put(made()[0], 0, at_root=True)
    store.put(made(1, 0, issued=NOW + 5)[0], 0, at_root=True)
    assert len(store) == 1
    assert store.holders(OBJECTS[0], NOW + 6) == []
    kept = store.get(OBJECTS[0], ALICE.contact.guid, 0)
    assert kept is not None
    assert kept.issued == NOW + 5


def test_what_was_withdrawn_is_remembered_as_long_as_the_older_one_could_come_back():
    store = Pointers(SECRET)
    store.put(made(1, 0)[0], 0, at_root=False)
    store.expire(NOW + LIFETIME_SECONDS)
    assert len(store) == 1
    store.expire(NOW + LIFETIME_SECONDS + 1)
    assert len(store) == 0


def test_few_holders_of_one_object_are_remembered():
    store = Pointers(SECRET)
    for number in range(HOLDERS + 3):
        for salt in range(SALTS):
            store.put(made(keys=Keys(f"holder:{number}"))[0], salt, at_root=False)
            assert len(store.holders(OBJECTS[0], NOW)) == min(number + 1, HOLDERS)
    assert len(store) == HOLDERS * SALTS


def test_liars_who_all_claim_an_object_do_not_crowd_out_its_holder_at_every_node():
    """However often they say so, and whoever of them comes first: which are kept, each node chooses by a secret."""
    liars = [made(keys=Keys(f"liar:{number}"))[0] for number in range(2 * HOLDERS)]
    honest = made()[0]
    kept = 0
    for node in range(24):
        orders: list[list[Pointer]] = [
            [*liars, honest, *liars],
            [honest, *liars, honest],
            [*liars[::-1], *liars, honest],
        ]
        found = []
        for order in orders:
            store = Pointers(bytes([node]) * 16)
            for pointer in order:
                store.put(pointer, 1, at_root=False)
            found.append(store.holders(OBJECTS[0], NOW))
        assert found[0] == found[1] == found[2]
        assert len(found[0]) == HOLDERS
        kept += ALICE.contact in found[0]
    assert 6 <= kept <= 18, "about half of the nodes, as it is one of 33 and 16 are kept"


def test_who_floods_gives_way_to_who_has_few(monkeypatch):
    monkeypatch.setattr(pointers, "PER_HOLDER", 100)
    monkeypatch.setattr(pointers, "IN_ALL", 200)
    store = Pointers(SECRET)
    for liar in (Keys("liar:1"), Keys("liar:2")):
        assert all(store.put(pointer, 0, at_root=False) for pointer in made(100, keys=liar))
    assert all(store.put(pointer, 0, at_root=False) for pointer in made(40))
    assert len(store) == 200
    for liar in (Keys("liar:1"), Keys("liar:2")):
        assert sum(store.put(pointer, 0, at_root=False) for pointer in made(100, keys=liar)) == 80, "what it has"
        assert sum(store.get(obj, liar.contact.guid, 0) is not None for obj in OBJECTS[:100]) == 80
    assert all(store.get(obj, ALICE.contact.guid, 0) is not None for obj in OBJECTS[:40])


def test_whoever_claims_the_most_gives_way_to_one_that_claims_less():
    """Else those who claim every object would keep out whoever has one."""
    store = Pointers(SECRET)
    greedy = [Keys(f"greedy:{number}") for number in range(HOLDERS)]
    for keys in greedy:
        for pointer in made(pointers.GREED * SALTS + 1, keys=keys):
            assert store.put(pointer, 0, at_root=False)
    assert store.put(made(keys=ALICE)[0], 0, at_root=True)
    assert ALICE.contact in store.holders(OBJECTS[0], NOW)
    assert len(store.holders(OBJECTS[0], NOW)) == HOLDERS
    assert sum(store.count_of(keys.contact.guid) for keys in greedy) == HOLDERS * (pointers.GREED * SALTS + 1) - 1


def test_one_holder_does_not_take_all_the_room(monkeypatch):
    monkeypatch.setattr(pointers, "PER_HOLDER", 5)
    monkeypatch.setattr(pointers, "IN_ALL", 8)
    store = Pointers(SECRET)
    assert sum(store.put(pointer, 0, at_root=False) for pointer in made(20)) == 5
    assert sum(store.put(pointer, 0, at_root=False) for pointer in made(20, keys=BOB)) == 4, "as many as the other"
    assert len(store) == 8
    for obj in OBJECTS[:20]:
        store.drop_holder(obj, ALICE.contact.guid)
    assert len(store) == 4
    assert sum(store.put(pointer, 0, at_root=False) for pointer in made(20)) == 4


def test_pointers_whose_root_has_moved_are_handed_over_once():
    store = Pointers(SECRET)
    for place, pointer in enumerate(made(4)):
        store.put(pointer, 1, at_root=place < 3)
    moved_keys = {root_key(OBJECTS[0], 1), root_key(OBJECTS[3], 1)}
    moved = list(store.to_hand_over(lambda key: key not in moved_keys))
    assert [kept.pointer.object for kept in moved] == [OBJECTS[0]]
    assert list(store.to_hand_over(lambda key: key not in moved_keys)) == []
    assert len(store) == 4

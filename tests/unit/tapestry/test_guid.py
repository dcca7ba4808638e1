"""GUIDs as digits and as places on the ring, against plain integers (Tapestry, JSAC 2004, III; Bamboo, 3.1)."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.guid import BASE, BYTES, DIGITS, GUID, clockwise, digit, distance, parse, shared_digits
from tests.unit.tapestry import model

ANY = st.binary(min_size=BYTES, max_size=BYTES)
NEAR = st.tuples(ANY, st.integers(-300, 300)).map(
    lambda drawn: (drawn[0], model.guid(model.number(drawn[0]) + drawn[1]))
)
SHARING = st.tuples(ANY, ANY, st.integers(0, DIGITS)).map(
    lambda drawn: (drawn[0], bytes.fromhex(drawn[0].hex()[: drawn[2]] + drawn[1].hex()[drawn[2] :]))
)
PAIRS = st.tuples(ANY, ANY) | NEAR | SHARING
ZERO, ONE, LAST, HALF = (model.guid(place) for place in (0, 1, -1, 2**255))


@given(ANY)
def test_digits_are_those_of_the_text(guid):
    assert "".join(f"{digit(guid, place):x}" for place in range(DIGITS)) == guid.hex()
    assert all(0 <= digit(guid, place) < BASE for place in range(DIGITS))


@given(PAIRS)
def test_shared_digits_are_the_prefix_of_the_texts(pair):
    one, other = pair
    shared = shared_digits(one, other)
    assert one.hex()[:shared] == other.hex()[:shared]
    assert shared == DIGITS or one.hex()[shared] != other.hex()[shared]
    assert shared == shared_digits(other, one)


@given(PAIRS)
def test_clockwise_is_the_way_up(pair):
    start, end = pair
    way = clockwise(start, end)
    assert 0 <= way < model.SPACE
    assert model.guid(model.number(start) + way) == end
    assert (way + clockwise(end, start)) % model.SPACE == 0


@given(PAIRS)
def test_distance_is_the_shorter_way(pair):
    one, other = pair
    assert distance(one, other) == distance(other, one) == model.places_between(one, other)
    assert 0 <= distance(one, other) <= 2**255
    assert (distance(one, other) == 0) == (one == other)


@given(ANY, ANY, ANY)
def test_distance_by_way_of_another_is_no_less(one, other, third):
    assert distance(one, third) <= distance(one, other) + distance(other, third)


@pytest.mark.parametrize(
    ("start", "end", "way", "short"),
    [
        (ZERO, ZERO, 0, 0),
        (ZERO, ONE, 1, 1),
        (ONE, ZERO, 2**256 - 1, 1),
        (LAST, ZERO, 1, 1),
        (ZERO, LAST, 2**256 - 1, 1),
        (ZERO, HALF, 2**255, 2**255),
        (HALF, ZERO, 2**255, 2**255),
        (ONE, HALF, 2**255 - 1, 2**255 - 1),
        (HALF, ONE, 2**255 + 1, 2**255 - 1),
    ],
)
def test_ways_around_the_ring(start, end, way, short):
    assert (clockwise(start, end), distance(start, end)) == (way, short)


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [("0", "8", 0), ("ab", "ac", 1), ("abc", "ab1", 2), ("abcd", "abcd1", 4), ("f", "f", 64), ("10", "01", 0)],
)
def test_digits_in_common(one, other, shared):
    assert shared_digits(model.digits(one), model.digits(other)) == shared


@given(ANY)
def test_what_is_written_is_read(guid):
    assert parse(guid.hex()) == parse(guid.hex().upper()) == guid


@pytest.mark.parametrize(
    "text", ["", "0" * 63, "0" * 65, "g" + "0" * 63, " " + "0" * 63, "0x" + "0" * 62, "0" * 63 + "\n", "\u0661" * 64]
)
def test_what_is_no_guid(text):
    with pytest.raises(ValueError, match="64 base-16 digits"):
        parse(text)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_guid_of_another_size_is_not_decoded(size):
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(bytes(size)), type=GUID)

"""Names, the keys of an owner, and the directory."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bft import statement
from bft.secret import Secret
from pond.model import names
from pond.model.names import DirectoryError, Entry, NameRefused, OwnerSecrets

KEY = Secret(b"k" * 32)


@pytest.mark.parametrize(
    "name",
    ["a", "notes", "a b", " ", ".", "..", "é", "名前", "👩\u200d🚀", "x" * 255, "é" * 127, "-", "a\\b", "\u00a0"],
)
def test_names(name: str) -> None:
    names.check_name(name)
    assert len(names.name_tag(KEY, name)) == 32


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a/b",
        "/",
        "/directory",
        "a\n",
        "\r",
        "\0",
        "\x1b[31m",
        "\x7f",
        "\x85",
        "\u2028",
        "\u2029",
        "\ud800",
        "a\udcff",
        "x" * 256,
        "é" * 128,
        "x" * 10_000,
        "\ud800" * 10_000,
        "/" * 10_000,
        "\n" * 255,
        "x" * 10_000_000,
    ],
)
def test_refused_names(name: str) -> None:
    for attempt in (names.check_name, lambda each: names.name_tag(KEY, each)):
        with pytest.raises(NameRefused) as caught:
            attempt(name)
        message = str(caught.value)
        assert len(message) < 600
        message.encode("ascii")
        assert message.isprintable()
        assert "use" in message or "leave" in message or "give" in message


@given(st.text(st.characters(codec=None), max_size=300))
def test_a_name_is_refused_or_has_a_tag(name: str) -> None:
    try:
        assert len(names.name_tag(KEY, name)) == 32
    except NameRefused:
        return
    assert 1 <= len(name.encode()) <= 255
    assert "/" not in name
    assert "\n" not in name


def test_tags_are_of_key_and_name() -> None:
    tags = {names.name_tag(key, name) for key in (KEY, Secret(b"l" * 32)) for name in ("a", "b", "directory")}
    tags |= {names.directory_tag(KEY), names.directory_tag(Secret(b"l" * 32))}
    assert len(tags) == 8
    assert len({names.aguid(owner, tag) for owner in (b"o" * 32, b"p" * 32) for tag in tags}) == 16


def test_an_owner_key_gives_everything() -> None:
    secrets = OwnerSecrets.derive(Secret(bytes(32)))
    again = OwnerSecrets.derive(Secret(bytes(32)))
    assert secrets == again
    revealed = [secret.reveal() for secret in secrets]
    assert len(set(revealed)) == 3
    assert {len(each) for each in revealed} == {32}
    assert not set(revealed) & {secret.reveal() for secret in OwnerSecrets.derive(Secret(b"x" * 32))}
    assert not any(each.hex() in repr(secrets) or repr(each) in repr(secrets) for each in revealed)


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_owner_keys_of_another_size(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        OwnerSecrets.derive(Secret(bytes(size)))


# --- the directory -----------------------------------------------------------------------------------------------


def entry(number: int, epochs: int = 1) -> Entry:
    return Entry(bytes([number]) * 32, {epoch: Secret(bytes([number, epoch]) * 16) for epoch in range(epochs)})


def test_a_directory_is_its_entries_one_after_another() -> None:
    content = b"".join(names.encode_entry(name, entry(i, i + 1)) for i, name in enumerate(["a", "b", "é"]))
    assert names.decode_entries(content) == {"a": entry(0, 1), "b": entry(1, 2), "é": entry(2, 3)}
    assert names.decode_entries(b"") == {}


def test_the_first_entry_of_a_name_counts() -> None:
    content = names.encode_entry("a", entry(1)) + names.encode_entry("b", entry(2)) + names.encode_entry("a", entry(3))
    assert names.decode_entries(content) == {"a": entry(1), "b": entry(2)}


def test_an_entry_shows_no_key() -> None:
    shown = repr(entry(7))
    assert "0707" in shown or "x07" in shown
    assert repr(bytes([7, 0]) * 16) not in shown
    assert (bytes([7, 0]) * 16).hex() not in shown


def test_a_changed_directory_is_refused_or_other_but_never_a_crash() -> None:
    content = names.encode_entry("first", entry(1, 2)) + names.encode_entry("second", entry(2))
    original = names.decode_entries(content)
    for i in range(len(content)):
        for mask in (1, 0x80, 0xFF):
            changed = content[:i] + bytes([content[i] ^ mask]) + content[i + 1 :]
            found, message = attempt(changed)
            assert found != original
            assert "first" not in message
            assert "second" not in message
    for size in range(1, len(content)):
        if size == len(names.encode_entry("first", entry(1, 2))):
            continue
        with pytest.raises(DirectoryError):
            names.decode_entries(content[:size])


@pytest.mark.parametrize(
    "fields",
    [
        ("", bytes(32), [[0, bytes(32)]]),
        ("a/b", bytes(32), [[0, bytes(32)]]),
        ("a", bytes(31), [[0, bytes(32)]]),
        ("a", bytes(32), []),
        ("a", bytes(32), [[0, bytes(31)]]),
        ("a", bytes(32), [[-1, bytes(32)]]),
        ("a", bytes(32), [[0, bytes(32)], [0, bytes(32)]]),
        ("a", bytes(32), [[1, bytes(32)], [0, bytes(32)]]),
        ("a", bytes(32), [[0, bytes(32)]], 0),
        ("a", bytes(32)),
        (b"a", bytes(32), [[0, bytes(32)]]),
        ("a", "a" * 32, [[0, bytes(32)]]),
    ],
)
def test_malformed_entries(fields: tuple[object, ...]) -> None:
    good = names.encode_entry("good", entry(1))
    with pytest.raises(DirectoryError, match=f"byte {len(good)}"):
        names.decode_entries(good + statement.encode("pond.entry", 1, *fields))
    with pytest.raises(DirectoryError, match="byte 0"):
        names.decode_entries(msgpack.packb(fields))


@pytest.mark.parametrize(
    "content", [b"\x00", b"\xc1", b"\xff", b"\xdd\xff\xff\xff\xff", b"\x91" * 5000, b"\xc6\xff\xff\xff\xff", b"\xd9"]
)
def test_junk_is_no_directory(content: bytes) -> None:
    with pytest.raises(DirectoryError):
        names.decode_entries(content)


@given(st.binary(max_size=100))
def test_arbitrary_bytes(content: bytes) -> None:
    found, message = attempt(content)
    assert (found is None) == ("damaged" in message)


def attempt(content: bytes) -> tuple[dict[str, Entry] | None, str]:
    """The entries, or what the error says."""
    try:
        return names.decode_entries(content), ""
    except DirectoryError as error:
        return None, str(error)

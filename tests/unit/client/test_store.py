"""What the library promises, through both of its faces: the same tests, once awaited and once not."""

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import pond
from bft.signatures import Ed25519Verifier
from pond.model import bundle
from tests.unit.client.harness import AsyncFace, SyncFace

Face = AsyncFace | SyncFace


@pytest.fixture(params=[AsyncFace, SyncFace], ids=["async", "sync"])
def face(request: pytest.FixtureRequest) -> Iterator[Face]:
    made = request.param()
    yield made
    made.close()


@pytest.fixture
def store(face: Face) -> Any:
    return face.store()


def content(size: int) -> bytes:
    return bytes(i * 7 % 251 for i in range(size))


# --- writing and reading -----------------------------------------------------------------------------------------


def test_what_was_written_is_read(store):
    notes = store.create("notes")
    version = notes.write(b"hello")
    assert (version.number, version.size) == (1, 5)
    assert version.certificate is not None
    assert version.time.tzinfo is UTC
    assert notes.read() == b"hello"
    assert notes.read(start=1, stop=3) == b"el"
    assert notes.read(stop=100) == b"hello"
    assert notes.read(start=7) == b""
    assert notes.latest()._replace(certificate=None) == version._replace(certificate=None)


def test_another_store_of_the_same_owner_finds_it(face, store):
    store.create("notes").write(b"hello")
    other = face.store()
    assert other.names() == ["notes"]
    assert other.open("notes").read() == b"hello"
    assert other.open("notes").read(consistency="any") == b"hello"


def test_every_version_stays_readable(store):
    notes = store.create("notes")
    first = notes.write(b"one")
    second = notes.append(b", two")
    third = notes.write(b"three")
    assert notes.read(version=1) == notes.read(vguid=first.vguid) == b"one"
    assert notes.read(2) == notes.read(vguid=second.vguid.hex()) == b"one, two"
    assert notes.read(at=third.time + timedelta(days=1)) == b"three"
    assert notes.read(at=first.time) in (b"one", b"one, two", b"three")
    assert [(entry.version, entry.status) for entry in notes.history()] == [
        (1, "committed"),
        (2, "committed"),
        (3, "committed"),
    ]


def test_an_empty_object_is_an_object(store):
    empty = store.create("empty")
    assert empty.write(b"").size == 0
    assert empty.read() == b""
    assert list(empty.read_stream()) == []


def test_what_is_not_there_is_not_found(store):
    with pytest.raises(pond.NotFound, match="no object 'nothing'"):
        store.open("nothing")
    nothing = store.create("nothing")
    with pytest.raises(pond.NotFound, match="no version yet"):
        nothing.read()
    nothing.write(b"x")
    with pytest.raises(FileNotFoundError, match="versions are 1 to 1"):
        nothing.read(version=10**12)
    for number in (0, -1, 2**70):
        with pytest.raises(pond.NotFound, match="versions count from 1"):
            nothing.read(version=number)
    with pytest.raises(pond.NotFound, match="first version was made at 20"):
        nothing.read(at=datetime(2001, 1, 1, tzinfo=UTC))
    with pytest.raises(pond.NotFound, match="VGUID"):
        nothing.read(vguid=bytes(32))


def test_what_makes_no_sense_is_said_to(store):
    notes = store.create("notes")
    for name in ("", "a/b", "x" * 256, "line\nbreak"):
        with pytest.raises(pond.UsageError):
            store.create(name)
    with pytest.raises(pond.UsageError, match="block size"):
        store.create("other", block_size=1000)
    with pytest.raises(pond.UsageError, match="no time zone"):
        notes.read(at=datetime(2030, 1, 1))
    with pytest.raises(pond.UsageError, match="not by several"):
        notes.read(version=1, vguid=bytes(32))
    with pytest.raises(pond.UsageError, match="base-16"):
        notes.read(vguid="xyz")
    with pytest.raises(pond.UsageError, match="binary mode"):
        notes.write("text")
    with pytest.raises(pond.UsageError, match="text mode"):
        notes.write(io.StringIO("text"))
    with pytest.raises(pond.UsageError, match="changes nothing"):
        notes.update().commit()
    with pytest.raises(pond.UsageError, match="consistency"):
        notes.read(consistency="eventual")
    with pytest.raises(pond.UsageError, match="timeout"):
        notes.read(timeout=0)
    assert store.names() == ["notes"]


def test_large_content_travels_in_blocks(store):
    data = content(1_000_000)
    moved: list[tuple[int, int]] = []
    large = store.create("large", block_size=4096)
    version = large.write(io.BytesIO(data), progress=lambda done, total: moved.append((done, total)))
    assert version.size == len(data)
    assert moved[-1][0] >= len(data)
    assert large.read() == data
    assert b"".join(large.read_stream()) == data
    assert large.read(start=123_456, stop=234_567) == data[123_456:234_567]
    assert large.stat().blocks == 245


def test_a_file_is_read_from_where_it_stands(store):
    file = io.BytesIO(b"headerbody")
    file.seek(6)
    notes = store.create("notes")
    notes.write(file)
    assert notes.read() == b"body"


def test_a_stream_of_unknown_length_is_written(store):
    class Pipe(io.RawIOBase):
        left = 300_000

        def readable(self) -> bool:
            return True

        def seekable(self) -> bool:
            return False

        def readinto(self, buffer: Any) -> int:
            size = min(len(buffer), self.left, 4096)
            buffer[:size] = bytes(size)
            self.left -= size
            return size

    piped = store.create("piped")
    assert piped.write(Pipe()).size == 300_000
    assert piped.read() == bytes(300_000)


def test_an_object_opens_as_a_file(store):
    data = content(50_000)
    notes = store.create("notes", block_size=4096)
    notes.write(data)
    with notes.open("rb", version=1) as file:
        notes.write(b"newer")
        assert file.read(10) == data[:10]
        assert file.seek(-5, io.SEEK_END) == len(data) - 5
        assert file.read() == data[-5:]
        assert file.read() == b""
        file.seek(20_000)
        assert file.tell() == 20_000
        assert file.read(6000) == data[20_000:26_000]
        assert file.version.number == 1
    with pytest.raises(pond.UsageError, match="mode"):
        notes.open("wb")


# --- updates -----------------------------------------------------------------------------------------------------


def test_predicates_decide(store):
    notes = store.create("notes")
    notes.update().when(pond.absent(), pond.version_is(0)).write(b"hello").commit()
    version = notes.update().when(pond.version_is(1), pond.size_is(5), pond.exists()).append(b" world").commit()
    assert version.number == 2
    with pytest.raises(pond.Aborted, match="at version 2") as caught:
        notes.update().when(pond.version_is(1)).append(b"!").commit()
    assert (caught.value.version, caught.value.exit_code) == (2, 3)
    past, future = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
    condition = pond.all_of(
        pond.after(past), pond.not_(pond.after(future)), pond.any_of(pond.absent(), pond.before(future))
    )
    notes.update().when(condition).append(b"!").commit()
    assert notes.read() == b"hello world!"
    assert [entry.status for entry in notes.history()] == ["committed", "committed", "aborted", "committed"]


def test_the_second_clause_is_tried_when_the_first_does_not_hold(store):
    notes = store.create("notes")
    for expected in (b"first", b"first, again"):
        update = notes.update().when(pond.absent()).write(b"first").otherwise().append(b", again")
        update.commit()
        assert notes.read() == expected
    with pytest.raises(pond.UsageError, match="has been committed"):
        update.commit()


@pytest.mark.parametrize(
    ("offset", "length", "data"),
    [
        (0, 3, b"abc"),
        (4096, 4096, bytes(4096)),
        (4000, 200, b"x" * 200),
        (5000, 9000, b"y" * 9000),
        (19_990, 30, b"z" * 30),
        (20_000, 0, b"more"),
        (0, 0, b"in front"),
        (4096, 0, b"between blocks"),
        (10_000, 0, b"w" * 10_000),
        (0, 20_000, b""),
        (4096, 8192, b""),
        (100, 50, b""),
        (3000, 10_000, b""),
    ],
)
def test_changes_at_an_offset_are_those_of_a_bytearray(store, offset, length, data):
    model = bytearray(content(20_000))
    notes = store.create("notes", block_size=4096)
    notes.write(bytes(model))
    update = notes.update()
    if not length:
        update.insert(offset, data)
    elif data:
        update.replace(offset, data)
    else:
        update.delete_range(offset, length)
    version = update.commit()
    model[offset : offset + length] = data
    assert version.size == len(model)
    assert notes.read() == bytes(model)


def test_several_changes_in_one_update(store):
    notes = store.create("notes", block_size=4096)
    notes.write(content(10_000))
    model = bytearray(content(10_000))
    notes.update().insert(5, b"abc").delete_range(4090, 20).append(b"end").truncate(9000).replace(
        8990, b"0" * 20
    ).commit()
    model[5:5] = b"abc"
    del model[4090:4110]
    model += b"end"
    del model[9000:]
    model[8990:9010] = b"0" * 20
    assert notes.read() == bytes(model)
    notes.update().write(b"new content").insert(3, b"er").replace(0, b"N").commit()
    assert notes.read() == b"Newer content"


def test_changes_beyond_the_content_are_refused(store):
    notes = store.create("notes")
    with pytest.raises(pond.NotFound, match="no content"):
        notes.update().insert(0, b"x").commit()
    notes.write(b"12345")
    for update in (
        notes.update().insert(6, b"x"),
        notes.update().replace(6, b"x"),
        notes.update().delete_range(3, 3),
        notes.update().delete_range(6, 0),
        notes.update().insert(0, b"").truncate(6),
    ):
        with pytest.raises(pond.UsageError, match="beyond"):
            update.commit()
    with pytest.raises(pond.Aborted, match="beyond"):
        notes.update().truncate(6).commit()
    with pytest.raises(pond.UsageError, match="changes nothing"):
        notes.update().insert(2, b"").commit()
    with pytest.raises(pond.UsageError):
        notes.update().truncate(-1)


def test_metadata_is_kept_and_asked_for(store):
    notes = store.create("notes")
    notes.update().write(b"x").set_metadata(b"text/plain").commit()
    assert notes.metadata() == b"text/plain"
    digest = notes.stat().metadata_digest
    notes.update().when(pond.metadata_is(digest)).set_metadata(None).commit()
    assert notes.metadata() is None
    assert notes.metadata(version=1) == b"text/plain"


def test_a_deleted_object_keeps_its_history(store):
    notes = store.create("notes")
    with pytest.raises(pond.NotFound):
        notes.delete()
    notes.write(b"hello")
    assert notes.delete().number == 2
    with pytest.raises(pond.NotFound, match="is deleted"):
        notes.read()
    with pytest.raises(pond.NotFound, match="version 2 of 'notes' is deleted"):
        notes.read(version=2)
    assert notes.read(version=1) == b"hello"
    assert notes.stat().deleted
    assert store.stats() == []
    assert notes.restore(1).number == 3
    assert notes.read() == b"hello"
    assert [entry.status for entry in notes.history()] == ["committed", "deleted", "committed"]
    assert [stat.name for stat in store.stats()] == ["notes"]


def test_somebody_elses_object_cannot_be_written(face, store):
    notes = store.create("notes")
    notes.write(b"mine")
    thief = face.store("thief")
    stolen = thief.create("notes")
    stolen._core._target.aguid = notes.aguid
    with pytest.raises(pond.PermissionRefused, match="only its owner"):
        stolen.write(b"yours")
    assert notes.read() == b"mine"


# --- proofs and differences --------------------------------------------------------------------------------------


def test_an_export_holds_offline(store):
    notes = store.create("notes", block_size=4096)
    notes.write(content(10_000))
    notes.update().replace(5000, b"changed").commit()
    with pytest.raises(pond.Aborted):
        notes.update().when(pond.absent()).write(b"").commit()
    for with_data in (False, True):
        out = io.BytesIO()
        report = notes.export(out, with_data=with_data)
        assert (report.versions, report.aborted, report.size_bytes) == (2, 1, len(out.getvalue()))
        out.seek(0)
        checked = bundle.verify(out.read, store.ring_key, Ed25519Verifier())
        assert (checked.versions, checked.aborted, checked.with_data) == (2, 1, with_data)
    assert notes.verify()[:3] == report[:3]


def test_differences_are_found_without_blocks(store):
    notes = store.create("notes", block_size=4096)
    notes.write(content(4096 * 200))
    notes.update().replace(4096 * 100 + 5, b"x").commit()
    notes.update().insert(0, b"in front").commit()
    notes.append(b"at the end")
    assert notes.changed_ranges(1, 2) == [(4096 * 100, 4096 * 101, 4096 * 100, 4096 * 101)]
    assert notes.changed_ranges(2, 3) == [(0, 0, 0, 8)]
    end = 4096 * 200 + 8
    assert notes.changed_ranges(3) == [(end, end, end, end + 10)]
    assert notes.changed_ranges(1, 1) == []


# --- the directory -----------------------------------------------------------------------------------------------


def test_two_programs_that_make_one_name_share_one_object(face, store):
    other = face.store()
    mine, theirs = store.create("notes"), other.create("notes")
    mine.write(b"mine")
    theirs.append(b" and theirs")
    assert mine.read() == theirs.read() == b"mine and theirs"
    assert mine.aguid == theirs.aguid


def test_names_are_sorted_and_any_text(store):
    names = sorted(["a b", "ß", "日本語", "x" * 255, ".."])
    for name in names:
        store.create(name)
    assert store.names() == names


def test_status_says_how_the_servers_are(store):
    store.create("notes")
    status = store.status()
    assert [answer.replica for answer in status] == [0, 1, 2, 3]
    assert store.dropped == {}

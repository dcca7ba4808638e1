"""What only the blocking face has: a thread that ends, Ctrl-C, misuse that says so."""

import asyncio
import gc
import signal
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import pond
from pond.client import sync
from pond.client.locate import cluster_directory, cluster_file
from tests.unit.client.harness import SyncFace

DEADLINE_SECONDS = 10


@pytest.fixture
def face() -> Iterator[SyncFace]:
    face = SyncFace()
    yield face
    face.close()


def pond_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pond"]


def test_closing_ends_the_thread_and_can_be_done_again(face):
    with face.store() as store:
        store.create("notes")
        links = store._core._context.asker._links
        assert len(pond_threads()) == 1
    assert pond_threads() == []
    assert links.closed
    store.close()
    with pytest.raises(pond.UsageError, match="the store is closed"):
        store.names()


def test_a_store_that_is_forgotten_ends_its_thread():
    face = SyncFace()
    store = face.store()
    store.create("notes").write(b"x")
    thread, gone = pond_threads()[0], weakref.ref(store)
    del store, face
    gc.collect()
    assert gone() is None
    thread.join(DEADLINE_SECONDS)
    assert not thread.is_alive()


def test_what_begins_while_all_is_cancelled_is_cancelled_too():
    """An upload that is broken off looks once more for the servers that it has not reached."""
    runner = sync.Runner()
    began = threading.Event()
    late: list[asyncio.Task[object]] = []

    async def for_ever() -> None:
        await asyncio.get_running_loop().create_future()

    async def work() -> None:
        try:
            began.set()
            await for_ever()
        finally:
            late.append(asyncio.get_running_loop().create_task(for_ever()))

    runner.start(work())
    assert began.wait(10)
    runner.close()
    assert [task.cancelled() for task in late] == [True]


@pytest.mark.parametrize("write", [True, False])
def test_ctrl_c_cancels_what_is_waited_for(face, write):
    store = face.store()
    notes = store.create("notes")
    main = threading.main_thread().ident
    assert main is not None
    cluster = face.cluster
    ask = cluster.ask

    def interrupt(*_: Any) -> None:
        cluster.ask = ask
        signal.pthread_kill(main, signal.SIGINT)

    def wait() -> None:
        cluster.ask = interrupt  # in here: what is still being asked of servers may be what interrupts
        notes.write(b"x") if write else notes.read()

    with pytest.raises(KeyboardInterrupt):
        wait()
    assert notes.write(b"y").size == 1
    assert notes.read() == b"y"


def test_a_progress_callback_cannot_wait_for_the_loop_that_calls_it(face):
    notes = face.store().create("notes")
    with pytest.raises(pond.UsageError, match="progress callback"):
        notes.write(bytes(500_000), progress=lambda done, total: notes.latest())


def test_a_file_that_fails_fails_the_write(face):
    class Broken:
        def read(self, size: int) -> bytes:
            raise OSError("the disk is gone")

    notes = face.store().create("notes")
    with pytest.raises(OSError, match="the disk is gone"):
        notes.write(Broken())
    assert notes.write(b"x").number == 1


def test_a_stream_that_is_left_early_stops(face):
    notes = face.store().create("notes", block_size=4096)
    notes.write(bytes(100_000))
    for piece in notes.read_stream():
        assert len(piece) == 4096
        break
    assert notes.read(stop=3) == bytes(3)


def test_another_process_is_told_to_connect_itself(face, monkeypatch):
    store = face.store()
    monkeypatch.setattr(store._runner, "_process", -1)
    with pytest.raises(pond.UsageError, match="after a fork"):
        store.names()


def test_a_cluster_that_is_not_there_is_not_found(tmp_path, monkeypatch):
    monkeypatch.setenv("POND_CLUSTER", str(tmp_path))
    with pytest.raises(pond.NotFound, match="pond cluster up"):
        pond.connect()
    with pytest.raises(pond.NotFound, match="elsewhere"):
        pond.aio.connect(tmp_path / "elsewhere")
    assert pond_threads() == []


def test_where_a_cluster_is(tmp_path):
    assert cluster_directory("here", {"POND_CLUSTER": "there"}).name == "here"
    assert cluster_directory(None, {"POND_CLUSTER": "there"}).name == "there"
    assert str(cluster_directory(None, {"XDG_DATA_HOME": "/data"})) == "/data/pond/default"
    assert cluster_directory(None, {}).parts[-4:] == (".local", "share", "pond", "default")
    (tmp_path / "cluster.json").write_text("{}")
    assert cluster_file(tmp_path) == cluster_file(tmp_path / "cluster.json") == tmp_path / "cluster.json"


def test_both_faces_have_the_same_names():
    def names(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert names(sync.Store) == names(pond.aio.Store)
    assert names(sync.Object) == names(pond.aio.Object)
    assert names(sync.Update) == names(pond.aio.Update) - {"share"}

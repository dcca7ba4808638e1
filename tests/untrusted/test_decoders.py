"""Every decoder against damaged bytes: what it was given, or the one error that it documents.

Three ways: any bytes at all (hypothesis); valid ones flipped, cut, doubled and lying about lengths; and values changed
within well-formed MessagePack. Both sides must be reached: what is valid is taken, and much is refused.
"""

import io
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bft import answer, key_share, log, sessions, statement
from bft.answer import Answer, AnswerError, BatchPath, PageEntry, Status, check_batch_path, check_session_path
from bft.certificate import Certificate, CertificateError, Claim
from bft.effects import Write
from bft.frost import FrostError
from bft.messages import Accepted, Message, NewView, Request, RequestError, StableCheckpoint, ViewChange
from bft.secret import Secret
from bft.sessions import SessionRecord
from bft.signatures import Ed25519Verifier
from bft.state_tree import (
    Branch,
    ChunkError,
    Items,
    ProofError,
    StateProof,
    StateTree,
    open_branch,
    open_items,
    verify_proof,
)
from bft.statement import StatementError
from bft.threshold import Frost, NonceCommitment, ThresholdPublic, deal
from bft.types import AgreedTime, Sequence, View
from pond import config, keys
from pond.errors import PondError
from pond.model import names
from pond.model.bundle import BundleDamaged, verify
from pond.model.names import DirectoryError, Entry
from pond.model.stored import Stored
from pond.protocol import Question, Reply
from tapestry.messages import Message as OverlayMessage
from tapestry.messages import decode as decode_overlay
from tests.paper.changes import leave
from tests.unit.bft.ring import Client, MemoryDisk, Ring
from tests.unit.model import samples, test_bundle, test_formats
from tests.unit.model.store import RING
from tests.unit.tapestry.stage import Stage
from tests.untrusted.generate import Generator, changed, damaged

COUNT = 250
DECODE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What the servers' and the client's edges catch (`pond/node/server.py`, `pond/client/asking.py`)."""


class Decoder(NamedTuple):
    """A way in: valid bytes, the function, and all that it may raise."""

    samples: list[bytes]
    decode: Callable[[bytes], Any]
    raises: tuple[type[Exception], ...]


@cache
def traffic() -> list[Message]:
    """Messages of every kind: most from a ring at work, the rest made up."""
    ring = Ring()
    seen: dict[type, list[Message]] = {}

    def watch(sender: int, to: int, message: Message) -> bool:
        kept = seen.setdefault(type(message), [])
        if len(kept) < 4:
            kept.append(message)
        return False

    ring.drops = watch
    client = Client()
    for i in range(70):
        ring.submit(client.request(b"%d" % i), to=(i % 4,))
        ring.fire("tick")
    for i in (1, 2):
        leave(ring, i, 1)
    ring.run()
    ring.pass_time(2)
    generator = Generator(random.Random(1))
    made = [generator.make(kind) for kind in Message.__args__ if kind not in seen]
    return [message for kept in seen.values() for message in kept] + made


@cache
def overlay_traffic() -> list[OverlayMessage]:
    """Messages of every kind: most from nodes that join, leave and look for keys, the rest made up."""
    stage = Stage("traffic")
    seen: dict[type, list[OverlayMessage]] = {}

    def watch(sender: object, to: object, message: OverlayMessage) -> bool:
        seen.setdefault(type(message), []).append(message)
        return False

    stage.drops = watch
    stage.grow(8)
    stage.roots([bytes(32), bytes(range(32))])
    stage.leave("n3")
    generator = Generator(random.Random(2))
    made = [generator.make(kind) for kind in OverlayMessage.__args__ for _ in range(3)]
    return [message for kept in seen.values() for message in kept[:6]] + made


def encoded(values: list[Any]) -> list[bytes]:
    """As they come by the wire."""
    return [msgspec.msgpack.encode(value) for value in values]


def made(kind: Any, count: int) -> list[Any]:
    """Well-typed values."""
    generator = Generator(random.Random(7))
    return [generator.make(kind) for _ in range(count)]


CLAIM = Claim(bytes(32), 1, Sequence(7), 1000, b"b" * 32, b"a" * 32, b"s" * 32)  # type: ignore[arg-type]
ANSWER = Answer(b"r" * 32, Status.EXECUTED, b"result")
PAGE = [PageEntry(1, 1000, ANSWER.encode()), PageEntry(2, 2000, ANSWER.encode())]  # type: ignore[arg-type]
PUBLIC, SHARES = deal(Secret(bytes(range(128))), 4, 2)


def read_log(data: bytes) -> Any:
    """Each kind of log entry, from a disk that holds these bytes for it."""
    read: list[object] = []
    for kind in range(0x10, 0x14):
        disk = MemoryDisk()
        disk.write([Write("log", (1).to_bytes(8, "big") + bytes([kind]), data)])
        try:
            read.append(log.read_entry(disk, Sequence(1)))
        except msgspec.DecodeError:
            continue
    disk = MemoryDisk()
    disk.write([Write("meta", key, data) for key in (b"progress", b"stable", b"view", b"learning")])
    for function in (log.read_progress, log.read_stable, log.read_standing, log.read_learning):
        try:
            read.append(function(disk))
        except msgspec.DecodeError:
            continue
    if not read:
        raise msgspec.DecodeError("none of them")
    return read


def log_entries() -> list[bytes]:
    """What a log consists of."""
    vote = log.Vote(b"d" * 32, View(1), 0, None, None)
    ring = Ring()
    leave(ring, 1, 1)
    return [
        *ring.disks[1].tables["meta"].values(),
        msgspec.msgpack.encode([vote, vote]),
        msgspec.msgpack.encode(Accepted(Sequence(1), b"d" * 32, View(0))),
        log.ran(Sequence(1), b"d" * 32, 3).value or b"",
        msgspec.msgpack.encode(made(StableCheckpoint, 1)[0]),
        msgspec.msgpack.encode(made(ViewChange, 1)[0]),
        msgspec.msgpack.encode(made(NewView, 1)[0]),
    ]


def bundle(data: bytes) -> object:
    return verify(io.BytesIO(data).read, RING.public_key, Ed25519Verifier())


def parts_of(data: bytes) -> list[Any]:
    unpacker = msgpack.Unpacker()
    unpacker.feed(data)
    return list(unpacker)


def stored(value: Stored) -> Decoder:
    """A statement of the model."""
    decode, error = test_formats.decoder(value)
    return Decoder([value.encode()], decode, (error,))


REQUEST = Client().request(b"an operation")


@cache
def decoders() -> dict[str, Decoder]:
    """All of them, by name."""
    message, question, reply = (msgspec.msgpack.Decoder(kind).decode for kind in (Message, Question, Reply))
    certificate = statement.encode("bft.certificate", 1, *msgspec.structs.astuple(CLAIM))
    directory = names.encode_entry("notes", Entry(bytes(32), {0: Secret(bytes(32))}))
    return {
        "peer messages": Decoder(encoded(traffic()), message, DECODE),
        "overlay messages": Decoder(encoded(overlay_traffic()), decode_overlay, DECODE),
        "questions": Decoder(encoded(made(Question, 40)), question, DECODE),
        "replies": Decoder(encoded(made(Reply, 60)), reply, DECODE),
        "statement": Decoder(
            [statement.encode("t", 1, 5, b"x", ["y", None, True])],
            lambda d: statement.decode(d, "t", 1),
            (StatementError,),
        ),
        "request": Decoder([REQUEST.statement], lambda d: Request(d, bytes(64), []).parse(), (RequestError,)),
        "certificate": Decoder([certificate], lambda d: Certificate(d, bytes(64)).claim(), (CertificateError,)),
        "answer": Decoder([ANSWER.encode()], answer.decode, (AnswerError,)),
        "page of answers": Decoder([msgspec.msgpack.encode(PAGE)], answer.decode_page, (msgspec.DecodeError,)),
        "session": Decoder(
            [msgspec.msgpack.encode(SessionRecord(3, AgreedTime(1000)))],
            sessions.read_session,
            (msgspec.DecodeError,),
        ),
        "key share": Decoder(
            [key_share.encode(SHARES[0], PUBLIC).reveal()], lambda d: key_share.decode(Secret(d)), (FrostError,)
        ),
        "log": Decoder(log_entries(), read_log, (msgspec.DecodeError,)),
        "directory": Decoder([directory, directory * 2], names.decode_entries, (DirectoryError,)),
    } | {f"model: {name}": stored(value) for name, value in samples.STATEMENTS.items()}


NAMES = [
    *(
        "peer messages",
        "overlay messages",
        "questions",
        "replies",
        "statement",
        "request",
        "certificate",
        "answer",
        "page of answers",
    ),
    *("session", "key share", "log", "directory"),
    *(f"model: {name}" for name in samples.STATEMENTS),
]


def check_decoder(decoder: Decoder, data: bytes) -> bool:
    """Whether it is taken."""
    try:
        decoder.decode(data)
    except decoder.raises:
        return False
    return True


@pytest.mark.parametrize("name", NAMES)
def test_what_is_valid_is_taken(name: str) -> None:
    decoder = decoders()[name]
    for data in decoder.samples:
        assert check_decoder(decoder, data) or name == "log"


@pytest.mark.parametrize("name", NAMES)
def test_damaged_bytes(name: str) -> None:
    decoder, draw = decoders()[name], random.Random(name)
    taken = [check_decoder(decoder, damaged(draw, draw.choice(decoder.samples))) for _ in range(COUNT)]
    assert not all(taken)


@pytest.mark.parametrize("name", NAMES)
def test_changed_values(name: str) -> None:
    """Well-formed MessagePack with something else in it."""
    decoder, draw = decoders()[name], random.Random(name)
    taken = []
    for _ in range(COUNT):
        values = parts_of(draw.choice(decoder.samples))
        for _ in range(draw.randint(1, 2)):
            values[-1] = changed(draw, values[-1])
        taken.append(check_decoder(decoder, b"".join(map(msgspec.msgpack.encode, values))))
    assert not all(taken)


@pytest.mark.parametrize("name", NAMES)
def test_any_bytes(name: str) -> None:
    decoder = decoders()[name]

    @given(st.binary(max_size=200))
    def check_any(data: bytes) -> None:
        check_decoder(decoder, data)

    check_any()


# --- what stands behind the decoders --------------------------------------------------------------------------------


def test_bundles_with_changed_parts() -> None:
    whole = test_bundle.write(test_bundle.history(), with_data=True)
    draw = random.Random(3)
    for _ in range(COUNT):
        if draw.random() < 0.4:
            data = damaged(draw, whole)
        else:
            parts = parts_of(whole)
            at = draw.randrange(len(parts))
            parts[at] = changed(draw, parts[at])
            data = b"".join(msgspec.msgpack.encode(part) for part in parts)
        if data != whole:
            with pytest.raises(BundleDamaged):
                bundle(data)


def test_proofs_of_any_shape_prove_nothing() -> None:
    tree = StateTree.empty().update({b"\x01%d" % i: b"value %d" % i for i in range(40)})
    draw, generator = random.Random(4), Generator(random.Random(5))
    genuine = [tree.prove(b"\x01%d" % i) for i in range(50)]
    for _ in range(2 * COUNT):
        if draw.random() < 0.5:
            proof = generator.make(StateProof)
        else:
            plain = msgspec.to_builtins(draw.choice(genuine), builtin_types=(bytes,))
            try:
                proof = msgspec.convert(changed(draw, plain), StateProof, builtin_types=(bytes,))
            except msgspec.ValidationError:
                continue
        key = b"\x01%d" % draw.randrange(60)
        try:
            value = verify_proof(tree.root, key, proof)
        except ProofError:
            continue
        assert value == tree.get(key), "whatever it looks like, what it proves is true"


def test_places_of_any_shape_prove_nothing() -> None:
    generator = Generator(random.Random(6))
    generator.see([CLAIM.answers_root, CLAIM.state_root])
    for _ in range(COUNT):
        with pytest.raises(AnswerError):
            check_batch_path(CLAIM, ANSWER.encode(), generator.make(BatchPath))
        with pytest.raises(AnswerError):
            check_session_path(CLAIM, b"\x03key", 1, ANSWER.encode(), generator.make(answer.SessionPath))


def test_subtrees_of_any_shape_are_refused() -> None:
    tree = StateTree.empty().update({b"\x01%d" % i: b"value %d" % i for i in range(400)})
    generator = Generator(random.Random(8))
    generator.see([tree.root])
    for _ in range(COUNT):
        with pytest.raises(ChunkError):
            open_branch(tree.root, generator.make(Branch))
        with pytest.raises(ChunkError):
            open_items(tree.root, b"", generator.make(Items))


def test_threshold_inputs_of_any_kind() -> None:
    """Points, shares and lists of signers from a liar: a refusal, or nothing at all; the nonce is gone either way."""
    scheme, other = Frost(SHARES[0], PUBLIC), Frost(SHARES[1], PUBLIC)
    draw = random.Random(9)
    identity, order_two = (1).to_bytes(32, "little"), b"\xec" + b"\xff" * 30 + b"\x7f"
    points = [identity, order_two, bytes(32), b"\xff" * 32, PUBLIC.group_public_key, draw.randbytes(32)]
    for i in range(120):
        nonces, own = scheme.commit(draw.randbytes(64))
        theirs_nonces, theirs = other.commit(draw.randbytes(64))
        hostile = NonceCommitment(draw.choice(points), draw.choice(points))
        assert scheme.valid_commitment(hostile) in (True, False)
        named = [(1, own), (draw.choice((2, 2, 2, 1, 0, 3, 9, -1, 70_000)), draw.choice((theirs, hostile)))]
        draw.shuffle(named)
        message = b"message %d" % i
        try:
            share = scheme.sign(message, nonces, named)
            shares = {1: share, 2: draw.choice((other.sign(message, theirs_nonces, named), bytes(32), b"\xff" * 32))}
            scheme.aggregate(message, named, shares)
        except FrostError:
            pass
        assert nonces.used


def test_public_parts_of_any_shape() -> None:
    draw = random.Random(10)
    plain = msgspec.to_builtins(PUBLIC, builtin_types=(bytes,))
    taken = 0
    for _ in range(COUNT):
        try:
            public = msgspec.convert(changed(draw, plain), ThresholdPublic, builtin_types=(bytes,))
        except msgspec.ValidationError:
            continue
        taken += 1
        if public.valid():
            assert public.group_public_key == PUBLIC.group_public_key, "its shares are on the same polynomial"
    assert taken > COUNT / 10
    assert PUBLIC.valid()


def test_config_and_key_files_of_any_content(tmp_path: Path) -> None:
    draw = random.Random(11)
    members = [{"id": i, "public_key": f"{i:064x}", "host": "h", "peer_port": 1, "client_port": 2} for i in range(4)]
    text = msgspec.json.encode({"format": 1, "ring_id": "a" * 64, "epoch": 1, "ring_key": "b" * 64, "members": members})
    path = tmp_path / "file"
    key = tmp_path / "key"
    keys.write_key(key, keys.Kind.NODE, Secret(bytes(32)))
    line = key.read_bytes()
    for i in range(COUNT):
        nested = b"[" * draw.choice((5, 2000, 30_000))
        data = draw.choice((damaged(draw, text), nested, b'{"format":' + nested, draw.randbytes(30)))
        path.write_bytes(data)
        with pytest.raises(PondError):
            config.read(path, draw.choice((config.ClusterFile, config.NodeConfig)))  # type: ignore[type-var]
        changed_line = damaged(draw, line) if i else line[:-1]
        key.write_bytes(changed_line)
        if changed_line.strip() != line.strip():
            with pytest.raises(PondError):
                keys.read_key(key, keys.Kind.NODE)

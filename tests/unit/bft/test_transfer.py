"""State transfer: it ends in the state that was proved, whatever peers send (TOCS 2002, 6.2)."""

import random

import msgspec
import pytest

from bft import part_fetch
from bft.checkpoints import checkpoint_digest
from bft.effects import Send
from bft.messages import FetchParts, FetchState, Message, Parts, Span, StateChunk, StateGone
from bft.peers import MAX_ASKED
from bft.serving import (
    KEPT,
)
from bft.state_tree import CHUNK_ITEMS, EMPTY, Branch, Kind, StateTree, state_key
from bft.state_tree import Items as ItemChunk
from bft.transfer import STALLED_TICKS
from bft.types import AgreedTime, Epoch, ReplicaId, Sequence
from tests.unit.bft.transfers import ITEMS, ME, TIME, Items, World, item, named, tree_of

EPOCH = Epoch(0)


def content(seed: int, count: int) -> dict[bytes, bytes]:
    rng = random.Random(seed)
    return {state_key(Kind.SESSION, rng.randbytes(8)): rng.randbytes(rng.choice([0, 5, 40, 300])) for _ in range(count)}


def changed(seed: int, before: dict[bytes, bytes], count: int) -> dict[bytes, bytes]:
    """Some keys gone, some changed, some new."""
    rng = random.Random(seed)
    after = dict(before)
    for key in rng.sample(sorted(before), min(len(before), count)):
        if rng.random() < 0.5:
            del after[key]
        else:
            after[key] = rng.randbytes(20)
    return after | content(seed + 1, rng.randrange(count + 1))


# --- from one state to another -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(150))
def test_between_random_states(seed: int):
    rng = random.Random(seed)
    before = content(seed, rng.choice([0, 1, 2, 30, 200, 1000]))
    after = changed(seed + 1000, before, rng.choice([0, 1, 5, 100, 800]))
    if rng.random() < 0.1:
        after = {}
    world = World(Items())
    world.have(before)
    done = world.fetch(64, tree_of(after))
    assert (done.sequence, done.time, done.tree.root) == (64, TIME, tree_of(after).root)
    assert dict(done.tree.items()) == after
    assert not world.rejected


def test_only_subtrees_that_differ_are_fetched():
    before = content(1, 20_000)
    key = sorted(before)[77]
    world = World(Items())
    world.have(before)
    world.begin(64, world.hold(64, tree_of(before | {key: b"new"})))
    world.run()
    assert world.asked_prefixes == 4, "the root, and a node of each level down to a subtree of a few items"


def test_nothing_is_fetched_when_nothing_differs():
    world = World(Items())
    world.have(content(1, 100))
    done = world.fetch(64, world.tree)
    assert done.tree.root == world.tree.root
    assert len(world.sent) == 1


def test_a_state_without_keys():
    world = World(Items())
    world.have(content(1, 500))
    assert len(world.fetch(64, StateTree.empty()).tree) == 0


def test_the_questions_are_spread_over_the_peers():
    world = World(Items(), size=7)
    asked: set[ReplicaId] = set()

    def note(peer: ReplicaId, answer: Message) -> Message:
        asked.add(peer)
        return answer

    world.lie = note
    world.fetch(64, tree_of(content(1, 20_000)))
    assert asked == set(world.serving)


# --- parts ---------------------------------------------------------------------------------------------------------


def items_below(rng: random.Random, store: dict[bytes, bytes], depth: int) -> bytes:
    """A tree of items, some of them shared. The name of its top."""
    known = sorted(store)
    below = [items_below(rng, store, depth - 1) for _ in range(rng.randrange(1, 5))] if depth else []
    if known and rng.random() < 0.3:
        below.append(rng.choice(known))
    data = item(rng.randbytes(4), *below)
    store[named(data)] = data
    return named(data)


def states_with_items(seed: int) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    rng = random.Random(seed)
    store: dict[bytes, bytes] = {}
    entries = {
        state_key(Kind.OBJECT, rng.randbytes(8)): items_below(rng, store, rng.randrange(4))
        for _ in range(rng.randrange(1, 30))
    }
    return entries, store


def assert_whole_below(world: World, store: dict[bytes, bytes]) -> None:
    """Every item on the disk has all that it names there too."""
    here = world.here.tables.get(ITEMS, {})
    for value in here.values():
        for i in range(value[0]):
            assert value[1 + 32 * i : 33 + 32 * i] in here


@pytest.mark.parametrize("seed", range(60))
def test_parts_come_before_the_state_and_from_below(seed: int):
    entries, store = states_with_items(seed)
    world = World(Items())
    world.there.tables[ITEMS] = store
    world.begin(64, world.hold(64, tree_of(entries)))
    while world.transfer.done is None:
        if not world.links:
            world.tick()
            continue
        world.deliver()
        assert_whole_below(world, store)
    assert world.here.tables[ITEMS] == store
    assert sum(isinstance(message, FetchParts) for message in world.sent) < 40
    asked = [span.key for message in world.sent if isinstance(message, FetchParts) for span in message.spans]
    assert len(asked) == len(set(asked)) == len(store), "each once"
    world.install(world.transfer.done)


@pytest.mark.parametrize("seed", range(60))
def test_a_crash_at_any_moment(seed: int):
    entries, store = states_with_items(seed)
    rng = random.Random(seed + 1000)
    world = World(Items())
    world.there.tables[ITEMS] = store
    digest = world.hold(64, tree_of(entries))
    for _ in range(rng.randrange(1, 6)):
        world.begin(64, digest)
        for _ in range(rng.randrange(12)):
            if world.links:
                world.deliver()
            else:
                world.tick()
            if rng.random() < 0.5:
                world.here.sync()
        world.crash()
        assert_whole_below(world, store)
        assert not world.here.tables.get("state")
    fetched = len(world.here.tables.get(ITEMS, {}))
    before = len(world.sent)
    world.begin(64, digest)
    world.run()
    assert world.here.tables[ITEMS] == store
    asked = [span for message in world.sent[before:] if isinstance(message, FetchParts) for span in message.spans]
    assert len(asked) == len(store) - fetched, "what came before the crash is found again"


def test_a_wide_and_deep_state_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch):
    spans = 64
    monkeypatch.setattr(part_fetch, "REQUEST_SPANS", spans)  # a bound far below what there is
    store: dict[bytes, bytes] = {}

    def add(data: bytes) -> bytes:
        store[named(data)] = data
        return named(data)

    def tower(number: int) -> bytes:
        name = add(item(b"%d" % number))
        for level in range(3):
            name = add(
                item(
                    b"%d %d" % (number, level), *(add(item(b"%d %d %d" % (number, level, i))) for i in range(60)), name
                )
            )
        return name

    entries = {state_key(Kind.OBJECT, b"%d" % i): tower(i) for i in range(200)}
    assert len(store) == 200 * 184
    world = World(Items())
    world.there.tables[ITEMS] = store
    world.begin(64, world.hold(64, tree_of(entries)))
    world.run()
    assert world.here.tables[ITEMS] == store
    assert world.most_open < 2 * MAX_ASKED * spans * 61, "not all 37,000"


def test_small_parts_take_few_questions():
    """Under load each takes long, however little it asks for."""
    store = {named(data): data for data in (item(b"%d" % number) for number in range(2000))}
    entries = {state_key(Kind.OBJECT, b"%d" % number): name for number, name in enumerate(store)}
    world = World(Items())
    world.there.tables[ITEMS] = store
    world.begin(64, world.hold(64, tree_of(entries)))
    world.run()
    assert world.here.tables[ITEMS] == store
    questions = [message for message in world.sent if isinstance(message, FetchParts)]
    assert sum(len(message.spans) for message in questions) == 2000, "none is asked for twice"
    assert len(questions) <= 12


# --- peers that fail -------------------------------------------------------------------------------------------------


def wrong_chunks(answer: StateChunk, rng: random.Random) -> list[StateChunk]:
    """Everything that is not the state asked for, from an answer that is."""
    replace = msgspec.structs.replace
    wrong = [
        replace(answer, time=AgreedTime(answer.time + 1)),
        replace(answer, root=named(b"other")),
        replace(answer, root=EMPTY),
    ]
    for place, (prefix, chunk) in enumerate(answer.chunks):

        def instead(other: Branch | ItemChunk, place: int = place, prefix: bytes = prefix) -> StateChunk:
            chunks = list(answer.chunks)
            chunks[place] = prefix, other
            return replace(answer, chunks=chunks)

        if isinstance(chunk, Branch):
            slots = [bit for bit in range(16) if chunk.bitmap >> bit & 1]
            wrong.append(instead(Branch(chunk.bitmap, chunk.digests[:-32] + named(b"x"))))
            wrong.append(instead(Branch(chunk.bitmap, chunk.digests[:-32])))
            wrong.append(instead(Branch(chunk.bitmap, chunk.digests[:-5])))
            wrong.append(instead(Branch(chunk.bitmap & ~(1 << slots[0]), chunk.digests[32:])))
            if len(slots) < 16:
                free = next(bit for bit in range(16) if bit not in slots)
                digests = [chunk.digests[32 * i : 32 * i + 32] for i in range(len(slots))]
                digests.insert(sum(slot < free for slot in slots), EMPTY)
                wrong.append(instead(Branch(chunk.bitmap | 1 << free, b"".join(digests))))
            wrong.append(instead(ItemChunk([])))
        else:
            items = list(chunk.items)
            key, value = items[0]
            wrong.append(instead(ItemChunk([(key, value + b"!"), *items[1:]])))
            wrong.append(instead(ItemChunk([(key + b"!", value), *items[1:]])))
            wrong.append(instead(ItemChunk(items[1:])))
            wrong.append(instead(ItemChunk([items[0], *items][:CHUNK_ITEMS])))
            if len(items) > 1:
                wrong.append(instead(ItemChunk(items[::-1])))
            wrong.append(instead(Branch(1, named(b"x"))))
            wrong.append(instead(Branch(0xFFFF, named(b"x") * 16)))
        if len(wrong) > 30:
            break
    return wrong


def test_every_wrong_chunk_is_refused_and_its_sender_left_out():
    after = tree_of(content(2, 1500))
    rng = random.Random(1)
    lies = 0
    for turn in range(60):
        world = World(Items())
        told: list[Message] = []

        def lie(peer: ReplicaId, answer: Message, turn: int = turn, told: list[Message] = told) -> Message:
            assert not told or peer != 2, "a liar is asked again"
            if peer != 2 or not isinstance(answer, StateChunk):
                return answer
            wrong = wrong_chunks(answer, rng)
            told.append(wrong[turn % len(wrong)])
            return told[0]

        world.lie = lie
        assert world.fetch(64, after).tree.root == after.root
        assert len(told) == len(world.rejected) == 1
        assert world.rejected[0].sender == 2
        lies += len(told)
    assert lies == 60


def test_wrong_parts_are_refused():
    entries, store = states_with_items(5)

    def lie(peer: ReplicaId, answer: Message) -> Message:
        if peer != 2 or not isinstance(answer, Parts):
            return answer
        kind = rng.randrange(4)
        found = list(answer.found)
        at = rng.randrange(len(found))
        span, values = found[at]
        match kind:
            case 0:
                found[at] = span, [values[0] + b"!"]
            case 1:
                found[at] = span, []
            case 2:
                found[at] = span, values * 2
            case 3:
                found[at] = span, [b"\x00" * 100_000]
        return msgspec.structs.replace(answer, found=found)

    for seed in range(40):
        rng = random.Random(seed)
        world = World(Items())
        world.there.tables[ITEMS] = store
        world.lie = lie
        world.fetch(64, tree_of(entries))
        assert world.here.tables[ITEMS] == store
        assert all(rejected.sender == 2 for rejected in world.rejected)
        assert len(world.rejected) == 1


def test_parts_that_nobody_asked_for_are_passed_over():
    entries, store = states_with_items(5)
    world = World(Items())
    world.there.tables[ITEMS] = store
    unasked = (Span(ITEMS, named(b"?")), [b"?"])

    def add(peer: ReplicaId, answer: Message) -> Message:
        return msgspec.structs.replace(answer, found=[unasked, *answer.found]) if isinstance(answer, Parts) else answer

    world.lie = add
    world.fetch(64, tree_of(entries))
    assert world.here.tables[ITEMS] == store


def test_silent_peers_cost_time_and_nothing_else():
    world = World(Items())
    entries, store = states_with_items(6)
    world.there.tables[ITEMS] = store
    world.lie = lambda peer, answer: answer if peer == 3 else None
    world.fetch(64, tree_of(entries | content(3, 5000)))
    assert world.here.tables[ITEMS] == store
    assert not world.rejected


def test_peers_that_answer_with_nothing_are_not_asked_at_once_again():
    world = World(Items())

    def nothing(peer: ReplicaId, answer: Message) -> Message:
        if isinstance(answer, StateChunk):
            return msgspec.structs.replace(answer, chunks=[])
        return answer

    world.lie = nothing
    world.begin(64, world.hold(64, tree_of(content(1, 1000))))
    for _ in range(1000):
        while world.links:
            world.deliver()
        world.tick()
    assert world.delivered < 40
    world.lie = lambda peer, answer: answer
    world.run()


def test_loss_and_duplicates():
    for seed in range(20):
        rng = random.Random(seed)
        world = World(Items())
        entries, store = states_with_items(seed)
        world.there.tables[ITEMS] = store

        def lose(peer: ReplicaId, answer: Message, rng: random.Random = rng, world: World = world) -> Message | None:
            if rng.random() < 0.5 and world.sent:
                world.links.append((peer, rng.choice(world.sent)))
            return None if rng.random() < 0.3 else answer

        world.lie = lose
        after = entries | content(seed, 2000)
        world.begin(64, world.hold(64, tree_of(after)))
        for _ in range(3000):
            for _ in range(20):
                if world.links:
                    world.deliver()
            if world.transfer.done is not None:
                break
            world.tick()
        assert world.transfer.done is not None
        assert world.transfer.done.tree.root == tree_of(after).root
        assert world.here.tables[ITEMS] == store


def test_a_part_that_one_peer_lacks_comes_from_another():
    entries, store = states_with_items(7)
    world = World(Items())
    world.there.tables[ITEMS] = store
    lacking = sorted(store)[::3]

    def lose(peer: ReplicaId, answer: Message) -> Message:
        if peer == 1 or not isinstance(answer, Parts):
            return answer
        found = [(span, values) for span, values in answer.found if span.key not in lacking]
        return msgspec.structs.replace(answer, found=found)

    world.lie = lose
    world.fetch(64, tree_of(entries))
    assert world.here.tables[ITEMS] == store
    assert not world.rejected


# --- targets that move -----------------------------------------------------------------------------------------------


def test_another_digest_is_never_installed():
    world = World(Items())
    world.hold(64, tree_of(content(1, 100)))
    world.begin(64, checkpoint_digest(Sequence(64), TIME, tree_of(content(2, 100)).root))
    for _ in range(300):
        while world.links:
            world.deliver()
        world.tick()
    assert world.transfer.done is None
    assert {rejected.sender for rejected in world.rejected} == set(world.serving)


def test_a_newer_target_is_taken_when_the_older_is_gone_and_what_came_is_kept():
    old = content(1, 20_000)
    tree = tree_of(old)
    newer = tree.update(dict.fromkeys(sorted(old)[:5], b"moved on"))
    fresh = World(Items())
    fresh.fetch(128, newer)
    world = World(Items())
    world.begin(64, world.hold(64, tree))
    while world.transfer.progress and world.transfer.progress.fetched_bytes < 1_500_000:
        world.deliver()
    for serving in world.serving.values():
        serving.heard(ME, Sequence(64))
        for number in range(128, 128 + 64 * KEPT, 64):
            serving.keep(Sequence(number), TIME, newer)
    world.begin(128, checkpoint_digest(Sequence(128), TIME, newer.root))
    before = world.asked_prefixes
    done = world.run()
    assert (done.sequence, done.tree.root) == (128, newer.root)
    assert world.asked_prefixes - before < fresh.asked_prefixes // 2


def test_a_newer_target_is_not_taken_while_the_older_can_be_had():
    world = World(Items())
    world.begin(64, world.hold(64, tree_of(content(1, 5000))))
    world.deliver()
    world.begin(128, world.hold(128, tree_of(content(2, 5000))))
    assert world.run().sequence == 64


def test_pinned_states_outlast_many_checkpoints():
    """A ring under load passes a checkpoint with each message of the transfer."""
    rng = random.Random(1)
    state = content(1, 6000)
    keys = sorted(state)[:50]
    world = World(Items())
    tree = tree_of(state)
    world.begin(64, world.hold(64, tree))
    number = 64
    while world.transfer.done is None:
        if not world.links:
            world.tick()
            continue
        world.deliver()
        for _ in range(5):
            number += 64
            tree = tree.update({rng.choice(keys): rng.randbytes(8)})
            world.hold(number, tree)
    assert world.transfer.done.sequence == 64
    assert number > 64 * (KEPT + 10)
    assert all(len(serving.held) <= KEPT + 1 for serving in world.serving.values())


def test_peers_that_had_nothing_are_asked_again():
    world = World(Items())
    tree = tree_of(content(1, 100))
    world.begin(64, checkpoint_digest(Sequence(64), TIME, tree.root))
    for _ in range(STALLED_TICKS * 2):
        while world.links:
            world.deliver()
        world.tick()
    assert world.transfer.done is None
    world.hold(64, tree)
    assert world.run().sequence == 64


def test_one_liar_cannot_make_it_move_on():
    world = World(Items())
    world.lie = lambda peer, answer: StateGone(EPOCH, Sequence(64)) if peer == 1 else answer
    world.begin(64, world.hold(64, tree_of(content(1, 5000))))
    world.begin(128, world.hold(128, tree_of(content(2, 5000))))
    assert world.run().sequence == 64


def test_answers_about_another_target_are_passed_over():
    world = World(Items())
    tree = tree_of(content(1, 100))
    world.begin(64, world.hold(64, tree))
    stray = StateChunk(EPOCH, Sequence(128), TIME, tree.root, [(b"", tree.chunk(b""))])
    assert world.transfer.on_state_chunk(ReplicaId(1), stray) == []
    assert world.transfer.on_state_gone(ReplicaId(1), StateGone(EPOCH, Sequence(128))) == []
    assert world.transfer.on_parts(ReplicaId(1), Parts(EPOCH, [])) == []
    assert world.run().sequence == 64


def test_execution_that_goes_on_meanwhile_is_counted_in_at_the_end():
    before = content(1, 300)
    after = changed(2, before, 50)
    meanwhile = changed(3, before, 40)
    world = World(Items())
    world.have(before)
    world.begin(64, world.hold(64, tree_of(after)))
    while world.transfer.done is None:
        world.deliver() if world.links else world.tick()
    world.have(meanwhile)
    world.install(world.transfer.done)
    assert world.here.tables["state"] == after


# --- bytes from anywhere ---------------------------------------------------------------------------------------------


def test_mutated_messages_decode_to_bounded_ones_or_not_at_all():
    decode = msgspec.msgpack.Decoder(Message).decode
    tree = tree_of(content(1, 100))
    samples: list[Message] = [
        FetchState(EPOCH, Sequence(64), [b"", b"\x01\x02", b"\x0f" * 64]),
        StateChunk(EPOCH, Sequence(64), TIME, tree.root, [(b"", tree.chunk(b"")), (b"\x01", tree.chunk(b"\x01"))]),
        StateGone(EPOCH, Sequence(64)),
        FetchParts(EPOCH, [Span(ITEMS, b"k" * 32), Span(ITEMS, b"k" * 41, 256)]),
        Parts(EPOCH, [(Span(ITEMS, b"k" * 32), [b"value"])]),
    ]
    rng = random.Random(1)
    outcomes = {"decoded": 0, "refused": 0}
    for _ in range(4000):
        data = bytearray(msgspec.msgpack.encode(rng.choice(samples)))
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        try:
            message = decode(bytes(data))
        except (msgspec.DecodeError, UnicodeDecodeError):
            outcomes["refused"] += 1
            continue
        outcomes["decoded"] += 1
        world = World(Items())
        world.have(content(2, 50))
        world.begin(64, checkpoint_digest(Sequence(64), TIME, tree.root))
        match message:
            case StateChunk():
                world.transfer.on_state_chunk(ReplicaId(1), message)
            case StateGone():
                world.transfer.on_state_gone(ReplicaId(1), message)
            case Parts():
                world.transfer.on_parts(ReplicaId(1), message)
            case FetchState() | FetchParts():
                world.serving[ReplicaId(1)].keep(Sequence(64), TIME, tree)
                (answer,) = world.serving[ReplicaId(1)].on_fetch(ME, message)
                assert isinstance(answer, Send)
    assert min(outcomes.values()) > 300, outcomes


@pytest.mark.parametrize(
    "message",
    [
        FetchState(EPOCH, Sequence(0), []),
        FetchState(EPOCH, Sequence(0), [b""] * 65),
        FetchState(EPOCH, Sequence(0), [b"\x01" * 65]),
        FetchState(EPOCH, Sequence(-1), [b""]),
        StateChunk(EPOCH, Sequence(0), TIME, b"short", []),
        StateChunk(EPOCH, Sequence(0), TIME, EMPTY, [(b"", Branch(0, b""))]),
        StateChunk(EPOCH, Sequence(0), TIME, EMPTY, [(b"", Branch(1 << 16, EMPTY))]),
        StateChunk(EPOCH, Sequence(0), TIME, EMPTY, [(b"", Branch(1, EMPTY * 17))]),
        StateChunk(EPOCH, Sequence(0), TIME, EMPTY, [(b"", ItemChunk([(b"k", b"v")] * (CHUNK_ITEMS + 1)))]),
        StateChunk(EPOCH, Sequence(0), TIME, EMPTY, [(b"", ItemChunk([(b"k" * 513, b"v")]))]),
        FetchParts(EPOCH, []),
        FetchParts(EPOCH, [Span(ITEMS, b"")]),
        FetchParts(EPOCH, [Span(ITEMS, b"k" * 65)]),
        FetchParts(EPOCH, [Span("t" * 17, b"k")]),
        FetchParts(EPOCH, [Span(ITEMS, b"k", 257)]),
        FetchParts(EPOCH, [Span(ITEMS, b"k", 0)]),
        Parts(EPOCH, [(Span(ITEMS, b"k"), [b""] * 257)]),
    ],
)
def test_what_is_out_of_bounds_does_not_decode(message: Message):
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.Decoder(Message).decode(msgspec.msgpack.encode(message))


def test_the_entries_of_a_span():
    assert Span(ITEMS, b"\x00\xff", 3).entries() == [b"\x00\xff", b"\x01\x00", b"\x01\x01"]
    assert Span(ITEMS, b"\xff\xfe", 256).entries() == [b"\xff\xfe", b"\xff\xff"]

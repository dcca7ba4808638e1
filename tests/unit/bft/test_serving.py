"""What a replica gives to those who fetch, at what rate and for how long; and whom they ask next."""

from bft.effects import Overlay, Send
from bft.messages import MAX_SPAN, FetchParts, FetchState, Message, Parts, Span, StateChunk, StateGone
from bft.peers import ANSWER_TICKS, LONGEST_PAUSE_TICKS, MAX_ASKED, PAUSE_TICKS, WRONG_TICKS, Peers
from bft.serving import ALLOWANCE_BYTES, ANSWER_BYTES, KEPT, LONGEST_PIN_TICKS, UNPIN_TICKS, Serving
from bft.state_tree import Kind, StateTree, state_key
from bft.types import Epoch, ReplicaId, Sequence
from tests.unit.bft.ring import MemoryDisk
from tests.unit.bft.transfers import ITEMS, TIME, Items, membership, named, tree_of

EPOCH = Epoch(0)


def serving() -> tuple[Serving, StateTree]:
    tree = tree_of({state_key(Kind.SESSION, b"%d" % i): b"value" for i in range(3000)})
    made = Serving(membership(), Items(), Overlay(MemoryDisk()))
    made.keep(Sequence(64), TIME, tree)
    return made, tree


def ask(made: Serving, peer: int, sequence: int) -> Message:
    (effect,) = made.on_fetch(ReplicaId(peer), FetchState(EPOCH, Sequence(sequence), [b""]))
    assert isinstance(effect, Send)
    assert effect.to == peer
    return effect.message


def test_as_many_states_are_kept_as_said_and_one_for_each_peer():
    made, tree = serving()
    assert isinstance(ask(made, 0, 64), StateChunk)
    for number in range(128, 64 * 40, 64):
        made.keep(Sequence(number), TIME, tree)
    assert made.held == {64, *range(64 * 40 - 64 * KEPT, 64 * 40, 64)}
    assert ask(made, 2, 128) == StateGone(EPOCH, Sequence(128))
    assert isinstance(ask(made, 2, 64), StateChunk), "what one peer holds back is there for all"
    assert isinstance(ask(made, 0, 64 * 39), StateChunk)
    assert 64 in made.held
    made.heard(ReplicaId(2), Sequence(64))
    assert 64 not in made.held


def test_a_pin_ends_when_it_is_not_used():
    made, tree = serving()
    ask(made, 0, 64)
    for number in range(128, 64 * 20, 64):
        made.keep(Sequence(number), TIME, tree)
    for _ in range(UNPIN_TICKS - 1):
        made.tick()
    assert 64 in made.held
    made.tick()
    assert 64 not in made.held


def test_nobody_pins_a_state_for_ever():
    made, tree = serving()
    ask(made, 0, 64)
    for number in range(128, 64 * 20, 64):
        made.keep(Sequence(number), TIME, tree)
    for tick in range(LONGEST_PIN_TICKS):
        made.tick()
        if tick % 100 == 0:
            ask(made, 0, 64)
    assert 64 not in made.held


def test_a_flood_of_questions_is_answered_at_the_allowed_rate():
    disk = MemoryDisk()
    data = b"\x00" + bytes(700_000)
    disk.tables[ITEMS] = {named(data): data}
    made = Serving(membership(), Items(), Overlay(disk))
    question = FetchParts(EPOCH, [Span(ITEMS, named(data))] * 256)
    answered = 0
    for _ in range(50):
        for _ in range(200):
            for effect in made.on_fetch(ReplicaId(0), question):
                assert isinstance(effect, Send)
                assert isinstance(effect.message, Parts)
                answered += sum(len(value) for _, values in effect.message.found for value in values)
        for effect in made.tick():
            assert isinstance(effect, Send)
            assert isinstance(effect.message, Parts)
            answered += sum(len(value) for _, values in effect.message.found for value in values)
    assert answered < 60 * ALLOWANCE_BYTES
    assert made.on_fetch(ReplicaId(1), question), "others are served all the same"


def test_questions_for_what_is_not_there_count_as_well():
    made = Serving(membership(), Items(), Overlay(MemoryDisk()))
    question = FetchParts(EPOCH, [Span(ITEMS, b"\x00" * 32, MAX_SPAN)] * 256)
    answers = sum(len(made.on_fetch(ReplicaId(0), question)) for _ in range(1000))
    assert answers <= 4 * ALLOWANCE_BYTES // ANSWER_BYTES + 1


def test_answers_are_bounded_and_a_large_part_goes_alone():
    disk = MemoryDisk()
    small = [b"\x00" + b"%d" % i + bytes(400_000) for i in range(5)]
    large = b"\x00" + bytes(4_000_000)
    disk.tables[ITEMS] = {named(data): data for data in [*small, large]}
    made = Serving(membership(), Items(), Overlay(disk))

    def found(*data: bytes) -> list[bytes]:
        spans = [Span(ITEMS, named(each)) for each in data]
        (effect,) = made.on_fetch(ReplicaId(0), FetchParts(EPOCH, spans))
        assert isinstance(effect, Send)
        assert isinstance(effect.message, Parts)
        return [value for _, values in effect.message.found for value in values]

    assert found(*small) == small[:2]
    assert found(large, *small) == [large]
    assert found(small[0], large) == [small[0]]


def test_other_tables_are_not_handed_out():
    disk = MemoryDisk()
    disk.tables["log"] = {b"k": b"votes"}
    made = Serving(membership(), Items(), Overlay(disk))
    (effect,) = made.on_fetch(ReplicaId(0), FetchParts(EPOCH, [Span("log", b"k")]))
    assert effect == Send(ReplicaId(0), Parts(EPOCH, []))


# --- whom to ask -----------------------------------------------------------------------------------------------------


def test_a_few_peers_at_a_time_in_turn():
    peers = Peers(ReplicaId(2), 10)
    first = peers.free()
    assert len(first) == MAX_ASKED
    assert 2 not in first
    for peer in first:
        peers.asked(peer)
    assert peers.free() == []
    peers.answered(first[0])
    (following,) = peers.free()
    assert following not in first


def test_silence_is_left_alone_for_longer_each_time():
    peers = Peers(ReplicaId(0), 4)
    pauses = []
    for _ in range(8):
        peers.asked(ReplicaId(1))
        while ReplicaId(1) not in peers.tick():
            pass
        pause = 0
        while ReplicaId(1) not in peers.free():
            peers.tick()
            pause += 1
        pauses.append(pause)
    assert pauses == [min(PAUSE_TICKS * 2**i, LONGEST_PAUSE_TICKS) for i in range(8)]
    peers.answered(ReplicaId(1))
    peers.asked(ReplicaId(1))
    assert [ReplicaId(1) in peers.tick() for _ in range(ANSWER_TICKS)] == [False] * (ANSWER_TICKS - 1) + [True]
    for _ in range(PAUSE_TICKS):
        peers.tick()
    assert ReplicaId(1) in peers.free()


def test_a_liar_is_left_alone_for_long():
    peers = Peers(ReplicaId(0), 4)
    peers.lied(ReplicaId(1))
    for _ in range(WRONG_TICKS - 1):
        peers.tick()
    assert ReplicaId(1) not in peers.free()
    peers.tick()
    assert ReplicaId(1) in peers.free()

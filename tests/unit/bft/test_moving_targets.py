"""A state to be fetched from a ring that goes on meanwhile, faster than it is asked."""

from bft.state_tree import Kind, StateTree, state_key
from tests.unit.bft.transfers import Items, World


def test_states_that_are_gone_at_once_are_no_reason_to_pause():
    """A ring under load, and one peer that says nothing: by the time that others are asked they have moved on. Who
    waited then before it asked for a newer state found that gone as well, and waited for longer."""
    world = World(Items())
    world.lie = lambda peer, answer: None if peer == 1 else answer
    tree = StateTree.empty()
    for number in range(64, 64 * 200, 64):
        tree = tree.update({state_key(Kind.SESSION, b"key"): b"%d" % number})
        world.begin(number, world.hold(number, tree))
        while world.links:
            world.deliver()
        if world.transfer.done is not None:
            break
        world.tick()
    assert world.transfer.done is not None
    assert number < 64 * 40

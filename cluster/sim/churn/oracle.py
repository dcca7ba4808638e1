"""Whether all nodes mean the same root by the same key, by asking them.

When nothing has moved for a while, every member has to answer every key alike, and with the GUID to which the key
belongs. While halves that were apart find together again, samples of nodes and keys say when that is so.
"""

from collections.abc import Sequence
from typing import NamedTuple

from cluster.sim.churn.overlay import Overlay
from cluster.sim.churn.world import Host, Lookup, World

ANSWER_SECONDS = 10.0
"""To wait for answers."""

SPACING_SECONDS = 0.01
"""From one node that asks to the next. If all asked at once, the questions would queue up before each root for longer
than others wait for an acknowledgement, and who asks would see what asking did."""


class Agreement(NamedTuple):
    """What members said of some keys."""

    keys: int
    one_root: int
    """Keys that all asked for and got one and the same root."""
    right: int
    """Of these, keys whose root is the one to which they belong."""
    asked: int
    """Lookups, without those whose asker died."""
    answered: int

    @property
    def complete(self) -> bool:
        """Whether each key has one root, and that the right one."""
        return self.right == self.keys


class Questions(NamedTuple):
    """Keys that some members were asked at the same time."""

    when: float
    keys: list[bytes]
    lookups: list[list[Lookup]]
    """By key."""


def ask(world: World, keys: Sequence[bytes], hosts: Sequence[Host]) -> Questions:
    """Ask each of these for each of the keys, one node after another, and give back what will have the answers."""
    questions = Questions(world.loop.now, list(keys), [[] for _ in keys])
    for place, host in enumerate(hosts):
        world.loop.after(place * SPACING_SECONDS, _ask_one, world, questions, host)
    return questions


def _ask_one(world: World, questions: Questions, host: Host) -> None:
    if host.core is not None:
        for key, lookups in zip(questions.keys, questions.lookups, strict=True):
            lookups.append(world.ask(host, key))


def judge(questions: Questions, overlay: Overlay, guids: Sequence[bytes]) -> Agreement:
    """What came of the questions; `guids` are those of all members."""
    one_root = right = asked = answered = 0
    for key, lookups in zip(questions.keys, questions.lookups, strict=True):
        counted = [lookup for lookup in lookups if not lookup.asker_died]
        roots = {lookup.root for lookup in counted}
        asked += len(counted)
        answered += sum(1 for lookup in counted if lookup.answered is not None)
        if len(roots) == 1 and b"" not in roots:
            one_root += 1
            right += roots == {overlay.root(key, guids)}
    return Agreement(len(questions.keys), one_root, right, asked, answered)


def ask_everyone(world: World, overlay: Overlay, keys: Sequence[bytes]) -> Agreement:
    """Ask every member for every key, and wait for the answers. Churn should be off."""
    questions = ask(world, keys, list(world.askers))
    world.loop.run(world.loop.now + len(world.askers) * SPACING_SECONDS + ANSWER_SECONDS)
    return judge(questions, overlay, [host.contact.guid for host in world.members])

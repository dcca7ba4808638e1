"""What a mutant is: a bug that is planted, and how the tests are to find it."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import pytest

from bft.membership import Membership

Plant = Callable[[pytest.MonkeyPatch], None]

OPERATIONS = 100
"""Of the runs that look for a mutant: few, so that a seed is done in a fraction of a second."""


class BySeeds(NamedTuple):
    """The simulator finds it: the first seed that ends otherwise than well must say so."""

    says: str
    """Regular expression that is found in what the run says."""
    most: int
    """Seeds that this takes at most."""
    switched_on: str = ""
    """TOML: what each seed's own manifest is changed by. It may only bring faults and sizes that favour the bug."""
    verdicts: tuple[Literal["safety", "liveness", "crash"], ...] = ("safety",)
    """How the run may end: a bug may show in more than one way, and which comes first is up to the seed."""


class ByTests(NamedTuple):
    """Tests find it: at least one of them fails."""

    says: str
    """Regular expression that is found in the failure: not any failure will do, least of all one of the planting."""
    nodes: tuple[str, ...]
    """As pytest names them."""


class Mutant(NamedTuple):
    """One bug."""

    name: str
    breaks: str
    """What is wrong, in a sentence."""
    rule: str
    """Of the design's safety rules (`rule 3`), or the section that it breaks."""
    plant: Plant
    found_by: BySeeds | ByTests
    quick: bool
    """Whether the ordinary test run looks for it too."""


MUTANTS: dict[str, Mutant] = {}


def mutant(rule: str, *found_by: BySeeds | ByTests, quick: bool = False) -> Callable[[Plant], Plant]:
    """Registers the function that plants a bug; its name is the mutant's, and its docstring says what is wrong. Each of
    several ways must find it; the ordinary test run takes the first."""

    def register(plant: Plant) -> Plant:
        assert plant.__doc__, f"{plant.__name__} does not say what it breaks"
        for number, way in enumerate(found_by, 1):
            name = plant.__name__.replace("_", "-") + (f"/{number}" if number > 1 else "")
            assert name not in MUTANTS, f"two mutants are called {name}"
            MUTANTS[name] = Mutant(name, " ".join(plant.__doc__.split()), rule, plant, way, quick and number == 1)
        return plant

    return register


def one_less(patch: pytest.MonkeyPatch, owner: type, method: str, count: Literal["quorum", "weak"]) -> None:
    """Within this method, quorums of this kind have a member less."""
    whole = getattr(Membership, count).fget
    inside = 0

    def counted(self, *about):
        nonlocal inside
        inside += 1
        try:
            return original(self, *about)
        finally:
            inside -= 1

    original = getattr(owner, method)
    patch.setattr(Membership, count, property(lambda membership: whole(membership) - (inside > 0)))
    patch.setattr(owner, method, counted)

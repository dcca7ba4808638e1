"""A set to which adding, removing and picking at random take no longer the larger it is, in an order all its own."""

import random
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Population(Generic[T]):
    """Iterates, and picks, in an order that only follows from what was added and removed, and when."""

    def __init__(self) -> None:
        self._all: list[T] = []
        self._where: dict[int, int] = {}

    def add(self, one: T) -> None:
        """One that is not in it."""
        assert id(one) not in self._where, f"{one} is there already"
        self._where[id(one)] = len(self._all)
        self._all.append(one)

    def remove(self, one: T) -> None:
        """One that is in it; the last takes its place."""
        place, last = self._where.pop(id(one)), self._all.pop()
        if last is not one:
            self._all[place] = last
            self._where[id(last)] = place

    def pick(self, choices: random.Random) -> T:
        """Any one of them."""
        return self._all[choices.randrange(len(self._all))]

    def sample(self, choices: random.Random, count: int) -> list[T]:
        """So many different ones, or all in random order when there are fewer."""
        return choices.sample(self._all, min(count, len(self._all)))

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[T]:
        return iter(self._all)

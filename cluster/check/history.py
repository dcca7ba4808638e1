"""What clients did and saw, as plain data, and what a checker may say about it."""

from typing import NamedTuple


class Operation(NamedTuple):
    """One operation on one object, as its client saw it."""

    client: int
    name: str
    """What it was, for people."""
    object: bytes
    began: float
    ended: float | None
    """None when it never came back: it may have run, and may yet run."""
    version: int | None
    """The newest version of the object when it ran, itself included; None when that is unknown."""
    made: bool
    """Whether it made that version, so that it came after all that had ended before it began."""

    def __str__(self) -> str:
        end = "..." if self.ended is None else f"{self.ended:.6f}"
        verb = "made" if self.made else "saw"
        return (
            f"client {self.client} {self.name} of object {self.object.hex()[:8]}, {self.began:.6f} to {end}: "
            f"{verb} version {self.version}"
        )


class Ok(NamedTuple):
    """The history is as promised."""

    checked: int
    """Operations that said something."""


class Illegal(NamedTuple):
    """No correct system behaves so."""

    reason: str
    operations: tuple[Operation, ...]

    def __str__(self) -> str:
        return "\n    ".join([self.reason, *map(str, self.operations)])


class Unknown(NamedTuple):
    """The history does not tell."""

    reason: str


Verdict = Ok | Illegal | Unknown

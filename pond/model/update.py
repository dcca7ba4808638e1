"""What a client asks of an object: clauses tried in order, the first whose predicates all hold applied atomically.

An update is the operation of a signed request. Its form is checked before it is ordered, from its bytes alone; whether
its predicates hold and its actions are possible is judged at execution (design.md, 4; Pond, FAST 2003, section 3.1).
"""

from collections.abc import Iterator
from typing import Annotated, TypeAlias, Union

import msgspec

from bft.statement import Digest
from bft.types import Natural
from pond.model.block import BlockSize, Run
from pond.model.stored import Codec, Stored
from pond.model.version import Metadata
from tapestry.guid import GUID

MAX_CLAUSES = 64
MAX_ACTIONS = 256
"""Actions of all clauses together."""
MAX_PREDICATES = 256
"""Predicates of all clauses together, counted with those inside others."""
MAX_PREDICATE_DEPTH = 16
MAX_BLOCK_REFS = 2**18
"""Block references of all actions together."""


class UpdateError(ValueError):
    """An update whose form is bad."""


class _Part(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


# --- predicates --------------------------------------------------------------------------------------------------


class VersionIs(_Part, frozen=True, tag=0):
    """The newest version, tombstones counted, has this number; 0 holds only where there never was a version.

    So `VersionIs(0)` is stronger than `Absent`, which holds for a deleted object too.
    """

    number: Natural


class SizeIs(_Part, frozen=True, tag=1):
    """The content has this many bytes; what is absent has none."""

    size_bytes: Natural


class BlockIs(_Part, frozen=True, tag=2):
    """The content has a block `index`, counted from 0, and it is this one."""

    index: Natural
    bguid: GUID


class Exists(_Part, frozen=True, tag=3):
    """There is a version, and the newest is not a tombstone."""


class Absent(_Part, frozen=True, tag=4):
    """There never was a version, or the newest is a tombstone."""


class Before(_Part, frozen=True, tag=5):
    """Agreed time is less than this (microseconds)."""

    time: Natural


class After(_Part, frozen=True, tag=6):
    """Agreed time is greater than this (microseconds)."""

    time: Natural


class MetadataIs(_Part, frozen=True, tag=7):
    """The encrypted metadata has this digest; None holds where there is none."""

    digest: Digest | None


class And(_Part, frozen=True, tag=8):
    """All hold."""

    terms: Annotated[list["Predicate"], msgspec.Meta(min_length=1, max_length=MAX_PREDICATES)]


class Or(_Part, frozen=True, tag=9):
    """At least one holds."""

    terms: Annotated[list["Predicate"], msgspec.Meta(min_length=1, max_length=MAX_PREDICATES)]


class Not(_Part, frozen=True, tag=10):
    """The other does not hold."""

    term: "Predicate"


Predicate: TypeAlias = Union[
    VersionIs, SizeIs, BlockIs, Exists, Absent, Before, After, MetadataIs, "And", "Or", "Not"
]  # fmt: skip


# --- actions -----------------------------------------------------------------------------------------------------

Runs = Annotated[list[Run], msgspec.Meta(min_length=1, max_length=MAX_BLOCK_REFS)]


class Write(_Part, frozen=True, tag=0):
    """These blocks become the whole content; no runs make it empty."""

    runs: Annotated[list[Run], msgspec.Meta(max_length=MAX_BLOCK_REFS)]


class Append(_Part, frozen=True, tag=1):
    """These blocks follow the content."""

    runs: Runs


class Truncate(_Part, frozen=True, tag=2):
    """Only the first bytes of the content stay; impossible beyond its size."""

    size_bytes: Natural


class ReplaceBlocks(_Part, frozen=True, tag=3):
    """These blocks, as many or not, take the place of `count` blocks from block `index` on."""

    index: Natural
    count: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    runs: Runs


class InsertBlocks(_Part, frozen=True, tag=4):
    """These blocks come before block `index`, or at the end where that is the number of blocks."""

    index: Natural
    runs: Runs


class DeleteBlocks(_Part, frozen=True, tag=5):
    """`count` blocks from block `index` on go."""

    index: Natural
    count: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]


class SetMetadata(_Part, frozen=True, tag=6):
    """This becomes the metadata, or there is none any more."""

    metadata: Metadata | None


class Delete(_Part, frozen=True, tag=7):
    """The object is gone: a tombstone is its next version. Stands alone in its clause."""


Action: TypeAlias = (
    Write | Append | Truncate | ReplaceBlocks | InsertBlocks | DeleteBlocks | SetMetadata | Delete
)  # fmt: skip


# --- updates -----------------------------------------------------------------------------------------------------


class Clause(_Part, frozen=True):
    """If all predicates hold, the actions, in order; without predicates, in any case."""

    predicates: Annotated[list[Predicate], msgspec.Meta(max_length=MAX_PREDICATES)]
    actions: Annotated[list[Action], msgspec.Meta(min_length=1, max_length=MAX_ACTIONS)]


class Founding(_Part, frozen=True):
    """What makes an object: the tag that gives its AGUID together with the owner's key, and its block size for ever."""

    name_tag: Digest
    block_size: BlockSize


class Update(Stored, frozen=True, kw_only=True, tag="pond.update"):
    """One atomic change of one object. `founding` says how to make it if it is not there, and is ignored if it is."""

    aguid: GUID
    founding: Founding | None
    clauses: Annotated[list[Clause], msgspec.Meta(min_length=1, max_length=MAX_CLAUSES)]


_updates = Codec(Update, "an update", UpdateError)


def decode(data: bytes) -> Update:
    """The update with these canonical bytes. Raises UpdateError when its form is bad."""
    update = _updates.decode(data)
    _check_limits(update)
    return update


def check(update: Update) -> None:
    """Raises UpdateError when the form of an update that was built here is one that servers refuse."""
    try:
        decode(update.encode())
    except OverflowError:
        raise UpdateError("a number above 2**64") from None


def named_blocks(update: Update) -> list[GUID]:
    """The distinct BGUIDs that servers must hold before they vote for the update, in the order of their first use."""
    return list(dict.fromkeys(name for run in _all_runs(update) for name in run.bguids))


def runs_of(action: Action) -> list[Run]:
    """The runs of blocks that an action brings."""
    match action:
        case Write(runs) | Append(runs) | ReplaceBlocks(runs=runs) | InsertBlocks(runs=runs):
            return runs
        case _:
            return []


def _all_runs(update: Update) -> Iterator[Run]:
    for clause in update.clauses:
        for action in clause.actions:
            yield from runs_of(action)


def _check_limits(update: Update) -> None:
    if sum(len(clause.actions) for clause in update.clauses) > MAX_ACTIONS:
        raise UpdateError(f"more than {MAX_ACTIONS} actions")
    if sum(len(run.bguids) for run in _all_runs(update)) > MAX_BLOCK_REFS:
        raise UpdateError(f"more than {MAX_BLOCK_REFS} blocks")
    for clause in update.clauses:
        if len(clause.actions) > 1 and any(isinstance(action, Delete) for action in clause.actions):
            raise UpdateError("a delete stands alone in its clause")
    pending = [(predicate, 1) for clause in update.clauses for predicate in clause.predicates]
    count = 0
    while pending:
        predicate, depth = pending.pop()
        count += 1
        if count > MAX_PREDICATES:
            raise UpdateError(f"more than {MAX_PREDICATES} predicates")
        if depth > MAX_PREDICATE_DEPTH:
            raise UpdateError(f"predicates nested deeper than {MAX_PREDICATE_DEPTH}")
        match predicate:
            case And(terms) | Or(terms):
                pending += [(term, depth + 1) for term in terms]
            case Not(term):
                pending.append((term, depth + 1))

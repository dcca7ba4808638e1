"""What an update may ask of an object before it changes it. Judged by the ring at the moment the update is ordered."""

from datetime import datetime

from pond.errors import UsageError
from pond.model import update
from pond.model.update import Predicate

__all__ = [
    "Predicate",
    "absent",
    "after",
    "all_of",
    "any_of",
    "before",
    "block_is",
    "exists",
    "metadata_is",
    "not_",
    "size_is",
    "version_is",
]


def version_is(number: int) -> Predicate:
    """The newest version has this number; 0: there never was one."""
    return update.VersionIs(_natural(number, "a version number"))


def size_is(size_bytes: int) -> Predicate:
    """The content has this many bytes; what is absent has none."""
    return update.SizeIs(_natural(size_bytes, "a size"))


def block_is(index: int, bguid: bytes) -> Predicate:
    """The content's block `index`, counted from 0, is this one."""
    if len(bguid) != 32:
        raise UsageError("a BGUID has 32 bytes")
    return update.BlockIs(_natural(index, "a block's index"), bguid)


def exists() -> Predicate:
    """There is content: at least one version, and the newest is no tombstone."""
    return update.Exists()


def absent() -> Predicate:
    """There is no content: the object was never written, or is deleted."""
    return update.Absent()


def before(time: datetime) -> Predicate:
    """The ring's agreed time is before this."""
    return update.Before(to_microseconds(time))


def after(time: datetime) -> Predicate:
    """The ring's agreed time is after this."""
    return update.After(to_microseconds(time))


def metadata_is(digest: bytes | None) -> Predicate:
    """The encrypted metadata has this digest (`ObjectStat.metadata_digest`); None: there is none."""
    if digest is not None and len(digest) != 32:
        raise UsageError("a digest has 32 bytes")
    return update.MetadataIs(digest)


def all_of(*predicates: Predicate) -> Predicate:
    """Every one of these holds."""
    if not predicates:
        raise UsageError("all_of() needs at least one predicate")
    return update.And(list(predicates))


def any_of(*predicates: Predicate) -> Predicate:
    """At least one of these holds."""
    if not predicates:
        raise UsageError("any_of() needs at least one predicate")
    return update.Or(list(predicates))


def not_(predicate: Predicate) -> Predicate:
    """This does not hold."""
    return update.Not(predicate)


def to_microseconds(time: datetime) -> int:
    """Microseconds since 1970-01-01 UTC. Raises UsageError for a time without a time zone, or out of bounds."""
    if time.tzinfo is None:
        raise UsageError(f"time {time.isoformat()} has no time zone: say which, e.g. datetime(..., tzinfo=UTC)")
    seconds = time.timestamp()
    if seconds < 0:
        raise UsageError(f"time {time.isoformat()} is before 1970")
    return int(seconds) * 1_000_000 + time.microsecond


def _natural(number: int, what: str) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**63:
        raise UsageError(f"{what} is a number from 0 to 2**63 - 1, not {number!r}")
    return number

"""What agreement needs of the service it orders for. `bft` knows operations, keys and values as bytes only."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from bft.effects import Reader, Write
from bft.messages import Span
from bft.statement import Digest
from bft.types import AgreedTime


class ServiceView(Protocol):
    """What an execution may read: the state tree and the service's own tables, both as the last execution left them."""

    def state(self, key: bytes) -> bytes | None:
        """Value of a key of the state tree."""
        ...

    def get(self, table: str, key: bytes) -> bytes | None:
        """Value of a key of one of the service's tables."""
        ...

    def size(self, table: str, key: bytes) -> int | None:
        """Length of such a value in bytes."""
        ...


class Result(NamedTuple):
    """Outcome of one operation: result bytes for the client, changes of the state tree, and writes to tables."""

    result: bytes
    state: Mapping[bytes, bytes | None]
    writes: tuple[Write, ...]


class PartError(ValueError):
    """Values that are not those of the part that was asked for."""


class Accepted(NamedTuple):
    """What a part's values come to: parts that they name in turn, and writes that put it there.

    The writes are made when everything below is held. So an entry that is there has all below it, and a walk that was
    interrupted passes over what it finds.
    """

    below: Sequence["Part"]
    writes: tuple[Write, ...]


class Part(Protocol):
    """Entries of the service's tables that the state commits to, and that prove themselves to whoever knows this."""

    @property
    def span(self) -> Span:
        """Where they are, here and at any other replica. Its table and first key name the part."""
        ...

    @property
    def size_bytes(self) -> int:
        """About how long its values are."""
        ...

    def held(self, disk: Reader) -> tuple[Write, ...] | None:
        """None when the disk lacks it; else what is still to be written about it, mostly nothing."""
        ...

    def accept(self, values: Sequence[bytes]) -> Accepted:
        """Take its values, from anybody. Raises PartError unless they are what was committed to."""
        ...


class StateMachine(Protocol):
    """A deterministic service (TOCS 2002, section 2): same operations in the same order, same results and states."""

    def refuses(self, operation: bytes) -> str | None:
        """Reason why the operation's form is bad, or None; judged before it is ordered, from its bytes alone."""
        ...

    def bodies(self, operation: bytes) -> list[Digest]:
        """Digests of the bodies that must be held before a replica votes for the operation."""
        ...

    def body_digest(self, body: bytes) -> Digest:
        """Name of a body."""
        ...

    def body_table(self) -> str:
        """Table that holds bodies by their digest."""
        ...

    def hold(self, name: Digest, body: bytes, time: AgreedTime) -> tuple[Write, ...]:
        """Writes that put a body there which is not held yet, on behalf of an operation proposed at `time`."""
        ...

    def execute(
        self, operation: bytes, principal: bytes, request: Digest, time: AgreedTime, view: ServiceView
    ) -> Result:
        """Run one operation. Must not raise, whatever was ordered."""
        ...

    def parts(self, key: bytes, old: bytes | None, new: bytes | None) -> Iterable[Part]:
        """What entry `key` of the state commits to with value `new`, beyond what it did with value `old`.

        Empty for entries that stand for themselves. Lazy: a part names further ones once its values are there.
        """
        ...

    def read(self, span: Span, disk: Reader) -> list[bytes] | None:
        """The values of a part's entries, or None when they are not all there, or sound, or of a table of parts."""
        ...

"""What agreement needs of the service it orders for. `bft` knows operations, keys and values as bytes only."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from bft.effects import Write
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

"""The store as the ring orders it: what `bft` sees as bytes, `pond.model` understands."""

from collections import OrderedDict
from collections.abc import Iterable

from bft.effects import Reader, Write
from bft.messages import Span
from bft.service import Part, Result, ServiceView
from bft.statement import Digest
from bft.types import AgreedTime
from pond.model import execution
from pond.model.block import bguid
from pond.model.tables import BLOCKS, NODES, NUMBERS, OUTCOMES, RANGES, VERSIONS
from pond.model.update import Update, UpdateError, decode, named_blocks
from pond.model.version import Status
from pond.node import parts
from pond.node.uploads import UPLOADS, UPLOADS_BY_TIME, marked, marked_anew, unmarked

TABLES = (BLOCKS, NODES, VERSIONS, NUMBERS, OUTCOMES, RANGES, UPLOADS, UPLOADS_BY_TIME)
"""The last two are each server's own."""

REMEMBERED = 512
REMEMBERED_BYTES = 64 * 1024
"""Decoded updates remembered between the check, the vote and the execution; larger ones are decoded again."""


class Service:
    """A bft.service.StateMachine. Holds no state: everything is in the view that it is given."""

    def __init__(self) -> None:
        self._decoded: OrderedDict[bytes, Update] = OrderedDict()

    def refuses(self, operation: bytes) -> str | None:
        """Why no server may vote for an operation, whatever the state."""
        try:
            self._decode(operation)
        except UpdateError as error:
            return str(error)
        return None

    def bodies(self, operation: bytes) -> list[Digest]:
        """BGUIDs of the blocks that an update names."""
        return named_blocks(self._decode(operation))

    def body_digest(self, body: bytes) -> Digest:
        """BGUID of a block."""
        return bguid(body)

    def body_table(self) -> str:
        """Where blocks are."""
        return BLOCKS

    def hold(self, name: Digest, body: bytes, time: AgreedTime) -> tuple[Write, ...]:
        """A block that came with an update is an upload like any other until an update that names it has committed."""
        return (Write(BLOCKS, name, body), *marked(name, time))

    def execute(
        self, operation: bytes, principal: bytes, request: Digest, time: AgreedTime, view: ServiceView
    ) -> Result:
        """Run an update; its result is an encoded Outcome."""
        update = self._decode(operation)
        ran = execution.execute(update, principal, request, time, view)
        committed = ran.outcome.status is Status.COMMITTED
        writes = list(ran.writes)
        for name in dict.fromkeys(named_blocks(update)):
            mark = view.get(UPLOADS, name)
            if mark is not None:
                # Blocks of an update that did not commit wait anew: servers that are behind must still find them.
                writes += unmarked(name, mark) if committed else marked_anew(name, mark, time)
        return Result(ran.outcome.encode(), ran.state, tuple(writes))

    def parts(self, key: bytes, old: bytes | None, new: bytes | None) -> Iterable[Part]:
        """What an object's record commits to."""
        return parts.object_parts(key, old, new)

    def read(self, span: Span, disk: Reader) -> list[bytes] | None:
        """Entries of the tables that servers share."""
        return parts.read(span, disk)

    def _decode(self, operation: bytes) -> Update:
        known = self._decoded.get(operation)
        if known is not None:
            return known
        update = decode(operation)
        if len(operation) <= REMEMBERED_BYTES:
            self._decoded[operation] = update
            if len(self._decoded) > REMEMBERED:
                self._decoded.popitem(last=False)
        return update

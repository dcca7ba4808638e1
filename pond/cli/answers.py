"""Every answer that `--json` prints, each once: scripts rely on these keys.

Times are ISO 8601 text in UTC, to the microsecond, and can be given to `--at`; sizes are bytes; GUIDs and keys are
base-16 text.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypeAlias

import click
import msgspec


class Answer(msgspec.Struct, frozen=True, kw_only=True, rename={"from_version": "from", "to_version": "to"}):
    """Base of all answers: a JSON object."""


class Written(Answer, frozen=True, kw_only=True):
    """`put`, `append`, `restore` and `rm`: the version that was made."""

    name: str
    aguid: str
    version: int
    vguid: str
    size: int
    time: str
    status: str
    """`committed`, or `deleted` after `rm`: ordered, and proved by the ring's signature."""
    resumed: int = 0
    """Bytes that were not sent, as servers held them from an attempt that was broken off."""


class SignedStatement(Answer, frozen=True, kw_only=True):
    """A certificate in base-16 digits: the bytes that the ring signed, and its Ed25519 signature over them."""

    statement: str
    signature: str


class Stat(Answer, frozen=True, kw_only=True):
    """`stat`: the newest version, and what is fixed for the object. `ls` answers with a list of these."""

    name: str
    aguid: str
    version: int
    vguid: str
    size: int
    time: str
    block_size: int
    deleted: bool
    updates: int
    """In its history, counted with those that changed nothing because a predicate did not hold."""
    owner: str
    """Public key of its owner."""
    certificate: SignedStatement
    """The ring's signature over the state that this was read from (docs/protocol.md shows how to check it)."""


class Event(Answer, frozen=True, kw_only=True):
    """`log`: one outcome, oldest first. The answer is a list of these."""

    version: int
    """The version that was made; after an abort the one that was newest then, 0 for none."""
    vguid: str | None
    size: int
    time: str
    writer: str
    """Public key of who signed the update."""
    status: str
    """`committed`, `deleted`, or `aborted`."""
    reason: str | None
    """Why it was aborted."""


class Change(Answer, frozen=True, kw_only=True):
    """Bytes old_start <= offset < old_end of the one version became new_start <= offset < new_end of the other."""

    old_start: int
    old_end: int
    new_start: int
    new_end: int


class Difference(Answer, frozen=True, kw_only=True):
    """`diff`: where two versions differ."""

    name: str
    from_version: int
    to_version: int
    equal: bool
    changes: list[Change]


class Exported(Answer, frozen=True, kw_only=True):
    """`export`: the file that was written."""

    name: str
    file: str
    size: int
    versions: int
    aborted: int
    with_data: bool
    time: str
    """The history is complete up to then."""


class Verified(Answer, frozen=True, kw_only=True):
    """`verify`: whether everything holds against the ring's key."""

    name: str
    """The object's name, or the file's: a bundle does not say what its object is called."""
    versions: int
    ok: bool
    aguid: str | None = None
    size: int | None = None
    with_data: bool | None = None
    time: str | None = None
    """The history is complete up to then."""
    start: int | None = None
    end: int | None = None
    """Bytes start <= offset < end are the first that do not hold."""
    reason: str | None = None


class OwnerKey(Answer, frozen=True, kw_only=True):
    """`key new`, `show` and `list`: the public side of an owner's key. `list` answers with a list."""

    file: str
    public_key: str
    """What others know the owner by; the `writer` in logs."""


class WalkedHop(Answer, frozen=True, kw_only=True):
    """A node on the way to a root, asked for the next one."""

    name: str | None
    """Null when the cluster's file does not have it."""
    guid: str
    ms: float | None
    """Until it had answered; null when it did not."""


class RouteFound(Answer, frozen=True, kw_only=True):
    """`overlay route`: the root of a key, as one server found it."""

    key: str
    source: str
    """The server that looked for it."""
    root: str | None
    """Its name; null when the cluster's file does not have it."""
    root_guid: str
    hops: int
    ms: float
    """For all of the way, from node to node, and the answer."""
    walk: list[WalkedHop]
    """The way as its nodes tell it, each asked for the next one; other than the way above where one of these was passed
    over, and shorter where one does not answer."""


class KnownNode(Answer, frozen=True, kw_only=True):
    """A node that another one knows."""

    name: str | None
    guid: str
    leaf: bool
    """Whether it is in the leaf set."""
    row: int | None
    """Its row in the routing table: how many digits of the GUID the two share. Null when it is a leaf alone."""
    rtt_ms: float | None
    """Null while there was no round trip."""
    suspect: bool
    """Whether it left the last question without an answer."""


class NodeTable(Answer, frozen=True, kw_only=True):
    """`overlay table`: what a node says of itself."""

    name: str
    guid: str
    joined: bool
    neighbours: list[KnownNode]
    pointers: int
    """That it keeps for those who search."""
    objects: int
    """That it has published."""


class ObjectFound(Answer, frozen=True, kw_only=True):
    """`overlay locate`: who says that it holds a test object."""

    name: str
    object: str
    source: str
    """The server that searched."""
    holder: str | None
    """Its name; null when the cluster's file does not have it."""
    holder_guid: str
    hops: int
    ms: float


class ObjectPublished(Answer, frozen=True, kw_only=True):
    """`overlay publish`: the servers that say from now on that they hold a test object, or no longer."""

    name: str
    object: str
    servers: list[str]
    done: str
    """`published` or `withdrawn`."""


Printed: TypeAlias = Answer | Sequence[Answer]


def show(answer: Printed, text: str, as_json: bool) -> None:
    """Print an answer on standard output: as JSON, or as this text, which may be empty."""
    if as_json:
        click.echo(msgspec.json.encode(answer).decode())
    elif text:
        click.echo(text)


def iso(time: datetime) -> str:
    """A time as the answers have it."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def human_size(size: int) -> str:
    """A number of bytes for people."""
    if size < 1024:
        return f"{size} bytes"
    value, units = size / 1024, ["KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.1f} {units[0]}"


def table(rows: Sequence[Sequence[object]], right: Sequence[int] = ()) -> str:
    """Rows, the first of which names the columns, in aligned columns; those in `right` are numbers."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]))]
    lines = []
    for row in texts:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)

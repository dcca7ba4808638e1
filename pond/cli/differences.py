"""How two versions of an object differ: as lines where both are short texts, else as ranges of bytes."""

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import click

from pond.cli.answers import Change, Difference, show, table

if TYPE_CHECKING:
    from pond.client.content import ChangedRange
    from pond.client.sync import Object

TEXT_BYTES = 1024 * 1024
"""Longer versions are not compared line by line."""

PIECE_BYTES = 1024 * 1024


def show_difference(target: "Object", old: int, new: int, as_json: bool) -> None:
    """Print it. Raises NotFound for a version that is not there or is deleted."""
    with target.open("rb", version=old) as before, target.open("rb", version=new) as after:
        short = max(before.version.size, after.version.size) <= TEXT_BYTES
        if short and not as_json:
            texts = [_text(file.read()) for file in (before, after)]
            if texts[0] is not None and texts[1] is not None:
                _show_lines(texts[0], texts[1], (f"{target.name}, version {old}", f"{target.name}, version {new}"))
                return
        # The blocks that both share are known without fetching any; of the others, those may be equal that were
        # written again, so their contents decide.
        changes = [change for found in target.changed_ranges(old, new) for change in _narrowed(before, after, found)]
    answer = Difference(name=target.name, from_version=old, to_version=new, equal=not changes, changes=changes)
    if changes:
        rows = [(f"{c.old_start} to {c.old_end}", f"{c.new_start} to {c.new_end}") for c in changes]
        show(answer, table([(f"BYTES OF VERSION {old}", f"BYTES OF VERSION {new}"), *rows]), as_json)
    else:
        show(answer, "", as_json)


def _text(content: bytes) -> list[str] | None:
    """Lines of a text, or None where it is none."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text.splitlines(keepends=True)


def _show_lines(before: list[str], after: list[str], names: tuple[str, str]) -> None:
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for line in difflib.unified_diff(before, after, *names):
        end = "" if line.endswith("\n") else "\n\\ No newline at the end\n"
        click.secho(line.rstrip("\n"), fg=colours.get(line[0]), nl=False)
        click.echo(end if end else "\n", nl=False)


def _narrowed(before: BinaryIO, after: BinaryIO, found: "ChangedRange") -> Iterator[Change]:
    """The range without the bytes at its start and at its end that are equal; nothing where all are."""
    size = min(found.old_stop - found.old_start, found.new_stop - found.new_start)
    head = _common(before, after, found.old_start, found.new_start, size, from_end=False)
    tail = _common(before, after, found.old_stop, found.new_stop, size - head, from_end=True)
    change = Change(
        old_start=found.old_start + head,
        old_end=found.old_stop - tail,
        new_start=found.new_start + head,
        new_end=found.new_stop - tail,
    )
    if change.old_start < change.old_end or change.new_start < change.new_end:
        yield change


def _common(before: BinaryIO, after: BinaryIO, old: int, new: int, size: int, *, from_end: bool) -> int:
    """How many bytes are equal from these offsets on, or with `from_end` up to them; at most `size`."""
    done = 0
    while done < size:
        count = min(PIECE_BYTES, size - done)
        pieces = []
        for file, offset in ((before, old), (after, new)):
            file.seek(offset - done - count if from_end else offset + done)
            pieces.append(file.read(count))
        if pieces[0] != pieces[1]:
            pairs = zip(*(reversed(piece) if from_end else piece for piece in pieces), strict=True)
            return done + next(place for place, (a, b) in enumerate(pairs) if a != b)
        done += count
    return done

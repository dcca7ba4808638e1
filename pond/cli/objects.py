"""Commands on objects: each opens a store, calls the library once or twice, and prints what it got."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn

import click

from pond.cli.answers import Event, Exported, SignedStatement, Stat, Verified, Written, human_size, iso, show, table
from pond.cli.differences import show_difference
from pond.cli.files import open_input, resumed_output
from pond.cli.files import output as output_file
from pond.cli.options import (
    VERSION,
    F,
    Progress,
    block_size,
    byte_range,
    cluster_option,
    json_option,
    key_option,
    moment,
    named_cluster,
    named_key,
    object_name,
    one_line,
    ring_key,
    timeout_option,
    vguid,
)
from pond.errors import Aborted, NotFound, UsageError, VerificationFailed

if TYPE_CHECKING:
    from pond.client.objects import ObjectStat
    from pond.client.ring import Consistency
    from pond.client.sync import Object, Store, Update
    from pond.client.target import Version

CONSISTENCIES = ("latest", "any")

_RELY_NOT = "do not rely on it, and take another copy"
_WRONG_KEY = (
    "this is likely the key of another ring: `pond cluster status` shows the right one where the history was made; if"
    " it is right, take another copy"
)

name_argument = click.argument("name", type=object_name)


def _on_store(command: F) -> F:
    """The options of every command that talks to the ring."""
    return timeout_option(key_option(cluster_option(command)))


@contextmanager
def connected(timeout: float) -> Iterator["Store"]:
    """A store, as the options say."""
    from pond.client.sync import connect

    with connect(named_cluster(), key=named_key(), timeout=timeout) as store:
        yield store


def _written(target: "Object", version: "Version", status: str = "committed", resumed: int = 0) -> Written:
    return Written(
        name=target.name,
        aguid=target.aguid.hex(),
        version=version.number,
        vguid=version.vguid.hex(),
        size=version.size,
        time=iso(version.time),
        status=status,
        resumed=resumed,
    )


def _commit(target: "Object", update: "Update", progress: Progress) -> Written:
    progress.resumed_bytes = lambda: update.resumed_bytes
    version = update.commit(progress=progress)
    return _written(target, version, resumed=update.resumed_bytes)


def _show_written(answer: Written, as_json: bool) -> None:
    what = f"{answer.name}: version {answer.version}, {human_size(answer.size)}, {answer.time}"
    if answer.status != "committed":
        what += f", {answer.status}"
    if answer.resumed:
        what += f", resumed: {human_size(answer.resumed)} were there"
    show(answer, what, as_json)


# --- writing -----------------------------------------------------------------------------------------------------


@click.command()
@name_argument
@click.argument("file", required=False)
@click.option("--if-version", type=VERSION, metavar="N", help="Only if version N is the newest; else exit code 3.")
@click.option("--if-absent", is_flag=True, help="Only if there is no such object, or it was deleted; else exit code 3.")
@click.option(
    "--block-size",
    type=block_size,
    metavar="SIZE",
    help="Of a new object, for ever: 4K to 4M; another one than an object has is refused.  [default: by the length of"
    " FILE]",
)
@_on_store
@json_option
def put(
    name: str,
    file: str | None,
    if_version: int | None,
    if_absent: bool,
    block_size: int | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Write FILE, or standard input where it is - or left out, as the next version of object NAME.

    When it is broken off, run it again: of a FILE of 16 MiB or more only what the servers do not hold yet is sent. They
    keep what was sent for two hours.
    """
    from pond.client import predicates
    from pond.client.target import check_block_size

    if if_version is not None and if_absent:
        raise click.UsageError("--if-version and --if-absent exclude each other: choose one")
    with open_input(file) as content, connected(timeout) as store, Progress(f"put {name}") as progress:
        if if_version is None:
            target = store.create(name, block_size=block_size)
        else:
            target = store.open(name)  # a version that has to be there belongs to an object that is there
            if block_size is not None:
                check_block_size(repr(name), target.stat().block_size, block_size)
        update = target.update().write(content)
        if if_version is not None:
            update.when(predicates.version_is(if_version))
        if if_absent:
            update.when(predicates.absent())
        try:
            answer = _commit(target, update, progress)
        except Aborted as error:
            raise _put_refused(error, name, if_version, if_absent) from None
    _show_written(answer, as_json)


def _put_refused(error: Aborted, name: str, if_version: int | None, if_absent: bool) -> Aborted:
    """In the words of the options that were given, where these are why nothing was written."""
    if if_version is not None and error.version != if_version:
        newer = f": `pond diff {name} {if_version} {error.version}` shows what changed" * (if_version < error.version)
        said = f"nothing was written, as version {error.version} of {name!r} is the newest, not {if_version}{newer}"
    elif if_absent and error.version:
        said = f"nothing was written, as {name!r} exists, at version {error.version}: leave out --if-absent to go on"
    else:
        return error
    return Aborted(said, reason=error.reason, version=error.version)


@click.command()
@name_argument
@click.argument("file", required=False)
@_on_store
@json_option
def append(name: str, file: str | None, timeout: float, as_json: bool) -> None:
    """Add FILE, or standard input where it is - or left out, to the end of object NAME, whatever that is by then."""
    with open_input(file) as content, connected(timeout) as store, Progress(f"append {name}") as progress:
        target = store.open(name)
        answer = _commit(target, target.update().append(content), progress)
    _show_written(answer, as_json)


@click.command()
@name_argument
@click.argument("version", type=VERSION)
@_on_store
@json_option
def restore(name: str, version: int, timeout: float, as_json: bool) -> None:
    """Make VERSION of object NAME the newest again, as a new version; no content travels."""
    with connected(timeout) as store:
        target = store.open(name)
        answer = _written(target, target.restore(version))
    _show_written(answer, as_json)


@click.command()
@name_argument
@_on_store
@json_option
def rm(name: str, timeout: float, as_json: bool) -> None:
    """Delete object NAME: its history stays, and `pond restore` brings it back."""
    with connected(timeout) as store:
        target = store.open(name)
        answer = _written(target, target.delete(), "deleted")
    _show_written(answer, as_json)


# --- reading -----------------------------------------------------------------------------------------------------


@click.command()
@name_argument
@click.option("--version", type=VERSION, metavar="N", help="The version with this number.")
@click.option("--vguid", type=vguid, metavar="GUID", help="The version with this VGUID.")
@click.option(
    "--at",
    type=moment,
    metavar="TIME",
    help="The version that was the newest at this time: ISO 8601, local unless it names a zone, or seconds since 1970.",
)
@click.option("-o", "--output", metavar="FILE", help="Write to FILE, as a whole or not at all; - is standard output.")
@click.option(
    "--consistency",
    type=click.Choice(CONSISTENCIES),
    default="latest",
    show_default=True,
    help="latest: no newer version had been acknowledged; any: what the first server proves.",
)
@click.option(
    "--range",
    "span",
    type=byte_range,
    metavar="START..STOP",
    help="Only bytes from START on and before STOP, as in 1M..2M or 100..; nothing is fetched but the blocks that these"
    " are in.",
)
@_on_store
def get(
    name: str,
    version: int | None,
    vguid: bytes | None,
    at: datetime | None,
    output: str | None,
    consistency: "Consistency",
    span: tuple[int, int | None] | None,
    timeout: float,
) -> None:
    """Read the newest version of object NAME, or any other. Every byte is checked against the ring's signature.

    When it is broken off, run it again: if 16 MiB or more had come, they are beside FILE as .FILE.part, and what is
    right of them is not fetched again.
    """
    if sum(choice is not None for choice in (version, vguid, at)) > 1:
        raise click.UsageError("--version, --vguid and --at exclude each other: choose one")
    whole = span is None
    with (
        resumed_output(output) if whole else _anew(output) as (out, begun),
        connected(timeout) as store,
        Progress(f"get {name}") as progress,
    ):
        target = store.open(name, consistency=consistency)
        held = 0
        if begun:
            # The version is settled first: what is there already and what follows must be of the same one.
            vguid = target.version(version, vguid=vguid, at=at, consistency=consistency).vguid
            version = at = None
            held = target.equal_prefix(out, vguid=vguid, consistency=consistency, progress=progress)
            out.truncate(held)
            out.seek(held)
            progress.resumed_bytes = lambda: held
        start, stop = span or (held, None)
        for piece in target.read_stream(
            version,
            vguid=vguid,
            at=at,
            start=start,
            stop=stop,
            consistency=consistency,
            progress=lambda done, total: progress(held + done, held + total),
        ):
            out.write(piece)
    if held:
        click.echo(f"pond: of {name}, {human_size(held)} were there from an attempt that was broken off", err=True)


@contextmanager
def _anew(path: str | None) -> Iterator[tuple[BinaryIO, bool]]:
    with output_file(path) as file:
        yield file, False


@click.command()
@click.option("--all", "deleted", is_flag=True, help="Deleted objects too.")
@_on_store
@json_option
def ls(deleted: bool, timeout: float, as_json: bool) -> None:
    """List your objects."""
    with connected(timeout) as store:
        found = [_stat(each) for each in store.stats(deleted=deleted)]
    rows = [(each.version, each.size, each.time, each.name + (" (deleted)" if each.deleted else "")) for each in found]
    show(found, table([("VERSION", "SIZE", "TIME", "NAME"), *rows], right=(0, 1)) if rows else "", as_json)


@click.command()
@name_argument
@_on_store
@json_option
def stat(name: str, timeout: float, as_json: bool) -> None:
    """Show what the ring says of object NAME."""
    with connected(timeout) as store:
        found = _stat(store.open(name).stat())
    lines = [
        ("name", found.name),
        ("version", f"{found.version} (deleted)" if found.deleted else found.version),
        ("size", f"{found.size} bytes, in blocks of {human_size(found.block_size)}"),
        ("time", found.time),
        ("updates", f"{found.updates}, counted with those that changed nothing"),
        ("vguid", found.vguid),
        ("aguid", found.aguid),
        ("owner", found.owner),
    ]
    show(found, table(lines), as_json)


def _stat(found: "ObjectStat") -> Stat:
    signed = found.latest.certificate
    assert signed is not None, "a proved read without a certificate"
    return Stat(
        name=found.name,
        aguid=found.aguid.hex(),
        version=found.latest.number,
        vguid=found.latest.vguid.hex(),
        size=found.latest.size,
        time=iso(found.latest.time),
        block_size=found.block_size,
        deleted=found.deleted,
        updates=found.updates,
        owner=found.owner.hex(),
        certificate=SignedStatement(statement=signed.statement.hex(), signature=signed.signature.hex()),
    )


@click.command()
@name_argument
@_on_store
@json_option
def log(name: str, timeout: float, as_json: bool) -> None:
    """Show every update of object NAME, oldest first, proved to be all of them."""
    with connected(timeout) as store:
        entries = store.open(name).history()
    events = [
        Event(
            version=entry.version,
            vguid=entry.vguid.hex(),
            size=entry.size,
            time=iso(entry.time),
            writer=entry.writer.hex(),
            status=entry.status,
            reason=entry.reason,
        )
        for entry in entries
    ]
    rows = []
    for event in events:
        made = event.version if event.status != "aborted" else "-"
        status = event.status if event.reason is None else f"{event.status}: {event.reason}"
        rows.append((made, event.size, event.time, event.writer[:16], status, event.vguid if made != "-" else ""))
    head = ("VERSION", "SIZE", "TIME", "WRITER", "STATUS", "VGUID")
    show(events, table([head, *rows], right=(0, 1)), as_json)


@click.command()
@name_argument
@click.argument("old", type=VERSION)
@click.argument("new", type=VERSION)
@_on_store
@json_option
def diff(name: str, old: int, new: int, timeout: float, as_json: bool) -> None:
    """Show how version NEW of object NAME differs from version OLD: line by line for text, else which bytes."""
    with connected(timeout) as store:
        show_difference(store.open(name), old, new, as_json)


# --- proofs ------------------------------------------------------------------------------------------------------


@click.command()
@name_argument
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    required=True,
    help="Write to FILE, as a whole or not at all; - is standard output.",
)
@click.option("--data", "with_data", is_flag=True, help="With all blocks (encrypted), not only history and proofs.")
@_on_store
@json_option
def export(name: str, output: str, with_data: bool, timeout: float, as_json: bool) -> None:
    """Save the history of object NAME, with all proofs, in a file that `pond verify` checks offline."""
    if output == "-" and as_json:
        raise click.UsageError("--json and -o - exclude each other, both write to standard output: choose one")
    if output == "-" and sys.stdout is not None and sys.stdout.isatty():
        raise UsageError("an export is no text for a terminal: name a file with -o, or send it into a pipe")
    with output_file(output) as file, connected(timeout) as store, Progress(f"export {name}") as progress:
        report = store.open(name).export(file, with_data=with_data, progress=progress)
    answer = Exported(
        name=name,
        file="standard output" if output == "-" else one_line(output),
        size=report.size_bytes,
        versions=report.versions,
        aborted=report.aborted,
        with_data=with_data,
        time=iso(report.time),
    )
    what = f"{answer.versions} versions of {name}, {'with' if with_data else 'without'} data"
    text = f"{answer.file}: {what}, {human_size(answer.size)}, complete up to {answer.time}"
    if output == "-":
        click.echo(text, err=True)
    else:
        show(answer, text, as_json)


@click.command()
@click.argument("what", metavar="FILE|NAME")
@click.option("--ring-key", type=ring_key, metavar="KEY", help="Check FILE, offline, against this key of a ring.")
@_on_store
@json_option
def verify(what: str, ring_key: bytes | None, timeout: float, as_json: bool) -> None:
    """Check a whole history. With --ring-key, that in an exported FILE (- is standard input), offline; it needs no
    cluster, and names the first bytes that do not hold. Without, that of object NAME, fetched from the cluster with all
    blocks. Exit code 6 when it does not hold."""
    if ring_key is not None:
        _verify_file(what, ring_key, as_json)
    else:
        _verify_object(what, timeout, as_json)


def _verify_file(path: str, ring_key: bytes, as_json: bool) -> None:
    from bft.signatures import Ed25519Verifier
    from pond.client.target import to_time
    from pond.model import bundle

    name = "standard input" if path == "-" else one_line(path)
    with open_input(path) as file, Progress(f"verify {name}") as progress:
        try:
            report = bundle.verify(_counted(file, progress), ring_key, Ed25519Verifier())
        except bundle.BundleDamaged as damage:
            wrong_key = isinstance(damage, bundle.NotSigned)
            reason = f"{damage.what}; {_WRONG_KEY}" if wrong_key else damage.what
            answer = Verified(name=name, versions=0, ok=False, start=damage.start, end=damage.end, reason=reason)
            _refuse(answer, f"{name}: {damage}; {_WRONG_KEY if wrong_key else _RELY_NOT}", as_json)
    answer = Verified(
        name=name,
        versions=report.versions,
        ok=True,
        aguid=report.aguid.hex(),
        size=report.size_bytes,
        with_data=report.with_data,
        time=iso(to_time(report.time)),
    )
    data = "their data too" if report.with_data else "without data"
    text = f"{name}: every byte holds; {_versions(report.versions)}, {data}, complete up to {answer.time}"
    show(answer, text, as_json)


def _verify_object(name: str, timeout: float, as_json: bool) -> None:
    try:
        object_name(name)
    except click.BadParameter as error:
        raise UsageError(f"{error.message}; to check a file, give --ring-key") from None
    with connected(timeout) as store, Progress(f"verify {name}") as progress:
        try:
            target = store.open(name)
            report = target.verify(progress=progress)
        except NotFound as error:
            hint = "; to check the file of that name, give --ring-key" if Path(name).exists() else ""
            raise NotFound(f"{error}{hint}") from None
        except VerificationFailed as error:
            _refuse(Verified(name=name, versions=0, ok=False, reason=str(error)), f"{error}; {_RELY_NOT}", as_json)
    answer = Verified(
        name=name,
        versions=report.versions,
        ok=True,
        aguid=target.aguid.hex(),
        size=report.size_bytes,
        with_data=True,
        time=iso(report.time),
    )
    show(answer, f"{name}: all holds; {_versions(report.versions)}, complete up to {answer.time}", as_json)


def _versions(count: int) -> str:
    return f"versions 1 to {count}" if count > 1 else "version 1"


def _refuse(answer: Verified, message: str, as_json: bool) -> NoReturn:
    show(answer, "", as_json)
    raise VerificationFailed(message)


def _counted(file: BinaryIO, progress: Progress) -> Callable[[int], bytes]:
    """Reads a file and says how far it is."""
    done = 0

    def read(size: int) -> bytes:
        nonlocal done
        data = file.read(size)
        done += len(data)
        progress(done, 0)
        return data

    return read


commands = (put, get, append, ls, stat, log, diff, restore, rm, export, verify)

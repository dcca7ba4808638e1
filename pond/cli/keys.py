"""Commands for owner keys: the one secret from which everything of an owner follows."""

import os
from pathlib import Path

import click

from pond.cli.answers import OwnerKey, show, table
from pond.cli.options import cluster_option, json_option, key_option, named_cluster, named_key, one_line


@click.group()
def key() -> None:
    """Make, show and save owner keys.

    An owner key is all that is needed to regain every object of its owner: keep a copy in a safe place. Whoever has it
    can read and change everything.
    """


def _default_key() -> Path:
    """The key that commands use: the one named, else the one in the cluster's directory."""
    from pond.client.locate import OWNER_KEY, cluster_directory

    return named_key() or cluster_directory(named_cluster()) / OWNER_KEY


def _describe(file: Path) -> OwnerKey:
    """The public side of a key file. Raises NotFound, UsageError or ClusterDamaged."""
    from bft.signatures import Ed25519Signer
    from pond.keys import Kind, read_key
    from pond.model.names import OwnerSecrets

    signer = Ed25519Signer(OwnerSecrets.derive(read_key(file, Kind.OWNER)).signing_seed)
    return OwnerKey(file=one_line(str(file)), public_key=signer.public_key.hex())


def _check_directory(file: Path) -> None:
    """Raises UsageError: a key goes where its owner meant it to, not into a directory that a slip of the pen makes."""
    from pond.errors import UsageError

    if not file.absolute().parent.is_dir():
        raise UsageError(f"there is no directory {file.absolute().parent}: make it first, or name another place")


@key.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@cluster_option
@json_option
def new(file: Path | None, as_json: bool) -> None:
    """Make a new owner key in FILE, readable by you alone; without FILE, in the cluster's directory.

    A key is never overwritten.
    """
    from bft.secret import Secret
    from pond.keys import KEY_BYTES, Kind, write_key

    place = file or _default_key()
    _check_directory(place)
    write_key(place, Kind.OWNER, Secret(os.urandom(KEY_BYTES)))
    answer = _describe(place)
    show(answer, f"{answer.file} holds a new owner key: keep a copy of it. Public key: {answer.public_key}", as_json)


@key.command("show")
@key_option
@cluster_option
@json_option
def show_key(as_json: bool) -> None:
    """Show which owner key is used, and its public key. Never shows the secret."""
    answer = _describe(_default_key())
    show(answer, f"{answer.public_key}  {answer.file}", as_json)


@key.command("list")
@cluster_option
@json_option
def list_keys(as_json: bool) -> None:
    """List the owner keys in the cluster's directory."""
    from pond.client.locate import cluster_directory
    from pond.errors import UsageError

    directory = cluster_directory(named_cluster())
    found = []
    for file in sorted(directory.glob("*.key")):
        try:
            found.append(_describe(file))
        except UsageError as error:
            click.echo(f"pond: left out: {one_line(str(error))}", err=True)
    text = table([("PUBLIC KEY", "FILE"), *((each.public_key, each.file) for each in found)])
    show(found, text if found else f"No owner keys in {one_line(str(directory))}: `pond key new` makes one.", as_json)


@key.command()
@click.option(
    "-o", "--output", metavar="FILE", required=True, help="New file, readable by you alone; - for standard output."
)
@key_option
@cluster_option
def export(output: str) -> None:
    """Copy the owner key, the secret itself, to a safe place.

    To use the copy, name it with --key, or put it in a cluster's directory as owner.key.
    """
    from pond.keys import Kind, read_key, write_key

    source = _default_key()
    secret = read_key(source, Kind.OWNER)
    if output == "-":
        click.echo(source.read_text(encoding="ascii"), nl=False)
    else:
        _check_directory(Path(output))
        write_key(Path(output), Kind.OWNER, secret)
        click.echo(f"{one_line(output)} holds a copy of the key in {one_line(str(source))}.")


commands = (key,)

"""Commands that run a cluster on this machine, look at it, and hurt it."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import IO

import click

from cluster.answers import NotStarted, ServerNames, Up
from cluster.bench.cli import bench
from cluster.sim.cli import sim
from pond.cli.answers import show
from pond.cli.options import cluster_option, json_option, named_cluster, one_line

SIZES = ("4", "7", "10")

FOLLOW_SECONDS = 0.2

_COLOURS = {"running": "green", "paused": "yellow", "stopped": "red", "unreachable": "red"}


@click.group()
def cluster() -> None:
    """Run a cluster of servers on this machine, look at it, and break it."""


def _directory() -> Path:
    from pond.client.locate import cluster_directory

    return cluster_directory(named_cluster()).absolute()


# --- up and down -------------------------------------------------------------------------------------------------


@cluster.command()
@click.option(
    "--ring", type=click.Choice(SIZES), help="Servers in the ring: 4 stand one liar, 7 two, 10 three.  [default: 4]"
)
@click.option(
    "--storage",
    type=click.IntRange(0, 64),
    metavar="N",
    help="Storage servers beside the ring: nodes of the overlay, up to 64.  [default: 0]",
)
@cluster_option
@json_option
def up(ring: str | None, storage: int | None, as_json: bool) -> None:
    """Start a cluster in the background; returns when it serves and all its servers have joined the overlay.

    A directory that has a cluster is started again, with all that was in it: only those of its servers that are down,
    and as many of them as can start, unless these are too few to serve.
    """
    import msgspec

    from cluster import launch
    from cluster.status import look, what_it_means

    directory = _directory()
    began = monotonic()
    try:
        layout, (started, failed) = launch.up(directory, None if ring is None else int(ring), storage)
    except launch.StartFailed as error:
        _show_tail(error.tail)
        raise
    seconds = monotonic() - began
    for server, problem in failed:
        if isinstance(problem, launch.StartFailed):
            _show_tail(problem.tail)
        click.echo(f"pond: warning: {server.name} does not serve: {one_line(str(problem))}", err=True)
    status = look(layout, *launch.reports(layout))
    running = [*(one.state for one in status.ring), *(one.state for one in status.storage)].count("running")
    names = ", ".join(server.name for server in started) or "none"
    which = "" if len(started) == running else f" ({names} started now)"
    text = [
        f"{running} servers run in {one_line(str(directory))}{which}, ready after {seconds:.1f} s."
        f" {what_it_means(status)}",
        f"The ring's key: {status.public_key}",
        f"Store something: {_pond(directory)} put notes FILE        Stop: {_pond(directory)} cluster down",
    ]
    answer = Up(
        **msgspec.structs.asdict(status),
        started=[server.name for server in started],
        failed=[NotStarted(name=server.name, reason=one_line(str(problem))) for server, problem in failed],
    )
    show(answer, "\n".join(text), as_json)


def _show_tail(lines: list[str]) -> None:
    """The end of a server's log."""
    for line in lines:
        click.secho(f"  {one_line(line)}", err=True, dim=True)


@cluster.command()
@click.option("--delete", is_flag=True, help="Remove the directory too: keys, data and logs are gone for ever.")
@cluster_option
@json_option
def down(delete: bool, as_json: bool) -> None:
    """Stop all servers, also those of a damaged cluster. What they keep stays: `pond cluster up` starts them again."""
    from cluster import launch

    directory = _directory()
    servers, damage = launch.down(directory, delete=delete)
    if damage is not None:
        click.echo(f"pond: warning: {one_line(str(damage))}", err=True)
    stopped = [server.name for server in servers]
    done = "stopped, removed" if delete else "stopped"
    what = f"Stopped {', '.join(stopped)}." if stopped else "No server was running."
    place = one_line(str(directory))
    where = f" The data stays in {place}." if directory.exists() else f" {place} is removed."
    show(ServerNames(servers=stopped, done=done), what + where, as_json)


def _pond(directory: Path) -> str:
    """The `pond` command as a user has to type it to reach this cluster."""
    from pond.client.locate import cluster_directory

    return "pond" if cluster_directory().absolute() == directory else f"pond --cluster {one_line(str(directory))}"


# --- looking -----------------------------------------------------------------------------------------------------


@cluster.command()
@cluster_option
@json_option
def status(as_json: bool) -> None:
    """Show how each server is, who leads, what is wrong and what mends it, and the ring's key.

    NEIGHBOURS are the other nodes of the overlay that a server knows.

    \b
    Words of the last column:
      leads            Orders the updates; who led before is said to have led.
      changing view    Left its view, and waits until the next leader begins.
      catching up      Runs batches that it missed.
      transferring     Missed more than the others keep: fetches their state.
      learning         Lost its disk, and with it what it voted for. It listens in
                       silence, since it might vote differently now, until nothing
                       that it may have voted for is open: for some 800 batches.
                       With more than f such servers a ring can never write again.
      no large writes  Serves, and its storage has no room for more than small ones.
      disk full        Stands aside; comes back by itself when there is room.
      disk failing     Stands aside; comes back by itself when the disk is well.
      disk damaged     Stands aside and mends itself: sets its storage aside as
                       store.damaged, which may be deleted once it serves, and
                       begins anew with what the others have, learning at first.
      diverged         Its state differs from the others': it answers no reads.
    """
    from cluster import launch
    from cluster import status as words
    from cluster.layout import open_layout

    layout = open_layout(_directory())
    found = words.look(layout, *launch.reports(layout))
    text = words.figures(found)
    for name, colour in _COLOURS.items():
        text = text.replace(f" {name} ", f" {click.style(name, fg=colour)} ")
    said = "\n".join(words.sentences(found))
    show(found, f"{text}\n\n{said}\nThe ring's key: {found.public_key}", as_json)


@cluster.command()
@click.argument("node")
@click.option(
    "-n", "--lines", type=click.IntRange(0), default=20, show_default=True, help="How many of the last lines."
)
@click.option("-f", "--follow", is_flag=True, help="Go on printing what is added, until Ctrl-C.")
@cluster_option
def logs(node: str, lines: int, follow: bool) -> None:
    """Print the log of server NODE, one JSON object a line."""
    from cluster import launch
    from cluster.layout import open_layout
    from pond.errors import NotFound

    (server,) = open_layout(_directory()).named((node,))
    if not server.log.exists():
        raise NotFound(f"{server.name} has no log yet: it has never been started")
    with server.log.open("rb") as log:
        log.seek(0, os.SEEK_END)
        for line in launch.tail(server.log, lines) if lines else []:
            click.echo(line)
        if follow:
            sys.stdout.flush()
            for data in _added(server.log, log):
                click.echo(data, nl=False)


def _added(path: Path, log: IO[bytes]) -> Iterator[bytes]:
    """What is appended to a log, for ever; goes on with the next file when the log is rotated."""
    while True:
        data = log.read()
        if data:
            yield data
            continue
        with suppress(FileNotFoundError):
            if not os.path.samestat(os.fstat(log.fileno()), path.stat()):
                log.close()
                log = path.open("rb")
                continue
        sleep(FOLLOW_SECONDS)


# --- hurting -----------------------------------------------------------------------------------------------------


def _on_servers(name: str, done: str, help_text: str) -> click.Command:
    """A command that does one thing to the servers named."""

    @cluster.command(name, help=help_text)
    @click.argument("nodes", metavar="NODE...", nargs=-1, required=True)
    @cluster_option
    @json_option
    def command(nodes: tuple[str, ...], as_json: bool) -> None:
        from cluster import launch

        action: Callable[[Path, tuple[str, ...]], None] = getattr(launch, name)
        action(_directory(), nodes)
        names = list(dict.fromkeys(nodes))
        show(ServerNames(servers=names, done=done), f"{', '.join(names)}: {done}.", as_json)

    return command


_on_servers("kill", "killed", "End servers at once, as a crash would (SIGKILL).")
_on_servers("pause", "paused", "Stop servers without ending them, as a hang would: connections stay open (SIGSTOP).")
_on_servers("resume", "resumed", "Let paused servers go on (SIGCONT).")
_on_servers(
    "restart", "restarted", "Start servers that were killed, and those that run anew; returns when they answer."
)


@cluster.command()
@click.option("--keep", is_flag=True, help="Leave the cluster running at the end, to look around in it.")
def demo(keep: bool) -> None:
    """Watch it work: start a ring, write to it, break it, and check that nothing is lost. Takes under a minute."""
    from cluster.demo import run

    run(keep=keep)


commands = (cluster, sim, bench)

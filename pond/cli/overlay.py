"""Commands that look into the overlay and try it: who is the root of a key, whom a node knows, who holds an object."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from pond.cli.answers import (
    KnownNode,
    NodeTable,
    ObjectFound,
    ObjectPublished,
    RouteFound,
    WalkedHop,
    show,
    table,
)
from pond.cli.options import cluster_option, json_option, named_cluster, one_line, shown, timeout_option

if TYPE_CHECKING:
    from pond.client import overlay as client
    from pond.protocol import RootFound
    from pond.servers import Listed


@click.group()
def overlay() -> None:
    """Look into the overlay, and try it.

    Servers find things by their GUIDs: each key has one root among them, and pointers to whoever holds an object lie at
    roots and on the way there. NODE is a server's name, as `pond cluster status` shows it.
    """


via_option = click.option("--via", metavar="NODE", help="Ask this server.  [default: any that answers]")


def _servers() -> "list[Listed]":
    """Those that run a node of the overlay."""
    from pond import config
    from pond.client.locate import cluster_file
    from pond.errors import Unavailable
    from pond.servers import listed

    found = listed(config.read(cluster_file(named_cluster()), config.ClusterFile))
    nodes = [server for server in found if server.overlay_address is not None]
    if not nodes:
        raise Unavailable(
            "this cluster runs no overlay: it was made by a version without; `pond cluster up` makes new ones"
        )
    return nodes


def _named(servers: "Sequence[Listed]", name: str) -> "Listed":
    for server in servers:
        if server.name == name:
            return server
    raise click.BadParameter(f"there is no server {shown(name)}: `pond cluster status` shows their names")


def _through(servers: "list[Listed]", via: str | None) -> "list[Listed]":
    return servers if via is None else [_named(servers, via)]


def _name(servers: "Sequence[Listed]", guid: bytes) -> str | None:
    return next((server.name for server in servers if server.guid == guid), None)


@overlay.command()
@click.argument("key", metavar="GUID")
@via_option
@timeout_option
@cluster_option
@json_option
def route(key: str, via: str | None, timeout: float, as_json: bool) -> None:
    """Find the root of GUID, 64 base-16 digits, or of a server's own GUID, given its name.

    The question goes from node to node. Then the nodes of the way are asked one after another which is the next, with
    the time that each took to answer.
    """
    from pond.client import overlay as client
    from tapestry import guid

    servers = _servers()
    try:
        place = guid.parse(key)
    except ValueError:
        named = [server.guid for server in servers if server.name == key]
        if not named:
            raise click.BadParameter(f"{shown(key)} is neither 64 base-16 digits nor a server's name") from None
        place = named[0]

    async def both_ways() -> "tuple[Listed, RootFound, list[client.Hop]]":
        by, found = await client.route(_through(servers, via), place, timeout)
        return by, found, await client.walk(servers, by, place, timeout)

    by, found, walked = asyncio.run(both_ways())
    walk = [
        WalkedHop(
            name=_name(servers, hop.guid),
            guid=hop.guid.hex(),
            ms=None if hop.seconds is None else round(1000 * hop.seconds, 3),
        )
        for hop in walked
    ]
    answer = RouteFound(
        key=place.hex(),
        source=by.name,
        root=_name(servers, found.root),
        root_guid=found.root.hex(),
        hops=found.hops,
        ms=round(found.ms, 3),
        walk=walk,
    )
    root = answer.root or answer.root_guid
    passed = [hop.name or hop.guid for hop in walk]
    between = passed[1:-1] if passed[-1] == root and len(passed) == found.hops + 1 else None
    drawn = _drawn(by.name, root, found.hops, found.ms, between)
    show(answer, f"{root} is the root of {answer.key}.\n\n{drawn}\n\n{_walk_text(walk)}", as_json)


def _drawn(source: str, target: str, hops: int, ms: float, between: "Sequence[str] | None" = None) -> str:
    """The way, as far as it is known: where it began, what was between, how long all hops took, and its end."""
    if source == target and not hops:
        return f"  {source}"
    way = f"{hops} hop{'' if hops == 1 else 's'}, {ms:.1f} ms"
    names = ["·"] * (hops - 1) if between is None else between
    return f"  {' ─▶ '.join((source, *names, target))}      {way}"


def _walk_text(walk: "Sequence[WalkedHop]") -> str:
    """The nodes that were asked one after another, and how long each took."""
    rows: list[Sequence[object]] = [("HOP", "NODE", "GUID", "ANSWER")]
    for number, hop in enumerate(walk):
        answered = "none" if hop.ms is None else f"{hop.ms:.1f} ms"
        rows.append((number, hop.name or "-", hop.guid[:16], answered))
    return table(rows, right=(0, 3))


@overlay.command("table")
@click.argument("node")
@timeout_option
@cluster_option
@json_option
def show_table(node: str, timeout: float, as_json: bool) -> None:
    """Show which nodes NODE knows: its leaf set, the rows of its table, round trips, and whom it suspects."""
    from pond.client import overlay as client

    servers = _servers()
    server = _named(servers, node)
    found = asyncio.run(client.neighbours(server, timeout))
    known = [
        KnownNode(
            name=_name(servers, one.guid),
            guid=one.guid.hex(),
            leaf=one.leaf,
            row=one.row,
            rtt_ms=None if one.rtt_ms is None else round(one.rtt_ms, 3),
            suspect=one.suspect,
        )
        for one in sorted(found.neighbours, key=lambda one: (one.row is None, one.row or 0, one.rtt_ms or 0.0))
    ]
    answer = NodeTable(
        name=node,
        guid=server.guid.hex(),
        joined=found.status.joined,
        neighbours=known,
        pointers=found.status.pointers,
        objects=found.status.objects,
    )
    show(answer, _table_text(answer), as_json)


def _table_text(found: NodeTable) -> str:
    rows: list[Sequence[object]] = [("ROW", "NODE", "GUID", "ROUND TRIP", "")]
    for one in found.neighbours:
        note = ", ".join(word for word, holds in (("leaf", one.leaf), ("suspect", one.suspect)) if holds)
        trip = "-" if one.rtt_ms is None else f"{one.rtt_ms:.1f} ms"
        rows.append(("-" if one.row is None else one.row, one.name or "-", one.guid[:16], trip, note))
    how = "is in the overlay" if found.joined else "has not joined the overlay yet"
    leaves = sum(one.leaf for one in found.neighbours)
    return (
        f"{found.name} ({found.guid}) {how}: it knows {len(found.neighbours)} nodes, {leaves} of them leaves, keeps"
        f" {found.pointers} pointers and has published {found.objects} objects.\n\n{table(rows, right=(0, 3))}"
    )


@overlay.command()
@click.argument("name")
@via_option
@timeout_option
@cluster_option
@json_option
def locate(name: str, via: str | None, timeout: float, as_json: bool) -> None:
    """Find a server that holds the test object NAME, and says so itself when it is asked."""
    from pond.client import overlay as client
    from pond.errors import NotFound

    servers = _servers()
    obj = client.object_of(_checked(name))
    by, found = asyncio.run(client.locate(servers, _through(servers, via), obj, timeout))
    if found.holder is None:
        raise NotFound(
            f"no server is known to hold the test object {shown(name)}: publish it with `pond overlay publish`"
        )
    answer = ObjectFound(
        name=name,
        object=obj.hex(),
        source=by.name,
        holder=_name(servers, found.holder),
        holder_guid=found.holder.hex(),
        hops=found.hops,
        ms=round(found.ms, 3),
    )
    holder = answer.holder or answer.holder_guid
    drawn = _drawn(by.name, holder, found.hops, found.ms)
    show(answer, f"{holder} answers that it holds {one_line(name)} ({answer.object}).\n\n{drawn}", as_json)


@overlay.command()
@click.argument("name")
@click.argument("nodes", metavar="NODE...", nargs=-1, required=True)
@click.option("--withdraw", is_flag=True, help="They are to say that they hold it no longer.")
@timeout_option
@cluster_option
@json_option
def publish(name: str, nodes: tuple[str, ...], withdraw: bool, timeout: float, as_json: bool) -> None:
    """Let servers say that they hold the test object NAME, to try `pond overlay locate`.

    There is no such object: its GUID is a hash of NAME that nothing else in Pond can have.
    """
    from pond.client import overlay as client

    servers = _servers()
    chosen = [_named(servers, node) for node in dict.fromkeys(nodes)]
    obj = client.object_of(_checked(name))

    async def all_of_them() -> None:
        await asyncio.gather(*(client.publish(server, name, not withdraw, timeout) for server in chosen))

    asyncio.run(all_of_them())
    done = "withdrawn" if withdraw else "published"
    answer = ObjectPublished(name=name, object=obj.hex(), servers=[server.name for server in chosen], done=done)
    show(answer, f"{one_line(name)} ({answer.object}): {done} by {', '.join(answer.servers)}.", as_json)


def _checked(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise click.BadParameter(f"{shown(name)} is no text") from None
    return name


commands = (overlay,)

"""Commands for one server: `pond node run`."""

import asyncio
import resource
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pond.logs import Log

DESCRIPTORS = 8192
"""For three ports with a thousand connections each, and 256 links of the overlay with four descriptors each."""


@click.group()
def node() -> None:
    """Run one server by itself; `pond cluster` does this for a whole local ring."""


@node.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
def run(directory: Path) -> None:
    """Run the server whose keys and data are in DIRECTORY, until SIGTERM or Ctrl-C."""
    from pond.errors import PondError
    from pond.logs import Log

    _take_descriptors()
    log = Log(directory.name, directory / "server.log")
    try:
        asyncio.run(_serve(directory, log))
    except PondError as error:
        log.error("failed", reason=str(error))
        raise
    except Exception as error:
        log.error("failed", error)
        raise
    finally:
        log.close()


async def _serve(directory: Path, log: "Log") -> None:
    """What its settings say that it does; only that is imported, since a start of many servers is mostly imports."""
    from pond import config

    if config.read(directory / "node.json", config.NodeConfig).role == "storage":
        from pond.node.storage_server import StorageServer

        await StorageServer(directory, log).run()
    else:
        from pond.node.server import Server

        await Server(directory, log).run()


def _take_descriptors() -> None:
    """As many as its links may need: the usual limit is for programs that use select(2), which this one does not."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if most == resource.RLIM_INFINITY else min(DESCRIPTORS, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


commands = (node,)

"""Commands for one server: `pond node run`."""

import asyncio
from pathlib import Path

import click


@click.group()
def node() -> None:
    """Run one server by itself; `pond cluster` does this for a whole local ring."""


@node.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
def run(directory: Path) -> None:
    """Run the server whose keys and data are in DIRECTORY, until SIGTERM or Ctrl-C."""
    from pond.errors import PondError
    from pond.logs import Log
    from pond.node.server import Server

    log = Log(directory.name, directory / "server.log")
    try:
        asyncio.run(Server(directory, log).run())
    except PondError as error:
        log.error("failed", reason=str(error))
        raise
    except Exception as error:
        log.error("failed", error)
        raise
    finally:
        log.close()


commands = (node,)

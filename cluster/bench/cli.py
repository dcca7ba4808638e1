"""Commands that measure: `pond bench`."""

import click

from pond.cli.answers import show
from pond.cli.options import json_option


@click.group()
def bench() -> None:
    """Measure on this machine, always beside its own floor in the same run."""


@bench.command("write-latency")
@json_option
def write_latency(as_json: bool) -> None:
    """How long one client waits for one write of 4 KiB and of 2 MB; takes about half a minute.

    Starts a ring of four in the temporary directory and stops it again. The floor is what the syncs, round trips,
    signature checks and hash that no design avoids cost on this machine at the same time.
    """
    from cluster.bench.writes import in_words
    from cluster.bench.writes import write_latency as measure

    measured = measure()
    show(measured, in_words(measured), as_json)

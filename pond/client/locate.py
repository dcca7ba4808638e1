"""Where a cluster's directory is, by the one rule that library and commands share (design.md, 9)."""

import os
from collections.abc import Mapping
from pathlib import Path

from pond.errors import NotFound, UsageError

CLUSTER_FILE = "cluster.json"
OWNER_KEY = "owner.key"


def cluster_directory(cluster: "str | os.PathLike[str] | None" = None, env: Mapping[str, str] | None = None) -> Path:
    """The directory that is named, else $POND_CLUSTER, else `pond/default` in the user's data directory.

    It need not exist. `env` stands in for the process's environment.
    """
    env = os.environ if env is None else env
    if cluster is not None:
        return Path(cluster)
    if env.get("POND_CLUSTER"):
        return Path(env["POND_CLUSTER"])
    data = Path(env["XDG_DATA_HOME"]) if env.get("XDG_DATA_HOME") else Path.home() / ".local" / "share"
    return data / "pond" / "default"


def cluster_file(cluster: "str | os.PathLike[str] | None" = None, env: Mapping[str, str] | None = None) -> Path:
    """The public description of a cluster, given its directory or the file itself. Raises NotFound, UsageError."""
    place = cluster_directory(cluster, env)
    try:
        file = place if place.is_file() else place / CLUSTER_FILE
        exists = file.is_file()
    except OSError as error:
        raise UsageError(f"cannot read {place} ({error.strerror}): check the name and who owns it") from None
    if not exists:
        raise NotFound(
            f"there is no cluster at {place}: start one with `pond cluster up`, or name its directory"
            " (--cluster, or POND_CLUSTER)"
        )
    return file

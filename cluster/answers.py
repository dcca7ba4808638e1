"""Every answer that `--json` prints for the commands on a local cluster, each once: scripts rely on these keys."""

from pond.cli.answers import Answer


class RingServer(Answer, frozen=True, kw_only=True):
    """One server of the ring. What it says of itself is null while it does not answer."""

    name: str
    state: str
    """`running`, `paused`, `stopped`, or `unreachable` for one that runs and does not answer."""
    pid: int | None
    view: int | None
    sequence: int | None
    """The last batch that it executed."""
    primary: str | None
    """The server that it takes for the primary of its view."""
    behind: int | None
    """Batches between it and the server that is furthest."""
    disk_bytes: int
    client_address: str
    metrics: str


class Cached(Answer, frozen=True, kw_only=True):
    """One replica or storage server."""

    name: str
    state: str
    pid: int | None


class ClusterStatus(Answer, frozen=True, kw_only=True):
    """`cluster up` and `cluster status`."""

    directory: str
    public_key: str
    """The ring's key, all that `pond verify --ring-key` needs."""
    ring: list[RingServer]
    replicas: list[Cached]
    storage: list[Cached]


class ServerNames(Answer, frozen=True, kw_only=True):
    """`cluster kill`, `pause`, `resume`, `restart` and `down`: the servers that it was done to."""

    servers: list[str]
    done: str

"""The answer of `pond bench locate --json`: scripts rely on these keys."""

from pond.cli.answers import Answer


class Joined(Answer, frozen=True, kw_only=True):
    """How long servers took from the start of their processes until they had joined the overlay."""

    name: str
    n: int
    p50_ms: float
    p95_ms: float
    max_ms: float
    node_p50_ms: float
    """From the start of the node: without the start of the process."""
    node_p95_ms: float


class Located(Answer, frozen=True, kw_only=True):
    """Locates of test objects, each through a server drawn at random, whose holders were asked in turn."""

    name: str
    n: int
    failed: int
    p50_ms: float
    """Times are of those that succeeded."""
    p95_ms: float
    p99_ms: float
    max_ms: float
    per_second: float
    cpu_ms_per_op: float
    """Of all servers and the client: their upkeep meanwhile is in it."""
    cores: float
    """How many servers and client kept busy."""
    ratio_to_floor: float
    """Of p50."""


class LocateMeasured(Answer, frozen=True, kw_only=True):
    """`bench locate`."""

    floor_ms: float
    """A question of 64 bytes and its answer between two processes over ZeroMQ and CURVE."""
    servers: int
    killed: list[str]
    joins: list[Joined]
    results: list[Located]
    success_by_second: list[float]
    """Share of the locates begun in each second after the kill that succeeded."""
    cut_seconds: float
    """How long the network was cut in two."""
    keys: int
    """Whose roots all servers were asked for."""
    two_roots: int
    """Keys that had a root in each half at the end of the cut."""
    one_root_seconds: float
    """From healing until all servers had found one and the same root for each key."""

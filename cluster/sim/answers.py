"""The answer that `pond sim ring --json` prints: scripts rely on these keys."""

from pond.cli.answers import Answer


class FailedSeed(Answer, frozen=True, kw_only=True):
    """A seed that broke something, and how to see it again."""

    seed: int
    verdict: str
    """`safety`, `liveness` or `crash`."""
    what: str
    replay: str
    story: list[str]
    """The last events before it, oldest first."""


class SimulatedRing(Answer, frozen=True, kw_only=True):
    """`sim ring`: what came of all seeds together."""

    replay: str
    runs: int
    operations: int
    checked: int
    """Operations that linearizability was judged by."""
    steps: int
    batches: int
    crashes: int
    messages: int
    lost: int
    duplicated: int
    virtual_seconds: float
    seconds: float
    seeds_per_second: float
    trace: str
    """Hash over everything that happened in all runs: equal for equal seeds on any machine."""
    failures: list[FailedSeed]

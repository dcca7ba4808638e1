"""The answer of `pond sim churn --json`: scripts rely on these keys. Shares are of 1; null is what never was."""

from pond.cli.answers import Answer


class MessagesSent(Answer, frozen=True, kw_only=True):
    """Messages of one kind, of all nodes in the time measured."""

    kind: str
    count: int
    bytes: int
    """With headers of UDP and IP."""
    bytes_per_node_s: float


class LookupSecond(Answer, frozen=True, kw_only=True):
    """Lookups that were asked in one second of the time measured."""

    second: int
    lookups: int
    succeeded: float | None
    """Share completed, with the root that most others who asked for the key at that time were told."""
    completed: float | None
    mean_s: float | None
    p95_s: float | None
    bytes: int
    """That all nodes sent in this second, with headers."""


class KilledNodes(Answer, frozen=True, kw_only=True):
    """`--kill`: what it did to success, which is the share of lookups completed with the root that most were told."""

    second: float
    """Of the time measured, when they died."""
    nodes: int
    before: float | None
    """Success up to a second before it, as who asked in that second may not have an answer yet."""
    worst_second: float | None
    """Success of the worst second from then on."""
    after_10_s: float | None
    """Success from ten seconds after it to the end."""


class NodesAgree(Answer, frozen=True, kw_only=True):
    """What nodes said that were asked for the same keys."""

    keys: int
    one_root: int
    """Keys for which all got an answer, and the same."""
    right: int
    """Of these, those with the root to which the key belongs."""
    asked: int
    answered: int


class PartedNodes(Answer, frozen=True, kw_only=True):
    """`--partition`: how long halves needed to find together again."""

    second: float
    """Of the time measured, when they were parted."""
    seconds: float
    one_root_s: float | None
    """From healing until a sample of nodes from both halves first named one root for each of its keys."""
    samples: list[tuple[float, NodesAgree]]
    """By seconds since healing."""


class ObjectsRead(Answer, frozen=True, kw_only=True):
    """Reads by honest nodes: a holder is located and asked for the object; one that does not give it is passed over."""

    reads: int
    """Without those whose asker died before the object came."""
    succeeded: float | None
    """Share that brought the object within 60 s, without being asked again."""
    mean_s: float | None
    """From question to object; this and all below of those that succeeded."""
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    mean_attempts: float | None
    """Nodes that were asked for the object."""
    stretch: float | None
    """Time until the question was at a holder, by what a packet takes to the nearest one."""


class SimulatedObjects(Answer, frozen=True, kw_only=True):
    """`--objects`, `--liars`, `--eclipse`."""

    objects: int
    liars: int
    """Lying nodes, of those that were started first; these and those below never die, and no other figure counts what
    they ask, send or are."""
    eclipsing: int
    """Lying nodes that joined next to the first root of one object."""
    read: ObjectsRead
    eclipsed: ObjectsRead | None
    """Of these, reads of that object."""
    inserted: int
    """Nodes that started and joined in the time measured."""
    insert_p50_bytes: float | None
    insert_p95_bytes: float | None
    """Sent by such a node, to it and for it until two seconds after it was a member, with headers."""


class SimulatedChurn(Answer, frozen=True, kw_only=True):
    """`sim churn`. Lookups whose asker died before the answer do not count."""

    replay: str
    overlay: str
    recovery: str
    """Of tapestry: `periodic` or `reactive`."""
    seed: int
    nodes: int
    median_session_s: float | None
    """Null: no node died of old age."""
    measured_s: float
    joined: float | None
    """Share of nodes, of those that started in the time measured, that became members before they died."""
    completed: float | None
    """Share of lookups that were answered within 60 s, without being asked again."""
    consistent: float | None
    """Share of these that named the same root as more than half of those that asked for the key at that time."""
    mean_s: float | None
    """From question to answer."""
    p50_s: float | None
    p95_s: float | None
    bytes_per_node_s: float
    """Sent, with headers of UDP and IP."""
    mean_hops: float | None
    stretch: float | None
    """Time on the way to roots, by what packets need that go there straight."""
    lookups: int
    started: int
    """Nodes that `joined` is about."""
    join_p50_s: float | None
    join_p95_s: float | None
    """From start to membership."""
    quantiles_s: list[float]
    """Of lookups, at 0, 0.01 ... 0.99, then 0.999; empty when none completed."""
    messages: list[MessagesSent]
    dropped: dict[str, int]
    """Packets that did not arrive in the whole run, by why: `queue out`, `queue in`, `partition`, `loss`."""
    rejected: dict[str, int]
    """Messages that nodes refused in the whole run, by why."""
    per_second: list[LookupSecond]
    killed: KilledNodes | None
    parted: PartedNodes | None
    objects: SimulatedObjects | None
    everyone: NodesAgree | None
    """All nodes, after the quiet at the end; null without it."""
    virtual_s: float
    events: int
    seconds: float
    """That the run took."""
    us_per_event: float
    """Of processor time."""
    trace: str
    """Hash over everything that happened: equal for equal plans on any machine."""

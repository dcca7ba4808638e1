"""Every answer that `--json` prints for the commands on a local cluster, each once: scripts rely on these keys."""

from cluster.sim.churn.answers import SimulatedChurn
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
    """Batches between it and where f + 1 servers are; null while fewer answer."""
    condition: str | None
    """`serving`, `changing view`, `catching up`, `transferring`, `learning`, `disk full`, `disk failing`,
    `disk damaged` or `diverged`."""
    detail: str | None
    """Its condition in its own words; may be empty. Of a stopped server: why it cannot start, or null."""
    view_active: bool | None
    """Whether it takes part in its view; false while it waits for the next one to begin."""
    disk_bytes: int
    free_bytes: int | None
    """Room left on its disk, within its quota; 0 also when it does not know."""
    upload_bytes: int | None
    """The largest write that it has room for now. Writes of up to 64 KiB need none but what it keeps for ordering."""
    client_address: str
    metrics: str
    joined: bool | None
    """Whether its node of the overlay is a member; null while it does not answer, and where it runs no node."""
    neighbours: int | None
    """How many other nodes it knows."""


class Cached(Answer, frozen=True, kw_only=True):
    """One replica."""

    name: str
    state: str
    pid: int | None


class StorageServer(Answer, frozen=True, kw_only=True):
    """One storage server. What it says of itself is null while it does not answer."""

    name: str
    state: str
    """As that of a ring server."""
    pid: int | None
    joined: bool | None
    """Whether it is a member of the overlay."""
    join_ms: float | None
    """How long it took to join since its start, or how long it has tried."""
    neighbours: int | None
    """How many other nodes it knows."""
    client_address: str
    metrics: str


class ClusterStatus(Answer, frozen=True, kw_only=True):
    """`cluster status`, and most of `cluster up`."""

    directory: str
    public_key: str
    """The ring's key, all that `pond verify --ring-key` needs."""
    primary: str | None
    """The server that leads, as f + 1 say; null when they do not agree."""
    view: int | None
    """The view that it leads."""
    may_fail: int
    """How many more servers may fail while writes go on; below 0, so many have to serve again before writes go on."""
    ring: list[RingServer]
    replicas: list[Cached]
    storage: list[StorageServer]
    overlay: bool
    """Whether the cluster's file gives its ring servers addresses in the overlay: files of earlier versions do not."""


class NotStarted(Answer, frozen=True, kw_only=True):
    """A server that `cluster up` could not bring to serve."""

    name: str
    reason: str


class Up(ClusterStatus, frozen=True, kw_only=True):
    """`cluster up`: the keys of ClusterStatus, and these."""

    started: list[str]
    """Servers that it started and that serve; others may have run before."""
    failed: list[NotStarted]


class ServerNames(Answer, frozen=True, kw_only=True):
    """`cluster kill`, `pause`, `resume`, `restart` and `down`: the servers that it was done to."""

    servers: list[str]
    done: str


class Floor(Answer, frozen=True, kw_only=True):
    """The machine's floor: median milliseconds of single steps, and of a write that would consist of nothing else."""

    loopback_round_trip_ms: float
    sync_ms: float
    signature_check_ms: float
    hash_ms: float
    write_ms: float


class Measured(Answer, frozen=True, kw_only=True):
    """One row of a benchmark; CPU is that of the client and all servers together."""

    name: str
    n: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    per_second: float
    cpu_ms_per_op: float
    primary_cpu_ms: float
    backup_cpu_ms: float
    """Mean of the backups."""
    ring_cpu_ms: float
    """All servers together."""
    client_cpu_ms: float
    cores: float
    """How many cores servers and client kept busy."""
    cores_of_others: float
    """How many everything else on this machine did."""
    quantiles_ms: list[float]
    """At 0, 0.01 ... 0.99, then 0.999."""
    ratio_to_floor: float
    """p50 against the floor for the same size."""


class PhaseBesidePond(Answer, frozen=True, kw_only=True):
    """What one phase of a write takes on average, beside what OceanStore's prototype took (FAST 2003).

    `validate`: the primary takes in the update, with the check of its signature. `serialize`: until 2f + 1 servers have
    ordered it durably. `apply`: to run it and write what it changed. `archive`: there is none yet. `sign`: the
    threshold signature. `rest`: everything else of what the client waits for. `total`: all of it; Pond's with the
    archive off.
    """

    phase: str
    ms: float | None
    pond_ms: float | None
    times_faster: float | None
    """Against Pond; the target is 10, the stretch 30."""


class WriteLatency(Answer, frozen=True, kw_only=True):
    """`bench write-latency`. Floors and phases are by the name of the row that they belong to."""

    floor: dict[str, Floor]
    results: list[Measured]
    phases: dict[str, list[PhaseBesidePond]]
    phases_ms: dict[str, dict[str, float]]
    """Mean time between the points in the life of a batch, and of the steps that validate and apply, at the primary."""


class Ceiling(Answer, frozen=True, kw_only=True):
    """The machine's floor for many writes at once: median milliseconds of single steps, and how many writes a second
    would consist of nothing else. The disk holds a copy for each server."""

    signature_ms: float
    signature_check_ms: float
    hash_ms: float
    cpu_ms: float
    """Of one write: one signature, a check of it by each server, and a hash by each of them and the client."""
    cores: int
    """That this machine gives to all processes together."""
    disk_bytes_per_second: float
    """Written and synced in pieces of 4 MB."""
    per_second: float


class ClosedLoop(Answer, frozen=True, kw_only=True):
    """What so many clients saw, each of which began its next operation when the one before had ended. Times are null
    when none succeeded; CPU is of one operation."""

    name: str
    size_bytes: int
    clients: int
    n: int
    """Operations that succeeded within the time measured."""
    seconds: float
    per_second: float
    bytes_per_second: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    quantiles_ms: list[float]
    """At 0, 0.01 ... 0.99, then 0.999; empty when none succeeded."""
    cpu_ms_per_op: float | None
    """Servers and clients together."""
    primary_cpu_ms: float | None
    backup_cpu_ms: float | None
    """Mean of the backups."""
    ring_cpu_ms: float | None
    """All servers together."""
    client_cpu_ms: float | None
    cores: float
    """How many cores servers and clients kept busy."""
    cores_of_others: float
    """How many everything else on this machine did: what is measured had to do without them."""
    client_processes: int
    """That the clients share."""
    busiest_client: float
    """Share of one core that the busiest client process used: near 1 it is the client that limits."""
    errors: int
    """Clients that gave up."""
    error: str | None
    """What the first of these was told."""
    ratio_to_floor: float | None
    """How many times as fast the floor is."""


class Throughput(ClosedLoop, frozen=True, kw_only=True):
    """One size by one number of clients: the keys of ClosedLoop, and these."""

    system: str
    """`pond`, or `etcd` for what was measured beside it."""
    batch_size: float | None
    """Updates per batch; null when there was none, and for etcd."""
    views: int
    """Views that began meanwhile."""


class ReadFloor(Answer, frozen=True, kw_only=True):
    """The machine's floor for reads: median milliseconds of single steps, of a read that would consist of nothing else,
    and how many of these all cores would do in a second."""

    loopback_round_trip_ms: float
    signature_check_ms: float
    hash_ms: float
    read_ms: float
    cores: int
    per_second: float


class Read(ClosedLoop, frozen=True, kw_only=True):
    """Reads of one size, consistency and number of clients: the keys of ClosedLoop, and these. With one client the
    ratio is that of p50 to the floor of a read, with more that of the floor's rate to theirs."""

    consistency: str
    """`any`: one server's word, with a certificate. `latest`: linearizable."""


class ReadsMeasured(Answer, frozen=True, kw_only=True):
    """`bench read`. Floors are by the size in bytes, as text."""

    floor: dict[str, ReadFloor]
    results: list[Read]


class ThroughputMeasured(Answer, frozen=True, kw_only=True):
    """`bench throughput`. Floors are by the size in bytes, as text."""

    floor: dict[str, Ceiling]
    results: list[Throughput]
    etcd: str | None = None
    """The version of etcd that was measured beside; null without `--etcd`."""
    etcd_gateway_ms: float | None = None
    """Median milliseconds of a question to etcd's JSON gateway that one server answers from memory: what each of
    its figures has from HTTP and JSON."""


class Coverage(Answer, frozen=True, kw_only=True):
    """What the runs reached of one thing that they could reach: a kind of message, a reason of refusal, a point."""

    kind: str
    """`message`, `client message`, `refusal`, `point` (in the life of a batch) or `event`."""
    name: str
    times: int
    """0: a hole."""
    runs: int
    """In how many runs."""


class FailedSeed(Answer, frozen=True, kw_only=True):
    """A seed that broke something, and how to see it again."""

    seed: int
    verdict: str
    """`safety`, `liveness` or `crash`."""
    what: str
    replay: str
    manifest: str
    """The faults and sizes that it ran with, as TOML."""
    story: list[str]
    """The last events before it, oldest first."""


class Smallest(Answer, frozen=True, kw_only=True):
    """`sim ring --shrink`: the smallest run found that fails like the one asked for."""

    seed: int
    what: str
    manifest: str
    """As TOML, for `--manifest`."""
    tried: int
    """Runs that it took to find."""


class Splits(Answer, frozen=True, kw_only=True):
    """What rings did that were split in two. Null is what no run came to."""

    runs: int
    commits: int
    """Batches that ran while the ring was split, beyond what was under way at the cut; of the run with most."""
    longest_gap_seconds: float
    """The longest time without a commit that has updates."""
    progress_seconds: float | None
    """From healing to the first commit that has updates, at most."""
    in_step_seconds: float | None
    """From healing until every server had run what any had run at that moment, at most."""


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
    view_changes: int
    """Runs in which a view after the first began."""
    virtual_seconds: float
    seconds: float
    seeds_per_second: float
    seeds_per_cpu_second: float
    """What one core does in a second that it has for itself."""
    trace: str
    """Hash over everything that happened in all runs: equal for equal seeds on any machine."""
    coverage: list[Coverage]
    smallest: Smallest | None
    """Null without `--shrink`."""
    rounds: int
    """Power failures at points of their own (`rounds` in a manifest)."""
    resumed_seconds: float
    """From power coming back to the next update, at most."""
    splits: Splits | None
    """Null when no ring was split in two (`network.split` in a manifest)."""
    failures: list[FailedSeed]
    """The first hundred."""
    failed: int


class Recovered(Answer, frozen=True, kw_only=True):
    """One scenario of a fault under load, and what its writers saw of it. Null is what it does not measure."""

    name: str
    n: int
    """How often the time was taken."""
    p50_ms: float | None
    max_ms: float | None
    target_ms: float | None
    stretch_ms: float | None
    seconds: float
    """How long the writers wrote."""
    commits_per_second: float
    longest_gap_ms: float
    """The longest time without a commit."""
    views: int
    """Views that began."""
    acknowledged: int
    unknown: int
    """Updates that were given up after a minute; they may be there or not."""
    lost: int
    """Updates that were acknowledged and are not there, or are there twice. Must be 0."""
    linearizable: bool


class Recovery(Answer, frozen=True, kw_only=True):
    """`bench recovery`. The floor is that of one small write, by the same names as in `results`."""

    floor: dict[str, Floor]
    results: list[Recovered]


class WritersSaw(Answer, frozen=True, kw_only=True):
    """What writers saw while something went on. Times are those of small updates."""

    name: str
    writers: int
    seconds: float
    updates: int
    per_second: float
    p50_ms: float
    p99_ms: float
    longest_gap_ms: float
    """The longest time without an update acknowledged."""


class ServerMemory(Answer, frozen=True, kw_only=True):
    """The most memory that a server took while one caught up."""

    name: str
    returned: bool
    """Whether it is the one that came back."""
    resident_bytes: int
    """With pages of its file, which the kernel takes back when it needs them."""
    anonymous_bytes: int
    """What it allocated itself."""


class CatchUp(Answer, frozen=True, kw_only=True):
    """`bench catch-up`. The floor is that of one small write."""

    floor: Floor
    missed_updates: int
    missed_batches: int
    missed_bytes: int
    """Of what these updates wrote, before encryption."""
    seconds: float
    """From the start of the server until it serves and is in step."""
    fetching_seconds: float
    """How much of that it said that it fetches a state."""
    bytes_per_second: float
    """Missed bytes by these seconds."""
    memory: list[ServerMemory]
    writers: list[WritersSaw]
    views: int
    """Views that began."""
    unknown: int
    """Updates that were given up after a minute; they may be there or not."""
    lost: int
    """Objects that do not have what was acknowledged last. Must be 0."""


class Transfer(Answer, frozen=True, kw_only=True):
    """One command that put or got a large file, to its end or until it was killed."""

    name: str
    killed: bool
    seconds: float
    bytes_per_second: float
    """Of the whole file, when the command came to its end; else 0."""
    sent_bytes: int
    """From the client to all servers, as these counted it."""
    received_bytes: int
    least_share: float
    most_share: float
    """Of what went one way or the other, the part of the server that had the least to do, and the most."""
    cpu_seconds_per_100_mb: dict[str, float]
    """Processor time of `client`, `primary` and `backup` (the mean of these), by 100 MB of the file; of commands that
    came to their end."""


class ProcessMemory(Answer, frozen=True, kw_only=True):
    """The most memory that a process took."""

    name: str
    resident_bytes: int
    """With pages of its file, which the kernel takes back when it needs them."""
    anonymous_bytes: int
    """What it allocated itself."""


class Large(Answer, frozen=True, kw_only=True):
    """`bench large`. The floor is that of one write of 4 MiB, as much as a server syncs at a time."""

    floor: Floor
    size_bytes: int
    transfers: list[Transfer]
    identical: bool
    """Whether all that was read is what was written, bit by bit."""
    range_bytes: int
    range_received_bytes: int
    """How much came from the servers when so many bytes were read from the middle."""
    range_seconds: float
    memory: list[ProcessMemory]


class Kind(Answer, frozen=True, kw_only=True):
    """What users who do one kind of thing saw."""

    name: str
    clients: int
    n: int
    per_second: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    errors: int
    """Users who met something that they had not asked for, and stopped."""
    error: str | None


class Mixed(Answer, frozen=True, kw_only=True):
    """`bench mixed`."""

    floor: Floor
    seconds: float
    kinds: list[Kind]
    ring_cpu_share: float
    """Cores that all servers together kept busy."""
    anonymous_bytes: int
    """The most memory that a server allocated."""
    resident_bytes: int
    """The same with the pages of its file that happened to be in memory."""


class Endured(Answer, frozen=True, kw_only=True):
    """A ring after so many updates; bytes are those of the server that has most."""

    updates: int
    seconds: float
    anonymous_bytes: int
    """Allocated by the server itself."""
    resident_bytes: int
    """With the pages of its file that happen to be in memory."""
    disk_bytes: int


class SignatureStep(Answer, frozen=True, kw_only=True):
    """One part of a threshold signature, in microseconds of one process."""

    name: str
    p50_us: float
    p95_us: float
    ratio_to_floor: float
    """p50 against one plain signature and its check."""


class SignatureMeasured(Answer, frozen=True, kw_only=True):
    """`bench signature`."""

    signature_us: float
    """Median of one plain Ed25519 signature."""
    signature_check_us: float
    members: int
    threshold: int
    """How many must sign."""
    rounds: int
    steps: list[SignatureStep]


class Endurance(Answer, frozen=True, kw_only=True):
    """`bench endurance`."""

    updates: int
    batches: int
    looks: list[Endured]
    log_batches: list[int]
    """Batches in the log of each server at the end."""
    log_limit: int
    """How many that may be."""


class ChurnBeside(Answer, frozen=True, kw_only=True):
    """What is wanted of an overlay under churn, or was published of one."""

    of: str
    """`target`, `Bamboo 2004` or `Chord 2004`."""
    nodes: int
    median_session_s: float
    joined: float
    completed: float
    consistent: float
    mean_s: float
    p95_s: float | None
    bytes_per_node_s: float


class OverlayMeasured(Answer, frozen=True, kw_only=True):
    """`bench overlay`."""

    code: str
    """Hash over the source of the overlays and of the simulator."""
    seconds: float
    """That this took; runs that were kept from before are not in it."""
    floor: dict[str, float]
    """By number of nodes, the stretch of ways over tables that hold the nearest of all nodes, on idle links."""
    results: list[SimulatedChurn]
    beside: list[ChurnBeside]

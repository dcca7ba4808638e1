"""The fault manifest: which faults a run is made of, how strong, and how large the run is, as one TOML file.

What a manifest leaves out does not happen, so the empty one is a calm ring. When and to whom a fault comes is not in
here: a seed decides it. Rates are shares of 1, times are seconds, `every_seconds` and `seconds` are means.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from bft.membership import SIZES

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=3600)]
Lasting = Annotated[float, msgspec.Meta(gt=0, le=3600)]
"""Seconds that are never none."""
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Factor = Annotated[float, msgspec.Meta(ge=1, le=1000)]

MOST_CLOCK_ERROR_SECONDS = 1.5
"""Two clocks this far apart in opposite directions still stay within the drift that backups allow a proposal."""


class ManifestError(ValueError):
    """A manifest that cannot be run, with the place and what is wrong there."""


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class Spell(_Section, frozen=True):
    """Something that comes, lasts and goes."""

    every_seconds: Lasting
    seconds: Lasting


# --- network -----------------------------------------------------------------------------------------------------


class Rate(_Section, frozen=True):
    """Something that happens to a share of all messages, for so long."""

    share: Share
    seconds: Lasting


PartitionKind = Literal["one-way", "symmetric", "isolate", "halves", "client"]


class Partitions(Spell, frozen=True):
    """Links that carry nothing for a while: one direction, both, all of one server, between halves, or of a client."""

    kinds: Annotated[tuple[PartitionKind, ...], msgspec.Meta(min_length=1)] = ("one-way", "symmetric", "isolate")


Server = Annotated[int, msgspec.Meta(ge=0)]


class Split(_Section, frozen=True):
    """The ring in two, once: nothing passes between one side and the other. The first phase lasts until it is over."""

    after_seconds: Seconds
    """From the moment that clients begin, and up to a second more: it meets timers at any point."""
    seconds: Lasting
    """Exactly."""
    servers: Annotated[tuple[Server, ...], msgspec.Meta(min_length=1)]
    """One side; the other one is all others."""
    clients: Annotated[tuple[Server, ...], msgspec.Meta(min_length=1)] | None = None
    """Servers that clients reach meanwhile; left out: all."""


class Network(_Section, frozen=True):
    """What links do to messages."""

    delay_seconds: Lasting = 0.0005
    """Mean of the least delay of a link: each has its own between half and one and a half of it."""
    jitter_seconds: Seconds = 0.00005
    """Mean of what is added for each message: above the gaps between them, it reorders."""
    distribution: Literal["exponential", "uniform", "heavy-tailed"] = "exponential"
    """Of what is added."""
    table_seconds: list[list[Seconds]] | None = None
    """A wide area: least delays between sites, instead of `delay_seconds`; servers are spread over the sites in turn,
    and clients are at the first."""
    in_order: bool = False
    """Whether a link keeps the order of its messages, as a stream does."""
    loss: Share = 0.0
    duplication: Share = 0.0
    replays: Rate | None = None
    """Messages that come once more, much later."""
    stalls: Rate | None = None
    """Messages held back one by one."""
    clogs: Spell | None = None
    """Links behind which all messages wait."""
    queue: Count | None = None
    """Messages under way on a link at most; those above it are lost."""
    partitions: Partitions | None = None
    split: Split | None = None


# --- disk --------------------------------------------------------------------------------------------------------


class Slow(Spell, frozen=True):
    """One server is slower by a factor for a while."""

    factor: Factor


class Flips(_Section, frozen=True):
    """Bits that turn over in what a disk holds. Only one server that counts as faulty has such a disk."""

    every_seconds: Lasting


class Disk(_Section, frozen=True):
    """What disks do. A server whose disk fails steps aside and is started again."""

    sync_seconds: Lasting = 0.0005
    """Mean time of a sync."""
    unsynced: Literal["some", "none", "all"] = "some"
    """What a crash leaves of the transactions that were not synced: some first ones, none, or all. The storage engine
    sees to it that a torn one is lost as a whole."""
    slow: Slow | None = None
    errors: Spell | None = None
    """Reads or writes that fail; the server stays away so long."""
    full: Spell | None = None
    """No room: the first write fails, and starting again helps only when there is room."""
    flips: Flips | None = None


# --- process -----------------------------------------------------------------------------------------------------


class Crashes(Spell, frozen=True):
    """Processes that die between any two effects, and are started again after `seconds`."""

    most: Count = 1_000_000
    """Crashes of the whole run."""
    at_once: Count | None = None
    """Servers down together; left out: f."""
    whom: Literal["anyone", "leader"] = "anyone"
    """Whom they meet: whoever leads the newest view that has begun, or anybody."""


class Outage(_Section, frozen=True):
    """All servers go down together, once, in the middle of what they do."""

    after_seconds: Lasting
    seconds: Lasting


class Rounds(_Section, frozen=True):
    """Power failures one after another, each at a point of its own (`cluster.sim.rounds`): before or after a sync for
    one kind of message, or at any instant, of one server or all. Service must resume after each, so nothing else takes
    servers down. Clients go on until the last."""

    count: Count
    seconds: Lasting
    """How long power is away."""


class Rolling(_Section, frozen=True):
    """All servers are restarted in turn: each is down for `seconds`, with `pause_seconds` between them."""

    seconds: Lasting
    pause_seconds: Lasting


class SlowCpu(_Section, frozen=True):
    """So many servers take so much longer to look at what arrived, through the whole first phase."""

    servers: Count
    factor: Factor


class Process(_Section, frozen=True):
    """What happens to processes."""

    pickup_seconds: Lasting = 0.00003
    """From a message's arrival until its server looks: what comes meanwhile is taken with it."""
    crashes: Crashes | None = None
    outage: Outage | None = None
    pauses: Spell | None = None
    rolling: Rolling | None = None
    amnesia: Spell | None = None
    """One server, which counts as faulty, loses its disk each time it restarts."""
    slow: SlowCpu | None = None


# --- clock -------------------------------------------------------------------------------------------------------


class Jumps(_Section, frozen=True):
    """Some clock is set anew, within `error_seconds`."""

    every_seconds: Lasting


class Clock(_Section, frozen=True):
    """What clocks show."""

    error_seconds: Annotated[float, msgspec.Meta(ge=0, le=MOST_CLOCK_ERROR_SECONDS)] = 0.0
    """How far each may be from the right time."""
    jumps: Jumps | None = None
    freezes: Spell | None = None


# --- who lies ----------------------------------------------------------------------------------------------------


class Lie(_Section, frozen=True):
    """One server that lies from the first moment on; `cluster.faults.liars` has the kinds. Several that name one server
    make it lie in several ways."""

    kind: str
    server: Server | None = None
    """Left out: the seed chooses one that nobody has named."""
    parameters: dict[str, bool | int | float | str] = {}


# --- sizes -------------------------------------------------------------------------------------------------------


class Sizes(_Section, frozen=True):
    """How large the run is."""

    servers: Annotated[int, msgspec.Meta(ge=4, le=10)] = 4
    clients: Annotated[int, msgspec.Meta(ge=1, le=500)] = 20
    principals: Annotated[int, msgspec.Meta(ge=1, le=100)] = 2
    objects: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 2
    """Of each principal."""
    operations: Count = 200
    """Of all clients together."""
    phase_seconds: Lasting = 2.0
    """How long faults go on at most before the ring must show progress."""


class Habits(_Section, frozen=True):
    """What clients are like."""

    head_start_seconds: Seconds = 1.2
    """How long the ring runs before clients begin; it orders its first batch, an empty one, after a second."""
    pause_seconds: Seconds = 0.0
    """Mean time between two operations of one client."""
    reads: Share = 0.5
    """Share of operations that read."""
    conditional: Share = 0.3
    """Share of updates with a predicate on the version."""
    large: Share = 0.0
    """Share of updates whose blocks are sent ahead."""
    together: Share = 0.0
    """How often a client makes three updates at once, under one signature."""
    replays: Share = 0.0
    """How many requests somebody sends again later, per request."""
    patience_seconds: Lasting | None = None
    """Deadline of one operation; left out: none gives up."""


class Limits(_Section, frozen=True):
    """The protocol's windows where they are not those of production: small ones make its corners come up soon."""

    interval: Count | None = None
    window: Count | None = None
    retained: Count | None = None
    pipeline: Count | None = None
    pool: Count | None = None


class Ending(_Section, frozen=True):
    """What must hold after the faults: with whom the ring must make progress, and whether all are healed in the end."""

    heal: Literal["quorum", "all"] = "quorum"
    """`quorum`: 2f + 1 servers are healed, and the rest stays dead, cut off, failing or lying."""
    converge: bool = True
    """Whether then all are healed, and every correct server must come to the same state."""


class Manifest(_Section, frozen=True):
    """One run's faults and sizes."""

    sizes: Sizes = Sizes()
    habits: Habits = Habits()
    limits: Limits = Limits()
    network: Network = Network()
    disk: Disk = Disk()
    process: Process = Process()
    clock: Clock = Clock()
    liars: list[Lie] = []
    rounds: Rounds | None = None
    ending: Ending = Ending()

    @property
    def faults(self) -> int:
        """f: how many servers may be faulty for good."""
        return (self.sizes.servers - 1) // 3

    def check(self) -> None:
        """Raises ManifestError where values do not fit each other."""
        sizes, limits = self.sizes, self.limits
        if sizes.servers not in SIZES:
            raise ManifestError(f"sizes.servers: a ring has {', '.join(map(str, SIZES))} servers, not {sizes.servers}")
        named = {lie.server for lie in self.liars if lie.server is not None}
        lying = len(named) + sum(1 for lie in self.liars if lie.server is None)
        if lying > self.faults:
            raise ManifestError(f"liars: {sizes.servers} servers stand {self.faults} of them, not {lying}")
        if any(server >= sizes.servers for server in named):
            raise ManifestError(f"liars: servers are 0 to {sizes.servers - 1}")
        if (limits.interval is None) != (limits.window is None):
            raise ManifestError("limits: interval and window are changed together")
        if limits.interval is not None and limits.window is not None and limits.window < 2 * limits.interval:
            raise ManifestError("limits.window: at least two intervals")
        split = self.network.split
        if split is not None:
            if any(server >= sizes.servers for server in (*split.servers, *(split.clients or ()))):
                raise ManifestError(f"network.split: servers are 0 to {sizes.servers - 1}")
            if len(set(split.servers)) == sizes.servers:
                raise ManifestError("network.split.servers: somebody must be on the other side")
        process, disk = self.process, self.disk
        others = (process.crashes, process.outage, process.pauses, process.rolling, process.amnesia)
        if self.rounds is not None and any((*others, disk.errors, disk.full, disk.flips)):
            raise ManifestError("rounds: nothing else may take servers down beside them")
        table = self.network.table_seconds
        if table is not None and (not table or any(len(row) != len(table) for row in table)):
            raise ManifestError("network.table_seconds: one row, and one column, for each site")


def parse(text: str) -> Manifest:
    """A manifest from TOML. Raises ManifestError."""
    try:
        manifest = msgspec.convert(tomllib.loads(text), Manifest)
    except tomllib.TOMLDecodeError as error:
        raise ManifestError(f"not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise ManifestError(_where(str(error))) from None
    manifest.check()
    return manifest


def load(path: Path) -> Manifest:
    """A manifest from a file. Raises ManifestError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ManifestError("there is no such file; docs/manifests/ has examples") from None
    except OSError as error:
        raise ManifestError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ManifestError("is no TOML: it is no text") from None
    return parse(text)


def _where(error: str) -> str:
    """msgspec's `what - at `$.place`` the other way round."""
    what, dash, place = error.partition(" - at ")
    return f"{place.strip('`').removeprefix('$.')}: {what}" if dash else what


def dump(manifest: Manifest) -> str:
    """As TOML, without what is as it is by default."""
    values = msgspec.to_builtins(manifest)
    lines: list[str] = []
    _dump_table(values, (), lines)
    return "\n".join(lines).strip() + "\n"


def _dump_table(values: dict[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    tables = {name: value for name, value in values.items() if _is_table(path, name, value)}
    plain = {name: value for name, value in values.items() if name not in tables}
    if path and (plain or not tables):
        lines += ["", f"[{'.'.join(path)}]"]
    lines += [f"{name} = {_dump_value(value)}" for name, value in plain.items()]
    for name, value in tables.items():
        if isinstance(value, dict):
            _dump_table(value, (*path, name), lines)
        else:
            for item in value:
                lines += ["", f"[[{name}]]", *(f"{key} = {_dump_value(inner)}" for key, inner in item.items())]


def _is_table(path: tuple[str, ...], name: str, value: object) -> bool:
    return isinstance(value, dict) or (not path and name == "liars")


def _dump_value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value)
        case str():
            return msgspec.json.encode(value).decode()  # JSON's strings are TOML's basic strings
        case list() | tuple():
            return "[" + ", ".join(map(_dump_value, value)) + "]"
        case dict():
            return "{ " + ", ".join(f"{_dump_value(key)} = {_dump_value(item)}" for key, item in value.items()) + " }"
    raise AssertionError(f"a manifest holds {type(value)}")

"""The sizes that agreement works with. The same at all replicas of a ring: they bound what a message may name."""

from typing import NamedTuple


class Tuning(NamedTuple):
    """Production's values are the defaults; simulations take small ones, so that corners come up within a short run."""

    interval: int = 64
    """K: batches between checkpoints. A quarter of the window, so that a slow replica does not stall the primary."""

    window: int = 256
    """L: how far above the last stable checkpoint sequence numbers may run (four checkpoint intervals)."""

    retained: int = 4096
    """Numbers below the last stable checkpoint kept in the log for replicas that were away: about an hour of an idle
    ring, which orders one empty batch a second. Who was away longer fetches the state."""

    pipeline: int = 4
    """Batches under way at once: more hide a round trip but make batches smaller; other requests wait for one."""

    pool: int = 64
    """Nonce pairs that are published and not used yet; `bft.signing` replaces them in lots."""


DEFAULT = Tuning()

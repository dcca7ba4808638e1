"""How a server is, in a word and a sentence, for `pond cluster status`."""

from bft.recovery import UNKNOWN
from bft.replica import Replica
from pond.node.scrub import Scrub
from pond.protocol import Condition

DIVERGED = "this server's state differs from the ring's: it does not answer until it is repaired"

BEHIND = 8
"""Batches that a server may lack and still serve: others say where they are a moment after they got there."""


def condition(replica: Replica, scrub: Scrub) -> tuple[Condition, str]:
    """What a server is doing, or what keeps it from doing its part."""
    if replica.checkpoints.diverged_at is not None:
        return Condition.DIVERGED, DIVERGED
    progress = replica.recovery.transfer.progress
    if progress is not None:
        fetched = f"{progress.fetched_bytes / 1e6:.1f} MB and {progress.fetched_parts} entries are here"
        return Condition.TRANSFERRING, f"it fetches the state after batch {progress.sequence}: {fetched}"
    if replica.recovery.silent_until:
        until = "a while" if replica.recovery.silent_until == UNKNOWN else f"batch {replica.recovery.silent_until}"
        return Condition.LEARNING, f"it lost its votes and follows without a vote until {until}, as it might vote twice"
    behind = replica.retransmission.behind
    if behind > BEHIND:
        return Condition.CATCHING_UP, f"it runs the {behind} batches that it missed"
    if not replica.views.active:
        view = replica.views.view
        leads = f"server-{replica.membership.primary(view)} is to lead"
        joined = f"{replica.views.joined} of the {replica.membership.quorum} servers that it takes"
        return Condition.CHANGING_VIEW, f"it waits for view {view}, where {leads}, with {joined}"
    if scrub.broken:
        return Condition.SERVING, f"it fetches {scrub.broken} entries that its disk has lost or changed"
    mended = f"it found and mended {scrub.mended} damaged entries of its disk: look to its health"
    return Condition.SERVING, mended if scrub.mended else ""

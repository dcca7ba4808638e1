"""How long to wait for an answer, from the answers that came so far (Jacobson, SIGCOMM 1988, as in Bamboo)."""

FIRST_SECONDS = 1.0
"""Before anything was measured: what TCP begins with (RFC 6298, 2.1)."""

MARGIN_SECONDS = 0.03
"""Above what round trips so far make likely: without it, a line that never varied would be late at its first wait
behind a few other packets."""

MOST_SECONDS = 5.0


class RoundTrips:
    """Round trips to the nodes that one node talks to. For a node that it has not heard yet, it goes by all others."""

    def __init__(self) -> None:
        self._of: dict[bytes, tuple[float, float]] = {}
        """Mean and mean deviation, in seconds."""
        self._all: tuple[float, float] | None = None

    def add(self, guid: bytes, seconds: float) -> None:
        """One more answer."""
        self._of[guid] = _smoothed(self._of.get(guid), seconds, 1 / 8, 1 / 4)
        self._all = _smoothed(self._all, seconds, 1 / 32, 1 / 16)

    def timeout(self, guid: bytes) -> float:
        """Seconds after which an answer is late."""
        known = self._of.get(guid, self._all)
        if known is None:
            return FIRST_SECONDS
        mean, deviation = known
        return min(mean + 4 * deviation + MARGIN_SECONDS, MOST_SECONDS)

    def forget(self, guid: bytes) -> None:
        """The node is gone."""
        self._of.pop(guid, None)


def _smoothed(
    known: tuple[float, float] | None, seconds: float, gain: float, gain_of_deviation: float
) -> tuple[float, float]:
    if known is None:
        return seconds, seconds / 2
    mean, deviation = known
    return mean + (seconds - mean) * gain, deviation + (abs(seconds - mean) - deviation) * gain_of_deviation

"""How much travels in one message of a long transfer, and how long that may take."""

CHUNK_BYTES = 4 * 1024 * 1024
"""Blocks that travel in one message at most, about: little enough that messages overlap."""

FIRST_CHUNK_BYTES = 64 * 1024
"""The same at first, and over a slow line: at 256 kb/s one of these to each of four servers takes eight seconds."""

QUICK_SECONDS, SLOW_SECONDS = 1.0, 4.0
"""Chunks grow as long as they take less than the one, and shrink where they take more than the other."""

SLOW_BYTES_PER_SECOND = 10e6
"""Bytes travel faster than that, or at least half as fast as the last ones, or they are overdue."""

LONGEST_CHUNK_SECONDS = 15.0
"""However slow the last ones were, these are overdue."""


class Pace:
    """Of one client's line, one way: over a slow one nobody's patience is to end before the first chunk has arrived,
    and nothing to be asked for again that is still on its way."""

    def __init__(self) -> None:
        self.chunk_bytes = FIRST_CHUNK_BYTES
        """About how much to send next, or to ask for: at least one block."""
        self._seconds_per_byte = 1 / SLOW_BYTES_PER_SECOND

    def took(self, size_bytes: int, seconds: float) -> None:
        """A chunk has arrived so long after it was sent, or asked for, with others before it on the line. One that was
        small took a round trip, which tells nothing of the line unless it was long."""
        full = 2 * size_bytes >= self.chunk_bytes
        if full:
            self._seconds_per_byte = max(2 * seconds / size_bytes, 1 / SLOW_BYTES_PER_SECOND)
        if full and seconds < QUICK_SECONDS:
            self.chunk_bytes = min(2 * self.chunk_bytes, CHUNK_BYTES)
        elif seconds > SLOW_SECONDS:
            self.chunk_bytes = max(self.chunk_bytes // 2, FIRST_CHUNK_BYTES)

    def patience(self, size_bytes: int) -> float:
        """After how many seconds so many bytes are overdue."""
        return min(size_bytes * self._seconds_per_byte, LONGEST_CHUNK_SECONDS)

"""How much one neighbour may make this node do: so much at once, and then so much a second (a token bucket for each).

Whoever is admitted may lie, and the work that a message causes may be many times that of sending it.
"""

SENDERS = 1024
"""That are remembered; who was heard from longest ago has all of its allowance again."""


class Allowance:
    """One kind of work, and what each sender has left of it."""

    def __init__(self, at_once: int, per_second: float) -> None:
        self._at_once = at_once
        self._per_second = per_second
        self._left: dict[bytes, tuple[float, float]] = {}
        """By the senders' GUIDs: how much, and when."""

    def __len__(self) -> int:
        return len(self._left)

    def take(self, sender: bytes, now: float) -> bool:
        """Whether it may cause one piece of work more, which then counts."""
        left, then = self._left.pop(sender, (float(self._at_once), now))
        left = min(left + (now - then) * self._per_second, self._at_once)
        allowed = left >= 1.0
        self._left[sender] = (left - 1.0 if allowed else left), now
        if len(self._left) > SENDERS:
            del self._left[next(iter(self._left))]
        return allowed

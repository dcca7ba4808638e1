"""Times as people write them: 90s, 1.4m, 2h, and never."""

import re

NEVER = "never"

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)", re.ASCII)
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def seconds_of(text: str) -> float:
    """Seconds of a duration. Raises ValueError with what is wrong."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no duration: write it like 90s, 1.4m or 2h")
    seconds = round(float(found[1]) * _UNITS[found[2]], 6)
    if not 0 < seconds <= 1e6:
        raise ValueError(f"{text!r} is out of range: durations are more than 0s, and 270h at most")
    return seconds


def duration(seconds: float | None) -> str:
    """A duration that reads back as these seconds; None is never."""
    if seconds is None:
        return NEVER
    for unit in ("h", "m", "s"):
        text = f"{seconds / _UNITS[unit]:g}{unit}"
        if seconds >= _UNITS[unit] and "e" not in text and seconds_of(text) == seconds:
            return text
    return f"{seconds!r}s"

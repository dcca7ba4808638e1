"""What memory server processes take at most, looked at several times a second."""

import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

LOOK_SECONDS = 0.1


class Memory(NamedTuple):
    """Bytes of a process in memory. Pages of a mapped file are the kernel's to take back: they bound nothing."""

    resident: int
    anonymous: int
    """What it has allocated itself."""


def look(pid: int) -> Memory:
    """As it is now; nothing for a process that has ended."""
    sizes = {"VmRSS": 0, "RssAnon": 0}
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in sizes:
                sizes[name] = int(rest.split()[0]) * 1024
    return Memory(sizes["VmRSS"], sizes["RssAnon"])


class Peaks:
    """The most that processes take from `with` to its end, by the names that they are given."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self.most = dict.fromkeys(pids, Memory(0, 0))
        self._pids = dict(pids)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def __enter__(self) -> "Peaks":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            for name, pid in self._pids.items():
                self.most[name] = Memory(*map(max, self.most[name], look(pid)))
            if self._stopping.wait(LOOK_SECONDS):
                return

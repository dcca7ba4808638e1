"""Has all of Pond imported, and forks itself for each `pond` command that a test runs.

To start Python and import what a command needs takes it a third of a second of processor time, most of what it takes at
all. What is forked is a process of its own, with its own arguments, environment, directory, standard streams and end.

As a script, the server: it takes requests from the socket whose descriptor it is given, until that is closed.
"""

import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic

MOST_BYTES = 128 * 1024


def serve(requests: socket.socket) -> Callable[[], object] | None:
    """Returns once nobody asks any more, and, in each process that is forked for a command, what that is to run."""
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, MOST_BYTES, 4)
        if not request:
            return None
        waiting = os.fork()
        if waiting:
            for descriptor in descriptors:
                os.close(descriptor)
            os.waitpid(waiting, 0)
            continue
        if os.fork():
            os._exit(0)
        *streams, told = descriptors
        command = os.fork()
        if not command:
            os.close(told)
            requests.close()
            return _become(streams, **json.loads(request))
        for stream in streams:
            os.close(stream)
        with open(told, "w") as file:
            print(command, file=file, flush=True)
            print(os.waitstatus_to_exitcode(os.waitpid(command, 0)[1]), file=file, flush=True)
        os._exit(0)


def _become(
    streams: Sequence[int], words: Sequence[str], environment: Mapping[str, str], directory: str
) -> Callable[[], object]:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.argv[1:] = words
    from pond.__main__ import main

    return main


def _give(descriptor: int, content: bytes) -> None:
    with suppress(BrokenPipeError), open(descriptor, "wb") as file:
        file.write(content)


class Forks:
    """A running server of forks; `close` ends it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.server = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def run(
        self,
        words: Sequence[str | bytes],
        stdin: bytes,
        environment: Mapping[str, str],
        directory: Path | None,
        seconds: float,
    ) -> subprocess.CompletedProcess[bytes]:
        """As subprocess.run does it. Raises TimeoutExpired when the command has not ended after so long."""
        arguments = [os.fsdecode(word) for word in words]
        request = {
            "words": arguments,
            "environment": dict(environment),
            "directory": str(directory or Path.cwd()),
        }
        pipes = [os.pipe() for _ in range(4)]
        theirs = [pipes[0][0], *(writing for _, writing in pipes[1:])]
        try:
            socket.send_fds(self._socket, [json.dumps(request).encode()], theirs)
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        with (
            open(pipes[1][0], "rb") as out,
            open(pipes[2][0], "rb") as err,
            open(pipes[3][0], encoding="ascii") as told,
        ):
            began = monotonic()
            late = threading.Timer(seconds, os.kill, (int(told.readline()), signal.SIGKILL))
            said: list[bytes] = []
            others = [
                threading.Thread(target=_give, args=(pipes[0][1], stdin)),
                threading.Thread(target=lambda: said.append(err.read())),
                late,
            ]
            for thread in others:
                thread.start()
            output = out.read()
            code = int(told.readline())
            late.cancel()
            for thread in others:
                thread.join()
        if code == -signal.SIGKILL and monotonic() - began >= seconds:
            raise subprocess.TimeoutExpired(arguments, seconds, output)
        return subprocess.CompletedProcess(list(words), code, output, said[0])

    def close(self) -> None:
        """The server ends as soon as nobody can ask it any more."""
        self._socket.close()
        self.server.wait()


if __name__ == "__main__":
    for name in ("pond", "cluster"):
        for module in pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as asked:
        to_run = serve(asked)
    if to_run is not None:
        to_run()

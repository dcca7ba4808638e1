"""etcd beside Pond: three members on this machine, which sync, and clients that put keys by its JSON gateway.

It orders by Raft, which stands crashes and no lies: three members where Pond has four, one of which may fail in either.
Nothing is signed or encrypted. No client of its gRPC interface comes with Python or with Debian that puts what one asks
for (`etcdctl check perf` has sizes and rates of its own), so HTTP/1.1 with JSON has to do, on links that are kept; what
that adds is measured by a question that needs no agreement.
"""

import asyncio
import base64
import http.client
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic, perf_counter, sleep
from types import TracebackType
from typing import Any, NamedTuple

from cluster.bench import usage
from cluster.bench.clients import Operation
from cluster.bench.figures import percentile
from cluster.layout import HOST, free_ports
from pond.errors import Unavailable, UsageError

MEMBERS = 3
READY_SECONDS = 30.0
AGAIN_SECONDS = 0.05
OPERATION_SECONDS = 30.0
"""How long a put may take, as long as an operation of Pond."""

MOST_REQUEST_BYTES = 256 * 1024 * 1024
QUOTA_BYTES = 64 * 1024**3
"""By default etcd takes no request above 1.5 MB and 2 GB in all."""

GATEWAY_QUESTIONS = 300


def check() -> None:
    """That etcd is there. Raises UsageError."""
    if shutil.which("etcd") is None:
        raise UsageError(
            "there is no etcd on the PATH: install it (on Debian: apt-get install etcd-server), or leave --etcd out"
        )


class Etcd:
    """A cluster of its own in a directory, from `with` to its end."""

    def __init__(self, directory: Path) -> None:
        ports = free_ports(2 * MEMBERS)
        self._directory = directory
        self._clients = [f"{HOST}:{port}" for port in ports[:MEMBERS]]
        self._peers = [f"http://{HOST}:{port}" for port in ports[MEMBERS:]]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Etcd":
        """Returns when all members know who leads. Raises Unavailable."""
        try:
            for number in range(MEMBERS):
                self._start(number)
            self._wait()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def address(self) -> str:
        """Where the member that leads listens: to ask it saves a hop, as Pond's clients ask the primary."""
        return self._clients[int(self.leader().removeprefix("etcd-"))]

    def leader(self) -> str:
        """By what the members say of themselves. Raises Unavailable."""
        for number, address in enumerate(self._clients):
            said = self._status(address)
            if said is not None and said["header"]["member_id"] == said.get("leader"):
                return f"etcd-{number}"
        raise Unavailable("no member of etcd leads")

    def version(self) -> str:
        """Of the program."""
        said = self._status(self._clients[0])
        return str(said["version"]) if said is not None else ""

    def cpu_seconds(self) -> dict[str, float]:
        """Of each member, by name."""
        return {name: usage.cpu_seconds(process.pid) for name, process in self._processes.items()}

    def counted(self, leader: str) -> usage.Counted:
        """It counts other things than Pond does."""
        return usage.Counted(0.0, 0.0, 0.0, {})

    def gateway_ms(self) -> float:
        """Median time of a question that the member that leads answers by itself. Raises Unavailable."""
        question = {"key": _text(b"nobody wrote this"), "serializable": True}
        connection = http.client.HTTPConnection(self.address, timeout=OPERATION_SECONDS)
        times = []
        try:
            for _ in range(GATEWAY_QUESTIONS):
                began = perf_counter()
                connection.request("POST", "/v3/kv/range", json.dumps(question))
                connection.getresponse().read()
                times.append(perf_counter() - began)
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"etcd does not answer: {error}") from None
        finally:
            connection.close()
        return percentile(sorted(times), 0.5) * 1000

    # --- its processes -----------------------------------------------------------------------------------------------

    def _start(self, number: int) -> None:
        name = f"etcd-{number}"
        client, peer = f"http://{self._clients[number]}", self._peers[number]
        members = ",".join(f"etcd-{other}={address}" for other, address in enumerate(self._peers))
        settings = {
            "name": name,
            "data-dir": str(self._directory / name),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": members,
            "max-request-bytes": str(MOST_REQUEST_BYTES),
            "quota-backend-bytes": str(QUOTA_BYTES),
            "log-level": "error",
        }
        command = ["etcd", *(f"--{key}={value}" for key, value in settings.items())]
        own = {key: value for key, value in os.environ.items() if not key.startswith("ETCD_")}
        self._directory.mkdir(exist_ok=True)
        with (self._directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=own, start_new_session=True
            )

    def _wait(self) -> None:
        deadline = monotonic() + READY_SECONDS
        while not all((said := self._status(address)) and said.get("leader") for address in self._clients):
            for name, process in self._processes.items():
                if process.poll() is not None:
                    lines = (self._directory / f"{name}.log").read_text(errors="replace").strip().splitlines()
                    raise Unavailable(f"{name} ended at once: {lines[-1][:200] if lines else 'it said nothing'}")
            if monotonic() > deadline:
                raise Unavailable(f"etcd did not begin to serve within {READY_SECONDS:g} s")
            sleep(AGAIN_SECONDS)

    def _status(self, address: str) -> dict[str, Any] | None:
        connection = http.client.HTTPConnection(address, timeout=OPERATION_SECONDS)
        try:
            connection.request("POST", "/v3/maintenance/status", "{}")
            said = json.loads(connection.getresponse().read())
            return said if isinstance(said, dict) and "header" in said else None
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()

    def _end(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Put(NamedTuple):
    """Each client puts to a key of its own, over a link of its own."""

    address: str
    size_bytes: int

    async def open(self, stack: AsyncExitStack) -> Operation:
        """One more client. Raises Unavailable."""
        host, port = self.address.split(":")
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
        except OSError as error:
            raise Unavailable(f"etcd does not listen: {error}") from None
        stack.callback(writer.close)
        content = {"key": _text(os.urandom(16)), "value": _text(os.urandom(self.size_bytes))}
        body = json.dumps(content).encode()
        head = f"POST /v3/kv/put HTTP/1.1\r\nHost: {self.address}\r\nContent-Length: {len(body)}\r\n\r\n"
        return _operation(reader, writer, head.encode() + body)


def _operation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> Callable[[], Any]:
    async def put() -> None:
        try:
            async with asyncio.timeout(OPERATION_SECONDS):
                writer.write(request)
                await writer.drain()
                status, body = await answer(reader)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:  # a timeout is an OSError
            raise Unavailable(f"etcd did not confirm a put: {error}") from None
        if status != 200:
            raise Unavailable(f"etcd refused a put: {body[:200].decode(errors='replace')}")

    return put


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of one HTTP answer that says how long it is. Raises ValueError for another one, EOFError."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(":") for line in lines)}
    if "content-length" not in fields:
        raise ValueError(f"{first}, of unknown length")
    return int(first.split(" ")[1]), await reader.readexactly(int(fields["content-length"]))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()

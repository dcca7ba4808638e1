"""The process of a storage server: a node of the overlay, and a port for those who ask it something."""

import asyncio
import contextlib
import os
import signal
from functools import partial
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

from bft.secret import Secret
from bft.signatures import Ed25519Signer
from pond import config, keys
from pond.errors import ClusterDamaged, Unavailable
from pond.logs import Log
from pond.node.metrics import ClientMetrics, MetricsPort, kind_of_refusal
from pond.node.overlay import Overlay, running
from pond.protocol import OverlayQuestion, Question, Refused, Reply
from pond.servers import listed
from pond.transport import ClientPort

MAX_QUESTION_BYTES = 64 * 1024
"""Of what is asked of the overlay, the largest has less than a hundred."""

_questions = msgspec.msgpack.Decoder(Question)
_encode = msgspec.msgpack.Encoder().encode


class StorageServer:
    """One storage server, as found in its directory. Raises NotFound, UsageError or ClusterDamaged."""

    def __init__(self, directory: Path, log: Log) -> None:
        settings = config.read(directory / "node.json", config.NodeConfig)
        cluster = config.read((directory / settings.cluster).resolve(), config.ClusterFile)
        self._seed: Secret = keys.read_key(directory / "node.key", keys.Kind.NODE)
        own_key = Ed25519Signer(self._seed).public_key
        of_this = settings.id < len(cluster.storage) and cluster.storage[settings.id].public_key == own_key
        if settings.role != "storage" or not of_this:
            raise ClusterDamaged(
                f"the key in {directory} is not that of storage server {settings.id}: restore the directory"
            )
        self._listed = listed(cluster)
        self._member = cluster.storage[settings.id]
        self._own = self._listed[len(cluster.members) + settings.id]
        self._log = log
        self._registry = CollectorRegistry()
        self._metrics = ClientMetrics(self._registry)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises Unavailable when a port is taken."""
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        with contextlib.ExitStack() as opened:
            try:
                self._overlay = self._open(opened)
            except OSError as error:
                raise Unavailable(
                    f"{error}: another program has the port; stop it, or start this server later"
                ) from None
            self._log.info("started", pid=os.getpid())
            await stopped.wait()
            self._log.info("stopped")

    def _open(self, opened: contextlib.ExitStack) -> Overlay:
        self._clients = ClientPort(self._seed, self._member.client_address, self._on_clients, MAX_QUESTION_BYTES)
        opened.callback(self._clients.close)
        host, port = self._member.metrics_address.rsplit(":", 1)
        opened.callback(MetricsPort(self._registry, host, int(port)).close)
        overlay = opened.enter_context(running(self._own, self._listed, self._seed, self._registry, self._log))
        assert overlay is not None, "our fault: a storage server has an overlay address"
        return overlay

    def _on_clients(self, burst: list[tuple[bytes, str, bytes]]) -> None:
        for client, key, data in burst:
            self._metrics.client_bytes.labels("in").inc(len(data))
            try:
                question = _questions.decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                self._refused(key, f"undecodable question: {error}")
                continue
            self._metrics.message(type(question), "in")
            if isinstance(question, OverlayQuestion):
                self._overlay.ask(question, partial(self._answer, client))
            else:
                self._answer(client, Refused(question.ask, "a storage server orders no updates and holds no objects"))

    def _answer(self, client: bytes, reply: Reply) -> None:
        self._metrics.message(type(reply), "out")
        data = _encode(reply)
        self._metrics.client_bytes.labels("out").inc(len(data))
        self._clients.send(client, data)

    def _refused(self, sender: str, reason: str) -> None:
        self._metrics.rejected.labels(kind_of_refusal(reason)).inc()
        self._log.warning("refused", sender=sender, reason=reason)

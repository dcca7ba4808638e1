"""The machine's floor: what the steps that no design avoids cost here and now.

Machines are shared and noisy, so figures are compared as ratios to this floor, measured in the same run.
"""

import asyncio
import hashlib
import multiprocessing
import os
import socket
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter

from bft.secret import Secret
from bft.signatures import Ed25519Signer, Ed25519Verifier
from cluster.answers import Ceiling, Floor, ReadFloor
from cluster.processes import end_with_parent
from pond.errors import Unavailable
from pond.transport import ClientPort, Remote, ServerLinks

ROUNDS = 200
SYNCS = 3
"""Syncs in a row that a durable write waits for: the primary's proposal, a backup's, and a prepared entry."""

ROUND_TRIPS = 3
"""Round trips it waits for: client and primary, proposal and PREPARE, COMMIT and the signature share."""

READ_ROUND_TRIPS = 2
"""Round trips that a read waits for: the proof of what the newest version is, then its blocks."""

LARGE_BYTES = 4_000_000
"""Content of many writes that goes to the disk at once, when there are many."""

ECHO_SECONDS = 30.0
MAX_ECHO_BYTES = 1024

CHECKS = 2
"""Signature checks in a row: the client's by the primary, then the proposal's by a backup beside the client's."""


def measure(payload_bytes: int, directory: Path | None = None) -> Floor:
    """The floor for writes of this size, with syncs in `directory` (the temporary one by default)."""
    round_trip = _loopback_round_trip()
    sync = _sync(payload_bytes, directory)
    _, check = signature()
    hashing = _hash(payload_bytes)
    write = SYNCS * sync + ROUND_TRIPS * round_trip + CHECKS * check + hashing
    return Floor(
        loopback_round_trip_ms=round_trip,
        sync_ms=sync,
        signature_check_ms=check,
        hash_ms=hashing,
        write_ms=write,
    )


def ceiling(payload_bytes: int, servers: int, directory: Path | None = None) -> Ceiling:
    """How many writes of this size a second a machine could do that did nothing but what no design avoids: the client
    signs, every server checks that signature, all hash the content, and each server syncs it in large pieces."""
    sign, check = signature()
    hashing = _hash(payload_bytes)
    cpu = sign + servers * check + (servers + 1) * hashing
    cores = len(os.sched_getaffinity(0))
    disk = LARGE_BYTES / _sync(LARGE_BYTES, directory) * 1000
    return Ceiling(
        signature_ms=sign,
        signature_check_ms=check,
        hash_ms=hashing,
        cpu_ms=cpu,
        cores=cores,
        disk_bytes_per_second=disk,
        per_second=min(cores * 1000 / cpu, disk / (servers * payload_bytes)),
    )


def reading(payload_bytes: int) -> ReadFloor:
    """The floor for reads of this size: two round trips, a check of the certificate, a hash of what came."""
    round_trip, (_, check), hashing = _loopback_round_trip(), signature(), _hash(payload_bytes)
    cores = len(os.sched_getaffinity(0))
    return ReadFloor(
        loopback_round_trip_ms=round_trip,
        signature_check_ms=check,
        hash_ms=hashing,
        read_ms=READ_ROUND_TRIPS * round_trip + check + hashing,
        cores=cores,
        per_second=cores * 1000 / (READ_ROUND_TRIPS * round_trip + check + hashing),
    )


def question() -> float:
    """A question of 64 bytes that another process answers with the same, over our ports and links (ZeroMQ, CURVE) and
    nothing else: median milliseconds. Raises Unavailable."""
    seed = Secret(os.urandom(32))
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_echo, args=(theirs, seed.reveal()), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(ECHO_SECONDS):
            raise Unavailable("a process that answers questions does not start")
        return asyncio.run(_ask_echo(Remote(Ed25519Signer(seed).public_key, ours.recv())))
    finally:
        process.kill()
        process.join()


async def _ask_echo(remote: Remote) -> float:
    loop = asyncio.get_running_loop()
    answered = asyncio.Event()
    links = ServerLinks({0: remote}, lambda burst: answered.set(), MAX_ECHO_BYTES)
    times = []
    try:
        for _ in range(ROUNDS):
            began = loop.time()
            answered.clear()
            links.send(0, b"x" * 64)
            async with asyncio.timeout(ECHO_SECONDS):
                await answered.wait()
            times.append(loop.time() - began)
    except TimeoutError:
        raise Unavailable("a process that answers questions does not answer") from None
    finally:
        links.close()
    return sorted(times)[ROUNDS // 2] * 1000


def _echo(pipe: Connection, seed: bytes) -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    asyncio.run(_answer_all(pipe, Secret(seed)))


async def _answer_all(pipe: Connection, seed: Secret) -> None:
    def received(burst: list[tuple[bytes, str, bytes]]) -> None:
        for client, _, data in burst:
            port.send(client, data)

    port = ClientPort(seed, "tcp://127.0.0.1:*", received, MAX_ECHO_BYTES)
    pipe.send(port.address)
    await asyncio.Event().wait()


def _median_ms(step: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = perf_counter()
        step()
        times.append(perf_counter() - began)
    return sorted(times)[rounds // 2] * 1000


def _loopback_round_trip() -> float:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def echo() -> None:
            connection, _ = server.accept()
            with connection:
                while data := connection.recv(64):
                    connection.sendall(data)

        thread = threading.Thread(target=echo, daemon=True)
        thread.start()
        with socket.create_connection(server.getsockname()) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def step() -> None:
                connection.sendall(b"x" * 64)
                connection.recv(64)

            median = _median_ms(step, ROUNDS)
        thread.join(timeout=5)
    return median


def _sync(payload_bytes: int, directory: Path | None) -> float:
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        payload = os.urandom(payload_bytes)

        def step() -> None:
            os.pwrite(file.fileno(), payload, 0)
            os.fdatasync(file.fileno())

        return _median_ms(step, max(20, min(ROUNDS, 400_000_000 // max(1, payload_bytes) // 20)))


def _hash(payload_bytes: int) -> float:
    payload = os.urandom(payload_bytes)
    return _median_ms(lambda: hashlib.sha256(payload).digest(), ROUNDS)


def signature() -> tuple[float, float]:
    """To make an Ed25519 signature, and to check it: median milliseconds."""
    signer, verifier = Ed25519Signer(Secret(os.urandom(32))), Ed25519Verifier()
    message = os.urandom(256)
    signature = signer.sign(message)
    check = _median_ms(lambda: verifier.verify(signer.public_key, message, signature), ROUNDS)
    return _median_ms(lambda: signer.sign(message), ROUNDS), check

"""What links survive that no test in one process can show."""

import asyncio
import subprocess
import sys

import pytest

from bft.secret import Secret
from bft.signatures import Ed25519Signer
from pond.transport import Remote, ServerLinks

pytestmark = pytest.mark.process

SEED = bytes(range(32))

DEAF_SERVER = """
import asyncio, sys
from bft.secret import Secret
from pond.transport import ClientPort

async def main():
    port = ClientPort(Secret(bytes(range(32))), "tcp://127.0.0.1:*", lambda burst: None, 1000)
    print(port.address, flush=True)
    await asyncio.sleep(0)
    while (line := sys.stdin.readline().strip()) != "deaf":     # blocks the loop: nothing is read meanwhile
        await asyncio.sleep(0)
    print("deaf", flush=True)
    sys.stdin.readline()

asyncio.run(main())
"""

HEARTBEAT_SECONDS = 5.0
"""Longer than two intervals of the heartbeats that once were."""


def test_a_client_that_floods_and_goes_away_does_not_kill_a_server_that_does_not_read() -> None:
    """libzmq aborts when a heartbeat falls due on a link that broke while its queue was full: so there are none."""
    with subprocess.Popen([sys.executable, "-c", DEAF_SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        address = server.stdout.readline().decode().strip()

        async def flood() -> None:
            remote = Remote(Ed25519Signer(Secret(SEED)).public_key, address)
            links = ServerLinks({0: remote}, lambda burst: None, 1000)
            async with asyncio.timeout(20):
                while not links.connected:  # the handshake needs the server's loop
                    server.stdin.write(b"go on\n")  # type: ignore[union-attr]
                    server.stdin.flush()  # type: ignore[union-attr]
                    await asyncio.sleep(0)
                server.stdin.write(b"deaf\n")  # type: ignore[union-attr]
                server.stdin.flush()  # type: ignore[union-attr]
                sent = 0
                while sent < 1500:
                    sent += links.send(0, b"x" * 900)
                    await asyncio.sleep(0)
            links.close()

        asyncio.run(flood())
        with pytest.raises(subprocess.TimeoutExpired):
            server.wait(timeout=HEARTBEAT_SECONDS)
        server.stdin.write(b"\n")
        server.stdin.close()
        assert server.wait(timeout=20) == 0

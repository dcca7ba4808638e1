"""Rule 6 at the client: an AES-GCM key and nonce never serve two plaintexts. The salt of an update makes its key."""

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec

from pond.model import update
from pond.model.block import Run
from pond.model.version import Metadata
from pond.protocol import Submit
from tests.unit.client.harness import Cluster
from tests.unit.client.test_lies import check_run, loop, notes_of

__all__ = ["loop"]


def sealed(value: Any) -> Iterator[tuple[bytes, int, bytes]]:
    """(salt, counter, ciphertext or its name) of everything encrypted within a decoded update."""
    match value:
        case Run(salt=salt, first_counter=first, bguids=bguids):
            yield from ((salt, first + place, bguid) for place, bguid in enumerate(bguids))
        case Metadata(salt=salt, counter=counter, ciphertext=ciphertext):
            yield salt, counter, ciphertext
        case list() | tuple():
            for item in value:
                yield from sealed(item)
        case msgspec.Struct():
            yield from sealed(msgspec.structs.astuple(value))


def test_no_salt_and_counter_serve_two_ciphertexts(loop):
    """Also where a change at an offset is built anew, since another one was quicker."""

    async def test(cluster: Cluster) -> None:
        _, notes = await notes_of(cluster)
        await notes.write(bytes(20_000))
        await notes.append(b"more")
        await asyncio.gather(*(notes.update().insert(5, b"%d" % i).commit() for i in range(4)))
        operations = {
            question.request.parse().operation for _, question in cluster.asked if isinstance(question, Submit)
        }
        assert len(operations) > 6, "some were built anew"
        served: dict[tuple[bytes, int], bytes] = {}
        for operation in sorted(operations):
            for salt, counter, ciphertext in sealed(update.decode(operation)):
                assert served.setdefault((salt, counter), ciphertext) == ciphertext, "one nonce for two plaintexts"
        assert len(served) > 10

    check_run(loop, test)

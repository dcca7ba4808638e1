"""What a client signs within one round of its event loop is under one signature."""

import asyncio
import hashlib

import pytest

from bft.request_signatures import MAX_TOGETHER, RequestVerifier
from bft.secret import Secret
from bft.signatures import SIGNATURE_BYTES, Ed25519Signer, Ed25519Verifier
from pond.client.signing import SigningTogether


class CountingSigner(Ed25519Signer):
    def __init__(self) -> None:
        super().__init__(Secret(hashlib.sha256(b"a client").digest()))
        self.signed = 0

    def sign(self, message: bytes) -> bytes:
        self.signed += 1
        return super().sign(message)


@pytest.mark.parametrize(("count", "signed"), [(1, 1), (2, 1), (MAX_TOGETHER, 1), (MAX_TOGETHER + 1, 2)])
def test_statements_of_one_round_are_signed_together(count: int, signed: int) -> None:
    signer = CountingSigner()
    statements = [b"%d" % number for number in range(count)]

    async def run() -> list[bytes]:
        signing = SigningTogether(signer, asyncio.get_running_loop())
        return await asyncio.gather(*map(signing.sign, statements))

    signatures = asyncio.run(run())
    assert signer.signed == signed
    verifier = RequestVerifier(Ed25519Verifier())
    for statement, signature in zip(statements, signatures, strict=True):
        assert verifier.verify(signer.public_key, statement, signature)


def test_who_signs_alone_has_a_plain_signature_each_time() -> None:
    signer = CountingSigner()

    async def run() -> None:
        signing = SigningTogether(signer, asyncio.get_running_loop())
        for _ in range(3):
            assert len(await signing.sign(b"statement")) == SIGNATURE_BYTES

    asyncio.run(run())
    assert signer.signed == 3


def test_who_gave_up_meanwhile_is_not_signed_for() -> None:
    signer = CountingSigner()

    async def run() -> bytes:
        signing = SigningTogether(signer, asyncio.get_running_loop())
        gone = asyncio.ensure_future(signing.sign(b"gone"))
        stays = asyncio.ensure_future(signing.sign(b"stays"))
        await asyncio.sleep(0)
        gone.cancel()
        return await stays

    assert len(asyncio.run(run())) == SIGNATURE_BYTES
    assert signer.signed == 1

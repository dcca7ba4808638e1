"""Requests that a client sends in one go are signed together, by one signature over all (bft.request_signatures)."""

import asyncio

from bft.request_signatures import MAX_TOGETHER, sign
from bft.signatures import Signer


class SigningTogether:
    """Signs for one principal what is to be signed within one round of the event loop."""

    def __init__(self, signer: Signer, loop: asyncio.AbstractEventLoop) -> None:
        self._signer = signer
        self._loop = loop
        self._waiting: list[tuple[bytes, asyncio.Future[bytes]]] = []

    async def sign(self, statement: bytes) -> bytes:
        """The request's signature."""
        if not self._waiting:
            self._loop.call_soon(self._sign_all)
        signature: asyncio.Future[bytes] = self._loop.create_future()
        self._waiting.append((statement, signature))
        return await signature

    def _sign_all(self) -> None:
        waiting, self._waiting = [one for one in self._waiting if not one[1].cancelled()], []
        for start in range(0, len(waiting), MAX_TOGETHER):
            some = waiting[start : start + MAX_TOGETHER]
            for (_, future), signature in zip(some, sign(self._signer, [data for data, _ in some]), strict=True):
                future.set_result(signature)

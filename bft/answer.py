"""Answers to requests, and how a client that trusts only the ring's key checks one.

An answer is the statement `bft.answer` format 1: digest of the request, status, and the service's result. It is proved
by a certificate together with either its place in that batch's tree of answers or, for a request that is asked about
again, its place in the session's page of the state tree.
"""

from enum import IntEnum
from typing import Annotated

import msgspec

from bft import merkle, statement
from bft.certificate import Claim
from bft.state_tree import ProofError, StateProof, verify_proof
from bft.statement import Digest, StatementError
from bft.types import Natural, WireTime

TAG = "bft.answer"
FORMAT = 1

SessionId = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
"""16 random bytes that the client chose when it opened the session."""


class Status(IntEnum):
    """What became of a request. Only EXECUTED ran; no other status changed any state."""

    EXECUTED = 0
    EXPIRED = 1
    """Not-after has passed: says nothing of the outcome, which the object's log tells."""
    OUT_OF_ORDER = 2
    """An earlier number of the session has not run yet; the same bytes may be sent again."""
    UNKNOWN_SESSION = 3
    """Number above 1 in a session that is not open (it expired, or never was)."""
    NOT_AFTER_TOO_FAR = 4
    """Not-after lies further ahead of agreed time than the ring keeps answers."""
    NUMBER_TAKEN = 5
    """Another request ran under this number of the session: two writers share one session, or its id was guessed."""


class Answer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One request's answer: digest of its statement, status, and result (empty unless EXECUTED)."""

    request: Digest
    status: Status
    result: bytes

    def encode(self) -> bytes:
        """Canonical bytes: a leaf of the batch's tree of answers."""
        return statement.encode(TAG, FORMAT, self.request, int(self.status), self.result)


class AnswerError(ValueError):
    """An answer that is malformed or not proved."""


def decode(data: bytes) -> Answer:
    """Raises AnswerError when the bytes are not an answer."""
    try:
        return msgspec.convert(statement.decode(data, TAG, FORMAT), Answer, builtin_types=(bytes,))
    except (StatementError, msgspec.ValidationError) as error:
        raise AnswerError(f"malformed answer: {error}") from None


class BatchPath(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=0):
    """Place of an answer in the tree of its batch's answers."""

    index: Natural
    count: Natural
    path: Annotated[list[Digest], msgspec.Meta(max_length=64)]


class SessionPath(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """Place of an answer in the state tree: the proof of the session's page that holds it."""

    proof: StateProof


def check_batch_path(claim: Claim, answer: bytes, place: BatchPath) -> None:
    """Raises AnswerError unless `answer` is at `place` among the answers that `claim` covers."""
    if not merkle.verify(claim.answers_root, answer, place.index, place.count, place.path):
        raise AnswerError(f"the answer is not among those of batch {claim.sequence}")


def check_session_path(claim: Claim, page_key: bytes, number: int, answer: bytes, place: SessionPath) -> None:
    """Raises AnswerError unless the state that `claim` covers holds `answer` for `number` in the page `page_key`."""
    try:
        value = verify_proof(claim.state_root, page_key, place.proof)
        page = decode_page(value) if value is not None else []
    except (ProofError, msgspec.DecodeError) as error:
        raise AnswerError(f"no proof of the answer in the state after batch {claim.sequence}: {error}") from None
    if not any(entry.number == number and entry.answer == answer for entry in page):
        raise AnswerError(f"the answer is not in the state after batch {claim.sequence}")


class PageEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One answer in a page of a session: kept at least until `not_after` has passed in agreed time."""

    number: Natural
    not_after: WireTime
    answer: bytes


_pages = msgspec.msgpack.Decoder(list[PageEntry])


def decode_page(value: bytes) -> list[PageEntry]:
    """Entries of a page as stored in the state tree. Raises msgspec.DecodeError."""
    return _pages.decode(value)

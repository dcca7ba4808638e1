"""Events of a run put into words: who said what to whom. Nothing secret is in an event, and nonces are only counted."""

from typing import Any

import msgspec

from bft.messages import (
    Bodies,
    Certified,
    Checkpoint,
    Commit,
    FetchBodies,
    Message,
    Nonces,
    Prepare,
    PrePrepare,
    SignatureShare,
    Status,
)
from pond.protocol import (
    Answered,
    Blocks,
    GetBlocks,
    ObjectRead,
    Overloaded,
    PutBlocks,
    Question,
    ReadObject,
    Refused,
    Reply,
    Submit,
)

_messages = msgspec.msgpack.Decoder(Message)
_questions = msgspec.msgpack.Decoder(Question)
_replies = msgspec.msgpack.Decoder(Reply)


def words(what: str, details: tuple[Any, ...]) -> str:
    """One event as a line."""
    match what, details:
        case "message", (int(sender), int(to), bytes(data), float()):
            return f"{_name(to):>4} <- {_name(sender)}: {message(sender, to, data)}"
        case "lost", (int(sender), int(to), bytes(data)):
            return f"{_name(sender):>4} -> {_name(to)}: lost: {message(sender, to, data)}"
        case "down", (int(sender), int(to), bytes(data), float()):
            return f"{_name(to):>4} <- {_name(sender)}: down: {message(sender, to, data)}"
        case _, (int(who), *rest):
            return f"{_name(who):>4} {what} {' '.join(map(_short, rest))}".rstrip()
    return f"     {what} {' '.join(map(_short, details))}".rstrip()


def message(sender: int, to: int, data: bytes) -> str:
    """A message as its receiver would decode it."""
    decoder = _questions if sender < 0 else _replies if to < 0 else _messages
    try:
        said = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"{len(data)} bytes that are no message: {error}"
    return f"{type(said).__name__} {_told(said)}".rstrip()


def _told(said: object) -> str:
    match said:
        case PrePrepare(view=view, sequence=sequence, requests=requests, plan=plan):
            signers = [] if plan is None else [signer for signer, _, _ in plan.signers]
            return f"{sequence} in view {view}, {len(requests)} requests, to be signed by {signers}"
        case Prepare(sequence=sequence, digest=digest) | Commit(sequence=sequence, digest=digest):
            return f"{sequence} {digest.hex()[:8]}"
        case Checkpoint(sequence=sequence, digest=digest):
            return f"{sequence} {digest.hex()[:8]}"
        case Nonces(first=first, commitments=commitments):
            return f"{first} to {first + len(commitments) - 1}"
        case SignatureShare(sequence=sequence):
            return f"{sequence}"
        case Certified(statement=statement):
            return f"{len(statement)} bytes"
        case Status(executed=executed, stable=stable, certified=certified, nonces=nonces):
            return f"executed {executed}, stable {stable}, certified {certified}, nonces {nonces}"
        case FetchBodies(digests=digests):
            return f"{len(digests)}"
        case Bodies(bodies=bodies):
            return f"{len(bodies)}"
        case Submit(ask=ask, request=request):
            return f"question {ask}, {len(request.statement)} bytes, {len(request.bodies)} bodies"
        case PutBlocks(ask=ask, blocks=blocks):
            return f"question {ask}, {len(blocks)}"
        case Blocks(ask=ask, blocks=found):
            return f"question {ask}, {len(found)}"
        case GetBlocks(ask=ask, guids=guids):
            return f"question {ask}, {len(guids)}"
        case ReadObject(ask=ask, aguid=aguid, linearizable=linearizable):
            return f"question {ask}, {aguid.hex()[:8]}" + (" linearizable" if linearizable else "")
        case Answered(ask=ask, certificate=certificate):
            return f"question {ask}, " + ("without certificate" if certificate is None else "certified")
        case ObjectRead(ask=ask, version=version):
            return f"question {ask}, " + ("no version" if version is None else "a version")
        case Refused(ask=ask, reason=reason):
            return f"question {ask}: {reason}"
        case Overloaded(ask=ask):
            return f"question {ask}"
    number = getattr(said, "ask", None)
    return f"question {number}" if number is not None else ""


def _name(address: int) -> str:
    return f"s{address}" if address >= 0 else f"c{-1 - address}"


def _short(detail: object) -> str:
    return detail.hex()[:8] if isinstance(detail, bytes) else str(detail)

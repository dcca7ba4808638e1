"""Events of a run in words: one line each, in columns. Nothing secret is in an event, and nonces are only counted."""

from collections.abc import Callable
from typing import Any

import msgspec

from bft.messages import Message, Nonces, PrePrepare, Status
from cluster.sim.trace import Event
from pond.protocol import Answered, ObjectRead, Question, ReadObject, Refused, Reply, Submit

HEADER = f"{'seconds':>11}  {'who':<4}  {'whom':<4} {'what':<17} {'took ms':>8}  {'view number':<12} more"

DETAIL_CHARACTERS = 60

_messages = msgspec.msgpack.Decoder(Message)
_questions = msgspec.msgpack.Decoder(Question)
_replies = msgspec.msgpack.Decoder(Reply)


def line(event: Event) -> str:
    """One event: when, who to whom, what, in which view and at which number, and the rest in short."""
    match event:
        case (when, "message", (int(sender), int(to), bytes(data), float(sent))):
            return _line(when, sender, "→", to, *_told(sender, to, data), took=when - sent)
        case (when, "lost", (int(sender), int(to), bytes(data))):
            return _line(when, sender, "✗", to, *_told(sender, to, data), "lost")
        case (when, "down", (int(sender), int(to), bytes(data), float())):
            return _line(when, sender, "✗", to, *_told(sender, to, data), "nobody there")
        case (when, ("cut" | "mend" | "clog") as what, (int(sender), int(to), *rest)):
            return _line(when, sender, "│" if what == "cut" else " ", to, what, "", *map(_short, rest))
        case (when, what, (int(who), *rest)):
            return _line(when, who, " ", None, what, "", *map(_short, rest))
        case (when, what, details):
            return _line(when, None, " ", None, what, "", *map(_short, details))


def _line(
    when: float,
    who: int | None,
    arrow: str,
    whom: int | None,
    what: str,
    place: str,
    *more: str,
    took: float | None = None,
) -> str:
    details = ", ".join(filter(None, more))
    delay = "" if took is None else f"{1000 * took:.2f}"
    left, right = (name(address) if address is not None else "" for address in (who, whom))
    return f"{when:11.6f}  {left:<4}{arrow} {right:<4} {what:<17} {delay:>8}  {place:<12} {details}".rstrip()


def decode(sender: int, to: int, data: bytes) -> Any:
    """A message as its receiver decodes it, or None."""
    decoder: msgspec.msgpack.Decoder[Any] = _questions if sender < 0 else _replies if to < 0 else _messages
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _told(sender: int, to: int, data: bytes) -> tuple[str, str, str]:
    """(kind, view and number, what is in it) of a message."""
    said = decode(sender, to, data)
    if said is None:
        return "undecodable", "", f"{len(data)} bytes"
    return type(said).__name__, place(said), _content(said)


def place(said: object) -> str:
    """`v2 n17`: the view and the sequence number that a message speaks of, where it does."""
    view, number = getattr(said, "view", None), getattr(said, "sequence", None)
    return " ".join([f"v{view}"] * (view is not None) + [f"n{number}"] * (number is not None))


def _content(said: object) -> str:
    match said:
        case PrePrepare(requests=requests, plan=plan):
            signers = [] if plan is None else [signer for signer, _, _ in plan.signers]
            return f"{len(requests)} requests, to be signed by {signers}"
        case Nonces(first=first, commitments=commitments):
            return f"{first} to {first + len(commitments) - 1}"
        case Status(executed=executed, stable=stable, certified=certified, nonces=nonces):
            return f"executed {executed}, stable {stable}, certified {certified}{', needs nonces' if nonces else ''}"
        case Submit(ask=ask, request=request):
            return f"question {ask}, {len(request.statement)} bytes, {len(request.bodies)} bodies"
        case ReadObject(ask=ask, aguid=aguid, linearizable=linearizable):
            return f"question {ask}, {aguid.hex()[:8]}" + (", linearizable" if linearizable else "")
        case Answered(ask=ask, certificate=certificate):
            return f"question {ask}, " + ("without certificate" if certificate is None else "certified")
        case ObjectRead(ask=ask, version=version):
            return f"question {ask}, " + ("no version" if version is None else "a version")
        case Refused(ask=ask, reason=reason):
            return f"question {ask}: {reason}"
    question = getattr(said, "ask", None)
    if question is not None:
        return f"question {question}"
    fields: list[str] = []
    for field in getattr(said, "__struct_fields__", ()):
        value = getattr(said, field)
        if field not in ("epoch", "view", "sequence", "signature", "share"):
            fields.append(f"{field} {_summary(value)}")
    return ", ".join(fields)[:DETAIL_CHARACTERS]


def _summary(value: object) -> str:
    match value:
        case bytes():
            return value.hex()[:8]
        case list() | tuple() | dict():
            return f"({len(value)})"
        case msgspec.Struct():
            return place(value) or type(value).__name__
    return str(value)


def name(address: int) -> str:
    """`s0` for a server, `c0` for a client."""
    return f"s{address}" if address >= 0 else f"c{-1 - address}"


def _short(detail: object) -> str:
    match detail:
        case bytes():
            return detail.hex()[:8]
        case float():
            return f"{detail:.3f}"
    return str(detail)


Show = Callable[[str], object]


def shown(show: Show) -> Callable[[Event], object]:
    """An observer of a run that shows each event as a line."""
    return lambda event: show(line(event))

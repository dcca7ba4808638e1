"""`pond bench signature`: what each part of the ring's threshold signature costs, beside one plain signature and check.

FROST (RFC 9591) with the sizes and the code of a ring of four. In a batch two servers sign, and one of them, the
primary, joins the shares and checks the signature; it has checked the other's commitment when that came.
"""

import os
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import TypeVar

from bft.secret import Secret
from bft.signatures import Ed25519Verifier
from bft.threshold import Frost, deal
from cluster.answers import SignatureMeasured, SignatureStep
from cluster.bench import floor
from cluster.bench.figures import percentile
from pond.cli.answers import table

MEMBERS = 4
THRESHOLD = 2
ROUNDS = 500
RANDOM_BYTES = 64
STATEMENT_BYTES = 200
"""About as many as a certificate states."""

T = TypeVar("T")


def signature() -> SignatureMeasured:
    """Sign and join again and again in this process."""
    plain, check = floor.signature()
    public, key_shares = deal(Secret(os.urandom(RANDOM_BYTES * THRESHOLD)), MEMBERS, THRESHOLD)
    signer, primary, bystander = (Frost(share, public) for share in key_shares[:3])
    verifier = Ed25519Verifier()
    times: dict[str, list[float]] = {}

    def timed(name: str, step: Callable[[], T]) -> T:
        began = perf_counter()
        result = step()
        times.setdefault(name, []).append((perf_counter() - began) * 1e6)
        return result

    for _ in range(ROUNDS):
        message, random = os.urandom(STATEMENT_BYTES), os.urandom(RANDOM_BYTES)
        nonces, commitment = timed("make a nonce pair", partial(signer.commit, random))
        others, other_commitment = primary.commit(os.urandom(RANDOM_BYTES))
        timed("check a commitment", partial(primary.valid_commitment, commitment))
        plan = [(signer.identifier, commitment), (primary.identifier, other_commitment)]
        share = timed("sign", partial(signer.sign, message, nonces, plan))
        shares = {signer.identifier: share, primary.identifier: primary.sign(message, others, plan)}
        joined = timed("join, as one who signed", partial(primary.aggregate, message, plan, shares))
        timed("join, as another", partial(bystander.aggregate, message, plan, shares))
        assert verifier.verify(public.group_public_key, message, joined)
    return SignatureMeasured(
        signature_us=plain * 1000,
        signature_check_us=check * 1000,
        members=MEMBERS,
        threshold=THRESHOLD,
        rounds=ROUNDS,
        steps=[
            SignatureStep(
                name=name,
                p50_us=percentile(sorted(samples), 0.5),
                p95_us=percentile(sorted(samples), 0.95),
                ratio_to_floor=percentile(sorted(samples), 0.5) / ((plain + check) * 1000),
            )
            for name, samples in times.items()
        ],
    )


def in_words(measured: SignatureMeasured) -> str:
    """The answer as text."""
    rows: list[list[object]] = [["STEP", "P50 US", "P95 US", "X FLOOR"]]
    for step in measured.steps:
        rows.append([step.name, f"{step.p50_us:.0f}", f"{step.p95_us:.0f}", f"{step.ratio_to_floor:.2f}"])
    return "\n".join(
        [
            table(rows, right=(1, 2, 3)),
            "",
            f"{measured.threshold} of {measured.members} sign; to join includes the check of the signature",
            f"floor: a plain signature of {measured.signature_us:.0f} us and a check of"
            f" {measured.signature_check_us:.0f}",
        ]
    )

"""FROST(Ed25519, SHA-512) against the vector of RFC 9591, appendix E.1, at every intermediate value."""

import json
from pathlib import Path

import pytest

from bft import frost
from bft.frost import KeyShare
from bft.secret import Secret
from bft.signatures import Ed25519Verifier
from bft.threshold import Frost, ThresholdPublic, ThresholdScheme

VECTOR = json.loads((Path(__file__).parents[2] / "vectors" / "frost-ed25519-sha512.json").read_text())
INPUTS = VECTOR["inputs"]
ROUND_ONE = VECTOR["round_one_outputs"]["outputs"]
ROUND_TWO = VECTOR["round_two_outputs"]["outputs"]


def vector_deal() -> tuple[bytes, list[KeyShare], list[bytes]]:
    coefficients = [Secret(bytes.fromhex(scalar)) for scalar in INPUTS["share_polynomial_coefficients"]]
    return frost.deal(Secret(bytes.fromhex(INPUTS["group_secret_key"])), coefficients, 3, 2)


def vector_commitments() -> list[frost.Commitment]:
    return [
        (
            output["identifier"],
            bytes.fromhex(output["hiding_nonce_commitment"]),
            bytes.fromhex(output["binding_nonce_commitment"]),
        )
        for output in ROUND_ONE
    ]


def vector_session() -> frost.Session:
    return frost.open_session(
        bytes.fromhex(INPUTS["group_public_key"]), vector_commitments(), bytes.fromhex(INPUTS["message"])
    )


def test_vector_keys():
    key, shares, verification_shares = vector_deal()
    assert key.hex() == INPUTS["group_public_key"]
    assert [(share.identifier, share.secret.reveal().hex()) for share in shares] == [
        (share["identifier"], share["participant_share"]) for share in INPUTS["participant_shares"]
    ]
    assert [frost.public_share(share) for share in shares] == verification_shares
    assert ThresholdPublic(key, 2, verification_shares).valid()


@pytest.mark.parametrize("output", ROUND_ONE, ids=lambda output: f"signer {output['identifier']}")
def test_vector_round_one(output):
    share = vector_deal()[1][output["identifier"] - 1]
    hiding_random = bytes.fromhex(output["hiding_nonce_randomness"])
    binding_random = bytes.fromhex(output["binding_nonce_randomness"])
    assert frost.nonce_generate(share.secret, hiding_random).reveal().hex() == output["hiding_nonce"]
    assert frost.nonce_generate(share.secret, binding_random).reveal().hex() == output["binding_nonce"]
    (hiding, binding), points = frost.commit(share.secret, hiding_random + binding_random)
    assert (hiding.reveal().hex(), binding.reveal().hex()) == (output["hiding_nonce"], output["binding_nonce"])
    assert points[0].hex() == output["hiding_nonce_commitment"]
    assert points[1].hex() == output["binding_nonce_commitment"]
    assert frost.validate_commitment(*points)


@pytest.mark.parametrize("output", ROUND_ONE, ids=lambda output: f"signer {output['identifier']}")
def test_vector_binding_factor(output):
    key, message = bytes.fromhex(INPUTS["group_public_key"]), bytes.fromhex(INPUTS["message"])
    encoded = b"".join(number.to_bytes(32, "little") + d + e for number, d, e in vector_commitments())
    prefix = key + frost.hash_for_transcript(b"msg", message) + frost.hash_for_transcript(b"com", encoded)
    factor_input = prefix + output["identifier"].to_bytes(32, "little")
    assert factor_input.hex() == output["binding_factor_input"]
    assert frost.hash_to_scalar(b"rho", factor_input).hex() == output["binding_factor"]
    for commitments in (vector_commitments(), vector_commitments()[::-1]):
        factors = frost.binding_factors(key, commitments, message)
        assert factors[output["identifier"]].hex() == output["binding_factor"]


def test_vector_round_two_and_signature():
    key, shares, verification_shares = vector_deal()
    message = bytes.fromhex(INPUTS["message"])
    session = vector_session()
    made = {}
    for first, second in zip(ROUND_ONE, ROUND_TWO, strict=True):
        number = first["identifier"]
        hiding, binding = (Secret(bytes.fromhex(first[name])) for name in ("hiding_nonce", "binding_nonce"))
        assert frost.open_session(key, vector_commitments(), message, (number, hiding, binding)) == session
        made[number] = frost.sign_share(session, shares[number - 1], hiding, binding)
        assert made[number].hex() == second["sig_share"]
        assert frost.verify_share(session, number, verification_shares[number - 1], made[number])
    assert session.group_commitment.hex() == VECTOR["final_output"]["sig"][:64]
    assert frost.group_commitment(vector_commitments(), session.binding_factors) == session.group_commitment
    assert frost.challenge(session.group_commitment, key, message) == session.challenge
    signature = frost.aggregate(session, key, message, made, dict(enumerate(verification_shares, start=1)))
    assert signature.hex() == VECTOR["final_output"]["sig"]
    assert Ed25519Verifier().verify(key, message, signature)


def test_vector_through_the_scheme():
    key, shares, verification_shares = vector_deal()
    public = ThresholdPublic(key, 2, verification_shares)
    schemes: dict[int, ThresholdScheme] = {number: Frost(shares[number - 1], public) for number in (1, 3)}
    nonces, commitments = {}, []
    for output in ROUND_ONE:
        random_bytes = bytes.fromhex(output["hiding_nonce_randomness"] + output["binding_nonce_randomness"])
        nonces[output["identifier"]], commitment = schemes[output["identifier"]].commit(random_bytes)
        commitments.append((output["identifier"], commitment))
    message = bytes.fromhex(INPUTS["message"])
    made = {number: schemes[number].sign(message, nonces[number], commitments) for number in (1, 3)}
    for output in ROUND_TWO:
        assert made[output["identifier"]].hex() == output["sig_share"]
    assert schemes[3].aggregate(message, commitments, made).hex() == VECTOR["final_output"]["sig"]

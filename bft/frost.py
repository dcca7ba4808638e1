"""FROST(Ed25519, SHA-512): two-round threshold signatures that any Ed25519 library checks (RFC 9591, section 6.1).

Here: the hash functions, both rounds, aggregation with blame (section 5.4), and key generation by a trusted dealer
(appendix C). Not here: nonce pools, who signs when, refresh and resharing of shares. `bft.threshold` holds the face
that the rest of the ring uses and the guard that lets a nonce be used once.

Scalars are 32 bytes, little-endian, below the group order; points are 32-byte Ed25519 encodings. All arithmetic on
secret scalars is libsodium's, in constant time; Python integers only ever hold public values. libsodium refuses zero
scalars, and points outside the prime-order group as the base of a multiplication, but not as a term of a sum: hence
`validate_commitment`, which a shell applies when a commitment arrives. Sound since libsodium 1.0.20-stable of
December 2025 (PyNaCl 1.6.2): before that `is_valid_point` let points with a component of order two pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha512
from hmac import compare_digest

from nacl.bindings import (
    crypto_core_ed25519_add,
    crypto_core_ed25519_is_valid_point,
    crypto_core_ed25519_scalar_add,
    crypto_core_ed25519_scalar_mul,
    crypto_core_ed25519_scalar_reduce,
    crypto_scalarmult_ed25519_base_noclamp,
    crypto_scalarmult_ed25519_noclamp,
)
from nacl.exceptions import CryptoError

from bft.secret import Secret
from bft.signatures import Ed25519Verifier

CONTEXT = b"FROST-ED25519-SHA512-v1"
ORDER = 2**252 + 27742317777372353535851937790883648493
"""Order of the group, L in RFC 8032 and RFC 9591."""

MAX_SIGNERS = 65535
_SCALAR_BYTES = 32
_POINT_BYTES = 32
_IDENTITY = (1).to_bytes(_POINT_BYTES, "little")
_ZERO = bytes(_SCALAR_BYTES)
_verifier = Ed25519Verifier()

Commitment = tuple[int, bytes, bytes]
"""(identifier of a signer from 1, hiding nonce commitment D, binding nonce commitment E); D and E of 32 bytes."""


class FrostError(ValueError):
    """A refusal: these inputs make no key, share or signature. Nothing secret is in the message."""


class BadShares(FrostError):
    """The signature does not hold because of these signers' shares. `culprits` ascend."""

    def __init__(self, culprits: tuple[int, ...]) -> None:
        super().__init__(f"signature shares that do not verify, of signers {culprits}")
        self.culprits = culprits


class BadCommitments(FrostError):
    """These signers' nonce commitments are no valid points. `culprits` ascend."""

    def __init__(self, culprits: tuple[int, ...]) -> None:
        super().__init__(f"nonce commitments that are no valid points, of signers {culprits}")
        self.culprits = culprits


@dataclass(frozen=True, slots=True)
class KeyShare:
    """One signer's part of the group's secret key: a nonzero scalar. Identifiers count from 1."""

    identifier: int
    secret: Secret


# Scalars, points and hashes (RFC 9591, sections 3.1, 3.2 and 6.1)


def hash_to_scalar(label: bytes, message: bytes) -> bytes:
    """H1 ("rho") and H3 ("nonce"): SHA-512 of context, label and message, reduced to a scalar."""
    return crypto_core_ed25519_scalar_reduce(sha512(CONTEXT + label + message).digest())


def hash_for_transcript(label: bytes, message: bytes) -> bytes:
    """H4 ("msg") and H5 ("com"): SHA-512 of context, label and message, 64 bytes."""
    return sha512(CONTEXT + label + message).digest()


def hash_challenge(message: bytes) -> bytes:
    """H2: plain SHA-512 without context, reduced to a scalar, as Ed25519 has it."""
    return crypto_core_ed25519_scalar_reduce(sha512(message).digest())


def _encode(number: int) -> bytes:
    return number.to_bytes(_SCALAR_BYTES, "little")


def _is_scalar(share: bytes) -> bool:
    """Whether public bytes are a reduced scalar (DeserializeScalar). Not for secrets: it takes variable time."""
    return isinstance(share, bytes) and len(share) == _SCALAR_BYTES and int.from_bytes(share, "little") < ORDER


def _times_base(scalar: bytes) -> bytes:
    try:
        return crypto_scalarmult_ed25519_base_noclamp(scalar)
    except CryptoError:
        raise FrostError("a scalar is zero") from None


def _times(scalar: bytes, point: bytes) -> bytes:
    try:
        return crypto_scalarmult_ed25519_noclamp(scalar, point)
    except CryptoError:
        raise FrostError("a point is outside the group, or a scalar is zero") from None


def _plus(point: bytes, other: bytes) -> bytes:
    try:
        return crypto_core_ed25519_add(point, other)
    except CryptoError:
        raise FrostError("a point is not on the curve") from None


def is_valid_point(point: bytes) -> bool:
    """Whether 32 bytes encode, canonically, a point of the prime-order group other than the identity.

    DeserializeElement of RFC 9591, section 6.1. Never raises.
    """
    return isinstance(point, bytes) and len(point) == _POINT_BYTES and crypto_core_ed25519_is_valid_point(point)


# Keys (RFC 9591, appendix C)


def _secret_scalar(content: Secret) -> bytes:
    """A nonzero secret scalar: 32 bytes as they are, which must be reduced, or 64 uniform bytes reduced."""
    scalar = content.reveal()
    if len(scalar) == 2 * _SCALAR_BYTES:
        scalar = crypto_core_ed25519_scalar_reduce(scalar)
    elif len(scalar) != _SCALAR_BYTES:
        raise FrostError("a secret scalar has 32 bytes, or 64 to be reduced")
    elif not compare_digest(crypto_core_ed25519_scalar_reduce(scalar + _ZERO), scalar):
        raise FrostError("a secret scalar is not reduced")
    if compare_digest(scalar, _ZERO):
        raise FrostError("a secret scalar is zero")
    return scalar


def deal(
    secret: Secret, coefficients: Sequence[Secret], signers: int, threshold: int
) -> tuple[bytes, list[KeyShare], list[bytes]]:
    """Shares of a key such that any `threshold` of the `signers` can sign, made by a trusted dealer (appendix C.1).

    `secret` and the `threshold - 1` coefficients are each 32 bytes, a scalar, or 64 uniformly random bytes that are
    reduced to one. Returns the group's public key (32 bytes), the shares of signers 1 to `signers`, and their
    verification shares (32-byte points) in the same order. Raises FrostError for zero or unreduced scalars and for
    sizes that make no sense.
    """
    if not 1 <= threshold <= signers <= MAX_SIGNERS:
        raise FrostError(f"no threshold of {threshold} among {signers} signers")
    if len(coefficients) != threshold - 1:
        raise FrostError(f"a threshold of {threshold} takes {threshold - 1} coefficients, not {len(coefficients)}")
    polynomial = [_secret_scalar(scalar) for scalar in (secret, *coefficients)]
    shares: list[KeyShare] = []
    verification_shares: list[bytes] = []
    for identifier in range(1, signers + 1):
        x = _encode(identifier)
        value = polynomial[-1]
        for coefficient in reversed(polynomial[:-1]):
            value = crypto_core_ed25519_scalar_add(crypto_core_ed25519_scalar_mul(value, x), coefficient)
        verification_shares.append(_times_base(value))
        shares.append(KeyShare(identifier, Secret(value)))
    return _times_base(polynomial[0]), shares, verification_shares


def lagrange(identifier: int, identifiers: Sequence[int]) -> bytes:
    """Coefficient at zero of `identifier` among `identifiers`: a public scalar (derive_interpolating_value, 4.2).

    Raises FrostError for identifiers that repeat, lie outside 1 to 65535, or lack `identifier`.
    """
    _check_identifiers(identifiers)
    if identifier not in identifiers:
        raise FrostError(f"signer {identifier} is not among {tuple(identifiers)}")
    numerator = denominator = 1
    for other in identifiers:
        if other != identifier:
            numerator = numerator * other % ORDER
            denominator = denominator * (other - identifier) % ORDER
    return _encode(numerator * pow(denominator, -1, ORDER) % ORDER)


def _check_identifiers(identifiers: Sequence[int]) -> None:
    if len(set(identifiers)) != len(identifiers):
        raise FrostError(f"a signer is named twice in {tuple(identifiers)}")
    for identifier in identifiers:
        if not 1 <= identifier <= MAX_SIGNERS:
            raise FrostError(f"no signer is number {identifier}")


def public_share(share: KeyShare) -> bytes:
    """The verification share that belongs to a key share: a point. Raises FrostError when the share is no scalar."""
    return _times_base(_secret_scalar(share.secret))


def combine_points(points: Mapping[int, bytes]) -> bytes:
    """The point at zero of the polynomial through each signer's point: of verification shares, the group's key.

    Appendix C.2 in the exponent. Raises FrostError for points that are not valid.
    """
    identifiers = tuple(points)
    return _sum([_times(lagrange(identifier, identifiers), point) for identifier, point in points.items()])


# Round one (RFC 9591, sections 4.1 and 5.1)


def nonce_generate(secret_share: Secret, random_bytes: bytes) -> Secret:
    """A secret nonce from 32 fresh random bytes, hedged with the share (nonce_generate, section 4.1)."""
    if len(random_bytes) != 32:
        raise FrostError("a nonce takes 32 random bytes")
    nonce = hash_to_scalar(b"nonce", random_bytes + secret_share.reveal())
    if compare_digest(nonce, _ZERO):
        raise FrostError("a nonce is zero")
    return Secret(nonce)


def commit(secret_share: Secret, random_bytes: bytes) -> tuple[tuple[Secret, Secret], tuple[bytes, bytes]]:
    """(hiding, binding) nonces and their commitments (D, E) from 64 fresh random bytes (commit, section 5.1).

    The first 32 bytes make the hiding nonce. A pair of nonces serves one signature: see `bft.threshold.Nonces`.
    """
    if len(random_bytes) != 64:
        raise FrostError("a pair of nonces takes 64 random bytes")
    hiding = nonce_generate(secret_share, random_bytes[:32])
    binding = nonce_generate(secret_share, random_bytes[32:])
    return (hiding, binding), (_times_base(hiding.reveal()), _times_base(binding.reveal()))


def validate_commitment(hiding: bytes, binding: bytes) -> bool:
    """Whether D and E are valid points: to be asked when a commitment arrives. Never raises."""
    return is_valid_point(hiding) and is_valid_point(binding)


# Round two (RFC 9591, sections 4.3 to 4.6 and 5.2)


def sort_commitments(commitments: Sequence[Commitment]) -> list[Commitment]:
    """The commitments by ascending identifier, as everything that hashes them needs them (section 4.3).

    Raises FrostError when there are none, a signer is named twice or out of range, or a size is not 32 bytes.
    """
    if not commitments:
        raise FrostError("no nonce commitments")
    _check_identifiers([identifier for identifier, _, _ in commitments])
    for identifier, hiding, binding in commitments:
        if len(hiding) != _POINT_BYTES or len(binding) != _POINT_BYTES:
            raise FrostError(f"a nonce commitment of signer {identifier} has the wrong size")
    return sorted(commitments)


def binding_factors(group_public_key: bytes, commitments: Sequence[Commitment], message: bytes) -> dict[int, bytes]:
    """Each signer's binding factor, a scalar (compute_binding_factors, section 4.4). The list is sorted here."""
    ordered = sort_commitments(commitments)
    encoded = b"".join([_encode(identifier) + hiding + binding for identifier, hiding, binding in ordered])
    prefix = group_public_key + hash_for_transcript(b"msg", message) + hash_for_transcript(b"com", encoded)
    return {identifier: hash_to_scalar(b"rho", prefix + _encode(identifier)) for identifier, _, _ in ordered}


def group_commitment(commitments: Sequence[Commitment], factors: Mapping[int, bytes]) -> bytes:
    """R: the sum of every D + factor * E: a point (compute_group_commitment, section 4.5).

    Raises FrostError for points that are not valid where libsodium sees it, and when the sum is the identity.
    """
    return _sum([_commitment_share(commitment, factors[commitment[0]]) for commitment in commitments])


def _commitment_share(commitment: Commitment, factor: bytes) -> bytes:
    _, hiding, binding = commitment
    return _plus(hiding, _times(factor, binding))


def _sum(points: Sequence[bytes]) -> bytes:
    total = points[0]
    for point in points[1:]:
        total = _plus(total, point)
    if total == _IDENTITY:
        raise FrostError("a sum of points is the identity")
    return total


def challenge(group_commitment: bytes, group_public_key: bytes, message: bytes) -> bytes:
    """The challenge, a scalar: that of a plain Ed25519 signature (compute_challenge, section 4.6)."""
    return hash_challenge(group_commitment + group_public_key + message)


@dataclass(frozen=True, slots=True)
class Session:
    """What everybody can compute of one signing session, computed once. All of it is public.

    `commitment_shares` are the terms D + factor * E of the group commitment, by signer.
    """

    identifiers: tuple[int, ...]
    binding_factors: dict[int, bytes]
    commitment_shares: dict[int, bytes]
    group_commitment: bytes
    challenge: bytes


def open_session(
    group_public_key: bytes,
    commitments: Sequence[Commitment],
    message: bytes,
    own: tuple[int, Secret, Secret] | None = None,
) -> Session:
    """Binding factors, group commitment and challenge of a session (first half of sign, section 5.2).

    A signer that passes its `own` (identifier, hiding nonce, binding nonce) spares itself a multiplication: its term
    of the group commitment is then (hiding + factor * binding) * B, the same point. The nonces must be those behind
    its entry in `commitments`. Raises BadCommitments when libsodium refuses somebody's points, or FrostError.
    """
    ordered = sort_commitments(commitments)
    factors = binding_factors(group_public_key, ordered, message)
    own_identifier = own[0] if own is not None else 0
    shares: dict[int, bytes] = {}
    try:
        for commitment in ordered:
            identifier = commitment[0]
            if own is not None and identifier == own_identifier:
                shares[identifier] = _times_base(_bound_nonce(own[1], own[2], factors[identifier]))
            else:
                shares[identifier] = _commitment_share(commitment, factors[identifier])
        total = _sum(list(shares.values()))
    except FrostError:
        culprits = tuple(i for i, hiding, binding in ordered if not validate_commitment(hiding, binding))
        if culprits:
            raise BadCommitments(culprits) from None
        raise
    return Session(tuple(shares), factors, shares, total, challenge(total, group_public_key, message))


def _bound_nonce(hiding: Secret, binding: Secret, factor: bytes) -> bytes:
    return crypto_core_ed25519_scalar_add(hiding.reveal(), crypto_core_ed25519_scalar_mul(factor, binding.reveal()))


def sign_share(session: Session, share: KeyShare, hiding: Secret, binding: Secret) -> bytes:
    """The signer's signature share, a scalar (second half of sign, section 5.2).

    Nothing here stops a nonce from being used twice, which gives the key away: `bft.threshold` does.
    Raises FrostError when the session does not name this signer.
    """
    coefficient = lagrange(share.identifier, session.identifiers)
    nonce = _bound_nonce(hiding, binding, session.binding_factors[share.identifier])
    weight = crypto_core_ed25519_scalar_mul(coefficient, session.challenge)
    return crypto_core_ed25519_scalar_add(nonce, crypto_core_ed25519_scalar_mul(weight, share.secret.reveal()))


# Aggregation (RFC 9591, sections 5.3 and 5.4)


def verify_share(session: Session, identifier: int, verification_share: bytes, signature_share: bytes) -> bool:
    """Whether one signer's share is right (verify_signature_share, section 5.4). Never raises for a bad share.

    A share of zero, which no signer meets in practice, counts as wrong. Raises FrostError when the session does not
    name the signer.
    """
    coefficient = lagrange(identifier, session.identifiers)
    if not _is_scalar(signature_share):
        return False
    try:
        weight = crypto_core_ed25519_scalar_mul(coefficient, session.challenge)
        expected = _plus(session.commitment_shares[identifier], _times(weight, verification_share))
        return _times_base(signature_share) == expected
    except FrostError:
        return False


def aggregate(
    session: Session,
    group_public_key: bytes,
    message: bytes,
    shares: Mapping[int, bytes],
    verification_shares: Mapping[int, bytes],
) -> bytes:
    """The group's Ed25519 signature over `message`: 64 bytes (aggregate, section 5.3).

    The sum is checked as any Ed25519 signature; only when it fails are the shares checked one by one. Raises
    BadShares naming all whose shares are wrong, and FrostError when shares and session name different signers, or
    when no share is to blame, which means that the verification shares are not those of this group key.
    """
    if set(shares) != set(session.identifiers):
        raise FrostError(f"shares of {tuple(sorted(shares))} in a session of {session.identifiers}")
    if all(_is_scalar(share) for share in shares.values()):
        total = _ZERO
        for share in shares.values():
            total = crypto_core_ed25519_scalar_add(total, share)
        signature = session.group_commitment + total
        if _verifier.verify(group_public_key, message, signature):
            return signature
    culprits = tuple(
        identifier
        for identifier in session.identifiers
        if not verify_share(session, identifier, verification_shares[identifier], shares[identifier])
    )
    if culprits:
        raise BadShares(culprits)
    raise FrostError("every share verifies but the signature does not: verification shares of another key")

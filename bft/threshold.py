"""The face of threshold signatures: what the ring's signing machine needs, and no more, with FROST behind it.

`ThresholdScheme` is small so that a simulation may put a cheap scheme in its place. `Nonces` is the guard of safety
rule 6: a nonce serves one message and one set of signers, whatever its caller does (RFC 9591, section 7.1).
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, NoReturn, Protocol

import msgspec

from bft import frost
from bft.frost import BadCommitments, BadShares, Commitment, FrostError, KeyShare, Session
from bft.secret import Secret
from bft.signatures import PublicKey

__all__ = [
    "BadCommitments",
    "BadShares",
    "Frost",
    "FrostError",
    "KeyShare",
    "NonceCommitment",
    "Nonces",
    "ThresholdPublic",
    "ThresholdScheme",
    "deal",
]

_REMEMBERED_SESSIONS = 64
"""Sessions that a signer remembers until it aggregates them: at least as many as are in flight."""


class NonceCommitment(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A pair of published points that commit a signer to a pair of nonces: D and E of RFC 9591, 32 bytes each."""

    hiding: PublicKey
    binding: PublicKey


class Nonces:
    """A pair of secret nonces, to be used once, and the commitment that was published for them."""

    __slots__ = ("__pair", "commitment")

    def __init__(self, hiding: Secret, binding: Secret, commitment: NonceCommitment) -> None:
        self.commitment = commitment
        self.__pair = [(hiding, binding)]

    def take(self) -> tuple[Secret, Secret]:
        """(hiding, binding), once: the object keeps no reference to them. Raises AssertionError ever after."""
        if not self.__pair:
            raise AssertionError("our fault: a nonce was about to be used twice")
        return self.__pair.pop()

    @property
    def used(self) -> bool:
        """Whether `take` has been called."""
        return not self.__pair

    def __repr__(self) -> str:
        return f"Nonces(used={self.used})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("Nonces are never pickled or copied")


class ThresholdScheme(Protocol):
    """One signer of a group in which `threshold` of n signers, named 1 to n, make one signature."""

    @property
    def group_public_key(self) -> bytes:
        """The key that checks the group's signatures: 32 bytes."""
        ...

    def commit(self, random_bytes: bytes) -> tuple[Nonces, NonceCommitment]:
        """Secret nonces for one signature and what to publish of them, from 64 fresh random bytes."""
        ...

    def valid_commitment(self, commitment: NonceCommitment) -> bool:
        """Whether somebody's commitment may be used: asked once, when it arrives. Never raises."""
        ...

    def sign(self, message: bytes, nonces: Nonces, commitments: Sequence[tuple[int, NonceCommitment]]) -> bytes:
        """This signer's share of a signature: 32 bytes. Uses up `nonces`, whatever happens.

        Raises FrostError for commitments that make no session with this signer in it, AssertionError for nonces that
        were used before.
        """
        ...

    def aggregate(
        self, message: bytes, commitments: Sequence[tuple[int, NonceCommitment]], shares: Mapping[int, bytes]
    ) -> bytes:
        """The group's signature, checked: 64 bytes.

        Raises BadShares with the signers whose shares are wrong, BadCommitments with those whose commitments are,
        and FrostError for commitments and shares that make no session.
        """
        ...


class ThresholdPublic(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What everybody knows of a group: its key, how many must sign, and the verification shares of signers 1 to n."""

    group_public_key: PublicKey
    threshold: Annotated[int, msgspec.Meta(ge=1, le=frost.MAX_SIGNERS)]
    verification_shares: Annotated[list[PublicKey], msgspec.Meta(min_length=1, max_length=frost.MAX_SIGNERS)]

    def valid(self) -> bool:
        """Whether all points are valid and the shares lie on one polynomial under the group's key. Never raises.

        Then a signer that is blamed is to blame. Takes about n * threshold * 80 microseconds.
        """
        count = len(self.verification_shares)
        if not 1 <= self.threshold <= count <= frost.MAX_SIGNERS:
            return False
        first = list(range(1, self.threshold))  # each point is in some sum, and no invalid one can be multiplied
        return all(self._combined([*first, last]) for last in range(self.threshold, count + 1))

    def _combined(self, identifiers: list[int]) -> bool:
        by_identifier = {identifier: self.verification_shares[identifier - 1] for identifier in identifiers}
        try:
            return frost.combine_points(by_identifier) == self.group_public_key
        except FrostError:
            return False


def deal(random_bytes: Secret, signers: int, threshold: int) -> tuple[ThresholdPublic, list[KeyShare]]:
    """A new group's public part and the shares of signers 1 to `signers`, by a trusted dealer (RFC 9591, appendix C).

    Takes 64 fresh random bytes for each of `threshold` scalars. Raises FrostError for sizes that make no sense.
    """
    content = random_bytes.reveal()
    if threshold < 1 or len(content) != 64 * threshold:
        raise FrostError(f"dealing with a threshold of {threshold} takes {64 * threshold} random bytes")
    scalars = [Secret(content[start : start + 64]) for start in range(0, len(content), 64)]
    group_public_key, shares, verification_shares = frost.deal(scalars[0], scalars[1:], signers, threshold)
    return ThresholdPublic(group_public_key, threshold, verification_shares), shares


class Frost:
    """FROST(Ed25519, SHA-512) for one signer (RFC 9591). A ThresholdScheme.

    Remembers the public values of its latest sessions, so that a coordinator that signs does not compute them twice.
    """

    def __init__(self, share: KeyShare, public: ThresholdPublic) -> None:
        """Raises FrostError when the share is not the one that `public` tells of."""
        count = len(public.verification_shares)
        if not 1 <= public.threshold <= count or not 1 <= share.identifier <= count:
            raise FrostError(f"signer {share.identifier} is not one of {count}")
        if frost.public_share(share) != public.verification_shares[share.identifier - 1]:
            raise FrostError(f"the key share of signer {share.identifier} is not of this group")
        self._share = share
        self._public = public
        self._verification_shares = dict(enumerate(public.verification_shares, start=1))
        self._sessions: dict[tuple[bytes, tuple[Commitment, ...]], Session] = {}

    def __repr__(self) -> str:
        return f"Frost(identifier={self._share.identifier}, group_public_key={self.group_public_key.hex()})"

    @property
    def identifier(self) -> int:
        """This signer's number, from 1."""
        return self._share.identifier

    @property
    def group_public_key(self) -> bytes:
        """The key that checks the group's signatures: 32 bytes."""
        return self._public.group_public_key

    def commit(self, random_bytes: bytes) -> tuple[Nonces, NonceCommitment]:
        """Nonces for one signature and their commitment, from 64 fresh random bytes. RFC 9591, section 5.1."""
        (hiding, binding), points = frost.commit(self._share.secret, random_bytes)
        commitment = NonceCommitment(*points)
        return Nonces(hiding, binding, commitment), commitment

    def valid_commitment(self, commitment: NonceCommitment) -> bool:
        """Whether both points are valid. Never raises."""
        return frost.validate_commitment(commitment.hiding, commitment.binding)

    def sign(self, message: bytes, nonces: Nonces, commitments: Sequence[tuple[int, NonceCommitment]]) -> bytes:
        """This signer's share: 32 bytes. RFC 9591, section 5.2. Raises as ThresholdScheme.sign says."""
        hiding, binding = nonces.take()
        named = self._named(commitments)
        identifier = self._share.identifier
        own = nonces.commitment
        if (identifier, own.hiding, own.binding) not in named:
            raise FrostError(f"the commitments do not name signer {identifier} with the nonces it is to use")
        session = frost.open_session(self.group_public_key, named, message, (identifier, hiding, binding))
        share = frost.sign_share(session, self._share, hiding, binding)
        while len(self._sessions) >= _REMEMBERED_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        self._sessions[message, named] = session
        return share

    def aggregate(
        self, message: bytes, commitments: Sequence[tuple[int, NonceCommitment]], shares: Mapping[int, bytes]
    ) -> bytes:
        """The group's signature: 64 bytes. RFC 9591, section 5.3. Raises as ThresholdScheme.aggregate says."""
        named = self._named(commitments)
        session = self._sessions.get((message, named))
        if session is None:
            session = frost.open_session(self.group_public_key, named, message)
        signature = frost.aggregate(session, self.group_public_key, message, shares, self._verification_shares)
        self._sessions.pop((message, named), None)
        return signature

    def _named(self, commitments: Sequence[tuple[int, NonceCommitment]]) -> tuple[Commitment, ...]:
        named = tuple(frost.sort_commitments([(number, pair.hiding, pair.binding) for number, pair in commitments]))
        if len(named) < self._public.threshold:
            raise FrostError(f"{len(named)} signers, where {self._public.threshold} must sign")
        if named[-1][0] > len(self._verification_shares):
            raise FrostError(f"signer {named[-1][0]} is not one of {len(self._verification_shares)}")
        return named

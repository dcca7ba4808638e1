"""Signatures that cost a hash: unforgeable to whoever does not look into this file, which nothing simulated does.

They keep the real ones' rules. A signature holds for one key and one message. The ring's signature takes shares of at
least `threshold` signers over one message and one list of commitments, and a nonce that is used twice is found, even
across a restart of its signer: `Ledger` stands for what every observer of the network together could compute.
"""

import hashlib
from collections.abc import Mapping, Sequence

from bft.frost import BadShares, FrostError
from bft.secret import Secret
from bft.threshold import NonceCommitment, Nonces

_blake = hashlib.blake2b


class NonceReused(AssertionError):
    """Safety rule 6: a nonce served two messages, two sets of signers, or the same twice."""


def _keyed(key: bytes, message: bytes) -> bytes:
    return _blake(message, key=key).digest()


class CheapSigner:
    """Signs as one principal."""

    def __init__(self, seed: bytes) -> None:
        self._public_key = hashlib.sha256(b"cheap key" + seed).digest()

    @property
    def public_key(self) -> bytes:
        """The key that checks what `sign` makes: 32 bytes."""
        return self._public_key

    def sign(self, message: bytes) -> bytes:
        """A signature over `message`: 64 bytes."""
        return _keyed(self._public_key, message)


class CheapVerifier:
    """Checks what a CheapSigner or a CheapScheme made."""

    __slots__ = ()

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Whether `signature` is one of `public_key` over `message`."""
        return len(public_key) == 32 and _keyed(public_key, message) == signature


class Ledger:
    """Which nonce served what, in a whole run, through all restarts. One that is not strict is for those who may do
    with their nonces what they like."""

    def __init__(self, strict: bool = True) -> None:
        self._strict = strict
        self._served: dict[bytes, bytes] = {}

    def use(self, commitment: NonceCommitment, session: bytes) -> None:
        """A share was made with the nonces behind `commitment`. Raises NonceReused."""
        before = self._served.get(commitment.hiding)
        if before is not None and self._strict:
            how = "a second time for one message" if before == session else "for two messages"
            raise NonceReused(f"the nonce behind {commitment.hiding.hex()[:8]} was used {how}")
        self._served[commitment.hiding] = session


class CheapScheme:
    """One signer of a group, named 1 to n. A ThresholdScheme."""

    def __init__(self, identifier: int, threshold: int, size: int, group: bytes, ledger: Ledger) -> None:
        """`group` is the seed of the group's key; all its signers have the same."""
        self._identifier = identifier
        self._threshold = threshold
        self._size = size
        self._group = CheapSigner(group)
        self._ledger = ledger

    @property
    def group_public_key(self) -> bytes:
        """The key that checks the group's signatures: 32 bytes."""
        return self._group.public_key

    def commit(self, random_bytes: bytes) -> tuple[Nonces, NonceCommitment]:
        """Secret nonces for one signature and what to publish of them, from 64 random bytes."""
        points = _blake(random_bytes, person=b"commit").digest()
        commitment = NonceCommitment(points[:32], points[32:])
        return Nonces(Secret(random_bytes[:32]), Secret(random_bytes[32:]), commitment), commitment

    def valid_commitment(self, commitment: NonceCommitment) -> bool:
        """Whether both points could be points."""
        return commitment.hiding != commitment.binding

    def sign(self, message: bytes, nonces: Nonces, commitments: Sequence[tuple[int, NonceCommitment]]) -> bytes:
        """This signer's share: 32 bytes."""
        nonces.take()
        named = self._named(commitments)
        if (self._identifier, nonces.commitment) not in named:
            raise FrostError(f"the commitments do not name signer {self._identifier} with the nonces it is to use")
        session = self._session(message, named)
        self._ledger.use(nonces.commitment, session)
        return self._share(self._identifier, session)

    def aggregate(
        self, message: bytes, commitments: Sequence[tuple[int, NonceCommitment]], shares: Mapping[int, bytes]
    ) -> bytes:
        """The group's signature: 64 bytes. Raises BadShares and FrostError as the real one does."""
        named = self._named(commitments)
        if {number for number, _ in named} != shares.keys():
            raise FrostError("shares of others than the commitments name")
        session = self._session(message, named)
        culprits = [number for number, _ in named if shares[number] != self._share(number, session)]
        if culprits:
            raise BadShares(tuple(culprits))
        return self._group.sign(message)

    def _named(self, commitments: Sequence[tuple[int, NonceCommitment]]) -> list[tuple[int, NonceCommitment]]:
        named = sorted(commitments, key=lambda item: item[0])
        numbers = [number for number, _ in named]
        if len(set(numbers)) != len(numbers) or not all(1 <= number <= self._size for number in numbers):
            raise FrostError("a signer is named twice, or is none")
        if len(named) < self._threshold:
            raise FrostError(f"{len(named)} signers, where {self._threshold} must sign")
        return named

    def _session(self, message: bytes, named: list[tuple[int, NonceCommitment]]) -> bytes:
        points = b"".join(b"%d" % number + pair.hiding + pair.binding for number, pair in named)
        return _blake(points + message, digest_size=32, person=b"session").digest()

    def _share(self, identifier: int, session: bytes) -> bytes:
        return _blake(session + b"%d" % identifier, digest_size=32, key=self._group.public_key).digest()

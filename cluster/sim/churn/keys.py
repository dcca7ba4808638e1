"""Signatures for thousands of simulated nodes: a keyed hash in place of Ed25519, which would take minutes.

Whoever checks one asks the notary, who knows the secrets of all and tells nobody: no node, and no liar, can sign for
another. A node's GUID is the hash of its key, as on real nodes.
"""

import random
from hashlib import blake2b, sha256

from tapestry.guid import distance
from tapestry.pointers import node_guid

SIGNATURE_BYTES = 64


class Keys:
    """What one node signs with; `tapestry.pointers.Keys` says what its methods return."""

    def __init__(self, notary: "Notary", secret: bytes, public_key: bytes) -> None:
        self.public_key = public_key
        self._notary = notary
        self._secret = secret

    def sign(self, data: bytes) -> bytes:
        """64 bytes."""
        return _sign(self._secret, data)

    def verify(self, public_key: bytes, data: bytes, signature: bytes) -> bool:
        """Whether that key signed these bytes."""
        return self._notary.verify(public_key, data, signature)


class Notary:
    """Makes keys, and checks what they signed."""

    def __init__(self, choices: random.Random) -> None:
        self._choices = choices
        self._secrets: dict[bytes, bytes] = {}

    def new(self) -> Keys:
        """Keys of one more node."""
        secret = self._choices.randbytes(32)
        public_key = sha256(secret).digest()
        self._secrets[public_key] = secret
        return Keys(self, secret, public_key)

    def new_near(self, place: bytes, places: int) -> Keys:
        """Keys whose GUID is fewer places from this one: drawn again until it is, as whoever wants to be somewhere can
        do with real keys too."""
        while True:
            secret = self._choices.randbytes(32)
            public_key = sha256(secret).digest()
            if distance(node_guid(public_key), place) < places:
                self._secrets[public_key] = secret
                return Keys(self, secret, public_key)

    def verify(self, public_key: bytes, data: bytes, signature: bytes) -> bool:
        """Whether that key signed these bytes."""
        secret = self._secrets.get(public_key)
        return secret is not None and _sign(secret, data) == signature


def _sign(secret: bytes, data: bytes) -> bytes:
    return blake2b(data, digest_size=SIGNATURE_BYTES, key=secret).digest()

"""Making certificates: f + 1 replicas sign each batch's outcome as one key (FROST, RFC 9591; rules: agreement.md).

Nonces are published ahead, each view's to its primary, who names signers and their commitments beside the proposal;
each signer, once the batch ran live, sends its share to the primary, which joins them and sends the certificate round.
A nonce leaves the pool before its share is computed, and a repeat sends the same bytes. A session that fails is not
repeated: it excludes who failed it for a while, and the next batch's certificate covers the earlier outcomes through
the state tree.
"""

from collections import deque
from collections.abc import Set
from typing import NamedTuple

from bft.certificate import Certificate, CertificateError, Claim
from bft.effects import Broadcast, Effect, NeedRandom, Rejected, Send, SetTimer, Timer
from bft.membership import Membership
from bft.messages import Certified, NonceName, Nonces, SignatureShare, SigningPlan
from bft.signatures import Verifier
from bft.threshold import BadCommitments, BadShares, FrostError, NonceCommitment, ThresholdScheme
from bft.threshold import Nonces as SecretNonces
from bft.tuning import Tuning
from bft.types import ReplicaId, Sequence, View

RANDOM_PER_NONCE = 64
"""Random bytes that one nonce pair takes (RFC 9591, section 5.1)."""

LOTS = 8
"""A pool of nonces is used up in so many lots, each replaced when it has gone. To make a nonce and to check it takes
some 0.1 ms of a batch's time: all of a pool at once would hold one batch up."""

LEAST_LOT = 2

SHARE_SECONDS = 0.5
"""How long the primary waits for shares after it ran the batch: many times a round trip and an fsync."""

EXCLUDED_BATCHES = 64
"""For how many batches a signer that failed a session is not named again."""

MAX_INDEX = 2**62
"""Above any index that a process reaches; so an index always fits its field in a signing plan."""

OPEN_SESSIONS = 512
"""Sessions, shares and certificates remembered ahead or behind: bounded by the watermarks' window, doubled."""


class _Published(NamedTuple):
    """What a replica published for one view, from one start of its process, and was not named for yet."""

    view: View
    start: bytes
    pairs: deque[tuple[NonceName, NonceCommitment]]


class Signing:
    """One replica's part in the ring's signature, as signer and, when it is primary, as coordinator."""

    def __init__(
        self,
        identity: ReplicaId,
        membership: Membership,
        scheme: ThresholdScheme,
        verifier: Verifier,
        tuning: Tuning,
    ) -> None:
        self._identity = identity
        self._membership = membership
        self._scheme = scheme
        self._verifier = verifier
        self._pool_size = tuning.pool
        self._lot = max(LEAST_LOT, tuning.pool // LOTS)
        self._view = View(0)
        # As signer: our own nonces of this start of the process and this view, never on disk.
        self._start = b""
        self._next_index = 0
        self._pool: dict[int, tuple[SecretNonces, NonceCommitment]] = {}
        self._asked_for_random = False
        self._sent_again = 0
        self._spent = False
        self._sent: dict[Sequence, tuple[ReplicaId, SignatureShare]] = {}
        # As coordinator: what others published and have not been named for yet, and the sessions under way.
        self._published: dict[ReplicaId, _Published] = {}
        self._used: dict[ReplicaId, NonceName] = {}
        self._excluded: dict[ReplicaId, Sequence] = {}
        self._claims: dict[Sequence, tuple[Claim, View, SigningPlan]] = {}
        self._shares: dict[Sequence, dict[ReplicaId, bytes]] = {}
        self._early: dict[Sequence, tuple[Claim, Certificate]] = {}
        self.made: list[tuple[Claim, Certificate]] = []
        """Certificates that were just completed here, for `replica` to take."""

    # --- nonces ----------------------------------------------------------------------------------------------------

    def started(self, start: bytes, view: View) -> list[Effect]:
        """A new process: a new pool under a new name; nonces of earlier starts are gone for good."""
        self._start, self._view = start, view
        return self._make(self._pool_size)

    def enter(self, view: View) -> list[Effect]:
        """Another view, or the way to it: whatever was published for earlier ones is never used again."""
        if view == self._view:
            return []
        self._view = view
        self._pool.clear()
        for replica, known in list(self._published.items()):
            if known.view < view:
                del self._published[replica]
        self._used.clear()
        for book in (self._claims, self._shares, self._sent):
            book.clear()
        return self._make(self._pool_size)

    def _make(self, pairs: int) -> list[Effect]:
        self._asked_for_random, self._spent = True, False
        return [NeedRandom(pairs * RANDOM_PER_NONCE)]

    def on_random(self, data: bytes) -> list[Effect]:
        """Make nonces of fresh random bytes and publish their commitments."""
        assert not len(data) % RANDOM_PER_NONCE, f"asked for another number of bytes than {len(data)}"
        self._asked_for_random = False
        first = self._next_index
        for offset in range(0, len(data), RANDOM_PER_NONCE):
            self._pool[self._next_index] = self._scheme.commit(data[offset : offset + RANDOM_PER_NONCE])
            self._next_index += 1
        while len(self._pool) > 2 * self._pool_size:
            del self._pool[next(iter(self._pool))]
        commitments = [self._pool[index][1] for index in range(first, self._next_index)]
        message = Nonces(self._membership.epoch, self._view, self._start, first, commitments)
        if not self._leads(self._view):
            return [Send(self._membership.primary(self._view), message)]
        self._remember(self._identity, message)
        return []

    def publish_again(self, to: ReplicaId) -> list[Effect]:
        """Someone has none of our commitments left: if it is to name them, send the last ones, of which it may use
        those after where it stopped. When it asks again, it had come to the end of them: make new ones soon.

        What is below a nonce that is gone was named for batches that others told us of: nobody names it any longer.
        """
        if not self._pool or self._membership.primary(self._view) != to:
            return []
        first = self._next_index
        while first - 1 in self._pool and self._next_index - first < self._pool_size:
            first -= 1
        if first == self._next_index or self._sent_again == self._next_index:
            self._spent = True
            return []
        self._sent_again = self._next_index
        run = [self._pool[index][1] for index in range(first, self._next_index)]
        return [Send(to, Nonces(self._membership.epoch, self._view, self._start, first, run))]

    def lacks_nonces_of(self, replica: ReplicaId) -> bool:
        """Whether we are to name signers, and this one has none left to be named with."""
        return self._leads(self._view) and not self.commitments_of(replica)

    def commitments_of(self, replica: ReplicaId) -> int:
        """How many commitments of a replica are at hand."""
        known = self._published.get(replica)
        return len(known.pairs) if known is not None and known.view == self._view else 0

    def on_nonces(self, sender: ReplicaId, message: Nonces) -> list[Effect]:
        """Another replica's commitments: each point is checked here, off the path of any batch."""
        if message.view < self._view:
            return []
        if not self._leads(message.view):
            return [Rejected(sender, "nonces for another primary")]
        if len(message.commitments) > self._pool_size:
            return [Rejected(sender, "more nonces than a pool has")]
        if message.first >= MAX_INDEX:
            return [Rejected(sender, "nonces numbered too high")]
        self._remember(sender, message)
        return []

    def _leads(self, view: View) -> bool:
        return self._membership.primary(view) == self._identity

    def _remember(self, sender: ReplicaId, message: Nonces) -> None:
        known = self._published.get(sender)
        if known is None or (known.view, known.start) != (message.view, message.start):
            if known is not None and known.view > message.view:
                return
            known = self._published[sender] = _Published(message.view, message.start, deque(maxlen=2 * self._pool_size))
        used = self._used.get(sender)
        newest = known.pairs[-1][0].index if known.pairs else -1
        if used is not None and used.start == message.start:
            newest = max(newest, used.index)
        for index, commitment in enumerate(message.commitments, message.first):
            if index > newest and (sender == self._identity or self._scheme.valid_commitment(commitment)):
                known.pairs.append((NonceName(message.start, index), commitment))

    # --- the primary names signers ---------------------------------------------------------------------------------

    def plan(self, sequence: Sequence, voters: Set[ReplicaId]) -> SigningPlan | None:
        """f + 1 signers with a fresh commitment each: ourselves, and those who did not fail lately and voted of late;
        None when too few have commitments left, and then the next batch's certificate covers this one."""

        def rank(replica: ReplicaId) -> tuple[bool, bool, int]:
            until = self._excluded.get(replica, 0)
            return until > sequence, replica not in voters, until

        others = [replica for replica in map(ReplicaId, range(self._membership.size)) if replica != self._identity]
        others.sort(key=rank)
        ready = [replica for replica in (self._identity, *others) if self.commitments_of(replica)]
        if self._identity not in ready or len(ready) < self._membership.weak:
            return None
        signers = []
        for replica in sorted(ready[: self._membership.weak]):
            name, commitment = self._published[replica].pairs.popleft()
            self._used[replica] = name
            signers.append((replica, name, commitment))
        return SigningPlan(signers)

    # --- signers ---------------------------------------------------------------------------------------------------

    def executed(self, claim: Claim, view: View, plan: SigningPlan | None, primary: ReplicaId) -> list[Effect]:
        """A batch ran live: sign what it left if we are named; as primary, start collecting."""
        effects: list[Effect] = []
        if plan is None or self._malformed(plan):
            return effects
        if primary == self._identity:
            if not any(replica == primary and name.start == self._start for replica, name, _ in plan.signers):
                return effects  # named by an earlier start of this process: its shares went there
            self._claims[claim.sequence] = (claim, view, plan)
            self._trim()
            effects.append(SetTimer(Timer("shares", view, claim.sequence), SHARE_SECONDS))
        share = self._sign(claim, plan)
        if share is None:
            return effects
        message = SignatureShare(self._membership.epoch, view, claim.sequence, share)
        if primary == self._identity:
            return effects + self.on_share(self._identity, message)
        self._sent[claim.sequence] = (primary, message)
        self._trim()
        return [*effects, Send(primary, message)]

    def _malformed(self, plan: SigningPlan) -> bool:
        signers = [replica for replica, _, _ in plan.signers]
        return (
            len(signers) != self._membership.weak
            or signers != sorted(set(signers))
            or not all(0 <= replica < self._membership.size for replica in signers)
        )

    def _sign(self, claim: Claim, plan: SigningPlan) -> bytes | None:
        """Our share, if the plan names us with a nonce of ours that has not been used. The nonce is gone either way."""
        for replica, name, commitment in plan.signers:
            if replica != self._identity or name.start != self._start or claim.sequence in self._sent:
                continue
            nonces, ours = self._pool.pop(name.index, (None, None))
            if nonces is None or ours != commitment:
                return None
            try:
                return self._scheme.sign(claim.encode(), nonces, _named(plan))
            except FrostError:
                return None  # a plan that cannot be signed, as a lying primary may name
        return None

    def refill(self) -> list[Effect]:
        """Ask for random bytes when a lot of the pool is used. As primary we know which nonces we can still name: some
        were named for batches that others told us of."""
        left = self.commitments_of(self._identity) if self._leads(self._view) else len(self._pool)
        used = self._pool_size if self._spent else self._pool_size - left
        return self._make(used) if used >= self._lot and not self._asked_for_random else []

    def send_again(self, sequence: Sequence) -> list[Effect]:
        """The same share again, the same bytes."""
        if sequence not in self._sent:
            return []
        to, message = self._sent[sequence]
        return [Send(to, message)]

    # --- the coordinator -------------------------------------------------------------------------------------------

    def on_share(self, sender: ReplicaId, message: SignatureShare) -> list[Effect]:
        """Collect a share; with the last of them, the certificate."""
        session = self._claims.get(message.sequence)
        if session is None:
            self._shares.setdefault(message.sequence, {}).setdefault(sender, message.share)
            self._trim()
            return []
        claim, _, plan = session
        shares = self._shares.setdefault(message.sequence, {})
        shares.setdefault(sender, message.share)
        signers = [replica for replica, _, _ in plan.signers]
        if not all(replica in shares for replica in signers):
            return []
        self._close(message.sequence)
        given = {replica + 1: shares[replica] for replica in signers}
        try:
            signature = self._scheme.aggregate(claim.encode(), _named(plan), given)
        except (BadShares, BadCommitments) as failure:
            culprits = [ReplicaId(identifier - 1) for identifier in failure.culprits]
            for culprit in culprits:
                self._excluded[culprit] = Sequence(claim.sequence + EXCLUDED_BATCHES)
            return [Rejected(culprit, "bad signature share") for culprit in culprits]
        certificate = Certificate(claim.encode(), signature)
        self.made.append((claim, certificate))
        return [Broadcast(Certified(self._membership.epoch, certificate.statement, certificate.signature))]

    def on_share_timeout(self, sequence: Sequence) -> list[Effect]:
        """Shares that did not come: their signers are left out for a while. What they had published is dropped,
        since they may have restarted and their nonces be gone; our next STATUS asks for what they have now."""
        session = self._claims.get(sequence)
        if session is None:
            return []
        given = self._shares.get(sequence, {})
        silent = [replica for replica, _, _ in session[2].signers if replica not in given]
        for replica in silent:
            self._excluded[replica] = Sequence(sequence + EXCLUDED_BATCHES)
            if replica != self._identity:
                self._published.pop(replica, None)
        self._close(sequence)
        return [Rejected(replica, "no signature share in time") for replica in silent]

    def _close(self, sequence: Sequence) -> None:
        self._claims.pop(sequence, None)
        self._shares.pop(sequence, None)

    def _trim(self) -> None:
        for book in (self._claims, self._shares, self._sent, self._early):
            while len(book) > OPEN_SESSIONS:
                del book[min(book)]

    # --- everyone --------------------------------------------------------------------------------------------------

    def verified(self, message: Certified) -> tuple[Claim, Certificate]:
        """A certificate from a peer, verified. Raises CertificateError."""
        certificate = Certificate(message.statement, message.signature)
        claim = certificate.verify(self._verifier, self._membership.ring_key)
        if claim.ring_id != self._membership.ring_id:
            raise CertificateError("certificate of another ring")
        return claim, certificate

    def unverified(self, message: Certified) -> Claim:
        """What a certificate claims. Raises CertificateError when it is malformed."""
        return Certificate(message.statement, message.signature).claim()

    def keep_early(self, claim: Claim, certificate: Certificate) -> None:
        """A certificate of a batch that has not run here yet."""
        self._early[claim.sequence] = (claim, certificate)
        self._trim()

    def take_early(self, sequence: Sequence) -> tuple[Claim, Certificate] | None:
        """A certificate that came before its batch ran here."""
        return self._early.pop(sequence, None)


def _named(plan: SigningPlan) -> list[tuple[int, NonceCommitment]]:
    """Signers as the scheme numbers them: 1 to n."""
    return [(replica + 1, commitment) for replica, _, commitment in plan.signers]

"""What a client checks before it believes a server: from an answer of `pond.protocol` down to the ring's key.

The certificate proves the state's root, the state proof an object's record, the record a version by its VGUID or an
outcome by its place in the history. Nothing here trusts the server that answered (design.md, rule 4).
"""

from enum import Enum

from bft.answer import Answer
from bft.answer import Status as AnswerStatus
from bft.certificate import Certificate, CertificateError, Claim
from bft.merkle import MountainRange, leaf_hash, verify
from bft.signatures import Verifier
from bft.state_tree import Kind, ProofError, StateProof, state_key, verify_proof
from bft.statement import Digest, digest
from pond.model.version import (
    ObjectRecord,
    Outcome,
    Status,
    VersionError,
    VersionRoot,
    decode_outcome,
    decode_record,
    decode_version_root,
)
from pond.protocol import AtTime, ByNumber, ByVguid, Latest, OutcomeEvidence, Selector, VersionEvidence
from tapestry.guid import GUID


class ProofFailed(ValueError):
    """An answer that is not proved; the message says what of it does not hold."""


class Missing(Enum):
    """No version matches a selector."""

    PROVED = "proved"
    """The object's record proves it."""
    CLAIMED = "claimed"
    """One server's word: that no version has a given VGUID cannot be proved shortly."""


def check_object(
    certificate: Certificate, proof: StateProof, aguid: GUID, ring_key: bytes, ring_id: Digest, verifier: Verifier
) -> tuple[Claim, ObjectRecord | None]:
    """The certificate's claim, and the object's record in the state it covers, or None: proved that there is none.

    Raises ProofFailed.
    """
    claim = check_certificate(certificate, ring_key, ring_id, verifier)
    return claim, check_record(claim, proof, aguid)


def check_certificate(certificate: Certificate, ring_key: bytes, ring_id: Digest, verifier: Verifier) -> Claim:
    """The claim of a certificate that the ring signed. Raises ProofFailed."""
    try:
        claim = certificate.verify(verifier, ring_key)
    except CertificateError as error:
        raise ProofFailed(str(error)) from None
    if claim.ring_id != ring_id:
        raise ProofFailed(f"the certificate is of ring {claim.ring_id.hex()}, not of {ring_id.hex()}")
    return claim


def check_record(claim: Claim, proof: StateProof, aguid: GUID) -> ObjectRecord | None:
    """The object's record in the state that a verified claim covers, or None when there is none. Raises ProofFailed."""
    try:
        value = verify_proof(claim.state_root, state_key(Kind.OBJECT, aguid), proof)
        return None if value is None else decode_record(value)
    except (ProofError, VersionError) as error:
        raise ProofFailed(f"object {aguid.hex()} after batch {claim.sequence}: {error}") from None


def check_outcome(answer: Answer, request: Digest) -> Outcome:
    """The outcome in a proved answer to the request with this digest.

    Raises ProofFailed, also for an answer whose status is not EXECUTED: those have no outcome.
    """
    if answer.request != request:
        raise ProofFailed("the answer is to another request")
    if answer.status != AnswerStatus.EXECUTED:
        raise ProofFailed(f"the request did not run: {answer.status.name}")
    outcome = _outcome(answer.result)
    if outcome.update != request:
        raise ProofFailed("the outcome is of another request")
    return outcome


# --- one version -------------------------------------------------------------------------------------------------


def check_version(
    aguid: GUID, record: ObjectRecord, evidence: VersionEvidence | None, selector: Selector
) -> VersionRoot | Missing:
    """The version of the object that `selector` names, under its proved record; it may be a tombstone.

    A time is judged against the versions up to the record: whoever asks for one later than the certificate's agreed
    time gets the newest. Raises ProofFailed.
    """
    if evidence is None:
        match selector:
            case ByNumber(number) if not 1 <= number <= record.number:
                return Missing.PROVED
            case ByVguid():
                return Missing.CLAIMED
            case _:
                raise ProofFailed("the server says that there is no such version, but there is one")
    version = _check_evidence(aguid, record, evidence)
    match selector:
        case Latest():
            right = version.number == record.number
        case ByNumber(number):
            right = version.number == number
        case ByVguid(vguid):
            right = version.digest() == vguid
        case AtTime(time):
            if version.time > time:
                if version.number != 1:
                    raise ProofFailed("the version that was sent is younger than asked")
                return Missing.PROVED
            right = _was_newest_at(aguid, record, version, evidence.followed_by, time)
    if not right:
        raise ProofFailed("the version that was sent is not the one that was asked for")
    return version


def _check_evidence(aguid: GUID, record: ObjectRecord, evidence: VersionEvidence) -> VersionRoot:
    made_by = _check_place(aguid, record, evidence.made_by)
    try:
        version = decode_version_root(evidence.root)
    except VersionError as error:
        raise ProofFailed(str(error)) from None
    _check_made(version, digest(evidence.root), made_by)
    # The record vouches for the newest version by itself; the two must agree.
    if (version.number == record.number) != (made_by.vguid == record.vguid) or version.number > record.number:
        raise ProofFailed(f"version {version.number} does not fit the object's record")
    return version


def _check_place(aguid: GUID, record: ObjectRecord, evidence: OutcomeEvidence) -> Outcome:
    """The outcome, once it is proved to be at its place in the object's history."""
    outcome = _outcome(evidence.outcome)
    if outcome.aguid != aguid or outcome.index is None:
        raise ProofFailed("the outcome is not of this object's history")
    history = record.history
    if not verify(history.root, evidence.outcome, outcome.index, history.count, evidence.path):
        raise ProofFailed(f"outcome {outcome.index} is not in the object's history")
    return outcome


def _check_made(version: VersionRoot, vguid: GUID, outcome: Outcome) -> None:
    """Raises ProofFailed unless this outcome made this version."""
    stated = (outcome.status, outcome.aguid, outcome.vguid, outcome.number, outcome.size_bytes, outcome.update)
    found = (Status.COMMITTED, version.aguid, vguid, version.number, version.content.size_bytes, version.update)
    if stated != found or outcome.time != version.time or outcome.index != version.history.count:
        raise ProofFailed(f"version {version.number} is not the one that its outcome made")


def _was_newest_at(
    aguid: GUID, record: ObjectRecord, version: VersionRoot, followed_by: OutcomeEvidence | None, time: int
) -> bool:
    if version.number == record.number:
        return True
    if followed_by is None:
        return False
    following = _check_place(aguid, record, followed_by)
    return following.status == Status.COMMITTED and following.number == version.number + 1 and following.time > time


def _outcome(data: bytes) -> Outcome:
    try:
        return decode_outcome(data)
    except VersionError as error:
        raise ProofFailed(str(error)) from None


# --- the whole history -------------------------------------------------------------------------------------------


class HistoryCheck:
    """Checks an object's outcomes one by one from the first, and in the end against the object's proved record.

    Until `finish` has returned, the outcomes agree among themselves and nothing more.
    """

    def __init__(self, aguid: GUID) -> None:
        self._aguid = aguid
        self._history = MountainRange.empty()
        self._newest: tuple[VersionRoot, GUID] | None = None

    @property
    def count(self) -> int:
        """How many outcomes were added."""
        return self._history.count

    def add(self, data: bytes, root: bytes | None) -> tuple[Outcome, VersionRoot | None]:
        """The next outcome, and the root of the version it made, which an abort has not. Raises ProofFailed."""
        outcome = _outcome(data)
        where = f"outcome {self.count}"
        if outcome.aguid != self._aguid or outcome.index != self.count:
            raise ProofFailed(f"{where} is of another object or place")
        if (root is None) == (outcome.status == Status.COMMITTED):
            raise ProofFailed(f"{where} comes without the version it made, or with one it did not make")
        version = None
        if root is not None:
            try:
                version = decode_version_root(root)
            except VersionError as error:
                raise ProofFailed(f"{where}: {error}") from None
            vguid = digest(root)
            _check_made(version, vguid, outcome)
            self._check_successor(version)
            self._newest = version, vguid
        elif self._newest is None or (outcome.number, outcome.vguid) != (self._newest[0].number, self._newest[1]):
            raise ProofFailed(f"{where} was judged against another version than the newest")
        self._history, _ = self._history.append(leaf_hash(data))
        return outcome, version

    def finish(self, record: ObjectRecord) -> None:
        """Raises ProofFailed unless what was added is the whole history under `record`."""
        if self._history != record.history:
            raise ProofFailed(f"these {self.count} outcomes are not the history that the object's record proves")
        assert self._newest is not None, "a record has a version"
        version, vguid = self._newest
        if (version.number, vguid, version.deleted, version.block_size) != (
            record.number,
            record.vguid,
            record.deleted,
            record.block_size,
        ):
            raise ProofFailed("the newest version is not the one that the object's record names")

    def _check_successor(self, version: VersionRoot) -> None:
        before, vguid = self._newest or (None, None)
        number = before.number + 1 if before else 1
        if version.number != number or version.previous != vguid:
            raise ProofFailed(f"version {version.number} does not follow version {number - 1}")
        if (version.history.count, version.history.root) != (self._history.count, self._history.root):
            raise ProofFailed(f"version {version.number} names another history than the outcomes before it")
        if before is not None and (version.time < before.time or version.block_size != before.block_size):
            raise ProofFailed(f"version {version.number} goes back in time or changes the block size")


def check_history(
    aguid: GUID, record: ObjectRecord, outcomes: list[tuple[bytes, bytes | None]]
) -> list[tuple[Outcome, VersionRoot | None]]:
    """The whole history of an object, oldest first: each outcome with the version it made. Raises ProofFailed."""
    check = HistoryCheck(aguid)
    history = [check.add(outcome, root) for outcome, root in outcomes]
    check.finish(record)
    return history

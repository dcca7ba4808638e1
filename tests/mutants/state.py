"""Mutants of the replicated state, its transfer, its signature, and of what clients believe."""

from typing import Any

import msgspec

from bft import log, threshold, transfer
from bft.answer import Status
from bft.certificate import Certificate
from bft.effects import Write
from bft.execution import Certified, Execution, State
from bft.membership import Membership
from bft.recovery import Recovery
from bft.secret import Secret
from bft.service import Accepted
from bft.sessions import Sessions, StateView
from bft.signing import Signing
from bft.state_tree import Kind, state_key
from bft.types import AgreedTime
from pond.client.ring import RingClient
from pond.client.sealing import Sealer
from pond.model import execution
from pond.model.tables import BLOCKS
from pond.model.update import VersionIs
from pond.node import parts
from pond.node.ring import RingServer
from pond.node.uploads import Uploads
from tests.mutants.mutant import BySeeds, ByTests, mutant, one_less

WRONG_STATES = """
sizes = { clients = 8, phase_seconds = 5.0 }
habits = { head_start_seconds = 0.0, pause_seconds = 0.05 }
limits = { interval = 2, window = 4, retained = 2, pool = 4 }
process.crashes = { every_seconds = 0.3, seconds = 0.6, most = 10, whom = "anyone" }
[[liars]]
kind = "wrong-chunks"
server = 1
"""
"""Servers are away for long enough to need a state."""

NOBODY_HELPS = """
sizes = { clients = 5, objects = 4, phase_seconds = 4.0 }
habits = { head_start_seconds = 0.0, pause_seconds = 0.05 }
limits = { interval = 2, window = 4, retained = 2, pool = 4 }
network.loss = 0.05
network.partitions = { every_seconds = 0.2, seconds = 0.05, kinds = ["isolate", "halves"] }
process.crashes = { every_seconds = 0.3, seconds = 0.6, most = 10, whom = "anyone" }
ending.heal = "quorum"
[[liars]]
kind = "answers-nothing"
server = 2
"""
"""Those who are up may lack what a server that came back has, and the liar gives it to nobody."""

# --- once, and alike everywhere ------------------------------------------------------------------------------------


@mutant(
    "rule 3",
    BySeeds("rule 3: request .* ran in batch", 60, '[[liars]]\nkind = "careless-primary"\nserver = 0'),
)
def runs_more_than_once(patch):
    """A request that has run runs again when it is ordered again."""
    judge = Sessions.judge

    def forgetful(self, *about):
        verdict = judge(self, *about)
        return Status.EXECUTED if isinstance(verdict, bytes) else verdict

    patch.setattr(Sessions, "judge", forgetful)


@mutant("rule 3", BySeeds("rule [13]", 300), quick=True)
def answers_are_kept_in_memory(patch):
    """Sessions and answers are not replicated state: a restart or a transfer loses them."""
    restore, keep, judge = Sessions.restore, Sessions.keep, Sessions.judge

    def here(self, view):
        """What a batch sees, with this server's own memory on top."""
        mine = StateView(view.state)
        mine.changes = kept(self)
        return mine

    def kept(self):
        return self.__dict__.setdefault("kept", {})

    def lose(self, items):
        kept(self).clear()
        restore(self, items)

    patch.setattr(Sessions, "restore", lose)
    patch.setattr(Sessions, "keep", lambda self, view, *about: keep(self, here(self, view), *about))
    patch.setattr(Sessions, "judge", lambda self, view, *about: judge(self, here(self, view), *about))


@mutant("rule 3", BySeeds("rule 3", 100, "[habits]\nreplays = 0.5"))
def answers_forgotten_before_their_time(patch):
    """Sessions are dropped before the not-after of what ran in them: what is replayed then runs again."""
    sweep = Sessions.sweep
    early = 3600 * 1_000_000
    patch.setattr(
        Sessions, "sweep", lambda self, view, time, *about: sweep(self, view, AgreedTime(time + early), *about)
    )


@mutant("rule 1", BySeeds("rule 1: .* left another state", 40), quick=True)
def state_depends_on_the_server(patch):
    """Something that differs from server to server gets into the state."""
    keep = Sessions.keep

    def sloppy(self, view, stated, answer):
        keep(self, view, stated, answer)
        view.changes[state_key(Kind.CONFIGURATION, b"%d" % id(self))] = b"x"

    patch.setattr(Sessions, "keep", sloppy)


@mutant("4.1", ByTests("assert", ("tests/unit/bft/test_sessions.py",)))
def numbers_may_be_skipped(patch):
    """A session's numbers need not run on: the one that was skipped can run later, or never."""
    judge = Sessions.judge

    def lax(self, *about):
        verdict = judge(self, *about)
        return Status.EXECUTED if verdict is Status.OUT_OF_ORDER else verdict

    patch.setattr(Sessions, "judge", lax)


@mutant("4, updates", BySeeds("ran by clause", 60))
def predicates_are_ignored(patch):
    """An update runs whatever version it was made for."""
    holds = execution._holds

    def lax(predicate, *about):
        return isinstance(predicate, VersionIs) or holds(predicate, *about)

    patch.setattr(execution, "_holds", lax)


# --- state transfer ------------------------------------------------------------------------------------------------


@mutant(
    "6.2",
    ByTests("assert", ("tests/unit/bft/test_transfer.py::test_every_wrong_chunk_is_refused_and_its_sender_left_out",)),
    BySeeds("a tree of another root", 60, WRONG_STATES, ("crash",)),
)
def chunks_are_not_checked(patch):
    """Items of a state are installed whatever they hash to."""
    patch.setattr(transfer, "open_items", lambda expected, prefix, chunk: dict(chunk.items))


@mutant(
    "6.2", ByTests("assert|DID NOT RAISE", ("tests/unit/node/test_parts.py::test_every_byte_of_every_part_is_checked",))
)
def parts_are_not_checked(patch):
    """Blocks that come with a state are written whatever their name."""

    def accept(self, values):
        return Accepted((), (Write(BLOCKS, self.span.key, values[0]),))

    patch.setattr(parts._Block, "accept", accept)


@mutant(
    "6.2",
    ByTests("assert", ("tests/unit/bft/test_transfer.py::test_another_digest_is_never_installed",)),
    BySeeds("rule 1: .* not the one that others had", 100, WRONG_STATES),
)
def any_state_is_taken(patch):
    """The root of a state that is fetched need not be the checkpoint's."""
    patch.setattr(transfer._StateFetch, "_check_head", _trust_head)


def _trust_head(self, message):
    if self.head is None:
        self.head = transfer._Head(message.time, message.root)
        self._wanted[b""] = message.root


@mutant(
    "4.4",
    ByTests("assert", ("tests/unit/bft/test_recovery.py",)),
    BySeeds("operations not done|have not run batch", 600, NOBODY_HELPS, ("liveness",)),
)
def a_views_checkpoint_is_not_fetched(patch):
    """Only what 2f + 1 signed is fetched, not what f + 1 hold and a view begins with."""
    tick = Recovery.tick
    patch.setattr(Recovery, "tick", lambda self, stuck_ticks, begun: tick(self, stuck_ticks, None))


# --- the ring's signature ------------------------------------------------------------------------------------------


@mutant("rule 6", BySeeds("nonce", 10), quick=True)
def nonces_are_not_random(patch):
    """The same nonces come up again."""
    on_random = Signing.on_random
    patch.setattr(Signing, "on_random", lambda self, data: on_random(self, data[:1] * len(data)))


class _Kept(dict[int, Any]):
    """A pool that gives a nonce away and keeps it."""

    def pop(self, key, default=None):
        return self.get(key, default)


def _nonces_stay(patch):
    start = Signing.__init__

    def kept(self, *about):
        start(self, *about)
        self._pool = _Kept()

    patch.setattr(Signing, "__init__", kept)
    patch.setattr(threshold.Nonces, "take", lambda self: self._Nonces__pair[0])


@mutant(
    "rule 6",
    ByTests("assert", ("tests/unit/bft/test_replica.py::test_a_signer_named_twice_with_one_nonce_signs_once",)),
    BySeeds("the nonce behind", 20, '[[liars]]\nkind = "reuses-nonces"'),
)
def nonces_stay_after_their_use(patch):
    """A nonce can be used as often as a primary names it."""
    _nonces_stay(patch)


@mutant("rule 6", BySeeds("nonce .* was used", 300))
def nonces_outlive_their_view(patch):
    """What was published for one view serves in the next one too, also what has been used."""
    _nonces_stay(patch)
    enter = Signing.enter

    def keeps(self, view):
        pool = dict(self._pool)
        published = {replica: known._replace(view=view) for replica, known in self._published.items()}
        effects = enter(self, view)
        self._pool.update(pool)
        self._published |= published
        return effects

    patch.setattr(Signing, "enter", keeps)


@mutant(
    "rule 4",
    ByTests("assert", ("tests/unit/bft/test_replica.py::test_a_forged_certificate_is_refused",)),
    BySeeds("rule 4: .* a certificate that does not hold", 20, '[[liars]]\nkind = "forges-certificates"'),
)
def certificates_are_not_checked(patch):
    """A certificate from a peer is taken without the ring's signature."""

    def trusting(self, message):
        certificate = Certificate(message.statement, message.signature)
        return certificate.claim(), certificate

    patch.setattr(Signing, "verified", trusting)


@mutant("rule 6", ByTests("one nonce for two plaintexts", ("tests/unit/client/test_salts.py",)))
def salts_repeat(patch):
    """All updates of a writer are encrypted under one salt, so under one key, with the same nonces."""
    start = Sealer.__init__

    def salted(self, aguid, read_key, epoch, block_size, upload, random_bytes):
        start(self, aguid, read_key, epoch, block_size, upload, bytes)

    patch.setattr(Sealer, "__init__", salted)


@mutant("rule 8", ByTests("assert", ("tests/unit/bft/test_signatures.py",)))
def secrets_are_shown(patch):
    """Whoever prints or logs a secret key shows it."""
    patch.setattr(Secret, "__repr__", lambda self: f"Secret({self.reveal().hex()})")


# --- what clients are told, and believe ----------------------------------------------------------------------------


@mutant("rule 7", BySeeds("not linearizable", 300))
def answers_reads_too_early(patch):
    """A server answers a latest read without waiting for what it has sent COMMIT for: with a stale certificate."""
    nothing = property(lambda self: 0, lambda self, sequence: None)
    patch.setattr("bft.ordering.Ordering.committing", nothing, raising=False)


@mutant("rule 7", BySeeds("not linearizable", 500, '[[liars]]\nkind = "stale-certificates"'))
def client_reads_from_2f(patch):
    """A latest read takes 2f answers, which need not meet those who know the newest version."""
    start = RingClient.__init__

    class Fewer(Membership, frozen=True):
        @property
        def quorum(self):
            return 2 * self.faults

    def hasty(self, asker, membership, *about):
        start(self, asker, Fewer(*msgspec.structs.astuple(membership)), *about)

    patch.setattr(RingClient, "__init__", hasty)


@mutant(
    "rule 4",
    ByTests("DID NOT RAISE", ("tests/unit/client/test_lies.py::test_the_word_of_f_servers_does_not_count",)),
    BySeeds(
        "rule 2: client|never ran|outcome of another update",
        300,
        '[[liars]]\nkind = "wrong-answers"',
        ("safety", "crash"),
    ),
)
def client_believes_one_server(patch):
    """An answer without certificate is believed when one server gives it."""
    one_less(patch, RingClient, "_believe", "weak")


@mutant(
    "rule 2",
    ByTests("assert", ("tests/unit/pond/test_uploads.py::test_a_block_that_an_update_on_its_way_names_is_not_let_go",)),
)
def sweep_drops_what_is_on_its_way(patch):
    """Old uploads are let go though a batch that was ordered names them."""
    sweep = Uploads.sweep
    patch.setattr(Uploads, "sweep", lambda self, now, named: sweep(self, now, set))


@mutant("rule 2, bodies", BySeeds("rule 2: .* lost block", 300, "[habits]\nlarge = 0.3\nreads = 0.2"))
def upload_confirmed_before_it_is_durable(patch):
    """A client is told that its blocks are held before they are on the disk."""
    put = RingServer._on_put_blocks

    def hasty(self, *about):
        effects = put(self, *about)
        return [*effects[1:2], *effects[:1], *effects[2:]] if len(effects) > 1 else effects

    patch.setattr(RingServer, "_on_put_blocks", hasty)


@mutant("4.2, certificates", ByTests("assert", ("tests/unit/bft/test_replica.py",)))
def kept_certificate_proves_any_state(patch):
    """After a start reads are proved by a certificate of the same number, whatever state it is of."""

    def keep_proof(self, sequence, tree):
        certificate = log.read_certificate(self._disk)
        if certificate is not None and certificate.claim().sequence == sequence:
            self._kept = Certified(certificate, State(certificate.claim(), tree, ()))

    patch.setattr(Execution, "keep_proof", keep_proof)

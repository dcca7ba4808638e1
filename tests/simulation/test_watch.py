"""What the watcher of a simulated ring takes as said: only what the server that did it can no longer lose."""

from collections import Counter
from types import SimpleNamespace

import pytest

from bft.certificate import Claim
from bft.effects import Write
from bft.execution import Batch, State
from bft.signatures import Ed25519Verifier
from bft.state_tree import EMPTY, StateTree
from bft.statement import digest
from bft.types import AgreedTime, Epoch, ReplicaId, Sequence, View
from cluster.faults.manifest import parse
from cluster.sim.jobs import Plan
from cluster.sim.limits import Bounds
from cluster.sim.ring import Verdict, simulate
from cluster.sim.watch import Violation, Watch
from pond.model.tables import BLOCKS
from pond.node.service import Service
from tests.unit.bft.ring import Ring

NOW = AgreedTime(1_000_000)
FIRST = Sequence(1)
LIAR = ReplicaId(3)


class Started:
    """A server that runs one batch; the others have committed it, in one view or another."""

    def __init__(self, watch, identity, content):
        name = digest(content)
        for view, voter in enumerate((0, 1, 2)):
            watch._votes_on(View(view), FIRST).commits[voter] = name
            watch._votes_on(View(view), FIRST).commits[(voter + 1) % 3] = name
        self.identity = identity
        self.execution = SimpleNamespace(executed=0, states={}, run=self._run)
        self._state = State(Claim(bytes(32), Epoch(1), FIRST, NOW, name, bytes(32), EMPTY), StateTree.empty(), ())
        watch.attach(self, self.execution)
        self.execution.run(Batch(FIRST, NOW, name, ()))

    def _run(self, batch):
        self.execution.executed, self.execution.time = batch.sequence, batch.time
        self.execution.states[batch.sequence] = self._state
        self.execution.tree = self._state.tree
        return []

    def restarted(self, executed):
        """The same disk under a new process, which finds so many batches."""
        self.execution.executed = executed
        ordering = SimpleNamespace(stable=0, accepted={}, prepared={})
        self.core = SimpleNamespace(
            replica=SimpleNamespace(ordering=ordering, execution=self.execution, views=SimpleNamespace(view=0))
        )
        return self


@pytest.fixture
def watch():
    ring = Ring()
    return Watch(ring.membership, Ed25519Verifier(), Bounds(9, 9, 9, 1.0), lambda: NOW, Counter(), frozenset((LIAR,)))


def test_what_ran_in_a_step_that_was_never_synced_is_nothing(watch):
    """Seed 23100: its own COMMIT was lost with it, so the next view rightly decided another batch."""
    lost = Started(watch, 1, b"one batch")
    watch.started(lost.restarted(executed=0))
    other = Started(watch, 2, b"another batch")
    watch.durable(other, 1)
    assert [claim.batch for claim in watch.claims.values()] == [digest(b"another batch")]


def test_what_survived_though_never_synced_counts(watch):
    survived = Started(watch, 1, b"one batch")
    watch.started(survived.restarted(executed=1))
    other = Started(watch, 2, b"another batch")
    with pytest.raises(Violation, match="rule 1: server 2 left another state after batch 1"):
        watch.durable(other, 1)


def test_what_is_durable_at_two_servers_is_the_same(watch):
    first, second = Started(watch, 1, b"one batch"), Started(watch, 2, b"another batch")
    watch.durable(first, 1)
    with pytest.raises(Violation, match="rule 1: server 2 left another state after batch 1"):
        watch.durable(second, 1)


def test_what_a_server_has_run_and_not_synced_is_waited_for_at_the_end():
    """Seed 84033: the last look at a server came between the two, and missed the version before."""
    run = Plan(200).run(84033)
    assert run.verdict is Verdict.OK, run.what


def test_a_block_with_other_content_is_found_at_the_end(monkeypatch):
    monkeypatch.setattr(Service, "hold", lambda self, name, body, time: (Write(BLOCKS, name, body + b"?"),))
    run = simulate(1, parse("sizes = { operations = 20, clients = 2 }\nhabits.reads = 0.0\nending.heal = 'all'"))
    assert run.verdict is Verdict.SAFETY
    assert "has other content under the name of block" in run.what


def test_what_nobody_has_signed_is_not_to_run(monkeypatch):
    monkeypatch.setattr(Watch, "signed", lambda self, principal, operation: None)
    run = simulate(1, parse("sizes = { operations = 20, clients = 2 }"))
    assert run.verdict is Verdict.SAFETY
    assert run.what.endswith("which nobody signed")

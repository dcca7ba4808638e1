"""What the faults of a manifest do to a run, and what must hold after them."""

import re

import pytest

from bft.effects import Send
from cluster.faults import liars
from cluster.faults.manifest import Manifest, parse
from cluster.sim.ring import Verdict, simulate
from cluster.sim.words import shown

SMALL = "sizes.operations = 60\nsizes.clients = 5\n"

FAULTS = {
    "crash": "process.crashes = { every_seconds = 0.05, seconds = 0.1 }",
    "links lost": "process.crashes = { every_seconds = 0.1, seconds = 0.3 }",
    "power fails": "process.outage = { after_seconds = 0.02, seconds = 0.1 }",
    "resume": "process.pauses = { every_seconds = 0.05, seconds = 0.1 }",
    "start": "process.rolling = { seconds = 0.05, pause_seconds = 0.01 }",
    "amnesia": "process.amnesia = { every_seconds = 0.1, seconds = 0.05 }",
    "disk": "disk.errors = { every_seconds = 0.05, seconds = 0.05 }",
    "disk ": "disk.full = { every_seconds = 0.05, seconds = 0.1 }",
    "slow disk": "disk.slow = { every_seconds = 0.05, seconds = 0.1, factor = 50 }",
    "flip": "disk.flips = { every_seconds = 0.02 }",
    "clock": "clock = { error_seconds = 1.0, jumps = { every_seconds = 0.05 } }",
    "frozen": "clock.freezes = { every_seconds = 0.1, seconds = 0.1 }",
    "clog": "network.clogs = { every_seconds = 0.02, seconds = 0.2 }",
    "cut": "network.partitions = { every_seconds = 0.05, seconds = 0.1, kinds = ['halves', 'client', 'isolate'] }",
    "lost": "network.queue = 1",
    "fate": "ending = { heal = 'quorum' }",
}


def check_run(text, seed=1):
    lines: list[str] = []
    ran = simulate(seed, parse(SMALL + text), shown(lines.append))
    assert ran.verdict is Verdict.OK, ran.what
    return lines


@pytest.mark.parametrize("event", FAULTS)
def test_each_fault_happens_and_is_stood(event):
    lines = check_run(FAULTS[event])
    assert any(re.search(rf"\b{event.strip()}\b", line) for line in lines), lines[-20:]


def test_a_calm_ring_is_calm():
    lines = check_run("ending.heal = 'all'")
    assert not any(re.search(r"\b(lost|crash|cut|fate|down)\b", line) for line in lines)


def test_a_storm_that_seeks_the_leader_drives_it_from_view_to_view():
    storm = "process.crashes = { every_seconds = 0.8, seconds = 0.7, whom = '%s' }\nhabits.pause_seconds = 0.5\n"
    sizes = "sizes.phase_seconds = 6.0\n"
    views = {}
    for whom in ("leader", "anyone"):
        runs = [simulate(seed, parse(SMALL + sizes + storm % whom)) for seed in (1, 2, 3)]
        assert {run.verdict for run in runs} == {Verdict.OK}
        views[whom] = sum(run.view for run in runs)
    assert views["leader"] > 1.5 * views["anyone"] > 0


def test_slow_processors_take_longer():
    quick, slow = (
        simulate(1, parse(SMALL + text)).virtual_seconds
        for text in ("", "process.slow = { servers = 4, factor = 100 }\nsizes.phase_seconds = 9.0")
    )
    assert slow > quick


def test_outside_the_quorum_every_fate_comes_up():
    fates = {line.split()[-1] for seed in range(30) for line in check_run("", seed) if " fate " in line}
    assert fates == {"dead", "isolated", "deaf", "exposed"}


@pytest.mark.parametrize("kind", sorted(liars.KINDS))
def test_a_ring_stands_each_liar(kind):
    for server in range(4):
        check_run(f"[[liars]]\nkind = '{kind}'\nserver = {server}")


def test_more_liars_than_a_ring_stands_stop_it(monkeypatch):
    monkeypatch.setattr(Manifest, "check", lambda self: None)
    text = "".join(f"[[liars]]\nkind = 'silent'\nserver = {server}\n" for server in (1, 2))
    stopped = simulate(1, parse(SMALL + "ending.heal = 'all'\n" + text))
    assert stopped.verdict is Verdict.LIVENESS
    assert "60 operations not done 120 s after servers [0, 3] were healed" in stopped.what


def test_a_liar_may_keep_messages_from_its_core_and_wake_itself(monkeypatch):
    woken: list[int] = []

    class Late(liars.Liar[liars.Parameters]):
        """Sends everything a little later, and takes no votes from server 0."""

        def __init__(self, means, parameters, place):
            super().__init__(means, parameters, place)
            self.held: list[object] = []

        def hears(self, sender, message, now):
            return sender != 0 or type(message).__name__ != "Commit"

        def says(self, effects, now):
            self.held += [effect for effect in effects if isinstance(effect, Send)]
            kept = [effect for effect in effects if not isinstance(effect, Send)]
            return [*kept, self.wake(7, 0.01)] if self.held else kept

        def woken(self, number, now):
            woken.append(number)
            said, self.held = self.held, []
            return said

    monkeypatch.setitem(liars.KINDS, "late", liars.Kind(liars.Parameters, Late))
    check_run("[[liars]]\nkind = 'late'\nserver = 2")
    assert set(woken) == {7}

"""Manifests: read strictly, written so that they read back the same, and each seed draws one that can be run."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster.faults import liars
from cluster.faults.manifest import Manifest, ManifestError, dump, load, parse
from cluster.sim.cli import sim
from cluster.sim.drawing import PARAMETERS, drawn

EXAMPLES = sorted((Path(__file__).parents[2] / "docs" / "manifests").glob("*.toml"))


def optional_faults(manifest):
    sections = (manifest.network, manifest.disk, manifest.process, manifest.clock)
    return {
        f"{type(section).__name__}.{name}"
        for section in sections
        for name in section.__struct_fields__
        if type(section)().__getattribute__(name) in (None, 0, False) and getattr(section, name)
    }


def test_what_is_left_out_does_not_happen():
    assert parse("") == Manifest()
    assert optional_faults(Manifest()) == set()


def subjects(manifest):
    """The modules of the kinds that lie."""
    return {liars.KINDS[lie.kind].make.__module__ for lie in manifest.liars}


def test_a_drawn_manifest_reads_back_the_same():
    for seed in range(300):
        manifest = drawn(seed, 100)
        liars.check(manifest)
        assert parse(dump(manifest)) == manifest


def test_every_fault_is_on_in_some_seeds_and_off_in_others():
    drawings = [drawn(seed) for seed in range(600)]
    every = {
        f"{type(section).__name__}.{name}"
        for section in (Manifest().network, Manifest().disk, Manifest().process, Manifest().clock)
        for name in section.__struct_fields__
        if getattr(section, name) in (None, 0, False)
    }
    seen = [optional_faults(manifest) for manifest in drawings]
    assert set().union(*seen) == every
    assert set.intersection(*seen) <= {"Clock.error_seconds"}
    lies = [lie for seed in range(1500) for lie in drawn(seed).liars]
    assert {lie.kind for lie in lies} == set(liars.KINDS)
    assert {name for lie in lies for name in lie.parameters} == set(PARAMETERS)
    assert {manifest.ending.heal for manifest in drawings} == {"quorum", "all"}


@pytest.mark.parametrize(("subject", "whom"), [("liars_about_state", "anyone"), ("liars_about_views", "leader")])
def test_who_lies_has_an_occasion_in_most_seeds(subject, whom):
    lying = [manifest for manifest in map(drawn, range(1500)) if subject in "".join(subjects(manifest))]
    away = [manifest.process.crashes for manifest in lying]
    occasions = [crashes for crashes in away if crashes is not None and (crashes.seconds, crashes.whom) == (0.6, whom)]
    assert len(occasions) > len(lying) / 2 > 20


def test_a_server_that_lies_in_two_ways_does_so_about_one_subject():
    two = [manifest for manifest in map(drawn, range(600)) if len({lie.server for lie in manifest.liars}) == 1]
    assert {len(subjects(manifest)) for manifest in two} == {1}
    assert {len(manifest.liars) for manifest in two} == {1, 2}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("weather = 1", "unknown field `weather`"),
        ("[network]\nlos = 0.1", "network: Object contains unknown field `los`"),
        ("[network]\nloss = 1.1", "network.loss: Expected `float` <= 1.0"),
        ("[network]\nloss = 'much'", "network.loss: Expected `float`"),
        ("[process.crashes]\nevery_seconds = 1", "process.crashes: Object missing required field `seconds`"),
        ("[process.crashes]\nevery_seconds = 0\nseconds = 1", "process.crashes.every_seconds: Expected `float` > 0"),
        ("[network.partitions]\nevery_seconds=1\nseconds=1\nkinds=['odd']", "network.partitions.kinds[0]"),
        ("[network]\ntable_seconds = [[1.0, 2.0]]", "network.table_seconds"),
        ("[network.split]\nafter_seconds=1\nseconds=1\nservers=[0,1,2,3]", "somebody must be on the other side"),
        ("[network.split]\nafter_seconds=1\nseconds=1\nservers=[4]", "network.split: servers are 0 to 3"),
        ("[network.split]\nafter_seconds=1\nseconds=1\nservers=[]", "network.split.servers: Expected `array`"),
        ("rounds = {count=1, seconds=1}\n[disk]\nfull = {every_seconds=1, seconds=1}", "rounds: nothing else"),
        ("[sizes]\nservers = 5", "4, 7, 10"),
        ("[limits]\ninterval = 4", "interval and window"),
        ("[[liars]]\nkind = 'silent'\n[[liars]]\nkind = 'silent'", "4 servers stand 1"),
        ("[[liars]]\nkind = 'silent'\nserver = 9", "servers are 0 to 3"),
        ("[[liars]]\nkind = 'honest'", "no kind 'honest', only answers-nothing, bad-new-view,"),
        (
            "[[liars]]\nkind = 'silent'\nparameters = { shar = 1 }",
            "liars: silent: Object contains unknown field `shar`",
        ),
        ("[sizes", "not TOML"),
    ],
)
def test_a_bad_manifest_is_refused_with_its_reason(tmp_path, text, complaint):
    with pytest.raises(ManifestError) as refused:
        liars.check(parse(text))
    assert complaint in str(refused.value)
    file = tmp_path / "bad.toml"
    file.write_text(text)
    result = CliRunner().invoke(sim, ["ring", "--manifest", str(file)])
    assert result.exit_code == 2
    assert "bad.toml" in result.output


def test_a_manifest_that_is_not_there_is_refused():
    with pytest.raises(ManifestError, match="there is no such file"):
        load(Path("nowhere.toml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_run_as_promised(example):
    result = CliRunner().invoke(sim, ["ring", "--seed", "1", "--manifest", str(example)], standalone_mode=False)
    assert result.return_value == 0, result.output
    assert result.output.startswith(f"Replay: pond sim ring --seed 1 --manifest {example}")


def test_there_are_examples():
    assert EXAMPLES

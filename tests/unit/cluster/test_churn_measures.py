"""Figures of simulated churn, on histories made by hand; durations; the answer in words."""

import math
import random

import pytest

from cluster.sim.churn import measures, oracle
from cluster.sim.churn.overlay import named, nearest, successor
from cluster.sim.churn.report import answer, in_words, percent
from cluster.sim.churn.run import Plan, Run
from cluster.sim.churn.topology import Place
from cluster.sim.churn.words import duration, seconds_of
from cluster.sim.churn.world import Host, Lookup
from tapestry.messages import Contact

A, B = b"a" * 32, b"b" * 32


def lookup(key=A, root=A, asked=0.0, took=0.5, died=False, hops=2, direct=0.2):
    """One that was answered, or not where it took nothing."""
    made = Lookup(key, 0, asked)
    made.asker_died = died
    if took is not None:
        made.answered, made.root, made.hops, made.direct = asked + took, root, hops, direct
    return made


def host(started, joined=None):
    made = Host(0, Contact(A, "a"), Place(0, 0, 0), 0, named("chord").make(Contact(A, "a"), random.Random(1)), started)
    made.joined = joined
    return made


# --- lookups -----------------------------------------------------------------------------------------------------


def test_completed_are_those_whose_answer_came_within_a_minute_and_whose_asker_lived():
    lookups = [
        lookup(took=1.0),
        lookup(took=60.0),
        lookup(took=60.1),
        lookup(took=None),
        lookup(took=None, died=True),
    ]
    found = measures.figures(lookups)
    assert (found.lookups, found.completed, found.mean_seconds) == (4, 0.5, 30.5)


def test_consistent_are_those_that_agree_with_more_than_half_of_the_answers_for_their_key():
    lookups = [*[lookup(A, A)] * 6, *[lookup(A, B)] * 2, *[lookup(A, took=None)] * 2]
    assert measures.figures(lookups).consistent == 6 / 8
    assert measures.majorities(lookups) == {A: A}


def test_without_a_majority_none_is_consistent():
    lookups = [*[lookup(A, A)] * 4, *[lookup(A, B)] * 4, lookup(B, B)]
    assert measures.majorities(lookups) == {B: B}
    assert measures.figures(lookups).consistent == 1 / 9


def test_who_died_after_the_answer_counts_and_who_died_before_does_not():
    answered = lookup()
    assert measures.counts(answered)
    assert not measures.counts(lookup(took=None, died=True))


def test_latency_hops_and_stretch():
    lookups = [lookup(took=0.3, hops=1, direct=0.1), lookup(took=0.5, hops=3, direct=0.1), lookup(took=0.0, direct=0.0)]
    found = measures.figures(lookups)
    assert found.mean_seconds == pytest.approx(0.8 / 3)
    assert (found.p50_seconds, found.p95_seconds, found.mean_hops) == (0.3, 0.5, 2)
    assert found.stretch == pytest.approx((0.2 + 0.4) / 0.2)
    assert (found.quantiles_seconds[0], found.quantiles_seconds[-1], len(found.quantiles_seconds)) == (0.0, 0.5, 101)


def test_there_are_no_figures_of_nothing():
    found = measures.figures([])
    assert (found.lookups, found.completed, found.consistent, found.mean_seconds) == (0, None, None, None)
    assert (found.quantiles_seconds, found.stretch) == ([], None)


def test_each_second_has_the_lookups_that_were_asked_in_it():
    lookups = [
        lookup(asked=10.0),
        lookup(asked=10.9, took=None),
        lookup(asked=12.5, root=B, took=0.1),
        lookup(asked=12.5, took=0.3),
        lookup(asked=13.0),
        lookup(asked=9.9),
        lookup(asked=10.5, took=None, died=True),
    ]
    rows = measures.seconds(lookups, 10.0, 13.0)
    assert [(row.second, row.lookups, row.succeeded, row.completed) for row in rows] == [
        (0, 2, 0.5, 0.5),
        (1, 0, None, None),
        (2, 2, 0.5, 1.0),
    ]
    assert rows[2].mean_seconds == pytest.approx(0.2)


# --- nodes -------------------------------------------------------------------------------------------------------


def test_joined_are_those_that_came_so_far_in_time_of_those_that_started_in_it():
    hosts = [host(99.9, 101), host(100.0, 101.0), host(120.0), host(150.0, 200.1), host(169.9, 171), host(170.0)]
    assert measures.joined(hosts, 100.0, 200.0) == (4, 0.5)
    assert measures.join_times(hosts, 100.0, 160.0) == [1.0, pytest.approx(50.1)]
    assert measures.joined([], 100.0, 200.0) == (0, None)


def test_the_root_of_a_key_is_its_successor_or_the_nearest():
    guids = [bytes([first]) + bytes(31) for first in (0x10, 0x50, 0xF0)]
    low, middle, high = guids
    for first, after, near in ((0x11, middle, low), (0x31, middle, middle), (0xF1, low, high), (0x00, low, low)):
        key = bytes([first]) + bytes(31)
        assert (successor(key, guids), nearest(key, guids)) == (after, near)


def test_a_key_has_one_root_when_all_who_live_got_the_same_answer():
    chord = named("chord")
    lookups = [
        [lookup(A, A), lookup(A, A), lookup(A, took=None, died=True)],
        [lookup(A, B), lookup(A, B)],
        [lookup(A, A), lookup(A, B)],
        [lookup(A, A), lookup(A, took=None)],
    ]
    found = oracle.judge(oracle.Questions(0.0, [A] * 4, lookups), chord, [A, B])
    assert found == oracle.Agreement(keys=4, one_root=2, right=1, asked=8, answered=7)
    assert not found.complete


# --- words -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1.4m", 84), ("2h", 7200), ("250ms", 0.25), ("47m", 2820), (" 5s ", 5)]
)
def test_durations_are_read(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "-5s", "1,4m", "5 s", "5d", "1e3s", "nan s", "0s", "9999999h", "٣s"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="duration"):
        seconds_of(text)


@pytest.mark.parametrize("seconds", [0.5, 1, 60, 84, 90, 360, 3600, 5400.5, 123456.789, math.pi, None])
def test_durations_are_written_so_that_they_read_back(seconds):
    text = duration(seconds)
    assert (None if text == "never" else seconds_of(text)) == (seconds if seconds != math.pi else round(math.pi, 6))


def test_a_plan_says_how_to_run_it_again():
    plan = Plan("chord", 50, None, 90.0, 7, kill=0.2, quiet_seconds=60, loss=0.01)
    assert plan.replay() == (
        "pond sim churn --nodes 50 --median-session never --minutes 1.5 --overlay chord --kill 0.2 --quiet 1m"
        " --loss 0.01 --seed 7"
    )


def test_a_share_is_only_all_when_it_is_all():
    assert [percent(share) for share in (1.0, 0.999999, 0.9995, 0.0, None)] == [
        "100.00 %",
        "99.99 %",
        "99.95 %",
        "0.00 %",
        "-",
    ]


def test_a_run_of_nothing_can_be_told():
    figures = measures.figures([])
    run = Run(Plan("chord"), [], figures, [], 0, None, [], 1, 0, [], {}, {}, {}, None, None, None, None, 0, 0, 0, "")
    text = in_words(answer(run, 1.0))
    assert "0 lookups" in text
    assert "COMPLETED" in text

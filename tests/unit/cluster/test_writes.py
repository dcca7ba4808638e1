"""Pond's phases, put together from what the primary timed."""

import pytest

from cluster.bench.writes import PHASES, phases

TIMED = {
    "validate": 0.2,
    "admitted to proposed": 1.0,
    "proposed to prepared": 2.0,
    "prepared to executed": 3.0,
    "apply": 0.5,
    "executed to certified": 1.5,
}


def test_ordering_is_all_between_admission_and_execution_but_the_time_to_apply() -> None:
    found = {phase.phase: phase.ms for phase in phases(TIMED, 10.0, {})}
    assert tuple(found) == PHASES
    assert found == {
        "validate": 0.2,
        "serialize": 5.5,
        "apply": 0.5,
        "archive": None,
        "sign": 1.5,
        "rest": pytest.approx(2.3),
        "total": 10.0,
    }


def test_each_phase_stands_beside_ponds_where_both_are_known() -> None:
    found = {phase.phase: phase for phase in phases(TIMED, 10.0, {"serialize": 55.0, "archive": 4.5, "total": 95.0})}
    assert found["serialize"].times_faster == pytest.approx(10)
    assert found["total"].times_faster == pytest.approx(9.5)
    assert (found["archive"].pond_ms, found["archive"].times_faster) == (4.5, None)
    assert (found["sign"].pond_ms, found["sign"].times_faster) == (None, None)


def test_clocks_that_disagree_a_little_make_nothing_negative() -> None:
    found = phases({"apply": 2.0, "admitted to proposed": 1.0}, 1.0, {})
    assert all(phase.ms is None or phase.ms >= 0 for phase in found)

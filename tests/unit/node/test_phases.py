"""Times between the points in the life of a batch."""

from pond.node.phases import Phases


def test_a_batch_goes_through_its_phases_in_order() -> None:
    phases = Phases()
    phases.admitted()
    found = [phases.mark(7, point) for point in ("proposed", "prepared", "executed", "certified")]
    names = [phase.name for phase in found if phase is not None]
    assert names == ["admitted to proposed", "proposed to prepared", "prepared to executed", "executed to certified"]
    assert all(phase is not None and phase.seconds >= 0 for phase in found)
    assert list(phases.means()) == names


def test_an_update_counts_for_one_proposal_only() -> None:
    phases = Phases()
    phases.admitted()
    assert phases.mark(1, "proposed") is not None
    assert phases.mark(2, "proposed") is None


def test_what_a_backup_was_sent_does_not_count_for_what_it_proposes_later() -> None:
    phases = Phases()
    phases.admitted()
    assert phases.mark(1, "prepared") is None
    assert phases.mark(2, "proposed") is None


def test_a_backup_begins_with_prepared() -> None:
    phases = Phases()
    assert phases.mark(1, "prepared") is None
    executed = phases.mark(1, "executed")
    assert executed is not None
    assert executed.name == "prepared to executed"

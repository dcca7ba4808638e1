"""Castro & Liskov, TOCS 2002, section 4.4, figure 4: what a new view begins with, rule by rule, then at random.

A. there is a message m with (n, d, v) in P that satisfies
   A1. 2f + 1 messages with h < n whose P has no entry for n, or one of a lower view, or of the same view and digest;
   A2. f + 1 messages with (n, d, v') in Q, v' not below v;
   A3. the primary has the request: `ViewChanges` waits for it, see test_view_change.py
B. 2f + 1 messages with h < n whose P has no entry for n: then the null request
"""

import itertools
import random
from collections.abc import Callable

import msgspec
import pytest

from bft import new_view
from bft.batches import NULL
from bft.messages import Accepted
from bft.new_view import decide
from bft.types import Sequence, View
from tests.paper import executions
from tests.paper.changes import CHECKPOINTS, MEMBERSHIPS, WINDOW, change, chosen, digest
from tests.paper.executions import Execution

A0 = (1, "a", 0)
"""Batch a at number 1, in view 0."""


# --- rule A ---------------------------------------------------------------------------------------------------------


def test_nothing_prepared_means_nothing_to_begin_with() -> None:
    assert chosen(change(0), change(1), change(2)) == []


def test_2f_messages_decide_nothing() -> None:
    assert chosen(change(0), change(1)) is None


def test_what_prepared_anywhere_is_selected_when_f_plus_1_vouch_for_it() -> None:
    assert chosen(change(0, [A0]), change(1, q=[A0]), change(2)) == ["a"]
    assert chosen(change(0, [A0]), change(1, [A0]), change(2, [A0])) == ["a"]


def test_what_was_accepted_and_did_not_prepare_anywhere_is_not_selected() -> None:
    """It cannot have committed, so it may go either way; nobody claims that it prepared."""
    assert chosen(change(0, q=[A0]), change(1, q=[A0]), change(2, q=[A0])) == []


def test_a2_an_invented_entry_that_too_few_vouch_for_is_not_selected() -> None:
    """Its sender is the only one who says so: undecided as long as it is one of 2f + 1 (B fails as well)."""
    liar = change(3, [(1, "h", 5)])
    assert chosen(change(0), change(1), liar) is None
    assert chosen(change(0), change(1), change(2), liar) == []


def test_a2_an_invented_entry_of_a_higher_view_does_not_hide_the_genuine_one() -> None:
    honest = [change(0, [A0]), change(1, [A0]), change(2, q=[A0])]
    liar = change(3, [(1, "h", 8)])
    assert chosen(*honest[:2], liar) is None, "A1 for a: the liar's entry does not give way"
    assert chosen(*honest, liar) == ["a"]


def test_a2_takes_a_vote_in_the_candidates_view_or_a_later_one() -> None:
    later = [(1, "a", 3)]
    assert chosen(change(0, later), change(1, q=later), change(2)) == ["a"]
    assert chosen(change(0, [(1, "a", 2)]), change(1, q=later), change(2)) == ["a"]
    assert chosen(change(0, later), change(1, q=[A0]), change(2, q=[A0])) is None, "they voted for it in view 0 only"


def test_a2_a_backup_that_crashed_between_prepare_and_commit_vouches_by_its_synced_q_entry() -> None:
    """agreement.md, durable votes: without that entry the third row would be, and stay, undecided."""
    prepared, crashed, never = change(1, [A0]), change(2, q=[A0]), change(2)
    assert chosen(change(0, q=[]), prepared, crashed) == ["a"]
    assert chosen(change(0, q=[]), prepared, never) is None


def test_a1_of_several_views_in_which_batches_prepared_the_latest_counts() -> None:
    first, second = (1, "a", 0), (1, "b", 2)
    changes = change(0, [first]), change(1, [second], q=[first, second]), change(2, q=[second])
    assert chosen(*changes) == ["b"]
    assert chosen(change(0, [first], q=[first, second]), change(1, [second]), change(2, [first])) == ["b"]


def test_a1_an_entry_of_a_lower_view_is_not_selected_beside_one_of_a_higher_that_may_have_committed() -> None:
    first, second = (1, "a", 0), (1, "b", 2)
    changes = change(0, [first]), change(1, [first]), change(2, [second])
    assert chosen(*changes) is None, "b lacks vouchers, a does not have 2f + 1 that agree: somebody is missing"
    assert chosen(*changes, change(3, q=[second])) == ["b"]
    assert chosen(*changes, change(3)) == ["a"]


def test_a1_two_batches_of_one_view_cannot_both_have_prepared() -> None:
    """One of them is a lie, and only the true one finds vouchers."""
    assert chosen(change(0, [A0]), change(1, [(1, "h", 0)]), change(2, q=[A0])) is None
    assert chosen(change(0, [A0]), change(1, [(1, "h", 0)]), change(2, q=[A0]), change(3, q=[A0])) == ["a"]


def test_of_batches_that_may_all_be_selected_the_highest_view_then_the_least_digest_is_taken() -> None:
    """The paper leaves the choice to the primary; here it is settled, so that backups can compute it again."""
    both = [(1, "a", 1), (1, "b", 1)]
    least, other = sorted("ab", key=digest)
    claims = change(0, [(1, other, 1)], q=both), change(1, [(1, least, 1)], q=both)
    assert chosen(*claims, *(change(i, q=both) for i in range(2, 7)), size=7) == [least]
    claims = change(0, [(1, other, 2)], q=[(1, other, 2), (1, least, 1)]), change(1, [(1, least, 1)], q=both)
    assert chosen(*claims, *(change(i, q=[(1, other, 2), (1, least, 1)]) for i in range(2, 7)), size=7) == [other]


# --- rule B, and numbers --------------------------------------------------------------------------------------------


def test_b_gaps_become_null_batches() -> None:
    entries = [(3, "a", 0), (5, "b", 0)]
    assert chosen(change(0, entries), change(1, entries), change(2)) == ["-", "-", "a", "-", "b"]


def test_nothing_follows_the_last_batch() -> None:
    liar = change(3, [(6, "h", 0)])
    assert chosen(change(0, [A0]), change(1, [A0]), change(2), liar) == ["a"]


def test_a_null_batch_that_prepared_is_kept_also_where_nothing_follows_it() -> None:
    """In view 1 number 1 was filled with the null batch below a batch at 2, and ran. The only one at which the batch at
    2 had prepared is not heard this time: number 1 must not be given to another batch."""
    null = [Accepted(Sequence(1), NULL, View(1))]
    told = [msgspec.structs.replace(change(i), prepared=null, pre_prepared=null) for i in range(3)]
    decision = decide(MEMBERSHIPS[4], told, WINDOW)
    assert decision is not None
    assert decision.batches == (NULL,)


def test_an_entry_above_the_window_of_the_chosen_checkpoint_is_left_out() -> None:
    far = [(WINDOW + 2, "a", 0)]
    assert chosen(change(0, far, stable=2, held=[]), change(1, far, stable=2), change(2), change(3)) is not None
    assert chosen(change(0), change(1), change(2), change(3, [(WINDOW + 1, "h", 0)], q=[(WINDOW + 1, "h", 0)])) == []


# --- the checkpoint -------------------------------------------------------------------------------------------------


def low(*changes: object, size: int = 4) -> int | None:
    decision = decide(MEMBERSHIPS[size], list(changes), WINDOW)  # type: ignore[arg-type]
    return decision.stable if decision is not None else None


def test_the_highest_checkpoint_that_f_plus_1_hold_and_2f_plus_1_have_not_passed_is_chosen() -> None:
    """4.4: the start state is the checkpoint with the highest number for which 2f + 1 messages have an h no higher, and
    f + 1 contain it in C."""
    assert low(change(0, held=[4]), change(1, held=[4]), change(2)) == 4
    assert low(change(0, stable=4), change(1, held=[4]), change(2)) == 4
    assert low(change(0, stable=4), change(1, stable=4, held=[8]), change(2)) == 4


def test_a_checkpoint_of_f_liars_is_not_chosen() -> None:
    assert low(change(0), change(1), change(2), change(3, held=[4])) == 0


def test_a_checkpoint_that_too_few_have_not_passed_is_not_chosen() -> None:
    """Of the numbers between, only those who have not cut their logs can tell what happened."""
    assert low(change(0, stable=4), change(1, stable=4), change(2)) == 4
    assert low(change(0, stable=4), change(1), change(2)) is None, "0 is passed by one, and 4 held by one alone"
    assert low(change(0, stable=4), change(1), change(2), change(3, held=[4])) == 4
    assert low(change(0, stable=4), change(1), change(2), change(3)) == 0


def test_what_lies_at_or_below_the_chosen_checkpoint_is_settled() -> None:
    passed = [(2, "a", 0), (5, "b", 0)]
    decision = decide(MEMBERSHIPS[4], [change(0, passed, held=[4]), change(1, passed, held=[4]), change(2)], WINDOW)
    assert decision is not None
    assert (decision.stable, decision.digest, decision.batches) == (4, CHECKPOINTS[4], (digest("b"),))


def test_who_has_cut_its_log_cannot_tell_about_what_it_cut() -> None:
    """It does not count among the 2f + 1 of A1 and B."""
    passed = change(2, stable=4)
    assert chosen(change(0, [A0]), change(1, [A0]), passed) is None
    assert chosen(change(0, [A0]), change(1, [A0]), passed, change(3)) == ["a"]


def test_who_has_cut_its_log_does_not_say_that_nothing_happened() -> None:
    """Batch a ran at 0, 1 and 6, and 0 has forgotten it since; two liars and two that heard nothing are no 2f + 1."""
    cut, ran = change(0, stable=4), change(1, [A0], held=[4])
    others = [change(i) for i in range(2, 6)]
    assert chosen(cut, ran, *others, size=7) is None
    decision = decide(MEMBERSHIPS[7], [cut, ran, *others, change(6, [A0], held=[4])], WINDOW)
    assert decision is not None
    assert decision.stable == 4, "with f + 1 that hold a checkpoint above it, it is settled"


# --- more messages, and any order -----------------------------------------------------------------------------------


def test_more_than_2f_plus_1_messages_may_be_used() -> None:
    assert chosen(*(change(i, [A0]) for i in range(4))) == ["a"]
    assert chosen(*(change(i, [A0]) for i in range(7)), size=7) == ["a"]


def test_the_order_of_messages_does_not_matter() -> None:
    changes = [
        change(0, [(1, "a", 0), (3, "c", 1)], held=[4]),
        change(1, [(1, "b", 2)], q=[(1, "b", 2), (3, "c", 1)]),
        change(2, q=[(1, "b", 2)]),
        change(3, [(2, "h", 3)], q=[]),
    ]
    decisions = {decide(MEMBERSHIPS[4], list(order), WINDOW) for order in itertools.permutations(changes)}
    assert len(decisions) == 1
    assert chosen(*changes) == ["b", "-", "c"]


# --- at random ------------------------------------------------------------------------------------------------------


def execute(seed: int) -> Execution:
    """One random execution, and after it a view that all honest replicas leave for."""
    execution = Execution((4, 4, 7)[seed % 3], random.Random(seed))
    execution.run(400)
    changes = execution.final_changes()
    decision = decide(execution.membership, changes, executions.WINDOW)
    assert decision is not None, f"2f + 1 honest replicas are always enough: {execution.story}"
    execution.check(executions.VIEWS + 1, decision)
    execution.draw.shuffle(changes)
    assert decide(execution.membership, changes, executions.WINDOW) == decision
    return execution


@pytest.mark.parametrize("tens", range(15))
def test_a_batch_that_committed_is_chosen_in_every_later_view(tens: int) -> None:
    """Whatever f liars claim or leave out; and no number ever commits two batches."""
    found = [execute(seed) for seed in range(100 * tens, 100 * tens + 100)]
    assert sum(execution.decided for execution in found) > 50, "views did begin"
    assert sum(len(execution.committed) for execution in found) > 100, "batches did commit"


def _any(*_: object) -> bool:
    return True


@pytest.mark.parametrize("rule", ["gives_way", "vouches", "unprepared"])
def test_the_executions_find_out_a_rule_that_is_missing(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without A1, A2 or B two batches commit at one number sooner or later."""
    broken: Callable[..., bool] = _any
    monkeypatch.setattr(new_view._Told, rule, broken)
    with pytest.raises(AssertionError, match=r"committed at|two batches"):
        all(map(execute, range(3000)))

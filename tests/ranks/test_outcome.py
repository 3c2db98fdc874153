"""The outcomes of all ranks together: in step, or not."""

from neoxlib.errors import RankError
from neoxlib.ranks.outcome import Outcome, in_step


def test_ranks_are_in_step_when_all_answered_and_all_or_none_failed_alike():
    fine = Outcome(1)
    wrong = Outcome(error=ValueError("x"))
    other = Outcome(error=ValueError("y"))
    passed_on = Outcome(error=RankError("rank 0 could not choose the next token: ValueError: x"))
    assert in_step({0: fine, 1: fine}, 2) and in_step({1: wrong, 0: wrong}, 2)
    assert in_step({0: wrong, 1: passed_on}, 2)
    assert not in_step({0: fine}, 2) and not in_step({0: wrong}, 2)
    assert not in_step({0: fine, 1: wrong}, 2) and not in_step({0: wrong, 1: fine}, 2)
    assert not in_step({0: wrong, 1: other}, 2)

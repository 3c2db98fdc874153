"""The outcomes of all ranks together: in step, or not."""

import time
from concurrent.futures import ThreadPoolExecutor

from ipyparallel.serialize import canning

from neoxlib.errors import RankError
from neoxlib.ranks.outcome import Outcome, import_types, in_step


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


def test_sessions_that_start_in_several_threads_find_all_types_imported(monkeypatch):
    def slowly(name: str) -> type:
        time.sleep(0.01)
        return type(name, (), {})

    maps = {"can_map": canning._original_can_map, "uncan_map": canning._original_uncan_map}
    for name, original in maps.items():
        monkeypatch.setattr(canning, name, dict(original))
    monkeypatch.setattr(canning, "import_item", slowly)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: import_types(), range(4)))
    assert not any(isinstance(one, str) for one in (*canning.can_map, *canning.uncan_map))

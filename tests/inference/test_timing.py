"""A case on real and made-up ranks: exact lengths, a filled cache, the slowest rank, the clocks."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import neoxlib
from neoxlib.errors import SettingsError
from neoxlib.inference import decode, timing
from neoxlib.inference.decode import Clock, DecodeStep
from neoxlib.inference.engine import Engine
from neoxlib.inference.timing import Case, Work
from neoxlib.speed import measure
from tests.support import rank_faults as faults
from tests.support.thread_ranks import on_ranks

ROOT = Path(__file__).parents[2]
PARTS = Clock._fields


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Engine:
    return neoxlib.load(checkpoint)


@pytest.fixture(scope="module")
def session(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[neoxlib.Session]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(ROOT))
        # ipykernel redirects output only where pytest is not running.
        patch.delenv("PYTEST_CURRENT_TEST")
        opened = neoxlib.Session(
            checkpoint, 2, device="cpu", log_dir=tmp_path_factory.mktemp("logs")
        )
    with opened:
        yield opened


def work(engine: Engine, case: Case) -> Work:
    return Work(engine.model, engine.tokenizer, engine.max_seq_len, case)


def made_up(size: int, *clocks: list[list[float]]) -> list[timing.Figures]:
    """The figures made of one run's clocks [steps][4] of each of `size` ranks."""

    def on_rank(group: Any) -> list[timing.Figures]:
        steps = [DecodeStep(None, Clock(*clock)) for clock in clocks[group.rank]]
        return timing._slowest(SimpleNamespace(group=group, weight=torch.zeros(1)), [steps])

    return on_ranks(size, on_rank)[0]


def test_every_repeat_has_exactly_the_steps_that_were_asked_for(engine):
    runs = engine.profile(Case(2, 8, 5, repeats=3, warmup=2, end_to_end_every=2))
    assert len(runs) == 3 and all(
        len(run[part]) == 5 for run in runs for part in (*PARTS, "step", "slowest")
    )
    assert [len(run["end_to_end"]) for run in runs] == [1, 0, 1]
    assert (
        runs[0]["warmups"] == [2] and runs[0]["warmup_s"][0] > 0 and "device_peak_mb" not in runs[0]
    )


def test_a_case_goes_on_until_both_repeats_and_seconds_are_reached(engine, monkeypatch):
    now = [0.0]

    def run(_: Work) -> list[DecodeStep]:
        now[0] += 0.25
        return []

    monkeypatch.setattr("neoxlib.inference.timing.time.perf_counter", lambda: now[0])
    monkeypatch.setattr(Work, "synced", run)
    for repeats, seconds, runs in ((2, 1.0, 4), (2, 0.0, 2), (5, 1.0, 5)):
        case = Case(1, 4, 2, repeats=repeats, min_seconds=seconds, warmup=0)
        assert len(list(work(engine, case).repeat())) == runs


def test_warming_up_ends_when_two_runs_agree_and_else_at_its_bound(engine, monkeypatch):
    def with_times(*firsts: float) -> int:
        runs = iter(
            [
                [DecodeStep(None, Clock(0, ms, 0, 0)), DecodeStep(None, Clock(0, 1.0, 0, 0))]
                for ms in firsts
            ]
        )
        asked = work(engine, Case(1, 4, 2, warmup=5))
        monkeypatch.setattr(asked, "synced", lambda tokens: next(runs))
        return asked.warm_up()

    assert with_times(9, 5, 4.9) == 3 and with_times(5, 5.2) == 2
    assert with_times(9, 8, 7, 6, 5) == 5
    assert work(engine, Case(1, 4, 2, warmup=0)).warm_up() == 0


def test_ranks_stop_together_whatever_their_own_clocks_say(checkpoint, monkeypatch):
    """By a clock that ticks at each look, half a second takes rank 0 more than three repeats."""
    looks = count()
    monkeypatch.setattr("neoxlib.inference.clocks.time.perf_counter", lambda: next(looks) / 1000)

    def on_rank(group: Any) -> list[timing.Figures]:
        least = 0.5 * (1 - group.rank)  # as if rank 1's clock ran far ahead
        case = Case(1, 4, 3, min_seconds=least, end_to_end_every=1)
        return neoxlib.load(checkpoint, group=group).profile(case)

    first, other = on_ranks(2, on_rank)
    assert 3 < len(first) == len(other) and first[0]["warmups"] == other[0]["warmups"]


def test_a_step_is_its_slowest_ranks_and_the_parts_are_of_the_rank_that_worked_longest():
    # pre, forward, communication, post: rank 0 waits for rank 1.
    waits = [[1, 10, 90, 3], [1, 12, 1, 2]]
    works = [[2, 99, 3, 4], [1, 11, 2, 2]]
    (run,) = made_up(2, waits, works)
    assert run["step"] == [108, 16] and run["slowest"] == [1, 0]
    assert [run[part] for part in PARTS] == [[2, 1], [99, 12], [3, 1], [4, 2]]


def test_a_rank_that_is_slowed_down_is_named_and_its_delay_is_in_the_forward_pass(session):
    case = Case(1, 8, 6, repeats=3, end_to_end_every=1)
    for slow in (1, 0):
        session.apply(faults.time_by_forward_passes, slow, 0.02)
        row = measure.summarise(case, session.profile(case))
        assert row["slowest_rank"] == slow
        for name in ("next_token_ms_low", "next_forward_ms", "first_token_ms_low"):
            assert row[name] == pytest.approx(20)
        assert row["next_communication_ms"] == 0, "waiting for the slow rank is not communication"
        assert row["end_to_end_ms"] == pytest.approx(6 * 20)


def test_a_filled_cache_gives_what_reading_a_prompt_of_that_length_gives(engine):
    asked = work(engine, Case(2, 6, 5, depth=20))
    before = torch.randint(1, 250, (2, 20))
    with torch.inference_mode():
        whole = [ids.tolist() + prompt for ids, prompt in zip(before, asked.prompts, strict=True)]
        asked.deep.cache.length = 0
        asked.deep.cache.real[:] = False
        engine.model(before, asked.deep.cache, torch.ones_like(before).bool())
    expected = work(engine, Case(2, 26, 5))
    expected.prompts = whole
    tokens = [step.choice.tokens for step in expected.synced()]
    for _ in range(2):  # each run begins at the same depth anew
        assert [step.choice.tokens for step in asked.synced()] == tokens


def test_a_deep_cache_starts_with_random_and_real_positions_only_up_to_its_depth(engine):
    deep = work(engine, Case(1, 4, 2, depth=30)).deep
    assert deep.cache.real[:, :30].all() and not deep.rewind().cache.real[:, 30:].any()
    filled = torch.stack(deep.cache.k)[:, :, :, :30]
    assert filled.isfinite().all() and 0.9 < filled.std() < 1.1 and deep.cache.length == 30


def test_both_clocks_choose_the_same_tokens(engine, monkeypatch):
    asked = work(engine, Case(2, 7, 6, depth=3))
    seen = []
    choose = decode.Rows.choose
    monkeypatch.setattr(decode.Rows, "choose", lambda *args: seen.append(choose(*args)) or seen[-1])
    synced = [step.choice.tokens for step in asked.synced()]
    seen.clear()
    assert asked.end_to_end() > 0 and [choice.tokens for choice in seen] == synced


def test_both_clocks_and_generate_account_for_all_the_time_of_the_forward_passes(
    engine, monkeypatch
):
    now = [0.0]
    monkeypatch.setattr("neoxlib.inference.clocks.time.perf_counter", lambda: now[0])
    slow = engine.model.register_forward_pre_hook(lambda *_: now.__setitem__(0, now[0] + 0.005))
    case = Case(2, 16, 12, repeats=4, warmup=0, end_to_end_every=1)
    runs = engine.profile(case)
    wall = 1e3 * now[0]
    (answer,) = engine.generate([work(engine, case).prompts[0]], max_new_tokens=12)
    slow.remove()
    told = [[sum(run["step"]) + run["text"][0], *run["end_to_end"]] for run in runs]
    assert sum(map(sum, told)) == pytest.approx(wall)
    assert told == [[pytest.approx(12 * 5)] * 2] * 4
    assert sum(answer.timings.step_ms) == pytest.approx(len(answer.token_ids) * 5)


def test_a_case_past_the_window_is_refused_before_anything_runs(engine):
    with pytest.raises(
        SettingsError, match=r"max_seq_len 96 .*\n  batch 1, 40 deep, 30 in, 30 out needs 100"
    ):
        engine.profile(Case(1, 30, 30, depth=40))

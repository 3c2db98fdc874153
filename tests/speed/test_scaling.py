"""Ranks and threads: which are tried, what is called efficient, and that predictions are called
so.
"""

from types import SimpleNamespace

import pytest

from neoxlib.errors import RankError
from neoxlib.inference.timing import Case
from neoxlib.model.config import ModelConfig
from neoxlib.speed import figures, scaling
from tests.support.timed_cases import row

CONFIG = ModelConfig(
    vocab_size=101,
    hidden_size=96,
    num_hidden_layers=2,
    num_attention_heads=12,
    intermediate_size=96,
)
PARAMS = SimpleNamespace(model_dir=CONFIG, dtype="auto", device="cpu", quant=None, max_seq_len=None)


@pytest.fixture
def cores(monkeypatch):
    def have(count: int) -> None:
        monkeypatch.setattr(scaling.limits, "core_count", lambda: count)

    return have


def test_ranks_are_powers_of_two_that_cut_the_model_and_share_the_cores(cores):
    cores(6)
    assert list(scaling.combinations(CONFIG, None, "cpu")) == [
        (1, [1, 2, 4, 6]),
        (2, [1, 2, 3]),
        (4, [1]),
    ]


class Made:
    """A session whose next token takes 8 ms by one thread, half of it with twice as many, and 1 ms
    more with ranks.
    """

    started = ()

    def __init__(self, model_dir: object, ranks: int, *_: object) -> None:
        if ranks == 4:
            raise RankError("rank 3 was killed")
        self.ranks = ranks
        self.threads = 1

    def __enter__(self) -> "Made":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def apply(self, function: object, threads: int) -> None:
        assert function is scaling.set_threads
        self.threads = threads

    def profile(self, case: Case) -> float:
        return 8 / (self.ranks * self.threads) + (self.ranks - 1)


def test_efficiency_is_speed_up_by_what_it_took(cores, monkeypatch):
    cores(4)
    monkeypatch.setattr(scaling, "Session", Made)
    monkeypatch.setattr(scaling.speed_measure, "summarise", lambda case, ms: row(later=ms))
    said = []
    found = scaling.time_combinations(PARAMS, CONFIG, Case(1, 32, 16), said.append)
    assert found[["ranks", "threads"]].to_numpy().tolist() == [
        [1, 1],
        [1, 2],
        [1, 4],
        [2, 1],
        [2, 2],
    ]
    assert found["speed_up"].tolist() == pytest.approx([1, 2, 4, 8 / 5, 8 / 3])
    assert found["efficiency"].tolist() == pytest.approx([1, 1, 1, 4 / 5, 2 / 3])
    assert "4 ranks are left out: rank 3 was killed" in said


def test_the_curve_for_chips_is_called_predicted_in_every_column_of_times():
    found = scaling.predict(PARAMS, CONFIG, Case(1, 32, 16))
    assert set(found["chip"]) == {"910B3", "310P3"} and found["ranks"].max() == 12
    assert all(name.startswith("predicted") for name in found.columns if name.endswith("_ms"))
    for _, rows in found.groupby("chip"):
        assert rows["predicted_next_ms"].is_monotonic_decreasing


def test_answers_of_one_token_are_scaled_by_their_first(cores, monkeypatch):
    cores(2)
    monkeypatch.setattr(scaling, "Session", Made)
    monkeypatch.setattr(
        scaling.speed_measure, "summarise", lambda case, ms: row(output_len=1, first=ms, later=None)
    )
    said = []
    found = scaling.time_combinations(PARAMS, CONFIG, Case(1, 32, 1), said.append)
    assert found["speed_up"].tolist() == pytest.approx([1, 2, 8 / 5])
    assert "1 × 1: batch 1, 32 in, 1 out: first 8.00 ms" in said[0]
    (left, _) = figures.scaling(found, scaling.predict(PARAMS, CONFIG, Case(1, 32, 1))).axes
    assert left.get_title(loc="left") == "measured here: first token, times as fast"

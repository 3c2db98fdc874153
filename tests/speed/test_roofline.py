"""Bytes, operations, shares of the peaks, verdicts and predictions, on peaks and times whose
answers are known.
"""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from neoxlib.model.cache import KVCache
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.speed.budget import Budget
from neoxlib.speed.measure import KEY
from neoxlib.speed.roofline import (
    BY_INT8,
    BY_RANKS,
    BY_ROWS,
    NOT_JUDGED,
    Pass,
    Roofline,
    of_session,
    predictions,
    verdicts,
)
from tests.support.timed_cases import CONFIG, peak, row, table

BUDGET = Budget(CONFIG, 1, 1, 1, "float32")


def one(**values: object) -> SimpleNamespace:
    return SimpleNamespace(**row(**values))


@pytest.mark.parametrize(("new", "before"), [(1, 0), (1, 511), (64, 0)])
def test_operations_are_those_that_torch_counts(new, before):
    """PyTorch's counter takes attention over all pairs, and knows products alone: no biases, no
    norms.
    """
    with torch.inference_mode(), torch.random.fork_rng():
        model = GPTNeoX(CONFIG).eval()
        cache = KVCache(CONFIG, 2, before + new)
        if before:
            model(torch.zeros(2, before, dtype=torch.int64), cache, last_only=True)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(torch.zeros(2, new, dtype=torch.int64), cache, last_only=True)
    _, operations = replace(BUDGET, batch=2).forward(new, before)
    unseen = 4 * CONFIG.num_hidden_layers * CONFIG.hidden_size * new * (new - 1) / 2 * 2
    assert operations + unseen == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_bytes_are_the_weights_once_and_the_cache_to_its_end():
    model = GPTNeoX(CONFIG)
    cache = KVCache(CONFIG, 3, 100)
    size, _ = replace(BUDGET, batch=3).forward(1, 99)
    weights = sum(p.nbytes for name, p in model.named_parameters() if "embed_in" not in name)
    held = sum(layer.nbytes for layer in cache.layers)
    assert size == weights + held
    packed, _ = replace(BUDGET, batch=3, quant="int8").forward(1, 99)
    assert weights / 4 < packed - held < weights / 3


def test_a_step_at_the_peak_has_an_mbu_of_one():
    size, _ = BUDGET.forward(1, 32 + 7)
    at_peak = Roofline(BUDGET, peak()).next_token(one(later=1e3 * size / 10e9))
    assert at_peak.shares["bandwidth"] == pytest.approx(1) and at_peak.bound == "bandwidth"


def test_ranks_work_is_summed_and_held_against_the_peak_of_all():
    alone, split = (
        Roofline(replace(BUDGET, world_size=n), peak()).next_token(one()) for n in (1, 4)
    )
    assert split.size == pytest.approx(alone.size, rel=0.02) and split.shares["bandwidth"] < 1


@pytest.mark.parametrize(
    ("ms", "bound"),
    [
        ({"reading_ms": 5, "computing_ms": 1}, "bandwidth"),
        ({"reading_ms": 1, "computing_ms": 5}, "compute"),
        ({"reading_ms": 1, "computing_ms": 0}, "launch"),
        ({"reading_ms": 1, "computing_ms": 0, "communication_ms": 6}, "communication"),
        ({"reading_ms": 4.5, "computing_ms": 0, "communication_ms": 5}, "communication"),
        (
            {"reading_ms": 0, "computing_ms": 3, "overhead_ms": 1},
            "compute",
        ),  # the rest is in the kernels
        ({"reading_ms": 0, "computing_ms": 3, "overhead_ms": 9}, "launch"),
    ],
)
def test_a_pass_is_bound_by_the_peak_it_is_near_or_by_what_takes_longest(ms, bound):
    found = Pass(1e9, 1e9, 10, **ms)
    assert found.bound == bound
    assert found.words().startswith(f"{bound}-bound: ")
    times = found.shares
    assert sum(
        times[part] for part in ("communication", "launch", "kernels")
    ) + found.roof_ms / 10 == pytest.approx(1)


def test_a_verdict_says_both_tokens_with_the_figures_behind():
    found = verdicts(table(row(128, 64, later=2.0)), Roofline(BUDGET, peak())).iloc[0]
    assert found["bound"] == "bandwidth" and found["communication_share"] == pytest.approx(0.2)
    assert found["mbu"] == pytest.approx(found["bytes_per_step"] / 2e-3 / 10e9)
    assert found["first_mfu"] == pytest.approx(found["first_operations"] / 20e-3 / 0.1e12)
    percent = f"{found['mbu']:.0%} of the peak"
    assert (
        found["verdict"].startswith("Next token bandwidth-bound: ") and percent in found["verdict"]
    )
    assert "sums between ranks 20%" in found["verdict"] and "First token" in found["verdict"]


def test_a_case_without_next_token_has_a_verdict_on_its_first():
    found = verdicts(table(row(output_len=1, later=None)), Roofline(BUDGET, peak())).iloc[0]
    assert found["bound"] is None and found["verdict"].startswith("First token ")
    assert set(
        predictions(table(row(output_len=1, later=None)), Roofline(BUDGET, peak()), KEY).iloc[
            0, -3:
        ]
    ) == {"–"}


def test_a_change_that_changes_nothing_is_predicted_to_give_what_was_measured():
    roof = Roofline(BUDGET, peak())
    now = roof.next_token(one())
    assert roof._times(one(), now, BUDGET) == pytest.approx((2.0, 2.0))


def test_at_the_peak_a_prediction_is_the_ratio_of_the_bytes():
    """A forward pass that only reads, in the time of the peak: half the bytes are half of it, at
    both ends.
    """
    size, _ = BUDGET.forward(1, 39)
    packed, _ = replace(BUDGET, quant="int8").forward(1, 39)
    reading = 1e3 * size / 10e9
    parts = {"next_pre_ms": 0.0, "next_post_ms": 0.0, "next_communication_ms": 0.0}
    found = predictions(table(row(later=reading) | parts), Roofline(BUDGET, peak()), KEY).iloc[0]
    assert found[BY_INT8] == f"{reading * packed / size:.3g}"


def test_twice_the_ranks_helps_where_each_brings_its_own_memory():
    later = table(row(later=10.0))
    apart = predictions(later, Roofline(BUDGET, peak()), KEY).iloc[0]
    low, high = (float(end) for end in apart[BY_RANKS].split(",")[0].split(" to "))
    assert low < high < 10.0 and "sums between them" in apart[BY_RANKS]
    assert (
        "no gain" in predictions(later, Roofline(BUDGET, peak(shared=True)), KEY).iloc[0][BY_RANKS]
    )
    eight = Roofline(replace(BUDGET, world_size=8), peak())
    assert "16 ranks cannot share 8 heads" in predictions(later, eight, KEY).iloc[0][BY_RANKS]


def test_more_rows_are_predicted_to_give_more_tokens():
    said = predictions(table(row(later=10.0)), Roofline(BUDGET, peak()), KEY).iloc[0][BY_ROWS]
    low, high = (float(end.split()[0].replace(",", "")) for end in said.split(",")[0].split(" to "))
    assert 100 < low < high <= 400 and said.endswith("now 100")


def test_packed_weights_are_not_told_to_be_packed():
    found = predictions(table(), Roofline(replace(BUDGET, quant="int8"), peak()), KEY)
    assert set(found[BY_INT8]) == {"weights are packed"}


def test_every_prediction_is_labelled_so():
    assert all("predicted" in name for name in (BY_RANKS, BY_INT8, BY_ROWS))


def test_the_budget_is_of_what_the_session_loaded():
    about = {"device": "cpu", "world_size": 4, "dtype": "bfloat16", "quant": "int8"}
    roof = of_session(SimpleNamespace(config=CONFIG, describe=lambda: about), peak())
    assert (roof.budget.world_size, roof.budget.dtype, roof.budget.quant) == (4, "bfloat16", "int8")


def test_verdicts_can_be_asked_for_twice():
    roof = Roofline(BUDGET, peak())
    once = verdicts(table(), roof)
    pd.testing.assert_frame_equal(once, verdicts(once, roof))


def test_a_noisy_case_has_figures_and_no_bound():
    noisy = row(64, noise="other processes used 0.9 of 2 cores")
    one_token = noisy | {"output_len": 1, "next_token_ms": None}
    judged = verdicts(table(row(32), noisy, one_token), Roofline(BUDGET, peak()))
    clean, told, one_token = judged.to_dict("records")
    assert "-bound: " in clean["verdict"] and clean["bound"] != NOT_JUDGED
    assert told["verdict"] == "not judged: other processes used 0.9 of 2 cores."
    assert (told["bound"], told["first_bound"]) == (NOT_JUDGED, NOT_JUDGED)
    assert told["mbu"] > 0 and pd.isna(one_token["bound"])


@pytest.mark.parametrize("noise", [None, float("nan"), ""])
def test_a_table_without_a_word_on_noise_is_judged(noise):
    (found,) = verdicts(table(row(noise=noise)), Roofline(BUDGET, peak())).to_dict("records")
    assert "-bound: " in found["verdict"]
    old = table().drop(columns="noise")
    assert "-bound: " in verdicts(old, Roofline(BUDGET, peak()))["verdict"].iloc[0]


def test_the_bound_stands_beside_the_time_of_the_same_lengths():
    (found,) = verdicts(table(row(later=50.0, first=900.0)), Roofline(BUDGET, peak())).to_dict(
        "records"
    )
    size, _ = BUDGET.forward(1, 32 + 7)
    assert found["next_bound_ms"] == pytest.approx(1e3 * size / 10e9)
    assert found["first_bound_ms"] > 0 and found["below_bound"] == ""


@pytest.mark.parametrize("noise", ["", "other processes used 0.9 of 2 cores"])
def test_a_time_below_its_bound_is_never_without_a_word_on_why(noise):
    size, _ = BUDGET.forward(1, 32 + 7)
    bound = 1e3 * size / 10e9
    fast = table(row(later=0.5 * bound, first=900.0, noise=noise))
    judged = verdicts(fast, Roofline(BUDGET, peak()))
    said = judged["verdict"].iloc[0]
    assert f"Below the bound: next token {0.5 * bound:.3g} of {bound:.3g} ms. So a peak is" in said
    assert judged["below_bound"].iloc[0] in said

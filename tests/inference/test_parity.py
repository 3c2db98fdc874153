"""The parity check: it agrees with transformers and finds every mistake of splitting."""

import math
from typing import ClassVar

import pytest
import torch
from transformers import GPTNeoXForCausalLM

import neoxlib
from neoxlib.checkpoint.shard import shard
from neoxlib.demo import MODEL_DIR
from neoxlib.errors import NotFiniteError
from neoxlib.inference import parity, reference
from neoxlib.inference import rows as inference_rows
from neoxlib.inference.decode import Limits, left_pad
from neoxlib.inference.rows import keep_first
from neoxlib.model import layers
from tests.support.oracle_models import VARIANTS, make_oracle
from tests.support.thread_ranks import on_ranks

ROWS = [[5, 9, 200, 31, 7, 7, 90], [1, 2, 3], [250]]


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_references_equal_transformers(variant: str, tmp_path):
    oracle = make_oracle(**VARIANTS[variant])
    oracle.save_pretrained(tmp_path)
    rows = [[i % oracle.config.vocab_size for i in row] for row in ROWS]
    for logits in (
        parity.reference_logits(tmp_path, rows),
        parity.solo_logits(tmp_path, rows, torch.float32),
    ):
        for row, found in zip(rows, logits, strict=True):
            torch.testing.assert_close(
                found, oracle(torch.tensor([row])).logits[0], rtol=0, atol=1e-4
            )


def verdicts(folder, size: int = 2, compile: bool = False) -> list[parity.Verdict]:
    """Compare `size` ranks on rank 0; others make the same call. Faults are in the plain path."""

    def work(group):
        engine = neoxlib.load(folder, group=group, compile=compile)
        if group.rank:
            ids, mask = left_pad(ROWS)
            return engine.logits(ids, mask)
        return parity.compare(engine, engine.describe(), ROWS)

    return on_ranks(size, work)[0]


@pytest.mark.parametrize("compile", [False, True])
def test_a_right_split_passes(checkpoint, compile):
    assert all(v.passed and v.top1_agreement == 1 for v in verdicts(checkpoint, compile=compile))


@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_packed_weights_of_the_shipped_model_pass(quant):
    """Its texts are rows enough for activations to be rounded where they meet packed weights."""
    with neoxlib.load(MODEL_DIR, quant=quant) as engine:
        rows = [engine.tokenizer(text)["input_ids"][: parity.MAX_TOKENS] for text in parity.TEXTS]
        found = parity.compare(engine, engine.describe(), rows)
    assert all(v.passed for v in found), found


def test_row_bias_on_every_rank_fails(checkpoint, monkeypatch):
    plain = layers.RowParallel.forward
    monkeypatch.setattr(
        layers.RowParallel, "forward", lambda self, x: plain(self, x) + getattr(self, "bias", 0)
    )
    truth = parity.reference_logits(checkpoint, ROWS)
    monkeypatch.setattr(parity, "reference_logits", lambda *_: truth)
    assert not any(v.passed for v in verdicts(checkpoint))


def test_weights_cut_in_the_wrong_order_fail(checkpoint, monkeypatch):
    right = layers.bounds
    monkeypatch.setattr(layers, "bounds", lambda n, rank, size: right(n, size - 1 - rank, size))
    alone = parity.solo_logits(checkpoint, ROWS, torch.float32)
    monkeypatch.setattr(parity, "solo_logits", lambda *_: alone)
    found = verdicts(checkpoint)
    assert not any(v.passed for v in found)


def test_not_a_number_is_refused_by_the_model_and_fails_in_a_comparison(checkpoint, tmp_path):
    oracle = GPTNeoXForCausalLM.from_pretrained(checkpoint)
    oracle.gpt_neox.final_layer_norm.bias.data.fill_(float("nan"))
    oracle.save_pretrained(tmp_path)
    with pytest.raises(NotFiniteError, match="that of the head: such numbers"):
        verdicts(tmp_path)
    here = torch.randn(2, 5)
    nowhere = torch.full((2, 5), torch.nan)
    assert not parity._judge("", "", [nowhere], [here], tolerance=1.0, least=0.0).passed


def test_an_outlier_in_the_vocabulary_excuses_no_error_of_others():
    truth = torch.randn(9, 50, generator=torch.Generator().manual_seed(1))
    wrong = truth + 0.01
    truth[:, 7] *= 1e6
    wrong[:, 7] = truth[:, 7]
    assert not parity._judge("", "", [wrong], [truth], tolerance=1e-4, least=1.0).passed
    near = truth * (1 + 1e-6)  # rounding is as large as the number
    assert parity._judge("", "", [near], [truth], tolerance=1e-4, least=1.0).passed


def test_logits_that_are_all_the_same_cannot_be_judged():
    same = [torch.zeros(3, 5)]
    verdict = parity._judge("", "", same, same, tolerance=1e-4, least=1.0)
    assert not verdict.passed and "cannot be judged" in verdict.detail


def answers_of(engine: neoxlib.Engine) -> list[inference_rows.Answered]:
    """Two continuations and two scores as `engine` gives them now."""
    engine.first_answers.clear()
    engine.generate([[5, 9, 200, 31], [1, 2, 3]], max_new_tokens=6, temperature=1.0, seed=3)
    engine.score_ids([([7, 8], [9, 10, 11]), ([7, 8], [3])])
    return list(engine.first_answers)


def test_answers_are_judged_as_they_were_given_not_as_they_would_be_now(checkpoint):
    """Answers were once wrong only until all weights had been copied, and three checks passed."""
    with neoxlib.load(checkpoint) as engine:
        weight = engine.model.gpt_neox.embed_in.weight
        right = answers_of(engine)
        engine.wait_until_resident()
        kept = weight.clone()
        engine.model.gpt_neox.embed_in.weight.mul_(1.5)
        wrong = answers_of(engine)
        engine.model.gpt_neox.embed_in.weight.copy_(kept)
        *logits, given = parity.compare(engine, engine.describe(), ROWS, right)
        assert given.passed and given.positions == 16 and given.relative_error < 1e-5
        *logits, given = parity.compare(engine, engine.describe(), ROWS, wrong)
    assert all(verdict.passed for verdict in logits) and not given.passed
    assert "log-probability error" in given.detail and "top-1" not in given.detail


def test_an_answer_that_is_not_a_number_fails(checkpoint):
    with neoxlib.load(checkpoint) as engine:
        answered = [answers_of(engine)[0]._replace(logprob=float("nan")), *answers_of(engine)]
        assert not parity.compare(engine, engine.describe(), ROWS, answered)[-1].passed


def test_the_first_answers_are_kept_short_ones_only_and_no_more_than_a_few(checkpoint):
    with neoxlib.load(checkpoint, max_seq_len=96) as engine:
        assert not engine.first_answers
        engine.score(["A rank is"], [" one", " two"])
        engine.generate(["Zwei"] * 9, max_new_tokens=2)
        texts = [engine.tokenizer.decode(each.continuation) for each in engine.first_answers]
    assert texts[:2] == [" one", " two"] and len(texts) == 4


def test_too_long_an_answer_is_not_computed_once_more():
    kept = []
    limits = Limits((), 300, 4096)
    keep_first(kept, limits, [([1] * 600, [2], -1.0), ([1, 2], [3], -2.0)])
    assert [each.logprob for each in kept] == [-2.0]


class Run:
    """Keeps the checks and tables of a run."""

    def __init__(self) -> None:
        self.checks = []

    def check(self, name: str, passed: bool, detail: str) -> None:
        self.checks.append((name, passed, detail))

    def metrics(self, **values: float) -> None:
        self.values = values

    def save(self, name: str, table: object) -> object:
        return table


def test_only_a_check_that_fails_asks_where_the_numbers_part(checkpoint):
    asked = []

    def where(engine, ids):
        asked.append(ids)
        return "layer 1: mlp.activation. Look: python -m neoxlib report 06_align"

    with neoxlib.load(checkpoint, compile=False) as engine:
        parity.check_parity(engine, run := Run(), ["abc", "d"], where)
        assert all(passed for _, passed, _ in run.checks) and asked == []
        engine.model.gpt_neox.layers[1].mlp.form = "relu"
        parity.check_parity(engine, run := Run(), ["abc", "d"], where)
    assert len(asked) == 1 and [len(row) for row in asked[0]] == [3, 1]
    failed = [detail for _, passed, detail in run.checks if not passed]
    assert run.values["parity_of_limit"] > 1
    assert failed and all(detail.endswith("report 06_align") for detail in failed)


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.05, "1/20 of the limit"),
        (0.9, "0.9 times the limit"),
        (31.0, "31 times the limit"),
        (0.0, "none"),
        (math.nan, "cannot be judged: logits are NaN, infinite or all the same"),
    ],
)
def test_an_error_is_said_as_a_part_of_what_is_allowed(share, words):
    assert parity.times_the_limit(share) == words


def found(*passed: bool, world_size: int = 2, **metrics: float) -> dict:
    names = (parity.UNSPLIT, parity.FLOAT32, parity.FIRST)
    checks = [
        {"name": name, "passed": good, "detail": "d"}
        for name, good in zip(names, passed, strict=False)
    ]
    return {"checks": checks, "metrics": metrics, "model": {"world_size": world_size}}


def test_a_runs_parity_is_said_in_words():
    assert parity.same(found()) == ""
    assert parity.same(found(True, True)) == "the split model equals the unsplit one"
    assert parity.same(found(True, world_size=1)) == "it equals its references"
    assert parity.same(found(True, False)) == (
        "it is not the model it should be (not same as an independent float32 forward pass)"
    )


def test_a_cut_is_whole_or_what_is_wrong_is_named():
    values = {"tensors_equal": 76, "bytes_per_rank": 1_882_880, "parity_of_limit": 0.05}
    assert parity.whole(found(True, **values)) == (
        "Yes, the cut is whole: all 76 tensors equal the source bit for bit, and loaded from it "
        "the split model equals the unsplit one (error 1/20 of the limit). It is for 2 ranks, "
        "1.88 MB each."
    )
    assert parity.whole(found(False)) == "No. same as the unsplit model: no (d)."


class Counted:
    """In place of Progress: keeps how much it was told to expect, and the sizes that ended."""

    made: ClassVar[list["Counted"]] = []

    def __init__(self, total: float, parts: int, noun: str) -> None:
        self.expected = (total, parts)
        self.ended: list[float] = []
        self.made.append(self)

    def begin(self, name: str, size: float) -> None:
        self.size = size

    def done(self) -> None:
        self.ended.append(self.size)

    def __enter__(self) -> "Counted":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_progress_counts_each_layer_of_both_references_and_each_tensor(
    checkpoint, tmp_path, monkeypatch
):
    for module in (parity, reference):
        monkeypatch.setattr(module, "Progress", Counted)
    monkeypatch.setattr(Counted, "made", [])
    with neoxlib.load(checkpoint, compile=False) as engine:
        parity.check_parity(engine, Run(), ["abc"])
        layers = 2 * engine.config.num_hidden_layers
    shard(checkpoint, tmp_path / "cut", 2, progress=False)
    parity.check_weights(checkpoint, tmp_path / "cut", Run())
    of_layers, of_tensors = Counted.made
    assert of_layers.expected == (layers, layers) and of_layers.ended == [1] * layers
    total, parts = of_tensors.expected
    assert len(of_tensors.ended) == parts and sum(of_tensors.ended) == total > 0

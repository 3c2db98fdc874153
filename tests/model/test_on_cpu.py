"""The compiled forward pass against the plain one, which test_gpt_neox.py checks."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

import neoxlib
from neoxlib.errors import SettingsError
from neoxlib.kernels.cpu import build as kernels_build
from neoxlib.model import on_cpu
from neoxlib.model.cache import KVCache
from neoxlib.model.group import Group
from tests.support.compiled_models import ODD, WIDE, error, model_of, run
from tests.support.oracle_models import VARIANTS, ids_for, make_oracle
from tests.support.thread_ranks import on_ranks


@pytest.fixture(autouse=True)
def kernels() -> None:
    """The compiled kernels; these tests are skipped, with the reason, where they cannot be had."""
    if kernels_build.compiled("forward") is None:
        pytest.skip(f"the kernels cannot be compiled: {kernels_build.compile_error('forward')}")


@pytest.fixture
def threads():
    """Set the number of threads for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def both(oracle: torch.nn.Module, size: int, ids: Tensor, **how: object) -> tuple[Tensor, Tensor]:
    """Logits of the plain and of the compiled model over `size` ranks."""
    build = {key: how.pop(key) for key in ("dtype", "quant") if key in how}
    plain, found = (
        on_ranks(
            size,
            lambda group, c=compiled: run(model_of(oracle, group, compiled=c, **build), ids, **how),
        )[0]
        for compiled in (False, True)
    )
    return plain, found


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("variant", [*VARIANTS, "odd"])
def test_logits_equal_the_plain_ones_at_any_world_size(variant: str, size: int):
    oracle = make_oracle(**(VARIANTS | {"odd": ODD})[variant])
    plain, found = both(oracle, size, ids_for(oracle))
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
@pytest.mark.parametrize("changes", [{}, ODD, WIDE], ids=["tiny", "odd", "wide"])
def test_token_by_token_equals_one_plain_pass(changes: dict, batch: int):
    """One to five rows for each group size of the dot kernels; prompts of few and many queries."""
    oracle = make_oracle(max_position_embeddings=160, **changes)
    ids = ids_for(oracle, batch, 90)
    plain = run(model_of(oracle, compiled=False), ids)
    found = run(model_of(oracle), ids, parts=(70, 7, 9, *[1] * 4))
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("length", [7, 80])
@pytest.mark.parametrize("side", ["left", "right", "both", "middle"])
def test_ragged_rows_equal_the_plain_ones(side: str, length: int, size: int):
    oracle = make_oracle()
    ids = ids_for(oracle, 4, length)
    mask = torch.ones(4, length, dtype=torch.bool)
    for row, pad in enumerate((0, 3, length // 2, length - 1)):
        first, last = {"left": (0, pad), "right": (length - pad, length), "middle": (1, pad)}.get(
            side, (0, pad // 2)
        )
        mask[row, first:last] = False
        mask[row, length - pad // 2 :] &= side != "both"
    for parts in ((), (length - 3, 1, 1, 1)):
        plain, found = both(oracle, size, ids, mask=mask, parts=parts)
        torch.testing.assert_close(found[mask], plain[mask], rtol=0, atol=1e-4)
        assert found.isfinite().all()


@pytest.mark.parametrize("parts", [(), (7, 1, 1, 1)], ids=["prompt", "decode"])
@pytest.mark.parametrize("batch", [1, 3, 6])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("quant", [None, "int8", "int4"])
def test_half_precision_is_no_further_from_float32_than_the_plain_model(quant, dtype, batch, parts):
    oracle = make_oracle(**WIDE)
    ids = ids_for(oracle, batch, 10)
    truth = run(model_of(oracle, quant=quant, compiled=False), ids)
    plain, found = both(oracle, 1, ids, dtype=dtype, quant=quant, parts=parts)
    assert error(found, truth) <= 1.05 * error(plain, truth)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("batch", [1, 4, 5])
@pytest.mark.parametrize("quant", ["int8", "int4"])
@pytest.mark.parametrize("tied", [False, True])
def test_packed_weights_are_multiplied_as_the_plain_model_unpacks_them(quant, batch, size, tied):
    oracle = make_oracle(**WIDE, tie_word_embeddings=tied)
    ids = ids_for(oracle, batch, 12)
    truth = run(model_of(oracle, compiled=False), ids)
    plain, found = both(oracle, size, ids, quant=quant, parts=(3, 2, *[1] * 7))
    assert error(found, plain) < 0.02 * error(plain, truth)  # activations keep 14 bits or more


@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_many_rows_of_a_packed_model_lose_less_than_packing_did(quant: str):
    """From 64 rows on activations meet int4 as bfloat16, and int8 rounded as the weights are."""
    oracle = make_oracle(**WIDE)
    ids = ids_for(oracle, 2, 90)
    truth = run(model_of(oracle, compiled=False), ids)
    plain, found = both(oracle, 1, ids, quant=quant)
    assert error(found, plain) < {"int8": 1.2, "int4": 0.1}[quant] * error(plain, truth)


@pytest.mark.parametrize("length", [3, 90])
@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_what_is_not_finite_survives_rounding(quant: str, length: int):
    """Integers have no NaN: quantizing activations must not turn it into a number."""
    oracle = make_oracle(**WIDE)
    model = model_of(oracle, quant=quant)
    model.gpt_neox.layers[1].input_layernorm.weight.data[5] = torch.nan
    on_cpu.attach(model)
    assert run(model, ids_for(oracle, 2, length)).isnan().all()


def test_the_number_of_threads_changes_no_bit(threads):
    oracle = make_oracle(**ODD)
    ids = ids_for(oracle)
    answers = []
    for number in (1, 2, 5):
        threads(number)
        answers.append(run(model_of(oracle), ids, parts=(13, 1, 1, 1, 1)))
    assert torch.equal(answers[0], answers[1]) and torch.equal(answers[0], answers[2])


def test_a_model_follows_the_number_of_threads(threads):
    oracle = make_oracle()
    model = model_of(oracle)
    ids = ids_for(oracle)
    before = run(model, ids)
    threads(3)
    assert torch.equal(run(model, ids), before)


def test_callers_at_the_same_time_get_their_own_answers(threads):
    threads(2)
    oracle = make_oracle()
    model = model_of(oracle)
    prompts = [ids_for(oracle, batch, 12) for batch in (1, 2, 3, 4)] * 3
    alone = [run(model, ids, parts=(8, 1, 1, 1, 1)) for ids in prompts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda ids: run(model, ids, parts=(8, 1, 1, 1, 1)), prompts))
    assert all(map(torch.equal, alone, together))


@pytest.mark.parametrize("parallel_residual, per_layer", [(True, 1), (False, 2)])
def test_one_all_reduce_per_sum(parallel_residual: bool, per_layer: int):
    oracle = make_oracle(use_parallel_residual=parallel_residual)

    def work(group: Group) -> int:
        model = model_of(oracle, group)
        model(ids_for(oracle), KVCache(model.config, 3, 17, group))
        return group.reduces

    assert (
        on_ranks(2, work) == [per_layer * oracle.config.num_hidden_layers + 1] * 2
    )  # 1: the embedding


def test_large_queries_do_not_overflow_float16():
    oracle = make_oracle()
    for layer in oracle.gpt_neox.layers:
        layer.attention.query_key_value.weight.data *= 40
    for parts in ((), (14, 1, 1, 1)):
        assert (
            run(model_of(oracle, dtype=torch.float16), ids_for(oracle), parts=parts)
            .isfinite()
            .all()
        )


def test_a_damaged_weight_is_not_hidden(checkpoint):
    with neoxlib.load(checkpoint) as engine:
        engine.wait_until_resident()
        engine.model.gpt_neox.layers[1].mlp.dense_4h_to_h.weight.data[3, 5] = torch.nan
        with pytest.raises(SettingsError, match="not finite"):
            engine.generate(["The sun"], max_new_tokens=2)


@pytest.mark.parametrize("size", [1, 2])
def test_greedy_text_is_that_of_the_plain_model(checkpoint, size: int):
    prompts = ["The sun is a star.", "月亮绕着地球转，", "1"]

    def work(group: Group, compiled: bool) -> list | None:
        engine = neoxlib.load(checkpoint, group=group, compile=compiled)
        about = engine.describe()
        assert about["compile"] == ("compiled kernels" if compiled else "plain: compile is False")
        assert about["compile_s"] == round(
            kernels_build.seconds("pack", *["forward"] * compiled), 2
        )
        return engine.generate(prompts, max_new_tokens=24)

    plain, found = (
        on_ranks(size, lambda group, c=compiled: work(group, c))[0] for compiled in (False, True)
    )
    assert [answer.token_ids for answer in found] == [answer.token_ids for answer in plain]


def test_weights_lie_one_after_the_other_in_one_block(checkpoint):
    engine = neoxlib.load(checkpoint)
    engine.wait_until_resident()
    starts = [parameter.data_ptr() for parameter in engine.model.parameters()]
    sizes = [(parameter.nbytes + 63) // 64 * 64 for parameter in engine.model.parameters()]
    assert starts == [starts[0] + sum(sizes[:i]) for i in range(len(sizes))]


def test_without_a_compiler_all_works_and_says_so(checkpoint, monkeypatch):
    expected = neoxlib.load(checkpoint, compile=False).generate(["The sun"], max_new_tokens=8)
    monkeypatch.setattr(kernels_build, "compiled", lambda name: None)
    reason = "no g++ or clang++ on this machine"
    monkeypatch.setattr(kernels_build, "compile_error", lambda name: reason)
    engine = neoxlib.load(checkpoint)
    assert engine.describe()["compile"] == f"plain: {reason}"
    assert engine.generate(["The sun"], max_new_tokens=8)[0].token_ids == expected[0].token_ids


@pytest.mark.parametrize("bad", [-1, 10**6])
def test_an_id_without_an_embedding_is_an_error_before_anything_is_computed(bad):
    model = model_of(make_oracle())
    with pytest.raises(IndexError, match=r"an id is not among the model's 0\.\."):
        model(torch.tensor([[3, bad]]), KVCache(model.config, 1, 8))


FORK = """
import os, sys
import torch
import neoxlib

torch.set_num_threads(2)
engine = neoxlib.load(sys.argv[1])
said = engine.logits([[5, 9]])
child = os.fork()
if not child:
    sys.exit(not torch.equal(engine.logits([[5, 9]]), said))  # its exit handlers run
print(os.waitpid(child, 0)[1], torch.equal(engine.logits([[5, 9]]), said))
"""


def test_a_forked_copy_computes_with_threads_of_its_own_and_can_end(checkpoint):
    command = [sys.executable, "-c", FORK, str(checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "0 True\n", done.stderr

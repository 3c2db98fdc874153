"""The model against transformers' GPTNeoXForCausalLM, at every world size."""

import pytest
import torch
from torch import Tensor

from neoxlib.errors import SettingsError, ShardError
from neoxlib.model.cache import KVCache
from neoxlib.model.config import ModelConfig
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.group import Group
from neoxlib.model.parameters import count_parameters, shard_rules
from tests.support.oracle_models import VARIANTS, ids_for, make_oracle, ours
from tests.support.thread_ranks import on_ranks


def cache_for(
    model: GPTNeoX, batch: int, length: int, dtype: torch.dtype = torch.float32
) -> KVCache:
    return KVCache(model.config, batch, length, model.group, dtype)


def all_logits(
    oracle: torch.nn.Module, size: int, ids: Tensor, mask: Tensor | None = None
) -> Tensor:
    def work(group: Group) -> Tensor | None:
        model = ours(oracle, group)
        return group.gather(model(ids, cache_for(model, *ids.shape), mask))

    return on_ranks(size, work)[0]


@pytest.mark.parametrize("slots", [2**36, 2**62])
def test_a_cache_that_no_memory_holds_is_refused_with_its_size(slots: int):
    model = ours(make_oracle())
    with pytest.raises(
        SettingsError, match=rf"2 row.* max_seq_len {slots} takes [\d,]{{6,}}\.\d GiB .*a smaller"
    ):
        cache_for(model, 2, slots)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_transformers_at_any_world_size(variant: str, size: int):
    oracle = make_oracle(**VARIANTS[variant])
    ids = ids_for(oracle)
    torch.testing.assert_close(all_logits(oracle, size, ids), oracle(ids).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_ragged_rows_equal_transformers_on_real_tokens(side: str, size: int):
    oracle = make_oracle()
    ids = ids_for(oracle)
    mask = torch.ones(3, 17, dtype=torch.bool)
    for row, pad in enumerate((0, 5, 16)):
        if side == "both":
            mask[row, : pad // 2] = False
            mask[row, 17 - pad // 2 :] = False
        elif side == "left":
            mask[row, :pad] = False
        else:
            mask[row, 17 - pad :] = False
    found = all_logits(oracle, size, ids, mask)
    for row in range(3):  # each row alone, without its padding, is the truth
        alone = oracle(ids[row][mask[row]][None]).logits[0]
        torch.testing.assert_close(found[row][mask[row]], alone, rtol=0, atol=1e-4)
    assert found.isfinite().all()


@pytest.mark.parametrize("size", [1, 2, 8])
def test_token_by_token_through_the_cache_equals_one_pass(size: int):
    oracle = make_oracle()
    ids = ids_for(oracle)
    mask = torch.ones(3, 17, dtype=torch.bool)
    mask[1, :4] = False

    def work(group: Group) -> Tensor | None:
        model = ours(oracle, group)
        cache = cache_for(model, 3, 17)
        columns = [
            model(ids[:, :6], cache, mask[:, :6]),
            model(ids[:, 6:9], cache, mask[:, 6:9]),
        ]  # prompt, chunk
        columns += [model(ids[:, i : i + 1], cache) for i in range(9, 17)]
        return group.gather(torch.cat(columns, dim=1))

    found = on_ranks(size, work)[0]
    truth = oracle(ids, attention_mask=mask.long()).logits
    torch.testing.assert_close(found[mask], truth[mask], rtol=0, atol=1e-4)


@pytest.mark.parametrize("parallel_residual, per_layer", [(True, 1), (False, 2)])
def test_one_all_reduce_per_layer_with_the_parallel_residual(
    parallel_residual: bool, per_layer: int
):
    oracle = make_oracle(use_parallel_residual=parallel_residual)
    ids = ids_for(oracle)

    def work(group: Group) -> int:
        model = ours(oracle, group)
        model(ids, cache_for(model, *ids.shape))
        return group.reduces

    layers = oracle.config.num_hidden_layers
    embedding = 1
    assert on_ranks(2, work) == [per_layer * layers + embedding] * 2


def test_row_bias_is_added_once_at_any_world_size():
    """litgpt added it once per rank: biases of this size would shift the logits by units."""
    oracle = make_oracle()
    for layer in oracle.gpt_neox.layers:
        layer.attention.dense.bias.data.fill_(3.0)
        layer.mlp.dense_4h_to_h.bias.data.fill_(-5.0)
    ids = ids_for(oracle)
    truth = oracle(ids).logits
    for size in (1, 2, 4, 8):
        torch.testing.assert_close(all_logits(oracle, size, ids), truth, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_close_to_fp32_as_transformers_is(dtype: torch.dtype):
    oracle = make_oracle()
    ids = ids_for(oracle)
    truth = oracle(ids).logits
    model = ours(oracle, dtype=dtype)
    found = model(ids, cache_for(model, *ids.shape, dtype)).float()
    theirs = make_oracle().to(dtype)(ids).logits.float()
    assert (found - truth).square().mean() <= 1.1 * (theirs - truth).square().mean()


def test_large_queries_do_not_overflow_float16():
    """q·k of about 2e5 before scaling: past float16's 65504 unless q is scaled first."""
    oracle = make_oracle()
    for layer in oracle.gpt_neox.layers:
        layer.attention.query_key_value.weight.data *= 40
    model = ours(oracle, dtype=torch.float16)
    ids = ids_for(oracle)
    assert model(ids, cache_for(model, *ids.shape, torch.float16)).isfinite().all()


def test_last_only_is_the_last_column():
    oracle = make_oracle()
    model = ours(oracle)
    ids = ids_for(oracle)
    last = model(ids, cache_for(model, *ids.shape), last_only=True)
    torch.testing.assert_close(last, oracle(ids).logits[:, -1:], rtol=0, atol=1e-4)


def test_a_world_size_that_cuts_a_head_is_refused_with_the_legal_ones():
    config = ModelConfig.from_dict(make_oracle().config.to_dict())
    with pytest.raises(
        ShardError,
        match="8 attention heads cannot be cut over 3 ranks; world_size may be 1, 2, 4, 8",
    ):
        on_ranks(3, lambda group: GPTNeoX(config, group))


def test_every_parameter_has_a_rule_and_the_parts_tile_the_whole():
    oracle = make_oracle()
    rules = shard_rules(ModelConfig.from_dict(oracle.config.to_dict()))
    names = {name.replace("lm_head", "embed_out") for name in oracle.state_dict()}
    assert set(rules) == names
    for shape, rule in rules.values():
        if rule.dim is not None:
            parts = [rule.slices(shape, rank, 8)[rule.dim] for rank in range(8)]
            assert [i for part in parts for i in range(part.start, part.stop)] == list(
                range(shape[rule.dim])
            )


def test_the_20b_config_counts_the_published_parameters(data):
    """20.5546e9 as in the vendor's and EleutherAI's papers: files of 41.11 GB in float16."""
    assert count_parameters(ModelConfig.from_dir(data / "neox20b")) == 20_554_567_680

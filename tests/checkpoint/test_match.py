"""Names and shapes of a checkpoint against the model. Oracle: transformers."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from neoxlib.checkpoint.folder import open_checkpoint
from neoxlib.checkpoint.match import match, match_names
from neoxlib.errors import WeightsError
from neoxlib.model.config import ModelConfig
from neoxlib.model.parameters import shard_rules
from tests.support.checkpoint_files import config_of, whole
from tests.support.oracle_models import make_oracle


def test_the_names_of_the_real_20b_index_are_the_parameters_of_its_config(data):
    config = ModelConfig.from_dir(data / "neox20b")
    for index in (data / "neox20b").glob("*.index*.json"):
        names = json.loads(index.read_text())["weight_map"]
        matched = match_names(names, config)
        assert matched.keys() == shard_rules(config).keys()
        assert all(ours == theirs for ours, theirs in matched.items())
        skipped = {name.split(".", 3)[3] for name in names.keys() - matched.keys()}
        assert skipped == {
            "attention.bias",
            "attention.masked_bias",
            "attention.rotary_emb.inv_freq",
        }


def test_both_heads_bare_names_and_old_tables_are_taken():
    config = config_of()
    ours = list(shard_rules(config))
    assert "lm_head.weight" in make_oracle().state_dict()  # what transformers calls the head now
    spellings = (
        make_oracle().state_dict(),
        ours,
        [name.removeprefix("gpt_neox.") for name in ours],
        [
            *ours,
            "gpt_neox.rotary_emb.inv_freq",
            "gpt_neox.layers.0.attention.rotary_emb.inv_freq",
            "gpt_neox.layers.2.attention.bias",
            "gpt_neox.layers.1.attention.masked_bias",
        ],
    )
    for names in spellings:
        assert match_names(names, config).keys() == set(ours)
    assert match_names(spellings[0], config)["embed_out.weight"] == "lm_head.weight"


def test_all_missing_and_extra_names_are_in_one_error():
    names = set(shard_rules(config_of()))
    lost = {"gpt_neox.layers.1.attention.dense.bias", "gpt_neox.final_layer_norm.weight"}
    extra = {
        "gpt_neox.layers.3.mlp.dense_4h_to_h.bias",
        "gpt_neox.layers.0.attention.query.weight",
        "optimizer",
    }
    with pytest.raises(WeightsError) as error:
        match_names(names - lost | extra | {"lm_head.weight"}, config_of())
    lines = {line.strip() for line in str(error.value).splitlines()[1:]}
    expected = {f"missing {name}" for name in lost} | {f"extra {name}" for name in extra}
    assert lines >= expected and len(lines) == len(expected) + 1
    assert any("twice" in line and "lm_head" in line for line in lines)


def test_a_base_model_is_told_that_its_head_is_missing():
    names = list(make_oracle().gpt_neox.state_dict())
    with pytest.raises(WeightsError, match=r"(?s)base model.*missing embed_out\.weight"):
        match_names(names, config_of())
    assert match_names(names, config_of(tie_word_embeddings=True))


def test_biases_that_the_config_denies_are_extra():
    with pytest.raises(
        WeightsError, match=r"extra gpt_neox\.layers\.0\.attention\.query_key_value\.bias"
    ):
        match_names(shard_rules(config_of()), config_of(attention_bias=False))


def save_tied(folder: Path, change: float = 0.0) -> dict[str, torch.Tensor]:
    oracle = make_oracle(tie_word_embeddings=True)
    oracle.config.save_pretrained(folder)
    state = {name: tensor.clone() for name, tensor in oracle.state_dict().items()}
    state["lm_head.weight"] = state["lm_head.weight"] + change
    return state


def test_tied_embeddings_are_taken_from_either_name_or_both(tmp_path):
    state = save_tied(tmp_path)
    embed = "gpt_neox.embed_in.weight"
    head = "lm_head.weight"
    for names in ({embed}, {head}, {embed, head}):
        chosen = {n: t for n, t in state.items() if n not in {embed, head} - names}
        save_file(chosen, tmp_path / "model.safetensors")
        found = match(open_checkpoint(tmp_path), ModelConfig.from_dir(tmp_path))
        assert found.keys() == shard_rules(ModelConfig.from_dir(tmp_path)).keys()
        assert torch.equal(whole(found[embed][1]), state[embed])


def test_a_head_that_differs_from_tied_embeddings_is_an_error(tmp_path):
    save_file(save_tied(tmp_path, change=1.0), tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="set tie_word_embeddings to false"):
        match(open_checkpoint(tmp_path), ModelConfig.from_dir(tmp_path))


def test_all_misshapen_and_integer_tensors_are_in_one_error(tmp_path):
    state = dict(make_oracle().state_dict())
    state["lm_head.weight"] = torch.zeros(210, 64)
    state["gpt_neox.layers.0.mlp.dense_h_to_4h.weight"] = torch.zeros(160, 64, dtype=torch.int8)
    state["gpt_neox.layers.1.attention.dense.bias"] = torch.zeros(64, 1)
    save_file(state, tmp_path / "model.safetensors")
    words = r"(?s)lm_head\.weight is \[210, 64\], the config asks for \[211, 64\]"
    with pytest.raises(WeightsError, match=words) as error:
        match(open_checkpoint(tmp_path), config_of())
    assert "dense_h_to_4h.weight is torch.int8" in str(error.value)
    assert "dense.bias is [64, 1], the config asks for [64]" in str(error.value)

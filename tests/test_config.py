"""Every published spelling of config.json is read; whatever would run wrongly is refused by name."""

import json

import pytest
from transformers import GPTNeoXConfig

from neoxlib.config import ModelConfig, sequence_window
from neoxlib.errors import ConfigError, SettingsError
from tests.conftest import TINY

OLD = {**TINY, "model_type": "gpt_neox", "rotary_pct": 0.5, "rotary_emb_base": 777}
NEW = {key: value for key, value in OLD.items() if not key.startswith("rotary")} | {
    "rope_parameters": {"rope_type": "default", "rope_theta": 777, "partial_rotary_factor": 0.5}
}


def test_both_generations_of_config_mean_the_same():
    assert ModelConfig.from_dict(OLD) == ModelConfig.from_dict(NEW)


@pytest.mark.parametrize("raw", [OLD, NEW, {**OLD, "rope_scaling": None}, {**NEW, "rotary_pct": 1.0}, TINY])
def test_rotary_settings_equal_what_transformers_reads(raw: dict):
    rope = GPTNeoXConfig(**json.loads(json.dumps(raw))).rope_parameters
    ours = ModelConfig.from_dict(raw)
    assert (ours.rotary_emb_base, ours.rotary_pct) == (rope["rope_theta"], rope["partial_rotary_factor"])


def test_published_configs_are_read(data):
    twenty = ModelConfig.from_dir(data / "neox20b")
    assert (twenty.head_dim, twenty.rotary_dim, twenty.hidden_act) == (96, 24, "gelu_fast")
    for file in sorted((data / "pythia_configs").glob("*.json")):
        raw = json.loads(file.read_text())
        ours, theirs = ModelConfig.from_dict(raw), GPTNeoXConfig(**raw)
        for key in ("hidden_size", "num_hidden_layers", "intermediate_size", "hidden_act", "use_parallel_residual"):
            assert getattr(ours, key) == getattr(theirs, key), (file.name, key)


def test_every_problem_is_named_at_once():
    raw = {**OLD, "hidden_act": "silu", "num_hidden_layers": "3", "rope_scaling": {"type": "linear", "factor": 2.0}}
    del raw["vocab_size"]
    with pytest.raises(ConfigError) as error:
        ModelConfig.from_dict(raw)
    for word in ("vocab_size is missing", "num_hidden_layers is '3'", "'silu'", "rope scaling 'linear'"):
        assert word in str(error.value)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope scaling 'yarn'"),
        ({"rotary_percent": 0.25, "rotary_pct": None}, None),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_size": 66}, "not a multiple of num_attention_heads"),
        ({"head_dim": 5}, "head_dim is 5"),
        ({"rotary_pct": 1.5}, "rotary_pct 1.5 rotates 12 of 8"),
        ({"use_parallel_residual": "yes"}, "it is true or false"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(change: dict, message: str | None):
    raw = {key: value for key, value in (OLD | change).items() if value is not None}
    with pytest.raises(ConfigError, match=message or "did you mean 'rotary_pct'"):
        ModelConfig.from_dict(raw)


def test_keys_that_inference_does_not_need_are_listed():
    assert ModelConfig.from_dict({**OLD, "initializer_range": 0.02, "use_cache": True}).unused == (
        "bos_token_id", "initializer_range", "use_cache",
    )  # fmt: skip


@pytest.mark.parametrize("content, message", [(None, "is missing"), ("{", "not valid JSON"), ("[]", "holds a list")])
def test_a_folder_without_a_readable_config_is_an_error(tmp_path, content: str | None, message: str):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dir(tmp_path)


def test_the_window_is_the_argument_then_the_environment_then_the_config(monkeypatch):
    config = ModelConfig.from_dict(OLD)
    assert sequence_window(config, None) == 96
    monkeypatch.setenv("MAX_SEQ_LEN", "40")
    assert sequence_window(config, None) == 40
    assert sequence_window(config, 33) == 33
    monkeypatch.setenv("MAX_SEQ_LEN", "many")
    with pytest.raises(SettingsError, match="MAX_SEQ_LEN is 'many'"):
        sequence_window(config, None)


def test_a_window_past_the_trained_positions_needs_leave_by_name():
    config = ModelConfig.from_dict(OLD)
    with pytest.raises(SettingsError, match="allow_long=True"):
        sequence_window(config, 97)
    assert sequence_window(config, 97, allow_long=True) == 97

"""Every published spelling of config.json is read; what would run wrongly is refused."""

import json

import pytest
import torch
from transformers import GPTNeoXConfig
from transformers.activations import ACT2FN

from neoxlib.errors import ConfigError, SettingsError
from neoxlib.model.config import ACTIVATIONS, ModelConfig, sequence_window
from tests.support.oracle_models import TINY, make_oracle

NAN = float("nan")
INF = float("inf")
OLD = {**TINY, "model_type": "gpt_neox", "rotary_pct": 0.5, "rotary_emb_base": 777}
NEW = {key: value for key, value in OLD.items() if not key.startswith("rotary")} | {
    "rope_parameters": {"rope_type": "default", "rope_theta": 777, "partial_rotary_factor": 0.5}
}


def test_both_generations_of_config_mean_the_same():
    assert ModelConfig.from_dict(OLD) == ModelConfig.from_dict(NEW)


@pytest.mark.parametrize(
    "raw", [OLD, NEW, {**OLD, "rope_scaling": None}, {**NEW, "rotary_pct": 1.0}, TINY]
)
def test_rotary_settings_equal_what_transformers_reads(raw: dict):
    rope = GPTNeoXConfig(**json.loads(json.dumps(raw))).rope_parameters
    ours = ModelConfig.from_dict(raw)
    assert (ours.rotary_emb_base, ours.rotary_pct) == (
        rope["rope_theta"],
        rope["partial_rotary_factor"],
    )


def test_published_configs_are_read(data):
    twenty = ModelConfig.from_dir(data / "neox20b")
    assert (twenty.head_dim, twenty.rotary_dim, twenty.hidden_act) == (96, 24, "gelu_fast")
    for file in sorted((data / "pythia_configs").glob("*.json")):
        raw = json.loads(file.read_text())
        ours = ModelConfig.from_dict(raw)
        theirs = GPTNeoXConfig(**raw)
        for key in (
            "hidden_size",
            "num_hidden_layers",
            "intermediate_size",
            "hidden_act",
            "use_parallel_residual",
        ):
            assert getattr(ours, key) == getattr(theirs, key), (file.name, key)


def test_every_problem_is_named_at_once():
    raw = {
        **OLD,
        "hidden_act": "silu",
        "num_hidden_layers": "3",
        "rope_scaling": {"type": "linear", "factor": 2.0},
    }
    del raw["vocab_size"]
    with pytest.raises(ConfigError) as error:
        ModelConfig.from_dict(raw)
    for word in (
        "vocab_size is missing",
        "num_hidden_layers is '3'",
        "'silu'",
        "rope scaling 'linear'",
    ):
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
        "bos_token_id",
        "initializer_range",
        "use_cache",
    )


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "is missing"),
        ("{", "not valid JSON"),
        ("[]", "holds a list"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "not valid JSON"),
        (r'{"a": "\ud800"}', "half of a character"),
    ],
)
def test_a_folder_without_a_readable_config_is_an_error(
    tmp_path, content: str | None, message: str
):
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


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_that_of_transformers_under_every_name_it_has(name: str):
    x = torch.linspace(-12, 12, 10_001, dtype=torch.float64)
    gelu = torch.nn.functional.gelu
    forms = {"gelu": gelu(x), "tanh": gelu(x, approximate="tanh"), "relu": x.relu()}
    torch.testing.assert_close(forms[ACTIVATIONS[name]], ACT2FN[name](x), rtol=0, atol=1e-9)


def test_every_activation_of_transformers_that_is_one_of_ours_is_known_and_no_other():
    x = torch.linspace(-12, 12, 10_001, dtype=torch.float64)
    gelu = torch.nn.functional.gelu
    forms = (gelu(x), gelu(x, approximate="tanh"), x.relu())
    names = set(ACT2FN) - {"prelu", "xielu"}  # these have weights
    same = {
        name for name in names if any((form - ACT2FN[name](x)).abs().max() < 1e-9 for form in forms)
    }
    assert same == set(ACTIVATIONS)


NOTHING = {"load_in_8bit": False, "load_in_4bit": False}


@pytest.mark.parametrize(
    "change",
    [
        {"rope_scaling": None},
        {"rope_parameters": None},
        {"rope_scaling": {}},
        {"rope_scaling": {"type": None}},
        {"rope_parameters": {"rope_type": None, "rope_theta": None, "partial_rotary_factor": None}},
        {"rope_scaling": {"type": "linear", "factor": 1.0}},
        {"rope_scaling": {"rope_type": "linear", "factor": 1}},
        {"torch_dtype": "float16"},
        {"torch_dtype": "torch.float16"},
        {"dtype": "torch.float16"},
        {"dtype": "half"},
        {"dtype": None, "torch_dtype": "float16"},
        {"quantization_config": None},
        {"quantization_config": {}},
        {"quantization_config": NOTHING},
        {"quantization_config": {"load_in_8bit": False}},
        {
            "quantization_config": {
                **NOTHING,
                "quant_method": "bitsandbytes",
                "llm_int8_threshold": 6.0,
            }
        },
        {
            "quantization_config": {
                "_load_in_8bit": False,
                "_load_in_4bit": False,
                "bnb_4bit_quant_type": "nf4",
            }
        },
    ],
)
def test_what_changes_nothing_is_read_as_if_it_were_not_there(change: dict):
    plain = {key: value for key, value in OLD.items() if key not in change}
    dtype = {"torch_dtype": "float16"} if "dtype" in str(change) else {}
    assert ModelConfig.from_dict(plain | change) == ModelConfig.from_dict(plain | dtype)


@pytest.mark.parametrize(
    "change", [{"type": "linear", "factor": 1.0}, {"rope_type": "linear", "factor": 1.0}]
)
def test_a_rope_scaling_by_one_is_none_to_transformers_too(change: dict):
    ids = torch.arange(90)[None]
    with torch.no_grad():
        theirs = make_oracle(rope_scaling=change)(ids).logits
        assert torch.equal(theirs, make_oracle()(ids).logits)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_scaling asks for rope scaling 'linear'",
        ),
        ({"rope_scaling": {"type": "linear"}}, "'linear'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        (
            {"rope_parameters": {"full": {"rope_type": "default"}}},
            "rope_parameters asks for rope scaling {'full'",
        ),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"quantized by gptq \(4\)"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantized by awq"),
        (
            {"quantization_config": {**NOTHING, "load_in_4bit": True}},
            r"without a name \(load_in_4bit\)",
        ),
        ({"quantization_config": {**NOTHING, "quant_method": "gptq"}}, "quantized by gptq"),
        ({"quantization_config": "int8"}, "asks for 'int8'"),
        ({"torch_dtype": {"text": "float16"}}, "dtype is {'text'"),
        ({"hidden_act": "silu"}, "hidden_act is 'silu'"),
        ({"hidden_act": "gelu_10"}, "'gelu_10'"),
        ({"hidden_act": ["gelu"]}, r"hidden_act is \['gelu'\]"),
        *(
            ({key: value}, f"{key} is {value!r}; it is a number, 0 or more")
            for key in ("layer_norm_eps", "rotary_pct", "rotary_emb_base")
            for value in (NAN, INF, -INF, -1e-5)
        ),
        *(
            ({key: value}, f"{key} is {value}; ")
            for key in ("hidden_dropout", "vocab_size")
            for value in (NAN, INF)
        ),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": NAN}},
            "rope_parameters.rope_theta is nan; every",
        ),
        ({"some": [1.0, {"list": [INF]}]}, "some.list is inf; every"),
        ({"rotary_emb_base": 0}, "a number above 0"),
        ({"rotary_emb_base": 10**400}, "it is a number, 0 or more"),
        ({"rotary_pct": 1e308}, r"rotary_pct 1e\+308 rotates"),
        ({"num_hidden_layers": 10**5}, "num_hidden_layers is 100000; .* at most 4,096"),
        ({"num_attention_heads": 2**31}, "num_attention_heads is 2147483648; .* at most"),
        ({"vocab_size": 2**70}, "vocab_size is 1180591620717411303424; .* at most"),
        ({f"key{n}": 0 for n in range(2000)}, "there are 2,01. keys; a config has some tens"),
    ],
)
def test_what_changes_the_mathematics_or_is_no_number_is_refused_by_name(
    change: dict, message: str
):
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(json.loads(json.dumps(OLD | change)))

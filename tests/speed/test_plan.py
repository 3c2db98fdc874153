"""Requests that are planned or refused, and the tables of a plan."""

import json

import pytest

from neoxlib.errors import ConfigError, SettingsError, ShardError
from neoxlib.machine import chips
from neoxlib.speed.plan import across_chips, plan
from tests.support.planned import SMALL, TWENTY_B


def test_every_legal_world_size_is_listed_and_no_other():
    assert plan(TWENTY_B, 4, chip="310P3").sizes["world size"].tolist() == [1, 2, 4, 8, 16, 32, 64]
    assert plan(TWENTY_B, 4, chip="310P3").sizes["fits"].tolist() == ["no", "no", *["yes"] * 5]


def test_a_world_size_that_cuts_a_head_is_refused_with_the_legal_ones():
    with pytest.raises(ShardError, match=r"64 attention heads.*3 ranks.*1, 2, 4, 8"):
        plan(TWENTY_B, 3)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"seq_len": 4096}, "2048 positions"),
        ({"seq_len": 0}, "0"),
        ({"chip": "910C"}, "'910C'"),
        ({"chip": "cpu"}, "leave chip out"),
        ({"dtype": "fp16"}, "float16"),
        ({"chip": "310P3", "dtype": "bfloat16"}, "310P3"),
        ({"bandwidth_gb_s": -1.0}, "above 0"),
    ],
)
def test_a_bad_request_is_refused(options, reason):
    with pytest.raises(SettingsError, match=reason):
        plan(TWENTY_B, 2, **options)


def test_a_cut_folder_is_planned_by_the_config_of_its_parts(tmp_path):
    config = {
        "model_type": "gpt_neox",
        "vocab_size": 101,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "intermediate_size": 200,
    }
    part = tmp_path / "part_model" / "0"
    part.mkdir(parents=True)
    (part / "config.json").write_text(json.dumps(config))
    assert plan(tmp_path, 2, seq_len=16).budget.config.num_hidden_layers == 3


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"config.json is missing"):
        plan(tmp_path, 2)


def test_times_on_this_machine_rest_on_what_was_measured_or_given(cpu_host):
    found = plan(SMALL, 1)
    assert found.next_token_ms == pytest.approx(
        (found.budget.weights_read + found.budget.kv_cache) / 20e9 * 1e3
    )
    assert all("measured on this machine's CPU" in text for text in found.speed["from"])
    given = plan(SMALL, 1, bandwidth_gb_s=40.0, tflops=0.2)
    assert given.next_token_ms == pytest.approx(found.next_token_ms / 2)
    assert given.first_token_ms == pytest.approx(found.first_token_ms / 2)
    assert given.speed["from"].tolist() == [
        "0.2 TFLOPS (as given); 40 GB/s (as given)",
        "40 GB/s (as given)",
    ]


def test_both_forms_say_predicted_and_name_every_source():
    shown = plan(TWENTY_B, 4, chip="310P3")
    for text in (repr(shown), shown._repr_html_()):
        assert "predicted" in text and "third-party pages; no vendor data sheet was read" in text
        assert "21525 MB" in text and "..." not in text


def test_across_chips_names_the_smallest_world_size_that_fits(cpu_host):
    table = across_chips(TWENTY_B).set_index("chip")["smallest world size"]
    assert (
        table["910B3"] == 1
        and table["910B4"] == 2
        and table["310P3"] == 4
        and table["300I Duo"] == 2
    )
    assert "910B2" not in table and "cpu" not in table and table["this machine"] == "none"
    times = across_chips(TWENTY_B).set_index("chip").drop("this machine")
    known = ["910B1", "910B3", "910B4", "310P3", "300I Duo"]
    assert table["300I Pro"] == "none"  # one rank of 24 GB
    assert not (times.loc[known] == "not known").any(axis=None)
    assert all("predicted" in name for name in times.columns[1:])


def test_planning_needs_no_npu_and_opens_no_weights(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "model_type": "gpt_neox",
                "vocab_size": 50432,
                "hidden_size": 6144,
                "num_hidden_layers": 44,
                "num_attention_heads": 64,
                "intermediate_size": 24576,
            }
        )
    )
    assert chips.chip("910B3") is plan(tmp_path, 8, chip="Ascend910B3").target.chip


@pytest.mark.parametrize(
    ("chip", "size", "words"),
    [
        ("300I Pro", 2, "only the 300I Duo has HCCL; use one rank"),
        ("300V Pro", 4, "4 ranks on 300I Pro cannot run"),
        ("310B4", 2, "use one rank"),
        ("910A", 16, "1, 2, 4 or 8 ranks"),
    ],
)
def test_ranks_that_hccl_does_not_serve_are_not_planned(chip, size, words):
    with pytest.raises(SettingsError, match=words):
        plan(TWENTY_B, size, chip=chip)
    assert plan(TWENTY_B, 1, chip="300I Pro").sizes["world size"].tolist() == [1]
    assert plan(TWENTY_B, 1, chip="910A").sizes["world size"].tolist() == [1, 2, 4, 8]


def test_ranks_on_a_310p3_are_planned_for_half_of_a_duo_and_that_is_said():
    assert "half of a 300I Duo" in repr(plan(TWENTY_B, 4, chip="310P3"))
    assert "half of a 300I Duo" not in repr(plan(TWENTY_B, 1, chip="310P3"))
    assert "half of a 300I Duo" not in repr(plan(TWENTY_B, 4, chip="300I Duo"))


def test_a_plan_for_a_device_says_what_of_its_memory_is_not_counted():
    assert "in_use" in repr(plan(TWENTY_B, 1, chip="910B3"))

"""Numbers that are not finite are refused on all ranks alike, with the name of the first layer."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import neoxlib
from neoxlib.errors import NotFiniteError, SettingsError
from neoxlib.inference.engine import Engine
from neoxlib.kernels.cpu import build
from neoxlib.model.group import Group
from tests.support.oracle_models import damaged
from tests.support.thread_ranks import on_ranks

PLACES = {
    "gpt_neox.embed_in.weight": "the embedding",
    "gpt_neox.layers.0.mlp.dense_4h_to_h.bias": "layer 0",
    "gpt_neox.layers.1.attention.query_key_value.weight": "layer 1",
    "gpt_neox.layers.2.post_attention_layernorm.weight": "layer 2",
    "gpt_neox.final_layer_norm.bias": "the head",
    "embed_out.weight": "the head",
}
ASK: dict[str, Callable[[Engine], object]] = {
    "generate": lambda engine: engine.generate(["ab", "cd"], max_new_tokens=4),
    "score": lambda engine: engine.score(["ab", "c"], ["d", "ef"]),
    "score_ids": lambda engine: engine.score_ids([([66, 67], [68]), ([66], [67, 68])]),
    "logits": lambda engine: engine.logits([[66, 67, 68], [66, 1, 1]], [[1, 1, 1], [1, 0, 0]]),
}


def complaints(folder: Path, ask: str, size: int, **settings: object) -> list[str]:
    """The error that each rank raises."""

    def work(group: Group) -> str:
        engine = neoxlib.load(folder, group=group, **settings)
        with pytest.raises(NotFiniteError, match=r"are not finite \(NaN or infinity\)") as error:
            ASK[ask](engine)
        return str(error.value)

    return on_ranks(size, work)


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("ask", ASK)
def test_the_first_layer_that_is_not_finite_is_named_alike_on_all_ranks(
    ask: str, place: str, size: int, compiled: bool, tmp_path: Path
):
    if compiled and build.compiled("forward") is None:
        pytest.skip(build.compile_error("forward"))
    first, *others = complaints(damaged(tmp_path, place), ask, size, compile=compiled)
    assert "The first output that is not finite" in first
    assert first.endswith(f" is that of {PLACES[place]}: such numbers are in {place}")
    assert others == [first] * (size - 1)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
@pytest.mark.parametrize(
    "config", [{"use_parallel_residual": False}, {"tie_word_embeddings": True}], ids=str
)
def test_infinity_is_refused_as_nan_is_whatever_the_architecture(
    value: float, config: dict, tmp_path: Path
):
    folder = damaged(tmp_path, "gpt_neox.layers.1.mlp.dense_4h_to_h.bias", value, **config)
    for ask in ASK:
        assert (
            "that of layer 1: such numbers are in gpt_neox.layers.1.mlp"
            in complaints(folder, ask, 1)[0]
        )


@pytest.mark.parametrize("ask", ASK)
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_numbers_that_outgrow_their_dtype_are_told_from_damage(
    ask: str, compiled: bool, tmp_path: Path
):
    """In float16 65504 is the largest; the weights themselves are fine."""
    folder = damaged(tmp_path, "gpt_neox.layers.1.mlp.dense_4h_to_h.bias", 6e4)
    tensors = load_file(folder / "model.safetensors")
    tensors["gpt_neox.layers.2.mlp.dense_4h_to_h.bias"][0] = 6e4
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    ASK[ask](neoxlib.load(folder))
    if not compiled:  # the compiled form keeps its sums in float32
        said = complaints(folder, ask, 1, dtype="float16", compile=False)[0]
        assert "that of layer 2: its weights are finite, and float16 overflows" in said


def test_a_single_choice_that_is_impossible_is_refused_and_its_request_named(tmp_path: Path):
    engine = neoxlib.load(damaged(tmp_path, "embed_out.weight", torch.inf))
    with pytest.raises(SettingsError, match=r"request\(s\) \[0, 1, 2\] are"):
        engine.score_ids([([1, 2], [3]), ([2], [3, 4]), ([9], [66])])


def test_packed_weights_are_looked_through_by_their_scales(tmp_path: Path):
    folder = damaged(tmp_path, "gpt_neox.layers.1.mlp.dense_4h_to_h.bias")
    assert (
        "that of layer 1: such numbers are in" in complaints(folder, "generate", 2, quant="int8")[1]
    )


def test_padding_may_hold_what_it_likes(tmp_path: Path):
    """Only real tokens count: all of them read token 66 of the damaged table, or none does."""
    engine = neoxlib.load(damaged(tmp_path, "gpt_neox.embed_in.weight"))
    assert engine.logits([[5, 6, 66]], [[1, 1, 0]])[0, :2].isfinite().all()
    with pytest.raises(NotFiniteError, match=r"row\(s\) \[1\]"):
        engine.logits([[5, 6, 7], [66, 6, 7]])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_such_a_number_in_any_tensor_is_named(compiled: bool, value: float, tmp_path: Path):
    if compiled and build.compiled("forward") is None:
        pytest.skip(build.compile_error("forward"))
    folder = damaged(tmp_path, "embed_out.weight", 0.0)
    whole = load_file(folder / "model.safetensors")
    for place in [name for name in whole if ".layers.1." in name or ".layers." not in name]:
        tensor = whole[place].clone()
        tensor.view(-1)[66 * tensor.shape[1] if "embed" in place else 0] = value
        save_file(whole | {place: tensor}, folder / "model.safetensors", metadata={"format": "pt"})
        said = complaints(folder, "logits", 1, compile=compiled)[0]
        assert said.endswith(f": such numbers are in {place}"), place


def test_an_activation_that_is_not_finite_is_told_with_its_layer(checkpoint: Path):
    """The weights are finite: an operator gave the number."""
    with neoxlib.load(checkpoint, compile=False) as engine:
        layer = engine.model.gpt_neox.layers[1].mlp
        layer.register_forward_hook(lambda module, given, out: out * torch.nan)
        with pytest.raises(NotFiniteError, match="is that of layer 1: its weights are finite"):
            engine.logits([[66, 67]])

"""A target is held against what was asked for: each kind of reference finds what it can find."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file, save_file

import neoxlib
from neoxlib.align import references, study, tables
from neoxlib.align.capture import capture
from neoxlib.align.joins import bits
from neoxlib.align.reader import Capture, read_capture
from neoxlib.align.references import Open, Reference, parse, parse_target, refuse
from neoxlib.align.study import Study, compared, take, taken
from neoxlib.align.verdict import twice
from neoxlib.checkpoint.shard import shard
from neoxlib.demo import MODEL_DIR
from neoxlib.errors import NeoXError, SettingsError
from neoxlib.workbook.parameter_table import PARAMETERS
from tests.support.align_runs import ROWS, THEN, run, save_model
from tests.support.faults import FAULTS
from tests.support.planted import Spot


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("aligned"))


@pytest.fixture(scope="module")
def found(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Capture:
    """One rank, plain layers, float32."""
    engine = neoxlib.load(model, compile=False)
    folder = tmp_path_factory.mktemp("found") / "capture"
    return read_capture(capture(engine, folder, ROWS, THEN))


def opener(model: Path, seen: list[dict]) -> Open:
    """Opens an engine in this process in place of a session, and keeps the settings."""

    @contextmanager
    def open_(**settings: object) -> Iterator[neoxlib.Engine]:
        seen.append(settings)
        where = settings.get("model_dir", model)
        yield neoxlib.load(where, settings.get("dtype", "float32"), compile=False)

    return open_


def held(found: Capture, text: object, folder: Path, open_: Open | None = None) -> Study:
    return compared(found, parse(text), folder, open_)


def results_of(folder: Path, model: dict, **parameters: object) -> Path:
    folder.mkdir()
    text = {"notebook": "02_inference", "parameters": parameters, "model": model}
    (folder / "results.json").write_text(json.dumps(text))
    return folder


def test_every_word_and_folder_is_of_one_kind(found: Capture, model: Path, tmp_path: Path):
    run_folder = results_of(tmp_path / "run", {"dtype": "float16"}, model_dir="")
    kinds = {
        "": "checkpoint",
        "transformers": "transformers",
        "float16": "dtype",
        "same": "same",
        "repeat": "same",
        "world_size=4": "world_size",
        "2": "world_size",
        str(model): "model",
        str(found.folder): "capture",
        str(found.folder.parent): "capture",  # as a run of 06_align
        str(found.folder / "capture.json"): "capture",
        str(run_folder): "run",
        str(run_folder / "results.json"): "run",
        str(tmp_path): "capture",  # or the dump of another program: its reader decides
    }
    assert {text: parse(text).kind for text in kinds} == kinds
    assert set(kinds.values()) == set(references.KINDS)
    assert parse("world_size=4") == Reference("world_size", "4")
    assert parse(run_folder / "results.json").value == str(run_folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tranformers", "did you mean 'transformers'?"),
        ("bf16", "did you mean 'bfloat16'?"),
        ("world_size=0", "did you mean 'world_size=1'?"),
        ("no/such/folder", "no folder 'no/such/folder'; give a model folder, a capture"),
    ],
)
def test_nonsense_is_refused_with_the_nearest_word(text: str, said: str):
    with pytest.raises(SettingsError) as error:
        parse(text)
    assert said in str(error.value)
    assert said in PARAMETERS["reference"].check(text)  # before a notebook begins, too
    with pytest.raises(SettingsError, match="target: no folder"):
        parse_target(text)


def test_pairs_that_say_nothing_are_refused_before_anything_runs(found: Capture, model: Path):
    one = parse_target(found.folder)
    with pytest.raises(SettingsError, match="a capture cannot be run: leave target empty"):
        refuse(one, parse("same"), str(model), "cpu")
    with pytest.raises(SettingsError, match="nothing can differ; give another"):
        refuse(one, parse(found.folder), str(model), "cpu")
    with pytest.raises(NeoXError, match="4 attention heads cannot be cut over 3 ranks"):
        refuse(parse_target(""), parse("world_size=3"), str(model), "cpu")
    refuse(parse_target(""), parse("same"), str(model), "cpu")


REFERENCES = ("", "transformers", "float32", "float16", "world_size=1")


@pytest.mark.parametrize("text", REFERENCES)
def test_a_healthy_capture_agrees_with_every_reference_and_the_sentence_names_it(
    text: str, found: Capture, model: Path, tmp_path: Path
):
    seen: list[dict] = []
    result = held(found, text, tmp_path, opener(model, seen))
    assert [name for name, passed, _ in result.checks if not passed] == []
    assert result.sentence.startswith("every step that was seen is right: ")
    assert parse(text).words("float32") in result.sentence
    assert [each["world_size"] for each in seen] == ([1] if "world" in text else [])
    names = {line.name for line in result.lines}
    assert {"embed_out", "gpt_neox.layers.1.attention.context"} <= names
    assert len(result.checks) == (4 if text == "" else 8)


@pytest.mark.parametrize("text", ["transformers", "bfloat16"])
def test_a_fault_is_where_the_numbers_part_from_another_reference(
    text: str, model: Path, tmp_path: Path
):
    """The own errors of the checkpoint and the distances from the reference name one step."""
    fault = next(fault for fault in FAULTS if fault.kind == "relu for gelu")
    run(model, tmp_path / "capture", "float32", 2, fault, Spot(1, 1))
    result = held(study.open_capture(tmp_path / "capture"), text, tmp_path)
    assert result.sentence.startswith("layer 1, every rank, prefill: mlp.activation is off by")
    parts = "the numbers part at layer 1, prefill: mlp.activation: relative distance "
    assert parts in result.sentence
    failed = [name for name, passed, _ in result.checks if not passed]
    assert "every step is as near to the reference as its dtype explains" in failed


def test_formulas_that_differ_from_transformers_are_not_excused_by_our_own_layers(
    found: Capture, model: Path, tmp_path: Path
):
    """As if neoxlib read a config otherwise: target, witness and checkpoint agree with it."""
    other = save_model(tmp_path / "other", hidden_act="relu")
    engine = neoxlib.load(other, compile=False)
    ours = read_capture(capture(engine, tmp_path / "capture", ROWS, THEN))
    result = held(ours, found.folder, tmp_path)
    assert result.sentence.startswith("every step that was seen is right: ")
    said = "the numbers part at layer 0, prefill: mlp.activation: relative distance "
    assert said in result.sentence and "other formulas or weights" in result.sentence
    assert not all(passed for _, passed, _ in result.checks)


def test_the_same_twice_is_the_same_to_the_bit(model: Path, tmp_path: Path):
    words = parse_target(""), parse("repeat")
    one = taken(*words, tmp_path, opener(model, []), [[60, 61, 62], [70]], 2)
    result = held(one, "repeat", tmp_path)
    assert "every bit of 144 tensors of 1 rank and 3 passes is the same" in result.sentence
    assert [name for name, _, _ in result.checks][-1] == "the same bits twice"
    frame = tables.frame(result)
    assert frame["same_bits"].all() and all(passed for _, passed, _ in result.checks)


def test_the_first_bit_that_differs_is_named_with_step_rank_and_pass(model: Path, tmp_path: Path):
    run(model, tmp_path / "one", "float32", 2)
    fault = next(fault for fault in FAULTS if fault.kind == "a rank is late by one pass")
    run(model, tmp_path / "two", "float32", 2, fault, Spot(1, 1))
    one, two = (read_capture(tmp_path / name) for name in ("one", "two"))
    said = "layer 1, every rank, decode step 2: all_reduce.after is the first that is not the same"
    assert twice(one, bits(one, two)).startswith(said)
    path = tmp_path / "two/pass1/layer002/rank1.safetensors"
    run(model, tmp_path / "two", "float32", 2)
    values = load_file(path)
    values["gpt_neox.layers.2.attention.context"][0, 0, 3] *= 1 + 1e-6
    save_file(values, path)
    (wrong,) = [each for each in bits(one, read_capture(tmp_path / "two")) if each.differing]
    assert wrong[:3] == ("gpt_neox.layers.2.attention.context", 1, 1) and wrong.differing == 1
    assert "layer 2, rank 1, decode step 1: attention.context" in twice(one, [wrong])
    run(model, tmp_path / "two", "float32", 1)
    with pytest.raises(SettingsError, match=r"is of 2 ranks, .* of 1: ranks are compared one by"):
        bits(one, read_capture(tmp_path / "two"))


def test_bits_are_signs_of_zeros_and_nan_too(model: Path, tmp_path: Path):
    engine = neoxlib.load(model, compile=False)
    name = "gpt_neox.layers.1.mlp.activation"
    pair = []
    for number in range(2):
        folder = capture(engine, tmp_path / str(number), [[60, 61]], names=[name])
        path = folder / "pass0/layer001/rank0.safetensors"
        values = load_file(path)
        values[name][0, 0, :2] = values[name].new_tensor([float("nan"), [0.0, -0.0][number]])
        save_file(values, path)
        pair.append(read_capture(folder))
    (one,) = bits(*pair)
    assert one.differing == 1 and one.greatest == 0


def test_another_capture_of_the_same_is_said_to_be_the_same_to_the_bit(
    found: Capture, model: Path, tmp_path: Path
):
    again = capture(neoxlib.load(model, compile=False), tmp_path / "again", ROWS, THEN)
    said = f"Against the capture {again}: all 144 tensors that both have are the same, to the bit"
    assert said in held(found, again, tmp_path).sentence


def test_a_run_is_captured_as_it_ran(found: Capture, model: Path, tmp_path: Path):
    about = {"dtype": "float16", "quant": None, "world_size": 2, "device": "cpu"}
    folder = results_of(tmp_path / "run", about, model_dir=str(model), max_new_tokens=3)
    seen: list[dict] = []
    result = held(found, folder, tmp_path, opener(model, seen))
    assert seen == [about | {"model_dir": str(model)}]
    assert f"Against the model of the run {folder}, as it ran there: " in result.sentence
    target = taken(parse_target(folder), parse(""), tmp_path, opener(model, seen), [[60, 61]], 1)
    assert seen[1] == seen[0] and target.manifest["dtype"] == "float16"
    shipped = results_of(tmp_path / "shipped", about, model_dir="")
    assert references.run_settings(str(shipped))["model_dir"] == str(MODEL_DIR)
    with pytest.raises(SettingsError, match="is a run of 02_inference that loaded no model"):
        references.run_settings(str(results_of(tmp_path / "none", {}, model_dir="")))


def test_a_model_folder_as_target_is_captured_as_the_run_asks(model: Path, tmp_path: Path):
    other = save_model(tmp_path / "other", hidden_act="relu")
    seen: list[dict] = []
    one = taken(parse_target(other), parse(""), tmp_path, opener(model, seen), [[60]], 0)
    assert seen == [{"model_dir": str(other)}] and one.manifest["model_dir"] == str(other)


def test_transformers_refuses_a_cut(model: Path, tmp_path: Path):
    shard(model, tmp_path / "cut", 1, progress=False)
    one = take(neoxlib.load(tmp_path / "cut", compile=False), tmp_path / "capture", [[60, 61]])
    with pytest.raises(SettingsError, match="holds a cut's, which transformers cannot read"):
        held(one, "transformers", tmp_path)


def test_a_capture_that_names_no_model_cannot_run_beside_itself(found: Capture, tmp_path: Path):
    bare = SimpleNamespace(folder=found.folder, manifest=found.manifest | {"model_dir": None})
    with pytest.raises(SettingsError, match=r"names no model folder, so 'world_size=N' cannot run"):
        references.capture_reference(parse("world_size=1"), bare, tmp_path / "no", None)

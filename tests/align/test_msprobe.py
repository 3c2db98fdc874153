"""A dump of msprobe is read as the hooks' own numbers, and one that does not fit is refused."""

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from transformers import GPTNeoXForCausalLM

import neoxlib
from neoxlib.__main__ import cli
from neoxlib.align import msprobe
from neoxlib.align.capture import capture
from neoxlib.align.foreign import capture_transformers
from neoxlib.align.joins import against
from neoxlib.align.localize import localize
from neoxlib.align.msprobe import read_msprobe
from neoxlib.align.reader import Capture, read_capture
from neoxlib.align.study import open_capture
from neoxlib.errors import NeoXError, SettingsError
from neoxlib.machine.environment import without_home
from tests.support.align_runs import ROWS, THEN, save_model
from tests.support.msprobe_dumps import dump

EVEN = [list(range(60, 70)), list(range(228, 238))]
PLACE = "step0/proc4711"
DATA = f"{PLACE}/dump_tensor_data"
NORM = "Module.gpt_neox.layers.1.input_layernorm.LayerNorm.forward.0.output.0.pt"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("dumped"))


@pytest.fixture(scope="module")
def ours(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Capture:
    folder = tmp_path_factory.mktemp("ours") / "capture"
    return read_capture(capture(neoxlib.load(model, compile=False), folder, ROWS, THEN))


@pytest.fixture(scope="module")
def even(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Capture:
    folder = tmp_path_factory.mktemp("even") / "capture"
    return read_capture(capture(neoxlib.load(model, compile=False), folder, EVEN, THEN))


def theirs(model: Path, folder: Path, like: Capture, task: str = "tensor", **how: Any) -> Path:
    return dump(GPTNeoXForCausalLM.from_pretrained(model, **how).eval(), folder, like, task)


@pytest.fixture(scope="module")
def dumped(model: Path, ours: Capture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return theirs(model, tmp_path_factory.mktemp("theirs") / "dump", ours)


@pytest.fixture
def copy(dumped: Path, tmp_path: Path) -> Path:
    return shutil.copytree(dumped, tmp_path / "copy")


def parts_of(found: Capture) -> dict:
    names = ("begin", "layer000", "layer001", "layer002", "end")
    return {key: value for name in names for key, value in found.part(name).items()}


@pytest.mark.parametrize("given", ["nothing", "a capture", "a model"])
def test_a_dump_holds_the_bits_that_hooks_see(
    given: str, model: Path, ours: Capture, dumped: Path, tmp_path: Path
):
    how = {"a capture": {"like": ours}, "a model": {"model_dir": model}}.get(given, {})
    found = read_msprobe(dumped, **how)
    hooks = capture_transformers(model, tmp_path / "hooks", ours)
    for name in ("ids", "mask", "layers", "dtype"):
        assert found.manifest[name] == hooks.manifest[name], name
    mine, seen = parts_of(found), parts_of(hooks)
    assert set(mine) == set(seen) and all(torch.equal(mine[key], seen[key]) for key in seen)
    distances = {drift[:2]: drift.distance for drift in against(ours, found)}
    for name, pass_, distance, _ in against(ours, hooks):
        assert distances[name, pass_] == pytest.approx(distance, abs=1e-12)


@pytest.mark.parametrize(
    "changes", [{"use_parallel_residual": False}, {"attention_bias": False}], ids=str
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_healthy_dump_is_not_accused_and_a_fault_in_it_is_found(
    changes: dict, dtype: str, tmp_path: Path
):
    """With a gelu of one operator: transformers' gelu_fast rounds ten times in half precision."""
    model = save_model(tmp_path / "model", hidden_act="gelu", **changes)
    engine = neoxlib.load(model, dtype, compile=False)
    ours = read_capture(capture(engine, tmp_path / "ours", EVEN, THEN))
    found = read_msprobe(theirs(model, tmp_path / "healthy", ours, dtype=dtype), ours)
    assert localize(found).first == []
    assert not localize(read_msprobe(tmp_path / "healthy"), model).first
    other = save_model(tmp_path / "other", hidden_act="relu", **changes)
    broken = read_msprobe(theirs(other, tmp_path / "broken", ours, dtype=dtype), ours)
    assert localize(broken).first[0].name == "gpt_neox.layers.0.mlp.activation"


def test_all_passes_may_be_calls_of_one_step(ours: Capture, dumped: Path, tmp_path: Path):
    """As after `generate` between one start and one stop."""
    place = tmp_path / "one" / "rank0"
    (place / "dump_tensor_data").mkdir(parents=True)
    whole = json.loads((dumped / PLACE / "dump.json").read_text())
    for number in range(3):
        step = dumped / f"step{number}" / "proc4711"
        text = (step / "dump.json").read_text().replace(".forward.0", f".forward.{number}")
        whole["data"] |= json.loads(text)["data"]
        for path in (step / "dump_tensor_data").iterdir():
            name = path.name.replace(".forward.0", f".forward.{number}")
            shutil.copy(path, place / "dump_tensor_data" / name)
    (place / "dump.json").write_text(json.dumps(whole))
    for folder in (place, place.parent):
        found = read_msprobe(folder)
        assert found.passes == ours.passes and found.manifest["ids"] == ours.manifest["ids"]
        assert max(drift.distance.relative_l2 for drift in against(ours, found)) < 1e-5


def test_queries_keys_and_values_of_level_mix_are_ours(ours: Capture, copy: Path):
    names = ("attention.rotary.query", "attention.cached.key", "attention.cached.value")
    for number in range(3):
        place = copy / f"step{number}" / "proc4711"
        head = json.loads((place / "dump.json").read_text())
        data = {}
        for name, call in head["data"].items():
            data[name] = call
            if name.endswith("query_key_value.Linear.forward.0"):
                layer = int(name.split(".")[3])
                key = f"Functional.scaled_dot_product_attention.{layer}.forward"
                data[key] = {"input_args": []}
                found = ours.part(f"layer{layer:03d}")
                for index, step in enumerate(names):
                    value = found[f"gpt_neox.layers.{layer}.{step}", number, 0].transpose(1, 2)
                    file = f"{key}.input.{index}.pt"
                    torch.save(value, place / "dump_tensor_data" / file)
                    said = {"type": "torch.Tensor", "dtype": "torch.float32", "data_name": file}
                    data[key]["input_args"].append(said | {"shape": list(value.shape)})
        head |= {"level": "mix", "data": data}
        (place / "dump.json").write_text(json.dumps(head))
    found = read_msprobe(copy, ours)
    drifts = [each for each in against(ours, found) if each.name.endswith(names)]
    assert len(drifts) == 3 * 3 * 3 and all(each.distance.same_bits for each in drifts)


def test_statistics_bound_the_distance_from_below(
    model: Path, ours: Capture, even: Capture, tmp_path: Path
):
    few = read_msprobe(theirs(model, tmp_path / "few", even, "statistics"), even)
    healthy = against(even, few)
    assert len(healthy) == (3 + 9 * 3) * 3
    assert max(drift.distance.relative_l2 for drift in healthy) < 1e-5
    assert max(drift.distance.max_error for drift in healthy) < 1e-4
    other = save_model(tmp_path / "other", hidden_act="relu")
    broken = theirs(other, tmp_path / "broken", even)
    least = against(even, read_msprobe(theirs(other, tmp_path / "least", even, "statistics"), even))
    true = {drift[:2]: drift.distance for drift in against(even, read_msprobe(broken, even))}
    far = {drift.name for drift in least if drift.distance.relative_l2 > 1e-3}
    block = "gpt_neox.layers.0"
    products = {f"{block}.mlp.activation", f"{block}.mlp.dense_4h_to_h", block}
    assert {name for name in far if name.startswith(block)} == products
    biased = ("attention.dense", "mlp.dense_4h_to_h")
    for name, pass_, distance, _ in least:
        if not name.endswith(biased):
            assert distance.relative_l2 <= true[name, pass_].relative_l2 + 1e-6
    with pytest.raises(SettingsError, match="has padding; statistics need prompts of one length"):
        against(ours, few)
    with pytest.raises(SettingsError, match="holds statistics; a comparison needs tensors"):
        localize(few)
    with pytest.raises(SettingsError, match="does not hold the token ids; give a capture"):
        read_msprobe(tmp_path / "few")


def test_a_dump_of_other_tokens_is_refused(
    model: Path, ours: Capture, even: Capture, dumped: Path, tmp_path: Path
):
    with pytest.raises(SettingsError, match="are of different token ids"):
        against(even, read_msprobe(dumped, even))
    few = theirs(model, tmp_path / "few", even, "statistics")
    engine = neoxlib.load(model, compile=False)
    shifted = [[token + 1 for token in row] for row in EVEN]
    for number, (rows, then) in enumerate(((shifted, THEN), (EVEN, [[5], [7]]))):
        other = read_capture(capture(engine, tmp_path / str(number), rows, then))
        with pytest.raises(SettingsError, match="is of other token ids than"):
            read_msprobe(few, other)


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": 400},
        {"num_hidden_layers": 2},
        {"hidden_size": 64},
        {"intermediate_size": 192},
        {"bos_token_id": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("task", ["tensor", "statistics"])
def test_a_dump_of_another_model_is_refused(
    task: str, changes: dict, even: Capture, tmp_path: Path
):
    other = save_model(tmp_path / "other", **changes)
    if "bos_token_id" in changes:  # of the same shape
        weights = GPTNeoXForCausalLM.from_pretrained(other)
        weights.gpt_neox.embed_in.weight.data *= -1.7
        weights.save_pretrained(other)
    folder = theirs(other, tmp_path / "dump", even, task)
    said = "no token's embedding is" if "bos_token_id" in changes else "or of a rank's part of it"
    with pytest.raises(SettingsError, match=f"is of another model .*{said}"):
        read_msprobe(folder, even)


def edited(path: Path, edit: Callable[[dict], Any]) -> None:
    head = json.loads(path.read_text())
    edit(head)
    path.write_text(json.dumps(head))


def elsewhere(head: dict) -> None:
    call = head["data"]["Module.gpt_neox.embed_in.Embedding.forward.0"]
    call["output"][0]["data_name"] = "../../x.pt"


def renamed(head: dict) -> None:
    head["data"] = {name.replace("Module.", "Module.bert."): x for name, x in head["data"].items()}


def without_layer(head: dict) -> None:
    head["data"] = {name: x for name, x in head["data"].items() if ".layers.1." not in name}


EDITS = {
    "has no module of GPT-NeoX": renamed,
    r"has layers \[0, 2\] only": without_layer,
    "is of task 'tensor', level 'L1': no modules; dump anew": lambda head: head.update(level="L1"),
    "is of task 'overflow_check', level": lambda head: head.update(task="overflow_check"),
    r"is damaged, or no dump\.json of msprobe \(data is missing": lambda h: h.pop("data"),
    r"dump\.json is damaged, or no dump\.json": lambda head: head.update(data=[1]),
    "names a file outside its folder": elsewhere,
    "has passes without gpt_neox.embed_in": lambda head: head["data"].pop(
        "Module.gpt_neox.embed_in.Embedding.forward.0"
    ),
}


@pytest.mark.parametrize("said", EDITS)
def test_a_dump_json_that_does_not_serve_is_refused(said: str, copy: Path):
    for path in copy.glob("step*/*/dump.json"):
        edited(path, EDITS[said])
    with pytest.raises(SettingsError, match=said):
        read_msprobe(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"task": "tensor"}', "\udcff"])
def test_a_damaged_dump_json_is_refused(text: str, copy: Path):
    (copy / PLACE / "dump.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SettingsError, match=r"dump\.json is damaged"):
        read_msprobe(copy)


ODD = (None, [], {}, "x", -1, 0, 1e999, True, [[]], {"type": "torch.Tensor"}, "torch.int8")


def test_whatever_stands_in_a_dump_json_it_is_read_or_refused(ours: Capture, copy: Path):
    path = copy / PLACE / "dump.json"
    text = path.read_text()
    random.seed(1)
    refused = 0
    for _ in range(120):
        node = head = json.loads(text)
        key = random.choice(["data", "data", "data", "task", "level"])
        while isinstance(node[key], dict | list) and node[key] and random.random() < 0.9:
            node = node[key]
            key = random.choice(list(node) if isinstance(node, dict) else range(len(node)))
        node[key] = random.choice(ODD)
        path.write_text(json.dumps(head))
        try:
            against(ours, read_msprobe(copy, ours))
        except NeoXError:
            refused += 1
    assert 20 < refused < 120


def test_tensor_files_that_are_missing_or_damaged_are_named(ours: Capture, copy: Path):
    path = copy / DATA / NORM
    found = read_msprobe(copy, ours)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SettingsError, match=r"input_layernorm.* cannot be read as a tensor"):
        against(ours, found)
    torch.save(torch.ones(3), path)
    with pytest.raises(SettingsError, match=r"holds .*\[3\], dump\.json says .*\[2, 16, 128\]"):
        against(ours, found)
    path.unlink()
    with pytest.raises(SettingsError, match=r"output\.0\.pt is missing; copy or take"):
        against(ours, found)
    (copy / DATA / "Module.gpt_neox.embed_in.Embedding.forward.0.input.0.pt").unlink()
    with pytest.raises(SettingsError, match=r"input\.0\.pt is missing"):
        read_msprobe(copy, ours)


OTHERS = {  # what a tensor file holds -> how, and what is said of it
    "complex": (lambda x: torch.complex(x, x + 1e6), r"holds torch\.complex64 "),
    "whole numbers": (lambda x: x.int(), r"holds torch\.int32 "),
    "sparse": (lambda x: x.to_sparse(), "holds a tensor that is not dense"),
    "on the meta device": (lambda x: x.to("meta"), "holds a tensor without numbers"),
    "objects": (lambda x: {"x": x}, "holds dict"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_tensor_of_another_dtype_or_that_is_not_dense_is_refused(
    what: str, ours: Capture, copy: Path
):
    edit, said = OTHERS[what]
    path = copy / DATA / NORM
    torch.save(edit(torch.load(path)), path)
    with pytest.raises(SettingsError, match=rf"{said}.*dump\.json says torch\.float32 \["):
        read_msprobe(copy, ours).part("layer001")


def test_a_dump_that_says_itself_that_a_step_is_complex_is_refused(ours: Capture, copy: Path):
    path = copy / PLACE / "dump.json"
    head = json.loads(path.read_text())
    name = NORM.removesuffix(".output.0.pt")
    head["data"][name]["output"][0]["dtype"] = "torch.complex64"
    path.write_text(json.dumps(head))
    with pytest.raises(SettingsError, match=r"is of torch\.complex64, not one of"):
        read_msprobe(copy, ours)


class Bomb:
    """Runs a command where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_a_tensor_file_runs_no_code(ours: Capture, copy: Path, tmp_path: Path):
    torch.save(Bomb(tmp_path / "bang"), copy / DATA / NORM)
    with pytest.raises(SettingsError, match="cannot be read as a tensor"):
        against(ours, read_msprobe(copy, ours))
    with (copy / DATA / NORM).open("wb") as file:
        pickle.dump(Bomb(tmp_path / "bang"), file)
    with pytest.raises(SettingsError, match="cannot be read as a tensor"):
        against(ours, read_msprobe(copy, ours))
    assert not (tmp_path / "bang").exists()


def test_folders_of_other_runs_beside_it_are_refused(copy: Path):
    shutil.copytree(copy / PLACE, copy / "step0/proc9")
    with pytest.raises(SettingsError, match=r"is of several runs: \['proc9', 'proc4711'\]"):
        read_msprobe(copy)
    shutil.rmtree(copy / "step0/proc9")
    shutil.copytree(copy / "step0", copy / "step3")
    with pytest.raises(SettingsError, match="is of several prompts in turn"):
        read_msprobe(copy)
    shutil.rmtree(copy / "step3/proc4711")
    with pytest.raises(SettingsError, match=r"step3 has no dump\.json"):
        read_msprobe(copy)


def test_of_several_ranks_the_first_is_read(ours: Capture, copy: Path):
    for number in range(3):
        step = copy / f"step{number}"
        (step / "proc4711").rename(step / "rank0")
        (step / "rank1").mkdir()
        (step / "rank1" / "dump.json").write_text("not read")
    assert read_msprobe(copy).manifest["ids"] == ours.manifest["ids"]


def test_the_biases_come_from_the_dump_or_from_the_model(ours: Capture, copy: Path):
    for path in copy.glob("step*/*/dump.json"):
        edited(path, lambda head: [call.update(parameters={}) for call in head["data"].values()])
    assert max(d.distance.relative_l2 for d in against(ours, read_msprobe(copy, ours))) < 1e-5
    with pytest.raises(SettingsError, match="lacks the biases: dump with data_mode"):
        against(ours, read_msprobe(copy))


def test_the_command_and_the_notebook_take_a_dump(
    model: Path, ours: Capture, dumped: Path, tmp_path: Path
):
    assert isinstance(open_capture(dumped, ours), msprobe.Dump)
    asked = ["align", "--target", str(ours.folder), "--reference", str(dumped)]
    said = CliRunner().invoke(cli, asked)
    assert said.exit_code == 0, said.output
    assert said.output.startswith("every step that was seen is right")
    assert f"Against the capture {without_home(str(dumped))}: " in said.output
    said = CliRunner().invoke(cli, ["align", str(model), "--target", str(dumped)])
    assert said.exit_code == 0 and said.output.startswith("every step that was seen is right")
    said = CliRunner().invoke(cli, ["align", "--target", str(dumped)])  # the shipped model
    assert said.exit_code == 1 and "is of another model than" in said.stderr
    with pytest.raises(SettingsError, match="does not say of which model it is; give its folder"):
        localize(read_msprobe(dumped))

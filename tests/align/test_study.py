"""A study ends in a sentence that names layer, rank and step, and in a script that shows it."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file, save_file

import neoxlib
from neoxlib.align import figures, lens, references, reproduce, study, tables, three_way, verdict
from neoxlib.align.capture import capture
from neoxlib.align.localize import localize
from neoxlib.align.reader import Capture, read_capture
from neoxlib.align.study import Study, take
from neoxlib.align.verdict import command
from neoxlib.errors import SettingsError
from neoxlib.kernels.cpu import build
from neoxlib.workbook.metrics import METRICS
from tests.support.align_runs import run, save_model
from tests.support.faults import FAULTS
from tests.support.planted import Spot


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("aligned"))


def studied(model: Path, folder: Path, kind: str, size: int = 2) -> Study:
    fault = next((fault for fault in FAULTS if fault.kind == kind), None)
    alignment = run(model, folder, "float32", size, fault, Spot(1, size - 1))
    found = read_capture(folder)
    plain = references.plain(found, folder.with_name("plain"))
    same = study.witness(found, plain)
    return Study(found, three_way.with_witness(alignment, same), same)


SENTENCES = {
    "healthy": "every step that was seen is right: the greatest own error is ",
    "a rank's term is lost": "layer 1, every rank, prefill: all_reduce.after is off by up to ",
    "cache slot off by one from pass 1": "layer 1, every rank, decode step 1: attention.cached.key",
    "rows of the neighbour, h_to_4h": "layer 1, rank 1, prefill: mlp.dense_h_to_4h is off by up to",
    "NaN in one weight": "layer 1, rank 1, prefill: mlp.dense_4h_to_h has 25 values that are not",
    "all-reduce not made": "layer 1, every rank, prefill: all_reduce.before was not made there",
    "vocabulary off by one": "the embedding, rank 1, prefill: gpt_neox.embed_in.all_reduce.before",
    "head of another rank": "the head, rank 1, prefill: embed_out is off by up to ",
}


@pytest.mark.parametrize("kind", SENTENCES)
def test_the_sentence_names_the_place(kind: str, model: Path, tmp_path: Path):
    found = studied(model, tmp_path / "capture", kind)
    assert found.sentence.startswith(SENTENCES[kind])
    if kind == "a rank's term is lost":
        assert "(the sum lacks the term of rank 1); everything before it is within" in (
            found.sentence
        )
    worst = tables.frame(found)["own_max"].max()
    told = verdict.key_figures(found.alignment)
    assert told["greatest_own_error"] == worst and set(told) <= set(METRICS)
    assert (told["guilty_steps"] == 0) == (kind == "healthy")
    passed = [ok for _, ok, _ in found.checks]
    assert all(passed) == (kind == "healthy") and len(passed) == 4


OF_EACH_OPERATOR = (
    "rows of the neighbour, q, k, v",
    "bias of dense on every rank",
    "neighbours rotated",
    "cache slot off by one from pass 1",
    "scale missing",
    "relu for gelu",
    "a rank's term is lost",
    "biases divided",
    "the two norms swapped",
    "final norm's bias left out",
    "head of another rank",
    "vocabulary off by one",
    "embedding of the neighbour",
    "all-reduce not made",
    "layer left out",
)


def ran(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> list[str]:
    """The two lines that the script says."""
    script = (folder / "reproduce.py").read_text()
    assert len(script.splitlines()) < 32 and "neoxlib" not in script
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["reproduce.py"])
    capsys.readouterr()
    runpy.run_path("reproduce.py")
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("kind", OF_EACH_OPERATOR)
def test_the_reproduction_shows_the_error_and_the_right_result(
    kind: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    found = studied(model, tmp_path / "capture", kind)
    folder = tmp_path / "reproduction"
    names = reproduce.write(found.capture, found.alignment, folder, found.sentence)
    assert names == ["reproduce.py", "inputs.safetensors"]
    seen, now = ran(folder, monkeypatch, capsys)
    assert seen.startswith("observed in the run: off by up to ")
    assert now.startswith("computed now: off by up to ")
    units = [float(line.split("up to ")[1].split()[0]) for line in (seen, now)]
    assert units[0] > 8 > units[1]
    told = "before it was not made." in (folder / names[0]).read_text()
    assert told == (kind in ("all-reduce not made", "layer left out"))


def test_an_input_that_was_not_captured_is_computed_for_the_reproduction(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    engine = neoxlib.load(model, compile=False)
    engine.model.gpt_neox.layers[2].mlp.form = "relu"
    names = ["*.mlp.activation"]
    found = read_capture(capture(engine, tmp_path / "few", [[60, 61, 62]], names=names))
    alignment = localize(found)
    assert alignment.first[0].name == "gpt_neox.layers.2.mlp.activation"
    reproduce.write(found, alignment, tmp_path / "out", "said")
    assert (
        "Unseen in the run, and computed from what was seen"
        in (tmp_path / "out/reproduce.py").read_text()
    )
    seen, now = ran(tmp_path / "out", monkeypatch, capsys)
    assert float(seen.split("up to ")[1].split()[0]) > 8 > float(now.split("up to ")[1].split()[0])


def test_a_tensor_of_another_shape_is_shown_as_one(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    found = take(neoxlib.load(model, compile=False), tmp_path / "capture", [[60, 61, 62]])
    path = tmp_path / "capture/pass0/layer001/rank0.safetensors"
    values = load_file(path)
    name = "gpt_neox.layers.1.mlp.activation"
    save_file(values | {name: values[name][..., :100].contiguous()}, path)
    reproduce.write(found, localize(found), tmp_path / "out", "said")
    seen, now = ran(tmp_path / "out", monkeypatch, capsys)
    assert seen == "observed in the run: shape [1, 3, 100], expected [1, 3, 256]"
    assert now.startswith("computed now: off by up to ")


def test_where_nothing_is_guilty_nothing_is_reproduced(model: Path, tmp_path: Path):
    found = studied(model, tmp_path / "capture", "healthy")
    assert reproduce.write(found.capture, found.alignment, tmp_path / "no", found.sentence) == []
    assert not (tmp_path / "no").exists()


def test_tables_and_figures_hold_what_was_found(model: Path, tmp_path: Path):
    found = studied(model, tmp_path / "capture", "rows of the neighbour, h_to_4h")
    rows = tables.frame(found)
    guilty = rows[rows["guilty"]]
    assert set(guilty["layer"]) == {1} and rows["layer"].isna().sum() == 4 * 3 * 2
    assert set(guilty["step"]) == {"mlp.dense_h_to_4h"} and set(guilty["rank"]) == {1}
    assert "mlp.activation" in repr(tables.opened(found)) and "rank 1" in repr(
        tables.by_rank(found)
    )
    assert len(figures.strip(found).axes) == 4 and len(figures.three_way(found).axes) == 1
    saved: dict[str, object] = {}
    kept = SimpleNamespace(save=lambda name, df: saved.setdefault(name, df))
    text = repr(tables.three_way(kept, found))
    assert (
        "relative distance of the same dtype (L2)" in text
        and "carried" in text
        and "guilty" in text
    )
    whole = saved["three_way"]
    assert set(whole["pass"]) == {0, 1, 2} and len(whole) == len(found.lines) > 100
    assert list(whole[whole["verdict"] == "guilty"]["step"]) == ["mlp.dense_h_to_4h"] * 3
    assert "same bits" in repr(tables.worst(kept, found)) and "same_bits" in saved["worst"]


def test_the_last_line_of_the_lens_is_what_the_model_says(model: Path, tmp_path: Path):
    engine = neoxlib.load(model)
    found = take(engine, tmp_path / "capture", [[60, 61, 62], [70]])
    table = lens.lens(found)
    said = engine.logits([[60, 61, 62]])[0].argmax(-1).tolist()
    assert table.iloc[-1].tolist() == [str(token) for token in said]
    assert table.columns.tolist() == ["0 60", "1 61", "2 62"] and len(table) == 3


def test_a_repeated_capture_is_of_the_same_tokens(model: Path, tmp_path: Path):
    engine = neoxlib.load(model)
    one = take(engine, tmp_path / "one", ["abc", "d"], 3)
    two = study.repeat(engine, tmp_path / "two", one)
    for name in ("ids", "mask", "passes"):
        assert one.manifest[name] == two.manifest[name]
    with pytest.raises(SettingsError, match="decode_steps is 96, but max_seq_len is 96"):
        take(engine, tmp_path / "three", ["abc"], 96)


def test_a_check_that_failed_gets_the_place_and_the_command(model: Path):
    engine = neoxlib.load(model, compile=False)
    engine.model.gpt_neox.layers[2].mlp.form = "relu"
    said = study.where(engine, [[60, 61, 62, 63], [70]])
    assert said.startswith("layer 2, prefill: mlp.activation is off by up to")
    assert f"Look: python -m neoxlib report 06_align -p model_dir {model} -p world_size 1" in said


def test_the_command_leaves_out_what_is_not_known():
    about = {"model_dir": "a b", "world_size": 2, "dtype": "float16", "quant": None}
    given = "-p model_dir 'a b' -p world_size 2 -p dtype float16"
    assert command(about) == f"python -m neoxlib report 06_align {given}"


def test_a_study_of_some_layers_judges_only_those(model: Path, tmp_path: Path):
    found = take(neoxlib.load(model, compile=False), tmp_path / "capture", [[60, 61]])
    rows = localize(found, layers=[1]).findings
    assert {each.name.split(".")[2] for each in rows if ".layers." in each.name} == {"1"}
    assert isinstance(found, Capture)


def test_a_step_before_it_that_was_not_seen_is_named_with_it(model: Path, tmp_path: Path):
    """The kernels show the sum of both products only."""
    if build.compiled("forward") is None:
        pytest.skip(build.compile_error("forward"))
    other = save_model(tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["gpt_neox.layers.1.mlp.dense_4h_to_h.weight"][7] *= 2
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    found = take(neoxlib.load(model), tmp_path / "capture", [[60, 61, 62]])
    result = Study(found, localize(found, other), reference=references.parse(other))
    unseen = "(or attention.dense or mlp.dense_4h_to_h before it, unseen)"
    assert result.sentence.startswith(f"layer 1, prefill: all_reduce.before {unseen} is off by")
    folder = tmp_path / "reproduction"
    reproduce.write(found, result.alignment, folder, result.sentence, other)
    script = (folder / "reproduce.py").read_text()
    assert 'F.linear(t["x2"], t["weight2"])' in script and "Unseen in the run" in script

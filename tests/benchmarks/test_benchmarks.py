"""The benchmarks' shapes, names and tables. Nothing here is timed, and no peer is needed."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import GPTNeoXForCausalLM

import neoxlib
from benchmarks import big, convert, documents, jobs, picture, synthetic, table
from benchmarks.pool import ROOT, Contender, Failed, Pool
from neoxlib.checkpoint.folder import open_checkpoint
from neoxlib.model.config import ModelConfig
from neoxlib.model.parameters import count_parameters, shard_rules
from tests.support.bench_records import record, result

TINY = synthetic.SHAPES["tiny"]
SMALL = synthetic.Shape(2, 64, 4, 97)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.write(tmp_path_factory.mktemp("synthetic") / "model", SMALL)


def test_a_shape_counts_its_parameters_as_the_model_does():
    for shape in (*synthetic.SHAPES.values(), SMALL):
        assert shape.parameters == count_parameters(ModelConfig.from_dict(shape.config()))


@pytest.mark.parametrize("text", ["", "24x1024", "axbxc", "24x1000x16", "410M"])
def test_a_shape_that_cannot_be_is_refused_by_name(text: str):
    with pytest.raises(ValueError, match=repr(text)):
        synthetic.shape_of(text)


def test_a_synthetic_checkpoint_holds_every_parameter_and_no_other():
    assert synthetic.sizes(SMALL) == {name: shape for name, (shape, _) in rules(SMALL).items()}


def rules(shape: synthetic.Shape) -> dict:
    return shard_rules(ModelConfig.from_dict(shape.config()))


def test_its_answers_are_the_same_in_float32_and_run_to_the_full_length(model_dir: Path):
    prompts = synthetic.prompts({"batch": 2, "prompt": 9}, SMALL.vocab)
    assert prompts[0] != prompts[1]
    oracle = GPTNeoXForCausalLM.from_pretrained(model_dir)
    new = oracle.generate(torch.tensor(prompts), max_new_tokens=12, do_sample=False)[:, 9:].tolist()
    with neoxlib.load(model_dir) as engine:
        assert [answer.token_ids for answer in engine.generate(prompts, max_new_tokens=12)] == new


def test_every_tensor_has_a_name_in_gguf(model_dir: Path):
    with safe_open(model_dir / "model.safetensors", "np") as file:
        names = [convert.gguf_name(name) for name in file.keys()]  # noqa: SIM118
    assert len(set(names)) == len(names)
    assert {"token_embd.weight", "output.weight", "output_norm.bias", "blk.1.ffn_down.bias"} <= set(
        names
    )


def test_agreement_counts_tokens_before_the_first_other_one_in_the_median_row():
    reference = [[1, 2, 3, 4]] * 3
    assert table.agreement(reference, [[1, 2, 3, 4], [1, 2, 9, 4], [9, 2, 3, 4]]) == 2
    assert table.agreement(reference, [[1, 2, 3]] * 3) == 0  # less than was asked for


def test_medians_are_over_rounds_and_steps_and_the_first_step_stands_apart():
    rows = table.summarise(
        result(
            record("neoxlib", "1 x 128", [100, 2, 4]),
            record("neoxlib", "1 x 128", [300, 6, 8], same=1),
            record("neoxlib", "8 x 128", [300, 10, 10]),
        )
    )
    one = rows[0]["cases"]["1 x 128"]
    eight = rows[0]["cases"]["8 x 128"]
    assert (one["first_ms"], one["next_ms"], one["same_tokens"]) == (200, 5, 1)
    assert eight["tokens_per_s"] == pytest.approx(800)
    assert rows[0]["mbu"] == pytest.approx(1e8 / 5e-3 / 50e9)


def test_neoxlib_is_held_against_the_fastest_peer_of_its_precision():
    rows = table.summarise(
        result(
            record("neoxlib", "1 x 128", [100, 4, 4]),
            record("a", "1 x 128", [50, 9, 9]),
            record("b", "1 x 128", [400, 8, 8]),
            record("c, 2 ranks", "1 x 128", [1, 1, 1]),
            record("d", "1 x 128", [1, 1, 1], precision="4 bit"),
        )
    )
    found = {f["measure"]: (f["peer"], f["times"]) for f in table.against_peers(rows)}
    assert found == {"first_ms": ("a", [0.5]), "next_ms": ("b", [2.0])}


def test_ratios_are_taken_round_by_round_and_ranks_are_held_against_ranks():
    rows = table.summarise(
        result(
            record("neoxlib, 2 ranks", "1 x 128", [10, 4, 4]),
            record("neoxlib, 2 ranks", "1 x 128", [20, 8, 8]),
            record("a, 2 ranks", "1 x 128", [30, 8, 8]),
            record("a, 2 ranks", "1 x 128", [20, 24, 24]),
            record("b", "1 x 128", [1, 1, 1]),
        )
    )
    found = {f["measure"]: (f["peer"], f["times"]) for f in table.against_peers(rows)}
    assert found == {"first_ms": ("a, 2 ranks", [1.0, 3.0]), "next_ms": ("a, 2 ranks", [2.0, 3.0])}


def test_each_precision_is_a_line_and_each_case_and_measure_a_column():
    rounds = [
        record("a, 2 ranks", "1 x 128", [30, 8, 8]),
        record("a, 2 ranks", "1 x 128", [20, 24, 24]),
    ]
    ours = [
        record("neoxlib, 2 ranks", "1 x 128", [10, 4, 4]),
        record("neoxlib, 2 ranks", "1 x 128", [20, 8, 8]),
    ]
    others = [record("neoxlib", "8 x 128", [5, 2, 2]), record("b", "8 x 128", [4, 3, 3])]
    text = table.markdown(result(*rounds, *ours, *others))
    head = "1 x 128, first token | 1 x 128, next token | 8 x 128, first token | 8 x 128, next token"
    assert f"| weights |  | {head} |" in text
    first = "2.00 × a<br>(1.00–3.00)<br>15.0 ms"
    following = "2.50 × a<br>(2.00–3.00)<br>6.0 ms"
    assert f"| bf16 | neoxlib, 2 ranks | {first} | {following} | – | – |" in text
    first = "0.80 × b<br>(0.80–0.80)<br>5.0 ms"
    following = "1.50 × b<br>(1.50–1.50)<br>2.0 ms"
    assert f"| bf16 | neoxlib | – | – | {first} | {following} |" in text


def test_each_kind_of_instructions_has_a_table_of_its_own():
    assert documents.slug("AMD EPYC (AVX2)") == "avx2"
    assert documents.slug("some (AVX-512 with bfloat16)") == "avx-512-with-bfloat16"


def test_a_contender_that_fails_is_a_row_with_its_reason():
    failure = {
        "name": "a",
        "precision": "bf16",
        "case": "load and warm-up",
        "reason": "RuntimeError: no bfloat16",
    }
    text = table.markdown(result(record("neoxlib", "1 x 128", [100, 4, 4]), failures=(failure,)))
    assert "| bf16 | a | – |" in text and "- a, bf16: RuntimeError: no bfloat16" in text
    assert "Load average 1.5 before and 2.5 after" in text and "2026-01-02" in text


def test_the_picture_is_drawn_from_the_same_figures(tmp_path: Path):
    picture.picture(result(record("neoxlib", "1 x 128", [100, 4, 4])), tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text()


def test_a_document_gets_the_report_between_its_two_lines_again_and_again():
    start = documents.START.format("that")
    end = documents.END.format("that")
    readme = f"before\n{start}\nold\n{end}\nafter\n"
    once = documents.into_document(readme, "that", r"new \1")
    assert (
        once
        == documents.into_document(once, "that", r"new \1")
        == f"before\n{start}\n\nnew \\1\n\n{end}\nafter\n"
    )
    with pytest.raises(ValueError, match=r"docs/performance\.md lacks"):
        documents.into_document(readme, "other", "new")


def test_a_worker_answers_says_why_it_cannot_and_leaves_nothing_behind(
    model_dir: Path, tmp_path: Path
):
    good = Contender("neoxlib", "fp32", "Neoxlib", {"dtype": "float32"})
    bad = Contender("neoxlib", "4 bit", "Neoxlib", {"dtype": "float32", "quant": "int3"})
    with Pool({"own": Path(sys.executable)}, model_dir, SMALL.parameters, 1, tmp_path) as pool:
        answer = pool.run(good, 60, prompts=[[1, 2, 3], [4, 5, 6]], tokens=5)
        assert [len(row) for row in answer["tokens"]] == [5, 5] and len(answer["steps_ms"]) == 5
        with pytest.raises(Failed, match="SettingsError"):
            pool.run(good, 60, prompts=[[]], tokens=5)
        with pytest.raises(Failed, match="SettingsError: quant is 'int3'"):
            pool.run(bad, 60, prompts=[[1]], tokens=5)
        process = pool.workers[good].process
        assert pool.about[good]["bytes"] == 4 * (SMALL.parameters - SMALL.vocab * SMALL.hidden)
    assert process.poll() is not None


def test_the_20b_layout_is_the_published_one(data: Path):
    index = json.loads((data / "neox20b" / "model.safetensors.index.DERIVED.json").read_text())
    layouts = big.layouts(big.SHAPE)
    assert {name: file for file, layout in layouts.items() for name in layout} == index[
        "weight_map"
    ]
    assert sum(map(big.data_bytes, layouts.values())) == index["metadata"]["total_size"]
    real = ModelConfig.from_dir(data / "neox20b")
    ours = ModelConfig.from_dict(big.SHAPE.config() | {"torch_dtype": "float16", "eos_token_id": 0})
    assert replace(ours, unused=()) == replace(real, unused=())


def test_a_small_one_of_that_layout_loads_and_its_parts_measure(tmp_path: Path):
    shape = synthetic.Shape(4, 128, 4, 301)
    written = big.write(tmp_path / "whole", shape)
    stored = open_checkpoint(tmp_path / "whole")
    assert len(stored.files) == 6 and written["bytes"] == sum(
        t.nbytes for t in stored.tensors.values()
    )
    with neoxlib.load(tmp_path / "whole") as engine:
        assert engine.logits([[1, 2, 3]]).std() > 0.1
    jobs.shard(str(tmp_path / "whole"), str(tmp_path / "cut"), 2)
    assert jobs.origin(str(tmp_path / "cut"))["origin_s"] > 0  # it raises where they differ
    shutil.rmtree(tmp_path / "whole")
    with pytest.raises(AssertionError):
        jobs.origin(str(tmp_path / "cut"))


def test_too_small_a_disk_ends_the_program_before_a_byte_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture
):
    with pytest.raises(SystemExit, match="too little"):
        big.check_disk(tmp_path, 10**18)
    assert "GB free" in capsys.readouterr().out


def test_a_signal_leaves_nothing_of_the_checkpoint(tmp_path: Path):
    command = [
        sys.executable,
        "-m",
        "benchmarks.big",
        "--layers",
        "4",
        "--hidden",
        "1024",
        "--out",
        tmp_path,
    ]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        while not list(tmp_path.rglob("*.safetensors")) and process.poll() is None:
            time.sleep(0.02)
        process.terminate()
        process.wait(30)
        process.stdout.read()
    assert process.returncode and not (tmp_path / "neox-20b").exists()

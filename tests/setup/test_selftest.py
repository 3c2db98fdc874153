"""The self-test of NPU hosts: trials on emulated operators, verdicts, hosts without an NPU."""

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from neoxlib import load
from neoxlib.__main__ import cli
from neoxlib.demo import MODEL_DIR, PROMPTS
from neoxlib.kernels import npu, plain
from neoxlib.kernels.npu import NpuOps
from neoxlib.machine.chips import CHIPS
from neoxlib.model import cache, on_npu
from neoxlib.model.quant import SCHEMES
from neoxlib.setup import model_trials, operator_trials, selftest
from neoxlib.setup.npu_trials import Site, Trial
from tests.npu_wheel import levels
from tests.support.npu import reference as reference
from tests.support.thread_ranks import ThreadGroup, on_ranks

reference.install()

SITES = [Site("cpu", family, "float16") for family in (*npu.OPS, "unknown")]
SITES.append(Site("cpu", "A2", "bfloat16"))
A2 = SITES[0]


def asked(at: Site = A2) -> dict[str, Trial]:
    with reference.on_chip(at.family):
        return {trial.name: trial for trial in operator_trials.operators(at)}


@pytest.mark.parametrize("at", SITES, ids=lambda at: f"{at.family}-{at.dtype}")
def test_every_operator_of_every_chip_passes_with_room_to_spare_emulated(at):
    found = asked(at)
    assert all(trial.passed and trial.error < trial.tolerance / 3 for trial in found.values()), (
        found
    )
    assert len(found) == 13 + len(npu.OPS.get(at.family, npu.PLAIN).packed)


def test_a_trial_names_the_operator_that_it_asked_emulated():
    served = {trial.detail for trial in asked().values()} | {
        trial.detail for trial in asked(SITES[2]).values()
    }
    assert served == {*npu.PAGES, "PyTorch's own"}


def scaled(by: float):
    return lambda self, q, k, v, mask, end: NpuOps.attend_(self, q * by, k, v, mask, end)


MISTAKES = {
    "attention without its scale": ("attend", scaled(96**0.5), "attention"),
    "attention that reads past the end": (
        "attend",
        lambda self, q, k, v, mask, end: plain.attend(q, k, v, None, k.shape[2]),
        "attention",
    ),
    "a mask that hides nothing": (
        "attend",
        lambda self, q, k, v, mask, end: plain.attend(q, k, v, None, end),
        "attention",
    ),
    "sine and cosine exchanged": (
        "rotate",
        lambda self, x, cos, sin: NpuOps.rotate_(self, x, sin, cos),
        "rotary",
    ),
    "heads in the wrong order": ("rotate", lambda self, x, cos, sin: x.flip(1), "rotary"),
    "pairs that lie side by side": (
        "rotate",
        lambda self, x, c, s: npu.npu.npu_rotary_mul(x, c, s, "interleave"),
        "rotary",
    ),
    "fast_gelu": ("activate", lambda self, x, form: npu.npu.fast_gelu(x), "activation"),
    "a norm without its bias": (
        "layer_norm",
        lambda self, x, weight, bias, eps: plain.layer_norm(x, weight, bias * 0, eps),
        "layer norm",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_planted_mistakes_fail_emulated(monkeypatch, mistake):
    method, wrong, name = MISTAKES[mistake]
    monkeypatch.setattr(NpuOps, f"{method}_", getattr(NpuOps, method), raising=False)
    monkeypatch.setattr(NpuOps, method, wrong)
    failed = [trial.name for trial in asked().values() if not trial.passed]
    assert failed and all(trial.startswith(name) for trial in failed)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_packed_product_with_a_wrong_scale_fails_emulated(monkeypatch, name):
    kind = type(SCHEMES[name])
    right = kind.npu_arguments
    monkeypatch.setattr(
        kind,
        "npu_arguments",
        lambda self, packed, dtype: (
            (found := right(self, packed, dtype))
            | {"antiquant_scale": found["antiquant_scale"] * 1.01}
        ),
    )
    assert [trial.name for trial in asked().values() if not trial.passed] == [
        f"product with packed {name}"
    ]


def test_an_operator_that_raises_fails_and_the_others_are_asked_emulated(monkeypatch):
    def refuse(*_):
        raise RuntimeError("aclnn call failed\nerror code 561002")

    monkeypatch.setattr(NpuOps, "rotate", refuse)
    found = asked()
    assert found["rotary positions"].detail == "RuntimeError: aclnn call failed"
    assert (
        found["rotary positions"].error is None
        and sum(not trial.passed for trial in found.values()) == 1
    )


@pytest.mark.parametrize("error", [float("nan"), float("inf"), 0.2])
def test_an_error_that_is_large_or_no_number_fails(error):
    trial = Trial.judged("x", "float16", error, 0.1, "", "")
    assert not trial.passed and json.dumps(trial.error, allow_nan=False)


@contextmanager
def small(tmp_path: Path, quant: str | None = None, family: str = "A2"):
    with reference.on_chip(family):
        engine = load(
            model_trials.small_model(tmp_path), dtype="float16", quant=quant, compile=False
        )
        engine.wait_until_resident()
        on_npu.attach(engine.model, family)
        yield engine


@pytest.mark.parametrize("quant", model_trials.FORMS)
@pytest.mark.parametrize("family", ["A2", "310P"])
def test_the_two_layer_model_passes_emulated(tmp_path, family, quant):
    with small(tmp_path, quant, family) as engine:
        trial = model_trials.two_layers(engine)
    assert trial.passed and trial.error < trial.tolerance / 3


@pytest.mark.parametrize("what", ["bias", "cache", "residual"])
def test_the_two_layer_model_with_a_mistake_fails_emulated(tmp_path, monkeypatch, what):
    with small(tmp_path) as engine:
        block = engine.model.gpt_neox.layers[1]
        if what == "bias":
            block.mlp.dense_4h_to_h.bias.zero_()
        elif what == "residual":
            block.parallel = False
        else:  # each chunk overwrites the one before
            monkeypatch.setattr(cache.KVCache, "append", lambda self, count, mask=None: 0)
        assert not model_trials.two_layers(engine).passed


def test_greedy_text_is_held_against_the_reference_token_by_token_emulated(monkeypatch):
    engine = load(MODEL_DIR, dtype="float16", compile=False)
    right = model_trials.greedy_text(engine, PROMPTS["en"][:2], new_tokens=4)
    generate = engine.generate

    def one_off(prompts, **settings):
        first, second = generate(prompts, **settings)
        return [first, replace(second, token_ids=[second.token_ids[0] + 1, *second.token_ids[1:]])]

    monkeypatch.setattr(engine, "generate", one_off)
    wrong = model_trials.greedy_text(engine, PROMPTS["en"][:2], new_tokens=4)
    assert right.passed and right.error < 0.01 and not wrong.passed
    assert right.detail.startswith(PROMPTS["en"][0])


def errors_of(size: int) -> dict[str, float]:
    weight = torch.zeros(1, dtype=torch.float16)
    return on_ranks(
        size, lambda group: selftest.collectives(SimpleNamespace(group=group, weight=weight))
    )[0]


@pytest.mark.parametrize("size", [1, 3, 8])
def test_collectives_are_exact(size):
    assert set(errors_of(size).values()) == {0.0} and len(errors_of(size)) == 4


def gathered_backwards(group, x, dim=-1):
    parts = group._swap(x)[::-1]
    return torch.cat(parts, dim) if group.rank == 0 else None


@pytest.mark.parametrize(
    "method, wrong",
    [
        ("all_reduce", lambda group, x: x),
        ("gather", gathered_backwards),
        ("broadcast", lambda group, value: value),
    ],
)
def test_a_collective_that_errs_is_found(monkeypatch, method, wrong):
    monkeypatch.setattr(ThreadGroup, method, wrong)
    assert max(errors_of(2).values()) > 0


def test_the_file_holds_every_error_and_says_that_it_is_emulated(tmp_path):
    chip = replace(CHIPS["310P3"], name="310P3")
    record = selftest.TrialLog(
        tmp_path / "new" / "x.json", lambda line: None, selftest.about("cpu", chip, "cpu", 2)
    )
    with reference.on_chip(chip.family):
        assert selftest.run_trials(record, "cpu", chip, 2)
    whole = json.loads((tmp_path / "new" / "x.json").read_text())
    assert whole["emulated"] is True and whole["verdict"] == "passed" and whole["chip"] == "310P3"
    assert {"cann", "driver", "firmware", "device", "environment", "started", "seconds"} < set(
        whole
    )
    assert whole["environment"]["torch"] == torch.__version__ and whole["world_size"] == 2
    names = [check["name"] for check in whole["checks"]]
    assert len(names) == 11 + 3 + 1 + 5 and {
        "greedy text",
        "two layers over ranks",
        "all-reduce of int32",
    } < set(names)
    assert all(check["error"] <= check["tolerance"] and check["unit"] for check in whole["checks"])


def test_one_failure_is_the_verdict_and_a_file_cut_short_says_so(tmp_path):
    said = []
    head = {"emulated": False, "device": "a chip"}
    record = selftest.TrialLog(tmp_path / "x.json", said.append, head)
    record.add([Trial.judged("good", "float16", 0.0, 0.1, "", "")])
    assert json.loads(record.path.read_text())["verdict"] == "unfinished"
    record.add([Trial.failed("bad", "float16", RuntimeError("lost"))])
    assert not record.finish() and json.loads(record.path.read_text())["verdict"] == "failed"
    assert said[1].startswith("FAIL  bad, float16: no answer") and said[2].startswith(
        "1 of 2 passed on a chip"
    )
    assert not selftest.TrialLog(
        tmp_path / "y.json", said.append, head
    ).finish()  # nothing asked is nothing passed


def test_a_model_that_cannot_be_loaded_and_ranks_that_do_not_start_are_failures(tmp_path):
    read = partial(selftest._load, tmp_path, "cpu", CHIPS["310P3"], "float16", None)
    model = selftest._on_model(read, "float16", "two layers", model_trials.two_layers)
    ranks = selftest.over_ranks("nowhere", "float16", 1)
    assert not model.passed and "holds no weights" in model.detail
    assert [trial.name for trial in ranks] == ["ranks: 1"] and not ranks[0].passed


def test_where_no_npu_can_be_used_it_ends_with_77_and_writes_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(
        selftest,
        "npu_problems",
        lambda: ("torch_npu is not installed", "there is no /dev/davinci*"),
    )
    done = CliRunner().invoke(cli, ["selftest-npu", "-o", str(tmp_path / "x.json")])
    assert done.exit_code == 77 and not list(tmp_path.iterdir())
    assert "no NPU: there is no /dev/davinci*" in done.stdout
    assert done.stdout.splitlines()[-1] == "Nothing about a device was verified."


@pytest.mark.parametrize("passed, code", [(True, 0), (False, 1)])
def test_on_an_npu_the_exit_code_is_the_verdict(monkeypatch, tmp_path, passed, code):
    fake = SimpleNamespace(
        npu=SimpleNamespace(get_device_name=lambda n: "a chip", device_count=lambda: 2)
    )
    started = []
    examined = []
    monkeypatch.setattr(selftest, "npu_problems", tuple)
    monkeypatch.setattr(selftest, "start_npu", started.append)
    monkeypatch.setattr(selftest, "import_torch", lambda: fake)
    monkeypatch.setattr(selftest, "chip_for", lambda kind: CHIPS["910B3"])
    monkeypatch.setattr(selftest, "run_trials", lambda *args: examined.append(args) or passed)
    assert selftest.main(tmp_path / "x.json", lambda line: None) == code
    record, kind, chip, size = examined[0]
    assert started == [0] and (kind, chip.name, size) == ("npu", "910B3", 2)
    assert record.head["device"] == "a chip" and record.head["emulated"] is False


def test_its_module_waits_for_torch_until_there_is_an_npu():
    code = "import sys, neoxlib.setup.selftest; print('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "False\n"
    )


def test_the_document_claims_what_the_levels_say_and_no_more():
    page = Path(__file__).parents[2] / "docs" / "verification.md"
    assert levels.markdown() in page.read_text(encoding="utf-8")
    assert {row.level for row in levels.KNOWN} == {
        levels.EMULATED,
        levels.CHECKED,
        levels.DEVICE,
        levels.OPEN,
    }

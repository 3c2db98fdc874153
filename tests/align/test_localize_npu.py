"""A fault in an NPU's operator is found in its layer, step and pass; no healthy run is accused.

Emulated: the operators are those of tests/support/npu. Nothing here ran on an NPU.
"""

import runpy
import sys
from pathlib import Path

import pytest

import neoxlib
from neoxlib.align import reproduce
from neoxlib.align.capture import capture
from neoxlib.align.joins import against
from neoxlib.align.localize import localize
from neoxlib.align.reader import read_capture
from tests.support.align_runs import ROWS, THEN, found_place, save_model
from tests.support.npu import reference as reference
from tests.support.npu.aligned import engine_on, run_on
from tests.support.npu.operator_faults import (
    FAULTS,
    OperatorFault,
    break_operator,
    only_in,
    sum_left_out,
)
from tests.support.npu.path import plant

LAYERS = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("aligned"))


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("serial"), use_parallel_residual=False)


HEALTHY = [
    (family, dtype, quant, size)
    for family, dtype in (("A2", "float16"), ("A3", "bfloat16"), ("310P", "float16"))
    for quant in (None, "int8")
    for size in (1, 2)
] + [("A2", "bfloat16", "int4", 1), ("A3", "float16", "int8", 2), ("310P", "float16", "int4", 2)]
HEALTHY += [("910A", "float16", None, 1), ("unknown", "float16", "int8", 2)]


@pytest.mark.parametrize("form", ["model", "serial"])
@pytest.mark.parametrize("family, dtype, quant, size", HEALTHY)
def test_a_healthy_run_is_not_accused_emulated(family, dtype, quant, size, form, request, tmp_path):
    """Their greatest own error is well below the limit, and each rounding is measured."""
    folder = request.getfixturevalue(form)
    found = run_on(folder, tmp_path / "capture", family, dtype, quant, size)
    errors = [each.error for each in found.findings]
    assert found.first == [] and len(errors) > 100 and None not in errors
    assert 0.3 < max(error.greatest for error in errors) < 4
    assert max(error.rms for error in errors) < 0.75
    whole = {drift.name: drift.distance for drift in found.drifts}
    assert max(distance.relative_l2 for distance in whole.values()) < 0.1


CASES = [
    (fault, family, dtype, size)
    for fault in FAULTS
    for number, family in enumerate(fault.families)
    for dtype in fault.dtypes
    if family != "310P" or dtype == "float16"
    for size in (1 + number % 2,)
]


@pytest.mark.parametrize(
    "fault, family, dtype, size",
    CASES,
    ids=[f"{f.operator}: {f.kind}-{family}-{d}-{s}" for f, family, d, s in CASES],
)
def test_a_broken_operator_is_found_in_the_first_layer_that_runs_it_emulated(
    fault: OperatorFault, family, dtype, size, model, tmp_path, monkeypatch
):
    break_operator(monkeypatch, fault)
    found = run_on(model, tmp_path / "capture", family, dtype, fault.quant, size)
    name = f"gpt_neox.layers.{fault.layer}.{fault.step}"
    assert found_place(found) == (name, fault.pass_, list(range(size)))


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("family", ["A2", "A3"])
def test_a_broken_call_is_found_in_its_layer_emulated(family, size, model, tmp_path, monkeypatch):
    for fault in FAULTS[:2]:
        with monkeypatch.context() as here:
            plant(here, fault.operator, only_in(1, LAYERS, fault.change))
            found = run_on(model, tmp_path / "capture", family, size=size)
        name = f"gpt_neox.layers.1.{fault.step}"
        assert found_place(found) == (name, 0, list(range(size)))


@pytest.mark.parametrize("family", ["A2", "310P"])
def test_a_sum_over_the_ranks_that_is_left_out_is_found_emulated(family, model, tmp_path):
    found = run_on(model, tmp_path / "capture", family, size=2, plant=sum_left_out(1, LAYERS))
    assert found_place(found) == ("gpt_neox.layers.1.all_reduce.after", 0, [0, 1])
    assert "rank 0 has only its own term" in "; ".join(found.said.values())


def test_against_a_plain_run_only_steps_with_the_same_biases_are_compared_emulated(model, tmp_path):
    run_on(model, tmp_path / "npu", "A2")
    engine = neoxlib.load(model, "float16", compile=False)
    plain = read_capture(capture(engine, tmp_path / "plain", ROWS, THEN))
    drifts = against(read_capture(tmp_path / "npu"), plain)
    names = {drift.name for drift in drifts}
    assert len(names) > 25 and not [
        name for name in names if "dense_4h" in name or "all_red" in name
    ]
    assert max(drift.distance.relative_l2 for drift in drifts) < 0.02
    assert any("all_reduce" in drift.name for drift in against(plain, plain))


def test_the_sum_of_a_branch_and_a_product_can_be_shown_to_others_emulated(
    model, tmp_path, monkeypatch, capsys
):
    with reference.on_chip("A2"):
        engine = engine_on(model, "A2")
        engine.model.executor.layers[1].dense_4h_to_h.columns[3] *= 2
        found = read_capture(capture(engine, tmp_path / "one", ROWS, THEN))
    alignment = localize(found)
    assert alignment.first[0].name.endswith("all_reduce.before")
    names = reproduce.write(found, alignment, tmp_path / "shown", "")
    monkeypatch.chdir(tmp_path / "shown")
    monkeypatch.setattr(sys, "argv", names[:1])
    runpy.run_path(names[0])
    seen, now = capsys.readouterr().out.splitlines()[-2:]
    units = [float(line.split("up to ")[1].split()[0]) for line in (seen, now)]
    assert units[0] > 8 > units[1]

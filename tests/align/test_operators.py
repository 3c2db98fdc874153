"""Of a guilty step it is said whether its operator is wrong, or what the operator is given.

The NPU's operators are emulated (tests/support/npu); nothing here ran on an NPU.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import neoxlib
from neoxlib.align import operators, study, tables
from neoxlib.align.capture import capture
from neoxlib.align.localize import Alignment, Blame, Finding, localize
from neoxlib.align.operators import again_on_rank, blamed
from neoxlib.align.reader import Capture, read_capture
from neoxlib.align.study import Study
from neoxlib.align.verdict import sentence
from neoxlib.errors import SettingsError
from neoxlib.inference.engine import Engine
from neoxlib.kernels.cpu import build
from neoxlib.model.group import Group
from neoxlib.model.quant import SCHEMES
from neoxlib.model.steps import layer_of, part_of
from tests.support.align_runs import ROWS, THEN, dtype_of, save_model
from tests.support.faults import FAULTS as PLANTED
from tests.support.npu import reference as reference
from tests.support.npu.aligned import engine_on
from tests.support.npu.operator_faults import FAULTS, OperatorFault, break_operator, sum_left_out
from tests.support.planted import Spot
from tests.support.thread_ranks import on_ranks

Make = Callable[[Group], Engine]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("aligned"))


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("serial"), use_parallel_residual=False)


def both(make: Make, size: int, folder: Path) -> tuple[Capture, Alignment, Alignment]:
    """A capture, and the blames by it alone and by the engines that made it."""

    def ask(group: Group) -> None:
        again_on_rank(make(group), str(folder), first.pass_, part_of(first.name))

    on_ranks(size, lambda group: capture(make(group), folder, ROWS, THEN))
    found = read_capture(folder)
    alignment = localize(found)
    first = alignment.first[0]
    alone = blamed(found, alignment)
    on_ranks(size, ask)
    return found, alone, blamed(found, alignment)


def first_of(found: Alignment) -> list[Blame]:
    """The blames of the first guilty step, one a rank."""
    return [each for each in found.blames if each.name == found.first[0].name]


CASES = [
    (fault, family, 1 + number % 2)
    for number, fault in enumerate(FAULTS)
    for family in fault.families
    if family != "A3" or fault.operator == "npu_add_layer_norm"
]


@pytest.mark.parametrize(
    "fault, family, size", CASES, ids=[f"{f.operator}: {f.kind}-{c}-{n}" for f, c, n in CASES]
)
def test_a_broken_operator_is_to_blame_by_its_name_emulated(
    fault: OperatorFault, family, size, model, tmp_path, monkeypatch
):
    break_operator(monkeypatch, fault)
    with reference.on_chip(family):
        make = lambda group: engine_on(model, family, "float16", fault.quant, group)  # noqa: E731
        found, alone, asked = both(make, size, tmp_path / "capture")
    rows = first_of(asked)
    assert len(rows) == size and {row.operator for row in rows} == {fault.operator}
    assert {row.to_blame for row in rows} == {operators.OPERATOR}
    assert all(row.again == row.seen and row.plain.greatest < 2 for row in rows)
    others = {row.operator for row in asked.blames if row.to_blame != operators.NOTHING}
    assert others == {fault.operator}
    said = f"; the operator {fault.operator} is to blame: the plain one is within "
    assert said in sentence(found, asked)
    weighted = fault.operator.endswith(("norm", "matmul"))
    expected = operators.OR_WEIGHTS if weighted else operators.OPERATOR
    assert {row.to_blame for row in first_of(alone)} == {expected}
    assert f"the operator {fault.operator} " in sentence(found, alone)


def other_weight(engine: Engine, quant: str | None) -> None:
    product = engine.model.executor.layers[1].dense_h_to_4h
    if quant and not hasattr(product, "arguments"):  # no operator of the chip takes it
        product.layer.weight_scale.mul_(1.1)
    elif quant:
        product.arguments["antiquant_scale"] = product.arguments["antiquant_scale"] * 1.1
    else:
        product.columns[:, 3] *= 1.1


def other_bias(engine: Engine, _: str | None) -> None:
    engine.model.executor.layers[1].dense.bias.add_(0.5)


def other_norm(engine: Engine, _: str | None) -> None:
    engine.model.executor.layers[1].before_attention.weight.mul_(1.1)


def other_table(engine: Engine, _: str | None) -> None:
    steps = engine.model.executor.steps
    rows = steps._rows
    steps._rows = lambda cache: rows(cache).roll(1, 0)


GIVEN = {
    "mlp.dense_h_to_4h": other_weight,
    "attention.dense": other_bias,
    "input_layernorm": other_norm,
    "attention.rotary.query": other_table,
}


@pytest.mark.parametrize("family", ["A2", "310P"])
@pytest.mark.parametrize(
    "step, quant", [(step, None) for step in GIVEN] + [("mlp.dense_h_to_4h", q) for q in SCHEMES]
)
def test_wrong_weights_and_tables_are_not_the_operators_fault_emulated(
    family, step, quant, model, tmp_path
):
    def make(group: Group) -> Engine:
        engine = engine_on(model, family, "float16", quant, group)
        with torch.no_grad():
            GIVEN[step](engine, quant)
        return engine

    with reference.on_chip(family):
        found, _, asked = both(make, 1, tmp_path / "capture")
    assert found.chip and asked.first[0].name.endswith(step)
    assert [row.to_blame for row in first_of(asked)] == [operators.BOTH]
    assert "is not to blame by itself" in sentence(found, asked)


@pytest.mark.parametrize("family", ["A2", "310P"])
def test_a_sum_that_is_left_out_is_the_all_reduces_fault_emulated(family, model, tmp_path):
    def make(group: Group) -> Engine:
        engine = engine_on(model, family, group=group)
        sum_left_out(1, 3)(engine.model)
        return engine

    with reference.on_chip(family):
        _, alone, asked = both(make, 2, tmp_path / "capture")
    for found in (alone, asked):
        assert [row.to_blame for row in first_of(found)] == [operators.OPERATOR] * 2
        assert first_of(found)[0].operator == "all-reduce"


@pytest.mark.parametrize("family", ["A2", "A3", "310P"])
def test_an_operator_that_is_right_when_asked_again_is_not_blamed_emulated(
    family, serial, tmp_path, monkeypatch
):
    """Every step of both residual forms can be asked: all but the guilty one are right."""
    fault = next(fault for fault in FAULTS if family in fault.families)
    with reference.on_chip(family), monkeypatch.context() as broken:
        break_operator(broken, fault)
        capture(engine_on(serial, family, "float16", fault.quant), tmp_path / "one", ROWS, THEN)
    found = read_capture(tmp_path / "one")
    with reference.on_chip(family):
        engine = engine_on(serial, family, "float16", fault.quant)
        asked = blamed(found, localize(found), engine=engine)
    told = {row.name: row.to_blame for row in asked.blames}
    assert told.pop(asked.first[0].name) == operators.NOT_NOW
    assert set(told.values()) == {operators.NOTHING} and len(told) > 14
    assert "it does not happen each time" in sentence(found, asked)


OPERATORS = ("neighbours rotated", "scale missing", "relu for gelu")
WEIGHTS = ("one flipped exponent bit", "bias of a norm left out", "rows of the neighbour, h_to_4h")
KINDS = [(kind, form) for kind in OPERATORS + WEIGHTS for form in ("float32", "bfloat16")]


@pytest.mark.parametrize("kind, form", KINDS)
def test_plain_layers_can_be_asked_as_well(kind, form, model, tmp_path):
    fault = next(fault for fault in PLANTED if fault.kind == kind)

    def make(group: Group) -> Engine:
        engine = neoxlib.load(model, group=group, compile=False, **dtype_of(form))
        fault.plant(engine.model, Spot(1, 1))
        return engine

    _, _, asked = both(make, 2, tmp_path / "capture")
    expected = operators.BOTH if kind in WEIGHTS else operators.OPERATOR
    ranks = {found.rank for found in asked.first}
    assert {row.to_blame for row in first_of(asked) if row.rank in ranks} == {expected}


@pytest.mark.parametrize("form", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("part", ["stage", "weight"])
def test_a_compiled_stage_can_be_asked(part, form, model, tmp_path):
    if build.compiled("forward") is None:
        pytest.skip(build.compile_error("forward"))

    def make(group: Group) -> Engine:
        engine = neoxlib.load(model, group=group, **dtype_of(form))
        engine.wait_until_resident()
        if part == "stage":
            engine.model.executor.model.eps = 10.0
        else:
            engine.model.gpt_neox.layers[1].post_attention_layernorm.weight.data.mul_(2)
            engine.model.executor.reload_pointers()
        return engine

    found, alone, asked = both(make, 1, tmp_path / "capture")
    assert asked.first[0].name.endswith("layernorm")
    expected = operators.OPERATOR if part == "stage" else operators.BOTH
    assert [row.to_blame for row in first_of(asked)] == [expected]
    assert [row.to_blame for row in first_of(alone)] == [operators.OR_WEIGHTS]
    assert "the operator compiled stage" in sentence(found, asked)


def test_the_table_and_a_failed_check_say_who_is_to_blame(model, tmp_path):
    engine = neoxlib.load(model, compile=False)
    engine.model.gpt_neox.layers[2].mlp.form = "relu"
    said = study.where(engine, [[60, 61, 62, 63], [70]])
    assert "; the operator activation is to blame: the plain one is within one rounding. " in said
    found = study.take(engine, tmp_path / "capture", [[60, 61, 62, 63], [70]])
    healthy = Study(found, localize(found, layers=[0, 1]))
    assert "to blame" not in repr(tables.opened(healthy))
    assert blamed(found, healthy.alignment) is healthy.alignment
    asked = blamed(found, localize(found), engine=engine)
    shown = repr(tables.opened(Study(found, asked)))
    for words in ("chip's operator, roundings", "plain operator, roundings", "to blame"):
        assert words in shown
    line = next(line for line in shown.splitlines() if "mlp.activation" in line)
    assert line.split()[-1] == "operator" and shown.count("nothing") == 14


@pytest.mark.parametrize("family", ["A2", "310P", None])
@pytest.mark.parametrize("form", ["model", "serial"])
def test_the_plain_operator_of_every_step_is_right_emulated(
    form, family, request, tmp_path, monkeypatch
):
    """In a healthy run, on two ranks, with the checkpoint's weights: the reproduction's inputs."""
    folder = request.getfixturevalue(form)

    def make(group: Group) -> Engine:
        if family:
            return engine_on(folder, family, group=group)
        return neoxlib.load(folder, "float16", group=group, compile=False)

    with reference.on_chip(family or "A2"):
        on_ranks(2, lambda group: capture(make(group), tmp_path / "one", ROWS, THEN))
    found = read_capture(tmp_path / "one")
    healthy = localize(found)
    monkeypatch.setattr(Finding, "guilty", property(lambda one: layer_of(one.name) == 1))
    rows = blamed(found, healthy).blames
    assert len(rows) == sum(each.guilty and each.pass_ == 0 for each in healthy.findings)
    assert {row.to_blame for row in rows} == {operators.NOTHING}
    assert max(row.plain.greatest for row in rows) < 4


def test_an_engine_of_another_model_is_refused(model, serial, tmp_path):
    engine = neoxlib.load(model, compile=False)
    engine.model.gpt_neox.layers[1].mlp.form = "relu"
    found = read_capture(capture(engine, tmp_path / "one", ROWS, THEN))
    other = neoxlib.load(serial, compile=False)
    with pytest.raises(SettingsError, match=r"one has fingerprint .* session that was captured"):
        blamed(found, localize(found), engine=other)
    assert not (tmp_path / "one" / "again").exists()


def test_what_was_found_is_not_lost_where_nobody_can_be_asked(model, tmp_path, caplog):
    engine = neoxlib.load(model, compile=False)
    engine.model.gpt_neox.layers[1].mlp.form = "relu"
    found = read_capture(capture(engine, tmp_path / "one", ROWS, THEN))
    (tmp_path / "one" / "again").write_text("in the way")
    asked = blamed(found, localize(found), engine=engine)
    assert [row.again for row in first_of(asked)] == [None]
    assert "the operator activation is to blame" in sentence(found, asked)
    assert "could not be asked again" in caplog.text and "cannot be written" in caplog.text

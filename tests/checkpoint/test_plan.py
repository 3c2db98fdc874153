"""The plan of a cut, in bytes. Oracles: the published 20B model, the files of a cut."""

import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from neoxlib.__main__ import cli
from neoxlib.checkpoint.plan import parameter_plan
from neoxlib.checkpoint.shard import shard
from neoxlib.errors import ShardError
from neoxlib.model.config import ModelConfig
from neoxlib.model.quant import SCHEMES
from neoxlib.speed.budget import Budget
from tests.support.checkpoint_files import read_folder
from tests.support.oracle_models import make_oracle


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_oracle().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Columns in whole groups of every scheme, and one layer in float16."""
    folder = tmp_path_factory.mktemp("source")
    oracle = make_oracle(hidden_size=128, intermediate_size=256, vocab_size=301)
    oracle.gpt_neox.layers[1].mlp.half()
    oracle.save_pretrained(folder)
    return folder


def bytes_in(folder: Path) -> int:
    """Bytes of all tensors in a folder's files."""
    return sum(tensor.nbytes for tensor in read_folder(folder).values())


def test_the_plan_of_the_20b_counts_its_published_parameters(data):
    """20,554,567,680: the sum over the shapes of the paper's table.

    It has 44 layers, 6144 wide, and 50432 rows.
    """
    rows = parameter_plan(data / "neox20b", 1)
    assert sum(row.total_bytes for row in rows) == 2 * 20_554_567_680
    assert all(
        row.rank_bytes == row.total_bytes and row.rank_shape == row.full_shape for row in rows
    )
    eight = {row.tensor: row for row in parameter_plan(data / "neox20b", 8)}
    assert eight["gpt_neox.layers.*.attention.query_key_value.weight"].rank_shape == (
        64 // 8 * 3 * 96,
        6144,
    )
    assert eight["gpt_neox.layers.*.attention.query_key_value.weight"].count == 44
    assert eight["gpt_neox.layers.*.attention.dense.bias"].total_bytes == 8 * 44 * 6144 * 2
    assert eight["embed_out.weight"].rank_bytes == 50432 // 8 * 6144 * 2


@pytest.mark.parametrize("size", [1, 2, 8])
def test_the_plan_foretells_what_each_rank_holds(model, tmp_path, size):
    rows = parameter_plan(model, size, "float32")
    shard(model, tmp_path, size, progress=False)
    held = [bytes_in(tmp_path / f"part_model/{rank}") for rank in range(size)]
    assert sum(row.total_bytes for row in rows) == sum(held)
    assert sum(row.rank_bytes for row in rows) == max(held)
    assert len(rows) == 16 and all(
        row.total_bytes >= row.count * 4 * math.prod(row.full_shape) for row in rows
    )


def test_a_plan_of_the_impossible_is_refused(model):
    for size in (0, 3, 16, -1):
        with pytest.raises(ShardError, match="world_size may be 1, 2, 4, 8"):
            parameter_plan(model, size)
    with pytest.raises(
        ShardError, match="weights are not stored as 'int3'; dtype may be float16, bfloat16"
    ):
        parameter_plan(model, 2, "int3")


@pytest.mark.parametrize("quant", SCHEMES)
def test_the_plan_foretells_the_bytes_of_each_rank_of_a_quantized_cut(source, tmp_path, quant):
    shard(source, tmp_path, 4, dtype="float16", quant=quant, progress=False)
    held = [bytes_in(tmp_path / f"part_model/{rank}") for rank in range(4)]
    for model in (source, tmp_path):
        rows = parameter_plan(model, 4, "float16", None if model == tmp_path else quant)
        assert (sum(row.rank_bytes for row in rows), sum(row.total_bytes for row in rows)) == (
            max(held),
            sum(held),
        )
    budget = Budget(ModelConfig.from_dir(source), 4, 1, 96, "float16", quant)
    assert sum(budget.weights.values()) == max(held)
    assert budget.operations(7) == Budget(
        ModelConfig.from_dir(source), 4, 1, 96, "float16"
    ).operations(7)


def test_the_shell_cuts_packed_and_plans_packed(source, tmp_path):
    run = CliRunner().invoke
    cut = run(
        cli, ["shard", str(source), str(tmp_path / "cut"), "--world-size", "2", "--quant", "int4"]
    )
    assert cut.exit_code == 0, cut.output
    assert (
        "float16, weights int4"
        in run(cli, ["plan", str(source), "--quant", "int4", "--world-size", "2"]).output
    )
    assert "float16, weights int4" in run(cli, ["plan", str(tmp_path / "cut")]).output
    assert "did you mean 'int8'?" in run(cli, ["plan", str(source), "--quant", "int88"]).output

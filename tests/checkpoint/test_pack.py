"""Quantized models: loaded, cut, cut again, split over ranks.

Oracle: transformers on the dequantized weights.
"""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import GPTNeoXForCausalLM

import neoxlib
from neoxlib.checkpoint.load import load_into
from neoxlib.checkpoint.pack import packed
from neoxlib.checkpoint.plan import parameter_plan
from neoxlib.checkpoint.shard import merge, shard
from neoxlib.checkpoint.verify import verify
from neoxlib.errors import SettingsError, ShardError, WeightsError
from neoxlib.inference import decode, parity
from neoxlib.inference.engine import Engine
from neoxlib.model.config import ModelConfig
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.group import Group
from neoxlib.model.parameters import full_parameters
from neoxlib.model.quant import SCHEMES, Packed
from tests.support.oracle_models import make_oracle
from tests.support.packable import SHAPE, save_packable
from tests.support.parts import group_of
from tests.support.run_notes import Notes
from tests.support.thread_ranks import on_ranks

ROOT = Path(__file__).parents[2]
load = partial(neoxlib.load, compile=False)  # PyTorch's operators
MATRICES = (
    "query_key_value.weight",
    "dense.weight",
    "dense_h_to_4h.weight",
    "dense_4h_to_h.weight",
)
CUT_COLUMNS = ("attention.dense.weight", "dense_4h_to_h.weight")
IDS = torch.tensor([[5, 9, 200, 31, 7, 7, 90], [0, 0, 1, 2, 3, 300, 44]])
MASK = torch.tensor([[1] * 7, [0, 0] + [1] * 5])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_packable(tmp_path_factory.mktemp("source"))


def scheme_for(name: str, quant: str):
    """The scheme of a weight, stated independently."""
    return (
        SCHEMES["int8"]
        if name == "embed_out.weight"
        else SCHEMES[quant]
        if name.endswith(MATRICES)
        else None
    )


def whole(source: Path, quant: str) -> dict[str, Tensor]:
    """Every tensor of the source, each quantized weight in one call."""
    found = {}
    for file in source.glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            name = name.replace("lm_head", "embed_out")
            scheme = scheme_for(name, quant)
            parts: Packed = scheme.pack(tensor) if scheme else {"weight": tensor}
            found |= (
                {name.removesuffix("weight") + part: x for part, x in parts.items()}
                if scheme
                else {name: tensor}
            )
    return found


def part_of(name: str, full: Tensor, rank: int, size: int) -> Tensor:
    """A rank's part of a quantized or plain tensor, stated independently."""
    if name.endswith(("norm.weight", "norm.bias", "dense.bias", "dense_4h_to_h.bias")):
        return full
    if name.removesuffix("_scale").endswith(CUT_COLUMNS):
        return full.chunk(size, 1)[rank] if full.ndim == 2 else full
    return full[len(full) * rank // size : len(full) * (rank + 1) // size]


def state(engine: Engine) -> dict[str, Tensor]:
    return dict(engine.model.named_parameters())


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype and torch.equal(ours[name], tensor), name


def of_ranks(
    model_dir: Path, size: int, quant: str | None, dtype: str = "float32"
) -> list[dict[str, Tensor]]:
    groups = [group_of(rank, size) for rank in range(size)]
    return [state(load(model_dir, dtype, quant=quant, group=group)) for group in groups]


@pytest.mark.parametrize("quant", SCHEMES)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_load_by_rows_is_the_pack_of_the_whole_at_any_world_size(
    source, quant, size, monkeypatch
):
    monkeypatch.setattr("neoxlib.checkpoint.pack.BLOCK", 3000)
    for rank, ours in enumerate(of_ranks(source, size, quant)):
        expected = {
            name: part_of(name, full, rank, size) for name, full in whole(source, quant).items()
        }
        fixed = {
            name
            for name, full in full_parameters(ModelConfig.from_dir(source), quant).items()
            if full.dtype
        }
        assert_same(ours, {name: x if name in fixed else x.float() for name, x in expected.items()})


@pytest.mark.parametrize("quant", SCHEMES)
def test_logits_equal_transformers_on_the_unpacked_weights_at_any_world_size(source, quant):
    oracle = GPTNeoXForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    for name, parameter in oracle.named_parameters():
        scheme = scheme_for(name.replace("lm_head", "embed_out"), quant)
        if scheme:
            parameter.data = scheme.unpack(scheme.pack(parameter.data), torch.float32)
    truth = oracle(IDS, attention_mask=MASK).logits
    for size in (1, 2, 4):
        found = on_ranks(
            size, lambda group: load(source, quant=quant, group=group).logits(IDS, MASK)
        )[0]
        torch.testing.assert_close(found[MASK.bool()], truth[MASK.bool()], rtol=0, atol=1e-4)


def test_the_residual_one_after_the_other_and_a_tied_head_are_packed_too(tmp_path):
    make_oracle(**SHAPE, use_parallel_residual=False, tie_word_embeddings=True).save_pretrained(
        tmp_path
    )
    alone = load(tmp_path, quant="int4")
    assert not [name for name in state(alone) if "embed" in name and "scale" in name]
    found = on_ranks(4, lambda group: load(tmp_path, quant="int4", group=group).logits(IDS, MASK))[
        0
    ]
    torch.testing.assert_close(found, alone.logits(IDS, MASK), rtol=0, atol=1e-4)


@pytest.mark.parametrize("quant", SCHEMES)
@pytest.mark.parametrize("max_file_bytes", [2 << 30, 60_000], ids=["one file", "many files"])
def test_a_packed_cut_holds_the_same_bits_and_loads_at_any_world_size(
    source, tmp_path, quant, max_file_bytes
):
    manifest = shard(
        source, tmp_path / "cut", 2, quant=quant, max_file_bytes=max_file_bytes, progress=False
    )
    assert manifest["quant"] == quant and verify(tmp_path / "cut", progress=False)
    for rank in range(2):
        files = (tmp_path / "cut" / "part_model" / str(rank)).glob("*.safetensors")
        there = {name: tensor for file in files for name, tensor in load_file(file).items()}
        assert_same(
            there,
            {name: part_of(name, full, rank, 2) for name, full in whole(source, quant).items()},
        )
    for size in (1, 2, 4):
        expected = of_ranks(source, size, quant)
        for asked in (None, quant):
            for ours, theirs in zip(of_ranks(tmp_path / "cut", size, asked), expected, strict=True):
                assert_same(ours, theirs)
    shard(tmp_path / "cut", tmp_path / "again", 4, progress=False)
    shard(source, tmp_path / "direct", 4, quant=quant, progress=False)
    verify(tmp_path / "again", progress=False)
    for ours, theirs in zip(
        of_ranks(tmp_path / "again", 4, None), of_ranks(tmp_path / "direct", 4, None), strict=True
    ):
        assert_same(ours, theirs)


def test_a_tensor_is_packed_once_and_begins_at_a_multiple_of_its_width(
    source, tmp_path, monkeypatch
):
    packs = []
    plain = SCHEMES["int4"].pack
    monkeypatch.setattr(SCHEMES["int4"], "pack", lambda *given: packs.append(1) or plain(*given))
    shard(source, tmp_path / "cut", 4, quant="int4", progress=False)
    assert len(packs) == 3 * len(MATRICES)
    assert packed.cache_info().currsize == 0
    for file in (tmp_path / "cut").rglob("*.safetensors"):
        header = json.loads(file.read_bytes()[8:].split(b"}}")[0] + b"}}")
        widths = {"F32": 4, "F16": 2, "U8": 1, "I8": 1}
        for name, entry in header.items():
            assert (
                name == "__metadata__" or entry["data_offsets"][0] % widths[entry["dtype"]] == 0
            ), name


def test_the_dtype_of_a_packed_cut_is_that_of_what_is_not_packed(source, tmp_path):
    shard(source, tmp_path / "cut", 2, dtype="bfloat16", quant="int4", progress=False)
    shard(tmp_path / "cut", tmp_path / "one", 1, dtype="float16", progress=False)
    expected = whole(source, "int4")
    there = load_file(tmp_path / "one" / "part_model" / "0" / "model.safetensors")
    fixed = {
        name
        for name, full in full_parameters(ModelConfig.from_dir(source), "int4").items()
        if full.dtype
    }
    assert_same(
        there, {name: x if name in fixed else x.bfloat16().half() for name, x in expected.items()}
    )
    assert_same(state(load(tmp_path / "one" / "part_model" / "0")), state(load(tmp_path / "one")))


def test_another_dtype_of_the_model_leaves_packed_weights_as_they_are(source):
    with torch.device("meta"):
        model = (
            GPTNeoX(ModelConfig.from_dir(source), quant="int4").to(torch.bfloat16).half().bfloat16()
        )
    load_into(model, source)
    dtypes = {name: tensor.dtype for name, tensor in model.named_parameters()}
    assert dtypes["gpt_neox.layers.0.mlp.dense_h_to_4h.weight_scale"] == torch.float16
    assert dtypes["gpt_neox.layers.0.mlp.dense_h_to_4h.weight"] == torch.uint8
    assert (
        dtypes["embed_out.weight_scale"] == torch.float32
        and dtypes["embed_out.weight"] == torch.int8
    )
    assert (
        dtypes["gpt_neox.layers.0.mlp.dense_h_to_4h.bias"]
        == dtypes["gpt_neox.embed_in.weight"]
        == torch.bfloat16
    )
    assert_same(dict(model.named_parameters()), of_ranks(source, 1, "int4", "bfloat16")[0])


def test_what_cannot_be_packed_is_refused_with_what_to_do(source, tmp_path):
    shard(source, tmp_path / "cut", 2, quant="int8", progress=False)
    with pytest.raises(
        SettingsError, match=r"quant is 'int4', but .* packed as 'int8': leave quant out, or give"
    ):
        load(tmp_path / "cut", quant="int4")
    with pytest.raises(SettingsError, match="packed as 'int8': leave quant out"):
        shard(tmp_path / "cut", tmp_path / "new", 2, quant="int4")
    with pytest.raises(
        WeightsError, match=r"packed as int8, which do not turn back .* world size 1"
    ):
        merge(tmp_path / "cut", tmp_path / "new")
    with pytest.raises(SettingsError, match=r"quant is 'int44'; did you mean 'int4'\?"):
        shard(source, tmp_path / "new", 2, quant="int44")
    with pytest.raises(
        ShardError,
        match=r"128 and 256 columns in the int4 scheme's groups of 32 cannot be cut over 8 "
        r"ranks; world_size may be 1, 2, 4$",
    ):
        shard(source, tmp_path / "new", 8, quant="int4")
    with pytest.raises(
        ShardError,
        match=r"8 attention heads cannot be cut over 3 ranks; world_size may be 1, 2, 4$",
    ):
        parameter_plan(source, 3, quant="int4")
    with pytest.raises(SettingsError, match="packed as 'int8'; the model is not made for them"):
        load_into(GPTNeoX(ModelConfig.from_dir(source)), tmp_path / "cut")
    assert not (tmp_path / "new").exists()


def test_a_model_whose_columns_are_no_whole_groups_is_refused_by_tensor(tmp_path):
    make_oracle(**SHAPE | {"intermediate_size": 200}).save_pretrained(tmp_path)
    with pytest.raises(
        SettingsError, match=r"groups of 32, but mlp\.dense_4h_to_h\.weight has 200; use int8"
    ):
        load(tmp_path, quant="int4")
    assert load(tmp_path, quant="int8").logits(IDS).isfinite().all()


def test_a_weight_that_is_not_finite_is_refused_by_name(tmp_path):
    oracle = make_oracle(**SHAPE)
    oracle.gpt_neox.layers[2].attention.dense.weight.data[100, 5] = float("nan")
    oracle.save_pretrained(tmp_path)
    for quant in SCHEMES:
        with pytest.raises(
            WeightsError, match=r"gpt_neox\.layers\.2\.attention\.dense\.weight: a weight holds NaN"
        ):
            load(tmp_path, quant=quant)


MEASURE = """
import resource, sys
import neoxlib
from neoxlib.checkpoint.pack import choose_quant
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
neoxlib.load(sys.argv[1], quant="int4")
before = peak()
neoxlib.load(sys.argv[2], quant="int4")
print(peak() - before)
"""


def test_a_load_needs_the_packed_model_and_not_the_plain_one(source, tmp_path):
    big = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12}
    make_oracle(**SHAPE | big).save_pretrained(tmp_path)
    plain = (tmp_path / "model.safetensors").stat().st_size
    small = sum(row.total_bytes for row in parameter_plan(tmp_path, 1, "float32", "int4"))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, source, tmp_path], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert plain > 140e6 and int(done.stdout) < small + 30e6 < plain / 2


@pytest.mark.parametrize("quant", SCHEMES)
def test_a_packed_model_passes_its_parity_check(source, tmp_path, quant):
    shard(source, tmp_path, 2, quant=quant, progress=False)
    rows = [row[mask.bool()].tolist() for row, mask in zip(IDS, MASK, strict=True)]

    def work(folder: Path, asked: str | None, group: Group):
        engine = load(folder, quant=asked, group=group)
        if group.rank:
            return engine.logits(*decode.left_pad(rows))
        return parity.compare(engine, engine.describe(), rows)

    for folder, asked in ((source, quant), (tmp_path, None)):
        verdicts = on_ranks(2, lambda group, at=(folder, asked): work(*at, group))[0]
        assert (
            all(verdict.passed for verdict in verdicts)
            and verdicts[0].compared == f"world size 2, float32, {quant}"
        )


def test_a_packed_cut_is_compared_with_its_packed_source(source, tmp_path):
    shard(source, tmp_path / "cut", 2, quant="int4", progress=False)
    notes = Notes()
    table = parity.check_weights(source, tmp_path / "cut", notes, "int4")
    count = len(whole(source, "int4"))
    assert notes.said["cut equals source bit for bit"]
    assert notes.said["tensors_equal"] == notes.said["tensors_compared"] == count
    assert table["tensors"].sum() == count

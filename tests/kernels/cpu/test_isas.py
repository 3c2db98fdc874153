"""The kernels for CPUs with other instruction sets than this one's, against the plain model.

Instructions of this CPU are used; AVX-512 is emulated one number at a time (avx512.h).
"""

import ctypes
import re
import shutil
from pathlib import Path

import pytest
import torch

from neoxlib.kernels.cpu import build, pack
from neoxlib.model.on_cpu import CompiledModel
from neoxlib.model.quant import SCHEMES
from tests.support.compiled_models import ODD, WIDE, error, model_of, run
from tests.support.oracle_models import ids_for, make_oracle

FLAGS = {
    name: set(re.findall(r"\w+", line))
    for name, line in re.findall(
        r"^(flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M
    )
}.get("flags", set())
AVX512 = ("-march=x86-64-v3", "-include", str(Path(__file__).parents[2] / "support" / "avx512.h"))
CPUS = {
    "without AVX": ({"sse4_2"}, ("-march=x86-64-v2",)),
    "AVX2": ({"avx2", "fma", "f16c"}, ("-march=x86-64-v3",)),
    "AVX-512, no whole numbers": ({"avx2"}, (*AVX512, "-DFLOATS_ONLY")),
    "AVX-512": ({"avx2"}, AVX512),
}  # what this CPU must have, and how to compile for that one


@pytest.fixture(scope="module", params=CPUS)
def libraries(request, tmp_path_factory) -> dict[str, ctypes.CDLL]:
    """The C++ files compiled for one of CPUS."""
    needs, flags = CPUS[request.param]
    if needs - FLAGS:
        pytest.skip(f"this CPU has no {', '.join(sorted(needs - FLAGS))}")
    try:
        compiler = build._compiler()
    except FileNotFoundError as reason:
        pytest.skip(str(reason))
    folder = tmp_path_factory.mktemp("cpu")
    found = {}
    for name in ("forward", "pack"):
        target = folder / f"{name}.so"
        common = [flag for flag in build.FLAGS if flag not in ("-O3", build.TUNE)]
        build._run(
            [
                *compiler,
                "-O1",
                *common,
                *build.EXTRA.get(name, ()),
                *flags,
                str(build.SOURCES / f"{name}.cpp"),
                "-o",
                str(target),
            ]
        )
        found[name] = ctypes.CDLL(str(target))
    return found


def compiled(
    libraries: dict[str, ctypes.CDLL], oracle: torch.nn.Module, **how: object
) -> torch.nn.Module:
    model = model_of(oracle, compiled=False, **how)
    model.executor = CompiledModel(model, libraries["forward"])
    return model


@pytest.mark.parametrize("batch, length", [(1, 9), (3, 7), (20, 2), (2, 90)])
@pytest.mark.parametrize("changes", [ODD, WIDE], ids=["odd", "wide"])
def test_logits_are_the_plain_ones(libraries, changes, batch, length):
    oracle = make_oracle(**changes)
    ids = ids_for(oracle, batch, length)
    plain = run(model_of(oracle, compiled=False), ids)
    for parts in ((), (length - 1, 1)):
        torch.testing.assert_close(
            run(compiled(libraries, oracle), ids, parts=parts), plain, rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("batch, length", [(1, 4), (20, 2), (2, 90)])
def test_half_precision_is_no_further_from_float32_than_the_plain_model(
    libraries, dtype, batch, length
):
    oracle = make_oracle(**WIDE)
    ids = ids_for(oracle, batch, length)
    truth = run(model_of(oracle, compiled=False), ids)
    plain = run(model_of(oracle, dtype=dtype, compiled=False), ids)
    found = run(compiled(libraries, oracle, dtype=dtype), ids)
    assert error(found, truth) <= 1.05 * error(plain, truth)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_matrices_of_16_bits_stand_for_the_same_of_32_to_the_bit(libraries, dtype):
    """With numbers of rows that cover every method of matmul.h."""
    oracle = make_oracle(**WIDE).to(dtype).float()
    wide, narrow = (compiled(libraries, oracle) for _ in range(2))
    for parameter in narrow.parameters():
        parameter.data = parameter.data.to(dtype) if parameter.ndim == 2 else parameter.data
    narrow.executor.reload_pointers()
    for rows in (1, 2, 9, 16, 17, 21, 22, 27, 28, 63, 64, 90):
        ids = ids_for(oracle, 1, rows)
        assert torch.equal(run(narrow, ids), run(wide, ids)), rows


@pytest.mark.parametrize("quant", ["int8", "int4"])
@pytest.mark.parametrize("batch, length", [(1, 4), (5, 2), (20, 2), (2, 90)])
def test_packed_weights_lose_less_on_their_way_than_packing_did(libraries, quant, batch, length):
    """Activations of few rows keep 14 bits or more; of many 8, which costs what packing does."""
    oracle = make_oracle(**WIDE)
    ids = ids_for(oracle, batch, length)
    truth = run(model_of(oracle, compiled=False), ids)
    plain = run(model_of(oracle, quant=quant, compiled=False), ids)
    found = run(compiled(libraries, oracle, quant=quant), ids)
    most = 0.02 if batch * length < 64 else {"int8": 1.2, "int4": 0.1}[quant]
    assert error(found, plain) < most * error(plain, truth)


@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_a_long_row_of_the_largest_numbers_overflows_no_sum(libraries, quant):
    """Every weight and activation at its limit, in rows longer than an int32 sum holds."""
    oracle = make_oracle(hidden_size=64, num_attention_heads=4, intermediate_size=19_968)
    with torch.no_grad():
        for layer in oracle.gpt_neox.layers:
            layer.mlp.dense_h_to_4h.weight.zero_()
            layer.mlp.dense_h_to_4h.bias.fill_(3.0)
            layer.mlp.dense_4h_to_h.weight.copy_(
                torch.linspace(-1e-3, 1e-3, 64)[:, None].expand(64, 19_968)
            )
    for batch, length in ((1, 3), (2, 90)):
        ids = ids_for(oracle, batch, length)
        plain = run(model_of(oracle, quant=quant, compiled=False), ids)
        assert error(run(compiled(libraries, oracle, quant=quant), ids), plain) < 0.05 * plain.std()


@pytest.mark.parametrize("quant", ["int8", "int4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_packing_has_the_bits_of_the_plain_form(libraries, quant, dtype, monkeypatch):
    scheme = SCHEMES[quant]
    weight = torch.randn(40, 32 * 37).to(dtype)
    plain = scheme.pack_plain(weight)
    monkeypatch.setattr(pack, "_library", lambda: pack._declare(libraries["pack"]))
    for name, values in scheme.pack(weight).items():
        assert torch.equal(values, plain[name]), name


@pytest.mark.parametrize("name", ["forward", "pack", "bandwidth", "allreduce"])
def test_it_compiles_for_the_cpus_that_npus_come_with(name):
    """Most Ascend hosts are aarch64. Needs the compiler only (Debian: g++-aarch64-linux-gnu)."""
    compiler = shutil.which("aarch64-linux-gnu-g++")
    if not compiler:
        pytest.skip("no aarch64-linux-gnu-g++ on this machine")
    common = [flag for flag in build.FLAGS if flag != build.TUNE]
    build._run(
        [compiler, "-fsyntax-only", "-mcpu=tsv110", *common, str(build.SOURCES / f"{name}.cpp")]
    )

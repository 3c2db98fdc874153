"""Schemes: the error of packed weights, bits that depend on nothing else, refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neoxlib.errors import SettingsError, WeightsError
from neoxlib.kernels.cpu import build
from neoxlib.kernels.cpu import pack as kernels_pack
from neoxlib.model.quant import SCHEMES, Packed, scheme_name
from neoxlib.workbook.parameter_table import PARAMETERS

INT8 = SCHEMES["int8"]
INT4 = SCHEMES["int4"]


def weight_of(rows: int = 37, columns: int = 192, seed: int = 0) -> Tensor:
    """Rows of very different sizes, one of zeros, one with a lone large value."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) * torch.logspace(-4, 1, rows)[:, None]
    weight[min(3, rows - 1)] = 0
    weight[min(5, rows - 1), 7] = 100.0
    return weight


def by_hand(packed: Packed) -> Tensor:
    """The int4 format written down anew, number by number."""
    bytes_ = packed["weight"]
    scales = packed["weight_scale"]
    weight = torch.empty(len(bytes_), 2 * bytes_.shape[1])
    for row in range(len(bytes_)):
        for column in range(weight.shape[1]):
            group, place = divmod(column, 32)
            byte = bytes_[row, 16 * group + place % 16].item()
            nibble = byte >> 4 if place >= 16 else byte & 15
            weight[row, column] = (nibble - 8) * scales[row, group].float()
    return weight


def test_int8_is_within_half_a_step_and_its_step_is_the_rows_largest_by_127():
    weight = weight_of()
    packed = INT8.pack(weight)
    assert packed["weight"].dtype == torch.int8 and packed["weight"].shape == weight.shape
    assert torch.equal(packed["weight_scale"], weight.abs().amax(-1) / 127)
    error = (INT8.unpack(packed, torch.float32) - weight).abs()
    assert (error <= packed["weight_scale"][:, None] * 0.50001).all()
    assert not INT8.unpack(packed, torch.float32)[3].any()


def test_int4_is_stored_as_it_is_written_down():
    weight = weight_of(4, 96)
    packed = INT4.pack(weight)
    assert (packed["weight"].shape, packed["weight"].dtype) == ((4, 48), torch.uint8)
    assert (packed["weight_scale"].shape, packed["weight_scale"].dtype) == ((4, 3), torch.float16)
    assert torch.equal(INT4.unpack(packed, torch.float32), by_hand(packed))


def test_int4_is_within_half_a_step_unless_clipped_and_near_the_best_of_many_scales():
    weight = weight_of()
    packed = INT4.pack(weight)
    scale = packed["weight_scale"].float()[..., None]  # [rows, groups, 1]
    groups, found = (
        x.unflatten(-1, (-1, 32)) for x in (weight, INT4.unpack(packed, torch.float32))
    )
    inside = (groups / scale > -8.5) & (groups / scale < 7.5)
    assert ((found - groups).abs() <= scale.abs() * 0.50001)[
        inside
    ].all() and inside.float().mean() > 0.95
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))  # [rows, groups, 1]
    tried = {}
    for tenth in range(66, 110):
        step = (largest / (-tenth / 10)).half().float()
        codes = torch.where(step == 0, 0, groups / step).round().clamp(-8, 7)
        tried[tenth] = relative_error(codes * step, groups)
    best = torch.stack(list(tried.values())).amin(0)
    error = relative_error(found, groups)
    assert error.mean() < 0.92 * tried[80].mean() and error.mean() < 1.02 * best.mean()
    assert (error < 1.4 * best + 1e-6).all()  # the scale is a float16


def relative_error(found: Tensor, groups: Tensor) -> Tensor:
    """Squared error by the square of each group that is not zero."""
    size = groups.square().sum(-1)
    return ((found - groups).square().sum(-1) / size)[size > 0]


@settings(deadline=None)
@given(
    rows=st.integers(1, 40),
    step=st.integers(1, 40),
    name=st.sampled_from(list(SCHEMES)),
    seed=st.integers(0, 9),
)
def test_bits_do_not_depend_on_the_blocks(rows: int, step: int, name: str, seed: int):
    weight = weight_of(rows, 64, seed)
    scheme = SCHEMES[name]
    whole = scheme.pack(weight)
    blocks = [scheme.pack(weight[start : start + step]) for start in range(0, rows, step)]
    for part, tensor in whole.items():
        assert torch.equal(torch.cat([block[part] for block in blocks]), tensor)
    if scheme.group:
        assert torch.equal(scheme.pack(weight[:, 32:])["weight"], whole["weight"][:, 16:])


def test_bits_do_not_depend_on_the_chunks_or_the_threads(monkeypatch):
    weight = weight_of(300, 1024)
    for scheme in SCHEMES.values():
        whole = scheme.pack_plain(weight)
        for chunk in (1, 4096, 1 << 30):
            monkeypatch.setattr("neoxlib.model.quant.CHUNK", chunk)
            torch.set_num_threads(2)
            again = scheme.pack_plain(weight)
            torch.set_num_threads(1)
            assert all(torch.equal(again[part], tensor) for part, tensor in whole.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("columns", [32, 96, 512, 1056])
def test_compiled_packing_has_the_bits_of_the_plain_one(columns: int, dtype: torch.dtype):
    if not kernels_pack.compiled():
        pytest.skip(build.compile_error("pack"))
    for size in (1.0, 1e-4, 3e-6, 3e-8, 1e-30, 1e-38):
        weight = (weight_of(23, columns).clamp(-10, 10) * size).to(dtype)
        weight[2] = weight[2].abs()
        weight[4] = torch.tensor(size).to(dtype)  # no negative number; all the same
        for scheme in SCHEMES.values():
            ours = scheme.pack(weight)
            plain = scheme.pack_plain(weight)
            assert all(torch.equal(ours[part], plain[part]) for part in plain), (scheme.name, size)
    odd = weight_of(9, 77).to(dtype)
    ours = INT8.pack(odd)
    plain = INT8.pack_plain(odd)
    assert all(torch.equal(ours[part], plain[part]) for part in plain)


def test_a_weight_is_packed_into_the_memory_that_is_given():
    weight = weight_of()
    for scheme in SCHEMES.values():
        fresh = scheme.pack(weight)
        for form in (weight, weight.double()):  # the second is packed by PyTorch
            out = {part: torch.zeros_like(tensor) for part, tensor in fresh.items()}
            found = scheme.pack(form, out)
            assert all(
                found[part] is out[part] and torch.equal(out[part], fresh[part]) for part in fresh
            )


@pytest.mark.parametrize("to", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_copy_into_another_dtype_rounds_as_pytorch_does(dtype: torch.dtype, to: torch.dtype):
    """Also subnormals, overflows, ties and strided rows."""
    numbers = torch.randn(6, 300) * torch.tensor([1, 1e-40, 1e-7, 1e-5, 7e4, 1])[:, None]
    numbers[5] = torch.arange(300) / 256 + 1
    numbers[0, :4] = torch.tensor([float("inf"), -float("inf"), float("nan"), -0.0])
    source = numbers.to(dtype)
    target = torch.zeros(6, 400, dtype=to)
    kernels_pack.copy(source[:, 3:80], target[:, 7:84])
    expected = source[:, 3:80].to(to)
    torch.testing.assert_close(target[:, 7:84], expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(
        target[:, 7:84].signbit() & ~expected.isnan(), expected.signbit() & ~expected.isnan()
    )
    assert not target[:, :7].any() and not target[:, 84:].any()
    kernels_pack.copy(source, whole := torch.empty(6, 300, dtype=to))
    torch.testing.assert_close(whole, source.to(to), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_is_packed_as_the_float32_that_it_is(dtype: torch.dtype):
    weight = weight_of().clamp(-10, 10).to(dtype)
    for scheme in SCHEMES.values():
        ours = scheme.pack(weight)
        theirs = scheme.pack(weight.float())
        assert all(torch.equal(ours[part], theirs[part]) for part in theirs)
        back = scheme.unpack(ours, torch.bfloat16)
        assert back.dtype == torch.bfloat16 and torch.equal(
            back, scheme.unpack(ours, torch.float32).bfloat16()
        )


@pytest.mark.parametrize("name", SCHEMES)
def test_tiny_and_zero_weights_are_packed_and_what_is_not_finite_is_refused(name: str):
    scheme = SCHEMES[name]
    for tiny in (0.0, 1e-45, 1e-39, 1e-20):
        weight = torch.full((2, 32), tiny)
        assert (scheme.unpack(scheme.pack(weight), torch.float32) - weight).abs().max() <= 1e-20
    for bad in (float("nan"), float("inf"), float("-inf")):
        weight = weight_of()
        weight[9, 50] = bad
        for pack in (scheme.pack, scheme.pack_plain):
            with pytest.raises(WeightsError, match="NaN, infinity or numbers past"):
                pack(weight)
    if name == "int4":
        for pack in (scheme.pack, scheme.pack_plain):
            with pytest.raises(WeightsError, match="past its scale's range"):
                pack(torch.full((1, 32), 1e6))


def test_columns_that_are_no_whole_groups_are_refused():
    with pytest.raises(WeightsError, match="48 columns cannot be int4: it takes groups of 32"):
        INT4.pack(torch.ones(2, 48))


def test_an_unknown_scheme_is_refused_with_the_nearest_name():
    with pytest.raises(
        SettingsError, match=r"quant is 'int88'; did you mean 'int8'\? the schemes are int8, int4"
    ):
        scheme_name("int88")
    with pytest.raises(SettingsError, match=r"quant is 'q5'; the schemes are int8, int4"):
        scheme_name("q5")
    assert scheme_name("") is None and scheme_name(None) is None


def test_the_parameter_offers_every_scheme():
    assert PARAMETERS["quant"].choices == ("", *SCHEMES)


def of_the_npu(weight: Tensor, antiquant_scale: Tensor, antiquant_group_size: int = 0) -> Tensor:
    """Weight [K, N] or eight of N in a word [K, N / 8], as the operator reads it: [K, N]."""
    if weight.dtype == torch.int32:
        nibbles = torch.stack([(weight >> 4 * i) & 15 for i in range(8)], dim=-1).flatten(-2)
        weight = torch.where(nibbles > 7, nibbles - 16, nibbles)
    scale = antiquant_scale.float()
    return weight * (
        scale.repeat_interleave(antiquant_group_size, 0) if antiquant_group_size else scale
    )


@pytest.mark.parametrize("name", SCHEMES)
def test_what_the_npus_operator_takes_has_its_shapes_and_stands_for_the_same_weight(name: str):
    scheme = SCHEMES[name]
    weight = weight_of(40, 192).clamp(-10, 10)
    packed = scheme.pack(weight)
    arguments = scheme.npu_arguments(packed, torch.bfloat16)
    k = 192
    n = 40
    group = arguments.get("antiquant_group_size", 0)
    assert arguments["weight"].shape == ((k, n) if name == "int8" else (k, n // 8))
    assert arguments["weight"].dtype == (torch.int8 if name == "int8" else torch.int32)
    assert arguments["antiquant_scale"].shape == ((k // group, n) if group else (n,))
    assert arguments["antiquant_scale"].dtype == torch.bfloat16
    assert group == 0 or (group % 32 == 0 and 32 <= group < k)
    torch.testing.assert_close(
        of_the_npu(**arguments).t(), scheme.unpack(packed, torch.float32), rtol=2**-8, atol=0
    )
    assert torch.equal(scheme.from_npu(arguments), of_the_npu(**arguments).t())

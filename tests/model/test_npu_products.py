"""The products of the NPU path: what they take, and whose memory they read. Emulated."""

import pytest
import torch

from neoxlib.kernels.npu import OPS
from neoxlib.model import on_npu
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.group import SOLO
from neoxlib.model.layers import ColumnParallel
from neoxlib.model.npu_products import (
    FloatProduct,
    NzProduct,
    PackedProduct,
    UnpackedProduct,
    lay_out,
)
from neoxlib.model.quant import SCHEMES
from tests.support.npu import reference as reference
from tests.support.npu.path import HALF, answer, loaded


@pytest.mark.parametrize("quant", SCHEMES)
def test_packed_arguments_are_laid_out_once_at_load_emulated(quant, monkeypatch):
    model = loaded(dtype=HALF, quant=quant)
    with reference.on_chip("A2"):
        on_npu.attach(model, "A2")
        for scheme in SCHEMES.values():
            monkeypatch.setattr(type(scheme), "npu_arguments", None)
            monkeypatch.setattr(type(scheme), "unpack", None)
        assert answer(model).isfinite().all()


def like(model: GPTNeoX) -> dict[str, tuple]:
    return {name: (p.shape, p.dtype, p.nbytes) for name, p in model.named_parameters()}


@pytest.mark.parametrize("quant", [None, *SCHEMES])
@pytest.mark.parametrize("family", ["A2", "310P", "unknown"])
def test_parameters_keep_their_names_shapes_and_dtypes_and_none_is_held_twice_emulated(
    family, quant
):
    """Whoever counts bytes or looks for what is not finite reads them after `attach`, too."""
    model = loaded(dtype=HALF, quant=quant)
    before = like(model)
    with reference.on_chip(family):
        on_npu.attach(model, family)
    assert like(model) == before
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    layer = model.executor.layers[0]
    products = (layer.query_key_value, layer.dense, layer.dense_h_to_4h, layer.dense_4h_to_h)
    for product in (*products, model.executor.output):
        if isinstance(product, PackedProduct):
            assert product.arguments["weight"].untyped_storage().data_ptr() in known
            group = product.arguments.get("antiquant_group_size")
            scale = product.arguments["antiquant_scale"].untyped_storage().data_ptr()
            assert not group or scale in known
        elif isinstance(product, FloatProduct):
            assert product.columns.untyped_storage().data_ptr() in known


def test_a_weight_that_the_operator_does_not_take_is_unpacked_emulated():
    """32 columns are one group of int4, the page allows K - 1 at most; 12 rows fill no words."""
    for columns, rows, taken in (
        (32, 8, False),
        (64, 8, True),
        (64, 12, False),
        (64, 65536, False),
    ):
        product = lay_out(a_layer(rows, columns), OPS["A2"], None, HALF)
        assert isinstance(product, PackedProduct if taken else UnpackedProduct)


def a_layer(rows: int, columns: int) -> ColumnParallel:
    layer = ColumnParallel(columns, rows, True, SOLO, SCHEMES["int4"]).to(HALF)
    for name, tensor in SCHEMES["int4"].pack(torch.ones(rows, columns)).items():
        layer.get_parameter(name).data.copy_(tensor)
    return layer


@pytest.mark.parametrize("kind", [FloatProduct, NzProduct])
def test_a_product_adds_its_bias_or_what_it_is_given_but_never_both(kind: type):
    weight, x, add = torch.randn(3, 7), torch.randn(5, 7), torch.randn(5, 3)
    bias = torch.randn(3)
    for product, given, due in (
        (kind(weight, bias), None, x @ weight.T + bias),
        (kind(weight, None), None, x @ weight.T),
        (kind(weight, bias), add, x @ weight.T + add),
    ):
        torch.testing.assert_close(product(x, given), due)

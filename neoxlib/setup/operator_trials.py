"""Trials of each operator of the model by itself, against its definition in float32."""

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from neoxlib.kernels import npu
from neoxlib.model.layers import rotary_tables
from neoxlib.model.npu_products import NZ, FloatProduct, NzProduct, PackedProduct
from neoxlib.model.on_npu import halves
from neoxlib.model.quant import SCHEMES
from neoxlib.setup.npu_trials import HEADS, ROTARY, WIDTH, Site, Trial
from neoxlib.setup.thresholds import judge

BATCH = 2
CAPACITY = 48  # slots of the cache
PLAIN = "PyTorch's own"
STALE = 50.0  # content of the cache slots that must not be read
GROUPS = ("products", "norm and positions", "activations", "attention")
OperatorCase = Callable[[Site], tuple[Tensor, Tensor]]  # returns the answer and the reference


class CalledOperators(TorchDispatchMode):
    """Record the names of torch_npu's operators that are called in its context."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, None] = {}

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        if func.namespace == "npu":
            self.names[func._schema.name.partition("::")[2]] = None
        return func(*args, **kwargs or {})


def operators(at: Site, group: str) -> Iterator[tuple[str, Callable[[], Trial]]]:
    """The names of a group's trials, and how to make each by itself."""
    for name, case in CASES[group](at):
        yield name, partial(_attempt, name, case, at)


def _attempt(name: str, case: OperatorCase, at: Site) -> Trial:
    """Judge one operator by the vendor's thresholds; an exception is a failed trial."""
    try:
        with CalledOperators() as called:
            found, truth = case(at)
        verdict = judge(found.cpu(), truth, at.dtype)
    except Exception as failure:  # a missing operator, a refused shape, a lost device
        return Trial.failed(name, at.dtype, failure)
    return Trial.by_thresholds(name, at.dtype, verdict, ", ".join(called.names) or PLAIN)


def _products(at: Site) -> Iterator[tuple[str, OperatorCase]]:
    yield "matrix product", _product
    for name in at.ops().operators.packed:
        yield f"product with packed {name}", partial(_packed, name=name)


def _norm_and_positions(at: Site) -> Iterator[tuple[str, OperatorCase]]:
    yield "layer norm", _layer_norm
    yield "layer norm of a sum", _add_layer_norm
    yield "rotary positions", _rotate


def _activations(at: Site) -> Iterator[tuple[str, OperatorCase]]:
    for form in ("gelu", "tanh", "relu"):
        yield f"activation {form}", partial(_activate, form=form)


def _attention(at: Site) -> Iterator[tuple[str, OperatorCase]]:
    end = CAPACITY - 9
    yield "attention of a padded prompt", partial(_attend, rows=end, end=end)
    yield "attention of a chunk on a cache", partial(_attend, rows=5, end=end)
    yield "attention of one token", partial(_attend, rows=1, end=end)
    yield "attention of one token, cache full", partial(_attend, rows=1, end=CAPACITY)
    whole = partial(_attend, end=end, padding=0)
    yield "attention of a prompt of full rows", partial(whole, rows=end)
    yield "attention of a chunk of full rows", partial(whole, rows=5)
    if at.ops().operators.graph:
        yield "write to a slot that the device knows", _write


CASES = dict(zip(GROUPS, (_products, _norm_and_positions, _activations, _attention), strict=True))


def _product(at: Site) -> tuple[Tensor, Tensor]:
    x = at.normal(5, 768)
    weight = _weight(at)
    bias = at.normal(512, seed=2) * 0.1
    truth = x.float() @ weight.float().T + bias.float()
    x, weight, bias = at.to_device(x, weight, bias)
    if not at.ops().operators.nz:
        return FloatProduct(weight, bias)(x), truth
    return NzProduct(npu.npu.npu_format_cast(weight, NZ), bias)(x), truth


def _weight(at: Site) -> Tensor:
    """A matrix whose products are about half as large as their factors, as a model's may be."""
    return (at.normal(512, 768, seed=1).float() * 0.5 * 768**-0.5).to(at.kind)


def _packed(at: Site, name: str) -> tuple[Tensor, Tensor]:
    x = at.normal(6, 768)
    bias = at.normal(512, seed=2) * 0.1
    scheme = SCHEMES[name]
    packed = scheme.pack(_weight(at).float())
    truth = x.float() @ scheme.unpack(packed, at.kind).float().T + bias.float()
    x, bias = at.to_device(x, bias)
    there = {key: tensor.to(at.device) for key, tensor in packed.items()}
    product = PackedProduct(scheme, scheme.npu_arguments(there, at.kind), bias, at.kind)
    return product(x), truth


def _layer_norm(at: Site) -> tuple[Tensor, Tensor]:
    x = at.normal(5, 6144) * 3 + 1
    weight = at.normal(6144, seed=1)
    bias = at.normal(6144, seed=2)
    truth = _true_norm(x.float(), weight, bias)
    return at.ops().layer_norm(*at.to_device(x, weight, bias), 1e-5), truth


def _add_layer_norm(at: Site) -> tuple[Tensor, Tensor]:
    """The norm of a sum, and the sum after it."""
    x = at.normal(5, 6144) * 3 + 1
    other = at.normal(5, 6144, seed=3)
    weight = at.normal(6144, seed=1)
    bias = at.normal(6144, seed=2)
    total = x.float() + other.float()
    truth = torch.cat((_true_norm(total, weight, bias), total))
    return torch.cat(at.ops().add_layer_norm(*at.to_device(x, other, weight, bias), 1e-5)), truth


def _write(at: Site) -> tuple[Tensor, Tensor]:
    """Write one token's keys and values to slot 7 of a cache."""
    truth = at.normal(2, BATCH, HEADS, CAPACITY, WIDTH)
    held, new = at.to_device(truth, at.normal(2, BATCH, HEADS, 1, WIDTH, seed=1))
    truth = truth.float()
    truth[:, :, :, 7] = new[:, :, :, 0].float().cpu()
    rows = (torch.arange(n) for n in (2, BATCH, HEADS))
    places = torch.cartesian_prod(*rows, torch.tensor([7])).to(at.device)
    return at.ops().write_at(held, places, new), truth


def _true_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * weight.float() + bias.float()


def _rotate(at: Site) -> tuple[Tensor, Tensor]:
    """Rotate the pairs (i, i + 12) of the first 24 dimensions, each row at its own positions."""
    x = at.normal(BATCH, HEADS, 7, WIDTH)
    positions = torch.tensor([range(7), range(1900, 1907)])
    tables = rotary_tables(2048, ROTARY, 10000)
    cos, sin = (table[positions][:, None].to(at.kind) for table in tables)
    first, second, still = x.float().split([ROTARY // 2, ROTARY // 2, WIDTH - ROTARY], -1)
    c, s = (table.float()[..., : ROTARY // 2] for table in (cos, sin))
    truth = torch.cat((first * c - second * s, second * c + first * s, still), -1)
    order = _whole_heads if at.ops().operators.whole_heads else lambda tensor: tensor
    x, cos, sin = at.to_device(order(x), cos, sin)
    return at.ops().rotate(x, *at.ops().angles(cos, sin, WIDTH)), order(truth)


def _whole_heads(x: Tensor) -> Tensor:
    """Reorder the last dimension for an operator that rotates whole heads."""
    return halves(x.flatten(0, -2)[:, None], ROTARY).reshape(x.shape)


def _activate(at: Site, form: str) -> tuple[Tensor, Tensor]:
    x = torch.linspace(-3, 3, 4096).to(at.kind)  # where the forms differ most
    y = x.float()
    truths = {
        "relu": lambda: y.clamp(min=0),
        "gelu": lambda: 0.5 * y * (1 + torch.erf(y / 2**0.5)),
        "tanh": lambda: 0.5 * y * (1 + torch.tanh((2 / math.pi) ** 0.5 * (y + 0.044715 * y**3))),
    }
    return at.ops().activate(*at.to_device(x), form), truths[form]()


def _attend(at: Site, rows: int, end: int, padding: int = 5) -> tuple[Tensor, Tensor]:
    """Attend with `rows` new columns that end at cache slot `end`; later slots hold STALE.

    The first `padding` columns of the second sequence are padding, and see only themselves.
    """
    lengths = (rows, CAPACITY, CAPACITY)
    q, k, v = (at.normal(BATCH, HEADS, length, WIDTH, seed=n) for n, length in enumerate(lengths))
    k[:, :, end:] = STALE
    v[:, :, end:] = STALE
    columns = torch.arange(end)
    mine = columns[end - rows :, None]
    real = columns >= torch.tensor([[0], [padding]])
    keep = ((columns <= mine) & real[:, None, None]) | (columns == mine)  # [B, 1, rows, end]
    scores = (q.float() @ k[:, :, :end].float().mT / WIDTH**0.5).masked_fill(~keep, -torch.inf)
    truth = scores.softmax(-1) @ v[:, :, :end].float()
    mask = at.ops().mask(keep.to(at.device), CAPACITY, padding > 0)
    return at.ops().attend(*at.to_device(q, k, v), mask, end), truth

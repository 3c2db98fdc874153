"""The operators of plain.py on Ascend NPUs: torch_npu's where its documentation lists the chip.

Every call goes through `torch.ops.npu`, whose schemas torch_npu registers when it is imported.
Pages are op-plugin's docs/zh/custom_APIs/torch_npu/torch_npu-<operator>.md at its commit 517f2e7d.
What the kernels' host code asks before a launch (its tiling) is that of ops-transformer, in
hicann's copy at c29bc106 and mirror-cann's at 3a280bcc, under attention/<operator>/op_host.
Checked on CPU kernels that follow both; never run on an NPU.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from neoxlib.kernels import plain

npu = torch.ops.npu
BLOCK = 128  # with a mask, 310P takes prompts of a multiple of this length only
LONGEST_PROMPT = 65408  # the last multiple of BLOCK within 310P's limit of 65535
CAUSAL = 2048  # rows and columns of the one mask of sparse_mode 3
COLUMNS = 32  # a kernel reads a row of a mask in blocks of 32 bytes

Attend = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Operators:
    """The operators of one chip family. None and False stand for PyTorch's operators."""

    several: Attend | None = None  # attention of several new tokens per row
    one: Attend | None = None  # attention of one new token per row
    rotary_mul: bool = False
    whole_heads: bool = True  # rotated, the dimensions past the rotary ones by an angle of zero
    gelu: bool = False
    add_norm: bool = False
    graph: bool = False  # a step can be captured: fused attention, writes by a device's index
    packed: tuple[str, ...] = ()  # schemes that npu_weight_quant_batchmatmul takes
    nz: bool = False  # unquantized weights in NZ


def _fused_infer(q: Tensor, k: Tensor, v: Tensor, left_out: Tensor, end: int) -> Tensor:
    """A mask of two dimensions stands for causal rows that end with the last key in use."""
    causal = left_out.dim() == 2
    return npu.npu_fused_infer_attention_score(
        q,
        k,
        v,
        atten_mask=left_out,
        num_heads=q.shape[1],
        scale=q.shape[3] ** -0.5,
        input_layout="BNSD",
        actual_seq_lengths_kv=[end],
        sparse_mode=3 if causal else 0,
    )[0]


def _prompt_flash(q: Tensor, k: Tensor, v: Tensor, left_out: Tensor, end: int) -> Tensor:
    """First pass over `end` tokens, padded on the right to the size of the mask.

    Scores are float16 here, so q gets the scale's power of two beforehand, without rounding. In the
    weights it would round: a float16 below 2**-14 has fewer digits.
    """
    scale, power = math.frexp(q.shape[3] ** -0.5)
    after = left_out.shape[-1] - end
    q, k, v = (F.pad(x[:, :, :end], (0, 0, 0, after)).contiguous() for x in (q * 2.0**power, k, v))
    seen = npu.npu_prompt_flash_attention(
        q,
        k,
        v,
        atten_mask=left_out,
        num_heads=q.shape[1],
        scale_value=scale,
        input_layout="BNSD",
        next_tokens=0,
    )
    return seen[:, :, :end]


def _incre_flash(q: Tensor, k: Tensor, v: Tensor, left_out: Tensor, end: int) -> Tensor:
    return npu.npu_incre_flash_attention(
        q,
        k,
        v,
        atten_mask=left_out,
        num_heads=q.shape[1],
        scale_value=q.shape[3] ** -0.5,
        input_layout="BNSD",
        actual_seq_lengths=[end],
        inner_precise=0,
    )


# A norm without a sum before it is aten's everywhere, and so is the write to the KV cache, a copy
# to its slots: scatter_update_ and npu_scatter_nd_update_ take their indices from the device, which
# only a captured step needs. A3 is not on npu_gelu's page.
OPS: dict[str, Operators] = {
    "A2": Operators(
        _fused_infer,
        _fused_infer,
        rotary_mul=True,
        gelu=True,
        add_norm=True,
        graph=True,
        packed=("int8", "int4"),
    ),
    "A3": Operators(
        _fused_infer,
        _fused_infer,
        rotary_mul=True,
        add_norm=True,
        graph=True,
        packed=("int8", "int4"),
    ),
    "310P": Operators(
        _prompt_flash, _incre_flash, gelu=True, add_norm=True, packed=("int8",), nz=True
    ),
    "910A": Operators(gelu=True),
}
PLAIN = Operators()  # a chip that is in no table
LARGEST_BATCH = {_prompt_flash: 128, _incre_flash: 256}


def operators_for(family: str, heads: int, head_dim: int, rotary: int) -> Operators:
    """The operators for `heads` heads here of `head_dim`, of which `rotary` are rotated."""
    operators = OPS.get(family, PLAIN)
    if head_dim % 16 or head_dim > 512 or heads > 256:
        operators = replace(operators, several=None, one=None)
    fits = rotary > 0 and head_dim % 16 == 0 and head_dim < 896 and heads < 1000
    return replace(
        operators, rotary_mul=operators.rotary_mul and fits, whole_heads=head_dim % 2 == 0
    )


class NpuOps:
    """The functions of plain.py on a chip's operators, or PyTorch's for too large batches.

    With `whole_heads` the dimensions past `rotary` are rotated, too, by an angle of zero. The rows
    of q and k must then be in the order of on_npu.py's `halves`.
    """

    def __init__(self, operators: Operators) -> None:
        self.operators = operators
        self._causal: Tensor | None = None

    def angles(self, cos: Tensor, sin: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
        """Extend cos, sin [..., rotary] to [..., head_dim] if whole heads are rotated.

        Where no operator does it, the first half of sin is negated, which `rotate` spares itself.
        """
        if not self.operators.whole_heads:
            return cos, sin
        half = cos.shape[-1] // 2
        still = (0, head_dim // 2 - half)
        cos = F.pad(cos[..., :half], still, value=1.0)
        sin = F.pad(sin[..., :half], still, value=0.0)
        first = sin if self.operators.rotary_mul else -sin
        return torch.cat((cos, cos), dim=-1), torch.cat((first, sin), dim=-1)

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """As plain.rotate, with the tables of `angles`."""
        if not self.operators.whole_heads:
            return plain.rotate(x, cos, sin)
        if self.operators.rotary_mul and x.shape[0] < 1000:
            return npu.npu_rotary_mul(x.contiguous(), cos, sin)
        first, second = x.chunk(2, dim=-1)
        second = -second if self.operators.rotary_mul else second
        return torch.addcmul(x * cos, torch.cat((second, first), dim=-1), sin)

    def mask(self, keep: Tensor, capacity: int, padded: bool = True) -> Tensor:
        """Invert keep [B, 1, S, end], True = seen, to left out [B, 1, rows, keys], True = left out.

        Rows and keys are those that the operator takes: a padded square, or S rows of the whole
        cache if the operator gets the number of keys in use. Unless `padded`, several rows see
        all keys up to their own: the causal mask [CAUSAL, CAUSAL].
        """
        batch, _, rows, end = keep.shape
        attend = self._attend(batch, rows, end)
        if attend is None:
            return keep
        if attend is _prompt_flash:
            return _padded_square(~keep)
        if not padded and rows > 1:
            return self._causal_on(keep.device)
        left_out = keep.new_ones(batch, 1, rows, _up(capacity, COLUMNS))
        left_out[..., :end] = ~keep
        return left_out

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, end: int) -> Tensor:
        """As plain.attend, with a mask from `mask`."""
        attend = self._attend(q.shape[0], q.shape[2], end)
        if attend is None:
            return plain.attend(q, k, v, mask[..., :end], end)
        return attend(q.contiguous(), k, v, mask, end)

    def _causal_on(self, device: torch.device) -> Tensor:
        """The mask of sparse_mode 3, True above the diagonal, made once."""
        if self._causal is None:
            self._causal = torch.ones(CAUSAL, CAUSAL, dtype=torch.bool).triu(1).to(device)
        return self._causal

    def write_at(self, held: Tensor, places: Tensor, new: Tensor) -> Tensor:
        """Write new [..., head_dim] to held [2, B, heads, slots, head_dim] at places [rows, 4]."""
        return npu.npu_scatter_nd_update_(held, places, new.flatten(0, -2))

    def _attend(self, batch: int, rows: int, end: int) -> Attend | None:
        """Choose the operator by sizes that are the same on all ranks."""
        attend = self.operators.one if rows == 1 else self.operators.several
        if attend is _prompt_flash and (rows < end or end > LONGEST_PROMPT):
            return None  # no mask for more keys than queries
        return attend if batch <= LARGEST_BATCH.get(attend, 65535) else None

    def attends_by(self, batch: int, rows: int, end: int) -> str:
        """The operator that `attend` takes."""
        names = {
            _fused_infer: "npu_fused_infer_attention_score",
            _prompt_flash: "npu_prompt_flash_attention",
            _incre_flash: "npu_incre_flash_attention",
        }
        return names.get(self._attend(batch, rows, end), "scaled_dot_product_attention")

    def activate(self, x: Tensor, form: str) -> Tensor:
        """As plain.activate. Never fast_gelu: x * sigmoid(1.702 x) is neither form of gelu."""
        if form == "gelu" and not self.operators.gelu:
            return (0.5 * x.float() * (1 + torch.erf(x.float() * 0.5**0.5))).to(x.dtype)
        if form == "relu" or not self.operators.gelu:
            return plain.activate(x, form)
        return npu.npu_gelu(x, approximate="tanh" if form == "tanh" else "none")

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """As plain.layer_norm."""
        return plain.layer_norm(x, weight, bias, eps)

    def add_layer_norm(
        self, x: Tensor, partial: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """The layer norm of x + partial, and that sum."""
        if self.operators.add_norm:
            normed, _, _, total = npu.npu_add_layer_norm(x, partial, weight, bias, eps, True)
            return normed, total
        total = x + partial
        return self.layer_norm(total, weight, bias, eps), total


class PlainOps(NpuOps):
    """As NpuOps, on the same arguments, by plain.py on the CPU.

    On an NPU PyTorch's own operators may be the chip's kernels as well.
    """

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        if self.operators.whole_heads and not self.operators.rotary_mul:
            first, second = sin.chunk(2, dim=-1)
            sin = torch.cat((-first, second), dim=-1)
        return _on_cpu(plain.rotate, x, cos, sin)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, end: int) -> Tensor:
        rows = q.shape[2]
        if self._attend(q.shape[0], rows, end) is None:
            keep = mask[..., :end]
        elif mask.dim() == 2:
            keep = mask.new_ones(1, 1, rows, end).tril(end - rows)
        else:
            keep = ~mask[..., :rows, :end]
        return _on_cpu(plain.attend, q, k, v, keep, end)

    def activate(self, x: Tensor, form: str) -> Tensor:
        return _on_cpu(plain.activate, x, form)

    def layer_norm(self, x: Tensor, *args: Any) -> Tensor:
        return _on_cpu(plain.layer_norm, x, *args)

    def add_layer_norm(self, x: Tensor, partial: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        total = (x.float() + partial.float()).to(x.dtype)
        return self.layer_norm(total, *args), total


def _on_cpu(work: Callable[..., Tensor], *args: Any) -> Tensor:
    there = (arg.cpu() if isinstance(arg, Tensor) else arg for arg in args)
    return work(*there).to(args[0].device)


def _up(size: int, step: int) -> int:
    """Round up to a multiple of `step`."""
    return -(-size // step) * step


def _padded_square(left_out: Tensor) -> Tensor:
    """Extend left out [B, 1, S, S] to a multiple of BLOCK; each row of padding sees itself alone.

    A row that sees nothing is not supported.
    """
    size = left_out.shape[-1]
    index = torch.arange(_up(size, BLOCK), device=left_out.device)
    square = (index != index[:, None]).repeat(len(left_out), 1, 1, 1)
    square[..., :size, :size] = left_out
    return square

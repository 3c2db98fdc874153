"""The maths that differs by device, in plain PyTorch: the form people read, on any device."""

import torch
import torch.nn.functional as F
from torch import Tensor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the leading `cos.shape[-1]` dimensions of each head by position, first half against second half.

    x [B, heads, S, head_dim]; cos, sin [B, 1, S, rotary]. RoFormer (arXiv 2104.09864), in GPT-NeoX's half-split order.
    """
    turning = x[..., : cos.shape[-1]]
    still = x[..., cos.shape[-1] :]
    first, second = turning.chunk(2, dim=-1)
    turned = turning * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned, still), dim=-1)


def angles(cos: Tensor, sin: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """cos and sin [B, 1, S, rotary] in the form that `rotate` takes: here as they are."""
    return cos, sin


def mask(keep: Tensor, capacity: int) -> Tensor:
    """keep [B, 1, S, end], True = seen, in the form that `attend` takes with a cache of `capacity`: here as it is."""
    return keep


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, end: int) -> Tensor:
    """Softmax attention of q [B, heads, S, head_dim] over the first `end` slots of k, v [B, heads, capacity, head_dim].

    PyTorch's fused form on the CPU sums q·k and the softmax in float32 whatever the dtype: in float16 the plain
    product overflows at GPT-NeoX-20B's scale (transformers issue 17452).
    """
    return F.scaled_dot_product_attention(
        q, k[:, :, :end], v[:, :, :end], attn_mask=mask
    )  # [B, heads, S, head_dim]


def activate(x: Tensor, form: str) -> Tensor:
    """The activation that `hidden_act` names: `gelu` (erf), `tanh` (its tanh form) or `relu`."""
    if form == "relu":
        return F.relu(x)
    return F.gelu(x, approximate="tanh" if form == "tanh" else "none")


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer norm over the last dimension of x [..., hidden]."""
    return F.layer_norm(x, weight.shape, weight, bias, eps)

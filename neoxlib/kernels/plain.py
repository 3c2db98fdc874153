"""The operators that differ by device, in plain PyTorch: the readable form, for any device."""

import torch
import torch.nn.functional as F
from torch import Tensor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of the leading `cos.shape[-1]` dimensions of each head.

    x [B, heads, S, head_dim]; cos, sin [B, 1, S, rotary]. RoFormer (arXiv 2104.09864), in
    GPT-NeoX's order: the first half of the rotary dimensions is paired with the second half.
    """
    turning = x[..., : cos.shape[-1]]
    still = x[..., cos.shape[-1] :]
    first, second = turning.chunk(2, dim=-1)
    turned = turning * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned, still), dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, end: int) -> Tensor:
    """Softmax attention over the first `end` slots of the cache -> [B, heads, S, head_dim].

    q [B, heads, S, head_dim]; k, v [B, heads, capacity, head_dim]; mask [B, 1, S, end], True =
    seen. PyTorch's fused form on the CPU
    sums q·k and the softmax in float32 whatever the dtype: in float16 the plain product overflows
    at GPT-NeoX-20B's scale (transformers issue 17452).
    """
    return F.scaled_dot_product_attention(q, k[:, :, :end], v[:, :, :end], attn_mask=mask)


def activate(x: Tensor, form: str) -> Tensor:
    """Activation function: `gelu` (erf), `tanh` (gelu's tanh approximation) or `relu`."""
    if form == "relu":
        return F.relu(x)
    return F.gelu(x, approximate="tanh" if form == "tanh" else "none")


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer norm over the last dimension of x [..., hidden]."""
    return F.layer_norm(x, weight.shape, weight, bias, eps)

"""Read `input_ids` and `attention_mask` as tensors, and refuse what the model cannot take."""

from typing import Any

import torch
from torch import Tensor

from neoxlib.errors import SettingsError


def checked_ids(
    input_ids: Any, attention_mask: Any, vocab_size: int, max_seq_len: int
) -> tuple[Tensor, Tensor]:
    """Return ids int64 and mask bool, both [B, S]; without a mask every id counts.

    Raises SettingsError that names what does not fit.
    """
    ids = _ids(input_ids)
    mask = _mask(torch.ones_like(ids) if attention_mask is None else attention_mask, ids)
    if ids.shape[1] > max_seq_len:
        raise SettingsError(
            f"input_ids have {ids.shape[1]} tokens a row, but max_seq_len is {max_seq_len}"
        )
    low = ids.min().item()
    high = ids.max().item()
    if low < 0 or high >= vocab_size:
        raise SettingsError(
            f"input_ids reach from {low} to {high}; the vocabulary has ids 0 to {vocab_size - 1}"
        )
    return ids, mask


def _ids(value: Any) -> Tensor:
    ids = _tensor("input_ids", value)
    whole = not ids.is_floating_point() and not ids.is_complex() and ids.dtype != torch.bool
    if ids.ndim != 2 or not ids.numel() or not whole:
        raise SettingsError(
            f"input_ids are {list(ids.shape)} {ids.dtype}; expected whole numbers [batch, tokens]"
        )
    return ids.long()


def _mask(value: Any, ids: Tensor) -> Tensor:
    mask = _tensor("attention_mask", value)
    if mask.shape != ids.shape:
        raise SettingsError(
            f"attention_mask is {list(mask.shape)}, but input_ids are {list(ids.shape)}"
        )
    if not ((mask == 0) | (mask == 1)).all():
        raise SettingsError("attention_mask holds other numbers than 1 (a token) and 0 (padding)")
    return mask.bool()


def _tensor(name: str, value: Any) -> Tensor:
    """Return `value` as a tensor; SettingsError for ragged rows and for anything but numbers."""
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SettingsError(
            f"{name} cannot be read as numbers [batch, tokens] ({error}); rows of unequal lengths "
            "are padded to one, with an attention_mask that is 0 there"
        ) from None

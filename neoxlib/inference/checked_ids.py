"""Read ids, masks and choices as they are asked for, and refuse what cannot be served."""

import operator
from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from neoxlib.errors import SettingsError

# No lists of ids, though they can be read as such.
UNREADABLE = (str, bytes, bytearray, memoryview, Mapping, Set)
WANTED = "give a list of texts, or one such list per prompt"


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


def as_ids(value: Any) -> list[int]:
    """Read a list or array of whole numbers as token ids; TypeError for anything else."""
    if isinstance(value, UNREADABLE):
        raise TypeError(f"{type(value).__name__} is no list of token ids")
    items = value.tolist() if hasattr(value, "tolist") else list(value)
    if any(isinstance(item, bool) for item in items):
        raise TypeError("True and False are no token ids")
    return [operator.index(item) for item in items]


def refuse_no_ids(requests: Sequence[Sequence[Any]]) -> None:
    """Raise SettingsError with the requests that hold anything but lists of whole numbers."""
    lists = {id(ids): ids for request in requests for ids in request}  # many share one context
    wrong = {key for key, ids in lists.items() if not _whole(ids)}
    if bad := [n for n, request in enumerate(requests) if any(id(ids) in wrong for ids in request)]:
        raise SettingsError(f"request(s) {bad} hold what is no list of token ids, such as [12, 7]")


def _whole(ids: Any) -> bool:
    if isinstance(ids, UNREADABLE) or not isinstance(ids, Sequence):
        return False
    return all(issubclass(kind, Integral) and kind is not bool for kind in set(map(type, ids)))


def choice_lists(prompts: Sequence[Any], choices: Sequence[Any]) -> list[list[str]]:
    """Return one list of choices per prompt; `choices` may be one list for all."""
    if isinstance(choices, UNREADABLE) or (not choices and prompts):
        raise SettingsError(f"choices is {choices!r}; {WANTED}")
    same = isinstance(choices[:1][0] if choices else "", str)
    lists = [list(choices)] * len(prompts) if same else choices
    if len(lists) != len(prompts):
        raise SettingsError(f"{len(prompts)} prompts but {len(lists)} lists of choices; {WANTED}")
    for several in lists:
        if isinstance(several, UNREADABLE) or not isinstance(several, Iterable):
            raise SettingsError(f"choices holds {several!r}; {WANTED}")
    return [list(several) for several in lists]

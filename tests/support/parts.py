"""The part of a tensor that a rank should hold."""

import torch

from neoxlib.model.group import Group

CUT_ROWS = (
    "query_key_value.weight",
    "query_key_value.bias",
    "dense_h_to_4h.weight",
    "dense_h_to_4h.bias",
)


CUT_COLUMNS = ("attention.dense.weight", "dense_4h_to_h.weight")


VOCABULARY = ("embed_in.weight", "embed_out.weight")


def group_of(rank: int, size: int) -> Group:
    group = Group()
    group.rank = rank
    group.size = size
    return group


def expected_part(name: str, full: torch.Tensor, rank: int, size: int) -> torch.Tensor:
    """The cut, written down anew: chunks of whole heads, rows or columns; the vocabulary's shares
    differ by one row.
    """
    if name.endswith(VOCABULARY):
        ends = [len(full) * r // size for r in range(size + 1)]
        return full[ends[rank] : ends[rank + 1]]
    if name.endswith(CUT_ROWS):
        return full.chunk(size, 0)[rank]
    return full.chunk(size, 1)[rank] if name.endswith(CUT_COLUMNS) else full

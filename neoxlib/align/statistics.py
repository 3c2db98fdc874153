"""The few figures that stand for a tensor."""

import torch
from torch import Tensor

NAMES = ("min", "max", "mean", "l2", "nan", "inf")


def statistics(value: Tensor) -> Tensor:
    """[6] float64: least, greatest, mean and Euclidean norm of the finite values; counts of NaN
    and infinity.
    """
    flat = value.detach().cpu().double().flatten()
    total = flat.sum()
    if len(flat) and total.isfinite():  # then all are: float64 holds any sum of a smaller dtype
        figures = [*flat.aminmax(), total / len(flat), flat.norm()]
        return torch.stack([*figures, *torch.zeros(2, dtype=torch.float64)])
    finite = flat[flat.isfinite()]
    counts = [float(flat.isnan().sum()), float(flat.isinf().sum())]
    if not len(finite):
        return torch.tensor([torch.nan] * 4 + counts, dtype=torch.float64)
    figures = [finite.min(), finite.max(), finite.mean(), finite.norm()]
    return torch.tensor([figure.item() for figure in figures] + counts, dtype=torch.float64)

"""Join what the ranks hold of a step, and compare two captures of the same tokens."""

from typing import NamedTuple

import torch
from torch import Tensor

from neoxlib.align.distances import Drift, differing, distance, kl
from neoxlib.align.reader import Capture, need_tensors, refuse_other_tokens
from neoxlib.errors import SettingsError
from neoxlib.model import steps
from neoxlib.model.steps import Step, layer_of, within

KNOWN: dict[str, Step] = {  # by the name within a layer, in the order of computing
    step.name: step
    for step in (
        *steps.BEGINNING,
        *steps.layer_steps(False)[:-1],
        *steps.layer_steps(True),  # with the layer's own output last
        *steps.END,
    )
}
ORDER = {name: number for number, name in enumerate(KNOWN)}


class Bits(NamedTuple):
    """One tensor on one rank, taken twice."""

    name: str
    pass_: int
    rank: int
    count: int  # of its numbers, without padding
    differing: int
    greatest: float  # difference


def place_of(name: str, pass_: int) -> tuple[int, int, int]:
    """Sorts steps of all passes in the order of computing."""
    layer = layer_of(name)
    ends = -1 if within(name) in {step.name for step in steps.BEGINNING} else 10**9
    return pass_, ends if layer is None else layer, ORDER[within(name)]


def joined(parts: list[Tensor], step: Step) -> Tensor:
    """The whole tensor of what each rank holds."""
    if step.join == steps.PARTIAL:
        return torch.stack([part.double() for part in parts]).sum(0)
    if step.join == steps.GATHERED:
        return torch.cat(parts, step.dim).double()
    return parts[0].double()


def against(capture: Capture, other: Capture) -> list[Drift]:
    """How far a capture is from another of the same tokens: any dtype, world size or executor.

    Steps that only one of them shows are left out, and those that have the biases in one of them
    alone: an NPU's products of rank 0 (model/npu_taps.py). Raises SettingsError for other tokens,
    another model, or statistics, but for a dump of them as the other one: it tells the least that
    the distances can be.
    """
    if hasattr(other, "distances_from") and other.manifest["kind"] == "statistics":
        return other.distances_from(capture)
    for each in (capture, other):
        need_tensors(each)
    refuse_other_tokens(capture, other)
    biased = capture.numerics.fused
    drifts = []
    for part in _parts_of_both(capture, other):
        mine, theirs = (whole(each, part) for each in (capture, other))
        for (name, pass_), value in mine.items():
            truth = theirs.get((name, pass_))
            other_biases = biased != other.numerics.fused and within(name) in steps.UNBIASED
            if truth is None or truth.shape != value.shape or other_biases:
                continue
            real = real_tokens(capture, name, pass_)
            divergence = kl(value, truth, real) if name == steps.LOGITS else None
            drifts.append(Drift(name, pass_, distance(value, truth, real), divergence))
    if not drifts:
        raise SettingsError(
            f"{capture.folder} and {other.folder} have no step of one shape in common: they are of "
            "different models, or other names were captured"
        )
    return sorted(drifts, key=lambda drift: place_of(drift.name, drift.pass_))


def bits(capture: Capture, again: Capture) -> list[Bits]:
    """Every tensor of every rank, against the same one of a second capture of the same ranks.

    In the order of computing. Raises SettingsError as `against`, and for another world size.
    """
    refuse_other_tokens(capture, again)
    if capture.size != again.size:
        raise SettingsError(
            f"{capture.folder} is of {capture.size} ranks, {again.folder} of {again.size}: ranks "
            "are compared one by one; capture both with the same world_size"
        )
    found = []
    for part in _parts_of_both(capture, again):
        second = again.part(part)
        for key, value in capture.part(part).items():
            found.append(_bits(key, value, second.get(key), real_tokens(capture, *key[:2])))
    return sorted(found, key=lambda one: (*place_of(one.name, one.pass_), one.rank))


def _bits(key: tuple[str, int, int], one: Tensor, two: Tensor | None, real: Tensor) -> Bits:
    if two is None or two.shape != one.shape:
        return Bits(*key, one[real].numel(), one[real].numel(), torch.inf)
    other = differing(one[real], two[real])
    apart = (one[real].double() - two[real].double())[other].abs()
    greatest = apart.max().item() if len(apart) else 0.0
    return Bits(*key, other.numel(), int(other.sum()), greatest)


def real_tokens(capture: Capture, name: str, pass_: int) -> Tensor:
    """[B, tokens] bool: which tokens of a step's tensor are no padding."""
    first, end = capture.passes[pass_]
    return capture.mask[:, :end] if "cached" in name else capture.mask[:, first:end]


def _parts_of_both(capture: Capture, other: Capture) -> list[str]:
    layers = _layers_of_both(capture, other)
    return ["begin", *(f"layer{layer:03d}" for layer in range(layers)), "end"]


def _layers_of_both(capture: Capture, other: Capture) -> int:
    """The layers of both models; raises SettingsError if the numbers differ."""
    layers = capture.manifest["layers"]
    if layers != other.manifest["layers"]:
        raise SettingsError(
            f"{capture.folder} has {layers} layers, {other.folder} {other.manifest['layers']}: "
            "they are of different models"
        )
    return layers


def whole(capture: Capture, part: str) -> dict[tuple[str, int], Tensor]:
    """All steps of a part, the ranks' tensors joined."""
    found = capture.part(part)
    names = dict.fromkeys((name, pass_) for name, pass_, _ in found)
    return {
        (name, pass_): joined(
            [found[name, pass_, rank] for rank in range(capture.size)], KNOWN[within(name)]
        )
        for name, pass_ in names
    }

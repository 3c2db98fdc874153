"""Join what the ranks hold of a step, and compare two captures of the same tokens."""

import torch
from torch import Tensor

from neoxlib.align.distances import Drift, distance, kl
from neoxlib.align.reader import Capture, need_tensors, refuse_other_tokens
from neoxlib.errors import SettingsError
from neoxlib.model import steps
from neoxlib.model.steps import Step, within


def joined(parts: list[Tensor], step: Step) -> Tensor:
    """The whole tensor of what each rank holds."""
    if step.join == steps.PARTIAL:
        return torch.stack([part.double() for part in parts]).sum(0)
    if step.join == steps.GATHERED:
        return torch.cat(parts, step.dim).double()
    return parts[0].double()


def against(capture: Capture, other: Capture) -> list[Drift]:
    """How far a capture is from another of the same tokens: any dtype, world size or executor.

    Steps that only one of them shows are left out. A dump of statistics as the other one tells the
    least that the distances can be. Raises SettingsError for other tokens, another model, or
    captures of statistics.
    """
    if hasattr(other, "distances_from") and other.manifest["kind"] == "statistics":
        return other.distances_from(capture)
    for each in (capture, other):
        need_tensors(each)
    refuse_other_tokens(capture, other)
    layers = _layers_of_both(capture, other)
    drifts = []
    for part in ("begin", *(f"layer{layer:03d}" for layer in range(layers)), "end"):
        mine, theirs = (whole(each, part) for each in (capture, other))
        for (name, pass_), value in mine.items():
            truth = theirs.get((name, pass_))
            if truth is None or truth.shape != value.shape:
                continue
            first, end = capture.passes[pass_]
            real = capture.mask[:, :end] if "cached" in name else capture.mask[:, first:end]
            divergence = kl(value, truth, real) if name == steps.LOGITS else None
            drifts.append(Drift(name, pass_, distance(value, truth, real), divergence))
    if not drifts:
        raise SettingsError(
            f"{capture.folder} and {other.folder} have no step of one shape in common: they are of "
            "different models, or other names were captured"
        )
    return drifts


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
    known = {step.name: step for kind in (True, False) for step in steps.layer_steps(kind)}
    known |= {step.name: step for step in (*steps.BEGINNING, *steps.END)}
    names = dict.fromkeys((name, pass_) for name, pass_, _ in found)
    return {
        (name, pass_): joined(
            [found[name, pass_, rank] for rank in range(capture.size)], known[within(name)]
        )
        for name, pass_ in names
    }

"""What a comparison means: a sentence, the checks, and the command that looks closer."""

import shlex
from collections.abc import Sequence
from typing import Any

from neoxlib.align import limits, operators
from neoxlib.align.distances import Drift
from neoxlib.align.lineage import unseen
from neoxlib.align.localize import Alignment, Finding
from neoxlib.align.reader import Capture
from neoxlib.demo import MODEL_DIR
from neoxlib.model.steps import LOGITS, layer_of, within

GIVEN = ("model_dir", "world_size", "dtype", "quant")


def sentence(capture: Capture, found: Alignment) -> str:
    """Name the first guilty step with its layer, ranks and error; or say that there is none."""
    first = found.first
    if not first:
        return _healthy(capture, found)
    one = max(first, key=_size)
    hidden = unseen(one.name, {each.name for each in found.findings if each.error})
    with_ = f" (or {' or '.join(hidden)} before it, unseen)" if hidden else ""
    said = f"{place(capture, first)}: {step_words(one.name)}{with_} {_wrong(one)}"
    if told := found.said.get((one.name, one.pass_)):
        said += f" ({told})"
    blame = operators.words(found, one)
    return f"{said}; {_before(found, one)}{'; ' * bool(blame)}{blame}"


def _healthy(capture: Capture, found: Alignment) -> str:
    errors = [each.error for each in found.findings if each.error]
    greatest = max((error.greatest for error in errors), default=0.0)
    return (
        f"every step that was seen is right: the greatest own error is {greatest:.1f} roundings of "
        f"{capture.manifest['dtype']} (limit {limits.OWN_MAX.value:g}) over {len(errors)} tensors"
    )


def place(capture: Capture, first: Sequence[Finding]) -> str:
    """The layer, ranks and pass of a finding in words."""
    layer = layer_of(first[0].name)
    begins = first[0].name.startswith("gpt_neox.embed_in")
    said = f"layer {layer}" if layer is not None else "the embedding" if begins else "the head"
    if capture.size > 1:
        ranks = [each.rank for each in first]
        every = len(ranks) == capture.size
        some = f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
        said += ", every rank" if every else f", {some}"
    return f"{said}, {'prefill' if first[0].pass_ == 0 else f'decode step {first[0].pass_}'}"


def step_words(name: str) -> str:
    """A step's name within its layer."""
    return within(name) or "the layer's output (residual and biases)"


def _size(found: Finding) -> float:
    return float("inf") if found.error is None else found.error.greatest


def _wrong(found: Finding) -> str:
    if found.error is None:
        return "was not made there, though it was in other layers"
    if found.error.not_finite:
        return f"has {found.error.not_finite} values that are not finite and should be"
    if found.error.greatest == float("inf"):
        return "has another shape than it should"
    return (
        f"is off by up to {found.error.greatest:.3g} roundings (limit {limits.OWN_MAX.value:g}), "
        f"root mean square {found.error.rms:.3g} (limit {limits.OWN_RMS.value:g})"
    )


def _before(found: Alignment, one: Finding) -> str:
    """What can be said of all that was computed before."""
    earlier = [
        each.error.greatest
        for each in found.findings
        if each.error and (each.pass_, each.order) < (one.pass_, one.order)
    ]
    if not earlier:
        return "nothing that was compared came before it"
    return f"everything before it is within {max(earlier):.1f} roundings"


def checks(
    capture: Capture, found: Alignment, same: Sequence[Drift]
) -> list[tuple[str, bool, str]]:
    """Name, whether it holds, and detail of each check."""
    rows = [("every step is what the checkpoint says", not found.first, sentence(capture, found))]
    whole = [drift for drift in found.drifts if drift.name == LOGITS]
    if not whole:
        return rows
    worst = max(whole, key=lambda drift: drift.distance.relative_l2)
    allowed = {drift.pass_: drift for drift in same if drift.name == LOGITS}
    for limit in limits.WHOLE:
        value = figure(worst, limit.figure)
        explained = worst.pass_ in allowed and limit.broken(
            figure(allowed[worst.pass_], limit.figure)
        )
        detail = f"{value:.3g}, limit {limit.value:g} ({limit.source})"
        if explained and limit.broken(value):
            detail += "; the same dtype on the CPU passes it as little"
        rows.append((f"logits: {limit.figure}", not limit.broken(value) or explained, detail))
    return rows


def figure(drift: Drift, name: str) -> float:
    """One of a drift's figures by its limit's name."""
    if name == "kl":
        return float("nan") if drift.kl is None else drift.kl
    return getattr(drift.distance, name)


def command(about: dict[str, Any]) -> str:
    """The command that opens notebook 06 on the model that `describe` told of."""
    values = {name: about.get(name) for name in GIVEN if about.get(name)}
    if str(values.get("model_dir")) == str(MODEL_DIR):
        del values["model_dir"]
    device = str(about.get("device", "")).partition(":")[0]
    if device:
        values["device"] = device
    given = " ".join(f"-p {name} {shlex.quote(str(value))}" for name, value in values.items())
    return f"python -m neoxlib report 06_align {given}"

"""What a comparison means: a sentence, the checks, and the command that looks closer."""

import shlex
from collections.abc import Sequence
from typing import Any

from neoxlib.align import limits, operators
from neoxlib.align.distances import Drift
from neoxlib.align.joins import Bits
from neoxlib.align.lineage import unseen
from neoxlib.align.localize import Alignment, Finding
from neoxlib.align.reader import Capture
from neoxlib.align.three_way import Line, Other
from neoxlib.demo import MODEL_DIR
from neoxlib.model.steps import LOGITS, layer_of, within
from neoxlib.workbook import metrics

UNLISTED = (
    "; capture.json is of an earlier version, which does not list the files: whether some are lost "
    "cannot be told"
)
GIVEN = ("model_dir", "world_size", "dtype", "quant")


def sentence(capture: Capture, found: Alignment) -> str:
    """Name the first guilty step with its layer, ranks and error; or say that there is none.

    Of a capture that does not list its files, also that lost ones cannot be told.
    """
    return _sentence(capture, found) + ("" if capture.files is not None else UNLISTED)


def _sentence(capture: Capture, found: Alignment) -> str:
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
    said = (
        f"every step that was seen is right: the greatest own error is {greatest:.1f} roundings of "
        f"{capture.manifest['dtype']} (limit {limits.OWN_MAX.value:g}) over {len(errors)} tensors"
    )
    if count := sum(each.excused for each in found.findings):
        said += f"; {count} of them past the limit, as the same dtype on the CPU is"
    return said


def place(capture: Capture, first: Sequence[Finding] | Sequence[Bits]) -> str:
    """The layer, ranks and pass of a finding in words."""
    said = part_words(first[0].name)
    if capture.size > 1:
        ranks = [each.rank for each in first]
        every = len(ranks) == capture.size
        some = f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
        said += ", every rank" if every else f", {some}"
    return f"{said}, {pass_words(first[0].pass_)}"


def part_words(name: str) -> str:
    """The layer, the embedding or the head that a step is in."""
    layer = layer_of(name)
    if layer is not None:
        return f"layer {layer}"
    return "the embedding" if name.startswith("gpt_neox.embed_in") else "the head"


def pass_words(number: int) -> str:
    """A forward pass by its number."""
    return f"decode step {number}" if number else "prefill"


def step_words(name: str) -> str:
    """A step's name within its layer."""
    return within(name) or "the layer's output (residual and biases)"


def _size(found: Finding) -> float:
    return float("inf") if found.error is None else found.error.greatest


def _wrong(found: Finding) -> str:
    if found.error is None:
        return "was not made there, though it was in other layers"
    if found.error.not_finite:
        said = f"has {found.error.not_finite} values that are not finite and should be"
    elif found.error.greatest == float("inf"):
        return "has another shape than it should"
    else:
        said = (
            f"is off by up to {found.error.greatest:.3g} roundings (limit "
            f"{limits.OWN_MAX.value:g}), root mean square {found.error.rms:.3g} (limit "
            f"{limits.OWN_RMS.value:g})"
        )
    return said + _same(found)


def _same(found: Finding) -> str:
    """What the same dtype on the CPU says of a guilty step."""
    same = found.same
    if same is None:
        return ""
    if same.not_finite:
        return f"; the same dtype in plain layers on one CPU has {same.not_finite}, too"
    within_limits = not (limits.OWN_MAX.broken(same.greatest) or limits.OWN_RMS.broken(same.rms))
    also = "" if within_limits else ", past the limit, too: so it is not the target alone"
    return f"; the same dtype in plain layers on one CPU by {same.greatest:.3g}{also}"


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
    capture: Capture,
    found: Alignment,
    same: Sequence[Drift],
    lines: Sequence[Line] = (),
    other: Other | None = None,
) -> list[tuple[str, bool, str]]:
    """Name, whether it holds, and detail of each check.

    `same` is the same dtype's distance from the checkpoint, `other` the reference if it is another.
    """
    rows = [("every step is what the checkpoint says", not found.first, sentence(capture, found))]
    rows += _whole("logits", found.drifts, same)
    if other is None:
        return rows
    if other.bits:
        differing = any(one.differing for one in other.bits)
        return [*rows, ("the same bits twice", not differing, twice(capture, other.bits))]
    if other.judged:
        near = _first_apart(lines, other) is None
        said = parted(lines, other)
        rows.append(("every step is as near to the reference as its dtype explains", near, said))
    allowed = same if other.same_weights else other.same
    return rows + _whole("logits against the reference", other.target, allowed)


def _whole(
    what: str, drifts: Sequence[Drift], same: Sequence[Drift]
) -> list[tuple[str, bool, str]]:
    """The limits of a whole model, on the pass that is worst; excused if `same` breaks them."""
    worst = _worst_logits(drifts)
    if worst is None:
        return []
    rows = []
    allowed = {drift.pass_: drift for drift in same if drift.name == LOGITS}
    for limit in limits.WHOLE:
        value = figure(worst, limit.figure)
        explained = worst.pass_ in allowed and limit.broken(
            figure(allowed[worst.pass_], limit.figure)
        )
        allows = f"no less than {limit.value:g}" if limit.least else f"no more than {limit.value:g}"
        detail = f"{metrics.shown(f'logits_{limit.figure}', value)}, {allows}"
        if explained and limit.broken(value):
            detail += ", the same dtype on the CPU passes it as little"
        detail += f"; {limit.source}"
        rows.append(
            (
                f"{what}: {limits.FIGURES[limit.figure]}",
                not limit.broken(value) or explained,
                detail,
            )
        )
    return rows


def _worst_logits(drifts: Sequence[Drift]) -> Drift | None:
    """The logits of the pass in which they are farthest from the reference."""
    whole = [drift for drift in drifts if drift.name == LOGITS]
    return max(whole, key=lambda drift: drift.distance.relative_l2, default=None)


def key_figures(found: Alignment) -> dict[str, float | int]:
    """How many steps are wrong by themselves, the greatest own error, the logits' distances."""
    figures: dict[str, float | int] = {"guilty_steps": sum(one.guilty for one in found.findings)}
    errors = [one.error.greatest for one in found.findings if one.error]
    if errors:
        figures["greatest_own_error"] = max(errors)
    worst = _worst_logits(found.drifts)
    names = [limit.figure for limit in limits.WHOLE] if worst else []
    return figures | {f"logits_{name}": figure(worst, name) for name in names}


def twice(capture: Capture, bits: Sequence[Bits]) -> str:
    """Say whether two runs of the same gave the same bits, or the first step that did not."""
    wrong = [one for one in bits if one.differing]
    if not wrong:
        ranks = f"{capture.size} rank{'s' * (capture.size > 1)}"
        passes = f"{len(capture.passes)} passes"
        return f"every bit of {len(bits)} tensors of {ranks} and {passes} is the same"
    first = [one for one in wrong if (one.name, one.pass_) == (wrong[0].name, wrong[0].pass_)]
    one = first[0]
    return (
        f"{place(capture, first)}: {step_words(one.name)} is the first that is not the same twice: "
        f"{one.differing} of {one.count} numbers of rank {one.rank} differ, by at most "
        f"{one.greatest:.3g}; so do {len(wrong)} of {len(bits)} tensors"
    )


def _first_apart(lines: Sequence[Line], other: Other) -> Line | None:
    if _identical(other):
        return None
    return next((line for line in lines if _is_apart(line, other)), None)


def _identical(other: Other) -> bool:
    return all(drift.distance.same_bits for drift in other.target)


def _is_apart(line: Line, other: Other) -> bool:
    formula = other.same_weights and limits.OTHER_FORMULA.broken(line.same / other.unit)
    return formula or limits.TIMES_L2.broken(line.times)


def parted(lines: Sequence[Line], other: Other) -> str:
    """Say in which step the target is first farther from a reference than its dtype explains."""
    if not lines:
        return "no step is in both"
    if _identical(other):
        return f"all {len(other.target)} tensors that both have are the same, to the bit"
    line = _first_apart(lines, other)
    if line is None:
        line = max(lines, key=lambda each: each.target)
        return (
            f"every step is as near as the dtype explains: the farthest is {line_place(line)}, at "
            f"a relative distance of {line.target:.3g}, the same dtype in plain layers "
            f"{line.same:.3g}"
        )
    said = f"the numbers part at {line_place(line)}: relative distance {line.target:.3g}, "
    if limits.TIMES_L2.broken(line.times):
        return (
            f"{said}{line.times:.3g} times what the dtype explains (limit "
            f"{limits.TIMES_L2.value:g})"
        )
    return (
        f"{said}the same dtype in plain layers {line.same:.3g}, more than "
        f"{limits.OTHER_FORMULA.value:g} roundings: other formulas or weights"
    )


def line_place(line: Line) -> str:
    """Layer, pass and step of a line of the three-way table in words."""
    return f"{part_words(line.name)}, {pass_words(line.pass_)}: {step_words(line.name)}"


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

"""Who is to blame for a guilty step: its operator, or what the operator is given.

The steps of the first guilty layer are computed again, each from its inputs as they were seen: by
the run's own operators, where a session can be asked, and by those of kernels/plain.py in the same
dtype. Both are held against the float64 formula. An operator that is wrong where the plain one is
right is to blame; where both are wrong it is the weights, the inputs or the formula.

With a session the plain operator has the run's own weights, on an NPU also its tables and masks.
Without one it has the checkpoint's weights, and wrong weights cannot be told from an operator.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from neoxlib.align import reproduce
from neoxlib.align.capture import rank_file
from neoxlib.align.distances import OwnError, own_error
from neoxlib.align.graph import FINAL_NORM, Graph
from neoxlib.align.localize import Alignment, Blame, Finding, is_wrong
from neoxlib.align.reader import Capture, read_capture
from neoxlib.align.reproduce import ROW_PARALLEL, Inputs
from neoxlib.errors import NeoXError, SettingsError
from neoxlib.inference.activations import Forced, run_passes
from neoxlib.inference.contract import Inference
from neoxlib.inference.engine import Engine
from neoxlib.kernels import plain
from neoxlib.model import steps
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.layers import LayerNorm, Linear
from neoxlib.model.steps import all_steps, part_of, within

log = logging.getLogger("neoxlib")

AGAIN = "again"  # the folder in a capture of what was computed again
OPERATOR = "operator"
OR_WEIGHTS = "operator or its weights"
BOTH = "both: weights, inputs or the formula"
NOTHING = "nothing"
NOT_NOW = "nothing now: asked again, the operator is right"


def blamed(
    capture: Capture,
    found: Alignment,
    model_dir: str | os.PathLike[str] | None = None,
    engine: Inference | None = None,
) -> Alignment:
    """`found` with the blames of the first guilty layer in its pass, where a step is guilty.

    `engine`, an Engine or a Session of the captured model, is asked for its operators; without it
    what was asked before is taken, if anything; so it is, with a warning, where the ranks cannot be
    asked. Raises SettingsError for an engine of another model or world size.
    """
    first = next((each for each in found.first if each.error is not None), None)
    if first is None or part_of(first.name) == "begin":
        return found
    try:
        graph = reproduce.graph_of(capture, first, model_dir)
    except SettingsError:  # the layer's input was not captured
        return found
    part = part_of(first.name)
    if engine is not None:
        _refuse_other(engine, capture)
        try:
            _ask(engine, capture, first.pass_, part)
        except NeoXError as error:  # what was found must not be lost
            log.warning("the operators could not be asked again: %s", error)
    rows = []
    for rank in range(capture.size):
        path = rank_file(capture.folder / AGAIN, first.pass_, part, rank)
        asked = load_file(path) if path.is_file() else {}
        rows += [_blame(capture, graph, name, first.pass_, rank, asked) for name in graph.formulas]
    return replace(found, blames=tuple(row for row in rows if row is not None))


def _refuse_other(engine: Inference, capture: Capture) -> None:
    """Raise SettingsError for an engine that is not the captured one's like."""
    about = engine.describe()
    for fact in ("fingerprint", "world_size"):
        if about.get(fact) != capture.manifest.get(fact):
            raise SettingsError(
                f"{capture.folder} has {fact} {capture.manifest.get(fact)!r}, the session that is "
                f"asked has {about.get(fact)!r}; ask the session that was captured"
            )


def _ask(engine: Inference, capture: Capture, pass_: int, part: str) -> None:
    """Let every rank compute `part` again."""
    arguments = str(capture.folder), pass_, part
    apply = getattr(engine, "apply", None)
    if apply is None:
        again_on_rank(engine, *arguments)
    else:
        apply(again_on_rank, *arguments)


def again_on_rank(engine: Engine, folder: str, pass_: int, part: str) -> None:
    """Compute the captured steps of one part and pass again, and keep them in the capture.

    All ranks must call it. The run is made again, and each step's output is replaced by what was
    seen: so each is computed from its inputs as they were seen. Raises SettingsError if the result
    cannot be written.
    """
    capture = read_capture(folder)
    engine.wait_until_resident()
    kept = {f"again {name}": y for name, y in _steered(engine, capture, pass_, part).items()}
    by_plain = getattr(engine.model.executor, "plain", None)
    if by_plain is None:
        kept |= {f"held {name}": y for name, y in _held(engine.model, part).items()}
    else:
        with by_plain():
            found = _steered(engine, capture, pass_, part)
        kept |= {f"plain {name}": y for name, y in found.items()}
    path = rank_file(Path(folder) / AGAIN, pass_, part, engine.group.rank)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(kept, path)
    except Exception as error:  # safetensors has an error of its own for a full disk
        raise SettingsError(
            f"{path} cannot be written: {error}; free space there, or give the capture alone"
        ) from error


def _steered(engine: Engine, capture: Capture, pass_: int, part: str) -> dict[str, Tensor]:
    """What each step of `part` gives in pass `pass_`, from its inputs as they were seen."""
    kept: dict[str, Tensor] = {}
    place: tuple[int, str] | None = None
    seen: dict[str, Tensor] = {}

    def sink(number: int, name: str, value: Tensor) -> None:
        nonlocal place, seen
        if (number, part_of(name)) == (pass_, part):
            kept[name] = value.detach().to("cpu", copy=True).contiguous()
        if place != (number, part_of(name)):
            place = number, part_of(name)
            path = rank_file(capture.folder, *place, engine.group.rank)
            seen = load_file(path) if path.is_file() else {}
        if name in seen and seen[name].shape == value.shape:
            value.copy_(seen[name])

    passes = capture.passes[: pass_ + 1]
    run_passes(engine.model, Forced(capture.ids, capture.mask, passes), sink)
    return kept


def _held(model: GPTNeoX, part: str) -> dict[str, Tensor]:
    """This rank's weights of a layer or of the head as the run holds them, as floats."""
    stack = model.gpt_neox
    if part == "end":
        tied = model.config.tie_word_embeddings
        head = stack.embed_in.weight if tied else model.embed_out.plain_weight(torch.float32)
        modules = [(FINAL_NORM, stack.final_layer_norm)]
        found = {steps.LOGITS: head}
    else:
        modules = stack.layers[int(part.removeprefix("layer"))].named_modules()
        found = {}
    for name, module in modules:
        if isinstance(module, Linear | LayerNorm):
            whole = module.plain_weight(torch.float32) if isinstance(module, Linear) else None
            found[f"{name}.weight"] = module.weight if whole is None else whole
            if hasattr(module, "bias"):
                found[f"{name}.bias"] = module.bias
    return {name: y.detach().float().cpu().clone() for name, y in found.items()}


def _blame(
    capture: Capture, graph: Graph, name: str, pass_: int, rank: int, asked: dict[str, Tensor]
) -> Blame | None:
    """The row of one step on one rank; None if it was not seen."""
    full = graph.full(name)
    seen = graph.found.get((full, pass_, rank))
    if seen is None:
        return None
    finding = Finding(0, full, pass_, rank, None)
    expected = graph.expected(name, pass_, rank)

    def judged(y: Tensor | None) -> OwnError | None:
        return None if y is None else own_error(y, expected, reproduce.real_of(graph, finding))

    held = {key.removeprefix("held "): y for key, y in asked.items() if key.startswith("held ")}
    by_plain, weighted = computed(graph, finding, seen.dtype, held)
    if "cached" not in name and not name.endswith("all_reduce.after"):
        by_plain = asked.get(f"plain {full}", by_plain)
    errors = [judged(y) for y in (seen, asked.get(f"again {full}"), by_plain)]
    who = _to_blame(*errors, weighted)
    return Blame(full, pass_, rank, operator_of(capture, graph, full, pass_), *errors, who)


def _to_blame(seen: OwnError, again: OwnError | None, by_plain: OwnError, weighted: bool) -> str:
    if again is not None and not is_wrong(again):
        return NOT_NOW if is_wrong(seen) else NOTHING
    if not is_wrong(again or seen):
        return NOTHING
    if is_wrong(by_plain):
        return BOTH
    return OR_WEIGHTS if again is None and weighted else OPERATOR


def operator_of(capture: Capture, graph: Graph, full: str, pass_: int) -> str:
    """The name of the operator that made a step."""
    told = capture.manifest.get("operators") or []
    name = within(full)
    if pass_ < len(told) and name in told[pass_]:
        return told[pass_][name]
    if capture.compiled and not name.endswith("all_reduce.after"):
        return "compiled stage"
    return all_steps(graph.config)[full].operator


def computed(
    graph: Graph, finding: Finding, dtype: torch.dtype, held: dict[str, Tensor]
) -> tuple[Tensor, bool]:
    """What the plain operator gives for a step in `dtype`, and whether it has weights.

    `held` are this rank's weights in place of the checkpoint's.
    """
    name = within(finding.name)
    operator, inputs = reproduce.inputs_of(graph, name, finding)
    inputs = {key: reproduce.in_dtype(y, dtype) for key, y in inputs.items()}
    of = {key: name if key in ("weight", "bias") else "" for key in inputs}
    if operator == "product":
        of["weight"] = ROW_PARALLEL[1]
    if operator == "products":
        of |= {f"weight{n}": each for n, each in enumerate(ROW_PARALLEL, 1)}
    biases = {key: key.removesuffix(".bias") for key in inputs if key.startswith("term2 ")}
    of |= {key: path.partition(" ")[2] for key, path in biases.items()}
    for key, path in of.items():
        part = "bias" if key.endswith("bias") else "weight"
        mine = held.get(path if path == steps.LOGITS else f"{path}.{part}")
        if path and mine is not None and mine.shape == inputs[key].shape:
            inputs[key] = mine.to(dtype)
    return PLAIN[operator](inputs, graph.config.layer_norm_eps).to(dtype), any(of.values())


def _rotary(t: Inputs, _: float) -> Tensor:
    x = torch.cat((t["first"], t["second"], t["still"]), dim=-1).transpose(1, 2)
    cos, sin = (torch.cat((t[name], t[name]), dim=-1).transpose(1, 2) for name in ("cos", "sin"))
    return plain.rotate(x, cos, sin).transpose(1, 2)


def _attention(t: Inputs, _: float) -> Tensor:
    q, k, v = (t[name].transpose(1, 2) for name in "qkv")
    return plain.attend(q, k, v, t["seen"][:, None], k.shape[2]).transpose(1, 2).flatten(2)


def _sum(t: Inputs, _: float) -> Tensor:
    """Taken in float32 and rounded once, as plain layers do."""
    return sum(y.float() for y in t.values())


PLAIN: dict[str, Callable[[Inputs, float], Tensor]] = {  # by the operators of reproduce.FORMULAS
    "layer norm": lambda t, eps: plain.layer_norm(t["x"], t["weight"], t["bias"], eps),
    "linear": lambda t, _: F.linear(t["x"], t["weight"], t.get("bias")),
    "product": lambda t, _: F.linear(t["x"], t["weight"]) + t["branch"],
    "products": lambda t, _: F.linear(t["x1"], t["weight1"]) + F.linear(t["x2"], t["weight2"]),
    "rotary": _rotary,
    "cache": lambda t, _: t["written"],
    "attention": _attention,
    "gelu": lambda t, _: plain.activate(t["x"], "gelu"),
    "tanh": lambda t, _: plain.activate(t["x"], "tanh"),
    "relu": lambda t, _: plain.activate(t["x"], "relu"),
    "sum": _sum,
}


WORDS = {
    OPERATOR: "the operator {0} is to blame: the plain one is within {1}",
    OR_WEIGHTS: "the operator {0} or its weights are to blame: the plain one, with the "
    "checkpoint's, is within {1}",
    BOTH: "the operator {0} is not to blame by itself: from the same inputs the plain one is wrong "
    "as well; look at the weights, the inputs and the formula",
    NOT_NOW: "the operator {0} is right when it is asked again: it does not happen each time",
}


def blame_of(found: Alignment, *here: Any) -> Blame | None:
    """The blame of a step by name, pass and rank."""
    known = {(each.name, each.pass_, each.rank): each for each in found.blames}
    return known.get(here)


def words(found: Alignment, one: Finding) -> str:
    """Who is to blame for the guilty step `one`, in words; nothing if it is not known."""
    blame = blame_of(found, one.name, one.pass_, one.rank)
    if blame is None or blame.to_blame not in WORDS:
        return ""
    off = blame.plain.greatest
    said = f"{off:.1f} roundings" if off > 1 else "one rounding"
    return WORDS[blame.to_blame].format(blame.operator, said)

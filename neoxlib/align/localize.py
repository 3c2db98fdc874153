"""Find the step in which a captured run leaves what the checkpoint says it should compute."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from neoxlib.align import estimates, limits
from neoxlib.align.distances import Drift, OwnError, distance, kl, own_error
from neoxlib.align.estimates import Estimate, Numerics
from neoxlib.align.graph import BeginningGraph, EndGraph, Graph, LayerGraph, Where, Work
from neoxlib.align.joins import joined
from neoxlib.align.reader import Capture, Found, need_tensors, refuse_changed_model
from neoxlib.align.sums import sum_fault
from neoxlib.align.weights import ReferenceWeights
from neoxlib.errors import SettingsError
from neoxlib.model import steps
from neoxlib.model.config import ModelConfig
from neoxlib.model.steps import all_steps, full_name, within


@dataclass(frozen=True)
class Finding:
    """One step of one pass on one rank, and its own error."""

    order: int  # of the step in a pass
    name: str
    pass_: int
    rank: int
    error: OwnError | None  # None: the step was not made there
    same: OwnError | None = None  # of the same dtype in plain layers on one CPU, where it is known

    @property
    def past(self) -> bool:
        """Whether its error is more than its roundings explain."""
        return self.error is None or is_wrong(self.error)

    @property
    def excused(self) -> bool:
        """Whether it is past, and the dtype explains it: the same dtype on the CPU is past, too.

        Values that are not finite, or a step that was not made, are never excused.
        """
        mine, same = self.error, self.same
        if not self.past or mine is None or same is None or mine.not_finite:
            return False
        pairs = (
            (limits.OWN_MAX, limits.TIMES_MAX, mine.greatest, same.greatest),
            (limits.OWN_RMS, limits.TIMES_L2, mine.rms, same.rms),
        )
        return all(not pair[0].broken(pair[2]) or limits.excused(*pair) for pair in pairs)

    @property
    def guilty(self) -> bool:
        """Whether its error is more than its roundings and its dtype explain."""
        return self.past and not self.excused


def is_wrong(error: OwnError) -> bool:
    """Whether an own error is more than roundings explain."""
    if error.not_finite or limits.OWN_RMS.broken(error.rms):
        return True
    return limits.OWN_MAX.broken(error.greatest)


class Blame(NamedTuple):
    """A step of the first guilty layer, computed again from the inputs as they were seen."""

    name: str
    pass_: int
    rank: int
    operator: str  # that of the run
    seen: OwnError
    again: OwnError | None  # of the run's operator, asked again; None: it was not
    plain: OwnError | None  # of the plain operator; None: there is none
    to_blame: str


@dataclass(frozen=True)
class Alignment:
    """All that was compared, and what the sums over the ranks lack."""

    findings: list[Finding]
    drifts: list[Drift]
    said: dict[tuple[str, int], str]  # by step and pass: what is known of a sum that is wrong
    blames: tuple[Blame, ...] = ()  # see operators.py

    @property
    def first(self) -> list[Finding]:
        """The first guilty step, in the order of computing, on each rank where it is guilty."""
        guilty = [found for found in self.findings if found.guilty]
        if not guilty:
            return []
        first = min((found.pass_, found.order) for found in guilty)
        return [found for found in guilty if (found.pass_, found.order) == first]


def localize(
    capture: Capture,
    model_dir: str | os.PathLike[str] | None = None,
    layers: list[int] | None = None,
    own: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> Alignment:
    """Hold a capture against the checkpoint `model_dir`, by default the one that it was made of.

    `layers` limits the search to these and to both ends; all are read all the same, since the
    reference's own pass goes through them. Without `own` only the distances from that pass are
    computed. Raises SettingsError for a capture of statistics, a
    model that was changed since or has another shape, or layers that it does not have.
    """
    need_tensors(capture)
    about = capture.manifest
    if model_dir is None:
        refuse_changed_model(capture)
    source = ReferenceWeights(model_dir or about["model_dir"], about["dtype"], about["quant"])
    _refuse_other_model(capture, source.config, layers)
    search = _Search(capture, source, own)
    for part in range(-1, source.config.num_hidden_layers + 1):
        layer = part if 0 <= part < source.config.num_hidden_layers else None
        search.part(part, layers is None or layer is None or layer in layers)
        progress("embedding" if part < 0 else "head" if layer is None else f"layer {layer}")
    return Alignment(search.findings, search.drifts, search.said)


def part_name(number: int, depth: int) -> str:
    """The part of a capture: -1 is the embedding, `depth` the head, all between are layers."""
    return "begin" if number < 0 else "end" if number == depth else f"layer{number:03d}"


def part_graph(capture: Capture, source: ReferenceWeights, number: int) -> Graph:
    """The graph of one part, what was observed of it, and its inputs.

    Inputs that were not observed are computed from what was, part by part.
    """
    depth = source.config.num_hidden_layers
    found = capture.part(part_name(number, depth))
    weights, kind = _weights(source, number)
    work = Work(capture.ids, capture.mask, capture.passes)
    inputs = _outputs(capture, source, number - 1) if number >= 0 else {}
    layer = number if 0 <= number < depth else None
    how = capture.numerics
    return kind(source.config, weights, work, how, found, capture.size, inputs, layer)


def _outputs(capture: Capture, source: ReferenceWeights, number: int) -> dict[Where, Estimate]:
    """What a part hands on, by pass and rank: as it was observed, or else computed."""
    name = "gpt_neox.embed_in" if number < 0 else full_name(number, "")
    part = capture.part(part_name(number, source.config.num_hidden_layers))
    seen = {(p, r): estimates.observed(value) for (n, p, r), value in part.items() if n == name}
    if len(seen) == len(capture.passes) * capture.size:
        return seen
    return part_graph(capture, source, number).outputs(within(name))


def _weights(source: ReferenceWeights, number: int) -> tuple[dict[str, Tensor], type[Graph]]:
    if number < 0:
        return source.beginning(), BeginningGraph
    if number == source.config.num_hidden_layers:
        return source.end(), EndGraph
    return source.layer(number), LayerGraph


def _refuse_other_model(capture: Capture, config: ModelConfig, layers: list[int] | None) -> None:
    depth = config.num_hidden_layers
    if capture.manifest["layers"] != depth:
        raise SettingsError(
            f"{capture.folder} is of a model of {capture.manifest['layers']} layers, the reference "
            f"has {depth}; give the folder of the model that was captured"
        )
    if wrong := [layer for layer in layers or () if not 0 <= layer < depth]:
        raise SettingsError(f"layers {wrong} are not among the model's 0..{depth - 1}")
    if capture.ids.max() >= config.vocab_size:
        raise SettingsError(
            f"{capture.folder} has id {capture.ids.max()}; the reference's vocabulary has "
            f"{config.vocab_size}: give the folder of the model that was captured"
        )


class _Search:
    """Goes through the parts of the model in order: own errors and drift."""

    def __init__(self, capture: Capture, source: ReferenceWeights, own: bool) -> None:
        self.capture = capture
        self.judges = own
        self.source = source
        self.how = capture.numerics
        self.work = Work(capture.ids, capture.mask, capture.passes)
        self.steps = all_steps(source.config)
        self.order = {name: number for number, name in enumerate(self.steps)}
        self.findings: list[Finding] = []
        self.drifts: list[Drift] = []
        self.said: dict[tuple[str, int], str] = {}
        self.inputs: dict[tuple[int, int], estimates.Estimate] = {}
        self.truth: dict[tuple[int, int], estimates.Estimate] = {}
        self.usual: set[str] = set()  # names within a layer that were seen in some layer

    def part(self, number: int, judged: bool) -> None:
        """Compare one part: -1 is the embedding, the one past the last layer the head."""
        depth = self.source.config.num_hidden_layers
        layer = number if 0 <= number < depth else None
        name = part_name(number, depth)
        found = self.capture.part(name)
        if layer == 0:
            self.usual = self._usual(found)
        weights, kind = _weights(self.source, number)
        real = self._graph(kind, weights, found, self.capture.size, self.inputs, layer, self.how)
        exact = Numerics(0.0, 0.0, fused=self.how.fused)
        alone = self._graph(kind, weights, {}, 1, self.truth, layer, exact)
        if judged:
            self.findings += self._own(real, found) if self.judges else []
            self.drifts += self._drift(alone, found)
        last = {"begin": "gpt_neox.embed_in"}.get(name, "")
        if name != "end":
            self.inputs = real.outputs(last) if self.judges else {}
            self.truth = alone.outputs(last)

    def _graph(self, kind, weights, found, size, inputs, layer, how) -> Graph:  # noqa: ANN001
        return kind(self.source.config, weights, self.work, how, found, size, inputs, layer)

    def _usual(self, first: Found) -> set[str]:
        """The names within a layer that this way of running shows: those of the first layers."""
        depth = self.source.config.num_hidden_layers
        others = self.capture.part("layer001") if depth > 1 else {}
        return {within(name) for name, _, _ in (*first, *others)}

    def _own(self, graph: Graph, found: Found) -> Iterator[Finding]:
        for name in sorted(graph.formulas, key=lambda name: self.order[graph.full(name)]):
            full = graph.full(name)
            for pass_ in range(len(self.work.passes)):
                for rank in range(self.capture.size):
                    key = full, pass_, rank
                    if key in found:
                        yield self._finding(graph, name, key, found)
                    elif graph.layer is not None and within(full) in self.usual:
                        yield Finding(self.order[full], full, pass_, rank, None)

    def _finding(self, graph: Graph, name: str, key: tuple[str, int, int], found: Found) -> Finding:
        """Judge one tensor; one of another shape is no input of the steps after it."""
        full, pass_, rank = key
        expected = graph.expected(name, pass_, rank)
        error = own_error(found[key], expected, self._real(pass_, name))
        if found[key].shape != expected.value.shape:
            del found[key]
        finding = Finding(self.order[full], full, pass_, rank, error)
        if finding.guilty and name.endswith("all_reduce.after"):
            self.said.setdefault((full, pass_), sum_fault(graph, name, pass_))
        return finding

    def _drift(self, alone: Graph, found: Found) -> Iterator[Drift]:
        for name in alone.formulas:
            full = alone.full(name)
            for pass_ in range(len(self.work.passes)):
                parts = [found.get((full, pass_, rank)) for rank in range(self.capture.size)]
                if any(part is None for part in parts):
                    continue
                whole = joined(parts, self.steps[full])
                truth = alone.expected(name, pass_, 0).value
                if whole.shape != truth.shape:
                    continue
                real = self._real(pass_, name)
                divergence = kl(whole, truth, real) if name == steps.LOGITS else None
                yield Drift(full, pass_, distance(whole, truth, real), divergence)

    def _real(self, pass_: int, name: str) -> Tensor:
        """Which tokens of a step's tensor are no padding."""
        first, end = self.work.passes[pass_]
        return self.work.mask[:, :end] if "cached" in name else self.work.mask[:, first:end]

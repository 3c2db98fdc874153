"""Write the first guilty step as a script of its own: one operator and its inputs.

For a bug report: it needs torch and safetensors, not this library and not the model.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from neoxlib.align.graph import FINAL_NORM, Graph, share
from neoxlib.align.lineage import unseen
from neoxlib.align.localize import Alignment, Finding, part_graph
from neoxlib.align.reader import Capture
from neoxlib.align.weights import ReferenceWeights
from neoxlib.model import steps
from neoxlib.model.config import ACTIVATIONS
from neoxlib.model.steps import layer_of, part_of, within

Inputs = dict[str, Tensor]
ROW_PARALLEL = ("attention.dense", "mlp.dense_4h_to_h")

FORMULAS = {  # the operator of a step, in torch, on the tensors of inputs.safetensors as t
    "layer norm": 'F.layer_norm(t["x"], t["weight"].shape, t["weight"], t["bias"], {eps})',
    "linear": 'F.linear(t["x"], t["weight"], t.get("bias"))',
    "rotary": (
        'torch.cat((t["first"] * t["cos"] - t["second"] * t["sin"], '
        't["second"] * t["cos"] + t["first"] * t["sin"], t["still"]), -1)'
    ),
    "embedding": 'F.embedding(t["index"], t["rows"])',
    "cache": 't["written"]',
    "attention": (
        'F.scaled_dot_product_attention(t["q"].transpose(1, 2), t["k"].transpose(1, 2), '
        't["v"].transpose(1, 2), attn_mask=t["seen"][:, None]).transpose(1, 2).flatten(2)'
    ),
    "gelu": 'F.gelu(t["x"])',
    "tanh": 'F.gelu(t["x"], approximate="tanh")',
    "relu": 'F.relu(t["x"])',
    "products": 'F.linear(t["x1"], t["weight1"]) + F.linear(t["x2"], t["weight2"])',
    "product": 'F.linear(t["x"], t["weight"]) + t["branch"]',
    "sum": 'sum(t[name] for name in sorted(t) if name.startswith("term"))',
}

SCRIPT = '''"""{title}

{sentence}
Run: python reproduce.py [device], for example python reproduce.py npu:0.
"""
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
if device.startswith("npu"):
    __import__("torch_npu")
t = {{name: tensor.to(device) for name, tensor in load_file("inputs.safetensors").items()}}
seen, expected, spread, real = (
    t.pop(name).cpu() for name in ("observed", "expected", "spread", "real")
)
y = {formula}
for name, value in (("observed in the run", seen), ("computed now", y)):
    if value.shape != expected.shape:
        print(f"{{name}}: shape {{list(value.shape)}}, expected {{list(expected.shape)}}")
        continue
    units = (value.cpu().double() - expected).abs() / spread.clamp(min=1e-300)
    units = units.nan_to_num(nan=float("inf"))
    print(f"{{name}}: off by up to {{units[real].max():.3g}} roundings of {dtype}")
'''


def write(
    capture: Capture,
    found: Alignment,
    folder: Path,
    sentence: str,
    model_dir: str | Path | None = None,
) -> list[str]:
    """Write reproduce.py and inputs.safetensors of the first guilty step into `folder`.

    `model_dir` is the reference, by default the model that was captured. Returns the files' names;
    none if no step is guilty. Of a step that was not made the first wrong one after it is written.
    An input that was not observed is computed from what was.
    """
    first = _shown(found)
    if first is None:
        return []
    graph = graph_of(capture, first, model_dir)
    name = within(first.name)
    operator, inputs = inputs_of(graph, name, first)
    expected = graph.expected(name, first.pass_, first.rank)
    observed = capture_tensor(graph, first)
    dtype = observed.dtype
    kept = {key: in_dtype(value, dtype) for key, value in inputs.items()}
    judged = {"expected": expected.value, "spread": expected.spread, "real": real_of(graph, first)}
    lost = "" if found.first[0].error else f"{found.first[0].name} before it was not made."
    script = _script(first, operator, graph, f"{sentence}\n{lost}".strip(), str(dtype))
    _save(folder, kept | judged | {"observed": observed}, script)
    return list(FILES)


def _shown(found: Alignment) -> Finding | None:
    """The first guilty step with a tensor."""
    seen = [each for each in found.findings if each.guilty and each.error is not None]
    return min(seen, key=lambda each: (each.pass_, each.order, each.rank), default=None)


def _save(folder: Path, tensors: dict[str, Tensor], script: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / FILES[1])
    (folder / FILES[0]).write_text(script)


FILES = ("reproduce.py", "inputs.safetensors")


def _script(found: Finding, operator: str, graph: Graph, sentence: str, dtype: str) -> str:
    formula = FORMULAS[operator].format(eps=graph.config.layer_norm_eps)
    hidden = unseen(found.name, {each for each, _, _ in graph.found})
    title = f"{found.name}, pass {found.pass_}, rank {found.rank}: {operator}."
    return SCRIPT.format(
        title=title + _computed(hidden),
        sentence=sentence,
        formula=formula,
        dtype=dtype.removeprefix("torch."),
    )


def _computed(hidden: list[str]) -> str:
    """Say which inputs are not those of the run."""
    return f"\nUnseen in the run, and computed from what was seen: {', '.join(hidden)}." * bool(
        hidden
    )


def capture_tensor(graph: Graph, found: Finding) -> Tensor:
    """What was observed of a finding's step."""
    return graph.found[found.name, found.pass_, found.rank]


def in_dtype(value: Tensor, dtype: torch.dtype) -> Tensor:
    """An input as the run had it: what is no number stays."""
    return value.to(dtype) if value.is_floating_point() else value


def real_of(graph: Graph, found: Finding) -> Tensor:
    """Which tokens of a finding's step are no padding."""
    first, end = graph.work.passes[found.pass_]
    mask = graph.work.mask
    return mask[:, :end] if "cached" in found.name else mask[:, first:end]


def graph_of(capture: Capture, found: Finding, model_dir: str | Path | None) -> Graph:
    """The graph of the part that a finding is in, its inputs as they were observed."""
    about = capture.manifest
    source = ReferenceWeights(model_dir or about["model_dir"], about["dtype"], about["quant"])
    part = part_of(found.name)
    number = {"begin": -1, "end": about["layers"]}.get(part)
    return part_graph(capture, source, layer_of(found.name) if number is None else number)


def inputs_of(graph: Graph, name: str, found: Finding) -> tuple[str, Inputs]:
    """The key in FORMULAS of a step's operator, and its inputs."""
    where = found.pass_, found.rank
    if name == steps.EMBEDDED:
        return "embedding", _embedding(graph, *where)
    if "norm" in name:
        x = graph.inputs[where]
        if name.startswith("post") and not graph.config.use_parallel_residual:
            x = graph.estimate("attention.residual", *where)
        parts = {part: graph.weights[f"{name}.{part}"] for part in ("weight", "bias")}
        return "layer norm", {"x": x.value} | parts
    for ending, make in MAKERS.items():
        if name.endswith(ending):
            return make(graph, name, where)
    hidden = unseen(found.name, {each for each, _, _ in graph.found})
    if name == "all_reduce.before" and hidden:
        return _products(graph, where, hidden)
    return "sum", _terms(graph, name, where)


def _embedding(graph: Graph, pass_: int, rank: int) -> Inputs:
    """A rank's rows of the tokens' ids, and a row of zeros for ids of other ranks."""
    table = graph.weights["gpt_neox.embed_in"]
    mine = share(len(table), rank, graph.size)
    ids = graph.work.ids[:, slice(*graph.work.passes[pass_])].contiguous()
    used = ids.unique()
    used = used[(used >= mine.start) & (used < mine.stop)]
    here = (ids >= mine.start) & (ids < mine.stop)
    index = torch.searchsorted(used, ids).masked_fill(~here, len(used))
    rows = torch.cat((table[used], table.new_zeros(1, table.shape[1])))
    return {"ids": ids, "index": index, "rows": rows}


def _columns(graph: Graph, name: str, where: Any) -> tuple[str, Inputs]:
    before = {steps.QUERY_KEY_VALUE: "input_layernorm", steps.LOGITS: FINAL_NORM}
    x = graph.estimate(before.get(name, "post_attention_layernorm"), *where).value
    key = name if name == steps.LOGITS else f"{name}.weight"
    mine = share(len(graph.weights[key]), where[1], graph.size)
    found = {"x": x, "weight": graph.weights[key][mine]}
    bias = graph.weights.get(f"{name}.bias")
    return "linear", found if bias is None else found | {"bias": bias[mine]}


def _rows(graph: Graph, name: str, where: Any) -> tuple[str, Inputs]:
    before = steps.CONTEXT if name == "attention.dense" else "mlp.activation"
    weight = graph.weights[f"{name}.weight"]
    mine = share(weight.shape[1], where[1], graph.size)
    found = {"x": graph.estimate(before, *where).value, "weight": weight[:, mine]}
    bias = graph.row_bias(name) if where[1] == 0 else None
    return "linear", found if bias is None else found | {"bias": bias}


def _products(graph: Graph, where: Any, hidden: list[str]) -> tuple[str, Inputs]:
    """The products that are added before the all-reduce, where they were not seen by themselves."""
    both = {name: _rows(graph, name, where)[1] for name in ROW_PARALLEL}
    if hidden == [ROW_PARALLEL[1]]:  # an NPU adds the other as it multiplies
        branch = graph.estimate(ROW_PARALLEL[0], *where).value
        return "product", both[ROW_PARALLEL[1]] | {"branch": branch}
    pairs = enumerate(both.values(), 1)
    return "products", {f"{key}{n}": value for n, one in pairs for key, value in one.items()}


def _rotary(graph: Graph, name: str, where: Any) -> tuple[str, Inputs]:
    which = 0 if name.endswith("query") else 1
    x = graph.estimate(steps.QUERY_KEY_VALUE, *where).value
    x = x.unflatten(-1, (-1, 3, graph.config.head_dim))[..., which, :]
    half = (graph.config.rotary_dim + 1) // 2
    rates = graph.config.rotary_emb_base ** (
        -2.0 * torch.arange(half, dtype=torch.float64) / max(graph.config.rotary_dim, 1)
    )
    positions = graph.work.positions[:, slice(*graph.work.passes[where[0]])]
    angles = positions[..., None, None].double() * rates
    parts = {"first": x[..., :half], "second": x[..., half : 2 * half], "still": x[..., 2 * half :]}
    return "rotary", parts | {"cos": angles.cos(), "sin": angles.sin()}


def _cache(graph: Graph, name: str, where: Any) -> tuple[str, Inputs]:
    return "cache", {"written": graph.expected(name, *where).value}


def _attention(graph: Graph, _: str, where: Any) -> tuple[str, Inputs]:
    names = {"q": steps.ROTARY_QUERY, "k": steps.CACHED_KEY, "v": steps.CACHED_VALUE}
    found = {key: graph.estimate(name, *where).value for key, name in names.items()}
    return "attention", found | {"seen": graph.work.seen(where[0])}


def _activation(graph: Graph, _: str, where: Any) -> tuple[str, Inputs]:
    x = graph.estimate("mlp.dense_h_to_4h", *where).value
    return ACTIVATIONS[graph.config.hidden_act], {"x": x}


MAKERS: dict[str, Callable[..., tuple[str, Inputs]]] = {
    steps.QUERY_KEY_VALUE: _columns,
    "dense_h_to_4h": _columns,
    steps.LOGITS: _columns,
    "attention.dense": _rows,
    "dense_4h_to_h": _rows,
    steps.ROTARY_QUERY: _rotary,
    steps.ROTARY_KEY: _rotary,
    steps.CACHED_KEY: _cache,
    steps.CACHED_VALUE: _cache,
    steps.CONTEXT: _attention,
    "mlp.activation": _activation,
}


def _terms(graph: Graph, name: str, where: Any) -> Inputs:
    """What a sum is of: the ranks' terms, the branches, or the stream and what is added to it."""
    pass_ = where[0]
    dense, down = "attention.dense", "mlp.dense_4h_to_h"
    if name.endswith("all_reduce.after") or name == "gpt_neox.embed_in":
        before = name.replace("after", "before") if "after" in name else steps.EMBEDDED
        terms = [graph.estimate(before, pass_, each).value for each in range(graph.size)]
    elif name.endswith("all_reduce.before"):
        names = {"attention.all_reduce.before": [dense], "mlp.all_reduce.before": [down]}
        terms = [graph.estimate(n, *where).value for n in names.get(name, [dense, down])]
    else:
        return _residual_terms(graph, name, where)
    return {f"term{number}": term for number, term in enumerate(terms)}


def _residual_terms(graph: Graph, name: str, where: Any) -> Inputs:
    dense, down = "attention.dense", "mlp.dense_4h_to_h"
    if graph.config.use_parallel_residual:
        stream, reduced, layers = graph.inputs[where], "all_reduce.after", [dense, down]
    elif name == "attention.residual":
        stream, reduced, layers = graph.inputs[where], "attention.all_reduce.after", [dense]
    else:
        stream = graph.estimate("attention.residual", *where)
        reduced, layers = "mlp.all_reduce.after", [down]
    found = {"term0": stream.value, "term1": graph.estimate(reduced, *where).value}
    for each in () if graph.how.fused else layers:
        if (bias := graph.weights.get(f"{each}.bias")) is not None:
            found[f"term2 {each}.bias"] = bias
    return found

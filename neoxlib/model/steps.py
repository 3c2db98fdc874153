"""The steps of a forward pass by the checkpoint's module names, and how the ranks' parts join.

A layer's steps are in the order in which they run. What a step computes from is in
`align/graph.py`; this table only names what can be looked at.
"""

from dataclasses import dataclass

from neoxlib.model.config import ModelConfig

# How the parts that the ranks hold of a tensor make the whole.
REPLICATED = "replicated"  # every rank holds all of it
GATHERED = "gathered"  # joined along `dim`
PARTIAL = "partial"  # the ranks' terms are added


@dataclass(frozen=True)
class Step:
    """A tensor [B, tokens, ...] of a forward pass: its name, its shard rule and its operator."""

    name: str  # within its layer; "" is the layer's own output
    join: str
    operator: str
    dim: int = -1  # of a gathered tensor: the dimension that is cut


QUERY_KEY_VALUE = "attention.query_key_value"
ROTARY_QUERY = "attention.rotary.query"  # [B, S, heads, head_dim]
ROTARY_KEY = "attention.rotary.key"
CACHED_KEY = "attention.cached.key"  # [B, end, heads, head_dim]: all that the cache holds
CACHED_VALUE = "attention.cached.value"
EMBEDDED = "gpt_neox.embed_in.all_reduce.before"  # a rank's rows of the embedding; zeros elsewhere
LOGITS = "embed_out"  # also those of a tied head
CONTEXT = "attention.context"  # [B, S, heads * head_dim]: the heads' output, before dense

_ATTENTION = (
    Step("input_layernorm", REPLICATED, "layer norm"),
    Step(QUERY_KEY_VALUE, GATHERED, "linear"),
    Step(ROTARY_QUERY, GATHERED, "rotary", 2),
    Step(ROTARY_KEY, GATHERED, "rotary", 2),
    Step(CACHED_KEY, GATHERED, "cache", 2),
    Step(CACHED_VALUE, GATHERED, "cache", 2),
    Step(CONTEXT, GATHERED, "attention"),
    Step("attention.dense", PARTIAL, "linear"),
)
_MLP = (
    Step("post_attention_layernorm", REPLICATED, "layer norm"),
    Step("mlp.dense_h_to_4h", GATHERED, "linear"),
    Step("mlp.activation", GATHERED, "activation"),
    Step("mlp.dense_4h_to_h", PARTIAL, "linear"),
)
# The residual stream with attention and MLP in parallel: one all-reduce.
_PARALLEL_SUM = (
    Step("all_reduce.before", PARTIAL, "sum of both branches"),
    Step("all_reduce.after", REPLICATED, "all-reduce"),
    Step("", REPLICATED, "residual and biases"),
)
# One after the other: two all-reduces.
_FIRST_SUM = (
    Step("attention.all_reduce.before", PARTIAL, "hand-over"),
    Step("attention.all_reduce.after", REPLICATED, "all-reduce"),
    Step("attention.residual", REPLICATED, "residual and bias"),
)
_SECOND_SUM = (
    Step("mlp.all_reduce.before", PARTIAL, "hand-over"),
    Step("mlp.all_reduce.after", REPLICATED, "all-reduce"),
    Step("", REPLICATED, "residual and bias"),
)
# Where the biases of `dense` and `dense_4h_to_h` are not added yet, but on an NPU.
UNBIASED = {step.name for step in _PARALLEL_SUM[:2] + _FIRST_SUM[:2] + _SECOND_SUM[:2]}
UNBIASED |= {"attention.dense", "mlp.dense_4h_to_h"}
BEGINNING = (
    Step(EMBEDDED, PARTIAL, "embedding"),
    Step("gpt_neox.embed_in", REPLICATED, "all-reduce"),
)
END = (
    Step("gpt_neox.final_layer_norm", REPLICATED, "layer norm"),
    Step(LOGITS, GATHERED, "linear"),
)


def layer_steps(parallel: bool) -> tuple[Step, ...]:
    """The steps of one layer; `parallel` is the config's use_parallel_residual."""
    if parallel:
        return _ATTENTION + _MLP + _PARALLEL_SUM
    return _ATTENTION + _FIRST_SUM + _MLP + _SECOND_SUM


def full_name(layer: int, name: str) -> str:
    """The name in the whole model of a layer's step."""
    return f"gpt_neox.layers.{layer}.{name}".rstrip(".")


def all_steps(config: ModelConfig) -> dict[str, Step]:
    """Every step of the model by its full name, in the order in which they run."""
    found = {step.name: step for step in BEGINNING}
    for layer in range(config.num_hidden_layers):
        for step in layer_steps(config.use_parallel_residual):
            found[full_name(layer, step.name)] = step
    return found | {step.name: step for step in END}


def layer_of(name: str) -> int | None:
    """The number of the layer that a full name is in; None before and after the layers."""
    words = name.split(".")
    return int(words[2]) if words[:2] == ["gpt_neox", "layers"] else None


def within(name: str) -> str:
    """A name without its layer."""
    return name if layer_of(name) is None else ".".join(name.split(".")[3:])


def part_of(name: str) -> str:
    """The part of the model that a name belongs to: `begin`, `layer000` … or `end`."""
    layer = layer_of(name)
    if layer is not None:
        return f"layer{layer:03d}"
    return "begin" if name.startswith("gpt_neox.embed_in") else "end"

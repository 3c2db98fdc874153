"""Which step computes from which: to say what lies unseen between a step and what was seen."""

from collections.abc import Set

from neoxlib.model import steps
from neoxlib.model.steps import full_name, layer_of, within

DENSE, UP, DOWN = "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"
PARENTS = {  # within a layer, and in the head
    steps.QUERY_KEY_VALUE: ("input_layernorm",),
    steps.ROTARY_QUERY: (steps.QUERY_KEY_VALUE,),
    steps.ROTARY_KEY: (steps.QUERY_KEY_VALUE,),
    steps.CACHED_KEY: (steps.ROTARY_KEY,),
    steps.CACHED_VALUE: (steps.QUERY_KEY_VALUE,),
    steps.CONTEXT: (steps.ROTARY_QUERY, steps.CACHED_KEY, steps.CACHED_VALUE),
    DENSE: (steps.CONTEXT,),
    UP: ("post_attention_layernorm",),
    "mlp.activation": (UP,),
    DOWN: ("mlp.activation",),
    "all_reduce.before": (DENSE, DOWN),
    "attention.all_reduce.before": (DENSE,),
    "mlp.all_reduce.before": (DOWN,),
    steps.LOGITS: ("gpt_neox.final_layer_norm",),
}


def unseen(name: str, seen: Set[str]) -> list[str]:
    """The steps, named within their layer, that an error of `name` may as well be of.

    `seen` are the full names that were observed.
    """
    layer = layer_of(name)
    found = []
    for parent in PARENTS.get(within(name), ()):
        full = parent if layer is None else full_name(layer, parent)
        if full not in seen:
            found += [*unseen(full, seen), parent]
    return list(dict.fromkeys(found))

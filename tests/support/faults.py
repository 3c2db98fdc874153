"""The kinds of faults that are planted, and where each must be found: data."""

from dataclasses import dataclass

import torch

from neoxlib.kernels import plain
from tests.support import planted
from tests.support.fault_edits import (
    attend_with,
    biased,
    coarse,
    divided,
    doubled,
    in_half,
    keys_as_values,
    layer_left_out,
    layers_swapped,
    lost,
    mean,
    never_reduced,
    next_seen,
    no_bias,
    no_stream,
    norms_swapped,
    not_itself,
    padding_seen,
    reduced_in_half,
    row_stale,
    slot_late,
    split_as,
    swapped,
    thirds,
    turned,
    twice,
    unscaled,
    vocabulary_offset,
    window,
    zero,
)
from tests.support.planted import Plant, attention, ops, weights

FLOAT32 = ("float32",)
FLOATS = ("float32", "float16")
DTYPES = ("float32", "float16", "bfloat16")
ALL = (*DTYPES, "int8", "int4")
PACKED = ("int8", "int4")
SPLIT = (2, 4)
SIZES = (1, 2, 4)
QKV = "attention.query_key_value"


@dataclass(frozen=True)
class Fault:
    """A kind, how it is planted, and the step, pass and ranks that must be named."""

    kind: str
    plant: Plant
    step: str  # within the layer, or the full name after a slash
    one: bool = False  # one rank's alone; otherwise of all ranks
    pass_: int = 0
    dtypes: tuple[str, ...] = ALL  # where its effect is larger than one rounding
    sizes: tuple[int, ...] = SIZES
    said: str = ""  # in what is told of the sum


UP, DOWN, DENSE = "mlp.dense_h_to_4h", "mlp.dense_4h_to_h", "attention.dense"
IN, POST = "input_layernorm", "post_attention_layernorm"
QUERY, KEY, VALUE = "attention.rotary.query", "attention.rotary.key", "attention.cached.value"
CACHED, SEEN, AFTER = "attention.cached.key", "attention.context", "all_reduce.after"
FIRST_QUERY = "/gpt_neox.layers.0.attention.rotary.query"  # positions are of all layers
HEAD, EMBED = "/embed_out", "/gpt_neox.embed_in.all_reduce.before"

FAULTS = (
    Fault(
        "thirds of q, k, v cut as blocks",
        weights(f"{QKV}.weight", thirds),
        QKV,
        dtypes=DTYPES,
        sizes=(1, 2),
    ),
    Fault("q and k swapped in the weight", weights(f"{QKV}.weight", swapped), QKV),
    Fault("q and k swapped after the product", split_as(1, 0, 2), QUERY),
    Fault("k and v swapped after the product", split_as(0, 2, 1), KEY),
    Fault("q and v swapped after the product", split_as(2, 1, 0), QUERY),
    Fault("one head turned by a row", weights(f"{QKV}.weight", turned, one=True), QKV, one=True),
    Fault("rotary fraction halved", planted.config(rotary_pct=lambda x: x / 2), FIRST_QUERY),
    Fault("rotary base", planted.config(rotary_emb_base=lambda x: x * 2), FIRST_QUERY),
    Fault("neighbours rotated", ops("attention", rotate=planted.interleaved), QUERY),
    Fault(
        "rotated backwards",
        ops("attention", rotate=lambda x, cos, sin: plain.rotate(x, cos, -sin)),
        QUERY,
    ),
    Fault("not rotated", ops("attention", rotate=lambda x, *_: x), QUERY),
    Fault("tables in half", planted.tables(planted.half_tables), FIRST_QUERY, dtypes=FLOAT32),
    Fault("position off by one", planted.shifted(lambda p, _: p + 1), FIRST_QUERY),
    Fault(
        "padding has positions",
        planted.shifted(lambda p, start: torch.arange(p.shape[1]).add(start).expand_as(p)),
        FIRST_QUERY,
    ),
    Fault(
        "position stands still", planted.shifted(lambda p, s: p - int(s > 0)), FIRST_QUERY, pass_=1
    ),
    Fault("next token seen", attend_with(mask=next_seen), SEEN),
    Fault("newest token hidden", attend_with(mask=not_itself), SEEN),
    Fault("padding seen", attend_with(mask=padding_seen), SEEN),
    Fault("only a window seen", attend_with(mask=window), SEEN),
    Fault("scale missing", attend_with(q=unscaled), SEEN),
    Fault(
        "scores in bfloat16",
        attend_with(q=lambda q: q.bfloat16().to(q.dtype)),
        SEEN,
        dtypes=FLOAT32,
    ),
    Fault(
        "heads joined in another order",
        attention(merge=lambda y: y.permute(0, 2, 3, 1).flatten(2)),
        SEEN,
        sizes=(1, 2),
    ),
    Fault("cache slot off by one from pass 1", attention(write=slot_late), CACHED, pass_=1),
    Fault("one row of the cache is stale", attention(write=row_stale), CACHED, pass_=1),
    Fault("keys kept as values", attention(write=keys_as_values), VALUE),
    Fault("bias of q, k, v left out", weights(f"{QKV}.bias", zero), QKV),
    Fault("bias of h_to_4h left out", weights(f"{UP}.bias", zero), UP),
    Fault("bias of dense left out", weights(f"{DENSE}.bias", zero), ""),
    Fault("both row biases left out", planted.add(no_bias), ""),
    Fault("bias of dense on every rank", planted.forward(DENSE, biased), DENSE),
    Fault("bias of 4h_to_h on every rank", planted.forward(DOWN, biased), DOWN),
    Fault("biases divided", planted.add(divided), ""),
    Fault(
        "tanh for erf or the reverse",
        planted.attribute("mlp", "form", "gelu"),
        "mlp.activation",
        dtypes=FLOAT32,
    ),
    Fault("relu for gelu", planted.attribute("mlp", "form", "relu"), "mlp.activation"),
    Fault("residual one after the other", planted.attribute("", "parallel", False), POST),
    Fault("stream left out", planted.add(no_stream), ""),
    Fault("stream added twice", planted.add(twice), ""),
    Fault("stream in bfloat16", planted.add(coarse), "", dtypes=FLOATS),
    Fault("the two norms swapped", norms_swapped, IN),
    Fault("eps a thousand times", planted.attribute(IN, "eps", 1e-2), IN, dtypes=FLOAT32),
    Fault("eps of one", planted.attribute(POST, "eps", 1e2), POST),
    Fault("bias of a norm left out", weights(f"{IN}.bias", zero), IN),
    Fault("weight of a norm left out", weights(f"{POST}.weight", torch.ones_like), POST),
    Fault(
        "rows of the neighbour, q, k, v", planted.neighbour(f"{QKV}.weight"), QKV, True, sizes=SPLIT
    ),
    Fault(
        "rows of the neighbour, h_to_4h", planted.neighbour(f"{UP}.weight"), UP, True, sizes=SPLIT
    ),
    Fault("bias of the neighbour, h_to_4h", planted.neighbour(f"{UP}.bias"), UP, True, sizes=SPLIT),
    Fault(
        "columns of the neighbour, dense",
        planted.neighbour(f"{DENSE}.weight"),
        DENSE,
        True,
        sizes=SPLIT,
    ),
    Fault(
        "columns of the neighbour, 4h_to_h",
        planted.neighbour(f"{DOWN}.weight"),
        DOWN,
        True,
        sizes=SPLIT,
    ),
    Fault(
        "all-reduce without effect",
        planted.all_reduce(lambda _, x: x),
        AFTER,
        sizes=SPLIT,
        said="rank 0 has only its own term",
    ),
    Fault("all-reduce not made", planted.add(never_reduced), "all_reduce.before", sizes=SPLIT),
    Fault(
        "a rank's term is lost",
        planted.all_reduce(lost, one=True),
        AFTER,
        sizes=SPLIT,
        said="the sum lacks the term of rank {rank}",
    ),
    Fault(
        "a rank's term is in twice",
        planted.all_reduce(doubled, one=True),
        AFTER,
        sizes=SPLIT,
        said="the term of rank {rank} is in the sum twice",
    ),
    Fault(
        "a rank is late by one pass",
        planted.late,
        AFTER,
        sizes=SPLIT,
        pass_=2,
        said="the term of rank {rank} is that of the pass before",
    ),
    Fault("mean in place of the sum", planted.all_reduce(mean), AFTER, sizes=SPLIT),
    Fault(
        "reduced in float16",
        planted.all_reduce(reduced_in_half),
        AFTER,
        sizes=SPLIT,
        dtypes=FLOAT32,
        said="it was rounded too much",
    ),
    Fault("vocabulary off by one", vocabulary_offset, EMBED, True, sizes=SPLIT),
    Fault(
        "embedding of the neighbour",
        planted.neighbour("/gpt_neox.embed_in.weight"),
        EMBED,
        True,
        sizes=SPLIT,
    ),
    Fault("head of another rank", planted.neighbour("/embed_out.weight"), HEAD, True, sizes=SPLIT),
    Fault(
        "final norm's bias left out",
        weights("/gpt_neox.final_layer_norm.bias", zero),
        "/gpt_neox.final_layer_norm",
    ),
    Fault(
        "scales of the next group",
        weights(f"{QKV}.weight_scale", lambda s: s.roll(1, -1)),
        QKV,
        dtypes=("int4",),
    ),
    Fault(
        "scales of the next row",
        weights(f"{UP}.weight_scale", lambda s: s.roll(1, 0)),
        UP,
        dtypes=PACKED,
    ),
    Fault(
        "NaN in one weight",
        weights(f"{DOWN}.weight", planted.one_value(torch.nan), one=True),
        DOWN,
        True,
        dtypes=DTYPES,
    ),
    Fault(
        "infinity in one bias",
        weights(f"{UP}.bias", planted.one_value(torch.inf), one=True),
        UP,
        True,
    ),
    Fault(
        "one flipped exponent bit",
        weights(f"{UP}.weight", planted.flipped, one=True),
        UP,
        True,
        dtypes=DTYPES,
    ),
    Fault(
        "one packed byte flipped",
        weights(f"{DENSE}.weight", planted.byte_flipped, one=True),
        DENSE,
        True,
        dtypes=PACKED,
    ),
    Fault(
        "product in bfloat16",
        planted.forward(QKV, lambda _, own, x: in_half(own)(x)),
        QKV,
        dtypes=FLOATS,
    ),
    Fault("layers in another order", layers_swapped, IN),
    Fault("layer left out", layer_left_out, IN),
)

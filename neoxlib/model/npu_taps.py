"""Record what the NPU's operators compute, under the checkpoint's names and in its order.

The layers, operators and group of the executor are replaced for the time of the block by ones that
also record, so the operators and their order are the executor's own. Recorded is what each operator
gave, with two things of the NPU's path left as they are: the biases of `dense` and `dense_4h_to_h`
are in rank 0's product, with the parallel residual both in that of `dense`; and a norm that is
fused with the sum before it takes that sum before it is rounded. Rows of queries and keys that
stand in the order of `on_npu.halves` are turned back.

Not seen are scores and weights of the attention, which stay inside its operator, and with the
parallel residual `mlp.dense_4h_to_h` by itself: its product adds the attention's branch at once,
which is `all_reduce.before`. Decode runs eagerly, since the replay of a graph shows nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor

from neoxlib.kernels.npu import PlainOps
from neoxlib.model import steps
from neoxlib.model.cache import KVCache
from neoxlib.model.npu_products import PlainProduct
from neoxlib.model.npu_steps import NpuStep
from neoxlib.model.taps import Record, StandIn, replaced, tap_embedding

# The executor is on_npu.NpuModel, which imports this file.
NORMS = ("input_layernorm", "post_attention_layernorm")
LINEARS = {
    steps.QUERY_KEY_VALUE: "query_key_value",
    "attention.dense": "dense",
    "mlp.dense_h_to_4h": "dense_h_to_4h",
    "mlp.dense_4h_to_h": "dense_4h_to_h",
}


@contextmanager
def tapped(executor: Any, order: Tensor, record: Record) -> Iterator[None]:
    """Record every step of `executor` that can be seen; a captured graph is kept, and not used.

    `order` [head_dim] has, for each row of a head's q and k, the checkpoint's row that lies there.
    """
    tap = _Tap(executor, order, record)
    ops = {name: getattr(tap, name) for name in ("layer_norm", "add_layer_norm", "activate")}
    ops |= {"rotate": tap.rotate, "attend": tap.attend}
    stands = {
        "run": tap.run,
        "head": tap.head,
        "graphs": None,
        "layers": [_Layer(layer, tap) for layer in executor.layers],
        "ops": StandIn(executor.ops, **ops),
        "group": StandIn(executor.group, all_reduce=tap.all_reduce),
    }
    with ExitStack() as stack:
        tap_embedding(executor.embed_in, record, stack)
        for name, value in stands.items():
            replaced(stack, executor, name, value)
        yield


@contextmanager
def plain(executor: Any) -> Iterator[None]:
    """Let `executor` compute by kernels/plain.py on the CPU, from what its operators are given.

    Weights, tables and masks are the run's own: what differs is the operator alone. Writes to the
    cache and the sums over the ranks stay as they are.
    """
    stands = {
        "ops": PlainOps(executor.ops.operators),
        "layers": [_PlainLayer(layer) for layer in executor.layers],
        "output": PlainProduct(executor.output),
        "graphs": None,
    }
    with ExitStack() as stack:
        for name, value in stands.items():
            replaced(stack, executor, name, value)
        yield


def operators(executor: Any, batch: int, rows: int, end: int) -> dict[str, str]:
    """The operator of each step, by its name within a layer, for `rows` tokens in a pass."""
    ops, config = executor.ops, executor.config
    table = ops.operators
    fused = "npu_add_layer_norm" if table.add_norm else "layer_norm"
    found = {name: getattr(executor.layers[0], own).operator for name, own in LINEARS.items()}
    rotary = "npu_rotary_mul" if table.rotary_mul and 3 * batch < 1000 else "addcmul"
    last = found["mlp.dense_4h_to_h"]
    return found | {
        NORMS[0]: fused,
        NORMS[1]: "layer_norm" if config.use_parallel_residual else fused,
        steps.ROTARY_QUERY: rotary,
        steps.ROTARY_KEY: rotary,
        steps.CACHED_KEY: "copy_",
        steps.CACHED_VALUE: "copy_",
        steps.CONTEXT: ops.attends_by(batch, rows, end),
        "mlp.activation": "npu_gelu" if table.gelu and executor.form != "relu" else executor.form,
        "all_reduce.before": last,
        "attention.residual": fused,
        "": fused,
        "gpt_neox.final_layer_norm": "layer_norm",
        steps.LOGITS: executor.output.operator,
    }


def _by_head(x: Tensor, head_dim: int, back: Tensor, dim: int = -1) -> Tensor:
    """Rows or columns [q | k | v] as q, k, v of each head, q and k in the checkpoint's order."""
    parts = x.movedim(dim, -1).unflatten(-1, (3, -1, head_dim)).clone()
    parts[..., :2, :, :] = parts[..., :2, :, back]
    return parts.transpose(-3, -2).flatten(-3).movedim(-1, dim)


def _by_part(x: Tensor, head_dim: int, order: Tensor) -> Tensor:
    """The inverse of `_by_head`, of columns."""
    parts = x.unflatten(-1, (-1, 3, head_dim)).transpose(-3, -2).clone()
    parts[..., :2, :, :] = parts[..., :2, :, order]
    return parts.flatten(-3)


class _Tap:
    """Names what the operators give, by the order of the norms in a forward pass."""

    def __init__(self, executor: Any, order: Tensor, record: Record) -> None:
        self.real_run = executor.run
        self.real_head = executor.head
        self.parallel = executor.config.use_parallel_residual
        self.order = order
        self.back = order.argsort()
        self.record = record
        self.shape: tuple[int, int] | None = None  # B, S of the pass that runs
        self.end = 0
        self.norms = 0  # made in this pass
        self.headed: tuple[int, ...] = ()  # of the states that the head is given

    def run(
        self, input_ids: Tensor, step: NpuStep, cache: KVCache, layers: int | None = None
    ) -> Tensor:
        """As NpuModel.run; its norms are those of the layers, any other is the head's."""
        self.shape, self.end, self.norms = step.shape, step.end, 0

        def write(kept: Tensor, new: Tensor) -> None:
            step.write(kept, new)
            self.cached(kept)

        try:
            x = self.real_run(input_ids, replace(step, write=write), cache, layers)
            if self.norms:
                self.say("", x)
        finally:
            self.shape = None
        return x

    def head(self, x: Tensor) -> Tensor:
        """As NpuModel.head."""
        self.headed = x.shape[:-1]
        return self.real_head(x)

    def say(self, name: str, y: Tensor, before: int = 0) -> Tensor:
        """Record rows [B * S, ...] of the layer that runs, or of the one `before`."""
        layer = (self.norms - 1) // 2 - before
        self.record(steps.full_name(layer, name), y.unflatten(0, self.shape))
        return y

    def say_in_order(self, name: str, y: Tensor, there: Callable, back: Callable) -> Tensor:
        """Record y in the checkpoint's order, `there(y)`; what the record made of it goes back."""
        turned = there(y)
        layer = (self.norms - 1) // 2
        self.record(steps.full_name(layer, name), turned)
        y.copy_(back(turned))
        return y

    def layer_norm(self, real: Callable, x: Tensor, *args: Any) -> Tensor:
        """A layer's norm, or the final one."""
        y = real(x, *args)
        if self.shape is None:
            self.record("gpt_neox.final_layer_norm", y.unflatten(0, self.headed))
            return y
        self.norms += 1
        return self.say(NORMS[(self.norms - 1) % 2], y)

    def add_layer_norm(self, real: Callable, *args: Any) -> tuple[Tensor, Tensor]:
        """A norm and the sum that it is of: the residual stream."""
        y, total = real(*args)
        self.norms += 1
        second = (self.norms - 1) % 2
        self.say("attention.residual" if second else "", total, before=1 - second)
        return self.say(NORMS[second], y), total

    def query_key_value(self, y: Tensor) -> Tensor:
        """Columns [q | k | v]."""
        size = len(self.order)
        return self.say_in_order(
            steps.QUERY_KEY_VALUE,
            y,
            lambda y: _by_head(y, size, self.back).unflatten(0, self.shape),
            lambda turned: _by_part(turned, size, self.order).flatten(0, 1),
        )

    def rotate(self, real: Callable, *args: Any) -> Tensor:
        """q, k and v [3 * B, heads, S, head_dim], of which v is not turned."""
        y = real(*args)
        for name, rows in zip((steps.ROTARY_QUERY, steps.ROTARY_KEY), y.chunk(3), strict=False):
            self.say_in_order(name, rows, self._tokens_first, self._heads_first)
        return y

    def _tokens_first(self, x: Tensor) -> Tensor:
        return x[..., self.back].transpose(1, 2)

    def _heads_first(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)[..., self.order]

    def cached(self, kept: Tensor) -> None:
        """What the cache [2, B, heads, slots, head_dim] of a layer holds after the write."""
        k, v = kept[:, :, :, : self.end]
        self.say_in_order(steps.CACHED_KEY, k, self._tokens_first, self._heads_first)
        name = steps.full_name((self.norms - 1) // 2, steps.CACHED_VALUE)
        self.record(name, v.transpose(1, 2))

    def attend(self, real: Callable, *args: Any) -> Tensor:
        """The heads' output [B, heads, S, head_dim]."""
        y = real(*args)
        heads = y.shape[1]
        return self.say_in_order(
            steps.CONTEXT,
            y,
            lambda y: y.transpose(1, 2).flatten(2).clone(),  # a view if there is one head or token
            lambda turned: turned.unflatten(-1, (heads, -1)).transpose(1, 2),
        )

    def activate(self, real: Callable, *args: Any) -> Tensor:
        """The MLP's activation."""
        return self.say("mlp.activation", real(*args))

    def all_reduce(self, real: Callable, x: Tensor) -> Tensor:
        """Recorded before and after: the sum is in place."""
        part = "" if self.parallel else "mlp." if self.norms % 2 == 0 else "attention."
        self.say(f"{part}all_reduce.before", x)
        return self.say(f"{part}all_reduce.after", real(x))


class _Layer:
    """An NpuLayer whose products are recorded; all else is the layer's own."""

    def __init__(self, real: Any, tap: _Tap) -> None:
        self._real = real
        self._tap = tap

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def query_key_value(self, x: Tensor) -> Tensor:
        """The product and its bias."""
        return self._tap.query_key_value(self._real.query_key_value(x))

    def dense(self, x: Tensor) -> Tensor:
        """This rank's terms, with the biases on rank 0."""
        return self._tap.say("attention.dense", self._real.dense(x))

    def dense_h_to_4h(self, x: Tensor) -> Tensor:
        """The product and its bias."""
        return self._tap.say("mlp.dense_h_to_4h", self._real.dense_h_to_4h(x))

    def dense_4h_to_h(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        """Seen by itself only where the attention's branch is not added at once."""
        y = self._real.dense_4h_to_h(x, add)
        return y if add is not None else self._tap.say("mlp.dense_4h_to_h", y)


class _PlainLayer:
    """An NpuLayer with plain products."""

    def __init__(self, real: Any) -> None:
        self.before_attention = real.before_attention
        self.before_mlp = real.before_mlp
        for name in LINEARS.values():
            setattr(self, name, PlainProduct(getattr(real, name)))

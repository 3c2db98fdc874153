"""Record the tensors between a forward pass's steps while a model runs.

The taps are set for the time of a `with` block: outside of it the model is untouched, so they cost
nothing. The names are those of `steps.py`.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from neoxlib.errors import SettingsError
from neoxlib.model import steps
from neoxlib.model.gpt_neox import Block, GPTNeoX
from neoxlib.model.layers import VocabParallel

# Called with a step's full name and its tensor [B, tokens, ...], which the model may change later:
# who keeps it makes a copy. The run goes on with what the tensor holds after the call.
Record = Callable[[str, Tensor], None]


@contextmanager
def tapped(model: GPTNeoX, record: Record) -> Iterator[None]:
    """Call `record` with the output of every step that can be seen while `model` runs.

    Plain layers show every step. An executor shows what its own `tapped(record)` does (cpu_taps.py,
    npu_taps.py). Logits are the caller's to record.
    Raises SettingsError for an executor without that method.
    """
    if model.executor is not None:
        tap = getattr(model.executor, "tapped", None)
        if tap is None:
            kind = type(model.executor).__name__
            raise SettingsError(
                f"{kind} does not show what it computes inside; load with compile=False"
            )
        with tap(record):
            yield
        return
    with ExitStack() as stack:
        _tap_ends(model, record, stack)
        for number, block in enumerate(model.gpt_neox.layers):
            _tap_block(block, number, record, stack)
        yield


class StandIn:
    """Stands for an object: calls of some methods are seen, all else is the object's own."""

    def __init__(self, real: Any, **seen: Callable[..., Any]) -> None:
        self._real = real
        self._seen = seen

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if name not in self._seen:
            return found
        return lambda *args: self._seen[name](found, *args)


def replaced(stack: ExitStack, owner: object, name: str, value: Any) -> None:
    """Set an attribute until the stack is closed; then it is the owner's or its class's again."""
    if name in vars(owner):
        stack.callback(setattr, owner, name, getattr(owner, name))
    else:
        stack.callback(delattr, owner, name)
    setattr(owner, name, value)


def tap_embedding(embed_in: VocabParallel, record: Record, stack: ExitStack) -> None:
    """Record the embedding before and after its sum over the ranks, until `stack` is closed."""

    def seen(*_: Any) -> None:
        record("gpt_neox.embed_in", _[-1])

    def reduced(real: Callable, x: Tensor) -> Tensor:
        record("gpt_neox.embed_in.all_reduce.before", x)
        return real(x)

    stack.callback(embed_in.register_forward_hook(seen).remove)
    replaced(stack, embed_in, "group", StandIn(embed_in.group, all_reduce=reduced))


def _tap_ends(model: GPTNeoX, record: Record, stack: ExitStack) -> None:
    def normed(real: Callable, *args: Any) -> Tensor:
        y = real(*args)
        record("gpt_neox.final_layer_norm", y)
        return y

    tap_embedding(model.gpt_neox.embed_in, record, stack)
    replaced(stack, model, "ops", StandIn(model.ops, layer_norm=normed))


class _BlockTap:
    """Names what one layer computes, by the order of the calls in a forward pass."""

    def __init__(self, block: Block, number: int, record: Record) -> None:
        self.number = number
        self.record = record
        self.parallel = block.parallel
        self.begin()

    def begin(self, *_: Any) -> None:
        """A forward pass begins."""
        self.norms = iter(("input_layernorm", "post_attention_layernorm"))
        self.turned = iter((steps.ROTARY_QUERY, steps.ROTARY_KEY))
        one = ("all_reduce",)
        self.sums = iter(one if self.parallel else ("attention.all_reduce", "mlp.all_reduce"))

    def say(self, name: str | None, value: Tensor) -> None:
        """Record a step; a call beyond those of a layer has no name."""
        if name is not None:
            self.record(steps.full_name(self.number, name), value)

    def layer_norm(self, real: Callable, x: Tensor, *args: Any) -> Tensor:
        """The first norm of a pass is the one before the attention, whatever its weights."""
        name = next(self.norms, None)
        if name == "post_attention_layernorm" and not self.parallel:
            self.say("attention.residual", x)
        y = real(x, *args)
        self.say(name, y)
        return y

    def rotate(self, real: Callable, x: Tensor, *args: Any) -> Tensor:
        """The first rotation is that of the queries."""
        y = real(x, *args)
        self.say(next(self.turned, None), y.transpose(1, 2))
        return y

    def attend(self, real: Callable, q: Tensor, k: Tensor, v: Tensor, *args: Any) -> Tensor:
        """The cache is recorded as the attention is given it."""
        end = args[-1]
        self.say(steps.CACHED_KEY, k[:, :, :end].transpose(1, 2))
        self.say(steps.CACHED_VALUE, v[:, :, :end].transpose(1, 2))
        return real(q, k, v, *args)

    def activate(self, real: Callable, *args: Any) -> Tensor:
        """The MLP's activation."""
        y = real(*args)
        self.say("mlp.activation", y)
        return y

    def all_reduce(self, real: Callable, x: Tensor) -> Tensor:
        """Recorded before and after: the sum may be in place."""
        name = next(self.sums, None)
        self.say(name and f"{name}.before", x)
        y = real(x)
        self.say(name and f"{name}.after", y)
        return y


def _tap_block(block: Block, number: int, record: Record, stack: ExitStack) -> None:
    tap = _BlockTap(block, number, record)
    attention = block.attention
    mlp = block.mlp
    stack.callback(block.register_forward_pre_hook(tap.begin).remove)
    replaced(stack, block, "ops", StandIn(block.ops, layer_norm=tap.layer_norm))
    replaced(stack, block, "group", StandIn(block.group, all_reduce=tap.all_reduce))
    seen = StandIn(attention.ops, rotate=tap.rotate, attend=tap.attend)
    replaced(stack, attention, "ops", seen)
    replaced(stack, mlp, "ops", StandIn(mlp.ops, activate=tap.activate))
    hooks: dict[str, nn.Module] = {
        steps.QUERY_KEY_VALUE: attention.query_key_value,
        "attention.dense": attention.dense,
        "mlp.dense_h_to_4h": mlp.dense_h_to_4h,
        "mlp.dense_4h_to_h": mlp.dense_4h_to_h,
        "": block,
    }
    for name, module in hooks.items():
        _hook(stack, module, name, tap)
    before = attention.dense.register_forward_pre_hook(lambda _, x: tap.say(steps.CONTEXT, x[0]))
    stack.callback(before.remove)


def _hook(stack: ExitStack, module: nn.Module, name: str, tap: _BlockTap) -> None:
    handle = module.register_forward_hook(lambda _, __, y: tap.say(name, y))
    stack.callback(handle.remove)

"""Count the operators that one step of the model launches on a device, by name."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# They allocate, or look at a tensor in another form: nothing is queued on the device.
FREE = ("_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "sym_size", "device")


class Launches(TorchDispatchMode):
    """Records the names of the operators that do work; views and allocations are none."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.partition("::")[2]
        if not is_view(func) and name not in FREE:
            self.names.append(name)
        return func(*args, **kwargs or {})


def is_view(func: Any) -> bool:
    """Whether an operator returns its argument in another form, and writes nothing."""
    returns = func._schema.returns
    return bool(returns) and all(
        one.alias_info is not None and not one.alias_info.is_write for one in returns
    )


@contextmanager
def launches() -> Iterator[Counter[str]]:
    """The operators launched inside, counted by name when it ends.

    Without gradients, but not in inference mode, where composite operators would be counted whole.
    """
    counted: Counter[str] = Counter()
    with torch.no_grad(), Launches() as mode:
        yield counted
    counted.update(mode.names)

"""A condition that a kernel's own host code sets on a call, and the refusal of one that breaks it.

The conditions themselves are data in other files, one file for a few operators.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from tests.support.npu.rules import Contract, here


@dataclass(frozen=True)
class Condition:
    """What one place in the vendor's sources asks of the calls of an operator on some families.

    `source` is "repository commit path:line". `holds` gets the call's arguments by name as
    attributes, those with a default too. Of the conditions on one operator it may take those
    before it in their list as met.
    """

    operator: str
    families: tuple[str, ...]
    source: str
    asks: str
    holds: Callable[[SimpleNamespace], bool]


class Refused(Contract):
    """A call breaks `condition`. The message says what is asked, where, and what was given."""

    def __init__(self, condition: Condition, arguments: dict[str, Any]) -> None:
        given = ", ".join(f"{name} {_shown(value)}" for name, value in arguments.items())
        ValueError.__init__(
            self,
            f"{condition.operator} on {here.family} asks: {condition.asks} "
            f"({condition.source}); found {given}",
        )
        self.condition = condition


def enforce(conditions: Iterable[Condition], operator: str, **arguments: Any) -> None:
    """Raise Refused for the first condition on `operator` and the present chip that is broken."""
    call = SimpleNamespace(**arguments)
    for condition in conditions:
        if condition.operator != operator or here.family not in condition.families:
            continue
        if not condition.holds(call):
            raise Refused(condition, arguments)


def _shown(value: Any) -> str:
    """A value in a message: of a tensor its dtype and shape."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return repr(value)

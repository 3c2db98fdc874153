"""The conditions of the attention operators, of all chip families."""

from tests.support.npu.condition import Condition
from tests.support.npu.contracts_fused import FUSED
from tests.support.npu.contracts_incre import INCRE
from tests.support.npu.contracts_prompt import PROMPT

ATTENTION: tuple[Condition, ...] = (*FUSED, *PROMPT, *INCRE)

"""What HCCL offers on each chip or card, and what torch_npu makes of torch.distributed on it.

Sources: hccl 09300b70, pages under docs/zh; torch_npu 9e73e708. Where two pages of HCCL differ, the
stricter holds: comm_ops_support_list/comm_ops_support_300i_duo.md:320 lists Send and Recv for
the 300I Duo, their own pages do not.
"""

from dataclasses import dataclass

import torch

_PAGE = "hccl 09300b70 docs/zh/api_ref/comm_op_interface/Hccl"
_GUIDE = "hccl 09300b70 docs/zh/user_guide/"
DUO = "300I Duo"
DUO_NPUS = 32  # 16 cards: HcclAllGather.md:72
SINGLE = ("300I Pro", "300V Pro")  # cards that no collective runs on
A2_A3 = ("A2", "A3")


@dataclass(frozen=True)
class Fact:
    """An operation, the chips or cards that it is on, the dtypes there, and the source of it."""

    operation: str
    chips: tuple[str, ...]
    dtypes: frozenset[torch.dtype]
    source: str


_SUMS = frozenset((torch.int8, torch.int32, torch.float16, torch.float32))
_MOVES = frozenset(
    (
        *(torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
        *(torch.float16, torch.float32, torch.float64),
        torch.bool,  # sent as uint8: torch_npu 9e73e708 .../distributed/HCCLUtils.cpp:61
    )
)
_WIDE_SUMS = _SUMS | {torch.int16, torch.int64, torch.bfloat16}
_WIDE_MOVES = _MOVES | {torch.bfloat16}
# torch_npu sums these as int32: torch_npu 9e73e708 .../distributed/ProcessGroupHCCL.cpp:4793.
SUMMED_AS_INT32 = frozenset((torch.bool, torch.uint8))

FACTS = (
    Fact("all_reduce", ("A3",), _WIDE_SUMS, f"{_PAGE}AllReduce.md:51"),
    Fact("all_reduce", ("A2",), _WIDE_SUMS, f"{_PAGE}AllReduce.md:54"),
    Fact("all_reduce", ("910A",), _SUMS | {torch.int64}, f"{_PAGE}AllReduce.md:57"),
    Fact("all_reduce", (DUO,), _SUMS | {torch.int16}, f"{_PAGE}AllReduce.md:60"),
    Fact("all_gather", A2_A3, _WIDE_MOVES, f"{_PAGE}AllGather.md:53"),
    Fact("all_gather", ("910A", DUO), _MOVES, f"{_PAGE}AllGather.md:59"),
    Fact("broadcast", A2_A3, _WIDE_MOVES, f"{_PAGE}Broadcast.md:50"),
    Fact("broadcast", ("910A",), _MOVES, f"{_PAGE}Broadcast.md:56"),
    Fact("broadcast", (DUO,), frozenset(), f"{_PAGE}Broadcast.md:15"),
    Fact("scatter", A2_A3, _WIDE_MOVES, f"{_PAGE}Scatter.md:49"),
    Fact("scatter", ("910A",), _MOVES, f"{_PAGE}Scatter.md:55"),
    Fact("scatter", (DUO,), frozenset(), f"{_PAGE}Scatter.md:15"),
    Fact("send", A2_A3, _WIDE_MOVES, f"{_PAGE}Send.md:48"),
    Fact("send", ("910A",), _MOVES, f"{_PAGE}Send.md:54"),
    Fact("send", (DUO,), frozenset(), f"{_PAGE}Send.md:15"),
    Fact("receive", A2_A3, _WIDE_MOVES, f"{_PAGE}Recv.md:48"),
    Fact("receive", ("910A",), _MOVES, f"{_PAGE}Recv.md:54"),
    Fact("receive", (DUO,), frozenset(), f"{_PAGE}Recv.md:15"),
    Fact("reduce", A2_A3, _WIDE_SUMS, f"{_PAGE}Reduce.md:52"),
    Fact("reduce", ("910A",), _SUMS | {torch.int64}, f"{_PAGE}Reduce.md:58"),
    Fact("reduce", (DUO,), frozenset(), f"{_PAGE}Reduce.md:15"),
)

NOT_AT_ALL = f"{_GUIDE}hccl_intro.md:58"  # of the 310P, HCCL serves the 300I Duo only
COMMUNICATOR_FIRST = f"{_GUIDE}constraints.md:51"  # before any device memory is taken
ONE_SERVER = f"{_GUIDE}constraints.md:50"
ONE_PROCESS_PER_NPU = {DUO: f"{_GUIDE}constraints.md:49", "910A": f"{_GUIDE}constraints.md:43"}
RANKS_OF_910A = f"{_GUIDE}constraints.md:44"  # 1, 2, 4 or 8 on one server
# gather of torch.distributed is one of torch_npu's: sizes by broadcast, then an all-gather.
GATHER = "torch_npu 9e73e708 torch_npu/distributed/distributed_c10d.py:167"
# A barrier is an all-reduce of one float32, and the host waits for the whole device.
BARRIER = "torch_npu 9e73e708 torch_npu/csrc/distributed/ProcessGroupHCCL.cpp:6374, 1023"
COMMUNICATOR = "torch_npu 9e73e708 torch_npu/csrc/distributed/ProcessGroupHCCL.cpp:3675"


def fact(operation: str, chip: str) -> Fact:
    """What is known of an operation on a chip or card."""
    return next(one for one in FACTS if one.operation == operation and chip in one.chips)

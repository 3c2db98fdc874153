"""Failures of other ranks, as those that lost them tell, as rows of `failures`."""

from neoxlib.machine.failures import (
    AFTER,
    AWAITED,
    BOTH,
    CAUSE,
    GENERAL,
    HERE,
    LINK,
    STATE,
    WAITING,
)
from neoxlib.machine.failures import Failure as Row

HCCL = "hicann/hccl 09300b70, docs/zh/user_guide/fault_diagnosis/"
ACL = "hicann/runtime 681ef761, docs/zh/api_ref/25-01_aclError.md:"
RESULT = "Ascend/pytorch 9e73e708, third_party/hccl/inc/hccl/hccl_types.h:"
PTA = "Ascend/pytorch 9e73e708, torch_npu/csrc/"

TITLE = "Other ranks, as those that waited tell"

ROWS = (
    Row(
        "HCCL watchdog",
        WAITING,
        r"Watchdog caught collective operation timeout"
        r"|HCCL watchdog thread terminated with exception",
        "a collective of this rank did not end in time and torch_npu ended the process",
        AWAITED,
        "find the rank whose sequence number is behind, or whose log ends first",
        PTA + "distributed/ProcessGroupHCCL.cpp:907",
    ),
    Row(
        "507056, HCCS link error",
        LINK,
        r"HCCS LINK ERROR|UB LINK ERROR|reason=\[?(?:device network )?link error",
        "the link between two devices of one machine broke",
        BOTH,
        "start again; if it returns, check the cards with npu-smi and call the vendor",
        ACL + "227",
    ),
    Row(
        "507057, suspect remote error",
        LINK,
        r"SUSPECT REMOTE ERROR|reason=\[?suspect remote error",
        "another rank's device memory may be faulty, or this rank read outside of it",
        BOTH,
        "look for the other rank's own error first",
        ACL + "228",
    ),
    Row(
        "507904, HCCL op retry failed",
        LINK,
        r"HCCL OP RETRY FAILED|reason=\[?hccl op retry failed",
        "a collective failed and its repetition failed too",
        BOTH,
        "look for the first failure of the link above it",
        ACL + "234",
    ),
    Row(
        "store: no answer of rank 0",
        WAITING,
        r"client socket has timed out after|store->get\('[^']*'\) got error"
        r"|possible application crash on rank 0",
        "this rank could not reach the store of rank 0: rank 0 ended or is late",
        "rank 0",
        "read rank 0's log; without an error there check the address and port",
        PTA + "distributed/ProcessGroupHCCL.cpp:2354",
    ),
    Row(
        "another rank has gone (gloo)",
        WAITING,
        r"Connection closed by peer|Connection reset by peer|gloo[^\n]*[Tt]imed out",
        "the connection to another rank ended while this one waited for it",
        AWAITED,
        "read the logs of the other ranks: one of them ended first",
        "seen here, torch 2.13.0+cpu: gloo when a rank was killed, and when it slept",
    ),
    Row(
        "a rank did not arrive (shared memory)",
        WAITING,
        r"did not meet the other ranks within",
        "ranks on one machine waited for a rank that ended or hangs; the message names it",
        "the rank that the message names",
        "read that rank's log",
        "neoxlib/ranks/shared_memory.py",
    ),
    Row(
        "HCCL 1, HCCL 2, HCCL 4, HCCL 5, HCCL 6, HCCL 7, HCCL 8, HCCL 10, HCCL 15, HCCL 16",
        GENERAL,
        "",
        "a call of HCCL failed: 1 argument, 2 null pointer, 4 internal, 5 not supported, 6 not "
        "found, 7 unavailable, 8 system call, 10 file, 15 runtime, 16 driver",
        HERE,
        "read the code of CANN below it, or the plog",
        RESULT + "25",
    ),
    Row(
        "HCCL 3, HCCL 24",
        STATE,
        "",
        "HCCL got no memory",
        HERE,
        "free the device's memory or lower HCCL_BUFFSIZE",
        RESULT + "27",
    ),
    Row(
        "HCCL 9, HCCL 11, HCCL 12, HCCL 13, HCCL 14, HCCL 19, HCCL 20, HCCL 21",
        WAITING,
        "",
        "HCCL could not reach another rank: 9 timeout, 11 TCP connect, 12 RoCE connect, 13 and 14 "
        "transfer, 19 network, 20 try again, 21 error of the other end",
        AWAITED,
        "look for an earlier error of another rank; then at HCCL_SOCKET_IFNAME and the network",
        RESULT + "33",
    ),
    Row(
        "FORCE STOP",
        AFTER,
        r"\bFORCE STOP\b|reason=\[?device task abort",
        "tasks of this device were stopped, after an error elsewhere",
        AWAITED,
        "look for the error before it",
        PTA + "core/npu/NPUException.cpp:354",
    ),
    Row(
        "ERR02200, ERR02005, ERR02011, EI9999",
        GENERAL,
        "",
        "a call of the collectives failed",
        HERE,
        "read the code of CANN below it, or the plog",
        "Ascend/pytorch 9e73e708, torch_npu/utils/_error_code.py:10",
    ),
    Row(
        "address already in use",
        CAUSE,
        r"[Aa]ddress already in use",
        "the port of the store is taken: an earlier job is left over, or another one runs",
        "rank 0",
        "end the earlier job, or choose another MASTER_PORT",
        "Ascend/pytorch 9e73e708, docs/zh/user_guide/troubleshooting/troubleshooting_cases/"
        "port_number_distributed_task_in_use.md",
    ),
)

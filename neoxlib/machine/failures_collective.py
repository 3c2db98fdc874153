"""Failures of collectives and of the waiting for other ranks, as rows of `failures`."""

from neoxlib.machine.failures import (
    AWAITED,
    BOTH,
    CAUSE,
    HERE,
    LINK,
    WAITING,
)
from neoxlib.machine.failures import Failure as Row

TITLE = "Collectives, and ranks that wait for each other"

HCCL = "hicann/hccl 09300b70, docs/zh/user_guide/fault_diagnosis/"
JSON = "hicann/runtime 681ef761, src/dfx/error_manager/error_code.json:"
ACL = "hicann/runtime 681ef761, docs/zh/api_ref/25-01_aclError.md:"
RESULT = "Ascend/pytorch 9e73e708, third_party/hccl/inc/hccl/hccl_types.h:"
PTA = "Ascend/pytorch 9e73e708, torch_npu/csrc/"

ROWS = (
    Row(
        "EI0001",
        CAUSE,
        r"\[InitGroupStage\]\[EnvConfig\]",
        "a variable of HCCL has a value outside its range",
        HERE,
        "set the variable that the message names to a value in the range it gives, or unset it",
        HCCL + "env_config_error_EI0001.md:3",
    ),
    Row(
        "EI0002",
        WAITING,
        r"\[TaskExecStage\]\[Timeout\]|FFTS\+ run failed|Task run failed, base information",
        "a rank waited in a collective longer than HCCL_EXEC_TIMEOUT; another rank failed "
        "earlier, hangs, is too slow, or makes another call",
        AWAITED,
        "repair what the other rank says; if it says nothing, find where it hangs; only if all "
        "ranks are merely slow raise HCCL_EXEC_TIMEOUT",
        HCCL + "task_exec_stage.md:134",
    ),
    Row(
        "507048, fftsplus timeout",
        WAITING,
        r"hccl fftsplus task timeout|reason=\[?fftsplus (?:task )?timeout",
        "a task on the device waited for a notify of another rank until HCCL_EXEC_TIMEOUT",
        AWAITED,
        "as for EI0002: find the rank that did not reach the collective",
        ACL + "219",
    ),
    Row(
        "507046, 507047",
        WAITING,
        r"reason=\[?(?:stream|event) sync(?:hronize)? time ?out",
        "the work of a stream or event did not end in time; in a collective another rank is late",
        AWAITED,
        "look for another rank's earlier error; without one, for an operator that hangs here",
        ACL + "217",
    ),
    Row(
        "EE1002, 107020",
        WAITING,
        "",
        "waiting for a stream or task took longer than its limit",
        AWAITED,
        "check the limits that were set and the network; look for other ranks' errors first",
        JSON + "435",
    ),
    Row(
        "EI0003",
        CAUSE,
        r"\[TaskExecStage\]\[InvalidArgument\]",
        "an argument of a collective is not allowed, such as a dtype that the chip's HCCL lacks",
        HERE,
        "compare the parameter that is named with the operator's page for this chip",
        JSON + "988",
    ),
    Row(
        "EI0004",
        CAUSE,
        r"\[InitGroupStage\]\[RanktableConfig\]|is not a valid real path",
        "the rank table cannot be read, or a field of it is wrong",
        HERE,
        "correct the file or its path; on one machine unset RANK_TABLE_FILE, none is needed",
        HCCL + "rank_table_load_fail.md:9",
    ),
    Row(
        "EI0005",
        CAUSE,
        r"CMD information \w+ check fail|\[InitChannelStage\]\[ParameterConflict\]"
        r"|ranks do not make the same call",
        "ranks make different calls: another operation, size, dtype or buffer",
        BOTH,
        "make all ranks run the same program with the same parameters; what differs is named",
        HCCL + "param_link_stage.md:255",
    ),
    Row(
        "EI0006",
        WAITING,
        r"wait socket establish timeout|\[InitChannelStage\]\[Timeout\]|Get_Socket_Timeout",
        "the other end did not connect within HCCL_CONNECT_TIMEOUT (120 s by default): it ended, "
        "is late, does not make this call, or the network or its TLS switch differs",
        AWAITED,
        "repair the other rank's error; if both only waited, raise HCCL_CONNECT_TIMEOUT and "
        "compare `hccn_tool -i DEVICE -tls -g` of all devices",
        HCCL + "param_link_stage.md:118",
    ),
    Row(
        "EI0007",
        CAUSE,
        r"\[InitGroupStage\]\[Resource\]",
        "HCCL could not get memory, a notify or a queue on the device",
        HERE,
        "free the device's memory, lower HCCL_BUFFSIZE, or use fewer communicators",
        JSON + "1032",
    ),
    Row(
        "EI0008",
        CAUSE,
        r"\[InitChannelStage\]\[VersionConflict\]",
        "ranks have different versions of HCCL",
        BOTH,
        "install the same CANN on every machine",
        JSON + "1043",
    ),
    Row(
        "EI0009",
        LINK,
        r"Transport init error",
        "the connection to another rank could not be made: the other end failed or its port is "
        "down",
        AWAITED,
        "look at the rank named as remote or dst_rank; then `hccn_tool -i DEVICE -link -g`",
        "vllm-project/vllm-ascend#3162",
    ),
    Row(
        "EI0010",
        LINK,
        "",
        "two devices of this machine cannot reach each other's memory",
        BOTH,
        "check both cards with npu-smi; HCCL_INTRA_ROCE_ENABLE=1 goes round the bus",
        JSON + "1054",
    ),
    Row(
        "EI0011",
        CAUSE,
        "",
        "the device has too little memory for HCCL's queues",
        HERE,
        "free the device's memory or lower HCCL_BUFFSIZE",
        HCCL + "param_link_stage.md:96",
    ),
    Row(
        "EI0012, 507049",
        LINK,
        r"fftsplus sdma error",
        "a copy between devices failed: the other end exited, the link broke, or the memory was "
        "already freed",
        BOTH,
        "look for a rank that exited before; then for the link; then for freed buffers",
        HCCL + "task_exec_stage.md:209",
    ),
    Row(
        "EI0013",
        LINK,
        r"ROCE CQE ERROR|Error CQE Occurred|error cqe status",
        "a packet over RoCE got no answer: the port flickers, or the other end exited",
        BOTH,
        "look for a rank that exited before; then check the ports between the two devices",
        HCCL + "task_exec_stage.md:248",
    ),
    Row(
        "EI0014, EI0017",
        CAUSE,
        r"\[InitGroupStage\]\[RanktableCheck\]",
        "the rank table does not agree with the devices, or two ranks claim one device",
        HERE,
        "compare the table with `hccn_tool -i DEVICE -ip -g`; give each rank its own device",
        HCCL + "rank_table_load_fail.md:47",
    ),
    Row(
        "EI0015",
        WAITING,
        r"topo exchange (?:server|agent) get socket timeout|\[InitGroupStage\]\[RanktableDetect\]"
        r"|Failed to connect agent",
        "not all ranks met rank 0 within HCCL_CONNECT_TIMEOUT when the group was made",
        "the ranks that are not in the list of connected ones, or that `connect agent` names",
        "repair what kept those ranks away; name the right network with HCCL_SOCKET_IFNAME; "
        "raise HCCL_CONNECT_TIMEOUT if they are only late",
        HCCL + "cluster_info_nego.md:91",
    ),
    Row(
        "EI0016",
        CAUSE,
        r"All ranks are consistent",
        "a setting such as the TLS switch differs between devices",
        BOTH,
        "make `hccn_tool -i DEVICE -tls -g` equal on all devices",
        HCCL + "cluster_info_verify_fail.md:48",
    ),
    Row(
        "EI0019, EI0020, EJ0003",
        CAUSE,
        r"listen on ip\[[^\]]*\] and specific port\[\d+\] fail"
        r"|Please check the port status and whether the port is being used",
        "a port of HCCL is taken: another job, or a second process on the same device",
        HERE,
        "end the other job, or set HCCL_IF_BASE_PORT (host) or HCCL_NPU_SOCKET_PORT_RANGE "
        "(device) for this one",
        HCCL + "param_link_stage.md:72",
    ),
    Row(
        "EJ0001",
        CAUSE,
        "",
        "the helper process of HCCL did not start; very likely an earlier job still holds the "
        "device",
        HERE,
        "end the earlier job (`npu-smi info` lists it), wait 10 s, and start again",
        JSON + "1142",
    ),
    Row(
        "EJ0002",
        LINK,
        "",
        "a network port of the device is down",
        HERE,
        "check `hccn_tool -i DEVICE -link -g` and the cable",
        JSON + "1153",
    ),
    Row(
        "EJ0004",
        CAUSE,
        r"in the ranktable is inconsistent with the IP",
        "the device's address is not the configured one",
        HERE,
        "compare the rank table with `hccn_tool -i DEVICE -ip -g`",
        HCCL + "rank_table_load_fail.md:47",
    ),
    Row(
        "heartbeat lost or stuck",
        WAITING,
        r"Heartbeat Lost Occurred|ExceptionType:\[Stuck Occurred\]",
        "HCCL's heartbeat found a rank that exited, was cut off, or hangs",
        "the device after `Cluster Exception Location`, not the discoverer",
        "read the log of that device's rank from before the arrival time",
        HCCL + "task_exec_stage.md:14",
    ),
)

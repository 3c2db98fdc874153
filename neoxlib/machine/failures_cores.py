"""Failures of a device at work: its memory cells, cores and runtime, as rows of `failures`."""

from neoxlib.machine.failures import AFTER, CAUSE, GENERAL, HERE, HOST, INNER, STATE
from neoxlib.machine.failures import Failure as Row

JSON = "hicann/runtime 681ef761, src/dfx/error_manager/error_code.json:"
ACL = "hicann/runtime 681ef761, docs/zh/api_ref/25-01_aclError.md:"

TITLE = "A device at work"

ROWS = (
    Row(
        "507054, HBM ECC error",
        CAUSE,
        r"HBM MULTI BIT ECC ERROR|reason=\[?hbm Multi-bit ECC error|uncorrectable ECC",
        "a memory cell of the device is broken",
        HERE,
        "take the card out of use and call the vendor; the answer of this run is not to be trusted",
        ACL + "225",
    ),
    Row(
        "507053, 507055, UCE error",
        CAUSE,
        r"\bUCE ERROR\b|SUSPECT MEM ERROR|reason=\[?(?:suspect )?device mem error",
        "the device found an error in its memory that it could not correct",
        HERE,
        "restart the device; if it returns, take the card out of use",
        ACL + "224",
    ),
    Row(
        "507014, aicore timeout",
        STATE,
        r"\[aicore timeout\]|reason=\[?aicore timeout",
        "an operator on the AI cores did not end",
        HERE,
        "find the operator in the lines below; run it alone; compile=False uses others; compare "
        "torch_npu and CANN with the pairs that fit",
        ACL + "185, and vllm-project/vllm-ascend#4972",
    ),
    Row(
        "507034, vector core timeout",
        STATE,
        r"\[vector core timeout\]",
        "an operator on the vector cores did not end",
        HERE,
        "as for 507014",
        ACL + "205",
    ),
    Row(
        "507015, 507016, 507042, 507043, aicore exception",
        STATE,
        r"\[aicore exception\]|reason=\[?aicore exception|(?:an|of|is) (?:fftsplus )?aicore error",
        "an operator on the AI cores failed while it ran, most often by an address or a value "
        "that it does not expect",
        HERE,
        "find the operator in the lines below; run it alone with the same shapes; "
        "ASCEND_LAUNCH_BLOCKING=1 makes the Python stack the right one",
        ACL + "186",
    ),
    Row(
        "507035, 507036, 507044, 507045, vector core exception",
        STATE,
        r"\[vector core exception\]|(?:an|of|is) (?:fftsplus )?aivec(?:tor)? error",
        "an operator on the vector cores failed while it ran",
        HERE,
        "as for 507015",
        ACL + "206, and Ascend/pytorch#66",
    ),
    Row(
        "address out of range",
        CAUSE,
        r"address of the MTE instruction is out of range|instruction address check error",
        "an operator read or wrote outside its tensors: a wrong index, length or table, or a "
        "fault of the operator",
        HERE,
        "check block tables, positions and lengths that were passed; else report the operator",
        "vllm-project/vllm-ascend#3263 and #8015",
    ),
    Row(
        "EZ2001",
        CAUSE,
        r"errorStr: (?!timeout or trap|The DDR address|The \w+ address)\w",
        "an operator on the AI cores failed; the text says by which fault of the core",
        HERE,
        "find the operator; if the text names ECC or RAS, the card is at fault",
        "hicann/runtime 681ef761, docs/en/error_code_ref/EZ2001-Execution_Error.md",
    ),
    Row(
        "507017, 507018, 507900, E30008, aicpu error",
        STATE,
        r"\[aicpu (?:exception|timeout)\]|reason=\[?aicpu (?:exception|timeout)"
        r"|Aicpu kernel execute failed",
        "an operator on the AI CPU failed or did not end",
        HERE,
        "find `soName` and `funcName` in the plog; use an operator of the AI cores instead",
        ACL + "189, and vllm-project/vllm-ascend#2105",
    ),
    Row(
        "507013, sdma error",
        STATE,
        r"there is an? (?:exception of )?sdma error|reason=\[?sdma copy error",
        "a copy on the device failed: very likely the memory was not there, as after running out "
        "of memory",
        HERE,
        "look for an allocation that failed before; else check the card with npu-smi",
        ACL + "184, and vllm-project/vllm-ascend#3017",
    ),
    Row(
        "507011",
        STATE,
        r"reason=\[?model execute failed",
        "a graph of operators failed while it ran",
        HERE,
        "read the operator's error before it in the plog; run without graphs to find it",
        ACL + "182, and vllm-project/vllm-ascend#7676",
    ),
    Row(
        "507000, 507001, 507899",
        INNER,
        "",
        "an error inside CANN: 507000 runtime, 507001 the device's scheduler, 507899 the driver",
        HERE,
        "read the code below it and the plog; if there is none, restart the device",
        "Ascend/pytorch 9e73e708, torch_npu/csrc/core/npu/NPUErrorCodes.h:391 and :550",
    ),
    Row(
        "EE1013, EE1021, EH0010, host memory",
        CAUSE,
        r"Malloc pin memory failed|host memory has been exhausted",
        "the host's memory, threads or semaphores are used up",
        HOST,
        "free the host's memory, or raise the limits of the container",
        JSON + "541",
    ),
    Row(
        "107002, EE1010",
        AFTER,
        r"\bctx is NULL!",
        "the thread has no device: none was selected, or its start failed before",
        HERE,
        "look for the error of the device's start above it",
        ACL + "110, and vllm-project/vllm-ascend#800",
    ),
    Row(
        "EE1001, EE1003, EE1004, EE1011, EE1012, EE1017, EE1022, 107000, 107003",
        AFTER,
        "",
        "CANN's runtime refuses an argument; the reason is in the message",
        HERE,
        "read the reason: a device id means ASCEND_RT_VISIBLE_DEVICES; a null context follows "
        "from a start that failed",
        JSON + "424",
    ),
    Row(
        "EE2002",
        CAUSE,
        "",
        "an environment variable of CANN has a value that is not allowed; the message names both",
        HERE,
        "set it as the message says, before Python starts",
        JSON + "662",
    ),
    Row(
        "EE9999, EE8888, EL9999, EH9999, E39999, ERR00100, ERR00005, ERR00006, 500000, 500003, "
        "500004",
        GENERAL,
        "",
        "a call of CANN failed inside; the code alone does not say why",
        HERE,
        "read the text after the code, the other codes beside it, and the plog",
        "hicann/runtime 681ef761, docs/zh/guidelines/error_message_guide/"
        "macro-selection-guide.md:44",
    ),
)

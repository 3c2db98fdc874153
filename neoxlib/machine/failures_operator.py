"""Failures of operators and their compilation, as rows of `failures`."""

from neoxlib.machine.failures import CAUSE, GENERAL, HERE, HOST, INNER, STATE
from neoxlib.machine.failures import Failure as Row

TITLE = "Operators and their compilation"

JSON = "hicann/runtime 681ef761, src/dfx/error_manager/error_code.json:"
CASES = "Ascend/pytorch 9e73e708, docs/zh/user_guide/troubleshooting/troubleshooting_cases/"

ROWS = (
    Row(
        "bfloat16 not supported",
        CAUSE,
        r"not implemented for DT_BFLOAT16|bfloat16 of [\w.]+ is not supported",
        "the chip or operator has no bfloat16, as 310P and 910A",
        HERE,
        "load with dtype float16",
        "hiyouga/LlamaFactory#4165 and #7522",
    ),
    Row(
        "EZ1001, 161001, 161002, AclNN_Parameter_Error",
        STATE,
        r"not implemented for DT_(?!BFLOAT16)\w+",
        "an operator refuses a dtype, shape or format of its arguments; the message lists what "
        "it takes",
        HERE,
        "use a dtype that the message lists; compile=False avoids the fused operators",
        JSON + "3153, and vllm-project/vllm-ascend#12907",
    ),
    Row(
        "561002, 561003, 561103, tiling failed",
        CAUSE,
        r"[Tt]iling [Ff]ailed|_tiling\w*\.(?:cc|cpp)\]",
        "an operator cannot be laid out for these shapes or attributes; the line before says "
        "which it refuses",
        HERE,
        "change the shape or attribute that is named; compile=False avoids the fused operators",
        "hicann/ops-nn e5c3fa93, activation/clipped_swiglu_grad/docs/"
        "aclnnClippedSwigluGrad.md:350, "
        "PKU-YuanGroup/Open-Sora-Plan#360, vllm-project/vllm-omni#845",
    ),
    Row(
        "361001, EZ9903",
        STATE,
        "",
        "an operator failed when it called the runtime: the device or its memory was not usable",
        HERE,
        "look for the device's error beside it",
        "hicann/ops-transformer c29bc106, attention/fused_infer_attention_score/docs/"
        "aclnnFusedInferAttentionScore.md:494",
    ),
    Row(
        "no binary of an operator",
        CAUSE,
        r"Cannot find bin(?:ary)? (?:of|for) op|not in libopapi\.so",
        "CANN's kernels (since 8.5: ops) for this chip are not installed, or have no such dtype",
        HOST,
        "install the kernels package of the same version and chip; `python -m neoxlib doctor` "
        "checks it",
        CASES + "operator_called_error.md",
    ),
    Row(
        "EZ3002, EZ3003, EZ9010, EZ0501, operator not supported",
        CAUSE,
        r"No supported Ops kernel and engine are found",
        "CANN has no kernel of this operator for the chip, or its package is missing",
        HERE,
        "check that the operator package is installed; use another operator or dtype",
        JSON + "1681",
    ),
    Row(
        "EZ0001, EZ0002, EZ0003, EZ0004, EZ0005, EZ0006, EZ0007",
        CAUSE,
        "",
        "an input or attribute of an operator has a wrong shape, format, dtype or value",
        HERE,
        "compare it with what the message says it should be",
        JSON + "3171",
    ),
    Row(
        "E40020, E40024, EC0010, tbe not importable",
        CAUSE,
        r"No module named 'tbe|Failed to import Python module|init env failed!"
        r"|Failed to init tbe",
        "CANN's compiler cannot import its Python: the environment is not sourced, a package "
        "such as decorator, attrs or scipy is missing, or numpy is 2.x with an older CANN",
        HOST,
        "source set_env.sh, install the packages that `python -m neoxlib doctor` names, and "
        "numpy below 2 (needed by CANN 8.2)",
        "Ascend/pytorch#7 and #61, opendatalab/MinerU#2258, hiyouga/LlamaFactory#5638",
    ),
    Row(
        "E40001, E40002, E40003, E40022, E40023",
        CAUSE,
        "",
        "CANN's compiler finds a wrong Python, path or option",
        HOST,
        "use the Python that CANN was installed with, and source set_env.sh",
        JSON + "325",
    ),
    Row(
        "E40021, E90001, E90002, E90003, EB0000, EB0500, EB1000, EB3000, EB4000, EB9000, "
        "operator not compiled",
        CAUSE,
        r"Compile operator failed|Single op compile failed",
        "an operator could not be compiled for these shapes and dtypes",
        HERE,
        "use float16 and the installed kernels (jit_compile=False); read the Python stack in "
        "the plog",
        JSON + "369, and Ascend/pytorch#148",
    ),
    Row(
        "500001, 500002",
        INNER,
        r"AclSetCompileopt",
        "CANN's compiler or graph engine failed at its start, most often by a missing or "
        "unsuitable Python package or an environment that is not sourced",
        HOST,
        "look for EC0010 or E40024 beside it; `python -m neoxlib doctor` checks the packages",
        CASES + "initialization_error.md, and vllm-project/vllm-ascend#2210",
    ),
    Row(
        "207000, EE1005, EE1006, EE1016, EH0006, EH0011, ERR01007, ERR00007, not supported",
        CAUSE,
        r"\[TaskExecStage\]\[Not ?Supported\]",
        "this chip, driver or CANN does not have the function",
        HERE,
        "use another operator, or update driver and CANN",
        JSON + "468",
    ),
    Row(
        "tensors on two devices",
        CAUSE,
        r"Expected all tensors to be on the same device|Expected NPU tensor",
        "an operator got tensors of the CPU and of the NPU",
        HERE,
        "this is a fault of the program; report it with the stack",
        CASES + "failed_verify_op_parameters.md",
    ),
    Row(
        "507903, capture failed",
        STATE,
        r"reason=\[?(?:stream )?capture (?:status is )?invalidated",
        "an operator cannot be captured into a graph",
        HERE,
        "run without graphs; find the operator before it",
        "vllm-project/vllm-ascend 182b75ea, .agents/skills/vllm-ascend-model-adapter/references/"
        "troubleshooting.md:206",
    ),
    Row(
        "EZ9999, E29999, E19999, ERR01100, ERR01005, ERR01001, ERR01002, ERR01003",
        GENERAL,
        "",
        "an operator failed; the code alone does not say why",
        HERE,
        "read the text after the code and the plog; compile=False avoids the fused operators",
        JSON + "3142",
    ),
)

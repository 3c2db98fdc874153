"""Failures of the host: libraries, versions, memory, files and Python, as rows of `failures`."""

from neoxlib.machine.failures import AFTER, CAUSE, HERE, HOST
from neoxlib.machine.failures import Failure as Row

TITLE = "The host: libraries, versions, memory, Python"

PTA = "Ascend/pytorch 9e73e708, torch_npu/"
KERNEL = "the Linux kernel's own message"
PYTHON = "Python's faulthandler and standard exceptions"

ROWS = (
    Row(
        "CANN not sourced",
        CAUSE,
        r"lib(?:hccl|ascendcl|acl\w*|ge_\w+|graph\w*|register|runtime)\.so: cannot open shared "
        r"object file|ASCEND_(?:OPP|HOME)_PATH[^\n]*(?:not set|does not exist)",
        "the libraries of CANN are not found: its environment is not sourced",
        HOST,
        "source /usr/local/Ascend/ascend-toolkit/set_env.sh before Python; for a notebook "
        "`python -m neoxlib environment FOLDER` writes a kernel",
        "vllm-project/vllm-ascend#262, and " + PTA + "_init/core/module_loader.py:131",
    ),
    Row(
        "driver's libraries missing",
        CAUSE,
        r"lib(?:ascend_hal|drvdsmi_host|dcmi|c_sec)\.so: cannot open shared object file",
        "the driver's libraries are not found: not installed, or not mounted in the container",
        HOST,
        "mount /usr/local/Ascend/driver, or source the toolkit's set_env.sh, which adds its path",
        "opendatalab/MinerU#2537",
    ),
    Row(
        "ATB not sourced",
        CAUSE,
        r"libatb\.so: cannot open shared object file|env ATB_\w+ not exist",
        "the libraries of ATB (NNAL) are not found",
        HOST,
        "source /usr/local/Ascend/nnal/atb/set_env.sh after the toolkit's",
        "vllm-project/vllm-ascend 182b75ea, docs/source/faqs.md:87",
    ),
    Row(
        "static TLS block",
        CAUSE,
        r"cannot allocate memory in static TLS block",
        "on aarch64 a library such as libgomp was loaded too late for its thread-local memory",
        HOST,
        "start Python with LD_PRELOAD set to exactly the path in the message",
        "Ascend/pytorch#7",
    ),
    Row(
        "undefined symbol",
        CAUSE,
        r"undefined symbol: \w+|version `(?:GLIBC|GLIBCXX|CXXABI)[^']*' not found",
        "libraries of different versions or C++ ABIs were loaded together: torch, torch_npu, "
        "CANN, ATB",
        HOST,
        "install the versions that fit: `python -m neoxlib doctor` names the pair; source only "
        "one CANN",
        "vllm-project/vllm-ascend#117 and #750, Ascend/pytorch#99",
    ),
    Row(
        "version mismatch",
        CAUSE,
        r"CANN package version [\w.]+ and PyTorch version \S+ do not match"
        r"|CANN version mismatch|Unsupported [Ss][Oo][Cc] [Vv]ersion"
        r"|module 'torch_npu\S*' has no attribute|version of torch[_-]npu[^\n]*not match",
        "torch, torch_npu and CANN are not a pair, or this torch_npu is older than the chip",
        HOST,
        "install the versions that `python -m neoxlib doctor` or `install-plan` names",
        PTA + "_init/registry/registry_manager.py:61, Ascend/pytorch#37 and #57",
    ),
    Row(
        "torch_npu cannot be loaded",
        AFTER,
        r"Failed to load the backend extension: torch_npu",
        "torch loads torch_npu at its own import, and that failed; the reason is below it",
        HOST,
        "repair the reason; for work on the CPU set TORCH_DEVICE_BACKEND_AUTOLOAD=0",
        "flashserve/flash-linear-attention-npu#2",
    ),
    Row(
        "two accelerators",
        CAUSE,
        r"Two accelerators cannot be used at the same time",
        "torch_npu was loaded twice, or beside a torch for CUDA",
        HOST,
        "install torch's CPU wheel; unload the other backend",
        PTA + "__init__.py:23, and flagos-ai/vllm-plugin-FL#77",
    ),
    Row(
        "forked after the start of the NPU",
        CAUSE,
        r"Cannot re-initialize NPU in forked subprocess",
        "a process that had started an NPU was forked",
        HERE,
        "start processes by spawn, and the NPU only in them",
        PTA + "npu/__init__.py:318, and vllm-project/vllm-ascend#4502",
    ),
    Row(
        "INF_NAN_MODE_ENABLE",
        CAUSE,
        r"INF_NAN_MODE_ENABLE shouldn't be set to 0",
        "an old script switches the mode of infinities off, which this chip refuses",
        HOST,
        "unset INF_NAN_MODE_ENABLE",
        PTA + "csrc/core/npu/NpuVariables.cpp:86",
    ),
    Row(
        "killed for memory",
        CAUSE,
        r"Out of memory: Killed process|oom-kill:|oom_kill event|OOM ?Killed"
        r"|very likely by the kernel's out-of-memory killer",
        "the kernel ended the process because the memory of the host or of the container was used "
        "up",
        HERE,
        "see `dmesg` and the container's limit; load fewer ranks at a time, or mapped weights",
        KERNEL,
    ),
    Row(
        "ended by SIGKILL",
        CAUSE,
        r"was killed by SIGKILL|Signals\.SIGKILL|\(SIGKILL\)"
        r"|exit(?:ed)?(?: with)? ?(?:code)?[ :=]*(?:-9|137)\b",
        "something ended the process: a user, a scheduler, a time limit, or the kernel when the "
        "memory was used up; the signal alone does not say which",
        HERE,
        "see whether `dmesg` or the container's events tell of memory; if not, ask who stops jobs",
        KERNEL,
    ),
    Row(
        "host out of memory",
        CAUSE,
        r"DefaultCPUAllocator: can't allocate memory|\bMemoryError\b|Cannot allocate memory",
        "the host has too little memory",
        HERE,
        "free memory or raise the container's limit; `python -m neoxlib plan` says what is needed",
        "torch and Python's own messages",
    ),
    Row(
        "bus error",
        CAUSE,
        r"[Bb]us error|SIGBUS|Unexpected bus error encountered",
        "/dev/shm is full or too small, or a file, such as weights, was cut while it was mapped",
        HERE,
        "see `df /dev/shm` (--shm-size gives a container more); verify the weights' files",
        "neoxlib/ranks/launch.py",
    ),
    Row(
        "crash in native code",
        CAUSE,
        r"Fatal Python error: (?:Segmentation fault|Aborted|Illegal instruction)"
        r"|[Ss]egmentation fault|SIGSEGV|Illegal instruction",
        "a library crashed; the frames below name the function",
        HERE,
        "run the last call alone; check that only one CANN and one libgomp are loaded",
        "Ascend/pytorch 9e73e708, docs/zh/user_guide/troubleshooting/"
        "error_information_analysis_guide/locating_core_dump_faults.md",
    ),
    Row(
        "disk full",
        CAUSE,
        r"No space left on device|Disk quota exceeded",
        "a disk, or /dev/shm, is full",
        HERE,
        "free space, or set NEOXLIB_OUTPUTS, NEOXLIB_CACHE or TMPDIR to another disk",
        KERNEL,
    ),
    Row(
        "too many open files",
        CAUSE,
        r"Too many open files",
        "the limit of open files is too low",
        HOST,
        "raise it: ulimit -n 65536",
        KERNEL,
    ),
    Row(
        "logits not finite",
        CAUSE,
        r"are not finite \(NaN or infinity\)",
        "the model computed NaN or infinity: damaged weights, or a dtype that overflows",
        HERE,
        "verify the model folder; load with bfloat16 or float32",
        "neoxlib/errors.py",
    ),
    Row(
        "error of the program",
        CAUSE,
        r"(?:Key|Value|Type|Attribute|Index|Name|Assertion|ZeroDivision|ModuleNotFound"
        r"|FileNotFound|Permission|Unpickling|NotImplemented|Config|Weights|Shard|Settings|Data"
        r"|Parameter)Error: (?=\S)",
        "the program of this rank raised an error of its own",
        HERE,
        "read the traceback above it",
        PYTHON,
    ),
)

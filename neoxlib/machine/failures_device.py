"""Failures of device memory, and of a device's start, as rows of `failures`."""

from neoxlib.machine.failures import CAUSE, HERE, HOST, STATE
from neoxlib.machine.failures import Failure as Row

TITLE = "Memory of devices, and their start"

JSON = "hicann/runtime 681ef761, src/dfx/error_manager/error_code.json:"
ACL = "hicann/runtime 681ef761, docs/zh/api_ref/25-01_aclError.md:"
PTA = "Ascend/pytorch 9e73e708, torch_npu/csrc/core/npu/"

ROWS = (
    Row(
        "NPU out of memory",
        CAUSE,
        r"NPU out of memory",
        "torch_npu got no more memory on the device: the weights and the cache are too large, "
        "memory is in pieces, or another process holds some",
        HERE,
        "shorten the sequence or the batch, use more ranks or quant; "
        "PYTORCH_NPU_ALLOC_CONF=expandable_segments:True against pieces; `npu-smi info` shows "
        "other holders; `python -m neoxlib plan` says what is needed",
        PTA + "NPUCachingAllocator.cpp:1377",
    ),
    Row(
        "EL0004, EL0019, 207018",
        CAUSE,
        r"reason=\[?(?:driver error:)?(?:device oom|out of memory)",
        "the driver had no device memory left for the module that asked",
        HERE,
        "as for `NPU out of memory`; a left-over process may hold it: see `npu-smi info`",
        JSON + "1351",
    ),
    Row(
        "207001, 207005",
        STATE,
        r"alloc device memory failed",
        "CANN got no memory or resource; a device that is already dead answers so too",
        HERE,
        "look for an earlier failure of this device; else as for `NPU out of memory`",
        ACL + "153, and hw-native-sys/simpler#1019",
    ),
    Row(
        "EL0005, EL0006",
        CAUSE,
        r"The resources are busy",
        "the device is taken, is being reset, or has no resource left",
        HERE,
        "end other jobs on it (`npu-smi info`), wait a little, and start again",
        JSON + "1362",
    ),
    Row(
        "EL0009, 207008",
        CAUSE,
        r"Alloc sq cq fail|[Ss]tream resources are insufficient",
        "the device has no stream left, often by too many captured graphs or processes on it",
        HERE,
        "capture fewer sizes, run one process per device, or update driver and CANN",
        "vllm-project/vllm-ascend 182b75ea, docs/source/faqs.md:208",
    ),
    Row(
        "EL0008, EL0010, EL0011, EL0012, EL0013",
        CAUSE,
        "",
        "the device has no event, notify, model or queue left",
        HERE,
        "end other processes on the device",
        JSON + "1395",
    ),
    Row(
        "EL0001, EL0002, 207004, 107001",
        STATE,
        r"driver error:no valid device|reason=\[?device id error",
        "there is no such device here: the id is outside those that this process sees, or the "
        "card is gone",
        HERE,
        "give ASCEND_RT_VISIBLE_DEVICES ids that exist inside this container, strictly "
        "ascending; check `npu-smi info` and /dev/davinci*",
        "gpustack/gpustack#3352, and " + ACL + "109",
    ),
    Row(
        "ASCEND_RT_VISIBLE_DEVICES",
        CAUSE,
        r"set ASCEND_RT_VISIBLE_DEVICES:[^\n]* error|Set visible device failed"
        r"|for environment variable ASCEND_RT_VISIBLE_DEVICES is invalid",
        "the list of visible devices is not ascending, repeats an id, or names one that is not "
        "there; in a container ids count from 0 again",
        HERE,
        "set it before Python starts, strictly ascending, with the container's own ids",
        "gpustack/gpustack#2527 and #3352",
    ),
    Row(
        "EL0003",
        CAUSE,
        "",
        "the driver refuses an argument, at the start most often a device id that changed after "
        "CANN had started",
        HERE,
        "set ASCEND_RT_VISIBLE_DEVICES before Python starts, never inside it",
        "Ascend/pytorch#67",
    ),
    Row(
        "EL0007, EL0015, 207006",
        CAUSE,
        r"/dev/davinci\w*[^\n]*Permission denied",
        "this user or container may not use the device, or another container holds it",
        HOST,
        "add the user to the driver's group, mount davinci_manager, devmm_svm and hisi_hdc, and "
        "end the other container",
        JSON + "1384",
    ),
    Row(
        "dcmi -8020, dcmi -8005",
        CAUSE,
        r"dcmi \w+ initiali[sz]ed? failed",
        "npu-smi may not ask the driver: another container holds the card (-8020), or devices "
        "and rights are missing (-8005)",
        HOST,
        "end the other container; mount the driver, /usr/local/dcmi and the device files, and "
        "start with the right to use them",
        "vllm-project/vllm-ascend#2698, Ascend/cann-container-image#46",
    ),
    Row(
        "ra init failed",
        CAUSE,
        r"\bra init failed",
        "HCCL's agent for the device's network did not start; seen in a container whose user has "
        "no entry in /etc/passwd",
        HOST,
        "give the container's user an entry in /etc/passwd, as docs/ascend.md does, and the group "
        "of /dev/davinci_manager",
        "vllm-project/vllm-ascend#9490 and #9495",
    ),
    Row(
        "507033, device not started",
        STATE,
        r"reason=\[?device setup error|Failed to open device, retCode",
        "the device could not be started: it is held, its id is wrong, or driver, firmware and "
        "CANN do not fit",
        HERE,
        "read the code below it; then `npu-smi info` and `python -m neoxlib doctor`",
        ACL + "204",
    ),
    Row(
        "507008",
        STATE,
        r"init soc version failed",
        "CANN could not find out which chip this is: driver files are missing in the container, "
        "or the driver is older than CANN",
        HOST,
        "mount /usr/local/Ascend/driver and version.info; compare driver and CANN by "
        "`python -m neoxlib doctor`",
        "vllm-project/vllm-ascend#800",
    ),
    Row(
        "EE1015",
        CAUSE,
        r"driver version capa\w+ is insufficient",
        "the driver is too old for this CANN",
        HOST,
        "update the driver; `python -m neoxlib doctor` names the pair",
        JSON + "563",
    ),
    Row(
        "E30006, E30009, E39011",
        CAUSE,
        r"tsd client wait response fail",
        "the device refused CANN's packages for the AI CPU: they do not fit the driver, are "
        "damaged, or the device's memory is",
        HOST,
        "install the CANN that fits the driver; if it does, look for ECC errors by npu-smi",
        "vllm-project/vllm-ascend#4284, and " + JSON + "237",
    ),
    Row(
        "E30003, E30004, E30007, E39001, E39002, E39004, E39005, E39007, E39008, E39010",
        CAUSE,
        "",
        "the device's own processes could not be started",
        HERE,
        "wait 10 s after an earlier job ended; else restart the device and send the logs",
        JSON + "105",
    ),
    Row(
        "E30005, E39006, E39009, 507010, 507901, device lost",
        CAUSE,
        r"lost heartbeat|loses the heartbeat|DEV_RUNNING_DOWN|reason=\[?hdc disconnect"
        r"|HDC\) session is disconnected",
        "the host lost the device: it hangs, restarted, or fell off the bus",
        HERE,
        "see health and temperature by `npu-smi info` and the kernel's log by `dmesg`; restart "
        "the device; if it returns, replace it",
        ACL + "181, and " + JSON + "193",
    ),
)

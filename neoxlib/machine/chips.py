"""The table of chips and their figures, and the chip behind a name.

Facts only: nothing here looks at the machine.
"""

from dataclasses import dataclass, field

from neoxlib.errors import SettingsError

_THIRD = "third-party pages; no vendor data sheet was read"
_SMI = "npu-smi output in public bug reports"
_ALLOCATOR = "total named in public out-of-memory messages, 60.96 of 64 GiB"
_310P_USABLE = f"{_SMI}: 21525 MB in total, up to 1.8 GB of it in use at idle"
_SCALED = "scaled from the larger or smaller card of the same family"


@dataclass(frozen=True)
class Chip:
    """One device as a rank sees it.

    A figure without a source is None; `sources` names the source of every other.
    `likely` is the share of the bandwidth bound that published decoding reaches, low and high;
    `likely_peak` the share of the peak in published prompts of 1024 tokens or more.
    """

    name: str
    family: str
    soc: tuple[int, ...] = ()  # codes of torch_npu's NpuVariables.h
    memory_gib: float | None = None
    usable_gib: float | None = None  # left for weights, cache and workspace
    fp16_tflops: float | None = None  # peak, dense
    bandwidth_gb_s: float | None = None  # device memory, peak, 1e9 bytes/s
    likely: tuple[float, float] | None = None
    likely_peak: tuple[float, float] | None = None
    link: str | None = None
    dtypes: tuple[str, ...] = ("float16",)
    collectives: tuple[str, ...] = ("hccl",)
    note: str = ""
    sources: dict[str, str] = field(default_factory=dict)


_BOTH = ("float16", "bfloat16")
_64_GB = {"memory_gib": 64, "usable_gib": 60.9}
_A2 = {
    "family": "A2",
    "dtypes": _BOTH,
    "collectives": ("hccl", "lccl"),
    "likely": (0.57, 0.62),
    "likely_peak": (0.46, 0.52),
}
_A2_LINK = "HCCS full mesh, 392 GB/s in total"
_310P = {
    "family": "310P",
    "link": "PCIe 4.0 x16, no card-to-card link",
    "fp16_tflops": 70.0,
    "bandwidth_gb_s": 204.8,
    "likely": (0.63, 0.66),
    "likely_peak": (0.21, 0.25),
}
_LIKELY = {
    "likely": "published next-token times of 7B and 14B models on the same family, "
    "against the same bound",
    "likely_peak": "published first-token times of the same, of 1024 tokens or more",
}
_CORES = (
    "nominal: 24 cores × 8192 operations × 1.8 GHz, of an npu-smi report; "
    "the same sum gives 295 for a 910B3"
)
_ASSUMED = "assumed to be the 910B3's, which has the same 64 GB; no page gives it"
_310B = (
    "an edge chip, one to a board, whose memory is the board's own, shared with its CPU: npu-smi "
    "shows what is free now. One rank; no source says that HCCL serves it"
)
_SOURCES = dict.fromkeys(("fp16_tflops", "bandwidth_gb_s", "link"), _THIRD) | _LIKELY

_ROWS = (
    Chip(
        "910B1",
        soc=(220,),
        **_64_GB,
        fp16_tflops=353.9,
        bandwidth_gb_s=1600.0,
        **_A2,
        sources={
            "memory_gib": _SMI,
            "usable_gib": _ALLOCATOR,
            "fp16_tflops": _CORES,
            "bandwidth_gb_s": _ASSUMED,
        }
        | _LIKELY,
    ),
    Chip("910B2", soc=(221, 222), **_A2, sources=_LIKELY),
    Chip(
        "910B3",
        soc=(223,),
        **_64_GB,
        fp16_tflops=313.0,
        bandwidth_gb_s=1600.0,
        link=_A2_LINK,
        **_A2,
        note="pages give 256 to 320 TFLOPS and 0.4 to 1.6 TB/s, as '910B' names several bins",
        sources=_SOURCES | {"memory_gib": _SMI, "usable_gib": _ALLOCATOR},
    ),
    Chip(
        "910B4",
        soc=(224,),
        memory_gib=32,
        usable_gib=30.4,
        fp16_tflops=280.0,
        bandwidth_gb_s=800.0,
        link=_A2_LINK,
        **_A2,
        sources=_SOURCES | {"memory_gib": _SMI, "usable_gib": _SCALED},
    ),
    Chip("910B4-1", soc=(225,), **_A2, sources=_LIKELY),
    Chip(
        "A3",
        "A3",
        soc=(250, 251, 252, 253, 254, 255, 256),
        **_64_GB,
        dtypes=_BOTH,
        note="two chips to an NPU; npu-smi prints Ascend910",
        sources={"memory_gib": _SMI, "usable_gib": _SCALED},
    ),
    Chip(
        "310P3",
        soc=(202,),
        memory_gib=24,
        usable_gib=19.2,
        **_310P,
        note="each of the two chips of a 48 GB 300I Duo; npu-smi prints 310P3 for 300I Pro, too",
        sources=_SOURCES | {"memory_gib": _THIRD, "usable_gib": _310P_USABLE},
    ),
    Chip(
        "300I Pro",
        soc=(202,),
        memory_gib=24,
        usable_gib=19.2,
        **_310P,
        collectives=(),
        note="or 300V Pro: one chip 310P3 to a card, on which HCCL does not run; one rank",
        sources=_SOURCES | {"memory_gib": _THIRD, "usable_gib": _310P_USABLE},
    ),
    Chip(
        "300I Duo",
        soc=(202,),
        memory_gib=48,
        usable_gib=40.2,
        **_310P,
        note="one of the two chips of a 96 GB card; npu-smi prints 310P3",
        sources=_SOURCES | {"memory_gib": _THIRD, "usable_gib": _SCALED},
    ),
    Chip(
        "910A",
        "910A",
        soc=(100, 101, 102, 103, 104),
        memory_gib=32,
        note="the first generation; npu-smi prints a bare 910B for it",
        sources={"memory_gib": _SMI},
    ),
    *(Chip(f"310B{n}", "310B", soc=(239 + n,), collectives=(), note=_310B) for n in (1, 2, 3, 4)),
    Chip(
        "950",
        "950",
        soc=(260,),
        dtypes=_BOTH,
        note="npu-smi prints Ascend950PR or Ascend950DT; no source of its figures was read",
    ),
    Chip(
        "310P",
        "310P",
        soc=(200, 201, 203, 204, 205),
        note="310P1, 310P2, 310P4, 310P5, 310P7, and a 310P3 of which only the SoC code is known; "
        "no source of their figures was read",
    ),
    Chip("cpu", "cpu", dtypes=("float32", "float16", "bfloat16"), collectives=("gloo",)),
)
CHIPS: dict[str, Chip] = {chip.name: chip for chip in _ROWS}

# Families that run on PyTorch's own operators: no source documents fused ones.
WITHOUT_OPERATORS = ("310B", "950")

_SMI_NAMES = {
    "910b": "910a",
    "910proa": "910a",
    "910premiuma": "910a",
    "910prob": "910a",
    "ascend910": "a3",
    "910b2c": "910b2",
} | dict.fromkeys(("310p1", "310p2", "310p4", "310p5", "310p7"), "310p")
_SERIES = {"ascend950": "950", "ascend91093": "a3", "91093": "a3"}  # as Ascend950PR, 910_9391
_OTHER_NAMES = {"300vpro": "300ipro"}


def chip(name: str) -> Chip:
    """Return the row of CHIPS with this name.

    Case, spaces, dashes and a leading "Ascend" do not matter. Raises SettingsError for an unknown
    chip.
    """
    plain = _plain(name).removeprefix("ascend")
    rows = {_plain(row): CHIPS[row] for row in CHIPS}
    found = rows.get(_OTHER_NAMES.get(plain, plain))
    if found is None:
        raise SettingsError(f"chip {name!r} is not in the table; known are {', '.join(CHIPS)}")
    return found


def chip_of_card(
    name: str, total_mib: int | None = None, on_card: int | None = None
) -> Chip | None:
    """Return the chip behind a name that npu-smi prints, or None if the table lacks it.

    `on_card` is the number of chips that npu-smi shows on the card. Names mislead: a bare "910B"
    is the first generation, not the A2 series; a 310P3 with more than 24 GiB is half of a 96 GB
    300I Duo, and one that is alone on its card a 300I Pro or 300V Pro. A leading "Ascend" is
    ignored, except for A3, which is "Ascend910".
    """
    plain = _plain(name)
    if plain.removeprefix("ascend") == "310p3":
        if (total_mib or 0) > 24 * 1024:
            return CHIPS["300I Duo"]
        return CHIPS["300I Pro" if on_card == 1 else "310P3"]
    plain = next((row for start, row in _SERIES.items() if plain.startswith(start)), plain)
    plain = _SMI_NAMES.get(plain, plain).removeprefix("ascend")
    plain = _SMI_NAMES.get(plain, plain)
    return next((row for row in CHIPS.values() if _plain(row.name) == plain), None)


def chip_of_soc(code: int) -> Chip | None:
    """Return the chip of a SoC code of torch_npu, or None if the table lacks it.

    Codes: torch_npu 9e73e708, torch_npu/csrc/core/npu/NpuVariables.h:5-36. 202 is a 310P3 of any
    card, so its row has no figures.
    """
    if code == 202:
        return CHIPS["310P"]
    return next((row for row in CHIPS.values() if code in row.soc), None)


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())

"""The evidence for the NPU path: the table in docs/verification.md, which is what this
module prints.
"""

from typing import NamedTuple

EMULATED = (
    "emulated, in `make test`"  # our reading of the operators' pages, on the CPU, without torch_npu
)
CHECKED = (
    "schema-checked or traced, in `make verify-npu`"  # against the vendor's wheel, without a device
)
DEVICE = "open: only the JSON of `selftest-npu`, from an NPU, can say"
OPEN = "open: not measured"


class Known(NamedTuple):
    """One thing, its level, and what it is held against."""

    what: str
    level: str
    against: str


KNOWN = (
    Known(
        "numbers: prefill, decode, a chunk on the cache, padding, int8, int4",
        EMULATED,
        "the plain path in float32, with CPU kernels written from the operators' pages",
    ),
    Known(
        "documented constraints: layouts, dtypes, masks, sizes",
        EMULATED,
        "our reading of those pages",
    ),
    Known(
        "activations and captures: each step by its name, with and without a captured step",
        EMULATED,
        "plain layers in float32, on A2, A3, 310P and an unknown chip, float16, bfloat16, int8, "
        "int4, world sizes 1 and 2; logits and calls with the taps set are those of without",
    ),
    Known(
        "`06_align` on the chip's operators: healthy runs, faults planted in an emulating "
        "operator, weights and tables that are wrong",
        EMULATED,
        "healthy runs are not accused; a fault is found at its layer, step, pass and ranks, and it "
        "is said whether the operator or what it is given is to blame: 12 kinds in attention, "
        "rotary, gelu, norm of a sum and int8 product, and a sum over the ranks left out",
    ),
    Known(
        "operators a layer and a token in decode, and a captured step against the eager one",
        EMULATED,
        "budgets; the same steps one operator at a time, on a stand-in for the graph",
    ),
    Known(
        "the emulating kernels' numbers: rotary, norm of a sum, int8 product, attention",
        EMULATED,
        "the formulas of op-plugin's own tests at 517f2e7d, in float64",
    ),
    Known(
        "what the operators' host code asks of a call before a launch, per chip",
        EMULATED,
        "the vendor's sources, transcribed with commit, file and line (attention: "
        "ops-transformer c29bc106 and 3a280bcc)",
    ),
    Known(
        "collectives by chip: operations, dtypes, the communicator before any device memory",
        EMULATED,
        "HCCL's pages, transcribed with their lines, as a group over gloo that refuses what they "
        "do not list",
    ),
    Known(
        "placement: tensors on the device; host synchronisations, collectives and timing events "
        "of a step",
        EMULATED,
        "a made-up device, and that group",
    ),
    Known(
        "operators' names and arguments",
        CHECKED,
        "the schemas in the torch-npu 2.13.0 wheel, word for word",
    ),
    Known(
        "a captured step's operators, NPUGraph's methods and arguments",
        CHECKED,
        "the schemas and the Python files of that wheel",
    ),
    Known(
        "GPT-NeoX-20B's shapes and dtypes at world sizes 1 and 8",
        CHECKED,
        "the wheel's own shape kernels, on tensors without data",
    ),
    Known("the emulating kernels' shapes and dtypes", CHECKED, "the same shape kernels"),
    Known(
        "torch_npu installed, but no CANN or no NPU",
        CHECKED,
        "the wheel's own import, without its libraries and on stand-ins for them",
    ),
    Known("the model's ordinary tests, torch_npu imported", CHECKED, "the same tests without it"),
    Known(
        "operators, collectives, greedy text on an NPU", DEVICE, "plain float32 sums on the host"
    ),
    Known("speed and memory on an NPU", OPEN, "nothing; `plan` predicts"),
)


def markdown() -> str:
    """The table for docs/verification.md."""
    rows = [f"| {row.what} | {row.level} | {row.against} |" for row in KNOWN]
    return "\n".join(["| of the NPU path | level | held against |", "|---|---|---|", *rows])


if __name__ == "__main__":
    print(markdown())

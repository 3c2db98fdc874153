"""What an error may be, as data, each with its source."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """The most (or, with `least`, the least) that a figure may be."""

    figure: str
    value: float
    source: str
    least: bool = False

    def broken(self, found: float) -> bool:
        """Whether `found` is past the limit; NaN is."""
        return not (found >= self.value if self.least else found <= self.value)


# A step's own error, in its spreads: see estimates.py. The greatest of a tensor, and the root of
# the mean square. Healthy runs of the tests stay below half of these (docs/verification.md).
OWN_MAX = Limit("own_max", 8.0, "neoxlib: healthy runs over dtypes, world sizes and executors")
OWN_RMS = Limit("own_rms", 1.5, "neoxlib: as own_max")

# The target's error over that of the same dtype on the CPU: the guards of AWS's three-way
# comparison (its default for one tensor of a whole model is 1.5, in tensor_compare_design.md).
NEURON = (
    "aws-neuron-sdk 43a89626, vllm-neuron/docs/design/accuracy/module_test_guidelines.md, "
    "Pass/Fail Criteria"
)
TIMES_L2 = Limit("L2 ratio", 3.0, NEURON)
TIMES_MAX = Limit("L-inf ratio", 5.0, NEURON)

# An own error past its limit is excused where the same dtype is past it, too: not if it is this
# many times the limit. The plain layers are neoxlib's as well, and an error of theirs is a fault.
EXCUSED = Limit(
    "own error over its limit", 4.0, "neoxlib: chosen, six times the greatest of healthy runs"
)

# How far the same dtype may be from another capture, in roundings of the coarser dtype: past this
# the two compute different formulas, and the same dtype is no measure.
OTHER_FORMULA = Limit(
    "same dtype from the reference, roundings",
    300.0,
    "neoxlib: chosen; transformers' model of three layers in three dtypes is within 7",
)

# The vendor's lines for a whole model's output: Ascend msprobe 8ff00da3,
# docs/zh/user_guide/accuracy_compare/infer_compare_result.md:83-85.
MSPROBE = "msprobe 8ff00da3, docs/zh/user_guide/accuracy_compare/infer_compare_result.md:83-85"
WHOLE = (
    Limit("cosine", 0.99, MSPROBE, least=True),
    Limit("relative_l2", 0.05, MSPROBE),
    Limit("kl", 0.005, MSPROBE),
)
FIGURES = {  # a distance -> its name in words
    "cosine": "cosine similarity",
    "relative_l2": "relative distance (L2)",
    "kl": "KL divergence",
}


def excused(limit: Limit, times: Limit, found: float, same: float) -> bool:
    """Whether the dtype explains an own error past `limit`.

    `same` is the own error of the same dtype on the CPU: past the limit, too, and the target's at
    most `times` as large; and the target's is not past EXCUSED.
    """
    near = limit.broken(same) and not times.broken(found / same)
    return near and not EXCUSED.broken(found / limit.value)

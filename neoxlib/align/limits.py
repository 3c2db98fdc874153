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

# The vendor's lines for a whole model's output: Ascend msprobe 8ff00da3,
# docs/zh/user_guide/accuracy_compare/infer_compare_result.md:83-85.
MSPROBE = "msprobe 8ff00da3, docs/zh/user_guide/accuracy_compare/infer_compare_result.md:83-85"
WHOLE = (
    Limit("cosine", 0.99, MSPROBE, least=True),
    Limit("relative_l2", 0.05, MSPROBE),
    Limit("kl", 0.005, MSPROBE),
)

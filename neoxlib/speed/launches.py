"""Operators that the host launches for a token on an NPU, and how long that may take it.

The counts follow model/on_npu.py, and a test holds them against the emulated operators. Times are
predicted: what a launch costs is assumed, and no NPU was measured.
"""

from dataclasses import dataclass

from neoxlib.kernels.npu import PLAIN, Operators, operators_for
from neoxlib.model.config import ACTIVATIONS
from neoxlib.speed.bounds import Bounds, ms_text

# Microseconds of the host for one operator, assumed: between an x86 host with
# TASK_QUEUE_ENABLE=2 and an ARM host with 1. To be replaced by what selftest-npu measures.
LAUNCH_US = (5.0, 20.0)
BESIDE = 6  # embedding, index and rows of the angles, the last sum, the final norm, the head
OF_RANKS = 4  # more of them where the embedding's rows are cut over ranks
REPLAYED = 5  # ids, slot, lengths with the replay, a copy of the output, final norm and head


@dataclass(frozen=True)
class Launches:
    """What the host launches for one token, one operator at a time or as a graph."""

    eager: int
    sums: int  # all-reduces among them
    graph: int | None  # None where a step is not captured

    def host_ms(self, count: int) -> tuple[float, float]:
        """The host's milliseconds for `count` launches, by LAUNCH_US."""
        return tuple(count * us / 1e3 for us in LAUNCH_US)


def launches(found: Bounds) -> Launches | None:
    """The launches of a next token; None on a CPU, and where PyTorch's operators do the attention.

    How many those are is not known, nor what unpacking a weight takes.
    """
    ask = found.budget
    config = ask.config
    if found.target.on_cpu:
        return None
    heads = config.num_attention_heads // ask.world_size
    operators = operators_for(
        found.target.chip.family, heads, config.head_dim, 2 * ((config.rotary_dim + 1) // 2)
    )
    unpacked = ask.quant is not None and ask.quant not in operators.packed
    if operators.one is None or unpacked or operators == PLAIN:
        return None
    sums = config.num_hidden_layers * (1 if config.use_parallel_residual else 2)
    layers = config.num_hidden_layers * of_a_layer(operators, found)
    ranks = (sums + 1 + OF_RANKS) if ask.world_size > 1 else 0
    graph = REPLAYED if operators.graph else None
    return Launches(layers + BESIDE + ranks, sums if ask.world_size > 1 else 0, graph)


def of_a_layer(operators: Operators, found: Bounds) -> int:
    """Operators of one layer on rank 0, which adds the biases."""
    ask = found.budget
    norm_of_sum = 1 if operators.add_norm else 2
    parallel = ask.config.use_parallel_residual
    norms = norm_of_sum + (1 if parallel else norm_of_sum)
    blocks = 0 if ask.batch == 1 else 1  # q, k and v of several rows are copied into blocks
    rotation = 1 if operators.rotary_mul else 3
    form = ACTIVATIONS[ask.config.hidden_act]
    activation = 8 if form == "gelu" and not operators.gelu else 1
    write_and_attend = 2
    return norms + blocks + rotation + write_and_attend + activation + _products(operators, found)


def _products(operators: Operators, found: Bounds) -> int:
    """The four products, and what they cannot add themselves."""
    config = found.budget.config
    parallel = config.use_parallel_residual
    if found.budget.quant:
        return 4 + (1 if parallel else 0)  # the sum of the branches
    if not operators.nz:
        return 4
    query = 1 if config.attention_bias else 0
    dense = 1 if parallel or config.attention_bias else 0
    return 4 + query + dense + 1 + 1  # biases, and the sum of the branches or the last bias


def rows(found: Bounds) -> list[tuple[str, str, str, str]]:
    """Mode, launches, the host's milliseconds and the next token's, all predicted."""
    counted = launches(found)
    if counted is None:
        return []
    told = [_row("one by one", counted.eager, counted, found)]
    if counted.graph is None:
        return [*told, ("as a graph", "not on this chip", "–", "–")]
    return [*told, _row("as a graph", counted.graph, counted, found)]


def _row(mode: str, count: int, counted: Launches, found: Bounds) -> tuple[str, str, str, str]:
    low, high = counted.host_ms(count)
    host = f"{ms_text(low)} to {ms_text(high)}"
    bound = found.next_token_ms
    if bound is None:
        return mode, f"{count:,}", host, "not known"
    least, most = (max(bound, ms) for ms in (low, high))
    same = ms_text(least) == ms_text(most)
    token = ms_text(least) if same else f"{ms_text(least)} to {ms_text(most)}"
    return mode, f"{count:,}", host, f"{token} or more"

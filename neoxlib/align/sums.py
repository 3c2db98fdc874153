"""What is wrong with a sum over the ranks."""

from torch import Tensor

from neoxlib.align.graph import Graph


def sum_fault(graph: Graph, name: str, pass_: int) -> str:
    """Say which rank's term a wrong sum lacks, or whose is that of the pass before.

    Terms are told apart that differ by 2 % of the sum's greatest value.
    """
    before = name.replace("after", "before")
    ranks = range(graph.size)
    terms = [graph.estimate(before, pass_, rank).value for rank in ranks]
    sums = [graph.estimate(name, pass_, rank).value for rank in ranks]
    whole = sum(terms)
    size = whole.abs().max().clamp(min=1e-30) * 0.02

    def near(one: Tensor, other: Tensor) -> bool:
        return one.shape == other.shape and bool((one - other).abs().max() <= size)

    if not all(near(each, sums[0]) for each in sums):
        own = [rank for rank in ranks if near(sums[rank], terms[rank])]
        wrong = [rank for rank in ranks if not near(sums[rank], whole)]
        few = "; ".join(f"rank {rank} has only its own term" for rank in own)
        return few or f"the ranks do not have the same sum, and those of {wrong} are wrong"
    for rank in ranks:
        if near(sums[0], whole - terms[rank]):
            return f"the sum lacks the term of rank {rank}"
        if pass_ > 1:
            late = graph.estimate(before, pass_ - 1, rank).value
            if near(sums[0], whole - terms[rank] + late):
                return f"the term of rank {rank} is that of the pass before"
        if near(sums[0], whole + terms[rank]):
            return f"the term of rank {rank} is in the sum twice"
    return "no rank's term explains it" if not near(sums[0], whole) else "it was rounded too much"

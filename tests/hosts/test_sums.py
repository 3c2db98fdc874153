"""What sums cost within and between hosts, over a group whose sums take what a law says."""

from types import SimpleNamespace

import pytest
import torch

from neoxlib.hosts import sums
from neoxlib.hosts.sums import Line, Parts, line_of

CONFIG = SimpleNamespace(hidden_size=64, num_hidden_layers=5, use_parallel_residual=True)
BATCH, LENGTH = 3, 7
WITHIN, BETWEEN = Line(2e-6, 4e9), Line(3e-4, 1e8)


class Group:
    """Two hosts, with times that follow WITHIN and BETWEEN."""

    sizes = (2, 2)
    record = None

    def barrier(self) -> None:
        pass

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        if self.record is not None:
            size = x.numel() * 4
            parts = Parts(WITHIN.seconds(size), BETWEEN.seconds(size))
            self.record.append((x.numel(), parts))
        return x


class Engine:
    """Its passes sum as a model's do: the prompt's, then two tokens."""

    def __init__(self, group: object) -> None:
        self.group = group

    def profile(self, case: object) -> None:
        for tokens in (LENGTH, 1, 1):
            for _ in range(sums.sums_of_a_pass(CONFIG)):
                self.group.all_reduce(torch.zeros(BATCH * tokens * CONFIG.hidden_size))


def test_the_lines_that_were_measured_predict_the_sums_of_each_token():
    answer = sums.measure(Engine(Group()), None)
    table = sums.read(answer, CONFIG).table(CONFIG, BATCH, LENGTH)
    for token, tokens in (("first token", LENGTH), ("next token", 1)):
        rows = table[table["what"] == f"sums of a {token}"].set_index("how")
        size = 4 * BATCH * tokens * CONFIG.hidden_size
        for column, line in (("within_ms", WITHIN), ("between_ms", BETWEEN)):
            due = 1e3 * 6 * line.seconds(size)
            assert rows.loc["measured", column] == pytest.approx(due)
            assert rows.loc["predicted", column] == pytest.approx(due, rel=1e-3)


def test_every_figure_says_whether_it_was_measured_or_predicted():
    table = sums.read(sums.measure(Engine(Group()), None), CONFIG).table(CONFIG, 1, 1)
    assert set(table["how"]) == {"measured", "predicted", "from latency and bandwidth"}


def test_a_group_records_only_while_it_is_measured():
    group = Group()
    sums.measure(Engine(group), None)
    assert group.record is None


def test_ranks_of_one_host_have_no_sums_between_hosts():
    assert sums.measure(Engine(SimpleNamespace(all_reduce=None)), None) is None


def test_one_rank_a_host_has_no_part_within():
    assert line_of(0.0, 0.0) is None
    found = sums.Sums(2, None, BETWEEN, {64: Parts(0.0, 1.0)})
    table = found.table(CONFIG, 1, 1)
    predicted = table[table["how"] == "predicted"]
    assert predicted["within_ms"].isna().all() and predicted["between_ms"].notna().all()


def test_a_model_without_the_parallel_residual_sums_twice_a_layer():
    twice = SimpleNamespace(**vars(CONFIG) | {"use_parallel_residual": False})
    assert (sums.sums_of_a_pass(CONFIG), sums.sums_of_a_pass(twice)) == (6, 11)

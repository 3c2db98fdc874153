"""Which cases are timed, and which are refused before anything runs."""

from types import SimpleNamespace
from typing import Any

import pytest

from neoxlib.errors import ParameterError, SettingsError
from neoxlib.inference.timing import Case
from neoxlib.speed import cases
from neoxlib.workbook import param, parameter_table, parameters


def asked(**given: Any) -> SimpleNamespace:
    """The resolved parameters of a run."""
    values = {
        name: parameter_table.PARAMETERS[name].default
        for name in parameter_table.NOTEBOOKS["04_profile"]
    } | given
    table = parameter_table.PARAMETERS
    return SimpleNamespace(
        **{name: parameters.resolve(name, table[name], value) for name, value in values.items()}
    )


def lengths(found: list[Case]) -> list[tuple[int, int]]:
    return [(case.input_len, case.output_len) for case in found]


def test_the_grid_is_the_guides_36_cases_where_the_window_holds_them_input_lengths_first():
    found = lengths(cases.grid(asked(), 2048))
    assert len(found) == 36 and found == lengths(cases.grid(asked(max_len_exp=10), 2048))
    assert found[:7] == [(32, 2**j) for j in range(5, 11)] + [(64, 32)] and found[-1] == (
        1024,
        1024,
    )


def test_without_a_largest_exponent_the_grid_ends_where_the_window_does():
    assert max(lengths(cases.grid(asked(), 1024))) == (512, 512)
    assert max(lengths(cases.grid(asked(), 2047))) == (512, 512)
    assert max(lengths(cases.grid(asked(depths=[0, 1024]), 2048))) == (512, 512)
    assert max(lengths(cases.grid(asked(), 10**6))) == (1024, 1024)


def test_pairs_batches_and_depths_are_crossed():
    found = cases.grid(
        asked(case_pair=[[3, 4], [5, 6]], batch_sizes=[1, 8], depths=[0, 20], repeats=9), 100
    )
    assert [(c.batch_size, c.depth, c.input_len, c.output_len) for c in found] == [
        (batch, depth, *pair) for batch in (1, 8) for depth in (0, 20) for pair in ((3, 4), (5, 6))
    ]
    assert {case.repeats for case in found} == {9}
    assert cases.grid(asked(case_pair=[[3, 4]], batch_size=5), 100)[0].batch_size == 5


def test_every_case_past_the_window_is_named_with_what_it_needs():
    pairs = [[64, 64], [50, 50], [99, 2]]
    with pytest.raises(SettingsError) as refused:
        cases.grid(asked(case_pair=pairs, depths=[0, 1]), 100)
    said = str(refused.value)
    assert "max_seq_len 100" in said and "batch 1, 64 in, 64 out needs 128" in said
    assert (
        "batch 1, 99 in, 2 out needs 101" in said
        and "batch 1, 1 deep, 50 in, 50 out needs 101" in said
    )
    assert "batch 1, 50 in, 50 out needs" not in said
    with pytest.raises(SettingsError, match="32 in, 32 out needs 64"):
        cases.grid(asked(), 63)


def test_a_cache_larger_than_the_free_memory_is_refused_with_both_figures():
    small = Case(1, 8, 8)
    large = Case(1000, 500, 500)
    cases.refuse_large([small], 10**4, 10**9)
    with pytest.raises(
        SettingsError, match=r"(?s)1\.00 GB.*batch 1000, 500 in, 500 out needs 10\.00 GB"
    ) as refused:
        cases.refuse_large([small, large], 10**4, 10**9)
    assert "batch 1," not in str(refused.value)


def test_a_case_of_impossible_numbers_names_them_all():
    with pytest.raises(
        SettingsError, match=r"input_len is 0; output_len is -1; depth is -2; repeats is 1\.5"
    ):
        Case(1, 0, -1, -2, repeats=1.5)
    with pytest.raises(SettingsError, match="min_seconds is -1"):
        Case(1, 1, 1, min_seconds=-1)


def test_parameters_that_cannot_be_cases_are_refused_all_at_once():
    bad = {
        "case_pair": [[8, -4], [8, 4.5], "8x4"],
        "batch_sizes": [0, 2],
        "depths": [-1],
        "repeats": 0,
        "min_seconds": -1,
        "min_len_exp": 9,
        "max_len_exp": 8,
        "perf_mode": "fast",
    }
    lines = parameters.complaints(bad, parameter_table.PARAMETERS)
    assert sorted(line.partition(":")[0] for line in lines) == sorted(set(bad) - {"max_len_exp"})
    assert "[[8, -4], [8, 4.5], '8x4']" in next(
        line for line in lines if line.startswith("case_pair")
    )
    with pytest.raises(ParameterError):
        parameters.refuse(lines)
    assert not parameters.complaints(
        {"min_len_exp": 9, "max_len_exp": 0}, parameter_table.PARAMETERS
    )


@pytest.mark.parametrize("name", ["RETURN_PERF_DETAIL", "TIMEIT"])
def test_the_guides_switches_change_the_default_and_not_what_is_given(monkeypatch, name: str):
    for other in ("RETURN_PERF_DETAIL", "TIMEIT"):
        monkeypatch.delenv(other, raising=False)
    assert asked().perf_mode == "normal" and not param.timings_shown()
    monkeypatch.setenv(name, "1")
    assert asked().perf_mode == "detail" and asked(perf_mode="normal").perf_mode == "normal"
    assert param.timings_shown() == (name == "TIMEIT")
    monkeypatch.setenv(name, "0")
    assert asked().perf_mode == "normal"

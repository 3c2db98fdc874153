"""Notebooks that were written before modules moved into rooms go on, and are told the new names."""

import importlib
import sys

import pytest

import neoxlib
from neoxlib.checkpoint import shard, verify
from neoxlib.names import FORMER, RENAMED


@pytest.fixture(autouse=True)
def _forget():
    """Each test is the first to import a former name."""
    yield
    for name in FORMER:
        sys.modules.pop(f"neoxlib.{name}", None)
        vars(neoxlib).pop(name, None)


@pytest.mark.parametrize("name", FORMER)
def test_a_former_module_names_the_new_one_and_has_its_functions(name: str):
    with pytest.warns(FutureWarning, match=f"neoxlib.{name} is now neoxlib."):
        former = importlib.import_module(f"neoxlib.{name}")
    for place in FORMER[name].split():
        module = importlib.import_module(f"neoxlib.{place}")
        public = [each for each in vars(module) if not each.startswith("_")]
        assert public and all(hasattr(former, each) for each in public)


@pytest.mark.parametrize("called", RENAMED)
def test_a_former_function_is_the_one_of_its_new_name(called: str):
    module, _, name = called.partition(".")
    with pytest.warns(FutureWarning):
        former = importlib.import_module(f"neoxlib.{module}")
    function = getattr(former, name)
    assert callable(function) and function.__name__ == RENAMED[called]


def test_both_ways_to_import_give_the_functions_that_moved():
    with pytest.warns(FutureWarning):
        from neoxlib.run import Run

        from neoxlib import weights
    assert (weights.shard, weights.verify) == (shard.shard, verify.verify)
    assert Run is neoxlib.workbook.Run


def test_a_name_that_never_was_is_an_error():
    with pytest.raises(ImportError, match="never_was"):
        from neoxlib import never_was  # noqa: F401
    with pytest.warns(FutureWarning), pytest.raises(ImportError, match="cannot import name 'spam'"):
        from neoxlib.weights import spam  # noqa: F401

"""The variables that ranks are started with."""

import os

import pytest

from neoxlib.machine.chips import CHIPS
from neoxlib.machine.launch_env import launch_env
from neoxlib.ranks import surroundings


@pytest.mark.parametrize("deterministic", [False, True])
def test_ranks_on_npus_get_the_recipe_of_the_chip_and_this_process_keeps_its_own(
    monkeypatch, deterministic
):
    monkeypatch.setattr(surroundings, "chip_for", lambda device: CHIPS["910B3"])
    monkeypatch.setattr(surroundings, "container", lambda: None)
    before = dict(os.environ)
    env = surroundings.rank_environment(8, "npu", deterministic)
    assert env.items() >= launch_env("910B3", 8, deterministic=deterministic).items()
    assert ("HCCL_DETERMINISTIC" in env) is deterministic and dict(os.environ) == before

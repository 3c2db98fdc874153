"""Who answers the questions of the contract."""

from pathlib import Path

import neoxlib
from neoxlib.inference.contract import Inference


def test_an_engine_and_a_session_have_every_member_of_the_contract(checkpoint: Path):
    members = {name for name in vars(Inference) if not name.startswith("_")}
    with neoxlib.load(checkpoint) as engine:
        assert len(members) > 10 and members <= set(dir(engine))
        assert engine.groups == [engine]
    assert members <= set(dir(neoxlib.Session))

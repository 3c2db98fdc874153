"""What encryption costs: each session is compared with the one of its round that has none."""

from pathlib import Path

import pytest

from benchmarks import encryption, jobs, synthetic
from neoxlib.ranks import launch
from tests.support.bench_records import result


def sessions(*starts: float) -> list[dict[str, float]]:
    return [{"start_s": s, "call_ms": 2 * s, "logits_ms": 10 * s} for s in starts]


def test_a_session_is_compared_with_the_open_one_of_its_round():
    found = {"encrypted": sessions(2.0, 3.0, 8.0), "not encrypted": sessions(1.0, 2.0, 8.0)}
    text = encryption.markdown(result() | {"rounds": found, "world_size": 2, "mb": 103.3})
    assert "| a session starts and loads, s | 3.00 | 2.00 | 1.500 (1.000–2.000) |" in text
    assert "| `logits` of 103 MB, ms | 30.00 | 20.00 | 1.500 (1.000–2.000) |" in text
    assert "medians of 3 sessions" in text


@pytest.mark.parametrize("encrypted", encryption.STATES.values())
def test_what_is_timed_is_a_session_that_encrypts_or_does_not(
    encrypted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(launch, "new_cluster", launch.new_cluster)  # put back afterwards
    src = synthetic.write(tmp_path / "model", synthetic.shape_of("tiny"))
    found = jobs.session(str(src), 1, [[1, 2, 3]], encrypted)  # asserts which of them it is
    assert found.keys() == encryption.FIGURES.keys() and min(found.values()) > 0

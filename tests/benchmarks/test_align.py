"""What looking inside costs: each round is compared with its own, and a capture is judged."""

from pathlib import Path

from benchmarks import align, jobs, synthetic
from tests.support.bench_records import result


def off(*speeds: float) -> list[dict[str, float]]:
    return [{"tokens_per_s": speed, "next_ms": 1e3 / speed} for speed in speeds]


def captures(seconds: float, gb: float, written: int = 0) -> list[dict[str, float]]:
    one = {"passes_s": seconds, "own_gb": gb, "bytes": written, "largest": written // 4}
    return [one, one | {"passes_s": seconds * 2}]


def test_decode_with_taps_off_is_compared_with_the_round_it_is_of():
    found = {
        "never set": off(10.0, 20.0, 40.0),
        "set and removed": off(10.0, 22.0, 36.0),
        "align imported": off(5.0, 20.0, 40.0),
    }
    shapes = {
        "captures": {
            "taps off": captures(1.0, 2.0),
            "statistics": captures(3.0, 2.25, 4_000_000),
            "tensors": captures(2.0, 2.5, 8_000_000),
        },
        "reference": {"hold_s": 12.0, "own_gb": 7.0},
    }
    asked = {"shape": "410m", "dtype": "bfloat16", "tokens": 96}
    text = align.markdown(result() | asked | {"off": found, "on": {"410m": shapes}})
    assert "| never set | 20.0 | – |" in text
    assert "| set and removed | 22.0 | 1.000 (0.900–1.100) |" in text
    assert "| align imported | 20.0 | 1.000 (0.500–1.000) |" in text
    tensors = "3.00; 2.00 × off (2.00–2.00) | 8.0 MB | 2.0 MB | 2.50 GB, +0.50 |"
    assert f"| 410m | tensors | {tensors}" in text
    assert "| 410m | the reference | 12.0 | – | – | 7.00 GB |" in text
    assert "0123abcd, bfloat16, every piece of work" in text


def test_what_is_timed_captures_the_passes_and_finds_nothing_wrong(tmp_path: Path):
    src = synthetic.write(tmp_path / "model", synthetic.shape_of("tiny"), "bfloat16")
    rows = synthetic.prompts({"batch": 2, "prompt": 12}, 2048)
    given = {"model_dir": str(src), "threads": 1, "dtype": "bfloat16", "rows": rows}
    for kind in align.KINDS.values():
        folder = tmp_path / (kind or "none")
        assert jobs.look(**given, kind=kind, folder=str(folder))["passes_s"] > 0
        assert folder.exists() == bool(kind)
    assert jobs.hold(1, str(tmp_path / "tensors"))["guilty"] == 0
    passes = {path.name for path in (tmp_path / "tensors").iterdir() if path.is_dir()}
    assert passes == {f"pass{number}" for number in range(9)}

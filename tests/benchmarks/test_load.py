"""Loads and copies beside their peers, each in a process that is watched from outside."""

import sys
from pathlib import Path

import pytest

from benchmarks import load, outside
from tests.support.bench_records import result

HOLDS_UNTIL_SEEN = """
import sys, time
from pathlib import Path
x = bytearray(300 << 20)
while not Path(sys.argv[1]).exists():
    time.sleep(0.01)
print('{"a": 1}')
"""


def test_work_outside_gives_its_seconds_its_memory_and_its_own_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    clock = iter([10.0, 12.5])
    look = outside._memory

    def seen_of(pid: int) -> dict[str, int]:
        found = look(pid)
        if found.get("own_gb", 0) > 300 << 20:
            (tmp_path / "seen").touch()
        return found

    monkeypatch.setattr(outside, "_memory", seen_of)
    monkeypatch.setattr(outside.time, "perf_counter", lambda: next(clock))
    seen = outside.run([sys.executable, "-c", HOLDS_UNTIL_SEEN, str(tmp_path / "seen")])
    monkeypatch.undo()
    assert seen["a"] == 1 and 0.3 < seen["own_gb"] < 0.4 and seen["seconds"] == 2.5
    with pytest.raises(RuntimeError, match="code 3"):
        outside.run([sys.executable, "-c", "raise SystemExit(3)"])


def work(seconds: list[float]) -> list[dict[str, float]]:
    """One piece of work, a round each."""
    return [{"seconds": t, "own_s": t, "rss_gb": 0.1, "own_gb": 0.1} for t in seconds]


@pytest.fixture
def runs() -> dict[str, list[dict[str, float]]]:
    """Three rounds of all copies, cuts and loads."""
    found = {
        "cp": work([2.0, 4.0, 3.0]),
        "cp, on the disk": work([4.0, 4.0, 4.0]),
        "shard, 1 rank": work([1.0, 1.0, 2.0]),
        "shard, 4 ranks": work([1.0, 1.0, 1.0]),
    }
    for dtype, ours in (("float32", 1.0), ("float16", 2.0)):
        figures = {"seconds": 9.0, "rss_gb": 1.0, "own_gb": 0.5}
        found[f"from_pretrained, {dtype}"] = [figures | {"own_s": 0.1, "ready_s": 3.0}] * 3
        found[f"load, {dtype}"] = [figures | {"own_s": 0.5, "ready_s": ours, "settled_s": 7.5}] * 3
    return found


def test_loads_and_copies_are_compared_with_their_peers_of_the_same_round(runs: dict):
    found = load.ratios(runs)
    assert found["shard, 1 rank"] == [[4.0, 4.0, 2.0], [2.0, 4.0, 1.5]]
    assert found["load, float32"] == [[3.0] * 3]


def test_loads_and_copies_stand_in_one_table(runs: dict):
    warm = {"shape": "tiny", "bytes": 4 * 10**9, "state": "warm", "results": runs}
    warm["ratios"] = load.ratios(runs)
    larger = runs | {"load, float16": [one | {"own_gb": 0.7} for one in runs["load, float16"]]}
    cold = warm | {"bytes": 8 * 10**9, "state": "cold", "results": larger}
    text = load.markdown(result() | {"runs": [warm, cold]})
    assert "neoxlib 0123abcd: medians of 3 rounds" in text
    assert "|  | beside | 4.0 GB, warm | 8.0 GB, cold | peak, GB, of 4.0 GB, 8.0 GB |" in text
    assert "| cp |  | 3.00 s | 3.00 s | 0.10, 0.10 |" in text
    shards = "1.00 s; 4.00× (2.00–4.00); 2.00× (1.50–4.00)"
    assert f"| shard, 1 rank | cp, on the disk; cp | {shards} | {shards} | 0.10, 0.10 |" in text
    loads = "2.00 s; 1.50× (1.50–1.50); settled after 7.5 s"
    assert f"| load, float16 | from_pretrained, float16 | {loads} | {loads} | 0.50, 0.70 |" in text


def test_what_follows_the_heaviest_writer_in_one_round_precedes_it_in_the_next():
    turns: list[str] = []
    jobs = {
        name: lambda name=name: turns.append(name) or {"seconds": float(len(turns))}
        for name in "abc"
    }
    results = outside.each(jobs, 2, lambda: None)
    assert turns == ["a", "b", "c", "c", "b", "a"]
    assert results["a"] == [{"seconds": 1.0}, {"seconds": 6.0}]

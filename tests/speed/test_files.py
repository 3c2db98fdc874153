"""The files of a measured grid: the vendor's by a reader written from the guide, and what a kill
leaves of them.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from neoxlib.inference.timing import Case
from neoxlib.speed import files as speed_files
from neoxlib.speed import measure
from tests.support import vendor_csv as guide
from tests.support.timed_cases import clocks

ABOUT = {"model_dir": "/models/GPT NeoX (20b)", "device": "npu:0"}
GRID = """
import sys
import neoxlib
from neoxlib.inference.timing import Case
from neoxlib.speed import measure
from neoxlib.workbook import param, parameter_table, parameters
from neoxlib.workbook.run import Run

names = parameter_table.NOTEBOOKS["04_profile"]
run = Run.start("04_profile", {name: parameter_table.PARAMETERS[name].default for name in names})
engine = neoxlib.load(sys.argv[1])
todo = [Case(1 + n % 2, 4, 1 + n, repeats=2, warmup=1) for n in range(60)]
todo[1:1] = [Case(1, 4, 4, depth=8, repeats=2, warmup=1)]
measure.time_cases(engine, todo, run)
"""


def table(*cases: Case) -> pd.DataFrame:
    runs = [clocks(94, *[10] * (case.output_len - 1)) for case in cases]
    memory = {"rank_rss_peak_mb": 7.0, "device_peak_mb": None}
    return pd.DataFrame(
        [measure.summarise(case, [run]) | memory for case, run in zip(cases, runs, strict=True)]
    )


def test_the_vendors_csv_is_what_a_reader_of_the_guide_expects(tmp_path):
    rows = table(Case(2, 256, 64), Case(2, 32, 1))
    for mode, expected in (("normal", (100, 16, 0, 0)), ("detail", (96, 12, 1, 3))):
        speed_files.vendor_table(rows, mode).to_csv(
            tmp_path / "performance_test_npu_x.csv", index=False
        )
        many, one = guide.read(tmp_path / "performance_test_npu_x.csv")
        assert (many.batch, many.inputs, many.outputs) == (2, 256, 64)
        assert (many.first_ms, many.next_ms, many.pre_ms, many.post_ms) == expected
        assert many.response_s == round((100 + 63 * 16 + 500) / 1000, 2)
        assert (one.next_ms, one.pre_ms, one.post_ms) == (0, 0, 0), "one token has no next one"
    assert speed_files.vendor_table(rows, skip_decode=True)["ResponseTime(s)"][0] == round(
        (100 + 63 * 16) / 1000, 2
    )


def test_the_vendors_file_is_named_by_device_model_and_batch_and_leaves_depth_out():
    rows = table(Case(1, 8, 4), Case(8, 8, 4), Case(1, 8, 4, depth=16))
    files = dict(speed_files.vendor_files(rows, ABOUT, "normal", False))
    assert {name: len(file) for name, file in files.items()} == {
        "performance_test_npu_GPT_NeoX__20b__bs1": 1,
        "performance_test_npu_GPT_NeoX__20b__bs8": 1,
    }
    ((name, _),) = speed_files.vendor_files(
        rows[:1], {"model_dir": "a/neox", "device": "cpu"}, "normal", False
    )
    assert name == "performance_test_cpu_neox_bs1"


def test_json_says_what_columns_mean_and_has_null_where_nothing_was_measured():
    found = json.loads(
        speed_files.as_json(table(Case(1, 8, 4), Case(1, 8, 1)), measure.COLUMNS, ABOUT)
    )
    assert found["model"] == ABOUT and "synced" in found["columns"]["next_token_ms"]
    assert [row["next_token_ms"] for row in found["rows"]] == [16.0, None]
    assert found["rows"][0]["end_to_end_ms"] is None


def test_markdown_leaves_out_columns_without_values():
    lines = speed_files.as_markdown(
        pd.DataFrame({"a": [1, 2], "b": [None, None], "c": [0.5, None]})
    ).splitlines()
    assert lines == ["| a | c |", "| ---: | ---: |", "| 1 | 0.50 |", "| 2 | – |"]


def test_a_kill_in_mid_grid_loses_the_running_case_and_no_other(checkpoint: Path, tmp_path: Path):
    environment = os.environ | {"NEOXLIB_RUN_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    latency = tmp_path / "latency.csv"
    wait_for = 3
    with subprocess.Popen(
        [sys.executable, "-c", GRID, str(checkpoint)], env=environment
    ) as process:
        while process.poll() is None and not (
            latency.is_file() and len(latency.read_text().splitlines()) > wait_for
        ):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it was over before it was killed"
    rows = pd.read_csv(latency)
    assert (
        wait_for <= len(rows) < 60
        and rows["first_token_ms"].gt(0).all()
        and list(rows)[:4] == measure.KEY
    )
    assert len(json.loads((tmp_path / "latency.json").read_text())["rows"]) in (
        len(rows),
        len(rows) - 1,
    )
    assert len((tmp_path / "latency.md").read_text().splitlines()) - 2 in (len(rows), len(rows) - 1)
    vendors = [
        line for path in tmp_path.glob("performance_test_cpu_*.csv") for line in guide.read(path)
    ]
    assert len(rows[rows["depth"] == 0]) - len(vendors) in (0, 1)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["status"] == "running" and "latency.csv" in results["files"]

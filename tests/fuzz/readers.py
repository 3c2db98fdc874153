"""Every reader of a file that others write: a valid file of it, and what reads that file.

Each reads one text and must return, or raise an error of neoxlib. `make` lays the valid files down
once; `spoil` makes other bytes of a valid one; `read` puts them there and reads them.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from neoxlib import history
from neoxlib.exam import load_task
from neoxlib.exam.earlier_run import read_questions
from neoxlib.machine import npu_smi
from neoxlib.setup import doctor
from neoxlib.workbook import arguments
from neoxlib.workbook.pages import write_index
from neoxlib.workbook.past_run import open_run
from neoxlib.workbook.vendor_config import import_config
from tests.fuzz import model_files, run_files
from tests.fuzz.mutate import Pick, spoil_bytes, spoil_json_bytes, spoil_text
from tests.support.exam_files import write_exam

FIXTURES = Path(__file__).parents[1] / "fixtures"
INI = """[model]
model_path=../model
device_ids=0,1
[precision]
mode=ceval
work_dir=./work
shot=5
[performance]
batch_size=1
max_len_exp=5
min_len_exp=3
case_pair=[[32,16],[8,4]]
perf_mode=normal
skip_decode=0
"""
PRESET = """world_size: 2
dtype: float32
subjects: [a, b]
case_pair: [[32, 16]]
limit: 3
max_slowdown: 1.5
seed: 7
trace: true
profile: lm_eval
"""
VERSIONS = (
    "package_version=25.2.0\ncompatible_version_fw=[7.0.0,7.7.99],[8.0,8.1]\n",
    "# CANN\ntoolkit_running_version=[7.5.0.1.129:8.0.RC3]\nversion=8.3.RC1\n",
)
RESULTS = {
    "status": "ok",
    "notebook": "04_profile",
    "parameters": {"world_size": 2, "repeats": 3, "subjects": ["a"]},
    "given": ["world_size"],
    "environment": {"cpu": "a cpu", "packages": {"torch": "2.13.0"}},
    "model": {"model_dir": "/m/a", "dtype": "float32", "parameters": 10, "world_size": 2},
    "verdict": "Fast.",
    "noise": [""],
    "metrics": {"accuracy": 0.5, "next_token_ms": 3.25, "next_token_ms_low": 3.0},
    "checks": [{"name": "parity", "passed": True, "detail": "1e-6"}],
    "process": {"pid": 1, "started": 1.0, "host": "a"},
    "started": "2026-01-01T00:00:00Z",
    "seconds": 1.5,
    "error": None,
}


@dataclass(frozen=True)
class Reader:
    """A reader: its valid files, how others are made of one of them, and how one is read."""

    name: str
    make: Callable[[Path], list[bytes]]
    spoil: Callable[[bytes, Pick], bytes]
    read: Callable[[Path, bytes], Any]


def _json(data: bytes, pick: Pick) -> bytes:
    return spoil_json_bytes(json.loads(data), pick)


def _text(data: bytes, pick: Pick) -> bytes:
    return spoil_text(data.decode(), pick)


def _exam_csv(folder: Path) -> list[bytes]:
    write_exam(folder / "exam")
    return [(folder / "exam" / "val" / "colours_val.csv").read_bytes()]


def _read_exam(folder: Path, data: bytes, file: str) -> None:
    (folder / "exam" / file).write_bytes(data)
    load_task("ceval", folder / "exam", shots=2)


def _mapping(folder: Path) -> list[bytes]:
    write_exam(folder / "exam")
    return [(folder / "exam" / "subject_mapping.json").read_bytes()]


def _exam_lines(folder: Path) -> list[bytes]:
    write_exam(folder / "exam")
    (folder / "exam" / "val" / "colours_val.csv").unlink()
    row = {"id": 0, "question": "1+1", "A": "1", "B": "2", "C": "3", "D": "4", "answer": "B"}
    return [json.dumps(row).encode()]


def _questions(folder: Path) -> list[bytes]:
    head = "subject,id,name,class,hard,question,expected,predicted,correct,p_A,p_B\n"
    rows = "a,0,A,STEM,True,What?,B,B,True,0.25,0.75\na,1,A,STEM,False,Who?,A,B,False,0.5,0.5\n"
    return [(head + rows).encode()]


def _read_questions(folder: Path, data: bytes) -> None:
    (folder / "questions.csv").write_bytes(data)
    read_questions(folder / "questions.csv")


def _read_ini(folder: Path, data: bytes) -> None:
    (folder / "config.ini").write_bytes(data)
    import_config(folder / "config.ini").preset("config.ini").encode()


def _smi(_: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((FIXTURES / "npu_smi").glob("*.txt"))]


def _read_smi(_: Path, data: bytes) -> None:
    text = data.decode(errors="replace")  # as subprocess does
    npu_smi.parse(text)
    npu_smi.parse_map(text)
    npu_smi.memory_mib(npu_smi.parse_pairs(text))
    npu_smi.parse_topology(text)


def _logs(_: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((FIXTURES / "failures").glob("*.log"))]


def _notebook(_: Path) -> list[bytes]:
    return [path.read_bytes() for path in arguments.all_notebooks()[:2]]


def _read_preset(folder: Path, data: bytes) -> None:
    (folder / "mine.yaml").write_bytes(data)
    preset = arguments.read_preset(str(folder / "mine.yaml"))
    arguments.prepare(arguments.all_notebooks(), [preset], [])


def _read_results(folder: Path, data: bytes) -> None:
    for number in range(6):
        run = folder / "runs" / "04_profile" / f"20260101T00000{number}Z-abc"
        run.mkdir(parents=True, exist_ok=True)
        (run / "results.json").write_text(json.dumps(RESULTS))
    (run / "results.json").write_bytes(data)
    write_index(folder / "runs")
    for one in history.histories(folder / "runs"):
        history.text(one)
    open_run(run)


def _host(_: Path) -> list[bytes]:
    return [doctor.check().to_json().encode()]


def _read_host(_: Path, data: bytes) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    repr(doctor.from_json(text))


def _spoil_parameter(data: bytes, pick: Pick) -> bytes:
    names = sorted(
        {name for path in arguments.all_notebooks() for name in arguments.declared_in(path)}
    )
    seeds = [b"2", b"[[32, 16]]", b"[a, b]", b"float32", b"1e-3", b"true", b"", b"2026-13-45"]
    name = names[pick(len(names))]
    return name.encode() + b"\0" + spoil_text(seeds[pick(len(seeds))].decode(), pick)


def _read_parameter(_: Path, data: bytes) -> None:
    name, _, text = data.partition(b"\0")
    given = [(name.decode(errors="surrogateescape"), text.decode(errors="surrogateescape"))]
    arguments.prepare(arguments.all_notebooks(), [], given)


def _seeds(*texts: str) -> Callable[[Path], list[bytes]]:
    return lambda _: [text.encode() for text in texts]


def _exam_reader(file: str) -> Callable[[Path, bytes], None]:
    return partial(_read_exam, file=file)


READERS = (
    Reader("config", model_files.config, _json, model_files.read_config),
    Reader("generation-config", model_files.generation, _json, model_files.read_generation),
    Reader("index", model_files.index, _json, model_files.read_index),
    Reader("manifest", model_files.manifest, _json, model_files.read_manifest),
    Reader("header", model_files.header, _json, model_files.read_header),
    Reader("safetensors", model_files.beginning, spoil_bytes, model_files.read_beginning),
    Reader("bin", model_files.pickled, model_files.spoil_pickle, model_files.read_pickled),
    *(
        Reader(
            file.partition(".")[0].replace("_", "-"),
            partial(make, file=file),
            spoil,
            partial(model_files.read_tokenizer, file=file),
        )
        for file, make, spoil in (
            ("tokenizer.json", model_files.tokenizer, _json),
            ("tokenizer_config.json", model_files.tokenizer, _json),
            ("vocab.json", model_files.merges, _json),
            ("merges.txt", model_files.merges, _text),
        )
    ),
    Reader("cut-journal", model_files.journal, run_files.spoil_lines, model_files.read_journal),
    Reader("exam-journal", run_files.journal, run_files.spoil_journal, run_files.read_journal),
    Reader("exam-tar", run_files.tar, spoil_bytes, run_files.read_tar),
    Reader("exam-csv", _exam_csv, _text, _exam_reader("val/colours_val.csv")),
    Reader("exam-jsonl", _exam_lines, _json, _exam_reader("val/colours_val.jsonl")),
    Reader("exam-mapping", _mapping, _json, _exam_reader("subject_mapping.json")),
    Reader("questions", _questions, _text, _read_questions),
    Reader("config-ini", _seeds(INI), _text, _read_ini),
    Reader("npu-smi", _smi, _text, _read_smi),
    Reader("preset", _seeds(PRESET), _text, _read_preset),
    Reader("results", _seeds(json.dumps(RESULTS)), _json, _read_results),
    Reader(
        "msprobe-tensors",
        partial(model_files.lay_dump, task="tensor"),
        _json,
        model_files.read_dump,
    ),
    Reader(
        "msprobe-statistics",
        partial(model_files.lay_dump, task="statistics"),
        _json,
        model_files.read_dump,
    ),
    Reader("capture", model_files.lay_capture, _json, model_files.read_capture_json),
    Reader("host", _host, _json, _read_host),
    Reader("trace", run_files.trace, _json, run_files.read_traces),
    Reader("log", _logs, _text, run_files.read_logs),
    Reader("notebook", _notebook, _json, run_files.read_notebook),
    Reader("hosts", _seeds("a:4 b:8 10.0.0.0/8", "u@a:4 eth0"), _text, run_files.read_hosts),
    Reader("versions", _seeds(*VERSIONS), _text, run_files.read_versions),
    Reader("parameter", _seeds("world_size\x002"), _spoil_parameter, _read_parameter),
)
BY_NAME = {reader.name: reader for reader in READERS}

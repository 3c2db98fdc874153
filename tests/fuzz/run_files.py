"""Files of runs and machines for `readers`: journals, traces, logs, notebooks, names of hosts."""

import io
import json
import tarfile
import zlib
from pathlib import Path

from neoxlib.errors import NeoXError
from neoxlib.exam import journal as journals
from neoxlib.exam import load_task
from neoxlib.exam.question import Answer
from neoxlib.hosts import network
from neoxlib.hosts.survey import parse_hosts
from neoxlib.machine import installed, versions
from neoxlib.machine.explain import explain
from neoxlib.machine.log_text import read_log
from neoxlib.speed.lanes import read_lanes
from neoxlib.speed.traces import read_trace
from neoxlib.workbook import arguments
from tests.fuzz.mutate import Pick, spoil_json, spoil_json_bytes
from tests.support.exam_files import write_exam

KEY = {"weights": "a", "questions": {"a": "b"}, "profile": {"answers": "AB"}, "split": "val"}
TRACE = {
    "traceEvents": [
        {"ph": "M", "name": "process_name", "pid": 1, "args": {"name": "Ascend Hardware"}},
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": 2, "args": {"name": "Plane 0"}},
        {"ph": "X", "name": "prefill", "pid": 9, "tid": 1, "ts": 1.0, "dur": 9, "cat": "cpu_op"},
        {"ph": "X", "name": "MatMul", "pid": 1, "tid": 2, "ts": "2.5", "dur": 3, "args": {}},
    ]
}


def spoil_lines(data: bytes, pick: Pick) -> bytes:
    """Spoil one of several lines of JSON."""
    lines = data.splitlines()
    at = pick(len(lines))
    lines[at] = spoil_json_bytes(json.loads(lines[at]), pick)
    return b"\n".join(lines) + b"\n" * (pick(8) > 0)


def spoil_journal(data: bytes, pick: Pick) -> bytes:
    """Spoil a line of an exam's journal, three times of four with a sum that fits."""
    if pick(4) == 0:
        return spoil_lines(data, pick)
    lines = data.splitlines(keepends=True)
    at = pick(len(lines))
    line = spoil_json(json.loads(lines[at])["line"], pick).encode("utf-8", "surrogatepass")
    lines[at] = b'{"crc": "%08x", "line": %s}\n' % (zlib.crc32(line), line)
    return b"".join(lines)


def journal(folder: Path) -> list[bytes]:
    path = folder / "journal.jsonl"
    with journals.Journal(path, KEY) as written:
        question = journals.question_key("a", "0", "What?")
        written.add({question: Answer((-0.5, -1.5), "A")})
    return [path.read_bytes()]


def read_journal(folder: Path, data: bytes) -> None:
    path = folder / "journal.jsonl"
    path.write_bytes(data)
    journals.read_answers(path, KEY)


def trace(_: Path) -> list[bytes]:
    return [json.dumps(TRACE).encode(), json.dumps(TRACE["traceEvents"]).encode()]


def read_traces(folder: Path, data: bytes) -> None:
    path = folder / "traces" / "rank0" / "trace_view.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    read_trace(folder / "traces")
    list(read_lanes(folder / "traces"))


def read_logs(folder: Path, data: bytes) -> None:
    path = folder / "rank0.log"
    path.write_bytes(data)
    str(explain([read_log(path)]))


def read_notebook(folder: Path, data: bytes) -> None:
    path = folder / "mine.ipynb"
    path.write_bytes(data)
    arguments.prepare([path], [], [])
    arguments.listing(path)


def read_hosts(_: Path, data: bytes) -> None:
    """Names of hosts as they are given to `neoxlib cluster`, then a network."""
    *hosts, last = data.decode(errors="surrogateescape").split(" ")
    for read in (lambda: parse_hosts(hosts), lambda: network.parse(last)):
        try:
            read()
        except NeoXError as error:
            str(error).encode()


def read_versions(folder: Path, data: bytes) -> None:
    """A version file of CANN's or the driver's, and a number as a package has it."""
    (folder / "version.info").write_bytes(data)
    (folder / "version.cfg").write_bytes(data)
    for value in installed.read_pairs(folder / "version.info").values():
        versions.order(value)
        versions.same_cann(value, "8.3.RC1")
        versions.fits_python("2.13.0", value)
        installed.in_range("7.5.0", value)
    installed.cann_version(str(folder))
    installed.kernels_version(str(folder))


def tar(folder: Path) -> list[bytes]:
    write_exam(folder / "exam")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.add(folder / "exam", "exam")
    return [out.getvalue()]


def read_tar(folder: Path, data: bytes) -> None:
    (folder / "exam.tar").write_bytes(data)
    load_task("ceval", folder / "exam.tar", shots=2)

"""Archives and folders around an exam: the same questions, nothing written, nothing dropped."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from neoxlib.errors import DataError
from neoxlib.exam import load_task
from neoxlib.workbook.parameter_table import PARAMETERS
from neoxlib.workbook.parameters import complaints
from tests.support.exam_files import MMLU_ROWS, csv_text, mmlu, put, write_exam, write_mmlu, zipped


def tarred(folder: Path, path: Path, prefix: str = "data", mode: str = "w") -> Path:
    """A tar as hendrycks' data.tar is: one folder, with train beside the splits."""
    with tarfile.open(path, mode) as archive:
        archive.add(folder, prefix)
        archive.addfile(member(f"{prefix}/auxiliary_train/race.csv", 9), io.BytesIO(b"not,a,row"))
    return path


def member(name: str, size: int = 0, **facts: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    for fact, value in facts.items():
        setattr(info, fact, value)
    return info


@pytest.mark.parametrize(
    ("name", "mode", "prefix"),
    [
        ("data.tar", "w", "data"),
        ("data.tar.gz", "w:gz", "./data"),
        ("MMLU.TGZ", "w:gz", "."),
        ("data.tar.xz", "w:xz", "a/b"),
    ],
)
def test_a_tar_reads_as_the_folder_that_it_unpacks_to(tmp_path, name, mode, prefix):
    beside = load_task("mmlu", write_mmlu(tmp_path / "data"), "test", shots=2)
    (tmp_path / "home").mkdir()
    archive = tarred(tmp_path / "data", tmp_path / "home" / name, prefix, mode)
    put(tmp_path / "home/README.txt", "MMLU")
    for data_dir in (archive, archive.parent):
        inside = load_task("mmlu", data_dir, "test", shots=2)
        assert inside.questions.equals(beside.questions) and inside.examples == beside.examples
    assert {path.name for path in archive.parent.rglob("*")} == {name, "README.txt"}
    assert not complaints({"data_dir": str(archive)}, PARAMETERS)


def test_the_real_mmlu_reads_alike_from_a_tar(data, tmp_path):
    inside, beside = (
        load_task("mmlu", path, "val", shots=5)
        for path in (tarred(data / "mmlu", tmp_path / "data.tar"), data / "mmlu")
    )
    assert inside.questions.equals(beside.questions) and inside.examples == beside.examples


HOSTILE = {
    "/tmp/evil_test.csv": {},
    "../evil_test.csv": {},
    "data/test/../../evil_test.csv": {},
    "data/test/pipe": {"type": tarfile.FIFOTYPE},
    "data/test/null": {"type": tarfile.CHRTYPE},
    "data/passwd": {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
}


def test_reading_a_tar_writes_nothing_wherever_its_names_lead(tmp_path):
    archive = tarred(write_mmlu(tmp_path / "data"), tmp_path / "data.tar")
    with tarfile.open(archive, "a") as more:
        for name, facts in HOSTILE.items():
            more.addfile(member(name, **facts))
    before = sorted(tmp_path.rglob("*"))
    assert len(mmlu(archive)) == 4
    assert sorted(tmp_path.rglob("*")) == before and not Path("/tmp/evil_test.csv").exists()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_a_link_or_device_in_a_question_files_place_is_refused(tmp_path, kind):
    """Left out it would be a subject less, followed it would be a file that the archive has not."""
    archive = tarred(write_mmlu(tmp_path / "data"), tmp_path / "data.tar")
    with tarfile.open(archive, "a") as more:
        more.addfile(member("data/test/virology_test.csv", type=kind, linkname="/etc/passwd"))
    with pytest.raises(DataError, match=r"links or devices .*: data/test/virology_test\.csv"):
        mmlu(archive)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_that_breaks_off_is_told_wherever_it_does(tmp_path, mode):
    whole = tarred(write_mmlu(tmp_path / "data"), tmp_path / "whole.tar", mode=mode).read_bytes()
    used = whole.rindex(b"not,a,row") + 513 if mode == "w" else len(whole)  # zeros follow
    for size in [*range(600, used, 256)] if mode == "w" else [*range(600, used, 37)]:
        (tmp_path / "data.tar").write_bytes(whole[:size])
        with pytest.raises(DataError, match="is damaged or incomplete"):
            mmlu(tmp_path / "data.tar")


def test_a_damaged_header_in_a_tar_is_not_its_end(tmp_path):
    archive = tarred(write_mmlu(tmp_path / "data"), tmp_path / "data.tar")
    raw = bytearray(archive.read_bytes())
    raw[raw.index(b"data/test/world_religions")] ^= 1
    archive.write_bytes(raw)
    with pytest.raises(DataError, match="is damaged or incomplete: bad checksum"):
        mmlu(archive)


def test_a_tar_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    archive = tarred(write_mmlu(tmp_path / "data"), tmp_path / "data.tar")
    monkeypatch.setattr("neoxlib.exam.data.find.LARGEST", 200)
    with pytest.raises(DataError, match=r"files of more than .* MB: data/"):
        mmlu(archive)


def test_the_later_of_two_members_of_one_name_counts_as_it_does_unpacked(tmp_path):
    archive = tarred(write_mmlu(tmp_path / "data"), tmp_path / "data.tar")
    raw = csv_text(MMLU_ROWS[:1]).encode()
    with tarfile.open(archive, "a") as more:
        more.addfile(member("data/test/anatomy_test.csv", len(raw)), io.BytesIO(raw))
    assert mmlu(archive)["subject"].tolist() == ["anatomy", "world_religions", "world_religions"]


def test_archives_in_a_folder_are_not_chosen_between_and_a_folder_goes_before_them(tmp_path):
    beside = mmlu(write_mmlu(tmp_path / "data"))
    home = tmp_path / "home"
    home.mkdir()
    tarred(tmp_path / "data", home / "a.tar")
    zipped(tmp_path / "data", home / "b.zip", "data/")
    zipped(write_exam(tmp_path / "exam") / "dev", home / "other.zip")
    with pytest.raises(
        DataError, match=r"2 archives with questions of test \(name one of them\): a.tar, b.zip"
    ):
        mmlu(home)
    (tmp_path / "data").rename(home / "data")
    assert mmlu(home).equals(beside)


@pytest.mark.parametrize("below", ["", "test", "../..", "../../.."])
def test_an_exam_is_found_from_the_folder_of_its_split_and_from_two_above(tmp_path, below):
    """The hub's cache has snapshots/<commit> around it."""
    root = write_mmlu(tmp_path / "cache/snapshots/0a1b")
    put(root / "subject_mapping.json", json.dumps({"anatomy": "Mine", "world_religions": "Mine"}))
    data_dir = root / below if below != "../../.." else tmp_path
    if below == "../../..":
        with pytest.raises(DataError, match="no questions of MMLU's test"):
            mmlu(data_dir)
        return
    task = load_task("mmlu", data_dir, "test", shots=2)
    assert (
        len(task.questions) == 4
        and len(task.examples["anatomy"]) == 2
        and set(task.questions["class"]) == {"Mine"}
    )


def test_a_split_that_is_not_there_is_told_with_those_that_are(tmp_path):
    with pytest.raises(
        DataError, match=r"no questions of MMLU's val; .*; it has questions of split dev and test"
    ):
        mmlu(write_mmlu(tmp_path), split="val")


def test_of_the_exams_in_one_folder_the_benchmarks_own_is_taken(tmp_path):
    """Their files have the same names; subjects say whose they are."""
    beside = mmlu(write_mmlu(tmp_path / "data"))
    ceval = write_exam(tmp_path / "ceval", mapping=None)
    for path in [*ceval.rglob("*.csv")]:
        path.rename(
            path.with_name(path.name.replace("colours", "logic").replace("tiny_sums", "law"))
        )
    for layout in ("folders", "archives", "both", "one archive"):
        home = tmp_path / layout
        home.mkdir()
        if layout == "archives":
            tarred(tmp_path / "data", home / "data.tar")
        else:
            shutil.copytree(tmp_path / "data", home / "mmlu")
        if layout in ("archives", "both"):
            zipped(ceval, home / "ceval-exam.zip")
        else:
            shutil.copytree(ceval, home / "ceval/formal_ceval")
        place = zipped(home, home / "core.zip", "data/") if layout == "one archive" else home
        assert mmlu(place).equals(beside)
        assert set(load_task("ceval", place, "test", shots=1).subjects) == {"logic", "law"}


def test_damaged_archives_in_a_folder_are_no_matter_where_the_exam_lies_there_unpacked(tmp_path):
    write_mmlu(tmp_path / "data")
    whole = tarred(tmp_path / "data", tmp_path / "mmlu.tar").read_bytes()
    (tmp_path / "mmlu.tar").write_bytes(whole[:3000])
    assert len(mmlu(tmp_path)) == 4
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(DataError, match=r"mmlu.tar is damaged or incomplete"):
        mmlu(tmp_path)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("d", r"data\.tar has more than 30 files and folders"),
        ("a/" * 21 + "x.csv", r"has folders in folders, more than 20: a/a/"),
    ],
)
def test_a_tar_of_more_or_deeper_files_than_an_exam_has_is_refused(
    tmp_path, monkeypatch, name, told
):
    archive = tarred(write_mmlu(tmp_path / "data"), tmp_path / "data.tar")
    monkeypatch.setattr("neoxlib.exam.data.tar.MOST_MEMBERS", 30)
    with tarfile.open(archive, "a") as more:
        for number in range(30):
            more.addfile(member(f"{name}{number}"))
    with pytest.raises(DataError, match=told):
        mmlu(archive)

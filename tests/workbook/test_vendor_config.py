"""The SDK's config.ini as a preset: every loss is noted, and the SDK's code gives the defaults."""

import os
import shutil

import pytest
import yaml
from click.testing import CliRunner

from neoxlib.__main__ import cli
from neoxlib.demo import EXAM_DIR, MODEL_DIR
from neoxlib.errors import ParameterError
from neoxlib.workbook import arguments
from neoxlib.workbook.parameter_table import NOTEBOOKS, PARAMETERS
from neoxlib.workbook.vendor_config import import_config
from neoxlib.workbook.vendor_keys import KEYS
from tests.support.disk import full_disk

WHOLE = """
[model]
; comment
model_path=../model   ; the parent of part_model
device_ids=2,3
parallel_backend=hccl
log_dir=./logs
bind_cpu=1

[precision]
mode=ceval
work_dir=./work
batch=2
shot=3
seq_len_out=32

[performance]
model_name=gptneox_20b
batch_size=4
max_len_exp=10
min_len_exp=6
case_pair=[[256,256],(512,128)]
save_file_name=
perf_mode=detail
skip_decode=1
"""


def imported(tmp_path, text):
    path = tmp_path / "config.ini"
    path.write_text(text, encoding="utf-8")
    return import_config(path)


def test_a_whole_file_becomes_our_parameters(tmp_path):
    found = imported(tmp_path, WHOLE)
    assert found.values == {
        "model_dir": str((tmp_path / "../model").resolve()),
        "world_size": 2,
        "task": "ceval",
        "data_dir": str(tmp_path.resolve() / "work" / "data"),
        "shots": 3,
        "batch_size": 4,
        "max_len_exp": 10,
        "min_len_exp": 6,
        "case_pair": [[256, 256], [512, 128]],
        "perf_mode": "detail",
        "skip_decode": True,
    }
    assert found.values.keys() <= PARAMETERS.keys()


def test_every_key_without_a_parameter_is_named_with_what_is_there_instead(tmp_path):
    notes = "\n".join(imported(tmp_path, WHOLE).notes)
    for section, keys in KEYS.items():
        for key, about in keys.items():
            if about.to is None and key != "save_file_name":
                assert f"[{section}] {key} = " in notes and about.instead in notes
    assert "ASCEND_RT_VISIBLE_DEVICES=2,3" in notes and "is not there on this machine" in notes


def test_unknown_keys_and_sections_are_named_with_the_nearest(tmp_path):
    found = imported(tmp_path, "[performance]\nmax_len_ex=7\n[performnce]\nx=1\n[strange]\ny=2\n")
    notes = "\n".join(found.notes)
    assert (
        "[performance] max_len_ex = 7: unknown key, left out; did you mean 'max_len_exp'?" in notes
    )
    assert "[performnce]: unknown section, left out; did you mean 'performance'?" in notes
    assert "[strange]: unknown section, left out" in notes


def test_what_was_not_written_is_what_the_sdks_code_takes_and_the_readmes_word_is_noted(tmp_path):
    found = imported(tmp_path, "[model]\n[performance]\n")
    assert (
        found.values["max_len_exp"] == 11
        and found.values["min_len_exp"] == 5
        and found.values["world_size"] == 1
    )
    assert found.values["skip_decode"] is False
    notes = "\n".join(found.notes)
    assert "max_len_exp is not given: the SDK's README says 10, its code takes 11" in notes
    for key in ("model_path", "device_ids", "skip_decode"):
        assert f"{key} is not given" in notes


def test_sections_that_are_not_there_bring_nothing(tmp_path):
    assert imported(tmp_path, "[model]\nmodel_path=.\n").values.keys() == {
        "model_dir",
        "world_size",
    }


def test_the_deprecated_name_and_the_file_of_the_vendors_own_gpt_neox_are_read(tmp_path):
    text = (
        "[model]\nmodel_path=.\n[ceval]\nmode=mmlu\nwork_dir=.\nbatch=1\nshot=5\nseq_len_out=32\n"
    )
    found = imported(tmp_path, text)
    notes = "\n".join(found.notes)
    assert found.values["shots"] == 5 and "[ceval]: read as [precision]" in notes
    assert found.values["task"] == "mmlu"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[performance]\nmax_len_exp=ten\nskip_decode=2\ncase_pair=[[1,2\n",
            ["max_len_exp = ten", "skip_decode = 2", "case_pair"],
        ),
        (
            "[performance]\nbatch_size=0\nperf_mode=fast\n",
            ["batch_size: found 0", "perf_mode: found 'fast'"],
        ),
        ("[precision]\nmode=quiz\n", ["task: found 'quiz'"]),
        ("[model]\ndevice_ids=a,b\n", ["device_ids = a,b"]),
        ("[performance]\ncase_pair=[[1,2,3]]\n", ["case_pair"]),
        (f"[model]\ndevice_ids=0-{'9' * 5000}\n", ["expected numbers of devices"]),
        ("[model]\nmodel_path=a\0b\n", ["cannot be read (embedded null byte)"]),
        (f"[model]\nmodel_path={'a' * 5000}\n", ["File name too long"]),
        (f"[performance]\nmax_len_exp=-{'9' * 400}\n", ["max_len_exp: found -9"]),
        ("no section\n", ["cannot be read"]),
        ("", ["nothing to import"]),
        ("[other]\nx=1\n", ["nothing to import"]),
    ],
)
def test_values_that_cannot_be_used_are_all_refused_at_once(tmp_path, text, words):
    with pytest.raises(ParameterError) as error:
        imported(tmp_path, text)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("text", "line", "cure"),
    [
        (
            "[performance]\nmax_len_exp=10\nmin_len_exp=5\ncase_pair=[256,256]\n",
            4,
            "write case_pair=[[256,256]]",
        ),
        ("[performance]\ncase_pair=(256, 64)\n", 2, "write case_pair=[[256,64]]"),
        ("[performance]\ncase_pair=256,256\n", 2, "write case_pair=[[256,256]]"),
        ('[performance]\ncase_pair="[[256,256],[1,2]]"\n', 2, "write case_pair=[[256,256],[1,2]]"),
        ("[performance]\ncase_pair=[[256,'64']]\n", 2, "write case_pair=[[256,64]]"),
        ("[performance]\ncase_pair=[[256 64]]\n", 2, "write case_pair=[[256,64]]"),
        ("[performance]\ncase_pair=[]\n", 2, "write case_pair=[[256,256]]"),
        ("[performance]\ncase_pair={[]}\n", 2, "write case_pair=[[256,256]]"),
        ("[performance]\ncase_pair=" + "[" * 5000 + "\n", 2, "write case_pair=[[256,256]]"),
        ("[performance]\ncase_pair=~\n", 2, "write case_pair=[[256,256]]"),
        (
            "[performance]\n\nbatch_size=1,4,8\n",
            3,
            "write batch_size=1, and batch_sizes: [1, 4, 8] into the preset",
        ),
        (
            "[performance]\nbatch_size = [1,4]\n",
            2,
            "write batch_size=1, and batch_sizes: [1, 4] into the preset",
        ),
        ('[performance]\nbatch_size="4"\n', 2, "write batch_size=4"),
        ("[performance]\nbatch_size=~\n", 2, "batch_size=1"),
        ("[performance]\nbatch_size=4 # four\n", 2, "write batch_size=4"),
        ("[performance]\nBATCH_SIZE=4.0\n", 2, "write"),
        ("[performance]\nmax_len_exp='10'\n", 2, "write max_len_exp=10"),
        ("[performance]\nperf_mode='detail'\n", 2, "write perf_mode=detail"),
        ("[performance]\nperf_mode=detail # all\n", 2, "write perf_mode=detail"),
        ("[performance]\nskip_decode=true\n", 2, "write skip_decode=1"),
        ("[performance]\nskip_decode=No\n", 2, "write skip_decode=0"),
        (
            "[performance]\nmin_len_exp=7\nmax_len_exp=6\n",
            2,
            "write min_len_exp=6 and max_len_exp=7",
        ),
        ("[performance]\nmax_len_exp=3\n", 2, "write min_len_exp=3 and max_len_exp=5"),
        ("[performance]\nmin_len_exp=12\n", 2, "write min_len_exp=11 and max_len_exp=12"),
        ("[performance]\nmin_len_exp=0\nmax_len_exp=0\n", 3, "write case_pair=[[1,1]]"),
        ("[performance]\nmax_len_exp=-1\n", 2, "expected 1 or more"),
        ("[performance]\nbatch_size=0\n", 2, "expected 1"),
        ('[model]\nmodel_path="../model"\n', 2, "write model_path=../model"),
        ("[model]\nmodel_path=../model # mine\n", 2, "write model_path=../model"),
        ("[model]\nmodel_path=~/model\n", 2, "write model_path=" + os.path.expanduser("~/model")),
        ("[model]\nmodel_path=${model_path}\n", 2, "write the folder itself after model_path="),
        ("[model]\ndevice_ids=[0,1]\n", 2, "write device_ids=0,1"),
        ("[model]\ndevice_ids=0-3\n", 2, "device_ids=0,1,2,3"),
        ('[model]\ndevice_ids="0,1"\n', 2, "device_ids=0,1"),
        ("[model]\ndevice_ids=0 1\n", 2, "device_ids=0,1"),
        ("[model]\ndevice_ids=0,1,0\n", 2, "write device_ids=0,1"),
        ("[model]\ndevice_ids=0,1,\n", 2, "device_ids=0,1"),
        ("; first\n[Model]\nmodel_path=.\n", 2, "write [model]"),
        ("[ performance ]\nbatch_size=4\n", 1, "write [performance]"),
        ("[model]\nmodel_path=.\n[CEVAL]\nmode=ceval\n", 3, "write [ceval]"),
        (
            "[performance]\nbatch_size=1\nBatch_Size=2\n",
            3,
            "batch_size is there twice; keep one of them",
        ),
        (
            "[model]\n[performance]\n[model]\n",
            3,
            "[model] is there twice; put its keys into one section",
        ),
    ],
)
def test_what_the_sdk_cannot_read_is_refused_with_its_line_and_what_to_write(
    tmp_path, text, line, cure
):
    with pytest.raises(ParameterError) as error:
        imported(tmp_path, text)
    assert f"line {line}: [" in str(error.value) and cure in str(error.value)


def test_two_names_of_one_section_are_refused(tmp_path):
    with pytest.raises(ParameterError, match="one section by two names"):
        imported(tmp_path, "[ceval]\nshot=1\n[precision]\nshot=5\n")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("\ufeff[performance]\nbatch_size=4\n", {"batch_size": 4}),
        ("[performance]\nBatch_Size : 4 ; four\n", {"batch_size": 4}),
        ("[performance]\ncase_pair=[256,256],(1,2)\n", {"case_pair": [[256, 256], [1, 2]]}),
        (
            "[performance]\ncase_pair=[[1,2],\n  [3,4],]\nbatch_size=2\n",
            {"case_pair": [[1, 2], [3, 4]], "batch_size": 2},
        ),
        ("[performance]\ncase_pair=[[1,2]] # Python's own comment\n", {"case_pair": [[1, 2]]}),
        ("[performance]\ncase_pair=None\nmin_len_exp=6\n", {"min_len_exp": 6, "max_len_exp": 11}),
        (
            "[performance]\ncase_pair=[[1,2]]\nmin_len_exp=9\nmax_len_exp=8\n",
            {"case_pair": [[1, 2]]},
        ),
        ("[DEFAULT]\nbatch_size=3\n[performance]\n", {"batch_size": 3}),
        ("[performance]\nbatch_size=\n", {"batch_size": 1}),
        ("[model]\ndevice_ids = 3, 1\n", {"world_size": 2}),
        ("[model]\nmodel_path=a%b;c\n", {}),
    ],
)
def test_what_the_sdk_reads_is_read_as_it_does(tmp_path, text, values):
    found = imported(tmp_path, text)
    assert {name: found.values[name] for name in values} == values
    if "min_len_exp=9" in text:
        assert not {"min_len_exp", "max_len_exp"} & found.values.keys()


@pytest.mark.parametrize("name", ['"quoted"', "a # b", "~", "${x}"])
def test_a_folder_that_is_there_is_taken_whatever_it_is_called(tmp_path, name):
    (tmp_path / name).mkdir()
    found = imported(tmp_path, f"[model]\nmodel_path={name}\n")
    assert found.values["model_dir"] == str((tmp_path / name).resolve())


def test_notes_of_several_lines_stay_comments(tmp_path):
    found = imported(tmp_path, "[performance]\nbatch_size=2\nstrange=a\n  world_size: 9\n")
    assert yaml.safe_load(found.preset("config\nworld_size: 8.ini")) == found.values


def test_a_file_that_is_not_there_is_one_message_with_code_2(tmp_path):
    said = CliRunner().invoke(cli, ["import-config", str(tmp_path / "none.ini")])
    assert said.exit_code == 2 and "none.ini" in said.stderr and "Traceback" not in said.stderr


def test_a_full_disk_leaves_the_preset_of_before(tmp_path, monkeypatch):
    config, preset = tmp_path / "config.ini", tmp_path / "preset.yaml"
    config.write_text(WHOLE, encoding="utf-8")
    preset.write_text("world_size: 4\n")
    full_disk(monkeypatch)
    said = CliRunner().invoke(cli, ["import-config", str(config), "-o", str(preset)])
    assert said.exit_code == 2 and "No space left" in said.stderr
    assert preset.read_text() == "world_size: 4\n" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("notebook", ["03_ceval", "04_profile"])
def test_the_command_writes_a_preset_that_the_notebooks_take(tmp_path, notebook):
    shutil.copytree(MODEL_DIR, tmp_path / "model")
    shutil.copytree(EXAM_DIR, tmp_path / "work" / "data")
    (tmp_path / "config.ini").write_text(
        WHOLE.replace("../model", "./model").replace("hccl", "gloo"), encoding="utf-8"
    )
    preset = tmp_path / "preset.yaml"
    said = CliRunner().invoke(
        cli, ["import-config", str(tmp_path / "config.ini"), "-o", str(preset)]
    )
    assert said.exit_code == 0 and "no parameter here" in said.stderr
    job = arguments.prepare([arguments.find(notebook)], [arguments.read_preset(str(preset))], [])[0]
    assert job.values["world_size"] == 2 and set(job.given) <= set(NOTEBOOKS[notebook])
    printed = CliRunner().invoke(cli, ["import-config", str(tmp_path / "config.ini")]).stdout
    assert yaml.safe_load(printed) == yaml.safe_load(preset.read_text())
    assert printed.startswith("# Made from config.ini")

"""Errors that need no rank are raised before one starts, in the words of `neoxlib.load`."""

import json
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import neoxlib
from neoxlib.checkpoint import preflight, shard
from neoxlib.demo import MODEL_DIR
from neoxlib.errors import ConfigError, SettingsError, ShardError, WeightsError
from neoxlib.model.quant import SCHEMES
from neoxlib.ranks import cluster
from tests.support.oracle_models import make_oracle
from tests.support.special_files import special_file

LIGHT = """
import sys
from neoxlib.checkpoint.preflight import preflight
preflight(sys.argv[1], 2, quant=sys.argv[2])
print("torch" in sys.modules)
"""


@pytest.fixture
def no_rank(monkeypatch):
    """Fail if a process is started."""
    monkeypatch.setattr(cluster.Ranks, "__init__", lambda *_: pytest.fail("ranks were made"))


def copied(checkpoint: Path, folder: Path, **changes: object) -> Path:
    """A copy of the checkpoint with a changed config."""
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def less(folder: Path) -> Path:
    """The checkpoint without one of its tensors."""
    tensors = load_file(folder / "model.safetensors")
    del tensors["gpt_neox.layers.1.attention.dense.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def short(folder: Path) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    return folder


def alone(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    return folder


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (lambda folder: folder / "none", WeightsError),
        (alone, WeightsError),
        (short, WeightsError),
        (less, WeightsError),
        (lambda folder: (folder / "config.json").unlink() or folder, ConfigError),
        (lambda folder: (folder / "config.json").write_text("{") and folder, ConfigError),
    ],
)
def test_a_folder_that_load_refuses_is_refused_in_its_words_before_a_rank_starts(
    checkpoint, tmp_path, no_rank, broken, error
):
    folder = broken(copied(checkpoint, tmp_path / "model"))
    with pytest.raises(error) as told:
        neoxlib.load(folder)
    with pytest.raises(error) as found:
        neoxlib.Session(folder, device="cpu", log_dir=tmp_path / "logs")
    assert str(found.value) == str(told.value)
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"world_size": 3}, ShardError, "8 attention heads cannot be cut over 3 ranks"),
        ({"world_size": 16}, ShardError, "8 attention heads cannot be cut over 16 ranks"),
        ({"world_size": 4, "quant": "int4"}, ShardError, "in the int4 scheme's groups of 32"),
        ({"quant": "int5"}, SettingsError, "the schemes are int8, int4"),
        ({"dtype": "float8"}, SettingsError, "dtype 'float8' is not known"),
        ({"device": "npu"}, SettingsError, "cannot be used here"),
        ({"max_seq_len": 97}, SettingsError, "trained for 96 positions"),
        ({"max_seq_len": 0}, SettingsError, "1 or more"),
    ],
)
def test_what_cannot_be_had_of_a_model_is_refused_before_a_rank_starts(
    checkpoint, no_rank, asked, error, words
):
    with pytest.raises(error, match=words):
        neoxlib.Session(checkpoint, **{"device": "cpu"} | asked)


IN_LITTLE_MEMORY = """
import resource, sys
import neoxlib
from neoxlib.checkpoint.preflight import preflight
from neoxlib.errors import NeoXError
resource.setrlimit(resource.RLIMIT_DATA, (400 << 20, 400 << 20))
try:
    preflight(sys.argv[1], 2, device="cpu")
except NeoXError as error:
    print(error, "torch" in sys.modules)
"""


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 10**5},
        {"num_attention_heads": 2**31, "hidden_size": 2**34},
        {"vocab_size": 2**40},
        {"max_position_embeddings": 10**12},
    ],
    ids=str,
)
def test_a_config_of_a_size_that_no_model_has_is_refused_in_little_memory(
    checkpoint, tmp_path, changes
):
    folder = copied(checkpoint, tmp_path / "model", **changes)
    command = [sys.executable, "-c", IN_LITTLE_MEMORY, folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    for key, value in changes.items():
        assert f"{key} is {value}; it is a whole number of at most" in done.stdout


@pytest.mark.parametrize("kind", ["FIFO", "socket", "device"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "of an index"])
def test_what_is_no_file_in_a_model_folder_is_refused_and_not_waited_for(
    checkpoint, tmp_path, no_rank, kind, name
):
    folder = copied(checkpoint, tmp_path / "model")
    if name == "of an index":
        (folder / "model.safetensors").rename(folder / "part.safetensors")
        listed = dict.fromkeys(load_file(folder / "part.safetensors"), "part.safetensors")
        index = json.dumps({"weight_map": listed})
        (folder / "model.safetensors.index.json").write_text(index)
        name = "part.safetensors"
    (folder / name).unlink()
    special_file(folder / name, kind)
    for use in (neoxlib.load, partial(neoxlib.Session, device="cpu")):
        with pytest.raises((ConfigError, WeightsError)) as error:
            use(folder)
        assert name.partition(".")[0] in str(error.value) or "no weights" in str(error.value)


def test_a_place_for_logs_that_cannot_be_written_to_is_refused(
    checkpoint, tmp_path, no_rank, monkeypatch
):
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/below"):
        with pytest.raises(SettingsError, match=r"log_dir .* cannot be written to"):
            neoxlib.Session(checkpoint, device="cpu", log_dir=tmp_path / place)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match=r"the temporary folder .* cannot be written to"):
        neoxlib.Session(checkpoint, device="cpu")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_scheme_whose_groups_do_not_fill_the_columns_is_refused(checkpoint, tmp_path, no_rank):
    with pytest.raises(
        SettingsError, match=r"columns in groups of 32, but mlp\.dense_4h_to_h\.weight has 168"
    ):
        neoxlib.Session(
            copied(checkpoint, tmp_path / "a", intermediate_size=168), device="cpu", quant="int4"
        )


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_part_of_a_rank_is_refused_for_any_number_of_ranks_that_share_the_folder(
    checkpoint, tmp_path, no_rank, world_size
):
    shard.shard(checkpoint, tmp_path / "cut", 2, progress=False)
    words = r"part_model/1 is the part of rank 1 of 2, this is rank 0 of \d; give .*/cut, which"
    with pytest.raises(WeightsError, match=words):
        neoxlib.Session(tmp_path / "cut" / "part_model" / "1", world_size, device="cpu")


def test_on_machines_with_their_own_folders_each_rank_may_have_its_part(checkpoint, tmp_path):
    shard.shard(checkpoint, tmp_path / "cut", 2, progress=False)
    part = tmp_path / "cut" / "part_model" / "0"
    preflight.preflight(part, 2, elsewhere=True)
    with pytest.raises(WeightsError, match=r"part of rank 0 of 2, this is rank 0 of 4; give"):
        preflight.preflight(part, 4, elsewhere=True)


def test_another_scheme_than_the_stored_one_is_refused(checkpoint, tmp_path, no_rank):
    shard.shard(checkpoint, tmp_path / "cut", 2, quant="int8", progress=False)
    with pytest.raises(SettingsError, match="holds weights packed as 'int8'"):
        neoxlib.Session(tmp_path / "cut", device="cpu", quant="int4")
    (tmp_path / "cut" / "part_model" / "1" / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"part_model/1/model\.safetensors"):
        neoxlib.Session(tmp_path / "cut", device="cpu")


@pytest.mark.parametrize(
    ("kind", "quant"),
    [
        ("shipped", ""),
        ("shipped", "int4"),
        ("checkpoint", "int8"),
        ("tables", ""),
        ("cut", ""),
        ("cut", "int8"),
    ],
)
def test_of_a_model_in_which_nothing_is_odd_torch_is_not_asked(checkpoint, tmp_path, kind, quant):
    folder = MODEL_DIR if kind == "shipped" else checkpoint
    if kind == "tables":  # older transformers saved them beside the weights
        folder = copied(checkpoint, tmp_path / "old")
        tables = {"gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool)}
        save_file(load_file(folder / "model.safetensors") | tables, folder / "model.safetensors")
    if kind == "cut":
        shard.shard(checkpoint, tmp_path / "cut", 2, quant=quant, progress=False)
        folder = tmp_path / "cut"
    command = [sys.executable, "-c", LIGHT, str(folder), quant]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize("change", [{"attention_bias": False}, {"tie_word_embeddings": True}])
def test_unusual_models_that_load_takes_are_taken(tmp_path, change):
    make_oracle(**change).save_pretrained(tmp_path)
    neoxlib.load(tmp_path)
    preflight.preflight(tmp_path, 2, device="cpu")


def test_the_schemes_groups_are_those_of_quant():
    assert {name: max(1, scheme.group) for name, scheme in SCHEMES.items()} | {
        None: 1
    } == preflight.GROUPS


UNREADABLE = """
import os, sys
from pathlib import Path
import neoxlib
from neoxlib.checkpoint.plan import parameter_plan
from neoxlib.checkpoint.preflight import preflight
from neoxlib.checkpoint.shard import shard
from neoxlib.checkpoint.verify import verify
from neoxlib.setup.model_checks import model_rows

if os.getuid() == 0:
    neoxlib.load(MODEL_DIR)  # imports now: only this user may be able to read those files
    parameter_plan(MODEL_DIR, 2), model_rows(MODEL_DIR)
    os.setgid(65534)
    os.setuid(65534)
model, closed, place = map(Path, sys.argv[1:])
for what in (
    lambda: neoxlib.load(model), lambda: neoxlib.load(closed),
    lambda: preflight(model, 2), lambda: preflight(closed, 2),
    lambda: shard(closed, place / "cut", 2), lambda: verify(closed),
    lambda: parameter_plan(closed, 2), lambda: shard(MODEL_DIR, closed, 2),
    lambda: shard(MODEL_DIR, closed / "cut", 2),
):
    try:
        what()
    except neoxlib.errors.NeoXError as error:
        print(type(error).__name__, "denied" in str(error))
print([row.status for row in model_rows(model)], [row.status for row in model_rows(closed)])
"""


def test_files_and_folders_that_cannot_be_read_are_errors_of_ours_and_rows_of_the_doctor(
    checkpoint,
):
    with tempfile.TemporaryDirectory() as place:  # other users cannot enter pytest's
        model = copied(checkpoint, Path(place, "model"))
        closed = copied(checkpoint, Path(place, "closed"))
        for path in (Path(place), model, *model.iterdir()):
            path.chmod(0o755)
        (model / "model.safetensors").chmod(0)
        closed.chmod(0)
        script = UNREADABLE.replace("MODEL_DIR", repr(str(MODEL_DIR)))
        command = [sys.executable, "-c", script, model, closed, place]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        closed.chmod(0o755)
    errors = ["WeightsError"] * 6 + ["ConfigError"] + ["ShardError"] * 2
    rows = "['OK', 'FAIL', 'OK'] ['FAIL', 'FAIL', 'FAIL']"
    assert done.stdout.splitlines() == [*(f"{error} True" for error in errors), rows], done.stderr

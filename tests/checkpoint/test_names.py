"""The names of weight files against the model's own and against the table of torch's dtypes."""

import subprocess
import sys

import torch

from neoxlib.checkpoint.names import EMBED, FLOATS, HEADS, SKIPPED
from neoxlib.checkpoint.tensor_file import DTYPES
from neoxlib.demo import MODEL_DIR
from neoxlib.model.config import ModelConfig
from neoxlib.model.parameters import full_parameters


def test_no_parameter_of_the_model_is_skipped_and_both_ends_are_among_them():
    ours = full_parameters(ModelConfig.from_dir(MODEL_DIR))
    assert {EMBED, HEADS[0]} <= ours.keys()
    assert not [name for name in ours if SKIPPED.search(name)]


def test_tables_of_older_transformers_are_skipped_with_and_without_the_models_prefix():
    tables = ("attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq")
    for prefix in ("gpt_neox.layers.0.", "layers.0.", ""):
        assert all(SKIPPED.search(f"{prefix}{table}") for table in tables)
    assert not SKIPPED.search("gpt_neox.layers.0.attention.dense.bias")


def test_a_code_of_a_float_is_that_of_torchs_dtype():
    assert {code: getattr(torch, name) for code, name in FLOATS.items()} == {
        code: dtype for code, dtype in DTYPES.items() if code in FLOATS
    }


def test_names_are_known_without_torch():
    code = (
        "import sys; from neoxlib.checkpoint import names, preflight; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
